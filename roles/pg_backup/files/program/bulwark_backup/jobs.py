# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cron runs: a physical backup by pg_basebackup, a logical one by pg_dump, each verified before it counts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

from bulwark_backup.backups import PHYSICAL, Backup, Stored, all_backups, folder, label_of, problems, save, sweep
from bulwark_backup.config import BackupError, Config
from bulwark_backup.storage import Pipeline, copy, make_directory, new_file, packing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import IO, Any

_START = re.compile(r"write-ahead log start point: ([0-9A-F]+/[0-9A-F]+) on timeline (\d+)")
_END = re.compile(r"write-ahead log end point: ([0-9A-F]+/[0-9A-F]+)")
_HEAD = 64 << 20  # bytes of a dump that pg_restore is shown, for the table of contents


def environment() -> dict[str, str]:
    """For PostgreSQL's programs: English messages, which are read, and no connection options of somebody's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "30", "PGAPPNAME": "bulwark-backup"}


def login(config: Config) -> list[str]:
    """The connection options of PostgreSQL's programs."""
    return ["-h", config.host, "-p", str(config.port), "-U", config.user, "-w"]


def query(config: Config, statement: str, database: str = "postgres") -> list[list[str]]:
    """The rows of a statement, as text. Raises BackupError."""
    command = [config.program("psql"), "-XqAt", "-F", "\x1f", "-R", "\x1e", "-v", "ON_ERROR_STOP=1", *login(config), "-d", conninfo(database), "-c", statement]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise BackupError(f"psql failed: {' '.join(done.stderr.split())}")
    text = done.stdout[:-1] if done.stdout.endswith("\n") else done.stdout
    return [row.split("\x1f") for row in text.split("\x1e")] if text else []


# What pg_dump gives to superusers alone.
_LEFT_OUT = """SELECT (SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()),
 (SELECT count(*) FROM pg_user_mapping WHERE umoptions IS NOT NULL) FROM pg_roles WHERE rolname = current_user AND NOT rolsuper"""


def check_server(config: Config) -> str:
    """The version of the server, if it is the one whose backups are here. Raises BackupError."""
    statement = "SELECT system_identifier::text, current_setting('server_version') FROM pg_control_system()"
    identifier, version = query(config, statement)[0]
    if identifier != config.system_identifier:
        raise BackupError(f"the server on port {config.port} is the cluster {identifier}, and {config.directory} is of the cluster {config.system_identifier}")
    return version


def run(config: Config, kind: str, clock: Callable[[], datetime], say: Callable[[str], None], myself: Callable[[str], list[str]]) -> Backup:
    """Make a backup, verified. To be called under the lock. say: is told the progress.

    myself: the command of this program with a verb. Raises BackupError; nothing half-made stays.
    """
    version = check_server(config)
    before = all_backups(config, kind)
    label = label_of(clock())
    if before and before[-1].label == label:  # of a job that has just ended
        time.sleep(1)
        label = label_of(clock())
    if before and before[-1].label >= label:
        raise BackupError(f"the clock says {label}, and the newest {kind} backup is of {before[-1].label}: the clock has gone back")
    _check_space(config, before)
    sweep(config, kind)
    directory = folder(config, kind, label)
    make_directory(directory)
    begin = time.monotonic()
    try:
        files, facts = _physical(config, directory, say) if kind == PHYSICAL else _logical(config, directory, say, myself)
        backup = Backup(kind, label, round(time.monotonic() - begin, 3), version, config.system_identifier, tuple(files), facts)
        wrong = problems(config, backup)
        if wrong:
            raise BackupError("the backup was written and cannot be read back: " + "; ".join(wrong))
        save(config, backup)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return backup


def _check_space(config: Config, before: Sequence[Backup]) -> None:
    needed = int(before[-1].size * 1.1) if before else 0
    free = shutil.disk_usage(config.directory).free
    if free < needed:
        raise BackupError(f"{config.directory} has {free >> 20} MiB free, and the last backup took {before[-1].size >> 20} MiB: make room, or keep fewer")


def _store(config: Config, directory: str, name: str, source: str, commands: list[list[str]], say: Callable[[str], None]) -> tuple[Stored, str]:
    """Store what commands print; the file and what they wrote to standard error."""
    path = os.path.join(directory, name + config.suffix)
    say(f"{source}: {os.path.basename(path)}")
    with new_file(path) as file, Pipeline([*commands, *packing(config)], subprocess.DEVNULL, environment()) as pipeline:
        size, digest = copy(pipeline.output, file)
        said = pipeline.finish()
    return Stored(os.path.basename(path), size, digest, source), said


