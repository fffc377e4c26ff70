# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups by a role of their own, without SUPERUSER: the roles pg_backup and pg_hba make it, and its backups are whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import servers
from tests.integration import module
from tests.integration.sql import execute, query, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable  # that every account may run
ROLE = "bulwark_backup"
RULES = [{"type": "local", "databases": "all", "roles": "postgres", "options": {"map": "tests"}}, {"type": "local", "databases": "all", "roles": "all"}]
IDENT = {"tests": [{"system_user": "/^(.*)$", "role": "postgres"}]}
pytestmark = [
    pytest.mark.oldest_and_newest,
    pytest.mark.skipif(not shutil.which("zstd"), reason="zstd is not installed"),
]


@dataclass
class Host:
    """A server whose backups the roles have set up, and the variables that they had."""

    server: Server
    root: Path
    variables: dict[str, Any]

    def play(self, *flags: str, status: int = 0, parts: int = 3, **variables: Any) -> str:
        """What ansible-playbook prints for the three parts of harden that are about backups, or the first of them."""
        apply = {"module_defaults": {"group/bulwark.postgresql.pg": self.server.login}}
        these = [("pg_backup", "main"), ("pg_hba", "main"), ("pg_backup", "login")][:parts]
        tasks = [
            {
                "name": name,
                "ansible.builtin.include_role": {"name": f"bulwark.postgresql.{name}", "tasks_from": file, "apply": apply},
                "vars": {"ansible_python_interpreter": PYTHON} if file == "login" else {},
            }
            for name, file in these
        ]
        folder = self.root / "play"
        folder.mkdir(exist_ok=True)
        running = module.Playbook(folder, tasks, {**self.variables, **variables}).start(*flags)
        output = running.communicate(timeout=200)[0]
        assert running.returncode == status, output
        return output

    def call(self, *words: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the program as the account of the server."""
        account = servers._as_server_account(self.server.bindir)
        account["env"] = {name: text for name, text in account["env"].items() if name in ("PATH", "HOME")}
        command = [str(self.root / "starter"), "--config", str(self.root / "config" / "main.json"), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **account)
        assert status is None or done.returncode == status, done.stderr
        return done

    def newest(self, kind: str) -> Path:
        return max((self.root / "backup" / kind).iterdir())

    def by_superuser(self, program: str, *words: str) -> str:
        """What one of PostgreSQL's programs prints for a superuser."""
        command = [self.server.bindir / program, "-h", self.server.host, "-p", str(self.server.port), "-U", "postgres", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def comparable(text: str) -> list[str]:
    """Dumps have a random word of their own."""
    return [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


@pytest.fixture(scope="module")
def host(mine: Server) -> Iterator[Host]:
    """A server that was backed up by its superuser until now, with what is hard to dump for anybody else."""
    root = Path("/var/tmp") / f"bulwark-role-{os.getpid()}-{mine.major}"
    root.mkdir()
    root.chmod(0o755)
    (root / "backup").mkdir()
    account = servers.server_account()
    if os.geteuid() == 0:
        os.chown(root / "backup", account.pw_uid, account.pw_gid)
    variables = {
        "ansible_become_method": "ansible.builtin.su",
        "ansible_become_flags": "-s /bin/sh",
        "pg_hba_rules": RULES,
        "pg_hba_ident": IDENT,
        "pg_backup_directory": str(root / "backup"),
        "pg_backup_encryption": False,
        "pg_backup_jobs": {"physical": {"cron": "1 1 * * *"}, "logical": {"cron": "1 2 * * *"}},
        "pg_backup_same_host_waiver": "a test",
        "pg_backup_packages": [],
        "pg_backup_cron_file": "",
        "pg_backup_os_user": account.pw_name,
        "pg_backup_become": os.geteuid() == 0,
        "pg_backup_config_directory": str(root / "config"),
        "pg_backup_program_directory": str(root / "program"),
        "pg_backup_starter": str(root / "starter"),
        "pg_backup_drill_directory": str(root / "drill" / "scratch"),
    }
    (root / "drill").mkdir()
    if os.geteuid() == 0:
        os.chown(root / "drill", account.pw_uid, account.pw_gid)
    execute(
        mine,
        "CREATE ROLE owner PASSWORD 'secret'", "CREATE DATABASE shop OWNER owner", "REVOKE ALL ON DATABASE shop, postgres, template1 FROM PUBLIC",
        "CREATE SCHEMA bulwark_backup",
        "CREATE TABLE bulwark_backup.canary (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL)",
    )  # fmt: skip
    execute(
        mine,
        "CREATE SCHEMA closed AUTHORIZATION owner", "SET ROLE owner", "CREATE TABLE closed.t (id serial, tenant int)",
        "INSERT INTO closed.t (tenant) SELECT n % 7 FROM generate_series(1, 1000) n",
        "ALTER TABLE closed.t ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "SELECT lo_from_bytea(4711, 'large')", "RESET ROLE",
        db="shop",
    )  # fmt: skip
    made = Host(mine, root, variables)
    try:
        yield made
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def hardened(host: Host) -> Host:
    """The server after the roles; connections are logged."""
    before = query(host.server, "SELECT rolname FROM pg_roles ORDER BY 1")
    host.play("--check", "--diff", parts=2)
    assert query(host.server, "SELECT rolname FROM pg_roles ORDER BY 1") == before
    host.play("--diff")
    execute(host.server, "ALTER SYSTEM SET log_connections = 'on'")
    host.server.restart()
    return host


def test_a_second_run_changes_nothing(hardened: Host) -> None:
    assert "changed=0 " in hardened.play()


def test_the_role_is_no_superuser_and_changes_nothing(hardened: Host) -> None:
    row = query(
        hardened.server,
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolpassword IS NULL,"
        " ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = a.oid ORDER BY 1)"
        f" FROM pg_authid a WHERE rolname = '{ROLE}'",
    )[0]
    assert row == (False, False, False, True, True, True, True, ["pg_read_all_data", "pg_read_all_stats"])
    for statement in ("UPDATE closed.t SET tenant = 1", "CREATE TABLE public.x ()" if hardened.server.major > 14 else "DROP TABLE closed.t", "CREATE ROLE x"):
        done = subprocess.run(
            [hardened.server.bindir / "psql", "-X", "-h", hardened.server.host, "-p", str(hardened.server.port), "-U", ROLE, "-d", "shop", "-c", statement],
            capture_output=True, text=True, check=False, **as_account(hardened.server),
        )  # fmt: skip
        assert re.search("permission denied|must be owner", done.stderr), done.stderr


def as_account(server: Server) -> dict[str, Any]:
    return servers._as_server_account(server.bindir)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another account than that of the server")
def test_no_other_account_gets_in(hardened: Host) -> None:
    refused = hardened.server.psql("SELECT 1", user=ROLE, check=False)
    assert f'Peer authentication failed for user "{ROLE}"' in refused


def test_its_backups_are_what_a_superuser_would_have_made(hardened: Host) -> None:
    for words in (("check-login",), ("canary",), ("run", "physical"), ("run", "logical")):
        hardened.call(*words)
    expected = {"globals.sql.zst": ("pg_dumpall", "--globals-only"), "database1.dump.zst": ("pg_dump", "shop")}
    manifest = json.loads((hardened.newest("logical") / "manifest.json").read_text())
    assert [each["source"] for each in manifest["files"]] == ["roles and tablespaces", "postgres", "shop"]
    for name, words in expected.items():
        path = hardened.newest("logical") / name
        plain = subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True).stdout
        if words[0] == "pg_dump":
            plain = subprocess.run([hardened.server.bindir / "pg_restore", "-f", "-"], input=plain, capture_output=True, check=True).stdout
        assert comparable(plain.decode()) == comparable(hardened.by_superuser(*words))
    assert "SCRAM-SHA-256" in hardened.by_superuser("pg_dumpall", "--globals-only")
    status = json.loads(hardened.call("status", "--json").stdout)
    assert status["problems"] == []
    log = hardened.server.log.read_text()
    connected = set(re.findall(r"connection authorized: user=(\w+).* application_name=bulwark-backup", log))
    assert connected == {ROLE}
    assert re.search(rf"replication connection authorized: user={ROLE}", log)


def test_restores_and_drills_are_the_superusers(hardened: Host) -> None:
    hardened.call("restore-database", "shop", "--as", "shop_then")
    assert value(hardened.server, "SELECT count(*) FROM closed.t", db="shop_then") == 1000
    execute(hardened.server, "DROP DATABASE shop_then")
    for _row in range(2):
        hardened.call("canary")
        name = value(hardened.server, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        execute(hardened.server, "SELECT pg_switch_wal()")
        limit = time.monotonic() + 30
        while not value(hardened.server, f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver"):
            assert time.monotonic() < limit
            time.sleep(0.1)
    for kind in ("physical", "logical"):
        printed = hardened.call("drill", kind).stdout
        assert "WRONG" not in printed
    assert "right      recovery target" in hardened.call("drill", "physical").stdout


def test_what_a_superuser_alone_can_dump_is_reported(hardened: Host) -> None:
    execute(
        hardened.server,
        "CREATE SUBSCRIPTION there CONNECTION 'host=nowhere' PUBLICATION p WITH (connect = false, slot_name = NONE)",
        "CREATE EXTENSION postgres_fdw", "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw",
        "CREATE USER MAPPING FOR owner SERVER far OPTIONS (password 'secret')",
        db="shop",
    )  # fmt: skip
    time.sleep(1)
    hardened.call("run", "logical")
    wanted = "lacks 1 subscriptions, the options of 1 user mappings, which only a superuser can dump"
    assert any(wanted in problem for problem in json.loads(hardened.call("status", "--json", status=1).stdout)["problems"])
    execute(hardened.server, "DROP SUBSCRIPTION there", "DROP EXTENSION postgres_fdw CASCADE", db="shop")
    time.sleep(1)
    hardened.call("run", "logical")
    hardened.call("status")


def test_a_new_database_that_is_closed_fails_the_dump_until_the_next_run(hardened: Host) -> None:
    execute(hardened.server, "CREATE DATABASE tomorrow", "REVOKE ALL ON DATABASE tomorrow FROM PUBLIC")
    time.sleep(1)
    assert 'permission denied for database "tomorrow"' in hardened.call("run", "logical", status=1).stderr

    def act(*, check: bool) -> module.Result:
        return module.run(hardened.server, "pg_backup_access", role=ROLE, check=check, diff=True)

    done = module.foretold(act, lambda: query(hardened.server, "SELECT datname, datacl::text FROM pg_database ORDER BY 1"), "plan", "sql")
    assert done["sql"] == [f'GRANT CONNECT ON DATABASE "tomorrow" TO "{ROLE}"']
    hardened.call("run", "logical")


def test_a_changed_role_is_made_what_it_was(hardened: Host) -> None:
    execute(hardened.server, f"ALTER ROLE {ROLE} SUPERUSER", f"GRANT pg_signal_backend TO {ROLE}", "ALTER TABLE bulwark_backup.canary OWNER TO postgres")
    hardened.play(parts=1)
    assert value(hardened.server, f"SELECT rolsuper FROM pg_roles WHERE rolname = '{ROLE}'") is False
    assert value(hardened.server, f"SELECT pg_has_role('{ROLE}', 'pg_signal_backend', 'member')") is False
    hardened.call("canary")


def test_the_policy_for_access_leaves_it_alone(hardened: Host) -> None:
    policy = {"roles": {"reader": {}}, "databases": {"postgres": {}, "shop": {"schemas": {"closed": {"profiles": {"reader": "readonly"}}}}}}
    for mode in ("managed", "authoritative"):
        options = {"mode": mode, "allow_mass_revoke": True}
        assert ROLE not in module.apply(hardened.server, policy, diff=True, kept_roles=[ROLE], **options)["diff"]["prepared"]
        assert (f"{ROLE}: database" in module.plan(hardened.server, policy, **options)["diff"]["prepared"]) == (mode == "authoritative")
    assert module.run(hardened.server, "pg_backup_access", role=ROLE)["changed"] is False


def test_mistakes_are_said(hardened: Host) -> None:
    assert "pg_users_roles must not name it" in hardened.play(status=2, parts=1, pg_users_roles={ROLE: {}})
    own = [{"type": "local", "databases": "postgres", "roles": [ROLE], "options": {"map": "mine"}}, *RULES]
    output = hardened.play(status=2, pg_hba_rules=own, pg_hba_ident={**IDENT, "mine": [{"system_user": "nosuch", "role": ROLE}]})
    assert f"The server does not let the role {ROLE} in" in output
    assert f"local replication {ROLE} peer map={ROLE}" in output


def test_physical_backups_alone_need_less(hardened: Host) -> None:
    hardened.play(parts=1, pg_backup_jobs={"physical": {"cron": "1 1 * * *"}}, pg_backup_canary=False)
    row = query(
        hardened.server,
        "SELECT rolreplication, rolbypassrls, 'lo_compat_privileges=on' = ANY (rolconfig),"
        " ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = a.oid)"
        f" FROM pg_roles a WHERE rolname = '{ROLE}'",
    )
    assert row == [(True, False, False, ["pg_read_all_stats"])]


def test_without_the_role_the_superuser_makes_them_as_before(hardened: Host) -> None:
    hardened.play(parts=2, pg_backup_role="")
    assert json.loads((hardened.root / "config" / "main.json").read_text())["user"] == "postgres"
    rules = (hardened.server.data / "pg_hba.conf").read_text()
    assert ROLE not in rules
    time.sleep(1)
    for kind in ("physical", "logical"):
        hardened.call("run", kind)
