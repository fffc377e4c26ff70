# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a live server as a document and as a matrix of privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC, read_consistently
from ..core.errors import BulwarkError, nearest
from .catalog import read_cluster
from .contents import read_contents
from .generate import document, everything, passed_on
from .matrix import matrix
from .model import Cluster, Contents, Details

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.database import Server


_CLOSED = "SELECT datname FROM pg_catalog.pg_database WHERE NOT pg_catalog.has_database_privilege(oid, 'CONNECT')"


def inspect(server: Server, databases: Sequence[str] | None, roles: Sequence[str] | None) -> dict[str, Any]:
    """policy, matrix, superusers, server_version, in_recovery, and what the policy does not hold as it is.

    left_out: databases that this role may not connect to. passed_on: rights that others than the owner gave.
    Raises BulwarkError for what does not exist.
    """
    return read_consistently(lambda: _inspected(server, databases, roles))


def _inspected(server: Server, databases: Sequence[str] | None, roles: Sequence[str] | None) -> dict[str, Any]:
    with server.connect() as session, session.reading():
        cluster = read_cluster(session)
        closed = {name for (name,) in session.query(_CLOSED)}
    for name in roles or ():
        if name != PUBLIC and name not in cluster.roles:
            raise BulwarkError(f'role "{name}" does not exist{nearest(name, cluster.roles)}')
    contents, left_out = [], []
    for name in _chosen(cluster, databases):
        if databases is None and name in closed:
            left_out.append(name)
        else:
            contents.append(_read(server, cluster, name))
    return {
        "policy": document(cluster, contents),
        "left_out": left_out,
        "passed_on": passed_on(cluster, contents),
        "matrix": matrix(cluster, contents, roles),
        "superusers": sorted(name for name, role in cluster.roles.items() if role.superuser),
        "server_version": cluster.version,
        "in_recovery": cluster.in_recovery,
    }


def _chosen(cluster: Cluster, databases: Sequence[str] | None) -> list[str]:
    if databases is None:
        return [name for name, facts in cluster.databases.items() if facts.connectable and not facts.template]
    for name in databases:
        if name not in cluster.databases:
            raise BulwarkError(f'database "{name}" does not exist{nearest(name, cluster.databases)}')
    return list(databases)


def _read(server: Server, cluster: Cluster, name: str) -> Contents:
    with server.connect(name) as session, session.reading():
        schemas = read_contents(session, Details(), cluster.names).schemas
        return read_contents(session, everything(schemas), cluster.names)
