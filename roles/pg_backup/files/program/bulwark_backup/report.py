# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the backups stand: for a person, for programs as JSON, for Prometheus as a text file, and the record of each run."""

from __future__ import annotations

import json
import os
import shutil
import syslog
from datetime import datetime, timezone

from bulwark_backup.archive import segments
from bulwark_backup.backups import KINDS, all_backups, label_of
from bulwark_backup.config import BackupError, Config
from bulwark_backup.jobs import query
from bulwark_backup.storage import make_directory, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ARCHIVER = """SELECT archived_count, failed_count, COALESCE(last_archived_wal, ''), COALESCE(extract(epoch FROM now() - last_archived_time), -1),
 COALESCE(last_failed_time > last_archived_time OR last_archived_time IS NULL AND last_failed_time IS NOT NULL, false)::int,
 current_setting('archive_mode'), pg_is_in_recovery()::int FROM pg_stat_archiver"""


def status(config: Config, now: datetime) -> dict[str, Any]:
    """How everything stands. problems: what somebody should look at."""
    problems: list[str] = []
    kinds = {}
    for kind in KINDS:
        try:
            backups = all_backups(config, kind)
        except BackupError as error:
            problems.append(str(error))
            continue
        kinds[kind] = {
            "count": len(backups),
            "bytes": sum(backup.size for backup in backups),
            "newest": backups[-1].label if backups else None,
            "oldest": backups[0].label if backups else None,
            "age": round((now - backups[-1].began).total_seconds()) if backups else None,
            "seconds": backups[-1].seconds if backups else None,
        }
        if kind in config.keep and not backups:
            problems.append(f"there is no {kind} backup")
    ready = _ready(config)
    found: dict[str, Any] = {
        "directory": config.directory,
        "encrypted": bool(config.recipients),
        "kinds": kinds,
        "wal": {"files": sum(1 for _segment in segments(config)), "ready": len(ready), "oldest_ready_age": max(ready, default=0)},
        "free": shutil.disk_usage(config.directory).free,
        "pg_wal_free": shutil.disk_usage(config.data_directory).free if os.access(config.data_directory, os.X_OK) else None,
        "archiver": _archiver(config, problems),
        "last_runs": _last_runs(config),
        "problems": problems,
    }
    problems += [f"the last {job} run failed: {run['error']}" for job, run in found["last_runs"].items() if run.get("error")]
    return found


def _archiver(config: Config, problems: list[str]) -> dict[str, Any] | None:
    try:
        archived, failed, last, age, failing, mode, standby = query(config, _ARCHIVER)[0]
    except BackupError as error:
        problems.append(f"the server cannot be asked: {error}")
        return None
    if failing == "1":
        problems.append("the server cannot archive its WAL: look at its log for archive_command")
    if mode == "off" and standby == "0":
        problems.append("archive_mode is off: a restart of the server is needed")
    return {"archived": int(archived), "failed": int(failed), "last": last or None, "last_age": round(float(age)), "failing": failing == "1", "mode": mode}


def _ready(config: Config) -> list[int]:
    """The ages, in seconds, of the files of WAL that wait to be archived."""
    directory = os.path.join(config.data_directory, "pg_wal", "archive_status")
    now = datetime.now(timezone.utc).timestamp()
    try:
        return [max(0, round(now - entry.stat().st_mtime)) for entry in os.scandir(directory) if entry.name.endswith(".ready")]
    except OSError:  # of another account, or archived this very moment
        return []


def record(config: Config, job: str, now: datetime, outcome: dict[str, Any]) -> None:
    """Keep what a run did: a file, and a line in syslog."""
    make_directory(config.path("runs"))
    data = {"job": job, "began": now.astimezone(timezone.utc).isoformat(timespec="seconds"), **outcome}
    write_text(config.path("runs", f"{label_of(now)}-{job}.json"), json.dumps(data, indent=1) + "\n")
    syslog.openlog("bulwark-backup", syslog.LOG_PID, syslog.LOG_LOCAL0)
    failed = data.get("error")
    syslog.syslog(syslog.LOG_ERR if failed else syslog.LOG_INFO, f"{job}: {failed or data.get('message', 'done')}")


def _last_runs(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        names = sorted(os.listdir(config.path("runs")))
    except FileNotFoundError:
        return found
    for name in names:
        if name.endswith(".json"):
            found[name[: -len(".json")].partition("-")[2]] = name
    return {job: _read_run(config.path("runs", name)) for job, name in found.items()}


def _read_run(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError) as error:
        return {"error": f"{path} is damaged: {error}"}


def metrics(found: dict[str, Any], now: datetime) -> str:
    """The same for Prometheus' textfile collector."""
    lines = []

    def gauge(name: str, text: str, values: dict[str, Any]) -> None:
        shown = {labels: value for labels, value in values.items() if value is not None}
        if shown:
            lines.extend([f"# HELP bulwark_backup_{name} {text}", f"# TYPE bulwark_backup_{name} gauge"])
            lines.extend(f"bulwark_backup_{name}{labels} {value}" for labels, value in shown.items())

    kinds = found["kinds"]
    gauge("age_seconds", "Age of the newest backup.", {f'{{kind="{kind}"}}': each["age"] for kind, each in kinds.items()})
    gauge("count", "Backups that are there.", {f'{{kind="{kind}"}}': each["count"] for kind, each in kinds.items()})
    gauge("stored_bytes", "Bytes of the backups.", {f'{{kind="{kind}"}}': each["bytes"] for kind, each in kinds.items()})
    gauge("duration_seconds", "How long the newest backup took.", {f'{{kind="{kind}"}}': each["seconds"] for kind, each in kinds.items()})
    gauge("wal_ready_files", "Files of WAL that wait to be archived.", {"": found["wal"]["ready"]})
    gauge("wal_oldest_ready_seconds", "Age of the oldest of them.", {"": found["wal"]["oldest_ready_age"]})
    gauge("directory_free_bytes", "Free space where the backups are.", {"": found["free"]})
    gauge("pg_wal_free_bytes", "Free space where the server writes its WAL.", {"": found["pg_wal_free"]})
    gauge("problems", "Things that somebody should look at.", {"": len(found["problems"])})
    gauge("written_seconds", "When this was written.", {"": round(now.timestamp())})
    return "\n".join(lines) + "\n"


def people(found: dict[str, Any]) -> str:
    """The same for a person."""
    lines = [f"directory  {found['directory']} ({found['free'] >> 20} MiB free, {'encrypted' if found['encrypted'] else 'not encrypted'})"]
    for kind, each in found["kinds"].items():
        newest = f"newest {each['newest']} ({each['age'] / 3600:.1f} h ago, {each['seconds']:.0f} s)" if each["newest"] else "none"
        lines.append(f"{kind:<10} {each['count']} backups, {each['bytes'] >> 20} MiB, {newest}")
    wal = found["wal"]
    lines.append(f"WAL        {wal['files']} files, {wal['ready']} wait to be archived, the oldest for {wal['oldest_ready_age']} s")
    lines += [f"PROBLEM    {problem}" for problem in found["problems"]]
    return "\n".join(lines)
