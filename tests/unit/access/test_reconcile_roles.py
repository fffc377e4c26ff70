# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, passwords, settings and memberships: from declared and actual state to statements, without a server."""

from __future__ import annotations

from typing import Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.model import Membership
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.reconcile import reconcile_cluster
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.reconcile_roles import password_notes
from ansible_collections.bulwark.postgresql.plugins.module_utils.core import scram
from tests.unit.access.world import cluster, role, scope_for


def words(roles: dict[str, Any], server: Any = None, mode: str = "managed", **passwords: str) -> list[str]:
    """The plan for the roles in a person's words."""
    server = server or cluster()
    scope = scope_for({"roles": roles, "databases": {"shop": {}}}, mode, server, **passwords)
    return [change.description for change in reconcile_cluster(scope, server, None).changes]


def test_a_missing_role_is_created_with_what_differs_from_the_defaults() -> None:
    assert words({"a": {"login": True, "connection_limit": 5}}) == ["role a: created LOGIN CONNECTION LIMIT 5"]


def test_attributes_that_are_not_said_are_taken_away_unless_additive() -> None:
    server = cluster(role("a", login=True, createdb=True, bypassrls=True))
    assert words({"a": {"login": True}}, server) == ["role a: NOCREATEDB NOBYPASSRLS"]
    assert words({"a": {"login": True}}, server, mode="additive") == []


def test_an_unchanged_password_is_no_change_whatever_its_salt() -> None:
    stored = scram.verifier("secret", 5000, b"0123456789abcdef")
    server = cluster(role("a", login=True, password=stored))
    assert words({"a": {}}, server, a="secret") == []
    assert words({"a": {}}, server, a="other") == ["role a: password changed"]
    assert words({"a": {}}, server, a=stored) == []


def test_md5_and_missing_passwords_are_replaced_and_said() -> None:
    md5 = "md5" + "0" * 32
    assert words({"a": {}}, cluster(role("a", login=True, password=md5)), a="secret") == ["role a: password replaced (was md5)"]
    assert words({"a": {}}, cluster(role("a", login=True)), a="secret") == ["role a: password set"]


def test_an_md5_password_that_the_policy_does_not_replace_is_told() -> None:
    server = cluster(role("a", login=True, password="md5" + "0" * 32))
    scope = scope_for({"roles": {"a": {"login": True}}}, server=server)
    assert password_notes(scope, server) == ["role a has an md5 password; give it one in the policy, and it becomes SCRAM-SHA-256"]


def test_a_secret_is_in_no_view_of_the_plan() -> None:
    server = cluster()
    plan = reconcile_cluster(scope_for({"roles": {"a": {}}}, server=server, a="geheim"), server, None)
    secret = [change for change in plan.changes if change.secret]
    assert len(secret) == 1
    for view in (repr(plan), plan.diff(), repr(secret[0].statement)):
        assert "geheim" not in view
        assert "SCRAM-SHA-256" not in view


def test_settings_are_exact_and_lists_compared_as_lists() -> None:
    settings = {(None, "search_path"): ("app", "public"), (None, "work_mem"): "1MB", ("shop", "statement_timeout"): "5s"}
    server = cluster(role("a", settings=settings))
    assert words({"a": {"settings": {"search_path": "app, public"}}}, server) == ["role a: setting work_mem reset"]
    assert words({"a": {"settings": {"search_path": ["app"]}}}, server, mode="additive") == ["role a: setting search_path = app"]


def test_memberships_are_exact_and_revoked_before_others_are_granted() -> None:
    server = cluster(role("a"), role("old"), role("new"), memberships=(Membership("old", "a", "root", False, True, True),))
    assert words({"a": {"member_of": ["new"]}}, server) == [
        "a: role old  -MEMBER (granted by root)",
        "a: role new  +MEMBER (ADMIN FALSE, INHERIT TRUE, SET TRUE)",
    ]


def test_options_of_a_membership_are_state_from_16_on() -> None:
    server = cluster(role("a"), role("ops"), memberships=(Membership("ops", "a", "root", True, True, True),))
    assert words({"a": {"member_of": ["ops"]}}, server) == ["a: role ops  +MEMBER (ADMIN FALSE, INHERIT TRUE, SET TRUE)"]
    assert words({"a": {"member_of": [{"role": "ops", "admin": True}]}}, server) == []
    assert words({"a": {"member_of": [{"role": "ops", "admin": True, "set": False}]}}, server) == ["a: role ops  +MEMBER (ADMIN TRUE, INHERIT TRUE, SET FALSE)"]


def test_before_16_only_the_admin_option_is_kept() -> None:
    server = cluster(role("a"), role("ops"), memberships=(Membership("ops", "a", None, True, None, None),), version=150019)
    assert words({"a": {"member_of": ["ops"]}}, server) == ["a: role ops  -ADMIN OPTION"]
    assert words({"a": {"member_of": [{"role": "ops", "admin": True}]}}, server) == []


def test_of_several_grantors_one_stays_and_dependents_go_first() -> None:
    given = (
        Membership("ops", "a", "root", True, True, True),
        Membership("ops", "b", "a", True, True, True),
        Membership("ops", "c", "b", False, True, True),
    )
    server = cluster(role("a"), role("b"), role("c"), role("ops"), memberships=given)
    assert words({"a": {}, "b": {}, "c": {}}, server) == [
        "c: role ops  -MEMBER (granted by b)",
        "b: role ops  -MEMBER (granted by a)",
        "a: role ops  -MEMBER (granted by root)",
    ]


def test_the_membership_that_a_creator_needs_stays() -> None:
    server = cluster(
        role("admin", login=True, createrole=True),
        role("a"),
        memberships=(Membership("a", "admin", "root", True, False, False),),
        applying="admin",
    )
    assert words({"admin": {"login": True, "createrole": True}, "a": {}}, server) == []
