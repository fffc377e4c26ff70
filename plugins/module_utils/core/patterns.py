# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Patterns of names, in the one form that every policy uses: '*' stands for any run of characters, everything else for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def like(pattern: str, name: str) -> bool:
    """Whether the name matches the pattern."""
    if "*" not in pattern:
        return pattern == name
    first, *middle, last = pattern.split("*")
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    rest = name[len(first) : len(name) - len(last)]
    for part in middle:
        _before, found, rest = rest.partition(part) if part else ("", "x", rest)
        if not found:
            return False
    return True


def like_any(patterns: Iterable[str], name: str) -> bool:
    """Whether the name matches one of the patterns."""
    return any(like(pattern, name) for pattern in patterns)


def sql_pattern(pattern: str) -> str:
    """The same pattern for SQL's LIKE."""
    escaped = pattern.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")
