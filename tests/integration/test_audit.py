# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_audit_trail: who changed what is on record on a real server, nobody edits the record, and the log is exactly what the policy says."""

from __future__ import annotations

import functools
import re
import threading
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.integration import module
from tests.integration.sql import execute, query, session, value

if TYPE_CHECKING:
    from tests.servers import Server

ODD = 'Odd "S" %s {} \' \\ ü'
POLICY: dict[str, Any] = {
    "shop": {
        "tables": {"app": {"all": True, "except": ["sessions", "odd_*"]}},
        "mask": {"app.profiles": {"ssn": "mask", "phone": "hash", "photo": "exclude"}},
        "readers": ["auditor"],
    }
}
WATCHED = ("app_service", "migration_user", "readonly_user")


@pytest.fixture
def shop(cluster: Server) -> Server:
    """An application's database, its roles, and tables of several shapes."""
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in (*WATCHED, "auditor")))
    execute(
        cluster,
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; GRANT CREATE ON SCHEMA app TO migration_user",
        "CREATE TABLE app.users (id bigint PRIMARY KEY, name text, email text)",
        "CREATE TABLE app.profiles (id bigint PRIMARY KEY, ssn text, phone text, photo bytea, note text)",
        "CREATE TABLE app.orders (id bigint, at timestamptz, amount numeric, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE app.orders_2026 PARTITION OF app.orders FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "CREATE TABLE app.orders_rest PARTITION OF app.orders DEFAULT",
        "CREATE TABLE app.sessions (id int PRIMARY KEY)",
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA app TO app_service",
        "ALTER TABLE app.users OWNER TO migration_user",
        db="shop",
    )
    return cluster


def run(server: Server, databases: Any = None, **options: Any) -> module.Result:
    """The module, with the test's policy."""
    return module.run(server, "pg_audit_trail", databases=POLICY if databases is None else databases, diff=True, **options)


def applied(server: Server, databases: Any = None, **options: Any) -> module.Result:
    """The module, which has to succeed."""
    result = run(server, databases, **options)
    assert not result.get("failed"), result["msg"]
    return result


def unchanged(server: Server, databases: Any = None, **options: Any) -> None:
    """A run that changes nothing."""
    assert applied(server, databases, **options)["plan"] == []


def records(server: Server, columns: str = "table_name, action, record_id, old_values, new_values", where: str = "true") -> list[Any]:
    """Records in their order."""
    return query(server, f"SELECT {columns} FROM audit.audit_log WHERE {where} ORDER BY id", db="shop")


def snapshot(server: Server) -> object:
    """Everything that the module could change, by this query alone."""
    parts = (
        "SELECT rolname, rolcanlogin FROM pg_roles ORDER BY 1",
        "SELECT tgrelid::regclass::text, tgname, tgfoid::regproc::text, tgenabled, tgtype, xmin::text FROM pg_trigger ORDER BY 1, 2",
        "SELECT oid, proname, prosrc, proacl::text, proowner, xmin::text FROM pg_proc WHERE pronamespace = to_regnamespace('audit') ORDER BY 1",
        "SELECT oid, relname, relacl::text, relowner, obj_description(oid) FROM pg_class WHERE relnamespace = to_regnamespace('audit') ORDER BY 1",
        "SELECT nspname, nspacl::text, nspowner FROM pg_namespace ORDER BY 1",
    )
    return [query(server, part, db="shop") for part in parts]


def test_a_log_is_made_once_and_then_nothing_changes(shop: Server) -> None:
    foretold = module.foretold(functools.partial(run, shop), lambda: snapshot(shop), "plan")
    assert foretold["changed"]
    assert {each["table"] for each in foretold["tables"]["shop"]} == {"app.users", "app.profiles", "app.orders"}
    assert {each["level"] for each in foretold["tables"]["shop"]} == {"statement"}
    before = snapshot(shop)
    unchanged(shop)
    assert snapshot(shop) == before


def test_every_kind_of_change_is_on_record(shop: Server) -> None:
    applied(shop)
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.users VALUES (1, 'Ann', 'a@x'), (2, 'Bob', 'b@x')")
        cursor.execute("INSERT INTO app.users VALUES (2, 'Bo', 'c@x'), (3, 'Cy', 'd@x') ON CONFLICT (id) DO UPDATE SET name = excluded.name")
        cursor.execute("UPDATE app.users SET id = 30 WHERE id = 3")
        cursor.execute("DELETE FROM app.users WHERE id = 1")
        cursor.execute("TRUNCATE app.users")
        if shop.major >= 15:
            cursor.execute("MERGE INTO app.users u USING (SELECT 9 AS id) s ON u.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (9, 'Merged', 'm')")
    shop.psql("COPY app.users FROM stdin;\n7\tCopied\tx@y\n\\.\n", db="shop", user="app_service")
    found = list(records(shop, "action, record_id, new_record_id"))
    merged = [("INSERT", "9", None)] if shop.major >= 15 else []
    assert found == [
        ("INSERT", "1", None),
        ("INSERT", "2", None),
        ("UPDATE", "2", None),
        ("INSERT", "3", None),
        ("UPDATE", "3", "30"),
        ("DELETE", "1", None),
        ("TRUNCATE", None, None),
        *merged,
        ("INSERT", "7", None),
    ]
    assert records(shop, "old_values, new_values", "action = 'UPDATE' AND record_id = '2'") == [
        ({"id": 2, "name": "Bob", "email": "b@x"}, {"id": 2, "name": "Bo", "email": "b@x"})
    ]


