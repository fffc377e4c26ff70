# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads a live server as a document and as a matrix of privileges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC, read_settled
from ..core.errors import BulwarkError, nearest
from .catalog import read_cluster
from .contents import read_contents
from .generate import document, everything
from .matrix import matrix
from .model import Cluster, Contents, Details

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..core.database import Server


def inspect(server: Server, databases: Sequence[str] | None, roles: Sequence[str] | None) -> dict[str, Any]:
    """policy, matrix, superusers, server_version and in_recovery. Raises BulwarkError for what does not exist."""
    return read_settled(lambda: _inspected(server, databases, roles))


def _inspected(server: Server, databases: Sequence[str] | None, roles: Sequence[str] | None) -> dict[str, Any]:
    with server.connect() as session, session.reading():
        cluster = read_cluster(session)
    for name in roles or ():
        if name != PUBLIC and name not in cluster.roles:
            raise BulwarkError(f'role "{name}" does not exist{nearest(name, cluster.roles)}')
    contents = [_read(server, cluster, name) for name in _chosen(cluster, databases)]
    return {
        "policy": document(cluster, contents),
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
