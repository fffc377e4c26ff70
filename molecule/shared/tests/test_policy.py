# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo's policy is true on the server: what each role can do, and what it cannot."""

from __future__ import annotations

from typing import Any, Callable

import pytest

SUCCESS = "00000"
INSUFFICIENT_PRIVILEGE = "42501"

ALLOWED = {
    "app_service": [
        "SELECT count(*) FROM app.users",
        "INSERT INTO app.projects (tenant_id, owner_id, title) VALUES (1, 3, 'new')",
        "INSERT INTO app.orders (id, tenant_id, user_id, amount, ordered_at) VALUES (0, 1, 3, 1, '2026-06-01')",
        "UPDATE app.user_profiles SET phone = NULL WHERE id = 1",
        "DELETE FROM app.orders WHERE id = 1",
        "SELECT app.next_invoice_number()",
        "SELECT app.refresh_revenue()",
    ],
    "readonly_user": [
        "SELECT count(*) FROM app.users",
        "SELECT count(*) FROM app.orders",
        "SELECT last_value FROM app.invoice_number",
    ],
    "analyst": [
        "SELECT id, tenant_id, country, created_at FROM app.users",
        "SELECT count(*) FROM app.order_summary",
    ],
    "migration_user": [
        "ALTER TABLE app.orders ADD COLUMN note text",
        "DROP VIEW app.order_summary",
        "TRUNCATE app.orders",
        "CREATE TABLE app.extra (id integer)",
        "SELECT app.order_total(1)",
        "SELECT count(*) FROM app.orders_2026_01",
    ],
}

REFUSED = {
    "app_service": [
        "CREATE TABLE app.extra (id integer)",
        "CREATE TABLE public.extra (id integer)",
        "CREATE TEMPORARY TABLE extra (id integer)",
        "ALTER TABLE app.projects ADD COLUMN note text",
        "DROP TABLE app.projects",
        "TRUNCATE app.orders",
        "SELECT app.order_total(1)",
        "SELECT count(*) FROM app.orders_2026_01",
        "INSERT INTO app.orders_2026_06 (id, tenant_id, user_id, amount, ordered_at) VALUES (0, 1, 3, 1, '2026-06-01')",
        "SET ROLE migration_user",
        "CREATE ROLE another",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "ALTER SYSTEM SET work_mem = '1GB'",
    ],
    "readonly_user": [
        "SELECT count(*) FROM app.user_profiles",
        "SELECT count(*) FROM app.order_summary",
        "SELECT count(*) FROM app.monthly_revenue",
        "INSERT INTO app.projects (tenant_id, owner_id, title) VALUES (1, 3, 'new')",
        "UPDATE app.users SET email = 'x' WHERE id = 1",
        "DELETE FROM app.orders WHERE id = 1",
        "TRUNCATE app.orders",
        "SELECT nextval('app.invoice_number')",
        "SELECT app.refresh_revenue()",
        "CREATE TABLE app.extra (id integer)",
        "CREATE TABLE public.extra (id integer)",
        "CREATE DATABASE another",
    ],
    "analyst": [
        "SELECT email FROM app.users",
        "SELECT count(*) FROM app.user_profiles",
        "SELECT count(*) FROM app.orders",
        "SELECT count(*) FROM app.tenants",
        "SELECT app.order_total(1)",
        "CREATE TABLE app.extra (id integer)",
    ],
    "migration_user": [
        "CREATE TABLE public.extra (id integer)",
        "CREATE ROLE another",
        "CREATE DATABASE another",
        "SELECT pg_read_file('/etc/passwd')",
    ],
}


Outcomes = Callable[..., "list[str]"]
Query = Callable[..., str]


def each(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(role, sql) for role, statements in table.items() for sql in statements]


@pytest.fixture(scope="module")
def allowed(outcomes: Outcomes) -> dict[tuple[str, str], str]:
    """Each statement is rolled back, so that the rows stay what they were."""
    return {(role, sql): outcome for role, statements in ALLOWED.items() for sql, outcome in zip(statements, outcomes(role, statements, keep=False))}


@pytest.fixture(scope="module")
def refused(outcomes: Outcomes) -> dict[tuple[str, str], str]:
    return {(role, sql): outcome for role, statements in REFUSED.items() for sql, outcome in zip(statements, outcomes(role, statements))}


@pytest.mark.parametrize(("role", "sql"), each(ALLOWED))
def test_allowed(allowed: dict[tuple[str, str], str], role: str, sql: str) -> None:
    assert allowed[role, sql] == SUCCESS


@pytest.mark.parametrize(("role", "sql"), each(REFUSED))
def test_refused(refused: dict[tuple[str, str], str], role: str, sql: str) -> None:
    assert refused[role, sql] == INSUFFICIENT_PRIVILEGE


@pytest.mark.parametrize(
    ("role", "database"),
    [
        ("stranger", "shop"),
        ("stranger", "postgres"),
        ("stranger", "template1"),
        ("app_service", "postgres"),
        ("app_service", "template1"),
    ],
)
def test_no_way_in(outcomes: Outcomes, role: str, database: str) -> None:
    refused = outcomes(role, ["SELECT 1"], database=database)[0]
    assert f'permission denied for database "{database}"' in refused or "pg_hba.conf rejects connection" in refused


