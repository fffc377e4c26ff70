# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared and actual roles, passwords, settings and memberships -> CREATE, ALTER and DROP ROLE, GRANT and REVOKE. Pure: no connection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core import scram
from ..core import statements as st
from ..core.catalog import reachable
from ..core.plan import Change, Effect
from .model import Membership, Role
from .moments import timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .model import Cluster
    from .scope import Scope

_FLAGS: Sequence[tuple[str, str]] = (
    ("superuser", "SUPERUSER"),
    ("login", "LOGIN"),
    ("createdb", "CREATEDB"),
    ("createrole", "CREATEROLE"),
    ("inherit", "INHERIT"),
    ("replication", "REPLICATION"),
    ("bypassrls", "BYPASSRLS"),
)
_BLANK = Role(
    "", False, False, False, False, True, False, False, -1, "infinity", None, password=""
)  # what CREATE ROLE without options makes


def plan_roles(scope: Scope, cluster: Cluster, iterations: int | None) -> list[Change]:
    """Roles with their attributes, passwords, comments and server-wide settings.

    iterations: of new SCRAM verifiers, None for the server's own.
    """
    changes: list[Change] = []
    for role in scope.policy.roles:
        actual = cluster.roles.get(role.name)
        changes.extend(_attributes(role, actual))
        if role.name != cluster.applying:
            changes.extend(_password(role, actual, cluster, iterations))
        if role.comment is not None and role.comment != (actual.comment or "" if actual else ""):
            changes.append(
                Change(
                    f"role {role.name}",
                    f"role {role.name}: comment",
                    st.compose("COMMENT ON ROLE {} IS {}", st.identifier(role.name), st.literal(role.comment or None)),
                )
            )
    return changes


def plan_own_password(scope: Scope, cluster: Cluster, iterations: int | None) -> list[Change]:
    """The password of the role that applies the plan.

    It comes after everything else, because the run logs in with the old one until then.
    """
    role = scope.declared.get(cluster.applying)
    return _password(role, cluster.roles.get(cluster.applying), cluster, iterations) if role else []


def _attributes(role: Role, actual: Role | None) -> list[Change]:
    before = actual or _BLANK
    words: list[str] = []
    options: list[Any] = []
    for attribute, word in _FLAGS:
        wanted = getattr(role, attribute)
        if wanted is not None and wanted != getattr(before, attribute):
            words.append(word if wanted else "NO" + word)
            options.append(st.keywords(words[-1]))
    if role.connection_limit is not None and role.connection_limit != before.connection_limit:
        words.append(f"CONNECTION LIMIT {role.connection_limit}")
        options.append(st.compose("CONNECTION LIMIT {}", st.literal(role.connection_limit)))
    if role.valid_until is not None and role.valid_until != before.valid_until:
        until = timestamp(role.valid_until)
        words.append(f"VALID UNTIL {until}")
        options.append(st.compose("VALID UNTIL {}", st.literal(until)))
    if actual is not None and not options:
        return []
    listed = st.compose("{}", _spaced(options))
    effect = Effect.ALTER if actual else Effect.CREATE
    text = " ".join(words) if actual else f"created{' ' if words else ''}{' '.join(words)}"
    return [
        Change(
            f"role {role.name}",
            f"role {role.name}: {text}",
            st.compose("{} ROLE {}{}", st.keywords(effect.value), st.identifier(role.name), listed),
            effect=effect,
        )
    ]


def _spaced(options: Sequence[Any]) -> Any:
    text = st.keywords("")
    for option in options:
        text = st.compose("{} {}", text, option)
    return text


def _password(role: Role, actual: Role | None, cluster: Cluster, iterations: int | None) -> list[Change]:
    stored = actual.password if actual else ""
    described = f"role {role.name}"
    if role.has_password is False and stored:
        return [Change(described, f"{described}: password removed", st.compose("ALTER ROLE {} PASSWORD NULL", st.identifier(role.name)))]
    if not role.password or stored is None:
        return []  # nothing declared, or the stored verifier may not be read by this role
    if stored and scram.kind(stored) == "scram" and scram.matches(role.password, stored, iterations):
        return []
    given = role.password if scram.is_verifier(role.password) else scram.verifier(role.password, iterations or cluster.scram_iterations)
    before = scram.kind(stored)
    text = "password set" if before == "none" else f"password replaced (was {before})" if before != "scram" else "password changed"
    return [
        Change(
            described,
            f"{described}: {text}",
            st.SecretStatement("ALTER ROLE {role} PASSWORD {secret}", st.Secret(given), role=st.identifier(role.name)),
        )
    ]


