# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans that are refused although the policy is right: those that lock somebody out, and those that revoke surprisingly much. Pure."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from ..core import scram
from ..core.catalog import PUBLIC, reachable
from ..core.document import child, quoted
from ..core.errors import BulwarkError, Mistake
from .model import DATABASE, ObjectClass, Role
from .moments import is_before
from .reconcile_grants import declared_rights
from .reconcile_roles import memberships_after

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..core.plan import Plan
    from .model import Cluster, DatabaseFacts, Membership
    from .scope import Scope

# A small database is cleaned up as a whole without further ado.
_FEW = 100

# How many seconds the password of the applying role must at least stay valid.
_RUN = 3600


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
        mistakes.extend(_login_lost(scope, declared[applying], cluster))
    mistakes.extend(_last_administrator(scope, cluster, declared))
    if not cluster.roles[applying].superuser:
        mistakes.extend(_memberships_lost(scope, cluster))
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
    if role.valid_until is not None and is_before(role.valid_until, time.time() + _RUN):
        mistakes.append(Mistake(f"{role.path}.valid_until", f"{because} its password: the time has passed, or passes within the hour"))
    return mistakes


def _login_lost(scope: Scope, role: Role, cluster: Cluster) -> Iterator[Mistake]:
    """What would keep the applying role from the further connections of the run, or from what they are for."""
    actual = cluster.roles[role.name]
    because = "this role applies the policy and"
    used, stored = cluster.login_password, actual.password
    if used is not None and stored and (scram.kind(stored) != "scram" or scram.matches(used, stored)):
        if role.has_password is False:
            yield Mistake(
                f"{role.path}.has_password",
                f"{because} logs in with its password, which would be removed; connect as another role, or by peer",
            )
        if role.password and scram.is_verifier(role.password) and not scram.matches(used, role.password):
            yield Mistake(
                child("passwords", role.name),
                f"{because} logs in with a password that does not match this verifier, and nothing proves that anybody knows "
                "the one that does; give the new password itself, or connect as another role",
            )
    limit = role.connection_limit
    if not actual.superuser and limit not in (None, -1, 0, actual.connection_limit) and int(limit or 0) <= cluster.sessions:
        yield Mistake(
            f"{role.path}.connection_limit",
            f"{because} needs a limit of at least {cluster.sessions + 1} to connect to each database (sessions open now: "
            f"{cluster.sessions})",
        )
    missing = [database.name for database in scope.policy.databases if database.name not in cluster.databases]
    if missing and actual.createdb and role.createdb is False and not actual.superuser:
        yield Mistake(role.path, f"{because} would lose CREATEDB before it creates database {quoted(missing[0])}; declare createdb: true")


def _memberships_lost(scope: Scope, cluster: Cluster) -> list[Mistake]:
    """Memberships, its own or those of its groups, without which the applying role would lose rights that it has now."""
    declared = {name: role.inherit for name, role in scope.declared.items() if role.inherit is not None}
    after = {**cluster.roles, **{name: replace(cluster.roles.get(name, Role(name)), inherit=inherit) for name, inherit in declared.items()}}
    absent = {role.name for role in scope.policy.absent_roles}
    had, left = _powers(cluster.memberships, cluster.roles), _powers(memberships_after(scope, cluster), after)
    found: dict[tuple[str, str], None] = {}
    for power, pairs in had.items():
        reached, still = _holds(cluster.applying, power, had), _holds(cluster.applying, power, left)
        members = _holds(cluster.applying, "any", had)
        for member, role in sorted(pairs - left[power]):
            if member in members and role in reached - still and not absent & {member, role}:
                found[member, role] = None
    return [
        Mistake(
            _place_of(scope, member, role),
            f'role "{cluster.applying}" applies the policy and would lose what it has by the membership of "{member}" in "{role}"; '
            "declare that membership as it is, or connect as another administrator",
        )
        for member, role in found
    ]


def _place_of(scope: Scope, member: str, role: str) -> str:
    if member in scope.declared:
        return f"{scope.declared[member].path}.member_of"
    return f"{scope.declared[role].path}.keep_members" if role in scope.declared else "roles"


