# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_hba and pg_hba_info on real servers: files read as the server reads them, questions are answered as it decides, and nobody is locked out."""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import stat
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.catalog import LocalFiles
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.reading import read_rules
from tests import hba_texts, servers
from tests.hba_agreement import disagreements
from tests.integration import module

if TYPE_CHECKING:
    from tests.servers import Server

PASSWORD = "correct horse"  # of a server that lives as long as this test
ADMINISTRATOR = {"type": "local", "databases": "all", "roles": "postgres", "method": "peer", "options": {"map": "tests"}, "comment": "whoever runs the tests"}
IDENT = {"tests": [{"system_user": "root", "role": "postgres"}, {"system_user": "/^(.*)$", "role": "postgres"}]}


@pytest.fixture(scope="module")
def shop(mine: Server) -> Server:
    """The server with an application's roles and its database."""
    mine.psql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE other LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE team; GRANT team TO app")
    mine.psql(f"CREATE DATABASE shop; ALTER ROLE postgres PASSWORD '{PASSWORD}'")
    return mine


@pytest.fixture
def fresh(shop: Server) -> Server:
    """The server with the rules that it was made with."""
    put(shop, servers.HBA, "")
    return shop


def put(server: Server, text: str, ident: str = "") -> None:
    """Write the files by hand, and have the server load them."""
    for name, content in (("pg_hba.conf", text), ("pg_ident.conf", ident)):
        (server.data / name).write_text(content, encoding="utf-8")
    server.psql("SELECT pg_reload_conf(), pg_sleep(0.1)")


def run(server: Server, *, check: bool = False, rules: Any = None, **options: Any) -> module.Result:
    """The module's result. Without rules, those that let the application in."""
    wanted = [ADMINISTRATOR, {"databases": "shop", "roles": "app", "addresses": "127.0.0.0/8"}] if rules is None else rules
    return module.run(server, "pg_hba", check=check, diff=True, **{"rules": wanted, "ident": IDENT, **options})


def texts(server: Server) -> dict[str, bytes]:
    """The files as they are."""
    return {name: (server.data / name).read_bytes() for name in ("pg_hba.conf", "pg_ident.conf")}


def applied(server: Server, **options: Any) -> module.Result:
    """Apply what has something to do."""
    return module.foretold(functools.partial(run, server, **options), functools.partial(texts, server), "rules")


def refused(server: Server, **options: Any) -> str:
    """The message of a refusal, which leaves everything as it was; the server still lets its administrator in by the old rules."""
    message = module.refusal(functools.partial(run, server, **options), functools.partial(texts, server))
    assert server.psql("SELECT 1") == "1"
    return message


def comes_in(server: Server, role: str, database: str, **options: Any) -> bool:
    """Whether a real connection over TCP, or with host=None through the socket, is let in."""
    where = {"host": "127.0.0.1", "sslmode": "require", "password": PASSWORD, **options}
    try:
        psycopg2.connect(dbname=database, user=role, port=server.port, connect_timeout=5, **where).close()
    except psycopg2.OperationalError as error:
        problem = str(error)
    else:
        return True
    assert "pg_hba.conf" in problem or "authentication failed" in problem
    return False


