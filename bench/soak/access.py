# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated policies on generated states of a server, many of them: every right of every role is what the policy says.

BULWARK_EXAMPLES says how many of each of the two properties a major version gets (100 unless set), BULWARK_PG_MAJORS which versions.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench import claims
from tests import servers

ROOT = Path(__file__).resolve().parents[2]
PROPERTIES = "tests/integration/test_access_oracle.py"


def violated(major: int, examples: int) -> int:
    """How many of the properties are violated on a major version: the exit code of pytest tells whether any is."""
    environment = {**os.environ, "BULWARK_EXAMPLES": str(examples), "BULWARK_PG_MAJORS": str(major)}
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--maxfail=1", PROPERTIES], cwd=ROOT, env=environment, check=False)
    return int(done.returncode != 0)


def main() -> None:
    """One claim a major version."""
    examples = int(os.environ.get("BULWARK_EXAMPLES", "100"))
    for major in servers.majors():
        claims.record(
            f"PostgreSQL {major}: generated policies on generated states that leave a right other than declared, a second plan, or a document that"
            " is not the state",
            f"make soak (BULWARK_EXAMPLES={examples}: so many of each property)",
            violated(major, examples),
            0,
            versions={"postgresql": servers.versions()[major]},
        )


if __name__ == "__main__":
    main()
