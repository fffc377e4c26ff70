# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrong policies, odd names and bad moments: one clear error each, never a traceback, and a server that is as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.access_documents import IN_APP, database, default, grant, roles, schema
from tests.integration.module import apply, converge, finished, plan, process, refused, run, unchanged
from tests.integration.sql import database_fingerprint, execute, fingerprint, ident, query, session, value
from tests.servers import Server, server_account

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Policy = dict[str, Any]


# What is wrong; the policy; what the message must hold: the place, and a hint at what would be right. These the server's state shows; what the
# document alone shows is in tests/unit/access/test_wrong_policies.py.
WRONG: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no such setting": (roles(r={"settings": {"wrok_mem": "1MB"}}), ("wrok_mem",)),
    "no such value of a setting": (roles(r={"settings": {"work_mem": "lots"}}), ("work_mem",)),
    "a setting in no database": (roles(r={"database_settings": {"shpo": {"work_mem": "1MB"}}}), ("shpo", 'did you mean "shop"')),
    "member of nobody known": (roles(r={"member_of": ["nobody"]}), ("roles.r.member_of", "nobody")),
    "a circle through the server's own": (roles(r={"member_of": ["group"]}), ("roles.r.member_of",)),
    "reassigned to nobody known": (roles(s={"state": "absent", "reassign_to": "nobody"}), ("roles.s", "nobody")),
    "owner is nobody known": (database(owner="nobody"), ("databases.shop.owner", "nobody")),
    "no such template": ({"roles": {}, "databases": {"new": {"template": "tmplate"}}}, ("databases.new.template", "tmplate")),
    "no such encoding": ({"roles": {}, "databases": {"new": {"encoding": "UTF-99", "template": "template0"}}}, ("new", "UTF-99")),
    "a profile of nobody known": (schema(profiles={"nobody": "readonly"}), (f"{IN_APP}.profiles.nobody",)),
    "grantee is nobody known": (grant(tables="all", to="nobody"), (f"{IN_APP}.grants", "nobody")),
    "grantee is nearly known": (grant(tables="all", to=["migratoin"]), (f"{IN_APP}.grants", 'did you mean "migration"')),
    "unknown table": (grant(tables=["ordres"]), (f"{IN_APP}.grants", "ordres", 'did you mean "orders"')),
    "unknown table among known ones": (grant(tables=["t", "nothing"]), (f"{IN_APP}.grants", "nothing")),
    "unknown column": (grant(tables=["t"], columns=["id", "nmae"]), (f"{IN_APP}.grants", "nmae", 'did you mean "name"')),
    "unknown sequence": (grant(sequences=["t"]), (f"{IN_APP}.grants", "sequence")),
    "unknown function": (grant(functions=["f(text)"], privileges=["EXECUTE"]), (f"{IN_APP}.grants", "f(text)")),
    "unknown type": (grant(types=["nope"], privileges=["USAGE"]), (f"{IN_APP}.grants", "nope")),
    "a table is no view": (grant(views=["t"]), (f"{IN_APP}.grants", "t")),
    "unknown language": (database(grants=[{"to": "r", "privileges": ["USAGE"], "languages": ["plperl"]}]), ("databases.shop.grants", "plperl")),
    "unknown large object": (database(grants=[{"to": "r", "privileges": ["SELECT"], "large_objects": [12]}]), ("databases.shop.grants", "12")),
    "unknown tablespace": ({"roles": {"r": {}}, "grants": [{"to": "r", "privileges": ["CREATE"], "tablespaces": ["fast"]}]}, ("grants", "fast")),
    "default privileges of nobody known": (default(owner="nobody"), (f"{IN_APP}.default_privileges", "nobody")),
}