def plan_settings(scope: Scope, cluster: Cluster, database: str | None, named: Sequence[str]) -> list[Change]:
    """Per-role settings.

    Server-wide ones (database None, and those for databases that the policy does not name), or those for one database.
    """
    changes: list[Change] = []
    for role in scope.policy.roles:
        actual_role = cluster.roles.get(role.name)
        actual = {(place, name.lower()): value for (place, name), value in (actual_role.settings if actual_role else {}).items()}
        wanted = {(place, name.lower()): value for (place, name), value in role.settings.items()}
        for key in sorted(set(actual) | set(wanted), key=lambda each: (each[0] or "", each[1])):
            place, name = key
            if (place if place in named else None) != database:
                continue
            if key in wanted and _comparable(wanted[key]) != _comparable(actual.get(key)):
                changes.append(_setting(role.name, place, name, wanted[key], database))
            elif key not in wanted and scope.mode != "additive":
                changes.append(_setting(role.name, place, name, None, database))
    return changes


def _comparable(value: object) -> object:
    return ("",) if value == () else value


def _setting(role: str, place: str | None, name: str, value: object, database: str | None) -> Change:
    target = st.compose(" IN DATABASE {}", st.identifier(place)) if place is not None else st.keywords("")
    parts = (st.identifier(role), target, st.identifier(*name.split(".")))
    where = f" in database {place}" if place is not None else ""
    if value is None:
        reset = st.compose("ALTER ROLE {}{} RESET {}", *parts)
        return Change(f"role {role}", f"role {role}: setting {name}{where} reset", reset, database, Effect.RESET)
    elements = [str(element) for element in value] or [""] if isinstance(value, tuple) else [str(value)]
    return Change(
        f"role {role}",
        f"role {role}: setting {name}{where} = {', '.join(elements)}",
        st.compose("ALTER ROLE {}{} SET {} TO {}", *parts, st.listed([st.literal(element) for element in elements])),
        database,
    )


def plan_memberships(scope: Scope, cluster: Cluster) -> list[Change]:
    """Memberships of the declared roles: superfluous ones go first, so that no cycle and no dependency is in the way."""
    revocations, declared = _membership_decisions(scope, cluster)
    grants = [change for wanted, keep in declared for change in _membership_grant(scope, wanted, keep, cluster)]
    return [_membership_revocation(scope, entry) for entry in _leaves_first(revocations)] + grants


def memberships_after(scope: Scope, cluster: Cluster) -> list[Membership]:
    """The memberships of the server after the plan, without those of roles that are dropped."""
    revocations, declared = _membership_decisions(scope, cluster)
    absent = {role.name for role in scope.policy.absent_roles}
    gone = {*revocations, *(keep for _wanted, keep in declared if keep)}
    left = [entry for entry in cluster.memberships if entry not in gone]
    for wanted, keep in declared:
        kept = keep if keep and scope.mode == "additive" else None
        left.append(
            replace(
                wanted,
                admin=wanted.admin or bool(kept and kept.admin),
                inherit=(scope.inherits(wanted, cluster.roles) or bool(kept and kept.inherit)) if scope.major >= 16 else None,
                set=(wanted.set is not False or bool(kept and kept.set)) if scope.major >= 16 else None,
            )
        )
    return [entry for entry in left if not absent & {entry.role, entry.member}]


def _membership_decisions(scope: Scope, cluster: Cluster) -> tuple[list[Membership], list[tuple[Membership, Membership | None]]]:
    """What is revoked, and each declared membership with the existing one that it keeps."""
    wanted = {(entry.member, entry.role): entry for role in scope.policy.roles for entry in role.member_of}
    actual: dict[tuple[str, str], list[Membership]] = {}
    for entry in cluster.memberships:
        actual.setdefault((entry.member, entry.role), []).append(entry)
    revocations: list[Membership] = []
    declared: list[tuple[Membership, Membership | None]] = []
    passed_on = _passed_on(scope, cluster)
    for pair in sorted(set(actual) | set(wanted)):
        entries = [entry for entry in actual.get(pair, []) if entry not in passed_on]
        revocations.extend(entry for entry in actual.get(pair, []) if entry in passed_on)
        if pair in wanted:
            keep = _kept(wanted[pair], entries, cluster)
            if scope.mode != "additive":
                revocations.extend(entry for entry in entries if entry is not keep and not _is_makers(entry, cluster))
            declared.append((wanted[pair], keep))
        else:
            revocations.extend(entry for entry in entries if scope.may_revoke_membership(entry, cluster) and not _is_makers(entry, cluster))
    return revocations, declared


