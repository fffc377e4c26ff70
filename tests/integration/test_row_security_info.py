# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_row_security_info: each way around the policies is real, is found, and is gone once its fix has been applied."""

from __future__ import annotations

import functools
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
        }
    }
}


ALWAYS = {"setting"}  # what is found with every tenancy


@pytest.fixture
def shop(cluster: Server) -> Server:
    """A database in which nothing gets around the policies."""
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in ("app_service", "support", "owner", "exempt")))
    execute(
        cluster,
        "ALTER ROLE exempt BYPASSRLS; CREATE SCHEMA app; GRANT USAGE, CREATE ON SCHEMA app TO PUBLIC",
        "CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL, code text)",
        "CREATE INDEX ON app.orders (tenant_id); INSERT INTO app.orders (tenant_id, code) SELECT 1 + n % 2, n FROM generate_series(1, 10) n",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON app.orders TO app_service, support; ALTER TABLE app.orders OWNER TO owner",
        db="shop",
    )
    result = module.run(cluster, "pg_row_security", databases=POLICY)
    assert not result.get("failed"), result["msg"]
    assert {each["code"] for each in result["findings"]} <= ALWAYS
    return cluster


def found(server: Server, policy: Any = None) -> list[dict[str, Any]]:
    """The findings."""
    result = module.run(server, "pg_row_security_info", policy=POLICY if policy is None else policy, databases=["shop"])
    assert not result.get("failed"), result["msg"]
    assert result["changed"] is False
    assert all(each["message"] in result["text"] for each in result["findings"])
    return [each for each in result["findings"] if each["code"] not in ALWAYS]


def seen(server: Server, statement: str, role: str = "app_service") -> Any:
    """What the role gets, as tenant 1; the SQLSTATE of a refusal."""
    with session(server, "shop", role) as connection, connection.cursor() as cursor:
        cursor.execute("SET app.tenant = '1'")
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return error.pgcode
        return cursor.fetchone()[0] if cursor.description else cursor.rowcount


def test_whoever_runs_sql_of_his_own_can_name_any_tenant_and_it_is_said(shop: Server) -> None:
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        for tenant in ("1", "2"):
            cursor.execute("SELECT set_config('app.tenant', %s, false)", (tenant,))
            cursor.execute("SELECT DISTINCT tenant_id::text FROM app.orders")
            assert cursor.fetchall() == [(tenant,)]
    result = module.run(shop, "pg_row_security_info", policy=POLICY, databases=["shop"])
    assert [(each["severity"], each["object"]) for each in result["findings"] if each["code"] == "setting"] == [("low", "app.tenant")]


COUNT = "SELECT count(*) FROM app.{}"

