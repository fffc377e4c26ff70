# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a document on this server, and what it leaves open. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.catalog import PUBLIC
from ..core.document import quoted
from ..core.errors import Mistake, nearest
from ..core.patterns import like
from .findings import Finding
from .predicate import TYPES
from .reconcile import has_tenant, isolated, keys_to, lacks_index, parent_of, selects, undeclared

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from .model import Database, Parent, RoleFacts, Selection, Table, Tenancy, View

# The oldest minor versions on which row-level security has been seen to hold against the leaks of OUTDATED.
_MINORS = {14: 23, 15: 19, 16: 15, 17: 11, 18: 6}
OUTDATED = (
    "it may use the plan of another role's policies (CVE-2024-10976, CVE-2026-14666), and let ON CONFLICT DO UPDATE overwrite a row that a"
    " view hides (CVE-2026-16237)"
)

_SHOWN = 5  # names that a note lists


def standing_findings(database: Database, version: int) -> Iterator[Finding]:
    """What holds for every tenancy, or for the server. version: as in server_version_num."""
    tenancy = database.tenancy
    if tenancy is None:
        return
    names = ", ".join(tenancy.roles)
    message = f"every session may set it to any tenant: who runs SQL of his own as {names} is not fenced"
    fix = "let the application alone log in as these roles, and set the tenant by SET LOCAL (docs/tenant_context.md)"
    yield Finding("setting", "low", database.name, tenancy.setting, message, fix)
    major, minor = divmod(version, 10000)
    if minor < _MINORS.get(major, 0):
        text = f"version {major}.{minor} of PostgreSQL is older than {major}.{_MINORS[major]}: {OUTDATED}"
        yield Finding("server_version", "high", database.name, "server", text, "install the newest minor version")


def role_mistakes(database: Database, roles: Mapping[str, RoleFacts], expected: Collection[str]) -> Iterator[Mistake]:
    """Roles that the server does not have, or to which no policy applies. expected: those that count as there."""
    tenancy = database.tenancy
    for path, names in _role_places(database):
        for name in names:
            found = roles.get(name)
            if found is None and name not in expected and name != PUBLIC:
                yield Mistake(path, f"the server has no role {quoted(name)}{nearest(name, roles)}")
            elif tenancy and found is not None and found.exempt and path == f"{tenancy.path}.roles" and name not in expected:
                yield Mistake(path, f"role {quoted(name)} is a superuser or has BYPASSRLS: no policy applies to it")


def _role_places(database: Database) -> Iterator[tuple[str, tuple[str, ...]]]:
    if database.tenancy is not None:
        yield f"{database.tenancy.path}.roles", database.tenancy.roles
        yield f"{database.tenancy.path}.roles_all_rows", database.tenancy.all_rows
    for rules in database.rules:
        for policy in rules.policies:
            yield f"{policy.path}.roles", policy.roles


def table_mistakes(database: Database, tables: Sequence[Table], schemas: Collection[str]) -> Iterator[Mistake]:
    """Schemas, tables, columns and foreign keys that are not there, and columns of types that no setting can be compared with."""
    tenancy = database.tenancy
    for rules in database.rules:
        yield from _missing_table(rules.path, rules.schema, rules.table, tables, schemas)
        table = _found(rules.schema, rules.table, tables)
        tenant = tenancy is not None and table is not None and (has_tenant(tenancy, table) or parent_of(tenancy, table))
        if tenant and not (rules.enabled and rules.forced):
            yield Mistake(
                rules.path,
                "tenancy isolates this table, so that it stays enabled and forced: except it in tenancy, or leave these keys out",
            )
    if tenancy is None:
        return
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
    for parent in tenancy.parents:
        yield from _parent_mistakes(tenancy, parent, tables, schemas)


def _found(schema: str, name: str, tables: Iterable[Table]) -> Table | None:
    return next((table for table in tables if (table.schema, table.name) == (schema, name)), None)


def _missing_table(path: str, schema: str, name: str, tables: Sequence[Table], schemas: Collection[str]) -> Iterator[Mistake]:
    if schema not in schemas:
        yield Mistake(path, f"the database has no schema {quoted(schema)}{nearest(schema, schemas)}")
    elif _found(schema, name, tables) is None:
        yield Mistake(path, f"there is no table {quoted(name)} in schema {quoted(schema)}{nearest(name, _names_in(schema, tables))}")
    elif any(table.kind == "f" for table in tables if (table.schema, table.name) == (schema, name)):
        yield Mistake(path, f"{schema}.{name} is a foreign table, which cannot have row-level security")


def _names_in(schema: str, tables: Iterable[Table]) -> list[str]:
    return [table.name for table in tables if table.schema == schema]


def _parent_mistakes(tenancy: Tenancy, parent: Parent, tables: Sequence[Table], schemas: Collection[str]) -> Iterator[Mistake]:
    wrong = [*_missing_table(parent.path, parent.schema, parent.table, tables, schemas)]
    wrong += _missing_table(parent.path, parent.parent_schema, parent.parent, tables, schemas)
    yield from wrong
    table, above = _found(parent.schema, parent.table, tables), _found(parent.parent_schema, parent.parent, tables)
    if wrong or table is None or above is None:
        return
    if has_tenant(tenancy, table):
        yield Mistake(
            parent.path, f"table {table.label} has a column {quoted(tenancy.column)} of its own: leave it out here, or except it in schemas"
        )
        return
    if not has_tenant(tenancy, above) and not any((each.schema, each.table) == (above.schema, above.name) for each in tenancy.parents):
        yield Mistake(parent.path, f"table {above.label} is not isolated itself: select it in schemas, or give it a parent, too")
    keys = keys_to(parent, table)
    if not keys:
        named = f" {quoted(parent.key)}" if parent.key else ""
        yield Mistake(parent.path, f"table {table.label} has no foreign key{named} that refers to {above.label}")
    elif len(keys) > 1:
        names = ", ".join(key.name for key in keys)
        yield Mistake(
            parent.path, f"table {table.label} has several foreign keys that refer to {above.label}; name one in foreign_key: {names}"
        )
    lacking = [role for role, may in table.privileges.items() if may and "SELECT" not in above.privileges.get(role, frozenset())]
    if lacking:
        yield Mistake(
            parent.path,
            f"{', '.join(sorted(lacking))} must be granted SELECT on {above.label}, too, since the policy of {table.label} reads it",
        )


