# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the declared settings true: by a file, by ALTER SYSTEM, or by Patroni's dynamic configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.errors import BulwarkError, PolicyError
from ..core.facts import read_facts
from ..core.files import make_directory, read_text, remove, shared_mode
from ..core.install import FileText, Installation, Statement, changed_files, check_writable, install
from ..core.parameters import split_setting
from ..core.plan import Change, Effect, Plan
from ..core.statements import compose, identifier, listed, literal
from .by_patroni import apply_patroni, plan_patroni
from .catalog import read_entries, read_state
from .limits import plan_unlimited, slot_mistakes
from .policy import read_policy
from .reconcile import (
    AUTO,
    INCLUDE,
    Override,
    ParameterChange,
    file_changes,
    file_text,
    include_directory,
    lost_libraries,
    merged,
    not_in_force,
    overrides,
    parameter_change,
    still_loaded,
)
from .start import RunCommand, as_account, start_problem
from .values import as_text, same

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.database import Database, Server
    from ..core.facts import ClusterFacts
    from ..core.install import Step
    from ..core.patroni import Patroni
    from .model import Entry, Policy, State, Value

# ALTER SYSTEM makes of an empty list one element without a name, which is no library and no directory.
_NEVER_EMPTY = frozenset({"local_preload_libraries", "session_preload_libraries", "shared_preload_libraries", "unix_socket_directories"})

_AS_BEFORE = "the settings are as they were"


class OutOfReachError(BulwarkError):
    """Nobody with this connection may change the server's settings; the text says who may."""


@dataclass(frozen=True)
class Options:
    """How to apply. method: auto, file, alter_system or patroni. overrides: refuse or reset. name: of the file, without its ending.

    declared_roles: those whose settings another policy keeps.
    """

    patroni: Patroni
    method: str = "auto"
    overrides: str = "refuse"
    name: str = "bulwark"
    declared_roles: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """The plan, and what it was made from.

    file: the file that holds the settings, None where none of ours does. unlimited: roles that the limits of time are not for any more.
    """

    plan: Plan
    method: str
    policy: Policy
    state: State
    facts: ClusterFacts
    file: str | None = None
    unlimited: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[ParameterChange, ...]:
        """The parameters that change."""
        return tuple(change for change in self.plan.changes if isinstance(change, ParameterChange))

    @property
    def for_restart(self) -> bool:
        """Whether something that only a restart can bring is among the changes."""
        return any(change.context == "postmaster" for change in self.parameters)

    @property
    def previous(self) -> str | None:
        """Where the file as it was is kept until a restart has shown that the server starts with the new one."""
        directory, name = os.path.split(self.file or "")
        return os.path.join(directory, f".{name}.previous") if self.file else None


def plan(server: Server, document: Any, baseline: str, options: Options, path_prefix: str) -> Planned:
    """Read the server, check the document against it and find out what will change. Raises PolicyError, BulwarkError."""
    with server.connect() as database:
        facts = read_facts(database)
        state = read_state(database, facts)
        method = _method(options.method, facts)
        policy = read_policy(document, baseline, state, path_prefix)
        mistakes = slot_mistakes(database, policy, state)
        if mistakes:
            raise PolicyError(mistakes, path_prefix)
        unlimited, warnings = (Plan(), []) if facts.in_recovery else plan_unlimited(database, policy, options.declared_roles)
    planned = _plan_by(method, policy, state, facts, options, path_prefix)
    roles = tuple(dict.fromkeys(change.object for change in unlimited.changes))
    return replace(planned, plan=planned.plan + unlimited, unlimited=roles, warnings=tuple(warnings))


def _plan_by(method: str, policy: Policy, state: State, facts: ClusterFacts, options: Options, path_prefix: str) -> Planned:
    if method == "patroni":
        policy, changes = plan_patroni(policy, state, options.name, options.patroni, path_prefix)
        return Planned(changes, method, policy, state, facts)
    if method == "alter_system":
        return _plan_alter_system(policy, state, facts)
    return _plan_file(policy, state, facts, options)


def _method(asked: str, facts: ClusterFacts) -> str:
    if facts.patroni and asked in ("auto", "patroni"):
        return "patroni"
    if facts.patroni or asked == "patroni":
        raise OutOfReachError(
            "Patroni runs this server and writes its configuration: method patroni" if facts.patroni else "Patroni does not run this server"
        )
    if asked == "auto":
        asked = "file" if facts.local and facts.superuser else "alter_system"
    if asked == "alter_system" and not facts.superuser:
        raise OutOfReachError(
            f'the role "{facts.role}" may not change the settings of this server: '
            + ("the provider's own interface does (parameter groups, flags)" if facts.managed else "connect as a superuser")
        )
    if asked == "file" and not (facts.local and facts.config_file):
        raise OutOfReachError(
            "the server's configuration files are not on this host, or may not be read: run this on the server's host, as its account"
        )
    return asked


