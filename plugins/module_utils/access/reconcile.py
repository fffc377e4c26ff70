# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared policy and the actual state -> the plan. Pure: no connection; the same input gives the same plan."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core import statements as st
from ..core.catalog import PUBLIC, AclEntry
from ..core.patterns import sql_pattern
from ..core.plan import Change, Effect, Plan
from .model import (
    DATABASE,
    FUNCTION,
    LANGUAGE,
    LARGE_OBJECT,
    PARAMETER,
    SCHEMA,
    TABLE,
    VIEW,
    Cluster,
    Contents,
    Database,
    DatabaseFacts,
    Details,
    ObjectClass,
    Schema,
)
from .reconcile_defaults import plan_defaults
from .reconcile_grants import counted, needs_names, plan_grants
from .reconcile_owners import plan_owners
from .reconcile_roles import plan_memberships, plan_removals, plan_roles, plan_settings
from .scope import normalized_signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .scope import Scope


def details_of(scope: Scope, database: str | None, with_names: frozenset[str] = frozenset()) -> Details:
    """What the catalog has to read one by one, because the policy names it."""
    patterns = set()
    tables = set()
    for grant in scope.grants_in.get(database, ()):
        kind = TABLE if grant.kind == VIEW else grant.kind
        for item in (*(grant.names or ()), *grant.excluding):
            if kind == LARGE_OBJECT:
                patterns.add((kind, "", item))
                continue
            bare = normalized_signature(item).rpartition("(")[0] if kind == FUNCTION and "(" in item else item
            patterns.add((kind, grant.schema or "", sql_pattern(bare)))
            if grant.columns:
                tables.add((grant.schema or "", item))
    owners = frozenset(role.name for role in scope.policy.absent_roles)
    return Details(frozenset(patterns), frozenset(tables), owners, with_names)


def reconcile_cluster(scope: Scope, cluster: Cluster, iterations: int | None) -> Plan:
    """What comes before the databases: roles, memberships, tablespaces, parameters."""
    named = [database.name for database in scope.policy.databases]
    changes = plan_roles(scope, cluster, iterations)
    changes += plan_memberships(scope, cluster)
    changes += plan_settings(scope, cluster, None, named)
    owned, objects, _incomplete = plan_owners(scope, None, _shared_objects(scope, cluster, named), {})
    changes += owned
    changes += plan_grants(scope, None, objects)
    return Plan(tuple(changes))


def _shared_objects(scope: Scope, cluster: Cluster, named: list[str]) -> list[ObjectClass]:
    """Tablespaces, parameters, and what the roles that go have of databases that the policy does not name."""
    objects = list(cluster.objects)
    known = {each.name for each in objects if each.kind == PARAMETER}
    for grant in scope.grants.get((None, PARAMETER, None), ()):
        for name in grant.names or ():
            if name not in known:
                known.add(name)
                objects.append(ObjectClass(PARAMETER, cluster.bootstrap, (), name=name, names=(name,)))
    going = {role.name for role in scope.policy.absent_roles}
    for name, facts in sorted(cluster.databases.items()):
        # Of a database that the policy does not name, only what the roles that go own or hold is looked at.
        held = tuple(entry for entry in facts.acl if {entry.grantee, entry.grantor} & going)
        if name not in named and (held or facts.owner in scope.reassigned):
            objects.append(ObjectClass(DATABASE, facts.owner, held, name, None, name, (name,)))
    return objects


def creation(database: Database) -> Change:
    """CREATE DATABASE, the only statement that cannot run in a transaction."""
    options = [st.compose(" OWNER {}", st.identifier(database.owner))] if database.owner else []
    if database.template:
        options.append(st.compose(" TEMPLATE {}", st.identifier(database.template)))
    if database.encoding:
        options.append(st.compose(" ENCODING {}", st.literal(database.encoding)))
    if database.locale:
        options.append(st.compose(" LOCALE {}", st.literal(database.locale)))
    return Change(
        f"database {database.name}",
        f"database {database.name}: created" + (f", owner {database.owner}" if database.owner else ""),
        st.compose("CREATE DATABASE {}{}", st.identifier(database.name), st.compose("{}" * len(options), *options)),
        effect=Effect.CREATE,
    )


def facts_of_new(cluster: Cluster, database: Database) -> DatabaseFacts:
    """A database as CREATE DATABASE will make it: everybody may connect and make temporary tables."""
    owner = database.owner or cluster.applying
    public = (AclEntry(PUBLIC, owner, "CONNECT"), AclEntry(PUBLIC, owner, "TEMPORARY"))
    own = tuple(AclEntry(owner, owner, privilege) for privilege in ("CONNECT", "CREATE", "TEMPORARY"))
    return DatabaseFacts(database.name, owner, public + own, None, True, False)


def contents_of_template0(other: Contents, cluster: Cluster) -> Contents:
    """What is in template0, to which nobody may connect: what initdb made. other: contents of any database of the server."""
    since_15 = cluster.version >= 150000
    owner = "pg_database_owner" if since_15 else cluster.bootstrap
    acl = [AclEntry(owner, owner, privilege) for privilege in ("CREATE", "USAGE")]
    acl += [AclEntry(PUBLIC, owner, privilege) for privilege in (("USAGE",) if since_15 else ("CREATE", "USAGE"))]
    public = ObjectClass(SCHEMA, owner, tuple(acl), other.database, "public", "public", ("public",))
    languages = tuple(each for each in other.objects if each.kind == LANGUAGE and each.name == "plpgsql")
    return Contents(other.database, {"public": (owner, "standard public schema")}, (public, *languages), {})


def contents_of_new(template: Contents, name: str) -> Contents:
    """What will be in a database copied from its template."""
    objects = tuple(replace(each, database=name) for each in template.objects)
    return replace(template, database=name, objects=objects, owned={})


