# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Default privileges: what objects that are yet to be made will carry."""

from __future__ import annotations

from typing import Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.model import Contents
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.reconcile_defaults import plan_defaults
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.catalog import AclEntry
from tests.unit.access.world import cluster, role, scope_for


def words(database: dict[str, Any], acls: dict[Any, tuple[AclEntry, ...]], **roles: Any) -> list[str]:
    """The plan for the default privileges of database shop in a person's words."""
    server = cluster(role("maker"), role("reader"))
    scope = scope_for({"roles": {"maker": {}, "reader": {}, **roles}, "databases": {"shop": database}}, server=server)
    return [change.description for change in plan_defaults(scope, Contents("shop", {}, (), acls))]


READ = {"owner": "maker", "to": "reader", "type": "tables", "privileges": ["SELECT"]}
KEY = ("maker", "app", "tables")


def test_missing_default_privileges_are_added_and_present_ones_left() -> None:
    document = {"schemas": {"app": {"default_privileges": [READ]}}}
    expected = "reader: default privileges of maker on tables in schema app  +SELECT"
    assert words(document, {}) == [expected]
    assert words(document, {KEY: (AclEntry("reader", "maker", "SELECT"),)}) == []


def test_superfluous_default_privileges_go() -> None:
    found = {KEY: (AclEntry("reader", "maker", "SELECT"), AclEntry("PUBLIC", "maker", "SELECT"))}
    assert words({"schemas": {"app": {"default_privileges": [READ]}}}, found) == ["PUBLIC: default privileges of maker on tables in schema app  -SELECT"]


def test_of_unnamed_owners_and_schemas_only_what_named_roles_get_is_exact() -> None:
    found = {("stranger", "legacy", "tables"): (AclEntry("reader", "stranger", "SELECT"), AclEntry("other", "stranger", "SELECT"))}
    assert words({}, found) == ["reader: default privileges of stranger on tables in schema legacy  -SELECT"]


def test_functions_of_creators_are_closed_to_public() -> None:
    profiles = {"schemas": {"app": {"profiles": {"maker": "migration"}}}}
    closed = {("maker", None, "functions"): (AclEntry("maker", "maker", "EXECUTE"),)}
    assert words(profiles, {}) == ["PUBLIC: default privileges of maker on functions in any schema  -EXECUTE"]
    assert words(profiles, closed) == []


def test_what_public_has_by_itself_need_not_come_back() -> None:
    closed = {("maker", None, "functions"): (AclEntry("maker", "maker", "EXECUTE"),)}
    assert words({}, closed) == []


FUNCTIONS = ("maker", None, "functions")
OWN = "maker: default privileges of maker on functions in any schema  +EXECUTE"
CLOSED = "PUBLIC: default privileges of maker on functions in any schema  -EXECUTE"
PUBLICS = AclEntry("PUBLIC", "maker", "EXECUTE")
READERS = AclEntry("reader", "maker", "EXECUTE")


def test_an_empty_list_counts_as_none() -> None:
    """PostgreSQL goes back to what it gives by itself; with its owner in it the list is one."""
    profiles = {"schemas": {"app": {"profiles": {"maker": "migration"}}}}
    assert words(profiles, {FUNCTIONS: ()}) == [OWN, CLOSED]
    assert words({}, {FUNCTIONS: (), ("maker", None, "tables"): ()}) == []
    stays = {"default_privileges": [{"owner": "maker", "to": "PUBLIC", "type": "functions", "privileges": ["EXECUTE"]}]}
    assert words(stays, {FUNCTIONS: ()}) == []


def test_a_grant_on_an_empty_list_takes_nothing_away() -> None:
    grant = {"owner": "maker", "to": "reader", "type": "functions", "privileges": ["EXECUTE"]}
    assert words({"default_privileges": [grant]}, {FUNCTIONS: ()}) == [
        OWN,
        "PUBLIC: default privileges of maker on functions in any schema  +EXECUTE",
        "reader: default privileges of maker on functions in any schema  +EXECUTE",
    ]
    on_schemas = {**grant, "to": "PUBLIC", "type": "schemas", "privileges": ["USAGE"]}
    assert words({"default_privileges": [on_schemas]}, {("maker", None, "schemas"): ()}) == [
        "maker: default privileges of maker on schemas in any schema  +CREATE +USAGE",
        "PUBLIC: default privileges of maker on schemas in any schema  +USAGE",
    ]


def test_no_list_becomes_empty() -> None:
    profiles = {"schemas": {"app": {"profiles": {"maker": "migration"}}}}
    assert words(profiles, {FUNCTIONS: (PUBLICS,)}) == [OWN, CLOSED]
    taken = "reader: default privileges of maker on functions in any schema  -EXECUTE"
    assert words({}, {FUNCTIONS: (READERS,)}) == [OWN, taken]
    assert words({}, {FUNCTIONS: (READERS, PUBLICS)}) == [taken]


def test_a_role_that_goes_leaves_no_default_privileges_without_itself_in_them() -> None:
    some = (AclEntry("reader", "gone", "USAGE"), AclEntry("gone", "gone", "USAGE"))
    found = {("gone", None, "functions"): (), ("gone", None, "sequences"): some}
    assert words({}, found, gone={"state": "absent"}) == [
        "gone: default privileges of gone on functions in any schema  +EXECUTE",
        "PUBLIC: default privileges of gone on functions in any schema  +EXECUTE",
        "gone: default privileges of gone on sequences in any schema  +SELECT +UPDATE",
        "reader: default privileges of gone on sequences in any schema  -USAGE",
    ]


def test_a_role_that_goes_leaves_no_default_privileges() -> None:
    closed = {("gone", None, "functions"): (AclEntry("gone", "gone", "EXECUTE"),), ("gone", "app", "tables"): (AclEntry("reader", "gone", "SELECT"),)}
    assert words({}, closed, gone={"state": "absent"}) == [
        "PUBLIC: default privileges of gone on functions in any schema  +EXECUTE",
        "reader: default privileges of gone on tables in schema app  -SELECT",
    ]
