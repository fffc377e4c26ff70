# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tables that may be audited, and the schema of the log. Allowed in a read-only session; takes no lock but that of reading."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.catalog import USER_SCHEMA, exploded, extension_members, read_acl, role_names
from ..core.statements import compose, identifier
from .model import Column, EventTrigger, Function, Key, Partition, Relation, RoleFacts, Sink, Table, Trigger
from .new_tables import event_trigger_name
from .partitions import DEFAULT
from .source import ENTRIES, SHAPE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.database import Database

_ROLES = """
SELECT r.rolname, r.rolcanlogin, r.rolsuper, (SELECT pg_catalog.array_agg(m.rolname::text ORDER BY m.rolname::text)
 FROM pg_catalog.pg_auth_members a JOIN pg_catalog.pg_roles m ON m.oid = a.member WHERE a.roleid = r.oid) FROM pg_catalog.pg_roles r
"""
_SCHEMAS = f"SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA}"

# The tables of the schemas, the partitions of those wherever they are, and whatever has a trigger of ours.
_SCOPE = """
WITH ours AS (SELECT t.tgrelid FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
 JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %(log)s),
scope AS MATERIALIZED (
 SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition,
  CASE WHEN c.relispartition THEN pg_catalog.pg_partition_root(c.oid)::pg_catalog.oid END AS root
 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND n.nspname <> %(log)s AND (n.nspname = ANY(%(schemas)s)
  OR c.oid IN (SELECT tgrelid FROM ours)
  OR c.relispartition AND (SELECT rn.nspname FROM pg_catalog.pg_class rc JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace
   WHERE rc.oid = pg_catalog.pg_partition_root(c.oid)) = ANY(%(schemas)s)){one})
"""
_ONE = " AND (c.oid = {table} OR c.relispartition AND pg_catalog.pg_partition_root(c.oid) = {table})"
_NAMED = (
    "(SELECT o.oid FROM pg_catalog.pg_class o JOIN pg_catalog.pg_namespace m ON m.oid = o.relnamespace"
    " WHERE m.nspname = %(schema)s AND o.relname = %(table)s)"
)

# A trigger of somebody else's that runs between a change and the end of its statement may change the same row once more.
_TABLES = (
    _SCOPE
    + """,
foreign_triggers AS MATERIALIZED (
 SELECT t.tgrelid, t.tgtype, t.tgname FROM pg_catalog.pg_trigger t
 WHERE NOT t.tgisinternal AND t.oid NOT IN (SELECT x.oid FROM pg_catalog.pg_trigger x JOIN pg_catalog.pg_proc p ON p.oid = x.tgfoid
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = %(log)s))
SELECT s.oid::bigint, s.nspname, s.relname, s.relkind, rn.nspname, rc.relname, s.oid IN ({members}), {shape},
 CASE
  WHEN s.relkind = 'f' THEN 'it is a foreign table'
  WHEN NOT s.relispartition AND s.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE s.oid IN (i.inhparent, i.inhrelid))
   THEN 'it inherits, or others inherit from it'
  WHEN EXISTS (SELECT FROM foreign_triggers f WHERE f.tgrelid = s.oid AND f.tgtype & 3 = 1)
   THEN 'it has another trigger after each row: ' ||
    (SELECT pg_catalog.min(f.tgname::text) FROM foreign_triggers f WHERE f.tgrelid = s.oid AND f.tgtype & 3 = 1)
  WHEN s.relispartition AND EXISTS (SELECT FROM foreign_triggers f WHERE f.tgrelid = s.oid AND f.tgtype & 7 = 7)
   THEN 'a partition has a trigger before the insertion of each row'
  WHEN EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.confrelid = s.oid
    AND (k.confupdtype IN ('c', 'n', 'd') OR k.confdeltype IN ('c', 'n', 'd'))
    AND (k.conrelid = s.oid OR EXISTS (SELECT FROM foreign_triggers f WHERE f.tgrelid = k.conrelid)))
   THEN 'a foreign key with an action leads back to it, or to a table with triggers'
 END
FROM scope s LEFT JOIN pg_catalog.pg_class rc ON rc.oid = s.root LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = rc.relnamespace
ORDER BY 2, 3
"""
)

