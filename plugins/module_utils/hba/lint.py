# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong, or merely wide, in the effective rules of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .coverage import Coverage
from .match import is_expression
from .model import ANYWHERE, Finding, Problem, Rule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .grammar import Token
    from .model import State

_WIDE = {4: 16, 6: 32}  # a prefix shorter than this is wider than one organization's network

_WEAK = {
    "trust": ("high", "accepts whoever claims the name, without a password"),
    "password": ("high", "sends the password in clear text to the server"),
    "md5": ("medium", "accepts MD5, which an eavesdropper can replay or guess; PostgreSQL 18 deprecates it"),
    "ident": ("high", "believes what the client's own machine says"),
    "radius": ("low", "depends on a protocol with known weaknesses; PostgreSQL 19 no longer has it"),
}


def lint(rules: Sequence[Rule], problems: Sequence[Problem], state: State) -> list[Finding]:
    """The findings, those of the whole file first, then in the order of the rules."""
    found = [
        Finding("unreadable", "high", f"the server does not take this line: {each.shown}", "", each.file, each.line) for each in problems
    ]
    if state.stale:
        found.append(
            Finding(
                "not_loaded",
                "high",
                f"the server has not read the file since it was changed: {', '.join(state.stale)}",
                file=state.stale[0],
            )
        )
    coverage = Coverage(rules, state.major)
    md5 = {name: coverage.takes(name, state.roles.get(name, frozenset())) for name in sorted(state.md5)}
    for position, rule in enumerate(rules):
        above = coverage.first_above(position)
        refused = [name for name, taking in md5.items() if coverage.is_first(position, taking)]
        found += [
            Finding(code, severity, message, str(rule), rule.file, rule.line)
            for code, severity, message in _of(rule, above, refused, state)
        ]
    return found


def _of(rule: Rule, above: Rule | None, md5: Sequence[str], state: State) -> Iterable[tuple[str, str, str]]:
    """above: the rule that takes all its connections. md5: the roles with an MD5 verifier that come as far as this rule."""
    yield from _missing(rule, state)
    if above is not None:
        yield "shadowed", "medium", f"no connection reaches it: line {above.line} takes them all ({above})"
    if rule.method == "reject":
        return
    if rule.method in _WEAK:
        severity, why = _WEAK[rule.method]
        yield rule.method, severity, why
    if rule.type in ("host", "hostnossl", "hostnogssenc"):
        severity = "low" if rule.network is not None and rule.network.is_loopback else "high"
        yield "plain", severity, "takes connections without encryption; hostssl does not"
    if rule.type == "hostssl" and not state.ssl:
        yield "ssl_off", "medium", "cannot match while the setting ssl is off"
    if (rule.method == "cert" or rule.option("clientcert")) and state.ssl and not state.authorities:
        yield "no_authority", "high", "checks client certificates, and the setting ssl_ca_file is empty: the server refuses every client"
    if md5 and rule.method == "scram-sha-256":
        named = ", ".join(md5[:5]) + (f" and {len(md5) - 5} more" if len(md5) > 5 else "")
        yield "md5_verifier", "high", f"refuses {named}, whose passwords are stored for md5: give them new ones"
    if _is_wide(rule):
        yield "wide", "medium", f"takes connections from {rule.address}: name the networks that the clients are in"
    if rule.type != "local" and any(token.keyword("all") for token in rule.databases) and any(token.keyword("all") for token in rule.roles):
        yield "everybody", "low", "is for each role in each database, superusers among them"


def _is_wide(rule: Rule) -> bool:
    if rule.address is None:
        return False
    network = rule.network
    if network is None:
        return rule.address.keyword("all")
    return str(network) in ANYWHERE or (not network.is_loopback and network.prefixlen < _WIDE[network.version])


def _missing(rule: Rule, state: State) -> Iterable[tuple[str, str, str]]:
    for token in unknown_roles(rule, state):
        yield "missing_role", "low", f'there is no role "{token.text.lstrip("+") if not token.quoted else token.text}"'
    for token in unknown_databases(rule, state):
        yield "missing_database", "low", f'there is no database "{token.text}"'


def unknown_roles(rule: Rule, state: State) -> list[Token]:
    """The roles of a rule that the server does not have."""
    return [
        token
        for token in rule.roles
        if not token.keyword("all") and not is_expression(token, state.major) and _role_name(token) not in state.roles
    ]  # fmt: skip


def _role_name(token: Token) -> str:
    return token.text[1:] if not token.quoted and token.text.startswith("+") else token.text


def unknown_databases(rule: Rule, state: State) -> list[Token]:
    """The databases of a rule that the server does not have."""
    words = ("all", "sameuser", "samerole", "samegroup", "replication")
    return [
        token
        for token in rule.databases
        if not any(token.keyword(word) for word in words) and not is_expression(token, state.major) and token.text not in state.databases
    ]  # fmt: skip
