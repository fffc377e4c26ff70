# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log under a random workload, at length: a replay of it gives the rows that are there, and every edit of it is found and named.

BULWARK_STATEMENTS says how many statements a major version gets (100000 unless set), BULWARK_TAMPERINGS how many edits (1000 unless set),
BULWARK_PG_MAJORS which versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import claims
from tests import audit_workload, servers
from tests.audit_workload import DATABASE, POLICY, Workload
from tests.integration import module
from tests.integration.sql import execute

ROOT = Path(__file__).resolve().parents[2]
TAMPERING = "tests/integration/test_audit_seals.py::test_every_tampering_is_found_and_named"
STEP = 5000  # statements between two replays, so that each of them is short


def replay_differs(major: int, statements: int) -> int:
    """How many replays give other rows than those of the tables."""
    differ = 0
    with servers.running(major) as server:
        for part in range(max(1, statements // STEP)):
            changed_only = bool(part % 2)
            server.reset()
            audit_workload.prepare(server)
            policy: dict[str, Any] = {DATABASE: {**POLICY[DATABASE], "changed_columns_only": changed_only}}
            result = module.run(server, "pg_audit_trail", databases=policy)
            if result.get("failed"):
                raise RuntimeError(result["msg"])
            before = audit_workload.rows_of(server)
            Workload(1000 * major + part, server.major).run(server, STEP)
            found = audit_workload.differences(audit_workload.replayed(server, before, changed_only), audit_workload.rows_of(server))
            differ += bool(found)
            execute(server, "SELECT audit.seal()", db=DATABASE)
            for line in found:
                print(line[:1000])
    return differ


def missed(major: int, tamperings: int) -> int:
    """Whether an edit is not found or not named: the exit code of pytest tells."""
    environment = {**os.environ, "BULWARK_TAMPERINGS": str(tamperings), "BULWARK_PG_MAJORS": str(major)}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", TAMPERING], cwd=ROOT, env=environment, check=False)
    return int(done.returncode != 0)


def main() -> None:
    """Two claims a major version."""
    statements, tamperings = int(os.environ.get("BULWARK_STATEMENTS", "100000")), int(os.environ.get("BULWARK_TAMPERINGS", "1000"))
    for major in servers.majors():
        versions = {"postgresql": servers.versions()[major]}
        claims.record(
            f"PostgreSQL {major}: replays of the audit log, each of {STEP} random statements, that give other rows than the tables have",
            f"make soak (BULWARK_STATEMENTS={statements} on each major version)",
            replay_differs(major, statements),
            0,
            versions=versions,
        )
        claims.record(
            f"PostgreSQL {major}: random edits of the audit log by a superuser of which one at least was not found or not named",
            f"make soak (BULWARK_TAMPERINGS={tamperings} on each major version)",
            missed(major, tamperings),
            0,
            versions=versions,
        )


if __name__ == "__main__":
    main()
