# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actual state -> the document that declares it, so that a team can begin with what it has. Pure: no connection.

What the document cannot say is left out: passwords and rights on extension members. What a grantee passed on comes from the owner in it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC
from .contents import BULK_KINDS
from .model import (
    DATABASE,
    FOREIGN_DATA_WRAPPER,
    FOREIGN_SERVER,
    FUNCTION,
    LANGUAGE,
    LARGE_OBJECT,
    PARAMETER,
    SCHEMA,
    SEQUENCE,
    TABLE,
    TABLESPACE,
    TYPE,
    Cluster,
    Contents,
    DatabaseFacts,
    Details,
    Membership,
    ObjectClass,
    Role,
)
from .moments import timestamp
from .privileges import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Roles of Amazon RDS and Aurora, Google Cloud SQL and AlloyDB, and Azure Database.
_PROVIDERS = re.compile(r"rds|cloudsql|alloydb|azure")

_KEYS: Mapping[str, str] = {
    TABLE: "tables",
    SEQUENCE: "sequences",
    FUNCTION: "functions",
    TYPE: "types",
    LANGUAGE: "languages",
    FOREIGN_DATA_WRAPPER: "foreign_data_wrappers",
    FOREIGN_SERVER: "foreign_servers",
    LARGE_OBJECT: "large_objects",
    TABLESPACE: "tablespaces",
    PARAMETER: "parameters",
}
_FLAGS = ("superuser", "createdb", "createrole", "replication", "bypassrls")
_IN_SCHEMAS = (TABLE, SEQUENCE, FUNCTION, TYPE)

Right = tuple[str, tuple[str, ...], bool]  # grantee, privileges, with grant option


def everything(schemas: Iterable[str]) -> Details:
    """What the catalog has to read so that each object comes with its name."""
    patterns = {(kind, schema, "%") for schema in schemas for kind in _IN_SCHEMAS}
    return Details(frozenset(patterns), with_names=BULK_KINDS)


def document(cluster: Cluster, contents: Sequence[Contents]) -> dict[str, Any]:
    """The whole document: roles, cluster-wide grants and the databases that were read."""
    roles = {name: _role(role, cluster) for name, role in sorted(cluster.roles.items()) if _is_users(name, cluster)}
    shared = _grants(cluster.objects, lambda _kind: frozenset())
    databases = {each.database: _database(cluster, cluster.databases[each.database], each) for each in contents}
    found: dict[str, Any] = {"roles": roles, "databases": databases}
    if shared:
        found["grants"] = shared
    return found


def _is_users(name: str, cluster: Cluster) -> bool:
    if name.startswith("pg_") or name == cluster.bootstrap:
        return False
    # Who is no superuser may change none, and what a provider keeps for itself is not the policy's.
    whose = cluster.roles[cluster.applying].superuser or not (cluster.roles[name].superuser or _PROVIDERS.match(name))
    return bool(whose)


def passed_on(cluster: Cluster, contents: Sequence[Contents]) -> list[str]:
    """The rights that somebody else than the owner gave, and that the document gives by the owner."""
    objects = [*cluster.objects, *(each for found in contents for each in found.objects)]
    return sorted(
        f"{entry.grantee} has {entry.privilege} on {each.kind} {'.'.join(filter(None, (each.database, each.schema, each.name)))} from"
        f" {entry.grantor}; by the document it comes from the owner"
        for each in objects
        for entry in each.acl
        if entry.grantor != each.owner and not each.extension and entry.grantee != each.owner
    )


