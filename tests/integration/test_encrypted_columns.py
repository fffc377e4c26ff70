# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_encrypted_columns: columns become tokens in place and back, nothing is lost, converted twice or shown, and what would break is refused."""

from __future__ import annotations

import contextlib
import os
import random
import re
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from cryptography.fernet import Fernet

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import field_encryption as fe
from tests.integration import module
from tests.integration.sql import execute, query, session, value

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

ROWS = 2500
TABLE = "app.profiles"
KILLS = int(os.environ.get("BULWARK_ENCRYPTION_KILLS", "21"))  # of each major version


def ssn(number: int) -> str:
    """The plaintext of a row, which no other text of a test has."""
    return f"900-11-{number:05}"


class Ring:
    """A keyring file of the tests, read by cryptography's own Fernet and not by the code under test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys: list[tuple[str, str]] = []
        self.add()

    def add(self) -> None:
        """A new primary key; the ones before are secondary."""
        self.keys = [(Fernet.generate_key().decode(), "primary"), *((key, "secondary") for key, _state in self.keys)]
        self.write()

    def write(self) -> None:
        """The file."""
        self.path.write_text(fe.dump_keyring([fe.Key.from_secret(key, state) for key, state in self.keys]))
        self.path.chmod(0o600)

    @property
    def primary(self) -> str:
        """The id of the primary key."""
        return fe.key_id(self.keys[0][0])

    def read(self, token: str | None) -> str | None:
        """The plaintext of a token, of the primary key alone."""
        return None if token is None else Fernet(self.keys[0][0]).decrypt(token.rpartition(".")[2].encode()).decode()


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / "pii.json")


@pytest.fixture
def shop(cluster: Server) -> Server:
    """A table with plaintext, of which some is null, empty or long."""
    execute(cluster, "CREATE DATABASE shop")
    execute(
        cluster,
        "CREATE SCHEMA app",
        f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, ssn text, phone varchar(20), code text UNIQUE, note text)",
        f"INSERT INTO {TABLE} SELECT n, '900-11-' || lpad(n::text, 5, '0'), '+1-555', n, 'x' FROM generate_series(1, {ROWS}) n",
        f"UPDATE {TABLE} SET ssn = NULL WHERE id % 100 = 0",
        f"UPDATE {TABLE} SET ssn = '' WHERE id = 1",
        f"UPDATE {TABLE} SET ssn = repeat('Ünïcödé \\ '' \"', 5000) WHERE id = 2",
        db="shop",
    )
    return cluster


def run(server: Server, ring: Ring, columns: Any = None, **options: Any) -> module.Result:
    """The module, with the column ssn unless others are given."""
    document = {"shop": {TABLE: columns or {"ssn": {"keyring": "pii"}}}}
    return module.run(server, "pg_encrypted_columns", columns=document, keyring_files={"pii": str(ring.path)}, diff=True, **options)


def done(server: Server, ring: Ring, columns: Any = None, **options: Any) -> module.Result:
    """The module, which has to succeed."""
    result = run(server, ring, columns, **options)
    assert not result.get("failed"), result["msg"]
    return result


def values(server: Server) -> dict[int, str | None]:
    return dict(query(server, f"SELECT id, ssn FROM {TABLE}", db="shop"))


def decrypted(server: Server, ring: Ring) -> dict[int, str | None]:
    return {number: ring.read(token) for number, token in values(server).items()}


@pytest.mark.parametrize("form", ["fernet", "keyed"])
def test_a_column_is_encrypted_once_rotated_and_decrypted(shop: Server, ring: Ring, form: str) -> None:
    before = values(shop)
    columns = {"ssn": {"keyring": "pii", "format": form}}
    announced = run(shop, ring, columns, check=True)
    assert announced["changed"]
    assert values(shop) == before
    result = done(shop, ring, columns)
    assert result["diff"] == announced["diff"]
    assert f"{ROWS - ROWS // 100} of {ROWS} rows encrypted" in result["diff"]["prepared"]
    assert decrypted(shop, ring) == before
    assert all(token is None or token.startswith(f"f1.{ring.primary}.") is (form == "keyed") for token in values(shop).values())
    tokens = values(shop)
    again = done(shop, ring, columns)
    assert not again["changed"]
    assert values(shop) == tokens

    old = ring.primary
    ring.add()
    assert not done(shop, ring, columns)["changed"]
    census = done(shop, ring, columns, state="census")["columns"][0]
    assert (census["keys"], census["plain"], census["null"]) == ({old: ROWS - ROWS // 100}, 0, ROWS // 100)
    assert run(shop, ring, columns, state="rotated", check=True)["changed"]
    assert done(shop, ring, columns, state="rotated")["columns"][0]["keys"] == {ring.primary: ROWS - ROWS // 100}
    assert decrypted(shop, ring) == before
    assert not done(shop, ring, columns, state="rotated")["changed"]

    assert done(shop, ring, columns, state="decrypted")["changed"]
    assert values(shop) == before
    assert not done(shop, ring, columns, state="decrypted")["changed"]


def test_the_mark_is_in_the_comment_and_leaves_what_is_there(shop: Server, ring: Ring) -> None:
    comment = f"SELECT col_description('{TABLE}'::regclass, 2)"
    execute(shop, f"COMMENT ON COLUMN {TABLE}.ssn IS 'what the tax office\nwrites'", db="shop")
    done(shop, ring)
    assert value(shop, comment, db="shop") == "what the tax office\nwrites\nencrypted by bulwark.postgresql: format fernet, keyring pii"
    done(shop, ring, {"ssn": {"keyring": "pii", "format": "keyed"}})
    assert value(shop, comment, db="shop").endswith("format keyed, keyring pii")
    done(shop, ring, state="decrypted")
    assert value(shop, comment, db="shop") == "what the tax office\nwrites"


def test_another_form_keeps_the_values(shop: Server, ring: Ring) -> None:
    before = values(shop)
    done(shop, ring)
    done(shop, ring, {"ssn": {"keyring": "pii", "format": "keyed"}})
    assert all(token is None or token.startswith("f1.") for token in values(shop).values())
    assert done(shop, ring, state="census")["columns"][0]["keys"] == {ring.primary: ROWS - ROWS // 100}
    done(shop, ring)
    assert all(token is None or token.startswith("gAAAA") for token in values(shop).values())
    assert decrypted(shop, ring) == before


def test_plaintext_is_kept_out_when_asked(shop: Server, ring: Ring) -> None:
    columns = {"ssn": {"keyring": "pii", "forbid_plaintext": True}}
    done(shop, ring, columns)
    assert not done(shop, ring, columns)["changed"]
    with pytest.raises(psycopg2.errors.CheckViolation):
        execute(shop, f"INSERT INTO {TABLE} VALUES (0, '900-11-99999')", db="shop")
    token = Fernet(ring.keys[0][0]).encrypt(b"new").decode()
    execute(shop, f"INSERT INTO {TABLE} VALUES (0, '{token}')", f"INSERT INTO {TABLE} VALUES (-1, NULL)", db="shop")
    ring.add()
    done(shop, ring, columns, state="rotated")
    done(shop, ring, columns, state="decrypted")
    execute(shop, f"INSERT INTO {TABLE} VALUES (-2, '900-11-99999')", db="shop")


def test_plaintext_that_comes_later_is_encrypted_by_the_next_run(shop: Server, ring: Ring) -> None:
    done(shop, ring)
    execute(shop, f"INSERT INTO {TABLE} VALUES (9999, '900-11-09999')", db="shop")
    assert done(shop, ring, state="census")["columns"][0]["plain"] == 1
    assert done(shop, ring)["msg"] == "1 rows of 1 column encrypted"
    assert ring.read(values(shop)[9999]) == "900-11-09999"


def test_tokens_of_other_keys_stay_and_are_counted(shop: Server, ring: Ring) -> None:
    other = Fernet(Fernet.generate_key()).encrypt(b"theirs").decode()
    execute(shop, f"UPDATE {TABLE} SET ssn = '{other}' WHERE id = 5", db="shop")
    done(shop, ring)
    assert values(shop)[5] == other
    result = done(shop, ring, state="rotated")
    assert result["columns"][0]["unknown"] == 1
    assert "1 rows are tokens of a key that is not in the keyring pii" in str(result["warnings"])
    done(shop, ring, {"ssn": {"keyring": "pii", "format": "keyed"}})
    assert values(shop)[5] == other
    assert not done(shop, ring, {"ssn": {"keyring": "pii", "format": "keyed"}})["changed"]


def test_a_census_needs_no_key(shop: Server, ring: Ring) -> None:
    done(shop, ring, {"ssn": {"keyring": "pii", "format": "keyed"}})
    document = {"shop": {TABLE: {"ssn": {"keyring": "pii", "format": "keyed"}, "note": {"keyring": "pii"}}}}
    result = module.run(shop, "pg_encrypted_columns", columns=document, state="census")
    assert [each["keys"] for each in result["columns"]] == [{}, {ring.primary: ROWS - ROWS // 100}]
    assert [each["plain"] for each in result["columns"]] == [ROWS, 0]


@pytest.mark.parametrize(
    ("change", "column", "message"),
    [
        ("", "code", "is in a UNIQUE constraint, profiles_code_key, and no two tokens are equal: drop it first"),
        ("", "phone", "is of type character varying(20), and its longest value needs a token of 100 characters"),
        ("", "id", "is of type bigint: a token is text"),
        ("", "snn", 'has no column "snn" (did you mean "ssn"?)'),
        (f"CREATE INDEX later ON {TABLE} (lower(ssn))", "ssn", "has the index app.later, which finds nothing among tokens: drop it, or say accept: [indexes]"),
        (f"CREATE VIEW app.shown AS SELECT ssn FROM {TABLE}", "ssn", "is read by the view app.shown, which would show tokens, or say accept: [views]"),
        (f"ALTER TABLE {TABLE} ADD CHECK (ssn <> 'x')", "ssn", "is in a CHECK constraint, profiles_ssn_check: CHECK ((ssn <> 'x'::text)). Drop it"),
        (f"ALTER TABLE {TABLE} ADD g text GENERATED ALWAYS AS (upper(ssn)) STORED", "ssn", "feeds the generated column g"),
        (f"ALTER TABLE {TABLE} DROP CONSTRAINT profiles_pkey", "ssn", "is in a table without a primary key"),
        (f"CREATE PUBLICATION everything FOR TABLE {TABLE}", "ssn", "is published by everything"),
        (
            f"""CREATE FUNCTION app.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER t BEFORE UPDATE ON {TABLE} FOR EACH ROW EXECUTE FUNCTION app.f()""",
            "ssn",
            "is in a table with the trigger t, which fires for each row that is converted, or say accept: [triggers]",
        ),
        (f"CREATE TABLE app.c (ssn text REFERENCES {TABLE} (code))", "code", "is in a foreign key"),
    ],
)
def test_what_would_break_is_refused_with_its_place(shop: Server, ring: Ring, change: str, column: str, message: str) -> None:
    if change:
        execute(shop, change, db="shop")
    before = values(shop)
    result = run(shop, ring, {column: {"keyring": "pii"}, "note": {"keyring": "pii"}})
    assert result["failed"]
    assert message in result["msg"], result["msg"]
    assert all(mistake["path"].startswith(f'columns.shop["{TABLE}"]') for mistake in result["mistakes"])
    assert values(shop) == before
    assert query(shop, f"SELECT DISTINCT note FROM {TABLE}", db="shop") == [("x",)]


def test_what_is_accepted_is_converted(shop: Server, ring: Ring) -> None:
    execute(shop, f"CREATE INDEX later ON {TABLE} (ssn) WHERE id > {ROWS}", f"CREATE VIEW app.shown AS SELECT ssn FROM {TABLE}", db="shop")
    before = values(shop)
    done(shop, ring, {"ssn": {"keyring": "pii", "accept": ["indexes", "views"]}})
    assert decrypted(shop, ring) == before


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"shop": {TABLE: {"ssn": {}}}}, f'columns.shop["{TABLE}"].ssn.keyring: is required'),
        ({"shop": {TABLE: {"ssn": {"keyring": "pi"}}}}, 'there is no keyring "pi" (did you mean "pii"?)'),
        ({"shop": {TABLE: {"ssn": {"keyring": "pii", "format": "aes"}}}}, '"aes" is not accepted; accepted: fernet, keyed'),
        ({"shop": {TABLE: {"ssn": {"keyring": "pii", "accept": "view"}}}}, '"view" is not accepted (did you mean "views"?)'),
        ({"shop": {"profiles": {"ssn": {"keyring": "pii"}}}}, "columns.shop.profiles: must name schema and table"),
        ({"shop": {TABLE: {}}}, "must name at least one column"),
        ({"shop": {"app.profile": {"ssn": {"keyring": "pii"}}}}, f'there is no table "app.profile" (did you mean "{TABLE}"?)'),
        ({"shopp": {TABLE: {"ssn": {"keyring": "pii"}}}}, 'columns.shopp: there is no database "shopp" (did you mean "shop"?)'),
    ],
)
def test_a_wrong_document_is_refused_with_its_place(shop: Server, ring: Ring, document: Any, message: str) -> None:
    result = module.run(shop, "pg_encrypted_columns", columns=document, keyring_files={"pii": str(ring.path)})
    assert result["failed"]
    assert message in result["msg"], result["msg"]


def test_row_level_security_that_hides_rows_is_refused(shop: Server, ring: Ring) -> None:
    execute(
        shop,
        "CREATE ROLE mover LOGIN; GRANT USAGE ON SCHEMA app TO mover",
        f"ALTER TABLE {TABLE} OWNER TO mover; ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY; ALTER TABLE {TABLE} FORCE ROW LEVEL SECURITY",
        db="shop",
    )
    assert "hides rows from this role" in run(shop, ring, login_user="mover")["msg"]
    execute(shop, "ALTER ROLE mover BYPASSRLS", db="shop")
    before = values(shop)
    assert done(shop, ring, login_user="mover")["changed"]
    assert decrypted(shop, ring) == before


def test_an_audit_log_that_would_keep_the_plaintext_is_refused_until_it_is_masked(shop: Server, ring: Ring) -> None:
    audit: dict[str, Any] = {"shop": {"tables": {"app": ["profiles"]}}}
    assert not module.run(shop, "pg_audit_trail", databases=audit).get("failed")
    assert "is recorded by the audit log (0_audit_update), which would keep each plaintext: mask it there" in run(shop, ring)["msg"]
    for options in ({}, {"changed_columns_only": True}):
        for how in ("mask", "hash", "exclude"):
            masked = {"shop": {**audit["shop"], **options, "mask": {TABLE: {"ssn": how}}}}
            assert not module.run(shop, "pg_audit_trail", databases=masked).get("failed")
            assert "is recorded" not in run(shop, ring, check=True).get("msg", "")
        other = {"shop": {**audit["shop"], **options, "mask": {TABLE: ["note"]}}}
        assert not module.run(shop, "pg_audit_trail", databases=other).get("failed")
        assert "is recorded" in run(shop, ring)["msg"]


def test_an_audit_log_masks_encrypted_columns_by_itself(shop: Server, ring: Ring) -> None:
    columns = {"shop": {TABLE: {"ssn": {"keyring": "pii"}}, "app.other": {"x": {"keyring": "pii"}}}}
    audit: dict[str, Any] = {"shop": {"tables": {"app": ["profiles"]}, "mask": {TABLE: {"note": "hash"}}}}
    for changed in (True, False):
        result = module.run(shop, "pg_audit_trail", databases=audit, encrypted_columns=columns)
        assert not result.get("failed"), result["msg"]
        assert result["changed"] is changed
    done(shop, ring)
    kept = query(shop, "SELECT old_values ->> 'ssn', new_values ->> 'ssn', count(*) FROM audit.audit_log GROUP BY 1, 2 ORDER BY 3", db="shop")
    assert kept == [("***", "*** (changed)", ROWS - ROWS // 100)]


def test_keys_of_every_kind_and_partitions(shop: Server, ring: Ring) -> None:
    execute(
        shop,
        'CREATE TABLE app."P a" ("K" text, at timestamptz, f float8, "S s" text, PRIMARY KEY ("K", at, f)) PARTITION BY LIST ("K")',
        """CREATE TABLE app.p1 PARTITION OF app."P a" FOR VALUES IN ('a', 'A', 'ä')""",
        'CREATE TABLE app.p2 PARTITION OF app."P a" DEFAULT',
        """INSERT INTO app."P a" SELECT k, now() + n * interval '1 us', n / 3.0, 'v' || n
         FROM generate_series(1, 700) n, unnest(ARRAY['a', 'A', 'ä', '''"\\']) k""",
        db="shop",
    )
    shown = 'SELECT "K", at::text, f, "S s" FROM app."P a"'
    before = {row[:3]: row[3] for row in query(shop, shown, db="shop")}
    document = {"shop": {'app."P a"': {"S s": {"keyring": "pii"}}}}
    for _time in range(2):
        result = module.run(shop, "pg_encrypted_columns", columns=document, keyring_files={"pii": str(ring.path)}, page_size=97)
        assert not result.get("failed"), result["msg"]
    assert not result["changed"]
    assert {row[:3]: ring.read(row[3]) for row in query(shop, shown, db="shop")} == before


def test_several_workers_convert_a_large_table(shop: Server, ring: Ring) -> None:
    execute(shop, f"INSERT INTO {TABLE} (id, ssn) SELECT n, '900-11-' || lpad(n::text, 5, '0') FROM generate_series({ROWS + 1}, 30000) n", db="shop")
    before = values(shop)
    done(shop, ring, workers=3, page_size=500)
    assert decrypted(shop, ring) == before


class Writer(threading.Thread):
    """An application that changes rows all the time, encrypting what it writes, and knows what each row holds."""

    def __init__(self, server: Server, ring: Ring, crashes: bool = False) -> None:
        super().__init__(daemon=True)
        self.server, self.ring = server, ring
        self.stopped = threading.Event()
        self.known: dict[int, str] = {}
        self.crashes = crashes
        self.doubtful = (0, "")
        self.failures: list[str] = []

    def run(self) -> None:
        chosen = random.Random(7)
        while not self.stopped.is_set():
            try:
                with session(self.server, "shop") as connection, connection.cursor() as cursor:
                    while not self.stopped.is_set():
                        self._change(cursor, chosen)
                        time.sleep(0.001)
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                if not self.crashes:
                    self.failures.append(str(error))
                time.sleep(0.1)
            except psycopg2.Error as error:
                self.failures.append(str(error))

    def _change(self, cursor: Any, chosen: random.Random) -> None:
        number, text = chosen.randint(3, ROWS), f"written {chosen.random()}"
        token = Fernet(self.ring.keys[0][0]).encrypt(text.encode()).decode()
        if chosen.random() < 0.5:
            cursor.execute(f"UPDATE {TABLE} SET note = note || 'y' WHERE id = %s", (number,))
            return
        self.doubtful = (number, text)  # until the answer is there
        cursor.execute(f"UPDATE {TABLE} SET ssn = %s WHERE id = %s", (token, number))
        self.known[number] = text

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stopped.set()
        self.join()


def kill(server: Server, victim: str, delay: float, options: dict[str, Any]) -> tuple[bool, module.Result | None]:
    """Start a run and kill the victim after a delay; whether it still ran, and the result of a run that came to its end."""
    if victim == "backend":
        killed: list[int] = []
        backends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name ~ '^(bulwark|ssn )' AND pid <> pg_backend_pid()"
        timer = threading.Timer(delay, lambda: killed.append(value(server, backends)))
        timer.start()
        result = module.run(server, "pg_encrypted_columns", **options)
        timer.join()
        return bool(killed[0]), None if result.get("failed") else result
    process = module.started(server, "pg_encrypted_columns", options)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(delay)
    if process.poll() is not None:
        return False, module.finished(process)
    if victim == "module":
        process.kill()
        process.wait()
    else:
        server.crash()
        result = module.finished(process)
        if not result.get("failed"):  # it came to its end just before
            return False, result
    return True, None


@pytest.mark.parametrize("victim", ["module", "backend", pytest.param("server", marks=pytest.mark.oldest_and_newest)])
def test_killed_at_any_moment_beside_a_writer_nothing_is_lost(shop: Server, ring: Ring, victim: str) -> None:
    """Encrypted, and then rotated again and again, until there were enough kills."""
    before = values(shop)
    options: dict[str, Any] = {
        "columns": {"shop": {TABLE: {"ssn": {"keyring": "pii"}}}},
        "keyring_files": {"pii": str(ring.path)},
        "page_size": 50,
        "workers": 2,
    }
    chosen, kills = random.Random(victim), 0
    with Writer(shop, ring, crashes=victim == "server") as writer:
        while kills < KILLS // 3:
            killed, result = kill(shop, victim, chosen.uniform(0.4, 1.0), options)
            kills += killed
            if result is not None and not result.get("failed"):
                options["state"] = "rotated"
                ring.keys = ring.keys[:1]
                ring.add()
        final = module.run(shop, "pg_encrypted_columns", **{**options, "state": "rotated"})
    assert not final.get("failed"), final["msg"]
    assert writer.failures == []
    assert writer.known, "the writer has written nothing"
    found = decrypted(shop, ring)
    number, text = writer.doubtful
    if found.get(number) == text:  # a crash may have come between the commit and its answer
        writer.known[number] = text
    assert found == {**before, **writer.known}


def test_no_plaintext_and_no_key_is_in_logs_views_and_results(mine: Server, ring: Ring) -> None:
    """The server logs everything that it can, and pg_stat_statements keeps everything; reading alone shows no value."""
    mine.restart(log_statement="all", log_min_duration_statement=0, log_parameter_max_length=-1, shared_preload_libraries="pg_stat_statements")
    execute(mine, "CREATE DATABASE shop")
    execute(
        mine,
        "CREATE EXTENSION pg_stat_statements; CREATE SCHEMA app",
        f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, ssn text)",
        f"INSERT INTO {TABLE} SELECT n, (900 + n % 7)::text || '-11-' || lpad(n::text, 5, '0') FROM generate_series(1, {ROWS}) n",
        db="shop",
    )
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.extend(row[0] for row in query(mine, "SELECT query FROM pg_stat_activity WHERE query <> ''"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        results = [done(mine, ring), done(mine, ring, state="rotated"), done(mine, ring, state="decrypted")]
    finally:
        stop.set()
        watcher.join()
    shown = re.compile(r"90\d-11-\d{5}")
    statements = "".join(row[0] for row in query(mine, "SELECT query FROM pg_stat_statements", db="shop"))
    for where, text in {"log": mine.log.read_text(errors="replace"), "activity": "".join(seen), "statements": statements, "results": str(results)}.items():
        assert shown.search(text) is None, where
        assert not any(key in text for key, _state in ring.keys), where


def test_a_standby_says_what_the_primary_needs(mine: Server, ring: Ring) -> None:
    execute(mine, "DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop")
    execute(mine, "CREATE SCHEMA app", f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, ssn text)", f"INSERT INTO {TABLE} VALUES (1, 'x')", db="shop")
    standby = mine.make_standby()
    try:
        result = done(standby, ring)
    finally:
        standby.remove()
    assert not result["changed"]
    assert result["msg"] == "skipped: in recovery; the primary needs 1 rows of 1 column encrypted"


INDEXED = {"ssn": {"keyring": "pii", "blind_index": "digits"}}


def entries(server: Server) -> dict[int, str | None]:
    """The blind index by row."""
    return dict(query(server, f"SELECT id, ssn_index FROM {TABLE}", db="shop"))


def expected(ring: Ring, plain: dict[int, str | None]) -> dict[int, str | None]:
    """What the blind index must hold, by the file that applications use."""
    keyring = fe.Keyring([fe.Key.from_secret(ring.keys[0][0])])
    return {number: None if text is None else keyring.blind_index(text, f"{TABLE}.ssn", "digits") for number, text in plain.items()}


def found(server: Server, values: list[str]) -> list[int]:
    """The rows that an application finds, and that the server finds by an index."""
    with session(server, "shop") as connection, connection.cursor() as cursor:
        cursor.execute("SET enable_seqscan = off")
        cursor.execute(f"EXPLAIN SELECT id FROM {TABLE} WHERE ssn_index = ANY (%s)", (values,))
        assert "Seq Scan" not in str(cursor.fetchall())
        cursor.execute(f"SELECT id FROM {TABLE} WHERE ssn_index = ANY (%s)", (values,))
        return [number for (number,) in cursor.fetchall()]


@pytest.mark.parametrize("form", ["fernet", "keyed"])
def test_a_blind_index_is_made_rotated_and_taken_away_with_its_column(shop: Server, ring: Ring, form: str) -> None:
    document = {"ssn": {**INDEXED["ssn"], "format": form}}
    plain = values(shop)
    first = done(shop, ring, document)
    assert first["changed"] is True
    assert decrypted(shop, ring) == plain
    assert entries(shop) == expected(ring, plain)
    for check in (True, False):
        assert done(shop, ring, document, check=check)["changed"] is False
    keyring = fe.Keyring.from_file(ring.path)
    assert found(shop, keyring.blind_indexes("900 11 00042", f"{TABLE}.ssn", "digits")) == [42]

    token = keyring.encrypt("900-11-99999")  # by an application that knows nothing of the index yet
    execute(shop, f"UPDATE {TABLE} SET ssn = '{token}', ssn_index = NULL WHERE id = 7", db="shop")
    plain[7] = "900-11-99999"
    assert done(shop, ring, document)["msg"].startswith("1 rows of 1 column")
    assert entries(shop) == expected(ring, plain)

    ring.add()
    both = fe.Keyring.from_file(ring.path).blind_indexes("900-11-00042", f"{TABLE}.ssn", "digits")
    assert found(shop, both) == [42]
    assert done(shop, ring, document)["changed"] is False, "an older key still reads"
    assert done(shop, ring, document, state="rotated")["changed"] is True
    assert decrypted(shop, ring) == plain
    assert entries(shop) == expected(ring, plain)
    assert found(shop, both) == [42]
    assert done(shop, ring, document, state="rotated")["changed"] is False
    assert done(shop, ring, document, state="decrypted")["changed"] is True
    assert values(shop) == plain
    assert query(shop, f"SELECT count(*) FROM pg_attribute WHERE attrelid = '{TABLE}'::regclass AND attname = 'ssn_index'", db="shop") == [(0,)]
    assert done(shop, ring, document, state="decrypted")["changed"] is False


def test_a_blind_index_comes_to_a_column_that_is_encrypted_and_another_normalizer_replaces_it(shop: Server, ring: Ring) -> None:
    plain = values(shop)
    done(shop, ring, {"ssn": {"keyring": "pii"}})
    tokens = dict(query(shop, f"SELECT id, ssn FROM {TABLE}", db="shop"))
    done(shop, ring, INDEXED)
    assert entries(shop) == expected(ring, plain)
    assert dict(query(shop, f"SELECT id, ssn FROM {TABLE}", db="shop")) == tokens
    exact = {"ssn": {"keyring": "pii", "blind_index": "exact"}}
    assert done(shop, ring, exact)["changed"] is True
    assert all(entry is None or entry.startswith("be1.") for entry in entries(shop).values())
    assert done(shop, ring, exact)["changed"] is False


def test_an_index_that_was_left_invalid_is_made_anew(shop: Server, ring: Ring) -> None:
    done(shop, ring, INDEXED)
    execute(shop, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'app.profiles_ssn_index_idx'::regclass", db="shop")
    assert done(shop, ring, INDEXED)["changed"] is True
    assert query(shop, "SELECT count(*) FROM pg_index WHERE indrelid = 'app.profiles'::regclass AND NOT indisvalid", db="shop") == [(0,)]
    assert done(shop, ring, INDEXED)["changed"] is False


@pytest.mark.parametrize(
    ("change", "column", "options", "message"),
    [
        ("SELECT 1", "phone", {}, "has 1 different values in 2500 rows: equal values have equal entries"),
        (f"ALTER TABLE {TABLE} ADD COLUMN ssn_index bigint", "ssn", {}, "has its blind index in ssn_index, which is of type bigint: rename that column"),
        ("SELECT 1", "ssn", {"blind_index": "phone"}, '"phone" is not accepted'),
    ],
)
def test_a_blind_index_that_would_tell_too_much_or_cannot_be_is_refused(
    shop: Server, ring: Ring, change: str, column: str, options: dict[str, str], message: str
) -> None:
    execute(shop, f"ALTER TABLE {TABLE} ALTER COLUMN phone TYPE text", change, db="shop")
    document = {column: {"keyring": "pii", "blind_index": "digits", **options}}
    before = values(shop)
    for check in (True, False):
        result = run(shop, ring, document, check=check)
        assert result.get("failed"), result
        assert message in result["msg"]
    assert values(shop) == before
    if column == "phone":
        assert done(shop, ring, {column: {"keyring": "pii", "blind_index": "digits", "accept": ["few_values"]}})["changed"] is True


def test_tokens_of_an_unknown_key_cannot_be_indexed(shop: Server, ring: Ring) -> None:
    stranger = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
    execute(shop, f"UPDATE {TABLE} SET ssn = '{stranger}' WHERE id = 5", db="shop")
    result = run(shop, ring, INDEXED)
    assert result.get("failed"), result
    assert "has 1 tokens of a key that is not in the keyring pii, which cannot be indexed" in result["msg"]
