# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the access domain speaks of: roles, memberships, grants, the objects they stand on, and what is read from a server.

The declared policy and the state read from a server are both said in these dataclasses, so that reconcile compares like with like.
Nothing here knows YAML, SQL or a connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.catalog import AclEntry

# Object kinds as the policy and the plan name them.
DATABASE = "database"
SCHEMA = "schema"
TABLE = "table"  # tables, partitioned and foreign tables, views and materialized views, as in GRANT ... ON TABLE
VIEW = "view"  # views and materialized views only; a narrower way to select TABLE
SEQUENCE = "sequence"
FUNCTION = "function"  # functions, procedures, aggregates and window functions
PROCEDURE = "procedure"  # those of them that statements call so
TYPE = "type"  # types and domains
LANGUAGE = "language"
FOREIGN_DATA_WRAPPER = "foreign data wrapper"
FOREIGN_SERVER = "foreign server"
LARGE_OBJECT = "large object"
TABLESPACE = "tablespace"
PARAMETER = "parameter"

# Object kinds of ALTER DEFAULT PRIVILEGES as the policy names them.
DEFAULT_TYPES = ("tables", "sequences", "functions", "types", "schemas", "large_objects")


@dataclass(frozen=True)
class Membership:
    """member belongs to role. Before PostgreSQL 16 there is one entry a pair, grantor is not part of it and only admin is stored.

    inherit and set are None where the policy says nothing; grantor is None where any grantor will do.
    """

    role: str
    member: str
    grantor: str | None = None
    admin: bool = False
    inherit: bool | None = None
    set: bool | None = None
    path: str = field(default="", compare=False)


@dataclass(frozen=True)
class Role:
    """A role and its attributes; None means that the policy does not say.

    valid_until: microseconds since 1970-01-01 UTC as a decimal string, or 'infinity' (no limit).
    settings: (database or None, parameter name) -> value as the server stores it; a list parameter's value is a tuple of its elements.
    password: in a declared role the secret as given (plain text or SCRAM verifier); in an actual role the stored verifier, '' for none,
    None where it may not be read. has_password is False for a declared role that must have none.
    keep_members: patterns of members that somebody else manages.
    """

    name: str
    login: bool | None = None
    superuser: bool | None = None
    createdb: bool | None = None
    createrole: bool | None = None
    inherit: bool | None = None
    replication: bool | None = None
    bypassrls: bool | None = None
    connection_limit: int | None = None
    valid_until: str | None = None
    comment: str | None = None
    settings: Mapping[tuple[str | None, str], object] = field(default_factory=dict)
    member_of: tuple[Membership, ...] = ()
    keep_members: tuple[str, ...] = ()
    password: str | None = field(default=None, repr=False)
    has_password: bool | None = None
    path: str = field(default="", compare=False)


@dataclass(frozen=True)
class AbsentRole:
    """A role that must not exist; what it owns goes to reassign_to, or its removal is refused."""

    name: str
    reassign_to: str | None = None
    path: str = field(default="", compare=False)


@dataclass(frozen=True)
class Grant:
    """Privileges of grantees on objects of one kind.

    database is None for cluster-wide kinds (tablespace, parameter), schema None outside schemas. names None means all objects of the kind
    in the
    schema (for kind database and schema: the object itself, named by database or schema). A name may hold the wildcard '*'.
    privileges: upper-case words, or {'ALL'}. columns: only with kind table. on_views: what it gives on views instead, None for the same.
    """

    path: str
    kind: str
    grantees: tuple[str, ...]
    privileges: frozenset[str]
    database: str | None = None
    schema: str | None = None
    names: tuple[str, ...] | None = None
    excluding: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    grant_option: bool = False
    on_views: frozenset[str] | None = None

    def privileges_on(self, relkind: str) -> frozenset[str]:
        """The privileges on a relation of a kind."""
        return self.privileges if self.on_views is None or relkind not in ("v", "m") else self.on_views


@dataclass(frozen=True)
class DefaultGrant:
    """Privileges that grantees get on every object of a type that owner makes, in one schema or (schema None) anywhere in the database."""

    path: str
    database: str
    schema: str | None
    owner: str
    type: str  # one of DEFAULT_TYPES
    grantees: tuple[str, ...]
    privileges: frozenset[str]
    grant_option: bool = False


@dataclass(frozen=True)
class Schema:
    """A schema that the policy names."""

    path: str
    name: str
    owner: str | None = None
    objects_owner: str | None = None
    partitions: str = "parent"  # or "mirror"
    comment: str | None = None


@dataclass(frozen=True)
class Database:
    """A database that the policy names. template, encoding and locale count only when it is created."""

    path: str
    name: str
    owner: str | None = None
    comment: str | None = None
    template: str | None = None
    encoding: str | None = None
    locale: str | None = None
    schemas: tuple[Schema, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The declared document. grants and default_grants hold what the profiles yield, too. Tuples are sorted by name."""

    roles: tuple[Role, ...] = ()
    absent_roles: tuple[AbsentRole, ...] = ()
    databases: tuple[Database, ...] = ()
    grants: tuple[Grant, ...] = ()
    default_grants: tuple[DefaultGrant, ...] = ()


@dataclass(frozen=True)
class ObjectClass:
    """Objects that are alike: same kind, schema, owner and ACL. Tables share few ACLs, so a database is a short list of these.

    name is set for an object that the policy names, names (in the server's order) for a class whose members were read.
    For functions a name is the server's own quoted signature; key is what the policy may call it by. relkind: of pg_class, or PROCEDURE.
    column: the ACL is that of this column of name.
    """

    kind: str
    owner: str
    acl: tuple[AclEntry, ...]
    database: str | None = None
    schema: str | None = None
    name: str | None = None
    names: tuple[str, ...] | None = None
    column: str | None = None
    relkind: str = ""
    partition: bool = False
    extension: bool = False
    linked: bool = False  # a sequence owned by a table column: it follows its table's owner
    count: int = 1


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
    where the server asked for none. lock_table: how many locks all sessions together may hold.
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
    lock_table: int = 0


@dataclass(frozen=True)
class Holding:
    """What keeps a role from being dropped. what: owns, granted, policy or (user) mapping; database None for a shared object."""

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
    of_system: role -> the objects of PostgreSQL itself on which it has rights, as the kind and the name that REVOKE takes, and who gave
    them, quoted, None for the owner.
    """

    database: str
    schemas: Mapping[str, tuple[str, str | None]]
    objects: tuple[ObjectClass, ...]
    default_acls: Mapping[tuple[str, str | None, str], tuple[AclEntry, ...]]
    columns: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    owned: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    of_system: Mapping[str, tuple[tuple[str, str, str | None], ...]] = field(default_factory=dict)


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