def test_what_comes_tomorrow_is_covered(outcomes: Outcomes) -> None:
    """Objects that the migration role makes after the run belong to the right people, and to nobody else."""
    make = [
        "CREATE TABLE app.tomorrow (id bigserial, note text)",
        "CREATE FUNCTION app.tomorrow_total() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM app.tomorrow'",
    ]
    try:
        assert outcomes("migration_user", make) == [SUCCESS, SUCCESS]
        insert, read = "INSERT INTO app.tomorrow (note) VALUES ('x')", "SELECT count(*) FROM app.tomorrow"
        call, count = "SELECT app.tomorrow_total()", "SELECT nextval('app.tomorrow_id_seq')"
        assert outcomes("app_service", [insert, read, "TRUNCATE app.tomorrow", call]) == [SUCCESS, SUCCESS, *[INSUFFICIENT_PRIVILEGE] * 2]
        assert outcomes("readonly_user", [read, insert, count, call]) == [SUCCESS, *[INSUFFICIENT_PRIVILEGE] * 3]
        assert outcomes("analyst", [read, call]) == [INSUFFICIENT_PRIVILEGE] * 2
    finally:
        outcomes("migration_user", ["DROP TABLE app.tomorrow", "DROP FUNCTION app.tomorrow_total()"])


def test_roles_have_no_attribute_that_the_policy_does_not_give(query: Query) -> None:
    attributes = "rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolcanlogin, rolconnlimit"
    rows = query(f"SELECT rolname, {attributes} FROM pg_roles WHERE rolname !~ '^pg_|^postgres$' ORDER BY rolname COLLATE \"C\"")
    roles = {name: rest for name, _bar, rest in (row.partition("|") for row in rows.splitlines())}
    assert roles["app_service"] == "f|f|f|f|f|t|50"
    assert roles["migration_user"] == "f|f|f|f|f|t|-1"
    assert roles["readonly_user"] == "f|f|f|f|f|t|-1"
    assert roles["analyst"] == "f|f|f|f|f|t|-1"
    assert roles["reporting"] == "f|f|f|f|f|f|-1"
    assert "old_reporter" not in roles


def test_memberships(query: Query) -> None:
    rows = query("SELECT roleid::regrole, member::regrole FROM pg_auth_members WHERE member::regrole::text !~ '^pg_|^bulwark_backup$' ORDER BY 1, 2")
    assert rows == "reporting|analyst"


def test_settings_of_roles(query: Query) -> None:
    show = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
    # What the policy of the roles does not say comes from the server's baseline.
    assert query(show, role="app_service") == "30s|10min"
    assert query(show, role="readonly_user") == "5min|10min"
    assert query(show, role="migration_user") == "4h|5s"


def test_everything_belongs_to_the_migration_role(query: Query) -> None:
    owners = query(
        "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'app'::regnamespace UNION "
        "SELECT DISTINCT proowner::regrole FROM pg_proc WHERE pronamespace = 'app'::regnamespace UNION "
        "SELECT DISTINCT typowner::regrole FROM pg_type WHERE typnamespace = 'app'::regnamespace UNION "
        "SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'app'"
    )
    assert owners == "migration_user"


def test_nobody_else_has_a_right_on_a_table_or_hands_it_on(query: Query) -> None:
    """Who holds anything on whole relations of the application; partitions carry no grants of their own, and nobody has a grant option."""
    holders = query(
        "SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, grantor = relowner, is_grantable, relispartition "
        "FROM pg_class, aclexplode(relacl) WHERE relnamespace = 'app'::regnamespace AND grantee <> relowner ORDER BY 1"
    )
    assert holders.splitlines() == ["app_service|t|f|f", "readonly_user|t|f|f", "reporting|t|f|f"]


def test_who_is_in_the_schema(query: Query) -> None:
    rights = query(
        "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, privilege_type, is_grantable FROM pg_namespace, "
        "aclexplode(nspacl) WHERE nspname = 'app' AND grantee <> nspowner ORDER BY 1"
    )
    assert rights.splitlines() == ["app_service|USAGE|f", "readonly_user|USAGE|f", "reporting|USAGE|f"]


def test_default_privileges(query: Query) -> None:
    rights = query(
        "SELECT defaclrole::regrole, CASE defaclnamespace WHEN 0 THEN 'global' ELSE defaclnamespace::regnamespace::text END, defaclobjtype, "
        "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, string_agg(privilege_type, ' ' ORDER BY privilege_type) "
        "FROM pg_default_acl, aclexplode(defaclacl) WHERE grantee <> defaclrole GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    )
    assert rights.splitlines() == [
        "migration_user|app|S|app_service|USAGE",
        "migration_user|app|S|readonly_user|SELECT",
        "migration_user|app|r|app_service|DELETE INSERT SELECT UPDATE",
        "migration_user|app|r|readonly_user|SELECT",
    ]


def test_every_password_of_the_policy_is_a_scram_verifier(query: Query) -> None:
    kinds = query(
        "SELECT rolname, left(rolpassword, 14) FROM pg_authid WHERE rolname IN "
        "('app_service', 'migration_user', 'readonly_user', 'analyst', 'reporting') ORDER BY rolname COLLATE \"C\""
    )
    assert kinds.splitlines() == [
        "analyst|SCRAM-SHA-256$",
        "app_service|SCRAM-SHA-256$",
        "migration_user|SCRAM-SHA-256$",
        "readonly_user|SCRAM-SHA-256$",
        "reporting|",
    ]


def test_a_wrong_password_does_not_let_in(host: Any) -> None:
    result = host.run("PGPASSWORD=wrong psql -XqAt --no-password --host=127.0.0.1 --username=app_service --dbname=shop --command='SELECT 1'")
    assert result.rc != 0
    assert "password authentication failed" in result.stderr


def test_no_row_was_lost_or_changed(host: Any) -> None:
    now = host.run("runuser -u postgres rows")
    assert now.rc == 0, now.stderr
    assert now.stdout == host.file("/var/tmp/rows").content_string
