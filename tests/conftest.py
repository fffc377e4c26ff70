# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures of every test: the servers, and the rule that CI counts a skip as a failure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.servers import Server, majors, remove_all, start_all

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[int, Server]]:
    """One running server a major version, started in parallel on first use."""
    started = start_all()
    try:
        yield started
    finally:
        remove_all(started)


@pytest.fixture(scope="session", params=majors(), ids=lambda major: f"pg{major}")
def server(request: pytest.FixtureRequest, servers: dict[int, Server]) -> Server:
    """Each server in turn. What a test leaves on it is there for the next one: see `cluster`."""
    return servers[request.param]


@pytest.fixture
def cluster(server: Server) -> Server:
    """Each server in turn, with none but the system's roles and databases, and those as initdb made them."""
    if not server.running:
        server.start()
    server.reset()
    return server


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
