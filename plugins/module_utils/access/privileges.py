# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The privilege words of each kind of object, and the version that each exists from (PostgreSQL documentation, "Privileges")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.document import Node, quoted, value_text
from ..core.errors import nearest
from .model import (
    DATABASE,
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
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ALL = "ALL"
COLUMN = "column"

_RELATION = ("DELETE", "INSERT", "MAINTAIN", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE")

WORDS: Mapping[str, tuple[str, ...]] = {
    DATABASE: ("CONNECT", "CREATE", "TEMPORARY"),
    SCHEMA: ("CREATE", "USAGE"),
    TABLE: _RELATION,
    VIEW: _RELATION,
    COLUMN: ("INSERT", "REFERENCES", "SELECT", "UPDATE"),
    SEQUENCE: ("SELECT", "UPDATE", "USAGE"),
    FUNCTION: ("EXECUTE",),
    TYPE: ("USAGE",),
    LANGUAGE: ("USAGE",),
    FOREIGN_DATA_WRAPPER: ("USAGE",),
    FOREIGN_SERVER: ("USAGE",),
    LARGE_OBJECT: ("SELECT", "UPDATE"),
    TABLESPACE: ("CREATE",),
    PARAMETER: ("ALTER SYSTEM", "SET"),
}

_SPELLINGS: Mapping[str, str] = {"TEMP": "TEMPORARY", "ALL PRIVILEGES": ALL}

_SINCE: Mapping[str, int] = {"MAINTAIN": 17}  # first major version


KIND_OF_TYPE: Mapping[str, str] = {
    "tables": TABLE,
    "sequences": SEQUENCE,
    "functions": FUNCTION,
    "types": TYPE,
    "schemas": SCHEMA,
    "large_objects": LARGE_OBJECT,
}

# What PUBLIC gets on new objects when nobody has said otherwise.
BUILT_IN: Mapping[str, frozenset[str]] = {"functions": frozenset({"EXECUTE"}), "types": frozenset({"USAGE"})}


def expand(privileges: Iterable[str], kind: str, version: int) -> frozenset[str]:
    """The privileges with ALL replaced by every word that the server's version knows for the kind. version: as in server_version_num."""
    words = frozenset(privileges)
    if ALL not in words:
        return words
    return frozenset(word for word in WORDS[kind] if _SINCE.get(word, 0) <= version // 10000)


def missing_in_version(privileges: Iterable[str], kind: str, version: int) -> list[tuple[str, int]]:
    """Privileges that this version does not know yet, each with the major version it exists from."""
    return sorted((word, _SINCE[word]) for word in privileges if word in WORDS[kind] and _SINCE.get(word, 0) > version // 10000)


def read_privileges(node: Node, key: str, kind: str, required: bool = False, may_be_empty: bool = False) -> frozenset[str]:
    """The privilege words at a key of the document, in upper case; mistakes are noted in the node. A word alone is a list of one."""
    value = node.raw(key)
    items = [value] if isinstance(value, str) else value
    if items is None:
        if required and node.sound:
            node.mistake(key, f"is missing; accepted: {_accepted(kind)}")
        return frozenset()
    if not isinstance(items, (list, tuple)):
        node.mistake(key, f"must be a list of privileges, not {value_text(items)}")
        return frozenset()
    if not items and required and not may_be_empty:
        node.mistake(key, f"grants nothing; accepted: {_accepted(kind)}")
    found = set()
    for item in items:
        word = " ".join(item.upper().split()) if isinstance(item, str) else ""
        word = _SPELLINGS.get(word, word)
        if word in WORDS[kind] or word == ALL:
            found.add(word)
        else:
            node.mistake(key, _unknown(item, word, kind))
    return frozenset({ALL}) if ALL in found else frozenset(found)


def _unknown(item: object, word: str, kind: str) -> str:
    if not isinstance(item, str):
        return f"a privilege must be a string, not {value_text(item)}"
    if "," in item:
        return f"{quoted(item)} is one string; write the privileges as a list: [{item}]"
    return f"unknown privilege {quoted(item)} on a {kind}{nearest(word, (*WORDS[kind], ALL))}; accepted: {_accepted(kind)}"


def _accepted(kind: str) -> str:
    return ", ".join((*WORDS[kind], ALL))