def test_the_rules_are_what_the_document_says(fresh: Server) -> None:
    done = applied(fresh)
    assert comes_in(fresh, "app", "shop")
    assert not comes_in(fresh, "app", "shop", sslmode="disable")
    assert not comes_in(fresh, "app", "shop", password="wrong")
    assert not comes_in(fresh, "app", "postgres")
    assert not comes_in(fresh, "other", "shop")
    lines = [line for line in (fresh.data / "pg_hba.conf").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert [line.split() for line in lines] == [
        ["local", "all", "postgres", "peer", "map=tests"],
        ["hostssl", "shop", "app", "127.0.0.0/8", "scram-sha-256"],
        ["local", "all,replication", "all", "reject"],
        ["host", "all,replication", "all", "all", "reject"],
    ]
    assert "+ hostssl shop app 127.0.0.0/8 scram-sha-256" in done["diff"]["prepared"]
    assert "- host all all 127.0.0.1/32 scram-sha-256" in done["diff"]["prepared"]


def test_the_old_ways_in_are_closed(fresh: Server) -> None:
    """Replication from elsewhere, passwords that are stored as MD5, and any role without TLS."""
    fresh.psql("SET password_encryption = md5; CREATE ROLE veteran LOGIN REPLICATION PASSWORD 'old'")
    applied(fresh, rules=[ADMINISTRATOR, {"databases": "all", "roles": "all", "addresses": "127.0.0.0/8"}])
    try:
        assert comes_in(fresh, "app", "shop")
        assert not comes_in(fresh, "veteran", "shop", password="old")
        for options in ({}, {"sslmode": "disable"}, {"host": fresh.host}):
            assert not comes_in(fresh, "veteran", "shop", password="old", replication="true", **options)
        for role in ("app", "other", "veteran", "postgres"):
            assert not comes_in(fresh, role, "shop", sslmode="disable")
    finally:
        fresh.psql("DROP ROLE veteran")


def test_the_files_keep_their_owner_and_mode(fresh: Server) -> None:
    path = fresh.data / "pg_hba.conf"
    path.chmod(0o640)
    before = path.stat()
    applied(fresh)
    after = path.stat()
    assert (after.st_uid, after.st_gid, stat.S_IMODE(after.st_mode)) == (before.st_uid, before.st_gid, 0o640)


def test_whoever_applies_is_not_locked_out(fresh: Server) -> None:
    assert 'would lock out "postgres"' in refused(fresh, rules=[{"databases": "shop", "roles": "app", "addresses": "samenet"}])
    assert "no rule is for it" in refused(fresh, rules=[], reject_rest=False)
    assert "local all,replication all reject" in refused(fresh, rules=[])
    assert "map it in ident" in refused(fresh, rules=[{"type": "local", "databases": "all", "roles": "all"}])
    over_tcp = {"login_unix_socket": None, "login_host": "127.0.0.1", "login_password": PASSWORD, "ssl_mode": "require"}
    assert "from 127.0.0.1 with TLS" in refused(fresh, **over_tcp)
    by_name = [{"databases": "all", "roles": "all", "addresses": "db.example.org"}, {"databases": "all", "roles": "all", "addresses": "127.0.0.0/8"}]
    assert "only the server can look up" in refused(fresh, rules=by_name, **over_tcp)
    asks = [{"type": "local", "databases": "all", "roles": "all", "method": "scram-sha-256"}]
    assert "login_password is not given" in refused(fresh, rules=asks)


def test_rules_under_which_no_connection_comes_in_are_put_back(fresh: Server) -> None:
    """What cannot be foreseen: an expression that is not for who runs this."""
    nobody = {"tests": [{"system_user": "/^nobody at all$", "role": "postgres"}]}
    message = refused(fresh, ident=nobody)
    assert "a new connection was refused" in message
    assert comes_in(fresh, "other", "postgres", sslmode="disable")
    assert run(fresh, check=True)["changed"] is True


def test_what_only_the_server_refuses_is_put_back(fresh: Server) -> None:
    rules = [ADMINISTRATOR, {"databases": "shop", "roles": "app", "addresses": "10.0.0.0/8", "method": "bsd"}]
    message = refused(fresh, rules=rules)
    assert "would not load the rules" in message
    assert "not supported by this build" in message


def test_a_mistake_is_told_with_its_place(fresh: Server) -> None:
    """One stands for all: the others need no server (tests/unit/hba/test_policy.py)."""
    result = run(fresh, rules=[ADMINISTRATOR, {"roles": "ap", "databases": "shop", "addresses": "samenet"}], path_prefix="pg_hba_")
    assert result.get("failed"), result
    assert [mistake["path"] for mistake in result["mistakes"]] == ["pg_hba_rules[1]"]
    assert 'has no role "ap" (did you mean "app"?)' in result["mistakes"][0]["message"]
    assert texts(fresh)["pg_hba.conf"] == servers.HBA.encode()


def test_names_of_an_earlier_task_are_expected_in_check_mode(fresh: Server) -> None:
    rules = [ADMINISTRATOR, {"databases": "later", "roles": "newcomer", "addresses": "samenet"}]
    result = run(fresh, check=True, rules=rules, expected_roles=["newcomer"], expected_databases=["later"])
    assert result["changed"] is True


def test_rules_for_tls_on_a_server_without_are_told(fresh: Server) -> None:
    fresh.psql("ALTER SYSTEM SET ssl = off")
    fresh.psql("SELECT pg_reload_conf(), pg_sleep(0.1)")
    try:
        result = run(fresh)
        assert "ssl is off" in str(result["warnings"])
        assert {finding["code"] for finding in result["lint"]} == {"ssl_off"}
    finally:
        fresh.psql("ALTER SYSTEM RESET ssl")
        fresh.psql("SELECT pg_reload_conf(), pg_sleep(0.1)")


def test_what_would_refuse_every_client_is_told(fresh: Server) -> None:
    fresh.psql("ALTER SYSTEM SET ssl_ca_file = ''; SET password_encryption = md5; CREATE ROLE old LOGIN PASSWORD 'x'; CREATE ROLE kept LOGIN PASSWORD 'x'")
    fresh.psql("SET password_encryption = 'scram-sha-256'; CREATE ROLE today LOGIN PASSWORD 'x'; SELECT pg_reload_conf(), pg_sleep(0.1)")
    rules = [
        ADMINISTRATOR,
        {"databases": "all", "roles": "kept", "addresses": "samenet", "method": "cert"},
        {"databases": "all", "roles": ["kept", "old", "today"], "addresses": "samenet"},
    ]
    try:
        result = run(fresh, check=True, rules=rules)
        assert not result.get("failed"), result["msg"]
        found = {finding["code"]: finding["message"] for finding in result["lint"]}
        assert set(found) == {"no_authority", "md5_verifier"}
        assert "refuses old, whose passwords are stored for md5" in found["md5_verifier"]
        assert "checks client certificates, and the setting ssl_ca_file is empty" in str(result["warnings"])
        assert "refuses old" in str(result["warnings"])
    finally:
        fresh.psql("ALTER SYSTEM RESET ssl_ca_file")
        fresh.psql("DROP ROLE old; DROP ROLE kept; DROP ROLE today; SELECT pg_reload_conf(), pg_sleep(0.1)")


def test_a_file_that_was_never_loaded_is_loaded(fresh: Server) -> None:
    applied(fresh)
    path = fresh.data / "pg_hba.conf"
    os.utime(path)
    info = module.run(fresh, "pg_hba_info")
    assert info["stale"] == [str(path)]
    assert [finding["code"] for finding in info["lint"]][:1] == ["not_loaded"]
    done = applied(fresh)
    assert "reload" in done["diff"]["prepared"]
    assert module.run(fresh, "pg_hba_info")["stale"] == []


def test_a_standby_has_rules_of_its_own(fresh: Server) -> None:
    standby = fresh.make_standby()
    try:
        done = applied(standby)
        assert done["in_recovery"] is True
        assert texts(fresh)["pg_hba.conf"] == servers.HBA.encode()
    finally:
        standby.remove()


def test_the_linter_finds_what_is_wrong(fresh: Server) -> None:
    text = servers.HBA + (
        "host all all 0.0.0.0/0 md5\nhostssl shop ghost 10.0.0.0/8 scram-sha-256\nhostssl nowhere app 10.1.0.0/16 password\n"
        "hostssl shop app 127.0.0.1/32 cert\nhostnossl shop app 10.0.0.0/24 ident\nhots all all all trust\n"
    )
    put(fresh, text)
    found = {(finding["line"], finding["code"]) for finding in module.run(fresh, "pg_hba_info")["lint"]}
    expected = {
        (1, "trust"), (4, "plain"), (5, "md5"), (5, "plain"), (5, "wide"), (5, "everybody"), (6, "missing_role"), (6, "shadowed"), (6, "wide"),
        (7, "missing_database"), (7, "password"), (8, "shadowed"), (9, "ident"), (9, "plain"), (10, "unreadable"),
    }  # fmt: skip
    assert expected <= found
    assert {code for line, code in found if line == 3} == {"everybody"}


def test_the_linter_finds_passwords_sent_on_and_superusers(fresh: Server) -> None:
    put(fresh, servers.HBA + 'hostssl shop app 10.0.0.0/16 ldap ldapserver=x ldapprefix="cn="\nhostssl shop postgres 10.1.0.0/16 scram-sha-256\n')
    found = {(finding["line"], finding["code"]): finding["message"] for finding in module.run(fresh, "pg_hba_info")["lint"]}
    assert "in clear text to the LDAP server" in found[(5, "ldap_plain")]
    assert "takes postgres, who may do everything" in found[(6, "superuser")]
    put(fresh, "local all all trust\nhostssl all all 10.0.0.0/8 reject\nhostssl shop postgres,app 10.1.0.0/16 scram-sha-256\n")
    assert "superuser" not in {finding["code"] for finding in module.run(fresh, "pg_hba_info")["lint"]}


def test_a_file_that_the_server_refuses_to_load_is_said_to_count_for_nothing(fresh: Server) -> None:
    bad = 'host all "/^(a" all scram-sha-256' if fresh.major >= 16 else "hots all all all trust"
    put(fresh, servers.HBA + bad + "\n")
    info = module.run(fresh, "pg_hba_info", questions=[{"role": "app", "database": "shop"}])
    assert {"unreadable", "not_loaded"} <= {finding["code"] for finding in info["lint"]}
    assert info["answers"][0]["certain"] is False


def test_an_expression_that_the_server_does_not_take_is_a_mistake(fresh: Server) -> None:
    wrong = {"tests": IDENT["tests"], "m": [{"system_user": "/^(a", "role": "app"}]}
    for check in (True, False):
        message = refused(fresh, ident=wrong, check=check)
        assert "ident.m: /^(a is no expression: " in message
        if fresh.major >= 16:
            rules = [ADMINISTRATOR, {"databases": "shop", "roles": "/^(a", "addresses": "127.0.0.0/8"}]
            assert "rules[1]: /^(a is no expression: " in refused(fresh, rules=rules, check=check)


def test_maps_of_included_files_and_changed_files_of_names(fresh: Server) -> None:
    (fresh.data / "names").write_text("app\n", encoding="utf-8")
    (fresh.data / "maps.conf").write_text("m2 bob all\n", encoding="utf-8")
    put(fresh, servers.HBA + "hostssl shop @names 127.0.0.1/32 cert map=m2\n", "include maps.conf\n" if fresh.major >= 16 else "m2 bob app\n")
    info = module.run(fresh, "pg_hba_info")
    assert not {"unreadable", "not_loaded"} & {finding["code"] for finding in info["lint"]}
    os.utime(fresh.data / "names")
    assert module.run(fresh, "pg_hba_info")["stale"] == [str(fresh.data / "names")]
    administrator = {"type": "local", "databases": "all", "roles": "postgres", "method": "trust"}
    mapped = {"databases": "shop", "roles": "app", "addresses": "127.0.0.0/8", "method": "cert", "options": {"map": "m2"}}
    result = run(fresh, rules=[administrator, mapped], ident=None, allow_weak=True, check=True)
    assert not result.get("failed"), result["msg"]


def test_a_name_that_is_not_utf_8_is_shown_and_survives(fresh: Server) -> None:
    path = fresh.data / "pg_hba.conf"
    path.write_bytes(servers.HBA.encode() + b"local all m\xfcller trust # caf\xe9\n")
    info = module.run(fresh, "pg_hba_info")
    assert info["rules"][-1]["roles"] == ["m\\xfcller"]
    for result in (info, run(fresh, check=True), run(fresh)):
        assert not result.get("failed"), result["msg"]
        json.dumps(result, ensure_ascii=False).encode()  # which Ansible refuses to read otherwise


def test_files_are_read_as_the_server_reads_them(fresh: Server) -> None:
    for name, content in hba_texts.FILES.items():
        (fresh.data / name).write_text(content, encoding="utf-8")
    seeds = range(int(os.environ.get("BULWARK_EXAMPLES", "100")))
    assert disagreements(fresh, [hba_texts.text(random.Random(seed)) for seed in seeds]) == []
    assert read_rules(str(fresh.data / "pg_hba.conf"), LocalFiles(), fresh.major).files


def _random_rules(chance: random.Random, major: int) -> str:
    """Rules of which each lets in or rejects, so that a connection shows which came first."""
    names = ["all", "app", "other", "+team", '"all"', "app,other", *(['"/^a.p$"', "/er$"] if major >= 16 else [])]
    databases = ["all", "shop", "postgres", "sameuser", '"all"', "shop,postgres", *(["/^sh"] if major >= 16 else [])]
    lines = ["local all postgres trust", "host postgres postgres 127.0.0.0/8 trust"]
    for _count in range(chance.randint(3, 8)):
        kind = chance.choice(("local", "host", "hostssl", "hostnossl"))
        address = "" if kind == "local" else chance.choice(("all", "127.0.0.1/32", "127.0.0.0 255.0.0.0", "::1/128", "0.0.0.0/0", "10.0.0.0/8", "samehost"))
        lines.append(f"{kind} {chance.choice(databases)} {chance.choice(names)} {address} {chance.choice(('trust', 'reject'))}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("seed", range(8))
def test_questions_are_answered_as_the_server_decides(fresh: Server, seed: int) -> None:
    put(fresh, _random_rules(random.Random(seed), fresh.major))
    cases = list(itertools.product(("app", "other"), ("shop", "postgres"), (None, "127.0.0.1"), (True, False)))
    questions = [{"role": role, "database": name, "address": address, "encrypted": encrypted} for role, name, address, encrypted in cases]
    answers = module.run(fresh, "pg_hba_info", questions=questions)["answers"]
    for answer in answers:
        where = {"host": fresh.host} if answer["address"] is None else {"sslmode": "require" if answer["encrypted"] else "disable"}
        assert answer["certain"], answer
        assert comes_in(fresh, answer["role"], answer["database"], **where) is answer["allowed"], answer
