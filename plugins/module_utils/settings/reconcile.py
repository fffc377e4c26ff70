# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""(wanted, actual) -> what the file will hold, what changes by it, and what stands in its way. Pure: no connection, no file is opened."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..core.parameters import split_setting
from ..core.plan import Change, Effect
from .values import as_text, in_file, readable, same

if TYPE_CHECKING:
    from collections.abc import Container

    from .model import Definition, Entry, Policy, Setting, State, Value

# Whoever wants one more library does not want the others gone.
AUTO = "postgresql.auto.conf"  # what ALTER SYSTEM writes

_MERGED = frozenset({"shared_preload_libraries"})

# A session has these from somewhere nearer than any file.
_NEARER = frozenset({"client", "database", "database user", "global", "session", "user"})

# A session through a Unix socket says 0, whatever is set.
_OF_TCP = frozenset({"tcp_keepalives_count", "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_user_timeout"})

_INCLUDE_DIR = re.compile(r"^[ \t]*include_dir[ \t]*=?[ \t]*'((?:[^']|'')+)'", re.MULTILINE | re.IGNORECASE)

_HEADER = """\
# Written by bulwark.postgresql from its policy: change that, not this file.
"""

INCLUDE = """
# bulwark.postgresql: the settings of its policy. What stands below this line overrides them.
include_dir 'conf.d'
"""


@dataclass(frozen=True)
class ParameterChange(Change):
    """A parameter that changes. before, after: as a person reads them; None where it is not set."""

    before: str | None = None
    after: str | None = None
    context: str = "user"


def parameter_change(name: str, definition: Definition | None, before: str | None, after: str | None) -> ParameterChange:
    """The change of one parameter, with its line of the diff."""
    context = definition.context if definition else "user"
    if after is None:
        effect, line = Effect.DROP, f"{before} -> no longer set here"
    elif before is not None and before == after:
        effect, line = Effect.ALTER, f"{after}, now by this policy"
    else:
        effect = Effect.CREATE if before is None else Effect.ALTER
        line = f"{before or 'empty'} -> {after or 'empty'}{' (after a restart)' if context == 'postmaster' else ''}"
    return ParameterChange(name, f"{name}: {line}", None, None, effect, before=before, after=after, context=context)


@dataclass(frozen=True)
class Override:
    """What sets a parameter after our file does, and so wins. entry: None for the server's command line."""

    name: str
    value: str
    entry: Entry | None

    @property
    def by_alter_system(self) -> bool:
        """Whether ALTER SYSTEM RESET removes it."""
        return self.entry is not None and os.path.basename(self.entry.file) == AUTO

    def remedy(self, may_reset: bool) -> str:
        """Where it is, and how it goes away. may_reset: whether ALTER SYSTEM is allowed."""
        if self.entry is None:
            return f"{self.name} = {self.value} on the server's command line: take it out of what starts the server"
        way = f"ALTER SYSTEM RESET {self.name}, or set overrides: reset" if self.by_alter_system and may_reset else "remove that line"
        return f"{self.name} = {self.value} in {self.entry.file} line {self.entry.line}: {way}"


def include_directory(config_file: str, text: str) -> tuple[str | None, int]:
    """The last include_dir of the main configuration file and its line, (None, 0) where there is none."""
    found = list(_INCLUDE_DIR.finditer(text))
    if not found:
        return None, 0
    directory = found[-1][1].replace("''", "'")
    return os.path.join(os.path.dirname(config_file), directory), text.count("\n", 0, found[-1].end()) + 1


def merged(wanted: Setting, state: State, ours: Container[str]) -> Setting:
    """The parameter with the elements that files of others already give it in front of its own."""
    if wanted.name not in _MERGED:
        return wanted
    first = _elements(
        wanted.name, next((each.value for each in reversed(state.entries) if each.name == wanted.name and each.file not in ours), "")
    )
    return replace(wanted, value=(*first, *(item for item in _own(wanted) if item not in first)))


def _elements(name: str, text: str) -> tuple[str, ...]:
    found = split_setting(name, text)
    return tuple(each for each in found if each) if isinstance(found, tuple) else ()  # ALTER SYSTEM writes no element as an empty one


def _own(wanted: Setting) -> tuple[str, ...]:
    return wanted.value if isinstance(wanted.value, tuple) else (wanted.value,)


def lost_libraries(policy: Policy, state: State, ours: str) -> list[str]:
    """What nobody would load any more where ALTER SYSTEM is reset: no other file does, and neither does the policy."""
    found = []
    for wanted in policy.wanted:
        last = next((each for each in reversed(state.entries) if each.name == wanted.name and os.path.basename(each.file) == AUTO), None)
        if last is None or wanted.name not in _MERGED:
            continue
        kept = merged(wanted, state, {ours, last.file}).value
        lost = [each for each in _elements(wanted.name, last.value) if each not in kept]
        if lost:
            place = f"{last.file} line {last.line}"
            found.append(
                f"{wanted.name} = {last.value} in {place}: name {', '.join(lost)} in the policy, or ALTER SYSTEM RESET {wanted.name}"
            )
    return found


