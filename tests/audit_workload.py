# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A random workload on tables of every shape, and the replay of the audit log onto the rows that were there before it.

The replay reads the view audit_log and nothing else of the collection: it keeps the rows of each table as Python data, and what it comes to
is compared with what the tables hold in the end.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2

from tests.integration.sql import execute, ident, query

if TYPE_CHECKING:
    from collections.abc import Sequence

DATABASE = "shop"
USERS = ("app_service", "migration_user")

SETUP = (
    "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app_service, migration_user",
    "CREATE TABLE app.plain (id bigint PRIMARY KEY, a numeric, b text, c jsonb, d timestamptz, e float8)",
    'CREATE TABLE app."Pair ""P""" (x text, y int, "v v" text, PRIMARY KEY (x, y))',
    "CREATE TABLE app.ids (id uuid PRIMARY KEY, n int)",
    "CREATE TABLE app.parts (id int, n int, v text, PRIMARY KEY (id, n)) PARTITION BY RANGE (n)",
    "CREATE TABLE app.parts_low PARTITION OF app.parts FOR VALUES FROM (MINVALUE) TO (10)",
    "CREATE TABLE app.parts_mid (v text, gone int, n int NOT NULL, id int NOT NULL); ALTER TABLE app.parts_mid DROP COLUMN gone",
    "ALTER TABLE app.parts ATTACH PARTITION app.parts_mid FOR VALUES FROM (10) TO (20)",
    "CREATE TABLE app.parts_high PARTITION OF app.parts DEFAULT PARTITION BY HASH (id)",
    "CREATE TABLE app.parts_high_0 PARTITION OF app.parts_high FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
    "CREATE TABLE app.parts_high_1 PARTITION OF app.parts_high FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    "CREATE TABLE app.loose (v text, n int)",
    "CREATE TABLE app.parent (id int PRIMARY KEY, n int)",
    "CREATE TABLE app.child (id int PRIMARY KEY, parent int REFERENCES app.parent ON UPDATE CASCADE ON DELETE CASCADE, n int)",
    "CREATE TABLE app.chain (id int PRIMARY KEY, above int REFERENCES app.chain ON UPDATE CASCADE ON DELETE SET NULL, n int)",
    "CREATE TABLE app.base (id int PRIMARY KEY, n int); CREATE TABLE app.derived (id int PRIMARY KEY, more text) INHERITS (app.base)",
    "CREATE TABLE app.touched (id int PRIMARY KEY, n int, total int NOT NULL DEFAULT 0)",
    """CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
 IF NEW.total < 3 THEN UPDATE app.touched SET total = total + 1 WHERE id = NEW.id; END IF; RETURN NULL; END $$""",
    "CREATE TRIGGER a_touch AFTER INSERT OR UPDATE ON app.touched FOR EACH ROW EXECUTE FUNCTION app.touch()",
    "CREATE FUNCTION app.quiet() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.n % 7 = 0 THEN RETURN NULL; END IF; RETURN NEW; END $$",
    "CREATE TRIGGER quiet BEFORE INSERT OR UPDATE ON app.ids FOR EACH ROW EXECUTE FUNCTION app.quiet()",
    "GRANT ALL ON ALL TABLES IN SCHEMA app TO app_service, migration_user",
)
KEYS = {
    "plain": ("id",), 'Pair "P"': ("x", "y"), "ids": ("id",), "parts": ("id", "n"), "parent": ("id",), "child": ("id",), "chain": ("id",), "touched": ("id",),
    "base": ("id",), "derived": ("id",), "loose": None,
}  # fmt: skip
PARTITIONS = {"app.parts_low": lambda row: int(row["n"]) < 10, "app.parts_mid": lambda row: 10 <= int(row["n"]) < 20}

POLICY: dict[str, Any] = {DATABASE: {"tables": ["app"]}}

Row = dict[str, Any]


def rows_of(server: Any) -> dict[str, list[Row]]:
    """The rows of each table, as the server shows them."""
    found = {}
    for table in KEYS:
        name = ("" if table == "parts" else "ONLY ") + "app." + ident(table)
        found[table] = [_parsed(text) for (text,) in query(server, f"SELECT to_jsonb(t.*)::text FROM {name} t", db=DATABASE)]
    return found


def _parsed(text: str) -> Row:
    # Numbers as they are written: 1.50 is not 1.5.
    return json.loads(text, parse_float=str, parse_int=str)


