# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times without a limit of years that PostgreSQL has and Python's datetime has not. Pure.

A time is a text: microseconds since 1970-01-01 UTC as a decimal number, or one of WORDS.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

WORDS = ("infinity", "-infinity")

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_YEARS = 400  # after which the calendar repeats itself
_PERIOD = 146_097 * 86_400_000_000  # so many years in microseconds
_LAST_YEAR = 294_276
_FIRST = (datetime(1, 1, 1, tzinfo=timezone.utc) - _EPOCH) // _MICROSECOND  # before it, PostgreSQL writes BC

_TIME = re.compile(
    r"(\d{4,6})-(\d\d?)-(\d\d?)(?:[Tt ](\d\d?):(\d\d)(?::(\d\d)(?:\.(\d{1,6})\d*)?)?)?\s*(Z|z|UTC|([+-])(\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)


def moment_of(text: str) -> str | None:
    """The time that an ISO 8601 text (or what PostgreSQL prints) stands for, None for none; one without a zone is UTC."""
    if text.lower() in WORDS:
        return text.lower()
    found = _TIME.fullmatch(text)
    if found is None:
        return None
    year, month, day, hour, minute, second, fraction, _zone, sign, zone_hours, zone_minutes = found.groups(default="")
    within = 2000 + int(year) % _YEARS
    try:
        local = datetime(within, int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), int((fraction + "000000")[:6]))
    except ValueError:
        return None
    if not 1 <= int(year) <= _LAST_YEAR:
        return None
    offset = timedelta(hours=int(zone_hours or 0), minutes=int(zone_minutes or 0))
    moment = (local + offset if sign == "-" else local - offset).replace(tzinfo=timezone.utc)
    found_at = (moment - _EPOCH) // _MICROSECOND + (int(year) - within) // _YEARS * _PERIOD
    return str(found_at) if found_at >= _FIRST else None


def timestamp(moment: str) -> str:
    """A time as PostgreSQL reads it."""
    if moment in WORDS:
        return moment
    periods, rest = divmod(int(moment), _PERIOD)
    found = _EPOCH + timedelta(microseconds=rest)
    return f"{found.year + periods * _YEARS:04d}{found.isoformat(sep=' ')[4:]}"


def is_before(moment: str, seconds: float) -> bool:
    """Whether a time lies before one that is given in seconds since 1970-01-01 UTC."""
    return float(moment) < seconds * 1_000_000
