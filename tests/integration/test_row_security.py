# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_row_security: tenants are isolated on a real server, whatever the type of their key, and exactly by what the policy declares.

What is right is decided by plain conditions in statements of a superuser, never by what the collection reads or writes.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.integration import module
from tests.integration.sql import execute, ident, query, session, value

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

COLUMN = 'tenant "Id"'
SETTING = "app.current_tenant_id"

# Table name -> type of its key, and two tenants.
KEYS = {
    "k_small": ("smallint", "1", "-32767"),
    "k_int": ("integer", "1", "2147483647"),
    "k_big": ("bigint", "1", "9223372036854775807"),
    "k_uuid": ("uuid", "00000000-0000-0000-0000-000000000001", "AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee"),
    "k_text": ("text", "acme", "o'neil \\ \" %"),
    "k_varchar": ("varchar(20)", "acme", "beta"),
    "k_char": ("char(8)", "acme", "beta"),
    "k_domain_uuid": ("d_uuid", "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"),
    "k_domain_text": ("d_text", "acme", "beta"),
    "k_domain_varchar": ("d_varchar", "acme", "beta"),
    "k_domain_char": ("d_char", "acme", "beta"),
    "k_domain_big": ("d_d_big", "7", "8"),
}
MALFORMED = ("", "x", " 1", "1 ", "+1", "1.0", "-", "--1", "0x1", "1e3", "9" * 19, "9" * 400, "1; DROP TABLE x", "{}", "true", "null", "\n1", "1\n")

POLICY: dict[str, Any] = {
    "shop": {
        "tenancy": {
            "setting": SETTING,
            "column": COLUMN,
            "schemas": {"app": {"except": ["k_left_out"]}, 'Odd "S"': ["t*"]},
            "roles": ["app_service", "readonly_user", 'Odd "R"'],
        }
    }
}


@pytest.fixture
def shop(cluster: Server) -> Server:
    """A database with tables whose keys are of every type, a partitioned one, and roles with their privileges."""
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {ident(name)} LOGIN" for name in ("app_service", "readonly_user", 'Odd "R"', "owner", "stranger")))
    statements = [
        'CREATE SCHEMA app; CREATE SCHEMA "Odd ""S"""; GRANT USAGE ON SCHEMA app, "Odd ""S""" TO PUBLIC',
        "CREATE DOMAIN d_uuid AS uuid; CREATE DOMAIN d_text AS text; CREATE DOMAIN d_varchar AS varchar(20) CHECK (length(VALUE) > 1)",
        "CREATE DOMAIN d_char AS char(8); CREATE DOMAIN d_big AS bigint; CREATE DOMAIN d_d_big AS d_big CHECK (VALUE > 0)",
    ]
    for name, (of_type, first, second) in KEYS.items():
        statements.append(f"CREATE TABLE app.{name} (id serial, {ident(COLUMN)} {of_type} NOT NULL, note text)")
        statements.append(f"CREATE INDEX ON app.{name} ({ident(COLUMN)})")
        for tenant in (first, second, first):
            literal = "'" + tenant.replace("'", "''") + "'"
            statements.append(f"INSERT INTO app.{name} ({ident(COLUMN)}, note) VALUES ({literal}, 'there')")
    statements += [
        f"CREATE TABLE app.events (id serial, {ident(COLUMN)} integer NOT NULL, day date) PARTITION BY RANGE (day)",
        "CREATE TABLE app.events_2025 PARTITION OF app.events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')",
        "CREATE TABLE app.events_rest PARTITION OF app.events DEFAULT",
        f"INSERT INTO app.events ({ident(COLUMN)}, day) SELECT t, d::date FROM generate_series(1, 2) t, unnest(array['2025-02-01', '2027-01-01']) d",
        f'CREATE TABLE "Odd ""S"""."t %s {{}}" ({ident(COLUMN)} integer NOT NULL)',
        'INSERT INTO "Odd ""S"""."t %s {}" VALUES (1), (2)',
        f"CREATE TABLE app.k_left_out ({ident(COLUMN)} integer); INSERT INTO app.k_left_out VALUES (1), (2)",
        "CREATE TABLE app.countries (code text); INSERT INTO app.countries VALUES ('DE')",
    ]
    for schema in ("app", 'Odd "S"'):
        statements += [
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {ident(schema)} TO app_service",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA {ident(schema)} TO readonly_user",
            f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {ident(schema)} TO app_service",
        ]
    statements += ['GRANT SELECT, UPDATE (note) ON app.k_int TO "Odd ""R"""', "ALTER TABLE app.k_int OWNER TO owner"]
    execute(cluster, *statements, db="shop")
    return cluster


