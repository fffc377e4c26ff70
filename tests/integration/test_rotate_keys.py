# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook rotate_keys: however often it is killed, no application is ever without a key that it needs, and the next run goes on."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import field_encryption as fe
from tests.integration import module
from tests.integration.sql import execute, query, session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.newest  # the columns themselves are rotated on every major by test_encrypted_columns.py

ROWS = 2000
TABLE = "app.profiles"
APPLICATIONS = ("app1", "app2")


class Site:
    """Two applications, a server, and the controller, in a directory."""

    def __init__(self, server: Server, directory: Path) -> None:
        self.server, self.directory = server, directory
        self.source = directory / "source.json"
        self.inventory: dict[str, Any] = {
            "applications": {"hosts": {name: {"pg_encryption_keyrings": self.keyring(path=str(self.path(name)))} for name in APPLICATIONS}},
            "postgresql": {
                "hosts": {"db": {}},
                "vars": {
                    "bulwark_login_unix_socket": server.login["login_unix_socket"],
                    "bulwark_login_port": server.login["login_port"],
                    "bulwark_login_user": server.login["login_user"],
                    "pg_encryption_keyrings": self.keyring(),
                    "pg_encryption_columns": {"shop": {TABLE: {"ssn": {"keyring": "pii", "format": "keyed"}}}},
                },
            },
        }
        common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "bulwark_become": False, "bulwark_application_become": False}
        self.variables = common

    def keyring(self, **more: Any) -> dict[str, Any]:
        return {"pii": {"source": str(self.source), **more}}

    def path(self, application: str) -> Path:
        return self.directory / f"{application}.json"

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """The playbook, in a process group of its own."""
        inventory = self.directory / "inventory.yml"
        inventory.write_text(yaml.safe_dump({"all": {"vars": self.variables, "children": self.inventory}}))
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), "bulwark.postgresql.rotate_keys", *flags]
        home = {"ANSIBLE_HOME": str(self.directory / "home"), "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp")}
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env={**module.environment(), **home},
            start_new_session=True,
        )

    def play(self, *flags: str) -> tuple[int, str, int]:
        """The exit code, the output, and how many tasks have changed something."""
        process = self.start(*flags)
        output, _errors = process.communicate(timeout=180)
        assert not any(key.secret in output for key in self.keys())
        return process.returncode, output, sum(map(int, re.findall(r"changed=(\d+)", output)))

    def keys(self) -> tuple[fe.Key, ...]:
        return fe.parse_keyring(self.source.read_text())

    def states(self) -> list[str]:
        return [key.state for key in self.keys()]

    def tokens(self) -> dict[int, str]:
        return dict(query(self.server, f"SELECT id, ssn FROM {TABLE}", db="shop"))


class Application(threading.Thread):
    """A process of an application that reads all rows again and again, and writes some, with the keys of its host."""

    def __init__(self, site: Site, name: str, writes: bool) -> None:
        super().__init__(daemon=True)
        self.site, self.writes = site, writes
        self.ring = fe.Keyring.from_file(site.path(name), keyed=True)
        self.stopped = threading.Event()
        self.failures: list[str] = []
        self.reads = 0
        self.known: dict[int, str] = {}

    def run(self) -> None:
        chosen = random.Random(3)
        with session(self.site.server, "shop") as connection, connection.cursor() as cursor:
            while not self.stopped.is_set():
                try:
                    cursor.execute(f"SELECT ssn FROM {TABLE}")
                    for (token,) in cursor.fetchall():
                        self.ring.decrypt(token)
                    self.reads += 1
                    if self.writes:
                        number, text = chosen.randint(1, ROWS), f"written {chosen.random()}"
                        cursor.execute(f"UPDATE {TABLE} SET ssn = %s WHERE id = %s", (self.ring.encrypt(text), number))
                        self.known[number] = text
                except Exception as error:  # whatever an application would fail with
                    self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(0.02)


@contextlib.contextmanager
def applications(site: Site) -> Iterator[list[Application]]:
    running = [Application(site, name, writes=number == 0) for number, name in enumerate(APPLICATIONS)]
    for each in running:
        each.start()
    try:
        yield running
    finally:
        for each in running:
            each.stopped.set()
            each.join()


