# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A year of backups, some of which fail: what was promised can be restored at every moment, and the directory does not grow.

The files are empty; their names and manifests are what retention goes by.
"""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bulwark_backup import backups, retention
from bulwark_backup.config import Config, Keep

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
SEGMENT = 16 << 20
SEGMENTS_A_DAY = 8


class Year:
    """A cluster that writes SEGMENTS_A_DAY segments a day, each archived, and the directory of its backups."""

    def __init__(self, directory: Path, keep: Keep) -> None:
        self.config = Config(str(directory), "", "1", keep={"physical": keep})
        self.keep = keep
        self.segments = 0
        self._wal = directory / "wal" / ("0" * 16)
        self._wal.mkdir(parents=True)

    def work(self) -> None:
        """A segment is archived."""
        name = f"00000001{0:08X}{self.segments:08X}"
        (self._wal / f"{name}-{'0' * 64}.zst").touch()
        self.segments += 1

    def back_up(self, now: datetime) -> None:
        """A backup of the position where the cluster is, and what goes by it."""
        label = backups.label_of(now)
        Path(backups.folder(self.config, "physical", label)).mkdir(parents=True)
        facts = {"start": f"0/{self.segments * SEGMENT:X}", "segment_size": SEGMENT}
        backups.save(self.config, backups.Backup("physical", label, 60, "18.0", "1", (), facts))
        retention.apply(self.config, retention.plan(self.config, now))

    @property
    def there(self) -> list[backups.Backup]:
        return backups.all_backups(self.config, "physical")

    @property
    def wal(self) -> list[int]:
        return sorted(int(path.name[16:24], 16) for path in self._wal.iterdir())


@pytest.mark.parametrize("keep", [Keep(count=7, days=14), Keep(count=3), Keep(days=30), Keep(count=2, days=5, minimum=4)], ids=str)
def test_a_year_of_backups_keeps_what_is_promised_and_not_more(tmp_path: Path, keep: Keep) -> None:
    """Each day a backup, of which one in ten fails; whole fortnights without any."""
    year, chosen = Year(tmp_path, keep), random.Random(str(keep))
    made: list[tuple[datetime, int]] = []
    for day in range(365):
        for _segment in range(SEGMENTS_A_DAY):
            year.work()
        now = START + timedelta(days=day, minutes=chosen.randrange(60))
        if chosen.random() < 0.1 or 100 <= day < 114:
            continue
        made.append((now, year.segments))
        year.back_up(now)
        there, wal = year.there, year.wal
        promised = {when for when, _segment in made[-max(keep.count, keep.minimum) :]}
        if keep.days:
            promised |= {when for when, _segment in made if when >= now - timedelta(days=keep.days)}
        assert {backup.label for backup in there} == {backups.label_of(when) for when in promised}
        first = min(segment for when, segment in made if when in promised)
        assert wal == [number for number in range(year.segments) if number >= first]
        assert len(there) <= max(keep.count, keep.minimum, keep.days + 1)
        assert len(wal) <= (max(keep.count, keep.minimum, keep.days) + 30) * SEGMENTS_A_DAY


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=30, unique=True),
    st.builds(Keep, st.integers(0, 10), st.floats(0, 60), st.integers(1, 5)),
    st.integers(0, 500),
)
def test_what_is_young_new_or_the_last_good_one_never_goes(days: list[int], keep: Keep, today: int) -> None:
    """For any backups, retention and time, a clock that has gone back included."""
    there = [backups.Backup("physical", backups.label_of(START + timedelta(days=day)), 1, "18.0", "1", ()) for day in sorted(days)]
    now = START + timedelta(days=today)
    gone = retention.expired(there, keep, now)
    kept = [backup for backup in there if backup not in gone]
    assert len(kept) >= min(len(there), keep.minimum)
    assert not keep.count or kept[-keep.count :] == there[-keep.count :]
    if keep.days:
        assert all(backup.began < now - timedelta(days=keep.days) for backup in gone)
    if not keep.count and not keep.days:
        assert gone == []


@pytest.mark.parametrize(
    ("start", "size", "name"), [("0/2000028", 16 << 20, "0000000000000002"), ("A/FF000000", 16 << 20, "0000000A000000FF"), ("1/0", 1 << 30, "0000000100000000")]
)
def test_the_first_segment_of_a_position(start: str, size: int, name: str) -> None:
    assert retention.first_needed(start, size) == name
