# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server's parameters: what they are, and what is wanted of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union

Value = Union[str, "tuple[str, ...]"]


@dataclass(frozen=True)
class Definition:
    """A parameter as pg_settings describes it. minimum, maximum: in units of `unit`, None where there is no such limit."""

    name: str
    kind: str  # pg_settings.vartype
    context: str
    setting: str
    unit: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    words: tuple[str, ...] = ()
    source: str = "default"
    file: str | None = None
    pending_restart: bool = False


@dataclass(frozen=True)
class Entry:
    """A line of a configuration file, as pg_file_settings shows it."""

    file: str
    line: int
    order: int
    name: str
    value: str
    error: str | None = None


@dataclass(frozen=True)
class Setting:
    """A parameter that the policy sets. value: a list's elements as a tuple. path: where the policy says it."""

    name: str
    value: Value
    path: str
    optional: bool = False
    reason: str | None = None
    controls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """The whole document: what is wanted, sorted by name. skipped: optional parameters that this server does not know."""

    wanted: tuple[Setting, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class State:
    """What the server has. entries: the lines of all its files in the order in which they count.

    libraries: those that can be loaded, loaded: those that are. current_files: those that the server has loaded as they are now.
    """

    major: int
    definitions: dict[str, Definition] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()
    libraries: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    current_files: frozenset[str] = frozenset()
