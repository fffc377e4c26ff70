# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that Patroni runs, for real: its settings go through the dynamic configuration, exactly, and come back where they are not taken."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from tests import patroni, servers
from tests.integration import module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAJORS = sorted({min(servers.majors()), max(servers.majors())})


@pytest.fixture(scope="module", params=MAJORS, ids=lambda major: f"pg{major}")
def cluster(request: pytest.FixtureRequest) -> Iterator[patroni.Cluster]:
    """One member, of the oldest and of the newest major version."""
    try:
        patroni._python()
    except patroni.NoPythonError as reason:
        pytest.skip(str(reason))
    with patroni.running(request.param) as started:
        yield started


def run(cluster: patroni.Cluster, *, check: bool = False, **options: Any) -> module.Result:
    """The module's result."""
    return module.run(cluster, "pg_settings", check=check, diff=True, **{**cluster.interface, **options})


def parameters(cluster: patroni.Cluster) -> dict[str, Any]:
    """The settings of the dynamic configuration."""
    found: dict[str, Any] = cluster.ask("/config").get("postgresql", {}).get("parameters") or {}
    return found


def applied(cluster: patroni.Cluster, **options: Any) -> module.Result:
    """Apply what has something to do."""
    return module.foretold(functools.partial(run, cluster, **options), functools.partial(cluster.ask, "/config"), "settings", patience=15)


def refused(cluster: patroni.Cluster, **options: Any) -> str:
    """The message of a refusal, which leaves the configuration as it was."""
    return module.refusal(functools.partial(run, cluster, **options), functools.partial(cluster.ask, "/config"), patience=15)


def test_settings_are_those_of_the_dynamic_configuration(cluster: patroni.Cluster) -> None:
    done = applied(cluster, settings={"work_mem": "9MB", "log_statement": "ddl"})
    assert done["method"] == "patroni"
    assert (cluster.psql("SHOW work_mem"), cluster.psql("SHOW log_statement")) == ("9MB", "ddl")
    assert "work_mem: 4MB -> 9MB" in done["diff"]["prepared"]
    applied(cluster, settings={"work_mem": "9216kB", "maintenance_work_mem": "70MB"})
    assert sorted(parameters(cluster)) == ["maintenance_work_mem", "work_mem"]
    assert cluster.psql("SHOW log_statement") == "none"


def test_what_somebody_else_has_set_there_stays(cluster: patroni.Cluster) -> None:
    body = json.dumps({"postgresql": {"parameters": {"temp_buffers": "9MB"}}})
    password = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    password.add_password(None, cluster.url, patroni.USER, patroni.PASSWORD)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(password))
    deadline = time.monotonic() + 20
    while parameters(cluster).get("temp_buffers") != "9MB" and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.HTTPError):  # it may have no answer for the moment
            opener.open(urllib.request.Request(cluster.url + "/config", body.encode(), method="PATCH"), timeout=5).close()
        time.sleep(0.5)
    applied(cluster, settings={"work_mem": "5MB"})
    assert parameters(cluster) == {"temp_buffers": "9MB", "work_mem": "5MB"}


def test_two_documents_do_not_disturb_each_other(cluster: patroni.Cluster) -> None:
    applied(cluster, settings={"work_mem": "6MB"})
    applied(cluster, settings={"lock_timeout": "7s"}, name="other")
    assert run(cluster, settings={"work_mem": "6MB"})["changed"] is False
    applied(cluster, settings={}, name="other")
    assert cluster.psql("SHOW lock_timeout") == "0"


def test_the_baseline_is_taken(cluster: patroni.Cluster) -> None:
    applied(cluster, settings={}, baseline="default")
    assert cluster.psql("SHOW log_disconnections") == "on"


def test_what_waits_for_a_restart_is_said_until_it_has_happened(cluster: patroni.Cluster) -> None:
    wanted = {"settings": {"max_connections": 90, "work_mem": "5MB"}}
    done = run(cluster, **wanted)
    assert done["changed"] is True
    deadline = time.monotonic() + 15
    while "max_connections" not in (again := run(cluster, **wanted))["pending_restart"] and time.monotonic() < deadline:
        time.sleep(0.5)
    assert (again["changed"], again["restart_required"], again["pending_restart"]) == (False, True, ["max_connections"])
    assert again["service"]["manager"] == "patroni"


def test_a_value_that_this_server_does_not_have_in_time_is_taken_back(cluster: patroni.Cluster) -> None:
    """ALTER SYSTEM goes before Patroni's file."""
    applied(cluster, settings={"work_mem": "7MB"})
    cluster.psql("ALTER SYSTEM SET work_mem = '11MB'")
    cluster.psql("SELECT pg_reload_conf()")
    try:
        assert "work_mem is 11264" in refused(cluster, settings={"work_mem": "8MB"})
    finally:
        cluster.psql("ALTER SYSTEM RESET work_mem")
        cluster.psql("SELECT pg_reload_conf()")