# Types whose equality is that of their text, and types whose text in JSON is the same whatever the session's settings are.
_COMPARABLE = [
    *("bool", "int2", "int4", "int8", "oid", "text", "varchar", "uuid", "date", "timestamp", "timestamptz", "bytea", "name", "char")
]
_PLAIN = [*_COMPARABLE, "bpchar", "numeric", "json", "jsonb", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit"]

_COLUMNS = (
    _SCOPE
    + """
SELECT a.attrelid::bigint, a.attname, a.attnum,
 t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typname = ANY(%(comparable)s)
  AND COALESCE((SELECT l.collisdeterministic FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation), true),
 t.typtype = 'e' OR t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND t.typname = ANY(%(plain)s),
 a.attgenerated = 'v'
FROM scope s JOIN pg_catalog.pg_attribute a ON a.attrelid = s.oid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE NOT s.relispartition AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1, 3
"""
)

_KEYS = (
    _SCOPE
    + """
SELECT DISTINCT ON (i.indrelid) i.indrelid::bigint, i.indexrelid::bigint,
 pg_catalog.array_agg(a.attname::text ORDER BY k.position),
 pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k.position::int, false) ORDER BY k.position),
 pg_catalog.array_agg(t.typname::text ORDER BY k.position)
FROM scope s JOIN pg_catalog.pg_index i ON i.indrelid = s.oid
 CROSS JOIN pg_catalog.unnest(i.indkey) WITH ORDINALITY k(number, position)
 JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE NOT s.relispartition AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts
GROUP BY i.indrelid, i.indexrelid, i.indisprimary HAVING pg_catalog.bool_and(a.attnotnull)
ORDER BY i.indrelid, i.indisprimary DESC, i.indexrelid
"""
)
_KEY_TEXT = {
    "timestamptz": "((to_json({0} AT TIME ZONE 'UTC') #>> '{{}}') || CASE WHEN isfinite({0}) THEN 'Z' ELSE '' END)",
    "timestamp": "(to_json({}) #>> '{{}}')",
    "date": "(to_json({}) #>> '{{}}')",
    "bytea": "encode({}, 'hex')",
}

_TRIGGERS = (
    _SCOPE
    + """
SELECT t.tgrelid::bigint, t.tgname, p.proname, t.tgtype, t.tgenabled, t.tgoldtable, t.tgnewtable, t.tgargs, t.tgnargs,
 t.tgqual IS NULL AND t.tgattr = '' AND NOT t.tgdeferrable, t.tgparentid <> 0
FROM scope s JOIN pg_catalog.pg_trigger t ON t.tgrelid = s.oid JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
 JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = %(log)s AND (NOT t.tgisinternal OR t.tgparentid <> 0) ORDER BY 1, 2
"""
)

_SCHEMA = f"""
SELECT r.rolname, {exploded("COALESCE(n.nspacl, pg_catalog.acldefault('n', n.nspowner))")}
FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner WHERE n.nspname = %(log)s
"""
_RELATION_ACL = exploded(
    "COALESCE(c.relacl, pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::pg_catalog.\"char\", c.relowner))"
)
_RELATIONS = f"""
SELECT c.relname, c.relkind, r.rolname,
 (SELECT pg_catalog.string_agg(a.attname || ' ' || pg_catalog.format_type(a.atttypid, a.atttypmod)
   || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END, ', ' ORDER BY a.attnum)
  FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
 pg_catalog.obj_description(c.oid, 'pg_class'),
 CASE WHEN c.relkind NOT IN ('i', 'I') THEN {_RELATION_ACL} END,
 (SELECT pc.relname FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent WHERE i.inhrelid = c.oid),
 CASE c.relkind WHEN 'v' THEN
  pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.pg_get_viewdef(c.oid), 'UTF8')), 'hex') END,
 (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(t.tgname, p.proname, t.tgtype, t.tgenabled)) FROM pg_catalog.pg_trigger t
  JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
WHERE n.nspname = %(log)s AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I', 'f') ORDER BY 1
"""
_FUNCTIONS = f"""
SELECT p.proname, p.prosrc, COALESCE(p.proconfig, '{{}}'),
 {exploded("COALESCE(p.proacl, pg_catalog.acldefault('f', p.proowner))")}, p.prosecdef,
 p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype, pg_catalog.pg_get_function_identity_arguments(p.oid),
 pg_catalog.pg_get_function_result(p.oid), p.provolatile, l.lanname, r.rolname
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
 JOIN pg_catalog.pg_roles r ON r.oid = p.proowner WHERE n.nspname = %(log)s ORDER BY 1
"""

_EVENT_TRIGGER = """
SELECT e.evtevent, ARRAY(SELECT tag FROM pg_catalog.unnest(e.evttags) tag ORDER BY tag), p.prosrc, COALESCE(p.proconfig, '{}'),
 e.evtenabled, p.prosecdef, r.rolsuper
FROM pg_catalog.pg_event_trigger e JOIN pg_catalog.pg_proc p ON p.oid = e.evtfoid JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
WHERE e.evtname = %(name)s
"""
_SUPERUSER = "SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user"

# Months in UTC, counted from the year 0.
_MONTH = "(extract(year FROM {time} AT TIME ZONE 'UTC') * 12 + extract(month FROM {time} AT TIME ZONE 'UTC') - 1)::int"
_BOUND = "bounds[{}]::pg_catalog.timestamptz"
_PARTITIONS = f"""
SELECT c.relname, {_MONTH.format(time=_BOUND.format(1))}, {_MONTH.format(time=_BOUND.format(2))}
FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid JOIN pg_catalog.pg_class p ON p.oid = i.inhparent
 JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
 CROSS JOIN pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid), '''(.+?)''.*''(.+?)''') bounds
WHERE n.nspname = %(log)s AND p.relname = '{ENTRIES}' AND bounds IS NOT NULL ORDER BY 2
"""
_DEFAULT_MONTHS = f"SELECT DISTINCT {_MONTH.format(time='d.changed_at')} FROM {{default}} d ORDER BY 1"

_FACTS = ("arguments", "returns", "volatility", "language", "owner")


def read_roles(database: Database) -> dict[str, RoleFacts]:
    """Every role of the server by name."""
    return {name: RoleFacts(name, login, superuser, tuple(members or ())) for name, login, superuser, members in database.query(_ROLES)}


def is_superuser(database: Database) -> bool:
    """Whether the session's role is a superuser."""
    return bool(database.value(_SUPERUSER))


def read_schemas(database: Database) -> frozenset[str]:
    """The names of the schemas that are not PostgreSQL's own."""
    return frozenset(name for (name,) in database.query(_SCHEMAS))


def read_tables(database: Database, log: str, schemas: Iterable[str], only: tuple[str, str] | None = None) -> tuple[Table, ...]:
    """The tables of the schemas with their partitions, and all others that have triggers of the log, sorted.

    log: the schema of the log. only: schema and name of the one to read, with its partitions.
    """
    parameters: dict[str, Any] = {"log": log, "schemas": list(schemas), "comparable": _COMPARABLE, "plain": _PLAIN}
    if only is not None:
        parameters.update(schema=only[0], table=only[1])
    one = _ONE.format(table=_NAMED) if only is not None else ""

    def rows(query: str) -> list[tuple[Any, ...]]:
        filled = query.replace("{one}", one).replace("{members}", extension_members("pg_class"))
        return database.query(filled.replace("{shape}", SHAPE.format(table="s.oid")), parameters)

    columns: dict[int, list[Column]] = {}
    for table, name, number, comparable, plain, virtual in rows(_COLUMNS):
        columns.setdefault(table, []).append(Column(name, number, comparable, plain, virtual))
    keys = {
        table: Key(index, tuple(names), tuple(shown), tuple(_KEY_TEXT.get(of, "{}::text") for of in types))
        for table, index, names, shown, types in rows(_KEYS)
    }
    triggers: dict[int, list[Trigger]] = {}
    for table, name, function, kind, enabled, old, new, arguments, count, plain, clone in rows(_TRIGGERS):
        texts = tuple(part.decode() for part in bytes(arguments).split(b"\0")[:count])
        triggers.setdefault(table, []).append(Trigger(name, function, kind, enabled, old, new, texts, plain, clone))
    found = []
    foreign: dict[tuple[str, str], str] = {}
    for oid, schema, name, kind, root_schema, root, extension, shape, row_level in rows(_TABLES):
        top = None if root is None else (root_schema, root)
        if top is not None and kind == "f":
            foreign[top] = f"{schema}.{name}"
        found.append(
            Table(
                schema,
                name,
                kind,
                top,
                extension,
                shape,
                row_level,
                None,
                tuple(columns.get(oid, ())),
                keys.get(oid),
                tuple(triggers.get(oid, ())),
            )
        )
    return tuple(_with_partitions(table, found, foreign) for table in found)


def _with_partitions(table: Table, tables: list[Table], foreign: dict[tuple[str, str], str]) -> Table:
    """A table whose level is that of all of its partitions."""
    if table.kind != "p" or table.root is not None:
        return table
    reasons = [part.row_level for part in tables if part.root == table.place and part.row_level and part.kind != "f"]
    return replace(table, row_level=table.row_level or (reasons[0] if reasons else None), foreign_partition=foreign.get(table.place))


def read_sink(database: Database, log: str) -> Sink:
    """The schema of the log as it is."""
    parameters = {"log": log}
    found = database.query(_SCHEMA, parameters)
    month = database.value(f"SELECT {_MONTH.format(time='pg_catalog.now()')}")
    if not found:
        return Sink(month=month)
    names = role_names(database)
    relations = {
        name: Relation(
            name,
            kind,
            owner,
            columns or "",
            comment,
            read_acl(acl, names),
            parent,
            tuple(Trigger(trigger, function, of, enabled) for trigger, function, of, enabled in triggers or ()),
            definition or "",
        )
        for name, kind, owner, columns, comment, acl, parent, definition, triggers in database.query(_RELATIONS, parameters)
    }
    functions = {
        name: replace(
            Function(name, source, tuple(settings), definer), trigger=trigger, acl=read_acl(acl, names), **dict(zip(_FACTS, facts))
        )
        for name, source, settings, acl, definer, trigger, *facts in database.query(_FUNCTIONS, parameters)
    }
    owner, acl = found[0]
    partitions = tuple(Partition(*row) for row in database.query(_PARTITIONS, parameters))
    late: tuple[int, ...] = ()
    if DEFAULT in relations:
        months = database.query(compose(_DEFAULT_MONTHS, default=identifier(log, DEFAULT)))
        late = tuple(month for (month,) in months)
    new_tables = None
    for event, tags, source, settings, *facts in database.query(_EVENT_TRIGGER, {"name": event_trigger_name(log)}):
        new_tables = EventTrigger(event, tuple(tags), source, tuple(settings), *facts)
    return Sink(owner, read_acl(acl, names), relations, functions, new_tables, month, partitions, late)
