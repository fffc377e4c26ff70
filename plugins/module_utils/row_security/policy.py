# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> frozen dataclasses. Collects every mistake with its YAML path, not the first alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..core.document import Node, child, quoted, value_text
from ..core.errors import Mistake, PolicyError
from ..core.identifiers import name_problem, one_role_problem, parameter_problem, pattern_problem, schema_name_problem
from .expression import expression_problem
from .model import ALL, COMMANDS, RESERVED, Database, Parent, RowPolicy, Selection, TableRules, Tenancy

if TYPE_CHECKING:
    from collections.abc import Iterator

_REQUIRED = ("setting", "column", "schemas", "roles")
_TENANCY_KEYS = (*_REQUIRED, "roles_all_rows", "parents", "build_indexes")
_SCHEMA_KEYS = ("tables", "except")
_RULES_KEYS = ("enabled", "forced", "policies")
_POLICY_KEYS = ("permissive", "command", "roles", "using", "with_check")
_WHOLE = ("all", None)
# PostgreSQL refuses a policy with the other expression.
_ONLY = {"SELECT": "using", "DELETE": "using", "INSERT": "with_check"}


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
    node = Node(value, path, mistakes, ("tenancy", "schemas"))
    tenancy = _tenancy(node.raw("tenancy"), node.at("tenancy"), mistakes) if node.says("tenancy") else None
    rules = tuple(each for schema, inner, at in node.mapping("schemas") for each in _schema_rules(schema, inner, at, mistakes))
    if tenancy is not None:
        clashes = (policy.path for each in rules for policy in each.policies if policy.name in RESERVED)
        mistakes.extend(Mistake(path, "this name is that of a policy which tenancy makes; use another") for path in clashes)
    if node.sound and not node.says("tenancy") and not node.says("schemas"):
        node.mistake("", "names nothing to do: give it a tenancy, or schemas with tables")
    return Database(path, name, tenancy, rules)


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
    parents = tuple(each for schema, inner, at in node.mapping("parents") for each in _parents(schema, inner, at, mistakes))
    _check_cycles(parents, mistakes)
    return Tenancy(
        path,
        setting,
        node.text("column", name_problem) or "",
        roles,
        tuple(_selections(node, mistakes)),
        all_rows,
        parents,
        bool(node.boolean("build_indexes", False)),
    )


def _setting_problem(name: str) -> str | None:
    """Why a text cannot name the setting that holds the tenant. PostgreSQL takes names with a dot for settings of applications."""
    problem = parameter_problem(name)
    if problem:
        return problem
    return (
        None if "." in name and name.isascii() else f"must be a name with a dot in ASCII, such as app.current_tenant_id, not {quoted(name)}"
    )


def _selections(node: Node, mistakes: list[Mistake]) -> list[Selection]:
    value = node.raw("schemas")
    if isinstance(value, Mapping):
        return [_selection(name, inner, at, mistakes) for name, inner, at in node.mapping("schemas")]
    return [Selection(node.at("schemas"), name) for name in node.names("schemas", schema_name_problem)]


def _schema(name: str, path: str, mistakes: list[Mistake]) -> None:
    problem = schema_name_problem(name)
    if problem:
        mistakes.append(Mistake(path, problem))


def _selection(schema: str, value: Any, path: str, mistakes: list[Mistake]) -> Selection:
    """A schema: all, a list of names and patterns, or a mapping with tables and except."""
    _schema(schema, path, mistakes)
    if value in _WHOLE:
        return Selection(path, schema)
    if isinstance(value, (list, tuple)):
        value = {"tables": value}
    elif not isinstance(value, Mapping):
        mistakes.append(Mistake(path, f"must be all, a list of tables, or a mapping with tables and except, not {value_text(value)}"))
        return Selection(path, schema)
    node = Node(value, path, mistakes, _SCHEMA_KEYS)
    names = None if node.raw("tables") in _WHOLE else node.names("tables", pattern_problem)
    if names == () and not [each for each in mistakes if each.path.startswith(path)]:
        node.mistake("tables", "must name at least one table; leave it out for all of them")
    return Selection(path, schema, names, node.names("except", pattern_problem))


