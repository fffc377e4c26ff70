# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the application changes is on record, for the auditor alone to read, and for nobody to edit."""

from __future__ import annotations

import time
from typing import Callable

import pytest

Outcomes = Callable[..., "list[str]"]
Query = Callable[..., str]
REFUSED = "42501"


def test_a_change_is_on_record(outcomes: Outcomes, query: Query) -> None:
    last = query("SELECT coalesce(max(id), 0) FROM audit.audit_log", role="auditor")
    statements = [
        "SELECT set_config('app.current_user', 'alice', false)",
        "INSERT INTO app.projects (tenant_id, owner_id, title) VALUES (1, 3, 'on record')",
        "UPDATE app.projects SET budget = 7 WHERE title = 'on record'",
        "DELETE FROM app.projects WHERE title = 'on record'",
    ]
    assert outcomes("app_service", statements) == ["00000"] * 4
    columns = "action, table_name, changed_by, session_role, tenant, coalesce(new_values, old_values) ->> 'title'"
    found = query(f"SELECT {columns} FROM audit.audit_log WHERE id > {last} ORDER BY id", role="auditor")
    assert found.splitlines() == [f"{action}|projects|alice|app_service|1|on record" for action in ("INSERT", "UPDATE", "DELETE")]


@pytest.mark.parametrize("role", ["app_service", "migration_user", "readonly_user", "analyst"])
def test_nobody_else_gets_at_the_log(outcomes: Outcomes, role: str) -> None:
    attempts = ["SELECT * FROM audit.audit_log", "DELETE FROM audit.entries", "UPDATE audit.entries SET tenant = NULL", "TRUNCATE audit.entries"]
    assert outcomes(role, attempts) == [REFUSED] * len(attempts)


def test_a_superuser_is_refused_too(query: Query) -> None:
    for statement in ("DELETE FROM audit.entries", "TRUNCATE audit.entries", "UPDATE audit.entries SET tenant = NULL"):
        with pytest.raises(AssertionError, match="append-only"):
            query(statement)


def test_every_trigger_fires_always(query: Query) -> None:
    tables = query("SELECT count(*) FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind IN ('r', 'p') AND relname ~ '^(user|projects|orders)'")
    always = query("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '0\\_audit\\_%' AND tgenabled = 'A'")
    assert int(always) == 4 * int(tables)


def test_a_table_of_a_migration_is_recorded_before_the_next_run(outcomes: Outcomes, query: Query) -> None:
    last = query("SELECT coalesce(max(id), 0) FROM audit.audit_log", role="auditor")
    migration = ["CREATE TABLE app.new_notes (id int PRIMARY KEY)", "INSERT INTO app.new_notes VALUES (1)", "DROP TABLE app.new_notes"]
    assert outcomes("migration_user", migration) == ["00000"] * 3
    found = query(f"SELECT action, table_name, record_id, session_role FROM audit.audit_log WHERE id > {last}", role="auditor")
    assert found == "INSERT|new_notes|1|migration_user"


def test_cron_seals_what_was_recorded(outcomes: Outcomes, query: Query) -> None:
    statements = ["INSERT INTO app.projects (tenant_id, owner_id, title) VALUES (1, 3, 'sealed')", "DELETE FROM app.projects WHERE title = 'sealed'"]
    assert outcomes("app_service", statements) == ["00000"] * 2
    last = query("SELECT max(id) FROM audit.entries")
    for _second in range(100):
        if query(f"SELECT count(*) FROM audit.seals WHERE {last} = ANY (ids)") == "1":
            return
        time.sleep(1)
    raise AssertionError("cron has sealed nothing in 100 seconds")
