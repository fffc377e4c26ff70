# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be verified without a key: that every stored file is what was stored, and that no WAL is missing."""

from __future__ import annotations

from bulwark_backup import backups
from bulwark_backup.archive import segments
from bulwark_backup.config import BackupError, Config
from bulwark_backup.retention import first_needed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def problems(config: Config) -> list[str]:
    """What is wrong, each with its place."""
    found: list[str] = []
    physical: list[backups.Backup] = []
    for kind in backups.KINDS:
        try:
            there = backups.all_backups(config, kind)
        except BackupError as error:
            found.append(str(error))
            continue
        for backup in there:
            found += backups.problems(config, backup)
        if kind == backups.PHYSICAL:
            physical = there
    return [*found, *_gaps(config, physical)]


def _gaps(config: Config, physical: list[backups.Backup]) -> Iterator[str]:
    """Files of WAL that are missing between the first that a physical backup needs and the last one of its timeline.

    What was made while nothing was archived has the WAL that it needs, and is restored up to its own end.
    """
    physical = [backup for backup in physical if backup.facts.get("archiving", True)]
    if not physical:
        return
    size = int(physical[0].facts["segment_size"])
    start = min(first_needed(str(backup.facts["start"]), size) for backup in physical)
    by_timeline: dict[str, set[int]] = {}
    seen: dict[str, str] = {}
    for name, path in segments(config):
        if name in seen:
            yield f"{path}: {name} is there twice, with another content in {seen[name]}"
        seen[name] = path
        if len(name) == 24 and name[8:] >= start:
            by_timeline.setdefault(name[:8], set()).add(_number(name[8:], size))
    for timeline, numbers in sorted(by_timeline.items()):
        first = _number(start, size) if timeline == min(by_timeline) else min(numbers)
        for number in range(first, max(numbers) + 1):
            if number not in numbers:
                yield f"{config.path('wal')}: {timeline}{_text(number, size)} is missing"


def _number(text: str, size: int) -> int:
    return int(text[:8], 16) * ((1 << 32) // size) + int(text[8:], 16)


def _text(number: int, size: int) -> str:
    each = (1 << 32) // size
    return f"{number // each:08X}{number % each:08X}"