# What is done, the codes that are found, how it is seen that rows of the other tenant are reached (a statement and its answer, before and after the fix).
LEAKS: dict[str, tuple[str, set[str], tuple[str, Any, Any] | None]] = {
    "off": ("ALTER TABLE app.orders DISABLE ROW LEVEL SECURITY", {"row_security_off"}, (COUNT.format("orders"), 10, 5)),
    "not forced": ("ALTER TABLE app.orders NO FORCE ROW LEVEL SECURITY", {"not_forced"}, None),
    "superuser": ("ALTER ROLE app_service SUPERUSER", {"exempt_role"}, (COUNT.format("orders"), 10, 5)),
    "bypass": ("ALTER ROLE app_service BYPASSRLS", {"exempt_role"}, (COUNT.format("orders"), 10, 5)),
    "by membership": ("GRANT exempt TO app_service", {"exempt_role"}, None),
    "owner by membership": ("GRANT owner TO app_service", {"owner", "row_security_off"}, ("ALTER TABLE app.orders DISABLE ROW LEVEL SECURITY", -1, None)),
    "view": (
        "CREATE VIEW app.all_orders AS SELECT * FROM app.orders; ALTER VIEW app.all_orders OWNER TO support; GRANT SELECT ON app.all_orders TO app_service",
        {"view"},
        (COUNT.format("all_orders"), 10, 5),
    ),
    "materialized view": (
        "CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.orders; GRANT SELECT ON app.kept TO app_service",
        {"materialized_view"},
        (COUNT.format("kept"), 10, "42501"),
    ),
    "function": (
        "CREATE FUNCTION app.total() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT count(*) FROM app.orders'",
        {"definer_function"},
        ("SELECT app.total()", 10, 5),
    ),
    "child": (
        (
            "CREATE TABLE app.orders_old () INHERITS (app.orders); GRANT SELECT ON app.orders_old TO app_service; "
            "INSERT INTO app.orders_old (id, tenant_id) OVERRIDING SYSTEM VALUE VALUES (99, 2)"
        ),
        {"child"},
        (COUNT.format("orders_old"), 1, 0),
    ),
    "always true": ("DROP POLICY tenant_isolation ON app.orders", {"always_true"}, (COUNT.format("orders"), 10, 0)),
    "to public": ("CREATE POLICY wide ON app.orders USING (id > 0)", {"to_public", "overlapping"}, None),
    "truncate": ("GRANT TRUNCATE ON app.orders TO app_service", {"truncate"}, ("TRUNCATE app.orders", -1, "42501")),
    "trigger": ("GRANT TRIGGER, REFERENCES ON app.orders TO app_service", {"references_or_trigger"}, None),
    "volatile": (
        (
            "CREATE FUNCTION app.mine(int) RETURNS boolean LANGUAGE sql VOLATILE AS 'SELECT $1 = 1'; "
            "CREATE POLICY mine ON app.orders AS RESTRICTIVE TO app_service USING (app.mine(tenant_id))"
        ),
        {"volatile_function"},
        None,
    ),
    "leakproof": (
        (
            "CREATE FUNCTION app.trusted(int) RETURNS boolean LANGUAGE sql STABLE LEAKPROOF AS 'SELECT $1 = 1'; "
            "CREATE POLICY trusted ON app.orders AS RESTRICTIVE TO app_service USING (app.trusted(tenant_id))"
        ),
        {"volatile_function"},
        None,
    ),
    "publication": ("CREATE PUBLICATION everything FOR TABLE app.orders", {"publication"}, None),
    "sequence": ("GRANT SELECT ON ALL SEQUENCES IN SCHEMA app TO app_service", {"sequence"}, ("SELECT last_value FROM app.orders_id_seq", 10, "42501")),
    "nullable": ("ALTER TABLE app.orders ALTER tenant_id DROP NOT NULL", {"nullable"}, None),
    "unique": ("ALTER TABLE app.orders ADD UNIQUE (code)", {"unique_key"}, ("INSERT INTO app.orders (tenant_id, code) VALUES (1, '5')", "23505", None)),
    "foreign key": (
        (
            "CREATE TABLE app.items (tenant_id int NOT NULL, order_id bigint REFERENCES app.orders); CREATE INDEX ON app.items (tenant_id); "
            "GRANT SELECT, INSERT ON app.items TO app_service; ALTER TABLE app.items OWNER TO owner"
        ),
        {"foreign_key"},
        ("INSERT INTO app.items VALUES (1, 1)", 1, None),
    ),
    "no tenant": ("CREATE TABLE app.notes (id int); GRANT SELECT ON app.notes TO app_service", {"no_tenant"}, None),
}
BY_HAND = {"owner", "overlapping", "unique_key", "foreign_key", "no_tenant", "to_public"}  # the fix is for a person to decide
AFTER_A_RUN = {"foreign key"}  # the new table has to be isolated first


@pytest.mark.parametrize("what", LEAKS)
def test_each_way_around_is_real_and_found_and_its_fix_closes_it(shop: Server, what: str) -> None:
    statement, codes, proof = LEAKS[what]
    execute(shop, *statement.split("; "), db="shop")
    if what in AFTER_A_RUN:
        assert not module.run(shop, "pg_row_security", databases=POLICY).get("failed")
    if proof is not None:
        assert seen(shop, proof[0]) == proof[1], what
    findings = found(shop)
    assert codes <= {each["code"] for each in findings}, findings
    extra = {each["code"] for each in findings} - codes - {"no_tenant", "owner"}
    assert extra == set(), findings
    fixes = [each["fix"] for each in findings if each["code"] in codes - BY_HAND]
    if any("security_invoker" in fix for fix in fixes) and shop.major < 15:
        fixes = [fix.partition("or ")[2] for fix in fixes]
    for fix in fixes:
        execute(shop, fix.partition(" on PostgreSQL 15")[0], db="shop")
    left = {each["code"] for each in found(shop)} & codes - BY_HAND
    assert left == set()
    if proof is not None and proof[2] is not None:
        expected = "42501" if what == "view" and shop.major < 15 else proof[2]
        if what == "view" and shop.major >= 15:
            execute(shop, "GRANT SELECT ON app.all_orders TO app_service", db="shop")
        assert seen(shop, proof[0]) == expected, what


def test_without_a_document_the_policies_themselves_say_what_counts(shop: Server) -> None:
    execute(shop, "GRANT TRUNCATE ON app.orders TO app_service", "ALTER TABLE app.orders NO FORCE ROW LEVEL SECURITY", db="shop")
    assert {"truncate", "not_forced"} <= {each["code"] for each in found(shop, {})}


def test_the_role_warns_of_what_is_grave(shop: Server) -> None:
    execute(shop, "GRANT TRUNCATE, TRIGGER ON app.orders TO app_service", db="shop")
    result = module.run(shop, "pg_row_security", databases=POLICY)
    assert {each["code"] for each in result["findings"]} - ALWAYS == {"truncate", "references_or_trigger"}
    assert "REVOKE TRUNCATE" in str(result["warnings"])
    assert "REFERENCES" not in str(result["warnings"])


