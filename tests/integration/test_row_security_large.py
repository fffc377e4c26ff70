# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_row_security on schemas such as large applications have, under the load of pgbench, and where dumps and departing roles could get around it."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import module
from tests.integration.sql import execute, query, session, value

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

pytestmark = pytest.mark.oldest_and_newest


def applied(server: Server, databases: Any, **options: Any) -> module.Result:
    """The module, which has to succeed, and then to find nothing left."""
    result = module.run(server, "pg_row_security", databases=databases, **options)
    assert not result.get("failed"), result["msg"]
    assert module.run(server, "pg_row_security", databases=databases, **options)["changed"] is False
    return result


def counted(server: Server, statement: str, setting: str, tenant: str, db: str) -> int:
    """The rows that the application sees."""
    with session(server, db, "app_service") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT set_config(%s, %s, false)", (setting, tenant))
        cursor.execute(statement)
        (found,) = cursor.fetchone()
        return int(found)


def test_a_thousand_tables_of_an_erp_by_patterns_in_one_call(cluster: Server) -> None:
    """The like of Odoo: everything in schema public, a nullable integer company_id in most tables, relations without it, inheritance by name alone."""
    execute(cluster, "CREATE DATABASE erp", "CREATE ROLE app_service LOGIN")
    prefixes = ("account_move", "sale_order", "stock_quant", "res_partner", "hr_employee", "ir_attachment", "mail_message", "purchase_order")
    make = """DO $$ BEGIN FOR n IN 1..125 LOOP
 EXECUTE format('CREATE TABLE %I (id serial PRIMARY KEY, create_uid int, company_id int, name text, state varchar, amount numeric)', '{prefix}_' || n);
 EXECUTE format('INSERT INTO %I (company_id) SELECT g %% 3 FROM generate_series(1, 6) g', '{prefix}_' || n);
 EXECUTE format('CREATE TABLE %I (left_id int REFERENCES %I, right_id int)', '{prefix}_' || n || '_rel', '{prefix}_' || n);
END LOOP; END $$"""
    execute(cluster, *(make.replace("{prefix}", prefix) for prefix in prefixes), db="erp")
    execute(cluster, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_service; GRANT USAGE ON SCHEMA public TO PUBLIC", db="erp")
    tables = {"tables": [f"{prefix}_*" for prefix in prefixes], "except": ["*_rel", "ir_attachment_1*"]}
    tenancy = {"setting": "app.company", "column": "company_id", "schemas": {"public": tables}, "roles": ["app_service"]}
    result = applied(cluster, {"erp": {"tenancy": tenancy}})
    left_out = value(cluster, "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ '^ir_attachment_1[0-9]*$'", db="erp")
    assert len(result["tables"]["erp"]) == 1000 - left_out
    assert counted(cluster, "SELECT count(*) FROM sale_order_7", "app.company", "1", "erp") == 2
    assert counted(cluster, "SELECT count(*) FROM sale_order_7", "app.company", "", "erp") == 0
    assert counted(cluster, "SELECT count(*) FROM ir_attachment_12", "app.company", "", "erp") == 6


def test_a_web_application_with_uuid_keys_and_children(cluster: Server) -> None:
    """The like of a Rails application: bookkeeping tables without a tenant, polymorphic ones, joins by foreign keys, enums, generated columns."""
    execute(cluster, "CREATE DATABASE web", "CREATE ROLE app_service LOGIN")
    execute(
        cluster,
        "CREATE TABLE accounts (id uuid PRIMARY KEY, name text)",
        "CREATE TABLE schema_migrations (version varchar PRIMARY KEY); CREATE TABLE ar_internal_metadata (key varchar PRIMARY KEY, value varchar)",
        "CREATE TYPE status AS ENUM ('draft', 'public')",
        """CREATE TABLE posts (id bigserial PRIMARY KEY, account_id uuid NOT NULL REFERENCES accounts, title text, status status DEFAULT 'draft',
            title_lower text GENERATED ALWAYS AS (lower(title)) STORED, UNIQUE (account_id, title))""",
        "CREATE TABLE comments (id bigserial PRIMARY KEY, post_id bigint NOT NULL REFERENCES posts ON DELETE CASCADE, body text)",
        "CREATE TABLE reactions (id bigserial PRIMARY KEY, comment_id bigint NOT NULL REFERENCES comments ON DELETE CASCADE, emoji text)",
        "CREATE TABLE attachments (id bigserial PRIMARY KEY, account_id uuid NOT NULL, record_type text, record_id bigint)",
        "INSERT INTO accounts SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, n FROM generate_series(1, 3) n",
        "INSERT INTO posts (account_id, title) SELECT id, 'P' || n FROM accounts, generate_series(1, 4) n",
        "INSERT INTO comments (post_id, body) SELECT id, 'c' FROM posts; INSERT INTO reactions (comment_id) SELECT id FROM comments",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO app_service; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app_service",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        db="web",
    )
    tenancy = {
        "setting": "app.account",
        "column": "account_id",
        "schemas": {"public": {"except": ["accounts", "schema_migrations", "ar_internal_metadata"]}},
        "roles": ["app_service"],
        "parents": {"public": {"comments": "posts", "reactions": "comments"}},
        "build_indexes": True,
    }
    own = {"command": "select", "roles": ["app_service"], "using": "id::text = current_setting('app.account', true)"}
    result = applied(cluster, {"web": {"tenancy": tenancy, "schemas": {"public": {"accounts": {"policies": {"own": own}}}}}})
    assert result["tables"]["web"] == ["public.attachments", "public.comments", "public.posts", "public.reactions"]
    for table, rows in (("posts", 4), ("comments", 4), ("reactions", 4), ("accounts", 1)):
        assert counted(cluster, f"SELECT count(*) FROM {table}", "app.account", "00000000-0000-0000-0000-000000000002", "web") == rows
        assert counted(cluster, f"SELECT count(*) FROM {table}", "app.account", "", "web") == 0


SCRIPT = """\\set id random(1, 1000)
BEGIN;
SELECT set_config('app.tenant', '1', true);
UPDATE app.a SET n = n + 1 WHERE id = :id;
UPDATE app.b SET n = n + 1 WHERE id = :id;
SELECT sum(n) FROM app.c WHERE id < :id;
UPDATE app.a SET n = n - 1 WHERE id = :id;
COMMIT;
"""
LOCK_TIMEOUT = 200  # milliseconds


def longest_waits(server: Server, until: subprocess.Popen[str], waits: list[float]) -> None:
    """Note how long, in milliseconds, a client of pgbench has been waiting for a lock, until the program ends."""
    with session(server, "bench") as connection, connection.cursor() as cursor:
        while until.poll() is None:
            cursor.execute(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)) * 1000, 0)::float8 FROM pg_locks l"
                " JOIN pg_stat_activity a ON a.pid = l.pid WHERE a.usename = 'app_service' AND NOT l.granted AND l.locktype = 'relation'"
            )
            waits.append(cursor.fetchone()[0])
            time.sleep(0.01)


