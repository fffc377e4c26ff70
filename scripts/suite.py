# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the stages of the test suite, some beside each other, and ends with a table of them and of the slowest tests.

    scripts/run suite STAGE|GROUP...        all of them: scripts/run suite all

What a stage prints is shown when it has ended, whole. A failing stage does not stop the others. A stage that this machine cannot run is
skipped, with the reason; with CI=true that counts as a failure. The last line reads `N passed, M failed`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.servers import majors

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / ".work" / "suite"
BESIDE = 2  # stages at a time; the longest one uses two processes itself
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

    @property
    def log(self) -> Path:
        """The file that takes what the stage prints."""
        return LOGS / f"{self.name}.log"


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


def _pytest(*arguments: str) -> tuple[str, ...]:
    """pytest on both cores of a small machine; the tests of one file and one server stay together, in order."""
    return ("pytest", "-q", "-n", "2", "--dist", "loadgroup", "--no-loadscope-reorder", "--durations=30", "--durations-min=1", *arguments)


# A change below one of these paths can break the tests that name its modules or roles; any other change to the code can break all.
_DOMAINS = {
    "access": ("pg_access", "pg_users", "test_access"),
    "settings": ("pg_settings", "pg_server"),
    "tls": ("pg_ssl",),
    "hba": ("pg_hba",),
    "row_security": ("pg_row_security",),
    "encryption": ("pg_encryption", "fernet", "field_encryption"),
    "audit": ("pg_audit", "audit_workload"),
}
_HARMLESS = ("docs/", "changelogs/", "bench/", "molecule/", "demo/", "tests/unit/", "scripts/", "LICENSES/")


def _changed() -> list[str]:
    """The files that differ from the branch main, or where nothing was committed on top of it, from the last commit."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.splitlines() if done.returncode == 0 else []

    main = next((name for name in ("origin/main", "main") if git("rev-parse", "--verify", "--quiet", name)), "HEAD")
    (base,) = git("merge-base", "HEAD", main) or ["HEAD"]
    return [*git("diff", "--name-only", base), *git("ls-files", "--others", "--exclude-standard")]


def affected(changed: list[str]) -> tuple[str, ...]:
    """pytest's arguments for the integration tests that these files can break; none where there are none."""
    tests = sorted((ROOT / "tests" / "integration").glob("test_*.py"))
    names: set[str] = set()
    found: set[Path] = set()
    for path in changed:
        domain = next((key for key, words in _DOMAINS.items() if f"module_utils/{key}/" in path or any(word in path for word in words)), None)
        if ROOT / path in tests:
            found.add(ROOT / path)
        elif domain:
            names.update(_DOMAINS[domain])
        elif path.endswith((".py", ".yml")) and not path.startswith(_HARMLESS):
            return ("-m", "not oldest_and_newest and not newest", "tests/integration")
    found.update(test for test in tests if any(name in f"{test.stem} {test.read_text(encoding='utf-8')}" for name in names))
    return tuple(str(test.relative_to(ROOT)) for test in sorted(found) if test.exists())


def stages() -> list[Stage]:
    """Every stage, in the order in which they start: the longest first, so that the others fill the time beside it."""
    quick = affected(_changed())
    newest = f"BULWARK_PG_MAJORS={max(majors())}"
    docs = "antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=dependent --disallow-unknown-collection-refs ."
    return [
        Stage(
            "integration",
            "integration",
            "PostgreSQL 14 to 18, the examples, hostile input",
            (_pytest("tests/integration"),),
            needs=("openssl",),
        ),
        Stage(
            "affected",
            "quick",
            "what the change can break, on the newest major",
            (("env", newest, *_pytest(*quick)),) if quick else (),
            needs=("openssl",),
        ),
        Stage("molecule-default", "molecule", "Debian 13 with systemd", (("scripts/molecule", "default"),), may_decline=True),
        Stage("molecule-existing", "molecule", "Debian 12 that already holds data", (("scripts/molecule", "existing"),), may_decline=True),
        Stage("ansible-lint", "lint", "profile production, nothing skipped", (("scripts/in-copy", "lint", "ansible-lint", "--offline"),)),
        Stage("sanity", "sanity", "ansible-test sanity, no ignore files", (("scripts/sanity",),)),
        Stage("demo", "demo", "make demo", (("demo/run",),)),
        Stage("tarball", "tarball", "build, install, run from the installed copy", (("python", "scripts/tarball.py"),)),
        Stage("unit", "unit", "the engine, without a server", (("pytest", "-q", "tests/unit"),)),
        Stage("docs", "lint", "documentation of modules and roles", (("scripts/in-copy", "docs", *docs.split()),)),
        Stage(
            "mypy",
            "lint",
            "types, strict, of the engine and the program for backups",
            (("mypy", "plugins/module_utils", "roles/pg_backup/files/program/bulwark_backup"),),
        ),
        Stage("ruff", "lint", "Python style and common mistakes", (("ruff", "check", "."),)),
        Stage("yamllint", "lint", "YAML style", (("yamllint", "--strict", "."),)),
        Stage("shellcheck", "lint", "shell scripts", (("shellcheck", "-x", *_shell_scripts()),), needs=("shellcheck",)),
        Stage("reuse", "lint", "every file states its license", (("reuse", "lint", "--lines"),)),
        Stage("changelog", "lint", "changelog fragments", (("scripts/in-copy", "changelog", "antsibull-changelog", "lint"),)),
        Stage("role-pages", "lint", "docs/roles is up to date", (("python", "scripts/role_pages.py", "--check"),)),
    ]


