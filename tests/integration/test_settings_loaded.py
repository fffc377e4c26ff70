# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts is what the server has loaded: a run that was killed between its file and the reload is finished by the next one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import module

if TYPE_CHECKING:
    from tests.servers import Server

BEFORE = {"work_mem": "8MB", "lock_timeout": "3s", "max_connections": 150}


@pytest.fixture
def fresh(mine: Server) -> Server:
    """The server with settings that a run has made, and loaded."""
    mine.psql("ALTER SYSTEM RESET ALL")
    result = module.run(mine, "pg_settings", settings=BEFORE)
    assert not result.get("failed"), result["msg"]
    mine.restart()
    return mine


def texts(server: Server) -> object:
    """The files."""
    return {str(path): path.read_bytes() for path in sorted(server.data.rglob("*.conf"))}


def leave(server: Server, before: str, after: str) -> None:
    """What a run leaves that is killed before the reload: the file that it wanted, in place."""
    file = server.data / "conf.d" / "bulwark.conf"
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


def finished(server: Server, **options: Any) -> module.Result:
    """The run that finds the files as declared, and still has something to do."""
    act = functools.partial(module.run, server, "pg_settings", diff=True, **options)
    done = module.foretold(act, functools.partial(texts, server))
    assert "reload" in done["diff"]["prepared"]
    return done


def test_a_value_that_was_never_loaded(fresh: Server) -> None:
    leave(fresh, "work_mem = '8MB'", "work_mem = '9MB'")
    assert fresh.psql("SHOW work_mem") == "8MB"
    finished(fresh, settings={**BEFORE, "work_mem": "9MB"})
    assert fresh.psql("SHOW work_mem") == "9MB"


def test_a_setting_that_was_never_taken_out(fresh: Server) -> None:
    leave(fresh, "\nlock_timeout = '3s'\n", "")
    finished(fresh, settings={name: value for name, value in BEFORE.items() if name != "lock_timeout"})
    assert fresh.psql("SHOW lock_timeout") == "0"


def test_a_setting_for_the_next_restart_that_was_never_loaded(fresh: Server) -> None:
    leave(fresh, "max_connections = '150'", "max_connections = '160'")
    done = finished(fresh, settings={**BEFORE, "max_connections": 160})
    assert (done["pending_restart"], done["restart_required"]) == (["max_connections"], True)


def test_alter_system_that_was_never_loaded(fresh: Server) -> None:
    fresh.psql("ALTER SYSTEM SET maintenance_work_mem = '70MB'")
    finished(fresh, settings={"maintenance_work_mem": "70MB"}, method="alter_system")
    assert fresh.psql("SHOW maintenance_work_mem") == "70MB"


def test_what_a_session_has_from_nearer_is_not_missed(fresh: Server) -> None:
    """Values of the role, of the database and of the client say nothing of what the server has loaded."""
    fresh.psql("ALTER ROLE postgres SET work_mem = '1MB'; ALTER DATABASE postgres SET lock_timeout = '9s'")
    try:
        assert module.run(fresh, "pg_settings", settings=BEFORE)["changed"] is False
        wanted = {"settings": {**BEFORE, "client_encoding": "LATIN1", "application_name": "x", "tcp_keepalives_idle": "77s", "archive_command": "true"}}
        assert module.run(fresh, "pg_settings", **wanted)["changed"] is True
        assert module.run(fresh, "pg_settings", **wanted)["changed"] is False
    finally:
        fresh.psql("ALTER ROLE postgres RESET ALL; ALTER DATABASE postgres RESET ALL")


# As people write them; the server shows UTC, ISO, MDY and so on.
OTHERWISE = {"timezone": "utc", "datestyle": "iso, mdy", "log_timezone": "europe/berlin", "wal_compression": "on"}


@pytest.mark.parametrize("method", ["file", "alter_system"])
def test_a_value_that_the_server_spells_otherwise(fresh: Server, method: str) -> None:
    act = functools.partial(module.run, fresh, "pg_settings", settings={**BEFORE, **OTHERWISE}, method=method, diff=True)
    done = module.foretold(act, functools.partial(texts, fresh))
    assert done["pending_restart"] == []
    assert fresh.psql("SHOW timezone") == "UTC"
    assert fresh.psql("SHOW log_timezone") == "Europe/Berlin"


def test_a_value_that_the_server_spells_otherwise_and_has_not_loaded(fresh: Server) -> None:
    others = {**BEFORE, "timezone": "utc", "log_timezone": "europe/berlin"}
    result = module.run(fresh, "pg_settings", settings=others)
    assert not result.get("failed"), result["msg"]
    leave(fresh, "log_timezone = 'europe/berlin'", "log_timezone = 'asia/tokyo'")
    done = finished(fresh, settings={**others, "log_timezone": "asia/tokyo"})
    assert "log_timezone is Europe/Berlin" in done["diff"]["prepared"]
    assert fresh.psql("SHOW log_timezone") == "Asia/Tokyo"
