# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: what a kind of user needs in a schema, so that a policy is short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.catalog import PUBLIC
from ..core.document import Node, quoted, value_text
from ..core.errors import Mistake, nearest
from ..core.identifiers import name_problem, pattern_problem
from .model import DATABASE, FUNCTION, SCHEMA, SEQUENCE, TABLE, TYPE, VIEW, DefaultGrant, Grant, Schema
from .privileges import read_privileges

# In the same form as the users' own, which may replace them.
BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "app_service": {
        "database": ["CONNECT"],
        "schema": ["USAGE"],
        "tables": ["SELECT", "INSERT", "UPDATE", "DELETE"],
        "views": ["SELECT"],  # a view writes to its tables with the rights of its owner
        "sequences": ["USAGE"],
    },
    "migration": {
        "database": ["CONNECT", "TEMPORARY"],
        "schema": ["USAGE", "CREATE"],
        "tables": ["ALL"],
        "sequences": ["ALL"],
        "functions": ["ALL"],
        "types": ["ALL"],
        "creates": True,
    },
    "readonly": {"database": ["CONNECT"], "schema": ["USAGE"], "tables": ["SELECT"], "sequences": ["SELECT"]},
}

_OBJECTS: Mapping[str, str] = {"tables": TABLE, "sequences": SEQUENCE, "functions": FUNCTION, "types": TYPE}
_KINDS: Mapping[str, str] = {"database": DATABASE, "schema": SCHEMA, **_OBJECTS, "views": VIEW}


@dataclass(frozen=True)
class Profile:
    """privileges: key of the document (database, schema, tables, ...) -> privilege words. creates: its roles make objects in the schema.

    on_views: those on views, None for the same as on tables.
    """

    name: str
    privileges: Mapping[str, frozenset[str]]
    creates: bool
    on_views: frozenset[str] | None = None


@dataclass(frozen=True)
class Assignment:
    """A role with a profile in a schema. excluding: tables that are left out."""

    role: str
    profile: Profile
    excluding: tuple[str, ...]
    path: str


def read_profiles(document: Node) -> dict[str, Profile]:
    """The built-in profiles and the users' own."""
    profiles: dict[str, Profile] = {}
    own = {name: (value, path) for name, value, path in document.mapping("profiles")}
    for name in sorted({*BUILT_IN, *own}):
        value, path = own.get(name, (BUILT_IN.get(name), f"profiles.{name}"))
        node = Node(value, path, document.mistakes, (*_KINDS, "creates"))
        words = {key: read_privileges(node, key, kind) for key, kind in _KINDS.items()}
        on_views = words.pop("views") if node.says("views") else None
        profiles[name] = Profile(name, words, bool(node.boolean("creates", False)), on_views)
    return profiles


def read_assignments(schema: Node, profiles: Mapping[str, Profile]) -> list[Assignment]:
    """Which roles have which profile in a schema."""
    found: list[Assignment] = []
    for role, value, path in schema.mapping("profiles"):
        if role in ("public", PUBLIC):
            schema.mistakes.append(Mistake(path, "PUBLIC cannot have a profile; grant what everybody shall have"))
            continue
        problem = name_problem(role)
        if problem:
            schema.mistakes.append(Mistake(path, problem))
        name: object = value
        place = path
        excluding: tuple[str, ...] = ()
        if isinstance(value, Mapping):
            node = Node(value, path, schema.mistakes, ("profile", "except"))
            name, place, excluding = node.raw("profile"), node.at("profile"), node.names("except", pattern_problem)
            if name is None and not node.sound:
                continue
        if not isinstance(name, str) or name not in profiles:
            schema.mistakes.append(Mistake(place, _unknown(name, profiles)))
            continue
        profile = profiles[str(name)]
        if excluding and not profile.privileges["tables"]:
            schema.mistakes.append(
                Mistake(f"{path}.except", f"leaves out tables, but profile {quoted(profile.name)} gives nothing on tables")
            )
        found.append(Assignment(role, profile, excluding, path))
    return found


def _unknown(name: object, profiles: Mapping[str, Profile]) -> str:
    there = f"there are: {', '.join(sorted(profiles))}"
    if isinstance(name, str):
        return f"unknown profile {quoted(name)}{nearest(name, profiles)}; {there}"
    return f"must be the name of a profile, not {value_text(name)}; {there}"


def grants_of(database: str, schema: Schema, assignments: list[Assignment], creators: list[str]) -> tuple[list[Grant], list[DefaultGrant]]:
    """The grants that the profiles of a schema stand for, now and on what the creators will make."""
    grants: list[Grant] = []
    defaults: list[DefaultGrant] = []
    for each in assignments:
        words = each.profile.privileges
        if words["database"]:
            grants.append(Grant(each.path, DATABASE, (each.role,), words["database"], database))
        if words["schema"]:
            grants.append(Grant(each.path, SCHEMA, (each.role,), words["schema"], database, schema.name))
        for key, kind in _OBJECTS.items():
            if not words[key]:
                continue
            excluding = each.excluding if kind == TABLE else ()
            on_views = each.profile.on_views if kind == TABLE else None
            grants.append(Grant(each.path, kind, (each.role,), words[key], database, schema.name, excluding=excluding, on_views=on_views))
            defaults.extend(
                DefaultGrant(each.path, database, schema.name, creator, key, (each.role,), words[key])
                for creator in creators
                if creator != each.role
            )
    return grants, defaults


def closed_to_public(path: str, database: str, creators: list[str]) -> list[DefaultGrant]:
    """What the creators make is not executable by everybody; only the global form can say so."""
    return [DefaultGrant(path, database, None, creator, "functions", (PUBLIC,), frozenset()) for creator in creators]
