# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever edits the log, a superuser too, is found out: each record that was removed, edited or added is named."""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.integration import module
from tests.integration.sql import execute, query, session, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import Server

POLICY: dict[str, Any] = {"shop": {"tables": ["app"], "readers": ["auditor"]}}
TAMPERINGS = int(os.environ.get("BULWARK_TAMPERINGS", "50"))


@pytest.fixture
def shop(cluster: Server) -> Server:
    """A log with records in two months, sealed in several seals."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE auditor LOGIN", "CREATE ROLE app_service LOGIN")
    execute(
        cluster,
        "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text); GRANT ALL ON SCHEMA app TO app_service; GRANT ALL ON app.t TO app_service",
        db="shop",
    )
    done("pg_audit_trail", cluster, databases=POLICY)
    return cluster


def done(name: str, server: Server, **options: Any) -> module.Result:
    """A module, which has to succeed."""
    result = module.run(server, name, **options)
    assert not result.get("failed"), result["msg"]
    return result


def sealed(server: Server) -> dict[str, Any]:
    """Seal, and the heads as pg_audit_info takes them."""
    return dict(done("pg_audit_seal", server, databases=["shop"])["heads"])


def verified(server: Server, heads: Any = None) -> module.Result:
    """What the verification finds."""
    return done("pg_audit_info", server, databases=["shop"], verify=True, heads=heads or {})


def grow(server: Server, rounds: int = 3) -> dict[str, Any]:
    """Some records and a seal, several times."""
    heads: dict[str, Any] = {}
    for number in range(rounds):
        first = number * 10
        execute(
            server,
            f"INSERT INTO app.t SELECT g, 'v' FROM generate_series({first}, {first + 9}) g",
            f"UPDATE app.t SET v = 'w' WHERE id % 3 = 0 AND id >= {first}; DELETE FROM app.t WHERE id = {first + 1}",
            db="shop",
        )
        heads = sealed(server)
    return heads


def test_a_seal_is_made_of_what_is_finished(shop: Server) -> None:
    assert done("pg_audit_seal", shop, databases=["shop"])["changed"] is False
    with session(shop, "shop", "app_service") as open_one, open_one.cursor() as cursor:
        open_one.autocommit = False
        cursor.execute("INSERT INTO app.t VALUES (1, 'still open')")
        execute(shop, "INSERT INTO app.t VALUES (2, 'later, and done')", db="shop")
        assert module.run(shop, "pg_audit_seal", databases=["shop"], check=True)["changed"] is False
        assert done("pg_audit_seal", shop, databases=["shop"])["changed"] is False
        open_one.commit()
    assert module.run(shop, "pg_audit_seal", databases=["shop"], check=True)["changed"] is True
    assert value(shop, "SELECT count(*) FROM audit.seals", db="shop") == 0
    assert done("pg_audit_seal", shop, databases=["shop"])["made"] == {"shop": 1}
    assert done("pg_audit_seal", shop, databases=["shop"])["changed"] is False
    execute(shop, "INSERT INTO app.t VALUES (3, 'not sealed yet')", db="shop")
    result = verified(shop)
    assert (result["problems"], result["verified"]["shop"]["sealed"], result["verified"]["shop"]["unsealed"]) == ([], 2, 1)


def test_a_database_without_a_log_is_said(shop: Server) -> None:
    result = module.run(shop, "pg_audit_seal", databases=["postgres"])
    assert "has no audit log" in result["msg"]
    assert done("pg_audit_info", shop, databases=["postgres"])["databases"] == {"postgres": None}


COLUMNS = {
    "changed_at": "changed_at + interval '1 microsecond'", "action": "CASE action WHEN 'I' THEN 'D' ELSE 'I' END::\"char\"", "table_name": "'other'",
    "record_id": "record_id || '0'", "session_role": "'somebody'", "application_user": "'mallory'", "tenant": "''", "client_address": "'10.0.0.1'",
    "new_values": "'{}'", "old_values": "'{}'", "transaction_id": "'3'", "schema_name": "'App'", "application_name": "coalesce(application_name, '') || ' '",
}  # fmt: skip


def tamper(draw: random.Random, connection: Any) -> set[tuple[str, int]]:
    """One edit by a superuser, and what has to be named: ('record', its id) or ('seal', its number)."""

    def all_of(statement: str) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    ids = [number for (number,) in all_of("SELECT id FROM audit.entries ORDER BY id")]
    one, two = draw.sample(ids, 2)
    seals = [number for (number,) in all_of("SELECT id FROM audit.seals ORDER BY id")]
    seal = draw.choice(seals)
    kind = draw.choice(["edit", "edit", "edit", "remove", "remove many", "add", "copy", "swap", "move", "partition", "seal", "seal gone", "seal and record"])
    if kind == "edit":
        column = draw.choice(sorted(COLUMNS))
        all_of(f"UPDATE audit.entries SET {column} = {COLUMNS[column]} WHERE id = {one}")
        return {("record", one)}
    if kind == "remove":
        all_of(f"DELETE FROM audit.entries WHERE id = {one}")
        return {("record", one)}
    if kind == "remove many":
        all_of(f"DELETE FROM audit.entries WHERE id >= {one}")
        return {("record", number) for number in ids if number >= one}
    if kind in ("add", "copy"):
        number = max(ids) + 1 if kind == "add" else one
        columns = [name for (name,) in all_of("SELECT attname FROM pg_attribute WHERE attrelid = 'audit.entries'::regclass AND attnum > 1 ORDER BY attnum")]
        listed = ", ".join(columns)
        all_of(f"INSERT INTO audit.entries (id, {listed}) OVERRIDING SYSTEM VALUE SELECT {number}, {listed} FROM audit.entries WHERE id = {one}")
        return {("record", number)}
    if kind == "swap":
        both = f"WHERE id IN ({one}, {two})"
        all_of(f"CREATE TABLE copy AS SELECT * FROM audit.entries {both}; UPDATE copy SET id = {one + two} - id; DELETE FROM audit.entries {both}")
        all_of("INSERT INTO audit.entries OVERRIDING SYSTEM VALUE SELECT * FROM copy")
        return {("record", one), ("record", two)}
    if kind == "move":
        all_of(f"UPDATE audit.entries SET changed_at = changed_at + interval '1 month' WHERE id = {one}")
        return {("record", one)}
    if kind == "partition":
        name = all_of("SELECT tableoid::regclass::text FROM audit.entries LIMIT 1")[0][0]
        all_of(f"CREATE TABLE copy AS SELECT * FROM {name}; UPDATE copy SET tenant = 'x' WHERE id = {one}; DELETE FROM copy WHERE id = {two}")
        all_of(f"TRUNCATE {name}; INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT * FROM copy")
        return {("record", one), ("record", two)}
    if kind == "seal":
        all_of(f"UPDATE audit.seals SET records = records + 1 WHERE id = {seal}")
        return {("seal", seal)}
    if kind == "seal gone":
        all_of(f"DELETE FROM audit.seals WHERE id = {seal}")
        return {("seal", seal)}
    # An edit together with the seal's digest of it, but not the head, which is known elsewhere.
    all_of(f"UPDATE audit.entries SET tenant = 'x' WHERE id = {one}")
    ((number, position),) = all_of(f"SELECT s.id, array_position(s.ids, {one}) FROM audit.seals s WHERE {one} = ANY (s.ids)")
    all_of(f"UPDATE audit.seals SET digests[{position}] = sha256('x') WHERE id = {number}")
    return {("seal", number)}


@pytest.fixture
def without_protection(shop: Server) -> Iterator[Callable[[], Any]]:
    """Opens sessions of a superuser in which no trigger of the log fires."""
    opened = []

    def connect() -> Any:
        connection = psycopg2.connect(host=shop.host, port=shop.port, user="postgres", dbname="shop")
        opened.append(connection)
        with connection.cursor() as cursor:
            cursor.execute("DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT tgrelid FROM pg_trigger WHERE tgname = 'append_only' LOOP"
                           " EXECUTE format('ALTER TABLE %s DISABLE TRIGGER append_only', t); END LOOP; END $$")  # fmt: skip
        return connection

    yield connect
    for connection in opened:
        connection.close()


def test_every_tampering_is_found_and_named(shop: Server, without_protection: Callable[[], Any]) -> None:
    heads = grow(shop)
    tables = ["audit.entries", "audit.seals"]
    assert verified(shop, heads)["problems"] == []
    execute(shop, *(f"CREATE TABLE saved_{number} AS SELECT * FROM {table}" for number, table in enumerate(tables)), db="shop")
    draw = random.Random(shop.major)
    for attempt in range(TAMPERINGS):
        connection = without_protection()
        wanted = tamper(draw, connection)
        connection.commit()
        found = verified(shop, heads)["problems"]
        named = {("record", problem["record"]) for problem in found if problem["record"]} | {("seal", problem["seal"]) for problem in found if problem["seal"]}
        assert wanted <= named, (attempt, wanted, found)
        extra = {each for each in named - wanted if each[0] == "record"}
        assert not extra or any(kind == "seal" for kind, _number in wanted), (attempt, wanted, found)
        with connection.cursor() as cursor:
            for number, table in enumerate(tables):
                generated = "OVERRIDING SYSTEM VALUE" if table == "audit.entries" else ""
                cursor.execute(f"TRUNCATE {table}; INSERT INTO {table} {generated} SELECT * FROM saved_{number}; DROP TABLE IF EXISTS copy")
        connection.commit()
        connection.close()
    assert verified(shop, heads)["problems"] == []


def test_a_chain_that_was_written_anew_is_found_by_its_head(shop: Server, without_protection: Callable[[], Any]) -> None:
    heads = grow(shop)
    connection = without_protection()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM audit.entries WHERE id = 5; TRUNCATE audit.seals; SELECT audit.seal()")
    connection.commit()
    assert verified(shop)["problems"] == []
    assert [problem["what"] for problem in verified(shop, heads)["problems"]] == ["seal 3, which is known elsewhere, and what came after it were removed"]
    execute(shop, "INSERT INTO app.t VALUES (1000, 'x')", db="shop")
    sealed(shop)
    execute(shop, "INSERT INTO app.t VALUES (1001, 'x')", db="shop")
    sealed(shop)
    assert "the chain was written anew" in verified(shop, heads)["msg"]


def test_a_month_that_retention_drops_is_no_gap(shop: Server, public_path: Any) -> None:
    grow(shop, 1)
    columns = "changed_at, statement_at, transaction_id, action, schema_name, table_name, session_role, effective_role"
    values = "now() - interval '5 months', now(), pg_current_xact_id(), 'I', 'app', 't', 'a', 'a'"
    execute(shop, f"INSERT INTO audit.entries ({columns}) SELECT {values} FROM generate_series(1, 3)", db="shop")
    heads = grow(shop, 0) or sealed(shop)
    done("pg_audit_trail", shop, databases=POLICY)
    result = done("pg_audit_trail", shop, databases={"shop": {**POLICY["shop"], "retention": {"months": 2, "directory": str(public_path)}}})
    assert any("-partition" in change["change"] for change in result["plan"])
    assert value(shop, "SELECT count(*) FROM audit.entries WHERE changed_at < now() - interval '4 months'", db="shop") == 0
    assert verified(shop, heads)["problems"] == []
    assert value(shop, "SELECT kind FROM audit.seals ORDER BY id DESC LIMIT 1", db="shop") == "drop"


def test_writers_and_several_jobs_at_once(shop: Server) -> None:
    """Sealing beside writers, twice at the same time: every record is sealed once, and writers never wait for it."""
    stop, failed = threading.Event(), []

    def work(user: str, statement: str) -> None:
        with session(shop, "shop", user) as connection, connection.cursor() as cursor:
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    cursor.execute(statement.format(number))
                except psycopg2.Error as error:
                    failed.append(str(error))

    jobs = [
        ("app_service", "INSERT INTO app.t VALUES ({0}, 'a'); UPDATE app.t SET v = 'b' WHERE id = {0}"),
        ("app_service", "BEGIN; INSERT INTO app.t VALUES (-{0}, 'a'); COMMIT"),
        ("postgres", "SELECT audit.seal()"),
        ("postgres", "SELECT audit.seal()"),
    ]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    time.sleep(3)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    heads = sealed(shop)
    result = verified(shop, heads)
    assert (result["problems"], result["verified"]["shop"]["unsealed"]) == ([], 0)
    assert result["verified"]["shop"]["seals"] > 1
    assert value(shop, "SELECT count(*) FROM audit.entries", db="shop") == result["verified"]["shop"]["sealed"] > 20


@pytest.mark.oldest_and_newest
def test_a_server_that_is_killed_loses_nothing_of_the_log(mine: Server) -> None:
    """The postmaster and its children are killed in the midst of writing and sealing: rows and records agree, and the chain holds."""
    execute(mine, "ALTER SYSTEM SET fsync = on", "ALTER SYSTEM SET full_page_writes = on", "CREATE DATABASE shop", "CREATE ROLE auditor LOGIN")
    mine.restart()
    execute(mine, "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text)", db="shop")
    done("pg_audit_trail", mine, databases=POLICY)
    for attempt in range(3):
        stop = threading.Event()

        def work(statement: str, base: int, stop: threading.Event = stop) -> None:
            number = base
            while not stop.is_set():
                number += 1
                try:
                    execute(mine, statement.format(number), db="shop")
                except psycopg2.Error:
                    return

        jobs = [("INSERT INTO app.t VALUES ({0}, 'a'), (-{0}, 'b'); UPDATE app.t SET v = 'c' WHERE id = {0}", attempt * 100000), ("SELECT audit.seal()", 0)]
        threads = [threading.Thread(target=work, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        time.sleep(0.7)
        mine.crash()
        stop.set()
        for thread in threads:
            thread.join()
        rows = query(mine, "SELECT id, v FROM app.t ORDER BY id", db="shop")
        log = "SELECT DISTINCT ON (record_id) record_id::int, new_values->>'v' FROM audit.audit_log ORDER BY record_id, id DESC"
        assert sorted(query(mine, log, db="shop")) == rows
        assert len(rows) > 2
        assert verified(mine, sealed(mine))["problems"] == []


def test_what_gets_around_the_log_is_found(shop: Server) -> None:
    execute(shop, "CREATE ROLE deployer LOGIN", "GRANT audit_owner TO deployer")
    execute(shop, "ALTER TABLE app.t OWNER TO deployer; CREATE TABLE app.other (id int); CREATE TABLE app.off (id int)", db="shop")
    done("pg_audit_trail", shop, databases={"shop": {"tables": {"app": ["t", "off"]}}})
    execute(shop, 'ALTER TABLE app.off DISABLE TRIGGER "0_audit_insert"', db="shop")
    if shop.major >= 15:
        execute(shop, "GRANT SET ON PARAMETER session_replication_role TO app_service")
    result = done("pg_audit_info", shop, databases=["shop"])
    found = {(each["code"], each["object"]) for each in result["findings"]}
    wanted = {("becomes_owner", "deployer"), ("owner", "app.t"), ("disabled", "app.off"), ("not_recorded", "app.other")}
    assert found == wanted | ({("replication_role", "app_service")} if shop.major >= 15 else set())
    assert [table["table"] for table in result["databases"]["shop"]["tables"]] == ["app.off", "app.t"]
    execute(shop, *(each["fix"] for each in result["findings"] if each["code"] in ("becomes_owner", "replication_role")))
    assert {each["code"] for each in done("pg_audit_info", shop, databases=["shop"])["findings"]} == {"owner", "disabled", "not_recorded"}


@pytest.mark.oldest_and_newest
def test_wrong_heads_are_refused(shop: Server) -> None:
    for heads in ({"shop": "x"}, {"shop": {"x": "0" * 64}}, {"shop": {"1": "abc"}}):
        assert module.run(shop, "pg_audit_info", databases=["shop"], verify=True, heads=heads).get("failed")
