# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans that are refused: those that lock out, and those that revoke surprisingly much."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.guard import check_revocations, lockout_mistakes
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.model import Membership
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.catalog import AclEntry
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.plan import Change, Effect, Plan
from tests.unit.access.world import cluster, role, scope_for


def mistakes(document: dict[str, Any], server: Any = None) -> list[str]:
    """Paths and messages of what would lock out."""
    server = server or cluster()
    scope = scope_for(document, server=server)
    return [f"{found.path}: {found.message}" for found in lockout_mistakes(scope, server, server.databases.values())]


def test_an_innocent_policy_is_not_refused() -> None:
    assert mistakes({"roles": {"a": {}}, "databases": {"shop": {}}}) == []


@pytest.mark.parametrize(
    ("attributes", "lost"),
    [
        ({"superuser": True}, "LOGIN"),
        ({"superuser": True, "login": True, "connection_limit": 0}, "connections"),
        ({"superuser": True, "login": True, "valid_until": "2001-01-01"}, "password"),
    ],
)
def test_the_applying_role_does_not_cut_itself_off(attributes: dict[str, Any], lost: str) -> None:
    found = mistakes({"roles": {"root": attributes}})
    assert any(found_one.startswith("roles.root") and lost in found_one for found_one in found), found


def test_the_last_superuser_stays_one() -> None:
    assert any(found.startswith("roles: no superuser") for found in mistakes({"roles": {"root": {"login": True}}}))
    other = cluster(role("second", login=True, superuser=True))
    assert not any(found.startswith("roles: no superuser") for found in mistakes({"roles": {"root": {"login": True}}}, other))


def test_the_role_that_initdb_made_cannot_go() -> None:
    server = cluster(role("second", login=True, superuser=True), applying="second")
    assert mistakes({"roles": {"root": {"state": "absent"}}}, server) == ["roles.root: this is the role that initdb made; PostgreSQL cannot drop it"]


def test_an_ordinary_administrator_keeps_its_way_into_each_database() -> None:
    admin = role("admin", login=True, createrole=True)
    document: dict[str, Any] = {"roles": {"a": {}}, "databases": {"shop": {}}}
    assert [found.split(":")[0] for found in mistakes(document, cluster(admin, applying="admin"))] == ["databases.shop"]
    document["databases"]["shop"] = {"grants": [{"to": "ops", "privileges": ["CONNECT"]}]}
    member = cluster(admin, role("ops"), memberships=(Membership("ops", "admin", "root", False, True, True),), applying="admin")
    assert mistakes(document, member) == []


def revoking(count: int) -> Plan:
    """A plan that takes so many privileges from roles."""
    return Plan((Change("table t", "a: table t  -SELECT", None, effect=Effect.REVOKE, privileges=count, from_roles=count),))


def test_a_mass_revocation_needs_an_allowance() -> None:
    with pytest.raises(BulwarkError, match="revokes 600 of 1000"):
        check_revocations(revoking(600), 1000, 0.5, allowed=False)
    check_revocations(revoking(600), 1000, 0.5, allowed=True)
    check_revocations(revoking(500), 1000, 0.5, allowed=False)
    check_revocations(revoking(99), 99, 0.5, allowed=False)


def test_the_example_acl_entry_is_what_the_guard_reads() -> None:
    """The guard must see CONNECT of PUBLIC go, or the test above would pass for the wrong reason."""
    server = cluster(role("admin", login=True), applying="admin")
    assert AclEntry("PUBLIC", "owner", "CONNECT") in server.databases["shop"].acl
