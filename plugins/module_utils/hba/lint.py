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
    elif problems:
        message = "the server goes on with the rules that it had before, since it loads no file with a line that it does not take"
        found.append(Finding("not_loaded", "high", message, file=problems[0].file))
    coverage = Coverage(rules, state.major)
    taking = {name: coverage.takes(name, state.roles.get(name, frozenset())) for name in sorted(state.md5 | state.superusers)}
    for position, rule in enumerate(rules):
        above = coverage.first_above(position)
        coming = frozenset(name for name, theirs in taking.items() if coverage.is_first(position, theirs))
        found += [
            Finding(code, severity, message, str(rule), rule.file, rule.line) for code, severity, message in _of(rule, above, coming, state)
        ]
    return found


def _of(rule: Rule, above: Rule | None, coming: frozenset[str], state: State) -> Iterable[tuple[str, str, str]]:
    """above: the rule that takes all its connections. coming: the roles, of those with an MD5 verifier and superusers, that it may take."""
    md5, superusers = sorted(coming & state.md5), sorted(coming & state.superusers)
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
    if rule.method == "ldap" and not _encrypts_ldap(rule):
        yield "ldap_plain", "high", "sends the password in clear text to the LDAP server: ldaptls=1, or ldapscheme=ldaps"
    if rule.type == "hostssl" and not state.ssl:
        yield "ssl_off", "medium", "cannot match while the setting ssl is off"
    if (rule.method == "cert" or rule.option("clientcert")) and state.ssl and not state.authorities:
        yield "no_authority", "high", "checks client certificates, and the setting ssl_ca_file is empty: the server refuses every client"
    if md5 and rule.method == "scram-sha-256":
        yield "md5_verifier", "high", f"refuses {_shortened(md5)}, whose passwords are stored for md5: give them new ones"
    if _is_wide(rule):
        yield "wide", "medium", f"takes connections from {rule.address}: name the networks that the clients are in"
    if rule.type != "local" and any(token.keyword("all") for token in rule.databases) and any(token.keyword("all") for token in rule.roles):
        yield "everybody", "low", "is for each role in each database, superusers among them"
    elif rule.type != "local" and superusers:
        yield "superuser", "low", f"takes {_shortened(superusers)}, who may do everything: let superusers in through the Unix socket alone"


def _shortened(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _encrypts_ldap(rule: Rule) -> bool:
    return rule.option("ldaptls") == "1" or rule.option("ldapscheme") == "ldaps" or (rule.option("ldapurl") or "").startswith("ldaps:")


def _is_wide(rule: Rule) -> bool:
    if rule.address is None:
        return False
    network = rule.network
    if network is None:
        return rule.address.keyword("all")
    return str(network) in ANYWHERE or (not network.is_loopback and network.prefixlen < _WIDE[network.version])


def _missing(rule: Rule, state: State) -> Iterable[tuple[str, str, str]]:
    for token in unknown_roles(rule, state):
        yield "missing_role", "low", f'there is no role "{role_name(token)}"'
    for token in unknown_databases(rule, state):
        yield "missing_database", "low", f'there is no database "{token.text}"'


def unknown_roles(rule: Rule, state: State) -> list[Token]:
    """The roles of a rule that the server does not have."""
    return [token for token in rule.roles if is_unknown_role(token, state)]


def is_unknown_role(token: Token, state: State) -> bool:
    """Whether a name of a rule, or of a line of pg_ident.conf, is that of no role."""
    return not token.keyword("all") and not is_expression(token, state.major) and role_name(token) not in state.roles


def role_name(token: Token) -> str:
    """The name of a role or of the group that a word stands for."""
    return token.text[1:] if not token.quoted and token.text.startswith("+") else token.text


def unknown_databases(rule: Rule, state: State) -> list[Token]:
    """The databases of a rule that the server does not have."""
    words = ("all", "sameuser", "samerole", "samegroup", "replication")
    return [
        token
        for token in rule.databases
        if not any(token.keyword(word) for word in words) and not is_expression(token, state.major) and token.text not in state.databases
    ]  # fmt: skip
