# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster from a physical backup and the archive, in a directory of its own: to the end, or to a time, a position or a restore point."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

from bulwark_backup.archive import segments
from bulwark_backup.backups import PHYSICAL, Backup, all_backups, folder, problems
from bulwark_backup.config import BackupError, Config
from bulwark_backup.storage import Pipeline, program, unpacking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LSN = re.compile(r"[0-9A-F]{1,8}/[0-9A-F]{1,8}")
# What a server that recovers must have at least as high as the one that wrote the WAL, by the names of pg_controldata.
_AT_LEAST = ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_xacts", "max_locks_per_xact")
_NAMES = {"max_prepared_xacts": "max_prepared_transactions", "max_locks_per_xact": "max_locks_per_transaction"}


@dataclass(frozen=True)
class Target:
    """Where recovery ends: one of them, or the end of the archive. time: with a time zone. lsn: such as 0/3000060. name: a restore point.

    known: the position of the restore point, where it is known.
    """

    time: datetime | None = None
    lsn: str | None = None
    name: str | None = None
    known: str | None = None

    def check(self) -> None:
        """Raise BackupError for what is no target."""
        if sum(each is not None for each in (self.time, self.lsn, self.name)) > 1:
            raise BackupError("name one target: a time, a position or a restore point")
        if self.time is not None and self.time.tzinfo is None:
            raise BackupError("the time needs its time zone, such as 2026-01-31T12:00:00+00:00")
        if self.lsn is not None and not _LSN.fullmatch(self.lsn):
            raise BackupError(f"{self.lsn} is no position in WAL, such as 0/3000060")

    def settings(self) -> dict[str, str]:
        """The settings by which PostgreSQL stops there."""
        if self.time is not None:
            return {"recovery_target_time": self.time.isoformat(sep=" ")}
        if self.lsn is not None:
            # Up to the position and not the record that begins there: what was committed before it is in, and nothing else.
            return {"recovery_target_lsn": self.lsn, "recovery_target_inclusive": "off"}
        return {"recovery_target_name": self.name} if self.name is not None else {}

    def words(self) -> str:
        """The target as messages name it."""
        if self.time is not None:
            return f"the time {self.time.isoformat(sep=' ')}"
        return f"the position {self.lsn}" if self.lsn else f"the restore point {self.name}" if self.name else "the end of the archive"


def chosen(backups: Sequence[Backup], target: Target, label: str | None) -> Backup:
    """The backup to begin with: the named one, or the newest that had ended before the target. Raises BackupError.

    Of a restore point that somebody else has made nobody knows the position: then the oldest one.
    """
    if label is not None:
        found = [backup for backup in backups if backup.label == label]
        if not found:
            raise BackupError(f"there is no physical backup {label}; there are {', '.join(backup.label for backup in backups) or 'none'}")
        return found[0]

    def before(backup: Backup) -> bool:
        if target.time is not None:
            return backup.began + timedelta(seconds=backup.seconds) <= target.time
        lsn = target.lsn or target.known
        return lsn is None or position(str(backup.facts["end"])) <= position(lsn)

    fit = [backup for backup in backups if before(backup)]
    if not fit:
        first = f"the oldest is of {backups[0].label}" if backups else "there is none"
        raise BackupError(f"no physical backup had ended before {target.words()}; {first}")
    return fit[0] if target.name and not target.known else fit[-1]


def position(lsn: str) -> int:
    """A position in WAL as a number."""
    high, _slash, low = lsn.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def outline(config: Config, target: Target, label: str | None) -> tuple[Backup, list[str]]:
    """The backup that would be taken, and in words what it is, where recovery ends, and what is lost by it. Raises BackupError."""
    target.check()
    backup = chosen(all_backups(config, PHYSICAL), target, label)
    newest = max((name for name, _path in segments(config) if len(name) == 24), default=None)
    lines = [f"backup {backup.label}, {backup.size >> 20} MiB, then WAL up to {target.words()}; the archive ends with {newest or 'nothing'}"]
    if target.name and not target.known and label is None:
        lines.append("where that restore point is, is not known: this is the oldest backup; a newer one by --label has less to recover")
    if target == Target():
        lines.append("lost: what the server has written and not archived")
    else:
        lines.append(f"lost: everything that was committed after {target.words()}")
    return backup, lines


