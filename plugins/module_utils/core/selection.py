# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables as a document selects them: whole schemas, lists, patterns, and what they leave out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .document import Node, quoted, value_text
from .errors import Mistake, nearest
from .identifiers import pattern_problem, schema_name_problem
from .patterns import like, like_any

_KEYS = ("all", "tables", "except")
_WHOLE = ("all", None)


@dataclass(frozen=True)
class Selection:
    """Tables of one schema: those that match names (None: all), but those that match excluding. Both may hold the wildcard '*'."""

    path: str
    schema: str
    names: tuple[str, ...] | None = None
    excluding: tuple[str, ...] = ()

    def holds(self, schema: str, table: str) -> bool:
        """Whether it selects the table of this name."""
        if schema != self.schema or like_any(self.excluding, table):
            return False
        return self.names is None or like_any(self.names, table)

    def missing(self, tables: Iterable[str], *, matched: bool = True) -> Iterator[Mistake]:
        """Names of the document that no table of the schema has. tables: the names that the schema has.

        matched: whether a pattern has to match one.
        """
        there = list(tables)
        for name in self.names or ():
            if matched and "*" in name and not any(like(name, table) for table in there):
                yield Mistake(self.path, f"no table of schema {quoted(self.schema)} matches {quoted(name)}")
        for path, names in ((self.path, self.names or ()), (f"{self.path}.except", self.excluding)):
            for name in names:
                if "*" not in name and name not in there:
                    yield Mistake(path, f"there is no table {quoted(name)} in schema {quoted(self.schema)}{nearest(name, there)}")


def read_selections(node: Node, key: str) -> tuple[Selection, ...]:
    """The value of a key: a list of schemas, or a mapping of schemas, each with all, a list of tables, or a mapping."""
    if isinstance(node.raw(key), Mapping):
        return tuple(_selection(name, inner, at, node.mistakes) for name, inner, at in node.mapping(key))
    return tuple(Selection(node.at(key), name) for name in node.names(key, schema_name_problem))


def _selection(schema: str, value: Any, path: str, mistakes: list[Mistake]) -> Selection:
    problem = schema_name_problem(schema)
    if problem:
        mistakes.append(Mistake(path, problem))
    if value in _WHOLE:
        return Selection(path, schema)
    if isinstance(value, (list, tuple)):
        value = {"tables": value}
    elif not isinstance(value, Mapping):
        mistakes.append(Mistake(path, f"must be all, a list of tables, or a mapping with tables and except, not {value_text(value)}"))
        return Selection(path, schema)
    before = len(mistakes)
    node = Node(value, path, mistakes, _KEYS)
    every = node.boolean("all", None)
    if every is False:
        node.mistake("all", "leave it out, or name the tables; false selects nothing")
    names = None if node.raw("tables") in _WHOLE else node.names("tables", pattern_problem)
    if every and names is not None:
        node.mistake("tables", "contradicts all: keep one of them")
    if names == () and len(mistakes) == before:
        node.mistake("tables", "must name at least one table; leave it out for all of them")
    return Selection(path, schema, names, node.names("except", pattern_problem))
