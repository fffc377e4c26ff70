# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the tables of some schemas with their policies, and the roles.

Allowed in a read-only session; takes no lock but that of reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC, USER_SCHEMA, extension_members
from .model import COMMANDS, Column, ForeignKey, RoleFacts, RowPolicy, Table, View

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.database import Database

_ROLES = "SELECT rolname, rolsuper OR rolbypassrls FROM pg_catalog.pg_roles"
_SCHEMAS = f"SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA}"
_COMMANDS = {"r": "SELECT", "a": "INSERT", "w": "UPDATE", "d": "DELETE", "*": "ALL"}

_ONE = " AND n.nspname = %(schema)s AND c.relname = %(table)s"

_TABLES = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind, c.relispartition, c.relrowsecurity, c.relforcerowsecurity,
 c.oid IN ({members}), pg_catalog.quote_ident(a.attname), t.typtype = 'd', NOT a.attnotnull,
 CASE WHEN a.attnum IS NOT NULL THEN (
  WITH RECURSIVE base(oid, next) AS (
   SELECT a.atttypid, t.typbasetype
   UNION ALL SELECT x.oid, x.typbasetype FROM base JOIN pg_catalog.pg_type x ON x.oid = base.next)
  SELECT pg_catalog.format_type(base.oid, NULL) FROM base WHERE base.next = 0) END,
 EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = a.attnum),
 (SELECT pg_catalog.array_agg(x.relname::text) FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  WHERE i.indrelid = c.oid AND NOT i.indisvalid AND c.relkind = 'r'),
 (SELECT pg_catalog.jsonb_object_agg(r.rolname, pg_catalog.jsonb_build_array(
   pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT'), pg_catalog.has_any_column_privilege(r.oid, c.oid, 'INSERT'),
   pg_catalog.has_any_column_privilege(r.oid, c.oid, 'UPDATE'), pg_catalog.has_table_privilege(r.oid, c.oid, 'DELETE')))
  FROM pg_catalog.pg_roles r WHERE r.rolname = ANY(%(roles)s))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND a.attnum > 0 AND NOT a.attisdropped
 LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname = ANY(%(schemas)s){one} ORDER BY 2, 3
"""

_FOREIGN_KEYS = """
SELECT f.conrelid::bigint, f.conname, pn.nspname, p.relname,
 (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.position) FROM pg_catalog.unnest(f.conkey) WITH ORDINALITY k(number, position)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.number),
 (SELECT pg_catalog.array_agg(a.attname::text ORDER BY k.position) FROM pg_catalog.unnest(f.confkey) WITH ORDINALITY k(number, position)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.number),
 EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = f.conrelid AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] =
 f.conkey[1])
FROM pg_catalog.pg_constraint f JOIN pg_catalog.pg_class c ON c.oid = f.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 JOIN pg_catalog.pg_class p ON p.oid = f.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE f.contype = 'f' AND n.nspname = ANY(%(schemas)s)
 -- Of a partitioned table that is referred to, each partition has a constraint, too: these are not keys that anybody has made.
 AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint up WHERE up.oid = f.conparentid AND up.conrelid = f.conrelid){one} ORDER BY 1, 2
"""

_POLICIES = """
SELECT p.polrelid::bigint, p.polname, p.polpermissive, p.polcmd,
 (SELECT pg_catalog.array_agg(COALESCE(r.rolname::text, %(public)s)) FROM pg_catalog.unnest(p.polroles) o LEFT JOIN pg_catalog.pg_roles r
 ON r.oid = o),
 pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid),
 pg_catalog.obj_description(p.oid, 'pg_policy')
FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class c ON c.oid = p.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s){one} ORDER BY p.polname
"""


# Views that check their tables with their owner's rights, and every table that they read, through other views too.
_VIEWS = """
WITH RECURSIVE direct(view, relation) AS (
 SELECT DISTINCT w.ev_class, d.refobjid FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_depend d ON d.objid = w.oid
 WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND
 d.refobjid <> w.ev_class),
