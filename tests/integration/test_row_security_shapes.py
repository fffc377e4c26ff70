# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_row_security: policies that a person writes, tables that find their tenant by a foreign key, and the indexes that keep both fast."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security import converge
from tests.integration import module
from tests.integration.sql import execute, ident, query, session, value

if TYPE_CHECKING:
    from tests.servers import Server

TENANCY: dict[str, Any] = {
    "setting": "app.current_tenant_id",
    "column": "tenant_id",
    "schemas": ["app"],
    "roles": ["app_service", "readonly_user"],
    "parents": {"app": {"order_items": "orders", "item notes": {"table": "order_items", "foreign_key": "note's item"}}},
}
ODD = 'odd "t" $bulwark$ \\ ü'


@pytest.fixture
def shop(cluster: Server) -> Server:
    """Orders with the column, their items and notes without, and tables for policies of one's own."""
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in ("app_service", "readonly_user", "owner")))
    execute(
        cluster,
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC",
        "CREATE TABLE app.orders (id int PRIMARY KEY, tenant_id uuid NOT NULL)",
        "CREATE TABLE app.order_items (id int, part int, order_id int REFERENCES app.orders, amount int, PRIMARY KEY (id, part))",
        """CREATE TABLE app."item notes" (item int, part int, note text, other_item int, CONSTRAINT "note's item" FOREIGN KEY (item, part)
            REFERENCES app.order_items, FOREIGN KEY (other_item, part) REFERENCES app.order_items)""",
        "INSERT INTO app.orders SELECT n, ('00000000-0000-0000-0000-00000000000' || 1 + n % 2)::uuid FROM generate_series(1, 10) n",
        "INSERT INTO app.order_items SELECT n, n, 1 + n % 10, n FROM generate_series(1, 40) n; INSERT INTO app.order_items VALUES (99, 99, NULL, 1)",
        """INSERT INTO app."item notes" SELECT n, n, 'note' FROM generate_series(1, 40) n""",
        "CREATE TABLE app.documents (id int, owner text, public boolean)",
        "INSERT INTO app.documents VALUES (1, 'app_service', false), (2, 'readonly_user', false), (3, 'nobody', true)",
        f'CREATE TABLE app.{ident(ODD)} (id int, "Wörd" text)',
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO app_service; GRANT SELECT ON ALL TABLES IN SCHEMA app TO readonly_user",
        db="shop",
    )
    return cluster


def run(server: Server, database: Any, **options: Any) -> module.Result:
    """The module, for the one database."""
    return module.run(server, "pg_row_security", databases={"shop": database}, diff=True, path_prefix="pg_row_security_", **options)


def applied(server: Server, database: Any, **options: Any) -> module.Result:
    """The module, which has to succeed."""
    result = run(server, database, **options)
    assert not result.get("failed"), result["msg"]
    return result


POLICIES = """SELECT polrelid::regclass::text, polname, polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
 FROM pg_policy ORDER BY 1, 2"""


def snapshot(server: Server) -> object:
    """Policies, flags, comments and indexes."""
    flags = query(server, "SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relkind IN ('r', 'p') ORDER BY 1", db="shop")
    comments = query(server, "SELECT objoid, description FROM pg_description WHERE classoid = 'pg_policy'::regclass ORDER BY 1", db="shop")
    return query(server, POLICIES, db="shop"), flags, comments, query(server, "SELECT indexrelid, indisvalid FROM pg_index ORDER BY 1", db="shop")


def rows(server: Server, statement: str, role: str = "app_service", tenant: str = "") -> Any:
    """The first value that a role gets, in the context of a tenant (1 or 2)."""
    with session(server, "shop", role) as connection, connection.cursor() as cursor:
        of = f"00000000-0000-0000-0000-00000000000{tenant}" if tenant else ""
        cursor.execute("SELECT set_config('app.current_tenant_id', %s, false)", (of,))
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return error.pgcode
        return cursor.fetchone()[0] if cursor.description else cursor.rowcount


def policies(**documents: Any) -> dict[str, Any]:
    """A database with the policies of the table documents."""
    return {"schemas": {"app": {"documents": {"policies": documents}}}}


OWN = {"roles": ["app_service", "readonly_user"], "using": "owner = CURRENT_USER or public IN (true, NULL) and id between 1 and 5"}
DELETE = {"command": "delete", "roles": ["app_service"], "permissive": False, "using": "NOT public"}
INSERT = {"command": "INSERT", "roles": "app_service", "with_check": "owner = current_user"}


