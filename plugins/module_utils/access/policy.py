# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> frozen dataclasses. Collects every mistake with its YAML path, not the first alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.document import Node
from ..core.errors import Mistake, PolicyError, nearest
from ..core.identifiers import name_problem, schema_name_problem
from .model import (
    DATABASE,
    DEFAULT_TYPES,
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
    VIEW,
    Database,
    DefaultGrant,
    Grant,
    Policy,
    Role,
    Schema,
)
from .policy_roles import read_roles
from .privileges import ALL, COLUMN, read_privileges
from .profiles import Assignment, Profile, closed_to_public, expand, read_assignments, read_profiles
from .reconcile_defaults import BUILT_IN, KIND_OF_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOP_KEYS = ("roles", "profiles", "grants", "databases")
_DATABASE_KEYS = ("owner", "comment", "template", "encoding", "locale", "grants", "default_privileges", "schemas")
_SCHEMA_KEYS = ("owner", "objects_owner", "partitions", "comment", "profiles", "grants", "default_privileges")
_DEFAULT_KEYS = ("owner", "to", "type", "privileges", "grant_option")

# What a grant may be on, by the place that it stands in: key of the document -> kind.
_CLUSTER_TARGETS: Mapping[str, str] = {"tablespaces": TABLESPACE, "parameters": PARAMETER}
_DATABASE_TARGETS: Mapping[str, str] = {
    "languages": LANGUAGE,
    "foreign_data_wrappers": FOREIGN_DATA_WRAPPER,
    "foreign_servers": FOREIGN_SERVER,
    "large_objects": LARGE_OBJECT,
}
_SCHEMA_TARGETS: Mapping[str, str] = {"tables": TABLE, "views": VIEW, "sequences": SEQUENCE, "functions": FUNCTION, "types": TYPE}
_MAY_BE_ALL = frozenset({TABLE, VIEW, SEQUENCE, FUNCTION, TYPE, LARGE_OBJECT})


def read_policy(document: Mapping[str, Any], passwords: Mapping[str, Any] | None = None, mode: str = "managed", path_prefix: str = "") -> Policy:
    """The policy of a document. Raises PolicyError with all mistakes.

    passwords: role -> plain password or SCRAM verifier. mode: in managed and authoritative mode an attribute that is not said has its default.
    """
    mistakes: list[Mistake] = []
    node = Node(document, "", mistakes, _TOP_KEYS)
    roles, absent = read_roles(node, passwords or {}, exact=mode != "additive")
    profiles = read_profiles(node)
    reader = _Reader({role.name: role for role in roles}, profiles, mistakes)
    reader.read_grants(node, None, None)
    for name, value, path in node.mapping("databases"):
        reader.read_database(name, value, path)
    gone = {role.name for role in absent}
    places = [(each.path, each.grantees) for each in reader.grants] + [(each.path, each.grantees) for each in reader.defaults]
    mistakes.extend(Mistake(path, f'role "{name}" is declared absent') for path, names in places for name in names if name in gone)
    _check_columns(reader.grants, mistakes)
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    return Policy(
        roles=tuple(sorted(roles, key=lambda role: role.name)),
        absent_roles=tuple(sorted(absent, key=lambda role: role.name)),
        databases=tuple(sorted(reader.databases, key=lambda database: database.name)),
        grants=tuple(reader.grants),
        default_grants=tuple(reader.defaults),
    )


