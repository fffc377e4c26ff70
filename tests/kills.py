# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills the modules for connections at random moments, and looks whether the server still lets its administrator in and one more run converges."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2

from tests import pki
from tests.integration import module

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.servers import Server

_NAMES = ["localhost", "127.0.0.1"]
_AUTHORITY = pki.authority()
_CERTIFICATES = [pki.certificate("server", _AUTHORITY, _NAMES) for _each in range(2)]

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


def steps(server: Server, turn: int) -> list[tuple[str, dict[str, Any]]]:
    """Settings, certificate and rules, of which each turn has others than the last, in the order of harden.yml."""
    settings = {"work_mem": f"{4 + turn % 7}MB", "log_min_messages": ("warning", "error")[turn % 2], "shared_preload_libraries": ["auto_explain"]}
    certificate = _CERTIFICATES[turn % 2]
    files = {"certificate": certificate.chain, "key_content": certificate.key_pem, "ca": _AUTHORITY.pem, "names": _NAMES}
    current = server.directory / "data_bulwark_tls" / "current"
    tls = {"ssl": True, "ssl_cert_file": f"{current}/server.crt", "ssl_key_file": f"{current}/server.key", "ssl_ca_file": f"{current}/ca.crt"}
    rules = [_ADMINISTRATOR, {"databases": "all", "roles": "all", "addresses": f"10.{turn % 200}.0.0/16"}]
    if turn % 2:
        rules.append({"databases": "postgres", "roles": "postgres", "addresses": "127.0.0.0/8"})
    return [
        ("pg_settings", {"settings": settings, "baseline": "default"}),
        ("pg_ssl_files", files),
        ("pg_settings", {"name": "bulwark_ssl", "settings": tls}),
        ("pg_hba", {"rules": rules, "ident": _IDENT}),
    ]


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
    apply(server, steps(server, 0))
    begin = time.monotonic()
    assert not any(result.get("failed") for result in apply(server, steps(server, 1)))
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
        if turn % 3 == 0:
            outcome.not_converged += _not_converged(server, turn)
    return outcome


def _killed(server: Server, turn: int, delay: float) -> bool:
    """Whether a run was ended by SIGKILL, with all that it had started."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            status = int(any(result.get("failed") for result in apply(server, steps(server, turn))))
        finally:
            os._exit(status)
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, f"turn {turn} failed"
            return False
        time.sleep(0.001)
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(child, signal.SIGKILL)  # it has not begun
    _child, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _locked_out(server: Server, turn: int) -> str | None:
    """What is wrong with the way in, now, and now and then after a restart with whatever the files hold.

    Nothing is reloaded here: that a killed run has not come to its reload is what the next run has to find out.
    """
    try:
        _come_in(server)
        if turn % 25 == 0:
            server.stop()
            server.start()
            _come_in(server)
    except Exception as error:
        return f"turn {turn}: {error}"
    return None


def _come_in(server: Server) -> None:
    """As the administrator; and a client that checks the server comes as far as being asked who it is."""
    bundle = server.directory / "authority-of-the-kills.crt"
    bundle.write_text(_AUTHORITY.pem, encoding="ascii")
    try:
        psycopg2.connect(host="127.0.0.1", port=server.port, user="nobody", dbname="postgres", sslmode="verify-full", sslrootcert=str(bundle)).close()
    except psycopg2.OperationalError as error:
        if "no password supplied" not in str(error) and "pg_hba.conf rejects" not in str(error):
            raise
    psycopg2.connect(host=server.host, port=server.port, user="postgres", dbname="postgres", connect_timeout=5).close()


def _not_converged(server: Server, turn: int) -> list[str]:
    first, second = apply(server, steps(server, turn)), apply(server, steps(server, turn))
    wrong = [result for result in [*first, *second] if result.get("failed")] + [result for result in second if result["changed"]]
    return [f"turn {turn}: {json.dumps(result)[:2000]}" for result in wrong] or _not_in_force(server, turn)


def _not_in_force(server: Server, turn: int) -> list[str]:
    """What the server runs with and the policy says otherwise, asked of the server from outside."""
    (_settings, declared), _files, _tls, _rules = steps(server, turn)
    found = {name: server.psql(f"SHOW {name}") for name in ("work_mem", "log_min_messages")}
    wrong = [f"turn {turn}: {name} is {value}" for name, value in found.items() if value != declared["settings"][name]]
    if _shown(server) != _CERTIFICATES[turn % 2].pem:
        wrong.append(f"turn {turn}: the server shows another certificate")
    asked = "no password supplied" in _refusal(server)
    if asked is not bool(turn % 2):
        wrong.append(f"turn {turn}: postgres from 127.0.0.1 is {'asked for a password' if asked else 'rejected'}")
    return wrong


def _shown(server: Server) -> str:
    """The certificate that openssl gets to see."""
    command = ["openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{server.port}"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", done.stdout, re.DOTALL)
    return found[0] if found else done.stderr


def _refusal(server: Server) -> str:
    """Why postgres does not come in by TCP without a password."""
    try:
        psycopg2.connect(host="127.0.0.1", port=server.port, user="postgres", dbname="postgres", sslmode="require").close()
    except psycopg2.OperationalError as error:
        return str(error)
    return "it comes in"
