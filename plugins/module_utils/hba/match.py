# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rule a connection hits: the first that matches, as the server decides it. Pure.

What only the server could know (the name of a host, the addresses of its interfaces, an expression that Python reads in another way)
makes a match
uncertain, and the answer says so instead of guessing.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable

from .model import Question, Rule, network_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .grammar import Token


@dataclass(frozen=True)
class Answer:
    """The rule that a connection hits, None where none matches. maybe: earlier rules that may match, which only the server can tell."""

    question: Question
    rule: Rule | None
    maybe: tuple[Rule, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the connection comes as far as being asked who it is."""
        return self.rule is not None and self.rule.method != "reject"

    def as_data(self) -> dict[str, Any]:
        """As a module and the filter return it."""
        return {
            "role": self.question.role,
            "database": self.question.database,
            "address": self.question.address,
            "encrypted": self.question.encrypted,
            "replication": self.question.replication,
            "rule": str(self.rule) if self.rule else None,
            "file": self.rule.file if self.rule else None,
            "line": self.rule.line if self.rule else None,
            "method": self.rule.method if self.rule else None,
            "allowed": self.allowed,
            "certain": not self.maybe,
            "maybe": [str(rule) for rule in self.maybe],
        }


def first_match(rules: Sequence[Rule], question: Question, members: Mapping[str, frozenset[str]], major: int) -> Answer:
    """The first rule that matches. members: for groups; a role that is not in it is a member of itself alone."""
    maybe: list[Rule] = []
    for rule in rules:
        found = matches(rule, question, members, major)
        if found:
            return Answer(question, rule, tuple(maybe))
        if found is None:
            maybe.append(rule)
    return Answer(question, None, tuple(maybe))


def ask(
    rules: Sequence[Rule], question: Question, members: Mapping[str, frozenset[str]], major: int, encrypted: bool | None
) -> dict[str, Any]:
    """The answer, with TLS and without where the question does not say which, and whether the connection must be encrypted."""
    if question.address is None or encrypted is not None:
        return first_match(rules, replace(question, encrypted=bool(encrypted)), members, major).as_data()
    with_tls = first_match(rules, replace(question, encrypted=True), members, major)
    plain = first_match(rules, replace(question, encrypted=False), members, major)
    words = {(True, False): "required", (True, True): "optional", (False, True): "refused", (False, False): "no connection"}
    return {**with_tls.as_data(), "plain": plain.as_data(), "encryption": words[with_tls.allowed, plain.allowed]}


def matches(rule: Rule, question: Question, members: Mapping[str, frozenset[str]], major: int) -> bool | None:
    """Whether the rule is for the connection; None where only the server can tell."""
    if not _type_matches(rule.type, question):
        return False
    groups = members.get(question.role, frozenset()) | {question.role}
    parts = (
        _any(_database_matches(token, question, groups, major) for token in rule.databases),
        _any(role_matches(token, question.role, groups, major) for token in rule.roles),
        True if rule.address is None else _address_matches(rule.address, question.address or ""),
    )
    return False if False in parts else None if None in parts else True


def _any(found: Iterable[bool | None]) -> bool | None:
    listed = list(found)
    return True if True in listed else None if None in listed else False


def _type_matches(kind: str, question: Question) -> bool:
    if kind == "local" or question.address is None:
        return kind == "local" and question.address is None
    return {
        "host": True,
        "hostssl": question.encrypted,
        "hostnossl": not question.encrypted,
        "hostgssenc": question.gss,
        "hostnogssenc": not question.gss,
    }[kind]


def _database_matches(token: Token, question: Question, groups: frozenset[str], major: int) -> bool | None:
    if question.replication:
        return token.keyword("replication")
    special: dict[str, Callable[[], bool]] = {
        "all": lambda: True,
        "sameuser": lambda: question.database == question.role,
        "samerole": lambda: question.database in groups,
        "samegroup": lambda: question.database in groups,
        "replication": lambda: False,
    }
    if not token.quoted and token.text in special:
        return special[token.text]()
    return _name_matches(token, question.database, major)


def role_matches(token: Token, role: str, groups: frozenset[str], major: int) -> bool | None:
    """Whether a name in a rule means a role, which is a member of groups. None: only the server knows."""
    if not token.quoted and token.text.startswith("+"):
        return token.text[1:] in groups
    return True if token.keyword("all") else _name_matches(token, role, major)


def is_expression(token: Token, major: int) -> bool:
    """Whether it is a regular expression, which quotation marks do not prevent."""
    return major >= 16 and token.text.startswith("/")


def _name_matches(token: Token, name: str, major: int) -> bool | None:
    if not is_expression(token, major):
        return token.text == name
    try:
        return re.search(token.text[1:], name) is not None
    except re.error:
        return None


def _address_matches(address: Token, client: str) -> bool | None:
    try:
        found: ipaddress.IPv4Address | ipaddress.IPv6Address | None = ipaddress.ip_address(client)
    except ValueError:
        found = None
    if address.keyword("all"):
        return True
    if found is None:
        return _host_matches(address, client)
    if address.keyword("samehost") or address.keyword("samenet"):
        # The server always has its loopback network and its first address, and nobody else's is one.
        return True if str(found) in ("127.0.0.1", "::1") or (address.keyword("samenet") and found.is_loopback) else None
    network = network_of(address)
    if network is not None:
        return found in network
    first, blank, mask = address.text.partition(" ")
    if blank:
        return _in_odd_mask(found, first, mask)
    return None  # a host's name: the server asks DNS


def _host_matches(address: Token, client: str) -> bool | None:
    """A client that the question names, as the server does when DNS says the same name."""
    if network_of(address) is not None or address.text in ("samehost", "samenet"):
        return None
    pattern, name = address.text.lower(), client.lower()
    return name.endswith(pattern) if pattern.startswith(".") else name == pattern


def _in_odd_mask(found: Any, first: str, mask: str) -> bool | None:
    try:
        base, bits = ipaddress.ip_address(first), ipaddress.ip_address(mask)
    except ValueError:
        return None
    return base.version == found.version and int(found) & int(bits) == int(base) & int(bits)
