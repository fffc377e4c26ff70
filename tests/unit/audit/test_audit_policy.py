# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The document of the audit log, and the names of its functions: without a server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.model import Log, Table
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.source import function_name
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.identifiers import split_name
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.statements import quoted_name

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=70)


LOG = Log()


def mistakes(document: Any, log: Log = LOG) -> list[tuple[str, str]]:
    """The mistakes of a document, each with its place."""
    with pytest.raises(PolicyError) as caught:
        read_policy(document, log)
    return [(mistake.path, mistake.message) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    "tables",
    [
        ["app"],
        {"app": "all"},
        {"app": None},
        {"app": {"all": True, "except": ["x*"]}},
        {"app": {"except": []}},
        {"app": ["a", "b*"]},
        {"app": {"tables": "a"}},
        {},
    ],
)
def test_every_form_of_tables(tables: Any) -> None:
    assert read_policy({"shop": {"tables": tables}}, LOG)[0].name == "shop"


@pytest.mark.parametrize(
    ("database", "path", "text"),
    [
        ({}, "databases.shop.tables", "is required"),
        ({"tables": "app", "masks": {}}, "databases.shop.masks", 'did you mean "mask"'),
        ({"tables": {"app": 7}}, "databases.shop.tables.app", "must be all, a list of tables"),
        ({"tables": {"app": []}}, "databases.shop.tables.app.tables", "at least one table"),
        ({"tables": {"app": {"all": False}}}, "databases.shop.tables.app.all", "false selects nothing"),
        ({"tables": {"pg_catalog": "all"}}, "databases.shop.tables.pg_catalog", "PostgreSQL's own"),
        ({"tables": ["app"], "mask": {"a.b.c": ["x"]}}, 'databases.shop.mask["a.b.c"]', "must name schema and table"),
        ({"tables": ["app"], "mask": {"app.t": []}}, 'databases.shop.mask["app.t"]', "at least one column"),
        ({"tables": ["app"], "mask": {"app.t": {"x": "blur"}}}, 'databases.shop.mask["app.t"].x', "mask, exclude, hash"),
        ({"tables": ["app"], "readers": "PUBLIC"}, "databases.shop.readers", "PUBLIC is everybody"),
        ({"tables": ["app"], "skip_unchanged": "maybe"}, "databases.shop.skip_unchanged", "must be true or false"),
    ],
)
def test_a_mistake_has_its_place(database: Any, path: str, text: str) -> None:
    found = mistakes({"shop": database})
    assert any(place == path and text in message for place, message in found), found


def test_names_of_the_log_are_checked() -> None:
    found = dict(mistakes({}, Log("pg_log", "none", "current_user", "a b.c")))
    assert set(found) == {"schema", "owner", "user_setting", "tenant_setting"}


@given(NAMES, NAMES)
def test_a_quoted_name_is_split_into_what_it_was_made_of(schema: str, table: str) -> None:
    assert split_name(quoted_name(schema, table)) == (schema, table)


@given(st.lists(st.tuples(NAMES, NAMES), unique=True, min_size=2, max_size=8))
def test_each_table_has_a_function_of_its_own_name(places: list[tuple[str, str]]) -> None:
    names = [function_name(Table(schema, table)) for schema, table in places]
    assert len(set(names)) == len(names)
    assert all(0 < len(name.encode()) <= 63 for name in names)
