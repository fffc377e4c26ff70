# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> frozen dataclasses. Collects every mistake with its YAML path, not the first alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC
from ..core.document import Node, quoted, value_text
from ..core.errors import Mistake, PolicyError, nearest
from ..core.identifiers import function_problem, name_problem, one_role_problem, parameter_problem, pattern_problem, schema_name_problem
from .model import (
    DATABASE,
    DEFAULT_TYPES,
    FOREIGN_DATA_WRAPPER,
    FOREIGN_SERVER,
    FUNCTION,
    LANGUAGE,
    LARGE_OBJECT,
    PARAMETER,
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
from .policy_checks import check_columns, check_defaults
from .policy_roles import read_roles
from .privileges import BUILT_IN, COLUMN, KIND_OF_TYPE, read_privileges
from .profiles import Assignment, Profile, closed_to_public, grants_of, read_assignments, read_profiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Callable

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
_PROBLEMS: Mapping[str, Callable[[str], str | None]] = {FUNCTION: function_problem, PARAMETER: parameter_problem}


def read_policy(
    document: Mapping[str, Any], passwords: Mapping[str, Any] | None = None, mode: str = "managed", path_prefix: str = ""
) -> Policy:
    """The policy of a document. Raises PolicyError with all mistakes.

    passwords: role -> plain password or SCRAM verifier. mode: in managed and authoritative mode an attribute that is not said has its
    default.
    """
    mistakes: list[Mistake] = []
    node = Node(document, "", mistakes, _TOP_KEYS)
    roles, absent = read_roles(node, passwords, exact=mode != "additive")
    profiles = read_profiles(node)
    reader = _Reader({role.name: role for role in roles}, profiles, mistakes)
    reader.read_grants(node, None, None)
    for name, value, path in node.mapping("databases"):
        reader.read_database(name, value, path)
    gone = {role.name for role in absent}
    mistakes.extend(Mistake(path, f"role {quoted(name)} is declared absent") for path, name in reader.references() if name in gone)
    check_columns(reader.grants, mistakes)
    check_defaults(reader.defaults, mistakes)
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

    def references(self) -> Iterator[tuple[str, str]]:
        """Every role that databases, grants and default privileges speak of, with the place."""
        for grant in self.grants:
            yield from ((grant.path, name) for name in grant.grantees)
        for default in self.defaults:
            yield from ((default.path, name) for name in (default.owner, *default.grantees))
        for database in self.databases:
            if database.owner is not None:
                yield f"{database.path}.owner", database.owner
            for schema in database.schemas:
                owners = (("owner", schema.owner), ("objects_owner", schema.objects_owner))
                yield from ((f"{schema.path}.{key}", name) for key, name in owners if name is not None)

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
                owner=node.text("owner", one_role_problem),
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
            owner=node.text("owner", one_role_problem),
            objects_owner=node.text("objects_owner", one_role_problem),
            partitions=node.word("partitions", ("parent", "mirror"), "parent"),
            comment=node.text("comment"),
        )
        self.read_grants(node, database, name)
        self._read_defaults(node, database, name)
        assignments = read_assignments(node, self._profiles)
        makers = self._creators(schema, assignments)
        grants, defaults = grants_of(database, schema, assignments, makers)
        self.grants.extend(grants)
        self.defaults.extend(defaults)
        for maker in makers:
            creators.setdefault(maker, path)
        return schema

    def _creators(self, schema: Schema, assignments: list[Assignment]) -> list[str]:
        """The roles that make objects in the schema; a superuser who owns it is not expected to."""
        owners = {
            owner for owner in (schema.owner, schema.objects_owner) if owner in self._roles and not self._roles[owner or ""].superuser
        }
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
            elif chosen:
                self._read_grant(node, targets[chosen[0]], chosen[0], database, schema)
            elif itself is not None and node.sound:
                self._read_grant(node, itself, None, database, schema)
            elif node.sound:
                node.mistake("", f"names no objects; accepted: {', '.join(targets)}")

    def _read_grant(self, node: Node, kind: str, key: str | None, database: str | None, schema: str | None) -> None:
        names = self._names(node, key, kind) if key is not None else None
        excluding = node.names("except", _PROBLEMS.get(kind, pattern_problem))
        columns = node.names("columns", name_problem)
        patterns = [name for name in names or () if "*" in name]
        if excluding and (key is None or (names and not patterns)):
            node.mistake("except", "goes with all objects or with a pattern; name only the ones that are meant")
        if node.says("columns") and (kind != TABLE or names is None or patterns):
            node.mistake("columns", "goes with tables that are named one by one")
        if node.says("columns") and node.raw("columns") == []:
            node.mistake("columns", "names nothing; leave the key out for whole tables")
        grantees = _grantees(node)
        privileges = read_privileges(node, "privileges", COLUMN if node.says("columns") else kind, required=True)
        option = _grant_option(node, grantees)
        if grantees and privileges and names != ():
            self.grants.append(Grant(node.path, kind, grantees, privileges, database, schema, names, excluding, columns, option))

    def _names(self, node: Node, key: str, kind: str) -> tuple[str, ...] | None:
        """The objects at a key; None for all of them, empty after a mistake."""
        value = node.raw(key)
        if isinstance(value, str) and value.lower() == "all":
            if kind in _MAY_BE_ALL:
                return None
            node.mistake(key, "cannot be all; name them one by one")
            return ()
        if value is None or value == []:
            node.mistake(key, "names nothing" + ("; write all for all of them" if kind in _MAY_BE_ALL else ""))
            return ()
        if kind == LARGE_OBJECT:
            return _oids(node, key, value)
        names = node.names(key, _PROBLEMS.get(kind, pattern_problem))
        return tuple(dict.fromkeys(name.lower() for name in names)) if kind == PARAMETER else names

    def _read_defaults(self, container: Node, database: str, schema: str | None) -> None:
        for value, path in container.entries("default_privileges"):
            node = Node(value, path, self._mistakes, _DEFAULT_KEYS)
            owners = node.names("owner", one_role_problem)
            grantees = _grantees(node)
            option = _grant_option(node, grantees)
            if not owners and node.sound and not node.raw("owner"):
                node.mistake("owner", "is missing: the role whose future objects these are")
            kind = _default_type(node, database, schema)
            if kind is None:
                continue
            privileges = read_privileges(node, "privileges", KIND_OF_TYPE[kind], required=True, may_be_empty=True)
            closes = schema is not None and PUBLIC in grantees and kind in BUILT_IN and not privileges
            if closes and node.says("privileges") and not node.raw("privileges"):
                node.mistake(
                    "",
                    "PostgreSQL ignores this: default privileges of a schema are added to the global ones and take nothing "
                    "away. Write it under "
                    f"databases.{database}.default_privileges, for all schemas: "
                    f"{{owner: {', '.join(owners)}, to: PUBLIC, type: {kind}, privileges: []}}",
                )
            if not privileges and node.raw("privileges"):
                continue  # its mistakes are noted
            self.defaults.extend(
                DefaultGrant(path, database, schema, owner, kind, grantees, privileges, option) for owner in owners if grantees
            )


