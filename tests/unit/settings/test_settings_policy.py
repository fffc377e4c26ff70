# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The document of settings: every mistake has its place, and the baseline gives way."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.baseline import BASELINE
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.model import Definition, Entry, Policy, Setting, State
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.reconcile import (
    file_changes,
    file_text,
    include_directory,
    merged,
    overrides,
)

DEFINITIONS = {
    definition.name: definition
    for definition in (
        Definition("work_mem", "integer", "user", "4096", "kB", 64, 2147483647),
        Definition("log_connections", "bool", "superuser-backend", "off"),
        Definition("listen_addresses", "string", "postmaster", "localhost"),
        Definition("shared_preload_libraries", "string", "postmaster", ""),
        Definition("server_version", "string", "internal", "15.1"),
        Definition("data_directory", "string", "postmaster", "/data"),
    )
}
STATE = State(15, DEFINITIONS, (), ("auto_explain", "pg_stat_statements"))
CONFIG = "/etc/pg/postgresql.conf"
OURS = "/etc/pg/conf.d/bulwark.conf"


def read(document: Any, state: State = STATE) -> Policy:
    """The policy without a baseline."""
    return read_policy(document, "none", state, "pg_server_")


def mistakes(document: Any) -> dict[str, str]:
    """Place and message of every mistake."""
    with pytest.raises(PolicyError) as caught:
        read(document)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


def test_every_mistake_is_told_with_its_place() -> None:
    found = mistakes(
        {
            "work_men": "1MB",
            "work_mem": "lots",
            "log_connections": {"value": "maybe"},
            "listen_addresses": {"optional": True},
            "server_version": "18",
            "data_directory": "/elsewhere",
            "shared_preload_libraries": ["pg_stat_statement"],
        }
    )
    assert {path.removeprefix("pg_server_settings.") for path in found} == {
        "work_men", "work_mem", "log_connections.value", "listen_addresses.value", "server_version", "data_directory", "shared_preload_libraries",
    }  # fmt: skip
    assert 'did you mean "work_mem"' in found["pg_server_settings.work_men"]
    assert 'did you mean "pg_stat_statements"' in found["pg_server_settings.shared_preload_libraries"]


@pytest.mark.parametrize("document", [[], "work_mem", {"work_mem": {"valu": 1}}, {"work_mem": [1]}, {1: 2}, {"work_mem": "1\n2"}, {"listen_addresses": "\0"}])
def test_what_is_no_document(document: Any) -> None:
    assert mistakes(document)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_anything_is_read_or_refused(document: Any) -> None:
    with contextlib.suppress(PolicyError):
        read({"work_mem": document, "listen_addresses": document})
        read(document)


def test_an_optional_setting_that_is_unknown_is_skipped() -> None:
    policy = read({"transaction_timeout": {"value": "1h", "optional": True}, "work_mem": "8MB"})
    assert ([wanted.name for wanted in policy.wanted], policy.skipped) == (["work_mem"], ("transaction_timeout",))


def test_a_setting_of_the_baseline_gives_way() -> None:
    names = {entry.name: Definition(entry.name, "string", "user", "") for entry in BASELINE}
    state = State(17, names)
    policy = read_policy({"lock_timeout": None, "log_statement": "ddl"}, "default", state)
    found = {wanted.name: wanted for wanted in policy.wanted}
    assert "lock_timeout" not in found
    assert found["log_statement"].value == "ddl"
    assert found["log_connections"].value == "on"
    assert "pgaudit.log" not in found


def test_every_entry_of_the_baseline_says_why() -> None:
    for major in range(14, 19):
        names = [entry.name for entry in BASELINE if entry.since <= major <= entry.until]
        assert len(names) == len(set(names))
    assert all(entry.reason and not entry.reason.endswith(".") for entry in BASELINE)


def entry(name: str, value: str, file: str = CONFIG, line: int = 1, order: int = 1) -> Entry:
    """A line of a file."""
    return Entry(file, line, order, name, value)


def test_libraries_of_other_files_stay() -> None:
    state = State(15, DEFINITIONS, (entry("shared_preload_libraries", "citus, auto_explain"), entry("shared_preload_libraries", "gone", OURS)))
    wanted = Setting("shared_preload_libraries", ("auto_explain", "pg_stat_statements"), "x")
    assert merged(wanted, state, {OURS}).value == ("citus", "auto_explain", "pg_stat_statements")


@pytest.mark.parametrize(
    ("other", "wins"),
    [
        (entry("work_mem", "1MB", "/data/postgresql.auto.conf"), True),
        (entry("work_mem", "1MB", CONFIG, line=90), True),
        (entry("work_mem", "1MB", CONFIG, line=10), False),
        (entry("work_mem", "1MB", "/etc/pg/conf.d/tuning.conf"), True),
        (entry("work_mem", "1MB", "/etc/pg/conf.d/basics.conf"), False),
        (entry("work_mem", "65536kB", "/data/postgresql.auto.conf"), False),
        (entry("log_connections", "on", "/data/postgresql.auto.conf"), False),
    ],
)
def test_what_is_read_later_overrides(other: Entry, wins: bool) -> None:
    policy = read({"work_mem": "64MB"})
    assert bool(overrides(policy, State(15, DEFINITIONS, (other,)), OURS, CONFIG, 50)) is wins


def test_the_command_line_overrides() -> None:
    started = {**DEFINITIONS, "work_mem": Definition("work_mem", "integer", "user", "1024", "kB", 64, 2147483647, source="command line")}
    (found,) = overrides(read({"work_mem": "64MB"}), State(15, started), OURS, CONFIG, 50)
    assert "command line" in found.remedy(True)
    assert not found.by_alter_system


def test_file_changes() -> None:
    state = State(15, DEFINITIONS, (entry("log_connections", "yes", OURS), entry("port", "5433", OURS)))
    policy = read({"work_mem": "64MB", "log_connections": True, "listen_addresses": "*"})
    assert [change.description for change in file_changes(policy, state, OURS)] == [
        "listen_addresses: localhost -> * (after a restart)",
        "port: 5433 -> no longer set here",
        "work_mem: 4MB -> 64MB",
    ]


def test_the_file() -> None:
    policy = read({"listen_addresses": {"value": "o'brien\\", "reason": "why not"}, "work_mem": "64MB"})
    assert file_text(policy).splitlines()[1:] == ["", "# why not", "listen_addresses = 'o''brien\\\\'", "", "work_mem = '64MB'"]


@pytest.mark.parametrize(
    ("text", "directory", "line"),
    [
        ("a = 1\ninclude_dir = 'conf.d'\nb = 2\n", "/etc/pg/conf.d", 2),
        ("include_dir 'o''ne'\n  INCLUDE_DIR='/two'\n", "/two", 2),
        ("#include_dir = 'conf.d'\ninclude_dir = ''\n", None, 0),
    ],
)
def test_the_directory_that_is_included(text: str, directory: str | None, line: int) -> None:
    assert include_directory(CONFIG, text) == (directory, line)


def test_pgaudit_is_configured_with_the_start_that_loads_it() -> None:
    names = ["shared_preload_libraries", *(entry.name for entry in BASELINE)]
    state = State(15, {name: Definition(name, "string", "user", "") for name in names}, libraries=("pgaudit",))
    names = {each.name for each in read_policy({"shared_preload_libraries": ["pgaudit"]}, "default", state).wanted}
    assert "pgaudit.log" in names
