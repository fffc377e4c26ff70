# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the row-level security domain speaks of: tables, their policies, and the tenancy that a document declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

COMMANDS = ("SELECT", "INSERT", "UPDATE", "DELETE")
ALL = "ALL"


@dataclass(frozen=True)
class RowPolicy:
    """A policy of one table. command: ALL or one of COMMANDS. roles: sorted. using, check: SQL as the server stores it, None for none."""

    name: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: str | None = None
    check: str | None = None


@dataclass(frozen=True)
class Column:
    """The tenant column of a table. identifier: its name quoted as the server does. type: the type under all domains. domain: whether there is one.

    indexed: whether an index begins with it.
    """

    name: str
    identifier: str
    type: str
    domain: bool
    nullable: bool
    indexed: bool


@dataclass(frozen=True)
class Table:
    """A table of the database. kind: pg_class.relkind. column: the tenant column, None where the table has none.

    privileges: role -> the commands that the role may use on the table, by itself, by membership or on some of its columns.
    """

    schema: str
    name: str
    kind: str = "r"
    partition: bool = False
    extension: bool = False
    enabled: bool = False
    forced: bool = False
    column: Column | None = None
    policies: tuple[RowPolicy, ...] = ()
    privileges: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The table as messages and plans name it."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True)
class View:
    """A view or materialized view that reads tables with the rights of its owner. tables: all that it reads, through other views too.

    readers: those of the roles asked for that may SELECT from it.
    """

    schema: str
    name: str
    materialized: bool
    owner: str
    tables: frozenset[tuple[str, str]]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """Tables of one schema: those that match names (None: all), but those that match excluding. Both may hold the wildcard '*'."""

    path: str
    schema: str
    names: tuple[str, ...] | None = None
    excluding: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tenancy:
    """Each of the roles sees and writes only the rows whose column equals the setting. all_rows: roles that see and write all of them."""

    path: str
    setting: str
    column: str
    roles: tuple[str, ...]
    selections: tuple[Selection, ...]
    all_rows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Database:
    """A database that the document names."""

    path: str
    name: str
    tenancy: Tenancy | None = None


@dataclass(frozen=True)
class RoleFacts:
    """A role of the server. exempt: superuser or BYPASSRLS, to whom no policy applies."""

    name: str
    exempt: bool
