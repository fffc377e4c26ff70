# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What row-level security costs, as ratios measured in one run on one machine.

    bench/row_security.py                      all claims on PostgreSQL 18
    bench/row_security.py where                some of them
    bench/row_security.py --major 15 look      on another major

where    1,000,000 rows of 100 tenants: statements under our policies against the same with a WHERE by hand, without row-level security
textbook the usual policy, tenant_id = current_setting('app.current_tenant_id')::bigint, against ours, with an index and without
look     a run that changes nothing, on 5,000 tables with policies
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import psycopg2

from bench import claims
from tests import servers
from tests.integration import module
from tests.integration.sql import execute, value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROUNDS = 40
TENANT = 42
SETTING = "app.current_tenant_id"
LOOK_LIMIT_SECONDS = 3.0
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "max_parallel_workers_per_gather": "0", "jit": "off"}
TABLES = ("plain", "ours", "textbook")

# The statements, with {t} for the table and {own} for the condition that row-level security makes needless.
STATEMENTS = {
    "SELECT by tenant": "SELECT * FROM app.{t} WHERE true{own}",
    "aggregate": "SELECT state, count(*), sum(amount) FROM app.{t} WHERE true{own} GROUP BY state",
    "join": "SELECT count(*) FROM app.{t} JOIN app.parts p ON p.id = {t}.id % 1000 WHERE p.weight > 5{own}",
    "update": "UPDATE app.{t} SET amount = amount + 1 WHERE state = 'open'{own}",
    "insert": "INSERT INTO app.{t} SELECT 2000000 + n, 42, 'new', n, 'a note' FROM generate_series(1, 2000) n",
}
PREPARE = "PREPARE look_{t} (bigint) AS SELECT note FROM app.{t} WHERE id = $1{own}"
ONE = "EXECUTE look_{t}(420007)"
LOOK_UP = """DO $$ DECLARE found text; BEGIN FOR n IN 1..20000 LOOP
 SELECT note INTO found FROM app.{t} WHERE id = 420000 + n % 10000{own}; END LOOP; END $$"""


def load(server: servers.Server) -> None:
    """Three tables with the same million rows: without row-level security, with ours, with the usual policy."""
    execute(server, "CREATE ROLE app_service LOGIN", "CREATE DATABASE shop")
    execute(server, "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app_service", "CREATE TABLE app.parts (id int PRIMARY KEY, weight int)", db="shop")
    state = "(ARRAY['open', 'paid'])[1 + n % 2]"
    for table in TABLES:
        execute(
            server,
            f"CREATE TABLE app.{table} (id bigint PRIMARY KEY, tenant_id bigint NOT NULL, state text, amount int, note text)",
            f"INSERT INTO app.{table} SELECT n, n / 10000, {state}, n % 97, 'a note of some length ' || n FROM generate_series(0, 999999) n",
            f"CREATE INDEX ON app.{table} (tenant_id)",
            db="shop",
        )
    execute(
        server,
        "INSERT INTO app.parts SELECT n, n % 10 FROM generate_series(0, 999) n",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO app_service",
        "ALTER TABLE app.textbook ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY isolation ON app.textbook USING (tenant_id = current_setting('{SETTING}')::bigint)",
        db="shop",
    )
    tenancy = {"setting": SETTING, "column": "tenant_id", "schemas": {"app": ["ours"]}, "roles": ["app_service"]}
    result = module.run(server, "pg_row_security", databases={"shop": {"tenancy": tenancy}})
    if result.get("failed"):
        raise RuntimeError(result["msg"])
    execute(server, "VACUUM ANALYZE", db="shop")


def on(template: str, table: str) -> str:
    """A statement on one of the tables."""
    return template.replace("{t}", table).replace("{own}", f" AND tenant_id = {TENANT}" if table == "plain" else "")


