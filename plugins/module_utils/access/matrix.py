# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who can do what: role x object x privilege, as data and as a table for people. Pure: no connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.catalog import PUBLIC, reachable
from .model import DATABASE, LANGUAGE, TYPE, ObjectClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .model import Cluster, Contents

# PostgreSQL's own abbreviations (documentation, "Privileges").
LETTERS: Mapping[str, str] = {
    "SELECT": "r",
    "INSERT": "a",
    "UPDATE": "w",
    "DELETE": "d",
    "TRUNCATE": "D",
    "REFERENCES": "x",
    "TRIGGER": "t",
    "MAINTAIN": "m",
    "CREATE": "C",
    "CONNECT": "c",
    "TEMPORARY": "T",
    "EXECUTE": "X",
    "USAGE": "U",
    "SET": "s",
    "ALTER SYSTEM": "A",
}


def matrix(cluster: Cluster, contents: Sequence[Contents], roles: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """One entry for each role and object on which it has any privilege: by itself, as the owner, or as a member with INHERIT.

    PUBLIC is a role of its own here, whose privileges everybody has besides. Superusers are left out: they may do anything. Columns count
    as
    objects of their own. That everybody may use a type or a trusted language is not told.
    """
    chosen = [
        name
        for name in (roles or sorted([PUBLIC, *cluster.roles]))
        if name == PUBLIC or (name in cluster.roles and not _skipped(cluster, name, roles))
    ]
    reach = {name: _reach(cluster, name) for name in chosen}
    entries: list[dict[str, Any]] = []
    for database, objects in _objects(cluster, contents):
        held: dict[str, set[str]] = {}
        for entry in objects.acl:
            if entry.grantee != PUBLIC or objects.kind not in (TYPE, LANGUAGE):
                held.setdefault(entry.grantee, set()).add(entry.privilege)
        owner = cluster.databases[database].owner if database is not None else None
        for role in chosen:
            # The owner of a database is a member of pg_database_owner there.
            names = reach[role] | ({"pg_database_owner"} if owner in reach[role] else set())
            privileges = set().union(*(held.get(name, set()) for name in names))
            kind = objects.kind if objects.column is None else "column"
            if privileges:
                entries.extend(
                    {"database": database, "role": role, "kind": kind, "object": name, "privileges": sorted(privileges)}
                    for name in _names(objects)
                )
    return entries


def _skipped(cluster: Cluster, name: str, asked: Sequence[str] | None) -> bool:
    return not asked and (name.startswith("pg_") or bool(cluster.roles[name].superuser))


def _reach(cluster: Cluster, role: str) -> set[str]:
    edges: dict[str, set[str]] = {}
    for entry in cluster.memberships:
        inherits = entry.inherit if entry.inherit is not None else cluster.roles[entry.member].inherit
        if inherits:
            edges.setdefault(entry.member, set()).add(entry.role)
    return reachable(role, edges)


def _objects(cluster: Cluster, contents: Sequence[Contents]) -> Iterable[tuple[str | None, ObjectClass]]:
    for each in cluster.objects:
        yield None, each
    for content in contents:
        facts = cluster.databases[content.database]
        yield content.database, ObjectClass(DATABASE, facts.owner, facts.acl, facts.name, None, facts.name, (facts.name,))
        for each in content.objects:
            if not each.extension:
                yield content.database, each


def _names(objects: ObjectClass) -> list[str]:
    qualified = objects.schema is not None and objects.kind != "schema"
    return [
        (f"{objects.schema}." if qualified else "") + name + (f".{objects.column}" if objects.column is not None else "")
        for name in ((objects.name,) if objects.name is not None else objects.names or ())
    ]


def as_text(entries: Sequence[Mapping[str, Any]], superusers: Sequence[str]) -> str:
    """The matrix as an aligned table: an object a line, a role a column, PostgreSQL's letters in the cells."""
    roles = sorted({entry["role"] for entry in entries})
    cells: dict[tuple[str, str, str], dict[str, str]] = {}
    for entry in entries:
        row = (entry["database"] or "", entry["kind"], entry["object"])
        cells.setdefault(row, {})[entry["role"]] = "".join(
            letter for privilege, letter in LETTERS.items() if privilege in entry["privileges"]
        )
    table = [["database", "kind", "object", *roles]]
    table += [[*row, *(of_row.get(role, "-") for role in roles)] for row, of_row in sorted(cells.items())]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table]
    used = {privilege for entry in entries for privilege in entry["privileges"]}
    legend = ", ".join(f"{LETTERS[privilege]} = {privilege}" for privilege in LETTERS if privilege in used)
    superusers_line = f"Superusers, who may do everything: {', '.join(superusers)}"
    return "\n".join([*(lines if entries else []), *([legend] if entries else []), superusers_line]) + "\n"
