# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mistakes in a policy that only the server shows: names that do not exist, and what its version does not know. Pure: no connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.catalog import PUBLIC, reachable
from ..core.errors import Mistake, nearest
from ..core.patterns import like
from .model import FUNCTION, LARGE_OBJECT, PARAMETER, TABLE, TABLESPACE, VIEW, Grant, Membership, Policy
from .privileges import COLUMN, KIND_OF_TYPE, missing_in_version
from .reconcile_grants import counted
from .scope import Scope, normalized_signature

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .model import Cluster, Contents

_SUPPORTED = range(14, 19)


def cluster_mistakes(scope: Scope, cluster: Cluster) -> list[Mistake]:
    """Mistakes that can be seen without looking into any database."""
    policy = scope.policy
    mistakes = list(_unknown_roles(policy, cluster))
    mistakes.extend(_version_mistakes(scope))
    mistakes.extend(_cycles_on_server(scope, cluster))
    for role in policy.roles:
        for membership in role.member_of:
            mistakes.extend(_membership_mistakes(scope, role.inherit, membership))
        for place, name in role.settings:
            if "." not in name and name.lower() not in cluster.parameters:
                key = f"settings.{name}" if place is None else f"database_settings.{place}.{name}"
                mistakes.append(
                    Mistake(f"{role.path}.{key}", f"this server has no setting of that name{nearest(name, cluster.parameters)}")
                )
            if place is not None and place not in cluster.databases and place not in {database.name for database in policy.databases}:
                mistakes.append(_unknown(f"{role.path}.database_settings.{place}", "database", place, cluster.databases))
    spaces = {each.name or "" for each in cluster.objects if each.kind == TABLESPACE}
    for grant in scope.grants.get((None, TABLESPACE, None), ()):
        mistakes.extend(
            _unknown(grant.path, TABLESPACE, name, spaces) for name in grant.names or () if name not in spaces and "*" not in name
        )
    for database in policy.databases:
        facts = cluster.databases.get(database.name)
        if facts is not None and not facts.connectable:
            mistakes.append(Mistake(database.path, "this database allows no connections (datallowconn), so nothing in it can be managed"))
        if facts is None and database.encoding and not _known_encoding(database.encoding, cluster.encodings):
            mistakes.append(_unknown(f"{database.path}.encoding", "encoding", database.encoding, cluster.encodings))
        if facts is None and database.template and database.template not in cluster.databases:
            mistakes.append(_unknown(f"{database.path}.template", "database", database.template, cluster.databases))
    mistakes.extend(_removal_mistakes(scope, cluster))
    return mistakes


def _unknown(path: str, kind: str, name: str, known: Iterable[str]) -> Mistake:
    return Mistake(path, f'{kind} "{name}" does not exist{nearest(name, known)}')


def _references(policy: Policy) -> Iterator[tuple[str, str]]:
    """Every role that the policy speaks of, with the place."""
    for role in policy.roles:
        for membership in role.member_of:
            yield from _given(membership.path or role.path, membership.role, membership.grantor)
    for absent in policy.absent_roles:
        yield from _given(absent.path, absent.reassign_to)
    for database in policy.databases:
        yield from _given(f"{database.path}.owner", database.owner)
        for schema in database.schemas:
            yield from _given(f"{schema.path}.owner", schema.owner)
            yield from _given(f"{schema.path}.objects_owner", schema.objects_owner)
    for grant in policy.grants:
        yield from _given(grant.path, *(name for name in grant.grantees if name != PUBLIC))
    for default in policy.default_grants:
        yield from _given(default.path, default.owner, *(name for name in default.grantees if name != PUBLIC))


def _given(path: str, *names: str | None) -> Iterator[tuple[str, str]]:
    return ((path, name) for name in names if name is not None)


def _unknown_roles(policy: Policy, cluster: Cluster) -> Iterator[Mistake]:
    absent = {role.name for role in policy.absent_roles}
    known = ({role.name for role in policy.roles} | set(cluster.roles)) - absent
    for path, name in _references(policy):
        if name not in known:
            text = "is declared absent" if name in absent else "is neither in the policy nor on the server"
            yield Mistake(path, f'role "{name}" {text}{nearest(name, known)}')


def _known_encoding(name: str, encodings: Iterable[str]) -> bool:
    """Whether PostgreSQL knows the encoding; it compares letters and digits alone, and knows a few by other names."""
    return _plain_encoding(name) in {"unicode", "latin1", *(_plain_encoding(each) for each in encodings)}


