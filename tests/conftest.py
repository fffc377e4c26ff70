# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of every test: the servers, and the rule that CI counts a skip as a failure."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers import SCRATCH, Server, majors, remove_all, running, start

if TYPE_CHECKING:
    from collections.abc import Iterator


class Servers(dict[int, Server]):
    """One running server a major version, started on first use."""

    def __missing__(self, major: int) -> Server:
        self[major] = start(major)
        return self[major]


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The servers of this process, by major version."""
    started = Servers()
    try:
        yield started
    finally:
        remove_all(started)


@pytest.fixture(scope="session", params=majors(), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    """Each server in turn. What a test leaves on it is there for the next one: see `cluster`."""
    return servers[request.param]


@pytest.fixture
def cluster(server: Server) -> Server:
    """Each server in turn, with none but the system's roles and databases, and those as initdb made them."""
    if not server.running:
        server.start()
    server.reset()
    return server


@pytest.fixture(scope="module", params=majors(), ids=lambda major: f"pg{major}")
def mine(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of the test file's own, whose files, settings and rules are what its tests change."""
    with running(request.param) as started:
        yield started


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A directory of the test's own that every user can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="bulwark-test-", dir=SCRATCH) as made:
        Path(made).chmod(0o777)
        yield Path(made)


def _major(item: pytest.Item) -> int | None:
    """The major version that a test runs on, None where it takes none from a fixture."""
    parameters = getattr(item, "callspec", None)
    found = [value for name, value in (parameters.params if parameters else {}).items() if name in ("server", "mine", "cluster", "major")]
    return found[0] if found and isinstance(found[0], int) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked oldest_and_newest, or newest, run on these majors alone."""
    chosen = {"oldest_and_newest": {None, min(majors()), max(majors())}, "newest": {None, max(majors())}}
    left_out = [item for item in items if any(item.get_closest_marker(mark) and _major(item) not in kept for mark, kept in chosen.items())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
    # Files with long tests go first, so that no process ends with one of them alone.
    long = {item.path for item in items if any(map(item.get_closest_marker, chosen))}
    items.sort(key=lambda item: item.path not in long)


_SHOWN_MAJOR = re.compile(r"[\[-](pg\d+)[-\]]")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With --dist loadgroup: what shares a server, a file and a major, runs in one process, in order."""
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file, _colons, test = nodeid.partition("::")
            major = _SHOWN_MAJOR.search(test)
            return f"{file} {major[1] if major else ''}"

    return ByServer(config, log) if config.getvalue("dist") == "loadgroup" else None


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With CI=true a skipped test is a failed one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if _in_ci() and skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.write_line(f"\nCI: {skipped} skipped, which counts as failed", red=True)
