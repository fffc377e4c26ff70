# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy of this scenario allows a restart, by systemd."""

from __future__ import annotations

from typing import Any, Callable

Query = Callable[..., str]


def test_the_library_is_loaded(host: Any, query: Query) -> None:
    assert query("SHOW shared_preload_libraries") == "auto_explain"
    assert query("SELECT count(*) FROM pg_settings WHERE pending_restart") == "0"
    assert host.service("postgresql@17-main").is_running


def test_nothing_is_left_to_go_back_to(host: Any) -> None:
    assert host.run("ls -A /etc/postgresql/17/main/conf.d").stdout.split() == [
        "bulwark.conf",
        "bulwark_backup.conf",
        "bulwark_ssl.conf",
        "log.conf",
    ]
