# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared and actual default privileges -> ALTER DEFAULT PRIVILEGES statements. Pure: no connection.

Default privileges of a schema are added to the global ones and cannot take anything away from them, and the global ones replace the
built-in
ones (PostgreSQL documentation, ALTER DEFAULT PRIVILEGES). A global list with nobody in it counts as none: PUBLIC then gets what is built
in.
So no list is left empty, and where one would be, its owner comes back into it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

from ..core import statements as st
from ..core.catalog import PUBLIC, AclEntry
from ..core.plan import Change, Effect
from .privileges import BUILT_IN, KIND_OF_TYPE, expand

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .model import Contents
    from .scope import Scope

Key = tuple[str, Optional[str], str]  # owner, schema or None for global, type


def declared_defaults(scope: Scope, database: str) -> dict[Key, dict[str, dict[str, bool]]]:
    """Key -> grantee -> privilege -> with grant option."""
    declared: dict[Key, dict[str, dict[str, bool]]] = {}
    for grant in scope.defaults_in.get(database, ()):
        of_key = declared.setdefault((grant.owner, grant.schema, grant.type), {})
        for grantee in grant.grantees:
            rights = of_key.setdefault(grantee, {})
            for privilege in expand(grant.privileges, KIND_OF_TYPE[grant.type], scope.version):
                rights[privilege] = rights.get(privilege, False) or grant.grant_option
    return declared


def plan_defaults(scope: Scope, contents: Contents) -> list[Change]:
    """The statements that make the default privileges of one database as declared."""
    declared = declared_defaults(scope, contents.database)
    keys = set(declared) | set(contents.default_acls)
    keys |= {(owner, None, kind) for owner, _schema, kind in contents.default_acls if owner in scope.leaving}
    changes: list[Change] = []
    for key in sorted(keys, key=lambda each: (each[0], each[1] or "", each[2])):
        owner, schema, _kind = key
        acl = contents.default_acls.get(key)
        if schema is None and acl:
            changes.extend(_own(contents.database, key, acl, declared))
        changes.extend(_plan_key(scope, contents.database, key, declared.get(key, {}), acl, owner in scope.leaving))
    return changes


def _own(database: str, key: Key, acl: Sequence[AclEntry], declared: Mapping[Key, Mapping[str, Mapping[str, bool]]]) -> Iterator[Change]:
    """What an owner has lost of its own in a stored global list and the policy gives it, in whichever schema: the list is where it goes."""
    owner, _schema, kind = key
    given = (rights.get(owner, {}) for (who, _where, what), rights in declared.items() if (who, what) == (owner, kind))
    wanted = {privilege for each in given for privilege in each}
    lacking = wanted - {entry.privilege for entry in acl if entry.grantee == owner}
    if lacking:
        yield _change(database, key, Effect.GRANT, sorted(lacking), False, [owner])


def _actual(acl: Sequence[AclEntry] | None, key: Key) -> dict[str, dict[str, bool]]:
    owner, schema, kind = key
    rights: dict[str, dict[str, bool]] = {}
    if not acl:
        if schema is None and kind in BUILT_IN:
            rights[PUBLIC] = dict.fromkeys(BUILT_IN[kind], False)
        return rights
    for entry in acl:
        if entry.grantee != owner:
            rights.setdefault(entry.grantee, {})[entry.privilege] = entry.grantable
    return rights


