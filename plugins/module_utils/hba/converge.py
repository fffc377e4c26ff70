# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the rules true without locking anybody out.

Foreseen by first match, checked by the server, tried by a new connection, or put back.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.database import StatementError
from ..core.errors import BulwarkError, Mistake, PolicyError
from ..core.facts import read_facts
from ..core.install import Installation, changed_files, install
from ..core.plan import Change, Effect, Plan
from .by_patroni import apply_patroni, check_patroni, plan_patroni
from .catalog import file_errors, read_state
from .lint import lint
from .match import Answer, first_match, is_expression, role_matches
from .model import WITH_PASSWORD
from .policy import Documents, Permissions, Policy, read_policy
from .reconcile import mappings_text, rules_text, written

if TYPE_CHECKING:
    from ..core.database import Database, Server
    from ..core.facts import ClusterFacts
    from ..core.patroni import Patroni
    from .model import Finding, State


@dataclass(frozen=True)
class Options:
    """How to apply. administrators: None for the applying role, if it connects by its own name through the socket.

    expected_roles, expected_databases: names that count as there already, because something earlier in the play makes them.
    first_rules: rules that come before those of the document.
    """

    patroni: Patroni
    administrators: tuple[str, ...] | None = None
    reject_rest: bool = True
    permissions: Permissions = field(default_factory=Permissions)
    has_password: bool = False
    expected_roles: tuple[str, ...] = ()
    expected_databases: tuple[str, ...] = ()
    first_rules: Any = ()


_BY_PATRONI = "Patroni's dynamic configuration"


@dataclass(frozen=True)
class Planned:
    """The plan, and what it was made from."""

    plan: Plan
    facts: ClusterFacts
    state: State
    policy: Policy

    @property
    def place(self) -> str | None:
        """Where the rules are written."""
        return _BY_PATRONI if self.facts.patroni else self.facts.hba_file

    def findings(self) -> list[Finding]:
        """What the linter says of the rules as they will be."""
        return lint([rule for rule in self.policy.rules if rule.method != "reject"], [], self.state)


def plan(server: Server, document: Any, ident: Any, options: Options, path_prefix: str) -> Planned:
    """Read the server, check the document against it and against a lock-out. Raises PolicyError, BulwarkError."""
    with server.connect() as database:
        facts = read_facts(database)
        _check_reach(facts)
        state = _with_expected(read_state(database, facts), options)
        administrators = _administrators(state) if options.administrators is None else options.administrators
        documents = Documents(document, ident, options.first_rules)
        policy = read_policy(documents, administrators, options.reject_rest, options.permissions, state, path_prefix)
        _check_own(policy, state, options)
        _check_expressions(policy, state, database, path_prefix)
        if facts.patroni:
            check_patroni(policy, state, database)
    changes = _by_patroni(policy, state, options.patroni) if facts.patroni else _by_file(policy, state, facts)
    if not changes and state.stale:
        section = f"reload: the server has not read {', '.join(state.stale)} since it was changed"
        changes = (Change("server", "", None, None, Effect.RELOAD, section),)
    return Planned(Plan(changes), facts, state, policy)


def _check_expressions(policy: Policy, state: State, database: Database, path_prefix: str) -> None:
    """Raises PolicyError for regular expressions that the server does not take, and for which it would load none of the rules."""
    places = [(rule.path, token) for rule in policy.rules for token in (*rule.databases, *rule.roles) if is_expression(token, state.major)]
    for mapping in policy.mappings or ():
        users = [mapping.system_user] if mapping.system_user.text.startswith("/") else []
        roles = [mapping.role] if is_expression(mapping.role, state.major) else []
        places += [(f"ident.{mapping.map.text}", token) for token in (*users, *roles)]
    mistakes = []
    for place, token in places:
        try:
            database.query("SELECT '' ~ %(expression)s", {"expression": token.text[1:]})
        except StatementError as error:
            mistakes.append(Mistake(place, f"{token.text} is no expression: {error}"))
    if mistakes:
        raise PolicyError(mistakes, path_prefix)


def _by_file(policy: Policy, state: State, facts: ClusterFacts) -> tuple[Change, ...]:
    wanted = {facts.hba_file or "": rules_text(policy.rules)}
    if policy.mappings is not None:
        wanted[facts.ident_file or ""] = mappings_text(policy.mappings)
    return tuple(
        written("rules", each.path, each, state.rules, policy.rules)
        if each.path == facts.hba_file
        else written("maps", each.path, each, state.mappings, policy.mappings or ())
        for each in changed_files(wanted)
    )


