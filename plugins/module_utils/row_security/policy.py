# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> frozen dataclasses. Collects every mistake with its YAML path, not the first alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.document import Node, quoted, told
from ..core.errors import Mistake, PolicyError
from ..core.identifiers import name_problem, one_role_problem, parameter_problem, pattern_problem, schema_name_problem
from .model import Database, Selection, Tenancy

_REQUIRED = ("setting", "column", "schemas", "roles")
_TENANCY_KEYS = (*_REQUIRED, "roles_all_rows")
_SCHEMA_KEYS = ("tables", "except")
_WHOLE = ("all", None)


def read_policy(databases: Any, path_prefix: str = "") -> tuple[Database, ...]:
    """The databases of a document, sorted by name. Raises PolicyError with every mistake."""
    mistakes: list[Mistake] = []
    root = Node({"databases": databases}, "", mistakes, ("databases",))
    found = [_database(name, value, path, mistakes) for name, value, path in root.mapping("databases")]
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    return tuple(found)


def _database(name: str, value: Any, path: str, mistakes: list[Mistake]) -> Database:
    problem = name_problem(name)
    if problem:
        mistakes.append(Mistake(path, problem))
    node = Node(value, path, mistakes, ("tenancy",))
    tenancy = _tenancy(node.raw("tenancy"), node.at("tenancy"), mistakes) if node.says("tenancy") else None
    if node.sound and tenancy is None and not node.says("tenancy"):
        node.mistake("", "names nothing to do: give it a tenancy")
    return Database(path, name, tenancy)


def _tenancy(value: Any, path: str, mistakes: list[Mistake]) -> Tenancy:
    node = Node(value, path, mistakes, _TENANCY_KEYS)
    if node.sound:
        for key in _REQUIRED:
            if not node.says(key):
                node.mistake(key, "is required")
    setting = node.text("setting", _setting_problem) or ""
    roles, all_rows = (tuple(sorted(node.names(key, one_role_problem))) for key in ("roles", "roles_all_rows"))
    for name in sorted(set(roles) & set(all_rows)):
        node.mistake("roles_all_rows", f"role {quoted(name)} stands in roles, too: it sees one tenant or all of them")
    return Tenancy(path, setting, node.text("column", name_problem) or "", roles, tuple(_selections(node, mistakes)), all_rows)


def _setting_problem(name: str) -> str | None:
    """Why a text cannot name the setting that holds the tenant. PostgreSQL takes names with a dot for settings of applications."""
    problem = parameter_problem(name)
    if problem:
        return problem
    return None if "." in name and name.isascii() else f"must be a name with a dot in ASCII, such as app.current_tenant_id, not {quoted(name)}"


def _selections(node: Node, mistakes: list[Mistake]) -> list[Selection]:
    value = node.raw("schemas")
    if isinstance(value, Mapping):
        return [_selection(name, inner, at, mistakes) for name, inner, at in node.mapping("schemas")]
    return [Selection(node.at("schemas"), name) for name in node.names("schemas", schema_name_problem)]


def _selection(schema: str, value: Any, path: str, mistakes: list[Mistake]) -> Selection:
    """A schema: all, a list of names and patterns, or a mapping with tables and except."""
    problem = schema_name_problem(schema)
    if problem:
        mistakes.append(Mistake(path, problem))
    if value in _WHOLE:
        return Selection(path, schema)
    if isinstance(value, (list, tuple)):
        value = {"tables": value}
    elif not isinstance(value, Mapping):
        mistakes.append(Mistake(path, f"must be all, a list of tables, or a mapping with tables and except, not {told(value)}"))
        return Selection(path, schema)
    node = Node(value, path, mistakes, _SCHEMA_KEYS)
    names = None if node.raw("tables") in _WHOLE else node.names("tables", pattern_problem)
    if names == () and not [each for each in mistakes if each.path.startswith(path)]:
        node.mistake("tables", "must name at least one table; leave it out for all of them")
    return Selection(path, schema, names, node.names("except", pattern_problem))
