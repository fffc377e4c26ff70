# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads, checks and plans every database, and only then applies.

One transaction a database or a table, each read again before its commit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Callable

from ..core.document import quoted
from ..core.errors import Mistake, PolicyError, nearest
from ..core.plan import Patience, Plan, apply_planned, in_parts
from .catalog import is_superuser, read_roles, read_schemas, read_sink, read_tables
from .checks import notes, owner_mistakes, role_mistakes, table_mistakes
from .new_tables import plan_new_tables
from .partitions import expired
from .reconcile import audited, plan_triggers, reconcile, sink_plan
from .retention import check_directory, export
from .sink import SinkPlan, owner_plan, plan_retention

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.database import Database as Session
    from ..core.database import Server
    from .model import Database, Log, Partition, RoleFacts
    from .reconcile import Audited
    from .retention import RunCommand

_DATABASES = "SELECT datname, datallowconn FROM pg_catalog.pg_database"


@dataclass(frozen=True)
class Options:
    """How to apply. per_table: one transaction a table.

    expected_roles, expected_databases: names that count as there already, because something earlier in the play makes them.
    """

    per_table: bool = False
    patience: Patience = field(default_factory=Patience)
    expected_roles: tuple[str, ...] = ()
    expected_databases: tuple[str, ...] = ()
    path_prefix: str = ""


@dataclass(frozen=True)
class Planned:
    """The plans: of the owner's role, and of each database in order, with that of what its retention lets go. tables: the audited ones."""

    owner: Plan
    parts: tuple[tuple[Database, Plan, Plan], ...]
    tables: Mapping[str, tuple[Audited, ...]]
    notes: tuple[str, ...]

    @property
    def whole(self) -> Plan:
        """All changes in order."""
        return self.owner + Plan(tuple(change for _database, part, old in self.parts for change in (part + old).changes))


class Convergence:
    """One document and one server. Opens a session a database, closes each when it is done."""

    def __init__(self, server: Server, databases: tuple[Database, ...], log: Log, options: Options) -> None:
        self._server = server
        self._databases = databases
        self._log = log
        self._options = options

    def plan(self) -> Planned:
        """The plan, from read-only transactions. Raises PolicyError with every mistake."""
        with self._server.connect() as session, session.reading():
            roles = read_roles(session)
            there: dict[str, bool] = dict(session.query(_DATABASES))
        mistakes: list[Mistake] = list(owner_mistakes(self._log, roles))
        parts: list[tuple[Database, Plan, Plan]] = []
        tables: dict[str, tuple[Audited, ...]] = {}
        said: list[str] = []
        for database in self._databases:
            if there.get(database.name):
                parts.append((database, *self._read(database, roles, mistakes, tables, said)))
            elif database.name in self._options.expected_databases and database.name not in there:
                said.append(f"database {database.name} is not there yet, so that its tables are not looked at")
            else:
                state = "allows no connections" if database.name in there else f"does not exist{nearest(database.name, there)}"
                mistakes.append(Mistake(database.path, f"database {quoted(database.name)} {state}"))
        if mistakes:
            raise PolicyError(mistakes, self._options.path_prefix)
        return Planned(owner_plan(self._log, roles) if self._databases else Plan(), tuple(parts), tables, tuple(said))

    def _read(
        self,
        database: Database,
        roles: Mapping[str, RoleFacts],
        mistakes: list[Mistake],
        tables: dict[str, tuple[Audited, ...]],
        said: list[str],
    ) -> tuple[Plan, Plan]:
        mistakes.extend(role_mistakes(database, roles, self._options.expected_roles))
        with self._server.connect(database.name) as session, session.reading():
            found = read_tables(session, self._log.schema, database.schemas)
            sink = read_sink(session, self._log.schema)
            mistakes.extend(table_mistakes(database, self._log, found, read_schemas(session), sink))
            if database.new_tables and not is_superuser(session):
                mistakes.append(Mistake(f"{database.path}.new_tables", "needs a superuser, since nobody else can make event triggers"))
        tables[database.name] = tuple(audited(database, found))
        said += [f"database {database.name}: {note}" for note in notes(database, self._log, found, roles)]
        if expired(database, sink) and database.retention is not None:
            check_directory(database.retention.directory)
        return reconcile(database, self._log, found, sink), plan_retention(database, self._log, sink)

    def apply(self, planned: Planned, run_command: RunCommand) -> int:
        """Execute the plan; returns the number of retries. What a failure leaves undone is in the error."""
        retries = 0
        done: list[str] = []
        with in_parts(done):
            if planned.owner:
                with self._server.connect() as session:
                    retries += apply_planned(
                        session, planned.owner, lambda: owner_plan(self._log, read_roles(session)), self._options.patience
                    )
                done.append(f"role {self._log.owner}")
            for database, whole, old in planned.parts:
                if whole or old:
                    with self._server.connect(database.name) as session:
                        retries += self._apply(session, database, whole, done) if whole else 0
                        retries += self._retire(session, database, done, run_command) if old else 0
        return retries

    def _retire(self, session: Session, database: Database, done: list[str], run_command: RunCommand) -> int:
        """Export and drop what retention lets go, a partition at a time."""
        retries = 0
        with session.reading():
            old = expired(database, read_sink(session, self._log.schema))
        for part in old:
            if database.retention is None:
                raise AssertionError("nothing expires without a retention")
            rows = export(session, self._log.schema, part.name, database.retention.directory, run_command)

            def left(part: Partition = part, rows: int = rows) -> Plan:
                return plan_retention(database, self._log, read_sink(session, self._log.schema), part.name, rows)

            with session.reading():
                plan = left()
            retries += apply_planned(session, plan, left, self._options.patience)
            done.append(f"partition {part.name}")
        return retries

    def _apply(self, session: Session, database: Database, whole: Plan, done: list[str]) -> int:
        if not self._options.per_table:
            retries = apply_planned(session, whole, lambda: self._left(session, database), self._options.patience)
            done.append(f'database "{database.name}"')
            return retries
        retries = 0
        for name, left in self._steps(session, database):
            with session.reading():
                part = left()
            if part:
                retries += apply_planned(session, part, left, self._options.patience)
                done.append(name)
        return retries

    def _left(self, session: Session, database: Database) -> Plan:
        schema = self._log.schema
        return reconcile(database, self._log, read_tables(session, schema, database.schemas), read_sink(session, schema))

    def _steps(self, session: Session, database: Database) -> list[tuple[str, Callable[[], Plan]]]:
        """The log, each table with its partitions, and what is no longer needed: the name of each and what is left to do of it."""

        def sink(part: Callable[[SinkPlan], Plan]) -> Plan:
            tables = read_tables(session, self._log.schema, database.schemas)
            return part(sink_plan(database, self._log, tables, read_sink(session, self._log.schema)))

        def new_tables() -> Plan:
            return plan_new_tables(database, self._log, read_sink(session, self._log.schema))

        def triggers(place: tuple[str, str]) -> Plan:
            return plan_triggers(database, self._log, read_tables(session, self._log.schema, database.schemas, place))

        with session.reading():
            places = [table.place for table in read_tables(session, self._log.schema, database.schemas) if table.root is None]
        steps: list[tuple[str, Callable[[], Plan]]] = [("the log", partial(sink, SinkPlan.make)), ("the event trigger", new_tables)]
        steps += [(f"table {'.'.join(place)}", partial(triggers, place)) for place in places]
        return [*steps, ("functions", partial(sink, SinkPlan.remove))]
