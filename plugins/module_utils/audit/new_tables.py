# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The event trigger that has new tables recorded from their creation on: (what is declared, what is there) -> Plan. Pure.

The next run gives each such table a function of its own. The function of the event trigger belongs to a superuser: it makes triggers in
the tables of other roles, and PostgreSQL lets nobody else make event triggers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.patterns import sql_pattern
from ..core.plan import Change, Effect, Plan
from ..core.statements import compose, identifier, joined, keywords, literal, quoted_name, quoted_text
from .model import PREFIX, ROW, STATEMENT, EventTrigger
from .source import NEW_ROWS, NEW_TABLE, OLD_ROWS, SAFE_PATH

if TYPE_CHECKING:
    from ..core.selection import Selection
    from .model import Database, Log, Sink

FUNCTION = "cover_new_tables"

# A schema's CREATE TABLE is part of the command that makes the schema.
_TAGS = ("CREATE FOREIGN TABLE", "CREATE SCHEMA", "CREATE TABLE", "CREATE TABLE AS", "IMPORT FOREIGN SCHEMA", "SELECT INTO")

_SOURCE = """
DECLARE
 v_table record;
 v_event text;
 v_name text;
BEGIN
 FOR v_table IN SELECT c.oid, n.nspname, c.relname, c.relkind, c.relkind = 'f' OR NOT c.relispartition
   AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid) AS by_row
  FROM pg_event_trigger_ddl_commands() d JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
   JOIN pg_namespace n ON n.oid = c.relnamespace
   JOIN pg_class r ON r.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid) ELSE c.oid END
   JOIN pg_namespace m ON m.oid = r.relnamespace
  WHERE NOT d.in_extension AND c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND NOT (c.relispartition AND c.relkind = 'f')
   AND ({selected})
 LOOP
  FOREACH v_event IN ARRAY ARRAY['insert', 'update', 'delete', 'truncate'] LOOP
   v_name := {prefix} || v_event;
   -- PostgreSQL itself makes the triggers for each row of a partitioned table in its partitions.
   CONTINUE WHEN v_event = 'truncate' AND v_table.relkind = 'f'
    OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = v_table.oid AND t.tgname = v_name);
   EXECUTE format('CREATE TRIGGER %I AFTER %s ON %I.%I %s FOR EACH %s EXECUTE FUNCTION %s()', v_name, v_event,
    v_table.nspname, v_table.relname,
    CASE WHEN v_table.by_row THEN '' ELSE (array['', 'REFERENCING NEW TABLE AS {new}', 'REFERENCING OLD TABLE AS {old}',
     'REFERENCING OLD TABLE AS {old} NEW TABLE AS {new}'])
     [1 + (v_event IN ('insert', 'update'))::int + 2 * (v_event IN ('delete', 'update'))::int]
    END,
    CASE WHEN v_table.by_row AND v_event <> 'truncate' THEN 'ROW' ELSE 'STATEMENT' END,
    CASE WHEN v_table.by_row THEN {by_row} ELSE {by_statement} END);
   EXECUTE format('ALTER TABLE %I.%I ENABLE ALWAYS TRIGGER %I', v_table.nspname, v_table.relname, v_name);
  END LOOP;
 END LOOP;
END
"""


def event_trigger_name(schema: str) -> str:
    """The name of the event trigger of the log in a schema."""
    return f"{schema}_new_tables"


def event_trigger(database: Database, log: Log) -> EventTrigger:
    """The event trigger as it is to be."""
    words = {
        "selected": " OR ".join(_selected(selection) for selection in database.selections) or "false",
        "prefix": quoted_text(PREFIX),
        "old": OLD_ROWS,
        "new": NEW_ROWS,
        "by_row": quoted_text(quoted_name(log.schema, NEW_TABLE[ROW])),
        "by_statement": quoted_text(quoted_name(log.schema, NEW_TABLE[STATEMENT])),
    }
    source = _SOURCE
    for word, text in words.items():
        source = source.replace("{" + word + "}", text)
    return EventTrigger("ddl_command_end", _TAGS, source, (SAFE_PATH,))


def _selected(selection: Selection) -> str:
    """The condition that a table is selected; a partition is if the table at its top is."""

    def like(names: tuple[str, ...]) -> str:
        return f"r.relname LIKE ANY (ARRAY[{', '.join(quoted_text(sql_pattern(name)) for name in names)}])"

    parts = [f"m.nspname = {quoted_text(selection.schema)}"]
    parts += [like(selection.names)] if selection.names is not None else []
    parts += [f"NOT {like(selection.excluding)}"] if selection.excluding else []
    return f"({' AND '.join(parts)})"


def plan_new_tables(database: Database, log: Log, sink: Sink) -> Plan:
    """Makes the event trigger, or removes it."""
    there, wanted = sink.new_tables, event_trigger(database, log) if database.new_tables else None
    if there == wanted:
        return Plan()
    about = f"event trigger {event_trigger_name(log.schema)}"
    name, function = identifier(event_trigger_name(log.schema)), identifier(log.schema, FUNCTION)
    statements: list[Any] = []
    if there is not None:
        statements.append(compose("DROP EVENT TRIGGER {}", name))
    statements.append(compose("DROP FUNCTION IF EXISTS {}()", function))
    if wanted is not None:
        make = "CREATE FUNCTION {}() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {}"
        tags = keywords(", ".join(quoted_text(tag) for tag in wanted.tags))
        statements += [
            compose(make, function, literal(wanted.source)),
            compose("REVOKE ALL ON FUNCTION {}() FROM PUBLIC", function),
            compose("CREATE EVENT TRIGGER {} ON ddl_command_end WHEN TAG IN ({}) EXECUTE FUNCTION {}()", name, tags, function),
            compose("ALTER EVENT TRIGGER {} ENABLE ALWAYS", name),
        ]
    if wanted is None:
        effect, what = Effect.DROP, f"-{about}"
    else:
        effect, what = (Effect.CREATE, f"+{about}") if there is None else (Effect.ALTER, f"{about} is another")
    return Plan((Change(about, what, joined("; ", statements), database.name, effect),))