class Client:
    """A session of the application, in the context of the tenant."""

    def __init__(self, server: servers.Server) -> None:
        self._connection = psycopg2.connect(host=server.host, port=server.port, user="app_service", dbname="shop")
        with self._connection.cursor() as cursor:
            for table in TABLES:
                cursor.execute(on(PREPARE, table))
        self._connection.commit()

    def seconds(self, statement: str) -> float:
        """The time of a statement in a transaction that is rolled back."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config(%s, %s, true)", (SETTING, str(TENANT)))
            begin = time.perf_counter()
            cursor.execute(statement)
            if cursor.description:
                cursor.fetchall()
            taken = time.perf_counter() - begin
        self._connection.rollback()
        return taken

    def ratio(self, template: str, table: str, against: str) -> float:
        """How much longer a statement takes on one table than on another: the median of rounds that take turns."""
        one, two = on(template, table), on(template, against)
        pairs = [(self.seconds(one), self.seconds(two)) for _round in range(ROUNDS)]
        pairs += [tuple(reversed((self.seconds(two), self.seconds(one)))) for _round in range(ROUNDS)]
        return statistics.median(first / second for first, second in pairs)


def where(server: servers.Server, versions: Mapping[str, str]) -> None:
    """Our policies against a WHERE by hand."""
    client = Client(server)
    looks = {"primary-key look-up of a client, prepared": (ONE, 1.3), "20,000 primary-key look-ups in a loop within the server": (LOOK_UP, 2)}
    for name, (template, bound) in {**{name: (text, 1.05) for name, text in STATEMENTS.items()}, **looks}.items():
        claims.record(
            f"1,000,000 rows of 100 tenants, {name}: time under row-level security against a WHERE by hand without it",
            "bench/row_security.py where",
            client.ratio(template, "ours", "plain"),
            bound,
            versions=versions,
        )


def textbook(server: servers.Server, versions: Mapping[str, str]) -> None:
    """The usual policy against ours. The figure of the indexed table is shown; without an index ours must be faster."""
    client = Client(server)
    query = STATEMENTS["aggregate"]
    with_index = client.ratio(query, "textbook", "ours")
    for table in ("textbook", "ours"):
        execute(server, f"DROP INDEX app.{table}_tenant_id_idx", db="shop")
    without = client.ratio(query, "textbook", "ours")
    execute(server, *(f"CREATE INDEX {table}_tenant_id_idx ON app.{table} (tenant_id)" for table in ("textbook", "ours")), db="shop")
    for index, ratio, bound in (("with", with_index, 0.95), ("without", without, 2)):
        claims.record(
            f"1,000,000 rows of 100 tenants, aggregate of one tenant {index} an index: the usual policy against ours",
            "bench/row_security.py textbook",
            ratio,
            bound,
            versions=versions,
            at_least=True,
        )


def look(server: servers.Server, versions: Mapping[str, str]) -> None:
    """A run that changes nothing on 5,000 tables."""
    execute(server, "CREATE DATABASE large", "CREATE ROLE reader")
    script = """DO $$ BEGIN FOR n IN {first}..{last} LOOP EXECUTE format('CREATE TABLE app.t%s (id int, tenant_id bigint NOT NULL)', n);
 EXECUTE format('CREATE INDEX ON app.t%s (tenant_id)', n); END LOOP; END $$"""
    chunks = [script.replace("{first}", str(first)).replace("{last}", str(first + 499)) for first in range(0, 5000, 500)]
    grants = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO app_service; GRANT SELECT ON ALL TABLES IN SCHEMA app TO reader"
    execute(server, "CREATE SCHEMA app", *chunks, grants, db="large")
    tenancy = {"setting": SETTING, "column": "tenant_id", "schemas": ["app"], "roles": ["app_service", "reader"]}
    databases = {"large": {"tenancy": tenancy}}
    applied = module.run(server, "pg_row_security", databases=databases)
    if applied.get("failed") or len(applied["tables"]["large"]) != 5000:
        raise RuntimeError(applied["msg"])
    execute(server, "VACUUM ANALYZE", db="large")
    taken, written = [], []
    for _round in range(5):
        before = value(server, "SELECT pg_current_wal_insert_lsn()::text")
        begin = time.perf_counter()
        result = module.run(server, "pg_row_security", databases=databases, check=True)
        taken.append(time.perf_counter() - begin)
        written.append(int(value(server, "SELECT pg_current_wal_insert_lsn() - %(before)s::pg_lsn", {"before": before})))
        if result["changed"]:
            raise RuntimeError("something is left to do")
    claims.record(
        "5,000 tables with policies, with nothing to change: work of pg_row_security against 3 s",
        "bench/row_security.py look",
        statistics.median(taken) / LOOK_LIMIT_SECONDS,
        1,
        versions=versions,
    )
    claims.record(
        "5,000 tables with policies, with nothing to change: bytes of WAL written (the least of five runs, since the server's own background writes, too)",
        "bench/row_security.py look",
        min(written),
        0,
        versions=versions,
    )


# In this order: the statements of where leave dead rows behind.
PARTS: dict[str, Callable[[Any, Mapping[str, str]], None]] = {"textbook": textbook, "where": where, "look": look}


def main() -> None:
    """The parts that are asked for, in order, on one server."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--major", type=int, default=18)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    arguments = parser.parse_args()
    versions = {"postgresql": servers.versions()[arguments.major]}
    with servers.running(arguments.major) as server:
        execute(server, *(f"ALTER SYSTEM SET {name} = '{setting}'" for name, setting in SETTINGS.items()), "ALTER SYSTEM SET max_locks_per_transaction = 1024")
        server.restart()
        if set(arguments.parts) != {"look"}:
            load(server)
        else:
            execute(server, "CREATE ROLE app_service LOGIN")
        for name in arguments.parts or PARTS:
            PARTS[name](server, versions)


if __name__ == "__main__":
    main()
