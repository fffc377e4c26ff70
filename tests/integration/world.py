# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database with an object of every kind, under ordinary and under odd names, in which policies and drift are played out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.integration.sql import ident, query

DATABASE = 'Wörld "db"'
ODD = 'Odd "Sch.ema" ü'
SCHEMAS = ("app", ODD, "other", "public")

MANAGED = ("app", "Mixed Case", 'quo"te', "select", "ünï", "dotted.name", "n" * 63)
STRANGERS = ("stranger", 'Stränge "R"')

_SCHEMA = """
CREATE SCHEMA {s};
CREATE TABLE {s}.orders (id bigint GENERATED ALWAYS AS IDENTITY, customer text, total numeric, "e ""mail"" x" text);
CREATE TABLE {s}.users (id serial, name text, secret text);
CREATE TABLE {s}."Mixed Case" (id int, "Name" text);
CREATE TABLE {s}.events (at date, what text) PARTITION BY RANGE (at);
CREATE TABLE {s}.events_2026 PARTITION OF {s}.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE {s}.events_rest PARTITION OF {s}.events DEFAULT;
CREATE VIEW {s}.user_names AS SELECT id, name FROM {s}.users;
CREATE MATERIALIZED VIEW {s}.totals AS SELECT customer, sum(total) FROM {s}.orders GROUP BY 1;
CREATE FOREIGN TABLE {s}.remote (id int) SERVER "far Away";
CREATE SEQUENCE {s}.numbers;
CREATE FUNCTION {s}.total(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION {s}.total(integer, text) RETURNS integer LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION {s}."Odd, Name"("a b" text DEFAULT 'x', OUT z integer) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE {s}.refresh() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE {s}.add_up(integer) (sfunc = int4pl, stype = integer, initcond = '0');
CREATE TYPE {s}.order_state AS ENUM ('new', 'paid');
CREATE DOMAIN {s}.positive AS integer CHECK (VALUE > 0);
CREATE TYPE {s}.pair AS (a integer, b integer);
CREATE TYPE {s}.span AS RANGE (subtype = integer);
"""


def statements() -> list[str]:
    """The DDL that fills the database, one script."""
    head = 'CREATE FOREIGN DATA WRAPPER far; CREATE SERVER "far Away" FOREIGN DATA WRAPPER far;'
    tail = "CREATE EXTENSION fuzzystrmatch SCHEMA app; SELECT lo_create(4711);"
    return [head, *(_SCHEMA.format(s=ident(name)) for name in ("app", ODD, "other")), tail]


@dataclass(frozen=True)
class Thing:
    """An object that rights can be held on. detail: a relation's relkind; partition and extension: what is left alone."""

    kind: str
    schema: str | None
    name: str
    oid: int
    owner: str
    detail: str = ""
    partition: bool = False
    extension: bool = False

    @property
    def key(self) -> tuple[str, str | None, str]:
        """What stays the same when the owner changes."""
        return (self.kind, self.schema, self.name)


_OBJECTS = """
WITH extension_members AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'), n AS (
    SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
)
SELECT 'database', NULL, datname, oid, datdba::regrole::text, '', false, false FROM pg_database WHERE datname = current_database()
UNION ALL SELECT 'schema', nspname, nspname, p.oid, nspowner::regrole::text, '', false, false FROM pg_namespace p JOIN n USING (nspname)
UNION ALL SELECT CASE relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, nspname, relname, c.oid, relowner::regrole::text, relkind::text,
    relispartition, EXISTS (SELECT FROM extension_members e WHERE e.objid = c.oid AND e.classid = 'pg_class'::regclass)
    FROM pg_class c JOIN n ON n.oid = relnamespace WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
UNION ALL SELECT 'function', nspname, p.oid::regprocedure::text, p.oid, proowner::regrole::text, proname::text, false,
    EXISTS (SELECT FROM extension_members e WHERE e.objid = p.oid AND e.classid = 'pg_proc'::regclass)
    FROM pg_proc p JOIN n ON n.oid = pronamespace
    WHERE NOT EXISTS (SELECT FROM pg_depend i WHERE i.classid = 'pg_proc'::regclass AND i.objid = p.oid AND i.deptype = 'i')
UNION ALL SELECT 'type', nspname, typname, t.oid, typowner::regrole::text, typtype::text, false, false
    FROM pg_type t JOIN n ON n.oid = typnamespace
    WHERE (typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND c.relkind = 'c')) AND typtype <> 'm' AND typcategory <> 'A'
UNION ALL SELECT 'language', NULL, lanname, oid, lanowner::regrole::text, '', false, true FROM pg_language WHERE lanpltrusted
UNION ALL SELECT 'foreign_data_wrapper', NULL, fdwname, oid, fdwowner::regrole::text, '', false, false FROM pg_foreign_data_wrapper
UNION ALL SELECT 'foreign_server', NULL, srvname, oid, srvowner::regrole::text, '', false, false FROM pg_foreign_server
UNION ALL SELECT 'large_object', NULL, oid::text, oid, lomowner::regrole::text, '', false, false FROM pg_largeobject_metadata
"""


def things(server: Any, db: str = DATABASE) -> list[Thing]:
    """Every object outside the system schemas, read by this query alone. The constructors of range types belong to their type."""
    columns = "kind, s, name, oid, owner, detail, part, ext"
    rows = query(server, f"SELECT {columns.replace('oid', 'oid::bigint')} FROM ({_OBJECTS}) x ({columns})", db=db)
    return [Thing(*row[:4], _unquoted(row[4]), *row[5:]) for row in rows]


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name