@dataclass(frozen=True)
class Result:
    """How a stage ended."""

    stage: Stage
    outcome: str
    seconds: float
    reason: str = ""


class Runner:
    """Runs stages, BESIDE of them at a time. What is still running when the suite is interrupted is ended with it."""

    def __init__(self) -> None:
        self._started: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(self, chosen: list[Stage]) -> list[Result]:
        """The results, in the order of the stages."""
        LOGS.mkdir(parents=True, exist_ok=True)
        results: dict[str, Result] = {}
        with ThreadPoolExecutor(BESIDE) as pool:
            futures = [pool.submit(self._stage, stage) for stage in chosen]
            try:
                for future in as_completed(futures):
                    result = future.result()
                    results[result.stage.name] = result
                    self._show(result, len(chosen) - len(results))
            except BaseException:
                for future in futures:
                    future.cancel()
                self._end()
                raise
        return [results[stage.name] for stage in chosen]

    def _show(self, result: Result, left: int) -> None:
        print(f"\n=== {result.stage.name}: {result.stage.proves}", flush=True)
        log = result.stage.log
        if log.exists():
            sys.stdout.write(log.read_text(encoding="utf-8", errors="replace"))
        print(f"=== {result.stage.name}: {result.outcome} after {result.seconds:.0f} s; {left} stages to go", flush=True)

    def _end(self) -> None:
        with self._lock:
            for process in self._started:
                try:
                    os.killpg(process.pid, signal.SIGTERM)
                except ProcessLookupError:
                    continue

    def _stage(self, stage: Stage) -> Result:
        started = time.monotonic()
        stage.log.unlink(missing_ok=True)
        missing = [program for program in stage.needs if shutil.which(program) is None]
        if missing:
            return Result(stage, "skipped", 0, f"{', '.join(missing)} is not installed")
        for command in stage.commands:
            code = self._command(command, stage.log)
            seconds = time.monotonic() - started
            if code == CANNOT and stage.may_decline:
                return Result(stage, "skipped", seconds, _last_line(stage.log))
            if code != 0:
                return Result(stage, "FAILED", seconds, f"{command[0]} ended with {code}")
        return Result(stage, "passed", time.monotonic() - started)

    def _command(self, command: tuple[str, ...], log: Path) -> int:
        """The exit code of a command, whose output goes to the log."""
        with log.open("ab") as output:
            try:
                process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
            except OSError as error:
                output.write(f"{command[0]}: {error}\n".encode())
                return 127
            with self._lock:
                self._started.add(process)
            code = process.wait()
            with self._lock:
                self._started.discard(process)
            return code


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def slowest(results: list[Result], count: int = 10) -> list[tuple[float, str]]:
    """The slowest tests with their fixtures, seconds first, from what pytest says of them in the stages' logs."""
    spent: dict[str, float] = {}
    for log in (result.stage.log for result in results if result.stage.log.exists()):
        for seconds, test in re.findall(r"^(\d+\.\d+)s (?:call|setup|teardown) +(\S.*)$", log.read_text(encoding="utf-8", errors="replace"), re.MULTILINE):
            spent[test] = spent.get(test, 0.0) + float(seconds)
    return sorted(((seconds, test) for test, seconds in spent.items()), reverse=True)[:count]


def report(results: list[Result], seconds: float) -> int:
    """Print the tables; the number of stages that count as failed."""
    in_ci = os.environ.get("CI", "").lower() in ("1", "true", "yes")
    width = max(len(result.stage.name) for result in results)
    print(f"\n{'stage':<{width}}  {'result':<7}  seconds")
    for result in results:
        print(f"{result.stage.name:<{width}}  {result.outcome:<7}  {result.seconds:7.1f}  {result.reason}".rstrip())
    print(f"{'in all':<{width}}  {'':<7}  {seconds:7.1f}")
    found = slowest(results)
    print("\nthe slowest tests, in seconds" if found else "")
    for spent, test in found:
        print(f"{spent:7.1f}  {test}")
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
    groups = {*wanted, *(("lint", "unit") if "quick" in wanted else ())}
    chosen = [stage for stage in known if {stage.name, stage.group} & groups or ("all" in groups and stage.group != "quick")]
    started = time.monotonic()
    results = Runner().run(chosen)
    return 1 if report(results, time.monotonic() - started) else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
