# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules in Patroni's dynamic configuration, from which each member of the cluster writes its pg_hba.conf and pg_ident.conf."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.errors import BulwarkError
from .catalog import file_errors, read_state
from .match import first_match
from .model import Question

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.database import Database, Server
    from ..core.facts import ClusterFacts
    from ..core.patroni import Patroni
    from .catalog import State
    from .policy import Policy

_PAUSE = 0.2  # seconds between two looks at the server

# Patroni's own sessions, and the standbys that it manages.
_SESSIONS = """
SELECT DISTINCT a.usename::text, COALESCE(a.datname::text, ''), pg_catalog.host(a.client_addr), COALESCE(s.ssl, false), a.backend_type = 'walsender'
FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_ssl s USING (pid)
WHERE a.application_name LIKE 'Patroni%' OR (a.backend_type = 'walsender' AND a.datname IS NULL)
"""


@dataclass(frozen=True)
class Change:
    """What PATCH will send, and what undoes it."""

    patch: Mapping[str, Any]
    undo: Mapping[str, Any]
    patience: float  # seconds until each member has heard of it


def plan_patroni(policy: Policy, patroni: Patroni) -> Change | None:
    """What has to change in the dynamic configuration; None for nothing."""
    config = patroni.config()
    there = config.get("postgresql") or {}
    wanted: dict[str, Any] = {"pg_hba": [rule.text() for rule in policy.rules]}
    if policy.mappings is not None:
        wanted["pg_ident"] = [str(mapping) for mapping in policy.mappings]
    before = {key: there.get(key) for key in wanted}
    if before == wanted:
        return None
    return Change({"postgresql": wanted}, {"postgresql": before}, 10 + 2 * float(config.get("loop_wait") or 10))


def check_patroni(policy: Policy, state: State, database: Database) -> None:
    """Refuse rules under which Patroni itself, or a standby that is connected now, would not come in again."""
    for role, name, address, encrypted, replication in database.query(_SESSIONS):
        question = Question(role, name, address, encrypted, replication=replication)
        answer = first_match(policy.rules, question, state.roles, state.major)
        if not answer.allowed:
            where = f"from {address}" if address else "through the Unix socket"
            what = "for replication" if replication else f'to database "{name}"'
            raise BulwarkError(f'these rules would lock out Patroni, which connects as "{role}" {where} {what}; nothing was changed')


def apply_patroni(server: Server, patroni: Patroni, change: Change, policy: Policy, facts: ClusterFacts) -> None:
    """Send it, wait until this member's server has the rules, and come in under them. Raises BulwarkError; all is then as it was."""
    patroni.patch(change.patch)
    try:
        deadline = time.monotonic() + change.patience
        while not _taken(server, policy, facts):
            if time.monotonic() > deadline:
                raise BulwarkError(
                    f"{change.patience:g} s after the change of Patroni's dynamic configuration this server has other rules"
                    " (Patroni's configuration file on this host goes before it)"
                )
            time.sleep(_PAUSE)
    except BaseException as error:
        patroni.patch(change.undo)
        if isinstance(error, BulwarkError):
            raise BulwarkError(f"{error}; Patroni's dynamic configuration is as it was") from None
        raise


def _taken(server: Server, policy: Policy, facts: ClusterFacts) -> bool:
    with server.connect() as session:
        state = read_state(session, facts)
        wrong = file_errors(session, facts)
    if wrong:
        raise BulwarkError(f"the server does not take the rules: {'; '.join(f'line {each.line}: {each.shown}' for each in wrong)}")
    mapped = policy.mappings is None or state.mappings == policy.mappings
    return state.rules == policy.rules and mapped and not state.stale
