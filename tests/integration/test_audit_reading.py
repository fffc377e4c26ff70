# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading the audit log: the views, the history of a row, a row at a time, and the script that undoes a transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests import audit_workload
from tests.audit_workload import DATABASE, Workload
from tests.integration import module
from tests.integration.sql import execute, query, session, value

if TYPE_CHECKING:
    from tests.servers import Server

ROLES = ("app_service", "auditor", "support")
SETUP = (
    "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app_service",
    'CREATE TABLE app."Users" (id bigint PRIMARY KEY, "Full name" text, audit_id int, ssn text, twice bigint GENERATED ALWAYS AS (id * 2) STORED)',
    "CREATE TABLE app.pairs (x text, y timestamptz, v numeric, PRIMARY KEY (x, y))",
    "CREATE TABLE app.numbered (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
    "CREATE TABLE app.loose (v text)",
    "GRANT ALL ON ALL TABLES IN SCHEMA app TO app_service",
)


def policy(**more: Any) -> dict[str, Any]:
    """The policy of these tests."""
    return {"shop": {"tables": ["app"], "readers": ["auditor"], "tenant_readers": ["support"], "mask": {"app.Users": {"ssn": "hash"}}, **more}}


@pytest.fixture(params=[False, True], ids=["whole", "changed"])
def shop(cluster: Server, request: pytest.FixtureRequest) -> Server:
    """An application with a log, which holds whole rows or the changed columns only."""
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in ROLES))
    execute(cluster, *SETUP, db="shop")
    result = module.run(cluster, "pg_audit_trail", databases=policy(changed_columns_only=request.param))
    assert not result.get("failed"), result["msg"]
    return cluster


def as_auditor(server: Server, statement: str) -> list[Any]:
    """What the auditor sees."""
    return query(server, statement, db="shop", user="auditor")


def test_each_table_has_a_view_with_its_columns(shop: Server) -> None:
    execute(shop, "INSERT INTO app.\"Users\" VALUES (1, 'Ann', 7, '078'); DELETE FROM app.\"Users\"", db="shop")
    columns = 'audit_action, audit_changed_by, audit_record_id, id, "Full name", audit_id, twice, ssn'
    found = as_auditor(shop, f'SELECT {columns} FROM audit."app.Users" ORDER BY audit_id_')
    assert [row[:-1] for row in found] == [(action, "postgres", "1", "1", "Ann", "7", "2") for action in ("INSERT", "DELETE")]
    assert found[0][-1].startswith("hash:")


def test_no_view_keeps_a_migration_from_being_made(shop: Server) -> None:
    execute(shop, "INSERT INTO app.pairs VALUES ('a', now(), 1); ALTER TABLE app.pairs ALTER v TYPE text, DROP COLUMN y; DROP TABLE app.loose", db="shop")
    assert as_auditor(shop, 'SELECT v FROM audit."app.pairs"') == [("1",)]
    module.run(shop, "pg_audit_trail", databases=policy())
    assert value(shop, "SELECT to_regclass('audit.\"app.loose\"') IS NULL", db="shop")


def test_the_history_of_a_row_follows_its_key(shop: Server) -> None:
    execute(
        shop,
        "INSERT INTO app.\"Users\" (id, \"Full name\") VALUES (1, 'Ann'), (2, 'Bob')",
        'UPDATE app."Users" SET id = 10 WHERE id = 1',
        'INSERT INTO app."Users" (id, "Full name") VALUES (1, \'another\')',
        'UPDATE app."Users" SET id = 20 WHERE id = 10',
        'UPDATE app."Users" SET "Full name" = \'Anna\' WHERE id = 20',
        db="shop",
    )
    history = "SELECT action, record_id, new_record_id FROM audit.history({}, '20')"
    wanted = [("INSERT", "1", None), ("UPDATE", "1", "10"), ("UPDATE", "10", "20"), ("UPDATE", "20", None)]
    assert as_auditor(shop, history.format("'app.\"Users\"'")) == wanted
    assert as_auditor(shop, history.format("'\"Users\"'")) == wanted
    assert as_auditor(shop, history.format("'other.\"Users\"'")) == []
    assert as_auditor(shop, "SELECT action, new_values->>'Full name' FROM audit.history('app.\"Users\"', '1') WHERE action = 'INSERT'") == [
        ("INSERT", "Ann"),
        ("INSERT", "another"),
    ]


def test_a_row_at_a_time(shop: Server) -> None:
    """What the function says of each moment is what the table held then."""
    states: list[tuple[str, str | None]] = []
    for statement in (
        'INSERT INTO app."Users" (id, "Full name", audit_id) VALUES (1, \'Ann\', 1)',
        'UPDATE app."Users" SET "Full name" = \'Anna\' WHERE id = 1',
        'UPDATE app."Users" SET audit_id = NULL WHERE id = 1',
        'UPDATE app."Users" SET id = 5 WHERE id = 1',
        'UPDATE app."Users" SET id = 1 WHERE id = 5',
        'DELETE FROM app."Users"',
        'INSERT INTO app."Users" (id) VALUES (1)',
        'TRUNCATE app."Users"',
    ):
        execute(shop, statement, db="shop")
        row = value(shop, 'SELECT (SELECT to_jsonb(u.*) FROM app."Users" u WHERE id = 1)::text', db="shop")
        states.append((value(shop, "SELECT clock_timestamp()::text", db="shop"), row))
    for moment, row in states:
        found = as_auditor(shop, f"SELECT audit.row_at('app.\"Users\"', '1', '{moment}')::text")
        assert found == [(row,)], moment
    assert as_auditor(shop, "SELECT audit.row_at('app.\"Users\"', '1', '2020-01-01')") == [(None,)]