def run(server: Server, databases: Any = None, **options: Any) -> module.Result:
    """The module, with the test's policy."""
    return module.run(server, "pg_row_security", databases=POLICY if databases is None else databases, diff=True, **options)


def applied(server: Server, databases: Any = None, **options: Any) -> module.Result:
    """The module, which has to succeed."""
    result = run(server, databases, **options)
    assert not result.get("failed"), result["msg"]
    return result


def snapshot(server: Server) -> object:
    """All policies and flags, by this query alone."""
    policies = query(server, "SELECT polrelid, polname, to_jsonb(p) - 'oid' FROM pg_policy p ORDER BY 1, 2", db="shop")
    return policies, query(server, "SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_class WHERE relkind IN ('r', 'p') ORDER BY 1", db="shop")


@contextlib.contextmanager
def tenant(server: Server, of: str | None, role: str = "app_service") -> Iterator[Any]:
    """A cursor of the role in a transaction with the context of a tenant, which is rolled back."""
    with session(server, "shop", role) as connection:
        connection.autocommit = False
        with connection.cursor() as cursor:
            if of is not None:
                cursor.execute("SELECT set_config(%s, %s, true)", (SETTING, of))
            yield cursor
        connection.rollback()


def seen(server: Server, table: str, of: str | None, role: str = "app_service") -> list[str]:
    """The tenants whose rows the role sees."""
    with tenant(server, of, role) as cursor:
        cursor.execute(f"SELECT {ident(COLUMN)}::text FROM {table} ORDER BY 1")
        return [each for (each,) in cursor.fetchall()]


def refused(server: Server, statement: str, of: str | None, role: str = "app_service") -> str:
    """The SQLSTATE with which a statement of the role is refused."""
    with tenant(server, of, role) as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.Error as error:
            return str(error.pgcode)
        return f"{cursor.rowcount} rows"


def test_each_tenant_has_its_rows_and_no_other(shop: Server) -> None:
    """Every type of key: reading and writing, with a context, without one, with an empty and with a malformed one."""
    done = module.foretold(functools.partial(run, shop), functools.partial(snapshot, shop), "sql", "plan", "tables")
    assert "app.k_uuid" in done["tables"]["shop"]
    assert not {"app.k_left_out", "app.countries"} & set(done["tables"]["shop"])
    for name, (_type, *tenants) in KEYS.items():
        table = f"app.{name}"
        everything = [each for (each,) in query(shop, f"SELECT {ident(COLUMN)}::text FROM {table} ORDER BY 1", db="shop")]
        for of in tenants:
            own = [each for (each,) in query(shop, f"SELECT {ident(COLUMN)}::text FROM {table} WHERE {ident(COLUMN)} = %(of)s", {"of": of}, db="shop")]
            assert own
            assert len(own) < len(everything)
            for role in ("app_service", "readonly_user"):
                assert seen(shop, table, of, role) == own, (table, of, role)
        for nobody in (None, *MALFORMED):
            if nobody is None or nobody not in ("x", "true", "null") or "text" not in name:
                assert seen(shop, table, nobody) == [], (table, nobody)
        mine, other = ("'" + each.replace("'", "''") + "'" for each in tenants)
        insert = f"INSERT INTO {table} ({ident(COLUMN)}, note) VALUES"
        assert refused(shop, f"{insert} ({mine}, 'new')", tenants[0]) == "1 rows"
        for of in (None, "", tenants[1]):
            assert refused(shop, f"{insert} ({mine}, 'new')", of) == "42501", (table, of)
        assert refused(shop, f"UPDATE {table} SET {ident(COLUMN)} = {other}", tenants[0]) == "42501"
        assert refused(shop, f"UPDATE {table} SET note = 'x'", tenants[1]) == "1 rows"
        assert refused(shop, f"DELETE FROM {table}", tenants[0]) == "2 rows"
        for statement in (f"UPDATE {table} SET note = 'x'", f"DELETE FROM {table}"):
            assert refused(shop, statement, None) == "0 rows"
            assert refused(shop, statement, "") == "0 rows"
        assert refused(shop, f"UPDATE {table} SET note = 'x'", tenants[0], "readonly_user") == "42501"
    odd = '"Odd ""S"""."t %s {}"'
    assert (seen(shop, odd, "2"), seen(shop, odd, None)) == (["2"], [])


