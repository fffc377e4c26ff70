# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server had gathered is gone, what the policy does not name is untouched, and the application never stopped."""

from __future__ import annotations

from typing import Any, Callable

import pytest

Query = Callable[..., str]
Outcomes = Callable[..., "list[str]"]


@pytest.mark.parametrize(("role", "password"), [("app_service", "app"), ("readonly_user", "readonly"), ("analyst", "analyst")])
def test_old_passwords_do_not_let_in(host: Any, role: str, password: str) -> None:
    result = host.run(f"PGPASSWORD={password} psql -XqAt --no-password --host=127.0.0.1 --username={role} --dbname=shop --command='SELECT 1'")
    assert result.rc != 0
    assert "password authentication failed" in result.stderr


def test_ad_hoc_grants_on_columns_are_gone(query: Query) -> None:
    columns = query(
        "SELECT attrelid::regclass, attname, grantee::regrole, privilege_type FROM pg_attribute, aclexplode(attacl) "
        "WHERE attrelid::regclass::text LIKE 'app.%' ORDER BY attname COLLATE \"C\""
    )
    assert columns.splitlines() == [f"app.users|{column}|analyst|SELECT" for column in ("country", "created_at", "id", "tenant_id")]


def test_functions_do_what_they_did(query: Query) -> None:
    """order_total was handed on; nobody but its owner and who the policy names may call anything."""
    callers = query(
        "SELECT proname, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END FROM pg_proc, "
        "aclexplode(coalesce(proacl, acldefault('f', proowner))) "
        "WHERE pronamespace = 'app'::regnamespace AND grantee <> proowner ORDER BY 1, 2"
    )
    assert callers.splitlines() == ["next_invoice_number|app_service", "refresh_revenue|app_service"]


def test_a_large_object_is_closed(query: Query) -> None:
    grantees = query("SELECT grantee::regrole FROM pg_largeobject_metadata, aclexplode(lomacl) WHERE oid = 4711 AND grantee <> lomowner")
    assert grantees == ""


def test_what_the_policy_does_not_name_is_as_it_was(query: Query, outcomes: Outcomes) -> None:
    assert query("SELECT count(*) FROM legacy.archive") == "10"
    assert query("SELECT relowner::regrole, nspowner::regrole FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relname = 'archive'") == (
        "consultant|consultant"
    )
    assert query("SELECT has_table_privilege('stranger', 'legacy.archive', 'SELECT')") == "t"
    assert query("SELECT has_table_privilege('stranger', 'legacy.archive', 'INSERT')") == "f"
    assert query("SELECT left(rolpassword, 3), rolcanlogin FROM pg_authid WHERE rolname = 'consultant'") == "md5|t"
    assert outcomes("readonly_user", ["SELECT count(*) FROM legacy.archive"]) == ["42501"]


def test_nobody_plants_objects_in_databases_made_tomorrow(query: Query) -> None:
    assert query("SELECT has_schema_privilege('stranger', 'public', 'CREATE')", database="template1") == "f"


def test_the_application_never_stopped(host: Any, query: Query) -> None:
    assert host.run("systemctl is-active application").stdout.strip() == "active"
    assert query("SELECT count(DISTINCT backend) FROM app.heartbeat") == "1"
    assert query("SELECT count(*) FROM pg_stat_activity WHERE pid = (SELECT min(backend) FROM app.heartbeat)") == "1"
    assert query("SELECT bool_or(superuser), bool_or(NOT superuser) FROM app.heartbeat") == "t|t"
    # A statement of the application waited at most for this long.
    gap = "SELECT max(gap) < interval '3 seconds' FROM (SELECT at - lag(at) OVER (ORDER BY at) AS gap FROM app.heartbeat) AS gaps"
    assert query(gap) == "t"
    assert query("SELECT max(at) > clock_timestamp() - interval '3 seconds' FROM app.heartbeat") == "t"