def _plan_key(
    scope: Scope,
    database: str,
    key: Key,
    declared: Mapping[str, Mapping[str, bool]],
    acl: Sequence[AclEntry] | None,
    owner_goes: bool,
) -> list[Change]:
    owner, schema, kind = key
    actual = _actual(acl, key)
    kept: dict[str, set[str]] = {}
    built_in = BUILT_IN.get(kind, frozenset()) if schema is None else frozenset()
    changes: list[Change] = []
    grouped: dict[tuple[Effect, tuple[str, ...], bool], list[str]] = {}
    for grantee in sorted(set(declared) | set(actual)):
        wanted, given = declared.get(grantee, {}), actual.get(grantee, {})
        if grantee == PUBLIC and PUBLIC not in declared:
            # Nobody has spoken of PUBLIC: what PostgreSQL gives by itself may stay, and need not come back unless the owner is to go.
            wanted = {privilege: False for privilege in built_in if owner_goes or privilege in given}
        may_revoke = _may_revoke(scope, database, key, grantee)
        extra = {privilege for privilege in given if privilege not in wanted} if may_revoke else set()
        options = {privilege for privilege, option in given.items() if option and wanted.get(privilege) is False} if may_revoke else set()
        if set(given) - extra:
            kept[grantee] = set(given) - extra
        missing: dict[bool, set[str]] = {}
        for privilege, option in wanted.items():
            if grantee != owner and (privilege not in given or (option and not given[privilege])):
                missing.setdefault(option, set()).add(privilege)
        for effect, privileges, option in (
            (Effect.REVOKE, extra, False),
            (Effect.REVOKE_OPTION, options, False),
            (Effect.GRANT, missing.get(False, set()), False),
            (Effect.GRANT, missing.get(True, set()), True),
        ):
            if privileges:
                grouped.setdefault((effect, tuple(sorted(privileges)), option), []).append(grantee)
    if owner_goes and schema is None and PUBLIC not in actual and built_in:
        grouped.setdefault((Effect.GRANT, tuple(sorted(built_in)), False), []).append(PUBLIC)
    for (effect, privileges_all, option), grantees in grouped.items():
        changes.append(_change(database, key, effect, privileges_all, option, grantees))
    changes.sort(key=lambda change: change.effect is Effect.GRANT)
    if schema is not None or acl is None:
        return changes
    first = _first(scope, key, acl, kept, bool(changes), owner_goes)
    return [*(_change(database, key, Effect.GRANT, words, False, [name]) for name, words in first), *changes]


def _first(
    scope: Scope,
    key: Key,
    acl: Sequence[AclEntry],
    kept: Mapping[str, set[str]],
    planned: bool,
    owner_goes: bool,
) -> list[tuple[str, list[str]]]:
    """Who has to come into a stored global list before the planned statements, and with what, so that the list counts."""
    owner, _schema, kind = key
    own = {entry.privilege for entry in acl if entry.grantee == owner}
    lacking = expand(("ALL",), KIND_OF_TYPE[kind], scope.version) - own
    # The first grant makes an empty list count: what was built in until then has to be in it, or it would be lost.
    would_be_empty = not (own or kept) if acl else planned
    # PostgreSQL deletes a list that is as built in, and only then can its owner be dropped.
    if not lacking or not (would_be_empty or owner_goes):
        return []
    return [(owner, sorted(lacking)), *((name, sorted(words)) for name, words in kept.items() if not acl)]


def _may_revoke(scope: Scope, database: str, key: Key, grantee: str) -> bool:
    owner, schema, _kind = key
    if {grantee, owner} & scope.leaving:
        return True
    if scope.mode == "additive":
        return False
    if grantee in scope.managed or owner in scope.managed:
        return True
    if scope.is_protected(grantee) or scope.is_protected(owner) or grantee in scope.superusers:
        return False
    return scope.mode == "authoritative" or (schema is not None and (database, schema) in scope.schemas)


def _change(database: str, key: Key, effect: Effect, privileges: Sequence[str], option: bool, grantees: Sequence[str]) -> Change:
    owner, schema, kind = key
    sign = "+" if effect is Effect.GRANT else "-"
    place = f"schema {schema}" if schema is not None else "any schema"
    described = f"default privileges of {owner} on {kind.replace('_', ' ')} in {place}"
    suffix = " GRANT OPTION" if effect is Effect.REVOKE_OPTION else " WITH GRANT OPTION" if option else ""
    return Change(
        object=described,
        description=f"{', '.join(grantees)}: {described}  " + " ".join(sign + privilege + suffix for privilege in privileges),
        statement=st.compose(
            "ALTER DEFAULT PRIVILEGES FOR ROLE {}{} {} {} ON {} {} {}{}",
            st.identifier(owner),
            st.compose(" IN SCHEMA {}", st.identifier(schema)) if schema is not None else st.keywords(""),
            st.keywords(effect.value),
            st.keywords(", ".join(privileges)),
            st.keywords(kind.upper().replace("_", " ")),
            st.keywords("TO" if effect is Effect.GRANT else "FROM"),
            st.listed([st.role(grantee) for grantee in grantees]),
            st.keywords(" WITH GRANT OPTION" if option else ""),
        ),
        database=database,
        effect=effect,
        privileges=len(privileges) * len(grantees),
    )
