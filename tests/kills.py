# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills the modules for connections at random moments, and looks whether the server still lets its administrator in and one more run converges."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2

from tests.integration import module

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.servers import Server

Step = "tuple[str, dict[str, Any]]"

# The administrator comes in as whoever runs the tests.
_IDENT = {"tests": [{"system_user": "/^.*$", "role": "postgres"}]}
_ADMINISTRATOR = {"type": "local", "databases": "all", "roles": "postgres", "options": {"map": "tests"}}


@dataclass
class Outcome:
    """What came of a campaign. killed: runs that did not reach their end; the lists say what was wrong."""

    killed: int = 0
    finished: int = 0
    lock_outs: list[str] = field(default_factory=list)
    not_converged: list[str] = field(default_factory=list)


def steps(turn: int) -> list[tuple[str, dict[str, Any]]]:
    """Settings and rules, of which each turn has others than the last."""
    settings = {"work_mem": f"{4 + turn % 7}MB", "log_min_messages": ("warning", "error")[turn % 2], "shared_preload_libraries": ["auto_explain"]}
    rules = [_ADMINISTRATOR, {"databases": "all", "roles": "all", "addresses": f"10.{turn % 200}.0.0/16"}]
    if turn % 2:
        rules.append({"databases": "postgres", "roles": "postgres", "addresses": "127.0.0.0/8"})
    return [("pg_settings", {"settings": settings, "baseline": "default"}), ("pg_hba", {"rules": rules, "ident": _IDENT})]


def apply(server: Server, what: Sequence[tuple[str, dict[str, Any]]]) -> list[module.Result]:
    """Run the modules in their order, up to the first that fails."""
    results = []
    for name, options in what:
        results.append(module.run(server, name, **options))
        if results[-1].get("failed"):
            break
    return results


def campaign(server: Server, count: int, chance: random.Random) -> Outcome:
    """So many kills, each of a run that has something to do, at any moment of it."""
    outcome = Outcome()
    apply(server, steps(0))
    begin = time.monotonic()
    assert not any(result.get("failed") for result in apply(server, steps(1)))
    duration = time.monotonic() - begin
    turn = 1
    while outcome.killed < count:
        turn += 1
        if _killed(server, turn, chance.uniform(0, duration)):
            outcome.killed += 1
        else:
            outcome.finished += 1
        problem = _locked_out(server, turn)
        if problem:
            outcome.lock_outs.append(problem)
            return outcome
        # The next turn, which wants something else, is the one more run; now and then it is the same again, to its end.
        if turn % 5 == 0:
            outcome.not_converged += _not_converged(server, turn)
    return outcome


def _killed(server: Server, turn: int, delay: float) -> bool:
    """Whether a run was ended by SIGKILL, with all that it had started."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            status = int(any(result.get("failed") for result in apply(server, steps(turn))))
        finally:
            os._exit(status)
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, f"turn {turn} failed"
            return False
        time.sleep(0.001)
    os.killpg(child, signal.SIGKILL)
    _child, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _locked_out(server: Server, turn: int) -> str | None:
    """What is wrong with the way in, now, after a reload of whatever the files hold, and after a restart now and then."""
    try:
        _come_in(server)
        # What a kill left in the files has to be as good as what the server has loaded.
        os.kill(int((server.data / "postmaster.pid").read_text(encoding="ascii").splitlines()[0]), signal.SIGHUP)
        time.sleep(0.05)
        _come_in(server)
        if turn % 25 == 0:
            server.stop()
            server.start()
            _come_in(server)
    except Exception as error:
        return f"turn {turn}: {error}"
    return None


def _come_in(server: Server) -> None:
    psycopg2.connect(host=server.host, port=server.port, user="postgres", dbname="postgres", connect_timeout=5).close()


def _not_converged(server: Server, turn: int) -> list[str]:
    first, second = apply(server, steps(turn)), apply(server, steps(turn))
    wrong = [result for result in [*first, *second] if result.get("failed")] + [result for result in second if result["changed"]]
    return [f"turn {turn}: {json.dumps(result)[:2000]}" for result in wrong]
