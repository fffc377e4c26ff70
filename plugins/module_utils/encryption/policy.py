# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> the columns that it names. Collects every mistake with its YAML path, not the first alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..client.field_encryption import NORMALIZERS
from ..core.document import Node, quoted, value_text
from ..core.errors import Mistake, PolicyError, nearest
from ..core.identifiers import name_problem, split_name
from .model import ACCEPTED, FERNET, FORMATS, Column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_KEYS = ("keyring", "format", "forbid_plaintext", "blind_index", "accept")


def read_policy(columns: Any, keyrings: Collection[str] | None, path_prefix: str = "") -> tuple[Column, ...]:
    """The columns of a document, sorted. keyrings: the names that there are, None where none is needed.

    Raises PolicyError with every mistake.
    """
    mistakes: list[Mistake] = []
    root = Node({"columns": columns}, "", mistakes, ("columns",))
    found = [column for name, value, path in root.mapping("columns") for column in _database(name, value, path, keyrings, mistakes)]
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    return tuple(found)


def _database(name: str, value: Any, path: str, keyrings: Collection[str] | None, mistakes: list[Mistake]) -> Iterator[Column]:
    problem = name_problem(name)
    if problem:
        mistakes.append(Mistake(path, problem))
    before: dict[tuple[str, str], str] = {}
    for table, inner, at in Node({name: value}, "columns", mistakes, (name,)).mapping(name):
        place = split_name(table)
        if place is None:
            mistakes.append(
                Mistake(at, "must name schema and table, such as app.users; a name with a dot or a quote in it stands in double quotes")
            )
        elif place in before:
            mistakes.append(Mistake(at, f"names the same table as {before[place]}"))
        else:
            before[place] = at
            if inner is None or inner == {}:
                mistakes.append(Mistake(at, f"must name at least one column, not {value_text(inner)}"))
            for column, options, where in Node({table: inner}, path, mistakes, (table,)).mapping(table):
                yield _column(name, place, column, Node(options, where, mistakes, _KEYS), keyrings)


def _column(database: str, place: tuple[str, str], name: str, node: Node, keyrings: Collection[str] | None) -> Column:
    problem = name_problem(name)
    if problem:
        node.mistake("", problem)
    keyring = node.text("keyring") or ""
    if node.sound and not node.says("keyring"):
        node.mistake("keyring", "is required: the name of the keyring whose primary key encrypts")
    elif keyring and keyrings is not None and keyring not in keyrings:
        node.mistake("keyring", f"there is no keyring {quoted(keyring)}{nearest(keyring, keyrings)}")
    accept = node.names("accept", lambda word: None if word in ACCEPTED else _unknown(word))
    form = node.word("format", FORMATS, FERNET)
    normalizer = node.word("blind_index", NORMALIZERS, "")
    if normalizer and name_problem(f"{name}_index"):
        node.mistake("blind_index", f"the column of the index would be {name}_index: {name_problem(f'{name}_index')}")
    return Column(node.path, database, *place, name, keyring, form, bool(node.boolean("forbid_plaintext", False)), accept, normalizer)


def _unknown(word: str) -> str:
    return f"{quoted(word)} is not accepted{nearest(word, ACCEPTED)}; accepted: {', '.join(ACCEPTED)}"