def file_text(policy: Policy) -> str:
    """The whole file: each parameter with its reason and the standards' controls."""
    parts = [_HEADER]
    for wanted in policy.wanted:
        about = [*([wanted.reason] if wanted.reason else []), *([", ".join(wanted.controls)] if wanted.controls else [])]
        comment = f"\n# {'; '.join(about)}\n" if about else "\n"
        parts.append(f"{comment}{wanted.name} = {in_file(as_text(wanted.name, wanted.value))}\n")
    return "".join(parts)


def file_changes(policy: Policy, state: State, ours: str) -> list[ParameterChange]:
    """What the new file changes, sorted by name."""
    in_ours = {entry.name: entry.value for entry in state.entries if entry.file == ours}
    found = []
    for wanted in policy.wanted:
        definition = state.definitions.get(wanted.name)
        after = shown(definition, wanted.value, wanted.name)
        if wanted.name in in_ours and shown(definition, in_ours[wanted.name], wanted.name) == after:
            continue
        winner = _winner(state, wanted.name)
        before = winner.value if winner else definition.setting if definition else None
        was = shown(definition, before, wanted.name) if before is not None else None
        found.append(parameter_change(wanted.name, definition, was, after))
    names = {wanted.name for wanted in policy.wanted}
    for name in (each for each in in_ours if each not in names):
        definition = state.definitions.get(name)
        found.append(parameter_change(name, definition, shown(definition, in_ours[name], name), None))
    return sorted(found, key=lambda each: each.object)


def _winner(state: State, name: str) -> Entry | None:
    found = [entry for entry in state.entries if entry.name == name]
    return found[-1] if found else None


def shown(definition: Definition | None, value: Value, name: str) -> str:
    """The value as people read it."""
    return as_text(name, value) if definition is None else readable(definition, value)


def not_in_force(policy: Policy, state: State) -> tuple[str, ...]:
    """What a new session has otherwise than declared, but for what waits for a restart or is nearer to the session."""
    found = []
    for wanted in policy.wanted:
        definition = state.definitions.get(wanted.name)
        if definition is None or definition.pending_restart or definition.source in _NEARER or wanted.name in _OF_TCP:
            continue
        hidden = wanted.name == "archive_command" and definition.setting == "(disabled)"  # until archive_mode is on
        if not hidden and not same(definition, definition.setting, wanted.value) and not _spelled_otherwise(wanted, definition, state):
            found.append(f"{wanted.name} is {definition.setting} ({definition.source})")
    return tuple(found)


def _spelled_otherwise(wanted: Setting, definition: Definition, state: State) -> bool:
    """Whether the server has the value and shows it in other words: utc as UTC, wal_compression = on as pglz."""
    last = _winner(state, wanted.name)
    if last is None or last.error or last.file != definition.file or last.file not in state.current_files:
        return False
    return same(definition, last.value, wanted.value)


def still_loaded(state: State, ours: str) -> tuple[str, ...]:
    """What the server has from our file, which does not hold it any more."""
    held = {entry.name for entry in state.entries if entry.file == ours}
    loaded = (each for each in state.definitions.values() if each.file == ours and each.name not in held and not each.pending_restart)
    return tuple(f"{each.name} is {each.setting} ({each.source})" for each in loaded)


def overrides(policy: Policy, state: State, ours: str, config_file: str, include_line: int) -> tuple[Override, ...]:
    """Everything that says something else about a parameter of ours, and is read after our file."""
    last = max((entry.order for entry in state.entries if entry.file == ours), default=None)
    found = []
    for wanted in policy.wanted:
        definition = state.definitions.get(wanted.name)
        if definition is None:
            continue
        if definition.source == "command line" and not same(definition, definition.setting, wanted.value):
            found.append(Override(wanted.name, definition.setting, None))
        others = (entry for entry in state.entries if entry.name == wanted.name and entry.file != ours)
        later = (entry for entry in others if _later(entry, ours, last, config_file, include_line))
        found += [Override(wanted.name, entry.value, entry) for entry in later if not same(definition, entry.value, wanted.value)]
    return tuple(found)


def _later(entry: Entry, ours: str, last: int | None, config_file: str, include_line: int) -> bool:
    if last is not None:
        return entry.order > last
    if os.path.basename(entry.file) == AUTO:
        return True
    if entry.file == config_file:
        return 0 < include_line < entry.line
    directory, name = os.path.split(entry.file)
    return directory == os.path.dirname(ours) and name > os.path.basename(ours)