reads(view, relation) AS (
 SELECT view, relation FROM direct UNION SELECT r.view, d.relation FROM reads r JOIN direct d ON d.view = r.relation)
SELECT n.nspname, c.relname, c.relkind = 'm', pg_catalog.pg_get_userbyid(c.relowner),
 pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(tn.nspname, t.relname)),
 (SELECT pg_catalog.array_agg(r.rolname::text ORDER BY r.rolname) FROM pg_catalog.pg_roles r
  WHERE r.rolname = ANY(%(roles)s) AND pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT'))
FROM reads JOIN pg_catalog.pg_class c ON c.oid = reads.view JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 JOIN pg_catalog.pg_class t ON t.oid = reads.relation JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
WHERE tn.nspname = ANY(%(schemas)s) AND t.relkind IN ('r', 'p') AND (c.relkind = 'm' OR c.relkind = 'v' AND NOT EXISTS (
 SELECT FROM pg_catalog.pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean))
GROUP BY c.oid, n.nspname ORDER BY 1, 2
"""


def read_views(database: Database, schemas: Iterable[str], roles: Iterable[str]) -> tuple[View, ...]:
    """The views and materialized views on tables of the schemas, but those that check the rights of who reads them."""
    return tuple(
        View(schema, name, materialized, owner, frozenset((place, table) for place, table in tables), tuple(readers or ()))
        for schema, name, materialized, owner, tables, readers in database.query(_VIEWS, {"schemas": list(schemas), "roles": list(roles)})
    )


def read_roles(database: Database) -> dict[str, RoleFacts]:
    """Every role of the server by name."""
    return {name: RoleFacts(name, exempt) for name, exempt in database.query(_ROLES)}


def read_schemas(database: Database) -> frozenset[str]:
    """The names of the schemas that are not PostgreSQL's own."""
    return frozenset(name for (name,) in database.query(_SCHEMAS))


def read_tables(
    database: Database, schemas: Iterable[str], column: str, roles: Iterable[str], only: tuple[str, str] | None = None
) -> tuple[Table, ...]:
    """The tables of the schemas, sorted, with the column of this name and what these roles may do.

    only: schema and name of the one to read.
    """
    parameters: dict[str, Any] = {"schemas": list(schemas), "column": column, "roles": list(roles), "public": PUBLIC}
    if only is not None:
        parameters.update(schema=only[0], table=only[1])
    one = _ONE if only is not None else ""
    policies: dict[int, list[RowPolicy]] = {}
    for table, name, permissive, command, names, using, check, comment in database.query(_POLICIES.replace("{one}", one), parameters):
        policies.setdefault(table, []).append(
            RowPolicy(name, permissive, _COMMANDS[command], tuple(sorted(names)), using, check, comment=comment)
        )
    keys: dict[int, list[ForeignKey]] = {}
    for table, name, *rest in database.query(_FOREIGN_KEYS.replace("{one}", one), parameters):
        there, parent, columns, referenced, indexed = rest
        keys.setdefault(table, []).append(ForeignKey(name, tuple(columns), there, parent, tuple(referenced), indexed))
    found = []
    for row in database.query(_TABLES.replace("{members}", extension_members("pg_class")).replace("{one}", one), parameters):
        oid, schema, name, kind, partition, enabled, forced, extension, identifier, domain, nullable, base, indexed, invalid, may = row
        found.append(
            Table(
                schema,
                name,
                kind,
                partition,
                extension,
                enabled,
                forced,
                None if identifier is None else Column(column, identifier, base, domain, nullable, indexed),
                tuple(policies.get(oid, ())),
                {role: frozenset(word for word, has in zip(COMMANDS, each) if has) for role, each in (may or {}).items()},
                tuple(keys.get(oid, ())),
                frozenset(invalid or ()),
            )
        )
    return tuple(found)
