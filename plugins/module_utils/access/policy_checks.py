# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of the document that are right one by one and wrong together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.document import quoted
from ..core.errors import Mistake
from ..core.patterns import like
from .model import TABLE, DefaultGrant, Grant
from .privileges import ALL

if TYPE_CHECKING:
    from collections.abc import Iterable


def check_columns(grants: Iterable[Grant], mistakes: list[Mistake]) -> None:
    """A column privilege that the same role has on the whole table says nothing, and whoever wrote it believes that the rest is closed."""
    on_tables: dict[tuple[str | None, str | None], list[Grant]] = {}
    on_columns: list[Grant] = []
    for grant in grants:
        if grant.columns:
            on_columns.append(grant)
        elif grant.kind == TABLE:
            on_tables.setdefault((grant.database, grant.schema), []).append(grant)
    for grant in on_columns:
        for other in on_tables.get((grant.database, grant.schema), ()):
            both = [grantee for grantee in grant.grantees if grantee in other.grantees]
            words = grant.privileges if ALL in other.privileges else grant.privileges & other.privileges
            tables = [name for name in grant.names or () if _covers(other, name)]
            if both and words and tables and (other.grant_option or not grant.grant_option):
                text = f"{', '.join(map(quoted, both))} gets {', '.join(sorted(words))} on the whole of {', '.join(map(quoted, tables))}"
                mistakes.append(
                    Mistake(grant.path, f"has no effect: {text} at {other.path}; leave the tables out there (except) or drop this entry")
                )


def _covers(grant: Grant, table: str) -> bool:
    """Whether a grant on tables speaks of a table for certain. What a pattern finds is for the server to say."""
    if grant.names is not None:
        return table in grant.names
    return not any(like(item, table) for item in grant.excluding)


def check_defaults(defaults: Iterable[DefaultGrant], mistakes: list[Mistake]) -> None:
    """An entry that says "nothing" beside one that says something, for the same owner, type and grantee."""
    closing: dict[tuple[str, str | None, str, str, str], str] = {}
    giving: dict[tuple[str, str | None, str, str, str], str] = {}
    for default in defaults:
        for grantee in default.grantees:
            places = giving if default.privileges else closing
            places.setdefault((default.database, default.schema, default.owner, default.type, grantee), default.path)
    for key in sorted(set(closing) & set(giving), key=str):
        *_place, owner, kind, grantee = key
        text = f"gives {quoted(grantee)} nothing on the {kind.replace('_', ' ')} of {quoted(owner)}"
        mistakes.append(Mistake(closing[key], f"{text}, and {giving[key]} gives something; keep one of them"))
