# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Privileges: from declared and actual rights to statements, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.model import ObjectClass
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.reconcile_grants import needs_names, plan_grants
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.scope import normalized_signature
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.catalog import AclEntry
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.patterns import like
from tests.unit.access.world import scope_for, table


def words(document: dict, *objects: ObjectClass, **options: object) -> list[str]:
    """The plan for the objects in a person's words."""
    return [change.description for change in plan_grants(scope_for(document, **options), "shop", objects)]


def policy(*grants: dict, roles: tuple[str, ...] = ("a", "b")) -> dict:
    """A policy of roles without attributes and of grants in schema app."""
    return {"roles": {role: {} for role in roles}, "databases": {"shop": {"schemas": {"app": {"grants": list(grants)}}}}}


SELECT_FOR_A = {"to": "a", "privileges": ["SELECT"], "tables": "all"}


def test_a_missing_grant_is_made_and_a_present_one_left_alone() -> None:
    assert words(policy(SELECT_FOR_A), table("t")) == ["a: table app.t  +SELECT"]
    assert words(policy(SELECT_FOR_A), table("t", ("a", "owner", "SELECT"))) == []


def test_what_the_policy_does_not_say_is_revoked_from_everybody_in_a_named_schema() -> None:
    found = table("t", ("a", "owner", "SELECT"), ("a", "owner", "UPDATE"), ("stranger", "owner", "SELECT"), ("PUBLIC", "owner", "SELECT"))
    assert words(policy(SELECT_FOR_A), found) == ["PUBLIC, stranger: table app.t  -SELECT", "a: table app.t  -UPDATE"]


def test_outside_of_named_schemas_only_named_roles_are_exact() -> None:
    elsewhere = table("t", ("a", "owner", "SELECT"), ("stranger", "owner", "SELECT"), ("PUBLIC", "owner", "SELECT"), schema="legacy")
    assert words(policy(SELECT_FOR_A), elsewhere) == ["a: table legacy.t  -SELECT"]


def test_additive_mode_revokes_nothing() -> None:
    found = table("t", ("a", "owner", "UPDATE", True), ("PUBLIC", "owner", "SELECT"))
    assert words(policy(SELECT_FOR_A), found, mode="additive") == ["a: table app.t  +SELECT"]


def test_authoritative_mode_reaches_unnamed_roles_in_unnamed_schemas() -> None:
    elsewhere = table("t", ("stranger", "owner", "SELECT"), ("root", "owner", "SELECT"), ("pg_monitor", "owner", "SELECT"), schema="legacy")
    assert words(policy(SELECT_FOR_A), elsewhere, mode="authoritative") == ["stranger: table legacy.t  -SELECT"]


def test_the_owners_own_rights_are_never_revoked() -> None:
    assert words(policy(SELECT_FOR_A, roles=("a", "owner")), table("t", ("owner", "owner", "UPDATE"), ("a", "owner", "SELECT"))) == []


def test_a_grant_option_that_is_not_declared_goes_with_what_was_passed_on() -> None:
    found = table("t", ("a", "owner", "SELECT", True), ("b", "a", "SELECT", True), ("stranger", "b", "SELECT"))
    assert words(policy(SELECT_FOR_A), found) == ["a: table app.t  -SELECT GRANT OPTION (and what it had passed on: b -SELECT; stranger -SELECT)"]


def test_what_a_kept_grantor_gave_is_taken_back_in_its_name() -> None:
    declared = {**SELECT_FOR_A, "grant_option": True}
    found = table("t", ("a", "owner", "SELECT", True), ("stranger", "a", "SELECT"))
    plan = plan_grants(scope_for(policy(declared)), "shop", [found])
    assert [change.description for change in plan] == ["stranger: table app.t  -SELECT (granted by a)"]
    assert "SET LOCAL ROLE" in repr(plan[0].statement)


def test_a_right_that_only_another_grantor_gave_is_given_by_the_owner() -> None:
    found = table("t", ("b", "owner", "SELECT", True), ("a", "b", "SELECT"))
    assert words(policy(SELECT_FOR_A), found) == [
        "b: table app.t  -SELECT (and what it had passed on: a -SELECT)",
        "a: table app.t  +SELECT",
    ]


