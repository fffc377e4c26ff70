# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the columns that a document names, and counts their rows. Allowed in a read-only session."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..client.field_encryption import NORMALIZERS
from ..core.catalog import USER_SCHEMA
from ..core.statements import compose, identifier, joined, keywords, literal, quoted_text
from .model import FERNET, KEYED, BlindIndex, Census, Facts, Mark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ..core.database import Database
    from .model import Column

# The form of a token: a fernet one is at least 100 characters of base64 (Fernet specification), a keyed one has f1.ID. before it.
_PLAIN_TOKEN = (
    "(pg_catalog.starts_with({0}, 'gAAAA') AND pg_catalog.octet_length({0}) >= 100 AND pg_catalog.octet_length({0}) % 4 = 0"
    " AND {0} ~ '^[A-Za-z0-9_-]+={{0,2}}$')"
)
_KEYED_TOKEN = "(pg_catalog.starts_with({0}, 'f1.') AND pg_catalog.substr({0}, 20, 6) = '.gAAAA' AND pg_catalog.octet_length({0}) >= 120)"

_MARK = re.compile(r"\n?encrypted by bulwark\.postgresql: format (fernet|keyed), keyring ([^\n]*)\Z")

_TABLES = f"""
SELECT n.nspname || '.' || c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {USER_SCHEMA}
"""
_NAMES = """
SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = %(table)s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
_TABLE = """
SELECT c.oid::bigint, c.relkind, c.relrowsecurity
  AND NOT (SELECT r.rolsuper OR r.rolbypassrls FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
  AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE')),
 pg_catalog.pg_has_role(c.relowner, 'USAGE')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %(schema)s AND c.relname = %(name)s
"""
# Partitions have the dependents of their own; what is on them counts, too.
_COLUMN = """
WITH parts AS (SELECT %(table)s::pg_catalog.oid AS oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(%(table)s::pg_catalog.oid) t),
here AS (SELECT a.attrelid, a.attnum FROM parts p JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid
 WHERE a.attname = %(column)s AND NOT a.attisdropped)
SELECT t.typname, CASE WHEN a.atttypmod > 4 AND t.typname = 'varchar' THEN a.atttypmod - 4 END, a.attgenerated <> '',
 pg_catalog.format_type(a.atttypid, a.atttypmod), pg_catalog.col_description(a.attrelid, a.attnum),
 ARRAY(SELECT g.attname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute g ON g.attrelid = d.objid AND g.attnum = d.objsubid
  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid AND d.objid = a.attrelid AND d.objsubid > 0
   AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND g.attgenerated <> ''
  UNION SELECT g.attname::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef e ON e.oid = d.objid AND e.adrelid = a.attrelid
   JOIN pg_catalog.pg_attribute g ON g.attrelid = e.adrelid AND g.attnum = e.adnum AND g.attnum <> a.attnum
  WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.refobjid = a.attrelid AND d.refobjsubid = a.attnum ORDER BY 1),
 (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(k.attname, pg_catalog.format_type(k.atttypid, NULL)) ORDER BY o.position)
  FROM pg_catalog.pg_index i CROSS JOIN pg_catalog.unnest(i.indkey) WITH ORDINALITY o(number, position)
  JOIN pg_catalog.pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = o.number
  WHERE i.indrelid = a.attrelid AND i.indisprimary AND i.indisvalid AND o.position <= i.indnkeyatts),
 (SELECT pg_catalog.jsonb_object_agg(c.conname, pg_catalog.jsonb_build_array(c.contype, pg_catalog.pg_get_constraintdef(c.oid)))
  FROM pg_catalog.pg_constraint c WHERE c.contype IN ('p', 'u', 'f', 'c', 'x') AND c.conparentid = 0
  AND EXISTS (SELECT FROM here h WHERE c.conrelid = h.attrelid AND h.attnum = ANY (c.conkey)
   OR c.confrelid = h.attrelid AND h.attnum = ANY (c.confkey))),
 ARRAY(SELECT DISTINCT i.indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_depend d
  ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = i.indexrelid JOIN here h ON d.refobjid = h.attrelid
  AND d.refobjsubid = h.attnum WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint c WHERE c.conindid = i.indexrelid)
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits x WHERE x.inhrelid = i.indexrelid) ORDER BY 1),
 (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(g.tgname, p.prosrc)) FROM (SELECT DISTINCT ON (g.tgname) g.* FROM
  pg_catalog.pg_trigger g JOIN parts ON parts.oid = g.tgrelid WHERE NOT g.tgisinternal AND g.tgtype & 16 <> 0 AND g.tgenabled <> 'D'
   AND (g.tgattr = '' OR a.attnum = ANY (g.tgattr::int2[])) ORDER BY g.tgname) g JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid),
 ARRAY(SELECT DISTINCT w.ev_class::pg_catalog.regclass::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
  JOIN here h ON d.refobjid = h.attrelid AND d.refobjsubid = h.attnum
  WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass ORDER BY 1),
 ARRAY(SELECT DISTINCT u.pubname::text FROM pg_catalog.pg_publication_tables u JOIN pg_catalog.pg_class c ON c.relname = u.tablename
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname = u.schemaname JOIN parts ON parts.oid = c.oid ORDER BY 1)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %(table)s AND a.attname = %(column)s AND a.attnum > 0 AND NOT a.attisdropped
"""
_BLIND_INDEX = """
SELECT pg_catalog.format_type(a.atttypid, NULL), COALESCE(pg_catalog.bool_or(i.indisvalid), false),
 COALESCE(pg_catalog.array_agg(i.indexrelid::pg_catalog.regclass::text) FILTER (WHERE NOT i.indisvalid), '{}')
FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_index i ON i.indrelid = a.attrelid AND i.indkey[0] = a.attnum
WHERE a.attrelid = %(table)s AND a.attname = %(column)s AND a.attnum > 0 AND NOT a.attisdropped GROUP BY a.atttypid
"""
_AUDIT = "0_audit_"  # how the triggers of this collection's audit log begin


def token_form(column: Any) -> Any:
    """The condition that a text column holds a token, as far as its form tells; NULL does not."""
    one, two = _PLAIN_TOKEN.replace("{0}", "{column}"), _KEYED_TOKEN.replace("{0}", "{column}")
    return compose(f"({one} OR {two})", column=column)


def has_form(column: Any, form: str) -> Any:
    """The condition that a text column holds a token of one form."""
    return compose((_KEYED_TOKEN if form == KEYED else _PLAIN_TOKEN).replace("{0}", "{column}"), column=column)


def table_names(database: Database) -> list[str]:
    """Schema and name of every table and view, with a dot between them."""
    return [name for (name,) in database.query(_TABLES)]


def column_names(database: Database, table: int) -> list[str]:
    """The columns of a table, by its OID."""
    return [name for (name,) in database.query(_NAMES, {"table": table})]


def read_table(database: Database, column: Column) -> tuple[int, str, bool, bool] | None:
    """The table of a column: OID, pg_class.relkind, whether row-level security hides rows from this session, whether it may alter it."""
    found = database.query(_TABLE, {"schema": column.schema, "name": column.table})
    return found[0] if found else None


def read_facts(database: Database, column: Column, table: tuple[int, str, bool, bool]) -> Facts | None:
    """The column as it is, or None. table: as read_table gives it."""
    oid, kind, filtered, may_write = table
    found = database.query(_COLUMN, {"table": oid, "column": column.name})
    if not found:
        return None
    base, longest, generated, shown, comment, feeds, keys, constraints, indexes, triggers, views, publications = found[0]
    said = _MARK.search(comment or "")
    audit = [source for name, source in triggers or () if name.startswith(_AUDIT)]
    return Facts(
        kind,
        {"varchar": "character varying", "bpchar": "character"}.get(base, shown),
        longest,
        generated,
        tuple(feeds),
        tuple((name, of) for name, of in keys or ()),
        {name: (of, definition) for name, (of, definition) in (constraints or {}).items()},
        tuple(indexes),
        tuple(sorted(name for name, _source in triggers or () if not name.startswith(_AUDIT))),
        tuple(_hides(source, column.name) for source in audit),
        tuple(views),
        tuple(publications),
        filtered,
        may_write,
        _MARK.sub("", comment or ""),
        Mark(said[1], said[2]) if said else None,
        _blind_index(database, column, oid),
    )


def _blind_index(database: Database, column: Column, table: int) -> BlindIndex | None:
    found = database.query(_BLIND_INDEX, {"table": table, "column": column.index_name}) if column.blind_index else ()
    return BlindIndex(found[0][0], found[0][1], tuple(found[0][2])) if found else None


def not_indexed(column: Column, keys: Collection[str]) -> Any:
    """The condition that the blind index has no value of one of these keys, by their ids."""
    prefix = NORMALIZERS[column.blind_index][0]
    known = joined(", ", [literal(f"{prefix}.{key}.") for key in sorted(keys)])
    name = identifier(column.index_name)
    return compose("({0} IS NULL OR pg_catalog.left({0}, 21) <> ALL (ARRAY[{1}]::pg_catalog.text[]))", name, known)


def count_unindexed(database: Database, column: Column, facts: Facts, keys: Collection[str]) -> int:
    """The values that the blind index does not have under one of these keys."""
    value = identifier(column.name)
    condition = not_indexed(column, keys) if facts.blind_index else keywords("true")
    table = identifier(column.schema, column.table)
    return int(database.value(compose("SELECT pg_catalog.count(*) FROM {} WHERE {} IS NOT NULL AND {}", table, value, condition)))


def count_different(database: Database, column: Column) -> tuple[int, int]:
    """How many values there are, and how many different ones."""
    name, table = identifier(column.name), identifier(column.schema, column.table)
    return database.query(compose("SELECT pg_catalog.count({0}), pg_catalog.count(DISTINCT {0}) FROM {1}", name, table))[0]


def _hides(source: str, column: str) -> bool:
    """Whether the function of an audit trigger records rows without the value of a column, by how its source is made."""
    name = quoted_text(column)
    if "ALL (ARRAY[" in source:  # a table that is new: the names of masked columns of all tables
        return name in source
    return "v_shown" in source and f", {name})" not in source  # the list of the columns that are not masked


def comment_of(facts: Facts, mark: Mark | None) -> str | None:
    """The comment of a column with another mark, None for no comment."""
    if mark is None:
        return facts.comment or None
    line = f"encrypted by bulwark.postgresql: format {mark.form}, keyring {mark.keyring}"
    return f"{facts.comment}\n{line}" if facts.comment else line


def count(database: Database, column: Column) -> Census:
    """The rows of a text column as SQL can tell them apart: keyed tokens by key, the other tokens together as unknown."""
    name = identifier(column.name)
    statement = compose(
        "SELECT CASE WHEN {name} IS NULL THEN 'null' WHEN pg_catalog.starts_with({name}, 'f1.') AND {keyed}"
        " THEN pg_catalog.substr({name}, 4, 16) WHEN {token} THEN 'token' ELSE 'plain' END, pg_catalog.count(*),"
        " pg_catalog.max(pg_catalog.octet_length({name})) FROM {table} GROUP BY 1",
        name=name,
        keyed=has_form(name, KEYED),
        token=token_form(name),
        table=identifier(column.schema, column.table),
    )
    rows: Mapping[str, tuple[int, int]] = {kind: (number, longest or 0) for kind, number, longest in database.query(statement)}
    keys = {kind: number for kind, (number, _longest) in sorted(rows.items()) if kind not in ("null", "token", "plain")}
    none = (0, 0)
    (plain, longest), (tokens, _longest) = rows.get("plain", none), rows.get("token", none)
    return Census(rows.get("null", none)[0], plain, keys, keys if column.form == FERNET else {}, tokens, longest)
