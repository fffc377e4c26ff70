# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads roles, privileges and owners from the catalogs: one query a kind of object, all of them allowed in a read-only session.

Objects are grouped by (schema, kind, owner, ACL) on the server, because a database of 30,000 relations has a handful of distinct ACLs.
A NULL ACL stands for the built-in default, so acldefault() takes its place (PostgreSQL documentation, "Privileges").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable

from .model import (
    FOREIGN_DATA_WRAPPER,
    FOREIGN_SERVER,
    FUNCTION,
    LANGUAGE,
    LARGE_OBJECT,
    PARAMETER,
    PUBLIC,
    SCHEMA,
    SEQUENCE,
    TABLE,
    TABLESPACE,
    TYPE,
    AclEntry,
    Membership,
    ObjectClass,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.database import Database


BOOTSTRAP_SUPERUSER = 10  # the OID of the role that initdb made

# Parameters whose value is a list of quoted elements (GUC_LIST_QUOTE in PostgreSQL's sources).
LIST_PARAMETERS = frozenset(
    {
        "search_path",
        "temp_tablespaces",
        "session_preload_libraries",
        "shared_preload_libraries",
        "local_preload_libraries",
        "unix_socket_directories",
    }
)

DEFAULT_ACL_TYPES: Mapping[str, str] = {
    "r": "tables",
    "S": "sequences",
    "f": "functions",
    "T": "types",
    "n": "schemas",
    "L": "large_objects",
}

_USER_SCHEMA = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


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

    parameters: the names of all settings in lower case. encodings: the names of those that a database may have.
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
    holdings: tuple[Holding, ...] = ()


@dataclass(frozen=True)
class Holding:
    """What keeps a role from being dropped: what: owns or policy; database None for a shared object."""

    role: str
    what: str
    database: str | None
    count: int


@dataclass(frozen=True)
class Contents:
    """What is in one database. schemas: name -> (owner, comment). named: (kind, schema, name) of the objects that the policy names and that exist.

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
class Wanted:
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


Reader = Callable[["Database", Mapping[int, str], Wanted], Iterable[ObjectClass]]


def like_pattern(name: str) -> str:
    """The LIKE pattern of a name in which '*' stands for any run of characters."""
    escaped = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%")


def split_setting(name: str, value: str) -> object:
    """A parameter's value as the model holds it: a tuple of elements for a list parameter, otherwise the text."""
    if name not in LIST_PARAMETERS:
        return value
    elements: list[str] = []
    current, quoted = "", False
    for character in value:
        if character == '"':
            quoted = not quoted
            current += character
        elif character == "," and not quoted:
            elements.append(current)
            current = ""
        else:
            current += character
    elements.append(current)
    return tuple(_unquoted(element.strip()) for element in elements if element.strip())


def _unquoted(element: str) -> str:
    if len(element) >= 2 and element[0] == element[-1] == '"':
        return element[1:-1].replace('""', '"')
    return element


def _acl(exploded: Sequence[Sequence[Any]] | None, names: Mapping[int, str]) -> tuple[AclEntry, ...]:
    entries = (
        AclEntry(names.get(grantee, str(grantee)), names.get(grantor, str(grantor)), privilege, grantable)
        for grantee, grantor, privilege, grantable in exploded or ()
    )
    return tuple(sorted(entries, key=lambda entry: (entry.grantee, entry.privilege, entry.grantor)))


def _exploded(acl: str) -> str:
    """SQL for an ACL as a JSON array of [grantee, grantor, privilege, grantable]; grantee 0 is PUBLIC."""
    return (
        "(SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(x.grantee::bigint, x.grantor::bigint, x.privilege_type, x.is_grantable))"
        f" FROM pg_catalog.aclexplode({acl}) x)"
    )


def role_names(database: Database) -> dict[int, str]:
    """OID -> name of every role, and 0 for PUBLIC."""
    names: dict[int, str] = dict(database.query("SELECT oid::bigint, rolname FROM pg_catalog.pg_roles"))
    names[0] = PUBLIC
    return names


def read_cluster(database: Database, removable: Iterable[str] = ()) -> Cluster:
    """Roles, memberships, databases, tablespaces and parameter privileges. removable: roles whose possessions to list."""
    names = role_names(database)
    readable = bool(database.value("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')"))
    iterations = database.query("SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'scram_iterations'")
    return Cluster(
        version=database.server_version,
        in_recovery=database.in_recovery(),
        applying=str(database.value("SELECT session_user")),
        bootstrap=names[BOOTSTRAP_SUPERUSER],
        roles=_roles(database, names, readable),
        memberships=_memberships(database, names),
        databases=_databases(database, names),
        objects=tuple(_cluster_objects(database, names)),
        scram_iterations=iterations[0][0] if iterations else 4096,
        passwords_readable=readable,
        parameters=frozenset(name for (name,) in database.query("SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings")),
        encodings=frozenset(
            name
            for (name,) in database.query(
                "SELECT pg_catalog.pg_encoding_to_char(number) FROM pg_catalog.generate_series(0, 34) number WHERE pg_catalog.pg_encoding_to_char(number) <> ''"
            )
        ),
        holdings=_holdings(database, sorted(removable)),
    )


def _roles(database: Database, names: Mapping[int, str], readable: bool) -> dict[str, Role]:
    settings = _role_settings(database, names)
    table, password = ("pg_authid", "coalesce(r.rolpassword, '')") if readable else ("pg_roles", "NULL")
    rows = database.query(
        "SELECT r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolinherit, r.rolreplication, r.rolbypassrls,"
        " r.rolconnlimit, CASE WHEN r.rolvaliduntil IS NULL OR NOT isfinite(r.rolvaliduntil) THEN 'infinity'"
        " ELSE (extract(epoch FROM r.rolvaliduntil) * 1000000)::numeric(40, 0)::text END,"
        f" pg_catalog.shobj_description(r.oid, 'pg_authid'), {password} FROM pg_catalog.{table} r ORDER BY r.rolname"
    )
    return {
        row[0]: Role(
            name=row[0],
            login=row[1],
            superuser=row[2],
            createdb=row[3],
            createrole=row[4],
            inherit=row[5],
            replication=row[6],
            bypassrls=row[7],
            connection_limit=row[8],
            valid_until=row[9],
            comment=row[10],
            password=row[11],
            settings=settings.get(row[0], {}),
        )
        for row in rows
    }


def _role_settings(database: Database, names: Mapping[int, str]) -> dict[str, dict[tuple[str | None, str], object]]:
    settings: dict[str, dict[tuple[str | None, str], object]] = {}
    for role, place, items in database.query(
        "SELECT s.setrole::bigint, d.datname, s.setconfig FROM pg_catalog.pg_db_role_setting s"
        " LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase WHERE s.setrole <> 0"
    ):
        of_role = settings.setdefault(names[role], {})
        for item in items:
            name, _equals, value = item.partition("=")
            of_role[(place, name)] = split_setting(name, value)
    return settings


def _memberships(database: Database, names: Mapping[int, str]) -> tuple[Membership, ...]:
    options = "m.inherit_option, m.set_option" if database.major >= 16 else "NULL, NULL"
    rows = database.query(f"SELECT m.roleid::bigint, m.member::bigint, m.grantor::bigint, m.admin_option, {options} FROM pg_catalog.pg_auth_members m")
    found = (
        Membership(
            role=names[role],
            member=names[member],
            grantor=names.get(grantor) if database.major >= 16 else None,
            admin=admin,
            inherit=inherit,
            set=set_option,
        )
        for role, member, grantor, admin, inherit, set_option in rows
    )
    return tuple(sorted(found, key=lambda entry: (entry.member, entry.role, entry.grantor or "")))


def _databases(database: Database, names: Mapping[int, str]) -> dict[str, DatabaseFacts]:
    rows = database.query(
        "SELECT d.datname, d.datdba::bigint, "
        + _exploded("coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))")
        + ", pg_catalog.shobj_description(d.oid, 'pg_database'), d.datallowconn, d.datistemplate"
        " FROM pg_catalog.pg_database d ORDER BY d.datname"
    )
    return {
        name: DatabaseFacts(name, names[owner], _acl(acl, names), comment, connectable, template) for name, owner, acl, comment, connectable, template in rows
    }


def _cluster_objects(database: Database, names: Mapping[int, str]) -> Iterable[ObjectClass]:
    for name, owner, acl in database.query(
        "SELECT t.spcname, t.spcowner::bigint, "
        + _exploded("coalesce(t.spcacl, pg_catalog.acldefault('t', t.spcowner))")
        + " FROM pg_catalog.pg_tablespace t ORDER BY t.spcname"
    ):
        yield ObjectClass(TABLESPACE, names[owner], _acl(acl, names), name=name, names=(name,))
    if database.major >= 15:
        for name, acl in database.query("SELECT p.parname, " + _exploded("p.paracl") + " FROM pg_catalog.pg_parameter_acl p ORDER BY p.parname"):
            yield ObjectClass(PARAMETER, names[BOOTSTRAP_SUPERUSER], _acl(acl, names), name=name, names=(name,))


def _holdings(database: Database, roles: Sequence[str]) -> tuple[Holding, ...]:
    if not roles:
        return ()
    rows = database.query(
        "SELECT r.rolname, CASE WHEN s.classid = 'pg_catalog.pg_default_acl'::pg_catalog.regclass THEN 'granted'"
        " WHEN s.deptype = 'o' THEN 'owns' WHEN s.deptype = 'r' THEN 'policy' ELSE 'granted' END, d.datname, count(*)"
        " FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_roles r ON s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.oid = s.refobjid"
        " LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid WHERE r.rolname = ANY(%(roles)s) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {"roles": list(roles)},
    )
    return tuple(Holding(*row) for row in rows)


def read_contents(database: Database, wanted: Wanted) -> Contents:
    """What is in the connected database, in as much detail as wanted."""
    names = role_names(database)
    schemas, objects = _schemas(database, names)
    for read in (*_READERS.values(), _columns, _languages, _wrappers, _servers):
        objects.extend(read(database, names, wanted))
    return Contents(
        database=database.name,
        schemas=schemas,
        objects=tuple(objects),
        default_acls=_default_acls(database, names),
        columns=_column_names(database, wanted.tables),
        owned=_owned(database, sorted(wanted.owners)),
    )


def with_names(database: Database, wanted: Wanted, known: Contents) -> Contents:
    """The same contents within the same snapshot, with the names of the kinds in wanted.with_names."""
    names = role_names(database)
    kept = [each for each in known.objects if each.column is not None or each.kind not in wanted.with_names]
    read = [each for kind in sorted(wanted.with_names) for each in _READERS[kind](database, names, wanted)]
    return replace(known, objects=(*kept, *read))


def _schemas(database: Database, names: Mapping[int, str]) -> tuple[dict[str, tuple[str, str | None]], list[ObjectClass]]:
    rows = database.query(
        "SELECT n.nspname, n.nspowner::bigint, "
        + _exploded("coalesce(n.nspacl, pg_catalog.acldefault('n', n.nspowner))")
        + ", pg_catalog.obj_description(n.oid, 'pg_namespace'), EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.deptype = 'e'"
        " AND e.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND e.objid = n.oid)"
        f" FROM pg_catalog.pg_namespace n WHERE {_USER_SCHEMA} ORDER BY n.nspname"
    )
    schemas = {name: (names[owner], comment) for name, owner, _acl_rows, comment, _extension in rows}
    objects = [
        ObjectClass(SCHEMA, names[owner], _acl(acl, names), database.name, name, name, (name,), extension=extension)
        for name, owner, acl, _comment, extension in rows
    ]
    return schemas, objects


def _extension_members(catalog: str) -> str:
    return (
        "SELECT e.objid FROM pg_catalog.pg_depend e WHERE e.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass"
        f" AND e.deptype = 'e' AND e.classid = 'pg_catalog.{catalog}'::pg_catalog.regclass"
    )


def _named(name: str, parameters: dict[str, Any], kind: str, wanted: Wanted, *spellings: str) -> str:
    """SQL for the name of an object that matches one of the wanted patterns, else NULL."""
    schemas, patterns = wanted.pairs(kind)
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

    def read(database: Database, names: Mapping[int, str], wanted: Wanted) -> Iterable[ObjectClass]:
        parameters: dict[str, Any] = {}
        name = _named("c.relname::text", parameters, kind, wanted)
        # A sequence that belongs to a column (serial or identity) has no owner of its own to change.
        linked = (
            "EXISTS (SELECT FROM pg_catalog.pg_depend l WHERE l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objid = c.oid"
            " AND l.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.deptype IN ('a', 'i'))"
            if kind == SEQUENCE and kind in wanted.with_names
            else "false"
        )
        members = "pg_catalog.array_agg(c.relname::text)" if kind in wanted.with_names else "NULL::text[]"
        statement = (
            f"WITH grouped AS MATERIALIZED (SELECT c.relnamespace, c.relkind, c.relowner, c.relacl, c.relispartition,"
            f" c.oid IN ({_extension_members('pg_class')}) AS extension, {name} AS name, {linked} AS linked, {members} AS members, count(*)"
            f" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE c.relkind IN ({relkinds}) AND {_USER_SCHEMA} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8)"
            f" SELECT n.nspname, g.relkind, g.relowner::bigint, {_exploded(f'coalesce(g.relacl, pg_catalog.acldefault({default}, g.relowner))')},"
            f" g.relispartition, g.extension, g.name, g.linked, g.members, g.count"
            f" FROM grouped g JOIN pg_catalog.pg_namespace n ON n.oid = g.relnamespace ORDER BY 1, 2, 7 NULLS FIRST, 3, 5"
        )
        for schema, relkind, owner, acl, partition, extension, known, is_linked, all_names, count in database.query(statement, parameters):
            yield ObjectClass(
                kind,
                names[owner],
                _acl(acl, names),
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


def _columns(database: Database, names: Mapping[int, str], _wanted: Wanted) -> Iterable[ObjectClass]:
    statement = (
        f"SELECT n.nspname, c.relname, c.relkind, c.relowner::bigint, {_exploded('a.attacl')}, a.attname, c.relispartition,"
        f" c.oid IN ({_extension_members('pg_class')})"
        " FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE a.attacl IS NOT NULL AND a.attnum > 0 AND NOT a.attisdropped AND {_USER_SCHEMA} ORDER BY 1, 2, a.attnum"
    )
    for schema, table, relkind, owner, acl, column, partition, extension in database.query(statement):
        yield ObjectClass(
            TABLE,
            names[owner],
            _acl(acl, names),
            database.name,
            schema,
            table,
            (table,),
            column,
            relkind=relkind,
            partition=partition,
            extension=extension,
        )


def _functions(database: Database, names: Mapping[int, str], wanted: Wanted) -> Iterable[ObjectClass]:
    parameters: dict[str, Any] = {}
    signature = "p.proname::text || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')'"
    name = _named(signature, parameters, FUNCTION, wanted, "p.proname::text", signature)
    # regprocedure prints a quoted and qualified name, the only text from the catalogs that goes into a statement as it is.
    members = "pg_catalog.array_agg(p.oid::pg_catalog.regprocedure::text)"
    members = members if FUNCTION in wanted.with_names or wanted.pairs(FUNCTION)[0] else "NULL::text[]"
    statement = (
        f"WITH grouped AS MATERIALIZED (SELECT p.pronamespace, p.proowner, p.proacl, p.oid IN ({_extension_members('pg_proc')}) AS extension,"
        f" {name} AS name, {members} AS members, count(*) FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace"
        # The constructors of range types are parts of their type and follow it.
        " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND i.objid = p.oid"
        f" AND i.deptype = 'i') AND {_USER_SCHEMA} GROUP BY 1, 2, 3, 4, 5) SELECT n.nspname, g.proowner::bigint,"
        f" {_exploded(_or_default('g.proacl', 'f', 'g.proowner'))}, g.extension, g.name, g.members, g.count"
        f" FROM grouped g JOIN pg_catalog.pg_namespace n ON n.oid = g.pronamespace ORDER BY 1, 5 NULLS FIRST, 2"
    )
    for schema, owner, acl, extension, known, all_names, count in database.query(statement, parameters):
        yield ObjectClass(
            FUNCTION,
            names[owner],
            _acl(acl, names),
            database.name,
            schema,
            known,
            tuple(sorted(all_names)) if all_names is not None else None,
            extension=extension,
            count=count,
        )


def _or_default(acl: str, letter: str, owner: str) -> str:
    return f"coalesce({acl}, pg_catalog.acldefault('{letter}', {owner}))"


def _types(database: Database, names: Mapping[int, str], wanted: Wanted) -> Iterable[ObjectClass]:
    parameters: dict[str, Any] = {}
    name = _named("t.typname::text", parameters, TYPE, wanted)
    members = "pg_catalog.array_agg(t.typname::text)" if TYPE in wanted.with_names else "NULL::text[]"
    # Array, multirange and table row types have no privileges of their own.
    statement = (
        f"WITH grouped AS MATERIALIZED (SELECT t.typnamespace, t.typowner, t.typacl, t.oid IN ({_extension_members('pg_type')}) AS extension,"
        f" {name} AS name, {members} AS members, count(*) FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
        " WHERE (t.typtype IN ('b', 'd', 'e', 'r') OR t.typrelid IN (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relkind = 'c'))"
        " AND NOT (t.typelem <> 0 AND t.typsubscript = 'pg_catalog.array_subscript_handler'::pg_catalog.regproc)"
        f" AND {_USER_SCHEMA} GROUP BY 1, 2, 3, 4, 5) SELECT n.nspname, g.typowner::bigint, {_exploded(_or_default('g.typacl', 'T', 'g.typowner'))},"
        " g.extension, g.name, g.members, g.count FROM grouped g JOIN pg_catalog.pg_namespace n ON n.oid = g.typnamespace"
        " ORDER BY 1, 5 NULLS FIRST, 2"
    )
    for schema, owner, acl, extension, known, all_names, count in database.query(statement, parameters):
        yield ObjectClass(
            TYPE,
            names[owner],
            _acl(acl, names),
            database.name,
            schema,
            known,
            (known,) if known is not None else tuple(sorted(all_names)) if all_names is not None else None,
            extension=extension,
            count=count,
        )


def _plain(kind: str, catalog: str, prefix: str, letter: str, trusted: str = "true") -> Reader:
    """A reader of objects outside schemas that come in small numbers."""

    def read(database: Database, names: Mapping[int, str], _wanted: Wanted) -> Iterable[ObjectClass]:
        owner, acl = f"o.{prefix}owner", f"o.{prefix}acl"
        statement = (
            f"SELECT o.{prefix}name, {owner}::bigint, {_exploded(_or_default(acl, letter, owner))}, o.oid IN ({_extension_members(catalog)})"
            f" FROM pg_catalog.{catalog} o WHERE {trusted} ORDER BY 1"
        )
        for name, owned_by, entries, extension in database.query(statement):
            yield ObjectClass(kind, names[owned_by], _acl(entries, names), database.name, None, name, (name,), extension=extension)

    return read


# The built-in languages internal and c are the server's own; plpgsql is an extension's, and may still be granted by name.
_languages = _plain(LANGUAGE, "pg_language", "lan", "l", "o.lanname NOT IN ('internal', 'c')")
_wrappers = _plain(FOREIGN_DATA_WRAPPER, "pg_foreign_data_wrapper", "fdw", "F")
_servers = _plain(FOREIGN_SERVER, "pg_foreign_server", "srv", "S")


def _large_objects(database: Database, names: Mapping[int, str], wanted: Wanted) -> Iterable[ObjectClass]:
    _schemas_unused, oids = wanted.pairs(LARGE_OBJECT)
    members = "pg_catalog.array_agg(l.oid::text)" if LARGE_OBJECT in wanted.with_names else "NULL::text[]"
    statement = (
        f"WITH grouped AS MATERIALIZED (SELECT l.lomowner, l.lomacl, CASE WHEN l.oid::text = ANY(%(oids)s) THEN l.oid::text END AS name,"
        f" {members} AS members, count(*) FROM pg_catalog.pg_largeobject_metadata l GROUP BY 1, 2, 3)"
        f" SELECT g.lomowner::bigint, {_exploded(_or_default('g.lomacl', 'L', 'g.lomowner'))}, g.name, g.members, g.count FROM grouped g"
        " ORDER BY 3 NULLS FIRST, 1"
    )
    for owner, acl, known, all_names, count in database.query(statement, {"oids": oids}):
        yield ObjectClass(
            LARGE_OBJECT,
            names[owner],
            _acl(acl, names),
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
COUNTLESS = frozenset(_READERS)


def _default_acls(database: Database, names: Mapping[int, str]) -> dict[tuple[str, str | None, str], tuple[AclEntry, ...]]:
    rows = database.query(
        f"SELECT a.defaclrole::bigint, n.nspname, a.defaclobjtype, {_exploded('a.defaclacl')}"
        " FROM pg_catalog.pg_default_acl a LEFT JOIN pg_catalog.pg_namespace n ON n.oid = a.defaclnamespace"
    )
    return {(names[owner], schema, DEFAULT_ACL_TYPES[objects]): _acl(acl, names) for owner, schema, objects, acl in rows if objects in DEFAULT_ACL_TYPES}


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
        {"schemas": [schema for schema, _name in ordered], "tables": [like_pattern(name) for _schema, name in ordered]},
    )
    return {(schema, table): frozenset(columns) for schema, table, columns in rows}


def _owned(database: Database, roles: Sequence[str]) -> dict[str, tuple[str, ...]]:
    if not roles:
        return {}
    owned: dict[str, set[str]] = {}
    for role, description in database.query(
        "SELECT r.rolname, pg_catalog.pg_describe_object(s.classid, s.objid, s.objsubid) FROM pg_catalog.pg_shdepend s"
        " JOIN pg_catalog.pg_roles r ON s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND r.oid = s.refobjid"
        " JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database() AND s.dbid = d.oid"
        " WHERE s.deptype = 'o' AND s.classid <> 'pg_catalog.pg_default_acl'::pg_catalog.regclass AND r.rolname = ANY(%(roles)s)",
        {"roles": list(roles)},
    ):
        owned.setdefault(role, set()).add(description)
    return {role: tuple(sorted(descriptions)) for role, descriptions in owned.items()}