def test_partitions_are_isolated_when_read_directly_too(shop: Server) -> None:
    applied(shop)
    for table in ("app.events", "app.events_2025", "app.events_rest"):
        assert set(seen(shop, table, "1")) == {"1"}
        assert seen(shop, table, None) == []


def test_the_owner_is_forced_and_a_pooled_connection_is_closed_after_each_transaction(shop: Server) -> None:
    applied(shop)
    with session(shop, "shop", "owner") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM app.k_int")
        assert cursor.fetchone() == (0,)
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        for of, rows in (("1", 2), (None, 0), ("2147483647", 1), (None, 0)):
            cursor.execute("BEGIN")
            if of is not None:
                cursor.execute("SELECT set_config(%s, %s, true)", (SETTING, of))
            cursor.execute("SELECT count(*) FROM app.k_int")
            assert cursor.fetchone() == (rows,)
            cursor.execute("COMMIT")


def test_each_role_has_policies_for_what_it_may_do(shop: Server) -> None:
    applied(shop)
    asked = """SELECT polname, polcmd, array(SELECT rolname::text FROM pg_roles WHERE oid = ANY(polroles) ORDER BY 1)
        FROM pg_policy WHERE polrelid = 'app.k_int'::regclass ORDER BY 1"""
    assert query(shop, asked, db="shop") == [
        ("tenant_all", "*", ["app_service"]),
        ("tenant_isolation", "*", ['Odd "R"', "app_service", "readonly_user"]),
        ("tenant_select", "r", ['Odd "R"', "readonly_user"]),
        ("tenant_update", "w", ['Odd "R"']),
    ]
    assert refused(shop, "UPDATE app.k_int SET note = 'x'", "1", 'Odd "R"') == "2 rows"
    execute(shop, "REVOKE INSERT ON app.k_int FROM app_service", db="shop")
    applied(shop)
    assert refused(shop, "DELETE FROM app.k_int", "1") == "2 rows"
    assert ("tenant_delete", "d", ["app_service"]) in query(shop, asked, db="shop")
    assert applied(shop)["changed"] is False


POLICIES = """SELECT polrelid::regclass::text, polname, polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
 FROM pg_policy ORDER BY 1, 2"""

DRIFTS = {
    "off": "ALTER TABLE app.k_int DISABLE ROW LEVEL SECURITY",
    "not forced": "ALTER TABLE app.k_int NO FORCE ROW LEVEL SECURITY",
    "floor gone": "DROP POLICY tenant_isolation ON app.k_int",
    "floor open": "ALTER POLICY tenant_isolation ON app.k_int USING (true)",
    "check open": "ALTER POLICY tenant_isolation ON app.k_int WITH CHECK (true)",
    "role gone": "ALTER POLICY tenant_isolation ON app.k_int TO readonly_user",
    "to everybody": "ALTER POLICY tenant_all ON app.k_int TO PUBLIC",
    "permissive": "DROP POLICY tenant_isolation ON app.k_int; CREATE POLICY tenant_isolation ON app.k_int TO app_service USING (true)",
    "closed": "DROP POLICY tenant_all ON app.k_int",
    "another": "CREATE POLICY forgotten ON app.k_int USING (true)",
    "another, restrictive": "CREATE POLICY forgotten ON app.k_int AS RESTRICTIVE USING (note = 'x')",
}


