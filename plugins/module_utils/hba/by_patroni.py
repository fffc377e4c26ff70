# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules in Patroni's dynamic configuration, from which each member of the cluster writes its pg_hba.conf and pg_ident.conf."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.errors import BulwarkError
from ..core.install import PatroniPatch, install_by_patroni, patience_of
from .catalog import file_errors, read_state
from .match import first_match
from .model import Question

if TYPE_CHECKING:
    from ..core.database import Database, Server
    from ..core.facts import ClusterFacts
    from ..core.patroni import Patroni
    from .model import State
    from .policy import Policy

# Patroni's own sessions, and the standbys that it manages.
_SESSIONS = """
SELECT DISTINCT a.usename::text, COALESCE(a.datname::text, ''), pg_catalog.host(a.client_addr), COALESCE(s.ssl, false), a.backend_type =
 'walsender'
FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_ssl s USING (pid)
WHERE a.application_name LIKE 'Patroni%' OR (a.backend_type = 'walsender' AND a.datname IS NULL)
"""


def plan_patroni(policy: Policy, patroni: Patroni) -> PatroniPatch | None:
    """What has to change in the dynamic configuration; None for nothing."""
    config = patroni.config()
    there = config.get("postgresql") or {}
    wanted: dict[str, Any] = {"pg_hba": [rule.text() for rule in policy.rules]}
    if policy.mappings is not None:
        wanted["pg_ident"] = [str(mapping) for mapping in policy.mappings]
    before = {key: there.get(key) for key in wanted}
    if before == wanted:
        return None
    return PatroniPatch({"postgresql": wanted}, {"postgresql": before}, patience_of(config))


def check_patroni(policy: Policy, state: State, database: Database) -> None:
    """Refuse rules under which Patroni itself, or a standby that is connected now, would be refused."""
    for role, name, address, encrypted, replication in database.query(_SESSIONS):
        question = Question(role, name, address, encrypted, replication=replication)
        answer = first_match(policy.rules, question, state.roles, state.major)
        if not answer.allowed:
            where = f"from {address}" if address else "through the Unix socket"
            what = "for replication" if replication else f'to database "{name}"'
            raise BulwarkError(f'these rules would lock out Patroni, which connects as "{role}" {where} {what}; nothing was changed')


def apply_patroni(server: Server, patroni: Patroni, patch: PatroniPatch, policy: Policy, facts: ClusterFacts) -> None:
    """Send it, wait until this member's server has the rules, and connect under them. Raises BulwarkError; all is then as it was."""

    def missing(_late: bool) -> str | None:
        with server.connect() as session:
            state = read_state(session, facts)
            wrong = file_errors(session, facts)
        if wrong:
            raise BulwarkError(f"the server would not load the rules: {'; '.join(f'line {each.line}: {each.shown}' for each in wrong)}")
        mapped = policy.mappings is None or state.mappings == policy.mappings
        return None if state.rules == policy.rules and mapped and not state.stale else "this server has other rules"

    install_by_patroni(patroni, patch, missing)
