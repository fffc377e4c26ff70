# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a server's configuration, installed as one.

Put in place, checked by the server, loaded, proved by a new session, or undone.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Protocol

from .database import StatementError
from .errors import BulwarkError
from .files import keep, put_back, read_text, reload, remove, shared_mode, write_text
from .patroni import PatroniError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .database import Database, Server
    from .patroni import Patroni


_LOCK = 0x62756C77 << 32 | 1  # two runs never change one server's configuration at the same time
_LOCK_TIMEOUT = 60  # seconds
_PAUSE = 0.2  # seconds between two looks at a server that Patroni configures

Undo = Callable[["Database"], None]


@dataclass(frozen=True)
class PutBack:
    """Undoes the change of a file. kept: its second name, None where it has none. text: what it held, None for no file."""

    path: str
    kept: str | None
    text: str | None

    def __call__(self, _database: Database) -> None:
        """Undo it."""
        if self.kept is not None:
            put_back(self.kept, self.path)
        else:
            _put(self.path, self.text)

    def forget(self) -> None:
        """The change is to stay."""
        with contextlib.suppress(BulwarkError):  # the next run removes it
            if self.kept is not None:
                remove(self.kept)


def _put(path: str, text: str | None) -> None:
    if text is None:
        remove(path)
    else:
        write_text(path, text, shared_mode(os.path.dirname(path), 0o600))


class Step(Protocol):
    """One change; do() makes it, as a whole or not at all, and returns what takes it back."""

    def do(self, database: Database) -> Undo:
        """Make the change. Raises BulwarkError; nothing is then changed."""


@dataclass(frozen=True)
class FileText:
    """A file and what it will hold. before: what it held when that was planned; None, here as there, for no file."""

    path: str
    text: str | None
    before: str | None

    def do(self, _database: Database) -> Undo:
        """Write or remove the file. Raises BulwarkError, also where somebody else has changed it since it was read."""
        if read_text(self.path) != self.before:
            raise BulwarkError(f"{self.path} was changed by somebody else after it was read; run again")
        undo = PutBack(self.path, keep(self.path), self.before)
        try:
            _put(self.path, self.text)
        except BaseException:
            undo.forget()
            raise
        return undo


def changed_files(texts: dict[str, str]) -> tuple[FileText, ...]:
    """The files that do not hold their text yet. Raises BulwarkError where one of them cannot be read, or its directory not written to."""
    found = (FileText(path, text, read_text(path)) for path, text in texts.items())
    files = tuple(each for each in found if each.text != each.before)
    for each in files:
        check_writable(each.path)
    return files


def check_writable(path: str) -> None:
    """Raise BulwarkError where the directory of a file, or the one in which that will be made, cannot be written to."""
    place = os.path.dirname(os.path.realpath(path))
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    if not os.access(place, os.W_OK | os.X_OK):
        raise BulwarkError(f"{path} cannot be written: run this as the server's account (become_user: postgres)")


@dataclass(frozen=True)
class Statement:
    """SQL and what undoes it, for what no transaction may hold (ALTER SYSTEM)."""

    statement: Any
    undo: Any

    def do(self, database: Database) -> Undo:
        """Execute the statement."""
        database.execute(self.statement)
        return lambda session: session.execute(self.undo)


def _nothing(_database: Database) -> None:
    """No check."""


@dataclass(frozen=True)
class Installation:
    """What is installed as one.

    prove: raises BulwarkError where the server, once it has loaded the changes, does not work as it should. restored: for the message of
    a failure:
    what is as it was. check: raises BulwarkError where the server says that it would not take the changes. loads: whether the server has
    to load
    anything.
    """

    steps: Sequence[Step]
    prove: Callable[[], None]
    restored: str
    check: Callable[[Database], None] = _nothing
    loads: bool = True


def install(server: Server, installation: Installation) -> None:
    """Make the changes true.

    Raises BulwarkError; files, settings and what the server has loaded are then as they were, or the message says what to do.
    """
    with server.connect() as database:
        database.without_timeouts()
        _lock(database)
        undo: list[Undo] = []
        loading = False
        try:
            for step in installation.steps:
                undo.insert(0, step.do(database))  # the last change is the first to be undone
            installation.check(database)
            if installation.loads:
                loading = True
                reload(server, database)
            installation.prove()
            for each in undo:
                if isinstance(each, PutBack):
                    each.forget()
        except BaseException as error:
            problem = _take_back(server, database, undo, loading)
            if problem:
                raise BulwarkError(
                    f"{error}; and the way back failed: {problem}. Restore the configuration by hand and reload the server"
                ) from None
            if isinstance(error, BulwarkError):
                raise BulwarkError(f"{error}; {installation.restored}") from None
            raise


def _lock(database: Database) -> None:
    """Wait until no other run changes this server's configuration; the lock ends with the session."""
    database.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}s'")
    try:
        database.query("SELECT pg_catalog.pg_advisory_lock(%(key)s)", {"key": _LOCK})
    except StatementError as error:
        raise BulwarkError(
            f"another run has been changing this server's configuration for {_LOCK_TIMEOUT} s; run again ({error})"
        ) from None
    database.execute("SET lock_timeout = 0")


def _take_back(server: Server, database: Database, undo: list[Undo], loading: bool) -> str:
    """Undo in the session that is still open: what is loaded may keep new ones out. Returns what went wrong."""
    problems = []
    steps: list[Undo] = [*undo, lambda session: reload(server, session, recovering=True)] if loading else undo
    for each in steps:
        try:
            each(database)
        except BulwarkError as error:
            problems.append(str(error))
    return "; ".join(problems)


@dataclass(frozen=True)
class PatroniPatch:
    """A change of Patroni's dynamic configuration, and what undoes it. patience: seconds until each member has heard of it."""

    patch: dict[str, Any]
    undo: dict[str, Any]
    patience: float


def install_by_patroni(patroni: Patroni, patch: PatroniPatch, missing: Callable[[bool], str | None]) -> None:
    """Send a patch, and wait until this member's server has it. Raises BulwarkError; the dynamic configuration is then as it was.

    missing: what the server does not have yet, None where it has everything; asked with True for the last time, when it has had time
    enough.
    """
    try:
        _send(patroni, patch.patch, patch.patience)
        deadline = time.monotonic() + patch.patience
        while True:
            late = time.monotonic() > deadline
            found = missing(late)
            if found is None:
                return
            if late:
                text = f"{patch.patience:g} s after the change of Patroni's dynamic configuration {found}"
                raise BulwarkError(f"{text} (Patroni's configuration file on this host overrides it, and so does ALTER SYSTEM)")
            time.sleep(_PAUSE)
    except BaseException as error:
        if isinstance(error, PatroniError) and not error.transient:
            raise  # it was refused
        try:
            _send(patroni, patch.undo, patch.patience)
        except PatroniError as problem:
            text = f"{error}; and the way back failed: {problem}. Look at Patroni's dynamic configuration (patronictl show-config)"
            raise BulwarkError(text) from None
        if isinstance(error, BulwarkError):
            raise BulwarkError(f"{error}; Patroni's dynamic configuration is as it was") from None
        raise


def _send(patroni: Patroni, changes: Mapping[str, Any], patience: float) -> None:
    """Change the dynamic configuration, again and again while Patroni cannot: it is changing it for somebody else, or elects a leader."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return patroni.patch(changes)
        except PatroniError as error:
            if not error.transient or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE)


def patience_of(config: dict[str, Any]) -> float:
    """How long a change of the dynamic configuration may take to reach every member, in seconds."""
    return 10 + 2 * float(config.get("loop_wait") or 10)
