# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs of settings, certificates and rules that are killed at random moments: nobody is locked out, and one more run converges.

BULWARK_KILLS says how many there are over all major versions (500 unless set).
"""

from __future__ import annotations

import os
import random

from bench import claims
from tests import servers
from tests.kills import campaign


def main() -> None:
    """Two claims a major version."""
    majors = servers.majors()
    count = int(os.environ.get("BULWARK_KILLS", "500")) // len(majors)
    for major in majors:
        with servers.running(major) as server:
            outcome = campaign(server, count, random.Random(major))
        versions = {"postgresql": servers.versions()[major]}
        command = f"make soak (BULWARK_KILLS={count * len(majors)} over {len(majors)} major versions)"
        print(f"PostgreSQL {major}: {outcome.killed} killed, {outcome.finished} came to their end before", *outcome.lock_outs, *outcome.not_converged, sep="\n")
        claims.record(f"PostgreSQL {major}: lock-outs after kills of a run at random moments", command, len(outcome.lock_outs), 0, versions=versions)
        claims.record(f"PostgreSQL {major}: runs after kills that do not converge", command, len(outcome.not_converged), 0, versions=versions)


if __name__ == "__main__":
    main()