def _plain_encoding(name: str) -> str:
    """The letters and digits of an encoding's name in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())


def _cycles_on_server(scope: Scope, cluster: Cluster) -> Iterator[Mistake]:
    """Declared memberships that form a cycle with those that stay on the server as they are."""
    declared = {role.name: role for role in scope.policy.roles}
    edges: dict[str, set[str]] = {name: {entry.role for entry in role.member_of} for name, role in declared.items()}
    for entry in cluster.memberships:
        if entry.member not in scope.managed or scope.mode == "additive":
            edges.setdefault(entry.member, set()).add(entry.role)
    for role in declared.values():
        for membership in role.member_of:
            if role.name in reachable(membership.role, edges):
                yield Mistake(
                    membership.path,
                    f'"{membership.role}" is itself a member of "{role.name}" on the server, directly or through other roles',
                )


def _version_mistakes(scope: Scope) -> Iterator[Mistake]:
    if scope.major < min(_SUPPORTED):
        yield Mistake("policy", f"PostgreSQL {scope.major} is too old; supported are {min(_SUPPORTED)} to {max(_SUPPORTED)}")
    for grant in scope.policy.grants:
        if grant.kind == PARAMETER and scope.major < 15:
            yield Mistake(grant.path, f"privileges on parameters exist from PostgreSQL 15; this server is {scope.major}")
        kind = COLUMN if grant.columns else grant.kind
        for privilege, since in missing_in_version(grant.privileges, kind, scope.version):
            yield Mistake(grant.path, f"privilege {privilege} exists from PostgreSQL {since}; this server is {scope.major}")
    for default in scope.policy.default_grants:
        if default.type == "large_objects" and scope.major < 18:
            yield Mistake(default.path, f"default privileges on large objects exist from PostgreSQL 18; this server is {scope.major}")
        for privilege, since in missing_in_version(default.privileges, KIND_OF_TYPE[default.type], scope.version):
            yield Mistake(default.path, f"privilege {privilege} exists from PostgreSQL {since}; this server is {scope.major}")


def _membership_mistakes(scope: Scope, inherit: bool | None, membership: Membership) -> Iterator[Mistake]:
    if scope.major >= 16:
        return
    if membership.grantor is not None:
        yield Mistake(membership.path, f"the grantor of a membership is kept from PostgreSQL 16; this server is {scope.major}")
    if membership.set is False:
        yield Mistake(membership.path, f"set: false needs PostgreSQL 16; on {scope.major} every member may SET ROLE")
    if membership.inherit is not None and membership.inherit != (inherit is not False):
        yield Mistake(
            membership.path,
            f"inherit of one membership needs PostgreSQL 16; on {scope.major} the attribute inherit of role "
            f"{membership.member} decides for all",
        )


def _removal_mistakes(scope: Scope, cluster: Cluster) -> Iterator[Mistake]:
    named = {database.name for database in scope.policy.databases}
    paths = {role.name: role for role in scope.policy.absent_roles}
    for holding in cluster.holdings:
        role = paths[holding.role]
        place = f'database "{holding.database}"' if holding.database else "the whole server"
        if holding.what == "owns" and not role.reassign_to:
            yield Mistake(
                role.path, f"still owns {counted(holding.count)} in {place}; name a role in reassign_to (nothing is ever dropped)"
            )
        elif holding.what == "mapping":
            count = f"{holding.count} user mapping{'s' if holding.count != 1 else ''}"
            yield Mistake(role.path, f"has {count} in {place}, which nobody can inherit: drop them first, with DROP USER MAPPING")
        elif holding.what == "policy":
            yield Mistake(role.path, f"is named in {holding.count} row-level security policies in {place}; change them first")
        elif holding.database is not None and holding.database not in named:
            text = "owns" if holding.what == "owns" else "holds privileges on"
            yield Mistake(
                role.path, f"{text} {counted(holding.count)} in {place}; add that database to the policy (an empty entry is enough)"
            )


def contents_mistakes(scope: Scope, contents: Contents) -> list[Mistake]:
    """Names in the grants of one database that nothing there has."""
    known: dict[tuple[str, str], set[str]] = {}
    others: dict[tuple[str, str], set[str]] = {}
    for each in contents.objects:
        if each.kind != FUNCTION and each.column is None:
            others.setdefault((each.kind, each.schema or ""), set()).update(each.names or ())
        if each.name is not None and each.column is None:
            known.setdefault((each.kind, each.schema or ""), set()).add(each.name)
            if each.kind == TABLE and each.relkind in ("v", "m"):
                known.setdefault((VIEW, each.schema or ""), set()).add(each.name)
    mistakes: list[Mistake] = list(_heir_mistakes(scope, contents))
    for grant in scope.grants_in.get(contents.database, ()):
        if grant.names is not None:
            place = (grant.kind, grant.schema or "")
            near = others.get((TABLE if grant.kind == VIEW else grant.kind, grant.schema or ""), set())
            mistakes.extend(_missing_names(grant, known.get(place, set()), near))
            mistakes.extend(_missing_columns(grant, contents.columns))
    return mistakes


def _heir_mistakes(scope: Scope, contents: Contents) -> Iterator[Mistake]:
    """What only a superuser may own, and a role that is to inherit it is none."""
    kinds = ("event trigger ", "subscription ") if scope.major < 16 else ("event trigger ",)
    superusers = scope.superusers | {role.name for role in scope.policy.roles if role.superuser}
    for role in scope.policy.absent_roles:
        theirs = [each for each in contents.owned.get(role.name, ()) if each.startswith(kinds)]
        if theirs and role.reassign_to and role.reassign_to not in superusers:
            place = f'{", ".join(theirs)} in database "{contents.database}"'
            text = f"owns {place}, which only a superuser may own, and {role.reassign_to} is none"
            yield Mistake(f"{role.path}.reassign_to", f"{text}: give it another owner first")


def _missing_names(grant: Grant, known: set[str], others: set[str]) -> Iterator[Mistake]:
    for item in grant.names or ():
        if "*" in item and grant.kind != FUNCTION:
            continue
        if grant.kind == FUNCTION:
            found = (
                normalized_signature(item) in known
                if "(" in item
                else any(like(item, name.rpartition("(")[0]) for name in known) or "*" in item
            )
        else:
            found = item in known
        if not found:
            place = f" in schema {grant.schema}" if grant.schema else ""
            hint = nearest(item, known | others) if grant.kind != LARGE_OBJECT else ""
            yield Mistake(grant.path, f'{grant.kind} "{item}" does not exist{place} of database "{grant.database}"{hint}')


def _missing_columns(grant: Grant, columns: Mapping[tuple[str, str], frozenset[str]]) -> Iterator[Mistake]:
    for item in grant.names or ():
        existing = columns.get((grant.schema or "", item))
        for column in grant.columns if existing is not None else ():
            if existing is not None and column not in existing:
                yield Mistake(grant.path, f'table {grant.schema}.{item} has no column "{column}"{nearest(column, existing)}')
