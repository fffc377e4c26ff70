# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""(tenancy, tables as they are) -> Plan. Pure: no connection. Sorted, so that the same input gives the same plan.

In each table the policies come first and row-level security is turned on after them, so that at no moment a role sees more than before; policies that
nobody declares go once the restrictive one is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.patterns import like_any
from ..core.plan import Change, Plan
from ..core.statements import compose, identifier, keywords, listed, role
from .model import ALL, COMMANDS, RowPolicy, Table
from .predicate import TYPES, same_text, tenant_predicate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .model import Selection, Tenancy

ISOLATION = "tenant_isolation"
_KINDS = ("r", "p")  # foreign tables and views have no row-level security of their own


def selects(selection: Selection, table: Table) -> bool:
    """Whether the document speaks of the table, whatever columns it has."""
    if table.schema != selection.schema or table.extension:
        return False
    return (selection.names is None or like_any(selection.names, table.name)) and not like_any(selection.excluding, table.name)


def isolated(tenancy: Tenancy, tables: Iterable[Table]) -> list[Table]:
    """The tables that the tenancy makes its own: those selected that have the column."""
    return [
        table
        for table in tables
        if table.column is not None
        and table.column.type in TYPES
        and table.kind in _KINDS
        and any(selects(selection, table) for selection in tenancy.selections)
    ]


def wanted_policies(tenancy: Tenancy, table: Table) -> tuple[RowPolicy, ...]:
    """The policies of a table: a restrictive one that no other can widen, and permissive ones for what each role may do at all."""
    if table.column is None:
        return ()
    condition = tenant_predicate(table.column, tenancy.setting)
    may = {name: table.privileges.get(name, frozenset()) for name in tenancy.roles}
    full = tuple(name for name in tenancy.roles if may[name] == frozenset(COMMANDS))
    found = [RowPolicy(ISOLATION, False, ALL, tenancy.roles, condition, condition)]
    if full:
        found.append(RowPolicy("tenant_all", True, ALL, full, "true", "true"))
    if tenancy.all_rows:
        found.append(RowPolicy("all_rows", True, ALL, tenancy.all_rows, "true", "true"))
    for command in COMMANDS:
        some = tuple(name for name in tenancy.roles if command in may[name] and name not in full)
        if some:
            using = None if command == "INSERT" else "true"
            check = "true" if command in ("INSERT", "UPDATE") else None
            found.append(RowPolicy(f"tenant_{command.lower()}", True, command, some, using, check))
    return tuple(found)


def reconcile(database: str, tenancy: Tenancy, tables: Iterable[Table], exact: bool) -> Plan:
    """The plan for one database. exact: whether policies that are not declared go."""
    return Plan(tuple(change for table in isolated(tenancy, tables) for change in _of_table(database, tenancy, table, exact)))


def undeclared(tenancy: Tenancy, table: Table) -> list[RowPolicy]:
    """The policies of a table that the document does not have."""
    names = {policy.name for policy in wanted_policies(tenancy, table)}
    return [policy for policy in table.policies if policy.name not in names]


def _of_table(database: str, tenancy: Tenancy, table: Table, exact: bool) -> Iterator[Change]:
    actual = {policy.name: policy for policy in table.policies}

    def change(words: str, statement: Any) -> Change:
        return Change(f"table {table.label}", f"table {table.label}  {words}", statement, database)

    for wanted in wanted_policies(tenancy, table):
        there = actual.get(wanted.name)
        if there is None:
            yield change(f"+{_described(wanted)}", _create(table, wanted))
        elif (there.permissive, there.command) != (wanted.permissive, wanted.command):
            both = compose("{}; {}", _drop(table, there), _create(table, wanted))
            yield change(f"{_described(wanted)}, was {'permissive' if there.permissive else 'restrictive'} for {there.command}", both)
        elif there.roles != wanted.roles or not (same_text(there.using, wanted.using) and same_text(there.check, wanted.check)):
            yield change(f"{_described(wanted)}{_difference(there, wanted)}", _alter(table, wanted))
    if exact:
        for policy in undeclared(tenancy, table):
            yield change(f"-{_described(policy)}", _drop(table, policy))
    if not (table.enabled and table.forced):
        on = compose("ALTER TABLE {} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", _name(table))
        yield change(f"+row-level security {'forced' if table.enabled else 'enabled and forced'}", on)


def _described(policy: RowPolicy) -> str:
    kind = "permissive" if policy.permissive else "restrictive"
    return f"policy {policy.name} ({kind}, {policy.command}, to {', '.join(policy.roles)})"


def _difference(there: RowPolicy, wanted: RowPolicy) -> str:
    more = [f"+{name}" for name in wanted.roles if name not in there.roles]
    less = [f"-{name}" for name in there.roles if name not in wanted.roles]
    parts = [*more, *less]
    parts += [word for word, old, new in (("USING", there.using, wanted.using), ("WITH CHECK", there.check, wanted.check)) if not same_text(old, new)]
    return f": {', '.join(parts)}"


def _name(table: Table) -> Any:
    return identifier(table.schema, table.name)


def _expressions(policy: RowPolicy) -> Any:
    parts = [(" USING ({})", policy.using), (" WITH CHECK ({})", policy.check)]
    return _joined(compose(clause, keywords(text)) for clause, text in parts if text is not None)


def _joined(parts: Iterable[Any]) -> Any:
    found = keywords("")
    for part in parts:
        found = found + part
    return found


def _roles(names: Sequence[str]) -> Any:
    return listed(role(name) for name in names)


def _create(table: Table, policy: RowPolicy) -> Any:
    kind = keywords("PERMISSIVE" if policy.permissive else "RESTRICTIVE")
    return compose(
        "CREATE POLICY {} ON {} AS {} FOR {} TO {}{}",
        identifier(policy.name),
        _name(table),
        kind,
        keywords(policy.command),
        _roles(policy.roles),
        _expressions(policy),
    )


def _alter(table: Table, policy: RowPolicy) -> Any:
    return compose("ALTER POLICY {} ON {} TO {}{}", identifier(policy.name), _name(table), _roles(policy.roles), _expressions(policy))


def _drop(table: Table, policy: RowPolicy) -> Any:
    return compose("DROP POLICY {} ON {}", identifier(policy.name), _name(table))
