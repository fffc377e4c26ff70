# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes: backups that nothing keeps, and the WAL that no physical backup needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timedelta

from bulwark_backup.archive import segments
from bulwark_backup.backups import KINDS, PHYSICAL, Backup, all_backups, remove
from bulwark_backup.config import Config, Keep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Expiry:
    """What goes. wal: the paths of files of WAL."""

    backups: tuple[Backup, ...]
    wal: tuple[str, ...]


def expired(backups: Sequence[Backup], keep: Keep, now: datetime) -> list[Backup]:
    """Those that nothing keeps, the oldest first: not among the newest `count`, older than `days`, and more than `minimum` are left."""
    if not keep.count and not keep.days:
        return []
    newest = max(keep.count, keep.minimum, 1)
    old = backups[: max(0, len(backups) - newest)]
    return [backup for backup in old if not keep.days or backup.began < now - timedelta(days=keep.days)]


def first_needed(start: str, segment_size: int) -> str:
    """The log and segment number of a position, as the last 16 digits of a file of WAL have them."""
    high, _slash, low = start.partition("/")
    number = int(low, 16) // segment_size
    return f"{int(high, 16):08X}{number:08X}"


def needless_wal(config: Config, kept: Sequence[Backup]) -> list[str]:
    """The files of WAL from before every physical backup that is kept. Without one, everything is kept."""
    if not kept:
        return []
    limit = min(first_needed(str(backup.facts["start"]), int(backup.facts["segment_size"])) for backup in kept)
    return [path for name, path in segments(config) if not name.endswith(".history") and name[8:24] < limit]


def plan(config: Config, now: datetime) -> Expiry:
    """What goes now. Raises BackupError."""
    going: list[Backup] = []
    kept: list[Backup] = []
    for kind in KINDS:
        backups = all_backups(config, kind)
        old = expired(backups, config.keep.get(kind, Keep()), now)
        going += old
        if kind == PHYSICAL:
            kept = [backup for backup in backups if backup not in old]
    return Expiry(tuple(going), tuple(needless_wal(config, kept)))


def apply(config: Config, expiry: Expiry) -> None:
    """Remove it: backups before the WAL that they need."""
    for backup in expiry.backups:
        remove(config, backup)
    for path in expiry.wal:
        os.unlink(path)
