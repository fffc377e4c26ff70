# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads, checks and plans every database, and only then applies: one transaction a database or a table, each read again before its commit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.document import quoted
from ..core.errors import Mistake, PolicyError, nearest
from ..core.plan import Patience, Plan, apply_planned, in_parts
from .catalog import read_roles, read_schemas, read_tables, read_views
from .checks import notes, role_mistakes, table_mistakes, view_notes
from .reconcile import isolated, reconcile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.database import Database as Session
    from ..core.database import Server
    from .model import Database, RoleFacts, Table, Tenancy, View

_DATABASES = "SELECT datname, datallowconn FROM pg_catalog.pg_database"


@dataclass(frozen=True)
class Options:
    """How to apply. mode: managed or additive. per_table: one transaction a table.

    expected_roles, expected_databases: names that count as there already, because something earlier in the play makes them.
    """

    mode: str = "managed"
    per_table: bool = False
    patience: Patience = field(default_factory=Patience)
    expected_roles: tuple[str, ...] = ()
    expected_databases: tuple[str, ...] = ()
    path_prefix: str = ""


@dataclass(frozen=True)
class Planned:
    """The plans of the databases, in order. tables: the isolated tables, by database."""

    parts: tuple[tuple[Database, Plan], ...]
    tables: Mapping[str, tuple[Table, ...]]
    notes: tuple[str, ...]

    @property
    def whole(self) -> Plan:
        """All changes in order."""
        return Plan(tuple(change for _database, part in self.parts for change in part.changes))


class Convergence:
    """One document and one server. Opens a session a database, closes each when it is done."""

    def __init__(self, server: Server, databases: tuple[Database, ...], options: Options) -> None:
        self._server = server
        self._databases = databases
        self._options = options
        self._exact = options.mode == "managed"

    def plan(self) -> Planned:
        """The plan, from read-only transactions. Raises PolicyError with every mistake."""
        with self._server.connect() as session, session.reading():
            roles = read_roles(session)
            there: dict[str, bool] = dict(session.query(_DATABASES))
        mistakes: list[Mistake] = []
        parts: list[tuple[Database, Plan]] = []
        tables: dict[str, tuple[Table, ...]] = {}
        said: list[str] = []
        for database in self._databases:
            if database.name in there and there[database.name] and database.tenancy is not None:
                found, views = self._read(database, database.tenancy, roles, mistakes)
                parts.append((database, reconcile(database.name, database.tenancy, found, self._exact)))
                tables[database.name] = tuple(isolated(database.tenancy, found))
                both = (*notes(database.tenancy, found, self._exact), *view_notes(database.tenancy, found, views, roles))
                said += [f"database {database.name}: {note}" for note in both]
            elif database.name in self._options.expected_databases and database.name not in there:
                said.append(f"database {database.name} is not there yet, so that its tables are not looked at")
            else:
                state = "allows no connections" if database.name in there else f"does not exist{nearest(database.name, there)}"
                mistakes.append(Mistake(database.path, f"database {quoted(database.name)} {state}"))
        if mistakes:
            raise PolicyError(mistakes, self._options.path_prefix)
        return Planned(tuple(parts), tables, tuple(said))

    def _read(
        self, database: Database, tenancy: Tenancy, roles: Mapping[str, RoleFacts], mistakes: list[Mistake]
    ) -> tuple[tuple[Table, ...], tuple[View, ...]]:
        mistakes.extend(role_mistakes(tenancy, roles, self._options.expected_roles))
        with self._server.connect(database.name) as session, session.reading():
            found = _tables(session, tenancy)
            mistakes.extend(table_mistakes(tenancy, found, read_schemas(session)))
            views = read_views(session, sorted({selection.schema for selection in tenancy.selections}), tenancy.roles)
        return found, views

    def apply(self, planned: Planned) -> int:
        """Execute the plan; returns the number of retries. What a failure leaves undone is in the error."""
        retries = 0
        done: list[str] = []
        with in_parts(done):
            for database, whole in planned.parts:
                if not whole or database.tenancy is None:
                    continue
                with self._server.connect(database.name) as session:
                    for part, table in self._transactions(database, whole, planned.tables[database.name]):
                        retries += self._apply(session, database.name, database.tenancy, part, table)
                        done.append(f"table {table.label}" if table else f'database "{database.name}"')
        return retries

    def _transactions(self, database: Database, whole: Plan, tables: tuple[Table, ...]) -> list[tuple[Plan, Table | None]]:
        if not self._options.per_table or database.tenancy is None:
            return [(whole, None)]
        parts = ((reconcile(database.name, database.tenancy, [table], self._exact), table) for table in tables)
        return [(part, table) for part, table in parts if part]

    def _apply(self, session: Session, database: str, tenancy: Tenancy, part: Plan, table: Table | None) -> int:
        only = None if table is None else (table.schema, table.name)

        def left() -> Plan:
            return reconcile(database, tenancy, _tables(session, tenancy, only), self._exact)

        return apply_planned(session, part, left, self._options.patience)


def _tables(session: Session, tenancy: Tenancy, only: tuple[str, str] | None = None) -> tuple[Table, ...]:
    schemas = {selection.schema for selection in tenancy.selections}
    return read_tables(session, sorted(schemas), tenancy.column, tenancy.roles, only)
