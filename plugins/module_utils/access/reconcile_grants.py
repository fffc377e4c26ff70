# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declared and actual privileges on objects and columns -> GRANT and REVOKE statements. Pure: no connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..core import statements as st
from ..core.catalog import PUBLIC, AclEntry
from ..core.plan import Change, Effect
from .model import (
    DATABASE,
    FOREIGN_DATA_WRAPPER,
    FOREIGN_SERVER,
    FUNCTION,
    LANGUAGE,
    LARGE_OBJECT,
    PARAMETER,
    PROCEDURE,
    SCHEMA,
    SEQUENCE,
    TABLE,
    TABLESPACE,
    TYPE,
    Grant,
    ObjectClass,
)
from .privileges import COLUMN, expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .model import Contents
    from .scope import Scope

# Names in one statement: one round trip for many objects without a statement of unbounded length.
BATCH = 500

_SQL_KINDS: Mapping[str, str] = {
    DATABASE: "DATABASE",
    SCHEMA: "SCHEMA",
    TABLE: "TABLE",
    SEQUENCE: "SEQUENCE",
    FUNCTION: "FUNCTION",
    PROCEDURE: "PROCEDURE",
    TYPE: "TYPE",
    LANGUAGE: "LANGUAGE",
    FOREIGN_DATA_WRAPPER: "FOREIGN DATA WRAPPER",
    FOREIGN_SERVER: "FOREIGN SERVER",
    LARGE_OBJECT: "LARGE OBJECT",
    TABLESPACE: "TABLESPACE",
    PARAMETER: "PARAMETER",
}
_KIND_ORDER = list(_SQL_KINDS)

# Order within a database. A REVOKE on a table takes the column privileges too, so the columns come after their tables.
_ORDER = (Effect.REVOKE, Effect.REVOKE_OPTION, Effect.GRANT)

Rights = dict[str, dict[str, bool]]  # grantee -> privilege -> with grant option


@dataclass(frozen=True)
class Step:
    """A grant or a revocation for one class of objects; steps that differ only in grantee or objects become one statement."""

    effect: Effect
    privileges: tuple[str, ...]
    grantee: str
    grant_option: bool = False
    grantor: str | None = None  # where it is not the owner
    passed_on: tuple[str, ...] = ()  # what goes with it because the grantee had passed it on
    through_schema: bool = False  # the grantor has no USAGE on the schema


def declared_rights(scope: Scope, objects: ObjectClass, grants: Iterable[Grant] | None = None) -> Rights:
    """What the policy gives on these objects (or, for a column, on that column)."""
    rights: Rights = {}
    kind = COLUMN if objects.column is not None else objects.kind
    for grant in scope.grants_on(objects) if grants is None else grants:
        on_columns = bool(grant.columns)
        if on_columns != (objects.column is not None) or (on_columns and objects.column not in grant.columns):
            continue
        for grantee in grant.grantees:
            of_grantee = rights.setdefault(grantee, {})
            for privilege in expand(grant.privileges_on(objects.relkind), kind, scope.version):
                of_grantee[privilege] = of_grantee.get(privilege, False) or grant.grant_option
    return rights


def steps_for(scope: Scope, objects: ObjectClass, gone: frozenset[tuple[str, str]] = frozenset()) -> list[Step]:
    """What turns the actual rights on the objects into the declared ones.

    gone: (grantee, privilege) that an earlier statement has taken.
    """
    declared = declared_rights(scope, objects)
    if objects.column is not None:
        # Beside the same right on the whole table a column right says nothing, and it goes with that one: neither given nor taken.
        on_table = declared_rights(scope, replace(objects, column=None))
        covered = {
            (grantee, privilege)
            for grantee, privileges in on_table.items()
            for privilege, option in privileges.items()
            if option or not declared.get(grantee, {}).get(privilege)
        }
        grantable = {(entry.grantee, entry.privilege) for entry in objects.acl if entry.grantable}
        gone |= {right for right in covered if right not in grantable or on_table[right[0]][right[1]]}
        declared = {
            grantee: {privilege: option for privilege, option in privileges.items() if (grantee, privilege) not in covered}
            for grantee, privileges in declared.items()
        }
    given: dict[tuple[str, str], bool] = {}
    by_others: list[AclEntry] = []
    for entry in objects.acl:
        if (entry.grantee, entry.privilege) in gone:
            continue
        if entry.grantor == objects.owner:
            given[(entry.grantee, entry.privilege)] = entry.grantable
        else:
            by_others.append(entry)
    satisfied = {(entry.grantee, entry.privilege) for entry in by_others} if scope.mode == "additive" else set()
    taken, kept = _taken(scope, objects, declared, given)
    steps = _revocations(scope, objects, taken, kept, by_others)
    additions: dict[tuple[str, bool], set[str]] = {}
    for grantee, privileges in declared.items():
        for privilege, option in privileges.items():
            key = (grantee, privilege)
            with_option = option and grantee != objects.owner
            if key in satisfied or (key in kept and (kept[key] or not with_option)):
                continue
            additions.setdefault((grantee, with_option), set()).add(privilege)
    steps.extend(Step(Effect.GRANT, tuple(sorted(privileges)), grantee, option) for (grantee, option), privileges in additions.items())
    return steps


