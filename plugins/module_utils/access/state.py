# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actual state of a server in the dataclasses that reconcile compares with the policy, and how much of it to read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.catalog import AclEntry
    from .model import Membership, ObjectClass, Role


@dataclass(frozen=True)
class DatabaseFacts:
    """A database as the server lists it. acl as in ObjectClass."""

    name: str
    owner: str
    acl: tuple[AclEntry, ...]
    comment: str | None
    connectable: bool
    template: bool


@dataclass(frozen=True)
class Cluster:
    """What belongs to the whole server. applying: the role of this session. passwords_readable: whether stored verifiers were read.

    parameters: the names of all settings in lower case. encodings: the names of those that a database may have. names: OID ->
    role, and 0 -> PUBLIC. sessions: of the applying role, this one included. login_password: what this session logged in with, None
    where the server asked for none.
    """

    version: int
    in_recovery: bool
    applying: str
    bootstrap: str
    roles: Mapping[str, Role]
    memberships: tuple[Membership, ...]
    databases: Mapping[str, DatabaseFacts]
    objects: tuple[ObjectClass, ...]
    scram_iterations: int
    passwords_readable: bool
    parameters: frozenset[str]
    encodings: frozenset[str]
    names: Mapping[int, str]
    holdings: tuple[Holding, ...] = ()
    sessions: int = 1
    login_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Holding:
    """What keeps a role from being dropped: what: owns or policy; database None for a shared object."""

    role: str
    what: str
    database: str | None
    count: int


@dataclass(frozen=True)
class Contents:
    """What is in one database.

    schemas: name -> (owner, comment). named: (kind, schema, name) of the objects that the policy names and that exist.

    columns: (schema, table) -> its columns, for tables whose columns the policy names.
    owned: role -> objects it owns here, in the server's words, for roles that are to go.
    """

    database: str
    schemas: Mapping[str, tuple[str, str | None]]
    objects: tuple[ObjectClass, ...]
    default_acls: Mapping[tuple[str, str | None, str], tuple[AclEntry, ...]]
    columns: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    owned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Details:
    """What to read in detail.

    patterns: (kind, schema, LIKE pattern) of objects to read one by one. tables: (schema, table) whose columns to list. owners: roles whose
    possessions to list. with_names: kinds whose other objects come with their names, too.
    """

    patterns: frozenset[tuple[str, str, str]] = frozenset()
    tables: frozenset[tuple[str, str]] = frozenset()
    owners: frozenset[str] = frozenset()
    with_names: frozenset[str] = frozenset()

    def pairs(self, kind: str) -> tuple[list[str], list[str]]:
        """The schemas and LIKE patterns of one kind, as two parallel lists."""
        chosen = sorted((schema, pattern) for of_kind, schema, pattern in self.patterns if of_kind == kind)
        return [schema for schema, _pattern in chosen], [pattern for _schema, pattern in chosen]
