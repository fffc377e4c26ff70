# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of this scenario does not allow a restart: what needs one waits, and those who are connected stay."""

from __future__ import annotations

from typing import Any, Callable

Query = Callable[..., str]


def test_the_library_waits(query: Query) -> None:
    assert query("SHOW shared_preload_libraries") == ""
    assert query("SELECT string_agg(name, ' ' ORDER BY name) FROM pg_settings WHERE pending_restart") == "archive_mode shared_preload_libraries"


def test_the_server_was_not_restarted(host: Any, query: Query) -> None:
    assert query("SELECT pg_postmaster_start_time()") == host.file("/var/tmp/started").content_string.strip()
    assert host.run("systemctl is-active postgresql@*").stdout.strip() == "active"
