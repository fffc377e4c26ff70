# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests' own view of a server: statements, and a fingerprint of everything that an access policy could change."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

import psycopg2

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Row = tuple[Any, ...]


@contextlib.contextmanager
def session(server: Any, db: str = "postgres", user: str = "postgres") -> Iterator[Any]:
    """A connection over the private socket in autocommit mode."""
    connection = psycopg2.connect(host=str(server.host), port=server.port, user=user, dbname=db, application_name="test")
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()


def query(server: Any, statement: str, parameters: Mapping[str, Any] | None = None, *, db: str = "postgres", user: str = "postgres") -> list[Row]:
    """All rows of one statement."""
    with session(server, db, user) as connection, connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def value(server: Any, statement: str, parameters: Mapping[str, Any] | None = None, *, db: str = "postgres", user: str = "postgres") -> Any:
    """The first column of the first row."""
    return query(server, statement, parameters, db=db, user=user)[0][0]


def execute(server: Any, *statements: str, db: str = "postgres", user: str = "postgres") -> None:
    """Run statements one by one."""
    with session(server, db, user) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def ident(name: str) -> str:
    """A quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def wipe(server: Any) -> None:
    """Drop every database and role that the tests made."""
    with session(server) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')")
        for (name,) in cursor.fetchall():
            cursor.execute(f"DROP DATABASE {ident(name)} WITH (FORCE)")
        cursor.execute("SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles WHERE rolname <> 'postgres' AND rolname !~ '^pg_'")
        names = cursor.fetchone()[0]
        if names:
            cursor.execute(f"DROP ROLE {names}")


_SHARED = """
SELECT 'role', to_jsonb(a) - 'oid' FROM pg_authid a WHERE rolname !~ '^pg_'
UNION ALL SELECT 'membership', to_jsonb(m) - 'oid' FROM pg_auth_members m
UNION ALL SELECT 'setting', to_jsonb(s) FROM pg_db_role_setting s
UNION ALL SELECT 'database', jsonb_build_array(datname, datdba, datacl::text[]) FROM pg_database
UNION ALL SELECT 'tablespace', jsonb_build_array(spcname, spcowner, spcacl::text[]) FROM pg_tablespace
UNION ALL SELECT 'comment', to_jsonb(d) FROM pg_shdescription d
"""

_LOCAL = """
SELECT 'schema', jsonb_build_array(nspname, nspowner, nspacl::text[]) FROM pg_namespace WHERE nspname !~ '^pg_t'
UNION ALL SELECT 'relation', jsonb_build_array(oid, relname, relowner, relacl::text[]) FROM pg_class WHERE relnamespace::regnamespace::text !~ '^pg_t'
UNION ALL SELECT 'column', jsonb_build_array(attrelid, attname, attacl::text[]) FROM pg_attribute WHERE attacl IS NOT NULL
UNION ALL SELECT 'function', jsonb_build_array(oid, proname, proowner, proacl::text[]) FROM pg_proc
UNION ALL SELECT 'type', jsonb_build_array(oid, typname, typowner, typacl::text[]) FROM pg_type WHERE typnamespace::regnamespace::text !~ '^pg_t'
UNION ALL SELECT 'language', jsonb_build_array(lanname, lanowner, lanacl::text[]) FROM pg_language
UNION ALL SELECT 'wrapper', jsonb_build_array(fdwname, fdwowner, fdwacl::text[]) FROM pg_foreign_data_wrapper
UNION ALL SELECT 'server', jsonb_build_array(srvname, srvowner, srvacl::text[]) FROM pg_foreign_server
UNION ALL SELECT 'large object', jsonb_build_array(oid, lomowner, lomacl::text[]) FROM pg_largeobject_metadata
UNION ALL SELECT 'default', to_jsonb(d) - 'oid' || jsonb_build_object('acl', defaclacl::text[]) FROM pg_default_acl d
UNION ALL SELECT 'comment', to_jsonb(d) FROM pg_description d WHERE classoid = 'pg_namespace'::regclass
"""


def _digest(server: Any, statement: str, db: str) -> str:
    rows = query(server, f"SELECT x::text FROM ({statement}) AS x ORDER BY 1", db=db)
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def database_fingerprint(server: Any, db: str) -> str:
    """A digest of owners, rights, default privileges and comments in one database."""
    return _digest(server, _LOCAL, db)


def fingerprint(server: Any) -> dict[str, str]:
    """A digest of the shared catalogs and of each database: equal before and after means that nothing was changed."""
    shared = _SHARED + (" UNION ALL SELECT 'parameter', jsonb_build_array(parname, paracl::text[]) FROM pg_parameter_acl" if server.major >= 15 else "")
    names = [name for (name,) in query(server, "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1")]
    return {"": _digest(server, shared, "postgres"), **{name: database_fingerprint(server, name) for name in names}}
