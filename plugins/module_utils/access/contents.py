# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what is in one database: one query a kind of object, all of them allowed in a read-only session.

Objects are grouped by (schema, kind, owner, ACL) on the server, because a database of 30,000 relations has a handful of distinct ACLs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Callable

from ..core.catalog import USER_SCHEMA, AclEntry, exploded, extension_members, read_acl
from ..core.patterns import sql_pattern
from .model import (
    FOREIGN_DATA_WRAPPER,
    FOREIGN_SERVER,
    FUNCTION,
    LANGUAGE,
    LARGE_OBJECT,
    PROCEDURE,
    SCHEMA,
    SEQUENCE,
    TABLE,
    TYPE,
    Contents,
    Details,
    ObjectClass,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.database import Database


DEFAULT_ACL_TYPES: Mapping[str, str] = {
    "r": "tables",
    "S": "sequences",
    "f": "functions",
    "T": "types",
    "n": "schemas",
    "L": "large_objects",
}

Reader = Callable[["Database", Mapping[int, str], Details], Iterable[ObjectClass]]


def read_contents(database: Database, details: Details, names: Mapping[int, str]) -> Contents:
    """What is in the connected database, in as much detail as details. names: OID -> role, as in Cluster."""
    schemas, objects = _schemas(database, names)
    for read in (*_READERS.values(), _columns, _outside_schemas):
        objects.extend(read(database, names, details))
    return Contents(
        database=database.name,
        schemas=schemas,
        objects=tuple(objects),
        default_acls=_default_acls(database, names),
        columns=_column_names(database, details.tables),
        owned=_owned(database, sorted(details.owners)),
        of_system=_of_system(database, sorted(details.owners)),
    )


def with_names(database: Database, details: Details, names: Mapping[int, str], known: Contents) -> Contents:
    """The same contents within the same snapshot, with the names of the kinds in details.with_names."""
    kept = [each for each in known.objects if each.column is not None or each.kind not in details.with_names]
    read = [each for kind in sorted(details.with_names) for each in _READERS[kind](database, names, details)]
    return replace(known, objects=(*kept, *read))


def _schemas(database: Database, names: Mapping[int, str]) -> tuple[dict[str, tuple[str, str | None]], list[ObjectClass]]:
    rows = database.query(
        "SELECT n.nspname, n.nspowner::bigint, "
        + exploded("coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))")
        + ", pg_catalog.obj_description(n.oid, 'pg_namespace'), EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.deptype = 'e'"
        " AND e.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND e.objid = n.oid)"
        f" FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMA} ORDER BY n.nspname"
    )
    schemas = {name: (names[owner], comment) for name, owner, _acl_rows, comment, _extension in rows}
    objects = [
        ObjectClass(SCHEMA, names[owner], read_acl(acl, names), database.name, name, name, (name,), extension=extension)
        for name, owner, acl, _comment, extension in rows
    ]
    return schemas, objects


def _named(name: str, parameters: dict[str, Any], kind: str, details: Details, *spellings: str) -> str:
    """SQL for the name of an object that matches one of the patterns, else NULL."""
    schemas, patterns = details.pairs(kind)
    if not patterns:
        return "NULL::text"
    parameters.update(schemas=schemas, patterns=patterns)
    matches = " OR ".join(f"{spelling} LIKE w.pattern" for spelling in spellings or (name,))
    return (
        f"CASE WHEN EXISTS (SELECT FROM unnest(%(schemas)s::text[], %(patterns)s::text[]) AS w(schema, pattern)"
        f" WHERE w.schema = n.nspname AND ({matches})) THEN {name} END"
    )


def _relations(kind: str, relkinds: str, default: str) -> Reader:
    """A reader of tables or of sequences. relkinds and default (the letter for acldefault) as quoted in SQL."""

    def read(database: Database, names: Mapping[int, str], details: Details) -> Iterable[ObjectClass]:
        parameters: dict[str, Any] = {}
        name = _named("c.relname::text", parameters, kind, details)
        # A sequence that belongs to a column (serial or identity) has no owner of its own to change.
        linked = (
            "EXISTS (SELECT FROM pg_catalog.pg_depend l WHERE l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objid = c.oid"
            " AND l.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.deptype IN ('a', 'i'))"
            if kind == SEQUENCE and (kind in details.with_names or details.pairs(kind)[0])
            else "false"
        )
        members = "pg_catalog.array_agg(c.relname::text)" if kind in details.with_names else "NULL::text[]"
        statement = (
            f"WITH grouped AS MATERIALIZED (SELECT c.relnamespace, c.relkind, c.relowner, c.relacl, c.relispartition,"
            f" c.oid IN ({extension_members('pg_class')}) AS extension, {name} AS name, {linked} AS linked, {members} AS members, count(*)"
            f" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE c.relkind IN ({relkinds}) AND {USER_SCHEMA} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8)"
            " SELECT n.nspname, g.relkind, g.relowner::bigint, "
            f"{exploded(f'coalesce(g.relacl, pg_catalog.acldefault({default}, g.relowner))')},"
            f" g.relispartition, g.extension, g.name, g.linked, g.members, g.count"
            f" FROM grouped g JOIN pg_catalog.pg_namespace n ON n.oid = g.relnamespace ORDER BY 1, 2, 7 NULLS FIRST, 3, 5"
        )
        for schema, relkind, owner, acl, partition, extension, known, is_linked, all_names, count in database.query(statement, parameters):
            yield ObjectClass(
                kind,
                names[owner],
                read_acl(acl, names),
                database.name,
                schema,
                known,
                (known,) if known is not None else tuple(sorted(all_names)) if all_names is not None else None,
                relkind=relkind,
                partition=partition,
                extension=extension,
                linked=is_linked,
                count=count,
            )

    return read


def _columns(database: Database, names: Mapping[int, str], _details: Details) -> Iterable[ObjectClass]:
    statement = (
        f"SELECT n.nspname, c.relname, c.relkind, c.relowner::bigint, {exploded('a.attacl')}, a.attname, c.relispartition,"
        f" c.oid IN ({extension_members('pg_class')})"
        " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE a.attacl IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped AND {USER_SCHEMA} ORDER BY 1, 2, a.attnum"
    )
    for schema, table, relkind, owner, acl, column, partition, extension in database.query(statement):
        yield ObjectClass(
            TABLE,
            names[owner],
            read_acl(acl, names),
            database.name,
            schema,
            table,
            (table,),
            column,
            relkind=relkind,
            partition=partition,
            extension=extension,
        )


def _functions(database: Database, names: Mapping[int, str], details: Details) -> Iterable[ObjectClass]:
    parameters: dict[str, Any] = {}
    signature = "p.proname::text || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')'"
    name = _named(signature, parameters, FUNCTION, details, "p.proname::text", signature)
    # Quoted and qualified, the only text from the catalogs that goes into a statement as it is. A procedure needs its modes: without them
    # PostgreSQL also takes the arguments for those with the OUT ones, of this procedure or of another.
    procedure = (
        "pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(p.proname) || '(' || coalesce((SELECT pg_catalog.string_agg("
        "'IN ' || pg_catalog.format_type(a.type, NULL), ', ' ORDER BY a.place)"
        " FROM pg_catalog.unnest(p.proargtypes) WITH ORDINALITY a(type, place)), '') || ')'"
    )
    members = f"pg_catalog.array_agg(CASE WHEN p.prokind = 'p' THEN {procedure} ELSE p.oid::pg_catalog.regprocedure::text END)"
    members = members if FUNCTION in details.with_names or details.pairs(FUNCTION)[0] else "NULL::text[]"
    statement = (
        f"WITH grouped AS MATERIALIZED (SELECT p.pronamespace, p.proowner, p.proacl, p.oid IN ({extension_members('pg_proc')}) "
        "AS extension,"
        f" {name} AS name, p.prokind = 'p' AS procedure, {members} AS members, count(*) FROM pg_catalog.pg_proc p"
        " JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        # The constructors of range types are parts of their type and follow it.
        " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass "
        "AND i.objid = p.oid"
        f" AND i.deptype = 'i') AND {USER_SCHEMA} GROUP BY 1, 2, 3, 4, 5, 6) SELECT n.nspname, g.proowner::bigint,"
        f" {exploded(_or_default('g.proacl', 'f', 'g.proowner'))}, g.extension, g.name, g.members, g.count, g.procedure"
        f" FROM grouped g JOIN pg_catalog.pg_namespace n ON n.oid = g.pronamespace ORDER BY 1, 5 NULLS FIRST, 2"
    )
    for schema, owner, acl, extension, known, all_names, count, procedure_too in database.query(statement, parameters):
        yield ObjectClass(
            FUNCTION,
            names[owner],
            read_acl(acl, names),
            database.name,
            schema,
            known,
            tuple(sorted(all_names)) if all_names is not None else None,
            relkind=PROCEDURE if procedure_too else "",
            extension=extension,
            count=count,
        )


def _or_default(acl: str, letter: str, owner: str) -> str:
    return f"coalesce({acl}, pg_catalog.acldefault('{letter}', {owner}))"


def _types(database: Database, names: Mapping[int, str], details: Details) -> Iterable[ObjectClass]:
    parameters: dict[str, Any] = {}
    name = _named("t.typname::text", parameters, TYPE, details)
    members = "pg_catalog.array_agg(t.typname::text)" if TYPE in details.with_names else "NULL::text[]"
    # Array, multirange and table row types have no privileges of their own.
    statement = (
        f"WITH grouped AS MATERIALIZED (SELECT t.typnamespace, t.typowner, t.typacl, t.oid IN ({extension_members('pg_type')}) "
        "AS extension,"
        f" {name} AS name, {members} AS members, count(*) FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = "
        "t.typnamespace"
        " WHERE (t.typtype IN ('b', 'd', 'e', 'r') OR t.typrelid IN (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relkind = 'c'))"
        " AND NOT (t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc)"
        f" AND {USER_SCHEMA} GROUP BY 1, 2, 3, 4, 5) SELECT n.nspname, g.typowner::bigint, "
        f"{exploded(_or_default('g.typacl', 'T', 'g.typowner'))},"
        " g.extension, g.name, g.members, g.count FROM grouped g JOIN pg_catalog.pg_namespace n ON n.oid = g.typnamespace"
        " ORDER BY 1, 5 NULLS FIRST, 2"
    )
    for schema, owner, acl, extension, known, all_names, count in database.query(statement, parameters):
        yield ObjectClass(
            TYPE,
            names[owner],
            read_acl(acl, names),
            database.name,
            schema,
            known,
            (known,) if known is not None else tuple(sorted(all_names)) if all_names is not None else None,
            extension=extension,
            count=count,
        )


# What stands outside of schemas in small numbers: kind, catalog, prefix of its columns, letter for acldefault, condition. The languages
# internal
# and c are the server's own; plpgsql is an extension's, and may still be granted by name.
_OUTSIDE = (
    (LANGUAGE, "pg_language", "lan", "l", "o.lanname NOT IN ('internal', 'c')"),
    (FOREIGN_DATA_WRAPPER, "pg_foreign_data_wrapper", "fdw", "F", "true"),
    (FOREIGN_SERVER, "pg_foreign_server", "srv", "S", "true"),
)


def _outside_schemas(database: Database, names: Mapping[int, str], _details: Details) -> Iterable[ObjectClass]:
    parts = (
        f"SELECT '{kind}', o.{prefix}name, o.{prefix}owner::bigint, {exploded(_or_default(f'o.{prefix}acl', letter, f'o.{prefix}owner'))},"
        f" o.oid IN ({extension_members(catalog)}) FROM pg_catalog.{catalog} o WHERE {condition}"
        for kind, catalog, prefix, letter, condition in _OUTSIDE
    )
    for kind, name, owner, acl, extension in database.query(" UNION ALL ".join(parts) + " ORDER BY 1, 2"):
        yield ObjectClass(kind, names[owner], read_acl(acl, names), database.name, None, name, (name,), extension=extension)


def _large_objects(database: Database, names: Mapping[int, str], details: Details) -> Iterable[ObjectClass]:
    _schemas_unused, oids = details.pairs(LARGE_OBJECT)
    members = "pg_catalog.array_agg(l.oid::text)" if LARGE_OBJECT in details.with_names else "NULL::text[]"
    statement = (
        f"WITH grouped AS MATERIALIZED (SELECT l.lomowner, l.lomacl, CASE WHEN l.oid::text = ANY(%(oids)s) THEN l.oid::text END AS name,"
        f" {members} AS members, count(*) FROM pg_catalog.pg_largeobject_metadata l GROUP BY 1, 2, 3)"
        f" SELECT g.lomowner::bigint, {exploded(_or_default('g.lomacl', 'L', 'g.lomowner'))}, g.name, g.members, g.count FROM grouped g"
        " ORDER BY 3 NULLS FIRST, 1"
    )
    for owner, acl, known, all_names, count in database.query(statement, {"oids": oids}):
        yield ObjectClass(
            LARGE_OBJECT,
            names[owner],
            read_acl(acl, names),
            database.name,
            None,
            known,
            (known,) if known is not None else tuple(sorted(all_names)) if all_names is not None else None,
            count=count,
        )


# Readers of what there may be thousands of, which come in classes; the order is that of the plan's reading.
_READERS: Mapping[str, Reader] = {
    TABLE: _relations(TABLE, "'r', 'p', 'v', 'm', 'f'", "'r'"),
    SEQUENCE: _relations(SEQUENCE, "'S'", "'s'"),
    FUNCTION: _functions,
    TYPE: _types,
    LARGE_OBJECT: _large_objects,
}
BULK_KINDS = frozenset(_READERS)


def _default_acls(database: Database, names: Mapping[int, str]) -> dict[tuple[str, str | None, str], tuple[AclEntry, ...]]:
    rows = database.query(
        f"SELECT a.defaclrole::bigint, n.nspname, a.defaclobjtype, {exploded('a.defaclacl')}"
        " FROM pg_catalog.pg_default_acl a LEFT JOIN pg_catalog.pg_namespace n ON n.oid = a.defaclnamespace"
    )
    return {
        (names[owner], schema, DEFAULT_ACL_TYPES[objects]): read_acl(acl, names)
        for owner, schema, objects, acl in rows
        if objects in DEFAULT_ACL_TYPES
    }


def _column_names(database: Database, tables: frozenset[tuple[str, str]]) -> dict[tuple[str, str], frozenset[str]]:
    if not tables:
        return {}
    ordered = sorted(tables)
    rows = database.query(
        "SELECT n.nspname, c.relname, pg_catalog.array_agg(a.attname::text) FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " JOIN unnest(%(schemas)s::text[], %(tables)s::text[]) AS w(schema, name) ON w.schema = n.nspname AND c.relname LIKE w.name"
        " JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') GROUP BY 1, 2",
        {"schemas": [schema for schema, _name in ordered], "tables": [sql_pattern(name) for _schema, name in ordered]},
    )
    return {(schema, table): frozenset(columns) for schema, table, columns in rows}


# Names are quoted here, and go into a statement as they are.
_OF_SYSTEM = f"""
SELECT DISTINCT r.rolname, o.kind, o.name, NULLIF(x.grantor, o.owner)::pg_catalog.regrole::text FROM pg_catalog.pg_shdepend s
JOIN pg_catalog.pg_roles r ON s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.oid = s.refobjid
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database() AND s.dbid = d.oid
CROSS JOIN LATERAL (
 SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.relowner,
  c.relacl || ARRAY(SELECT pg_catalog.unnest(a.attacl) FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE s.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.oid = s.objid AND NOT ({USER_SCHEMA})
 UNION ALL SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::text, p.proowner, p.proacl
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  WHERE s.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.oid = s.objid AND NOT ({USER_SCHEMA})
 UNION ALL SELECT 'TYPE', pg_catalog.format('%%I.%%I', n.nspname, t.typname), t.typowner, t.typacl
  FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  WHERE s.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND t.oid = s.objid AND NOT ({USER_SCHEMA})
 UNION ALL SELECT 'SCHEMA', pg_catalog.quote_ident(n.nspname), n.nspowner, n.nspacl FROM pg_catalog.pg_namespace n
  WHERE s.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND n.oid = s.objid AND NOT ({USER_SCHEMA})
 UNION ALL SELECT 'LANGUAGE', pg_catalog.quote_ident(l.lanname), l.lanowner, l.lanacl FROM pg_catalog.pg_language l
  WHERE s.classid = 'pg_catalog.pg_language'::pg_catalog.regclass AND l.oid = s.objid AND l.lanname IN ('internal', 'c')
) o(kind, name, owner, acl) CROSS JOIN LATERAL pg_catalog.aclexplode(o.acl) x
WHERE s.deptype = 'a' AND r.rolname = ANY(%(roles)s) AND x.grantee = r.oid ORDER BY 1, 2, 3, 4
"""


def _of_system(database: Database, roles: Sequence[str]) -> dict[str, tuple[tuple[str, str, str | None], ...]]:
    found: dict[str, list[tuple[str, str, str | None]]] = {}
    for role, kind, name, grantor in database.query(_OF_SYSTEM, {"roles": list(roles)}) if roles else ():
        found.setdefault(role, []).append((kind, name, grantor))
    return {role: tuple(objects) for role, objects in found.items()}


def _owned(database: Database, roles: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not roles:
        return {}
    owned: dict[str, set[str]] = {}
    for role, description in database.query(
        "SELECT r.rolname, pg_catalog.pg_describe_object(s.classid, s.objid, s.objsubid) FROM pg_catalog.pg_shdepend s"
        " JOIN pg_catalog.pg_roles r ON s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.oid = s.refobjid"
        " JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database() AND (s.dbid = d.oid"
        # a subscription is in a database, and its owner in a catalog of the whole server
        " OR EXISTS (SELECT FROM pg_catalog.pg_subscription b WHERE s.classid = 'pg_catalog.pg_subscription'::pg_catalog.regclass"
        " AND b.oid = s.objid AND b.subdbid = d.oid))"
        " WHERE s.deptype = 'o' AND s.classid <> 'pg_catalog.pg_default_acl'::pg_catalog.regclass AND r.rolname = ANY(%(roles)s)",
        {"roles": list(roles)},
    ):
        owned.setdefault(role, set()).add(description)
    return {role: tuple(sorted(descriptions)) for role, descriptions in owned.items()}