def test_the_record_says_who(shop: Server) -> None:
    applied(shop)
    execute(shop, "GRANT migration_user TO app_service")
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("SET application_name = 'web'; INSERT INTO app.users VALUES (1, 'nobody said who', '')")
        cursor.execute("SELECT set_config('app.current_user', 'alice', false), set_config('app.current_tenant_id', '7', false)")
        cursor.execute("SET ROLE migration_user; UPDATE app.users SET name = 'x'; RESET ROLE")
        cursor.execute("SELECT set_config('app.current_user', '', false), set_config('app.current_tenant_id', '', false)")
        cursor.execute("DELETE FROM app.users")
    columns = "changed_by, session_role, effective_role, application_user, tenant, application_name, client_address IS NULL"
    assert records(shop, columns) == [
        ("app_service", "app_service", "app_service", None, None, "web", True),
        ("alice", "app_service", "migration_user", "alice", "7", "web", True),
        ("app_service", "app_service", "app_service", None, None, "web", True),
    ]
    assert value(shop, "SELECT bool_and(changed_at > now() - interval '1 hour' AND statement_at <= changed_at) FROM audit.audit_log", db="shop")
    assert value(shop, "SELECT count(DISTINCT transaction_id) FROM audit.audit_log", db="shop") == 3


def test_other_settings_name_the_user_and_the_tenant(shop: Server) -> None:
    applied(shop, user_setting="web.user_name", tenant_setting="web.customer")
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("SET web.user_name = 'eve'; SET web.customer = 'acme'; INSERT INTO app.users VALUES (1, '', '')")
    assert records(shop, "changed_by, tenant") == [("eve", "acme")]


@pytest.mark.parametrize("role", WATCHED)
def test_nobody_who_is_watched_can_see_or_edit_the_log(shop: Server, role: str) -> None:
    applied(shop)
    execute(shop, "INSERT INTO app.users VALUES (1, 'Ann', '')", db="shop")
    attempts = (
        "SELECT * FROM audit.audit_log",
        "SELECT * FROM audit.entries",
        "DELETE FROM audit.entries",
        "INSERT INTO audit.entries (action) VALUES ('I')",
        "SELECT * FROM audit.hash_key",
        "CREATE TABLE audit.planted (id int)",
        'CREATE TRIGGER forge AFTER INSERT ON app.users FOR EACH ROW EXECUTE FUNCTION audit."app.profiles"()',
        "SET session_replication_role = replica",
        "SET ROLE audit_owner",
    )
    for attempt in attempts:
        with session(shop, "shop", role) as connection, connection.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(attempt)