def test_partitions_carry_no_grants_of_their_own_unless_mirrored() -> None:
    parent, child = table("p", relkind="p"), table("p1", ("a", "owner", "SELECT"), partition=True)
    document = policy(SELECT_FOR_A)
    assert words(document, parent, child) == ["a: table app.p1  -SELECT", "a: table app.p  +SELECT"]
    document["databases"]["shop"]["schemas"]["app"]["partitions"] = "mirror"
    assert words(document, parent, child) == ["a: table app.p  +SELECT"]


def test_extension_members_are_left_alone_unless_named() -> None:
    member = table("stats", ("PUBLIC", "owner", "SELECT"), ("a", "owner", "UPDATE"), extension=True)
    assert words(policy(SELECT_FOR_A), member) == []
    named = policy({"to": "a", "privileges": ["SELECT"], "tables": ["stats"]})
    assert words(named, member) == ["a: table app.stats  -UPDATE", "a: table app.stats  +SELECT"]


def test_a_column_grant_is_repeated_when_the_table_revocation_takes_it() -> None:
    document = policy({"to": "a", "privileges": ["SELECT"], "tables": ["t"], "columns": ["id"]})
    column = ObjectClass("table", "owner", (AclEntry("a", "owner", "SELECT"),), "shop", "app", "t", ("t",), "id", relkind="r")
    assert words(document, table("t", ("a", "owner", "SELECT")), column) == ["a: table app.t  -SELECT", "a: table app.t (id)  +SELECT"]
    assert words(document, table("t"), column) == []


def test_all_means_what_the_version_knows() -> None:
    document = policy({"to": "a", "privileges": "ALL", "tables": "all"})
    assert "MAINTAIN" not in words(document, table("t"), version=160003)[0]
    assert "+MAINTAIN" in words(document, table("t"), version=170000)[0]


def test_names_are_asked_for_only_when_a_class_changes() -> None:
    scope = scope_for(policy(SELECT_FOR_A))
    unnamed = ObjectClass("table", "owner", (AclEntry("a", "owner", "SELECT"),), "shop", "app", relkind="r", count=10_000)
    assert not needs_names(scope, [unnamed])
    assert needs_names(scope, [ObjectClass("table", "owner", (), "shop", "app", relkind="r", count=10_000)])


def test_many_objects_become_batches() -> None:
    names = tuple(f"t{number:04}" for number in range(1100))
    found = ObjectClass("table", "owner", (), "shop", "app", None, names, relkind="r", count=len(names))
    plan = plan_grants(scope_for(policy(SELECT_FOR_A)), "shop", [found])
    assert [change.privileges for change in plan] == [500, 500, 100]
    assert plan[0].description == "a: 500 tables app.t0000, app.t0001, app.t0002 ... app.t0499  +SELECT"


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("f()", "f()"),
        ("f(int,text)", "f(integer, text)"),
        ("f( timestamptz , int8[] )", "f(timestamp with time zone, bigint[])"),
        ("odd (name)(varchar)", "odd (name)(character varying)"),
    ],
)
def test_signatures_may_be_written_with_aliases(written: str, printed: str) -> None:
    assert normalized_signature(written) == printed


@given(st.text(alphabet="ab_%\\", max_size=8), st.text(alphabet="ab_%\\*", max_size=6))
def test_wildcards_match_like_a_regular_expression(name: str, item: str) -> None:
    import re

    expected = re.fullmatch(".*".join(re.escape(part) for part in item.split("*")), name, re.DOTALL) is not None
    assert like(item, name) == expected


entries = st.lists(st.tuples(st.sampled_from(["a", "b", "stranger", "PUBLIC"]), st.just("owner"), st.sampled_from(["SELECT", "INSERT", "UPDATE"])), unique=True)


@given(entries, entries)
def test_the_plan_is_deterministic_and_says_nothing_twice(held: list, declared: list) -> None:
    document = policy(*({"to": grantee, "privileges": [privilege], "tables": "all"} for grantee, _grantor, privilege in declared))
    first, second = words(document, table("t", *held)), words(document, table("t", *reversed(held)))
    assert first == second
    changed = {(who, word) for line in first for who in line.split(":")[0].split(", ") for word in line.split("  ")[1].split()}
    wanted, actual = {(who, word) for who, _by, word in declared}, {(who, word) for who, _by, word in held}
    assert changed == {(who, "+" + word) for who, word in wanted - actual} | {(who, "-" + word) for who, word in actual - wanted}
