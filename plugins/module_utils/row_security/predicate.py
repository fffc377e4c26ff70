# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The condition that a row belongs to the tenant of the session's setting, written exactly as PostgreSQL 14 to 18 store and show it.

The setting is cast, never the column, so that an index on the column serves. The sub-select is evaluated once a statement. A setting that
is not there,
is empty or is no value of the type gives NULL, and so no row: never an error, which could say what other rows hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import Column

# The largest value of each type of whole numbers.
_LARGEST: Mapping[str, int] = {"smallint": 2**15 - 1, "integer": 2**31 - 1, "bigint": 2**63 - 1}
_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_TEXTS = {"text": "", "character varying": "", "character": "::bpchar", "bpchar": "::bpchar"}

TYPES = (*_LARGEST, "uuid", *_TEXTS)


def same_text(first: str | None, second: str | None) -> bool:
    """Whether two expressions, as the server shows them, are the same but for line breaks and indentation."""
    return first == second or (first is not None and second is not None and first.split() == second.split())


def tenant_predicate(column: Column, setting: str) -> str:
    """The condition for one table.

    setting: a parameter's name, as parameter_problem accepts it. Raises KeyError for a type that is not in TYPES.
    """
    value = f"current_setting('{setting}'::text, true)"
    if column.type in _TEXTS:
        cast = _TEXTS[column.type]
        empty = f"NULLIF({value}, ''::text)"
        tenant = f'{f"({empty}){cast}" if cast else empty} AS "nullif"'
    else:
        pattern = _UUID if column.type == "uuid" else number_pattern(_LARGEST[column.type])
        tenant = f"CASE WHEN ({value} ~ '{pattern}'::text) THEN ({value})::{column.type} ELSE NULL::{column.type} END AS \"case\""
    return f"({_compared(column)} = ( SELECT {tenant}))"


def number_pattern(largest: int) -> str:
    """A regular expression for the whole numbers from -largest to largest.

    A single test keeps the policy small: its size is what a short statement pays for, when it is planned.
    """
    digits = str(largest)
    rest = f"[0-{digits[-1]}]"
    for place in range(len(digits) - 2, -1, -1):
        digit, after = digits[place], len(digits) - place - 1
        least = 1 if place == 0 else 0
        below = [f"[{least}-{int(digit) - 1}][0-9]{{{after}}}"] if int(digit) > least else []
        rest = f"(?:{'|'.join([*below, digit + rest])})"
    return f"^-?(?:[0-9]{{1,{len(digits) - 1}}}|{rest})$"


def _compared(column: Column) -> str:
    """The column as the server shows it beside the value.

    A domain is shown as its type, a varchar as text, which it is without a conversion.
    """
    if column.type == "character varying":
        return f"({column.identifier})::text"
    if not column.domain:
        return column.identifier
    return f"({column.identifier})::{'bpchar' if column.type == 'character' else column.type}"