def test_the_log_is_append_only_for_everybody(shop: Server) -> None:
    applied(shop)
    execute(shop, "INSERT INTO app.users VALUES (1, 'Ann', '')", db="shop")
    tables = [name for (name,) in query(shop, "SELECT relname FROM pg_class WHERE relnamespace = 'audit'::regnamespace AND relkind IN ('r', 'p')", db="shop")]
    assert {"entries", "entries_default", "hash_key"} <= set(tables)
    for table in tables:
        column = {"hash_key": "secret", "seals": "head"}.get(table, "changed_at")
        for statement in (f"DELETE FROM audit.{table}", f"UPDATE audit.{table} SET {column} = {column}", f"TRUNCATE audit.{table}"):
            for prelude in ("", "SET session_replication_role = replica;", "SET ROLE audit_owner;"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append-only"):
                    execute(shop, f"{prelude} {statement}", db="shop")
    with session(shop, "shop", "auditor") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM audit.audit_log")
        assert cursor.fetchone() == (1,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("SELECT * FROM audit.entries")


def test_records_are_written_whatever_the_session_does(shop: Server) -> None:
    applied(shop)
    with session(shop, "shop", "postgres") as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica; INSERT INTO app.users VALUES (1, 'as a replica', '')")
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE new_rows (id int); CREATE TEMPORARY TABLE entries (id int)")
        cursor.execute("SET search_path = pg_temp, app; INSERT INTO app.users VALUES (2, 'with names in the way', '')")
    assert [record for (record,) in records(shop, "record_id")] == ["1", "2"]


DRIFT = {
    "a trigger is disabled": 'ALTER TABLE app.users DISABLE TRIGGER "0_audit_update"',
    "a trigger is for replicas alone": 'ALTER TABLE app.users ENABLE REPLICA TRIGGER "0_audit_update"',
    "a trigger is not enabled always": 'ALTER TABLE app.orders_2026 ENABLE TRIGGER "0_audit_insert"',
    "a trigger is gone": 'DROP TRIGGER "0_audit_delete" ON app.orders_2026',
    "a trigger calls another function": 'DROP TRIGGER "0_audit_insert" ON app.users; CREATE TRIGGER "0_audit_insert" AFTER INSERT ON app.users'
    ' REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit."app.profiles"()',
    "a function does nothing": 'CREATE OR REPLACE FUNCTION audit."app.users"() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$',
    "a function is no definer's": 'ALTER FUNCTION audit."app.users"() SECURITY INVOKER',
    "a function has another path": 'ALTER FUNCTION audit."app.users"() SET search_path = public',
    "a function belongs to another": 'ALTER FUNCTION audit."app.users"() OWNER TO postgres',
    "a function may be executed": 'GRANT EXECUTE ON FUNCTION audit."app.users"() TO PUBLIC',
    "the view hides somebody": """SET ROLE audit_owner; DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW audit.audit_log AS '
 || rtrim(pg_get_viewdef('audit.audit_log'), ';') || ' WHERE session_role <> ''app_service'''; END $$""",
    "the view is gone": "DROP VIEW audit.audit_log",
    "the log can be edited": "ALTER TABLE audit.entries DISABLE TRIGGER append_only",
    "a partition of the log can be edited": "DROP TRIGGER append_only ON audit.entries_default",
    "somebody may write": "GRANT INSERT, DELETE ON audit.entries TO app_service",
    "somebody else may read": "GRANT USAGE ON SCHEMA audit TO app_service; GRANT SELECT ON audit.audit_log TO app_service WITH GRANT OPTION",
    "a reader may pass it on": "GRANT SELECT ON audit.audit_log TO auditor WITH GRANT OPTION",
    "the reader may not": "REVOKE SELECT ON audit.audit_log FROM auditor",
    "the log belongs to another": "ALTER TABLE audit.entries OWNER TO migration_user",
    "the schema belongs to another": "ALTER SCHEMA audit OWNER TO migration_user",
    "there is a new table": "CREATE TABLE app.coupons (id int PRIMARY KEY)",
    "there is a new partition": "CREATE TABLE app.orders_2028 PARTITION OF app.orders FOR VALUES FROM ('2028-01-01') TO ('2029-01-01')",
    "there is a new partition elsewhere": "CREATE SCHEMA old; CREATE TABLE old.p PARTITION OF app.orders FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
    "a masked table has a new column": "ALTER TABLE app.profiles ADD COLUMN extra text",
}


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("change", DRIFT.values(), ids=DRIFT.keys())
def test_drift_is_in_the_plan_and_mended(shop: Server, change: str) -> None:
    applied(shop)
    execute(shop, change, db="shop")
    result = module.foretold(functools.partial(run, shop), lambda: snapshot(shop), "plan")
    assert result["changed"]
    unchanged(shop)
    first = value(shop, "SELECT coalesce(max(id), 0) FROM audit.audit_log", db="shop")
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.users VALUES (1, 'a', 'b'); UPDATE app.users SET name = 'c'; DELETE FROM app.users")
        cursor.execute("INSERT INTO app.orders_2026 VALUES (1, '2026-05-05', 1); DELETE FROM app.orders_2026")
    found = list(records(shop, "table_name, action", f"id > {first}"))
    assert found == [*(("users", action) for action in ("INSERT", "UPDATE", "DELETE")), ("orders", "INSERT"), ("orders", "DELETE")]


def test_a_table_that_leaves_the_policy_keeps_its_records(shop: Server) -> None:
    applied(shop)
    execute(shop, "INSERT INTO app.users VALUES (1, 'Ann', '')", "INSERT INTO app.orders VALUES (1, '2026-01-01', 1)", db="shop")
    less: dict[str, Any] = {"shop": {"tables": {"app": ["profiles"]}, "readers": ["auditor"]}}
    result = applied(shop, less)
    assert "table app.users  -audit" in result["diff"]["prepared"]
    assert "schema audit  -function app.orders" in result["diff"]["prepared"]
    unchanged(shop, less)
    execute(shop, "INSERT INTO app.users VALUES (2, 'Bob', '')", db="shop")
    assert records(shop, "table_name, record_id") == [("users", "1"), ("orders", '["1", "2026-01-01T00:00:00Z"]')]
    none: dict[str, Any] = {"shop": {"tables": {}}}
    applied(shop, none)
    assert value(shop, "SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE tgname LIKE '0_audit%'", db="shop") == 0
    assert len(records(shop)) == 2
    unchanged(shop, none)


def test_masked_values_are_not_in_the_log(shop: Server) -> None:
    applied(shop)
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.profiles VALUES (1, 'SECRET-1', 'SECRET-2', 'SECRET-3', 'plain'), (2, NULL, NULL, NULL, NULL)")
        cursor.execute("UPDATE app.profiles SET ssn = 'SECRET-4' WHERE id = 1")
        cursor.execute("UPDATE app.profiles SET phone = 'SECRET-5', note = 'other' WHERE id = 1")
        cursor.execute("DELETE FROM app.profiles WHERE id = 1")
    found = records(shop, "action, old_values, new_values", "record_id = '1'")
    inserted, second, third, deleted = found
    phone = inserted[2].pop("phone")
    assert inserted[2] == {"id": 1, "ssn": "***", "note": "plain"}
    assert re.fullmatch("hash:[0-9a-f]{64}", phone)
    assert second[1] == {"id": 1, "ssn": "***", "phone": phone, "note": "plain"}
    assert second[2] == {"id": 1, "ssn": "*** (changed)", "phone": phone, "note": "plain"}
    assert third[2]["ssn"] == "***"
    assert third[2]["phone"] not in (phone, None)
    assert deleted[1]["phone"] == third[2]["phone"]
    assert records(shop, "new_values", "record_id = '2'") == [({"id": 2, "ssn": None, "phone": None, "note": None},)]
    assert value(shop, "SELECT count(*) FROM audit.entries WHERE entries::text LIKE '%SECRET%'", db="shop") == 0


MIGRATIONS = {
    "a column is added": "ALTER TABLE app.profiles ADD COLUMN extra text DEFAULT 'SECRET-X'",
    "a column is dropped": "ALTER TABLE app.profiles DROP COLUMN note",
    "a masked column is dropped": "ALTER TABLE app.profiles DROP COLUMN ssn; ALTER TABLE app.profiles ADD COLUMN ssn text DEFAULT 'SECRET-N'",
    "a masked column is renamed": "ALTER TABLE app.profiles RENAME ssn TO social",
    "two columns change places": "; ".join(f"ALTER TABLE app.profiles RENAME {pair}" for pair in ("ssn TO x", "note TO ssn", "x TO note")),
    "a type changes": "ALTER TABLE app.profiles ALTER COLUMN note TYPE varchar(50), ALTER COLUMN ssn TYPE jsonb USING to_jsonb(ssn)",
    "the key is renamed": "ALTER TABLE app.profiles RENAME id TO number",
    "the key is gone": "ALTER TABLE app.profiles DROP CONSTRAINT profiles_pkey",
}


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("options", [{}, {"changed_columns_only": True, "skip_unchanged": True}], ids=["whole", "changed"])
@pytest.mark.parametrize("migration", MIGRATIONS.values(), ids=MIGRATIONS.keys())
def test_a_migration_between_two_runs_breaks_no_write_and_shows_no_masked_value(shop: Server, migration: str, options: dict[str, bool]) -> None:
    policy: dict[str, Any] = {"shop": {**POLICY["shop"], **options}}
    applied(shop, policy)
    with session(shop, "shop", "postgres") as connection, connection.cursor() as cursor:
        for phase in ("before", "after"):
            cursor.execute("INSERT INTO app.profiles SELECT * FROM jsonb_populate_record(NULL::app.profiles, %s)", ('{"id": 1, "number": 1, "ssn": "SECRET"}',))
            cursor.execute("UPDATE app.profiles SET phone = 'SECRET'; UPDATE app.profiles SET phone = phone; DELETE FROM app.profiles")
            if phase == "before":
                cursor.execute(migration)
    count = 3 if options else 4
    assert len(records(shop)) == 2 * count
    shown = value(shop, "SELECT string_agg(entries::text, ' ') FROM audit.entries", db="shop")
    assert "SECRET" not in shown
    gone = "ssn" in migration and "DROP" not in migration and "TYPE" not in migration
    masked = {"shop": {**policy["shop"], "mask": {}}} if gone else policy
    applied(shop, masked)
    unchanged(shop, masked)


def test_a_migration_of_a_table_without_masks_loses_nothing(shop: Server) -> None:
    applied(shop)
    execute(
        shop, "INSERT INTO app.users VALUES (1, 'a', 'b'); ALTER TABLE app.users RENAME id TO number; ALTER TABLE app.users ADD COLUMN extra int", db="shop"
    )
    execute(shop, "INSERT INTO app.users VALUES (2, 'c', 'd', 3); UPDATE app.users SET extra = 4", db="shop")
    assert [new for (new,) in records(shop, "new_values", "action = 'UPDATE'")] == [
        {"number": 1, "name": "a", "email": "b", "extra": 4},
        {"number": 2, "name": "c", "email": "d", "extra": 4},
    ]
    applied(shop)
    execute(shop, "DELETE FROM app.users WHERE number = 2", db="shop")
    assert records(shop, "record_id", "action = 'DELETE'") == [("2",)]


def test_only_what_changed_is_stored_when_asked(shop: Server) -> None:
    policy: dict[str, Any] = {"shop": {**POLICY["shop"], "changed_columns_only": True, "skip_unchanged": True}}
    wide = ", ".join(f'"c {n}" numeric DEFAULT {n}' for n in range(250))
    execute(shop, f"CREATE TABLE app.wide (id int PRIMARY KEY, {wide}, j json)", db="shop")
    applied(shop, policy)
    execute(
        shop,
        "INSERT INTO app.wide (id) VALUES (1), (2)",
        'UPDATE app.wide SET "c 120" = 120.0, j = \'{"a": 1}\' WHERE id = 1',
        'UPDATE app.wide SET "c 120" = "c 120"',
        "UPDATE app.wide SET j = '{\"a\":1}' WHERE id = 1",
        'UPDATE app.wide SET "c 0" = NULL',
        "INSERT INTO app.profiles VALUES (1, 'SECRET', 'x'); UPDATE app.profiles SET ssn = 'SECRET 2'; UPDATE app.profiles SET photo = 'p'",
        db="shop",
    )
    query_text = "SELECT old_values::text, new_values::text FROM audit.audit_log WHERE action = 'UPDATE' ORDER BY id"
    assert query(shop, query_text, db="shop") == [
        ('{"j": null, "c 120": 120}', '{"j": {"a": 1}, "c 120": 120.0}'),
        ('{"j": {"a": 1}}', '{"j": {"a": 1}}'),  # the two are written differently, which jsonb does not show
        ('{"c 0": 0}', '{"c 0": null}'),
        ('{"c 0": 0}', '{"c 0": null}'),
        ('{"ssn": "***"}', '{"ssn": "***"}'),
        ("{}", "{}"),
    ]


ODD_TABLE = """CREATE TYPE app.mood AS ENUM ('ok', 'bad'); CREATE DOMAIN app.small AS int CHECK (VALUE < 10);
CREATE TABLE app.odd (id int PRIMARY KEY, a bytea, b int[], c daterange, d app.mood, e app.small, f float8, g json, h xml, i interval, k point,
 l inet, m money, n tsvector, o bit(3), p app.mood[], q tstzrange)"""
ODD_VALUES = (
    "INSERT INTO app.odd VALUES (1, '\\x00ff', '{1,NULL,3}', '[2026-01-02,2026-02-01)', 'bad', 9, 'NaN', '{\"a\": 1, \"a\": 2}', '<a/>', '1 year -2 days',"
    " '(1,2)', '10.0.0.1/8', 12.34, 'a b', B'101', '{ok,bad}', '[2026-01-01 00:00+00,)'),"
    " (2, NULL, NULL, NULL, NULL, NULL, '-Infinity', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)"
)


@pytest.mark.parametrize("changed", [False, True], ids=["whole", "changed"])
def test_values_of_odd_types_come_back_from_the_log_as_they_were(shop: Server, changed: bool) -> None:
    """Written by a session with unusual settings, read by one with others."""
    execute(shop, ODD_TABLE, db="shop")
    policy: dict[str, Any] = {"shop": {"tables": {"app": ["odd"]}, "changed_columns_only": changed}}
    applied(shop, policy)
    before = "SELECT to_jsonb(o.*) - 'm' FROM app.odd o ORDER BY id"
    with session(shop, "shop", "postgres") as connection, connection.cursor() as cursor:
        cursor.execute(ODD_VALUES)
        cursor.execute(
            "SET DateStyle = 'SQL, DMY'; SET IntervalStyle = sql_standard; SET bytea_output = escape; SET extra_float_digits = -3; SET TimeZone = 'Asia/Tokyo'"
        )
        cursor.execute(
            "UPDATE app.odd SET f = 0.1::float8 + 0.2, b = '{4}', i = '-1 day +2 hours', k = '(0.1,0.30000000000000004)', q = '[2026-07-01 00:00+00,)'"
        )
    now = query(shop, before, db="shop")
    columns = "f, b, i, k, q, c, a" if not changed else "f, b, i, k, q"
    same = " AND ".join(f"(r.{name})::text IS NOT DISTINCT FROM o.{name}::text" for name in columns.split(", "))
    source = "audit.audit_log l, jsonb_populate_record(NULL::app.odd, l.new_values) r, app.odd o"
    statement = f"SELECT bool_and({same}), count(*) FROM {source} WHERE l.action = 'UPDATE' AND o.id::text = l.record_id"
    assert query(shop, statement, db="shop") == [(True, 2)]
    assert now
    unchanged(shop, policy)


def test_names_of_every_kind(shop: Server) -> None:
    name = ODD.replace('"', '""')
    execute(
        shop,
        f'CREATE SCHEMA "{name}"',
        f'CREATE TABLE "{name}"."{name}" ("{name}" text PRIMARY KEY, "n" int, "r" int, "k" int, "j" int, "v_user" text, "m" text, "x" int, "old_rows" int)',
        f'CREATE TABLE "{name}"."a.b" (id int PRIMARY KEY); CREATE TABLE "{name}"."{"long" * 15}" (id int PRIMARY KEY)',
        db="shop",
    )
    for options in ({}, {"changed_columns_only": True, "skip_unchanged": True}):
        policy = {"shop": {"tables": {ODD: "all"}, "mask": {f'"{name}"."{name}"': ["m", "x"]}, **options}}
        applied(shop, policy)
        unchanged(shop, policy)
        execute(
            shop,
            f"INSERT INTO \"{name}\".\"{name}\" VALUES ('a''\"\\b', 1, 2, 3, 4, '5', 'SECRET', 7, 8); UPDATE \"{name}\".\"{name}\" SET n = 9, m = 'SECRET'",
            f'DELETE FROM "{name}"."{name}"; INSERT INTO "{name}"."a.b" VALUES (1) ON CONFLICT DO NOTHING',
            db="shop",
        )
        record, old, new = records(shop, "record_id, old_values, new_values", "action = 'UPDATE'")[-1]
        assert record == "a'\"\\b"
        assert (old["n"], new["n"], "SECRET" in str(new)) == (1, 9, False)


def test_keys_are_the_same_whatever_the_session_is_set_to(shop: Server) -> None:
    execute(
        shop, "CREATE TABLE app.k (at timestamptz, day date, id uuid, PRIMARY KEY (at, day, id)); CREATE TABLE app.u (a int NOT NULL UNIQUE, b int)", db="shop"
    )
    applied(shop)
    key = "'2026-07-01 12:00+00', '2026-07-01', '00000000-0000-0000-0000-00000000000A'"
    for settings in ("TimeZone = 'UTC'", "TimeZone = 'Asia/Tokyo'", "DateStyle = 'German'"):
        execute(shop, f"SET {settings}; INSERT INTO app.k VALUES ({key}); DELETE FROM app.k", db="shop")
    execute(shop, "INSERT INTO app.u VALUES (5, 6)", db="shop")
    assert records(shop, "DISTINCT record_id, 0 AS id", "table_name = 'k'") == [
        ('["2026-07-01T12:00:00Z", "2026-07-01", "00000000-0000-0000-0000-00000000000a"]', 0)
    ]
    assert records(shop, "record_id", "table_name = 'u'") == [("5",)]


@pytest.mark.oldest_and_newest
def test_tables_that_statements_cannot_record_are_recorded_row_by_row(shop: Server) -> None:
    execute(
        shop,
        "CREATE EXTENSION postgres_fdw; CREATE SERVER here FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '"
        + str(shop.host)
        + f"', port '{shop.port}', dbname 'shop')",
        "CREATE USER MAPPING FOR PUBLIC SERVER here OPTIONS (user 'postgres')",
        "CREATE TABLE app.sessions_2 (id int PRIMARY KEY, n int)",
        "CREATE FOREIGN TABLE app.far (id int, n int) SERVER here OPTIONS (schema_name 'app', table_name 'sessions_2')",
        "CREATE TABLE app.base (id int PRIMARY KEY); CREATE TABLE app.derived (more text) INHERITS (app.base)",
        db="shop",
    )
    policy: dict[str, Any] = {"shop": {"tables": {"app": ["far", "base", "derived"]}}}
    result = applied(shop, policy)
    assert {each["level"] for each in result["tables"]["shop"]} == {"row"}
    assert all(each["reason"] for each in result["tables"]["shop"])
    unchanged(shop, policy)
    execute(
        shop,
        "INSERT INTO app.far VALUES (1, 2); UPDATE app.far SET n = 3; DELETE FROM app.far; INSERT INTO app.derived VALUES (1, 'm'); UPDATE app.base SET id = 2",
        db="shop",
    )
    assert list(records(shop, "table_name, action")) == [
        ("far", "INSERT"), ("far", "UPDATE"), ("far", "DELETE"), ("derived", "INSERT"), ("derived", "UPDATE"),
    ]  # fmt: skip
    assert records(shop, "new_values", "table_name = 'derived' AND action = 'UPDATE'") == [({"id": 2, "more": "m"},)]


@pytest.mark.oldest_and_newest
def test_a_partitioned_table_goes_from_statements_to_rows_and_back(shop: Server) -> None:
    applied(shop)
    execute(
        shop,
        "CREATE FUNCTION app.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER other AFTER INSERT ON app.orders FOR EACH ROW EXECUTE FUNCTION app.nothing()",
        db="shop",
    )
    result = applied(shop)
    assert {each["table"]: each["level"] for each in result["tables"]["shop"]}["app.orders"] == "row"
    unchanged(shop)
    execute(shop, 'ALTER TABLE app.orders_2026 DISABLE TRIGGER "0_audit_insert"', db="shop")
    assert "was disabled" in applied(shop)["diff"]["prepared"]
    execute(shop, "CREATE TABLE app.orders_2029 PARTITION OF app.orders FOR VALUES FROM ('2029-01-01') TO ('2030-01-01')", db="shop")
    applied(shop)
    unchanged(shop)
    execute(
        shop, "INSERT INTO app.orders VALUES (1, '2026-01-01', 1), (2, '2029-05-05', 1); INSERT INTO app.orders_2026 VALUES (3, '2026-05-05', 1)", db="shop"
    )
    assert len(records(shop)) == 3
    execute(shop, "DROP TRIGGER other ON app.orders", db="shop")
    applied(shop)
    unchanged(shop)
    execute(shop, "INSERT INTO app.orders VALUES (4, '2026-01-01', 1), (5, '2029-05-05', 1); TRUNCATE app.orders", db="shop")
    assert len(records(shop, "id", "action = 'INSERT'")) == 5


def test_a_value_too_long_for_json_ends_the_statement_with_a_clear_error(shop: Server) -> None:
    applied(shop)
    execute(shop, "INSERT INTO app.users VALUES (1, repeat('x', 30000000), '')", db="shop")
    assert value(shop, "SELECT length(new_values->>'name') FROM audit.audit_log", db="shop") == 30000000


@pytest.mark.oldest_and_newest
def test_one_table_a_transaction(shop: Server) -> None:
    applied(shop, per_table=True)
    unchanged(shop)
    execute(shop, 'DROP TRIGGER "0_audit_insert" ON app.users; ALTER TABLE app.profiles DISABLE TRIGGER ALL', db="shop")
    with session(shop, "shop") as blocker, blocker.cursor() as cursor:
        blocker.autocommit = False
        cursor.execute("SELECT 1 FROM app.users")
        cursor.execute("LOCK TABLE app.users IN ROW EXCLUSIVE MODE")
        result = run(shop, per_table=True, lock_timeout=50, lock_retries=1)
        assert result["failed"]
        assert "app.users" in result["msg"]
        assert "held by process" in result["msg"]
        assert "table app.profiles" in result["msg"]
    assert applied(shop, per_table=True)["changed"]
    unchanged(shop)


@pytest.mark.oldest_and_newest
def test_writers_go_on_while_the_log_is_made(shop: Server) -> None:
    stop, failed = threading.Event(), []

    def write() -> None:
        with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    cursor.execute("INSERT INTO app.users VALUES (%s, 'a', 'b'); UPDATE app.users SET name = 'c' WHERE id = %s", (number, number))
                except psycopg2.Error as error:
                    failed.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _round in range(3):
            applied(shop, lock_timeout=500)
            applied(shop, {"shop": {"tables": {}}}, lock_timeout=500)
    finally:
        stop.set()
        writer.join()
    assert failed == []


@pytest.mark.oldest_and_newest
def test_a_standby_reads_the_plan_and_changes_nothing(mine: Server) -> None:
    execute(mine, "CREATE DATABASE shop")
    execute(mine, "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY)", db="shop")
    policy: dict[str, Any] = {"shop": {"tables": ["app"]}}
    standby = mine.make_standby()
    try:
        result = run(standby, policy)
        assert (result["changed"], result["skipped_reason"]) == (False, "in recovery")
        assert result["plan"]
        applied(mine, policy)
        mine.wait_for(standby)
        assert applied(standby, policy)["plan"] == []
    finally:
        standby.remove()


@pytest.mark.oldest_and_newest
def test_readers_keep_their_rights_when_roles_are_converged(shop: Server) -> None:
    applied(shop)
    policy = {"roles": {"auditor": {}, "app_service": {}}, "databases": {"shop": {"schemas": {"app": {"profiles": {"app_service": "app_service"}}}}}}
    for mode in ("managed", "authoritative"):
        module.run(shop, "pg_access", policy=policy, mode=mode, kept_schemas=["audit"], allow_mass_revoke=True)
        unchanged(shop)
    execute(shop, "INSERT INTO app.users VALUES (1, 'Ann', '')", db="shop")
    leaving = {"roles": {"auditor": {"state": "absent"}}, "databases": {"shop": {}}}
    result = module.run(shop, "pg_access", policy=leaving, kept_schemas=["audit"], allow_mass_revoke=True)
    assert not result.get("failed"), result["msg"]
    assert value(shop, "SELECT count(*) FROM pg_roles WHERE rolname = 'auditor'") == 0


WRONG: dict[str, tuple[Any, str, str]] = {
    "no such database": ({"shopp": {"tables": ["app"]}}, "databases.shopp", 'did you mean "shop"'),
    "no such schema": ({"shop": {"tables": ["ap"]}}, "tables", 'did you mean "app"'),
    "no such table": ({"shop": {"tables": {"app": ["user"]}}}, "tables.app", 'did you mean "users"'),
    "no table like that": ({"shop": {"tables": {"app": ["x*"]}}}, "tables.app", "no table"),
    "no tables": ({"shop": {}}, "tables", "is required"),
    "a partition": ({"shop": {"tables": {"app": ["orders_2026"]}}}, "tables.app", "name the table at the top, app.orders"),
    "the log itself": ({"shop": {"tables": ["audit"]}}, "tables", "holds the log itself"),
    "no such reader": ({"shop": {"tables": ["app"], "readers": ["auditer"]}}, "readers", 'did you mean "auditor"'),
    "a mask on no column": ({"shop": {"tables": ["app"], "mask": {"app.profiles": ["sssn"]}}}, 'mask["app.profiles"].sssn', 'did you mean "ssn"'),
    "a mask on the key": ({"shop": {"tables": ["app"], "mask": {"app.profiles": ["id"]}}}, 'mask["app.profiles"].id', "is in the key"),
    "a mask on no table": ({"shop": {"tables": ["app"], "mask": {"app.profile": ["ssn"]}}}, 'mask["app.profile"]', 'did you mean "app.profiles"'),
    "a mask on a partition": ({"shop": {"tables": ["app"], "mask": {"app.orders_2026": ["amount"]}}}, 'mask["app.orders_2026"]', "name the table at the top"),
    "two masks for one table": ({"shop": {"tables": ["app"], "mask": {"app.profiles": ["ssn"], '"app".profiles': ["note"]}}}, "mask", "names the same table"),
    "a mask of no kind": ({"shop": {"tables": ["app"], "mask": {"app.profiles": {"ssn": "blur"}}}}, 'mask["app.profiles"].ssn', "one of mask, exclude, hash"),
    "a mask without a schema": ({"shop": {"tables": ["app"], "mask": {"profiles": ["ssn"]}}}, "mask.profiles", "must name schema and table"),
    "an unknown key": ({"shop": {"tables": ["app"], "reader": ["auditor"]}}, "reader", 'did you mean "readers"'),
    "all and some": ({"shop": {"tables": {"app": {"all": True, "tables": ["users"]}}}}, "tables.app.tables", "contradicts all"),
}


@pytest.mark.oldest_and_newest
def test_a_wrong_policy_is_refused_with_its_place(shop: Server) -> None:
    before = snapshot(shop)
    for name, (policy, path, text) in WRONG.items():
        result = run(shop, policy, path_prefix="pg_audit_")
        assert result.get("failed"), name
        assert any(path in mistake["path"] and text in mistake["message"] for mistake in result["mistakes"]), (name, result["mistakes"])
    assert snapshot(shop) == before


@pytest.mark.oldest_and_newest
def test_an_owner_that_can_log_in_is_refused(shop: Server) -> None:
    result = run(shop, owner="app_service", path_prefix="pg_audit_")
    assert [mistake["path"] for mistake in result["mistakes"]] == ["pg_audit_owner"]
    execute(shop, "CREATE SCHEMA audit; CREATE TABLE audit.entries (id int)", db="shop")
    assert "with other columns" in run(shop)["msg"]
    execute(shop, "DROP SCHEMA audit CASCADE", db="shop")
    applied(shop)
    execute(shop, "GRANT audit_owner TO migration_user")
    assert any("migration_user can become audit_owner" in str(warning) for warning in run(shop)["warnings"])


# New tables


NEW_TABLES = {"shop": {**POLICY["shop"], "tables": {"app": {"except": ["sessions", "odd_*"]}, "other": {"tables": ["t_*"]}}, "new_tables": True}}


@pytest.fixture
def covered(shop: Server) -> Server:
    """A database in which new tables are recorded from their creation on."""
    execute(shop, "CREATE SCHEMA other", "CREATE TABLE other.t_1 (id int)", "GRANT CREATE ON DATABASE shop TO migration_user", db="shop")
    applied(shop, NEW_TABLES)
    unchanged(shop, NEW_TABLES)
    return shop


def test_a_new_table_is_recorded_from_its_creation_to_the_next_run_and_after_it(covered: Server) -> None:
    migration = "CREATE TABLE app.notes (a int, b text, ssn text, PRIMARY KEY (a, b))"
    changes = (
        "INSERT INTO app.notes VALUES (1, 'x', 's'), (2, 'y', NULL)",
        "UPDATE app.notes SET b = b || '!' WHERE a = 1",
        "DELETE FROM app.notes WHERE a = 2",
        "TRUNCATE app.notes",
    )
    execute(covered, migration, *changes, db="shop", user="migration_user")
    seen = records(covered, where="table_name = 'notes'")
    assert seen == [
        ("notes", "INSERT", '["1", "x"]', None, {"a": 1, "b": "x", "ssn": "***"}),
        ("notes", "INSERT", '["2", "y"]', None, {"a": 2, "b": "y", "ssn": "***"}),
        ("notes", "UPDATE", '["1", "x"]', {"a": 1, "b": "x", "ssn": "***"}, {"a": 1, "b": "x!", "ssn": "***"}),
        ("notes", "DELETE", '["2", "y"]', {"a": 2, "b": "y", "ssn": "***"}, None),
        ("notes", "TRUNCATE", None, None, None),
    ]
    assert "table app.notes" in applied(covered, NEW_TABLES)["diff"]["prepared"]
    unchanged(covered, NEW_TABLES)
    execute(covered, *changes, db="shop", user="migration_user")
    assert [record[:3] for record in records(covered, where="table_name = 'notes'")][5:] == [record[:3] for record in seen]


@pytest.mark.parametrize(
    ("statement", "table", "expected"),
    [
        ("CREATE TABLE app.sessions_2 AS SELECT 1 AS id", "app.sessions_2", True),
        ("SELECT 1 AS id INTO app.selected", "app.selected", True),
        ("CREATE TABLE other.t_x (id int)", "other.t_x", True),
        ("CREATE TABLE other.x_t (id int)", "other.x_t", False),
        ("CREATE TABLE app.odd_1 (id int)", "app.odd_1", False),
        ("CREATE TEMP TABLE t_1 (id int)", "t_1", False),
        ('CREATE TABLE app."A ""b"" %s" (id int)', 'app."A ""b"" %s"', True),
        ("CREATE TABLE app.child () INHERITS (app.users)", "app.child", True),
    ],
)
def test_a_new_table_is_covered_where_the_policy_selects_it(covered: Server, statement: str, table: str, expected: bool) -> None:
    execute(covered, statement, f"INSERT INTO {table} (id) VALUES (7)", db="shop")
    found = records(covered, "table_name, new_values ->> 'id'")
    assert (len(found) == 1 and found[0][1] == "7") is expected, found


def test_a_new_partition_is_recorded_when_it_is_written_directly(covered: Server) -> None:
    execute(
        covered,
        "CREATE TABLE app.orders_2027 PARTITION OF app.orders FOR VALUES FROM ('2027-01-01') TO ('2028-01-01')",
        "INSERT INTO app.orders_2027 VALUES (1, '2027-02-01', 1)",
        "INSERT INTO app.orders VALUES (2, '2027-02-01', 1)",
        db="shop",
    )
    assert [record[0] for record in records(covered, "table_name")] == ["orders", "orders"]
    applied(covered, NEW_TABLES)
    unchanged(covered, NEW_TABLES)


def test_a_schema_with_its_tables_is_covered(covered: Server) -> None:
    execute(covered, "DROP SCHEMA other CASCADE", "CREATE SCHEMA other CREATE TABLE t_2 (id int)", "INSERT INTO other.t_2 VALUES (1)", db="shop")
    assert len(records(covered)) == 1


@pytest.mark.parametrize(
    "drift",
    [
        "DROP EVENT TRIGGER audit_new_tables",
        "ALTER EVENT TRIGGER audit_new_tables DISABLE",
        "ALTER FUNCTION audit.cover_new_tables() OWNER TO migration_user",
        "CREATE OR REPLACE FUNCTION audit.cover_new_tables() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    ],
)
def test_drift_of_the_event_trigger_is_mended(covered: Server, drift: str) -> None:
    execute(covered, drift, db="shop")
    assert applied(covered, NEW_TABLES)["changed"]
    unchanged(covered, NEW_TABLES)
    execute(covered, "CREATE TABLE app.late (id int)", "INSERT INTO app.late VALUES (1)", db="shop")
    assert len(records(covered)) == 1


@pytest.mark.parametrize("per_table", [False, True])
def test_without_new_tables_nothing_of_it_stays(covered: Server, per_table: bool) -> None:
    execute(covered, "CREATE TABLE app.late (id int)", db="shop")
    without = {"shop": {**NEW_TABLES["shop"], "new_tables": False}}
    applied(covered, without, per_table=per_table)
    unchanged(covered, without)
    left = "SELECT proname FROM pg_proc WHERE proname LIKE 'record_new%' OR proname = 'cover_new_tables' UNION ALL SELECT evtname FROM pg_event_trigger"
    assert query(covered, left, db="shop") == []


def test_only_a_superuser_is_told_to_make_an_event_trigger(shop: Server) -> None:
    execute(shop, "ALTER ROLE migration_user CREATEROLE", db="shop")
    result = run(shop, {"shop": {"tables": ["app"], "new_tables": True}}, login_user="migration_user")
    assert "databases.shop.new_tables: needs a superuser" in result["msg"]
