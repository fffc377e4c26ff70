# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""With everything logged that can be logged, neither a password nor a verifier is to be read anywhere."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.module import Playbook, apply, finished, plan, process, refused, run
from tests.integration.sql import execute, query, session, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

FIRST, SECOND, THIRD = "Correct-Horse-Battery-1", "Staple'Gun\"Wöche-2", "third-and-Last-3"
READY = "SCRAM-SHA-256$4096:cmVhZHktbWFkZS1zYWx0LTEyMw==$UmVhZHlTdG9yZWRLZXlPZjMyQnl0ZXNGb3JUZXN0cyE=:UmVhZHlTZXJ2ZXJLZXlPZjMyQnl0ZXNGb3JUZXN0cyE="
POLICY: dict[str, Any] = {"roles": {"alice": {"login": True}, "bob": {"login": True}}}


@pytest.fixture(scope="module")
def talkative(server: Server) -> Iterator[Server]:
    """A server that logs every statement, and keeps them in pg_stat_statements."""
    server.reset()
    server.restart(
        log_statement="all",
        log_min_duration_statement=0,
        log_min_error_statement="debug5",
        log_duration="on",
        log_error_verbosity="verbose",
        debug_print_parse="off",
        shared_preload_libraries="pg_stat_statements,auto_explain,passwordcheck",
        track_activity_query_size=10000,
        **{"pg_stat_statements.track_utility": "on", "pg_stat_statements.track": "all", "auto_explain.log_min_duration": "0"},
    )
    execute(server, "CREATE EXTENSION pg_stat_statements")
    yield server
    server.reset()


@pytest.fixture
def loud(talkative: Server) -> Server:
    """The talkative server without the roles of the test before, its log read from here on."""
    execute(talkative, "DROP ROLE IF EXISTS alice, bob, deputy", "SELECT pg_stat_statements_reset()")
    return talkative


class Listener:
    """What the server writes from now on, and what the process list shows meanwhile."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._offset = server.log.stat().st_size
        self._seen: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self._seen.add(path.read_text(errors="replace"))
                except OSError:
                    continue

    def log(self) -> str:
        """The server's log since the beginning."""
        with open(self.server.log, encoding="utf-8", errors="replace") as file:
            file.seek(self._offset)
            return file.read()

    def everything(self) -> str:
        """The log, the statistics of statements and of sessions, and the process list."""
        statements = query(self.server, "SELECT query FROM pg_stat_statements")
        sessions = query(self.server, "SELECT query FROM pg_stat_activity")
        return "\n".join([self.log(), repr(statements), repr(sessions), *self._seen])


def secrets(server: Server) -> list[str]:
    """Every piece of text that must not be seen: the passwords, and the parts of the verifiers that are stored."""
    found = [FIRST, SECOND, THIRD, "Battery", "Staple", "and-Last"]
    verifiers = [row[0] for row in query(server, "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL")]
    for verifier in [*verifiers, READY]:
        salt, keys = verifier.split("$")[1].split(":")[1], verifier.split("$")[2].split(":")
        found += [salt, *keys]
    return found


def assert_none_in(text: str, server: Server) -> None:
    """No secret of the server is in the text."""
    found = [secret for secret in secrets(server) if secret in text or json.dumps(secret)[1:-1] in text or secret.replace("'", "''") in text]
    assert found == []
    assert "SCRAM-SHA-256$" not in text


def test_the_log_does_log(loud: Server) -> None:
    """Else the other tests would prove nothing."""
    with Listener(loud) as listener:
        execute(loud, f"ALTER ROLE postgres PASSWORD '{THIRD}'")
        execute(loud, "ALTER ROLE postgres PASSWORD NULL")
    assert THIRD in listener.log()
    execute(loud, "SELECT pg_stat_statements_reset()")


def test_module(loud: Server) -> None:
    with Listener(loud) as listener:
        results = [
            plan(loud, POLICY, passwords={"alice": FIRST, "bob": READY}),
            apply(loud, POLICY, diff=True, passwords={"alice": FIRST, "bob": READY}),
        ]
        first = secrets(loud)
        results.append(apply(loud, POLICY, diff=True, passwords={"alice": SECOND, "bob": THIRD}))
        results.append(apply(loud, {"roles": {"alice": {"login": True, "has_password": False}, "bob": {"login": True}}}, diff=True))
        results.append(run(loud, "pg_access_info"))
    text = listener.everything() + json.dumps(results, ensure_ascii=False)
    assert "ALTER ROLE" in json.dumps(results)
    assert_none_in(text, loud)
    assert [secret for secret in first if secret in text] == []
    assert results[1]["changed"]
    assert results[2]["changed"]


