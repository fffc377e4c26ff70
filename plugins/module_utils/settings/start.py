# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the server's own program would start with settings: it is run until it has loaded them, TLS included, and no further.

The program gets a scratch data directory with the server's control file and nothing that could be damaged. It reads the real
configuration, with the
new values on its command line, listens nowhere, and ends where it misses the first directory that only a real cluster has.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from typing import TYPE_CHECKING, Callable

from ..core.files import give

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..core.facts import ClusterFacts

# Runs a program and gives its exit code and what it said to standard error.
RunCommand = Callable[["list[str]"], "tuple[int, str]"]

# What is not the scratch server's: it must not be reached, take memory, write elsewhere or run the code of libraries.
_OVERRIDDEN = {
    "listen_addresses": "",
    "unix_socket_directories": "",
    "external_pid_file": "",
    "shared_preload_libraries": "",
    "shared_buffers": "1MB",
    "min_dynamic_shared_memory": "0",
    "huge_pages": "off",
    "logging_collector": "off",
    "log_destination": "stderr",
    "log_min_messages": "warning",
    "log_line_prefix": "",
    "lc_messages": "C",
}
_REACHED = '"pg_notify"'  # the first directory of a cluster that is opened after the configuration and TLS have been loaded
_LINES = re.compile(r"(?:FATAL|HINT|DETAIL):\s+(.*)")
_PATIENCE = "30"  # seconds


def start_problem(facts: ClusterFacts, values: Mapping[str, str], run_command: RunCommand) -> str | None:
    """Why the server would not start with these values, in its own words; None where it would, or where that cannot be found out here.

    values: parameter -> value as text, on top of the configuration that is there.
    """
    new = {name: value for name, value in values.items() if name not in _OVERRIDDEN}
    if not new or not (facts.local and facts.bin_directory and facts.data_directory and facts.config_file):
        return None
    try:
        with _scratch(facts.data_directory) as scratch:
            problem = _attempt(facts, scratch, new, run_command)
            # What is wrong without the new values as well is not theirs.
            return None if problem is None or problem == _attempt(facts, scratch, {}, run_command) else problem
    except OSError:
        return None


def as_account(facts: ClusterFacts, command: list[str]) -> list[str]:
    """The command as the server's account runs it, since its programs refuse to run as root."""
    if os.geteuid() != 0:
        return command
    found = os.stat(facts.data_directory or "/")
    return ["setpriv", f"--reuid={found.st_uid}", f"--regid={found.st_gid}", "--clear-groups", *command]


@contextlib.contextmanager
def _scratch(data: str) -> Iterator[str]:
    """A data directory with the control file; files that settings may name relative to it are links."""
    scratch = tempfile.mkdtemp(prefix="bulwark-")
    try:
        os.mkdir(os.path.join(scratch, "global"), 0o700)
        copies = [os.path.join("global", "pg_control"), "PG_VERSION"]
        for name in copies:
            shutil.copyfile(os.path.join(data, name), os.path.join(scratch, name))
        for entry in os.scandir(data):
            ours = entry.name.startswith("postmaster.") or entry.name.endswith(".signal") or entry.name in copies
            if entry.is_file() and not ours:
                os.symlink(entry.path, os.path.join(scratch, entry.name))
        if os.geteuid() == 0:
            owner = os.stat(data)
            # What is deepest first: whoever has a directory may put links into it.
            for name in (*(os.path.join(scratch, each) for each in (*copies, "global")), scratch):
                give(name, (owner.st_uid, owner.st_gid))
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _attempt(facts: ClusterFacts, scratch: str, new: Mapping[str, str], run_command: RunCommand) -> str | None:
    command = ["timeout", _PATIENCE, f"{facts.bin_directory}/postgres", "-D", scratch]
    places = {"data_directory": scratch, "config_file": facts.config_file or ""}
    for name, value in {**new, **_OVERRIDDEN, **places}.items():
        command += ["-c", f"{name}={value}"]
    _code, error = run_command(as_account(facts, command))
    if _REACHED in error:
        return None
    return "; ".join(_LINES.findall(error)) or " ".join(error.split())
