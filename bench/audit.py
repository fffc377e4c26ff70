# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audit log costs, as ratios measured in one run on one machine.

    bench/audit.py                      all claims on PostgreSQL 18
    bench/audit.py bulk                 some of them
    bench/audit.py --major 15 single    on another major

bulk     100,000 rows: INSERT, UPDATE, DELETE, against no log, the usual trigger, and two peers re-created from their documentation
wide     rows of 100 columns, one of which is updated: time, and the size of the log
single   statements of one row by pgbench with 8 clients
sealing  pgbench with 16 clients and a commit of 2 ms, with a sealing job beside it and without
verify   records verified in a second
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from bench import claims
from tests import servers
from tests.integration import module
from tests.integration.sql import execute, session, value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROUNDS = 5
SECONDS = 8  # of each run of pgbench
SETTINGS = {
    "shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "max_parallel_workers_per_gather": "0", "jit": "off",
    "synchronous_commit": "off", "autovacuum": "off",
}  # fmt: skip
COLUMNS = "id bigint PRIMARY KEY, tenant_id bigint, customer text, status text, amount numeric, note text, created_at timestamptz, updated_at timestamptz"
ROW = "g, g % 100, 'customer ' || g, 'open', g * 1.5, repeat('n', 60), now(), now()"

# The trigger that most applications have: a row of whole images for each row.
USUAL = """
CREATE TABLE usual_log (id BIGSERIAL PRIMARY KEY, table_name TEXT NOT NULL, record_id BIGINT NOT NULL, action TEXT NOT NULL, old_values JSONB,
 new_values JSONB, changed_by TEXT NOT NULL, changed_at TIMESTAMPTZ NOT NULL DEFAULT now());
CREATE FUNCTION usual_trigger() RETURNS TRIGGER AS $$ BEGIN
INSERT INTO usual_log (table_name, record_id, action, old_values, new_values, changed_by) VALUES (TG_TABLE_NAME, COALESCE(NEW.id, OLD.id), TG_OP,
 CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) END, CASE WHEN TG_OP IN ('INSERT', 'UPDATE') THEN to_jsonb(NEW) END,
 current_setting('app.current_user', true));
RETURN COALESCE(NEW, OLD); END; $$ LANGUAGE plpgsql;
"""
# As supa_audit describes itself: a record id that is a hash of table and key, looked up in the catalog for each row.
HASHED = """
CREATE TABLE hashed_log (id bigserial PRIMARY KEY, record_id uuid, old_record_id uuid, op text NOT NULL, ts timestamptz NOT NULL DEFAULT now(),
 table_oid oid NOT NULL, table_schema name NOT NULL, table_name name NOT NULL, record jsonb, old_record jsonb);
CREATE INDEX ON hashed_log (record_id) WHERE record_id IS NOT NULL; CREATE INDEX ON hashed_log (old_record_id) WHERE old_record_id IS NOT NULL;
CREATE INDEX ON hashed_log USING brin (ts); CREATE INDEX ON hashed_log (table_oid);
CREATE FUNCTION hashed_key(oid) RETURNS text[] STABLE SECURITY DEFINER SET search_path = '' LANGUAGE sql AS $$
 SELECT coalesce(array_agg(pa.attname::text ORDER BY pa.attnum), array[]::text[]) FROM pg_catalog.pg_index pi
 JOIN pg_catalog.pg_attribute pa ON pi.indrelid = pa.attrelid AND pa.attnum = any(pi.indkey) WHERE indrelid = $1 AND indisprimary $$;
CREATE FUNCTION hashed_id(oid, text[], jsonb) RETURNS uuid STABLE LANGUAGE sql AS $$
 SELECT CASE WHEN $3 IS NULL THEN NULL WHEN $2 = array[]::text[] THEN gen_random_uuid()
 ELSE (SELECT md5((jsonb_build_array(to_jsonb($1)) || jsonb_agg($3 ->> key_))::text)::uuid FROM unnest($2) x(key_)) END $$;
CREATE FUNCTION hashed_trigger() RETURNS trigger SECURITY DEFINER SET search_path = public LANGUAGE plpgsql AS $$
DECLARE pkey_cols text[] = hashed_key(TG_RELID); record_jsonb jsonb = to_jsonb(new); record_id uuid = hashed_id(TG_RELID, pkey_cols, record_jsonb);
 old_record_jsonb jsonb = to_jsonb(old); old_record_id uuid = hashed_id(TG_RELID, pkey_cols, old_record_jsonb);
BEGIN INSERT INTO hashed_log(record_id, old_record_id, op, table_oid, table_schema, table_name, record, old_record)
 SELECT record_id, old_record_id, TG_OP, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, record_jsonb, old_record_jsonb;
RETURN coalesce(new, old); END $$;
"""
# As 2ndQuadrant's audit-trigger describes itself: hstore, the changed fields, the whole context in each row.
HSTORE = """
CREATE EXTENSION hstore;
CREATE TABLE hstore_log (event_id bigserial PRIMARY KEY, schema_name text NOT NULL, table_name text NOT NULL, relid oid NOT NULL, session_user_name text,
 action_tstamp_tx timestamptz NOT NULL, action_tstamp_stm timestamptz NOT NULL, action_tstamp_clk timestamptz NOT NULL, transaction_id bigint,
 application_name text, client_addr inet, client_port integer, client_query text, action text NOT NULL, row_data hstore, changed_fields hstore,
 statement_only boolean NOT NULL);
CREATE INDEX ON hstore_log (relid); CREATE INDEX ON hstore_log (action_tstamp_tx); CREATE INDEX ON hstore_log (action);
CREATE FUNCTION hstore_trigger() RETURNS trigger SECURITY DEFINER SET search_path = pg_catalog, public LANGUAGE plpgsql AS $$
DECLARE audit_row hstore_log; BEGIN
 audit_row = ROW(nextval('hstore_log_event_id_seq'), TG_TABLE_SCHEMA::text, TG_TABLE_NAME::text, TG_RELID, session_user::text, current_timestamp,
  statement_timestamp(), clock_timestamp(), txid_current(), current_setting('application_name'), inet_client_addr(), inet_client_port(), NULL,
  substring(TG_OP, 1, 1), NULL, NULL, 'f');
 IF TG_OP = 'UPDATE' THEN audit_row.row_data = hstore(OLD.*); audit_row.changed_fields = hstore(NEW.*) - audit_row.row_data;
  IF audit_row.changed_fields = hstore('') THEN RETURN NULL; END IF;
 ELSIF TG_OP = 'DELETE' THEN audit_row.row_data = hstore(OLD.*); ELSE audit_row.row_data = hstore(NEW.*); END IF;
 INSERT INTO hstore_log VALUES (audit_row.*); RETURN NULL; END $$;
"""
PEERS = {"usual": USUAL, "hashed": HASHED, "hstore": HSTORE}
NAMES = {"usual": "the usual trigger", "hashed": "supa_audit's approach", "hstore": "2ndQuadrant's approach", "plain": "no log"}
KINDS = ("plain", "ours", *PEERS)


