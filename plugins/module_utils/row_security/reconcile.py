# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""(tenancy, tables as they are) -> Plan. Pure: no connection. Sorted, so that the same input gives the same plan.

In each table the policies come first and row-level security is turned on after them, so that at no moment a role sees more than before;
policies that
nobody declares go once the restrictive one is there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.patterns import like_any
from ..core.plan import Change, Effect, Plan
from ..core.statements import compose, identifier, joined, keywords, listed, literal, role
from .expression import digest, stamp
from .model import ALL, ALL_ROWS, COMMANDS, ISOLATION, TENANT_ALL, RowPolicy, Table
from .predicate import TYPES, same_text, tenant_predicate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .model import Database, ForeignKey, Parent, Selection, Tenancy

_KINDS = ("r", "p")  # foreign tables and views have no row-level security of their own
_LONGEST = 63  # bytes of a name


@dataclass(frozen=True)
class Protection:
    """What a table is to have."""

    policies: tuple[RowPolicy, ...]
    enabled: bool = True
    forced: bool = True


def selects(selection: Selection, table: Table) -> bool:
    """Whether the document speaks of the table, whatever columns it has."""
    if table.schema != selection.schema or table.extension:
        return False
    return (selection.names is None or like_any(selection.names, table.name)) and not like_any(selection.excluding, table.name)


def has_tenant(tenancy: Tenancy, table: Table) -> bool:
    """Whether the tenancy makes the table its own by its column: it is selected and has one that a setting can be compared with."""
    fits = table.column is not None and table.column.type in TYPES and table.kind in _KINDS
    return fits and any(selects(selection, table) for selection in tenancy.selections)


def parent_of(tenancy: Tenancy, table: Table) -> tuple[Parent, ForeignKey] | None:
    """Where a table without the column finds its tenant.

    None where the document does not say so, or the foreign key is not there or not the only one.
    """
    for parent in tenancy.parents:
        if (parent.schema, parent.table) == (table.schema, table.name):
            keys = keys_to(parent, table)
            return (parent, keys[0]) if len(keys) == 1 else None
    return None


def keys_to(parent: Parent, table: Table) -> list[ForeignKey]:
    """The foreign keys of a table by which it could find its tenant."""
    keys = [key for key in table.foreign_keys if (key.schema, key.table) == (parent.parent_schema, parent.parent)]
    return [key for key in keys if parent.key in (None, key.name)]


def isolated(database: Database, tables: Iterable[Table]) -> list[Table]:
    """The tables whose rows the tenancy keeps apart."""
    tenancy = database.tenancy
    if tenancy is None:
        return []
    return [table for table in tables if has_tenant(tenancy, table) or parent_of(tenancy, table)]


def wanted_of(database: Database, table: Table) -> Protection | None:
    """What the document wants of a table, None where it does not speak of it."""
    rules = next((each for each in database.rules if (each.schema, each.table) == (table.schema, table.name)), None)
    condition, written = _condition(database.tenancy, table)
    if condition is None or database.tenancy is None:
        return None if rules is None else Protection(rules.policies, rules.enabled, rules.forced)
    policies = _tenant_policies(database.tenancy, table, condition, written)
    return Protection((*policies, *(rules.policies if rules else ())))


def _condition(tenancy: Tenancy | None, table: Table) -> tuple[str | None, bool]:
    """The condition that a row is the tenant's, and whether the server will show it otherwise than it is written here."""
    if tenancy is None:
        return None, False
    if table.column is not None and has_tenant(tenancy, table):
        return tenant_predicate(table.column, tenancy.setting), False
    found = parent_of(tenancy, table)
    return (None, False) if found is None else (_by_parent(table, found[1]), True)


