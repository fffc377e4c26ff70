# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Patroni with one member, from PyPI, over the servers' binaries of the tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements" / "patroni.txt"
USER, PASSWORD = "operator", "patroni's"  # of a Patroni that lives as long as its test


class NoPythonError(Exception):
    """There is no Python that the account of the servers can run."""


class Cluster:
    """A member. url: of its REST interface, which wants USER and PASSWORD for changes."""

    def __init__(self, major: int, directory: Path) -> None:
        self.major = major
        self.directory = directory
        self.port, self._rest, self._raft = (_free_port() for _each in range(3))
        self.url = f"http://127.0.0.1:{self._rest}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def login(self) -> dict[str, Any]:
        """The modules' login options that reach its server."""
        return {"login_unix_socket": str(self.directory), "login_port": self.port, "login_user": "postgres", "login_db": "postgres"}

    @property
    def interface(self) -> dict[str, Any]:
        """The options that reach its REST interface."""
        return {"patroni_url": self.url, "patroni_user": USER, "patroni_password": PASSWORD}

    def psql(self, sql: str) -> str:
        """What psql prints."""
        conninfo = f"host={self.directory} port={self.port} user=postgres dbname=postgres"
        command = [str(servers.binaries(self.major) / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", sql, conninfo]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def ask(self, path: str) -> Any:
        """What the REST interface answers; where it has no answer for the moment (5xx), it is asked again."""
        deadline = time.monotonic() + 15
        while True:
            try:
                with urllib.request.urlopen(self.url + path, timeout=5) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code < 500 or time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def _configuration(self) -> dict[str, Any]:
        account = {"username": "postgres", "password": PASSWORD}
        return {
            "scope": "tests",
            "name": "one",
            "restapi": {
                "listen": f"127.0.0.1:{self._rest}",
                "connect_address": f"127.0.0.1:{self._rest}",
                "authentication": {"username": USER, "password": PASSWORD},
            },
            "raft": {"data_dir": str(self.directory / "raft"), "self_addr": f"127.0.0.1:{self._raft}"},
            "bootstrap": {"dcs": {"loop_wait": 1, "retry_timeout": 10}, "initdb": [{"encoding": "UTF8"}]},
            "postgresql": {
                "listen": f"127.0.0.1:{self.port}",
                "connect_address": f"127.0.0.1:{self.port}",
                "data_dir": str(self.directory / "data"),
                "bin_dir": str(servers.binaries(self.major)),
                "pgpass": str(self.directory / "pgpass"),
                "authentication": {"superuser": account, "replication": {**account, "username": "replicator"}},
                "parameters": {"unix_socket_directories": str(self.directory)},
            },
        }

    def start(self) -> None:
        """Start Patroni, which makes the server, and wait until it leads."""
        configuration = self.directory / "patroni.yml"
        configuration.write_text(yaml.safe_dump(self._configuration()), encoding="utf-8")
        arguments = servers._as_server_account(servers.binaries(self.major))
        packages = _installed()
        arguments["env"]["PYTHONPATH"] = str(packages)
        with open(self.directory / "log", "wb") as log:
            self._process = subprocess.Popen(
                [_python(), "-m", "patroni", str(configuration)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, **arguments
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                if self.ask("/patroni").get("state") == "running" and self.ask("/patroni").get("role") in ("primary", "master"):
                    return
            time.sleep(0.2)
        raise servers.ServerError((self.directory / "log").read_text(encoding="utf-8")[-3000:])

    def stop(self) -> None:
        """Stop Patroni, and with it the server."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _python() -> str:
    """A Python that the account of the servers may run: as root, that is seldom the one of this environment."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        arguments = servers._as_server_account(servers.binaries(max(servers.versions())))
        arguments["env"].pop("LD_LIBRARY_PATH", None)
        with contextlib.suppress(OSError):
            if subprocess.run([candidate, "-c", "import ssl"], capture_output=True, check=False, **arguments).returncode == 0:
                return candidate
    raise NoPythonError("neither the Python of the tests nor /usr/bin/python3 can be run by the account of the servers")


def _installed() -> Path:
    """Patroni's packages, installed on first use beside the servers' binaries."""
    python = _python()
    version = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True, check=True).stdout.strip()
    pins = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    name = next(line.partition("==")[2] for line in pins if line.startswith("patroni"))
    home = servers._cache() / f"patroni-{name}-{version}"
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetch-") as scratch:
            os.chmod(scratch, 0o755)
            target = Path(scratch) / "packages"
            command = [sys.executable, "-m", "pip", "--python", python, "install", "-qq", "--disable-pip-version-check", "--target", str(target)]
            done = subprocess.run([*command, "-r", str(REQUIREMENTS)], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise servers.ServerError(f"pip could not install Patroni\n{done.stdout}{done.stderr}")
            with contextlib.suppress(OSError):  # another test run was quicker
                target.rename(home)
    return home


@contextlib.contextmanager
def running(major: int) -> Iterator[Cluster]:
    """A member for the length of a with statement."""
    directory = servers._directory(major)
    if os.geteuid() == 0:
        shutil.chown(directory, servers.server_account().pw_uid, servers.server_account().pw_gid)
    cluster = Cluster(major, directory)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)