def load(server: servers.Server, columns: str = COLUMNS, **options: Any) -> None:
    """A database with the same table once for each kind of log."""
    execute(server, "CREATE DATABASE shop")
    tables = [f"CREATE TABLE app.{kind} ({columns})" for kind in KINDS]
    triggers = [f"CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON app.{peer} FOR EACH ROW EXECUTE FUNCTION {peer}_trigger()" for peer in PEERS]
    execute(server, "CREATE SCHEMA app", *tables, *PEERS.values(), *triggers, db="shop")
    result = module.run(server, "pg_audit_trail", databases={"shop": {"tables": {"app": ["ours"]}, **options}})
    if result.get("failed"):
        raise RuntimeError(result["msg"])


class Client:
    """A session that works for a user of the application."""

    def __init__(self, server: servers.Server) -> None:
        self._connection = psycopg2.connect(host=server.host, port=server.port, user="postgres", dbname="shop")
        self._connection.autocommit = True
        self.run("SELECT set_config('app.current_user', 'alice', false)")

    def run(self, statement: str) -> float:
        """The time that a statement takes, in seconds."""
        with self._connection.cursor() as cursor:
            begin = time.perf_counter()
            cursor.execute(statement)
            return time.perf_counter() - begin


def rounds(client: Client, kinds: tuple[str, ...], statements: Mapping[str, str]) -> dict[str, dict[str, float]]:
    """The median time of each statement on each kind of table, all of them taking turns."""
    taken: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in statements}
    for number in range(ROUNDS):
        for kind in kinds if number % 2 else reversed(kinds):
            client.run(f"TRUNCATE app.{kind}")
            client.run("CHECKPOINT")
            for name, statement in statements.items():
                taken[name][kind].append(client.run(statement.replace("{t}", f"app.{kind}")))
    return {name: {kind: statistics.median(times) for kind, times in each.items()} for name, each in taken.items()}