def test_the_document_of_a_server_changes_nothing(shop: Server) -> None:
    """Policies of every kind, written by hand and by the collection, under odd names."""
    execute(
        shop,
        'CREATE TABLE app."Odd ""T"" $x$" (id int, "Wörd" text)',
        'CREATE POLICY "it\'s; mine" ON app."Odd ""T"" $x$" AS RESTRICTIVE FOR UPDATE TO PUBLIC, owner USING ("Wörd" IN (\'a;\', \'b\')) WITH CHECK (id > 5)',
        'CREATE POLICY "more" ON app."Odd ""T"" $x$" FOR INSERT WITH CHECK ("Wörd" ~ \'^--\' AND id BETWEEN 1 AND 2)',
        "CREATE POLICY gone ON app.orders FOR DELETE TO support USING (EXISTS (SELECT FROM app.orders o WHERE o.id = orders.id + 1 AND o.code LIKE 'x%'))",
        "ALTER TABLE app.orders NO FORCE ROW LEVEL SECURITY",
        'ALTER TABLE app."Odd ""T"" $x$" FORCE ROW LEVEL SECURITY',
        db="shop",
    )
    before = query(shop, "SELECT oid, to_jsonb(p) FROM pg_policy p ORDER BY 1", db="shop")
    policy = module.run(shop, "pg_row_security_info")["policy"]
    assert list(policy) == ["shop"]
    for check in (True, False):
        result = module.run(shop, "pg_row_security", databases=policy, check=check)
        assert not result.get("failed"), result["msg"]
        assert (result["changed"], result["sql"]) == (False, [])
    assert query(shop, "SELECT oid, to_jsonb(p) FROM pg_policy p ORDER BY 1", db="shop") == before


def test_mistakes_are_named(shop: Server) -> None:
    assert 'database "shpo" does not exist' in module.refusal(functools.partial(module.run, shop, "pg_row_security_info", databases=["shpo"]), lambda: None)
    wrong = module.run(shop, "pg_row_security_info", policy={"shop": {}}, path_prefix="pg_row_security_")
    assert "names nothing to do" in wrong["msg"]


def test_a_prepared_statement_follows_the_role(shop: Server) -> None:
    """A pooled session that changes its role by SET ROLE gets the rows of the role that it has at the moment, from cached plans too."""
    execute(shop, "CREATE ROLE pooled LOGIN", "GRANT app_service, support TO pooled")
    with session(shop, "shop", "pooled") as connection, connection.cursor() as cursor:
        cursor.execute("SET ROLE support; PREPARE orders AS SELECT count(*) FROM app.orders; SET app.tenant = '1'")
        for _round in range(8):  # a generic plan is made after five executions
            for role, rows in (("support", 10), ("app_service", 5)):
                cursor.execute(f"SET ROLE {role}")
                cursor.execute("EXECUTE orders")
                assert cursor.fetchone() == (rows,)


def test_a_conflict_does_not_reach_the_row_of_another_tenant(shop: Server) -> None:
    """ON CONFLICT DO UPDATE meets a row that the tenant does not see, on the table, and through a view with a condition."""
    security = " WITH (security_invoker)" if shop.major >= 15 else ""
    owner = [] if security else ["ALTER VIEW app.small OWNER TO app_service"]
    execute(
        shop,
        f"CREATE VIEW app.small{security} AS SELECT * FROM app.orders WHERE id < 6",
        "GRANT SELECT, INSERT, UPDATE ON app.small TO app_service",
        *owner,
        db="shop",
    )
    before = query(shop, "SELECT * FROM app.orders ORDER BY id", db="shop")
    ((foreign,),) = query(shop, "SELECT min(id) FROM app.orders WHERE tenant_id = 2", db="shop")
    for table in ("app.orders", "app.small"):
        insert = f"INSERT INTO {table} (id, tenant_id, code) OVERRIDING SYSTEM VALUE VALUES ({foreign}, 1, 'x') ON CONFLICT (id) DO UPDATE SET code = 'taken'"
        assert seen(shop, insert) == "42501", table
    assert query(shop, "SELECT * FROM app.orders ORDER BY id", db="shop") == before


def test_looking_waits_for_no_lock_but_that_against_reading(shop: Server) -> None:
    with session(shop, "shop") as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE app.orders IN EXCLUSIVE MODE")  # leaves room for ACCESS SHARE alone
        own = {"tenancy": POLICY["shop"]["tenancy"], "schemas": {"app": {"orders": {"policies": {"own": {"roles": ["support"], "using": "id > 0"}}}}}}
        assert module.run(shop, "pg_row_security", databases={"shop": own}, check=True)["changed"] is True
        assert found(shop) == []
