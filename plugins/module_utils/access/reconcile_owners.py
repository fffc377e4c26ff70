# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared and actual owners -> OWNER TO statements, and what the change of owner does to the ACLs. Pure: no connection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..core import statements as st
from ..core.catalog import AclEntry
from ..core.plan import Change
from .model import DATABASE, FUNCTION, PROCEDURE, SCHEMA, SEQUENCE, TABLE, TABLESPACE, TYPE, ObjectClass
from .reconcile_grants import describe, qualified

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .scope import Scope

_ALTER_RELATION: Mapping[str, str] = {
    "r": "TABLE",
    "p": "TABLE",
    "v": "VIEW",
    "m": "MATERIALIZED VIEW",
    "f": "FOREIGN TABLE",
    "S": "SEQUENCE",
}
_ALTER_OTHER: Mapping[str, str] = {DATABASE: "DATABASE", SCHEMA: "SCHEMA", FUNCTION: "FUNCTION", TYPE: "TYPE", TABLESPACE: "TABLESPACE"}
_LOCKS_OF_RELATION = 8  # a table with its sequence, its TOAST table and their indexes

_WITH_OBJECTS_OWNER = frozenset({TABLE, SEQUENCE, FUNCTION, TYPE})


def declared_owner(scope: Scope, objects: ObjectClass, owners: Mapping[tuple[str, str], str | None]) -> str:
    """The owner that the objects shall have. owners: (kind, name) -> owner of the databases and schemas that the policy names."""
    if not objects.extension:
        schema = scope.schemas.get((objects.database or "", objects.schema or ""))
        if objects.kind in (DATABASE, SCHEMA):
            declared = owners.get((objects.kind, objects.name or ""))
            if declared:
                return declared
        elif objects.kind in _WITH_OBJECTS_OWNER and schema is not None and schema.objects_owner:
            return schema.objects_owner
    return scope.reassigned.get(objects.owner, objects.owner)


def plan_owners(
    scope: Scope, database: str | None, objects: Sequence[ObjectClass], owners: Mapping[tuple[str, str], str | None]
) -> tuple[list[Change], list[ObjectClass], frozenset[str]]:
    """The statements, the objects as they will be afterwards, and the kinds of objects whose names the statements lack."""
    changes: list[Change] = []
    after: list[ObjectClass] = []
    incomplete: set[str] = set()
    for each in objects:
        owner = declared_owner(scope, each, owners)
        if owner == each.owner:
            after.append(each)
            continue
        after.append(replace(each, owner=owner, acl=_with_new_owner(each.acl, each.owner, owner)))
        if each.column is not None or each.linked or each.kind not in (*_ALTER_OTHER, TABLE, SEQUENCE):
            continue  # columns and linked sequences follow their table
        incomplete |= {each.kind} if each.names is None else set()
        changes.extend(_change(database, each, name, owner) for name in each.names or ())

    # A new owner of a function or a table needs CREATE on its schema, which it has as the schema's owner; and whoever owns the database
    # loses with it what the others take.
    def order(change: Change) -> tuple[int, str, str]:
        kind = change.object.partition(" ")[0]
        return {SCHEMA: 0, DATABASE: 2}.get(kind, 1), change.object, change.description

    return sorted(changes, key=order), after, frozenset(incomplete)


def _with_new_owner(acl: Sequence[AclEntry], old: str, new: str) -> tuple[AclEntry, ...]:
    """The ACL as PostgreSQL rewrites it: the old owner becomes the new one, as grantee and as grantor, and doubles merge."""
    merged: dict[tuple[str, str, str], bool] = {}
    for entry in acl:
        grantee, grantor = (new if name == old else name for name in (entry.grantee, entry.grantor))
        key = (grantee, grantor, entry.privilege)
        merged[key] = merged.get(key, False) or entry.grantable
    return tuple(AclEntry(grantee, grantor, privilege, option) for (grantee, grantor, privilege), option in sorted(merged.items()))


def _change(database: str | None, objects: ObjectClass, name: str, owner: str) -> Change:
    kind = PROCEDURE if objects.relkind == PROCEDURE else objects.kind
    described = describe(kind, objects.schema, [name])
    return Change(
        object=described,
        description=f"{described}: owner {objects.owner} -> {owner}",
        statement=st.compose(
            "ALTER {} {} OWNER TO {}",
            st.keywords(kind.upper() if kind == PROCEDURE else _ALTER_OTHER.get(kind) or _ALTER_RELATION[objects.relkind]),
            qualified(kind, objects.schema, name),
            st.identifier(owner),
        ),
        database=database,
        new_owner=owner,
        locks=_LOCKS_OF_RELATION if kind in (TABLE, SEQUENCE) else 1,
    )
