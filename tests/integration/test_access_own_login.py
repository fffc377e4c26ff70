# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role that applies a policy keeps its way in while the policy changes that role: proved by real logins with SCRAM over TCP."""

from __future__ import annotations

from typing import Any

import psycopg2
import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import scram
from tests.integration.module import apply, converge, plan, refused, unchanged
from tests.integration.sql import execute, fingerprint, query

OLD, NEW = "the old password", "the new password"
BOSS: dict[str, Any] = {"login": True, "superuser": True}


def over_tcp(user: str, password: str) -> dict[str, Any]:
    """Login options for a role that has to give its password."""
    return {"login_unix_socket": "", "login_host": "127.0.0.1", "login_user": user, "login_password": password}


def logs_in(server: Any, user: str, password: str) -> bool:
    """Whether the server lets the role in with that password."""
    try:
        psycopg2.connect(host="127.0.0.1", port=server.port, user=user, password=password, dbname="postgres").close()
    except psycopg2.OperationalError:
        return False
    return True


@pytest.fixture
def boss(cluster: Any) -> Any:
    """A server with a superuser that has a password, and two databases."""
    execute(cluster, f"CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{OLD}'", "CREATE DATABASE shop", "CREATE DATABASE stock", "CREATE ROLE old")
    return cluster


def policy(**boss: Any) -> dict[str, Any]:
    """Something to do before, in and after the databases."""
    return {"roles": {"boss": {**BOSS, **boss}, "r": {}, "old": {"state": "absent"}}, "databases": {"shop": {}, "stock": {"owner": "r"}, "new": {}}}


def test_its_own_password_is_changed_last(boss: Any) -> None:
    options = {"passwords": {"boss": NEW}, **over_tcp("boss", OLD)}
    foretold = plan(boss, policy(), **options)
    done = apply(boss, policy(), diff=True, **options)
    assert [change["change"] for change in done["plan"]][-2:] == ["role old: dropped", "role boss: password changed"]
    assert (done["sql"], done["diff"]) == (foretold["sql"], foretold["diff"])
    assert (logs_in(boss, "boss", OLD), logs_in(boss, "boss", NEW)) == (False, True)
    unchanged(boss, policy(), passwords={"boss": NEW}, **over_tcp("boss", NEW))


def test_a_password_that_is_in_use_is_not_removed(boss: Any) -> None:
    before = fingerprint(boss)
    for check in (True, False):
        message = refused(boss, policy(has_password=False), check=check, path_prefix="pg_users_", **over_tcp("boss", OLD))
        assert "pg_users_roles.boss.has_password: this role applies the policy and logs in with its password" in message
    assert fingerprint(boss) == before
    converge(boss, policy(has_password=False), login_user="boss")  # through the socket it needs none


def test_a_verifier_of_an_unknown_password_is_refused(boss: Any) -> None:
    before = fingerprint(boss)
    message = refused(boss, policy(), passwords={"boss": scram.verifier(NEW)}, path_prefix="pg_users_", **over_tcp("boss", OLD))
    assert "pg_users_passwords.boss: this role applies the policy and logs in with a password that does not match this verifier" in message
    assert fingerprint(boss) == before
    apply(boss, policy(), passwords={"boss": scram.verifier(OLD, 5000)}, **over_tcp("boss", OLD))
    assert logs_in(boss, "boss", OLD)


@pytest.mark.parametrize("attributes", [{"login": False}, {"connection_limit": 0}, {"valid_until": "2001-01-01"}])
def test_its_own_login_is_not_taken(boss: Any, attributes: dict[str, Any]) -> None:
    before = fingerprint(boss)
    assert "roles.boss" in refused(boss, policy(**attributes), **over_tcp("boss", OLD))
    assert fingerprint(boss) == before


@pytest.fixture
def admin(cluster: Any) -> Any:
    """A server with an administrator that is no superuser and has its rights through the groups of a provider."""
    execute(
        cluster,
        f"CREATE ROLE admin CREATEROLE CREATEDB LOGIN PASSWORD '{OLD}'",
        "CREATE ROLE rds_superuser",
        "CREATE ROLE dba",
        "GRANT rds_superuser TO dba",
        "GRANT dba TO admin",
        "CREATE DATABASE shop OWNER rds_superuser",
    )
    return cluster


ADMIN: dict[str, Any] = {"login": True, "createrole": True, "createdb": True}


@pytest.mark.parametrize(
    ("roles", "place"),
    [
        ({"admin": ADMIN}, "roles.admin.member_of"),
        ({"admin": {**ADMIN, "inherit": False, "member_of": ["dba"]}}, "roles.admin.member_of"),
        ({"dba": {}}, "roles.dba.member_of"),
        ({"rds_superuser": {}}, "roles.rds_superuser.keep_members"),
    ],
)
def test_the_memberships_that_it_administers_by_stay(admin: Any, roles: dict[str, Any], place: str) -> None:
    before = fingerprint(admin)
    for check in (True, False):
        message = refused(admin, {"roles": roles}, check=check, **over_tcp("admin", OLD))
        assert f'{place}: role "admin" applies the policy and would lose what it has by the membership of' in message
    assert fingerprint(admin) == before


def test_memberships_that_are_declared_as_they_are_change_nothing(admin: Any) -> None:
    unchanged(admin, {"roles": {"admin": {**ADMIN, "member_of": ["dba"]}, "dba": {"member_of": ["rds_superuser"]}}}, **over_tcp("admin", OLD))


def test_its_connections_must_suffice_for_the_run(admin: Any) -> None:
    limited = {"roles": {"admin": {**ADMIN, "member_of": ["dba"], "connection_limit": 1}}}
    assert "roles.admin.connection_limit: this role applies the policy and needs a limit of at least 2" in refused(admin, limited, **over_tcp("admin", OLD))
    assert query(admin, "SELECT rolconnlimit FROM pg_roles WHERE rolname = 'admin'") == [(-1,)]


def test_it_creates_its_databases_before_it_loses_the_right_to(admin: Any) -> None:
    losing = {"roles": {"admin": {"login": True, "createrole": True, "member_of": ["dba"]}}, "databases": {"later": {}}}
    assert "would lose CREATEDB before it creates database" in refused(admin, losing, **over_tcp("admin", OLD))