def test_no_transaction_of_pgbench_fails_or_waits_long(cluster: Server, tmp_path: Path) -> None:
    """Applied, taken away by hand and applied again, while four clients work."""
    execute(cluster, "CREATE DATABASE bench", "CREATE ROLE app_service LOGIN")
    tables = ("a", "b", "c")
    make = [f"CREATE TABLE app.{name} (id int PRIMARY KEY, tenant_id int NOT NULL DEFAULT 1, n int DEFAULT 0)" for name in tables]
    make += [f"INSERT INTO app.{name} SELECT g FROM generate_series(1, 1000) g" for name in tables]
    execute(
        cluster, "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC", *make, "GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA app TO app_service", db="bench"
    )
    tenancy = {"setting": "app.tenant", "column": "tenant_id", "schemas": ["app"], "roles": ["app_service"]}
    (tmp_path / "script.sql").write_text(SCRIPT, encoding="utf-8")
    command = [str(cluster.bindir / "pgbench"), "-n", "-c", "4", "-T", "6", "-l", "-f", "script.sql", "-h", str(cluster.host), "-p", str(cluster.port)]
    bench = subprocess.Popen([*command, "-U", "app_service", "bench"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    waits: list[float] = []
    watcher = threading.Thread(target=longest_waits, args=(cluster, bench, waits))
    watcher.start()
    time.sleep(0.5)
    rounds = 0
    while bench.poll() is None and rounds < 4:
        options = {"per_table": True, "lock_timeout": LOCK_TIMEOUT, "lock_retries": 20}
        result = module.run(cluster, "pg_row_security", databases={"bench": {"tenancy": tenancy}}, **options)
        assert not result.get("failed"), result["msg"]
        assert result["changed"] is True
        rounds += 1
        for name in tables:
            execute(cluster, f"ALTER TABLE app.{name} NO FORCE ROW LEVEL SECURITY", db="bench")
    output, _nothing = bench.communicate(timeout=60)
    watcher.join()
    assert bench.returncode == 0, output
    assert rounds >= 2
    assert "number of failed transactions: 0" in output or cluster.major < 15, output
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in tmp_path.glob("pgbench_log*")) > 100
    # Nobody waits behind a lock for longer than whoever asks for it may; what is above is how long the server and this test take to look.
    assert max(waits) < 2.5 * LOCK_TIMEOUT


def test_dumps_stop_and_a_role_that_drops_what_it_owns_sees_no_more(cluster: Server) -> None:
    """pg_dump never leaves rows out silently, and DROP OWNED takes a role out of its policies without opening anything."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE app_service LOGIN", "CREATE ROLE dumper LOGIN BYPASSRLS", "GRANT pg_read_all_data TO dumper")
    execute(
        cluster,
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE TABLE app.orders (id int, tenant_id int NOT NULL)",
        "INSERT INTO app.orders SELECT n, n % 2 FROM generate_series(1, 10) n; GRANT SELECT ON app.orders TO app_service",
        db="shop",
    )
    tenancy = {"setting": "app.tenant", "column": "tenant_id", "schemas": ["app"], "roles": ["app_service"]}
    applied(cluster, {"shop": {"tenancy": tenancy}})
    dumps = {}
    for role in ("app_service", "dumper"):
        command = [str(cluster.bindir / "pg_dump"), "-h", str(cluster.host), "-p", str(cluster.port), "-U", role, "-a", "-t", "app.orders", "shop"]
        dumps[role] = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PGOPTIONS": "-c app.tenant=1"})
    assert dumps["app_service"].returncode != 0
    assert "row-level security" in dumps["app_service"].stderr
    assert (dumps["dumper"].returncode, dumps["dumper"].stdout.count("\n")) >= (0, 10)
    execute(cluster, "CREATE POLICY wide ON app.orders TO PUBLIC USING (true)", db="shop")
    execute(cluster, "DROP OWNED BY app_service", db="shop", user="app_service")
    execute(cluster, "GRANT SELECT ON app.orders TO app_service", db="shop")  # by somebody who does not know
    before = counted(cluster, "SELECT count(*) FROM app.orders", "app.tenant", "1", "shop")
    applied(cluster, {"shop": {"tenancy": tenancy}})
    assert counted(cluster, "SELECT count(*) FROM app.orders", "app.tenant", "1", "shop") == 5
    assert query(cluster, "SELECT polname FROM pg_policy ORDER BY 1", db="shop") == [("tenant_isolation",), ("tenant_select",)]
    assert before in (5, 10)  # minor releases of before November 2026 let it out of the restrictive policy; the next run puts that right
