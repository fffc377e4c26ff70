# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the backups stand: for a person, for programs as JSON, for Prometheus as a text file, and the record of each run."""

from __future__ import annotations

import glob
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
        left_out = backups[-1].facts.get("left_out", {}) if backups else {}
        problems += [f"the dump of {name} in {backups[-1].label} lacks {what}, which only a superuser can dump" for name, what in left_out.items()]
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
        "drills": _drills(config, now, problems),
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
    data = {"job": job, "began": now.astimezone(timezone.utc).isoformat(timespec="seconds"), **outcome}
    write_record(path_of(config, job, now), data)


def path_of(config: Config, job: str, now: datetime) -> str:
    """The path of the record of a run."""
    return config.path("runs", f"{label_of(now)}-{job}.json")


def write_record(path: str, data: dict[str, Any]) -> None:
    """Write the record of a run, and a line of it to syslog."""
    make_directory(os.path.dirname(path))
    write_text(path, json.dumps(data, indent=1) + "\n")
    syslog.openlog("bulwark-backup", syslog.LOG_PID, syslog.LOG_LOCAL0)
    failed = data.get("error")
    syslog.syslog(syslog.LOG_ERR if failed else syslog.LOG_INFO, f"{data['job']}: {failed or data.get('message', 'done')}")


def add_checks(path: str, checks: list[dict[str, Any]]) -> dict[str, Any]:
    """Add what further checks have found to the record of a drill; the record. Raises BackupError."""
    data = _read_run(path)
    if "checks" not in data:
        raise BackupError(f"{path} is no record of a drill that went well")
    data["checks"] += checks
    data.pop("running", None)
    wrong = [f"{check['name']}: {check['text']}" for check in data["checks"] if check["ok"] is False]
    if wrong:
        data["error"] = "; ".join(wrong)
    write_record(path, data)
    return data


def _last_drill(config: Config, kind: str) -> dict[str, Any] | None:
    """The record of the last drill of a kind that went well, and is not still going on."""
    for path in sorted(glob.glob(os.path.join(glob.escape(config.path("runs")), f"*-drill-{kind}.json")), reverse=True):
        data = _read_run(path)
        if not data.get("error") and not data.get("running"):
            return data
    return None


def _drills(config: Config, now: datetime, problems: list[str]) -> dict[str, Any]:
    found = {}
    for kind in KINDS:
        last = _last_drill(config, kind)
        age = round((now - datetime.fromisoformat(last["began"])).total_seconds()) if last else None
        found[kind] = {"age": age, **({name: last[name] for name in ("began", "backup", "rto", "rpo")} if last else {})}
        if config.drill_days and kind in config.keep and (age is None or age > config.drill_days * 86400):
            when = f"the last good one was {age / 86400:.1f} days ago" if age is not None else "there was none"
            problems.append(f"no drill has restored the {kind} backups for {config.drill_days:g} days: {when}")
    return found


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
    drills = found["drills"]
    gauge("drill_age_seconds", "Since the last drill that went well.", {f'{{kind="{kind}"}}': each["age"] for kind, each in drills.items()})
    gauge("drill_restore_seconds", "How long the restore of that drill took (RTO).", {f'{{kind="{kind}"}}': each.get("rto") for kind, each in drills.items()})
    gauge("drill_loss_seconds", "Work that would have been lost at that drill (RPO).", {f'{{kind="{kind}"}}': each.get("rpo") for kind, each in drills.items()})
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
    for kind, each in found["drills"].items():
        if each["age"] is not None:
            when = f"{each['age'] / 86400:.1f} days ago in {each['rto']:.1f} s"
            lines.append(f"drill      {kind}: {each['backup']} was restored {when}; {each['rpo']:.0f} s of work would have been lost")
    lines += [f"PROBLEM    {problem}" for problem in found["problems"]]
    return "\n".join(lines)
