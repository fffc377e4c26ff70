# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> frozen dataclasses. Collects every mistake with its YAML path, not the first alone."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.document import Node, quoted, value_text
from ..core.errors import Mistake, PolicyError
from ..core.identifiers import (
    application_setting_problem,
    name_problem,
    one_role_problem,
    role_name_problem,
    schema_name_problem,
    split_name,
)
from ..core.selection import Selection, read_selections
from .model import EXCLUDE, HASH, MASK, Database, Log, Masking, Retention

_KEYS = ("tables", "mask", "readers", "tenant_readers", "changed_columns_only", "skip_unchanged", "new_tables", "retention")
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")  # the log's functions hold it in texts that they make statements of
_WORDS = (MASK, EXCLUDE, HASH)


def read_policy(databases: Any, log: Log, path_prefix: str = "", encrypted: Any = None) -> tuple[Database, ...]:
    """The databases of a document, sorted by name. Raises PolicyError with every mistake.

    encrypted: columns that are masked by themselves, by database and table; what is wrong in it is for its own module to say.
    """
    mistakes: list[Mistake] = []
    root = Node({"databases": databases}, "", mistakes, ("databases",))
    found = [_database(name, value, path, log, mistakes) for name, value, path in root.mapping("databases")]
    mistakes.extend(_log_mistakes(log))
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    return tuple(replace(each, encrypted=_encrypted((encrypted or {}).get(each.name))) for each in found)


def _encrypted(tables: Any) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for name, columns in tables.items() if isinstance(tables, Mapping) else ():
        place = split_name(str(name))
        if place is not None and isinstance(columns, Mapping):
            indexed = [column for column, options in columns.items() if isinstance(options, Mapping) and options.get("blind_index")]
            found[place] = tuple(sorted([*map(str, columns), *(f"{column}_index" for column in indexed)]))
    return found


def _log_mistakes(log: Log) -> list[Mistake]:
    problems = (
        ("schema", schema_name_problem(log.schema) or (None if _PLAIN.fullmatch(log.schema) else "must be a name that needs no quotes")),
        ("owner", role_name_problem(log.owner)),
        ("user_setting", application_setting_problem(log.user_setting)),
        ("tenant_setting", application_setting_problem(log.tenant_setting)),
    )
    return [Mistake(path, problem) for path, problem in problems if problem]


def _database(name: str, value: Any, path: str, log: Log, mistakes: list[Mistake]) -> Database:
    problem = name_problem(name)
    if problem:
        mistakes.append(Mistake(path, problem))
    node = Node(value, path, mistakes, _KEYS)
    if node.sound and "tables" not in node:
        node.mistake("tables", "is required; {} for none, so that the log stays and nothing is added to it")
    selections = read_selections(node, "tables")
    mistakes.extend(_own_schema(each, log) for each in selections if each.schema == log.schema)
    readers, tenant_readers = (tuple(sorted(node.names(key, one_role_problem))) for key in ("readers", "tenant_readers"))
    for role in sorted(set(readers) & set(tenant_readers)):
        node.mistake("tenant_readers", f"role {quoted(role)} stands in readers, too: it reads the records of one tenant or all of them")
    return Database(
        path,
        name,
        selections,
        _maskings(node, mistakes),
        readers,
        tenant_readers,
        _retention(node.raw("retention"), node.at("retention"), mistakes) if node.says("retention") else None,
        bool(node.boolean("changed_columns_only", False)),
        bool(node.boolean("skip_unchanged", False)),
        bool(node.boolean("new_tables", False)),
    )


def _retention(value: Any, path: str, mistakes: list[Mistake]) -> Retention | None:
    node = Node(value, path, mistakes, ("months", "directory"))
    months, directory = node.integer("months", None, 1, 12_000), node.text("directory")
    if node.sound:
        for key in ("months", "directory"):
            if not node.says(key):
                node.mistake(key, "is required: records are written to a file before they go" if key == "directory" else "is required")
    if directory is not None and not os.path.isabs(directory):
        node.mistake("directory", f"must be an absolute path, not {quoted(directory)}")
    return Retention(months, directory) if months is not None and directory is not None else None


def _own_schema(selection: Selection, log: Log) -> Mistake:
    return Mistake(selection.path, f"schema {log.schema} holds the log itself, which is not audited")


def _maskings(node: Node, mistakes: list[Mistake]) -> tuple[Masking, ...]:
    found: dict[tuple[str, str], Masking] = {}
    for name, value, path in node.mapping("mask"):
        place = split_name(name)
        if place is None:
            mistakes.append(
                Mistake(path, "must name schema and table, such as app.users; a name with a dot or a quote in it stands in double quotes")
            )
            continue
        columns = _mask_columns(value, path, mistakes)
        if place in found:
            mistakes.append(Mistake(path, f"names the same table as {found[place].path}"))
        found[place] = Masking(path, *place, columns)
    return tuple(found[place] for place in sorted(found))


def _mask_columns(value: Any, path: str, mistakes: list[Mistake]) -> Mapping[str, str]:
    """A list of columns to mask, or column -> mask, exclude or hash."""
    if isinstance(value, Mapping):
        node = Node({"columns": value}, path, mistakes, ("columns",))
        columns = {}
        for column, word, _at in node.mapping("columns"):
            if word not in _WORDS:
                mistakes.append(Mistake(f"{path}.{column}", f"must be one of {', '.join(_WORDS)}, not {value_text(word)}"))
            columns[column] = word
    else:
        node = Node({"columns": value}, path, mistakes, ("columns",))
        columns = dict.fromkeys(node.names("columns", name_problem), MASK)
    if not columns:
        mistakes.append(Mistake(path, "must name at least one column"))
    return columns
