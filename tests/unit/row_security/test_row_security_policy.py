# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents of row-level security: what is accepted, and that each mistake is named with its place."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.checks import standing_findings, table_mistakes
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.expression import expression_problem
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.model import Column, Database, ForeignKey, RowPolicy, Selection, Table
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.predicate import TYPES, number_pattern, same_text, tenant_predicate
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.reconcile import index_name, reconcile, wanted_of

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
    (found,) = read_policy({"shop": {"tenancy": {**TENANCY, "schemas": schemas}}})
    assert found.tenancy is not None
    assert [(each.schema, each.names, each.excluding) for each in found.tenancy.selections] == expected


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


def database(**more: Any) -> Database:
    """The database of the tests, with its tenancy."""
    (found,) = read_policy({"shop": {"tenancy": TENANCY, **more}})
    return found


def wanted_policies() -> tuple[RowPolicy, ...]:
    """The policies of the table above."""
    wanted = wanted_of(database(), table())
    assert wanted is not None
    return wanted.policies


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
    wanted = wanted_policies()
    names = {policy.name for policy in wanted}
    plan = reconcile(database(), [table(policies=tuple(found), enabled=enabled, forced=forced)], exact=True)
    lines = [change.description for change in plan.changes]
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
    kept = reconcile(database(), [table(policies=tuple(found), enabled=enabled, forced=forced)], exact=False)
    assert not any("-policy" in change.description for change in kept.changes)
    done = reconcile(database(), [table(policies=wanted, enabled=True, forced=True)], exact=True)
    assert not done


@given(st.sampled_from(["r", "p", "f"]), st.booleans(), st.sampled_from(["bigint", "numeric", None]))
def test_only_tables_that_can_be_isolated_are(kind: str, extension: bool, of_type: str | None) -> None:
    found = table(kind=kind, extension=extension)
    changed = Table("app", "orders", kind, extension=extension, column=column(of_type) if of_type else None, privileges=found.privileges)
    assert bool(reconcile(database(), [changed], exact=True)) == (kind != "f" and not extension and of_type == "bigint")


@given(st.sampled_from([2**15 - 1, 2**31 - 1, 2**63 - 1]), st.integers(-3, 3), st.integers(0, 2**64), st.booleans(), st.integers(0, 2))
def test_the_pattern_of_a_number_is_exact(largest: int, near: int, far: int, edge: bool, zeros: int) -> None:
    """Up to the limit and no further; zeros in front are taken as long as the number is shorter than the limit."""
    number = largest + near if edge else far
    text = "0" * zeros + str(number)
    expected = number <= largest and len(text) < len(str(largest)) + (zeros == 0)
    for sign in ("", "-"):
        assert bool(re.fullmatch(number_pattern(largest), sign + text)) == expected
    for wrong in ("", "-", "+1", " 1", "1 ", "1.0", "x", "0x1"):
        assert not re.search(number_pattern(largest), wrong)


def test_white_space_alone_is_no_difference() -> None:
    assert same_text("( SELECT\n   1)", "( SELECT 1)")
    assert not same_text("true", None)
    assert not same_text("(a = 1)", "(a = 2)")


def test_a_pattern_stands_for_itself_in_all_but_the_asterisk() -> None:
    (found,) = read_policy({"shop": {"tenancy": {**TENANCY, "schemas": {"app": ["a?c", "x*"]}}}})
    assert found.tenancy is not None
    assert found.tenancy.selections == (Selection("databases.shop.tenancy.schemas.app", "app", ("a?c", "x*")),)


RULES: dict[str, Any] = {"policies": {"own": {"command": "select", "roles": ["app"], "using": "owner = current_user"}}}


def test_what_is_not_written_of_a_policy_is_what_postgresql_takes_for_it() -> None:
    policies = {
        "all": {"roles": "PUBLIC", "using": "true"},
        "insert": {"command": "INSERT", "roles": ["b", "a"], "with_check": "a > 1", "permissive": False},
        "update": {"command": "update", "roles": ["app"], "using": "a > 1", "with_check": "a > 2"},
    }
    (found,) = read_policy({"shop": {"schemas": {"app": {"t": {"policies": policies}, "off": {"enabled": False}}}}})
    off, rules = found.rules
    assert (off.table, off.enabled, off.forced, off.policies) == ("off", False, False, ())
    assert (rules.enabled, rules.forced) == (True, True)
    assert rules.policies == (
        RowPolicy("all", True, "ALL", ("PUBLIC",), "true", "true"),
        RowPolicy("insert", False, "INSERT", ("a", "b"), None, "a > 1"),
        RowPolicy("update", True, "UPDATE", ("app",), "a > 1", "a > 2"),
    )