def test_policies_of_ones_own_are_exact_whatever_the_server_makes_of_them(shop: Server) -> None:
    act = functools.partial(run, shop, policies(own=OWN, delete=DELETE, insert=INSERT))
    module.foretold(act, functools.partial(snapshot, shop), "sql", "plan")
    assert rows(shop, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM app.documents") == "1 3"
    assert rows(shop, "SELECT count(*) FROM app.documents", "readonly_user") == 2
    assert rows(shop, "INSERT INTO app.documents VALUES (4, 'app_service', false)") == 1
    assert rows(shop, "INSERT INTO app.documents VALUES (4, 'another', false)") == "42501"
    assert rows(shop, "DELETE FROM app.documents") == 2
    drifts = [
        "ALTER POLICY own ON app.documents USING (true)",
        "ALTER POLICY own ON app.documents WITH CHECK (true)",
        "ALTER POLICY own ON app.documents TO PUBLIC",
        "DROP POLICY delete ON app.documents; CREATE POLICY delete ON app.documents FOR DELETE TO app_service USING (NOT public)",
        "ALTER TABLE app.documents NO FORCE ROW LEVEL SECURITY",
        "CREATE POLICY more ON app.documents USING (true)",
        "COMMENT ON POLICY own ON app.documents IS 'mine'",
    ]
    before = query(shop, POLICIES, db="shop")
    for drift in drifts:
        execute(shop, drift, db="shop")
        module.foretold(act, functools.partial(snapshot, shop), "sql")
        assert query(shop, POLICIES, db="shop") == before, drift


def test_a_wish_that_changes_is_followed(shop: Server) -> None:
    applied(shop, policies(own=OWN, delete=DELETE))
    changed = [
        policies(own={**OWN, "using": "owner = current_user"}, delete=DELETE),
        policies(own={**OWN, "using": "owner = current_user", "with_check": "false"}, delete=DELETE),
        policies(own={**OWN, "command": "SELECT"}, delete=DELETE),
        policies(own={**OWN, "command": "SELECT", "roles": ["PUBLIC"]}, delete={**DELETE, "permissive": True}),
        {"schemas": {"app": {"documents": {"forced": False}}}},
        {"schemas": {"app": {"documents": {"enabled": False}}}},
    ]
    for each in changed:
        module.foretold(functools.partial(run, shop, each), functools.partial(snapshot, shop), "sql")
    assert value(shop, "SELECT relrowsecurity OR relforcerowsecurity FROM pg_class WHERE relname = 'documents'", db="shop") is False
    assert query(shop, "SELECT FROM pg_policy", db="shop") == []


def test_names_that_need_quoting(shop: Server) -> None:
    """The table, the policy and the expression hold whatever a literal, an identifier or a dollar quotation could end with."""
    own = {"roles": ["app_service"], "using": "\"Wörd\" = 'it''s \\ $bulwark$ %s {} %%' OR \"Wörd\" LIKE E'\\\\\\\\%'"}
    database = {"schemas": {"app": {ODD: {"policies": {ODD: own}}}}}
    module.foretold(functools.partial(run, shop, database), functools.partial(snapshot, shop), "sql")
    assert value(shop, "SELECT count(*) FROM pg_policy WHERE polname = %(name)s", {"name": ODD}, db="shop") == 1


def test_an_expression_is_checked_without_running_anything(shop: Server) -> None:
    """A function that the planner would run runs with the rights of whoever applies the policy."""
    execute(shop, "CREATE FUNCTION app.loud() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE EXCEPTION $$run$$; END'", db="shop")
    applied(shop, policies(own={"roles": ["app_service"], "using": "app.loud()"}))
    assert value(shop, "SELECT count(*) FROM pg_policy WHERE polname = 'own'", db="shop") == 1
    assert query(shop, "SELECT FROM pg_prepared_statements", db="shop") == []


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({"using": "ownr = 'x'"}, ".own.using", 'column "ownr" does not exist'),
        ({"using": "owner = = 'x'"}, ".own.using", "syntax error"),
        ({"using": "nothing(owner)"}, ".own.using", "does not exist"),
        ({"using": "owner"}, ".own.using", "must be type boolean"),
        ({"using": "owner = 'x'", "with_check": "5"}, ".own.with_check", "must be type boolean"),
        ({"using": "true); DROP TABLE app.documents; SELECT (true"}, ".own.using", "too many"),
        ({"roles": ["nobody"]}, ".own.roles", 'no role "nobody"'),
    ],
)
def test_an_expression_that_means_nothing_is_refused_with_its_place(shop: Server, change: dict[str, Any], place: str, message: str) -> None:
    fine = {"app": {"documents": {"policies": {"own": {**OWN, **change}, "delete": DELETE}}}}
    text = module.refusal(functools.partial(run, shop, {"schemas": fine}), functools.partial(snapshot, shop))
    assert f"pg_row_security_databases.shop.schemas.app.documents.policies{place}" in text
    assert message in text


