# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the row-level security of a live server as a document, and finds what gets around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC
from ..core.errors import BulwarkError, nearest
from .catalog import read_roles, read_schemas, read_tables, read_views
from .checks import open_tables, standing_findings, view_findings
from .findings import SEVERITIES, find
from .model import ALL, Database, RowPolicy, Table
from .reconcile import isolated

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..core.database import Database as Session
    from ..core.database import Server
    from .findings import Finding
    from .model import RoleFacts, View

_DATABASES = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"


def inspect(server: Server, names: Sequence[str] | None, declared: Sequence[Database]) -> dict[str, Any]:
    """policy, findings, server_version and in_recovery. declared: the document, for what depends on the tenant column.

    Raises BulwarkError for a database that does not exist.
    """
    with server.connect() as session, session.reading():
        roles = read_roles(session)
        there = [name for (name,) in session.query(_DATABASES)]
        version, in_recovery = session.server_version, session.in_recovery()
    by_name = {each.name: each for each in declared}
    chosen = list(names) if names is not None else sorted(by_name) or there
    policy: dict[str, Any] = {}
    findings: list[Finding] = []
    for name in chosen:
        if name not in there:
            raise BulwarkError(f'database "{name}" does not exist, or allows no connections{nearest(name, there)}')
        with server.connect(name) as session, session.reading():
            schemas = sorted(read_schemas(session))
            tables = read_tables(session, schemas, "", ())
            rules = _document(tables)
            if rules:
                policy[name] = {"schemas": rules}
            findings += _of_database(session, by_name.get(name), tables, roles)
    return {"policy": policy, "findings": findings, "server_version": version, "in_recovery": in_recovery}


def _of_database(session: Session, declared: Database | None, tables: Sequence[Table], roles: Mapping[str, RoleFacts]) -> list[Finding]:
    if declared is not None and declared.tenancy is not None:
        found = read_tables(session, declared.schemas, declared.tenancy.column, declared.tenancy.roles)
        return tenancy_findings(session, declared, found, read_views(session, declared.schemas, declared.tenancy.roles), roles)
    secured = [table for table in tables if table.enabled]
    named = {name for table in secured for policy in table.policies for name in policy.roles if name != PUBLIC and name in roles}
    return list(find(session, [(table.schema, table.name) for table in secured], sorted(named)))


def tenancy_findings(
    session: Session, declared: Database, tables: Sequence[Table], views: Iterable[View], roles: Mapping[str, RoleFacts]
) -> list[Finding]:
    """What gets around the tenancy of a database that is declared."""
    tenancy = declared.tenancy
    if tenancy is None:
        return []
    mine = [(table.schema, table.name) for table in isolated(declared, tables)]
    found = list(find(session, mine, tenancy.roles, tenancy.all_rows, tenancy.column))
    found += [
        *view_findings(declared, tables, views, roles),
        *open_tables(declared, tables),
        *standing_findings(declared, session.server_version),
    ]
    return sorted(found, key=lambda each: (SEVERITIES.index(each.severity), each.code, each.object, each.message))


def _document(tables: Iterable[Table]) -> dict[str, Any]:
    """The tables that have row-level security, or policies, as pg_row_security takes them."""
    schemas: dict[str, Any] = {}
    for table in tables:
        if table.extension or not (table.enabled or table.forced or table.policies):
            continue
        rules: dict[str, Any] = {} if table.enabled else {"enabled": False}
        if table.forced != table.enabled:
            rules["forced"] = table.forced
        if table.policies:
            rules["policies"] = {policy.name: _policy(policy) for policy in table.policies}
        schemas.setdefault(table.schema, {})[table.name] = rules
    return schemas


def _policy(policy: RowPolicy) -> dict[str, Any]:
    found: dict[str, Any] = {"roles": list(policy.roles)}
    if policy.command != ALL:
        found["command"] = policy.command.lower()
    if not policy.permissive:
        found["permissive"] = False
    if policy.using is not None:
        found["using"] = policy.using
    if policy.check is not None and policy.check != policy.using:
        found["with_check"] = policy.check
    return found
