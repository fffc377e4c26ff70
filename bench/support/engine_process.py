# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fresh process that runs a module as the managed node does, or bare statements, and tells what that took.

    engine_process.py module ARGUMENTS.json    run pg_access, or --module NAME; {"result", "seconds", "peak_kib", "statements"}
    engine_process.py bare STATEMENTS.json     connect and run statements; {"seconds"}

The clock runs from before the first connection to the end of the work: neither the interpreter's start nor imports are in it.
statements (with --statements) is everything the module sent, as [database, text] in order.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.extensions


def run_module(name: str, arguments: dict[str, Any], record: bool) -> dict[str, Any]:
    """A module in this process, with its answer taken from what it prints."""
    from ansible.module_utils import basic

    main = importlib.import_module(f"ansible_collections.bulwark.postgresql.plugins.modules.{name}").main
    sent: list[list[str]] = []
    if record:
        _record_statements(sent)
    output = io.StringIO()
    # As the wrapper of a module leaves them; ansible.module_utils.testing would import unittest and asyncio.
    basic._ANSIBLE_ARGS = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode()
    basic._ANSIBLE_PROFILE = "legacy"
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        start = time.perf_counter()
        main()
    seconds = time.perf_counter() - start
    return {
        "result": json.loads(output.getvalue()),
        "seconds": seconds,
        "peak_kib": peak_kib(),
        "statements": sent,
    }


def peak_kib() -> int:
    """The most memory that this program has had resident.

    On Linux ru_maxrss also counts what the parent had when it forked; the kernel's own high-water mark begins anew with the program.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _record_statements(sent: list[list[str]]) -> None:
    """Have every connection made from now on write down what it is sent."""

    class Recorder(psycopg2.extensions.cursor):
        def execute(self, query: Any, *parameters: Any) -> None:
            sent.append([self.connection.info.dbname, self.mogrify(query, *parameters).decode()])
            super().execute(query, *parameters)

    connect = psycopg2.connect

    def recording(*positional: Any, **named: Any) -> Any:
        return connect(*positional, cursor_factory=Recorder, **named)

    psycopg2.connect = recording


def run_bare(work: dict[str, Any]) -> dict[str, Any]:
    """The statements, in order, on one connection a database, all rows fetched."""
    connections: dict[str, Any] = {}
    start = time.perf_counter()
    for database, statement in work["statements"]:
        if database not in connections:
            connections[database] = psycopg2.connect(dbname=database, **work["login"])
            connections[database].autocommit = True
        with connections[database].cursor() as cursor:
            cursor.execute(statement)
            if cursor.description:
                list(cursor.fetchall())
    for connection in connections.values():
        connection.close()
    return {"seconds": time.perf_counter() - start}


def main() -> None:
    """Read the work from a file, do it, print the answer as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=["module", "bare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--statements", action="store_true")
    parser.add_argument("--module", default="pg_access")
    options = parser.parse_args()
    given = json.loads(options.file.read_text())
    answer = run_module(options.module, given, options.statements) if options.work == "module" else run_bare(given)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
