# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audit domain speaks of: the document, the tables that it selects, and what is there for them on the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.catalog import AclEntry
    from ..core.selection import Selection

EXCLUDE = "exclude"
MASK = "mask"
HASH = "hash"

# Triggers fire in the order of their names: these before any other, so that the log has changes in the order in which they were made.
PREFIX = "0_audit_"

STATEMENT = "statement"
ROW = "row"


@dataclass(frozen=True)
class Masking:
    """Columns of one table whose values the log does not show. columns: name -> EXCLUDE, MASK or HASH."""

    path: str
    schema: str
    table: str
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Retention:
    """How long records are kept. months: whole ones, beside the current one. directory: where older ones are written to before they go."""

    months: int
    directory: str


@dataclass(frozen=True)
class Database:
    """A database that the document names.

    changed_columns_only: an UPDATE stores the columns that it changed, not whole rows. skip_unchanged: one that changes nothing in a row
    stores nothing for it. new_tables: an event trigger has selected tables recorded from their creation on.
    encrypted: columns of tables, by schema and name, that are masked if the document does not say how.
    """

    path: str
    name: str
    selections: tuple[Selection, ...]
    masking: tuple[Masking, ...] = ()
    readers: tuple[str, ...] = ()
    tenant_readers: tuple[str, ...] = ()
    retention: Retention | None = None
    changed_columns_only: bool = False
    skip_unchanged: bool = False
    new_tables: bool = False
    encrypted: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)

    @property
    def schemas(self) -> tuple[str, ...]:
        """The schemas whose tables count, sorted."""
        return tuple(sorted({selection.schema for selection in self.selections} | {masking.schema for masking in self.masking}))


@dataclass(frozen=True)
class Log:
    """Where the records are, the same in every database.

    schema, owner: their names. user_setting, tenant_setting: the settings in which the application says who it works for.

    months_ahead: how many monthly partitions there are beside that of the current month.
    """

    schema: str = "audit"
    owner: str = "audit_owner"
    user_setting: str = "app.current_user"
    tenant_setting: str = "app.current_tenant_id"
    months_ahead: int = 3


@dataclass(frozen=True)
class Column:
    """A column of a table.

    comparable: IS DISTINCT FROM tells every change of its text. plain: its text in JSON does not depend on settings of the session.
    virtual: generated when it is read.
    """

    name: str
    number: int
    comparable: bool = True
    plain: bool = True
    virtual: bool = False


@dataclass(frozen=True)
class Key:
    """The primary key of a table, or a unique index on columns that are not null.

    index: the OID of its index. columns: their names and how the server shows each in the index. text: SQL templates with {} for the
    column, whose
    values do not depend on settings of the session.
    """

    index: int
    columns: tuple[str, ...]
    shown: tuple[str, ...]
    text: tuple[str, ...]


@dataclass(frozen=True)
class Trigger:
    """A trigger that calls a function of the log's schema.

    kind: pg_trigger.tgtype. enabled: pg_trigger.tgenabled, 'A' for always. clone: PostgreSQL made it for a partition.
    """

    name: str
    function: str
    kind: int
    enabled: str = "A"
    old_table: str | None = None
    new_table: str | None = None
    arguments: tuple[str, ...] = ()
    plain: bool = True
    clone: bool = False


@dataclass(frozen=True)
class Table:
    """A table of the database. kind: pg_class.relkind. root: of a partition, the table at the top.

    shape: a digest of its columns. row_level: why statements cannot be recorded as a whole, None where they can.
    """

    schema: str
    name: str
    kind: str = "r"
    root: tuple[str, str] | None = None
    extension: bool = False
    shape: str = ""
    row_level: str | None = None
    foreign_partition: str | None = None
    columns: tuple[Column, ...] = ()
    key: Key | None = None
    triggers: tuple[Trigger, ...] = ()

    @property
    def label(self) -> str:
        """The table as messages and plans name it."""
        return f"{self.schema}.{self.name}"

    @property
    def place(self) -> tuple[str, str]:
        """Schema and name."""
        return (self.schema, self.name)


@dataclass(frozen=True)
class Function:
    """A function of the log's schema. trigger: whether it is one of a trigger. arguments, returns: as the server shows them.

    volatility: pg_proc.provolatile.
    """

    name: str
    source: str
    settings: tuple[str, ...]
    definer: bool
    trigger: bool = True
    arguments: str = ""
    returns: str = "trigger"
    volatility: str = "v"
    language: str = "plpgsql"
    owner: str = ""
    acl: tuple[AclEntry, ...] | None = None
    for_readers: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class EventTrigger:
    """An event trigger that calls a function of the log's schema.

    enabled: pg_event_trigger.evtenabled, 'A' for always. superuser: whether a superuser owns the function.
    """

    event: str
    tags: tuple[str, ...]
    source: str
    settings: tuple[str, ...]
    enabled: str = "A"
    definer: bool = True
    superuser: bool = True


@dataclass(frozen=True)
class Relation:
    """A table, view, sequence or index of the log's schema. columns: their names and types. definition: a digest of that of a view."""

    name: str
    kind: str
    owner: str
    columns: str = ""
    comment: str | None = None
    acl: tuple[AclEntry, ...] = ()
    parent: str | None = None
    triggers: tuple[Trigger, ...] = ()
    definition: str = ""


@dataclass(frozen=True)
class Partition:
    """A partition of the log. first: its first month, end: the one after its last, both counted as in partitions.py."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class Sink:
    """The log's schema as it is. owner: None where the schema is not there.

    new_tables: the event trigger that is named after the schema. month: the current one. partitions: all but the default one.
    default_months: of the records that are in that one.
    """

    owner: str | None = None
    acl: tuple[AclEntry, ...] = ()
    relations: Mapping[str, Relation] = field(default_factory=dict)
    functions: Mapping[str, Function] = field(default_factory=dict)
    new_tables: EventTrigger | None = None
    month: int = 0
    partitions: tuple[Partition, ...] = ()
    default_months: tuple[int, ...] = ()


@dataclass(frozen=True)
class RoleFacts:
    """A role of the server."""

    name: str
    login: bool = False
    superuser: bool = False
    members: tuple[str, ...] = ()
