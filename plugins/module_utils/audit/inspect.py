# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the log of a live server: what it records, how much it holds, and who could get around it. Each query is read-only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.statements import compose, identifier, literal
from .catalog import read_sink
from .partitions import DEFAULT
from .sink import foreign_tables
from .source import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.database import Database
    from .model import Sink

_TABLES = """
SELECT n.nspname || '.' || c.relname, CASE WHEN bool_or(t.tgtype & 1 = 1) THEN 'row' ELSE 'statement' END, bool_and(t.tgenabled = 'A'),
 array_agg(t.tgname::text ORDER BY t.tgname), o.rolname, o.rolcanlogin AND NOT o.rolsuper,
 (SELECT array_agg(r.rolname::text ORDER BY r.rolname) FROM pg_roles r
  WHERE r.rolcanlogin AND NOT r.rolsuper AND r.oid <> o.oid AND pg_has_role(r.oid, o.oid, 'MEMBER'))
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace JOIN pg_class c ON c.oid = t.tgrelid
 JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles o ON o.oid = c.relowner
WHERE pn.nspname = %(log)s AND n.nspname <> %(log)s AND NOT c.relispartition
GROUP BY n.nspname, c.relname, c.oid, o.oid, o.rolname, o.rolcanlogin, o.rolsuper ORDER BY 1
"""
_LEFT_OUT = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't' AND n.nspname <> %(log)s AND n.oid IN (
 SELECT ac.relnamespace FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
  JOIN pg_class ac ON ac.oid = t.tgrelid WHERE pn.nspname = %(log)s AND ac.relnamespace <> pn.oid)
 AND NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace pn ON pn.oid = p.pronamespace
  WHERE t.tgrelid = c.oid AND pn.nspname = %(log)s) ORDER BY 1
"""
_BECOMES_OWNER = """
SELECT r.rolname FROM pg_roles r JOIN pg_roles o ON o.rolname = %(owner)s AND o.oid <> r.oid
WHERE NOT r.rolsuper AND pg_has_role(r.oid, o.oid, 'MEMBER') ORDER BY 1
"""
# From PostgreSQL 15 on, a right to set a parameter can be granted.
_MAY_SET = """
SELECT r.rolname FROM pg_roles r WHERE NOT r.rolsuper AND has_parameter_privilege(r.oid, 'session_replication_role', 'SET') ORDER BY 1
"""
_SIZE = """
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(log)s AND c.relkind = 'r'
"""
_SPAN = "SELECT min(e.changed_at)::text, max(e.changed_at)::text FROM {entries} e"
_LATE = "SELECT count(*) FROM {default}"


@dataclass(frozen=True)
class Finding:
    """What gets around the log. severity: high, medium or info. fix: SQL, or what to do."""

    code: str
    severity: str
    database: str
    object: str
    message: str
    fix: str


@dataclass(frozen=True)
class Inspected:
    """The log of one database. size: in bytes, with its indexes. first, last: when the oldest and the newest record were written."""

    tables: tuple[dict[str, Any], ...]
    partitions: tuple[str, ...]
    size: int
    first: str | None
    last: str | None
    findings: tuple[Finding, ...]


def inspect(session: Database, schema: str) -> Inspected | None:
    """What there is in the connected database, None where it has no log."""
    with session.reading():
        sink = read_sink(session, schema)
        if sink.owner is None or ENTRIES not in sink.relations or foreign_tables(sink):
            return None
        log = {"log": schema}
        tables = session.query(_TABLES, log)
        first, last = session.query(compose(_SPAN, entries=identifier(schema, ENTRIES)))[0]
        findings = [*_of_tables(session, tables, schema), *_of_log(session, sink, schema)]
        return Inspected(
            tuple({"table": table, "level": level} for table, level, *_rest in tables),
            tuple(part.name for part in sink.partitions),
            session.value(_SIZE, log) or 0,
            first,
            last,
            tuple(findings),
        )


def _of_tables(session: Database, tables: list[tuple[Any, ...]], schema: str) -> Iterator[Finding]:
    for table, _level, always, _triggers, owner, login, members in tables:
        if not always:
            what = "has a trigger of the log that is disabled, or does not fire always"
            yield Finding("disabled", "high", session.name, table, what, "run pg_audit_trail")
        able = ([owner] if login else []) + list(members or [])
        if able:
            what = f"can be kept off the record by {', '.join(able)}: who owns a table can disable its triggers"
            fix = "let a role that nobody can log in as own the table (objects_owner in pg_users_databases)"
            yield Finding("owner", "medium", session.name, table, what, fix)
    for (table,) in session.query(_LEFT_OUT, {"log": schema}):
        yield Finding("not_recorded", "info", session.name, table, "is not recorded, though others of its schema are", "name it in tables")


def _of_log(session: Database, sink: Sink, schema: str) -> Iterator[Finding]:
    for (role,) in session.query(_BECOMES_OWNER, {"owner": sink.owner}):
        fix = session.text(compose("REVOKE {} FROM {}", identifier(sink.owner or ""), identifier(role)))
        yield Finding("becomes_owner", "high", session.name, role, f"can become {sink.owner} and take the log's protection away", fix)
    if session.major >= 15:
        for (role,) in session.query(_MAY_SET):
            fix = session.text(compose("REVOKE SET ON PARAMETER session_replication_role FROM {}", identifier(role)))
            yield Finding(
                "replication_role", "medium", session.name, role, "may set session_replication_role, which keeps triggers from firing", fix
            )
    late = session.value(compose(_LATE, default=identifier(schema, DEFAULT)))
    if late:
        what = f"holds {late} records, for which there was no partition in time"
        fix = session.text(compose("SELECT {}({})", identifier(schema, "make_partitions"), literal(3)))
        yield Finding("default_partition", "medium", session.name, f"{schema}.{DEFAULT}", what, fix)