def _grantees(node: Node) -> tuple[str, ...]:
    if not node.raw("to") and node.sound and not isinstance(node.raw("to"), (bool, int, str)):
        node.mistake("to", "is missing: the role or roles that get the privileges")
    return tuple(sorted({PUBLIC if name == "public" else name for name in node.names("to", name_problem)}))


def _grant_option(node: Node, grantees: tuple[str, ...]) -> bool:
    option = bool(node.boolean("grant_option", False))
    if option and PUBLIC in grantees:
        node.mistake("grant_option", "cannot be given to PUBLIC; PostgreSQL refuses it")
    return option


def _oids(node: Node, key: str, value: object) -> tuple[str, ...]:
    """Large objects by their numbers, written as numbers or strings."""
    found: dict[str, None] = {}
    for item in value if isinstance(value, (list, tuple)) else [value]:
        text = str(item) if isinstance(item, (int, str)) and not isinstance(item, bool) else ""
        if re.fullmatch("[0-9]{1,10}", text) and 0 < int(text) < 2**32:
            found[str(int(text))] = None
        else:
            node.mistake(key, f"must be OIDs of large objects, or all, not {value_text(item)}")
            return ()
    return tuple(found)


def _default_type(node: Node, database: str, schema: str | None) -> str | None:
    accepted = f"accepted: {', '.join(DEFAULT_TYPES)}"
    if not node.says("type"):
        if node.sound:
            node.mistake("type", f"is missing; {accepted}")
        return None
    kind = node.text("type")
    if kind is not None and kind not in DEFAULT_TYPES:
        node.mistake("type", f"{quoted(kind)} is not accepted{nearest(kind, DEFAULT_TYPES)}; {accepted}")
        return None
    if kind in ("schemas", "large_objects") and schema is not None:
        node.mistake(
            "type",
            f"default privileges on {kind.replace('_', ' ')} belong to no schema; write them under databases.{database}.default_privileges",
        )
    return kind


def _closes_functions(grant: DefaultGrant) -> bool:
    return grant.type == "functions" and PUBLIC in grant.grantees


__all__ = ["read_policy"]
