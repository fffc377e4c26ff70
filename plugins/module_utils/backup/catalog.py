# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what the role of backups holds; a role that is not there yet holds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .model import SCHEMA, TABLE, Actual

if TYPE_CHECKING:
    from ..core.database import Database

_HELD = "x.grantee = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = %(role)s)"
_UNCONNECTED = f"""
SELECT d.datname FROM pg_catalog.pg_database d WHERE d.datallowconn AND NOT d.datistemplate AND NOT EXISTS (
 SELECT FROM pg_catalog.aclexplode(d.datacl) x WHERE {_HELD} AND x.privilege_type = 'CONNECT') ORDER BY 1"""
_REST = f"""
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) x WHERE {_HELD}
  AND p.oid = 'pg_catalog.pg_create_restore_point(text)'::pg_catalog.regprocedure),
 (SELECT r.rolname FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner WHERE n.nspname = %(schema)s),
 (SELECT r.rolname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_roles r ON r.oid = c.relowner WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind = 'r')"""


def read(database: Database, role: str) -> Actual:
    """What the role holds, read in the database of the canary."""
    names = {"role": role, "schema": SCHEMA, "table": TABLE}
    unconnected = tuple(name for (name,) in database.query(_UNCONNECTED, names))
    return Actual(unconnected, *database.query(_REST, names)[0])
