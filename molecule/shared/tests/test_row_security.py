# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each tenant sees its rows, and a session without a tenant sees none."""

from __future__ import annotations

from typing import Callable

import pytest

Query = Callable[..., str]
TABLES = ("app.users", "app.projects", "app.orders")


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("role", ["app_service", "readonly_user"])
def test_a_tenant_sees_its_own_rows(query: Query, role: str, table: str) -> None:
    for tenant in ("1", "2", "3"):
        own = query(f"SELECT count(*) FROM {table} WHERE tenant_id = {tenant}")
        assert query(f"SELECT count(*), count(*) FILTER (WHERE tenant_id <> {tenant}) FROM {table}", role=role, tenant=tenant) == f"{own}|0"
    for nobody in ("", "x", "99"):
        assert query(f"SELECT count(*) FROM {table}", role=role, tenant=nobody) == "0"


def test_every_table_with_a_tenant_is_forced(query: Query) -> None:
    open_tables = query(
        "SELECT string_agg(c.relname, ' ') FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id' "
        "WHERE c.relnamespace = 'app'::regnamespace AND c.relkind IN ('r', 'p') AND NOT (relrowsecurity AND relforcerowsecurity)"
    )
    assert open_tables == ""


def test_who_is_to_see_everything_does(query: Query) -> None:
    assert query("SELECT count(DISTINCT tenant_id) FROM app.orders", role="migration_user") == "3"
    assert query("SELECT count(DISTINCT tenant_id) FROM app.order_summary", role="analyst") == "3"
