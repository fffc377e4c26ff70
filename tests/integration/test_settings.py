# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_settings on real servers: what it says is what the server then has, and what the server does not take is put back."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import files
from tests.integration import module

if TYPE_CHECKING:
    from tests.servers import Server


@pytest.fixture
def fresh(mine: Server) -> Server:
    """The server without anything that an earlier test has set."""
    (mine.data / "conf.d" / "bulwark.conf").unlink(missing_ok=True)
    mine.psql("ALTER SYSTEM RESET ALL")
    mine.psql("ALTER ROLE postgres RESET ALL; SELECT pg_reload_conf(), pg_sleep(0.1)")
    if mine.psql("SELECT count(*) FROM pg_settings WHERE pending_restart") != "0":
        mine.restart()
    return mine


def run(server: Server, *, check: bool = False, **options: Any) -> module.Result:
    """The module's result."""
    return module.run(server, "pg_settings", check=check, diff=True, **options)


def applied(server: Server, **options: Any) -> module.Result:
    """Apply what has something to do."""
    return module.foretold(functools.partial(run, server, **options), functools.partial(snapshot, server), "settings")


def refused(server: Server, **options: Any) -> str:
    """The message of a refusal, which leaves everything as it was."""
    return module.refusal(functools.partial(run, server, **options), functools.partial(snapshot, server))


def snapshot(server: Server) -> tuple[object, ...]:
    """The files of the server, and what a new session has."""
    texts = {str(path): path.read_bytes() for path in sorted(server.data.rglob("*.conf"))}
    return texts, server.psql("SELECT name, setting FROM pg_settings WHERE source <> 'client' ORDER BY name")


def test_the_baseline_holds_on_every_major(fresh: Server) -> None:
    result = applied(fresh, baseline="default", settings={"work_mem": "64MB", "statement_timeout": None})
    wanted = {
        "log_disconnections": "on",
        "log_connections": "receipt, authentication, authorization" if fresh.major >= 18 else "on",
        "log_lock_waits": "on",
        "work_mem": "64MB",
        "statement_timeout": "0",
        "max_slot_wal_keep_size": "64GB",
        "log_timezone": "UTC",
    }
    assert {name: fresh.psql(f"SHOW {name}") for name in wanted} == wanted
    assert result["pending_restart"] == []
    text = (fresh.data / "conf.d" / "bulwark.conf").read_text(encoding="utf-8")
    assert "CIS 17/18 3.1.20" in text
    assert ("scram_iterations" in text) is (fresh.major >= 16)
    assert stat.S_IMODE((fresh.data / "conf.d" / "bulwark.conf").stat().st_mode) == 0o600


LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


def limits(server: Server, user: str) -> list[str]:
    """The limits of a role's new session."""
    with contextlib.closing(psycopg2.connect(server.conninfo(user=user))) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in LIMITS))
        found = cursor.fetchone()
    return list(found or ())


def test_the_limits_of_the_baseline_are_not_for_those_who_maintain_and_replicate(fresh: Server) -> None:
    fresh.psql("CREATE ROLE app LOGIN; CREATE ROLE replicator LOGIN REPLICATION; CREATE ROLE declared LOGIN REPLICATION; CREATE ROLE own LOGIN SUPERUSER")
    try:
        fresh.psql("ALTER ROLE own SET statement_timeout = '1d'")
        done = applied(fresh, baseline="default", declared_roles=["declared"])
        assert done["unlimited"] == ["own", "postgres", "replicator"]
        assert "replicator: no lock_timeout (replication)" in done["diff"]["prepared"]
        assert {user: limits(fresh, user) for user in ("app", "replicator", "postgres", "own", "declared")} == {
            **{key: ["4h", "10min", "10min"] for key in ("app", "declared")},
            **{key: ["0", "0", "0"] for key in ("replicator", "postgres")},
            "own": ["1d", "0", "0"],
        }
        warnings = str(run(fresh, baseline="default", declared_roles=["declared"])["warnings"])
        assert 'the role "declared" (replication) is under' in warnings
        assert "statement_timeout: 0" in warnings
        fresh.psql("ALTER ROLE replicator RESET ALL")
        assert run(fresh, settings={"statement_timeout": "1h"}, check=True)["unlimited"] == []  # what the policy itself says is for all
    finally:
        fresh.psql("DROP ROLE app; DROP ROLE replicator; DROP ROLE declared; DROP ROLE own")