def _physical(config: Config, directory: str, say: Callable[[str], None]) -> tuple[list[Stored], Mapping[str, Any]]:
    spaces = query(config, "SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_'")
    if spaces:
        names = ", ".join(name for (name,) in spaces)
        raise BackupError(f"the cluster has tablespaces ({names}), which this program cannot back up: move their tables, or use another one")
    options = ["-D", "-", "-F", "tar", "-X", "fetch", "-c", "fast", "--manifest-checksums=SHA256", "-v", "-l", "bulwark-backup"]
    stored, said = _store(config, directory, "base.tar", "cluster", [[config.program("pg_basebackup"), *options, *login(config)]], say)
    start, end = _START.search(said), _END.search(said)
    if start is None or end is None:
        raise BackupError("pg_basebackup did not say where its WAL begins and ends")
    size = int(query(config, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")[0][0])
    unpacked, mode = query(config, "SELECT sum(pg_database_size(oid)), current_setting('archive_mode') FROM pg_database")[0]
    facts = {"start": start[1], "timeline": int(start[2]), "end": end[1], "segment_size": size, "bytes": int(unpacked)}
    return [stored], {**facts, "archiving": mode != "off"}


def _logical(config: Config, directory: str, say: Callable[[str], None], myself: Callable[[str], list[str]]) -> tuple[list[Stored], Mapping[str, Any]]:
    there = [name for (name,) in query(config, "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1")]
    missing = sorted(set(config.databases) - set(there))
    if missing:
        raise BackupError(f"there is no database {', '.join(missing)}")
    files, counts, incomplete = [], {}, {}
    globals_of = [config.program("pg_dumpall"), "--globals-only", *login(config)]
    files.append(_store(config, directory, "globals.sql", "roles and tablespaces", [globals_of], say)[0])
    for number, name in enumerate(config.databases or there):
        dump = [config.program("pg_dump"), "-F", "custom", "-Z", "0", *login(config), "-d", conninfo(name)]
        stored, said = _store(config, directory, f"database{number}.dump", name, [dump, myself("check-dump")], say)
        files.append(stored)
        counts[name] = int(said.rpartition("entries: ")[2])
        if left_out := _left_out(config, name):
            incomplete[name] = left_out
    superuser = query(config, "SELECT rolname FROM pg_roles WHERE oid = 10")[0][0]
    return files, {"entries": counts, "superuser": superuser, "left_out": incomplete}


def _left_out(config: Config, name: str) -> str:
    """What the dump of a database does not have because it was not made by a superuser, in words."""
    found = query(config, _LEFT_OUT, name)
    subscriptions, mappings = map(int, found[0]) if found else (0, 0)
    parts = [f"{subscriptions} subscriptions"] if subscriptions else []
    return ", ".join([*parts, *([f"the options of {mappings} user mappings"] if mappings else [])])


def check_login(config: Config) -> None:
    """Log in as the backups do, to a database and, where there are physical ones, for replication. Raises BackupError."""
    check_server(config)
    if "physical" in config.keep:
        command = [config.program("psql"), "-XqAt", *login(config), "-d", "replication=true", "-c", "IDENTIFY_SYSTEM"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise BackupError(f"psql failed: {' '.join(done.stderr.split())}")


def conninfo(name: str) -> str:
    """A database's name as PostgreSQL's programs take it: a name with = in it would be read as a connection string."""
    quoted = name.replace("\\", "\\\\").replace("'", "\\'")
    return f"dbname='{quoted}'"


def check_dump(config: Config, source: IO[bytes], target: IO[bytes]) -> int:
    """Pass a dump on, and have pg_restore list its beginning; how many objects it lists. Raises BackupError."""
    head = bytearray()
    while chunk := source.read(1 << 20):
        target.write(chunk)
        if len(head) < _HEAD:
            head += chunk
    target.flush()
    listed = subprocess.run([config.program("pg_restore"), "--list"], input=bytes(head), capture_output=True, env=environment(), check=False)
    if listed.returncode:
        raise BackupError(f"pg_restore cannot list the dump: {' '.join(listed.stderr.decode(errors='replace').split())}")
    return sum(1 for line in listed.stdout.splitlines() if line and not line.startswith(b";"))
