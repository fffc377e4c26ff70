# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Columns that are encrypted and rotated beside a writer, killed again and again: nothing is lost, and no transaction of the writer fails.

BULWARK_ENCRYPTION_KILLS says how many kills a major version gets (200 unless set), of the module, of its sessions and of the server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import claims
from tests import servers

ROOT = Path(__file__).resolve().parents[2]
TEST = "tests/integration/test_encrypted_columns.py::test_killed_at_any_moment_beside_a_writer_nothing_is_lost"


def main() -> None:
    """A claim a major version."""
    kills = int(os.environ.get("BULWARK_ENCRYPTION_KILLS", "200"))
    for major in servers.majors():
        environment = {**os.environ, "BULWARK_ENCRYPTION_KILLS": str(kills), "BULWARK_PG_MAJORS": str(major)}
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", TEST], cwd=ROOT, env=environment, check=False)
        claims.record(
            f"PostgreSQL {major}: victims of kills (module, session, server) by which a value was lost or a transaction of the application failed",
            f"make soak (BULWARK_ENCRYPTION_KILLS={kills} on each major version)",
            int(done.returncode != 0),
            0,
            versions={"postgresql": servers.versions()[major]},
        )


if __name__ == "__main__":
    main()
