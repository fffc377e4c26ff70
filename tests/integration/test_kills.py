# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that are killed: of those of server settings and rules, make soak (bench/soak/connections.py) has hundreds."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from typing import Any

import pytest

from tests import servers
from tests.integration import module
from tests.integration.sql import execute, query, session, value
from tests.kills import campaign


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("major", servers.majors(), ids=lambda major: f"pg{major}")
def test_a_kill_locks_nobody_out_and_one_more_run_converges(major: int) -> None:
    count = int(os.environ.get("BULWARK_KILLS", "20"))
    with servers.running(major) as server:
        outcome = campaign(server, count, random.Random(major))
    assert outcome.lock_outs == []
    assert outcome.not_converged == []
    assert outcome.killed > 0


TABLES = 12
POLICIES: dict[str, Any] = {
    "pg_row_security": [
        {"shop": {"tenancy": {"setting": "app.tenant", "column": "tenant_id", "schemas": ["app"], "roles": roles}}}
        for roles in (["app_service"], ["app_service", "readonly_user"])
    ],
    "pg_audit_trail": [{"shop": {"tables": ["app"], "changed_columns_only": changed}} for changed in (False, True)],
}


def fenced(server: servers.Server) -> set[str]:
    """The tables of which the application sees nothing without a tenant."""
    counts = " UNION ALL ".join(f"SELECT 't{number}', count(*) FROM app.t{number}" for number in range(TABLES))
    return {name for name, count in query(server, counts, db="shop", user="app_service") if count == 0}


def recorded(server: servers.Server) -> set[str]:
    """The tables of which a change is on record, once."""
    found = set()
    for number in range(TABLES):
        with session(server, "shop", "app_service") as connection, connection.cursor() as cursor:
            connection.autocommit = False
            cursor.execute(f"SELECT set_config('app.tenant', '1', true); UPDATE app.t{number} SET tenant_id = 1")
            cursor.execute("SELECT pg_current_xact_id()::text")
            (transaction,) = cursor.fetchone()
            connection.commit()
        log = "SELECT count(*) FROM audit.entries WHERE transaction_id = %(transaction)s::xid8"
        there = value(server, "SELECT to_regclass('audit.entries') IS NOT NULL", db="shop")
        if there and value(server, log, {"transaction": transaction}, db="shop") == 1:
            found.add(f"t{number}")
    return found


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("per_table", [False, True], ids=["whole", "per table"])
def test_a_kill_leaves_no_table_open(cluster: servers.Server, name: str, per_table: bool) -> None:
    """Killed at any moment while it changes the tables of a database, a run leaves each as it was before or as it is to be."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE app_service LOGIN", "CREATE ROLE readonly_user LOGIN")
    tables = [f"CREATE TABLE app.t{number} (id int PRIMARY KEY, tenant_id int NOT NULL); INSERT INTO app.t{number} VALUES (1, 1)" for number in range(TABLES)]
    execute(cluster, "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app_service, readonly_user", *tables, db="shop")
    execute(cluster, "GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA app TO app_service; GRANT SELECT ON ALL TABLES IN SCHEMA app TO readonly_user", db="shop")
    held = fenced if name == "pg_row_security" else recorded
    draw, killed, longest = random.Random(cluster.major), 0, 1.0
    everything = {f"t{number}" for number in range(TABLES)}
    for attempt in range(4):
        before = held(cluster)
        options = {"databases": POLICIES[name][attempt % 2], "per_table": per_table}
        process = module.started(cluster, name, options)
        begin = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.2, 1) * longest)
        if process.poll() is None:
            process.kill()
            killed += 1
        process.wait()
        longest = max(0.5, min(longest, time.monotonic() - begin + 0.1))
        assert before <= held(cluster), attempt
        if attempt % 2:
            assert not (result := module.run(cluster, name, **options)).get("failed"), result["msg"]
            assert module.run(cluster, name, **options)["plan"] == []
            assert held(cluster) == everything
    assert killed > 0