def test_tables_without_the_column_are_isolated_by_their_parents(shop: Server) -> None:
    module.foretold(functools.partial(run, shop, {"tenancy": TENANCY}), functools.partial(snapshot, shop), "sql", "tables")
    for table, rest in (("app.order_items", 20), ('app."item notes"', 20)):
        for role in ("app_service", "readonly_user"):
            assert [rows(shop, f"SELECT count(*) FROM {table}", role, tenant) for tenant in ("1", "2", "3", "")] == [rest, rest, 0, 0]
    of_first = "SELECT array_agg(DISTINCT order_id ORDER BY order_id) FROM app.order_items"
    assert rows(shop, of_first, tenant="1") == [2, 4, 6, 8, 10]
    assert rows(shop, "INSERT INTO app.order_items VALUES (100, 1, 2)", tenant="1") == 1
    assert rows(shop, "INSERT INTO app.order_items VALUES (101, 1, 1)", tenant="1") == "42501"
    assert rows(shop, "UPDATE app.order_items SET order_id = 1", tenant="1") == "42501"
    assert rows(shop, "UPDATE app.order_items SET amount = 0", tenant="2") == 20
    assert rows(shop, "DELETE FROM app.order_items", tenant="") == 0
    execute(shop, "ALTER POLICY tenant_isolation ON app.order_items USING (true)", db="shop")
    done = module.foretold(functools.partial(run, shop, {"tenancy": TENANCY}), functools.partial(snapshot, shop), "sql")
    assert len(done["sql"]) == 1
    assert rows(shop, "SELECT count(*) FROM app.order_items", tenant="1") == 21


def test_a_key_that_is_not_there_or_not_the_only_one_is_refused(shop: Server) -> None:
    wrong = {"order_items": "orders", "item notes": "order_items", "documents": "orders"}
    text = module.refusal(functools.partial(run, shop, {"tenancy": {**TENANCY, "parents": {"app": wrong}}}), functools.partial(snapshot, shop))
    assert "tenancy.parents.app.documents: table app.documents has no foreign key that refers to app.orders" in text
    assert 'tenancy.parents.app["item notes"]: table app.item notes has several foreign keys' in text


def test_custom_policies_and_a_tenancy_meet_in_one_table(shop: Server) -> None:
    own = {"command": "SELECT", "roles": ["PUBLIC"], "using": "id > 2"}
    database = {"tenancy": TENANCY, "schemas": {"app": {"orders": {"policies": {"more": own}}}}}
    module.foretold(functools.partial(run, shop, database), functools.partial(snapshot, shop), "sql")
    assert rows(shop, "SELECT array_agg(id ORDER BY id) FROM app.orders", tenant="1") == [2, 4, 6, 8, 10]


def test_missing_indexes_are_built_and_interrupted_ones_again(shop: Server) -> None:
    execute(
        shop,
        "CREATE TABLE app.events (tenant_id uuid, day date) PARTITION BY RANGE (day)",
        "CREATE TABLE app.events_2026 PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "CREATE TABLE app.events_rest PARTITION OF app.events DEFAULT",
        db="shop",
    )
    execute(shop, "INSERT INTO app.orders SELECT n, '00000000-0000-0000-0000-000000000001' FROM generate_series(11, 12) n", db="shop")
    with pytest.raises(psycopg2.errors.UniqueViolation):  # what an interrupted build leaves
        execute(shop, "CREATE UNIQUE INDEX CONCURRENTLY orders_tenant_id_tenant ON app.orders (tenant_id)", db="shop")
    with pytest.raises(psycopg2.errors.UniqueViolation):  # somebody else's, which is none of ours
        execute(shop, "CREATE UNIQUE INDEX CONCURRENTLY another_tenant ON app.orders (tenant_id)", db="shop")
    assert "build_indexes" in str(applied(shop, {"tenancy": TENANCY})["warnings"])
    database = {"tenancy": {**TENANCY, "build_indexes": True}}
    done = module.foretold(functools.partial(run, shop, database), functools.partial(snapshot, shop), "sql", "plan")
    assert 'DROP INDEX CONCURRENTLY "app"."orders_tenant_id_tenant"' in done["sql"]
    assert sum("CREATE INDEX CONCURRENTLY" in line for line in done["sql"]) == 5
    assert value(shop, "SELECT count(*) FROM pg_class WHERE relname = 'another_tenant'", db="shop") == 1
    without = """SELECT c.relname FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisvalid AND i.indkey[0] IN (
        SELECT attnum FROM pg_attribute WHERE attrelid = c.oid AND attname IN ('tenant_id', 'order_id', 'item'))
        WHERE c.relname IN ('orders', 'order_items', 'item notes', 'events', 'events_2026', 'events_rest') AND i IS NULL"""
    assert query(shop, without, db="shop") == []


def test_what_an_interrupted_run_leaves_is_finished_by_the_next(shop: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that does not end: an index is left invalid, the policies are not there, and the next run finishes."""
    monkeypatch.setattr(converge, "INDEX_WAIT", 100)
    database = {"tenancy": {**TENANCY, "build_indexes": True}}
    with session(shop, "shop") as blocker, blocker.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE app.order_items IN ROW EXCLUSIVE MODE")
        result = run(shop, database, lock_timeout=50, lock_retries=0)
    assert result["failed"]
    assert query(shop, "SELECT FROM pg_policy", db="shop") == []
    assert value(shop, "SELECT count(*) FROM pg_index WHERE NOT indisvalid", db="shop") == 1
    applied(shop, database)
    assert applied(shop, database)["changed"] is False
