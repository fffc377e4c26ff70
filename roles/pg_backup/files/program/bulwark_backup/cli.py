# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of pg-bulwark-backup."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys

from bulwark_backup.config import BackupError, Config, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

# What the archiver runs for each file of WAL imports nothing that it does not need.

_PROGRAM = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MISSING, _BROKEN = 1, 200  # restore_command: PostgreSQL goes on after the first, and stops after what is above 125


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="pg-bulwark-backup", description="Backups of a PostgreSQL cluster, and the archive of its WAL.")
    parser.add_argument("--config", default="/etc/bulwark-backup/main.json", help="the configuration of the cluster (%(default)s)")
    parser.add_argument("--directory", dest="backups", help="instead of a configuration, on another host: the directory of the backups")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verb = verbs.add_parser("archive", help="archive_command: archive %%p %%f")
    verb.add_argument("path")
    verb.add_argument("name")
    verb = verbs.add_parser("fetch", help="restore_command: fetch %%f %%p")
    verb.add_argument("name")
    verb.add_argument("path")
    verb.add_argument("--identity", help="the file of an age identity")
    verb = verbs.add_parser("run", help="make a backup, verify it, and let old ones go")
    verb.add_argument("kind", choices=["physical", "logical"])
    verb = verbs.add_parser("expire", help="let go what nothing keeps")
    verb.add_argument("--dry-run", action="store_true", help="only say what would go")
    for name, text in (("list", "the backups"), ("status", "how the backups and the archive stand")):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--json", action="store_true")
    verbs.add_parser("check-login", help="log in to the server as the backups do")
    verbs.add_parser("verify", help="compare every stored file with its checksum")
    verb = verbs.add_parser("restore", help="make a data directory from a backup and the archive, which recovers when it is started")
    verb.add_argument("directory", help="empty, or not there yet; with --replace, the data directory of a server that is stopped")
    verb.add_argument("--replace", action="store_true", help="keep what is in the directory beside it, and put the restored cluster in its place")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be taken, and what would be lost")
    verb.add_argument("--identity", help="the file of an age identity")
    verb.add_argument("--label", help="the backup to begin with; by default the newest that fits")
    verb.add_argument("--time", metavar="ISO8601", help="recover up to a time, with its time zone")
    verb.add_argument("--lsn", help="recover up to a position")
    verb.add_argument("--name", help="recover up to a restore point")
    verb = verbs.add_parser("restore-database", help="restore one database from a logical backup, into a new one beside it")
    verb.add_argument("name", help="the database")
    verb.add_argument("--as", dest="target", help="the name of the new database; by default that of the database and the backup")
    verb.add_argument("--table", action="append", default=[], metavar="SCHEMA.TABLE", help="only the rows of this table; may be given again")
    verb.add_argument("--identity", help="the file of an age identity")
    verb.add_argument("--label", help="the backup; by default the newest that has the database")
    verbs.add_parser("canary", help="write a row by which a drill knows how far a restore got, and each hour a restore point")
    verb = verbs.add_parser("drill", help="restore the newest backup where nobody else gets at it, and compare it with what is known")
    verb.add_argument("kind", choices=["physical", "logical", "stop"], help="stop: the server that --keep has left")
    verb.add_argument("--identity", help="the file of an age identity")
    verb.add_argument("--label", help="another backup than the newest")
    verb.add_argument("--scratch", help="the directory to restore into, instead of that of the configuration; it is removed afterwards")
    verb.add_argument(
        "--target",
        choices=["best", "row", "end"],
        default="best",
        help="where a physical one ends: at the newest restore point whose following WAL is archived, at the newest such row, or at the end of the archive",
    )
    verb.add_argument("--keep", action="store_true", help="leave the restored server running, for further checks")
    verb.add_argument("--check", action="append", default=[], metavar="JSON", help="with stop: what a further check has found (name, ok, text)")
    verb.add_argument("--json", action="store_true")
    verbs.add_parser("check-dump", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> int:
    """Do what the words say; the exit status."""
    options = _arguments(words)
    signal.signal(signal.SIGTERM, _stopped)
    try:
        config = load(options.config) if options.backups is None else _stranger(os.path.abspath(options.backups))
        return _VERBS[options.verb](config, options)
    except BackupError as error:
        print(f"pg-bulwark-backup {options.verb}: {error}", file=sys.stderr)
        return _BROKEN if options.verb == "fetch" else 1
    except OSError as error:
        print(f"pg-bulwark-backup {options.verb}: {error}", file=sys.stderr)
        return _BROKEN if options.verb == "fetch" else 1
    except KeyboardInterrupt:
        return 1


def _stopped(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _archive(config: Config, options: argparse.Namespace) -> int:
    from bulwark_backup.archive import archive

    archive(config, options.path, options.name)
    return 0


def _fetch(config: Config, options: argparse.Namespace) -> int:
    from bulwark_backup.archive import fetch

    return 0 if fetch(config, options.name, options.path, options.identity) else _MISSING


def _now() -> datetime:
    """The time; BULWARK_BACKUP_NOW (ISO 8601) stands for it in tests."""
    from datetime import datetime, timezone

    given = os.environ.get("BULWARK_BACKUP_NOW")
    return datetime.fromisoformat(given) if given else datetime.now(timezone.utc)


def _run(config: Config, options: argparse.Namespace) -> int:
    from bulwark_backup import jobs, report, retention
    from bulwark_backup.storage import locked

    now = _now()

    def say(text: str) -> None:
        if sys.stdout.isatty():
            print(text, flush=True)

    def myself(verb: str) -> list[str]:
        return [sys.executable, "-I", _PROGRAM, "--config", options.config, verb]

    try:
        with locked(config):
            backup = jobs.run(config, options.kind, _now, say, myself)
            gone = retention.plan(config, now)
            retention.apply(config, gone)
    except (BackupError, OSError) as error:
        report.record(config, options.kind, now, {"error": str(error)})
        _write_metrics(config)
        raise
    message = f"{backup.label}, {backup.size >> 20} MiB in {backup.seconds:.0f} s; {len(gone.backups)} backups and {len(gone.wal)} files of WAL went"
    report.record(config, options.kind, now, {"label": backup.label, "bytes": backup.size, "seconds": backup.seconds, "message": message})
    _write_metrics(config)
    print(f"{options.kind}: {message}")
    return 0


def _write_metrics(config: Config) -> None:
    from bulwark_backup import report
    from bulwark_backup.storage import write_text

    if config.metrics_file:
        now = _now()
        write_text(config.metrics_file, report.metrics(report.status(config, now), now), 0o644)


def _expire(config: Config, options: argparse.Namespace) -> int:
    from bulwark_backup import retention
    from bulwark_backup.storage import locked

    with locked(config):
        gone = retention.plan(config, _now())
        for backup in gone.backups:
            print(f"{backup.kind} backup {backup.label}, {backup.size >> 20} MiB")
        print(f"{len(gone.wal)} files of WAL")
        if not options.dry_run:
            retention.apply(config, gone)
    return 0


def _list(config: Config, options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from bulwark_backup.backups import KINDS, all_backups

    found = [backup for kind in KINDS for backup in all_backups(config, kind)]
    if options.json:
        print(json.dumps([asdict(backup) for backup in found], indent=1))
        return 0
    for backup in found:
        print(f"{backup.label}  {backup.kind:<8}  {backup.size >> 20:>8} MiB  {backup.seconds:>7.0f} s  PostgreSQL {backup.server_version}")
    return 0


def _status(config: Config, options: argparse.Namespace) -> int:
    import json

    from bulwark_backup import report

    found = report.status(config, _now())
    print(json.dumps(found, indent=1) if options.json else report.people(found))
    return 1 if found["problems"] else 0


def _verify(config: Config, _options: argparse.Namespace) -> int:
    from bulwark_backup import verification
    from bulwark_backup.storage import locked

    with locked(config):
        found = verification.problems(config)
    for problem in found:
        print(problem)
    print(f"{len(found)} problems")
    return 1 if found else 0


def _stranger(directory: str) -> Config:
    from bulwark_backup.backups import newest_manifest
    from bulwark_backup.config import of_directory

    return of_directory(directory, newest_manifest(directory))


def _restore_command(options: argparse.Namespace) -> tuple[str | None, str]:
    """The path of the identity, and the restore_command."""
    identity = os.path.abspath(options.identity) if options.identity else None
    whose = ["--directory", os.path.abspath(options.backups)] if options.backups else ["--config", os.path.abspath(options.config)]
    command = [sys.executable, "-I", _PROGRAM, *whose, "fetch", "%f", "%p"]
    fetch = " ".join(word if word in ("%f", "%p") else shlex.quote(word).replace("%", "%%") for word in command)
    return identity, fetch + (f" --identity {shlex.quote(identity).replace('%', '%%')}" if identity else "")


def _restore(config: Config, options: argparse.Namespace) -> int:
    from datetime import datetime

    from bulwark_backup import canary
    from bulwark_backup.restore import Target, outline, recovery_settings, replace, restore

    try:
        at = datetime.fromisoformat(options.time) if options.time else None
    except ValueError:
        raise BackupError(f"{options.time} is no time, such as 2026-01-31T12:00:00+00:00") from None
    identity, fetch = _restore_command(options)
    directory = os.path.abspath(options.directory)
    target = Target(at, options.lsn, options.name, canary.position_of(config, options.name) if options.name else None)
    if options.dry_run:
        print("\n".join(outline(config, target, options.label)[1]))
        return 0
    if options.replace:
        kept = replace(config, directory, target, identity, options.label, fetch, print)
        print(f"{directory} is restored, and what was there is in {kept}. Start the server, and it recovers; standbys have to be made anew.")
        print("When it has recovered, take the settings of the recovery away, and restart it:")
        print(" ".join(f"ALTER SYSTEM RESET {name};" for name in recovery_settings(target, "") if name != "archive_mode"))
        return 0
    backup = restore(config, directory, target, identity, options.label, fetch, print)
    print(f"{directory} is restored from {backup.label}; archive_mode is off in it. Start it, and it recovers:")
    print(f"  {shlex.quote(config.program('pg_ctl'))} -D {shlex.quote(directory)} start")
    return 0


def _restore_database(config: Config, options: argparse.Namespace) -> int:
    from bulwark_backup.databases import restore

    identity, _fetch_command = _restore_command(options)
    backup, target = restore(config, options.name, options.target, options.table, identity, options.label, print)
    print(f"{options.name} as of {backup.began:%Y-%m-%d %H:%M:%S} UTC is in the database {target}")
    return 0


def _canary(config: Config, _options: argparse.Namespace) -> int:
    from bulwark_backup import canary

    canary.add(config, _now())
    return 0


def _drill(config: Config, options: argparse.Namespace) -> int:
    import json
    from dataclasses import replace

    from bulwark_backup import drill, report
    from bulwark_backup.storage import locked

    config = replace(config, scratch=os.path.abspath(options.scratch)) if options.scratch else config

    def say(text: str) -> None:
        if sys.stdout.isatty():
            print(text, flush=True)

    if options.kind == "stop":
        record = drill.stop(config, say)
        if record is None:
            print("there is no drill to stop")
            return 0
        evidence = report.add_checks(record, [json.loads(text) for text in options.check])
        _write_metrics(config)
        _print_drill(evidence, options.json)
        return 1 if evidence.get("error") else 0
    now, job = _now(), f"drill-{options.kind}"
    record = report.path_of(config, job, now)
    identity, fetch = _restore_command(options)
    try:
        with locked(config):
            evidence = drill.run(config, options.kind, now, identity, options.label, options.target, fetch, say, record, options.keep)
    except (BackupError, OSError, KeyboardInterrupt) as error:
        report.record(config, job, now, {"error": str(error) or "stopped"})
        _write_metrics(config)
        raise
    wrong = drill.wrong(evidence)
    report.record(config, job, now, {**evidence, **({"error": "; ".join(wrong)} if wrong else {"message": f"{evidence['backup']} is restored as it was"})})
    _write_metrics(config)
    _print_drill(evidence, options.json)
    if wrong:
        raise BackupError("what was restored is not as it was: " + "; ".join(wrong))
    return 0


def _print_drill(evidence: dict[str, object], as_json: bool) -> None:
    import json

    from bulwark_backup.drill import rows_of

    lines = list(rows_of(evidence))
    print(json.dumps({**evidence, "lines": lines}, indent=1) if as_json else "\n".join(lines))


def _check_dump(config: Config, _options: argparse.Namespace) -> int:
    from bulwark_backup.jobs import check_dump

    count = check_dump(config, sys.stdin.buffer, sys.stdout.buffer)
    print(f"entries: {count}", file=sys.stderr)
    return 0


def _check_login(config: Config, _options: argparse.Namespace) -> int:
    from bulwark_backup.jobs import check_login

    check_login(config)
    return 0


_VERBS = {
    "archive": _archive,
    "fetch": _fetch,
    "run": _run,
    "expire": _expire,
    "list": _list,
    "status": _status,
    "verify": _verify,
    "restore": _restore,
    "restore-database": _restore_database,
    "canary": _canary,
    "drill": _drill,
    "check-dump": _check_dump,
    "check-login": _check_login,
}