def test_mistakes_are_refused(cluster: patroni.Cluster) -> None:
    assert 'no setting work_men (did you mean "work_mem"?)' in refused(cluster, settings={"work_men": "5MB"})
    assert "pg_server_settings.port: port is Patroni's own" in refused(cluster, settings={"port": 5433}, path_prefix="pg_server_")
    assert "method patroni" in refused(cluster, settings={"work_mem": "5MB"}, method="file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patroni_url": "http://127.0.0.1:1"}, "does not answer at http://127.0.0.1:1"),
        ({"patroni_password": "wrong"}, "it wants a user and a password"),
        ({"patroni_user": None}, "it wants a user and a password"),
    ],
)
def test_an_interface_that_does_not_let_in_is_told_apart(cluster: patroni.Cluster, options: dict[str, Any], message: str) -> None:
    assert message in refused(cluster, settings={"work_mem": "3MB"}, **options)


def test_the_facts_say_so(cluster: patroni.Cluster) -> None:
    found = module.run(cluster, "pg_cluster_info")
    assert (found["patroni"], found["service"]["manager"]) == (True, "patroni")


@pytest.mark.oldest_and_newest
def test_the_role_has_patroni_restart_the_server(cluster: patroni.Cluster, tmp_path: Path) -> None:
    connection = {"module_defaults": {"group/bulwark.postgresql.pg": cluster.login, "group/bulwark.postgresql.patroni": cluster.interface}}
    tasks = [{"name": "Settings", "ansible.builtin.include_role": {"name": "bulwark.postgresql.pg_server", "apply": connection}}]
    variables = {"pg_server_settings": {"max_connections": 80}, "pg_server_baseline": "none", "pg_server_restart": True}
    interface = {f"bulwark_{name}": value for name, value in cluster.interface.items()}
    playbook = module.Playbook(tmp_path, tasks, {**variables, **interface})
    for attempt in range(2):
        running = playbook.start()
        output = running.communicate(timeout=120)[0]
        assert running.returncode == 0, output
        assert cluster.psql("SHOW max_connections") == "80"
        assert ("changed=0" in output) is (attempt == 1), output


# Patroni itself comes in through the socket or by TCP on this host, and so do the tests.
RULES = [
    {"type": "local", "databases": "all", "roles": "postgres", "method": "trust"},
    {"type": "host", "databases": "all", "roles": "postgres", "addresses": "127.0.0.1"},
    {"type": "host", "replication": True, "roles": "replicator", "addresses": "127.0.0.1"},
    {"databases": "all", "roles": "all", "addresses": "10.0.0.0/8"},
]
ALLOWED = {"allow_plain": True, "allow_weak": True}


def test_rules_are_those_of_the_dynamic_configuration(cluster: patroni.Cluster) -> None:
    wanted = {"rules": RULES, "ident": {"m": [{"system_user": "o", "role": "postgres"}]}, **ALLOWED, **cluster.interface}
    before = cluster.ask("/config")
    foretold = module.run(cluster, "pg_hba", check=True, diff=True, **wanted)
    assert cluster.ask("/config") == before
    done = module.run(cluster, "pg_hba", diff=True, **wanted)
    assert not done.get("failed"), done["msg"]
    assert foretold["diff"] == done["diff"]
    assert "+ hostssl all all 10.0.0.0/8 scram-sha-256" in done["diff"]["prepared"]
    assert module.run(cluster, "pg_hba", **wanted)["changed"] is False
    assert cluster.ask("/config")["postgresql"]["pg_hba"][3] == "hostssl all all 10.0.0.0/8 scram-sha-256"
    info = module.run(cluster, "pg_hba_info")
    assert [rule["type"] for rule in info["rules"]] == ["local", "host", "host", "hostssl", "local", "host"]
    assert info["stale"] == []
    assert cluster.ask("/patroni")["state"] == "running"


def test_rules_that_lock_out_patroni_are_refused(cluster: patroni.Cluster) -> None:
    """The tests come in through the socket, which is still open to them."""
    before = cluster.ask("/config")
    result = module.run(cluster, "pg_hba", rules=[RULES[0], *RULES[2:]], **ALLOWED, **cluster.interface)
    assert 'would lock out Patroni, which connects as "postgres" from 127.0.0.1' in result["msg"]
    assert cluster.ask("/config") == before


@pytest.mark.parametrize("settings", [{"local_preload_libraries": ["nosuch"]}, {"statement_timeout": "1ms"}], ids=["no library", "a timeout"])
def test_settings_that_keep_sessions_out_are_taken_back(cluster: patroni.Cluster, settings: dict[str, Any]) -> None:
    cluster.psql("ALTER ROLE postgres RESET ALL")  # a limit of its own would go before the server's
    assert "as it was" in refused(cluster, settings=settings)
    deadline = time.monotonic() + 15
    while True:
        try:
            assert cluster.psql("SELECT count(*) FROM generate_series(1, 100000)") == "100000"
            return
        except subprocess.CalledProcessError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