def test_a_limit_that_would_cost_replication_slots_is_refused(fresh: Server) -> None:
    fresh.psql("SELECT pg_create_physical_replication_slot('standby', true), pg_create_physical_replication_slot('idle')")
    try:
        fresh.psql("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000)) FROM generate_series(1, 4)")
        message = refused(fresh, settings={"max_slot_wal_keep_size": "2MB"}, path_prefix="pg_server_")
        assert "pg_server_settings.max_slot_wal_keep_size: 2 MB are less than what replication slots hold now: standby (" in message
        assert "idle" not in message
        applied(fresh, settings={"max_slot_wal_keep_size": "1GB"})
    finally:
        fresh.psql("SELECT pg_drop_replication_slot('standby'), pg_drop_replication_slot('idle')")


def test_what_the_group_may_read_it_may_read(fresh: Server) -> None:
    """As on a cluster that was made with initdb -g, whose backups an account of the group makes."""
    applied(fresh, settings={"work_mem": "8MB"})
    directory = fresh.data / "conf.d"
    (directory / "bulwark.conf").unlink()
    directory.chmod(0o750)
    try:
        applied(fresh, settings={"work_mem": "9MB"})
        assert stat.S_IMODE((directory / "bulwark.conf").stat().st_mode) == 0o640
    finally:
        directory.chmod(0o700)


def test_the_server_starts_and_dumps_with_the_baseline(fresh: Server) -> None:
    applied(fresh, baseline="default")
    fresh.restart()
    assert run(fresh, baseline="default")["changed"] is False
    done = subprocess.run([str(fresh.bindir / "pg_dumpall"), "-d", fresh.conninfo()], capture_output=True, text=True, check=True)
    assert "ROLE postgres" in done.stdout


def test_names_and_values_are_checked_first(fresh: Server) -> None:
    message = refused(fresh, settings={"work_men": 1, "work_mem": "1parsec", "max_connections": 10**9, "log_min_messages": "loud"}, path_prefix="pg_server_")
    for place in ("work_men", "work_mem", "max_connections", "log_min_messages"):
        assert f"pg_server_settings.{place}: " in message


def test_a_value_that_only_the_server_can_judge_is_put_back(fresh: Server) -> None:
    applied(fresh, settings={"work_mem": "8MB"})
    message = refused(fresh, settings={"work_mem": "9MB", "log_timezone": "Middle/Earth"})
    assert "log_timezone" in message
    assert fresh.psql("SHOW work_mem") == "8MB"


def test_a_value_that_the_server_would_not_start_with_is_put_back(fresh: Server) -> None:
    message = refused(fresh, settings={"shared_preload_libraries": ["no_such_library"]})
    assert "no library no_such_library" in message
    message = refused(fresh, settings={"recovery_target_time": "next week, maybe"})
    assert "would not start" in message
    assert "recovery_target_time" in message


def test_a_broken_configuration_is_not_made_worse(fresh: Server) -> None:
    config = fresh.data / "postgresql.conf"
    good = config.read_text(encoding="utf-8")
    try:
        config.write_text(good + "work_mem = 'broken\n", encoding="utf-8")
        message = refused(fresh, settings={"work_mem": "9MB"})
        assert "has an error already" in message
        assert "postgresql.conf line" in message
    finally:
        config.write_text(good, encoding="utf-8")


def test_a_restart_is_waited_for_and_is_no_change(fresh: Server) -> None:
    done = applied(fresh, settings={"shared_preload_libraries": ["auto_explain"]})
    assert (done["pending_restart"], done["restart_required"]) == (["shared_preload_libraries"], True)
    assert "waiting for a restart: shared_preload_libraries" in done["msg"]
    assert os.path.exists(done["previous_file"])
    fresh.restart()
    after = run(fresh, settings={"shared_preload_libraries": ["auto_explain"]})
    assert (after["changed"], after["pending_restart"]) == (False, [])
    assert not os.path.exists(after["previous_file"])
    assert fresh.psql("SHOW shared_preload_libraries") == "auto_explain"


def test_what_no_start_has_proved_is_nothing_to_go_back_to(fresh: Server) -> None:
    applied(fresh, settings={"max_connections": 50})
    fresh.restart()
    run(fresh, settings={"max_connections": 50})
    first = applied(fresh, settings={"max_connections": 51})
    second = applied(fresh, settings={"max_connections": 52})
    assert "max_connections = '50'" in Path(first["previous_file"]).read_text(encoding="utf-8")
    assert second["previous_file"] == first["previous_file"]


def test_libraries_of_another_file_are_kept(fresh: Server) -> None:
    config = fresh.data / "postgresql.conf"
    good = config.read_text(encoding="utf-8")
    try:
        config.write_text("shared_preload_libraries = 'pg_stat_statements'\n" + good, encoding="utf-8")
        fresh.restart()
        applied(fresh, settings={"shared_preload_libraries": ["auto_explain"]})
        fresh.restart()
        assert fresh.psql("SHOW shared_preload_libraries") == "pg_stat_statements, auto_explain"
    finally:
        config.write_text(good, encoding="utf-8")


