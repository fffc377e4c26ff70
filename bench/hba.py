# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What many rules cost pg_hba, against the limit of a second, on PostgreSQL 18.

bench/hba.py
"""

from __future__ import annotations

import getpass
import statistics
import time
from typing import Any

from bench import claims
from tests import servers
from tests.integration import module
from tests.integration.sql import execute

ADMINISTRATOR = {"type": "local", "databases": "all", "roles": "postgres", "method": "peer", "options": {"map": "admins"}}
IDENT = {"admins": [{"system_user": getpass.getuser(), "role": "postgres"}]}
RULES, LIMIT_SECONDS, ROUNDS = 2000, 1.0, 3


def rules(method: str) -> list[dict[str, Any]]:
    """A rule for each role, in a network of its own."""
    return [
        {"databases": ["postgres"], "roles": [f"client_{n}"], "addresses": [f"10.{n // 250}.{n % 250}.0/24"], "method": method}
        for n in range(RULES)
    ]  # fmt: skip


def main() -> None:
    """Rules that are written, rules that all change, and rules that are there."""
    with servers.running(18) as server:
        execute(server, *(f"CREATE ROLE client_{n} LOGIN" for n in range(RULES)))

        def seconds(method: str, changed: bool) -> float:
            begin = time.perf_counter()
            result = module.run(server, "pg_hba", rules=[ADMINISTRATOR, *rules(method)], ident=IDENT, diff=True)
            taken = time.perf_counter() - begin
            if result.get("failed") or result["changed"] is not changed:
                raise RuntimeError(str(result)[:2000])
            return taken

        measured = {
            "written": [seconds("scram-sha-256", True)],
            "all of which change": [seconds(method, True) for method in ("cert", "scram-sha-256") * ROUNDS],
            "of which none changes": [seconds("scram-sha-256", False) for _round in range(ROUNDS)],
        }
        for name, found in measured.items():
            text = f"{RULES:,} rules, {name}: pg_hba with its diff against {LIMIT_SECONDS:g} s"
            claims.record(text, "bench/hba.py", statistics.median(found) / LIMIT_SECONDS, 1, versions={"postgresql": servers.versions()[18]})


if __name__ == "__main__":
    main()