def _taken(
    scope: Scope, objects: ObjectClass, declared: Rights, given: Mapping[tuple[str, str], bool]
) -> tuple[dict[tuple[str, str], Effect], dict[tuple[str, str], bool]]:
    """Which of the owner's grants go (with the effect of each) and which stay."""
    taken: dict[tuple[str, str], Effect] = {}
    kept: dict[tuple[str, str], bool] = {}
    for (grantee, privilege), grantable in given.items():
        key = (grantee, privilege)
        option = declared.get(grantee, {}).get(privilege)
        if option is None and scope.may_revoke(objects, grantee, privilege):
            taken[key] = Effect.REVOKE
        elif option is False and grantable and scope.may_revoke(objects, grantee, privilege):
            taken[key] = Effect.REVOKE_OPTION
            kept[key] = False
        else:
            kept[key] = grantable or grantee == objects.owner
    return taken, kept


def _revocations(
    scope: Scope,
    objects: ObjectClass,
    taken: Mapping[tuple[str, str], Effect],
    kept: Mapping[tuple[str, str], bool],
    by_others: Sequence[AclEntry],
) -> list[Step]:
    going = [entry for entry in by_others if scope.may_revoke(objects, entry.grantee, entry.privilege)]
    alone = [entry for entry in going if not _loses_option(entry.grantor, entry.privilege, taken, kept, by_others, going)]
    own_step = {*taken, *((entry.grantee, entry.privilege) for entry in alone)}
    passed_on: dict[tuple[str, str], set[str]] = {}
    for entry in by_others:
        if entry not in alone and _loses_option(entry.grantor, entry.privilege, taken, kept, by_others, going):
            root = _root(entry, own_step, by_others)
            passed_on.setdefault((root, entry.privilege), set()).add(f"{entry.grantee} -{entry.privilege}")
    grouped: dict[tuple[Effect, str, str | None, tuple[str, ...]], set[str]] = {}
    for (grantee, privilege), effect in taken.items():
        lost = tuple(sorted(passed_on.get((grantee, privilege), ())))
        grouped.setdefault((effect, grantee, None, lost), set()).add(privilege)
    for entry in alone:
        lost = tuple(sorted(passed_on.get((entry.grantee, entry.privilege), ())))
        grouped.setdefault((Effect.REVOKE, entry.grantee, entry.grantor, lost), set()).add(entry.privilege)
    return [
        Step(effect, tuple(sorted(privileges)), grantee, grantor=grantor, passed_on=lost)
        for (effect, grantee, grantor, lost), privileges in grouped.items()
    ]


def _root(entry: AclEntry, own_step: set[tuple[str, str]], by_others: Sequence[AclEntry]) -> str:
    """The grantee whose revocation takes the entry along, over as many grantors as there are."""
    seen: set[str] = set()
    grantor = entry.grantor
    while (grantor, entry.privilege) not in own_step and grantor not in seen:
        seen.add(grantor)
        sources = (each.grantor for each in by_others if each.grantee == grantor and each.privilege == entry.privilege)
        grantor = next(sources, grantor)
    return grantor


def _loses_option(
    grantor: str,
    privilege: str,
    taken: Mapping[tuple[str, str], Effect],
    kept: Mapping[tuple[str, str], bool],
    by_others: Sequence[AclEntry],
    going: Sequence[AclEntry],
    seen: frozenset[str] = frozenset(),
) -> bool:
    """Whether a grantor can no longer give the privilege: then PostgreSQL takes along (CASCADE) what it had given."""
    if kept.get((grantor, privilege)) or grantor in seen:
        return False
    sources = [entry for entry in by_others if entry.grantee == grantor and entry.privilege == privilege and entry.grantable]
    if not sources:
        return (grantor, privilege) in taken
    return all(
        entry in going or _loses_option(entry.grantor, privilege, taken, kept, by_others, going, seen | {grantor}) for entry in sources
    )