@dataclass
class Replay:
    """The rows that the log leads to."""

    tables: dict[str, list[Row]]
    changed_only: bool = False

    def apply(self, table: str, action: str, partition: str | None, record: str | None, old: str | None, new: str | None) -> None:
        """One record of the log. Raises AssertionError where the row that it speaks of is not there."""
        rows = self.tables[table]
        if action == "TRUNCATE":
            holds = PARTITIONS.get(partition or "", (lambda _row: True) if partition is None else None)
            if holds is not None:
                rows[:] = [row for row in rows if not holds(row)]
            elif partition is not None and partition.startswith("app.parts_high"):
                rows[:] = [row for row in rows if int(row["n"]) < 20 or partition != "app.parts_high"]
            return
        if action in ("UPDATE", "DELETE"):
            position = self._position(table, record, _parsed(old or ""), action)
            before = rows.pop(position)
            if action == "UPDATE":
                rows.append({**before, **_parsed(new or "")} if self.changed_only else _parsed(new or ""))
        else:
            rows.append(_parsed(new or ""))

    def _position(self, table: str, record: str | None, old: Row, action: str) -> int:
        rows = self.tables[table]
        if self.changed_only and action == "UPDATE" and KEYS[table]:
            found = [n for n, row in enumerate(rows) if self._key(table, row) == record]
            assert len(found) == 1, (table, record, found)
            assert old.items() <= rows[found[0]].items(), (table, record, old, rows[found[0]])
            return found[0]
        if self.changed_only and action == "UPDATE":
            return next(n for n, row in enumerate(rows) if old.items() <= row.items())
        assert old in rows, (table, action, record, old)
        return rows.index(old)

    def _key(self, table: str, row: Row) -> str:
        keys = KEYS[table] or ()
        return row[keys[0]] if len(keys) == 1 else json.dumps([row[key] for key in keys])


def replayed(server: Any, before: dict[str, list[Row]], changed_only: bool = False) -> dict[str, list[Row]]:
    """What the log makes of the rows that were there before."""
    replay = Replay({table: list(rows) for table, rows in before.items()}, changed_only)
    log = "SELECT table_name, action, partition_name, record_id, old_values::text, new_values::text FROM audit.audit_log ORDER BY id"
    for record in query(server, log, db=DATABASE):
        replay.apply(*record)
    return replay.tables


def differences(one: dict[str, list[Row]], two: dict[str, list[Row]]) -> list[str]:
    """Where the rows of two databases differ."""

    def counted(rows: list[Row]) -> Counter[str]:
        return Counter(json.dumps(row, sort_keys=True) for row in rows)

    return [
        f"{table}: {counted(one[table]) - counted(two[table])} {counted(two[table]) - counted(one[table])}"
        for table in KEYS
        if counted(one[table]) != counted(two[table])
    ]


# The workload