def _plan_file(policy: Policy, state: State, facts: ClusterFacts, options: Options) -> Planned:
    config = facts.config_file or ""
    text = read_text(config) or ""
    directory, line = include_directory(config, text)
    texts: dict[str, str] = {}
    if directory is None:
        directory = os.path.join(os.path.dirname(config), "conf.d")
        texts[config] = text + ("" if text.endswith("\n") or not text else "\n") + INCLUDE
    file = os.path.join(directory, f"{options.name}.conf")
    allowed = _may_alter_system(state)
    resets = options.overrides == "reset" and allowed
    ours = {file, _auto_file(state)} if resets else {file}
    remedies = lost_libraries(policy, state, file) if resets else []
    policy = replace(policy, wanted=tuple(merged(wanted, state, ours) for wanted in policy.wanted))
    found = overrides(policy, state, file, config, line)
    remedies += [each.remedy(allowed) for each in found if not (resets and each.by_alter_system)]
    if remedies:
        remedies = [f"  - {each}" for each in remedies]
        raise BulwarkError(f"these are read after {file} and override the policy; nothing was changed:\n" + "\n".join(remedies))
    files = changed_files({**texts, file: file_text(policy)})
    if not os.path.isdir(directory):
        check_writable(config)
    changes = [*file_changes(policy, state, file), *_resets(found)] if files or found else []
    written = [Change(each.path, "", each, None, Effect.WRITE) for each in files]
    if written and not changes:
        written[0] = replace(written[0], description="comments")
    plan = Plan((*written, *changes)).under(f"settings in {file}") or _reload((*not_in_force(policy, state), *still_loaded(state, file)))
    return Planned(plan, "file", policy, state, facts, file)


def _resets(found: Iterable[Override]) -> list[Change]:
    """What ALTER SYSTEM has to give up, since it is to come from our file."""
    values = {override.name: override.value for override in found}
    return [
        Change(name, f"{name}: ALTER SYSTEM RESET", Statement(_reset(name), _set(name, values[name])), None, Effect.RESET)
        for name in sorted(values)
    ]


def _reload(stale: Iterable[str]) -> Plan:
    """What the server has not loaded yet, though the files hold it, as after a run that was killed before the reload."""
    changes = tuple(Change("server", each, None, None, Effect.RELOAD) for each in stale)
    return Plan(changes).under("reload: the server has not loaded its settings")


def _plan_alter_system(policy: Policy, state: State, facts: ClusterFacts) -> Planned:
    if not _may_alter_system(state):
        raise OutOfReachError("allow_alter_system is off on this server: run this on its host, as its account, or switch it on there")
    auto = _auto_file(state)
    policy = replace(policy, wanted=tuple(merged(wanted, state, {auto}) for wanted in policy.wanted))
    _check_empty(policy, state, auto)
    set_before = {entry.name: entry.value for entry in state.entries if entry.file == auto}
    changed: list[Change] = []
    for wanted in policy.wanted:
        definition, name = state.definitions.get(wanted.name), wanted.name
        last = next((entry.value for entry in reversed(state.entries) if entry.name == wanted.name), None)
        current = last if last is not None else definition.setting if definition else ""
        if definition is None or not same(definition, current, wanted.value):
            change = parameter_change(name, definition, current, as_text(name, wanted.value))
            undo = _set(name, set_before[name]) if name in set_before else _reset(name)
            changed.append(replace(change, statement=Statement(_set(name, wanted.value), undo)))
    plan = Plan(tuple(changed)).under("settings by ALTER SYSTEM") or _reload(not_in_force(policy, state))
    return Planned(plan, "alter_system", policy, state, facts)


def _may_alter_system(state: State) -> bool:
    """Whether the server takes ALTER SYSTEM, which it may be told not to from PostgreSQL 17 on."""
    found = state.definitions.get("allow_alter_system")
    return found is None or found.setting == "on"


def _auto_file(state: State) -> str:
    """The file of ALTER SYSTEM, empty where it holds nothing."""
    return next((entry.file for entry in state.entries if os.path.basename(entry.file) == AUTO), "")


def _check_empty(policy: Policy, state: State, auto: str) -> None:
    """An empty list is what is left where ALTER SYSTEM has set nothing; so no file may say otherwise."""
    for wanted in policy.wanted:
        beneath = [entry for entry in state.entries if entry.name == wanted.name and entry.file != auto]
        if wanted.name in _NEVER_EMPTY and wanted.value == () and beneath and beneath[-1].value:
            place = f"{beneath[-1].file} line {beneath[-1].line}"
            raise BulwarkError(
                f"ALTER SYSTEM cannot make {wanted.name} an empty list; take it out of {place}, which has {beneath[-1].value}"
            )