def _by_parent(table: Table, key: ForeignKey) -> str:
    """The row's parent is one that the role sees.

    The planner looks parents up one by one, or reads those of the tenant once, whichever is cheaper.
    """
    pairs = (f"parent.{_quoted(there)} = {_quoted(table.name)}.{_quoted(here)}" for here, there in zip(key.columns, key.referenced))
    return f"EXISTS (SELECT FROM {_quoted(key.schema)}.{_quoted(key.table)} AS parent WHERE {' AND '.join(pairs)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _tenant_policies(tenancy: Tenancy, table: Table, condition: str, written: bool) -> Iterator[RowPolicy]:
    """A restrictive policy that no other can widen, and permissive ones for what each role may do at all."""
    may = {name: table.privileges.get(name, frozenset()) for name in tenancy.roles}
    full = tuple(name for name in tenancy.roles if may[name] == frozenset(COMMANDS))
    yield RowPolicy(ISOLATION, False, ALL, tenancy.roles, condition, condition, written)
    if full:
        yield RowPolicy(TENANT_ALL, True, ALL, full, "true", "true")
    if tenancy.all_rows:
        yield RowPolicy(ALL_ROWS, True, ALL, tenancy.all_rows, "true", "true")
    for command in COMMANDS:
        some = tuple(name for name in tenancy.roles if command in may[name] and name not in full)
        if some:
            using = None if command == "INSERT" else "true"
            check = "true" if command in ("INSERT", "UPDATE") else None
            yield RowPolicy(f"tenant_{command.lower()}", True, command, some, using, check)


def reconcile(database: Database, tables: Iterable[Table], exact: bool) -> Plan:
    """The plan for one database, without indexes. exact: whether policies that are not declared go."""
    wanted = ((table, wanted_of(database, table)) for table in tables)
    return Plan(tuple(change for table, each in wanted if each is not None for change in _of_table(database.name, table, each, exact)))


def undeclared(database: Database, table: Table) -> list[RowPolicy]:
    """The policies of a table that the document does not have, where it speaks of the table."""
    wanted = wanted_of(database, table)
    names = {policy.name for policy in wanted.policies} if wanted else {policy.name for policy in table.policies}
    return [policy for policy in table.policies if policy.name not in names]


def plan_indexes(database: Database, tables: Iterable[Table]) -> Plan:
    """Indexes that begin with the tenant column, or with the foreign key to the tenant, where there is none; partitions come first."""
    tenancy = database.tenancy
    if tenancy is None or not tenancy.build_indexes:
        return Plan()
    mine = sorted(isolated(database, tables), key=lambda table: (table.kind == "p", table.schema, table.name))
    return Plan(tuple(change for table in mine for change in _index(database.name, tenancy, table)))


def lacks_index(tenancy: Tenancy, table: Table) -> bool:
    """Whether no index begins with what the tenant's condition compares."""
    if has_tenant(tenancy, table):
        return table.column is not None and not table.column.indexed
    found = parent_of(tenancy, table)
    return found is not None and not found[1].indexed


def _index(database: str, tenancy: Tenancy, table: Table) -> Iterator[Change]:
    if not lacks_index(tenancy, table):
        return
    found = parent_of(tenancy, table)
    columns = (tenancy.column,) if has_tenant(tenancy, table) else found[1].columns if found else ()
    about = f"table {table.label}"
    name = index_name(table, columns)
    if name in table.invalid_indexes:
        drop = compose("DROP INDEX CONCURRENTLY {}", identifier(table.schema, name))
        yield Change(about, f"{about}  -index {name} (invalid: an earlier run was interrupted)", drop, database, Effect.DROP)
    # A partitioned table takes the indexes of its partitions over, without reading a row.
    kind = keywords("INDEX" if table.kind == "p" else "INDEX CONCURRENTLY")
    make = compose("CREATE {} {} ON {} ({})", kind, identifier(name), _name(table), listed(identifier(column) for column in columns))
    yield Change(about, f"{about}  +index {name} ({', '.join(columns)})", make, database, Effect.CREATE)


def index_name(table: Table, columns: Sequence[str]) -> str:
    """The name of the index for the tenant of a table."""
    name = f"{table.name}_{'_'.join(columns)}_tenant"
    if len(name.encode()) <= _LONGEST:
        return name
    short = name.encode()[: _LONGEST - 9].decode(errors="ignore")
    return f"{short}_{digest(table.name, name)[:8]}"


