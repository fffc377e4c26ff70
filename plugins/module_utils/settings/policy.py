# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The document of settings -> what is wanted. Collects every mistake with its YAML path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.document import Node, child, text_problem, value_text
from ..core.errors import Mistake, PolicyError, nearest
from ..core.parameters import LIST_PARAMETERS, split_setting
from .baseline import BASELINE
from .model import Policy, Setting, State, Value
from .values import ValueRefusedError, as_text, canonical

_KEYS = ("value", "optional", "reason")

# Where the server's files are is how it was started, not a policy's to say.
_PLACES = frozenset({"config_file", "data_directory", "external_pid_file", "hba_file", "ident_file"})


def read_policy(document: object, baseline: str, state: State, path_prefix: str = "") -> Policy:
    """Check the document against the server's own description of its parameters. Raises PolicyError with every mistake.

    document: name -> value, or a mapping with value, optional and reason; None leaves one of the baseline alone.
    baseline: "default", or "none".
    """
    mistakes: list[Mistake] = []
    wanted: dict[str, Setting] = {}
    if baseline == "default":
        loaded = {*state.loaded, *_libraries(document)}
        for entry in BASELINE:
            if entry.since <= state.major <= entry.until and (entry.only_with is None or entry.only_with in loaded):
                wanted[entry.name] = Setting(
                    entry.name, entry.value, f"baseline.{entry.name}", entry.optional, entry.reason, entry.controls
                )
    root = Node({"settings": document}, "", mistakes, ["settings"])
    for name, value, path in root.mapping("settings"):
        if value is None:
            wanted.pop(name.lower(), None)
            continue
        found = _wanted(name, value, path, mistakes)
        if found is not None:
            wanted[found.name] = found
    kept = [each for each in wanted.values() if _sound(each, state, mistakes)]
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    skipped = sorted(set(wanted) - {each.name for each in kept})
    return Policy(tuple(sorted(kept, key=lambda each: each.name)), tuple(skipped))


def _libraries(document: object) -> tuple[str, ...]:
    """Those that the document loads at the next start."""
    value = document.get("shared_preload_libraries") if isinstance(document, Mapping) else None
    value = value.get("value") if isinstance(value, Mapping) else value
    found = split_setting("shared_preload_libraries", value) if isinstance(value, str) else value
    return tuple(str(each) for each in found) if isinstance(found, (list, tuple)) else ()


def _wanted(name: str, value: Any, path: str, mistakes: list[Mistake]) -> Setting | None:
    optional, reason = False, None
    if isinstance(value, Mapping):
        node = Node(value, path, mistakes, _KEYS)
        optional, reason = bool(node.boolean("optional", False)), node.text("reason", _one_line)
        if not node.says("value"):
            if node.sound:
                node.mistake("value", "is missing")
            return None
        path, value = child(path, "value"), node.raw("value")
    text = _text(name.lower(), value, path, mistakes)
    # The server folds the names of parameters, all of which are ASCII.
    return None if text is None else Setting(name.lower(), text, path, optional, reason)


def _one_line(text: str) -> str | None:
    return "must be one line" if "\n" in text or "\r" in text else text_problem(text)


def _text(name: str, value: Any, path: str, mistakes: list[Mistake]) -> Value | None:
    """A YAML value as the text, or for lists the elements, of a parameter."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        items = []
        for position, item in enumerate(value):
            place = f"{path}[{position}]"
            problem = _one_line(item) if isinstance(item, str) else f"must be a string, not {value_text(item)} (quote it)"
            if problem:
                mistakes.append(Mistake(place, problem))
            else:
                items.append(str(item))
        return tuple(items)
    if not isinstance(value, str):
        mistakes.append(Mistake(path, f"must be a string, a number, a boolean or a list, not {value_text(value)}"))
        return None
    problem = _one_line(value)
    if problem:
        mistakes.append(Mistake(path, problem))
        return None
    if name in LIST_PARAMETERS:
        found = split_setting(name, value)
        return found if isinstance(found, tuple) else value
    return str(value)


def _sound(wanted: Setting, state: State, mistakes: list[Mistake]) -> bool:
    """Whether the server can have the value; False too for what is optional and unknown here."""
    definition = state.definitions.get(wanted.name)
    if definition is None:
        if "." in wanted.name.strip("."):
            return True  # a parameter of an extension that is not loaded: the server takes any value until it is
        if not wanted.optional:
            accepted = nearest(wanted.name, state.definitions)
            mistakes.append(
                Mistake(wanted.path, f"PostgreSQL {state.major} has no setting {wanted.name}{accepted}; say optional: true to skip it")
            )
        return False
    if wanted.name in _PLACES or definition.context == "internal":
        why = "is where the server's files are" if wanted.name in _PLACES else "is fixed"
        mistakes.append(Mistake(wanted.path, f"{wanted.name} {why} and cannot be set here"))
        return False
    try:
        canonical(definition, wanted.value)
    except ValueRefusedError as problem:
        mistakes.append(Mistake(wanted.path, f"{wanted.name} {problem}, not {value_text(as_text(wanted.name, wanted.value))}"))
        return False
    missing = missing_libraries(wanted, state)
    if missing:
        hint = nearest(missing[0], state.libraries)
        then = "it would not start with that" if wanted.name == "shared_preload_libraries" else "nobody could connect any more with that"
        mistakes.append(Mistake(wanted.path, f"the server has no library {', '.join(missing)}{hint}; {then}"))
    return not missing


def missing_libraries(wanted: Setting, state: State) -> list[str]:
    """The libraries that are wanted and not installed. A path is left to the server; so is everything where libraries may not be listed."""
    if wanted.name not in ("shared_preload_libraries", "session_preload_libraries") or not state.libraries or isinstance(wanted.value, str):
        return []  # those of local_preload_libraries are in a directory of their own, which the server does not list
    known = {*state.libraries, *(f"$libdir/{name}" for name in state.libraries)}
    return [name for name in wanted.value if name not in known and "/" not in name.replace("$libdir/", "")]