class _Reader:
    """Collects the databases, grants and default privileges of one document."""

    def __init__(self, roles: Mapping[str, Role], profiles: Mapping[str, Profile], mistakes: list[Mistake]) -> None:
        self.databases: list[Database] = []
        self.grants: list[Grant] = []
        self.defaults: list[DefaultGrant] = []
        self._roles = roles
        self._profiles = profiles
        self._mistakes = mistakes

    def read_database(self, name: str, value: object, path: str) -> None:
        """One entry of databases."""
        problem = name_problem(name)
        if problem:
            self._mistakes.append(Mistake(path, problem))
            return
        if name == "template0":
            self._mistakes.append(Mistake(path, "template0 allows no connections and is left alone"))
            return
        node = Node(value, path, self._mistakes, _DATABASE_KEYS)
        self.read_grants(node, name, None)
        self._read_defaults(node, name, None)
        creators: dict[str, str] = {}
        schemas = [self._read_schema(name, schema, inner, at, creators) for schema, inner, at in node.mapping("schemas")]
        declared = {grant.owner for grant in self.defaults if grant.database == name and grant.schema is None and _closes_functions(grant)}
        for creator, at in sorted(creators.items()):
            if creator not in declared:
                self.defaults.extend(closed_to_public(at, name, [creator]))
        self.databases.append(
            Database(
                path,
                name,
                owner=node.text("owner", name_problem),
                comment=node.text("comment"),
                template=node.text("template", name_problem),
                encoding=node.text("encoding"),
                locale=node.text("locale"),
                schemas=tuple(schema for schema in schemas if schema is not None),
            )
        )

    def _read_schema(self, database: str, name: str, value: object, path: str, creators: dict[str, str]) -> Schema | None:
        problem = schema_name_problem(name)
        if problem:
            self._mistakes.append(Mistake(path, problem))
            return None
        node = Node(value, path, self._mistakes, _SCHEMA_KEYS)
        schema = Schema(
            path,
            name,
            owner=node.text("owner", name_problem),
            objects_owner=node.text("objects_owner", name_problem),
            partitions=node.word("partitions", ("parent", "mirror"), "parent"),
            comment=node.text("comment"),
        )
        self.read_grants(node, database, name)
        self._read_defaults(node, database, name)
        assignments = read_assignments(node, self._profiles)
        makers = self._creators(schema, assignments)
        grants, defaults = expand(database, schema, assignments, makers)
        self.grants.extend(grants)
        self.defaults.extend(defaults)
        for maker in makers:
            creators.setdefault(maker, path)
        return schema

    def _creators(self, schema: Schema, assignments: list[Assignment]) -> list[str]:
        """The roles that make objects in the schema; a superuser who owns it is not expected to."""
        owners = {owner for owner in (schema.owner, schema.objects_owner) if owner in self._roles and not self._roles[owner or ""].superuser}
        return sorted({each.role for each in assignments if each.profile.creates} | {owner for owner in owners if owner})

    def read_grants(self, container: Node, database: str | None, schema: str | None) -> None:
        """The list grants of the document itself, of a database or of a schema."""
        targets = _CLUSTER_TARGETS if database is None else _DATABASE_TARGETS if schema is None else _SCHEMA_TARGETS
        itself = None if database is None else DATABASE if schema is None else SCHEMA
        accepted = ("to", "privileges", *targets, *(("except", "columns") if schema is not None else ()), "grant_option")
        for value, path in container.entries("grants"):
            node = Node(value, path, self._mistakes, accepted)
            chosen = [key for key in targets if key in node]
            if len(chosen) > 1:
                node.mistake("", f"names objects of several kinds ({', '.join(chosen)}); write an entry for each")
            elif not chosen and itself is None:
                node.mistake("", f"names no objects; accepted: {', '.join(targets)}")
            else:
                self._read_grant(node, targets[chosen[0]] if chosen else str(itself), chosen[0] if chosen else None, database, schema)

    def _read_grant(self, node: Node, kind: str, key: str | None, database: str | None, schema: str | None) -> None:
        names: tuple[str, ...] | None = None
        if key is not None:
            names = self._names(node, key, kind)
        excluding = node.names("except", name_problem)
        columns = node.names("columns", name_problem)
        if excluding and names is not None and not any("*" in name for name in names):
            node.mistake("except", "goes with all objects or with a pattern; leave the names out of the list instead")
        if columns and (kind != TABLE or names is None):
            node.mistake("columns", "goes with named tables")
        grantees = self._grantees(node)
        privileges = read_privileges(node, "privileges", COLUMN if columns else kind, required=True)
        option = bool(node.boolean("grant_option", False))
        if option and PUBLIC in grantees:
            node.mistake("grant_option", "cannot be given to PUBLIC")
        if names is not None and not names:
            return
        if grantees and privileges:
            self.grants.append(Grant(node.path, kind, grantees, privileges, database, schema, names, excluding, columns, option))

    def _names(self, node: Node, key: str, kind: str) -> tuple[str, ...] | None:
        value = node.raw(key)
        if kind in _MAY_BE_ALL and isinstance(value, str) and value.lower() == "all":
            return None
        if kind == LARGE_OBJECT and isinstance(value, (list, tuple)) and all(isinstance(item, int) for item in value):
            return tuple(str(item) for item in value)
        if value is None or value == []:
            node.mistake(key, "names nothing" + ('; write "all" for all' if kind in _MAY_BE_ALL else ""))
            return ()
        if kind == LARGE_OBJECT:
            return node.names(key, lambda item: None if item.isdigit() else "must be the OID of a large object")
        return node.names(key, (lambda item: name_problem(item.rpartition("(")[0] or item)) if kind == FUNCTION else name_problem)

    def _grantees(self, node: Node) -> tuple[str, ...]:
        if "to" not in node:
            node.mistake("to", "is missing: the role or roles that get the privileges")
        found = (PUBLIC if name.lower() == "public" else name for name in node.names("to", name_problem))
        return tuple(sorted(set(found)))

    def _read_defaults(self, container: Node, database: str, schema: str | None) -> None:
        for value, path in container.entries("default_privileges"):
            node = Node(value, path, self._mistakes, _DEFAULT_KEYS)
            kind = node.text("type")
            owners = node.names("owner", name_problem)
            grantees = self._grantees(node)
            if not owners:
                node.mistake("owner", "is missing: the role whose future objects these are")
            if kind not in DEFAULT_TYPES:
                node.mistake("type", f'"{kind}" is not accepted{nearest(str(kind), DEFAULT_TYPES)}; accepted: {", ".join(DEFAULT_TYPES)}')
                continue
            privileges = read_privileges(node, "privileges", KIND_OF_TYPE[kind], required=True, may_be_empty=True)
            option = bool(node.boolean("grant_option", False))
            if option and PUBLIC in grantees:
                node.mistake("grant_option", "cannot be given to PUBLIC")
            if schema is not None and kind in ("schemas", "large_objects"):
                node.mistake(
                    "type", f"default privileges on {kind.replace('_', ' ')} belong to no schema; write them under databases.{database}.default_privileges"
                )
            elif schema is not None and PUBLIC in grantees and kind in BUILT_IN and not privileges:
                node.mistake(
                    "",
                    f"PostgreSQL ignores this: default privileges of a schema are added to the global ones and take nothing away. Write it under "
                    f"databases.{database}.default_privileges, for all schemas: {{owner: {', '.join(owners)}, to: PUBLIC, type: {kind}, privileges: []}}",
                )
            self.defaults.extend(DefaultGrant(path, database, schema, owner, kind, grantees, privileges, option) for owner in owners if grantees)


def _closes_functions(grant: DefaultGrant) -> bool:
    return grant.type == "functions" and PUBLIC in grant.grantees


def _check_columns(grants: list[Grant], mistakes: list[Mistake]) -> None:
    """A column privilege that the same role has on the whole table says nothing, and taking it away would change nothing."""
    for grant in (each for each in grants if each.columns):
        for other in grants:
            if other.columns or (other.database, other.schema, other.kind) != (grant.database, grant.schema, TABLE):
                continue
            both = sorted(set(grant.grantees) & set(other.grantees))
            words = grant.privileges if ALL in other.privileges else grant.privileges & other.privileges
            tables = [name for name in grant.names or () if name not in other.excluding and (other.names is None or name in other.names)]
            if both and words and tables:
                mistakes.append(
                    Mistake(
                        grant.path,
                        f"has no effect: {', '.join(both)} gets {', '.join(sorted(words))} on the whole of {', '.join(tables)} at {other.path}; "
                        "leave the tables out there (except) or drop this entry",
                    )
                )


__all__ = ["read_policy"]
