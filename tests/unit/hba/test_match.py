# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""First match, what covers what, and the filter; tests/integration/test_hba.py compares the answers with a server's."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.filter.hba_match import FilterModule
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.coverage import Coverage
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.grammar import Token
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.match import first_match, role_matches
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import Question, Rule
from tests import hba_texts

hba_match = FilterModule().filters()["hba_match"]


def rules(*lines: str, major: int = 18) -> list[Rule]:
    """The rules of lines, which must all be sound."""
    found = hba_texts.read("\n".join(lines), major)
    assert not found.problems
    return found.rules


def hit(lines: list[str], major: int = 18, groups: tuple[str, ...] = (), **question: Any) -> int | None:
    """The number of the line that is hit, None for none; what is uncertain fails."""
    asked = Question(**{"role": "app", "database": "shop", **question})
    answer = first_match(rules(*lines, major=major), asked, {"app": frozenset(groups)}, major)
    assert not answer.maybe
    return answer.rule.line if answer.rule else None


@pytest.mark.parametrize(
    ("line", "question", "expected"),
    [
        ("local all all peer", {}, True),
        ("local all all peer", {"address": "::1"}, False),
        ("host all all all reject", {}, False),
        ("hostssl all all all cert", {"address": "::1", "encrypted": True}, True),
        ("hostssl all all all cert", {"address": "::1"}, False),
        ("hostnossl all all all md5", {"address": "::1"}, True),
        ("hostgssenc all all all gss", {"address": "::1", "gss": True}, True),
        ("hostnogssenc all all all md5", {"address": "::1", "gss": True}, False),
        ("local sameuser all peer", {"database": "app"}, True),
        ("local sameuser all peer", {}, False),
        ('local "sameuser" all peer', {"database": "app"}, False),
        ("local samerole all peer", {"groups": ("shop",)}, True),
        ("local all +team peer", {"groups": ("team",)}, True),
        ("local all +team peer", {}, False),
        ("local all +app peer", {}, True),
        ('local all "+team" peer', {"groups": ("team",)}, False),
        ('local all "all" peer', {}, False),
        ("local all all peer", {"replication": True}, False),
        ("local replication all peer", {"replication": True}, True),
        ("local replication all peer", {"database": "replication"}, False),
        ('local "replication" all peer', {"database": "replication"}, True),
        ("local /^sh all peer", {}, True),
        ("local /^sh all peer", {"major": 15}, False),
        ("host all all 10.0.0.0/8 md5", {"address": "10.9.9.9"}, True),
        ("host all all 10.0.0.0/8 md5", {"address": "11.0.0.0"}, False),
        ("host all all 0.0.0.0/0 md5", {"address": "::1"}, False),
        ("host all all 10.0.0.0 255.0.255.0 md5", {"address": "10.7.0.9"}, True),
        ("host all all 10.0.0.0 255.0.255.0 md5", {"address": "10.7.1.9"}, False),
        ("host all all .example.org md5", {"address": "a.Example.org"}, True),
        ("host all all example.org md5", {"address": "a.example.org"}, False),
    ],
)
def test_a_connection_hits_a_rule_or_not(line: str, question: dict[str, Any], expected: bool) -> None:
    assert (hit([line], **question) == 1) is expected


def test_the_first_that_matches_decides() -> None:
    assert hit(["local shop other peer", "local shop app reject", "local all all trust"]) == 2


def test_what_only_the_server_can_tell_is_said() -> None:
    lines = ["host all all db.example.org reject", "host all all samenet md5", "host all all 10.0.0.0/8 cert"]
    answer = first_match(rules(*lines[:2], "host all all 10.0.0.0/8 scram-sha-256"), Question("app", "shop", "10.0.0.1"), {}, 18)
    assert [rule.line for rule in answer.maybe] == [1, 2]
    assert answer.rule is not None
    assert answer.rule.line == 3
    loopback = first_match(rules("host all all samehost md5"), Question("app", "shop", "127.0.0.1"), {}, 18)
    assert (loopback.maybe, loopback.allowed) == ((), True)
    assert len(first_match(rules("host all all samehost md5"), Question("app", "shop", "127.0.0.5"), {}, 18).maybe) == 1


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("host all all all reject", "hostssl shop app 10.0.0.0/8 md5", True),
        ("hostssl all all all reject", "host shop app 10.0.0.0/8 md5", False),
        ("host all all 10.0.0.0/8 reject", "host all all 10.1.0.0/16 md5", True),
        ("host all all 10.1.0.0/16 reject", "host all all 10.0.0.0/8 md5", False),
        ("host all all ::/0 reject", "host all all 10.0.0.0/8 md5", False),
        ("host all all all reject", "host replication all all md5", False),
        ("host all,replication all all reject", "host replication all all md5", True),
        ("host a,b all all reject", "host b all all md5", True),
        ("host a all all reject", "host a,b all all md5", False),
        ("host all all all reject", "local all all peer", False),
    ],
)
def test_a_rule_covers_another_or_not(first: str, second: str, expected: bool) -> None:
    found = rules(first, second)
    assert Coverage(found, 18).first_above(1) == (found[0] if expected else None)


