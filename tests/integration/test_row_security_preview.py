# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preview of pg_row_security counts what each role really sees, before and after, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.integration import module
from tests.integration.sql import execute, query, session

if TYPE_CHECKING:
    from tests.servers import Server

POLICY: dict[str, Any] = {
    "shop": {
        "tenancy": {
            "setting": "app.tenant",
            "column": "tenant_id",
            "schemas": ["app"],
            "roles": ["app_service"],
            "roles_all_rows": ["support"],
            "parents": {"app": {"items": "orders"}},
        }
    }
}
ROLES = ("app_service", "member", "support", "forgotten")
TABLES = ("orders", "items")


@pytest.fixture
def shop(cluster: Server) -> Server:
    """Orders of three tenants, their items, and roles that may read both."""
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in (*ROLES, "outsider")), "GRANT app_service TO member")
    execute(
        cluster,
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC",
        "CREATE TABLE app.orders (id int PRIMARY KEY, tenant_id int); CREATE TABLE app.items (id int, order_id int REFERENCES app.orders)",
        "INSERT INTO app.orders SELECT n, CASE WHEN n < 20 THEN 1 + n % 3 END FROM generate_series(1, 20) n",
        "INSERT INTO app.items SELECT n, 1 + n % 20 FROM generate_series(1, 50) n",
        "GRANT SELECT ON ALL TABLES IN SCHEMA app TO app_service, support, forgotten",
        db="shop",
    )
    return cluster


def really(server: Server, role: str, table: str, tenant: str | None) -> int | None:
    """The rows that a session of the role sees; None for an error."""
    with session(server, "shop", role) as connection, connection.cursor() as cursor:
        if tenant is not None:
            cursor.execute("SELECT set_config('app.tenant', %s, false)", (tenant,))
        try:
            cursor.execute(f"SELECT count(*) FROM app.{table}")
        except psycopg2.Error:
            return None
        (count,) = cursor.fetchone()
        return int(count)


@pytest.mark.parametrize(
    "before",
    [
        "SELECT 1",
        "ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON app.orders USING (tenant_id = current_setting('app.tenant', true)::int)",
        "ALTER TABLE app.orders ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON app.orders USING (tenant_id = current_setting('app.tenant')::int)",
    ],
    ids=["open", "textbook", "textbook that fails"],
)
def test_the_preview_is_what_is_seen_before_and_after(shop: Server, before: str) -> None:
    execute(shop, before, db="shop")
    catalog = query(shop, "SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relkind = 'r'", db="shop")
    seen = {(role, table, tenant): really(shop, role, table, tenant) for role in ROLES for table in TABLES for tenant in ("1", "2", "3", None)}
    result = module.run(shop, "pg_row_security", databases=POLICY, preview=True)
    assert not result.get("failed"), result["msg"]
    assert result["changed"] is False
    assert query(shop, "SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relkind = 'r'", db="shop") == catalog
    rows = {(each["role"], each["table"].partition(".")[2], each["tenant"]): each for each in result["preview"]}
    assert set(rows) == set(seen)
    assert {key: each["now"] for key, each in rows.items()} == seen
    assert all((each["now"] is None) == bool(each["problem"]) for each in rows.values())
    assert not module.run(shop, "pg_row_security", databases=POLICY).get("failed")
    assert {key: each["then"] for key, each in rows.items()} == {key: really(shop, *key) for key in seen}
    if before == "SELECT 1":
        assert "forgotten would see no row of app.orders" in result["preview_text"]
        assert "app_service would" not in result["preview_text"]


def test_a_standby_and_a_role_that_does_not_see_everything(shop: Server) -> None:
    standby = shop.make_standby()
    try:
        shop.wait_for(standby)
        result = module.run(standby, "pg_row_security", databases=POLICY, preview=True)
        assert {each["then"] for each in result["preview"] if each["role"] == "support" and each["table"] == "app.orders"} == {20}
    finally:
        standby.remove()
    assert not module.run(shop, "pg_row_security", databases=POLICY).get("failed")
    execute(shop, "GRANT SELECT ON ALL TABLES IN SCHEMA app TO outsider", db="shop")
    refused = module.run(shop, "pg_row_security", databases=POLICY, preview=True, login_user="outsider")
    assert refused["failed"]
    assert "cannot be counted" in refused["msg"]