@dataclass
class Workload:
    """Statements of several sessions at random. seed: the same one gives the same statements; major: MERGE is there from 15 on."""

    seed: int
    major: int
    truncates: bool = True
    refused: int = 0
    done: int = 0
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def run(self, server: Any, statements: int) -> None:
        """Execute this many statements. Those that a constraint or a lock refuses end their transaction and are counted."""
        sessions = [psycopg2.connect(host=server.host, port=server.port, user=user, dbname=DATABASE) for user in (*USERS, *USERS)]
        try:
            for session in sessions:
                with session.cursor() as cursor:
                    cursor.execute("SET lock_timeout = '5ms'")
                session.commit()
            while self.done + self.refused < statements:
                self._step(self.random.choice(sessions))
            for session in sessions:
                session.commit()
        finally:
            for session in sessions:
                session.close()

    def _step(self, session: Any) -> None:
        with session.cursor() as cursor:
            try:
                for statement in self._statements():
                    cursor.execute(statement)
                self.done += 1
            except psycopg2.Error:
                self.refused += 1
                session.rollback()
                return
        if self.random.random() < 0.4:
            (session.commit if self.random.random() < 0.85 else session.rollback)()

    def _statements(self) -> Sequence[str]:
        chance = self.random.random()
        if chance < 0.06:
            return ("SAVEPOINT s", self._one(), self._one(), "ROLLBACK TO SAVEPOINT s")
        if chance < 0.1:
            return ("SAVEPOINT s", self._one(), "RELEASE SAVEPOINT s")
        if chance < 0.13:
            return (f"DO $do$ BEGIN {self._one()}; {self._one()}; END $do$",)
        if chance < 0.2:
            return (f"SELECT set_config('app.current_user', '{self.random.choice(('alice', '', 'bob'))}', true)", self._one())
        return (self._one(),)

    def _one(self) -> str:
        pick, r = self.random.choice, self.random
        i, j, n = r.randrange(40), r.randrange(40), r.randrange(30)
        kinds = [
            f"INSERT INTO app.plain SELECT g, {n}.5, 'b' || g, '{{\"k\": {n}}}', now(), g / 3.0 FROM generate_series({i}, {i + 3}) g ON CONFLICT DO NOTHING",
            f"INSERT INTO app.plain VALUES ({i}, {n}, 'new', NULL, NULL, 'NaN') ON CONFLICT (id) DO UPDATE SET a = excluded.a + 1, b = plain.b || '+'",
            f"UPDATE app.plain SET a = a + 0.10, d = now() WHERE id % 5 = {n % 5}",
            f"UPDATE app.plain SET b = b WHERE id = {i}",
            f"UPDATE app.plain SET id = id + 100 WHERE id = {i}",
            f"UPDATE app.plain SET id = id - 100 WHERE id >= 100 AND id % 3 = {n % 3}",
            f"DELETE FROM app.plain WHERE id = {i}",
            f'INSERT INTO app."Pair ""P""" SELECT \'k\'\'"\\{n % 5}\', g, \'v\' FROM generate_series({i}, {i + 2}) g ON CONFLICT DO NOTHING',
            f'UPDATE app."Pair ""P""" SET y = y + 50, "v v" = \'moved\' WHERE y = {i}',
            'DELETE FROM app."Pair ""P""" WHERE y > 45',
            f"INSERT INTO app.ids SELECT gen_random_uuid(), g FROM generate_series({i}, {i + 2}) g",
            f"UPDATE app.ids SET n = n + 1 WHERE n = {i}",
            f"DELETE FROM app.ids WHERE n = {i}",
            f"INSERT INTO app.parts VALUES ({i}, {n}, 'p'), ({j}, {n + 3}, 'q') ON CONFLICT DO NOTHING",
            f"INSERT INTO app.parts_mid (id, n, v) VALUES ({i}, {10 + n % 10}, 'direct') ON CONFLICT DO NOTHING",
            f"UPDATE app.parts SET n = {n}, v = v || 'm' WHERE id = {i}",
            f"UPDATE app.parts_low SET v = 'low' WHERE id = {i}",
            f"DELETE FROM app.parts_high WHERE id % 4 = {n % 4}",
            f"DELETE FROM app.parts WHERE id = {i}",
            f"INSERT INTO app.loose VALUES ('l', {n}), ('l', {n}), (NULL, NULL)",
            f"UPDATE app.loose SET v = v || 'x', n = n + 1 WHERE n = {n}",
            f"DELETE FROM app.loose WHERE n = {n}",
            f"INSERT INTO app.parent SELECT g, {n} FROM generate_series({i}, {i + 1}) g ON CONFLICT DO NOTHING",
            f"INSERT INTO app.child SELECT g, p.id, {n} FROM generate_series({j}, {j + 2}) g, app.parent p WHERE p.id = {i} ON CONFLICT DO NOTHING",
            f"UPDATE app.parent SET id = id + 200 WHERE id = {i}",
            f"DELETE FROM app.parent WHERE id = {i} OR id > 220",
            f"INSERT INTO app.chain VALUES ({i}, {i}, {n}) ON CONFLICT DO NOTHING",
            f"UPDATE app.chain SET id = id + 300 WHERE id = {i}",
            f"DELETE FROM app.chain WHERE id = {i} OR id > 330",
            f"INSERT INTO app.base VALUES ({i}, {n}) ON CONFLICT DO NOTHING",
            f"INSERT INTO app.derived VALUES ({i + 100}, {n}, 'more') ON CONFLICT DO NOTHING",
            f"UPDATE app.base SET n = n + 1 WHERE id % 10 = {n % 10}",
            f"DELETE FROM app.base WHERE id % 20 = {i % 20}",
            f"INSERT INTO app.touched VALUES ({i}, {n}) ON CONFLICT DO NOTHING",
            f"UPDATE app.touched SET n = {n}, total = 0 WHERE id % 6 = {n % 6}",
            f"DELETE FROM app.touched WHERE id = {i}",
            f"WITH gone AS (DELETE FROM app.loose WHERE n < {n % 4} RETURNING *) INSERT INTO app.loose SELECT 'again', n + 20 FROM gone",
        ]
        if self.major >= 15:
            kinds.append(
                f"MERGE INTO app.plain p USING (SELECT generate_series({i}, {i + 3}) AS id) s ON p.id = s.id WHEN MATCHED AND p.id % 2 = 0 THEN DELETE"
                f" WHEN MATCHED THEN UPDATE SET b = 'merged' WHEN NOT MATCHED THEN INSERT (id, b) VALUES (s.id, 'by merge')"
            )
        if self.truncates and r.random() < 0.01:
            return pick(
                [
                    "TRUNCATE app.loose",
                    "TRUNCATE app.parts_low",
                    "TRUNCATE app.parts",
                    "TRUNCATE app.parent CASCADE",
                    "TRUNCATE app.derived",
                    "TRUNCATE app.parts_high",
                ]
            )
        return pick(kinds)


def prepare(server: Any) -> None:
    """The roles, the database and its tables."""
    execute(server, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in USERS))
    execute(server, *SETUP, db=DATABASE)
