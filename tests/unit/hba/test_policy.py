# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each list of rules has one mistake, which is told with its place; the server's roles and databases are given."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import State
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.policy import Documents, Permissions, read_policy

ADMINISTRATOR = {"type": "local", "databases": "all", "roles": "postgres", "method": "peer", "options": {"map": "tests"}}
IDENT = {"tests": [{"system_user": "root", "role": "postgres"}]}
ROLES = {"postgres": {"postgres"}, "app": {"app", "team"}, "team": {"team"}, "other": {"other"}}
DATABASES = frozenset({"postgres", "template1", "shop"})


@pytest.mark.parametrize(
    ("rule", "place", "message"),
    [
        ({"roles": "ap", "databases": "shop", "addresses": "samenet"}, "pg_hba_rules[1]", 'has no role "ap" (did you mean "app"?)'),
        ({"roles": "+temm", "databases": "shop", "addresses": "samenet"}, "pg_hba_rules[1]", 'has no role "temm"'),
        ({"roles": "app", "databases": ["shop", "shpo"], "addresses": "samenet"}, "pg_hba_rules[1]", 'has no database "shpo"'),
        ({"roles": "app", "databases": "shop", "addresses": "10.1.2.3/8"}, "pg_hba_rules[1].addresses", "did you mean 10.0.0.0/8"),
        ({"roles": "app", "databases": "shop", "addresses": ["samenet", "10.0.0.0/40"]}, "pg_hba_rules[1].addresses[1]", "from 0 to 32"),
        ({"roles": "app", "databases": "shop", "addresses": "010.1.2.3"}, "pg_hba_rules[1].addresses", "octal"),
        ({"roles": "app", "databases": "shop", "addresses": "10.1/16"}, "pg_hba_rules[1].addresses", "is short for 10.0.0.1"),
        ({"roles": "app", "databases": "shop", "addresses": "10.0.0.300"}, "pg_hba_rules[1].addresses", "is no address"),
        ({"roles": "app", "databases": "shop", "addresses": "10.0.0.1-10.0.0.9"}, "pg_hba_rules[1].addresses", "is no address"),
        ({"roles": "app", "databases": "shop", "addresses": "münchen.example"}, "pg_hba_rules[1].addresses", "xn--"),
        ({"roles": "app", "databases": "replication", "addresses": "samenet"}, "pg_hba_rules[1]", "replication: true"),
        ({"roles": "app", "databases": "shop"}, "pg_hba_rules[1].addresses", "is missing"),
        ({"roles": "app", "databases": "shop", "addresses": []}, "pg_hba_rules[1].addresses", "is empty"),
        ({"roles": "app", "addresses": "samenet"}, "pg_hba_rules[1].databases", "is missing"),
        ({"roles": 5, "databases": "shop", "addresses": "samenet"}, "pg_hba_rules[1].roles", "must be a name, not the number 5 (quote it)"),
        (
            {"roles": "app", "databases": "shop", "addresses": "samenet", "method": "scram"},
            "pg_hba_rules[1].method",
            "is not accepted; accepted: trust, reject, scram-sha-256",
        ),
        ({"roles": "app", "databases": "shop", "addresses": "samenet", "method": "peer"}, "pg_hba_rules[1].method", "only supported on local"),
        ({"roles": "app", "databases": "shop", "addresses": "samenet", "method": "md5"}, "pg_hba_rules[1]", "allow_weak"),
        ({"roles": "app", "databases": "shop", "addresses": "samenet", "type": "host"}, "pg_hba_rules[1]", "allow_plain"),
        ({"roles": "app", "databases": "shop", "addresses": "samenet", "options": {"map": "tets"}, "method": "cert"}, "pg_hba_rules[1]", 'no map "tets"'),
        ({"roles": "app", "databases": "shop", "addresses": "samenet", "options": {"mop": "x"}}, "pg_hba_rules[1].method", "unrecognized"),
        ({"roles": "postgres", "databases": "shop", "type": "local", "method": "reject"}, "pg_hba_rules[1]", "no connection would reach it: pg_hba_rules[0]"),
        ({"rols": "app"}, "pg_hba_rules[1].rols", 'did you mean "roles"'),
        ("host all all all trust", "pg_hba_rules[1]", "must be a mapping"),
    ],
)
def test_a_mistake_is_told_with_its_place(rule: Any, place: str, message: str) -> None:
    for major in range(14, 19):
        state = State(major, {name: frozenset(groups) for name, groups in ROLES.items()}, DATABASES)
        with pytest.raises(PolicyError) as caught:
            read_policy(Documents([ADMINISTRATOR, rule], IDENT), (), True, Permissions(), state, "pg_hba_")
        told = {mistake.path: mistake.message for mistake in caught.value.mistakes}
        assert message in told[place]


@pytest.mark.parametrize(
    ("user", "role", "major", "message"),
    [
        ("bob", "ap", 18, 'the server has no role "ap" (did you mean "app"?)'),
        ("bob", "+ghosts", 18, 'the server has no role "ghosts"'),
        ("bob", "all", 15, "PostgreSQL 15 takes all for a name here"),
        ("bob", "+team", 15, "PostgreSQL 15 takes +team for a name here"),
        ("bob", "/^a", 15, "takes no expressions here"),
        ("bob", r"\1", 18, "the server has no role"),
        ("bob", None, 18, "is missing"),
    ],
)
def test_a_role_of_a_map_that_can_never_match_is_told(user: str, role: str | None, major: int, message: str) -> None:
    state = State(major, {name: frozenset(groups) for name, groups in ROLES.items()}, DATABASES)
    with pytest.raises(PolicyError) as caught:
        read_policy(Documents([ADMINISTRATOR], {**IDENT, "m": [{"system_user": user, "role": role}]}), (), True, Permissions(), state, "pg_hba_")
    assert [(mistake.path, message in mistake.message) for mistake in caught.value.mistakes] == [("pg_hba_ident.m[0].role", True)]


def test_words_of_maps_are_words_and_names_are_names() -> None:
    state = State(18, {name: frozenset(groups) for name, groups in [*ROLES.items(), ("all", {"all"})]}, DATABASES)
    roles: list[Any] = ["all", "+team", {"name": "all"}, "app", "/^a"]
    users = [{"system_user": "bob", "role": role} for role in roles]
    users.append({"system_user": "/^(.*)$", "role": r"\1"})
    policy = read_policy(Documents([ADMINISTRATOR], {**IDENT, "m": users}), (), True, Permissions(), state, "pg_hba_")
    written = [str(mapping).split(" ")[2] for mapping in policy.mappings or () if mapping.map.text == "m"]
    assert written == ["all", "+team", '"all"', "app", '"/^a"', r'"\1"']


def test_first_rules_come_before_the_others_and_have_places_of_their_own() -> None:
    state = State(18, {name: frozenset(groups) for name, groups in ROLES.items()}, DATABASES)
    first = {"type": "local", "databases": "all", "roles": "app", "options": {"map": next(iter(IDENT))}}
    policy = read_policy(Documents([ADMINISTRATOR], IDENT, [first]), (), True, Permissions(), state, "pg_hba_")
    assert [rule.path for rule in policy.rules][:2] == ["first_rules[0]", "rules[0]"]
    with pytest.raises(PolicyError) as caught:
        read_policy(Documents([ADMINISTRATOR, first], IDENT, [first]), (), True, Permissions(), state, "pg_hba_")
    assert [(mistake.path, "pg_hba_first_rules[0] takes them all" in mistake.message) for mistake in caught.value.mistakes] == [("pg_hba_rules[1]", True)]