def _by_patroni(policy: Policy, state: State, patroni: Patroni) -> tuple[Change, ...]:
    """The patch is sent once, with the rules and the maps in it."""
    patch = plan_patroni(policy, patroni)
    if patch is None:
        return ()
    rules = written("rules", _BY_PATRONI, patch, state.rules, policy.rules)
    return (rules,) if policy.mappings is None else (rules, written("maps", _BY_PATRONI, None, state.mappings, policy.mappings))


def _check_reach(facts: ClusterFacts) -> None:
    if not facts.superuser:
        whose = "the provider's own interface does (security groups, networks)" if facts.managed else "connect as a superuser"
        raise BulwarkError(f'the role "{facts.role}" may not check the rules of this server: {whose}')
    if not facts.local:
        raise BulwarkError(
            "the server's pg_hba.conf is not on this host, or may not be read: run this on the server's host, as its account"
        )


def _with_expected(state: State, options: Options) -> State:
    more = {name: frozenset({name}) for name in options.expected_roles if name not in state.roles}
    return replace(state, roles={**state.roles, **more}, databases=state.databases | frozenset(options.expected_databases))


def _account() -> str:
    """The operating-system user who runs this, as peer authentication sees him."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _administrators(state: State) -> tuple[str, ...]:
    return (state.own.role,) if state.own.address is None and state.own.role == _account() else ()


def _check_own(policy: Policy, state: State, options: Options) -> None:
    """Refuse rules under which whoever applies them would be refused."""
    answer = first_match(policy.rules, state.own, state.roles, state.major)
    problem = _own_problem(answer, policy, state, options)
    if problem:
        own = state.own
        where = (
            "through the Unix socket" if own.address is None else f"from {own.address}{' with TLS' if own.encrypted else ' without TLS'}"
        )
        raise BulwarkError(
            f'these rules would lock out "{own.role}", who applies them {where} to database "{own.database}": {problem}; '
            "nothing was changed"
        )


def _own_problem(answer: Answer, policy: Policy, state: State, options: Options) -> str | None:
    rule = answer.rule
    if answer.maybe:
        return f"whether it is let in depends on what only the server can look up: {answer.maybe[0]}"
    if rule is None or not answer.allowed:
        return f"it would hit {rule}" if rule else "no rule is for it"
    if rule.method == "peer" and not _peer_fits(rule.option("map"), policy, state):
        return f'{rule} takes the operating-system user "{_account()}" for nobody else than its namesake: map it in ident'
    if rule.method in WITH_PASSWORD and not options.has_password:
        now = first_match(state.rules, state.own, state.roles, state.major).rule
        if now is None or now.method not in WITH_PASSWORD:
            return f"{rule} asks for a password, and login_password is not given"
    return None


def _peer_fits(name: str | None, policy: Policy, state: State) -> bool:
    account, role = _account(), state.own.role
    if name is None:
        return account == role
    groups = state.roles.get(role, frozenset()) | {role}
    for each in policy.mappings if policy.mappings is not None else state.mappings:
        # An expression is left to the server, and to the connection that is tried after the reload.
        by_expression = each.system_user.text.startswith("/")
        if each.map.text != name or not (each.system_user.text == account or by_expression):
            continue
        if (by_expression and r"\1" in each.role.text) or each.role.text == role:
            return True
        if state.major >= 16 and role_matches(each.role, role, groups, state.major) is not False:
            return True
    return False


def apply(server: Server, planned: Planned, patroni: Patroni) -> None:
    """Put the files in place, have the server check them, reload, and connect anew.

    Raises BulwarkError; the files are then as they were.
    """
    steps = planned.plan.steps
    if planned.facts.patroni and steps:
        apply_patroni(server, patroni, steps[0], planned.policy, planned.facts)
        return

    def check(database: Database) -> None:
        wrong = file_errors(database, planned.facts)
        if wrong:
            shown = "; ".join(f"{each.file} line {each.line}: {each.shown}" for each in wrong)
            raise BulwarkError(f"the server would not load the rules: {shown}")

    install(server, Installation(steps, lambda: server.connect().close(), "the previous rules were restored", check))
