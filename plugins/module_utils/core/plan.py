# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what will change, in order. Check mode's answer, --diff, the SQL and the applied change are views of it."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Callable

from .database import Database, StatementError
from .errors import BulwarkError
from .statements import SecretStatement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Two runs of the collection never interleave in one database: first half of the key of the advisory lock, the second is the database's own.
ADVISORY_LOCK = 0x62756C77 << 32

_BATCH = 100  # statements in one round trip

_FIRST_PAUSE = 0.2  # seconds; doubles with every retry
_LONGEST_PAUSE = 5.0


class Effect(Enum):
    """What a change does to its object; the value is the word of its SQL, where there is one.

    WRITE: what is written as a whole, such as a file. RELOAD: the server reads its files again.
    """

    CREATE = "CREATE"
    ALTER = "ALTER"
    DROP = "DROP"
    GRANT = "GRANT"
    REVOKE = "REVOKE"
    REVOKE_OPTION = "REVOKE GRANT OPTION FOR"
    RESET = "RESET"
    WRITE = "write"
    RELOAD = "reload"


@dataclass(frozen=True)
class Change:
    """One step: the object it is about, a description for a person, and what makes it.

    description: empty where the other changes of its section say all. statement: composed SQL, a SecretStatement, or what core.install
    takes (a step, a patch of Patroni's configuration); None where another change makes this one, too.
    database: where it runs, None for what belongs to the whole server. section: its heading in the diff, None for that of its database.
    privileges: how many it gives or takes, over all objects and grantees. from_roles: those that it takes and that somebody once granted
    to a role, not PUBLIC's. locks: about how many it holds until its transaction ends, where they are many. new_owner: the role that it
    hands its object to.
    """

    object: str
    description: str
    statement: Any
    database: str | None = None
    effect: Effect = Effect.ALTER
    section: str | None = None
    privileges: int = 0
    from_roles: int = 0
    locks: int = 0
    new_owner: str = ""

    @property
    def heading(self) -> str:
        """Under what the diff shows it."""
        return self.section or (f"database {self.database}" if self.database else "server")

    @property
    def secret(self) -> bool:
        """Whether the SQL holds a secret."""
        return isinstance(self.statement, SecretStatement)

    def sql(self, database: Database) -> str:
        """The SQL for people and scripts, with secrets hidden."""
        return database.text(self.statement.shown if isinstance(self.statement, SecretStatement) else self.statement)

    def run(self, database: Database) -> None:
        """Execute the statement. Raises StatementError that names the object."""
        try:
            if isinstance(self.statement, SecretStatement):
                with database.silenced():
                    database.execute(self.statement.sent)
            else:
                database.execute(self.statement)
        except StatementError as error:
            raise StatementError(f"{self.object}: {error} [{self.description}]", error.sqlstate, error.transient, error.lost) from None


