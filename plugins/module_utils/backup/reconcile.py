# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pure: what the role of backups is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.plan import Change, Effect, Plan
from ..core.statements import compose, identifier, listed
from .model import DATABASE, SCHEMA, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Actual, Wanted


def reconcile(wanted: Wanted, actual: Actual) -> Plan:
    """The changes, all of which are made in the database of the canary."""
    return Plan(tuple(_changes(wanted, actual)))


def _changes(wanted: Wanted, actual: Actual) -> Iterator[Change]:
    role = identifier(wanted.role)
    if actual.unconnected:
        statement = compose("GRANT CONNECT ON DATABASE {} TO {}", listed(map(identifier, actual.unconnected)), role)
        text = f"{wanted.role}: +CONNECT on {', '.join(actual.unconnected)}"
        yield Change("databases", text, statement, None, Effect.GRANT, privileges=len(actual.unconnected))
    if not wanted.canary:
        return
    if not actual.restore_points:
        statement = compose("GRANT EXECUTE ON FUNCTION pg_catalog.pg_create_restore_point(text) TO {}", role)
        name = "function pg_create_restore_point"
        yield Change(name, f"{wanted.role}: {name}  +EXECUTE", statement, DATABASE, Effect.GRANT, privileges=1)
    if actual.schema_owner is None:
        statement = compose("CREATE SCHEMA {} AUTHORIZATION {}", identifier(SCHEMA), role)
        yield Change(f"schema {SCHEMA}", f"schema {SCHEMA}: new, owner {wanted.role}", statement, DATABASE, Effect.CREATE)
    elif actual.schema_owner != wanted.role:
        statement = compose("ALTER SCHEMA {} OWNER TO {}", identifier(SCHEMA), role)
        yield Change(f"schema {SCHEMA}", f"schema {SCHEMA}: owner {actual.schema_owner} -> {wanted.role}", statement, DATABASE)
    if actual.table_owner not in (None, wanted.role):
        statement = compose("ALTER TABLE {} OWNER TO {}", identifier(SCHEMA, TABLE), role)
        name = f"table {SCHEMA}.{TABLE}"
        yield Change(name, f"{name}: owner {actual.table_owner} -> {wanted.role}", statement, DATABASE)
