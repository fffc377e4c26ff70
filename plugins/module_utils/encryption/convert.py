# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Converts the values of a column page by page, beside an application that goes on writing.

A page is a range of the primary key. Its values are read, converted here, and written by one UPDATE, which is a transaction of its own
and takes only rows that nobody has changed since they were read (the same xmin). So a plaintext is in no statement unless columns are
decrypted, nothing is converted twice, and a run that is stopped at any moment has lost nothing: the next one goes on with what is left.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable

from ..client.field_encryption import NORMALIZERS, READING_STATES, Keyring, TokenError, is_token
from ..core.database import StatementError
from ..core.errors import BulwarkError
from ..core.statements import compose, identifier, joined, keywords, literal
from .catalog import has_form, not_indexed, token_form
from .model import DECRYPTED, ENCRYPTED, KEYED, ROTATED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..core.database import Database as Session
    from ..core.database import Server
    from .model import Column, Facts

_RANGES_OF_A_WORKER = 8  # so that none waits long for the others at the end
_FEW = 10_000  # rows for which one worker is enough
_LAG = "SELECT COALESCE(extract(epoch FROM max(replay_lag)), 0)::float8 FROM pg_catalog.pg_stat_replication"
_STARTS = ("gAAAA", "f1.")  # of a token, before the year 2106
_LOOK = 1.0  # seconds between two looks at the standbys and the progress


@dataclass(frozen=True)
class Pace:
    """How fast to go. page: rows of a transaction. workers: processes. max_lag: seconds that a standby may be behind. lock_timeout:
    milliseconds; retries: how often a page is tried again that got no lock.
    """

    page: int = 1000
    workers: int = 1
    max_lag: float = 10
    lock_timeout: int = 5000
    retries: int = 5


@dataclass
class Counts:
    """What became of rows. written: converted. missed: changed by somebody else meanwhile. unknown: of a key that is not there."""

    written: int = 0
    missed: int = 0
    unknown: int = 0
    by_key: dict[tuple[str, bool], int] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        """Add the counts of another part."""
        self.written += other.written
        self.missed += other.missed
        self.unknown += other.unknown
        for key, number in other.by_key.items():
            self.by_key[key] = self.by_key.get(key, 0) + number


