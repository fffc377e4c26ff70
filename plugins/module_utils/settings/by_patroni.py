# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings in Patroni's dynamic configuration, which all members of the cluster get. Which of them are ours stands there, too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.errors import Mistake, PolicyError
from ..core.install import PatroniPatch, install_by_patroni, patience_of
from ..core.parameters import split_setting
from ..core.plan import Change, Effect, Plan
from .catalog import read_state
from .reconcile import not_in_force, parameter_change, shown
from .values import as_text, same

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.database import Server
    from ..core.facts import ClusterFacts
    from ..core.patroni import Patroni
    from .model import Policy, Setting, State
    from .reconcile import ParameterChange

# Patroni ignores what its dynamic configuration says of these, or needs them as they are.
_PATRONIS_OWN = frozenset(
    {
        "archive_cleanup_command",
        "cluster_name",
        "hot_standby",
        "listen_addresses",
        "port",
        "primary_conninfo",
        "primary_slot_name",
        "promote_trigger_file",
        "recovery_target",
        "restore_command",
        "unix_socket_directories",
        "wal_log_hints",
    }
)

_KEY = "bulwark"  # Patroni keeps keys that it does not know


_PLACE = "Patroni's dynamic configuration"


@dataclass(frozen=True)
class SettingsPatch(PatroniPatch):
    """gone: the settings that leave the configuration, with what they were there."""

    gone: Mapping[str, str]


def plan_patroni(policy: Policy, state: State, name: str, patroni: Patroni, path_prefix: str) -> tuple[Policy, Plan]:
    """What has to change in the dynamic configuration. Raises PolicyError for what is Patroni's own, BulwarkError."""
    asked = [wanted for wanted in policy.wanted if not wanted.path.startswith("baseline.")]
    mistakes = [
        Mistake(each.path, f"{each.name} is Patroni's own to set (its configuration file)") for each in asked if each.name in _PATRONIS_OWN
    ]
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    config = patroni.config()
    there: dict[str, Any] = (config.get("postgresql") or {}).get("parameters") or {}
    documents: dict[str, Any] = config.get(_KEY) or {}
    owned = [str(each) for each in documents.get(name) or []]
    policy = replace(policy, wanted=tuple(_with_theirs(each, there) for each in policy.wanted if each.name not in _PATRONIS_OWN))
    found = sorted([*_wanted(policy, state, there), *_gone(policy, state, there, owned)], key=lambda each: each.object)
    names = [each.name for each in policy.wanted]
    if not found and names == owned:
        return policy, Plan()
    values = {each.name: as_text(each.name, each.value) for each in policy.wanted}
    changed = {each.object: values.get(each.object) for each in found}
    patch = {"postgresql": {"parameters": changed}, _KEY: {name: names or None}}
    undo = {
        "postgresql": {
            "parameters": {each: there.get(each) for each in changed} if "parameters" in (config.get("postgresql") or {}) else None
        }
        if "postgresql" in config
        else None,
        _KEY: {name: documents.get(name)} if _KEY in config else None,
    }
    gone = {each.object: _text(there[each.object]) for each in found if each.object not in values}
    sent = SettingsPatch(patch, undo, patience_of(config), gone)
    return policy, Plan((Change(_PLACE, "" if found else "comments", sent, None, Effect.WRITE), *found)).under(f"settings in {_PLACE}")


def _with_theirs(wanted: Setting, there: Mapping[str, Any]) -> Setting:
    """Libraries that somebody else has in the configuration stay."""
    if wanted.name != "shared_preload_libraries" or not isinstance(wanted.value, tuple):
        return wanted
    found = split_setting(wanted.name, str(there.get(wanted.name) or ""))
    first = found if isinstance(found, tuple) else ()
    return replace(wanted, value=(*first, *(item for item in wanted.value if item not in first)))


def _text(value: Any) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)


def _wanted(policy: Policy, state: State, there: Mapping[str, Any]) -> list[ParameterChange]:
    found = []
    for wanted in policy.wanted:
        definition = state.definitions.get(wanted.name)
        before = _text(there[wanted.name]) if wanted.name in there else None
        equal = before is not None and (
            same(definition, before, wanted.value) if definition else before == as_text(wanted.name, wanted.value)
        )
        if not equal:
            was = before if before is not None else definition.setting if definition else None
            before = None if was is None else shown(definition, was, wanted.name)
            found.append(parameter_change(wanted.name, definition, before, shown(definition, wanted.value, wanted.name)))
    return found


def _gone(policy: Policy, state: State, there: Mapping[str, Any], owned: list[str]) -> list[ParameterChange]:
    names = {each.name for each in policy.wanted}
    left = [name for name in owned if name not in names and name in there]
    return [parameter_change(name, state.definitions.get(name), _text(there[name]), None) for name in left]


def apply_patroni(server: Server, patroni: Patroni, patch: SettingsPatch, policy: Policy, facts: ClusterFacts) -> None:
    """Send it, and wait until this member's server has it. Raises BulwarkError; the dynamic configuration is then as it was."""

    def missing(late: bool) -> str | None:
        with server.connect() as session:
            state = read_state(session, facts)
        wrong = not_in_force(policy, state)
        if wrong:
            return f"this server still has other values: {'; '.join(wrong)}"
        # What left the configuration may be the same elsewhere.
        return "settings are still there" if not late and _still_there(patch.gone, state) else None

    install_by_patroni(patroni, patch, missing)


def _still_there(gone: Mapping[str, str], state: State) -> bool:
    known = ((state.definitions[name], value) for name, value in gone.items() if name in state.definitions)
    return any(
        same(each, each.setting, value) and each.source == "configuration file" and not each.pending_restart for each, value in known
    )