def _passed_on(scope: Scope, cluster: Cluster) -> set[Membership]:
    """What roles that are to go have granted, and what was granted by that: PostgreSQL (16+) drops no grantor."""
    absent = {role.name for role in scope.policy.absent_roles}
    found: set[Membership] = set()
    while True:
        left = [entry for entry in cluster.memberships if entry not in found]
        may_grant = {(entry.member, entry.role) for entry in left if entry.admin}
        lost = {(entry.member, entry.role) for entry in found if entry.admin} - may_grant
        more = {entry for entry in left if entry.grantor in absent or (entry.grantor, entry.role) in lost}
        if not more:
            return found
        found |= more


def _is_creators(entry: Membership, cluster: Cluster) -> bool:
    """The ADMIN membership that PostgreSQL 16+ gives a CREATEROLE role in what it creates; without it the role could manage nothing."""
    if entry.grantor != cluster.bootstrap or not entry.admin:
        return False
    member = cluster.roles.get(entry.member)
    bare = entry.inherit is False and entry.set is False
    return entry.member == cluster.applying or (bare and member is not None and bool(member.createrole))


def _is_makers(entry: Membership, cluster: Cluster) -> bool:
    """Also what the applying role granted itself in what it made (createrole_self_grant), and would again."""
    own = entry.member == cluster.applying == entry.grantor and not cluster.roles[cluster.applying].superuser
    return own or _is_creators(entry, cluster)


def _kept(wanted: Membership, entries: Sequence[Membership], cluster: Cluster) -> Membership | None:
    candidates = [entry for entry in entries if wanted.grantor in (None, entry.grantor) or entry.grantor is None]
    if not cluster.roles[cluster.applying].superuser:
        # What PostgreSQL gave a role in what it made is not its own to change: it grants itself another one.
        candidates = [entry for entry in candidates if not _is_creators(entry, cluster)]
    return min(candidates, key=lambda entry: (entry.grantor != cluster.bootstrap, entry.grantor or ""), default=None)


def _membership_grant(scope: Scope, wanted: Membership, keep: Membership | None, cluster: Cluster) -> list[Change]:
    if scope.major >= 16:
        options = {"ADMIN": wanted.admin, "INHERIT": scope.inherits(wanted, cluster.roles), "SET": wanted.set is not False}
        before = {"ADMIN": keep.admin, "INHERIT": keep.inherit, "SET": keep.set} if keep else None
        if scope.mode == "additive" and before:  # adding never takes away
            options = {name: value or bool(before[name]) for name, value in options.items()}
        if options == before:
            return []
        listed = ", ".join(f"{name} {'TRUE' if value else 'FALSE'}" for name, value in options.items())
        return [
            _membership_change(
                wanted, Effect.GRANT, "", f" WITH {listed}", wanted.grantor or (keep.grantor if keep else None), f"+MEMBER ({listed})"
            )
        ]
    if keep is None or (wanted.admin and not keep.admin):
        ending = " WITH ADMIN OPTION" if wanted.admin else ""
        return [_membership_change(wanted, Effect.GRANT, "", ending, None, f"+MEMBER{ending}")]
    if keep.admin and not wanted.admin and scope.mode != "additive":
        return [_membership_change(wanted, Effect.REVOKE, "ADMIN OPTION FOR ", "", None, "-ADMIN OPTION")]
    return []


def _membership_revocation(scope: Scope, entry: Membership) -> Change:
    return _membership_change(entry, Effect.REVOKE, "", "", entry.grantor if scope.major >= 16 else None, "-MEMBER")


def _membership_change(entry: Membership, effect: Effect, prefix: str, ending: str, grantor: str | None, words: str) -> Change:
    by = st.compose(" GRANTED BY {}", st.identifier(grantor)) if grantor else st.keywords("")
    origin = f" (granted by {grantor})" if grantor and effect is Effect.REVOKE else ""
    return Change(
        object=f"role {entry.role}",
        description=f"{entry.member}: role {entry.role}  {words}{origin}",
        statement=st.compose(
            "{} {}{} {} {}{}{}",
            st.keywords(effect.value),
            st.keywords(prefix),
            st.identifier(entry.role),
            st.keywords("TO" if effect is Effect.GRANT else "FROM"),
            st.identifier(entry.member),
            st.keywords(ending),
            by,
        ),
        effect=effect,
        privileges=1,
    )


