# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the policy decides over, and what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..core.catalog import PUBLIC
from ..core.patterns import like, like_any
from .model import (
    DATABASE,
    FUNCTION,
    LANGUAGE,
    PARAMETER,
    SCHEMA,
    SEQUENCE,
    TABLE,
    TABLESPACE,
    VIEW,
    DefaultGrant,
    Grant,
    ObjectClass,
    Policy,
    Schema,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .model import Cluster, Membership, Role

MODES = ("managed", "additive", "authoritative")

_NOT_BY_SCHEMA = frozenset({DATABASE, LANGUAGE, TABLESPACE, PARAMETER})
_PUBLIC_KINDS = frozenset({SCHEMA, TABLE, SEQUENCE, FUNCTION})

# What users write for the types whose names PostgreSQL prints in full.
_TYPE_ALIASES: Mapping[str, str] = {
    "int": "integer",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "bool": "boolean",
    "varchar": "character varying",
    "char": "character",
    "decimal": "numeric",
    "float4": "real",
    "float8": "double precision",
    "float": "double precision",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "varbit": "bit varying",
}


@dataclass(frozen=True)
class Scope:
    """The policy with what is needed to say whether a right on the server is its business."""

    policy: Policy
    mode: str
    version: int
    managed: frozenset[str]
    superusers: frozenset[str]
    protected: tuple[str, ...]
    kept_schemas: frozenset[str]
    schemas: Mapping[tuple[str, str], Schema]
    grants: Mapping[tuple[str | None, str, str | None], tuple[Grant, ...]]
    reassigned: Mapping[str, str]
    grants_in: Mapping[str | None, Sequence[Grant]]
    defaults_in: Mapping[str, Sequence[DefaultGrant]]

    @property
    def major(self) -> int:
        """The server's major version."""
        return self.version // 10000

    def is_protected(self, role: str) -> bool:
        """Whether the role is never touched, by its name."""
        return role.startswith("pg_") or like_any(self.protected, role)

    @cached_property
    def leaving(self) -> frozenset[str]:
        """The roles that are to be absent. PostgreSQL drops none that has any right, so they lose all, whatever the mode."""
        return frozenset(role.name for role in self.policy.absent_roles)

    @cached_property
    def declared(self) -> Mapping[str, Role]:
        """The declared roles by name."""
        return {role.name: role for role in self.policy.roles}

    def inherits(self, entry: Membership, actual: Mapping[str, Role]) -> bool:
        """Whether a declared membership gives the group's privileges without SET ROLE: as it says, else as the member's own attribute says.

        Where the policy does not say that either, the attribute that the role has counts, which is INHERIT for a new one.
        """
        said = (entry.inherit, *(roles[entry.member].inherit for roles in (self.declared, actual) if entry.member in roles))
        return next((each for each in said if each is not None), True)

    def may_revoke_membership(self, entry: Membership, cluster: Cluster) -> bool:
        """Whether a membership that the policy does not declare is to be taken away."""
        if entry.member in self.leaving:
            return True
        if self.mode == "additive":
            return False
        if entry.member in self.managed:
            return True
        if entry.member in self.superusers or self.is_protected(entry.member):
            return False
        if entry.role in self.declared:
            # Without what it has in them, the applying role could not administer the roles of the policy.
            return entry.member != cluster.applying and not like_any(self.declared[entry.role].keep_members, entry.member)
        return self.mode == "authoritative"

    def may_revoke(self, objects: ObjectClass, grantee: str, privilege: str) -> bool:
        """Whether a right that the policy does not give is to be taken from the grantee."""
        if grantee in self.leaving:
            return grantee != objects.owner
        if self.mode == "additive" or grantee == objects.owner or self._is_kept(objects, grantee):
            return False
        if grantee in self.managed:
            return not objects.extension or self._named(objects)
        if objects.extension or grantee in self.superusers or self.is_protected(grantee):
            return False
        if grantee == PUBLIC:
            return self._may_revoke_from_public(objects, privilege)
        if self.mode == "authoritative":
            return True
        return objects.schema is not None and (objects.database, objects.schema) in self.schemas

    def _is_kept(self, objects: ObjectClass, grantee: str) -> bool:
        """Whether something else decides over the rights in this schema. A role that is to go loses them all the same."""
        named = (objects.database, objects.schema) in self.schemas
        return objects.schema in self.kept_schemas and not named and (grantee in self.declared or grantee not in self.managed)

    def _may_revoke_from_public(self, objects: ObjectClass, privilege: str) -> bool:
        if objects.kind == DATABASE:
            return True
        if objects.kind not in _PUBLIC_KINDS:
            return self._named(objects) and any(PUBLIC in grant.grantees for grant in self.grants_on(objects))
        if self.mode == "authoritative" or (objects.database, objects.schema) in self.schemas:
            return True
        # A schema that the policy does not name keeps PUBLIC's USAGE, but on "public" nobody may plant objects (CVE-2018-1058).
        return objects.kind == SCHEMA and objects.schema == "public" and privilege == "CREATE"

    def _named(self, objects: ObjectClass) -> bool:
        return any(grant.names is not None for grant in self.grants_on(objects))

    def grants_on(self, objects: ObjectClass) -> list[Grant]:
        """The policy's grants that select these objects, column grants included."""
        kinds = (objects.kind, VIEW) if objects.kind == TABLE and objects.relkind in ("v", "m") else (objects.kind,)
        schema = None if objects.kind in _NOT_BY_SCHEMA else objects.schema
        return [grant for kind in kinds for grant in self.grants.get((objects.database, kind, schema), ()) if self._selects(grant, objects)]

    def _selects(self, grant: Grant, objects: ObjectClass) -> bool:
        if objects.kind in (DATABASE, SCHEMA):
            return True
        if grant.names is not None:
            chosen = objects.name is not None and any(self._matches(item, objects) for item in grant.names)
            return chosen and not any(self._matches(item, objects) for item in grant.excluding)
        if objects.extension or self._left_to_parent(objects):
            return False
        return not any(self._matches(item, objects) for item in grant.excluding)

    def _left_to_parent(self, objects: ObjectClass) -> bool:
        schema = self.schemas.get((objects.database or "", objects.schema or ""))
        return objects.partition and (schema is None or schema.partitions == "parent")

    def _matches(self, item: str, objects: ObjectClass) -> bool:
        if objects.name is None:
            return False
        if objects.kind == FUNCTION:
            bare = objects.name.rpartition("(")[0]
            if "(" in item:
                return normalized_signature(item) == objects.name
            return like(item, bare)
        if "*" in item and (objects.extension or self._left_to_parent(objects)):
            return False
        return like(item, objects.name)


def normalized_signature(signature: str) -> str:
    """'f(int,text)' as PostgreSQL prints it: 'f(integer, text)'."""
    name, _parenthesis, arguments = signature.rpartition("(")
    name = name.strip()
    if name.startswith('"') and name.endswith('"') and len(name) > 1:
        name = name[1:-1].replace('""', '"')
    full = []
    for each in (part.strip() for part in arguments.strip().rstrip(")").split(",")):
        base, brackets = (each[: each.index("[")], each[each.index("[") :]) if "[" in each else (each, "")
        if base:
            full.append(_TYPE_ALIASES.get(base.lower(), base) + brackets)
    return f"{name}({', '.join(full)})"


def scope_of(policy: Policy, mode: str, cluster: Cluster, protected: tuple[str, ...], kept_schemas: tuple[str, ...] = ()) -> Scope:
    """The scope of a policy on a server. A superuser whom the policy makes an ordinary role is in it."""
    declared = {role.name: role for role in policy.roles}
    superusers = {
        name for name, role in cluster.roles.items() if role.superuser and not (name in declared and declared[name].superuser is False)
    }
    grants: dict[tuple[str | None, str, str | None], list[Grant]] = {}
    grants_in: dict[str | None, list[Grant]] = {}
    for grant in policy.grants:
        grants.setdefault((grant.database, grant.kind, grant.schema), []).append(grant)
        grants_in.setdefault(grant.database, []).append(grant)
    defaults_in: dict[str, list[DefaultGrant]] = {}
    for default in policy.default_grants:
        defaults_in.setdefault(default.database, []).append(default)
    return Scope(
        policy=policy,
        mode=mode,
        version=cluster.version,
        managed=frozenset(declared) | {role.name for role in policy.absent_roles},
        superusers=frozenset(superusers),
        protected=protected,
        kept_schemas=frozenset(kept_schemas),
        schemas={(database.name, schema.name): schema for database in policy.databases for schema in database.schemas},
        grants={key: tuple(value) for key, value in grants.items()},
        grants_in=grants_in,
        defaults_in=defaults_in,
        reassigned={role.name: role.reassign_to for role in policy.absent_roles if role.reassign_to},
    )