def names_needed(scope: Scope, cluster: Cluster, database: Database, facts: DatabaseFacts, contents: Contents) -> frozenset[str]:
    """The kinds of objects that the plan for one database names, and whose names were not read."""
    _changes, objects, unnamed = _owned(scope, cluster, database, facts, contents)
    return unnamed | needs_names(scope, [each for each in objects if each.column is None])


def reconcile_database(scope: Scope, cluster: Cluster, database: Database, facts: DatabaseFacts, contents: Contents) -> Plan:
    """The plan for one database. The contents have the names that are needed."""
    name = database.name
    changes: list[Change] = []
    if database.comment is not None and database.comment != (facts.comment or ""):
        changes.append(
            Change(
                f"database {name}",
                f"database {name}: comment",
                st.compose("COMMENT ON DATABASE {} IS {}", st.identifier(name), st.literal(database.comment or None)),
                name,
            )
        )
    owned, objects, _unnamed = _owned(scope, cluster, database, facts, contents)
    changes += _reassignments(scope, contents) + owned
    changes += plan_settings(scope, cluster, name, [name])
    changes += plan_grants(scope, name, objects, contents)
    changes += plan_defaults(scope, contents)
    changes += _system_rights(contents)
    return Plan(tuple(changes))


def _system_rights(contents: Contents) -> list[Change]:
    """What roles that are to go have on objects of PostgreSQL itself."""
    return [
        Change(
            f"role {role}",
            f"{role}: {kind.lower()} {name}  -ALL" + (f" (granted by {grantor})" if grantor else "") + ", and from whom it passed that on",
            _revoked(kind, name, role, grantor),
            contents.database,
            Effect.REVOKE,
            privileges=1,
            from_roles=1,
        )
        for role, objects in sorted(contents.of_system.items())
        for kind, name, grantor in objects
    ]


def _revoked(kind: str, name: str, role: str, grantor: str | None) -> Any:
    statement = st.compose("REVOKE ALL ON {} {} FROM {} CASCADE", st.keywords(kind), st.keywords(name), st.identifier(role))
    return st.compose("SET LOCAL ROLE {}; {}; RESET ROLE", st.keywords(grantor), statement) if grantor else statement


def _owned(
    scope: Scope, cluster: Cluster, database: Database, facts: DatabaseFacts, contents: Contents
) -> tuple[list[Change], list[ObjectClass], frozenset[str]]:
    """Statements for new schemas and other owners, the objects as they leave them, and the kinds whose names the statements lack."""
    name = database.name
    objects = [ObjectClass(DATABASE, facts.owner, facts.acl, name, None, name, (name,)), *contents.objects]
    created, new_schemas = _schemas(cluster, database, contents)
    owners: dict[tuple[str, str], str | None] = {(DATABASE, name): database.owner}
    owners.update({(SCHEMA, schema.name): schema.owner for schema in database.schemas})
    owned, after, unnamed = plan_owners(scope, name, [*(_reassigned(scope, each) for each in objects), *new_schemas], owners)
    return created + owned, after, unnamed


def _reassignments(scope: Scope, contents: Contents) -> list[Change]:
    return [
        Change(
            f"role {old}",
            f"{counted(len(contents.owned[old]))} of {old}: owner -> {new} ({', '.join(contents.owned[old][:5])}"
            + (" ..." if len(contents.owned[old]) > 5 else "")
            + ")",
            st.compose("REASSIGN OWNED BY {} TO {}", st.identifier(old), st.identifier(new)),
            contents.database,
        )
        for old, new in sorted(scope.reassigned.items())
        if contents.owned.get(old)
    ]


def _reassigned(scope: Scope, objects: ObjectClass) -> ObjectClass:
    """The object as REASSIGN OWNED leaves it; the database itself gets a statement of its own."""
    if objects.kind == DATABASE or objects.owner not in scope.reassigned:
        return objects
    _changes, after, _incomplete = plan_owners(replace(scope, schemas={}), objects.database, [objects], {})
    return after[0]


def _schemas(cluster: Cluster, database: Database, contents: Contents) -> tuple[list[Change], list[ObjectClass]]:
    """CREATE SCHEMA and COMMENT statements, and the schemas to come as objects."""
    changes: list[Change] = []
    new: list[ObjectClass] = []
    for schema in database.schemas:
        if schema.name not in contents.schemas:
            owner = schema.owner or cluster.applying
            changes.append(
                Change(
                    f"schema {schema.name}",
                    f"schema {schema.name}: created, owner {owner}",
                    st.compose("CREATE SCHEMA {} AUTHORIZATION {}", st.identifier(schema.name), st.identifier(owner)),
                    database.name,
                    Effect.CREATE,
                )
            )
            own = tuple(AclEntry(owner, owner, privilege) for privilege in ("CREATE", "USAGE"))
            new.append(ObjectClass(SCHEMA, owner, own, database.name, schema.name, schema.name, (schema.name,)))
        changes += _schema_comment(database.name, schema, contents.schemas)
    return changes, new


def _schema_comment(database: str, schema: Schema, existing: Mapping[str, tuple[str, str | None]]) -> list[Change]:
    before = existing[schema.name][1] if schema.name in existing else None
    if schema.comment is None or schema.comment == (before or ""):
        return []
    return [
        Change(
            f"schema {schema.name}",
            f"schema {schema.name}: comment",
            st.compose("COMMENT ON SCHEMA {} IS {}", st.identifier(schema.name), st.literal(schema.comment or None)),
            database,
        )
    ]


__all__ = [
    "contents_of_new",
    "contents_of_template0",
    "creation",
    "details_of",
    "facts_of_new",
    "names_needed",
    "plan_removals",
    "reconcile_cluster",
    "reconcile_database",
]