def _tables(schema: str, value: Any, path: str, mistakes: list[Mistake]) -> Iterator[tuple[str, Any, str]]:
    """A mapping of tables in a schema: each name with its value and its path, sorted."""
    _schema(schema, path, mistakes)
    tables = {} if value is None else value
    if not isinstance(tables, Mapping):
        mistakes.append(Mistake(path, f"must be a mapping of tables, not {value_text(value)}"))
        return
    for name in sorted(tables, key=str):
        if isinstance(name, str):
            problem = name_problem(name)
            if problem:
                mistakes.append(Mistake(child(path, name), problem))
            yield name, tables[name], child(path, name)
        else:
            mistakes.append(Mistake(child(path, str(name)), f"a name must be a string, not {value_text(name)} (quote it)"))


# Tables that find their tenant by a foreign key


def _parents(schema: str, value: Any, path: str, mistakes: list[Mistake]) -> Iterator[Parent]:
    """A schema: table -> its parent, by name in the same schema, or a mapping with table, schema and foreign_key."""
    for name, inner, at in _tables(schema, value, path, mistakes):
        node = Node({"table": inner} if isinstance(inner, str) else inner, at, mistakes, ("table", "schema", "foreign_key"))
        parent = node.text("table", name_problem)
        if node.sound and parent is None and not [each for each in mistakes if each.path.startswith(at)]:
            node.mistake("", "must name the table whose row has the tenant")
        if parent:
            yield Parent(
                at, schema, name, node.text("schema", schema_name_problem) or schema, parent, node.text("foreign_key", name_problem)
            )


def _check_cycles(parents: tuple[Parent, ...], mistakes: list[Mistake]) -> None:
    """A table that is its own parent, by itself or through others, never comes to a tenant."""
    above = {(each.schema, each.table): (each.parent_schema, each.parent) for each in parents}
    for each in parents:
        place, seen = (each.schema, each.table), set()
        while place in above and place not in seen:
            seen.add(place)
            place = above[place]
        if place == (each.schema, each.table) and place in seen:
            mistakes.append(Mistake(each.path, "the path to the tenant leads back to this table"))


# Tables whose policies are written out


def _schema_rules(schema: str, value: Any, path: str, mistakes: list[Mistake]) -> Iterator[TableRules]:
    for name, inner, at in _tables(schema, value, path, mistakes):
        node = Node(inner, at, mistakes, _RULES_KEYS)
        policies = tuple(_policy(policy, each, place, mistakes) for policy, each, place in node.mapping("policies"))
        enabled = bool(node.boolean("enabled", True))
        yield TableRules(at, schema, name, enabled, bool(node.boolean("forced", enabled)), policies)


def _policy(name: str, value: Any, path: str, mistakes: list[Mistake]) -> RowPolicy:
    problem = name_problem(name)
    if problem:
        mistakes.append(Mistake(path, problem))
    node = Node(value, path, mistakes, _POLICY_KEYS)
    words = (ALL, *COMMANDS)
    command = node.word("command", [*words, *(word.lower() for word in words)], ALL).upper()
    using, check = node.text("using", expression_problem), node.text("with_check", expression_problem)
    roles = tuple(sorted(node.names("roles", name_problem)))
    if node.sound and not node.says("roles"):
        node.mistake("roles", "is required; PUBLIC is everybody")
    only = _ONLY.get(command)
    for key in ("using", "with_check"):
        if only is not None and key != only and node.says(key):
            node.mistake(key, f"a policy for {command} has {only} alone")
    needed = only or "using"
    if node.sound and not node.says(needed):
        node.mistake(needed, "is required")
    # What is not written is what PostgreSQL would take for it.
    check = using if check is None and command in (ALL, "UPDATE") else check
    return RowPolicy(name, bool(node.boolean("permissive", True)), command, roles, using, check, written=True, path=path)
