# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a document of mappings, lists and scalars, with the YAML path of every mistake; none of them stops the reading."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from .errors import Mistake, nearest
from .identifiers import text_problem

_TRUE = frozenset({"yes", "true", "on"})
_FALSE = frozenset({"no", "false", "off"})


def kind_of(value: object) -> str:
    """What a value is, in YAML's terms."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else type(value).__name__


class Node:
    """A mapping of the document and where it is. Getters return the default where the key is missing or wrong, and note the mistake."""

    def __init__(self, value: object, path: str, mistakes: list[Mistake], accepted: Iterable[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        self._values: dict[str, Any] = {}
        if value is not None and not isinstance(value, Mapping):
            self.mistake("", f"must be a mapping, not {kind_of(value)}")
            return
        known = list(accepted)
        for key, item in (value or {}).items():
            if not isinstance(key, str) or key not in known:
                self.mistake(str(key), f"unknown key{nearest(str(key), known)}; accepted: {', '.join(known)}")
            else:
                self._values[str(key)] = item

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def at(self, key: str) -> str:
        """The path of a key."""
        return f"{self.path}.{key}" if self.path and key else self.path or key

    def mistake(self, key: str, message: str) -> None:
        """Note a mistake at a key, or at the mapping itself for an empty key."""
        self.mistakes.append(Mistake(self.at(key) or "policy", message))

    def raw(self, key: str) -> Any:
        """The value as it is, None where it is missing."""
        return self._values.get(key)

    def boolean(self, key: str, default: Any = None) -> Any:
        """A boolean; the strings that templates make of one are accepted."""
        value = self._values.get(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in _TRUE | _FALSE:
            return value.strip().lower() in _TRUE
        self.mistake(key, f"must be true or false, not {kind_of(value)}")
        return default

    def text(self, key: str, problem: Callable[[str], str | None] = text_problem) -> str | None:
        """A string, or None. problem: says what is wrong with it."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.mistake(key, f"must be a string, not {kind_of(value)}")
            return None
        found = problem(value)
        if found:
            self.mistake(key, found)
            return None
        return str(value)

    def word(self, key: str, accepted: Iterable[str], default: str) -> str:
        """One of a few words."""
        value = self.text(key)
        words = list(accepted)
        if value is None:
            return default
        if value not in words:
            self.mistake(key, f'"{value}" is not accepted{nearest(value, words)}; accepted: {", ".join(words)}')
            return default
        return value

    def integer(self, key: str, default: int | None, minimum: int) -> int | None:
        """A whole number."""
        value = self._values.get(key)
        if isinstance(value, str) and value.strip().lstrip("-").isdigit():
            value = int(value)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            told = kind_of(value) if isinstance(value, bool) or not isinstance(value, int) else str(value)
            self.mistake(key, f"must be a whole number of at least {minimum}, not {told}")
            return default
        return value

    def names(self, key: str, problem: Callable[[str], str | None]) -> tuple[str, ...]:
        """A name or a list of names, without doubles."""
        value = self._values.get(key)
        if value is None:
            return ()
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        found: dict[str, None] = {}
        for position, item in enumerate(items):
            place = f"{key}[{position}]" if isinstance(value, (list, tuple)) else key
            if not isinstance(item, str):
                self.mistake(place, f"must be a name, not {kind_of(item)}")
                continue
            wrong = problem(item)
            if wrong:
                self.mistake(place, wrong)
            else:
                found[str(item)] = None
        return tuple(found)

    def mapping(self, key: str) -> Iterator[tuple[str, Any, str]]:
        """The entries of a mapping of names: (name, value, path)."""
        return entries_of(self._values.get(key), self.at(key), self.mistakes)

    def entries(self, key: str) -> Iterator[tuple[Any, str]]:
        """The entries of a list: (value, path)."""
        value = self._values.get(key)
        if value is None:
            return
        if not isinstance(value, (list, tuple)):
            self.mistake(key, f"must be a list, not {kind_of(value)}")
            return
        for position, item in enumerate(value):
            yield item, f"{self.at(key)}[{position}]"


def entries_of(value: object, path: str, mistakes: list[Mistake]) -> Iterator[tuple[str, Any, str]]:
    """The entries of a mapping of names at a path: (name, value, path), sorted by name."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        mistakes.append(Mistake(path, f"must be a mapping of names, not {kind_of(value)}"))
        return
    for name in sorted(value, key=str):
        if isinstance(name, str):
            yield str(name), value[name], f"{path}.{name}"
        else:
            mistakes.append(Mistake(f"{path}.{name}", f"a name must be a string, not {kind_of(name)}; quote it"))
