# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_settings takes back is what was there, in the files and in the server, and new sessions are accepted again."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import module

if TYPE_CHECKING:
    from tests.servers import Server

FAULT = {"timezone": "Middle/Earth"}  # which the server alone finds out, after what comes before it in the alphabet


@pytest.fixture
def fresh(mine: Server) -> Server:
    """The server without anything that an earlier test has set."""
    (mine.data / "conf.d" / "bulwark.conf").unlink(missing_ok=True)
    (mine.data / "postgresql.auto.conf").write_text("", encoding="utf-8")
    mine.restart()
    return mine


def snapshot(server: Server) -> object:
    """The lines of the files that set something, and what a new session has."""
    paths = [path for path in sorted(server.data.rglob("*.conf")) if path.name != "postgresql.auto.conf"]
    texts = {str(path): path.read_bytes() for path in paths}
    auto = sorted(line for line in (server.data / "postgresql.auto.conf").read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return texts, auto, server.psql("SELECT name, setting FROM pg_settings WHERE source <> 'client' ORDER BY name")


def refused(server: Server, **options: Any) -> str:
    """The message of a refusal, which leaves files and server as they were."""
    return module.refusal(functools.partial(module.run, server, "pg_settings", **options), functools.partial(snapshot, server))


def applied(server: Server, **options: Any) -> module.Result:
    """Apply what has something to do."""
    act = functools.partial(module.run, server, "pg_settings", diff=True, **options)
    return module.foretold(act, functools.partial(snapshot, server), "settings")


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ("shared_preload_libraries = pg_stat_statements, auto_explain", {"shared_preload_libraries": ["pg_stat_statements"]}),
        ('search_path = "$user", \'app, or not\', "Mixed"', {"search_path": ["public"]}),
        ("search_path = ''", {"search_path": ["public"]}),
        ("log_line_prefix = 'it''s \\ \"quoted\" %m '", {"log_line_prefix": "%p "}),
        ("datestyle = 'German, DMY'", {"datestyle": "ISO, DMY"}),
        ("listen_addresses = '127.0.0.1,::1'", {"listen_addresses": "127.0.0.1"}),
    ],
)
def test_alter_system_puts_back_what_was_there(fresh: Server, before: str, wanted: dict[str, Any]) -> None:
    fresh.psql(f"ALTER SYSTEM SET {before}; ALTER SYSTEM SET work_mem = '5MB'; SELECT pg_reload_conf(); SELECT pg_sleep(0.1)")
    message = refused(fresh, settings={**wanted, "work_mem": "9MB", **FAULT}, method="alter_system")
    assert "timezone" in message.lower()
    fresh.restart()  # a list that has become one element would keep the server down


@pytest.mark.oldest_and_newest
def test_an_empty_list_by_alter_system_is_one(fresh: Server) -> None:
    empty = {"settings": {"shared_preload_libraries": [], "session_preload_libraries": []}, "method": "alter_system"}
    assert module.run(fresh, "pg_settings", **empty)["changed"] is False
    fresh.psql("ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements; ALTER SYSTEM SET session_preload_libraries = auto_explain")
    fresh.psql("SELECT pg_reload_conf(), pg_sleep(0.1)")
    applied(fresh, **empty)
    fresh.restart()
    assert [fresh.psql(f"SHOW {name}") for name in empty["settings"]] == ["", ""]
    config = fresh.data / "postgresql.conf"
    good = config.read_text(encoding="utf-8")
    try:
        config.write_text(good + "session_preload_libraries = 'auto_explain'\n", encoding="utf-8")
        message = refused(fresh, **empty)
        assert "postgresql.conf line" in message
        assert "session_preload_libraries" in message
    finally:
        config.write_text(good, encoding="utf-8")


def test_libraries_that_sessions_load_are_checked_first(fresh: Server) -> None:
    for method in ("file", "alter_system"):
        message = refused(fresh, settings={"session_preload_libraries": ["auto_explain", "nosuch"]}, method=method)
        assert "session_preload_libraries: the server has no library nosuch" in message


@pytest.mark.parametrize("method", ["file", "alter_system"])
@pytest.mark.parametrize(
    "settings",
    [
        {"local_preload_libraries": ["nosuch"]},
        {"session_preload_libraries": ["/nonexistent/nosuch"]},
        {"statement_timeout": "1ms"},
        {"transaction_timeout": "1ms"},
        {"authentication_timeout": "5s", **FAULT},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_keep_sessions_out_are_taken_back(fresh: Server, settings: dict[str, Any], method: str) -> None:
    """By the session that is still open: a new one could not do it. The next session comes in without anybody's help."""
    if "transaction_timeout" in settings and fresh.major < 17:
        settings = {"idle_session_timeout": "1ms", **FAULT}
    fresh.psql("ALTER SYSTEM SET work_mem = '5MB'; SELECT pg_reload_conf(); SELECT pg_sleep(0.1)")
    message = refused(fresh, settings=settings, method=method)
    assert "as they were" in message or "nothing was changed" in message
    assert fresh.psql("SELECT count(*) FROM generate_series(1, 100000)") == "100000"
