# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A few of the kills that make soak (bench/soak/connections.py) has by the hundreds."""

from __future__ import annotations

import os
import random

import pytest

from tests import servers
from tests.kills import campaign


@pytest.mark.oldest_and_newest
@pytest.mark.parametrize("major", servers.majors(), ids=lambda major: f"pg{major}")
def test_a_kill_locks_nobody_out_and_one_more_run_converges(major: int) -> None:
    count = int(os.environ.get("BULWARK_KILLS", "20"))
    with servers.running(major) as server:
        outcome = campaign(server, count, random.Random(major))
    assert outcome.lock_outs == []
    assert outcome.not_converged == []
    assert outcome.killed > 0
