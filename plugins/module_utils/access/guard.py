# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans that are refused although the policy is right: those that lock somebody out, and those that revoke surprisingly much. Pure."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..core.errors import BulwarkError, Mistake
from .model import DATABASE, PUBLIC, ObjectClass, Role
from .reconcile_grants import declared_rights
from .state import reachable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.plan import Plan
    from .scope import Scope
    from .state import Cluster, DatabaseFacts

# A small database is cleaned up as a whole without further ado.
_FEW = 100


def lockout_mistakes(scope: Scope, cluster: Cluster, facts: Iterable[DatabaseFacts]) -> list[Mistake]:
    """What would cut off the role that applies the plan, or every administrator."""
    mistakes: list[Mistake] = []
    applying = cluster.applying
    for absent in scope.policy.absent_roles:
        if absent.name == applying:
            mistakes.append(Mistake(absent.path, "this role applies the policy and would drop itself; connect as another role"))
        elif absent.name == cluster.bootstrap:
            mistakes.append(Mistake(absent.path, "this is the role that initdb made; PostgreSQL cannot drop it"))
    declared = {role.name: role for role in scope.policy.roles}
    if applying in declared:
        mistakes.extend(_lost_by(declared[applying], cluster.roles[applying]))
    mistakes.extend(_last_administrator(scope, cluster, declared))
    if not cluster.roles[applying].superuser:
        mistakes.extend(
            Mistake(f"databases.{each.name}", f'role "{applying}" applies the policy and would lose CONNECT; grant it to that role')
            for each in facts
            if not _may_connect(scope, cluster, each)
        )
    return mistakes


def _lost_by(role: Role, actual: Role) -> list[Mistake]:
    because = "this role applies the policy and would lose"
    mistakes: list[Mistake] = []
    if role.login is False:
        mistakes.append(Mistake(role.path, f"{because} LOGIN; declare login: true"))
    if actual.superuser and role.superuser is False:
        mistakes.append(Mistake(role.path, f"{because} SUPERUSER; declare superuser: true, or connect as another administrator"))
    if actual.createrole and role.createrole is False and not actual.superuser:
        mistakes.append(Mistake(role.path, f"{because} CREATEROLE; declare createrole: true, or connect as another administrator"))
    if role.connection_limit == 0:
        mistakes.append(Mistake(role.path, f"{because} its connections (connection_limit: 0)"))
    if role.valid_until not in (None, "infinity") and int(role.valid_until or 0) < time.time() * 1_000_000:
        mistakes.append(Mistake(f"{role.path}.valid_until", f"{because} its password: the time has passed"))
    return mistakes


def _last_administrator(scope: Scope, cluster: Cluster, declared: dict[str, Role]) -> list[Mistake]:
    before = {name for name, role in cluster.roles.items() if role.superuser and role.login}
    absent = {role.name for role in scope.policy.absent_roles}
    after = {name for name in before - absent if name not in declared or (declared[name].superuser is not False and declared[name].login is not False)}
    after |= {role.name for role in scope.policy.roles if role.superuser and role.login}
    if before and not after:
        return [Mistake("roles", "no superuser that may log in would be left; keep one, or nobody can repair the server")]
    return []


def _may_connect(scope: Scope, cluster: Cluster, facts: DatabaseFacts) -> bool:
    """Whether the applying role may connect after the plan, by ownership, by PUBLIC, by itself or by a role whose rights it inherits."""
    objects = ObjectClass(DATABASE, facts.owner, facts.acl, facts.name, None, facts.name, (facts.name,))
    allowed = {entry.grantee for entry in facts.acl if entry.privilege == "CONNECT" and not scope.may_revoke(objects, entry.grantee, "CONNECT")}
    allowed |= {grantee for grantee, privileges in declared_rights(scope, objects).items() if "CONNECT" in privileges}
    owner = next((each.owner for each in scope.policy.databases if each.name == facts.name and each.owner), facts.owner)
    return bool((allowed | {owner, PUBLIC if PUBLIC in allowed else owner}) & (_inherited(scope, cluster) | {PUBLIC}))


def _inherited(scope: Scope, cluster: Cluster) -> set[str]:
    edges: dict[str, set[str]] = {}
    for entry in cluster.memberships:
        if entry.member not in scope.managed and entry.inherit is not False and not scope.may_revoke_membership(entry, cluster):
            edges.setdefault(entry.member, set()).add(entry.role)
    for declared in scope.policy.roles:
        edges.setdefault(declared.name, set()).update(entry.role for entry in declared.member_of if scope.inherits(entry, cluster.roles))
    return reachable(cluster.applying, edges)


def check_revocations(plan: Plan, existing: int, share: float, allowed: bool) -> None:
    """Refuse a plan that takes more than the share of what roles were granted. Raises BulwarkError.

    What PUBLIC has does not count: it is what PostgreSQL gives by itself, and no policy leaves much of it.
    """
    revoked = sum(change.revoked_from_roles for change in plan.changes)
    if allowed or revoked < _FEW or revoked <= share * max(existing, 1):
        return
    raise BulwarkError(
        f"The plan revokes {revoked} of {existing} privileges that roles have, more than max_revoke_share ({share:g}) allows; nothing was changed. "
        "Read the whole plan with allow_mass_revoke and --check --diff; if it is right, apply it so once. It begins with:\n"
        + "\n".join(f"  {change.words}" for change in [each for each in plan.changes if each.revoked_from_roles][:10])
    )


def count_existing(scope: Scope, objects: Iterable[ObjectClass]) -> int:
    """How many privileges roles hold on objects that are not theirs."""
    return sum(
        each.count * sum(1 for entry in each.acl if entry.grantee not in (each.owner, PUBLIC) and entry.grantee not in scope.superusers) for each in objects
    )
