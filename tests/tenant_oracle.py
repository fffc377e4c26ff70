# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random statements as each of fifty tenants, compared with the same statements on the tables of everything with a plain WHERE.

The oracle is a session of the superuser: of reading, the very same query over common table expressions that hold the rows of one tenant; of writing,
the statement with the tenant's condition added. What the collection writes is not looked at. A leak is any difference, and any row of another tenant
that a statement has changed.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import psycopg2

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANTS = 50
SETTING = "app.tenant"
ROLE = "app_service"

# Kinds of keys: the type, and the key of a tenant.
KEYS = {
    "bigint": ("bigint", lambda number: str(number * 10**14)),
    "uuid": ("uuid", lambda number: f"00000000-0000-4000-8000-{number:012x}"),
    "text": ("varchar(40)", lambda number: f"tenant '{number}'"),
}


def literal(text: str) -> str:
    """A quoted literal."""
    return "'" + text.replace("'", "''") + "'"


def schema(kind: str, major: int) -> list[str]:
    """The statements that make the tables of one kind of key, with their rows."""
    of_type, key = KEYS[kind]
    tenants = ", ".join(f"({number}, {literal(key(number))}::{of_type})" for number in range(1, TENANTS + 1))
    invoker = " WITH (security_invoker)" if major >= 15 else ""
    statements = [
        f"CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO {ROLE}",
        f"CREATE TABLE app.orders (id int PRIMARY KEY, tenant_id {of_type} NOT NULL, amount int, state text)",
        f"CREATE TABLE app.events (id int, tenant_id {of_type} NOT NULL, day date, amount int) PARTITION BY RANGE (day)",
        "CREATE TABLE app.events_old PARTITION OF app.events FOR VALUES FROM (MINVALUE) TO ('2026-01-01')",
        "CREATE TABLE app.events_new PARTITION OF app.events FOR VALUES FROM ('2026-01-01') TO (MAXVALUE)",
        "CREATE TABLE app.items (id int PRIMARY KEY, order_id int NOT NULL REFERENCES app.orders ON DELETE CASCADE, amount int)",
        f"CREATE TABLE tenants (number int, key {of_type}); INSERT INTO tenants VALUES {tenants}",
        "INSERT INTO app.orders SELECT 100 * number + n, key, (number * n) % 17, 'open' FROM tenants, generate_series(1, 8) n",
        "INSERT INTO app.events SELECT 100 * number + n, key, date '2025-12-28' + n, n FROM tenants, generate_series(1, 8) n",
        "INSERT INTO app.items SELECT 10 * id + n, id, n FROM app.orders, generate_series(1, 2) n",
        "CREATE INDEX ON app.orders (tenant_id); CREATE INDEX ON app.events (tenant_id); CREATE INDEX ON app.items (order_id)",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO {ROLE}",
        "CREATE FUNCTION app.total() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT coalesce(sum(amount), 0) FROM app.orders'",
    ]
    if invoker:
        statements.append(f"CREATE VIEW app.open_orders{invoker} AS SELECT * FROM app.orders WHERE state = 'open'; GRANT SELECT ON app.open_orders TO {ROLE}")
    return statements


TENANCY: dict[str, Any] = {
    "setting": SETTING,
    "column": "tenant_id",
    "schemas": ["app"],
    "roles": [ROLE],
    "parents": {"app": {"items": "orders"}},
}


def _own(tenant: str) -> str:
    """The rows of one tenant, under the names of the tables."""
    orders = f"SELECT * FROM app.orders WHERE tenant_id = {tenant}"
    events = f"SELECT * FROM app.events WHERE tenant_id = {tenant}"
    return (
        f"WITH orders AS ({orders}), events AS ({events}), items AS (SELECT i.* FROM app.items i WHERE i.order_id IN (SELECT id FROM orders)),"
        f" events_old AS (SELECT * FROM events WHERE day < '2026-01-01'), events_new AS (SELECT * FROM events WHERE day >= '2026-01-01'),"
        " open_orders AS (SELECT * FROM orders WHERE state = 'open') "
    )


