# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What people read the log by: views and functions in its schema. Pure.

None of them depends on an audited table, so that a migration may change or drop every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.statements import quoted_name, quoted_text
from .model import Function
from .source import ENTRIES, HASHED, SAFE_PATH, function_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .model import Database, Log, Table

LOG_VIEW = "audit_log"
TENANT_VIEW = "tenant_log"

# The first columns are those that every audit log has.
_COLUMNS = {
    "id": "e.id",
    "table_name": "e.table_name",
    "record_id": "e.record_id",
    "action": "CASE e.action WHEN 'I' THEN 'INSERT' WHEN 'D' THEN 'DELETE' WHEN 'T' THEN 'TRUNCATE' ELSE 'UPDATE' END",
    "old_values": "e.old_values::pg_catalog.jsonb",
    "new_values": "e.new_values::pg_catalog.jsonb",
    "changed_by": "COALESCE(e.application_user, e.session_role)",
    "changed_at": "e.changed_at",
    "schema_name": "e.schema_name",
    "partition_name": "e.partition_name",
    "new_record_id": "e.new_record_id",
    "whole_row": "e.action <> 'u'",
    "transaction_id": "e.transaction_id",
    "statement_at": "e.statement_at",
    "session_role": "e.session_role",
    "effective_role": "e.effective_role",
    "application_user": "e.application_user",
    "tenant": "e.tenant",
    "client_address": "e.client_address",
    "application_name": "e.application_name",
}
_TYPES = {
    "id": "bigint",
    "old_values": "jsonb",
    "new_values": "jsonb",
    "changed_at": "timestamp with time zone",
    "whole_row": "boolean",
    "transaction_id": "xid8",
    "statement_at": "timestamp with time zone",
    "client_address": "inet",
}


@dataclass(frozen=True)
class View:
    """A view of the log. query: SQL with {log} for its schema. readers: who may SELECT from it."""

    name: str
    query: str
    readers: tuple[str, ...]


def views_of(database: Database, log: Log, tables: Iterable[Table]) -> list[View]:
    """The view of the whole log, that of one tenant, and one for each audited table."""
    listed = ", ".join(f"{expression} AS {name}" for name, expression in _COLUMNS.items())
    entries = quoted_name(log.schema, ENTRIES)
    tenant = f"NULLIF(pg_catalog.current_setting({quoted_text(log.tenant_setting)}, true), '')"
    whole = f"SELECT {listed} FROM {entries} e"
    found = [View(LOG_VIEW, whole, database.readers)]
    if database.tenant_readers:
        found.append(View(TENANT_VIEW, f"{whole} WHERE e.tenant = (SELECT {tenant})", database.tenant_readers))
    return found + [View(function_name(table), _of_table(table, entries), database.readers) for table in tables]


def _of_table(table: Table, entries: str) -> str:
    """One column of text for each of the table's: what the row was after the change, or before a DELETE."""
    columns = [column.name for column in table.columns]
    own = {
        "audit_id": "e.id",
        "audit_action": _COLUMNS["action"],
        "audit_changed_at": "e.changed_at",
        "audit_changed_by": _COLUMNS["changed_by"],
        "audit_transaction_id": "e.transaction_id",
        "audit_record_id": "e.record_id",
    }
    parts = [f"{expression} AS {quoted_name(_free(name, columns))}" for name, expression in own.items()]
    parts += [f"COALESCE(e.new_values, e.old_values) ->> {quoted_text(name)} AS {quoted_name(name)}" for name in columns]
    where = f"e.schema_name = {quoted_text(table.schema)} AND e.table_name = {quoted_text(table.name)}"
    return f"SELECT {', '.join(parts)} FROM {entries} e WHERE {where}"


def _free(name: str, taken: Iterable[str]) -> str:
    return _free(name + "_", taken) if name in taken else name


# The table as a user writes it, with or without its schema, in the parts of SQL that the functions below share.
_PLACE = "l.table_name = v_place[cardinality(v_place)] AND (cardinality(v_place) = 1 OR l.schema_name = v_place[1])"