def _leaves_first(entries: Sequence[Membership]) -> list[Membership]:
    """What a member has granted goes before the member itself does (PostgreSQL 16+ keeps grantors)."""
    left = sorted(entries, key=lambda entry: (entry.role, entry.member, entry.grantor or ""))
    ordered: list[Membership] = []
    while left:
        granting = {(entry.role, entry.grantor) for entry in left}
        ready = [entry for entry in left if (entry.role, entry.member) not in granting] or left
        ordered.extend(ready)
        left = [entry for entry in left if entry not in ready]
    return ordered


def plan_removals(scope: Scope, cluster: Cluster) -> list[Change]:
    """The last step: the roles that are to be absent. PostgreSQL refuses to drop a role on which anything depends."""
    return [
        Change(f"role {role.name}", f"role {role.name}: dropped", st.compose("DROP ROLE {}", st.identifier(role.name)), effect=Effect.DROP)
        for role in scope.policy.absent_roles
        if role.name in cluster.roles
    ]


def password_notes(scope: Scope, cluster: Cluster) -> list[str]:
    """What a person should know of the passwords that this run leaves as they are."""
    notes: list[str] = []
    for role in scope.policy.roles:
        actual = cluster.roles.get(role.name)
        if role.password and actual is not None and actual.password is None:
            notes.append(
                f"the stored verifier of role {role.name} may not be read by {cluster.applying}, so its password was left as it is"
            )
        elif role.has_password is False and actual is not None and actual.password is None:
            notes.append(
                f"whether role {role.name} has a password may not be read by {cluster.applying}, so that none was removed; as one who may:"
                f" ALTER ROLE {role.name} PASSWORD NULL"
            )
        elif not role.password and role.login and role.has_password is None and actual is not None and actual.password is not None:
            found = scram.kind(actual.password)
            if found == "md5":
                notes.append(f"role {role.name} has an md5 password; give it one in the policy, and it becomes SCRAM-SHA-256")
    return notes


def membership_notes(scope: Scope, cluster: Cluster) -> list[str]:
    """Members of declared roles that stay without being declared.

    Superusers, who have every right anyway, and those who have made the role.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for entry in cluster.memberships if scope.mode != "additive" else ():
        if entry.role not in scope.declared or entry.member in scope.managed or entry.member in (cluster.applying, cluster.bootstrap):
            continue
        if entry.member in scope.superusers:
            found.setdefault(("superuser ", entry.member), set()).add(entry.role)
        elif _is_makers(entry, cluster):
            found.setdefault(("", entry.member), set()).add(entry.role)
    return [
        f"{kind}{member} is a member of {', '.join(sorted(roles))}, which the policy does not say, and was left so: "
        + ("a superuser has every right without it" if kind else "it has made the role and may administer it")
        for (kind, member), roles in sorted(found.items())
    ]


def creator_notes(scope: Scope, cluster: Cluster) -> list[str]:
    """Login roles that may make objects in a schema by a membership, and for whose objects the policy says nothing."""
    creators: dict[tuple[str, str], set[str]] = {}
    for default in scope.policy.default_grants:
        if default.schema is not None:
            creators.setdefault((default.database, default.schema), set()).add(default.owner)
    edges: dict[str, set[str]] = {}
    for entry in memberships_after(scope, cluster):
        inherits = entry.inherit if entry.inherit is not None else scope.inherits(entry, cluster.roles)
        if inherits:
            edges.setdefault(entry.member, set()).add(entry.role)
    login = {name for name, role in cluster.roles.items() if role.login and name not in scope.declared}
    login |= {role.name for role in scope.policy.roles if role.login}
    found: dict[tuple[str, str], list[str]] = {}
    for (database, schema), owners in sorted(creators.items()):
        for role in sorted(login - owners - scope.superusers):
            through = sorted(reachable(role, edges) & owners)
            if through:
                found.setdefault((role, through[0]), []).append(f"{database}.{schema}")
    return [
        f"{role} may make objects in {', '.join(places)} as a member of {through}, and they would be its own: default privileges are for"
        f" what {through} makes. Have it SET ROLE {through} first, or give it the same profile"
        for (role, through), places in sorted(found.items())
    ]