class Mill:
    """Makes random statements. major: some kinds exist from a version on."""

    def __init__(self, seed: int, major: int, kind: str) -> None:
        self._random = random.Random(f"{seed} {kind}")
        self._major = major
        self._key = KEYS[kind][1]

    def tenant(self) -> str:
        """The key of some tenant."""
        return self._key(self._random.randint(1, TENANTS))

    def _id(self) -> int:
        return 100 * self._random.randint(1, TENANTS) + self._random.randint(1, 9)

    def _condition(self, alias: str = "") -> str:
        dot = f"{alias}." if alias else ""
        choice = self._random.choice
        return choice(
            [
                "true",
                f"{dot}id = {self._id()}",
                f"{dot}id > {self._id()}",
                f"{dot}amount % {self._random.randint(2, 5)} = 0",
                f"{dot}amount BETWEEN 1 AND {self._random.randint(1, 12)} OR {dot}id < {self._id()}",
                f"NOT ({dot}id IN ({self._id()}, {self._id()}))",
                f"{dot}id IN (SELECT id FROM orders WHERE amount > {self._random.randint(0, 9)})",
                f"EXISTS (SELECT FROM events e WHERE e.id > {dot}id)",
            ]
        )

    def query(self) -> str:
        """A query over the tables by their bare names, with one row and one column for an answer."""
        tables = ["orders", "events", "items", "events_old", "events_new", *(["open_orders"] if self._major >= 15 else [])]
        one, two = self._random.choice(tables), self._random.choice(tables)
        rows = self._random.choice(
            [
                f"SELECT a.* FROM {one} a WHERE {self._condition('a')}",
                f"SELECT count(*), sum(a.amount), min(a.id), max(a.id) FROM {one} a WHERE {self._condition('a')}",
                f"SELECT a.id, b.id FROM {one} a JOIN {two} b ON a.id % 100 = b.id % 100 WHERE {self._condition('a')}",
                f"SELECT a.id, b.id FROM {one} a LEFT JOIN {two} b ON a.id = b.id AND {self._condition('b')}",
                f"SELECT a.id, b.id FROM {one} a FULL JOIN {two} b ON a.id = b.id",
                f"SELECT a.amount, count(*) FROM {one} a GROUP BY 1 HAVING count(*) > {self._random.randint(0, 3)}",
                f"SELECT a.id, sum(a.amount) OVER (ORDER BY a.id) FROM {one} a WHERE {self._condition('a')}",
                f"SELECT id FROM {one} EXCEPT SELECT id FROM {two}",
                f"SELECT id FROM {one} UNION ALL SELECT id FROM {two}",
                f"SELECT a.id, (SELECT max(b.amount) FROM {two} b WHERE b.id > a.id) FROM {one} a",
                f"SELECT a.id FROM {one} a ORDER BY a.id DESC LIMIT {self._random.randint(1, 9)} OFFSET {self._random.randint(0, 3)}",
                f"SELECT DISTINCT ON (a.amount) a.amount, a.id FROM {one} a ORDER BY a.amount, a.id",
                f"SELECT a.id, l.n FROM {one} a, LATERAL (SELECT count(*) AS n FROM {two} b WHERE b.id < a.id) l",
                f"SELECT EXISTS (SELECT FROM {one} a WHERE {self._condition('a')})",
            ]
        )
        return f"SELECT md5(string_agg(r::text, ',' ORDER BY r::text)), count(*) FROM ({rows}) r"

    def write(self, tenant: str) -> tuple[str, str | None]:
        """A statement that writes, and the same with the tenant's condition; None where the role has to be refused, or the server itself refuses."""
        own = literal(tenant)
        other = self.tenant()
        amount = self._random.randint(0, 30)
        items = f"order_id IN (SELECT id FROM app.orders WHERE tenant_id = {own})"
        table = self._random.choice(["orders", "events", "events_new"])
        # A condition without sub-selects, which would have to be fenced, too.
        where = self._random.choice(["true", f"id = {self._id()}", f"id > {self._id()}", f"amount < {amount}"])
        number, free = self._id(), 200000 + self._random.randint(1, 9999)
        mine = other == tenant
        joined = f"UPDATE app.orders o SET amount = o.amount + e.amount FROM app.events e WHERE e.id = o.id AND o.amount < {amount}"
        kinds = [
            (f"UPDATE app.{table} SET amount = {amount} WHERE {where}", f"UPDATE app.{table} SET amount = {amount} WHERE ({where}) AND tenant_id = {own}"),
            (f"DELETE FROM app.{table} WHERE {where}", f"DELETE FROM app.{table} WHERE ({where}) AND tenant_id = {own}"),
            (f"UPDATE app.items SET amount = {amount} WHERE {where}", f"UPDATE app.items SET amount = {amount} WHERE ({where}) AND {items}"),
            (f"DELETE FROM app.items WHERE {where}", f"DELETE FROM app.items WHERE ({where}) AND {items}"),
            (insert := f"INSERT INTO app.orders VALUES ({free}, {literal(other)}, 1, 'new')", insert if mine else None),
            (insert := f"INSERT INTO app.events_new VALUES ({free}, {own}, '2026-06-01', 1)", insert),
            (f"INSERT INTO app.items SELECT {free}, {number}, 1", f"INSERT INTO app.items SELECT {free}, {number}, 1 /* parent */"),
            (joined, f"{joined} AND o.tenant_id = {own} AND e.tenant_id = {own}"),
            (f"UPDATE app.events SET day = day + 5 WHERE {where}", f"UPDATE app.events SET day = day + 5 WHERE ({where}) AND tenant_id = {own}"),
        ]
        return self._random.choice(kinds)


