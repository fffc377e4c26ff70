# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads and checks every column first, and only then converts one after another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

from ..core.document import quoted
from ..core.errors import BulwarkError, Mistake, PolicyError, nearest
from ..core.plan import ADVISORY_LOCK
from ..core.statements import compose, identifier, keywords, literal
from .catalog import column_names, comment_of, count, count_different, count_unindexed, read_facts, read_table, table_names, token_form
from .convert import Counts, Pace, Pages, convert_column
from .model import CENSUS, DECRYPTED, ENCRYPTED, KEYED, Census, Column, Facts, Mark
from .preflight import check_name, index_problem, length_problem, problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..client.field_encryption import Keyring
    from ..core.database import Database as Session
    from ..core.database import Server

_DATABASES = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn"
_PASSES = 5  # over a table in which an application goes on writing plaintext


@dataclass(frozen=True)
class Work:
    """One column, what is in it, and what is left to do. rows: to be converted. settle: whether mark or constraint are not as declared."""

    column: Column
    facts: Facts
    census: Census
    rows: int
    settle: bool

    def __bool__(self) -> bool:
        return bool(self.rows or self.settle)


class Convergence:
    """The columns of a document and one server. keyrings: name -> keyring; a census does without those that are missing."""

    def __init__(self, server: Server, columns: tuple[Column, ...], keyrings: Mapping[str, Keyring], state: str, pace: Pace) -> None:
        self._server = server
        self._columns = columns
        self._keyrings = keyrings
        self._state = state
        self._pace = pace

    def plan(self, path_prefix: str = "") -> list[Work]:
        """What is in each column, and what there is to do. Raises PolicyError with every mistake."""
        mistakes: list[Mistake] = []
        found: list[Work] = []
        with self._server.connect() as session:
            there = [name for (name,) in session.query(_DATABASES)]
        for database in sorted({column.database for column in self._columns}):
            mine = [column for column in self._columns if column.database == database]
            if database not in there:
                mistakes.append(Mistake(f"columns.{database}", f"there is no database {quoted(database)}{nearest(database, there)}"))
                continue
            with self._server.connect(database) as session, session.reading():
                found += [work for column in mine for work in self._looked(session, column, mistakes)]
        if mistakes:
            raise PolicyError(mistakes, path_prefix)
        return found

    def _looked(self, session: Session, column: Column, mistakes: list[Mistake]) -> Iterator[Work]:
        table = read_table(session, column)
        if table is None:
            names = table_names(session)
            near = nearest(column.table_label, names)
            mistakes.append(Mistake(column.path.rpartition(".")[0], f"there is no table {quoted(column.table_label)}{near}"))
            return
        facts = read_facts(session, column, table)
        if facts is None:
            near = nearest(column.name, column_names(session, table[0]))
            mistakes.append(Mistake(column.path, f"table {column.table_label} has no column {quoted(column.name)}{near}"))
            return
        wrong = [] if self._state == CENSUS else list(problems(column, facts, self._state))
        if self._state == CENSUS and facts.type not in ("text", "character varying"):
            wrong = [Mistake(column.path, f"{column.label} is of type {facts.type}: a token is text")]
        mistakes.extend(wrong)
        if wrong:
            return
        census = self._census(session, column, facts)
        too_long = length_problem(column, facts, census) if self._state not in (CENSUS, DECRYPTED) else None
        if too_long is not None:
            mistakes.append(too_long)
        if census.unindexed:
            values, different = count_different(session, column) if census.plain else (0, 0)
            telling = index_problem(column, census, values, different)
            mistakes.extend([telling] if telling is not None else [])
        yield Work(column, facts, census, self._left(column, census), self._unsettled(column, facts))

    def _census(self, session: Session, column: Column, facts: Facts) -> Census:
        """The rows of a column, the tokens by key where that matters and a keyring can tell."""
        census = count(session, column)
        keyring = self._keyrings.get(column.keyring)
        if column.blind_index and keyring is not None and self._state not in (CENSUS, DECRYPTED):
            counted = Pages(column, facts, keyring, self._state).index_keys()
            census = replace(census, unindexed=count_unindexed(session, column, facts, counted))
        certain = self._state == ENCRYPTED and not census.unindexed and not (census.unknown if column.form == KEYED else census.by_key)
        if keyring is None or certain or not facts.keys or not (census.unknown or census.by_key):
            return census
        if column.form == KEYED and not census.unknown and self._state != CENSUS:
            known = {key.id for key in keyring.keys if key.state in ("primary", "secondary", "staged")}
            mine = {key: rows for key, rows in census.by_key.items() if key in known}
            return replace(census, by_key=mine, unknown=sum(census.by_key.values()) - sum(mine.values()))
        total = Counts()
        for counts in Pages(column, facts, keyring, None).convert(session, None, None, self._pace):
            total.add(counts)
        keys: dict[str, int] = {}
        other: dict[str, int] = {}
        for (key, declared), rows in sorted(total.by_key.items()):
            keys[key] = keys.get(key, 0) + rows
            if not declared:
                other[key] = rows
        return replace(census, by_key=keys, other_form=other, unknown=total.unknown)

    def _left(self, column: Column, census: Census) -> int:
        """How many rows are to be converted."""
        if self._state == CENSUS:
            return 0
        if self._state == DECRYPTED:
            return sum(census.by_key.values())
        other = sum(census.other_form.values())
        if self._state == ENCRYPTED:
            return max(census.unindexed, census.plain + other)
        primary = self._keyrings[column.keyring].primary_id
        old = sum(rows if key != primary else census.other_form.get(key, 0) for key, rows in census.by_key.items())
        return max(census.unindexed, census.plain + old)

    def _unsettled(self, column: Column, facts: Facts) -> bool:
        if self._state == CENSUS:
            return False
        mark = None if self._state == DECRYPTED else Mark(column.form, column.keyring)
        if column.blind_index and (facts.blind_index is not None and facts.blind_index.ready) != (self._state != DECRYPTED):
            return True
        return facts.mark != mark or _checked(column, facts) != (column.forbid_plaintext and self._state != DECRYPTED)

    def apply(self, works: list[Work], say: Callable[[str], None]) -> list[Work]:
        """Convert what is left; returns what is in each column then. say: is told the progress.

        Raises BulwarkError; what was converted until then stays, and the next run goes on with the rest.
        """
        return [self._apply(work, say) if work else work for work in works]

    def _apply(self, work: Work, say: Callable[[str], None]) -> Work:
        column, facts = work.column, work.facts
        with self._server.connect(column.database) as session:
            key = {"key": ADVISORY_LOCK + 2, "text": column.label}
            if not session.value("SELECT pg_try_advisory_lock(%(key)s + hashtext(%(text)s))", key):
                raise BulwarkError(f"{column.label}: another run converts it now")
            session.without_timeouts()
            if self._state == DECRYPTED and check_name(column) in facts.constraints:
                session.execute(_drop_check(column))
            if column.blind_index and self._state != DECRYPTED and facts.blind_index is None:
                place = identifier(column.schema, column.table), identifier(column.index_name)
                session.execute(compose("SET lock_timeout = {}", literal(self._pace.lock_timeout)))
                session.execute(compose("ALTER TABLE {} ADD COLUMN {} pg_catalog.text", *place))
            left = self._convert(session, work, say)
            if left.rows and self._state != DECRYPTED:
                raise BulwarkError(
                    f"{column.label}: {left.rows} rows are left after {_PASSES} passes, since somebody goes on writing such values:"
                    " have the application encrypt first, then run again"
                )
            for statement in self._settling(column, facts):
                session.execute(compose("SET lock_timeout = {}", literal(self._pace.lock_timeout)))
                session.execute(statement)
            session.execute(compose("ANALYZE {} ({})", identifier(column.schema, column.table), identifier(column.name)))
            with session.reading():
                return next(iter(self._looked(session, column, [])))

    def _convert(self, session: Session, work: Work, say: Callable[[str], None]) -> Work:
        """Passes over the table until nothing is left."""
        pages = Pages(work.column, work.facts, self._keyrings[work.column.keyring], self._state)
        for _number in range(_PASSES):
            if not work.rows:
                break
            convert_column(self._server, pages, work.column, work.census.rows, self._state, self._pace, say)
            with session.reading():
                work = next(iter(self._looked(session, work.column, [])), work)
        return work

    def _settling(self, column: Column, facts: Facts) -> Iterator[Any]:
        """Statements that mark the column and keep plaintext out of it, or no longer do."""
        table, name = identifier(column.schema, column.table), identifier(column.name)
        mark = None if self._state == DECRYPTED else Mark(column.form, column.keyring)
        yield compose("COMMENT ON COLUMN {} IS {}", identifier(column.schema, column.table, column.name), literal(comment_of(facts, mark)))
        index = facts.blind_index
        if self._state == DECRYPTED:
            if index is not None:
                yield compose("ALTER TABLE {} DROP COLUMN {}", table, identifier(column.index_name))
            return
        if column.blind_index and not (index is not None and index.ready):
            for each in index.invalid if index is not None else ():
                yield compose("DROP INDEX {}", keywords(each))
            # Of a partitioned table an index cannot be made beside its writers.
            beside = keywords("CONCURRENTLY" if facts.kind == "r" else "")
            yield compose("CREATE INDEX {} ON {} ({})", beside, table, identifier(column.index_name))
        check = identifier(check_name(column))
        there = check_name(column) in facts.constraints
        if there and not column.forbid_plaintext:
            yield _drop_check(column)
        if column.forbid_plaintext and not there:
            yield compose("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({}) NOT VALID", table, check, token_form(name))
        if column.forbid_plaintext and not _checked(column, facts):
            yield compose("ALTER TABLE {} VALIDATE CONSTRAINT {}", table, check)


def _checked(column: Column, facts: Facts) -> bool:
    """Whether the constraint is there and holds for every row."""
    return not facts.constraints.get(check_name(column), ("c", "NOT VALID"))[1].endswith("NOT VALID")


def _drop_check(column: Column) -> Any:
    return compose("ALTER TABLE {} DROP CONSTRAINT {}", identifier(column.schema, column.table), identifier(check_name(column)))


def summary(works: list[Work], state: str) -> str:
    """What a run does, in one line."""
    rows = sum(work.rows for work in works)
    count_of = len([work for work in works if work])
    return f"{rows} rows of {count_of} column{'s' if count_of != 1 else ''} {state}"
