# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The condition that a row belongs to the tenant of the session's setting, written exactly as PostgreSQL 14 to 18 store and show it.

The setting is cast, never the column, so that an index on the column serves. The sub-select is evaluated once a statement. A setting that is not there,
is empty or is no value of the type gives NULL, and so no row: never an error, which could say what other rows hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import Column

_DIGITS: Mapping[str, tuple[int, str, str]] = {
    # digits, the type that holds any number of so many digits, the largest value as the server shows it in a comparison with that type
    "smallint": (5, "integer", "32767"),
    "integer": (10, "bigint", "2147483647"),
    "bigint": (19, "numeric", "('9223372036854775807'::bigint)::numeric"),
}
_UUID = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_TEXTS = {"text": "", "character varying": "", "character": "::bpchar", "bpchar": "::bpchar"}

TYPES = (*_DIGITS, "uuid", *_TEXTS)


def same_text(first: str | None, second: str | None) -> bool:
    """Whether two expressions, as the server shows them, are the same but for line breaks and indentation."""
    return first == second or (first is not None and second is not None and first.split() == second.split())


def tenant_predicate(column: Column, setting: str) -> str:
    """The condition for one table. setting: a parameter's name, as parameter_problem accepts it. Raises KeyError for a type that is not in TYPES."""
    value = f"current_setting('{setting}'::text, true)"
    if column.type in _TEXTS:
        cast = _TEXTS[column.type]
        empty = f"NULLIF({value}, ''::text)"
        tenant = f'{f"({empty}){cast}" if cast else empty} AS "nullif"'
    elif column.type == "uuid":
        tenant = f'{_case(f"{value} ~ {_literal(_UUID)}", f"({value})::uuid", "uuid")} AS "case"'
    else:
        digits, wide, largest = _DIGITS[column.type]
        inner = _case(f"abs(({value})::{wide}) <= {largest}", f"({value})::{column.type}", column.type)
        pattern = f"^-?[0-9]{{1,{digits}}}$"
        tenant = f'{_case(f"{value} ~ {_literal(pattern)}", inner, column.type)} AS "case"'
    return f"({_compared(column)} = ( SELECT {tenant}))"


def _literal(pattern: str) -> str:
    return f"'{pattern}'::text"


def _case(condition: str, result: str, of_type: str) -> str:
    return f"CASE WHEN ({condition}) THEN {result} ELSE NULL::{of_type} END"


def _compared(column: Column) -> str:
    """The column as the server shows it beside the value: a domain is shown as its type, a varchar as text, which it is without a conversion."""
    if column.type == "character varying":
        return f"({column.identifier})::text"
    if not column.domain:
        return column.identifier
    return f"({column.identifier})::{'bpchar' if column.type == 'character' else column.type}"
