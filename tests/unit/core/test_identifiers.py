# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names that PostgreSQL can hold, and those that it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import identifiers as names

if TYPE_CHECKING:
    from collections.abc import Callable

FINE: list[tuple[Callable[[str], str | None], str]] = [
    *((names.name_problem, name) for name in ("a", "n" * 63, "\u00fc" * 31, 'quo"te', "two words", "new\nline", "*", "pg_x", "\U0001f418", "select", " ")),
    *((names.role_name_problem, name) for name in ("app", "Public", "None", "pgbouncer", "PG_x")),
    *((names.one_role_problem, name) for name in ("pg_database_owner", "Public")),
    *((names.schema_name_problem, name) for name in ("public", "pgbench", "Information_schema")),
    *((names.pattern_problem, name) for name in ("*", "**", "report_*", "*" * 10 + "n" * 63)),
    *((names.function_problem, name) for name in ("f", "f*", "f()", "f(integer, text)", "f(text[])")),
    *((names.function_problem, name) for name in ('"Odd, Name"(text)', "n" * 63 + "()", "f(" + "integer, " * 20 + "text)")),
    *((names.parameter_problem, name) for name in ("work_mem", "TimeZone", "my.param", "_x.y$1", "a.b.c")),
]

WRONG: list[tuple[Callable[[str], str | None], str, str]] = [
    (names.name_problem, "", "empty"),
    (names.name_problem, "a\0b", "NUL"),
    (names.name_problem, "\ud800", "Unicode"),
    (names.name_problem, "n" * 64, "63 bytes, this one has 64; PostgreSQL would truncate it"),
    (names.name_problem, "\u00fc" * 32, "63 bytes, this one has 64"),
    (names.role_name_problem, "pg_mine", "pg_"),
    (names.role_name_problem, "PUBLIC", "everybody"),
    (names.role_name_problem, "public", "everybody"),
    (names.role_name_problem, "none", "reserved"),
    (names.role_name_problem, "", "empty"),
    (names.one_role_problem, "PUBLIC", "everybody"),
    (names.one_role_problem, "n" * 64, "truncate"),
    (names.schema_name_problem, "pg_toast", "PostgreSQL's own"),
    (names.schema_name_problem, "information_schema", "PostgreSQL's own"),
    (names.pattern_problem, "", "empty"),
    (names.pattern_problem, "*" + "n" * 64, "truncate"),
    (names.pattern_problem, "*\0", "NUL"),
    (names.function_problem, "", "empty"),
    (names.function_problem, "f(integer", "name(type, type)"),
    (names.function_problem, "(integer)", "empty"),
    (names.function_problem, "f(numeric(10,2))", "modifiers"),
    (names.function_problem, "n" * 64 + "(integer)", "truncate"),
    (names.function_problem, "f(\0)", "NUL"),
    (names.parameter_problem, "work mem", "no name of a parameter"),
    (names.parameter_problem, "1st", "no name of a parameter"),
    (names.parameter_problem, "a..b", "no name of a parameter"),
    (names.parameter_problem, "a = 1; --", "no name of a parameter"),
    (names.parameter_problem, "", "empty"),
]


@pytest.mark.parametrize(("problem", "name"), FINE)
def test_names_that_are_fine(problem: Callable[[str], str | None], name: str) -> None:
    assert problem(name) is None


@pytest.mark.parametrize(("problem", "name", "told"), WRONG)
def test_names_that_are_not(problem: Callable[[str], str | None], name: str, told: str) -> None:
    assert told in (problem(name) or "")


@given(st.text(st.characters(codec=None)))
def test_a_name_is_fine_exactly_if_postgresql_keeps_it(name: str) -> None:
    encoded = name.encode("utf-8", "surrogatepass")
    whole = bool(name) and "\0" not in name and len(encoded) <= 63 and encoded.decode("utf-8", "ignore") == name
    assert (names.name_problem(name) is None) is whole
