# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server, which the role has restarted, archives its WAL."""

from __future__ import annotations

import json
import time
from typing import Any, Callable


def test_a_segment_is_archived(host: Any, query: Callable[..., str]) -> None:
    name = query("SELECT pg_walfile_name(pg_current_wal_lsn()) FROM pg_logical_emit_message(false, 'test', 'x')")
    query("SELECT pg_switch_wal()")
    for _second in range(60):
        if host.run(f"find /var/backups/postgresql/wal -name '{name}-*.zst.age'").stdout:
            break
        time.sleep(1)
    status = json.loads(host.run("runuser -u postgres -- pg-bulwark-backup status --json").stdout)
    assert status["archiver"]["archived"] > 0
    assert status["problems"] == []