class Pages:
    """Reads and writes the pages of one column. state: what the values are to become, None to look at tokens only."""

    def __init__(self, column: Column, facts: Facts, keyring: Keyring, state: str | None) -> None:
        self._column = column
        self._keyring = Keyring(keyring.keys, source=f"the keyring {column.keyring}", keyed=column.form == KEYED)
        self._state = state
        self._types = [of for _name, of in facts.keys]
        self._keys = [identifier(name) for name, _of in facts.keys]
        # With names of their own: ORDER BY would go by the text of a column that is named like the key.
        names = [identifier(f"k{number}") for number in range(len(self._keys))]
        self._shown = joined(", ", [compose("{}::pg_catalog.text AS {}", key, name) for key, name in zip(self._keys, names)])
        self._table = identifier(column.schema, column.table)
        self._name = identifier(column.name)
        self._indexed = bool(column.blind_index) and state in (ENCRYPTED, ROTATED)

    def index_keys(self) -> tuple[str, ...]:
        """The ids of the keys under which the blind index may have a value."""
        states = READING_STATES if self._state == ENCRYPTED else ("primary",)
        return tuple(key.id for key in self._keyring.keys if key.state in states)

    def _needed(self) -> Any:
        """The condition that a row may have to be converted."""
        if self._indexed:
            return compose("({} OR {})", self._value_needed(), not_indexed(self._column, self.index_keys()))
        return self._value_needed()

    def _value_needed(self) -> Any:
        if self._state in (None, DECRYPTED):
            return token_form(self._name)
        if self._state == ENCRYPTED:
            return compose("NOT {}", has_form(self._name, self._column.form))
        if self._column.form == KEYED:
            start = literal(f"f1.{self._keyring.primary_id}.")
            return compose("NOT (pg_catalog.starts_with({0}, {1}) AND {2})", self._name, start, has_form(self._name, KEYED))
        return keywords("true")

    def _place(self, values: Sequence[str]) -> Any:
        """A key as SQL."""
        return joined(", ", [compose("{}::{}", literal(value), keywords(of)) for value, of in zip(values, self._types)])

    def read(self, session: Session, after: Sequence[str] | None, upto: Sequence[str] | None, limit: int) -> list[tuple[Any, ...]]:
        """The next rows: the columns of the key as text, xmin, the blind index where there is one, the value."""
        keys = joined(", ", self._keys)
        conditions = [compose("{} IS NOT NULL", self._name), self._needed()]
        conditions += [] if after is None else [compose("({}) > ({})", keys, self._place(after))]
        conditions += [] if upto is None else [compose("({}) <= ({})", keys, self._place(upto))]
        return session.query(
            compose(
                "SELECT {}, xmin::pg_catalog.text, {} FROM {} WHERE {} ORDER BY {} LIMIT {}",
                self._shown,
                joined(", ", [*self._index(), self._name]),
                self._table,
                joined(" AND ", conditions),
                keys,
                literal(limit),
            )
        )

    def split(self, session: Session, rows: int, parts: int) -> list[tuple[Sequence[str] | None, Sequence[str] | None]]:
        """Ranges of the primary key with about as many rows each."""
        keys = joined(", ", self._keys)
        bounds: list[Sequence[str] | None] = [None]
        for part in range(1, parts):
            place = literal(rows * part // parts)
            found = session.query(compose("SELECT {} FROM {} ORDER BY {} OFFSET {} LIMIT 1", self._shown, self._table, keys, place))
            if found and found[0] != bounds[-1]:
                bounds.append(found[0])
        return list(zip(bounds, [*bounds[1:], None]))

    def _index(self) -> list[Any]:
        return [identifier(self._column.index_name)] if self._indexed else []

    def row(self, row: tuple[Any, ...], counts: Counts) -> tuple[Any, ...] | None:
        """A row as it is to be written, None for one that stays as it is."""
        place, value = row[: len(self._keys) + 1], row[-1]
        new = self.converted(value, counts)
        if not self._indexed:
            return None if new is None else (*place, new)
        token = value if new is None else new
        prefix = NORMALIZERS[self._column.blind_index][0]
        if new is None and str(row[-2] or "").startswith(tuple(f"{prefix}.{key}." for key in self.index_keys())):
            return None
        try:
            text = self._keyring.decrypt(token)
        except TokenError:  # counted already
            return None
        return (*place, self._keyring.blind_index(text, self._column.label, self._column.blind_index), token)

    def converted(self, value: str, counts: Counts) -> str | None:
        """What a value becomes, None for one that stays as it is."""
        if not value.startswith(_STARTS) or not is_token(value):
            return None if self._state in (None, DECRYPTED) else self._keyring.encrypt(value)
        try:
            if self._state is None:
                info = self._keyring.info(value)
                if info.key_id is None:
                    counts.unknown += 1
                else:
                    key = (info.key_id, value.startswith("f1.") == (self._column.form == KEYED))
                    counts.by_key[key] = counts.by_key.get(key, 0) + 1
                return None
            new = self._keyring.decrypt(value) if self._state == DECRYPTED else self._keyring.rotate(value)
        except TokenError:
            counts.unknown += 1
            return None
        return new if new != value else None

    def write(self, session: Session, rows: Sequence[tuple[Any, ...]]) -> int:
        """Write new rows, as row() makes them; returns how many took one."""
        names = [f"k{number}" for number in range(len(self._keys))]
        news = [*(["blind"] if self._indexed else []), "value"]
        same = [compose("t.{} = v.{}::{}", key, identifier(name), keywords(of)) for key, name, of in zip(self._keys, names, self._types)]
        keys = joined(", ", [compose("t.{}", key) for key in self._keys])
        # Within the page's range of the key, so that the server never reads the whole table for it.
        assigned = joined(", ", [compose("{} = v.{}", each, identifier(name)) for each, name in zip([*self._index(), self._name], news)])
        begin = compose("WITH written AS (UPDATE {} t SET {} FROM unnest(", self._table, assigned)
        end = compose(
            ") v({}) WHERE {} AND t.xmin = v.version::pg_catalog.xid AND ({}) >= ({}) AND ({}) <= ({}) RETURNING 1)"
            " SELECT pg_catalog.count(*) FROM written",
            joined(", ", [identifier(name) for name in (*names, "version", *news)]),
            joined(" AND ", same),
            keys,
            self._place(rows[0]),
            keys,
            self._place(rows[-1]),
        )
        arrays, parameters = zip(*(_array(name, values) for name, values in zip((*names, "version", *news), zip(*rows))))
        before, after = (session.text(part).replace("%", "%%") for part in (begin, end))
        return int(session.value(f"{before}{', '.join(arrays)}{after}", dict(parameters)))

    def convert(self, session: Session, after: Sequence[str] | None, upto: Sequence[str] | None, pace: Pace) -> Iterator[Counts]:
        """Convert a range, a page at a time."""
        while True:
            counts = Counts()
            rows = self.read(session, after, upto, pace.page)
            new = [row for row in (self.row(each, counts) for each in rows) if row is not None]
            if new:
                counts.written = self._patiently(session, new, pace.retries)
                counts.missed = len(new) - counts.written
            yield counts
            if len(rows) < pace.page:
                return
            after = rows[-1][: len(self._keys)]

    def _patiently(self, session: Session, rows: Sequence[tuple[Any, ...]], retries: int) -> int:
        for attempt in range(retries + 1):
            try:
                return self.write(session, rows)
            except StatementError as error:
                if not error.transient or attempt == retries:
                    raise
                time.sleep(min(5.0, 0.2 * 2**attempt) * (0.5 + random.random()))
        raise AssertionError("the last attempt returns or raises")


def _array(name: str, values: Sequence[str]) -> tuple[str, tuple[str, Any]]:
    """An array of texts as SQL, and its parameter: one long text where that is possible, which is made and read far faster."""
    joined_values = ",".join(values)
    if joined_values.count(",") == len(values) - 1 and all(values):
        return f"pg_catalog.string_to_array(%({name})s, ',')", (name, joined_values)
    return f"%({name})s::pg_catalog.text[]", (name, list(values))


def prepare(session: Session, pace: Pace, state: str | None) -> None:
    """Settings of a session that converts. A page that a crash takes back is simply converted again."""
    session.without_timeouts()
    session.execute(f"SET lock_timeout = {int(pace.lock_timeout)}", "SET synchronous_commit = off", "SET search_path = pg_catalog")
    if state == DECRYPTED:
        session.silence("the values")


def convert_column(
    server: Server, pages: Pages, column: Column, rows: int, state: str | None, pace: Pace, say: Callable[[str], None]
) -> Counts:
    """Convert a whole column once. rows: how many the table has. say: is told the progress, once a second at most.

    Raises BulwarkError; what was converted until then stays.
    """
    workers = 1 if rows < _FEW else pace.workers
    with closing(server.connect(column.database)) as session:
        prepare(session, pace, state)
        ranges = pages.split(session, rows, workers * _RANGES_OF_A_WORKER) if workers > 1 else [(None, None)]
        watch = _Watch(session, column, rows, pace, say)
        if workers == 1:
            return _alone(session, pages, pace, watch)
        return _Team(server, pages, column, ranges, state, pace).run(watch)


class _Watch:
    """Waits for standbys, and says how far the work is: also to whoever looks at application_name in pg_stat_activity."""

    def __init__(self, session: Session, column: Column, rows: int, pace: Pace, say: Callable[[str], None]) -> None:
        self._session = session
        self._name = column.name
        self._rows = rows
        self._pace = pace
        self._say = say
        self._begin = time.monotonic()
        self._next = self._begin + _LOOK

    def look(self, done: int) -> None:
        """Say the progress, if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        speed = done / (now - self._begin)
        left = f", {max(0, self._rows - done) / speed:.0f} s left" if speed else ""
        text = f"{self._name[:20]} {done}/{self._rows}, {speed:.0f}/s{left}"
        self._session.query("SELECT pg_catalog.set_config('application_name', %(text)s, false)", {"text": text})
        self._say(text)
        self._next = time.monotonic() + _LOOK

    def lagging(self) -> bool:
        """Whether a standby is too far behind."""
        return bool(self._session.value(_LAG) > self._pace.max_lag)


def _alone(session: Session, pages: Pages, pace: Pace, watch: _Watch) -> Counts:
    total = Counts()
    for counts in pages.convert(session, None, None, pace):
        total.add(counts)
        watch.look(total.written)
        while counts.written and watch.lagging():
            time.sleep(_LOOK)
    return total


class _Team:
    """Several processes, each with a session of its own. They end with this one, whichever way it ends."""

    def __init__(self, server: Server, pages: Pages, column: Column, ranges: Sequence[Any], state: str | None, pace: Pace) -> None:
        self._context = multiprocessing.get_context("fork")
        self._server = server
        self._pages = pages
        self._database = column.database
        self._ranges = ranges
        self._state = state
        self._pace = pace
        self._taken, self._done = self._context.Value("i", 0), self._context.Value("q", 0)
        self._hold = self._context.Event()
        self._parent = os.getpid()

    def run(self, watch: _Watch) -> Counts:
        """Convert all ranges."""
        processes, answers = [], []
        try:
            for _worker in range(self._pace.workers):
                mine, theirs = self._context.Pipe(duplex=False)
                process = self._context.Process(target=self._work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
                answers.append(mine)
            while any(process.is_alive() for process in processes):
                next(process for process in processes if process.exitcode is None or process is processes[-1]).join(_LOOK / 10)
                watch.look(self._done.value)
                (self._hold.set if self._state is not None and watch.lagging() else self._hold.clear)()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
                    process.join()
        return _gathered(answers)

    def _work(self, answer: Any) -> None:
        """What each process does: one range after another, as long as there are some."""
        total = Counts()
        try:
            with closing(self._server.connect(self._database)) as session:
                prepare(session, self._pace, self._state)
                while self._convert_next(session, total):
                    pass
            answer.send(total)
        except BulwarkError as error:
            answer.send(str(error))
        finally:
            answer.close()

    def _convert_next(self, session: Session, total: Counts) -> bool:
        with self._taken.get_lock():
            number = self._taken.value
            self._taken.value += 1
        if number >= len(self._ranges):
            return False
        begin, end = self._ranges[number]
        for counts in self._pages.convert(session, begin, end, self._pace):
            total.add(counts)
            with self._done.get_lock():
                self._done.value += counts.written
            while self._hold.is_set() and os.getppid() == self._parent:
                time.sleep(_LOOK / 10)
            if os.getppid() != self._parent:
                raise BulwarkError("the run has ended")
        return True


def _gathered(answers: Sequence[Any]) -> Counts:
    total = Counts()
    errors = []
    for answer in answers:
        try:
            found = answer.recv() if answer.poll() else "a worker has ended without an answer"
        except EOFError:
            found = "a worker was killed"
        if isinstance(found, str):
            errors.append(found)
        else:
            total.add(found)
    if errors:
        raise BulwarkError(errors[0])
    return total