def test_what_hides_the_secret_hides_no_more_than_that(loud: Server) -> None:
    with Listener(loud) as listener:
        apply(loud, {"roles": {"alice": {"login": True, "connection_limit": 17, "comment": "in the log"}}}, passwords={"alice": FIRST})
    assert "in the log" in listener.log()


def test_process_list(loud: Server) -> None:
    with Listener(loud) as listener:
        result = finished(process(loud, POLICY, passwords={"alice": FIRST, "bob": READY}))
    assert result["changed"]
    assert any("pg_access" in line for line in listener._seen)
    assert_none_in(listener.everything() + json.dumps(result), loud)


def test_failing_statement(loud: Server) -> None:
    apply(loud, POLICY)
    with session(loud) as other, Listener(loud) as listener:
        other.autocommit = False
        other.cursor().execute("ALTER ROLE alice CONNECTION LIMIT 5")
        message = refused(loud, POLICY, passwords={"alice": FIRST, "bob": READY}, lock_timeout=100, lock_retries=1)
        result = finished(process(loud, POLICY, passwords={"alice": FIRST, "bob": READY}, lock_timeout=100, lock_retries=0))
        other.rollback()
    assert "alice" in message
    assert result["failed"]
    assert_none_in(listener.everything() + message + json.dumps(result), loud)


def test_statement_refused_by_the_server(loud: Server) -> None:
    """The extension passwordcheck refuses a password that is the role's name, after it was sent."""
    apply(loud, POLICY)
    with Listener(loud) as listener:
        result = run(loud, "pg_access", policy=POLICY, passwords={"bob": READY, "alice": "alice"})
    assert result["failed"]
    assert "password must not equal user name" in result["msg"]
    assert_none_in(listener.everything() + json.dumps(result), loud)
    assert value(loud, "SELECT rolpassword FROM pg_authid WHERE rolname = 'bob'") is None


def test_a_password_that_cannot_be_compared_is_left_alone(loud: Server) -> None:
    """An administrator who may not read the stored verifier gets a warning."""
    execute(loud, "CREATE ROLE deputy LOGIN CREATEROLE", "CREATE ROLE alice LOGIN")
    with Listener(loud) as listener:
        result = run(loud, "pg_access", policy={"roles": {"alice": {"login": True}}}, passwords={"alice": FIRST}, login_user="deputy")
    assert "role alice may not be read by deputy" in json.dumps(result["warnings"])
    assert_none_in(listener.everything() + json.dumps(result), loud)


def test_an_administrator_who_cannot_silence_the_log_is_told_so(loud: Server) -> None:
    execute(loud, "CREATE ROLE deputy LOGIN CREATEROLE")
    with Listener(loud) as listener:
        message = refused(loud, POLICY, passwords={"alice": FIRST}, login_user="deputy")
    assert "log_" in message
    assert "password verifiers" in message
    assert_none_in(listener.everything() + message, loud)
    assert query(loud, "SELECT FROM pg_roles WHERE rolname = 'alice'") == []


@pytest.mark.oldest_and_newest
def test_playbook(loud: Server, tmp_path: Path) -> None:
    login = {**loud.login}
    tasks = [
        {"name": "Module", "bulwark.postgresql.pg_access": {**login, "policy": POLICY, "passwords": "{{ secrets }}"}, "register": "module_result"},
        {
            "name": "Role",
            "ansible.builtin.include_role": {
                "name": "bulwark.postgresql.pg_users",
                "apply": {"module_defaults": {"group/bulwark.postgresql.pg": login}},
            },
            "vars": {"pg_users_roles": POLICY["roles"], "pg_users_passwords": "{{ others }}"},
        },
        {
            "name": "Failure",
            "bulwark.postgresql.pg_access": {**login, "policy": {"roles": {"alice": {"logn": 1}}}, "passwords": "{{ secrets }}"},
            "register": "failure",
            "failed_when": False,
        },
        {"name": "Show", "ansible.builtin.debug": {"msg": ["{{ module_result }}", "{{ pg_users_result }}", "{{ failure }}"]}},
        {"name": "Keep", "ansible.builtin.set_fact": {"kept": "{{ module_result }}", "cacheable": True}},
    ]
    playbook = Playbook(tmp_path, tasks, {"secrets": {"alice": FIRST, "bob": READY}, "others": {"alice": SECOND, "bob": THIRD}})
    with Listener(loud) as listener:
        running = playbook.start("-vvv", "--diff")
        output = running.communicate(timeout=120)[0]
    assert running.returncode == 0, output
    assert "role alice" in output
    assert "********" in output
    assert "logn" in output
    assert_none_in(output + listener.everything(), loud)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "variables.yml"]
    assert left
    for path in left:
        assert_none_in(path.read_text(encoding="utf-8", errors="replace"), loud)


