# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings are in force, in a file of their own, and the server was restarted only where that was allowed."""

from __future__ import annotations

from typing import Any, Callable

import pytest

Query = Callable[..., str]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("work_mem", "8MB"),
        ("log_connections", "on"),
        ("log_disconnections", "on"),
        ("log_lock_waits", "on"),
        ("password_encryption", "scram-sha-256"),
        ("client_connection_check_interval", "10s"),
        ("idle_in_transaction_session_timeout", "0"),  # of a superuser, whom the limit is not for
        ("max_slot_wal_keep_size", "64GB"),
        ("log_statement", "all"),
    ],
)
def test_in_force(query: Query, name: str, value: str) -> None:
    assert query(f"SHOW {name}") == value


def test_limits_of_time_are_for_everybody_else(query: Query) -> None:
    setting = "SELECT setting FROM pg_file_settings WHERE name = 'idle_in_transaction_session_timeout' AND applied"
    assert query(setting) == "10min"


def test_the_file_is_the_server_s_alone(host: Any, query: Query) -> None:
    path = query("SELECT DISTINCT sourcefile FROM pg_settings WHERE name = 'log_lock_waits'")
    assert path.endswith("/conf.d/bulwark.conf")
    file = host.file(path)
    assert (file.user, file.group, file.mode) == ("postgres", "postgres", 0o600)