def covers(first: Rule, second: Rule) -> bool:
    """Whether the first takes each connection that the second is for, by comparing the two."""

    def network(rule: Rule) -> Any:
        return None if rule.address is None or "/" not in rule.address.text else ipaddress.ip_network(rule.address.text, strict=False)

    outer, inner = network(first), network(second)
    within = outer is not None and inner is not None and outer.version == inner.version and inner.subnet_of(outer)
    databases = set(first.databases) >= set(second.databases) or (
        Token("all") in first.databases and (Token("replication") not in second.databases or Token("replication") in first.databases)
    )
    return (
        first.type in (second.type, "local" if second.type == "local" else "host")
        and databases
        and (Token("all") in first.roles or set(first.roles) >= set(second.roles))
        and (first.address in (second.address, Token("all")) or within)
    )


@given(st.integers())
def test_the_first_rule_that_covers_each_is_found(seed: int) -> None:
    found = hba_texts.read(hba_texts.text(hba_texts.Random(seed)), 18).rules
    coverage = Coverage(found, 18)
    for position, rule in enumerate(found):
        assert coverage.first_above(position) is next((each for each in found[:position] if covers(each, rule)), None)


@given(st.integers(), st.sampled_from(("app", "Reader", "a b")))
def test_the_first_rules_of_a_role_are_found(seed: int, role: str) -> None:
    found = hba_texts.read(hba_texts.text(hba_texts.Random(seed)), 18).rules
    coverage = Coverage(found, 18)
    takes = [any(role_matches(token, role, frozenset({role}), 18) for token in rule.roles) for rule in found]
    taking = coverage.takes(role, frozenset({role}))
    assert taking == sum(1 << position for position, each in enumerate(takes) if each)
    for position, rule in enumerate(found):
        taken = any(takes[place] and covers(replace(each, roles=rule.roles), rule) for place, each in enumerate(found[:position]))
        assert coverage.is_first(position, taking) is (takes[position] and not taken)


@given(st.integers(), st.sampled_from(("app", "Reader", "a b")), st.sampled_from((None, "10.1.2.3", "::1", "127.0.0.1")), st.booleans())
def test_what_is_covered_is_never_hit(seed: int, role: str, address: str | None, encrypted: bool) -> None:
    found = hba_texts.read(hba_texts.text(hba_texts.Random(seed)), 18).rules
    answer = first_match(found, Question(role, "shop", address, encrypted), {}, 18)
    if answer.rule is not None:
        earlier = found[: next(place for place, rule in enumerate(found) if rule is answer.rule)]
        assert not any(covers(each, answer.rule) for each in earlier if each not in answer.maybe)


def test_the_filter_asks_the_same_question() -> None:
    data = [rule.as_data() for rule in rules("local all all peer", 'hostssl shop "a b",app 10.0.0.0 255.0.255.0 scram-sha-256', "host all all all reject")]
    answer = hba_match(data, role="app", database="shop", address="10.3.0.1")
    assert (answer["line"], answer["method"], answer["encryption"], answer["plain"]["line"]) == (2, "scram-sha-256", "required", 3)
    assert hba_match(data, role="app", database="shop")["method"] == "peer"
    assert hba_match(data, role="x", database="shop", address="10.3.0.1")["encryption"] == "no connection"
    assert hba_match(data, role="x", database="shop", address="10.3.0.1", encrypted=True)["allowed"] is False


@pytest.mark.parametrize("wrong", ["rules", [1], [{"type": "host"}], [{"type": "x", "databases": [], "roles": [], "method": "md5"}]])
def test_the_filter_says_what_it_takes(wrong: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="pg_hba_info"):
        hba_match(wrong, role="app")