def bulk(server: servers.Server, versions: Mapping[str, str]) -> None:
    """100,000 rows in one statement."""
    load(server)
    statements = {
        "INSERT": f"INSERT INTO {{t}} SELECT {ROW} FROM generate_series(1, 100000) g",
        "UPDATE": "UPDATE {t} SET status = 'paid', amount = amount + 1, updated_at = now()",
        "DELETE": "DELETE FROM {t}",
    }
    found = rounds(Client(server), KINDS, statements)
    for name, bound in {"INSERT": 0.5, "UPDATE": 0.65, "DELETE": 0.65}.items():
        for kind in ("usual", "plain"):
            limit = {"usual": bound, "plain": {"INSERT": 6, "UPDATE": 5, "DELETE": 20}[name]}[kind]
            record(
                "bulk",
                f"{name} of 100,000 rows in one statement: time with our log against {NAMES[kind]}",
                found[name]["ours"] / found[name][kind],
                limit,
                versions,
            )
        record("bulk", f"{name} of 100,000 rows: {NAMES['hashed']} against ours", found[name]["hashed"] / found[name]["ours"], 6, versions, at_least=True)
        record("bulk", f"{name} of 100,000 rows: {NAMES['hstore']} against ours", found[name]["hstore"] / found[name]["ours"], 1, versions, at_least=True)


def wide(server: servers.Server, versions: Mapping[str, str]) -> None:
    """Rows of 100 columns, one of which changes."""
    texts = ", ".join(f"c{number} text" for number in range(99))
    load(server, f"id bigint PRIMARY KEY, {texts}", changed_columns_only=True)
    values = ", ".join(f"'value {number} of ' || g" for number in range(99))
    client = Client(server)
    statements = {"INSERT": f"INSERT INTO {{t}} SELECT g, {values} FROM generate_series(1, 5000) g", "UPDATE": "UPDATE {t} SET c7 = 'other'"}
    found = rounds(client, ("ours", "usual"), statements)
    record(
        "wide",
        "UPDATE of one of 100 columns of 5,000 rows: time with our log, of changed columns, against the usual trigger",
        found["UPDATE"]["ours"] / found["UPDATE"]["usual"],
        0.65,
        versions,
    )
    sizes = {}
    for kind, log in (("ours", "audit.entries"), ("usual", "usual_log")):
        before = size(server, log)
        client.run(f"UPDATE app.{kind} SET c9 = 'other'")
        sizes[kind] = size(server, log) - before
    record(
        "wide", "UPDATE of one of 100 columns: size of our log, of changed columns, against the usual trigger's", sizes["ours"] / sizes["usual"], 0.4, versions
    )


def size(server: servers.Server, table: str) -> int:
    """The bytes of a log with its partitions and indexes."""
    parts = f"SELECT coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size('{table}')) FROM pg_partition_tree('{table}')"
    return int(value(server, parts, db="shop"))


def pgbench(server: servers.Server, script: str, clients: int, **variables: str) -> tuple[float, float, float]:
    """Transactions per second, and the latencies of half and of 99 percent of them, in milliseconds."""
    with tempfile.TemporaryDirectory(dir=servers.SCRATCH) as directory:
        path = Path(directory)
        path.chmod(0o777)
        (path / "script.sql").write_text(script, encoding="utf-8")
        done = subprocess.run(
            [server.bindir / "pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", "2", "-T", str(SECONDS), "-f", path / "script.sql", "-l", "shop"],
            capture_output=True, text=True, check=True, cwd=path,
            env={"PGHOST": str(server.host), "PGPORT": str(server.port), "PGUSER": "postgres", "PGOPTIONS": "-c app.current_user=alice", **variables},
        )  # fmt: skip
        latencies = sorted(int(line.split()[2]) / 1000 for file in path.glob("pgbench_log.*") for line in file.read_text(encoding="utf-8").splitlines())
    rate = re.search(r"tps = ([0-9.]+)", done.stdout)
    if rate is None:
        raise RuntimeError(done.stdout)
    return float(rate[1]), latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]


UPDATE_ONE = "\\set id random(1, 100000)\nUPDATE app.{t} SET amount = amount + 1, updated_at = now() WHERE id = :id;\n"
INSERT_ONE = "INSERT INTO app.{t} (id, tenant_id, customer, status, amount, note) VALUES (nextval('app.numbers'), 1, 'c', 's', 1, repeat('n', 60));\n"