def test_whatever_was_changed_by_hand_is_put_right_and_nothing_else(shop: Server) -> None:
    applied(shop)
    before = query(shop, POLICIES, db="shop")
    oids = dict(query(shop, "SELECT oid::bigint, polrelid::regclass::text FROM pg_policy", db="shop"))
    for what, statement in DRIFTS.items():
        execute(shop, statement, db="shop")
        done = module.foretold(functools.partial(run, shop), functools.partial(snapshot, shop), "sql")
        assert all("k_int" in line for line in done["sql"]), (what, done["sql"])
        assert query(shop, POLICIES, db="shop") == before, what
        assert seen(shop, "app.k_int", "1") == ["1", "1"], what
    others = {oid for oid, table in oids.items() if table != "app.k_int"}
    assert others <= {oid for (oid,) in query(shop, "SELECT oid::bigint FROM pg_policy", db="shop")}  # equal policies were never made anew


def test_no_later_policy_widens_what_a_tenant_sees(shop: Server) -> None:
    applied(shop)
    execute(shop, "CREATE POLICY forgotten ON app.k_int USING (true) WITH CHECK (true)", db="shop")
    assert seen(shop, "app.k_int", "1") == ["1", "1"]
    assert seen(shop, "app.k_int", None) == []
    kept = applied(shop, mode="additive")
    assert kept["changed"] is False
    assert "not declared" in str(kept.get("warnings"))
    assert "forgotten" in applied(shop)["diff"]["prepared"]
    assert value(shop, "SELECT count(*) FROM pg_policy WHERE polname = 'forgotten'", db="shop") == 0


def test_roles_that_see_all_rows_have_a_policy_of_their_own(shop: Server) -> None:
    execute(shop, "GRANT ALL ON ALL TABLES IN SCHEMA app TO stranger", db="shop")
    databases = {"shop": {"tenancy": {**POLICY["shop"]["tenancy"], "roles_all_rows": ["stranger", "owner"]}}}
    applied(shop)
    assert seen(shop, "app.k_int", None, "stranger") == []
    module.foretold(functools.partial(run, shop, databases), functools.partial(snapshot, shop), "sql")
    for role in ("stranger", "owner"):
        assert seen(shop, "app.k_int", None, role) == ["1", "1", "2147483647"]
    assert seen(shop, "app.k_int", None) == []
    assert refused(shop, "UPDATE app.k_int SET note = 'x'", None, "stranger") == "3 rows"


def test_views_that_show_all_tenants_are_reported(shop: Server) -> None:
    databases = {"shop": {"tenancy": {**POLICY["shop"]["tenancy"], "roles_all_rows": ["owner"]}}}
    views = ["CREATE VIEW app.open_view AS SELECT * FROM app.k_int", "CREATE VIEW app.over AS SELECT * FROM app.open_view"]
    views += ["CREATE MATERIALIZED VIEW app.kept AS SELECT * FROM app.k_int", "CREATE VIEW app.harmless AS SELECT * FROM app.countries"]
    if shop.major >= 15:
        views.append("CREATE VIEW app.invoker WITH (security_invoker) AS SELECT * FROM app.k_int")
    execute(shop, *views, "GRANT SELECT ON ALL TABLES IN SCHEMA app TO readonly_user", db="shop")
    warnings = str(applied(shop, databases)["warnings"])
    with tenant(shop, None, "readonly_user") as cursor:
        for view in ("open_view", "over", "kept"):
            assert f"app.{view} is a" in warnings
            cursor.execute(f"SELECT count(*) FROM app.{view}")
            assert cursor.fetchone() == (3,)
        if shop.major >= 15:
            cursor.execute("SELECT count(*) FROM app.invoker")
            assert cursor.fetchone() == (0,)
    assert "harmless" not in warnings
    assert "invoker is" not in warnings


def test_a_missing_column_and_a_missing_index_are_reported(shop: Server) -> None:
    warnings = str(applied(shop)["warnings"])
    assert "app.countries" in warnings
    assert "index" in warnings
    assert "k_int" not in warnings


MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"roles": ["app_servce"]}, ".tenancy.roles", 'no role "app_servce" (did you mean "app_service"?)'),
    ({"roles": ["postgres"]}, ".tenancy.roles", "no policy applies to it"),
    ({"column": "tenant"}, ".tenancy.schemas.app", 'has a column "tenant"'),
    ({"schemas": ["ap"]}, ".tenancy.schemas", 'no schema "ap" (did you mean "app"?)'),
    ({"schemas": {"app": ["k_itn"]}}, ".tenancy.schemas.app", 'no table "k_itn" in schema "app" (did you mean "k_int"?)'),
    ({"schemas": {"app": {"except": ["nothing*"]}}}, ".tenancy.schemas.app", 'no table matches "nothing*"'),
    ({"schemas": {"app": ["countries"]}}, ".tenancy.schemas.app", 'table app.countries has no column "tenant \\"Id\\""'),
    ({"column": "note", "schemas": {"app": ["typed"]}}, ".tenancy.schemas.app", "is of type numeric"),
]


def test_a_policy_that_does_not_fit_the_server_is_refused_with_its_place(shop: Server) -> None:
    execute(shop, "CREATE TABLE app.typed (note numeric)", db="shop")
    for change, place, message in MISTAKES:
        databases = {"shop": {"tenancy": {**POLICY["shop"]["tenancy"], **change}}}
        act = functools.partial(run, shop, databases, path_prefix="pg_row_security_")
        text = module.refusal(act, functools.partial(snapshot, shop))
        assert f"pg_row_security_databases.shop{place}" in text, (change, text)
        assert message in text, (change, text)
    missing = module.refusal(functools.partial(run, shop, {"shpo": POLICY["shop"]}), functools.partial(snapshot, shop))
    assert 'database "shpo" does not exist (did you mean "shop"?)' in missing


def test_check_mode_before_anything_is_there(cluster: Server) -> None:
    """What an earlier task would create counts as there."""
    result = applied(cluster, check=True, expected_databases=["shop"])
    assert (result["changed"], result["sql"]) == (False, [])
    assert "not there yet" in str(result["warnings"])


def test_looking_writes_nothing_and_a_standby_is_planned_for(shop: Server) -> None:
    standby = shop.make_standby()
    try:
        shop.wait_for(standby)
        expected = applied(shop, check=True)["sql"]
        assert applied(standby, check=True)["sql"] == expected
        skipped = applied(standby)
        assert (skipped["changed"], skipped["skipped_reason"]) == (False, "in recovery")
    finally:
        standby.remove()
    applied(shop)
    execute(shop, "CHECKPOINT")
    written = []
    for _attempt in range(3):  # the server's own background may write something in between
        lsn = value(shop, "SELECT pg_current_wal_insert_lsn()::text")
        assert applied(shop)["changed"] is False
        written.append(value(shop, "SELECT pg_current_wal_insert_lsn() - %(lsn)s::pg_lsn", {"lsn": lsn}))
    assert 0 in written


def test_one_table_at_a_time_while_the_application_works(shop: Server) -> None:
    """No transaction of the application fails, and what was done before a lock that is never given is named."""
    failures: list[str] = []
    stop = threading.Event()

    def work() -> None:
        with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
            while not stop.is_set():
                try:
                    cursor.execute("BEGIN; SELECT set_config('app.current_tenant_id', '1', true)")
                    for table in ("k_int", "k_big", "k_small"):
                        cursor.execute(f"UPDATE app.{table} SET note = 'worked' WHERE id = 1")
                    cursor.execute("COMMIT")
                except psycopg2.Error as error:
                    failures.append(str(error))
                    cursor.execute("ROLLBACK")

    workers = [threading.Thread(target=work) for _number in range(3)]
    for worker in workers:
        worker.start()
    try:
        assert applied(shop, per_table=True)["changed"] is True
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert failures == []
    execute(shop, "ALTER TABLE app.k_big DISABLE ROW LEVEL SECURITY; ALTER TABLE app.k_int DISABLE ROW LEVEL SECURITY", db="shop")
    with session(shop, "shop") as blocker, blocker.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE app.k_int IN ACCESS SHARE MODE")
        result = run(shop, per_table=True, lock_timeout=50, lock_retries=1)
        assert result["failed"]
        assert "Done before that, each in its own transaction: table app.k_big" in result["msg"]
        assert "table app.k_int" in result["msg"]
    assert applied(shop, per_table=True)["changed"] is True
