# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the stages of the test suite one after another and ends with a table of them.

    scripts/run suite STAGE|GROUP...        all of them: scripts/run suite all

A failing stage does not stop the others. A stage that this machine cannot run is skipped, with the reason; with CI=true that counts
as a failure. The last line reads `N passed, M failed`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CANNOT = 3  # the exit code of a stage that this machine cannot run; the last line on standard error says why


@dataclass(frozen=True)
class Stage:
    """One stage: its commands run in order until one fails."""

    name: str
    group: str
    proves: str
    commands: tuple[tuple[str, ...], ...]
    needs: tuple[str, ...] = ()  # programs that do not come from PyPI
    may_decline: bool = False  # exit code CANNOT means skipped


def _shell_scripts() -> tuple[str, ...]:
    """The tracked shell scripts, by their first line."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    scripts = []
    for name in listed:
        path = ROOT / name
        if path.is_file() and not path.suffix:
            with path.open("rb") as file:
                if file.readline().startswith(b"#!/usr/bin/env bash"):
                    scripts.append(name)
    return tuple(scripts)


def stages() -> list[Stage]:
    """Every stage, in the order in which they run: the quick ones first."""
    pytest = ("pytest", "-q")
    return [
        Stage("ruff", "lint", "Python style and common mistakes", (("ruff", "check", "."),)),
        Stage("mypy", "lint", "types, strict, of the engine", (("mypy", "plugins/module_utils"),)),
        Stage("yamllint", "lint", "YAML style", (("yamllint", "--strict", "."),)),
        Stage("shellcheck", "lint", "shell scripts", (("shellcheck", "-x", *_shell_scripts()),), needs=("shellcheck",)),
        Stage("reuse", "lint", "every file states its license", (("reuse", "lint", "--lines"),)),
        Stage("changelog", "lint", "changelog fragments", (("scripts/in-copy", "docs", "antsibull-changelog", "lint"),)),
        Stage(
            "docs",
            "lint",
            "documentation of modules and roles",
            (
                (
                    "scripts/in-copy",
                    "docs",
                    "antsibull-docs",
                    "lint-collection-docs",
                    "--plugin-docs",
                    "--validate-collection-refs=dependent",
                    "--disallow-unknown-collection-refs",
                    ".",
                ),
            ),
        ),
        Stage("role-pages", "lint", "docs/roles is up to date", (("python", "scripts/role_pages.py", "--check"),)),
        Stage("ansible-lint", "lint", "profile production, nothing skipped", (("scripts/in-copy", "lint", "ansible-lint", "--offline"),)),
        Stage("unit", "unit", "the engine, without a server", ((*pytest, "tests/unit"),)),
        Stage("sanity", "sanity", "ansible-test sanity, no ignore files", (("scripts/sanity",),)),
        Stage("tarball", "tarball", "build, install, run from the installed copy", (("python", "scripts/tarball.py"),)),
        Stage("demo", "demo", "make demo", (("demo/run",),)),
        Stage("integration", "integration", "five majors of PostgreSQL, the examples, hostile input", ((*pytest, "tests/integration"),), needs=("openssl",)),
        Stage("molecule-default", "molecule", "Debian 13 with systemd", (("scripts/molecule", "default"),), may_decline=True),
        Stage("molecule-existing", "molecule", "Debian 12 that already holds data", (("scripts/molecule", "existing"),), may_decline=True),
    ]


@dataclass(frozen=True)
class Result:
    """How a stage ended."""

    stage: Stage
    outcome: str
    seconds: float
    reason: str = ""


def _run(command: tuple[str, ...]) -> tuple[int, str]:
    """Run a command; its exit code and the last line that it wrote to standard error."""
    last = ""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            last = line.strip() or last
        return process.wait(), last


def run(stage: Stage) -> Result:
    """Run one stage."""
    print(f"\n=== {stage.name}: {stage.proves}", flush=True)
    started = time.monotonic()
    missing = [program for program in stage.needs if shutil.which(program) is None]
    if missing:
        return Result(stage, "skipped", 0, f"{', '.join(missing)} is not installed")
    for command in stage.commands:
        try:
            code, last = _run(command)
        except OSError as error:
            code, last = 127, str(error)
            print(f"{command[0]}: {error}", file=sys.stderr)
        if code == CANNOT and stage.may_decline:
            return Result(stage, "skipped", time.monotonic() - started, last)
        if code != 0:
            return Result(stage, "FAILED", time.monotonic() - started, f"{command[0]} ended with {code}")
    return Result(stage, "passed", time.monotonic() - started)


def report(results: list[Result]) -> int:
    """Print the table; the number of stages that count as failed."""
    in_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    width = max(len(result.stage.name) for result in results)
    print(f"\n{'stage':<{width}}  {'result':<7}  seconds")
    for result in results:
        print(f"{result.stage.name:<{width}}  {result.outcome:<7}  {result.seconds:7.1f}  {result.reason}".rstrip())
    skipped = [result for result in results if result.outcome == "skipped"]
    for result in skipped:
        print(f"\nNot run on this machine: {result.stage.name} ({result.stage.proves}): {result.reason}", end="")
        print(" [CI: counts as failed]" if in_ci else "")
    passed = sum(result.outcome == "passed" for result in results)
    failed = len(results) - passed - (0 if in_ci else len(skipped))
    more = f", {len(skipped)} skipped" if skipped and not in_ci else ""
    print(f"\n{passed} passed, {failed} failed{more}", flush=True)
    return failed


def main(wanted: list[str]) -> int:
    """Run the stages named, or those of the groups named."""
    known = stages()
    names = {stage.name for stage in known} | {stage.group for stage in known} | {"all"}
    unknown = [word for word in wanted if word not in names]
    if unknown or not wanted:
        print(f"suite: unknown stage {', '.join(unknown) or '(none given)'}; known: {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    chosen = [stage for stage in known if {"all", stage.name, stage.group} & set(wanted)]
    return 1 if report([run(stage) for stage in chosen]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