def _of_table(database: str, table: Table, wanted: Protection, exact: bool) -> Iterator[Change]:
    actual = {policy.name: policy for policy in table.policies}

    def change(effect: Effect, description: str, *statements: Any) -> Change:
        return Change(f"table {table.label}", f"table {table.label}  {description}", joined("; ", statements), database, effect)

    if table.enabled and not wanted.enabled:
        yield change(Effect.ALTER, "-row-level security", _switched(table, wanted))
    for policy in wanted.policies:
        there = actual.get(policy.name)
        stamped = [_stamp(table, policy)] if policy.written else []
        if there is None:
            yield change(Effect.CREATE, f"+{_described(policy)}", _create(table, policy), *stamped)
        elif not _alterable(there, policy):
            kind = f"was {'permissive' if there.permissive else 'restrictive'} for {there.command}"
            yield change(Effect.ALTER, f"{_described(policy)}, {kind}", _drop(table, there), _create(table, policy), *stamped)
        elif not _equal(there, policy):
            yield change(Effect.ALTER, f"{_described(policy)}{_difference(there, policy)}", _alter(table, policy), *stamped)
    if exact:
        names = {policy.name for policy in wanted.policies}
        for policy in table.policies:
            if policy.name not in names:
                yield change(Effect.DROP, f"-{_described(policy)}", _drop(table, policy))
    if (table.enabled, table.forced) != (wanted.enabled, wanted.forced) and (wanted.enabled or not table.enabled):
        more = [*(["enabled"] if wanted.enabled > table.enabled else []), *(["forced"] if wanted.forced > table.forced else [])]
        less = ["not forced"] if wanted.forced < table.forced else []
        yield change(Effect.ALTER, f"+row-level security {' and '.join(more + less)}", _switched(table, wanted))


def _switched(table: Table, wanted: Protection) -> Any:
    words = f"{'ENABLE' if wanted.enabled else 'DISABLE'} ROW LEVEL SECURITY, {'FORCE' if wanted.forced else 'NO FORCE'} ROW LEVEL SECURITY"
    return compose("ALTER TABLE {} {}", _name(table), keywords(words))


def _alterable(there: RowPolicy, wanted: RowPolicy) -> bool:
    """Whether ALTER POLICY can make one of the other: it changes neither kind nor command, and takes no expression away."""
    same = (there.permissive, there.command) == (wanted.permissive, wanted.command)
    return same and all(new is not None or old is None for old, new in ((there.using, wanted.using), (there.check, wanted.check)))


def _same_expressions(there: RowPolicy, wanted: RowPolicy) -> bool:
    shown = same_text(there.using, wanted.using) and same_text(there.check, wanted.check)
    return shown or (wanted.written and there.comment == stamp((wanted.using, wanted.check), (there.using, there.check)))


def _equal(there: RowPolicy, wanted: RowPolicy) -> bool:
    return there.roles == wanted.roles and _same_expressions(there, wanted)


def _described(policy: RowPolicy) -> str:
    kind = "permissive" if policy.permissive else "restrictive"
    return f"policy {policy.name} ({kind}, {policy.command}, to {', '.join(policy.roles)})"


def _difference(there: RowPolicy, wanted: RowPolicy) -> str:
    parts = [f"+{name}" for name in wanted.roles if name not in there.roles] + [
        f"-{name}" for name in there.roles if name not in wanted.roles
    ]
    if not _same_expressions(there, wanted):
        alike = replace(there, comment=None)
        pairs = (("USING", alike.using, wanted.using), ("WITH CHECK", alike.check, wanted.check))
        parts += [word for word, old, new in pairs if not same_text(old, new)]
    return f": {', '.join(parts)}"


def _name(table: Table) -> Any:
    return identifier(table.schema, table.name)


def _expressions(policy: RowPolicy) -> Any:
    parts = [(" USING ({})", policy.using), (" WITH CHECK ({})", policy.check)]
    return joined("", [compose(clause, keywords(text)) for clause, text in parts if text is not None])


# What the policy's expressions have become is known to the server alone, once they are there.
_BODY = """BEGIN EXECUTE (SELECT pg_catalog.format('COMMENT ON POLICY %I ON %s IS %L', p.polname, p.polrelid::pg_catalog.regclass,
 {start} || pg_catalog.left(
 pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(COALESCE(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') || pg_catalog.chr(1)
 || COALESCE(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), ''), 'UTF8')), 'hex'), 32))
 FROM pg_catalog.pg_policy p WHERE p.polrelid = {table}::pg_catalog.regclass AND p.polname = {name}); END"""


def _stamp(table: Table, policy: RowPolicy) -> Any:
    start = stamp((policy.using, policy.check), (None, None)).rpartition(" ")[0] + " "
    qualified = f"{_quoted(table.schema)}.{_quoted(table.name)}"
    return compose("DO {}", literal(_BODY.format(start=_text(start), table=_text(qualified), name=_text(policy.name))))


def _text(value: str) -> str:
    """A literal within a text that is quoted as a whole, whatever the server takes a backslash for."""
    doubled = value.replace("'", "''")
    return f"'{doubled}'" if "\\" not in value else "E'" + doubled.replace("\\", "\\\\") + "'"


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