def differences(connection: Any, kind: str, major: int, seed: int, statements: int) -> Iterator[str]:
    """The statements that show or change other rows than they should. connection: the superuser's, to the database with the tables."""
    mill = Mill(seed, major, kind)
    connection.autocommit = False
    with connection.cursor() as cursor:
        for number in range(statements):
            tenant = mill.tenant()
            if number % 3:
                yield from _read(cursor, tenant, mill.query())
            else:
                yield from _write(cursor, tenant, *mill.write(tenant))
            connection.rollback()


def _become(cursor: Any, tenant: str) -> None:
    cursor.execute("SELECT set_config(%s, %s, true)", (SETTING, tenant))
    cursor.execute(f"SET LOCAL ROLE {ROLE}; SET LOCAL search_path = app")


def _read(cursor: Any, tenant: str, query: str) -> Iterator[str]:
    cursor.execute(_own(literal(tenant)) + query)
    expected = cursor.fetchone()
    _become(cursor, tenant)
    cursor.execute(query)
    if cursor.fetchone() != expected:
        yield f"{tenant}: {query}"
    cursor.execute("SELECT app.total()")
    total = cursor.fetchone()
    cursor.execute("RESET ROLE")
    cursor.execute(f"SELECT coalesce(sum(amount), 0) FROM app.orders WHERE tenant_id = {literal(tenant)}")
    if cursor.fetchone() != total:
        yield f"{tenant}: app.total()"


_STATE = """SELECT md5(string_agg(r, ',' ORDER BY r)) FROM (SELECT 'o' || o::text FROM app.orders o UNION ALL SELECT 'e' || e::text FROM app.events e
 UNION ALL SELECT 'i' || i::text FROM app.items i) x(r)"""


def _outcome(cursor: Any, statement: str) -> tuple[str, Any]:
    """The state after a statement, or the SQLSTATE of its refusal."""
    try:
        cursor.execute(statement)
    except psycopg2.Error as error:
        return "refused", error.pgcode
    cursor.execute("RESET ROLE")
    cursor.execute(_STATE)
    return "done", cursor.fetchone()[0]


def _write(cursor: Any, tenant: str, statement: str, plain: str | None) -> Iterator[str]:
    expected: tuple[str, Any] = ("refused", "42501")
    if plain is not None:
        cursor.execute("SAVEPOINT plain")
        expected = _outcome(cursor, plain)
        cursor.execute("ROLLBACK TO SAVEPOINT plain")
        if plain.endswith("/* parent */") and expected[0] == "done":
            order = int(plain.split(",")[1])
            cursor.execute(f"SELECT FROM app.orders WHERE id = {order} AND tenant_id = {literal(tenant)}")
            if cursor.fetchone() is None:
                expected = ("refused", "42501")
    _become(cursor, tenant)
    found = _outcome(cursor, statement)
    # An order that is not there is refused by the policy before the foreign key is looked at.
    if found != expected and not (found == ("refused", "42501") and expected == ("refused", "23503")):
        yield f"{tenant}: {statement}: {found}, expected {expected}"
