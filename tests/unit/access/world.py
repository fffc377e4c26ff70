# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small imagined server for the tests of pure code."""

from __future__ import annotations

from typing import Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.model import Cluster, DatabaseFacts, Membership, ObjectClass, Role
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.scope import Scope, scope_of
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.catalog import AclEntry

BLANK: dict[str, Any] = {
    "login": False,
    "superuser": False,
    "createdb": False,
    "createrole": False,
    "inherit": True,
    "replication": False,
    "bypassrls": False,
    "connection_limit": -1,
    "valid_until": "infinity",
    "password": "",
}


def role(name: str, **attributes: Any) -> Role:
    """A role as CREATE ROLE makes it, but for the attributes."""
    return Role(name, **{**BLANK, **attributes})


def cluster(*roles: Role, memberships: tuple[Membership, ...] = (), version: int = 180006, applying: str = "root", **facts: Any) -> Cluster:
    """A server with the superuser root, an owner, a stranger and the given roles, and the database shop."""
    everyone = (role("root", login=True, superuser=True), role("owner"), role("stranger"), role("pg_monitor"), *roles)
    public = tuple(AclEntry("PUBLIC", "owner", privilege) for privilege in ("CONNECT", "TEMPORARY"))
    own = tuple(AclEntry("owner", "owner", privilege) for privilege in ("CONNECT", "CREATE", "TEMPORARY"))
    return Cluster(
        version=version,
        in_recovery=False,
        applying=applying,
        bootstrap="root",
        roles={each.name: each for each in everyone},
        memberships=memberships,
        databases={"shop": DatabaseFacts("shop", "owner", public + own, None, True, False)},
        objects=(),
        scram_iterations=4096,
        passwords_readable=True,
        parameters=frozenset({"work_mem", "search_path", "statement_timeout"}),
        names={},
        encodings=frozenset({"UTF8", "SQL_ASCII", "LATIN1"}),
        **facts,
    )


def scope_for(document: dict[str, Any], mode: str = "managed", server: Cluster | None = None, version: int = 180006, **passwords: str) -> Scope:
    """The scope of a document on a server."""
    return scope_of(read_policy(document, passwords, mode), mode, server or cluster(version=version), ("pg_*",))


def table(name: str, *entries: tuple[Any, ...], schema: str = "app", relkind: str = "r", **attributes: Any) -> ObjectClass:
    """A table of the role owner. entries: (grantee, grantor, privilege[, with grant option])."""
    return ObjectClass("table", "owner", tuple(AclEntry(*entry) for entry in entries), "shop", schema, name, (name,), relkind=relkind, **attributes)