# What stands in the log for a value that it does not hold.
_MASKED = rf"^(\*\*\*( \(changed\))?|{HASHED}[0-9a-f]{{64}})$"

_HISTORY = """
#variable_conflict use_column
DECLARE
 v_place text[] := parse_ident(a_table);
 v_key text := a_record_id;
 v_until bigint := 9223372036854775807;
 v_keys text[] := '{}';
 v_untils bigint[] := '{}';
BEGIN
 -- From the key that is asked for back to those that the row had before.
 LOOP
  v_keys := v_keys || v_key;
  v_untils := v_untils || v_until;
  SELECT l.record_id, l.id INTO v_key, v_until FROM {view} l
   WHERE {place} AND l.new_record_id = v_key AND l.id < v_until ORDER BY l.id DESC LIMIT 1;
  EXIT WHEN NOT FOUND;
 END LOOP;
 RETURN QUERY SELECT l.* FROM {view} l
  WHERE {place} AND (l.record_id = ANY (v_keys) OR l.new_record_id = ANY (v_keys))
   AND EXISTS (SELECT FROM unnest(v_keys, v_untils) k(key, until) WHERE k.key IN (l.record_id, l.new_record_id) AND l.id <= k.until)
  ORDER BY l.id;
END
"""

_ROW_AT = """
DECLARE
 v_place text[] := parse_ident(a_table);
 v_last record;
 v_first bigint;
BEGIN
 SELECT l.id, l.action, l.record_id, l.new_record_id INTO v_last FROM {view} l
  WHERE {place} AND a_record_id IN (l.record_id, l.new_record_id) AND l.changed_at <= a_time ORDER BY l.id DESC LIMIT 1;
 IF NOT FOUND OR v_last.action = 'DELETE' OR COALESCE(v_last.new_record_id, v_last.record_id) <> a_record_id THEN
  RETURN NULL;
 END IF;
 PERFORM FROM {view} l WHERE {place} AND l.action = 'TRUNCATE' AND l.partition_name IS NULL AND l.id > v_last.id AND l.changed_at <= a_time;
 IF FOUND THEN
  RETURN NULL;
 END IF;
 SELECT max(h.id) INTO v_first FROM {log}.history(a_table, a_record_id) h
  WHERE h.id <= v_last.id AND h.whole_row AND h.new_values IS NOT NULL;
 -- Where only the changed columns are recorded, each record adds its own.
 RETURN (SELECT jsonb_object_agg(e.key, e.value ORDER BY h.id) FROM {log}.history(a_table, a_record_id) h, jsonb_each(h.new_values) e
  WHERE h.id BETWEEN COALESCE(v_first, 0) AND v_last.id);
END
"""

