# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads, checks and plans every database, and only then applies.

One transaction a database or a table, each read again before its commit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..core.database import StatementError
from ..core.document import quoted
from ..core.errors import Mistake, PolicyError, nearest
from ..core.plan import Patience, Plan, apply_alone, apply_planned, in_parts
from ..core.statements import compose, identifier, keywords, literal
from .catalog import read_roles, read_schemas, read_tables, read_views
from .checks import notes, role_mistakes, table_mistakes
from .inspect import tenancy_findings
from .preview import Seen, preview
from .reconcile import isolated, plan_indexes, reconcile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..core.database import Database as Session
    from ..core.database import Server
    from .findings import Finding
    from .model import Database, RoleFacts, Table

# CREATE INDEX CONCURRENTLY waits for every transaction that is older, and keeps nobody from reading or writing meanwhile.
INDEX_WAIT = 600_000  # milliseconds

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
    """The plans of the databases, in order: indexes first, since the policies are slow without.

    tables: the isolated tables, by database.
    """

    parts: tuple[tuple[Database, Plan, Plan], ...]
    tables: Mapping[str, tuple[Table, ...]]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def whole(self) -> Plan:
        """All changes in order."""
        return Plan(tuple(change for _database, indexes, part in self.parts for change in (indexes + part).changes))


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
        parts: list[tuple[Database, Plan, Plan]] = []
        tables: dict[str, tuple[Table, ...]] = {}
        said: list[str] = []
        findings: list[Finding] = []
        for database in self._databases:
            if there.get(database.name):
                found = self._read(database, roles, mistakes, findings)
                parts.append((database, plan_indexes(database, found), reconcile(database, found, self._exact)))
                tables[database.name] = tuple(isolated(database, found))
                said += [f"database {database.name}: {note}" for note in notes(database, found, self._exact)]
            elif database.name in self._options.expected_databases and database.name not in there:
                said.append(f"database {database.name} is not there yet, so that its tables are not looked at")
            else:
                state = "allows no connections" if database.name in there else f"does not exist{nearest(database.name, there)}"
                mistakes.append(Mistake(database.path, f"database {quoted(database.name)} {state}"))
        if mistakes:
            raise PolicyError(mistakes, self._options.path_prefix)
        said += [f"database {each.database}: {each.object} {each.message}: {each.fix}" for each in findings if each.severity == "high"]
        return Planned(tuple(parts), tables, tuple(said), tuple(findings))

    def _read(
        self, database: Database, roles: Mapping[str, RoleFacts], mistakes: list[Mistake], findings: list[Finding]
    ) -> tuple[Table, ...]:
        mistakes.extend(role_mistakes(database, roles, self._options.expected_roles))
        with self._server.connect(database.name) as session:
            with session.reading():
                found = _tables(session, database)
                wrong = list(table_mistakes(database, found, read_schemas(session)))
                if not wrong and database.tenancy is not None:
                    findings += tenancy_findings(
                        session, database, found, read_views(session, database.schemas, database.tenancy.roles), roles
                    )
            mistakes.extend(wrong or expression_mistakes(session, database))
        return found

    def preview(self) -> list[Seen]:
        """What each role would see, with nothing changed."""
        found: list[Seen] = []
        for database in self._databases:
            with self._server.connect(database.name) as session, self._server.connect(database.name) as fresh:
                with session.reading():
                    tables = _tables(session, database)
                found += preview(session, fresh, database, tables)
        return found

    def apply(self, planned: Planned) -> int:
        """Execute the plan; returns the number of retries. What a failure leaves undone is in the error."""
        retries = 0
        done: list[str] = []
        with in_parts(done):
            for database, indexes, whole in planned.parts:
                if not (indexes or whole):
                    continue
                with self._server.connect(database.name) as session:
                    if indexes:
                        session.execute(compose("SET lock_timeout = {}", literal(INDEX_WAIT)))
                    for change in indexes.changes:
                        retries += apply_alone(session, change, self._options.patience)
                        done.append(change.description.strip())
                    for part, table in self._transactions(session, database, whole):
                        retries += self._apply(session, database, part, table)
                        done.append(f"table {table.label}" if table else f'database "{database.name}"')
        return retries

    def _transactions(self, session: Session, database: Database, whole: Plan) -> list[tuple[Plan, Table | None]]:
        if not whole:
            return []
        if not self._options.per_table:
            return [(whole, None)]
        with session.reading():
            tables = _tables(session, database)
        parts = ((reconcile(database, [table], self._exact), table) for table in tables)
        return [(part, table) for part, table in parts if part]

    def _apply(self, session: Session, database: Database, part: Plan, table: Table | None) -> int:
        only = None if table is None else (table.schema, table.name)

        def left() -> Plan:
            return reconcile(database, _tables(session, database, only), self._exact)

        return apply_planned(session, part, left, self._options.patience)


def _tables(session: Session, database: Database, only: tuple[str, str] | None = None) -> tuple[Table, ...]:
    tenancy = database.tenancy
    return read_tables(session, database.schemas, tenancy.column if tenancy else "", tenancy.roles if tenancy else (), only)


def expression_mistakes(session: Session, database: Database) -> Iterator[Mistake]:
    """Expressions that the server cannot make sense of, in its own words.

    They are only parsed on their table: to plan a statement can mean to run functions in it, with the rights of who applies the policy.
    """
    for rules in database.rules:
        for policy in rules.policies:
            for key, text in (("using", policy.using), ("with_check", policy.check)):
                if text is None or (key == "with_check" and text == policy.using):
                    continue
                table = identifier(rules.schema, rules.table)
                try:
                    with session.reading():
                        session.execute(compose("PREPARE expression AS SELECT FROM {} WHERE ({})", table, keywords(text)))
                        session.execute("DEALLOCATE expression")
                except StatementError as error:
                    yield Mistake(f"{policy.path}.{key}", f"the server does not take this expression: {error}")
