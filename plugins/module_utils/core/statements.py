# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL statements composed of keywords, identifiers and literals by psycopg2.sql, so that quoting is never ours to forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import database as _database

if TYPE_CHECKING:
    from collections.abc import Iterable

    from psycopg2.sql import Composable

HIDDEN = "'********'"


class Secret:
    """A literal that views of a plan show as asterisks."""

    def __init__(self, value: str) -> None:
        self._value = value

    def literal(self) -> Composable:
        """The real literal, for the server only."""
        return _database.sql.Literal(self._value)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN})"


def keywords(text: str) -> Composable:
    """SQL text of ours that holds no name and no value."""
    return _database.sql.SQL(text)


def identifier(*parts: str) -> Composable:
    """A quoted identifier, qualified if there are several parts."""
    return _database.sql.Identifier(*parts)


def literal(value: str | int | None) -> Composable:
    """A quoted value."""
    return _database.sql.Literal(value)


def listed(items: Iterable[Any]) -> Composable:
    """Composables separated by commas."""
    return joined(", ", items)


def joined(between: str, items: Iterable[Any]) -> Composable:
    """Composables with SQL of ours between them."""
    return _database.sql.SQL(between).join(items)


def role(name: str) -> Composable:
    """A role in a GRANT or REVOKE; the word PUBLIC stands for everybody and is no identifier."""
    return keywords("PUBLIC") if name == "PUBLIC" else identifier(name)


def remembered(part: Any) -> Any:
    """A composable whose text is made once, for parts that many statements share."""
    return _database.Remembered(part)


def compose(template: str, *parts: Any, **named: Any) -> Composable:
    """A statement from a template with {} places for composables, as psycopg2.sql.SQL.format()."""
    return _database.sql.SQL(template).format(*parts, **named)


class SecretStatement:
    """A statement with one place for a secret, in its two forms: for the server and for people."""

    def __init__(self, template: str, secret: Secret, **named: Any) -> None:
        self.sent = compose(template, secret=secret.literal(), **named)
        self.shown = compose(template, secret=keywords(HIDDEN), **named)

    def __repr__(self) -> str:
        return repr(self.shown)


def quoted_name(*parts: str) -> str:
    """An identifier as text, for SQL that is kept as text, such as the body of a function; qualified if there are several parts."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def quoted_text(value: str) -> str:
    """A literal as text, for SQL within a body; the same whatever the server takes a backslash for."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'" if "\\" not in value else "E'" + doubled.replace("\\", "\\\\") + "'"
