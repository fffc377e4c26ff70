# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a server's files are, how it is run, and what may be done to it: asked of the server and of its own process, never guessed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .parameters import split_setting

if TYPE_CHECKING:
    from .database import Database

_UNIT = re.compile(r"[^/]+\.service")
_DEBIAN_CONFIG = re.compile(r"/etc/postgresql/([^/]+)/([^/]+)/[^/]+")
# How long a server may take, in seconds, from its first instruction, which its pid file holds, to the moment that it calls its start.
_START = 120.0
_LIBRARY = re.compile(r"(.+)\.(?:so|dylib|dll)")

_SETTINGS = """
SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (
 'data_directory', 'config_file', 'hba_file', 'ident_file', 'port', 'unix_socket_directories', 'listen_addresses',
 'shared_preload_libraries', 'session_preload_libraries', 'external_pid_file')
"""

# The process that serves this session, and when its server was started, in seconds.
_SESSION = "SELECT pg_catalog.pg_backend_pid(), extract(epoch FROM pg_catalog.pg_postmaster_start_time())::float8"

_PENDING = "SELECT name FROM pg_catalog.pg_settings WHERE pending_restart ORDER BY name"

# What a provider's own superuser is called: whoever is a member of it administers a managed service, without being a superuser.
_PROVIDER_ROLES = ("rds_superuser", "cloudsqlsuperuser", "azure_pg_admin", "alloydbsuperuser", "rdsadmin")

_MAY_LIST = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_dir(text)', 'EXECUTE')"
_MAY_ASK_BUILD = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_config', 'SELECT')"
_LIBRARIES = """
SELECT file FROM pg_catalog.pg_config c, pg_catalog.pg_ls_dir(c.setting) file WHERE c.name = 'PKGLIBDIR' ORDER BY file
"""
_BIN_DIRECTORY = "SELECT setting FROM pg_catalog.pg_config WHERE name = 'BINDIR'"
# What must be equal on all members of a cluster is given on the command line by Patroni, and by nobody else all of it.
_UNDER_PATRONI = """
SELECT count(*) = 4 FROM pg_catalog.pg_settings
WHERE source = 'command line' AND name IN ('cluster_name', 'max_connections', 'max_prepared_transactions', 'wal_level')
"""


@dataclass(frozen=True)
class Service:
    """Who keeps the server running. manager: systemd, pg_ctlcluster, pg_ctl, container or patroni.

    unit: systemd's name of the service. restart: the command that restarts the server, empty where no command here can.
    restart_user: the operating-system user whom the command needs, None where whoever asks may run it.
    """

    manager: str
    unit: str | None = None
    restart: tuple[str, ...] = ()
    restart_user: str | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """A running server. Paths are None where the role may not see them.

    local: the process that serves this session is on this host, a child of the server whose files these are, and the configuration file
    can be
    read. bin_directory: where the running server's own
    program is. managed: a provider runs it, so that there are no files and no superuser.
    """

    version: int
    in_recovery: bool
    role: str
    superuser: bool
    system_identifier: str
    data_directory: str | None
    config_file: str | None
    hba_file: str | None
    ident_file: str | None
    port: int
    socket_directories: tuple[str, ...]
    listen_addresses: tuple[str, ...]
    postmaster_pid: int | None
    bin_directory: str | None
    local: bool
    service: Service | None
    patroni: bool
    managed: bool
    pending_restart: tuple[str, ...]
    libraries_loaded: tuple[str, ...]
    libraries_available: tuple[str, ...]

    @property
    def major(self) -> int:
        """The major version, for example 18."""
        return self.version // 10000


def read_facts(database: Database) -> ClusterFacts:
    """Ask the server, and, where it runs on this host, its process. Writes nothing; works on a standby and with a role without rights."""
    settings = dict(database.query(_SETTINGS))
    role, superuser = database.query("SELECT current_user, (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)")[0]
    data_directory = settings.get("data_directory")
    config_file = settings.get("config_file")
    backend, started = database.query(_SESSION)[0]
    pid = _postmaster(data_directory, settings.get("external_pid_file"), backend, started)
    executable = _executable(pid)
    provider = bool(
        database.value("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ANY(%(names)s))", {"names": list(_PROVIDER_ROLES)})
    )
    patroni = bool(database.value(_UNDER_PATRONI))
    bin_directory = os.path.dirname(executable) if executable else _asked(database, _MAY_ASK_BUILD, _BIN_DIRECTORY)
    return ClusterFacts(
        version=database.server_version,
        in_recovery=database.in_recovery(),
        role=role,
        superuser=bool(superuser),
        system_identifier=database.value("SELECT system_identifier::text FROM pg_catalog.pg_control_system()"),
        data_directory=data_directory,
        config_file=config_file,
        hba_file=settings.get("hba_file"),
        ident_file=settings.get("ident_file"),
        port=int(settings["port"]),
        socket_directories=_elements("unix_socket_directories", settings),
        listen_addresses=tuple(part.strip() for part in settings.get("listen_addresses", "").split(",") if part.strip()),
        postmaster_pid=pid,
        bin_directory=bin_directory,
        local=pid is not None and config_file is not None and os.access(config_file, os.R_OK),
        service=_service(pid, bin_directory, data_directory, config_file, patroni),
        patroni=patroni,
        managed=provider and not superuser,
        pending_restart=tuple(name for (name,) in database.query(_PENDING)),
        libraries_loaded=_elements("shared_preload_libraries", settings) + _elements("session_preload_libraries", settings),
        libraries_available=_libraries(database),
    )