def apply(server: Server, planned: Planned, run_command: RunCommand, patroni: Patroni) -> None:
    """Do it. Raises BulwarkError; the files and the settings are then as they were."""
    check_start(planned, run_command)
    if planned.method == "patroni":
        statements = [step for step in planned.plan.steps if isinstance(step, Statement)]
        for patch in planned.plan.steps:
            if patch not in statements:
                apply_patroni(server, patroni, patch, planned.policy, planned.facts)
        if statements:
            install(server, Installation(statements, lambda: None, _AS_BEFORE, loads=False))
    elif planned.method == "alter_system":
        install(server, Installation(planned.plan.steps, lambda: _verify(server, planned), _AS_BEFORE))
    else:
        _check_before(planned)
        directory = os.path.dirname(planned.file or "")
        make_directory(directory, shared_mode(os.path.dirname(directory), 0o700))
        steps = _by_file(planned)
        install(
            server, Installation(steps, lambda: _verify(server, planned), _AS_BEFORE, lambda session: _check(session, planned, run_command))
        )


def check_start(planned: Planned, run_command: RunCommand) -> None:
    """Raises BulwarkError where the server's own program would not start with the new values.

    Of TLS, for one, the running server only logs a fault.
    """
    changed = {change.object for change in planned.parameters if change.after is not None}
    values = {each.name: as_text(each.name, each.value) for each in planned.policy.wanted if each.name in changed}
    problem = start_problem(planned.facts, values, run_command)
    if problem:
        raise BulwarkError(f"the server would not start with these settings, so that nothing was changed: {problem}")


def _check_before(planned: Planned) -> None:
    before = [entry for entry in planned.state.entries if entry.error and not _waits(entry, planned.state)]
    if before:
        raise BulwarkError(f"the server's configuration has an error already, and would not be reloaded: {_errors(before)}")


def _by_file(planned: Planned) -> list[Step]:
    """The file to go back to if the server does not restart, and the plan's steps."""
    before = []
    if planned.for_restart and planned.previous:
        there = read_text(planned.previous)
        # What waits for a restart has not been proved by one, so that it is nothing to go back to.
        if there is None or not planned.facts.pending_restart:
            before.append(FileText(planned.previous, read_text(planned.file or "") or "", there))
    return [*before, *planned.plan.steps]


def waiting(server: Server, planned: Planned) -> tuple[str, ...]:
    """What waits for a restart now. Where nothing does, the file to go back to is no longer needed."""
    with server.connect() as session:
        pending = read_facts(session).pending_restart
    if planned.previous and not pending:
        remove(planned.previous)
    return pending


def _waits(entry: Entry, state: State) -> bool:
    """Whether the server's 'could not be applied' only means that the value waits for a restart."""
    if not entry.file:
        return True  # a parameter that is in no file any more, and goes back to its default at a restart
    definition = state.definitions.get(entry.name)
    return definition is not None and definition.context == "postmaster"


def _errors(entries: list[Entry]) -> str:
    return "; ".join(f"{entry.file} line {entry.line}: {entry.name} {entry.error}".replace("  ", " ") for entry in entries)


def _check(database: Database, planned: Planned, run_command: RunCommand) -> None:
    """The server reads its files without applying them; so does its own program, for what only a start would find."""
    wrong = [entry for entry in read_entries(database) if entry.error and not _waits(entry, planned.state)]
    if wrong:
        raise BulwarkError(f"the server would not take the settings: {_errors(wrong)}")
    facts = planned.facts
    if not (planned.for_restart and facts.bin_directory and facts.data_directory):
        return
    command = [
        f"{facts.bin_directory}/postgres",
        "-D",
        facts.data_directory,
        "-c",
        f"config_file={facts.config_file}",
        "-C",
        "data_directory",
    ]
    code, error = run_command(as_account(facts, command))
    if code != 0:
        raise BulwarkError(f"the server would not start with the settings: {' '.join(error.split())}")


def _verify(server: Server, planned: Planned) -> None:
    """Raises BulwarkError where a new session does not have what the policy says."""
    with server.connect() as session:
        wrong = not_in_force(planned.policy, read_state(session, planned.facts))
    if wrong:
        raise BulwarkError(f"after the reload the server still has other values: {'; '.join(wrong)}")


def _named(name: str) -> Any:
    return identifier(*name.split("."))


def _reset(name: str) -> Any:
    return compose("ALTER SYSTEM RESET {}", _named(name))


def _set(name: str, value: Value) -> Any:
    """ALTER SYSTEM quotes the elements of a list by itself, each given as one; so a list in one text is taken apart first."""
    elements = split_setting(name, value) if isinstance(value, str) else value
    if isinstance(elements, tuple):
        if not elements and name in _NEVER_EMPTY:
            return _reset(name)
        return compose("ALTER SYSTEM SET {} = {}", _named(name), listed(literal(item) for item in elements or ("",)))
    return compose("ALTER SYSTEM SET {} = {}", _named(name), literal(str(value)))
