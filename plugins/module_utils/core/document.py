# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a document of mappings, lists and scalars, with the YAML path of every mistake; none of them stops the reading."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Callable

from .errors import Mistake, nearest

_TRUE = frozenset({"yes", "true", "on"})
_FALSE = frozenset({"no", "false", "off"})
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_PLAIN = re.compile(r"[^\s.\[\]\"'\x00-\x1f\x7f\ud800-\udfff]+")
_SHOWN = 60  # characters of a wrong value that a message repeats


def quoted(text: str) -> str:
    """A text of the user's as a message shows it: in quotes, on one line, not too long."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return json.dumps(shown, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def child(path: str, name: str) -> str:
    """The path of an entry: shop.schemas, or shop["my.schema"] where a plain name would not be one step."""
    if not _PLAIN.fullmatch(name):
        return f"{path}[{json.dumps(name, ensure_ascii=False).encode('utf-8', 'backslashreplace').decode('utf-8')}]"
    return f"{path}.{name}" if path else name


def kind_of(value: object) -> str:
    """What a value is, in YAML's terms, without the value."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, (list, tuple)) else f"a {type(value).__name__}"


def value_text(value: object) -> str:
    """What a value is, with the value where that is short."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}" if abs(value) < 10**_SHOWN else "a number"
    return f"the string {quoted(value)}" if isinstance(value, str) else kind_of(value)


def text_problem(text: str) -> str | None:
    """Why PostgreSQL cannot hold the text, or None."""
    if "\0" in text:
        return "must not hold the character NUL"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return None


class Node:
    """A mapping of the document and where it is. Getters return the default where the key is missing or wrong, and note the mistake."""

    def __init__(self, value: object, path: str, mistakes: list[Mistake], accepted: Iterable[str]) -> None:
        self.path = path
        self.mistakes = mistakes
        self.sound = True  # False for a value that is no mapping or has unknown keys: what follows from their absence is not told
        self._values: dict[str, Any] = {}
        if value is not None and not isinstance(value, Mapping):
            self.sound = False
            self.mistake("", f"must be a mapping, not {value_text(value)}")
            return
        known = list(accepted)
        for key, item in (value or {}).items():
            if not isinstance(key, str) or key not in known:
                self.sound = False
                self.mistake(str(key), f"unknown key{nearest(str(key), known)}; accepted: {', '.join(known)}")
            else:
                self._values[str(key)] = item

    def __contains__(self, key: str) -> bool:
        """Whether the key is there, even without a value."""
        return key in self._values

    def says(self, key: str) -> bool:
        """Whether the key has a value; a key without one says nothing."""
        return self._values.get(key) is not None

    def at(self, key: str) -> str:
        """The path of a key, or of the mapping itself for an empty key."""
        return child(self.path, key) if key else self.path

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
        self.mistake(key, f"must be true or false, not {value_text(value)}")
        return default

    def text(self, key: str, problem: Callable[[str], str | None] = text_problem) -> str | None:
        """A string, or None. problem: says what is wrong with it."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.mistake(key, f"must be a string, not {value_text(value)}")
            return None
        found = problem(value)
        if found:
            self.mistake(key, found)
            return None
        return str(value)

    def word(self, key: str, accepted: Iterable[str], default: str) -> str:
        """One of a few words."""
        words = list(accepted)
        value = self.text(key)
        if value is None:
            return default
        if value not in words:
            self.mistake(key, f"{quoted(value)} is not accepted{nearest(value, words)}; accepted: {', '.join(words)}")
            return default
        return value

    def integer(self, key: str, default: int | None, minimum: int, maximum: int) -> int | None:
        """A whole number, or a string that holds one."""
        value = self._values.get(key)
        if value is None:
            return default
        number = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else value
        if isinstance(number, bool) or not isinstance(number, int) or not minimum <= number <= maximum:
            self.mistake(key, f"must be a whole number from {minimum} to {maximum}, not {value_text(value)}")
            return default
        return number

    def names(self, key: str, problem: Callable[[str], str | None]) -> tuple[str, ...]:
        """A name or a list of names, without doubles."""
        value = self._values.get(key)
        if value is None:
            return ()
        listed = isinstance(value, (list, tuple))
        found: dict[str, None] = {}
        for position, item in enumerate(value if listed else [value]):
            place = f"{self.at(key)}[{position}]" if listed else self.at(key)
            wrong = (
                problem(item)
                if isinstance(item, str)
                else f"must be a name, not {value_text(item)}" + (" (quote it)" if _is_scalar(item) else "")
            )
            if wrong:
                self.mistakes.append(Mistake(place, wrong))
            else:
                found[str(item)] = None
        return tuple(found)

    def mapping(self, key: str) -> Iterator[tuple[str, Any, str]]:
        """The entries of a mapping of names, sorted: (name, value, path)."""
        value = self._values.get(key)
        if value is None:
            return
        if not isinstance(value, Mapping):
            self.mistake(key, f"must be a mapping of names, not {value_text(value)}")
            return
        for name in sorted(value, key=lambda each: (str(each), type(each).__name__)):
            path = child(self.at(key), str(name))
            if isinstance(name, str):
                yield str(name), value[name], path
            else:
                self.mistakes.append(Mistake(path, f"a name must be a string, not {value_text(name)} (quote it)"))

    def entries(self, key: str) -> Iterator[tuple[Any, str]]:
        """The entries of a list: (value, path)."""
        value = self._values.get(key)
        if value is None:
            return
        if not isinstance(value, (list, tuple)):
            self.mistake(key, f"must be a list, not {value_text(value)}")
            return
        for position, item in enumerate(value):
            yield item, f"{self.at(key)}[{position}]"


def _is_scalar(value: object) -> bool:
    return isinstance(value, (bool, int, float))
