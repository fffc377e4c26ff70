# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""(the document, tables as they are, the log's schema as it is) -> Plan. Pure: no connection. The same input gives the same plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.plan import Change, Effect, Plan
from ..core.statements import compose, identifier, joined, keywords, listed, literal
from .model import PREFIX, ROW, STATEMENT, Table, Trigger
from .new_tables import plan_new_tables
from .reading import views_of
from .sink import SinkPlan
from .source import NEW_ROWS, OLD_ROWS, function_name, needs_shape, new_table_functions, recording_function

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from .model import Database, Log, Sink

_EVENTS = {"insert": 4, "delete": 8, "update": 16, "truncate": 32}
_OLD = frozenset({"update", "delete"})
_NEW = frozenset({"insert", "update"})
_EACH_ROW = 1


@dataclass(frozen=True)
class Audited:
    """A table that the document selects, at the top of its partitions, and how it is recorded."""

    table: Table
    level: str
    reason: str | None = None


def audited(database: Database, tables: Iterable[Table]) -> list[Audited]:
    """The tables that the document selects. Partitions belong to the table at their top."""
    found = []
    for table in tables:
        chosen = any(selection.holds(table.schema, table.name) for selection in database.selections)
        if chosen and table.root is None and not table.extension and table.foreign_partition is None:
            found.append(Audited(table, ROW if table.row_level else STATEMENT, table.row_level))
    return found


def wanted_triggers(database: Database, each: Audited, table: Table) -> list[Trigger]:
    """The triggers that a table, or a partition of it, is to have."""
    function = function_name(each.table)
    arguments = (table.shape,) if needs_shape(database, each.table) else ()
    wanted = []
    for event, bit in _EVENTS.items():
        if event == "truncate" and table.kind == "f":
            continue
        row = each.level == ROW and event != "truncate"
        old = OLD_ROWS if not row and event in _OLD else None
        new = NEW_ROWS if not row and event in _NEW else None
        # PostgreSQL makes the triggers for each row in the partitions itself, with the arguments of the parent's.
        clone = row and table.root is not None
        given = (each.table.shape,) if clone and arguments else arguments if event != "truncate" else ()
        wanted.append(Trigger(PREFIX + event, function, bit + (_EACH_ROW if row else 0), "A", old, new, given, True, clone))
    return wanted


def reconcile(database: Database, log: Log, tables: Sequence[Table], sink: Sink) -> Plan:
    """The plan for one database: the log first, then the triggers, then what is no longer needed."""
    schema = sink_plan(database, log, tables, sink)
    return schema.make() + plan_new_tables(database, log, sink) + plan_triggers(database, log, tables) + schema.remove()


def sink_plan(database: Database, log: Log, tables: Sequence[Table], sink: Sink) -> SinkPlan:
    """The plan for the log's schema."""
    mine = audited(database, tables)
    functions = [recording_function(database, each.table, each.level, log) for each in mine]
    functions += new_table_functions(database, log) if database.new_tables else []
    return SinkPlan(database, log, sink, functions, views_of(database, log, [each.table for each in mine]))


def plan_triggers(database: Database, log: Log, tables: Sequence[Table]) -> Plan:
    """The triggers of all tables, and no others that call functions of the log."""
    tops = {each.table.place: each for each in audited(database, tables)}
    changes: list[Change] = []
    for table in sorted(tables, key=lambda table: _position(tops, table)):
        each = tops.get(table.root or table.place)
        wanted = wanted_triggers(database, each, table) if each is not None and not (table.root and table.kind == "f") else []
        changes += _of_table(database.name, log, table, wanted)
    return Plan(tuple(changes))


def _position(tops: Mapping[tuple[str, str], Audited], table: Table) -> tuple[Any, ...]:
    """Where a table comes in the plan: a partition after its parent, but before it where PostgreSQL makes the parent's triggers in it."""
    top = table.root or table.place
    each = tops.get(top)
    by_row = each is not None and each.level == ROW
    return (top, (table.root is None) == by_row, table.place)