@dataclass(frozen=True)
class Plan:
    """Changes in the order in which they are executed."""

    changes: tuple[Change, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def __add__(self, other: Plan) -> Plan:
        return Plan(self.changes + other.changes)

    def under(self, section: str) -> Plan:
        """The plan with one heading over all its changes."""
        return Plan(tuple(replace(change, section=section) for change in self.changes))

    @property
    def granted(self) -> int:
        """How many privileges the plan gives."""
        return sum(change.privileges for change in self.of(Effect.GRANT))

    @property
    def revoked(self) -> int:
        """How many privileges the plan takes."""
        return sum(change.privileges for change in self.of(Effect.REVOKE, Effect.REVOKE_OPTION))

    def of(self, *effects: Effect) -> tuple[Change, ...]:
        """The changes that have one of the effects, in order."""
        return tuple(change for change in self.changes if change.effect in effects)

    @property
    def steps(self) -> list[Any]:
        """What makes the changes, for core.install."""
        return [change.statement for change in self.changes if change.statement is not None]

    def sql(self, database: Database) -> list[str]:
        """The statements in order, secrets hidden."""
        return [change.sql(database) for change in self.changes]

    def in_transactions(self, most: int) -> list[Plan]:
        """The plan cut where one transaction would hold more locks than that. Nothing is cut where they are fewer."""
        parts: list[list[Change]] = [[]]
        held = 0
        for change in self.changes:
            if held and held + change.locks > most:
                parts.append([])
                held = 0
            parts[-1].append(change)
            held += change.locks
        return [Plan(tuple(part)) for part in parts]

    def diff(self) -> str:
        """The plan in the policy's own terms, a heading for each section."""
        lines: list[str] = []
        heading = ""
        for change in self.changes:
            if change.heading != heading:
                heading = change.heading
                lines.append(heading)
            if change.description:
                lines.append(f"  {change.description}")
        return "\n".join(lines) + "\n" if lines else ""

    def counted(self) -> str:
        """How many changes there are and where, for a message."""
        counts: dict[str, int] = {}
        for change in self.changes:
            place = change.database or "server"
            counts[place] = counts.get(place, 0) + 1
        each = ", ".join(f"{place} {count}" for place, count in counts.items())
        return f"{len(self.changes)} change{'s' if len(self.changes) != 1 else ''} ({each})"

    def as_data(self, database: Database) -> list[dict[str, Any]]:
        """The plan as JSON-ready data."""
        return [
            {
                "database": change.database,
                "object": change.object,
                "change": change.description,
                "sql": change.sql(database),
                "secret": change.secret,
            }
            for change in self.changes
        ]


@dataclass(frozen=True)
class Patience:
    """How long to wait for locks: each time lock_timeout milliseconds, and up to retries times more with growing pauses.

    Raises BulwarkError for numbers that PostgreSQL does not take.
    """

    lock_timeout: int = 5000
    retries: int = 5

    def __post_init__(self) -> None:
        within("lock_timeout", self.lock_timeout, 0, 2**31 - 1)
        within("lock_retries", self.retries, 0, 1000)


def within(option: str, value: float | None, least: float, most: float) -> None:
    """Raise BulwarkError where an option's number is out of its bounds."""
    if value is not None and not least <= value <= most:
        raise BulwarkError(f"{option} must be from {least} to {most}, not {value}")


def apply_in_transaction(database: Database, changes: Iterable[Change], still_left: Callable[[], Plan], patience: Patience) -> int:
    """Execute the changes in one transaction of one database; returns how often it had to be retried.

    still_left reads the state again inside the transaction; if it finds a plan, everything is rolled back.
    Raises BulwarkError that names the failing change; the database is then as it was.
    """
    steps = tuple(changes)

    def attempt() -> None:
        with database.writing(patience.lock_timeout, ADVISORY_LOCK):
            database.warnings()
            for together in _batches(steps):
                _run_together(database, together)
            warned = database.warnings()
            left = still_left()
            if left:
                text = f"{_place(database)} did not reach the declared state and was rolled back; still to do:\n{left.diff()}"
                raise BulwarkError(text + _why(warned))

    return _patiently(database, attempt, patience)


def _why(warned: Sequence[str]) -> str:
    """Why a plan that was executed has not done what it is for."""
    if warned:
        return (
            f"PostgreSQL only warned: {'; '.join(warned)}. What the role that applies this does not own, and was not given to grant, is for"
            " its owner or a superuser to change"
        )
    return "Nothing was refused: somebody else has changed it meanwhile (run again), or a trigger or an event trigger changes it back"


def _batches(steps: Sequence[Change]) -> Iterator[Sequence[Change]]:
    """Steps that go to the server in one round trip; one with a secret goes by itself."""
    batch: list[Change] = []
    for step in steps:
        if step.secret or len(batch) == _BATCH:
            yield batch
            batch = []
        batch.append(step)
        if step.secret:
            yield batch
            batch = []
    yield batch


def _run_together(database: Database, steps: Sequence[Change]) -> None:
    """Execute the steps at once; if that fails, one by one, so that the error names the one."""
    if len(steps) > 1:
        try:
            database.execute("SAVEPOINT batch", *(step.statement for step in steps), "RELEASE SAVEPOINT batch")
            return
        except StatementError as error:
            if error.lost:
                raise
        database.execute("ROLLBACK TO SAVEPOINT batch")
    for step in steps:
        step.run(database)


def apply_planned(
    database: Database,
    planned: Plan,
    still_left: Callable[[], Plan],
    patience: Patience,
    accept: Callable[[Plan], None] = lambda _: None,
) -> int:
    """As apply_in_transaction.

    Where somebody else, such as a second run, has changed the state since it was planned, it is planned anew. accept: is shown the new
    plan before it is executed; raises BulwarkError to refuse it.
    """
    for retries in range(patience.retries + 1):
        try:
            return retries + apply_in_transaction(database, planned.changes, still_left, patience)
        except BulwarkError:
            fresh = planned if database.closed else _planned_anew(database, still_left)
            if fresh.diff() == planned.diff() or retries == patience.retries:
                raise
            accept(fresh)
            planned = fresh
            if not planned:
                return retries
    raise AssertionError("the last attempt returns or raises")


def _planned_anew(database: Database, still_left: Callable[[], Plan]) -> Plan:
    with database.reading():
        return still_left()


@contextmanager
def in_parts(done: Sequence[str]) -> Iterator[None]:
    """Have an error in a plan of several transactions name those that are committed. done: a list that grows with them."""
    try:
        yield
    except BulwarkError as error:
        if not done:
            raise
        text = f"{error}\nDone before that, each in its own transaction: {', '.join(done)}. Run again to finish."
        raise BulwarkError(text) from None


def apply_alone(database: Database, change: Change, patience: Patience) -> int:
    """Execute a change that cannot run in a transaction; returns how often it had to be retried."""
    return _patiently(database, lambda: change.run(database), patience)


def _patiently(database: Database, attempt: Callable[[], None], patience: Patience) -> int:
    for retries in range(patience.retries + 1):
        try:
            attempt()
            return retries
        except StatementError as error:
            if error.lost:
                ending = (
                    "while its transaction was committed, so that nobody knows whether it was: run again"
                    if error.at_commit
                    else "and its transaction is rolled back"
                )
                raise BulwarkError(f"{_place(database)}: the connection was lost {ending}: {error}") from None
            if not error.transient or retries == patience.retries:
                raise BulwarkError(_failure(database, error, retries)) from None
            time.sleep(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**retries) * (0.5 + random.random()))
    raise AssertionError("the last attempt returns or raises")


def _place(database: Database) -> str:
    return f'database "{database.name}"'


def _failure(database: Database, error: StatementError, attempt: int) -> str:
    text = f"{_place(database)} is unchanged: {error}"
    if error.transient:
        holders = database.lock_holders()
        text += f"; tried {attempt + 1} times" + (f"; held by {holders}" if holders else "")
    return text