def replace(config: Config, directory: str, target: Target, identity: str | None, label: str | None, fetch: str, say: Callable[[str], None]) -> str:
    """Restore in the place of a data directory whose server is stopped, which is kept beside it; its new path.

    Where the restore fails, it is in its place again. The restored server archives, on a timeline of its own. Raises BackupError.
    """
    shown = subprocess.run([config.program("pg_ctl"), "-D", directory, "status"], capture_output=True, text=True, check=False)
    if shown.returncode not in (3, 4):  # 3: no server runs; 4: no data directory
        raise BackupError(f"a server runs in {directory}: stop it first ({' '.join(shown.stdout.split()) or ' '.join(shown.stderr.split())})")
    outline(config, target, label)
    kept = f"{directory.rstrip('/')}.before-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    copied = _keep(directory, kept, say)
    try:
        restore(config, directory, target, identity, label, fetch, say, archiving=True)
    except BaseException:
        if copied:
            _empty(directory)
            shutil.copytree(kept, directory, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(kept)
        else:
            shutil.rmtree(directory, ignore_errors=True)
            os.rename(kept, directory)
        raise
    return kept


def _keep(directory: str, kept: str, say: Callable[[str], None]) -> bool:
    """Keep a directory under another name, by a copy where it is a mount point; whether it was copied, and is empty now. Raises BackupError."""
    try:
        os.rename(directory, kept)
        return False
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise BackupError(f"{directory} cannot be kept as {kept}: {error.strerror}; nothing was changed") from None
    size = sum(os.lstat(os.path.join(place, name)).st_size for place, _directories, names in os.walk(directory) for name in names)
    free = shutil.disk_usage(os.path.dirname(kept)).free
    if free < size:
        raise BackupError(
            f"{directory} is a file system of its own, and {os.path.dirname(kept)} has {free >> 20} MiB free for the {size >> 20} MiB that have to be kept:"
            " make room, or move the data away yourself and restore without --replace; nothing was changed"
        )
    say(f"copying {size >> 20} MiB to {kept}")
    try:
        shutil.copytree(directory, kept, symlinks=True)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(kept, ignore_errors=True)
        raise BackupError(f"{directory} cannot be copied to {kept}: {error}; nothing was changed") from None
    os.chmod(kept, 0o700)
    _empty(directory)
    return True


def _empty(directory: str) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def restore(
    config: Config,
    directory: str,
    target: Target,
    identity: str | None,
    label: str | None,
    fetch: str,
    say: Callable[[str], None],
    archiving: bool = False,
) -> Backup:
    """Make a data directory that recovers to the target when it is started. Returns the backup that was taken.

    directory: must be empty or not be there. fetch: the restore_command. archiving: whether the server archives afterwards, as its configuration
    says. Raises BackupError; the directory is then as far as it got.
    """
    if os.path.isdir(directory) and os.listdir(directory):
        what = "a data directory" if os.path.exists(os.path.join(directory, "PG_VERSION")) else "a directory"
        raise BackupError(f"{directory} is {what} that is not empty: restore to another one, and keep the old one until you are sure")
    backup, lines = outline(config, target, label)
    for line in lines:
        say(line)
    wrong = problems(config, backup)
    if wrong:
        raise BackupError("the backup is damaged, choose another one by --label: " + "; ".join(wrong))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    os.chmod(directory, 0o700)
    for file in backup.files:
        path = os.path.join(folder(config, PHYSICAL, backup.label), file.name)
        say(f"unpacking {path}")
        with open(path, "rb") as source, Pipeline([*unpacking(path, identity), [program("tar"), "-x", "-C", directory]], source) as pipeline:
            pipeline.finish()
    _verify(config, directory)
    _configure(config, directory, target, fetch, archiving)
    return backup


def _verify(config: Config, directory: str) -> None:
    """Compare every file with the manifest of pg_basebackup."""
    done = subprocess.run([config.program("pg_verifybackup"), "-n", "-q", directory], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackupError(f"pg_verifybackup: {' '.join(done.stderr.split())}")


def _configure(config: Config, directory: str, target: Target, fetch: str, archiving: bool) -> None:
    """Have the server recover when it starts, and keep it from archiving where the original does, unless it stands for it."""
    settings = recovery_settings(target, fetch)
    if archiving:
        del settings["archive_mode"]
    with open(os.path.join(directory, "postgresql.auto.conf"), "a", encoding="utf-8") as file:
        file.write("\n# Written by pg-bulwark-backup restore.\n" + lines_of(settings))
    main = os.path.join(directory, "postgresql.conf")
    if not os.path.exists(main) and not archiving:  # on Debian it is elsewhere
        with open(main, "w", encoding="utf-8") as file:
            file.write(lines_of(least_settings(config, directory)))
    rules = os.path.join(directory, "pg_hba.conf")
    if not os.path.exists(rules) and not archiving:
        with open(rules, "w", encoding="utf-8") as file:
            file.write("local all all peer\n")
    with open(os.path.join(directory, "recovery.signal"), "w", encoding="utf-8"):
        pass


def recovery_settings(target: Target, fetch: str) -> dict[str, str]:
    """The settings of a server that is to recover. fetch: the restore_command."""
    # Those of an earlier restore may be in the backup, and two targets are an error, even an empty one after another.
    names = ("recovery_target", "recovery_target_time", "recovery_target_lsn", "recovery_target_name", "recovery_target_xid")
    others = {name: "" for name in names if name not in target.settings()}
    settings = {"restore_command": fetch, "archive_mode": "off", "recovery_target_action": "promote", "recovery_target_timeline": "latest"}
    return {**settings, "recovery_target_inclusive": "on", **others, **target.settings()}


def least_settings(config: Config, directory: str) -> dict[str, str]:
    """What a server that recovers this directory must have at least as high as the one that wrote it."""
    environment = {**os.environ, "LC_ALL": "C"}
    shown = subprocess.run([config.program("pg_controldata"), directory], capture_output=True, text=True, check=True, env=environment).stdout
    return {_NAMES.get(name, name): number for name, number in re.findall(r"^(\w+) setting:\s+(\d+)$", shown, re.MULTILINE) if name in _AT_LEAST}


def lines_of(settings: Mapping[str, str]) -> str:
    """Settings as lines of postgresql.conf."""
    return "".join("{} = '{}'\n".format(name, text.replace("\\", "\\\\").replace("'", "''")) for name, text in settings.items())