_UNDO = """
DECLARE
 v record;
 v_table regclass;
 v_key text[];
 v_where text;
 v_columns text;
 v_sets text;
 v_masked text;
 v_parts text[];
BEGIN
 RETURN NEXT format('-- Undoes transaction %s. Nothing has been run: read it, then run it in psql.', a_transaction);
 RETURN NEXT 'BEGIN;';
 FOR v IN SELECT l.*, COALESCE(l.new_record_id, l.record_id) AS now_id, COALESCE(l.new_values, l.old_values) AS now_values
  FROM {view} l WHERE l.transaction_id = a_transaction ORDER BY l.id DESC
 LOOP
  RETURN NEXT format('-- %s: %s of %I.%I %s by %s', v.id, v.action, v.schema_name, v.table_name, v.record_id, v.changed_by);
  v_table := (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE n.nspname = v.schema_name AND c.relname = v.table_name AND c.relkind IN ('r', 'p', 'f'));
  IF v.action = 'TRUNCATE' THEN
   RETURN NEXT '-- cannot be undone from the log: it does not hold the rows';
   CONTINUE;
  ELSIF v_table IS NULL THEN
   RETURN NEXT '-- cannot be undone: the table is not there any more';
   CONTINUE;
  END IF;
  -- The columns of the key, in its order.
  v_key := (SELECT array_agg(a.attname::text ORDER BY k.position) FROM pg_index i
   CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(number, position) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
   WHERE i.indexrelid = (SELECT x.indexrelid FROM pg_index x WHERE x.indrelid = v_table AND x.indisunique AND x.indisvalid
     AND x.indpred IS NULL AND x.indexprs IS NULL AND NOT EXISTS (SELECT FROM pg_attribute n
      WHERE n.attrelid = v_table AND n.attnum = ANY (x.indkey) AND NOT n.attnotnull)
     ORDER BY x.indisprimary DESC, x.indexrelid LIMIT 1) AND k.position <= i.indnkeyatts);
  IF v_key IS NOT NULL AND v.now_id IS NOT NULL THEN
   v_parts := CASE WHEN cardinality(v_key) = 1 THEN ARRAY[v.now_id] ELSE ARRAY(SELECT jsonb_array_elements_text(v.now_id::jsonb)) END;
   v_where := (SELECT string_agg(format('t.%I = %L', k.name, k.value), ' AND ') FROM unnest(v_key, v_parts) k(name, value));
  ELSE
   v_where := format('t.ctid = (SELECT s.ctid FROM %s s WHERE to_jsonb(s.*) @> %L LIMIT 1)', v_table, v.now_values);
  END IF;
  v_masked := (SELECT string_agg(quote_ident(o.key), ', ' ORDER BY o.key) FROM jsonb_each_text(v.old_values) o WHERE o.value ~ '{masked}'
   AND (v.action = 'DELETE' OR NOT v.whole_row OR v.new_values ->> o.key IS DISTINCT FROM o.value));
  IF v_masked IS NOT NULL THEN
   RETURN NEXT format('-- not in the log, and so not restored: %s', v_masked);
  END IF;
  SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
    string_agg(format('%I = r.%I', a.attname, a.attname), ', ' ORDER BY a.attnum)
   INTO v_columns, v_sets FROM pg_attribute a JOIN jsonb_each_text(v.old_values) o ON o.key = a.attname
   WHERE a.attrelid = v_table AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND COALESCE(o.value, '') !~ '{masked}'
    AND (v.action = 'DELETE' OR a.attidentity <> 'a' OR v.new_record_id IS NOT NULL)
    AND (v.action = 'DELETE' OR v.new_values -> a.attname IS DISTINCT FROM v.old_values -> a.attname);
  IF v.action = 'INSERT' THEN
   RETURN NEXT format('DELETE FROM %s t WHERE %s;', v_table, v_where);
  ELSIF v_columns IS NULL THEN
   RETURN NEXT '-- changed nothing that can be restored';
  ELSIF v.action = 'DELETE' THEN
   RETURN NEXT format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM jsonb_populate_record(NULL::%s, %L) r;',
    v_table, v_columns, v_columns, v_table, v.old_values);
  ELSE
   RETURN NEXT format('UPDATE %s t SET %s FROM jsonb_populate_record(NULL::%s, %L) r WHERE %s;',
    v_table, v_sets, v_table, v.old_values, v_where);
  END IF;
 END LOOP;
 RETURN NEXT 'COMMIT;';
END
"""


def reading_functions(log: Log) -> list[Function]:
    """The functions that answer questions about the log. They see what whoever calls them may see."""
    names = {"log": quoted_name(log.schema), "view": quoted_name(log.schema, LOG_VIEW), "place": _PLACE, "masked": _MASKED}
    columns = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in _COLUMNS)

    def function(name: str, source: str, arguments: str, returns: str) -> Function:
        for word, text in names.items():
            source = source.replace("{" + word + "}", text)
        return Function(name, source, (SAFE_PATH,), False, False, arguments=arguments, returns=returns, volatility="s", for_readers=True)

    at = "a_table text, a_record_id text, a_time timestamp with time zone"
    return [
        function("history", _HISTORY, "a_table text, a_record_id text", f"TABLE({columns})"),
        function("row_at", _ROW_AT, at, "jsonb"),
        function("undo", _UNDO, "a_transaction xid8", "SETOF text"),
    ]