LDAP, RADIUS, OLD = "Directory-Secret-4", "Radius-Secret-5", "Older-Secret-6"
OLD_RULE = f'hostssl all app 10.1.0.0/16 radius radiusservers=10.0.0.1 radiussecrets="{OLD}"\n'
CUT_OFF = f"hostssl all app 10.1.0.0/16 ldap ldapserver=x ldapbindpasswd= {OLD}\n"  # the server refuses it, and quotes the secret
SOCKET = {"type": "local", "databases": "all", "roles": "all", "method": "trust"}


def rule(method: str, **options: Any) -> dict[str, Any]:
    """A rule with a secret, which has never been in the file before."""
    needed = {"radius": {"radiusservers": "10.0.0.1"}, "ldap": {"ldapserver": "x", "ldapbasedn": "y", "ldapbinddn": "z"}}
    return {"databases": "all", "roles": "all", "addresses": "10.0.0.0/8", "method": method, "options": {**needed[method], **options}}


def shown(results: list[dict[str, Any]]) -> list[str]:
    """The secrets that are to be read in what modules return, with what Ansible adds."""
    return [secret for secret in (RADIUS, LDAP, OLD) if secret in json.dumps(results)]


def test_secrets_in_the_options_of_rules(mine: Server) -> None:
    """In the file, which the server reads, and nowhere else."""
    hba = mine.data / "pg_hba.conf"
    hba.write_text("local all all trust\n" + OLD_RULE, encoding="utf-8")
    question = {"role": "app", "database": "postgres", "address": "10.1.2.3", "encrypted": True}
    seen = [run(mine, "pg_hba_info", questions=[question])]
    for secret in (RADIUS, f"{RADIUS}-and-another"):
        options = {"rules": [SOCKET, rule("radius", radiussecrets=secret)], "allow_weak": True}
        seen += [run(mine, "pg_hba", check=check, diff=True, **options) for check in (True, False)]
        assert (seen[-1].get("failed"), seen[-1]["changed"]) == (None, True), seen[-1]
        assert f'"{secret}"' in hba.read_text(encoding="utf-8") or f"={secret}" in hba.read_text(encoding="utf-8")
    assert "another secret" in seen[-1]["diff"]["prepared"]
    seen.append(run(mine, "pg_hba_info", questions=[question]))
    assert shown(seen) == []


def test_secrets_in_rules_that_are_refused(mine: Server) -> None:
    (mine.data / "pg_hba.conf").write_text("local all all trust\n" + CUT_OFF, encoding="utf-8")
    seen = [run(mine, "pg_hba_info")]
    for wrong in (
        rule("ldap", ldapbindpasswd=LDAP),  # the servers of the tests are built without it
        rule("ldap", ldapbindpasswd=[LDAP]),
        rule("ldap", ldapbindpasswd=f"{LDAP}\n{LDAP}"),
        rule("radius", radiussecrets=RADIUS, unknown="x"),
    ):
        seen.append(run(mine, "pg_hba", rules=[SOCKET, wrong], diff=True, allow_weak=True))
        assert seen[-1].get("failed"), wrong
    above = {**rule("radius", radiussecrets=RADIUS), "roles": "all"}
    seen.append(run(mine, "pg_hba", rules=[SOCKET, above, rule("ldap", ldapbindpasswd=LDAP)], allow_weak=True))
    assert "no connection would reach it" in seen[-1]["msg"]
    assert shown(seen) == []


@pytest.mark.oldest_and_newest
def test_secrets_in_the_options_of_rules_in_a_playbook(mine: Server, tmp_path: Path) -> None:
    (mine.data / "pg_hba.conf").write_text("local all all trust\n" + OLD_RULE, encoding="utf-8")
    rules = [SOCKET, rule("radius", radiussecrets=RADIUS)]
    role = {"name": "bulwark.postgresql.pg_hba", "apply": {"module_defaults": {"group/bulwark.postgresql.pg": mine.login}}}
    variables = {"pg_hba_rules": rules, "pg_hba_allow_weak": True, "ansible_python_interpreter": sys.executable}
    running = Playbook(tmp_path, [{"name": "Rules", "ansible.builtin.include_role": role}], variables).start("-vvv", "--diff")
    output = running.communicate(timeout=120)[0]
    assert running.returncode == 0, output
    assert [secret for secret in (RADIUS, OLD) if secret in output] == []
