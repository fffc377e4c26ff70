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

ISOLATION = "tenant_isolation"
ALL_ROWS = "all_rows"
TENANT_ALL = "tenant_all"
# The names of the policies that a tenancy makes.
RESERVED = frozenset({ISOLATION, ALL_ROWS, TENANT_ALL, *(f"tenant_{command.lower()}" for command in COMMANDS)})


@dataclass(frozen=True)
class RowPolicy:
    """A policy of one table. command: ALL or one of COMMANDS. roles: sorted. using, check: SQL, None for none.

    The server shows SQL otherwise than it was written. So the comment of a policy whose SQL a person wrote keeps a digest of what was
    written and of
    what the server has made of it. written: the SQL is a person's. comment: of a policy on the server. path: of a declared one.
    """

    name: str
    permissive: bool
    command: str
    roles: tuple[str, ...]
    using: str | None = None
    check: str | None = None
    written: bool = field(default=False, compare=False)
    comment: str | None = field(default=None, compare=False)
    path: str = field(default="", compare=False)


@dataclass(frozen=True)
class Column:
    """The tenant column of a table.

    identifier: its name quoted as the server does. type: the type under all domains. domain: whether there is one.

    indexed: whether an index begins with it.
    """

    name: str
    identifier: str
    type: str
    domain: bool
    nullable: bool
    indexed: bool


@dataclass(frozen=True)
class ForeignKey:
    """A foreign key: its columns, the table that it refers to, and the columns there."""

    name: str
    columns: tuple[str, ...]
    schema: str
    table: str
    referenced: tuple[str, ...]
    indexed: bool


@dataclass(frozen=True)
class Table:
    """A table of the database. kind: pg_class.relkind. column: the tenant column, None where the table has none.

    invalid_indexes: those that CREATE INDEX CONCURRENTLY has left unfinished.

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
    foreign_keys: tuple[ForeignKey, ...] = ()
    invalid_indexes: frozenset[str] = frozenset()

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
    """Each of the roles sees and writes only the rows whose column equals the setting. all_rows: roles that see and write all of them.

    parents: tables without the column and where each finds its tenant. build_indexes: whether missing indexes are made.
    """

    path: str
    setting: str
    column: str
    roles: tuple[str, ...]
    selections: tuple[Selection, ...]
    all_rows: tuple[str, ...] = ()
    parents: tuple[Parent, ...] = ()
    build_indexes: bool = False


@dataclass(frozen=True)
class Parent:
    """A table without the tenant column, and the table whose row, by a foreign key, has its tenant.

    key: the constraint, None where there is one only.
    """

    path: str
    schema: str
    table: str
    parent_schema: str
    parent: str
    key: str | None = None


@dataclass(frozen=True)
class TableRules:
    """A table whose policies the document writes out. It may have none, and turn row-level security on or off alone."""

    path: str
    schema: str
    table: str
    enabled: bool = True
    forced: bool = True
    policies: tuple[RowPolicy, ...] = ()


@dataclass(frozen=True)
class Database:
    """A database that the document names."""

    path: str
    name: str
    tenancy: Tenancy | None = None
    rules: tuple[TableRules, ...] = ()

    @property
    def schemas(self) -> tuple[str, ...]:
        """The schemas whose tables count, sorted."""
        found = {rules.schema for rules in self.rules}
        if self.tenancy is not None:
            found |= {selection.schema for selection in self.tenancy.selections}
            found |= {schema for parent in self.tenancy.parents for schema in (parent.schema, parent.parent_schema)}
        return tuple(sorted(found))


@dataclass(frozen=True)
class RoleFacts:
    """A role of the server. exempt: superuser or BYPASSRLS, to whom no policy applies."""

    name: str
    exempt: bool
