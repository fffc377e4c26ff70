# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each rule leaves for those after it, as far as the rules themselves show it. Pure.

A set of rules is a number whose bits are their positions, so that thousands of rules are compared with each other by a few operations each.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .grammar import Token
from .match import is_expression, role_matches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Network, Rule

_ALL, _REPLICATION = Token("all"), Token("replication")


class Coverage:
    """The rules of a server in their order."""

    def __init__(self, rules: Sequence[Rule], major: int) -> None:
        """major: of the server, which decides whether names are expressions."""
        self._rules = rules
        self._major = major
        self._types: defaultdict[str, int] = defaultdict(int)
        self._databases: defaultdict[Token, int] = defaultdict(int)
        self._roles: defaultdict[Token, int] = defaultdict(int)
        self._addresses: defaultdict[Token | None, int] = defaultdict(int)
        self._networks: defaultdict[tuple[int, int, int], int] = defaultdict(int)
        for position, rule in enumerate(rules):
            bit = 1 << position
            self._types[rule.type] |= bit
            self._addresses[rule.address] |= bit
            for database in rule.databases:
                self._databases[database] |= bit
            for role in rule.roles:
                self._roles[role] |= bit
            if rule.network is not None:
                self._networks[_place(rule.network, rule.network.prefixlen)] |= bit
        self._lengths = {(version, length) for version, length, _start in self._networks}
        self._expressions = [token for token in self._roles if is_expression(token, major)]

    def first_above(self, position: int) -> Rule | None:
        """The first rule that takes each connection which the one at the position is for, if one does."""
        found = self._above(position) & self._for_all_roles(self._rules[position])
        return self._rules[(found & -found).bit_length() - 1] if found else None

    def takes(self, role: str, groups: frozenset[str]) -> int:
        """The rules that are for a role, which is a member of groups."""
        words = [Token(role), Token(role, quoted=True), _ALL, *(Token(f"+{group}") for group in groups), *self._expressions]
        found = 0
        for token in words:
            if token in self._roles and role_matches(token, role, groups, self._major):
                found |= self._roles[token]
        return found

    def is_first(self, position: int, taking: int) -> bool:
        """Whether the rule is among these, and none of these above it takes its connections of whatever role."""
        return bool(taking >> position & 1) and not taking & self._above(position)

    def _above(self, position: int) -> int:
        """The rules above one that are for all its clients and databases."""
        rule = self._rules[position]
        types = self._types[rule.type] | (self._types["host"] if rule.type != "local" else 0)
        return (1 << position) - 1 & types & self._for_all_databases(rule) & self._for_all_addresses(rule)

    def _for_all_databases(self, rule: Rule) -> int:
        everything = self._databases[_ALL]
        if _REPLICATION in rule.databases:  # which `all` does not mean
            everything &= self._databases[_REPLICATION]
        return everything | _each(self._databases, rule.databases)

    def _for_all_roles(self, rule: Rule) -> int:
        return self._roles[_ALL] | _each(self._roles, rule.roles)

    def _for_all_addresses(self, rule: Rule) -> int:
        found = self._addresses[rule.address] | self._addresses[_ALL]
        network = rule.network
        if network is not None:
            for version, length in self._lengths:
                if version == network.version and length <= network.prefixlen:
                    found |= self._networks.get(_place(network, length), 0)
        return found


def _place(network: Network, length: int) -> tuple[int, int, int]:
    """The network of a length that a network is in: its version, its length, its bits."""
    return network.version, length, int(network.network_address) >> network.max_prefixlen - length


def _each(sets: defaultdict[Token, int], tokens: Sequence[Token]) -> int:
    """The rules that have each of the tokens."""
    found = -1
    for token in tokens:
        found &= sets[token]
    return found