def _elements(name: str, settings: dict[str, Any]) -> tuple[str, ...]:
    found = split_setting(name, settings.get(name) or "")
    return tuple(found) if isinstance(found, tuple) else ()


def _asked(database: Database, may: str, question: str) -> str | None:
    return str(database.value(question)) if database.value(may) else None


def _libraries(database: Database) -> tuple[str, ...]:
    """The libraries in the server's own folder, without their endings; none where the role may not list them."""
    if not (database.value(_MAY_LIST) and database.value(_MAY_ASK_BUILD)):
        return ()
    matches = (_LIBRARY.fullmatch(file) for (file,) in database.query(_LIBRARIES))
    return tuple(match[1] for match in matches if match)


# The server's process


def _postmaster(data_directory: str | None, external_pid_file: str | None, backend: int, started: float) -> int | None:
    """The process id of the server, if it runs on this host. Raises nothing: what may not be read is not known.

    Another server may report the same paths (a standby of this one, a container made of the same image). It is this one where the
    session's own
    process is its child, and where it was started when the session says so.
    """
    places = [f"{data_directory}/postmaster.pid" if data_directory else None, external_pid_file or None]
    for place in places:
        try:
            lines = Path(place).read_text(encoding="utf-8", errors="replace").splitlines() if place else []
            pid = int(lines[0])
            since = float(lines[2]) if len(lines) > 2 else started  # an external_pid_file has one line
        except (OSError, ValueError, IndexError):
            continue
        if abs(since - started) < _START and _is_server(pid) and _parent(backend) == pid:
            return pid
    return None


def _parent(pid: int) -> int | None:
    """The parent of a process; None where there is none of that number."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return int(after_name.split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _is_server(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip().startswith(("postgres", "postmaster"))
    except OSError:
        return False


def _executable(pid: int | None) -> str | None:
    """The program that the server's process runs, also after an update has replaced the file."""
    try:
        path = os.readlink(f"/proc/{pid}/exe") if pid else ""
    except OSError:
        return None
    return path.removesuffix(" (deleted)") if path else None


def _service(pid: int | None, bin_directory: str | None, data: str | None, config_file: str | None, patroni: bool) -> Service | None:
    """Who keeps the server of this host running; None for a server elsewhere."""
    if patroni:
        return Service("patroni")
    if pid is None:
        return None
    unit = _unit(pid)
    if unit is not None and shutil.which("systemctl"):
        return Service("systemd", unit, ("systemctl", "restart", unit), _other_than_us(0))
    if pid == 1 or _is_init(pid):
        return Service("container")
    account = _other_than_us(_owner(pid))
    debian = _DEBIAN_CONFIG.fullmatch(config_file or "")
    if debian and shutil.which("pg_ctlcluster"):
        return Service("pg_ctlcluster", None, ("pg_ctlcluster", debian[1], debian[2], "restart"), account)
    if bin_directory and data:
        command = (f"{bin_directory}/pg_ctl", "restart", "-D", data, "-s", "-w", "-t", "300", "-l", _log(pid, data))
        return Service("pg_ctl", None, command, account)
    return None


def _owner(pid: int) -> int:
    """The user id that the server runs as."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return os.geteuid()


def _other_than_us(uid: int) -> str | None:
    """The name of a user, None for the one who runs this."""
    if uid == os.geteuid():
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _log(pid: int, data: str) -> str:
    """Where a server that was started by hand writes what it has to say before its logging is set up.

    Without a file of its own it would keep the pipe of whoever restarts it, who would wait for its end.
    """
    try:
        path = os.readlink(f"/proc/{pid}/fd/2")
    except OSError:
        path = ""
    return path if os.path.isfile(path) else f"{data}/restart.log"


def _unit(pid: int) -> str | None:
    """The service of systemd that the process belongs to, with no other service's user session in between."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        parts = line.split(":", 2)[-1].split("/")
        last = parts[-1] if parts else ""
        # A server that somebody started by hand is in the scope of his session, or in the service of what he started it from.
        if _UNIT.fullmatch(last) and re.search(r"postgres|postmaster|patroni|pgsql", last):
            return last
    return None


def _is_init(pid: int) -> bool:
    """Whether the process is the first one of its container."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in status.splitlines())
