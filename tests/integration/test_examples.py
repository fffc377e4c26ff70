# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""examples/ is run as its readers would: an encrypted vault, both hosts, check mode, then twice. The hosts are pointed at a test server."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
SELF_HOSTED = "db1.example.org"
MANAGED = "billing.db.example.net"


class Repository:
    """A copy of examples/ with what its readers add: the vault, the certificate and where the servers are."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.directory = directory
        self.passwords = self._vault_variables()
        shutil.copytree(ROOT / "examples", directory, dirs_exist_ok=True)
        (directory / "files").mkdir()
        shutil.copy(server.ca_cert, directory / "files" / "ca.crt")
        self._write("password-of-the-vault", secrets.token_hex(16))
        self._write("inventory/group_vars/postgresql/vault.yml", yaml.safe_dump(self.passwords))
        self.run("ansible-vault", "encrypt", "inventory/group_vars/postgresql/vault.yml")
        self._write("test-servers.yml", yaml.safe_dump({"all": {"hosts": self._hosts(server)}}))

    @staticmethod
    def _vault_variables() -> dict[str, str]:
        text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "examples" / "inventory").rglob("*.yml"))
        return {name: secrets.token_urlsafe(18) for name in sorted(set(re.findall(r"\{\{ (vault_\w+) \}\}", text)))}

    @staticmethod
    def _hosts(server: Server) -> dict[str, dict[str, object]]:
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "bulwark_login_port": server.port}
        return {
            SELF_HOSTED: {**local, "bulwark_become": False, "bulwark_login_unix_socket": server.host, "bulwark_login_user": "postgres"},
            MANAGED: {**local, "bulwark_login_host": "127.0.0.1"},
        }

    def _write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def run(self, program: str, *arguments: str) -> str:
        """What a program of Ansible prints, run in the repository."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PG"))}
        environment = {
            **inherited,
            "ANSIBLE_HOME": str(ROOT / ".work" / "ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".work" / "collections"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(self.directory / "password-of-the-vault"),
            "ANSIBLE_NOCOLOR": "1",
            "LC_ALL": "C.UTF-8",
        }
        done = subprocess.run(
            [str(BIN / program), *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def site(self, *options: str) -> str:
        """The output of site.yml; one host at a time, since both stand for the same server here."""
        return self.run("ansible-playbook", "-i", "inventory", "-i", "test-servers.yml", "site.yml", "--forks", "1", *options)


@pytest.fixture
def repository(cluster: Server, tmp_path: Path) -> Iterator[Repository]:
    """The repository of a test, and a fresh server whose superuser has the vault's password."""
    made = Repository(tmp_path, cluster)
    cluster.psql(f"ALTER ROLE postgres PASSWORD '{made.passwords['vault_postgres_password']}'")
    yield made
    # Its settings would stay for the tests that follow.
    (cluster.data / "conf.d" / "bulwark.conf").unlink(missing_ok=True)
    cluster.restart()


def changed(output: str) -> dict[str, int]:
    """The number of changed tasks of each host, from the recap."""
    return {host: int(count) for host, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)}


def log_in(server: Server, user: str, password: str, database: str) -> str:
    """The role that a connection with a password over TLS is made as."""
    connection = psycopg2.connect(
        host="127.0.0.1", port=server.port, user=user, password=password, dbname=database, sslmode="verify-full", sslrootcert=server.ca_cert
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user")
            return str((cursor.fetchone() or ("nobody",))[0])
    finally:
        connection.close()


@pytest.mark.oldest_and_newest
def test_examples(cluster: Server, repository: Repository) -> None:
    """Check mode changes nothing, the first run makes everything, the second nothing more, and no password is shown."""
    assert changed(repository.site("--check")) == {SELF_HOSTED: 2, MANAGED: 2}
    assert cluster.psql("SELECT count(*) FROM pg_roles WHERE rolname ~ '^(shop|billing)_'") == "0"

    first = repository.site("-vvv")
    assert changed(first) == {SELF_HOSTED: 2, MANAGED: 1}, "both are one server here, and the first host makes its settings"
    assert cluster.psql("SHOW log_disconnections") == "on"
    assert [name for name, password in repository.passwords.items() if password in first] == []
    assert "SCRAM-SHA-256$" not in first

    _try_the_logins(cluster, repository.passwords)
    _try_a_migration(cluster)
    second = repository.site()
    assert changed(second) == {SELF_HOSTED: 0, MANAGED: 0}, second


def _try_the_logins(cluster: Server, passwords: dict[str, str]) -> None:
    for role, database in (("shop_app", "shop"), ("monitoring", "postgres"), ("monitoring", "shop"), ("auditor", "billing")):
        assert log_in(cluster, role, passwords[f"vault_{role}_password"], database) == role
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        log_in(cluster, "shop_app", passwords["vault_shop_app_password"], "billing")


def _try_a_migration(cluster: Server) -> None:
    """A table that a migration makes after the run is for the application to write and for the others to read, and no more."""
    cluster.psql("CREATE TABLE billing.invoices (id bigserial, amount numeric)", db="billing", user="billing_migration")
    cluster.psql("INSERT INTO billing.invoices (amount) VALUES (1); UPDATE billing.invoices SET amount = 2", db="billing", user="billing_app")
    assert cluster.psql("SELECT amount FROM billing.invoices", db="billing", user="auditor") == "2"
    refused = (
        ("billing_app", "TRUNCATE billing.invoices"),
        ("billing_app", "CREATE TABLE billing.planted (id int)"),
        ("billing_app", "CREATE TABLE public.planted (id int)"),
        ("auditor", "DELETE FROM billing.invoices"),
        ("auditor", "SELECT nextval('billing.invoices_id_seq')"),
    )
    for role, sql in refused:
        assert "permission denied" in cluster.psql(sql, db="billing", user=role, check=False), (role, sql)
