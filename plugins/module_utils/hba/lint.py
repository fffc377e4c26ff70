# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong, or merely wide, in the effective rules of a server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .match import covers, is_expression, role_matches
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
    for position, rule in enumerate(rules):
        found += [
            Finding(code, severity, message, str(rule), rule.file, rule.line)
            for code, severity, message in _of(rule, rules[:position], state)
        ]
    return found


def _of(rule: Rule, earlier: Sequence[Rule], state: State) -> Iterable[tuple[str, str, str]]:
    yield from _missing(rule, state)
    above = next((each for each in earlier if covers(each, rule)), None)
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
    md5 = _md5_roles(rule, earlier, state) if rule.method == "scram-sha-256" else []
    if md5:
        named = ", ".join(md5[:5]) + (f" and {len(md5) - 5} more" if len(md5) > 5 else "")
        yield "md5_verifier", "high", f"refuses {named}, whose passwords are stored for md5: give them new ones"
    if _is_wide(rule):
        yield "wide", "medium", f"takes connections from {rule.address}: name the networks that the clients are in"
    if rule.type != "local" and any(token.keyword("all") for token in rule.databases) and any(token.keyword("all") for token in rule.roles):
        yield "everybody", "low", "is for each role in each database, superusers among them"


def _md5_roles(rule: Rule, earlier: Sequence[Rule], state: State) -> list[str]:
    """The roles of a rule that no password of theirs lets in, but for those that an earlier rule for the same clients takes."""
    before = [each for each in earlier if covers(replace(each, roles=rule.roles), rule)]
    return sorted(name for name in state.md5 if _takes(rule, name, state) and not any(_takes(each, name, state) for each in before))


def _takes(rule: Rule, role: str, state: State) -> bool:
    return any(role_matches(token, role, state.roles.get(role, frozenset()), state.major) for token in rule.roles)


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