def single(server: servers.Server, versions: Mapping[str, str]) -> None:
    """Transactions of one statement that changes one row."""
    load(server)
    client = Client(server)
    client.run("CREATE SEQUENCE app.numbers START 1000000")
    for kind in ("ours", "usual"):
        client.run(f"INSERT INTO app.{kind} SELECT {ROW} FROM generate_series(1, 100000) g")
    for name, script in (("UPDATE", UPDATE_ONE), ("INSERT", INSERT_ONE)):
        pairs = []
        for number in range(ROUNDS):
            kinds = ("ours", "usual") if number % 2 else ("usual", "ours")
            found = {kind: pgbench(server, script.replace("{t}", kind), 8) for kind in kinds}
            pairs.append((found["ours"], found["usual"]))
        for place, what, bound in (
            (0, "transactions of the usual trigger for each of ours", 1.05),
            (1, "median latency against the usual trigger's", 1.1),
            (2, "latency of 99 percent against the usual trigger's", 1.2),
        ):
            ratio = statistics.median((usual[place] / ours[place]) if place == 0 else ours[place] / usual[place] for ours, usual in pairs)
            record("single", f"{name} of one row, pgbench with 8 clients: {what}", ratio, bound, versions)


def sealing(server: servers.Server, versions: Mapping[str, str]) -> None:
    """Writers with a sealing job beside them."""
    load(server)
    execute(server, f"INSERT INTO app.ours SELECT {ROW} FROM generate_series(1, 100000) g", db="shop")
    execute(
        server,
        "ALTER SYSTEM SET synchronous_commit = on",
        "ALTER SYSTEM SET fsync = on",
        "ALTER SYSTEM SET commit_delay = 2000",
        "ALTER SYSTEM SET commit_siblings = 0",
        "SELECT pg_reload_conf()",
    )
    script = UPDATE_ONE.replace("{t}", "ours")
    ratios = []
    for number in range(ROUNDS):
        found = {}
        for job in (True, False) if number % 2 else (False, True):
            with sealed_beside(server) if job else contextlib.nullcontext():
                found[job] = pgbench(server, script, 16)[0]
        ratios.append(found[True] / found[False])
    record(
        "sealing",
        "UPDATE of one row, pgbench with 16 clients and a commit of 2 ms: transactions with a seal every second against without",
        statistics.median(ratios),
        0.95,
        versions,
        at_least=True,
    )


@contextlib.contextmanager
def sealed_beside(server: servers.Server) -> Iterator[None]:
    """A sealing job every second."""
    stop = threading.Event()

    def work() -> None:
        with session(server, "shop") as connection, connection.cursor() as cursor:
            while not stop.wait(1):
                cursor.execute("SELECT audit.seal()")

    job = threading.Thread(target=work)
    job.start()
    try:
        yield
    finally:
        stop.set()
        job.join()


def verify(server: servers.Server, versions: Mapping[str, str]) -> None:
    """How fast a log is verified."""
    load(server)
    execute(server, f"INSERT INTO app.ours SELECT {ROW} FROM generate_series(1, 300000) g", "SELECT audit.seal()", "VACUUM ANALYZE", db="shop")
    begin = time.perf_counter()
    result = module.run(server, "pg_audit_info", databases=["shop"], verify=True)
    taken = time.perf_counter() - begin
    if result.get("failed") or result["problems"]:
        raise RuntimeError(result["msg"])
    record("verify", "records of 300,000 verified in a second", 300_000 / taken, 100_000, versions, at_least=True)


def record(part: str, claim: str, ratio: float, bound: float, versions: Mapping[str, str], *, at_least: bool = False) -> None:
    """One claim of a part."""
    claims.record(claim, f"bench/audit.py {part}", ratio, bound, versions=versions, at_least=at_least)


PARTS: dict[str, Callable[[servers.Server, Mapping[str, str]], None]] = {"bulk": bulk, "wide": wide, "single": single, "sealing": sealing, "verify": verify}


def main() -> None:
    """The parts that are asked for, each on a server of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--major", type=int, default=18)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    arguments = parser.parse_args()
    versions = {"postgresql": servers.versions()[arguments.major]}
    for name in arguments.parts or PARTS:
        with servers.running(arguments.major, **SETTINGS) as server:
            PARTS[name](server, versions)


if __name__ == "__main__":
    main()