@pytest.mark.parametrize(
    ("rules", "place", "message"),
    [
        (5, "", "must be a mapping"),
        ({"enable": True}, ".enable", "unknown key"),
        ({"policies": {"p": {"roles": ["app"]}}}, ".policies.p.using", "is required"),
        ({"policies": {"p": {"using": "true"}}}, ".policies.p.roles", "is required"),
        ({"policies": {"p": {"roles": ["app"], "using": "true", "command": "merge"}}}, ".policies.p.command", "is not accepted"),
        ({"policies": {"p": {"roles": ["app"], "using": "true", "command": "insert"}}}, ".policies.p.using", "has with_check alone"),
        ({"policies": {"p": {"roles": ["app"], "using": "true", "with_check": "true", "command": "select"}}}, ".policies.p.with_check", "has using alone"),
        ({"policies": {"tenant_isolation": {"roles": ["app"], "using": "true"}}}, ".policies.tenant_isolation", "tenancy makes"),
    ],
)
def test_each_mistake_in_a_table_is_named_with_its_place(rules: Any, place: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy({"shop": {"tenancy": TENANCY, "schemas": {"app": {"t": rules}}}})
    found = [(mistake.path, mistake.message) for mistake in caught.value.mistakes]
    assert any(path == f"databases.shop.schemas.app.t{place}" and message in text for path, text in found), found


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1", None),
        ("a = ANY (ARRAY[1, (2)])", None),
        ("name = 'o''neil; --' AND \"odd;)\" = E'\\\\' AND x = $t$;'($t$", None),
        ("", "empty"),
        ("  ", "empty"),
        ("true); DROP TABLE t; --", "too many"),
        ("true; DROP TABLE t", "semicolon"),
        ("true -- and so on", "comment"),
        ("true /* and", "comment"),
        ("(a = 1", 'lacks a ")"'),
        ("a = 'x", "not closed"),
        ('"a = 1', "not closed"),
        ("a[1) = 1", "too many"),
        ("E'\\\\'; DROP TABLE t; --'", "semicolon"),
        ("a = '\0'", "NUL"),
    ],
)
def test_an_expression_is_one_and_nothing_else(text: str, problem: str | None) -> None:
    found = expression_problem(text)
    assert (found is None) if problem is None else (found is not None and problem in found), found


@given(st.text(alphabet="a;'\"$()[]-/*\\E t", max_size=12))
def test_nothing_gets_out_of_the_parentheses_of_an_expression(text: str) -> None:
    """Where an expression is accepted, so is it between two others, and what closes is what it has opened."""
    if expression_problem(text) is None:
        assert expression_problem(f"(a AND ({text}) AND b)") is None
        assert expression_problem(f"({text}))") is not None


@pytest.mark.parametrize(
    ("parents", "place", "message"),
    [
        ({"app": {"items": 5}}, ".app.items", "must be a mapping"),
        ({"app": {"items": {}}}, ".app.items", "must name the table"),
        ({"app": {"items": "items"}}, ".app.items", "leads back"),
        ({"app": {"a": "b", "b": "c", "c": "a"}}, ".app.b", "leads back"),
        ({"app": ["items"]}, ".app", "must be a mapping of tables"),
    ],
)
def test_each_mistake_in_a_path_to_the_tenant_is_named(parents: Any, place: str, message: str) -> None:
    assert any(path.endswith(f".parents{place}") and message in text for path, text in mistakes({**TENANCY, "parents": parents}))


def items(*keys: ForeignKey) -> Table:
    """A table without the column."""
    privileges = {"app": frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"})}
    return Table("app", "items", privileges=privileges, foreign_keys=keys)


KEY = ForeignKey("items_fk", ("order_id",), "app", "orders", ("id",), False)
WITH_PARENT = {**TENANCY, "parents": {"app": {"items": "orders"}}, "build_indexes": True}


def test_a_table_without_the_column_is_isolated_by_its_parent() -> None:
    (found,) = read_policy({"shop": {"tenancy": WITH_PARENT}})
    wanted = wanted_of(found, items(KEY))
    assert wanted is not None
    condition = 'EXISTS (SELECT FROM "app"."orders" AS parent WHERE parent."id" = "items"."order_id")'
    assert wanted.policies[0] == RowPolicy("tenant_isolation", False, "ALL", ("app", "reader"), condition, condition)
    assert wanted_of(found, items()) is None
    assert wanted_of(found, items(KEY, replace(KEY, name="other"))) is None


def test_checks_of_paths_and_contradictions() -> None:
    other = replace(KEY, name="other")
    named = {**WITH_PARENT, "parents": {"app": {"items": {"table": "orders", "foreign_key": "other"}}}}
    off = {"schemas": {"app": {"orders": {"enabled": False}}}}
    cases: list[tuple[Any, Any, list[Table], str]] = [
        (WITH_PARENT, {}, [items(), table()], "has no foreign key that refers to app.orders"),
        (WITH_PARENT, {}, [items(KEY, other), table()], "several foreign keys that refer to app.orders; name one in foreign_key: items_fk, other"),
        (named, {}, [items(KEY), table()], 'no foreign key "other"'),
        (WITH_PARENT, {}, [items(KEY), replace(table(), column=None)], "is not isolated itself"),
        (WITH_PARENT, {}, [replace(items(KEY), column=column()), table()], "of its own"),
        (WITH_PARENT, {}, [items(KEY)], 'no table "orders"'),
        (WITH_PARENT, {}, [items(KEY), table(privileges={})], "app must be granted SELECT on app.orders"),
        (TENANCY, off, [table()], "stays enabled and forced"),
    ]
    for tenancy, more, tables, message in cases:
        (found,) = read_policy({"shop": {"tenancy": tenancy, **more}})
        texts = [mistake.message for mistake in table_mistakes(found, tables, {"app"})]
        assert any(message in text for text in texts), (message, texts)
    (fine,) = read_policy({"shop": {"tenancy": named}})
    assert list(table_mistakes(fine, [items(KEY, other), table()], {"app"})) == []


@given(st.text(min_size=1, max_size=63), st.text(min_size=1, max_size=63))
def test_the_name_of_an_index_fits(name: str, key: str) -> None:
    made = index_name(Table("app", name), (key,))
    assert len(made.encode("utf-8", "replace")) <= 63


@pytest.mark.parametrize(
    ("version", "old"),
    [
        (140022, True),
        (140023, False),
        (150018, True),
        (150019, False),
        (160014, True),
        (170010, True),
        (170011, False),
        (180004, True),
        (180006, False),
        (190000, False),
    ],
)
def test_an_old_minor_version_is_found(version: int, old: bool) -> None:
    (found,) = read_policy({"shop": {"tenancy": TENANCY}})
    codes = [finding.code for finding in standing_findings(found, version)]
    assert codes == (["setting", "server_version"] if old else ["setting"])