def _role(role: Role, cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = {"login": bool(role.login)}
    found.update({flag: True for flag in _FLAGS if getattr(role, flag)})
    if role.inherit is False:
        found["inherit"] = False
    if role.connection_limit not in (None, -1):
        found["connection_limit"] = role.connection_limit
    if role.valid_until not in (None, "infinity"):
        found["valid_until"] = timestamp(str(role.valid_until))
    if role.comment:
        found["comment"] = role.comment
    for (place, name), value in sorted(role.settings.items(), key=lambda item: (item[0][0] or "", item[0][1])):
        plain = list(value) if isinstance(value, tuple) else value
        target = found.setdefault("settings", {}) if place is None else found.setdefault("database_settings", {}).setdefault(place, {})
        target[name] = plain
    memberships = {entry.role: entry for entry in reversed(cluster.memberships) if entry.member == role.name}
    if memberships:
        found["member_of"] = [_membership(memberships[name], role, cluster) for name in sorted(memberships)]
    return found


def _membership(entry: Membership, role: Role, cluster: Cluster) -> Any:
    options: dict[str, Any] = {"role": entry.role}
    if entry.admin:
        options["admin"] = True
    if entry.inherit is not None and entry.inherit != (role.inherit is not False):
        options["inherit"] = entry.inherit
    if entry.set is False:
        options["set"] = False
    if entry.grantor not in (None, cluster.bootstrap):
        options["grantor"] = entry.grantor
    return entry.role if len(options) == 1 else options


def _database(cluster: Cluster, facts: DatabaseFacts, contents: Contents) -> dict[str, Any]:
    found: dict[str, Any] = {"owner": facts.owner}
    if facts.comment:
        found["comment"] = facts.comment
    itself = ObjectClass(DATABASE, facts.owner, facts.acl, facts.name, None, facts.name, (facts.name,))
    outside = [each for each in contents.objects if each.kind not in (SCHEMA, *_IN_SCHEMAS)]
    grants = [_entry(right, {}) for right in _rights(itself)] + _grants(outside, lambda _kind: frozenset())
    if grants:
        found["grants"] = grants
    schemas = {each.name or "": each for each in contents.objects if each.kind == SCHEMA and not each.extension}
    found["schemas"] = {name: _schema(contents, schema) for name, schema in sorted(schemas.items())}
    owners = {owner for schema in found["schemas"].values() for owner in (schema["owner"], schema.get("objects_owner")) if owner}
    defaults = _defaults(contents, None, {owner for owner in owners if owner in cluster.roles and _is_users(owner, cluster)})
    if defaults:
        found["default_privileges"] = defaults
    return found


def _schema(contents: Contents, schema: ObjectClass) -> dict[str, Any]:
    name = schema.name or ""
    found: dict[str, Any] = {"owner": schema.owner}
    comment = contents.schemas[name][1]
    if comment:
        found["comment"] = comment
    objects = [each for each in contents.objects if each.schema == name and each.kind in _IN_SCHEMAS and not each.extension]
    owners = {each.owner for each in objects}
    if len(owners) == 1:
        found["objects_owner"] = owners.pop()

    def all_of(kind: str) -> frozenset[str]:
        return frozenset(each.name or "" for each in objects if each.kind == kind and each.column is None and not each.partition)

    grants = [_entry(right, {}) for right in _rights(schema)] + _grants(objects, all_of)
    if grants:
        found["grants"] = grants
    defaults = _defaults(contents, name, set())
    if defaults:
        found["default_privileges"] = defaults
    return found


def _rights(objects: ObjectClass) -> list[Right]:
    """The rights of others than the owner, grouped by grantee."""
    grouped: dict[tuple[str, bool], set[str]] = {}
    for entry in objects.acl:
        built_in = objects.kind in (TYPE, LANGUAGE) and entry.grantee == PUBLIC
        if entry.grantee != objects.owner and not built_in:
            grouped.setdefault((entry.grantee, entry.grantable), set()).add(entry.privilege)
    return sorted((grantee, tuple(sorted(privileges)), option) for (grantee, option), privileges in grouped.items())


def _grants(objects: Sequence[ObjectClass], all_of: Any) -> list[dict[str, Any]]:
    """Grant entries: objects with the same right share one, and say 'all' where they are all of their schema."""
    by_right: dict[tuple[str, Right], set[str]] = {}
    columns: dict[tuple[str, Right], set[str]] = {}
    on_tables = {
        (each.name, grantee, privilege)
        for each in objects
        if each.kind == TABLE and each.column is None
        for grantee, privileges, _option in _rights(each)
        for privilege in privileges
    }
    for each in objects:
        for right in _rights(each):
            if each.column is not None:
                grantee, privileges, option = right
                # Beside the same right on the whole table a column right says nothing.
                left = tuple(privilege for privilege in privileges if (each.name, grantee, privilege) not in on_tables)
                if left:
                    columns.setdefault((each.name or "", (grantee, left, option)), set()).add(each.column)
            else:
                by_right.setdefault((each.kind, right), set()).update((each.name,) if each.name is not None else each.names or ())
    entries: list[dict[str, Any]] = []
    for (kind, right), names in sorted(by_right.items()):
        whole = len(names) > 1 and names == all_of(kind)
        entries.append(_entry(right, {_KEYS[kind]: "all" if whole else sorted(names)}))
    for (table, right), of_table in sorted(columns.items()):
        entries.append(_entry(right, {"tables": [table], "columns": sorted(of_table)}))
    return entries


def _entry(right: Right, target: Mapping[str, Any]) -> dict[str, Any]:
    grantee, privileges, option = right
    entry: dict[str, Any] = {"to": grantee, "privileges": list(privileges), **target}
    if option:
        entry["grant_option"] = True
    return entry


def _defaults(contents: Contents, schema: str | None, owners: set[str]) -> list[dict[str, Any]]:
    """Default privileges of one schema, or the global ones. owners: whose PUBLIC rights on functions must be said to stay as they are."""
    entries: list[dict[str, Any]] = []
    stored = {key: acl for key, acl in contents.default_acls.items() if acl}  # PostgreSQL counts a list with nobody in it as none
    for (owner, of_schema, kind), acl in sorted(stored.items(), key=lambda item: (item[0][0], item[0][1] or "", item[0][2])):
        if of_schema != schema:
            continue
        rights: dict[tuple[str, bool], set[str]] = {}
        for entry in acl:
            if entry.grantee != owner:
                rights.setdefault((entry.grantee, entry.grantable), set()).add(entry.privilege)
        if schema is None and kind in BUILT_IN:
            rights.setdefault((PUBLIC, False), set())
        for (grantee, option), privileges in sorted(rights.items()):
            found = {"owner": owner, "to": grantee, "type": kind, "privileges": sorted(privileges)}
            entries.append({**found, "grant_option": True} if option else found)
    if schema is None:
        entries.extend(
            {"owner": owner, "to": PUBLIC, "type": "functions", "privileges": ["EXECUTE"]}
            for owner in sorted(owners)
            if (owner, None, "functions") not in stored
        )
    return entries
