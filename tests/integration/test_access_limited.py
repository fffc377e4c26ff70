# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_access for an administrator without SUPERUSER, as providers give one, and what a plan cannot do or a server only warns of."""

from __future__ import annotations

from typing import Any

import pytest

from tests import servers
from tests.integration.module import apply, converge, info, plan, refused, run, unchanged
from tests.integration.sql import execute, query, value
from tests.servers import majors

MASTER: dict[str, Any] = {"login_user": "master"}
ENTERS = [{"to": "master", "privileges": ["CONNECT"]}]


@pytest.fixture
def shop(cluster: Any) -> Any:
    """A server with an administrator that may make roles and databases, and its database with a schema."""
    execute(cluster, "CREATE ROLE master LOGIN CREATEROLE CREATEDB")
    if cluster.major >= 16:
        execute(cluster, "ALTER ROLE master SET createrole_self_grant = 'set, inherit'")
    execute(cluster, "CREATE DATABASE shop OWNER master")
    execute(cluster, "SET SESSION AUTHORIZATION master", "CREATE SCHEMA app", "CREATE TABLE app.orders (id serial, a int)", db="shop")
    execute(cluster, "SET SESSION AUTHORIZATION master", "CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", db="shop")
    return cluster


def test_owners_change_in_an_order_that_postgresql_allows(shop: Any) -> None:
    if shop.major < 16:  # there, it has to be a member before
        execute(shop, "CREATE ROLE migration_user", "GRANT migration_user TO master")
    if shop.major < 15:  # there, the schema public is not the database owner's to close
        execute(shop, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", db="shop")
    policy = {
        "roles": {"app_service": {}, "migration_user": {"keep_members": ["master"]}, "readonly_user": {}},
        "databases": {
            "shop": {
                "grants": ENTERS,
                "schemas": {"app": {"owner": "migration_user", "objects_owner": "migration_user", "profiles": {"readonly_user": "readonly"}}},
            }
        },
    }
    converge(shop, policy, **MASTER)
    owners = query(shop, "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace", db="shop")
    assert owners == [("migration_user",)]


def test_what_it_has_to_be_granted_first_is_told_by_a_check(shop: Any) -> None:
    execute(shop, "CREATE ROLE migration_user", "CREATE ROLE other")
    roles = {"migration_user": {"keep_members": ["master"]}, "other": {"connection_limit": 5}}
    policy = {"roles": roles, "databases": {"shop": {"grants": ENTERS, "schemas": {"app": {"objects_owner": "migration_user"}}}}}
    warnings = str(plan(shop, policy, **MASTER)["warnings"])
    assert 'GRANT "migration_user" TO "master"' in warnings
    assert ('GRANT "other" TO "master" WITH ADMIN OPTION' in warnings) is (shop.major >= 16)
    assert "may not do all of this" not in str(plan(shop, policy).get("warnings"))


def test_its_own_membership_in_what_it_makes(shop: Any) -> None:
    if shop.major < 16:
        return
    execute(shop, "ALTER ROLE master RESET ALL")
    master = {"login": True, "createrole": True, "createdb": True, "member_of": ["migration_user"]}
    policy = {"roles": {"migration_user": {}, "master": master}}
    converge(shop, policy, **MASTER)
    rows = query(
        shop,
        "SELECT pg_get_userbyid(grantor), admin_option, inherit_option, set_option FROM pg_auth_members WHERE roleid = 'migration_user'::regrole ORDER BY 1",
    )
    assert rows == [("master", False, True, True), ("postgres", True, False, False)]


def test_what_postgresql_only_warns_of_is_told(shop: Any) -> None:
    if shop.major >= 15:
        return
    policy = {"roles": {"ro": {}}, "databases": {"shop": {"grants": ENTERS, "schemas": {"app": {"profiles": {"ro": "readonly"}}}}}}
    message = refused(shop, policy, **MASTER)
    assert 'PostgreSQL only warned: no privileges could be revoked for "public"' in message
    assert "owner or a superuser" in message


def test_databases_and_roles_of_a_provider_are_left_out(shop: Any) -> None:
    execute(shop, "CREATE ROLE rdsadmin SUPERUSER LOGIN", "CREATE ROLE rds_iam", "CREATE ROLE boss SUPERUSER")
    execute(shop, "CREATE DATABASE rdsadmin OWNER rdsadmin", "REVOKE CONNECT ON DATABASE rdsadmin FROM PUBLIC")
    found = info(shop, **MASTER)
    assert found["left_out"] == ["rdsadmin"]
    assert "rdsadmin" in str(found["warnings"])
    assert sorted(found["policy"]["databases"]) == ["postgres", "shop"]
    assert sorted(found["policy"]["roles"]) == ["master"]
    assert {"boss", "rdsadmin"} <= set(info(shop)["policy"]["roles"])


def test_what_a_grantee_passed_on_is_in_the_document(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE d1", "CREATE ROLE a LOGIN", "CREATE ROLE b LOGIN")
    execute(cluster, "CREATE SCHEMA app", "CREATE TABLE app.t (x int)", "GRANT USAGE ON SCHEMA app TO a, b", db="d1")
    execute(cluster, "GRANT SELECT ON app.t TO a WITH GRANT OPTION", "SET SESSION AUTHORIZATION a", "GRANT SELECT ON app.t TO b", db="d1")
    found = info(cluster, databases=["d1"])
    assert found["passed_on"] == ["b has SELECT on table d1.app.t from a; by the document it comes from the owner"]
    assert "b has SELECT on table d1.app.t from a" in str(found["warnings"])
    apply(cluster, found["policy"])
    assert value(cluster, "SELECT has_table_privilege('b', 'app.t', 'SELECT')", db="d1") is True
    unchanged(cluster, found["policy"])
    assert info(cluster, databases=["d1"])["passed_on"] == []


@pytest.mark.parametrize(
    ("limit", "shown"),
    [("9999-12-31 23:59:59-08", "10000-01-01 07:59:59+00:00"), ("-infinity", "-infinity"), ("0001-01-01 00:00+00", "0001-01-01 00:00:00+00:00")],
)
def test_limits_that_python_has_not(cluster: Any, limit: str, shown: str) -> None:
    execute(cluster, f"CREATE ROLE a LOGIN VALID UNTIL '{limit}'")
    policy = info(cluster, databases=[])["policy"]
    assert policy["roles"]["a"]["valid_until"] == shown
    unchanged(cluster, policy)
    execute(cluster, "ALTER ROLE a VALID UNTIL 'infinity'")
    converge(cluster, policy)
    assert value(cluster, "SELECT rolvaliduntil = %(limit)s::timestamptz FROM pg_roles WHERE rolname = 'a'", parameters={"limit": limit}) is True


def test_the_application_writes_to_no_view(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE d1", "CREATE ROLE r LOGIN")
    execute(cluster, "CREATE SCHEMA app", "CREATE TABLE app.t (x int)", "CREATE VIEW app.v AS SELECT * FROM app.t", db="d1")
    schema: dict[str, Any] = {"profiles": {"r": "app_service"}}
    policy = {"roles": {"r": {"login": True}}, "databases": {"d1": {"schemas": {"app": schema}}}}
    converge(cluster, policy)
    rights = (
        "SELECT has_table_privilege('r', 'app.' || n, 'SELECT'), has_table_privilege('r', 'app.' || n, 'INSERT, UPDATE, DELETE') FROM unnest(ARRAY['t', 'v']) n"
    )
    assert query(cluster, rights, db="d1") == [(True, True), (True, False)]
    schema["grants"] = [{"to": "r", "privileges": ["INSERT"], "views": ["v"]}]
    converge(cluster, policy)
    assert query(cluster, rights, db="d1") == [(True, True), (True, True)]


def test_a_database_from_template0_is_planned_as_initdb_made_it(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE r", "CREATE SCHEMA mine", "CREATE TABLE mine.t (a int)", "REVOKE ALL ON SCHEMA public FROM PUBLIC", db="postgres")
    try:
        policy = {"roles": {"r": {}}, "databases": {"new": {"template": "template0", "schemas": {"app": {"profiles": {"r": "readonly"}}}}}}
        foretold = plan(cluster, policy)
        assert "mine" not in foretold["diff"]["prepared"]
        converge(cluster, policy)
    finally:
        execute(cluster, "DROP SCHEMA mine CASCADE", "GRANT USAGE ON SCHEMA public TO PUBLIC", db="postgres")


def test_a_password_that_may_not_be_read_is_not_silently_left(shop: Any) -> None:
    execute(shop, "SET SESSION AUTHORIZATION master", "CREATE ROLE r LOGIN PASSWORD 'x'")
    result = run(shop, "pg_access", policy={"roles": {"r": {"login": True, "has_password": False}}}, mode="additive", **MASTER)
    assert "whether role r has a password may not be read by master" in str(result["warnings"])


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("f(varchar(20)[])", "without modifiers"),
        ("app.f(text)", "stands without its schema, which is where the grant stands: f(text)"),
    ],
)
def test_a_signature_that_can_never_match_is_refused(cluster: Any, signature: str, message: str) -> None:
    schema = {"grants": [{"to": "r", "privileges": ["EXECUTE"], "functions": [signature]}]}
    assert message in refused(cluster, {"roles": {"r": {}}, "databases": {"postgres": {"schemas": {"public": schema}}}})


def test_a_quoted_signature_is_found(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE d1", "CREATE ROLE r")
    execute(cluster, "CREATE SCHEMA app", """CREATE FUNCTION app."F x"(varchar[]) RETURNS int LANGUAGE sql AS 'SELECT 1'""", db="d1")
    schema = {"grants": [{"to": "r", "privileges": ["EXECUTE"], "functions": ['"F x"(varchar[])']}]}
    converge(cluster, {"roles": {"r": {}}, "databases": {"d1": {"schemas": {"app": schema}}}})
    assert value(cluster, """SELECT has_function_privilege('r', 'app."F x"(varchar[])', 'EXECUTE')""", db="d1") is True


@pytest.mark.newest
def test_a_database_that_is_too_large_for_the_lock_table_is_done_in_parts() -> None:
    small = {"max_locks_per_transaction": "10", "max_connections": "20", "max_prepared_transactions": "0", "max_worker_processes": "0"}
    with servers.running(max(majors()), **small) as server:
        execute(server, "CREATE DATABASE d1", "CREATE ROLE app", "CREATE ROLE owner")
        execute(server, "CREATE SCHEMA app", db="d1")
        for start in range(0, 6000, 100):  # as many as one transaction can hold
            execute(server, f"SELECT count(lo_create({start} + n + 100000)) FROM generate_series(1, 100) n", db="d1")
        for start in range(0, 600, 20):
            make = "EXECUTE format('CREATE TABLE app.t%s (id serial PRIMARY KEY, a text UNIQUE)', n)"
            execute(server, f"DO $$BEGIN FOR n IN {start}..{start + 19} LOOP {make}; END LOOP; END$$", db="d1")
        grant = {"to": "app", "privileges": ["SELECT", "UPDATE"], "large_objects": "all"}
        schema = {"owner": "owner", "objects_owner": "owner"}
        database = {"grants": [{"to": "app", "privileges": ["CONNECT"]}, grant], "schemas": {"app": schema}}
        policy = {"roles": {"app": {}, "owner": {}}, "databases": {"d1": database}}
        assert "transactions: one would hold more locks" in str(plan(server, policy)["warnings"])
        converge(server, policy)
        assert value(server, "SELECT count(*) FROM pg_largeobject_metadata WHERE has_largeobject_privilege('app', oid, 'UPDATE')", db="d1") == 6000
        owned = "SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind = 'r' AND relowner = 'owner'::regrole"
        assert value(server, owned, db="d1") == 600
