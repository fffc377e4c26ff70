# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The databases that the benchmarks of access work on, the policies for them, and a look at the privileges that does not use the collection."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg2
from psycopg2 import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OWNER = "app_owner"  # owns every schema and table; what it makes later is covered by default privileges

# kind of role -> (privileges on tables, privileges on sequences)
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "reader": (["SELECT"], []),
    "report": (["SELECT"], ["SELECT"]),
    "writer": (["SELECT", "INSERT", "UPDATE", "DELETE"], ["USAGE"]),
    "loader": (["SELECT", "INSERT", "TRUNCATE"], ["USAGE", "SELECT"]),
    "editor": (["SELECT", "UPDATE"], ["USAGE"]),
    "deployer": (["ALL"], ["ALL"]),
}

Rights = set[tuple[str, str, str, str]]  # (kind, object, role, privilege)

_PRIVILEGES = """
    SELECT kind, name, grantee, privilege_type FROM (
        SELECT 'relation', n.nspname || '.' || c.relname, a.grantee::regrole::text, a.privilege_type
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
        UNION ALL
        SELECT 'schema', n.nspname, a.grantee::regrole::text, a.privilege_type FROM pg_namespace n, aclexplode(n.nspacl) a
        UNION ALL
        SELECT 'database', '', a.grantee::regrole::text, a.privilege_type
        FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database()
        UNION ALL
        SELECT 'default', d.defaclrole::regrole || ' ' || coalesce(n.nspname, '') || ' ' || d.defaclobjtype::text,
               a.grantee::regrole::text, a.privilege_type
        FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace, aclexplode(d.defaclacl) a
    ) rights(kind, name, grantee, privilege_type)
    WHERE grantee = ANY (%s)
"""


@dataclass(frozen=True)
class Shape:
    """What a generated database holds: schemas s1.. with tables t1.. each, every table with so many sequences (0 to 2)."""

    schemas: int
    tables: int
    sequences: int = 1

    @property
    def schema_names(self) -> list[str]:
        """s1, s2, ..."""
        return [f"s{number}" for number in range(1, self.schemas + 1)]

    def table(self, schema: str, number: int) -> str:
        """The statement that makes one table; the first sequence is a serial column's, the second an identity column's."""
        columns = ["serial_id serial", "identity_id integer GENERATED ALWAYS AS IDENTITY"][: self.sequences]
        return f"CREATE TABLE {schema}.t{number} ({', '.join([*columns, 'value integer'])})"


def connect(server: Any, database: str = "postgres") -> Any:
    """An autocommitting psycopg2 connection of the superuser."""
    connection = psycopg2.connect(host=server.host, port=server.port, user=server.superuser, dbname=database)
    connection.autocommit = True
    return connection


def run(server: Any, statements: Iterable[Any], database: str = "postgres") -> None:
    """Execute statements, each in a transaction of its own."""
    with closing(connect(server, database)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def create_roles(server: Any, names: Iterable[str]) -> None:
    """Roles that cannot log in."""
    run(server, [sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)) for name in names])


def drop_roles(server: Any, names: Iterable[str]) -> None:
    """Remove roles that hold nothing any more."""
    run(server, [sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)) for name in names])


def create_database(server: Any, name: str, shape: Shape) -> None:
    """A database of the given shape, everything in it owned by OWNER; vacuumed, so that reading it later writes nothing."""
    run(server, [f"CREATE DATABASE {name} OWNER {OWNER}"])
    size = 500
    numbers = range(1, shape.tables + 1)
    statements = ["SET ROLE " + OWNER]
    for schema in shape.schema_names:
        statements.append(f"CREATE SCHEMA {schema}")
        batches = (numbers[start : start + size] for start in range(0, shape.tables, size))
        statements += ["; ".join(shape.table(schema, number) for number in batch) for batch in batches]
    run(server, statements, name)
    run(server, ["VACUUM (FREEZE, ANALYZE)"], name)


def copy_databases(server: Any, template: str, names: Iterable[str]) -> None:
    """Copies of a database, owned as it is."""
    strategy = " STRATEGY file_copy" if server.major >= 15 else ""
    run(server, [f"CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER}{strategy}" for name in names])


def drop_databases(server: Any, names: Iterable[str]) -> None:
    """Remove databases, whoever is connected to them."""
    run(server, [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in names])


def privileges(server: Any, database: str, roles: Sequence[str]) -> Rights:
    """(kind, object, role, privilege) of everything that the roles hold in a database, read from its catalogs."""
    with closing(connect(server, database)) as connection, connection.cursor() as cursor:
        cursor.execute(_PRIVILEGES, (list(roles),))
        return set(cursor.fetchall())


def profiles() -> dict[str, Any]:
    """KINDS as profiles of a policy."""
    return {
        kind: {
            "database": ["CONNECT"],
            "schema": ["USAGE"],
            "tables": tables,
            "sequences": sequences,
            "functions": [],
            "types": [],
            "creates": False,
        }
        for kind, (tables, sequences) in KINDS.items()
    }


def policy(databases: Iterable[str], shape: Shape, roles: dict[str, str]) -> dict[str, Any]:
    """The document that gives every role (name -> kind) its profile in every schema, with default privileges for what OWNER makes."""
    schemas = {name: {"owner": OWNER, "profiles": dict(roles)} for name in shape.schema_names}
    return {
        "roles": {OWNER: {}, **{role: {} for role in roles}},
        "profiles": profiles(),
        "databases": {name: {"owner": OWNER, "schemas": schemas} for name in databases},
    }


def plain_policy(database: str, shape: Shape, roles: dict[str, str]) -> dict[str, Any]:
    """The same rights on what exists, said with grants and without default privileges."""
    by_kind: dict[str, list[str]] = {}
    for role, kind in roles.items():
        by_kind.setdefault(kind, []).append(role)
    grants: list[dict[str, Any]] = [{"to": list(roles), "privileges": ["USAGE"]}]
    for kind, members in by_kind.items():
        tables, sequences = KINDS[kind]
        grants.append({"to": members, "privileges": tables, "tables": "all"})
        if sequences:
            grants.append({"to": members, "privileges": sequences, "sequences": "all"})
    return {
        "roles": {role: {} for role in roles},
        "databases": {
            database: {
                "grants": [{"to": list(roles), "privileges": ["CONNECT"]}],
                "schemas": {name: {"grants": grants} for name in shape.schema_names},
            }
        },
    }
