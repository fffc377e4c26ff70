# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents of row-level security: what is accepted, and that each mistake is named with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.model import Column, RowPolicy, Selection, Table
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.predicate import TYPES, same_text, tenant_predicate
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.reconcile import reconcile, wanted_policies

TENANCY: dict[str, Any] = {"setting": "app.tenant", "column": "tenant_id", "schemas": ["app"], "roles": ["reader", "app"]}


def mistakes(tenancy: Any) -> list[tuple[str, str]]:
    """The mistakes in a tenancy, place and message."""
    with pytest.raises(PolicyError) as caught:
        read_policy({"shop": {"tenancy": tenancy}}, "pg_row_security_")
    return [(mistake.path, mistake.message) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("schemas", "expected"),
    [
        (["app", "crm"], [("app", None, ()), ("crm", None, ())]),
        ("app", [("app", None, ())]),
        ({"app": "all", "crm": None}, [("app", None, ()), ("crm", None, ())]),
        ({"app": ["orders", "inv_*"]}, [("app", ("orders", "inv_*"), ())]),
        ({"app": {"except": "countries"}}, [("app", None, ("countries",))]),
        ({"app": {"tables": "all", "except": ["a", "b*"]}}, [("app", None, ("a", "b*"))]),
        ({"app": {"tables": ["x"]}}, [("app", ("x",), ())]),
    ],
)
def test_schemas_are_said_in_several_ways(schemas: Any, expected: list[Any]) -> None:
    (database,) = read_policy({"shop": {"tenancy": {**TENANCY, "schemas": schemas}}})
    assert database.tenancy is not None
    assert [(each.schema, each.names, each.excluding) for each in database.tenancy.selections] == expected


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({"setting": None}, "setting", "is required"),
        ({"roles": None}, "roles", "is required"),
        ({"settings": "x"}, "settings", 'did you mean "setting"?'),
        ({"setting": "tenant"}, "setting", "a name with a dot"),
        ({"setting": "app.tenant'; DROP"}, "setting", "is no name of a parameter"),
        ({"setting": "app.ténant"}, "setting", "ASCII"),
        ({"setting": 5}, "setting", "must be a string"),
        ({"column": "x" * 64}, "column", "63 bytes"),
        ({"roles": ["PUBLIC"]}, "roles[0]", "PUBLIC is everybody"),
        ({"roles": "app", "roles_all_rows": ["app"]}, "roles_all_rows", "one tenant or all of them"),
        ({"schemas": ["pg_catalog"]}, "schemas[0]", "PostgreSQL's own"),
        ({"schemas": {"app": 5}}, "schemas.app", "must be all, a list of tables"),
        ({"schemas": {"app": []}}, "schemas.app.tables", "at least one table"),
        ({"schemas": {"app": {"but": ["x"]}}}, "schemas.app.but", "unknown key"),
        ({"schemas": {"app": {"tables": [5]}}}, "schemas.app.tables[0]", "must be a name"),
    ],
)
def test_each_mistake_is_named_with_its_place(change: dict[str, Any], place: str, message: str) -> None:
    found = mistakes({**TENANCY, **change})
    assert any(path == f"pg_row_security_databases.shop.tenancy.{place}" and message in text for path, text in found), found


def test_a_database_without_anything_to_do_is_a_mistake() -> None:
    with pytest.raises(PolicyError, match="give it a tenancy"):
        read_policy({"shop": {}})
    with pytest.raises(PolicyError, match="must be a mapping"):
        read_policy({"shop": {"tenancy": ["app"]}})


def column(of_type: str = "bigint", domain: bool = False) -> Column:
    """A tenant column."""
    return Column("tenant_id", "tenant_id", of_type, domain, False, True)


@pytest.mark.parametrize("of_type", TYPES)
def test_the_setting_is_cast_and_never_the_column(of_type: str) -> None:
    text = tenant_predicate(column(of_type), "app.tenant")
    assert text.startswith("(tenant_id = ( SELECT " if of_type != "character varying" else "((tenant_id)::text = ( SELECT ")


def table(**attributes: Any) -> Table:
    """A table on which one role may read and the other do everything."""
    privileges = {"app": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}), "reader": frozenset({"SELECT"})}
    return Table("app", "orders", column=column(), **{"privileges": privileges, **attributes})


def tenancy() -> Any:
    """The tenancy of the tests."""
    (database,) = read_policy({"shop": {"tenancy": TENANCY}})
    return database.tenancy


ROLES = st.sets(st.sampled_from(["app", "reader", "PUBLIC", "other"]), min_size=1).map(lambda names: tuple(sorted(names)))
TEXTS = st.sampled_from([None, "true", tenant_predicate(column(), "app.tenant"), "(tenant_id = 1)"])
POLICIES = st.builds(
    RowPolicy,
    st.sampled_from(["tenant_isolation", "tenant_all", "tenant_select", "x", "y"]),
    st.booleans(),
    st.sampled_from(["ALL", "SELECT", "INSERT", "UPDATE", "DELETE"]),
    ROLES,
    TEXTS,
    TEXTS,
)


@given(st.lists(POLICIES, unique_by=lambda policy: policy.name, max_size=4), st.booleans(), st.booleans())
def test_whatever_is_there_the_plan_names_it_once_and_what_is_right_is_left(found: list[RowPolicy], enabled: bool, forced: bool) -> None:
    """Each policy of the table is touched at most once, a declared one is never dropped for good, and nothing is done on a table that is right."""
    wanted = wanted_policies(tenancy(), table())
    names = {policy.name for policy in wanted}
    plan = reconcile("shop", tenancy(), [table(policies=tuple(found), enabled=enabled, forced=forced)], exact=True)
    lines = [change.words for change in plan.changes]
    for policy in found:
        about = [line for line in lines if f"policy {policy.name} " in line]
        if policy in wanted:
            assert about == []
        elif policy.name in names:
            assert len(about) == 1
            assert "-policy" not in about[0]
        else:
            assert len(about) == 1
            assert "-policy" in about[0]
    assert any("row-level security" in line for line in lines) == (not (enabled and forced))
    kept = reconcile("shop", tenancy(), [table(policies=tuple(found), enabled=enabled, forced=forced)], exact=False)
    assert not any("-policy" in change.words for change in kept.changes)
    done = reconcile("shop", tenancy(), [table(policies=wanted, enabled=True, forced=True)], exact=True)
    assert not done


@given(st.sampled_from(["r", "p", "f"]), st.booleans(), st.sampled_from(["bigint", "numeric", None]))
def test_only_tables_that_can_be_isolated_are(kind: str, extension: bool, of_type: str | None) -> None:
    found = table(kind=kind, extension=extension)
    changed = Table("app", "orders", kind, extension=extension, column=column(of_type) if of_type else None, privileges=found.privileges)
    assert bool(reconcile("shop", tenancy(), [changed], exact=True)) == (kind != "f" and not extension and of_type == "bigint")


def test_white_space_alone_is_no_difference() -> None:
    assert same_text("( SELECT\n   1)", "( SELECT 1)")
    assert not same_text("true", None)
    assert not same_text("(a = 1)", "(a = 2)")


def test_a_pattern_stands_for_itself_in_all_but_the_asterisk() -> None:
    (database,) = read_policy({"shop": {"tenancy": {**TENANCY, "schemas": {"app": ["a?c", "x*"]}}}})
    assert database.tenancy is not None
    assert database.tenancy.selections == (Selection("databases.shop.tenancy.schemas.app", "app", ("a?c", "x*")),)