def needs_names(scope: Scope, objects: Iterable[ObjectClass]) -> frozenset[str]:
    """The kinds of objects of which a class changes whose names were not read."""
    return frozenset(each.kind for each in objects if each.names is None and steps_for(scope, each))


def plan_grants(scope: Scope, database: str | None, objects: Sequence[ObjectClass], contents: Contents | None = None) -> list[Change]:
    """The statements for all objects of one database, or for the cluster-wide ones."""
    tables = [each for each in objects if each.column is None]
    columns = list(_with_undeclared(scope, objects, tables, contents))
    with_columns = {(each.schema, each.name) for each in columns}
    steps: list[tuple[ObjectClass, Step]] = []
    gone: dict[tuple[str | None, str | None], set[tuple[str, str]]] = {}
    for each in tables:
        for step in steps_for(scope, each):
            steps.append((each, step))
            if each.kind == TABLE and step.effect is Effect.REVOKE and with_columns:
                lost = {(step.grantee, privilege) for privilege in step.privileges}
                for name in with_columns.intersection((each.schema, name) for name in each.names or ()):
                    gone.setdefault(name, set()).update(lost)
    on_columns = [(each, step) for each in columns for step in steps_for(scope, each, frozenset(gone.get((each.schema, each.name), ())))]
    # What a grantor has to take back itself comes first, while it still has its option, and columns before their tables.
    may_enter = {(each.schema, entry.grantee) for each in tables if each.kind == SCHEMA for entry in each.acl if entry.privilege == "USAGE"}
    by_grantors = [pair for pair in on_columns if pair[1].grantor] + [pair for pair in steps if pair[1].grantor]
    changes = [change for pair in by_grantors for change in _statements(database, [_with_entry(pair, may_enter)])]
    changes += _statements(database, (pair for pair in steps if not pair[1].grantor))
    return changes + _statements(database, (pair for pair in on_columns if not pair[1].grantor))


def _with_entry(pair: tuple[ObjectClass, Step], may_enter: set[tuple[str | None, str]]) -> tuple[ObjectClass, Step]:
    """A grantor without USAGE on the schema gets it for the moment of its statement."""
    objects, step = pair
    needed = objects.schema is not None and (objects.schema, step.grantor) not in may_enter
    return objects, replace(step, through_schema=needed)


def _with_undeclared(
    scope: Scope, objects: Sequence[ObjectClass], tables: Sequence[ObjectClass], contents: Contents | None
) -> Iterable[ObjectClass]:
    """The columns that carry an ACL, and those that the policy grants on but which have none yet."""
    known: set[tuple[str | None, str | None, str | None]] = set()
    for each in objects:
        if each.column is not None:
            known.add((each.schema, each.name, each.column))
            yield each
    for table in tables:
        if table.kind != TABLE or table.name is None:
            continue
        for grant in scope.grants_on(table):
            existing = (contents.columns if contents else {}).get((table.schema or "", table.name), frozenset())
            for column in grant.columns:
                key = (table.schema, table.name, column)
                if column in existing and key not in known:
                    known.add(key)
                    yield ObjectClass(
                        TABLE, table.owner, (), table.database, table.schema, table.name, (table.name,), column, relkind=table.relkind
                    )


def _statements(database: str | None, steps: Iterable[tuple[ObjectClass, Step]]) -> list[Change]:
    """Merge the steps: grantees of the same class first, then classes with the same grantees, and split into batches."""
    of_class: dict[tuple[ObjectClass, Step], list[str]] = {}
    for objects, step in steps:
        of_class.setdefault((objects, replace(step, grantee="")), []).append(step.grantee)
    merged: dict[tuple[str, str | None, Step, tuple[str, ...], tuple[str, ...]], list[str]] = {}
    columns_of: dict[tuple[str, str | None, Step, tuple[str, ...], str], set[str]] = {}
    for (objects, step), grantees in of_class.items():
        who = tuple(sorted(grantees))
        if objects.column is None:
            kind = PROCEDURE if objects.relkind == PROCEDURE else objects.kind
            merged.setdefault((kind, objects.schema, step, who, ()), []).extend(objects.names or ())
        else:
            columns_of.setdefault((objects.kind, objects.schema, step, who, objects.name or ""), set()).add(objects.column)
    for (kind, schema, step, who, name), columns in columns_of.items():
        merged.setdefault((kind, schema, step, who, tuple(sorted(columns))), []).append(name)
    changes: list[tuple[tuple[Any, ...], Change]] = []
    for (kind, schema, step, who, on_columns), names in merged.items():
        names.sort()
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            order = (_ORDER.index(step.effect), _KIND_ORDER.index(kind), schema or "", who, step.privileges, on_columns, batch)
            changes.append((order, _change(database, kind, schema, step, who, on_columns, batch)))
    return [change for _order, change in sorted(changes, key=lambda pair: pair[0])]