@pytest.fixture
def shop(cluster: Server) -> Server:
    """A server with the database shop, a few tables in its schema app, and some roles."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE r", "CREATE ROLE s", "CREATE ROLE migration", 'CREATE ROLE "group"', 'GRANT r TO "group"')
    execute(cluster, "CREATE SCHEMA app; CREATE TABLE app.t (id int, name text); CREATE TABLE app.orders (id int)", db="shop")
    execute(cluster, "CREATE FUNCTION app.f(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'", db="shop")
    return cluster


@pytest.mark.oldest_and_newest
def test_a_wrong_policy_is_refused_with_the_place_and_a_hint(shop: Server) -> None:
    before = fingerprint(shop)
    failures = []
    for what, (policy, words) in WRONG.items():
        for check in (False,) if what == "no such value of a setting" else (True, False):  # only the server knows every value
            result = run(shop, "pg_access", policy=policy, check=check)
            message = str(result.get("msg", ""))
            missing = [word for word in words if word not in message]
            if not result.get("failed") or missing or "rolled back" in message or len(message) > 2000:
                failures.append(f"{what} (check={check}): failed={result.get('failed')} lacks {missing}: {message}")
    assert not failures, "\n".join(failures)
    assert fingerprint(shop) == before


def test_every_mistake_is_told_at_once(shop: Server) -> None:
    policy = {
        "roles": {"r": {"logn": True, "connection_limit": "x"}},
        "databases": {"shop": {"ownr": "r", "schemas": {"app": {"grants": [{"to": "r", "privileges": ["SELEKT"], "tables": "all"}]}}}},
    }
    result = run(shop, "pg_access", policy=policy)
    paths = {mistake["path"] for mistake in result["mistakes"]}
    assert {"roles.r.logn", "roles.r.connection_limit", "databases.shop.ownr"} <= paths
    assert any(path.startswith(f"{IN_APP}.grants") for path in paths)
    assert "4 mistakes" in result["msg"]


def test_mistakes_that_only_the_server_shows_are_told_at_once(shop: Server) -> None:
    policy = grant(tables=["ordres"])
    policy["databases"]["shop"]["grants"] = [{"to": "r", "privileges": ["USAGE"], "languages": ["plperl"]}]
    policy["databases"]["shop"]["schemas"]["app"]["grants"].append({"to": "r", "privileges": ["SELECT"], "tables": ["t"], "columns": ["nmae"]})
    message = refused(shop, policy)
    assert all(word in message for word in ("ordres", "plperl", "nmae", "3 mistakes"))


OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown mode": ({"mode": "exact"}, ("mode", "exact")),
    "share above one": ({"max_revoke_share": 2.0}, ("max_revoke_share",)),
    "share below zero": ({"max_revoke_share": -0.5}, ("max_revoke_share",)),
    "negative retries": ({"lock_retries": -1}, ("lock_retries",)),
    "negative time": ({"lock_timeout": -5}, ("lock_timeout",)),
    "no iterations": ({"scram_iterations": 0}, ("scram_iterations",)),
    "too many iterations": ({"scram_iterations": 2**40}, ("scram_iterations",)),
    "password of nobody known": ({"passwords": {"nobody": "hidden thing"}}, ("passwords", "nobody")),
    "empty password": ({"passwords": {"r": ""}}, ("passwords.r",)),
    "password is a mapping": ({"passwords": {"r": {"value": "hidden thing"}}}, ("passwords.r",)),
    "password is a number": ({"passwords": {"r": 12345678}}, ("passwords.r",)),
    "password with a NUL": ({"passwords": {"r": "hidden\0thing"}}, ("passwords.r",)),
    "broken verifier": ({"passwords": {"r": "SCRAM-SHA-256$4096:hidden thing"}}, ("passwords.r",)),
    "md5 verifier": ({"passwords": {"r": "md5" + "0123456789abcdef" * 2}}, ("passwords.r",)),
    "missing database": ({"login_db": "nowhere"}, ("nowhere", "does not exist")),
    "nobody at the port": ({"login_port": 1}, ("connect",)),
    "no socket there": ({"login_unix_socket": "/nonexistent"}, ("connect",)),
    "unknown user": ({"login_user": "nobody at all"}, ("nobody at all",)),
    "wrong password": ({"login_unix_socket": "", "login_host": "127.0.0.1", "login_password": "hidden thing"}, ("password authentication failed",)),
    "no such certificate": (
        {"login_unix_socket": "", "login_host": "127.0.0.1", "ssl_mode": "verify-full", "ca_cert": "/nonexistent.crt"},
        ("/nonexistent.crt",),
    ),
}


@pytest.mark.oldest_and_newest
def test_wrong_options_are_refused(shop: Server) -> None:
    before = fingerprint(shop)
    failures = []
    for number, (what, (options, words)) in enumerate(OPTIONS.items()):
        result = run(shop, "pg_access", **{"policy": {"roles": {"r": {}, f"fresh {number}": {}}}, **options})
        message = str(result.get("msg", ""))
        missing = [word for word in words if word not in message]
        if not result.get("failed") or missing or "hidden" in str(result) or "0123456789abcdef" in str(result):
            failures.append(f"{what}: failed={result.get('failed')} lacks {missing}: {result}")
    assert not failures, "\n".join(failures)
    assert fingerprint(shop) == before


def test_a_password_for_a_role_that_must_have_none(shop: Server) -> None:
    message = refused(shop, roles(r={"has_password": False}), passwords={"r": "hidden thing"})
    assert "roles.r.has_password" in message
    assert "hidden" not in message


NAMES = (
    'quo"te',
    "apos'trophe",
    "two words",
    "new\nline",
    "tab\there",
    "dot.ted",
    "n" * 63,
    "ü" * 31,
    "ünïcödé ①",
    "日本",
    "🐘",
    "select",
    "user",
    "all",
    "MixedCase",
    "%s",
    "%(name)s",
    "{}",
    "{{ x }}",
    "$1",
    "\\",
    "; DROP TABLE t; --",
    "/",
    "1st",
    "-",
    " ",
    "current_user",
    "null",
    "true",
    "~",
    "a=b",
    "a,b",
    "(x)",
    "#",
    "@",
    "=r/x",
)


def test_every_legal_name_works(cluster: Server) -> None:
    names = list(NAMES)
    execute(cluster, 'CREATE DATABASE "shop"')
    for name in names:
        quoted = ident(name)
        execute(
            cluster,
            f"CREATE SCHEMA {quoted}; CREATE TABLE {quoted}.{quoted} ({quoted} serial, b int); CREATE TYPE {quoted}.{ident('e ' + name[:20])} AS ENUM ('a');"
            f"CREATE FUNCTION {quoted}.{quoted}() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            db="shop",
        )
    schemas = {
        name: {
            "owner": name,
            "profiles": {name: "readonly"},
            "grants": [
                {"to": name, "privileges": ["UPDATE"], "tables": [name], "columns": [name]},
                {"to": name, "privileges": ["EXECUTE"], "functions": "all"},
                {"to": name, "privileges": ["USAGE"], "types": ["e " + name[:20]], "grant_option": True},
            ],
            "default_privileges": [{"owner": name, "to": name, "type": "tables", "privileges": ["SELECT"]}],
        }
        for name in names
    }
    declared = {name: {"comment": name, "settings": {"application_name": name}, "member_of": []} for name in names}
    converge(cluster, {"roles": declared, "databases": {"shop": {"schemas": schemas}}})
    rights = "SELECT nspname FROM pg_namespace n JOIN pg_class c ON relnamespace = n.oid AND relname = nspname AND relkind = 'r' WHERE nspname = ANY(%(names)s)"
    held = query(
        cluster,
        f"{rights} AND has_table_privilege(nspname, c.oid, 'SELECT') AND has_column_privilege(nspname, c.oid, nspname, 'UPDATE')"
        " AND NOT has_column_privilege(nspname, c.oid, 'b', 'UPDATE')",
        {"names": names},
        db="shop",
    )
    assert {name for (name,) in held} == set(names)


def test_databases_of_every_legal_name_work(cluster: Server) -> None:
    names = ['Ü "d\'b"', "n" * 63, "%s {}", "dbname=x host=y", "postgresql://x", "a\\b"]
    converge(cluster, {"roles": {"r": {}}, "databases": {name: {"owner": "r", "schemas": {"s": {"profiles": {"r": "readonly"}}}} for name in names}})
    assert {name for (name,) in query(cluster, "SELECT datname FROM pg_database")} >= set(names)


# --- bad moments ---------------------------------------------------------------------------------------------------------------------

TWO: Policy = {
    "roles": {"r": {}, "s": {}},
    "databases": {name: {"schemas": {"app": {"profiles": {"r": "readonly", "s": "app_service"}}}} for name in ("one", "two")},
}


@pytest.fixture
def pair(cluster: Server) -> Server:
    """A server with the databases one and two, each with twenty tables."""
    execute(cluster, "CREATE DATABASE one", "CREATE ROLE r", "CREATE ROLE s")
    execute(cluster, "CREATE SCHEMA app; DO $$ BEGIN FOR i IN 1..20 LOOP EXECUTE format('CREATE TABLE app.t%s (id serial)', i); END LOOP; END $$", db="one")
    execute(cluster, "CREATE DATABASE two TEMPLATE one")
    return cluster


@contextlib.contextmanager
def holding(server: Server, statement: str, db: str) -> Iterator[Any]:
    """A transaction of somebody else that has run a statement and stays open."""
    with session(server, db) as connection:
        connection.autocommit = False
        connection.cursor().execute(statement)
        yield connection
        connection.rollback()


BUSY = "GRANT TRUNCATE ON app.t7 TO s"
CONNECTED = "SELECT count(*)::int FROM pg_stat_activity WHERE application_name = 'bulwark.postgresql'"
WAITING = f"{CONNECTED} AND wait_event_type = 'Lock'"


def wait_until(condition: Callable[[], Any]) -> None:
    """Poll for something that must come true within some seconds."""
    for _attempt in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass within 20 s")


def test_a_lock_that_is_not_given_up(pair: Server) -> None:
    before = database_fingerprint(pair, "one")
    with holding(pair, BUSY, "one") as other:
        message = refused(pair, TWO, lock_timeout=100, lock_retries=1)
        assert str(other.info.backend_pid) in message
        assert "postgres" in message
    assert 'database "one"' in message
    assert "tried 2 times" in message
    assert "app" in message
    assert database_fingerprint(pair, "one") == before
    apply(pair, TWO)
    unchanged(pair, TWO)


def test_a_lock_that_is_given_up_in_time(pair: Server) -> None:
    with holding(pair, BUSY, "one") as other:

        def give_up() -> None:
            wait_until(lambda: value(pair, WAITING))
            time.sleep(0.5)  # longer than one attempt waits
            other.rollback()

        thread = threading.Thread(target=give_up)
        thread.start()
        result = apply(pair, TWO, lock_timeout=100, lock_retries=20)
        thread.join()
    assert result["retries"] > 0
    unchanged(pair, TWO)


def test_a_lock_on_a_role(pair: Server) -> None:
    before = fingerprint(pair)
    with holding(pair, "ALTER ROLE r CONNECTION LIMIT 3", "postgres"):
        message = refused(pair, {"roles": {"r": {"login": True}, "fresh": {}}}, lock_timeout=100, lock_retries=0)
    assert '"r"' in message or "role r" in message
    assert fingerprint(pair) == before


def test_a_failing_statement_names_its_object_and_undoes_its_database(pair: Server) -> None:
    refuse = "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not on my watch'; END $$"
    execute(pair, refuse, "CREATE EVENT TRIGGER no ON ddl_command_end WHEN TAG IN ('ALTER DEFAULT PRIVILEGES') EXECUTE FUNCTION no()", db="two")
    policy = {**TWO, "databases": {**TWO["databases"], "two": {"schemas": {"app": {"owner": "s", "profiles": {"r": "readonly", "s": "migration"}}}}}}
    before = database_fingerprint(pair, "two")
    message = refused(pair, policy)
    assert "not on my watch" in message
    assert 'database "two"' in message
    assert "default privileges of s" in message
    assert 'database "one"' in message  # which was done before
    assert database_fingerprint(pair, "two") == before
    assert plan(pair, policy)["sql"] != []
    execute(pair, "DROP EVENT TRIGGER no", db="two")
    apply(pair, policy)
    unchanged(pair, policy)


@pytest.mark.parametrize("end", ["the session", "the server"])
def test_a_server_that_goes_away(pair: Server, end: str) -> None:
    before = database_fingerprint(pair, "one")
    with contextlib.suppress(psycopg2.Error), holding(pair, BUSY, "one"):
        running = process(pair, TWO, lock_timeout=20000)
        wait_until(lambda: value(pair, WAITING))
        if end == "the session":
            execute(pair, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bulwark.postgresql'")
        else:
            pair.stop("immediate")
        result = finished(running)
    assert result["failed"]
    assert 'database "one"' in result["msg"]
    assert "connection" in result["msg"]
    assert "rolled back" in result["msg"]
    if not pair.running:
        pair.start()
    assert database_fingerprint(pair, "one") == before
    apply(pair, TWO)
    unchanged(pair, TWO)


def untouched_or_complete(server: Server, before: dict[str, str], policy: Policy) -> None:
    """Each database is as it was, or as declared."""
    left = {change["database"] for change in plan(server, policy)["plan"]}
    for name in ("one", "two"):
        assert name not in left or database_fingerprint(server, name) == before[name]


def test_killed_while_it_waits(pair: Server) -> None:
    before = fingerprint(pair)
    with holding(pair, BUSY, "two"):
        running = process(pair, TWO, lock_timeout=20000)
        wait_until(lambda: value(pair, WAITING))
        running.send_signal(signal.SIGKILL)
        running.wait(20)
    wait_until(lambda: not value(pair, CONNECTED))
    assert database_fingerprint(pair, "two") == before["two"]
    assert database_fingerprint(pair, "one") != before["one"]
    untouched_or_complete(pair, before, TWO)
    apply(pair, TWO)
    unchanged(pair, TWO)


def test_killed_at_any_moment(pair: Server) -> None:
    before = fingerprint(pair)
    for delay in (0.0, 0.01, 0.03):
        running = process(pair, TWO)
        with contextlib.suppress(AssertionError):
            wait_until(lambda run=running: run.poll() is not None or value(pair, CONNECTED))
        time.sleep(delay)
        running.kill()
        running.wait(20)
        wait_until(lambda: not value(pair, CONNECTED))
        untouched_or_complete(pair, before, TWO)
    apply(pair, TWO)
    unchanged(pair, TWO)


def test_interrupted(pair: Server) -> None:
    """Ctrl-C ends the run as a kill does: the open transaction is gone."""
    before = fingerprint(pair)
    with holding(pair, BUSY, "one"):
        running = process(pair, TWO, lock_timeout=20000)
        wait_until(lambda: value(pair, WAITING))
        running.send_signal(signal.SIGTERM)
        running.wait(20)
    wait_until(lambda: not value(pair, CONNECTED))
    assert database_fingerprint(pair, "one") == before["one"]
    apply(pair, TWO)


@pytest.fixture
def small_disk(cluster: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 24 MB that the server may write to."""
    place = Path("/var/tmp") / tmp_path_factory.mktemp("disk").name
    place.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        place.rmdir()
        pytest.skip(f"a full disk needs the right to mount a tmpfs: {made.stderr.strip()}")
    try:
        inside = place / "space"
        inside.mkdir()
        os.chown(inside, server_account().pw_uid, server_account().pw_gid)
        inside.chmod(0o700)
        yield inside
    finally:
        with contextlib.suppress(psycopg2.Error):
            execute(cluster, "DROP DATABASE IF EXISTS small WITH (FORCE)", "DROP TABLESPACE IF EXISTS tiny")
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()


def test_a_full_disk(cluster: Server, small_disk: Path) -> None:
    execute(cluster, f"CREATE TABLESPACE tiny LOCATION '{small_disk}'", "CREATE DATABASE small TABLESPACE tiny")
    execute(cluster, "CREATE SCHEMA app; DO $$ BEGIN FOR i IN 1..400 LOOP EXECUTE format('CREATE TABLE app.t%s ()', i); END LOOP; END $$", db="small")
    execute(cluster, "CREATE TABLE filler (x text)", db="small")
    before = database_fingerprint(cluster, "small")
    execute(cluster, "CHECKPOINT")  # what is there so far has its place on the disk
    full = False
    while not full:
        try:
            execute(cluster, "INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 500)", db="small")
        except psycopg2.errors.DiskFull:
            full = True
    policy = {"roles": {"r": {}, "s": {}}, "databases": {"small": {"schemas": {"app": {"profiles": {"r": "readonly", "s": "app_service"}}}}}}
    message = refused(cluster, policy)
    assert "No space left on device" in message
    assert 'database "small"' in message
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk.parent)], check=True)
    assert database_fingerprint(cluster, "small") == before
    apply(cluster, policy)
    unchanged(cluster, policy)
