# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a document on this server, and what it leaves open. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.document import quoted
from ..core.errors import Mistake, nearest
from ..core.patterns import like
from .predicate import TYPES
from .reconcile import isolated, selects, undeclared

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from .model import RoleFacts, Selection, Table, Tenancy, View

_SHOWN = 5  # names that a note lists


def role_mistakes(tenancy: Tenancy, roles: Mapping[str, RoleFacts], expected: Collection[str]) -> Iterator[Mistake]:
    """Roles that the server does not have, or to which no policy applies. expected: those that count as there."""
    for key, names in (("roles", tenancy.roles), ("roles_all_rows", tenancy.all_rows)):
        path = f"{tenancy.path}.{key}"
        for name in names:
            found = roles.get(name)
            if found is None and name not in expected:
                yield Mistake(path, f"the server has no role {quoted(name)}{nearest(name, roles)}")
            elif found is not None and found.exempt and key == "roles" and name not in expected:
                yield Mistake(path, f"role {quoted(name)} is a superuser or has BYPASSRLS: no policy applies to it")


def table_mistakes(tenancy: Tenancy, tables: Sequence[Table], schemas: Collection[str]) -> Iterator[Mistake]:
    """Schemas, tables and columns that are not there, and columns of types that no setting can be compared with."""
    for selection in tenancy.selections:
        if selection.schema not in schemas:
            yield Mistake(selection.path, f"the database has no schema {quoted(selection.schema)}{nearest(selection.schema, schemas)}")
            continue
        within = [table for table in tables if table.schema == selection.schema]
        missing = list(_missing_names(selection, within))
        yield from missing
        chosen = [table for table in within if selects(selection, table)]
        if not missing and not any(table.column for table in chosen):
            yield Mistake(selection.path, f"no table that it selects has a column {quoted(tenancy.column)}")
        for table in chosen:
            yield from _unfit(tenancy, selection, table)


def _missing_names(selection: Selection, within: Sequence[Table]) -> Iterator[Mistake]:
    names = {table.name for table in within}
    for item in (*(selection.names or ()), *selection.excluding):
        if not any(like(item, name) for name in names):
            what = "no table matches" if "*" in item else "there is no table"
            yield Mistake(selection.path, f"{what} {quoted(item)} in schema {quoted(selection.schema)}{nearest(item, names)}")


def _unfit(tenancy: Tenancy, selection: Selection, table: Table) -> Iterator[Mistake]:
    column = table.column
    if column is None:
        if table.name in (selection.names or ()):
            yield Mistake(selection.path, f"table {table.label} has no column {quoted(tenancy.column)}")
        return
    if table.kind == "f":
        if table.name in (selection.names or ()):
            yield Mistake(selection.path, f"{table.label} is a foreign table, which cannot have row-level security")
        return
    if column.type not in TYPES:
        accepted = ", ".join(sorted(set(TYPES) - {"bpchar"}))
        text = f"column {column.name} of table {table.label} is of type {column.type}; a tenant column may be of type {accepted}, or a domain over one"
        yield Mistake(selection.path, text)


def notes(tenancy: Tenancy, tables: Sequence[Table], exact: bool) -> Iterator[str]:
    """What a person should know of the tables that the document selects."""
    chosen = [table for table in tables if any(selects(selection, table) for selection in tenancy.selections)]
    mine = isolated(tenancy, tables)
    groups = [
        (f"without a column {tenancy.column}, so that their rows are not isolated", [each for each in chosen if each.column is None]),
        ("that are foreign, so that their rows are not isolated", [each for each in chosen if each.column is not None and each.kind == "f"]),
        (f"whose column {tenancy.column} may be NULL; such rows are seen by nobody", [each for each in mine if each.column and each.column.nullable]),
        (f"without an index that begins with {tenancy.column}, which makes reading slow", [each for each in mine if each.column and not each.column.indexed]),
    ]
    if not exact:
        groups.append(("with policies that are not declared and stay", [each for each in mine if undeclared(tenancy, each)]))
    for about, found in groups:
        if found:
            yield f"{len(found)} table{'s' if len(found) != 1 else ''} {about}: {_names(found)}"


def view_notes(tenancy: Tenancy, tables: Sequence[Table], views: Iterable[View], roles: Mapping[str, RoleFacts]) -> Iterator[str]:
    """Views that show the roles of the tenancy the rows of all tenants."""
    mine = {(table.schema, table.name) for table in isolated(tenancy, tables)}
    everything = {*tenancy.all_rows, *(name for name, role in roles.items() if role.exempt)}
    open_views = [view for view in views if view.tables & mine and view.readers and (view.materialized or view.owner in everything)]
    for view in open_views:
        way = "take SELECT from them" if view.materialized else "set security_invoker on the view (PostgreSQL 15), or take SELECT from them"
        kind = "materialized view" if view.materialized else f"view with the rights of {view.owner}"
        yield f"{view.schema}.{view.name} is a {kind} and shows {', '.join(view.readers)} the rows of all tenants: {way}"


def _names(tables: Iterable[Table]) -> str:
    names = [table.label for table in tables]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