@pytest.fixture
def site(cluster: Server, tmp_path: Path) -> Site:
    """Everything as harden.yml leaves it: encrypted with the one key that there is."""
    made = Site(cluster, tmp_path)
    key = fe.Key.from_secret(fe.Key.generate().secret or "", created=None)
    made.source.write_text(fe.dump_keyring([key]))
    for path in (made.source, *map(made.path, APPLICATIONS)):
        path.write_text(made.source.read_text())
        path.chmod(0o600)
    execute(cluster, "CREATE DATABASE shop")
    execute(
        cluster,
        "CREATE SCHEMA app",
        f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, ssn text)",
        f"INSERT INTO {TABLE} SELECT n, 'plain ' || n FROM generate_series(1, {ROWS}) n",
        db="shop",
    )
    encrypted = module.run(
        cluster,
        "pg_encrypted_columns",
        columns=made.inventory["postgresql"]["vars"]["pg_encryption_columns"],
        keyring_files={"pii": str(made.source)},
    )
    assert not encrypted.get("failed"), encrypted["msg"]
    return made


def test_a_rotation_that_is_killed_again_and_again_leaves_no_reader_without_a_key(site: Site) -> None:
    (old,) = site.keys()
    chosen, young = random.Random(5), "bulwark_rotate_key_days=1"
    with applications(site) as running:
        for _kill in range(3):
            process = site.start("-e", young)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=chosen.uniform(2, 7))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        code, output, _changed = site.play("-e", young)
    assert code == 0, output
    assert [each.failures for each in running] == [[], []]
    assert min(each.reads for each in running) > 10
    assert site.states() == ["retired", "primary"], "one rotation, however often it was begun"
    assert site.keys()[0].id == old.id
    assert all(site.path(name).read_text() == site.source.read_text() for name in APPLICATIONS)
    fernet = fe.Keyring([site.keys()[1]])
    known = {number: f"plain {number}" for number in range(1, ROWS + 1)} | running[0].known
    assert running[0].known
    assert {number: fernet.decrypt(token) for number, token in site.tokens().items()} == known
    code, output, changed = site.play("-e", young)
    assert (code, changed) == (0, 0), output


def test_a_check_changes_nothing(site: Site) -> None:
    before = (site.source.read_text(), site.tokens())
    code, output, changed = site.play("--check", "--diff")
    assert (code, changed) == (0, 1), output
    assert "(new key) staged" in output
    assert (site.source.read_text(), site.tokens()) == before


def test_a_host_that_does_not_get_the_key_ends_the_rotation_before_it_is_used(site: Site) -> None:
    unreachable = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    missing = {"pg_encryption_keyrings": site.keyring(path=str(site.directory / "missing" / "pii.json"))}
    before = site.tokens()
    for wrong in ({**missing, **unreachable}, missing):
        site.inventory["applications"]["hosts"]["app3"] = wrong
        code, output, _changed = site.play()
        assert code != 0, output
        assert site.states() == ["primary", "staged"], output
        assert site.tokens() == before
    del site.inventory["applications"]["hosts"]["app3"]
    code, output, _changed = site.play()
    assert (code, site.states()) == (0, ["retired", "primary"]), output


def test_a_key_that_somebody_goes_on_writing_with_is_not_retired(site: Site) -> None:
    old = fe.Keyring(site.keys(), keyed=True)
    stopped = threading.Event()

    def write() -> None:
        with session(site.server, "shop") as connection, connection.cursor() as cursor:
            while not stopped.is_set():
                cursor.execute(f"UPDATE {TABLE} SET ssn = %s WHERE id = 1", (old.encrypt("of an old process"),))
                time.sleep(0.005)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    try:
        code, output, _changed = site.play()
    finally:
        stopped.set()
        writer.join()
    assert code != 0
    said = " ".join(output.split())
    assert "is still the key of rows that app.profiles.ssn has" in said or "somebody goes on writing such values" in said, output
    assert site.states() == ["secondary", "primary"]
    code, output, _changed = site.play("-e", "bulwark_rotate_retire=false")
    assert (code, site.states()) == (0, ["secondary", "primary"]), output
    code, output, _changed = site.play()
    assert (code, site.states()) == (0, ["retired", "primary"]), output


def test_what_would_leave_somebody_without_the_key_is_refused(site: Site) -> None:
    before = site.source.read_text()
    code, output, _changed = site.play("--limit", "app1,localhost")
    assert code != 0
    assert "run it without --limit" in output
    site.source.write_text(before)
    for flags, text in (
        (("-e", "bulwark_application_hosts=nowhere"), "no host is in nowhere"),
        (("-e", '{"bulwark_rotate_keyrings": ["pip"]}'), "no keyring pip of pg_encryption_keyrings has a source"),
    ):
        code, output, _changed = site.play(*flags)
        assert code != 0
        assert text in " ".join(output.split()), output
        assert site.source.read_text() == before
    for name in APPLICATIONS:
        site.inventory["applications"]["hosts"][name] = {}
    code, output, _changed = site.play()
    assert code != 0
    assert f"has the keyring {site.source}" in " ".join(output.split()), output
    assert site.source.read_text() == before
