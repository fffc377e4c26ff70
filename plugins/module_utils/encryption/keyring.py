# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keyring files: how the state of a key changes, and what is never lost by it. No function of this file shows a key."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ..client.field_encryption import READING_STATES, STATES, FieldEncryptionError, Key, parse_keyring
from ..core.errors import BulwarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Keys = tuple[Key, ...]

# The states that a key may have before each state.
_BEFORE = {
    "primary": ("staged", "secondary"),
    "secondary": ("retired",),
    "retired": ("staged", "secondary"),
    "destroyed": ("retired",),
}
_ADVICE = {
    "staged": "a staged key reads only; promote it with state=primary, or retire it",
    "primary": "promote another key with state=primary first",
    "secondary": "retire it first, once no value needs it any more",
    "retired": "make it secondary first",
    "destroyed": "nothing brings it back",
}


@contextlib.contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold everybody else off who changes keyrings of the same directory. Raises BulwarkError where the directory is missing."""
    directory = os.path.dirname(os.path.realpath(path))
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BulwarkError(f"cannot use the directory {directory}: {error.strerror}; make it before the keyring") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def keys_of(text: str, source: str) -> Keys:
    """The keys of a keyring's text. Raises BulwarkError that names the source."""
    try:
        return parse_keyring(text, source)
    except FieldEncryptionError as error:
        raise BulwarkError(str(error)) from None


def _line_of(variable: str) -> re.Pattern[str]:
    """The line of an environment file that sets a variable, with what stands before its value."""
    return re.compile(rf"^([ \t]*(?:export[ \t]+)?{re.escape(variable)}=)(.*)$", re.MULTILINE)


def keys_of_variable(text: str | None, variable: str, path: str) -> Keys | None:
    """The keys in a variable of an environment file, None where the file or the variable is missing. Raises BulwarkError."""
    found = _line_of(variable).findall(text or "")
    if len(found) > 1:
        raise BulwarkError(f"{path} sets {variable} {len(found)} times: leave one line")
    if not found:
        return None
    value = found[0][1].strip()
    quote = value[:1] if value[:1] in ("'", '"') and len(value) > 1 and value.endswith(value[:1]) else ""
    return keys_of(value[1:-1] if quote else value, f"{path}, {variable}")


def set_variable(text: str | None, variable: str, keys: Keys) -> str:
    """An environment file in which a variable holds the keys that read, the primary one first; its other lines stay.

    Such a value needs no quotes: systemd, dotenv, Docker and the shell read it alike.
    """
    value = ",".join(str(key.secret) for key in keys)
    old = text or ""
    if _line_of(variable).search(old):
        return _line_of(variable).sub(lambda found: found[1] + value, old)
    return f"{old}{'' if old.endswith(chr(10)) or not old else chr(10)}{variable}={value}\n"


def readers(keys: Keys) -> Keys:
    """The keys that read, as a variable holds them: the primary one first, without time, and the others all secondary."""
    chosen = [key for state in READING_STATES for key in keys if key.state == state]
    return tuple(Key.from_secret(str(key.secret), "primary" if key.state == "primary" else "secondary") for key in chosen)


def reach(keys: Keys, state: str, key_id: str | None) -> Keys:
    """The keys once one of them has a state; the same keys where it has it already.

    staged: one key is staged; a new one where none is. primary, retired: without key_id, that of the staged key and of all secondary
    ones. Raises BulwarkError where the step would lose a key that something may need, or the key is not there.
    """
    if state == "staged":
        return keys if any(key.state == "staged" for key in keys) else (*keys, Key.generate("staged"))
    ids = [_existing(keys, key_id).id] if key_id is not None else _usual(keys, state)
    for identity in ids:
        keys = _move(keys, identity, state)
    return keys


def _existing(keys: Keys, key_id: str) -> Key:
    found = next((key for key in keys if key.id == key_id), None)
    if found is None:
        raise BulwarkError(f"there is no key {key_id} in the keyring; there are {', '.join(f'{key.id} ({key.state})' for key in keys)}")
    return found


def _usual(keys: Keys, state: str) -> list[str]:
    """The keys that are meant where none is named."""
    if state == "retired":
        return [key.id for key in keys if key.state == "secondary"]
    if state != "primary":
        raise BulwarkError(f"state={state} needs key_id, the id of the key")
    staged = [key.id for key in keys if key.state == "staged"]
    if len(staged) > 1:
        raise BulwarkError(f"several keys are staged: name one with key_id: {', '.join(staged)}")
    return staged


def _move(keys: Keys, key_id: str, state: str) -> Keys:
    now = _existing(keys, key_id).state
    if now == state:
        return keys
    if now not in _BEFORE[state]:
        raise BulwarkError(f"the key {key_id} is {now} and cannot become {state}: {_ADVICE[now]}")
    moved = [replace(key, state=state, secret=None if state == "destroyed" else key.secret) if key.id == key_id else key for key in keys]
    if state == "primary":
        moved = [replace(key, state="secondary") if key.state == "primary" and key.id != key_id else key for key in moved]
    return tuple(moved)


def check_replacement(old: Keys, new: Keys) -> None:
    """Refuse a keyring that would lose a key of the one that it replaces. Raises BulwarkError that names the key."""
    if not any(key.state == "primary" for key in new):
        raise BulwarkError("no key of the new keyring is primary, so that nothing could be encrypted")
    states = {key.id: key.state for key in new}
    for key in old:
        if key.state != "destroyed" and key.id not in states:
            raise BulwarkError(
                f"the new keyring lacks the key {key.id}, which is {key.state} here: what was encrypted with it could not be read any more;"
                " keep it, or retire and destroy it first"
            )
        if states.get(key.id) == "destroyed" and key.state not in ("retired", "destroyed"):
            raise BulwarkError(f"the new keyring destroys the key {key.id}, which is {key.state} here: retire it first")
        if states.get(key.id) not in ("destroyed", None) and key.state == "destroyed":
            raise BulwarkError(f"the new keyring has the key {key.id}, which was destroyed here")


def lines(keys: Sequence[Key] | None, known: Sequence[Key] | None = None) -> str:
    """A keyring for a diff: ids and states, one key a line. known: the id of any other key is not shown, since it is not made yet."""
    shown = keys or ()
    names = [key.id if known is None or key.id in {each.id for each in known} else "(new key)" for key in shown]
    return "".join(f"{name} {key.state}\n" for name, key in zip(names, shown))


def counts(keys: Sequence[Key]) -> str:
    """How many keys there are of each state."""
    found = {state: sum(key.state == state for key in keys) for state in STATES}
    return ", ".join(f"{number} {state}" for state, number in found.items() if number)