def _of_table(database: str, log: Log, table: Table, wanted: Sequence[Trigger]) -> Iterator[Change]:
    there = {trigger.name: trigger for trigger in table.triggers}
    about = f"table {table.label}"
    name = identifier(table.schema, table.name)

    def change(effect: Effect, description: str, *statements: Any) -> Change:
        return Change(about, f"{about}  {description}", joined("; ", statements), database, effect)

    names = {trigger.name for trigger in wanted}
    # What PostgreSQL has made for a partition goes and comes with the trigger of its parent.
    gone = [trigger for trigger in table.triggers if trigger.name not in names and not trigger.clone]
    if gone:
        what = "-audit" if len(gone) == len(table.triggers) else f"-trigger {', '.join(trigger.name for trigger in gone)}"
        yield change(Effect.DROP, what, *(_drop(name, trigger) for trigger in gone))
    missing = [trigger for trigger in wanted if trigger.name not in there and not trigger.clone]
    if missing:
        kind = "for each row" if any(trigger.kind & _EACH_ROW for trigger in wanted) else "for each statement"
        events = ", ".join(trigger.name[len(PREFIX) :].upper() for trigger in missing)
        what = f"+audit {kind}" if len(missing) == len(wanted) else f"+audit of {events}"
        yield change(Effect.CREATE, what, *(statement for trigger in missing for statement in _make(log, name, trigger)))
    for trigger in wanted:
        found = there.get(trigger.name)
        if found is None or found == trigger:
            continue
        if trigger.clone and found.clone and found.enabled != trigger.enabled:
            yield change(Effect.ALTER, f"trigger {trigger.name} was {_state(found)}", _enable(name, trigger))
        elif trigger.clone:
            if not found.clone:
                yield change(Effect.DROP, f"-trigger {trigger.name}, which is not that of its parent", _drop(name, found))
        elif _only_disabled(found, trigger):
            yield change(Effect.ALTER, f"trigger {trigger.name} was {_state(found)}", _enable(name, trigger))
        else:
            # That of a parent goes with it, before this.
            yield change(
                Effect.ALTER,
                f"trigger {trigger.name} is another",
                *([] if found.clone else [_drop(name, found)]),
                *_make(log, name, trigger),
            )


def _state(trigger: Trigger) -> str:
    return {"D": "disabled", "O": "not enabled always", "R": "enabled on replicas alone"}.get(trigger.enabled, trigger.enabled)


def _only_disabled(found: Trigger, wanted: Trigger) -> bool:
    return Trigger(**{**vars(found), "enabled": wanted.enabled}) == wanted


def _drop(table: Any, trigger: Trigger) -> Any:
    return compose("DROP TRIGGER {} ON {}", identifier(trigger.name), table)


def _enable(table: Any, trigger: Trigger) -> Any:
    return compose("ALTER TABLE {} ENABLE ALWAYS TRIGGER {}", table, identifier(trigger.name))


def _make(log: Log, table: Any, trigger: Trigger) -> list[Any]:
    event = trigger.name[len(PREFIX) :].upper()
    pairs = (("OLD TABLE AS", trigger.old_table), ("NEW TABLE AS", trigger.new_table))
    rows = " ".join(f"{words} {rows}" for words, rows in pairs if rows)
    make = compose(
        "CREATE TRIGGER {} AFTER {} ON {}{} FOR EACH {} EXECUTE FUNCTION {}({})",
        identifier(trigger.name),
        keywords(event),
        table,
        keywords(f" REFERENCING {rows}" if rows else ""),
        keywords("ROW" if trigger.kind & _EACH_ROW else "STATEMENT"),
        identifier(log.schema, trigger.function),
        listed(literal(argument) for argument in trigger.arguments),
    )
    return [make, _enable(table, trigger)]
