# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drill: the newest backup is restored into a directory of its own, by an identity alone, started where nobody else gets at it, and
compared with what is known of the cluster. The live cluster is never touched.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from dataclasses import replace

from bulwark_backup import canary
from bulwark_backup.backups import LOGICAL, PHYSICAL, Backup, all_backups, folder, problems
from bulwark_backup.config import BackupError, Config
from bulwark_backup.databases import RESTORE_OPTIONS
from bulwark_backup.jobs import environment, query
from bulwark_backup.restore import Target, least_settings, lines_of, recovery_settings, restore
from bulwark_backup.storage import Pipeline, program, unpacking, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from typing import Any

_MARKER = "bulwark-drill.json"  # a directory with it is ours, and may be removed
# A server that nobody gets at, that sends and archives nothing, and runs nobody's background workers.
_ALONE = {
    "listen_addresses": "",
    "port": "5432",
    "ssl": "off",
    "archive_mode": "off",
    "shared_preload_libraries": "",
    "max_logical_replication_workers": "0",
    "autovacuum": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
}


class Drill:
    """One drill. scratch: the directory that everything is in. say: is told the progress."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self.scratch = os.path.realpath(config.scratch)
        self._data = os.path.join(self.scratch, "data")
        self._socket = os.path.join(self.scratch, "socket")
        self._log = os.path.join(self.scratch, "server.log")
        self.there = replace(config, host=self._socket, port=5432, user=config.administrator, data_directory=self._data)
        self.phases: dict[str, float] = {}
        self.checks: list[dict[str, Any]] = []

    # The directory

    def begin(self, needed: int, record: str) -> None:
        """Make the directory, and take away what a drill that was killed has left in it. needed: bytes. record: the path of the record of the
        run. Raises BackupError.
        """
        if os.geteuid() == 0:
            raise BackupError("PostgreSQL does not run as root: run the drill as the account of a server, such as by sudo -u postgres")
        for other, what in ((self._config.data_directory, "the data directory"), (self._config.directory, "the directory of the backups")):
            if other and _overlap(self.scratch, os.path.realpath(other)):
                raise BackupError(f"{self.scratch} and {what}, {other}, must not be in each other: a drill has a directory of its own")
        self.clean()
        if len(os.path.join(self._socket, ".s.PGSQL.5432")) > 100:
            raise BackupError(f"{self.scratch} is too long a path for a Unix socket: choose another one")
        os.makedirs(self.scratch, mode=0o700, exist_ok=True)
        os.chmod(self.scratch, 0o700)
        write_text(os.path.join(self.scratch, _MARKER), json.dumps({"record": record}))
        os.mkdir(self._socket, 0o700)
        free = shutil.disk_usage(self.scratch).free
        if free < needed * 1.2:
            raise BackupError(f"{self.scratch} has {free >> 20} MiB free, and the restored cluster needs {int(needed * 1.2) >> 20} MiB")

    def clean(self) -> None:
        """Stop the server of a drill, and remove its directory: only one that has the marker. Raises BackupError."""
        try:
            names = os.listdir(self.scratch)
        except FileNotFoundError:
            return
        if not names:
            return
        marker = os.path.join(self.scratch, _MARKER)
        if _MARKER not in names or not stat.S_ISREG(os.lstat(marker).st_mode) or os.lstat(marker).st_uid != os.geteuid():
            raise BackupError(f"{self.scratch} is not empty, and no drill has made it: choose another directory, or empty it yourself")
        limit = time.monotonic() + 30
        while names := [name for name in os.listdir(self.scratch) if name != _MARKER]:
            if os.path.exists(os.path.join(self._data, "postmaster.pid")):
                self._control("stop", "-m", "immediate", check=False)
            for name in names:
                path = os.path.join(self.scratch, name)
                try:
                    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
                except OSError:  # what a drill that was killed had started goes on for a moment
                    if time.monotonic() > limit:
                        raise
                    time.sleep(0.2)
        os.unlink(marker)  # last: what is left of a clean-up that is interrupted is still known as ours
        os.rmdir(self.scratch)

    # The server

    def _control(self, *words: str, check: bool = True) -> None:
        command = [self._config.program("pg_ctl"), "-D", self._data, "-w", "-t", "86400", "-s", "-l", self._log, *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, stdin=subprocess.DEVNULL)
        if check and done.returncode:
            raise BackupError(f"the restored server did not start: {self._last_words() or ' '.join(done.stderr.split())}")

    def _last_words(self) -> str:
        """The last errors in the log of the server."""
        try:
            with open(self._log, encoding="utf-8", errors="replace") as file:
                lines = [line.strip() for line in file]
        except OSError:
            return ""
        errors = [line for line in lines if re.search(r"\b(FATAL|PANIC|ERROR|pg-bulwark-backup)\b", line)]
        return "; ".join((errors or lines)[-3:])

    def _configure(self, settings: dict[str, str]) -> None:
        """Give the server our configuration and no other: that of the original could archive, listen, or run its jobs."""
        alone = {**_ALONE, "unix_socket_directories": self._socket, **({"event_triggers": "off"} if self._major() >= 17 else {})}
        for name, text in (
            ("postgresql.conf", lines_of({**least_settings(self._config, self._data), **alone})),
            ("postgresql.auto.conf", lines_of(settings)),
            ("pg_hba.conf", "local all all trust\n"),  # in a directory that only this account can enter
            ("pg_ident.conf", ""),
        ):
            path = os.path.join(self._data, name)
            if os.path.lexists(path):
                os.unlink(path)
            write_text(path, text)

    def _major(self) -> int:
        with open(os.path.join(self._data, "PG_VERSION"), encoding="utf-8") as file:
            return int(file.read())

    def _timed(self, name: str, begin: float) -> None:
        self.phases[name] = round(time.monotonic() - begin, 3)

    # A physical backup

    def physical(self, target: Target, identity: str | None, label: str | None, fetch: str) -> Backup:
        """Restore a physical backup and recover to the target."""
        begin = time.monotonic()
        backup = restore(self._config, self._data, target, identity, label, fetch, self._say)
        self._configure(recovery_settings(target, fetch))
        self._timed("restore", begin)
        begin = time.monotonic()
        self._control("start")
        while query(self.there, "SELECT pg_is_in_recovery()") == [["t"]]:
            self._say("recovered up to " + str(query(self.there, "SELECT pg_last_wal_replay_lsn()")[0][0]))
            time.sleep(0.2 if time.monotonic() - begin < 5 else 5)
        self._timed("recovery", begin)
        return backup

    # A logical backup

    def logical(self, backup: Backup, identity: str | None) -> None:
        """Restore a logical backup into a new cluster: hostile objects in it act as this account, and not in the live cluster."""
        wrong = problems(self._config, backup)
        if wrong:
            raise BackupError("the backup is damaged: " + "; ".join(wrong))
        begin = time.monotonic()
        superuser = str(backup.facts["superuser"])  # the same as there: memberships are granted by it
        command = [self._config.program("initdb"), "-D", self._data, "-U", superuser, "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
        if done.returncode:
            raise BackupError(f"initdb failed: {' '.join(done.stderr.split())}")
        self._configure({"fsync": "off"})
        self._control("start")
        self.there = replace(self.there, user=superuser)
        login = ["-h", self._socket, "-U", superuser, "-w"]
        for file in backup.files:
            path = os.path.join(folder(self._config, LOGICAL, backup.label), file.name)
            self._say(f"restoring {file.source}")
            if file.name.startswith("globals"):
                self._globals(path, identity, login)
                continue
            last = [self._config.program("pg_restore"), "--create", "--clean", "--if-exists", *RESTORE_OPTIONS, *login, "-d", "template1"]
            with open(path, "rb") as source, Pipeline([*unpacking(path, identity), last], source, environment()) as pipeline:
                pipeline.finish()
        self._timed("restore", begin)
        there = {name for (name,) in query(self.there, "SELECT datname FROM pg_database", "template1")}
        missing = sorted(set(backup.facts["entries"]) - there)
        self.check("databases", [f"database {name} is not there" for name in missing], f"{len(backup.facts['entries'])} databases")

    def _globals(self, path: str, identity: str | None, login: list[str]) -> None:
        """Make the roles, but the one that initdb has made."""
        with open(path, "rb") as source, Pipeline(unpacking(path, identity), source, environment()) as pipeline:
            text = pipeline.output.read()
            pipeline.finish()
        there = query(self.there, "SELECT format('CREATE ROLE %I;', current_user)", "template1")[0][0]
        text = text.replace(f"\n{there}\n".encode(), b"\n")
        command = [self._config.program("psql"), "-Xq", "-v", "ON_ERROR_STOP=1", *login, "-d", "template1", "-o", os.devnull]
        done = subprocess.run(command, input=text, capture_output=True, env=environment(), check=False)
        if done.returncode:
            raise BackupError(f"the roles cannot be made: {' '.join(done.stderr.decode(errors='replace').split())}")

    # What is looked at

    def check(self, name: str, wrong: list[str], text: str) -> None:
        """Note a check: what was wrong, or what was found right."""
        self.checks.append({"name": name, "ok": not wrong, "text": "; ".join(wrong) or text})
        self._say(f"{name}: {'; '.join(wrong) or text}")

    def check_identity(self) -> None:
        """That it is the cluster whose backups these are."""
        found = query(self.there, "SELECT system_identifier::text FROM pg_control_system()")[0][0]
        wrong = [] if found == self._config.system_identifier else [f"it is the cluster {found}"]
        self.check("cluster", wrong, f"system identifier {found}")

    def check_row(self, row: canary.Row, exact: bool) -> None:
        """That recovery ended where it was to end, and that who may do what is as it was."""
        last = f"row {row.id} of {row.at} is there" + (", and none after it" if exact else "")
        self.check("recovery target", canary.problems(self.there, row, exact), last)
        if exact and row.restore_point and row.catalog:
            found = canary.catalog(self.there)
            self.check("catalog", canary.differences(row.catalog, found), f"{canary.counts(found)}, and all rights, as they were")

    def check_pages(self) -> None:
        """Every table and B-tree index, by pg_amcheck."""
        amcheck = self._config.program("pg_amcheck")
        database = "template1"
        if not os.path.exists(amcheck) or not query(self.there, "SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'", database):
            self.checks.append({"name": "amcheck", "ok": None, "text": "pg_amcheck or the extension amcheck is not installed here (package contrib)"})
            return
        begin = time.monotonic()
        command = [amcheck, "--all", "--install-missing", "--heapallindexed", "-j", "2", "-h", self._socket, "-U", self.there.user, "-w"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, stdin=subprocess.DEVNULL)
        self._timed("amcheck", begin)
        self.check("amcheck", [" ".join((done.stdout + done.stderr).split())[:2000]] if done.returncode else [], "every table and index of every database")


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath([one, other]) in (one, other)


def chosen(config: Config, backup: Backup, wanted: str) -> tuple[Target, canary.Row | None, bool]:
    """Where the recovery of a drill ends, the row that has to be there, and whether as the last one. wanted: best, row or end."""
    rows = canary.archived(config, str(backup.facts["end"]))
    if not rows:
        return Target(), None, False
    if wanted == "end":
        return Target(), rows[-1], False
    if wanted == "best":
        for row in reversed(rows):
            if row.restore_point:
                return Target(name=row.restore_point, known=row.lsn), row, True
    return Target(lsn=rows[-1].lsn), rows[-1], True


def lost(config: Config, backup: Backup, now: datetime) -> float:
    """Seconds of work that would be lost if the server were gone now: since the last row that is archived."""
    rows = canary.archived(config, "0/0")
    return (now - (rows[-1].time if rows else backup.began)).total_seconds()


def versions(config: Config, backup: Backup) -> dict[str, str]:
    """What was made and restored with what."""
    commands = {"postgres": [config.program("postgres"), "--version"], "zstd": [program("zstd"), "--version"]}
    if config.recipients or any(file.name.endswith(".age") for file in backup.files):
        commands["age"] = [program("age"), "--version"]
    return {
        "server": backup.server_version,
        **{name: _first_line(subprocess.run(command, capture_output=True, text=True, check=False).stdout) for name, command in commands.items()},
    }


def _first_line(text: str) -> str:
    found = re.search(r"v?\d[\w.]*", text)
    return found[0] if found else text.strip()


def newest(config: Config, kind: str, label: str | None) -> Backup:
    """The backup of a drill. Raises BackupError."""
    backups = [backup for backup in all_backups(config, kind) if label in (None, backup.label)]
    if not backups:
        raise BackupError(f"there is no {kind} backup" + (f" {label}" if label else ""))
    return backups[-1]


def rows_of(evidence: dict[str, Any]) -> Iterator[str]:
    """Evidence for a person."""
    yield f"backup     {evidence['backup']}, of {evidence['server']}"
    if evidence.get("target"):
        yield f"target     {evidence['target']}"
    for check in evidence["checks"]:
        word = {True: "right", False: "WRONG", None: "not done"}[check["ok"]]
        yield f"{word:<10} {check['name']}: {check['text']}"
    yield f"restored   in {evidence['rto']:.1f} s (RTO); {evidence['rpo']:.0f} s of work would be lost now (RPO)"


def run(
    config: Config,
    kind: str,
    now: datetime,
    identity: str | None,
    label: str | None,
    wanted: str,
    fetch: str,
    say: Callable[[str], None],
    record: str,
    keep: bool,
) -> dict[str, Any]:
    """Do a drill, and return the evidence. keep: leave the server of a drill that went well running. To be called under the lock.

    Raises BackupError where the restore fails; a check that finds something wrong is in the evidence.
    """
    drill = Drill(config, say)
    backup = newest(config, kind, label)
    drill.begin(int(backup.facts.get("bytes", backup.size)), record)
    try:
        evidence: dict[str, Any] = {"backup": backup.label, "server": backup.server_version, "target": None, "row": None}
        if kind == PHYSICAL:
            target, row, exact = chosen(config, backup, wanted)
            evidence["target"] = target.words()
            evidence["row"] = {"id": row.id, "at": row.at} if row else None
            drill.physical(target, identity, backup.label, fetch)
            drill.check_identity()
            if row:
                drill.check_row(row, exact)
            else:
                drill.checks.append({"name": "recovery target", "ok": None, "text": "no row of the canary, and the next one, was archived after this backup"})
        else:
            drill.logical(backup, identity)
        rto = sum(drill.phases.values())
        rpo = lost(config, backup, now) if kind == PHYSICAL else (now - backup.began).total_seconds()
        drill.check_pages()
        evidence.update(rto=round(rto, 3), rpo=round(rpo, 1), phases=drill.phases, checks=drill.checks, versions=versions(config, backup))
        if keep:
            evidence["running"] = {"host": drill.there.host, "port": drill.there.port, "user": drill.there.user}
    except BaseException:
        drill.clean()
        raise
    if not keep:
        drill.clean()
    return evidence


def wrong(evidence: dict[str, Any]) -> list[str]:
    """What its checks found."""
    return [f"{check['name']}: {check['text']}" for check in evidence["checks"] if check["ok"] is False]


def stop(config: Config, say: Callable[[str], None]) -> str | None:
    """Stop the server that a drill has left running, and remove its directory; the path of its record, None where there is none."""
    drill = Drill(config, say)
    try:
        with open(os.path.join(drill.scratch, _MARKER), encoding="utf-8") as file:
            record = str(json.load(file)["record"])
    except (OSError, ValueError, KeyError):
        record = None
    drill.clean()
    return record
