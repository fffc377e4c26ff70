# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values mean what the server would make of them, and survive being written into a file."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.parameters import split_setting
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.model import Definition
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.values import (
    ValueRefusedError,
    as_text,
    canonical,
    in_file,
    readable,
    same,
)

TIMEOUT = Definition("statement_timeout", "integer", "user", "0", "ms", 0, 2147483647)
MEMORY = Definition("work_mem", "integer", "user", "4096", "kB", 64, 2147483647)
BUFFERS = Definition("shared_buffers", "integer", "postmaster", "16384", "8kB", 16, 1073741823)
MODE = Definition("log_file_mode", "integer", "sighup", "384", None, 0, 511)
COST = Definition("random_page_cost", "real", "user", "4", None, 0, 1.79769e308)
DELAY = Definition("vacuum_cost_delay", "real", "user", "0", "ms", 0, 100)
FLAG = Definition("row_security", "bool", "user", "on")
LEVEL = Definition("synchronous_commit", "enum", "user", "on", words=("local", "remote_write", "remote_apply", "on", "off"))
LIBRARIES = Definition("shared_preload_libraries", "string", "postmaster", "")


@pytest.mark.parametrize(
    ("definition", "one", "other"),
    [
        (TIMEOUT, "60s", "1min"),
        (TIMEOUT, "1.5h", "90 min"),
        (TIMEOUT, "0", "0s"),
        (TIMEOUT, "1000us", "1"),
        (MEMORY, "1GB", "1024MB"),
        (MEMORY, "0x40", "64kB"),
        (BUFFERS, "128MB", "16384"),
        (MODE, "0600", "384"),
        (COST, "1.10", "1.1"),
        (DELAY, "2000us", "2ms"),
        (FLAG, "tru", "on"),
        (FLAG, "NO", "0"),
        (LEVEL, "Local", "local"),
        (LEVEL, "true", "on"),
        (LIBRARIES, ("a", "b"), "a,b"),
        (LIBRARIES, '"My Lib", b', ("My Lib", "b")),
    ],
)
def test_the_same(definition: Definition, one: str, other: str) -> None:
    assert same(definition, one, other)


@pytest.mark.parametrize(
    ("definition", "value", "message"),
    [
        (TIMEOUT, "1 parsec", "wrong unit, parsec; accepted units: us, ms, s, min, h, d"),
        (TIMEOUT, "-1", "must be from 0 to 2147483647 ms"),
        (TIMEOUT, "soon", "must be a number; accepted units"),
        (MEMORY, "10mb", "wrong unit, mb; accepted units: B, kB, MB, GB, TB"),
        (MODE, "6MB", "takes no unit, but has MB"),
        (FLAG, "o", "must be on or off"),
        (FLAG, "", "must be on or off"),
        (LEVEL, "remote_aply", 'did you mean "remote_apply"'),
        (COST, "1e999", "must be from 0"),
    ],
)
def test_refused(definition: Definition, value: str, message: str) -> None:
    with pytest.raises(ValueRefusedError, match=re.escape(message)):
        canonical(definition, value)


@pytest.mark.parametrize(
    ("definition", "value", "shown"),
    [(BUFFERS, "16384", "128MB"), (TIMEOUT, "90000", "90s"), (TIMEOUT, "0", "0"), (MODE, "384", "0600"), (TIMEOUT, "soon", "soon"), (MEMORY, "65", "65kB")],
)
def test_readable(definition: Definition, value: str, shown: str) -> None:
    assert readable(definition, value) == shown


@given(st.integers(0, 2147483647))
def test_what_is_shown_means_the_same(number: int) -> None:
    assert same(TIMEOUT, readable(TIMEOUT, str(number)), str(number))


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1).filter(lambda text: text == text.strip())))
def test_a_list_survives_being_written(items: list[str]) -> None:
    assert split_setting("shared_preload_libraries", as_text("shared_preload_libraries", tuple(items))) == tuple(items)


@given(st.text())
def test_quotes_are_balanced(text: str) -> None:
    quoted = in_file(text)
    inner = quoted[1:-1].replace("\\\\", "\0b").replace("''", "\0q")
    assert "'" not in inner
    assert "\\" not in inner
