# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the sealing job of one database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import BulwarkError
from ..core.statements import compose, identifier, literal
from .seals import SEALS
from .source import ENTRIES

if TYPE_CHECKING:
    from ..core.database import Database

_LAST = "SELECT s.id, pg_catalog.encode(s.head, 'hex') FROM {seals} s ORDER BY s.id DESC LIMIT 1"
_WAITING = """
SELECT EXISTS (SELECT FROM {entries} e WHERE e.transaction_id < pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
 AND e.transaction_id >= COALESCE((SELECT s.end_transaction FROM {seals} s ORDER BY s.id DESC LIMIT 1), '0'))
"""


def seal(session: Database, schema: str, *, dry_run: bool) -> tuple[int, tuple[int, str] | None]:
    """How many seals were made, and the last seal with its head.

    dry_run: nothing is made; 1 where something would be. Raises BulwarkError where the database has no log.
    """
    if not session.value(compose("SELECT pg_catalog.to_regclass({}) IS NOT NULL", literal(f"{schema}.{SEALS}"))):
        raise BulwarkError(f'database "{session.name}" has no audit log in schema "{schema}": pg_audit_trail makes it')
    names = {"seals": identifier(schema, SEALS), "entries": identifier(schema, ENTRIES)}
    if dry_run or session.in_recovery():
        made = int(session.value(compose(_WAITING, **names))) if not session.in_recovery() else 0
    else:
        made = int(session.value(compose("SELECT {}()", identifier(schema, "seal"))))
    last = session.query(compose(_LAST, **names))
    return made, (last[0][0], last[0][1]) if last else None
