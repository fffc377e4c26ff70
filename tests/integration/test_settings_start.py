# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings with which the server would not start again, and whose fault a reload only logs, are refused before anything is touched."""

from __future__ import annotations

import functools
import os
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import module

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

FAULTS: dict[str, dict[str, Any]] = {
    "ciphers": {"ssl_ciphers": "NOSUCH"},
    "groups": {"ssl_groups": "X25519:nosuch"},
    "suites": {"ssl_tls13_ciphers": "TLS_NOSUCH"},
    "curve": {"ssl_ecdh_curve": "nosuch"},
    "parameters": {"ssl_dh_params_file": "/nonexistent"},
    "list": {"ssl_crl_file": "/nonexistent"},
    "authorities": {"ssl_ca_file": "nonexistent.crt"},
    "key": {"ssl_key_file": "/nonexistent"},
    "protocols": {"ssl_min_protocol_version": "TLSv1.3", "ssl_max_protocol_version": "TLSv1.2"},
    "replication": {"wal_level": "minimal"},
    "reserved": {"superuser_reserved_connections": 40, "max_connections": 30},
}
SINCE = {"groups": 18, "suites": 18}
UNTIL = {"curve": 17}


def snapshot(server: Server) -> object:
    """The files, and what a new session has."""
    texts = {str(path): path.read_bytes() for path in sorted(server.data.rglob("*.conf"))}
    return texts, server.psql("SELECT name, setting FROM pg_settings WHERE source <> 'client' ORDER BY name")


@pytest.mark.parametrize("method", ["file", "alter_system"])
def test_faults_that_a_reload_does_not_show_are_refused(mine: Server, method: str) -> None:
    for what, settings in FAULTS.items():
        if not SINCE.get(what, 14) <= mine.major <= UNTIL.get(what, 99):
            continue
        files = any(name.endswith("_file") for name in settings)
        for check in (False,) if files else (True, False):
            act = functools.partial(module.run, mine, "pg_settings", settings={**settings, "work_mem": "7MB"}, method=method, check=check)
            message = module.refusal(act, functools.partial(snapshot, mine))
            assert "would not start" in message, (what, message)
            assert "pg_notify" not in message
    mine.restart()  # with whatever the runs have left


def test_what_the_server_starts_with_is_accepted(mine: Server, public_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are named relative to the data directory, libraries, and what the server listens on included. Nothing is left behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(public_path))
    settings: dict[str, Any] = {"ssl_ciphers": "HIGH:!aNULL", "ssl_ca_file": "server.crt", "ssl_min_protocol_version": "TLSv1.3", "shared_buffers": "64MB"}
    settings |= {"shared_preload_libraries": ["auto_explain"], "max_connections": 120, "log_destination": "csvlog"}
    result = module.run(mine, "pg_settings", settings=settings)
    assert not result.get("failed"), result["msg"]
    assert module.run(mine, "pg_settings", settings=settings)["changed"] is False
    assert os.listdir(public_path) == []
    mine.restart()
    assert module.run(mine, "pg_settings", settings=settings)["pending_restart"] == []
    assert mine.psql("SHOW ssl_ca_file") == "server.crt"


def test_a_fault_that_is_there_already_is_not_held_against_other_settings(mine: Server) -> None:
    """The running server goes on with it, and the policy may well be what puts it right."""
    mine.psql("ALTER SYSTEM SET ssl_crl_file = '/nonexistent'")
    try:
        result = module.run(mine, "pg_settings", name="other", settings={"work_mem": "9MB"})
        assert not result.get("failed"), result["msg"]
        assert mine.psql("SHOW work_mem") == "9MB"
    finally:
        mine.psql("ALTER SYSTEM RESET ssl_crl_file; SELECT pg_reload_conf()")
