# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whom the limits of a policy would hit: roles that maintain or replicate the server, and replication slots.

PostgreSQL's documentation advises against limits of time for a whole server, since they reach a vacuum, the build of an index and the first
copy of a subscription, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import Mistake
from ..core.install import Statement
from ..core.plan import Change, Plan
from ..core.statements import compose, identifier
from .values import canonical

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..core.database import Database
    from .model import Policy, State

LIMITS = (
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
)

_ROLES = """
SELECT r.rolname, CASE WHEN r.rolsuper THEN 'superuser' ELSE 'replication' END,
 ARRAY(SELECT pg_catalog.split_part(c, '=', 1) FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
       WHERE s.setrole = r.oid AND s.setdatabase = 0)
FROM pg_catalog.pg_roles r WHERE r.rolcanlogin AND (r.rolsuper OR r.rolreplication) ORDER BY 1
"""


def plan_unlimited(database: Database, policy: Policy, declared: Collection[str]) -> tuple[Plan, list[str]]:
    """ALTER ROLE for each limit of the baseline that such a role has no value of its own for, and warnings of declared roles.

    declared: roles whose settings a policy of access keeps, so that they are its to change.
    """
    limits = [each.name for each in policy.wanted if each.name in LIMITS and each.path.startswith("baseline.") and each.value != "0"]
    changes, warnings = [], []
    for role, kind, own in database.query(_ROLES):
        missing = [name for name in limits if name not in own]
        if missing and role in declared:
            values = ", ".join(f"{name}: 0" for name in missing)
            warnings.append(
                f'the role "{role}" ({kind}) is under {", ".join(missing)} of the baseline: give it settings of its own ({values})'
            )
            continue
        for name in missing:
            words = identifier(role), identifier(name)
            step = Statement(compose("ALTER ROLE {} SET {} = 0", *words), compose("ALTER ROLE {} RESET {}", *words))
            changes.append(Change(role, f"{role}: no {name} ({kind})", step))
    return Plan(tuple(changes)).under("roles that the limits of the baseline are not for"), warnings


# Those that have lost something already have no more to lose.
_SLOTS = """
SELECT slot_name, pg_catalog.pg_wal_lsn_diff(
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn
 )::bigint / 1024 / 1024
FROM pg_catalog.pg_replication_slots WHERE wal_status IN ('reserved', 'extended') ORDER BY 1
"""


def slot_mistakes(database: Database, policy: Policy, state: State) -> list[Mistake]:
    """A limit of WAL below what slots hold now, which they would lose at the next checkpoint."""
    name = "max_slot_wal_keep_size"
    wanted, definition = next((each for each in policy.wanted if each.name == name), None), state.definitions.get(name)
    if wanted is None or definition is None:
        return []
    limit = int(canonical(definition, wanted.value))
    if limit < 0 or limit == int(definition.setting):
        return []
    beyond = [f"{slot} ({behind} MB behind)" for slot, behind in database.query(_SLOTS) if behind >= limit]
    if not beyond:
        return []
    text = f"{limit} MB are less than what replication slots hold now: {', '.join(beyond)}; they would be lost at the next checkpoint."
    return [Mistake(wanted.path, f"{text} Let their readers catch up, drop the slots, or take another value (null leaves it alone)")]