def test_a_leftover_of_alter_system_is_named_then_reset(fresh: Server) -> None:
    fresh.psql("ALTER SYSTEM SET work_mem = '1MB'; SELECT pg_reload_conf()")
    assert "ALTER SYSTEM RESET work_mem" in refused(fresh, settings={"work_mem": "64MB"})
    done = applied(fresh, settings={"work_mem": "64MB"}, overrides="reset")
    assert done["reset"] == ["work_mem"]
    assert fresh.psql("SHOW work_mem") == "64MB"


def test_a_library_of_alter_system_is_not_lost_by_a_reset(fresh: Server) -> None:
    wanted = {"shared_preload_libraries": ["auto_explain"]}
    fresh.psql("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'")
    assert "name pg_stat_statements in the policy" in refused(fresh, settings=wanted, overrides="reset")
    both = {"shared_preload_libraries": ["auto_explain", "pg_stat_statements"]}
    assert applied(fresh, settings=both, overrides="reset")["reset"] == ["shared_preload_libraries"]
    fresh.psql("ALTER SYSTEM SET shared_preload_libraries = ''")
    applied(fresh, settings=wanted, overrides="reset")
    fresh.restart()
    assert fresh.psql("SHOW shared_preload_libraries") == "auto_explain"


def test_where_alter_system_is_switched_off_its_lines_are_named(fresh: Server) -> None:
    if fresh.major < 17:
        return
    fresh.psql("ALTER SYSTEM SET work_mem = '1MB'")
    applied(fresh, settings={"allow_alter_system": False})
    message = refused(fresh, settings={"work_mem": "64MB", "allow_alter_system": False}, overrides="reset")
    assert "work_mem = 1MB in " in message
    assert "remove that line" in message
    assert "allow_alter_system is off" in refused(fresh, settings={"work_mem": "64MB"}, method="alter_system")
    applied(fresh, settings={"work_mem": "1MB"})


def test_a_later_file_is_named(fresh: Server) -> None:
    applied(fresh, settings={"work_mem": "8MB"})
    later = fresh.data / "conf.d" / "tuning.conf"
    try:
        files.write_text(str(later), "work_mem = '2MB'\n")
        message = refused(fresh, settings={"work_mem": "64MB"}, overrides="reset")
        assert "tuning.conf line 1" in message
    finally:
        later.unlink()


def test_a_setting_that_is_no_longer_declared_goes(fresh: Server) -> None:
    applied(fresh, settings={"work_mem": "8MB", "lock_timeout": "1s"})
    done = applied(fresh, settings={"work_mem": "8MB"})
    assert "lock_timeout: 1s -> no longer set here" in done["diff"]["prepared"]
    assert fresh.psql("SHOW lock_timeout") == "0"


def test_quotes_and_units(fresh: Server) -> None:
    value = 'it\'s \\ "quoted" é %m '
    applied(fresh, settings={"log_line_prefix": value, "lock_timeout": "60s"})
    assert fresh.psql("SHOW log_line_prefix") + " " == value or fresh.psql("SHOW log_line_prefix") == value
    assert fresh.psql("SHOW lock_timeout") == "1min"


def test_alter_system_where_there_are_no_files(fresh: Server) -> None:
    applied(fresh, settings={"work_mem": "16MB", "search_path": ["app", "public"]}, method="alter_system")
    assert fresh.psql("SHOW work_mem") == "16MB"
    assert fresh.psql("SHOW search_path") == "app, public"
    assert "log_timezone" in refused(fresh, settings={"work_mem": "17MB", "log_timezone": "Middle/Earth"}, method="alter_system")


def test_a_role_that_may_not(fresh: Server) -> None:
    fresh.psql("DROP ROLE IF EXISTS visitor; CREATE ROLE visitor LOGIN")
    assert "connect as a superuser" in refused(fresh, settings={"work_mem": "16MB"}, login_user="visitor")
    skipped = run(fresh, baseline="default", login_user="visitor")
    assert (skipped["changed"], "visitor" in skipped["skipped_reason"]) == (False, True)


def test_sessions_go_on(fresh: Server) -> None:
    connection = psycopg2.connect(fresh.conninfo())
    try:
        applied(fresh, baseline="default")
        with connection.cursor() as cursor:
            cursor.execute("SHOW log_lock_waits")
            assert cursor.fetchone() == ("on",)
    finally:
        connection.close()


def test_a_standby_has_settings_of_its_own(fresh: Server) -> None:
    standby = fresh.make_standby()
    try:
        applied(standby, settings={"work_mem": "24MB"})
        assert standby.psql("SHOW work_mem") == "24MB"
        assert run(standby, check=True, settings={"work_mem": "24MB"})["in_recovery"] is True
    finally:
        standby.remove()