def _change(
    database: str | None,
    kind: str,
    schema: str | None,
    step: Step,
    grantees: Sequence[str],
    columns: Sequence[str],
    names: Sequence[str],
) -> Change:
    sign = "+" if step.effect is Effect.GRANT else "-"
    described = describe(kind, schema, names) + (f" ({', '.join(columns)})" if columns else "")
    option = " WITH GRANT OPTION" if step.grant_option else " GRANT OPTION" if step.effect is Effect.REVOKE_OPTION else ""
    words = f"{', '.join(grantees)}: {described}  " + " ".join(sign + privilege + option for privilege in step.privileges)
    if step.grantor:
        words += f" (granted by {step.grantor})"
    if step.passed_on:
        words += f" (and what it had passed on: {'; '.join(step.passed_on)})"
    each_grantee = len(names) * len(step.privileges) * max(1, len(columns))
    return Change(
        object=described,
        description=words,
        statement=_statement(kind, schema, step, grantees, columns, names),
        database=database,
        effect=step.effect,
        privileges=each_grantee * len(grantees) + len(step.passed_on) * len(names),
        from_roles=0 if step.effect is Effect.GRANT else each_grantee * sum(name != PUBLIC for name in grantees),
        locks=len(names) if kind == LARGE_OBJECT else 0,  # for other kinds GRANT keeps none
    )


def _statement(kind: str, schema: str | None, step: Step, grantees: Sequence[str], columns: Sequence[str], names: Sequence[str]) -> Any:
    target = f" ON {_SQL_KINDS[kind]} "
    on_columns = st.compose(" ({})", st.listed([st.identifier(column) for column in columns])) if columns else st.keywords("")
    privileges = st.listed([st.compose("{}{}", st.keywords(privilege), on_columns) for privilege in step.privileges])
    preposition = " TO " if step.effect is Effect.GRANT else " FROM "
    ending = " WITH GRANT OPTION" if step.grant_option else " CASCADE" if step.passed_on else ""
    statement = st.compose(
        "{} {}{}{}{}{}{}",
        st.keywords(step.effect.value),
        privileges,
        st.keywords(target),
        _all_qualified(kind, schema, tuple(names)),
        st.keywords(preposition),
        st.listed([st.role(grantee) for grantee in grantees]),
        st.keywords(ending),
    )
    if step.grantor is None:
        return statement
    # Only the grantor itself can take back what it gave: GRANTED BY accepts nobody else for privileges on objects.
    taken_back = st.compose("SET LOCAL ROLE {}; {}; RESET ROLE", st.identifier(step.grantor), statement)
    if not step.through_schema:
        return taken_back
    entry = (st.identifier(schema or ""), st.identifier(step.grantor))
    return st.compose("GRANT USAGE ON SCHEMA {0} TO {1}; {2}; REVOKE USAGE ON SCHEMA {0} FROM {1}", *entry, taken_back)


@lru_cache(maxsize=256)
def _all_qualified(kind: str, schema: str | None, names: tuple[str, ...]) -> Any:
    """The names of a batch, which many statements share."""
    return st.remembered(st.listed([qualified(kind, schema, name) for name in names]))


def qualified(kind: str, schema: str | None, name: str) -> Any:
    """The object's name in a statement."""
    if kind in (FUNCTION, PROCEDURE, LARGE_OBJECT):
        return st.keywords(name)  # printed by the server: a signature, an OID
    if kind == PARAMETER:
        return st.identifier(*name.split("."))
    if kind == SCHEMA or schema is None:
        return st.identifier(name)
    return st.identifier(schema, name)


def describe(kind: str, schema: str | None, names: Sequence[str]) -> str:
    """The objects for a person: all names as long as they fit in a line or two."""
    shown = [name if kind in (SCHEMA, FUNCTION, PROCEDURE) or schema is None else f"{schema}.{name}" for name in names]
    if len(shown) > 8:
        return f"{len(shown)} {kind}s {', '.join(shown[:3])} ... {shown[-1]}"
    return f"{kind} {', '.join(shown)}"


def counted(count: int) -> str:
    """'1 object', '2 objects'."""
    return f"{count} object{'s' if count != 1 else ''}"