def _missing_names(selection: Selection, within: Sequence[Table]) -> Iterator[Mistake]:
    names = {table.name for table in within}
    for item in (*(selection.names or ()), *selection.excluding):
        if not any(like(item, name) for name in names):
            what = "no table matches" if "*" in item else "there is no table"
            yield Mistake(selection.path, f"{what} {quoted(item)} in schema {quoted(selection.schema)}{nearest(item, names)}")


def _unfit(tenancy: Tenancy, selection: Selection, table: Table) -> Iterator[Mistake]:
    column = table.column
    if column is None:
        if table.name in (selection.names or ()) and not any(
            (each.schema, each.table) == (table.schema, table.name) for each in tenancy.parents
        ):
            yield Mistake(selection.path, f"table {table.label} has no column {quoted(tenancy.column)}")
        return
    if table.kind == "f":
        if table.name in (selection.names or ()):
            yield Mistake(selection.path, f"{table.label} is a foreign table, which cannot have row-level security")
        return
    if column.type not in TYPES:
        accepted = ", ".join(sorted(set(TYPES) - {"bpchar"}))
        found = f"column {column.name} of table {table.label} is of type {column.type}"
        yield Mistake(selection.path, f"{found}; a tenant column may be of type {accepted}, or a domain over one")


def notes(database: Database, tables: Sequence[Table], exact: bool) -> Iterator[str]:
    """What a person should know of the tables that the document selects."""
    tenancy = database.tenancy
    groups: list[tuple[str, list[Table]]] = []
    if tenancy is not None:
        mine = isolated(database, tables)
        known = {*_names_of(mine), *((rules.schema, rules.table) for rules in database.rules)}
        chosen = [table for table in tables if any(selects(selection, table) for selection in tenancy.selections)]
        left = [each for each in chosen if (each.schema, each.name) not in known]
        groups = [
            (f"without a column {tenancy.column}, so that their rows are not isolated", [each for each in left if each.column is None]),
            (
                "that are foreign, so that their rows are not isolated",
                [each for each in left if each.column is not None and each.kind == "f"],
            ),
            (
                f"whose column {tenancy.column} may be NULL; such rows are seen by nobody",
                [each for each in mine if each.column and each.column.nullable],
            ),
        ]
        if not tenancy.build_indexes:
            slow = [each for each in mine if lacks_index(tenancy, each)]
            groups.append((f"without an index for {tenancy.column}, which makes reading slow (build_indexes makes them)", slow))
    if not exact:
        groups.append(("with policies that are not declared and stay", [each for each in tables if undeclared(database, each)]))
    for about, found in groups:
        if found:
            yield f"{len(found)} table{'s' if len(found) != 1 else ''} {about}: {_names(found)}"


def view_findings(database: Database, tables: Sequence[Table], views: Iterable[View], roles: Mapping[str, RoleFacts]) -> Iterator[Finding]:
    """Views that show the roles of the tenancy the rows of all tenants."""
    if database.tenancy is None:
        return
    mine = set(_names_of(isolated(database, tables)))
    everything = {*database.tenancy.all_rows, *(name for name, role in roles.items() if role.exempt)}
    for view in views:
        if view.tables & mine and view.readers and (view.materialized or view.owner in everything):
            label, readers = f"{view.schema}.{view.name}", ", ".join(view.readers)
            revoke = f'REVOKE SELECT ON "{view.schema}"."{view.name}" FROM {readers}'
            invoke = f'ALTER VIEW "{view.schema}"."{view.name}" SET (security_invoker = true) on PostgreSQL 15 and later, or {revoke}'
            kind = "materialized view" if view.materialized else f"view with the rights of {view.owner}"
            code, fix = ("materialized_view", revoke) if view.materialized else ("view", invoke)
            yield Finding(code, "high", database.name, label, f"is a {kind} and shows {readers} the rows of all tenants", fix)


def open_tables(database: Database, tables: Sequence[Table]) -> Iterator[Finding]:
    """Tables of the selected schemas whose rows nothing isolates."""
    if database.tenancy is None:
        return
    known = {*_names_of(isolated(database, tables)), *((rules.schema, rules.table) for rules in database.rules)}
    for table in tables:
        if (table.schema, table.name) in known or not any(selects(each, table) for each in database.tenancy.selections):
            continue
        if table.privileges and any(table.privileges.values()):
            fix = "give it a parent, policies of its own, or except it in schemas"
            yield Finding(
                "no_tenant",
                "medium",
                database.name,
                table.label,
                f"has neither column {database.tenancy.column} nor a parent: nothing isolates it",
                fix,
            )


def _names_of(tables: Iterable[Table]) -> Iterator[tuple[str, str]]:
    return ((table.schema, table.name) for table in tables)


def _names(tables: Iterable[Table]) -> str:
    names = [table.label for table in tables]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