def _powers(memberships: Iterable[Membership], roles: Mapping[str, Role]) -> dict[str, set[tuple[str, str]]]:
    """The pairs of member and role by what the membership is good for: rights without SET ROLE, SET ROLE, granting it to others."""
    powers: dict[str, set[tuple[str, str]]] = {"any": set(), "inherit": set(), "set": set(), "admin": set()}
    for entry in memberships:
        pair = (entry.member, entry.role)
        powers["any"].add(pair)
        inherits = entry.inherit if entry.inherit is not None else entry.member not in roles or roles[entry.member].inherit is not False
        for name, has in (("inherit", inherits), ("set", entry.set is not False), ("admin", entry.admin)):
            if has:
                powers[name].add(pair)
    return powers


def _holds(member: str, power: str, powers: Mapping[str, set[tuple[str, str]]]) -> set[str]:
    """The roles over which the member has the power, directly or through others."""
    edges: dict[str, set[str]] = {}
    for each, role in powers["any" if power == "admin" else power]:
        edges.setdefault(each, set()).add(role)
    reached = reachable(member, edges)
    return {role for each, role in powers["admin"] if each in reached} if power == "admin" else reached


def _last_administrator(scope: Scope, cluster: Cluster, declared: dict[str, Role]) -> list[Mistake]:
    before = {name for name, role in cluster.roles.items() if role.superuser and role.login}
    absent = {role.name for role in scope.policy.absent_roles}
    after = {
        name
        for name in before - absent
        if name not in declared or (declared[name].superuser is not False and declared[name].login is not False)
    }
    after |= {role.name for role in scope.policy.roles if role.superuser and role.login}
    if before and not after:
        return [Mistake("roles", "no superuser that may log in would be left; keep one, or nobody can repair the server")]
    return []


def _may_connect(scope: Scope, cluster: Cluster, facts: DatabaseFacts) -> bool:
    """Whether the applying role may connect after the plan, by ownership, by PUBLIC, by itself or by a role whose rights it inherits."""
    objects = ObjectClass(DATABASE, facts.owner, facts.acl, facts.name, None, facts.name, (facts.name,))
    allowed = {
        entry.grantee for entry in facts.acl if entry.privilege == "CONNECT" and not scope.may_revoke(objects, entry.grantee, "CONNECT")
    }
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


def missing_rights(scope: Scope, cluster: Cluster, plan: Plan) -> list[str]:
    """What an applying role without SUPERUSER has to be given before the plan, so that check mode tells it, too.

    Of roles that the plan makes nothing is said: what the role will have in them depends on its settings.
    """
    applying, actual = cluster.applying, cluster.roles[cluster.applying]
    if actual.superuser:
        return []
    before, after = _powers(cluster.memberships, cluster.roles), _powers(memberships_after(scope, cluster), cluster.roles)
    changed = {change.object[len("role ") :] for change in plan.changes if change.object.startswith("role ")} - {applying}
    found = []
    if changed and not actual.createrole:
        found.append(f'ALTER ROLE "{applying}" CREATEROLE')
    if scope.major >= 16:
        lacking = changed & set(cluster.roles) - _holds(applying, "admin", before)
        found += [f'GRANT "{name}" TO "{applying}" WITH ADMIN OPTION' for name in sorted(lacking)]
    owners = {change.new_owner for change in plan.changes if change.new_owner} & set(cluster.roles)
    reached = _holds(applying, "set" if scope.major >= 16 else "any", after)
    found += [f'GRANT "{name}" TO "{applying}"' for name in sorted(owners - reached)]
    return (
        [f'"{applying}" may not do all of this; as a superuser, or as the administrator of these roles, first: {"; ".join(found)}']
        if found
        else []
    )


def check_revocations(plan: Plan, existing: int, share: float, allowed: bool) -> None:
    """Refuse a plan that takes more than the share of what roles were granted. Raises BulwarkError.

    What PUBLIC has does not count: it is what PostgreSQL gives by itself, and no policy leaves much of it.
    """
    revoked = sum(change.from_roles for change in plan.changes)
    if allowed or revoked < _FEW or revoked <= share * max(existing, 1):
        return
    raise BulwarkError(
        f"The plan revokes {revoked} of {existing} privileges that roles have, more than max_revoke_share ({share:g}) allows; "
        "nothing was changed. "
        "Read the whole plan with allow_mass_revoke and --check --diff; if it is right, apply it so once. It begins with:\n"
        + "\n".join(f"  {change.description}" for change in [each for each in plan.changes if each.from_roles][:10])
    )


def count_existing(scope: Scope, objects: Iterable[ObjectClass]) -> int:
    """How many privileges roles hold on objects that are not theirs."""
    return sum(
        each.count * sum(1 for entry in each.acl if entry.grantee not in (each.owner, PUBLIC) and entry.grantee not in scope.superusers)
        for each in objects
    )
