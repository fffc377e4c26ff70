# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many rows each role sees now and would see with the tenancy of a document, by tenant. Reads only, every row of the tables once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.database import StatementError
from ..core.errors import BulwarkError
from ..core.statements import compose, identifier, joined, role
from .reconcile import has_tenant, isolated, parent_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ..core.database import Database as Session
    from .model import Database, Table, Tenancy

TENANTS = 10  # of each table, those with the most rows

# Roles that policies apply to and that may read the table: which of them count as roles of the tenancy, by inheritance too.
_READERS = """
SELECT r.rolname, EXISTS (SELECT FROM pg_catalog.pg_roles t WHERE t.rolname = ANY(%(roles)s) AND pg_catalog.pg_has_role(r.oid, t.oid,
 'USAGE')),
 EXISTS (SELECT FROM pg_catalog.pg_roles t WHERE t.rolname = ANY(%(all_rows)s) AND pg_catalog.pg_has_role(r.oid, t.oid, 'USAGE'))
FROM pg_catalog.pg_roles r WHERE NOT r.rolsuper AND NOT r.rolbypassrls AND r.rolname !~ '^pg_'
 AND pg_catalog.has_any_column_privilege(r.oid, pg_catalog.to_regclass(%(table)s)::oid, 'SELECT') ORDER BY 1
"""


@dataclass(frozen=True)
class Seen:
    """The rows of a table that a role sees in the context of a tenant (None: without one), now and then.

    now is None where the policies that are there end in an error, whose text is in problem.
    """

    database: str
    table: str
    role: str
    tenant: str | None
    now: int | None
    then: int
    problem: str | None = None


def preview(session: Session, fresh: Session, database: Database, tables: Sequence[Table]) -> Iterator[Seen]:
    """What each role that may read an isolated table sees of it. fresh: a session in which the setting was never made.

    Raises BulwarkError where the applying role does not see all rows itself.
    """
    tenancy = database.tenancy
    if tenancy is None:
        return
    mine = isolated(database, tables)
    by_name = {(table.schema, table.name): table for table in mine}
    for table in mine:
        counts = _counts(session, tenancy, table, by_name)
        total = sum(counts.values())
        largest = sorted((name for name in counts if name is not None), key=lambda name: (-counts[name], name))[:TENANTS]
        for name, one_tenant, everything in session.query(_READERS, _parameters(tenancy, table)):
            for of in (*largest, None):
                now, problem = _now(fresh if of is None else session, tenancy, table, name, of) if table.enabled else (total, None)
                then = total if everything and not one_tenant else counts.get(of, 0) if one_tenant and of is not None else 0
                yield Seen(database.name, table.label, name, of, now, then, problem)


def _parameters(tenancy: Tenancy, table: Table) -> Mapping[str, Any]:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (table.schema, table.name))
    return {"roles": list(tenancy.roles), "all_rows": list(tenancy.all_rows), "table": quoted}


def _counts(session: Session, tenancy: Tenancy, table: Table, tables: Mapping[tuple[str, str], Table]) -> dict[str | None, int]:
    """The rows of a table by tenant; None for those without one. Parents are followed up to the one that has the column."""
    source, level, current = compose("{} AS t0", identifier(table.schema, table.name)), 0, table
    while not has_tenant(tenancy, current):
        found = parent_of(tenancy, current)
        if found is None:
            break
        key = found[1]
        pairs = [
            compose("{} = {}", identifier(f"t{level}", here), identifier(f"t{level + 1}", there))
            for here, there in zip(key.columns, key.referenced)
        ]
        source = compose(
            "{} LEFT JOIN {} AS {} ON {}", source, identifier(key.schema, key.table), identifier(f"t{level + 1}"), joined(" AND ", pairs)
        )
        level, current = level + 1, tables[key.schema, key.table]
    column = identifier(f"t{level}", tenancy.column)
    try:
        with session.reading():
            session.execute("SET LOCAL row_security = off")  # an error rather than fewer rows
            return {
                name: int(rows)
                for name, rows in session.query(session.text(compose("SELECT {}::text, count(*) FROM {} GROUP BY 1", column, source)))
            }
    except StatementError as error:
        raise BulwarkError(
            f"the rows of {table.label} cannot be counted: {error}; connect as a superuser, or a role with BYPASSRLS"
        ) from None


def _now(session: Session, tenancy: Tenancy, table: Table, name: str, of: str | None) -> tuple[int | None, str | None]:
    try:
        with session.reading():
            if of is not None:
                session.query("SELECT pg_catalog.set_config(%(name)s, %(value)s, true)", {"name": tenancy.setting, "value": of})
            session.execute(compose("SET LOCAL ROLE {}", role(name)))
            # Of a role that may read some columns alone, count(*) asks for no more.
            return int(session.value(session.text(compose("SELECT count(*) FROM {}", identifier(table.schema, table.name))))), None
    except StatementError as error:
        return None, str(error)


def as_text(seen: Sequence[Seen]) -> str:
    """For people: a line for each table, role and tenant, and at the end who would see nothing."""
    rows = [("table", "role", "tenant", "now", "then")]
    for each in seen:
        now = "error" if each.now is None else str(each.now)
        rows.append(
            (f"{each.database}: {each.table}", each.role, each.tenant if each.tenant is not None else "(none)", now, str(each.then))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *(f"{role} would see no row of {table}" for table, role in blind(seen))]) + "\n"


def blind(seen: Sequence[Seen]) -> list[tuple[str, str]]:
    """Tables and the roles that see rows of them now and would see none, whatever the tenant."""
    before = {(each.table, each.role) for each in seen if each.now}
    after = {(each.table, each.role) for each in seen if each.then}
    return sorted(before - after)