def rows(server: Server) -> list[list[Any]]:
    """All rows of all tables."""
    tables = ('app."Users"', "app.pairs", "app.numbered", "app.loose")
    return [sorted(str(row) for row in query(server, f"SELECT to_jsonb(t.*) FROM {table} t", db="shop")) for table in tables]


def test_the_script_that_undoes_a_transaction(shop: Server) -> None:
    execute(
        shop,
        "INSERT INTO app.\"Users\" VALUES (1, 'Ann', 1, NULL), (2, 'Bob', 2, NULL), (3, 'o''neil \\ \" %', 3, NULL)",
        "INSERT INTO app.pairs VALUES ('k''\"\\', '2026-07-01 12:00:00.123456+02', 1.50), ('b', 'infinity', NULL)",
        "INSERT INTO app.numbered (v) VALUES ('a'), ('b'); INSERT INTO app.loose VALUES ('x'), ('x'), (NULL)",
        db="shop",
    )
    before = rows(shop)
    with session(shop, "shop", "app_service") as connection, connection.cursor() as cursor:
        connection.autocommit = False
        cursor.execute(
            'UPDATE app."Users" SET "Full name" = \'x\', audit_id = audit_id + 10; UPDATE app."Users" SET id = id + 100; DELETE FROM app."Users" WHERE id = 103'
        )
        cursor.execute(
            "INSERT INTO app.\"Users\" VALUES (9, 'new', 9, NULL); UPDATE app.pairs SET v = 2, x = x || '!'; DELETE FROM app.pairs WHERE v = 2 AND x <> 'b!'"
        )
        cursor.execute(
            "DELETE FROM app.numbered WHERE id = 1; INSERT INTO app.numbered (v) VALUES ('c'); UPDATE app.numbered SET v = 'd'; DELETE FROM app.loose"
        )
        cursor.execute("SELECT pg_current_xact_id()::text")
        (transaction,) = cursor.fetchone()
        connection.commit()
    script = "\n".join(line for (line,) in as_auditor(shop, f"SELECT audit.undo('{transaction}')"))
    changed = rows(shop)
    assert changed != before
    shop.psql(script, db="shop")
    assert rows(shop) == before


def test_what_cannot_be_undone_is_said(shop: Server) -> None:
    execute(shop, "INSERT INTO app.\"Users\" VALUES (1, 'Ann', 1, 'SECRET')", "INSERT INTO app.loose VALUES ('x')", db="shop")
    execute(shop, 'BEGIN; UPDATE app."Users" SET ssn = \'other\'; DELETE FROM app."Users"; TRUNCATE app.loose; COMMIT', db="shop")
    last = value(shop, "SELECT transaction_id::text FROM audit.audit_log ORDER BY id DESC LIMIT 1", db="shop")
    script = "\n".join(line for (line,) in as_auditor(shop, f"SELECT audit.undo('{last}')"))
    assert "not in the log, and so not restored: ssn" in script
    assert "cannot be undone from the log: it does not hold the rows" in script
    assert "hash:" not in script.replace('"ssn": "hash:', "")
    shop.psql(script, db="shop")
    assert query(shop, 'SELECT id, "Full name", ssn FROM app."Users"', db="shop") == [(1, "Ann", None)]


def test_a_reader_of_one_tenant_sees_its_records_alone(shop: Server) -> None:
    for tenant, number in (("7", 1), ("8", 2), ("", 3)):
        execute(shop, f"SET app.current_tenant_id = '{tenant}'; INSERT INTO app.\"Users\" (id) VALUES ({number})", db="shop")
    with session(shop, "shop", "support") as connection, connection.cursor() as cursor:
        for tenant, wanted in (("7", ["1"]), ("8", ["2"]), ("", []), ("9", [])):
            cursor.execute("SELECT set_config('app.current_tenant_id', %s, false)", (tenant,))
            cursor.execute("SELECT record_id FROM audit.tenant_log")
            assert [record for (record,) in cursor.fetchall()] == wanted
        for hidden in ("audit.audit_log", 'audit."app.Users"', "audit.history('app.\"Users\"', '1')"):
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(f"SELECT * FROM {hidden}")


@pytest.mark.oldest_and_newest
def test_every_transaction_of_a_random_workload_can_be_undone(cluster: Server) -> None:
    """Backwards, one transaction after another, to the rows that were there before."""
    audit_workload.prepare(cluster)
    Workload(3, cluster.major).run(cluster, 200)
    # What fires while a script runs would change rows on its own.
    quiet = ("touched DISABLE TRIGGER a_touch", "ids DISABLE TRIGGER quiet")
    module.run(cluster, "pg_audit_trail", databases={DATABASE: {"tables": ["app"]}})
    before = audit_workload.rows_of(cluster)
    Workload(4, cluster.major, truncates=False).run(cluster, 250)
    assert audit_workload.differences(before, audit_workload.rows_of(cluster))
    execute(cluster, *(f"ALTER TABLE app.{each}" for each in quiet), db=DATABASE)
    done = query(cluster, "SELECT transaction_id::text FROM audit.audit_log GROUP BY 1 ORDER BY max(id) DESC", db=DATABASE)
    for (transaction,) in done:
        script = "\n".join(line for (line,) in query(cluster, f"SELECT audit.undo('{transaction}')", db=DATABASE))
        cluster.psql("SET session_replication_role = replica;\n" + script, db=DATABASE)
    assert audit_workload.differences(before, audit_workload.rows_of(cluster)) == []
