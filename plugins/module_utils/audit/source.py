# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The functions that write the log: one for each audited table, made of static SQL alone. Pure.

A migration may change a table before the next run. So a function that names columns looks first whether they are still those that it was
made for. If not, it records whole rows, without the key and, in a table with masked columns, with every column hidden that it does not
know.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from ..core.identifiers import MAX_BYTES
from ..core.statements import quoted_name, quoted_text
from .model import EXCLUDE, HASH, MASK, ROW, STATEMENT, Function, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .model import Column, Database, Log

ENTRIES = "entries"
NEW_TABLE = {STATEMENT: "record_new_table", ROW: "record_new_table_by_row"}
HASH_KEY = "hash_key"
REFUSE = "refuse_change"

OLD_ROWS = "old_rows"
NEW_ROWS = "new_rows"

_HIDDEN = "***"
HASHED = "hash:"
_HIDDEN_CHANGED = "*** (changed)"
_ARGUMENTS = 100  # that a function takes

SAFE_PATH = "search_path=pg_catalog, pg_temp"
# Otherwise PostgreSQL may plan each statement anew, which takes as long as to execute it.
_ONE_PLAN = "plan_cache_mode=force_generic_plan"
# What the text of some types depends on. The log is read by sessions with other settings.
_TEXT_SETTINGS = ("DateStyle=iso", "IntervalStyle=postgres", "bytea_output=hex", "extra_float_digits=1")

# The columns of a table as one number; the names and numbers of its columns decide it.
SHAPE = (
    "(SELECT pg_catalog.hashtextextended(COALESCE(pg_catalog.string_agg(y.attnum || ' ' || y.attname, ',' ORDER BY y.attnum), ''), 0)"
    " FROM pg_catalog.pg_attribute y WHERE y.attrelid = {table} AND y.attnum > 0 AND NOT y.attisdropped)::pg_catalog.text"
)

_COLUMNS = (
    "changed_at, statement_at, transaction_id, action, schema_name, table_name, partition_name, record_id, new_record_id,"
    " session_role, effective_role, application_user, tenant, client_address, application_name, old_values, new_values"
)


def function_name(table: Table) -> str:
    """The name of the function of a table: schema.table, with a digest where that is too long or could be another's."""
    name = f"{table.schema}.{table.name}"
    if len(name.encode()) <= MAX_BYTES and name.count(".") == 1:
        return name
    digest = hashlib.sha256(quoted_name(table.schema, table.name).encode()).hexdigest()[:8]
    return f"{name.encode()[: MAX_BYTES - 9].decode(errors='ignore')}_{digest}"


def refusing_function() -> Function:
    """The function that keeps the log append-only."""
    source = (
        "\nBEGIN\n"
        " RAISE insufficient_privilege USING MESSAGE = pg_catalog.format('%s of %I.%I is refused: the audit log is append-only',"
        " TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME);\n"
        "END\n"
    )
    return Function(REFUSE, source, (SAFE_PATH,), False)


def recording_function(database: Database, table: Table, level: str, log: Log) -> Function:
    """The function that records the changes of a table. table: the one at the top, where it is partitioned."""
    body = _Body(database, table, level, log)
    settings = (SAFE_PATH, _ONE_PLAN) if all(column.plain for column in table.columns) else (*_TEXT_SETTINGS, SAFE_PATH, _ONE_PLAN)
    return Function(function_name(table), body.text(), settings, True)


def new_table_functions(database: Database, log: Log) -> list[Function]:
    """The functions that record a table from its creation to the next run, which gives it a function of its own."""
    settings = (*_TEXT_SETTINGS, SAFE_PATH)
    return [Function(name, _NewTable(database, level, log).text(), settings, True) for level, name in NEW_TABLE.items()]


def needs_shape(database: Database, table: Table) -> bool:
    """Whether the function of a table names columns other than those of the key, and its triggers say which columns it was made for."""
    return database.changed_columns_only or bool(masked_columns(database, table))


def masked_columns(database: Database, table: Table) -> Mapping[str, str]:
    """The columns of a table whose values the log does not show."""
    said = next((masking.columns for masking in database.masking if (masking.schema, masking.table) == table.place), {})
    return {**dict.fromkeys(database.encrypted.get(table.place, ()), MASK), **said}


class _Body:
    """Makes the source of one function."""

    def __init__(self, database: Database, table: Table, level: str, log: Log) -> None:
        self._database = database
        self._table = table
        self._log = log
        self._masked = masked_columns(database, table)
        self._by_column = needs_shape(database, table)
        self._row = level == ROW
        self._columns = [column for column in table.columns if not column.virtual]
        names = {column.name for column in self._columns}
        self._number = next(name for name in ("n", *(f"n{count}" for count in range(len(names) + 1))) if name not in names)

    def text(self) -> str:
        """The whole source."""
        lines = ["", "#variable_conflict use_variable", "DECLARE", *self._declarations(), "BEGIN", *self._first()]
        for word, event in (("IF", "INSERT"), ("ELSIF", "UPDATE"), ("ELSIF", "DELETE")):
            lines += [f" {word} TG_OP = '{event}' THEN", self._branch(event)]
        lines += [" ELSE", f"  {self._entry('T')};", " END IF;", " RETURN NULL;", "END", ""]
        return "\n".join(lines)

    def _first(self) -> list[str]:
        """Statements before all others."""
        return []

    def _declarations(self) -> list[str]:
        user, tenant = (quoted_text(name) for name in (self._log.user_setting, self._log.tenant_setting))
        lines = [
            " v_role text := NULLIF(current_setting('role'), 'none');",
            f" v_user text := NULLIF(current_setting({user}, true), '');",
            f" v_tenant text := NULLIF(current_setting({tenant}, true), '');",
            " v_address inet := inet_client_addr();",
            " v_application text := current_setting('application_name');",
        ]
        if self._table.kind == "p":
            lines.append(
                f" v_partition text := CASE WHEN (TG_TABLE_SCHEMA, TG_TABLE_NAME) <> ({quoted_text(self._table.schema)},"
                f" {quoted_text(self._table.name)}) THEN format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME) END;"
            )
        if HASH in self._masked.values():
            lines.append(f" v_secret bytea := (SELECT k.secret FROM {quoted_name(self._log.schema, HASH_KEY)} k);")
        if self._masked:
            lines.append(" v_shown text[];")
        return lines

    def _branch(self, event: str) -> str:
        guard = self._guard()
        if guard is None:
            return f"  {self._statement(event, True)};"
        prepare = f"\n   {self._known_columns()};" if self._masked else ""
        fast, slow = (self._statement(event, fast) for fast in (True, False))
        return f"  IF {guard} THEN\n   {fast};\n  ELSE{prepare}\n   {slow};\n  END IF;"

    def _statement(self, event: str, fast: bool) -> str:
        """The statement that records an event. fast: it names the columns that the function was made for."""
        return {"INSERT": self._insert, "UPDATE": self._update, "DELETE": self._delete}[event](fast)

    def _known_columns(self) -> str:
        """A statement that finds the columns which are not masked and are still what they were."""
        shown = ", ".join(f"({each.number}, {quoted_text(each.name)})" for each in self._columns if each.name not in self._masked)
        found = f"SELECT a.attname FROM pg_attribute a WHERE a.attrelid = TG_RELID AND (a.attnum, a.attname) IN ({shown or '(0, NULL)'})"
        return f"v_shown := ARRAY({found})"

    def _guard(self) -> str | None:
        """A condition that the columns which the fast statement names are there."""
        if self._by_column:
            return f"{SHAPE.format(table='TG_RELID')} = TG_ARGV[0]"
        if self._table.key is None:
            return None
        key = self._table.key
        return " AND ".join(
            f"pg_get_indexdef({key.index}, {position}, false) = {quoted_text(shown)}" for position, shown in enumerate(key.shown, 1)
        )

    # The statements

    def _entry(
        self, action: str, *, key: str = "NULL", new_key: str = "NULL", old: str = "NULL", new: str = "NULL", source: str = ""
    ) -> str:
        values = (
            f"clock_timestamp(), statement_timestamp(), pg_current_xact_id(), '{action}', {', '.join(self._names())},"
            f" {key}, {new_key}, session_user, COALESCE(v_role, session_user),"
            f" v_user, v_tenant, v_address, v_application, {old}, {new}"
        )
        return f"INSERT INTO {quoted_name(self._log.schema, ENTRIES)} ({_COLUMNS})\n    SELECT {values}{source}"

    def _names(self) -> tuple[str, str, str]:
        """Schema and name of the table at the top, and the partition."""
        partition = "v_partition" if self._table.kind == "p" else "NULL"
        return quoted_text(self._table.schema), quoted_text(self._table.name), partition

    def _insert(self, fast: bool) -> str:
        record, source = ("NEW", "") if self._row else ("r", f"\n    FROM {NEW_ROWS} r")
        return self._entry("I", key=self._key(record, fast), new=self._image(record, fast), source=source)

    def _delete(self, fast: bool) -> str:
        record, source = ("OLD", "") if self._row else ("r", f"\n    FROM {OLD_ROWS} r")
        return self._entry("D", key=self._key(record, fast), old=self._image(record, fast), source=source)

    def _update(self, fast: bool) -> str:
        if self._row:
            return self._update_of("OLD", "NEW", fast, "")
        if fast and self._by_column:
            # Both transition tables hold the rows in the order in which they were updated. A full join is never a nested loop, which
            # a plan made for one row would be, and slow for the next statement with many.
            sides = (f"(SELECT row_number() OVER () AS {self._number}, x.* FROM {rows} x)" for rows in (OLD_ROWS, NEW_ROWS))
            old, new = sides
            source = f"\n    FROM {old} o FULL JOIN {new} n ON o.{self._number} = n.{self._number}"
            return self._update_of("o", "n", fast, source)
        whole = ", row_to_json(x.*)::text AS whole" if self._masked and self._database.skip_unchanged else ""
        values = f"row_number() OVER () AS n, {self._key('x', fast)} AS k, {self._image('x', fast)} AS j{whole}"
        parts = [f"(SELECT {values} FROM {rows} x)" for rows in (OLD_ROWS, NEW_ROWS)]
        source = f"\n    FROM {parts[0]} o FULL JOIN {parts[1]} n ON o.n = n.n"
        if self._database.skip_unchanged:
            column = "whole" if self._masked else "j::text"
            source += f"\n    WHERE o.{column} IS DISTINCT FROM n.{column}"
        return self._entry(self._action(fast), key="o.k", new_key="NULLIF(n.k, o.k)", old="o.j", new="n.j", source=source)

    def _update_of(self, old: str, new: str, fast: bool, source: str) -> str:
        by_column = fast and self._by_column
        one, two = self._key(old, fast), self._key(new, fast)
        if by_column:
            images = self._both(old, new)
            changed = " OR ".join(_changed(column, old, new) for column in self._columns) or "false"
        else:
            images = self._image(old, fast), self._image(new, fast)
            changed = "row_to_json(OLD.*)::text IS DISTINCT FROM row_to_json(NEW.*)::text"
        if self._database.skip_unchanged:
            source += f"\n    WHERE {changed}"
        return self._entry(
            self._action(fast),
            key=one,
            new_key="NULL" if one == "NULL" else f"NULLIF({two}, {one})",
            old=images[0],
            new=images[1],
            source=source,
        )

    # Their values

    def _action(self, fast: bool) -> str:
        """The letter of an UPDATE: a small one where the record does not hold whole rows."""
        return "u" if fast and self._database.changed_columns_only else "U"

    def _key(self, record: str, fast: bool) -> str:
        key = self._table.key
        if key is None or not fast:
            return self._unknown_key(record)
        parts = [text.format(_field(record, name)) for text, name in zip(key.text, key.columns)]
        return parts[0] if len(parts) == 1 else f"json_build_array({', '.join(parts)})::text"

    def _unknown_key(self, _record: str) -> str:
        """The key of a table that is no longer the one which the function was made for."""
        return "NULL"

    def _image(self, record: str, fast: bool) -> str:
        """One row as JSON, with the masks."""
        if not self._masked:
            return f"row_to_json({record}.*)"
        if not fast:
            hidden = quoted_text(f'"{_HIDDEN}"')
            return (
                f"(SELECT json_object_agg(e.key, CASE WHEN e.key = ANY (v_shown) THEN e.value ELSE {hidden}::json END)"
                f" FROM json_each(row_to_json({record}.*)) e)"
            )
        return self._as_object(lambda column: self._value(column, record))

    def _as_object(self, value: Callable[[Column], str]) -> str:
        shown = [column for column in self._columns if self._masked.get(column.name) != EXCLUDE]
        fields = ", ".join(f"{value(column)} AS {quoted_name(column.name)}" for column in shown)
        return f"(SELECT row_to_json(m.*) FROM (SELECT {fields}) m)"

    def _value(self, column: Column, record: str, hidden: str = quoted_text(_HIDDEN)) -> str:
        """The value of a column, or what stands for it."""
        field = _field(record, column.name)
        how = self._masked.get(column.name)
        if how is None:
            return field
        if how == HASH:
            text = f"convert_to(to_json({field})::text, 'UTF8')"
            hidden = f"'{HASHED}' || encode(sha256(v_secret || sha256(v_secret || {text})), 'hex')"
        return f"CASE WHEN {field} IS NOT NULL THEN {hidden} END"

    def _both(self, old: str, new: str) -> tuple[str, str]:
        """The images of a row before and after an update."""
        if self._database.changed_columns_only:
            return self._changed_only(old, new, old), self._changed_only(old, new, new)

        def after(column: Column) -> str:
            if self._masked.get(column.name) == HASH:
                return self._value(column, new)
            changed = _changed(column, old, new)
            word = f"CASE WHEN {changed} THEN {quoted_text(_HIDDEN_CHANGED)} ELSE {quoted_text(_HIDDEN)} END"
            return self._value(column, new, word)

        return self._image(old, True), self._as_object(after)

    def _changed_only(self, old: str, new: str, record: str) -> str:
        """The columns that an update has changed, as a JSON object made of text, since no function takes a list of columns that varies."""
        fields = []
        for column in self._columns:
            if self._masked.get(column.name) == EXCLUDE:
                continue
            name = quoted_text(json.dumps(column.name, ensure_ascii=False) + ":")
            value = f"COALESCE(to_json({self._value(column, record)})::text, 'null')"
            fields.append(f"CASE WHEN {_changed(column, old, new)} THEN {name} || {value} END")
        return f"('{{' || {_with_commas(fields)} || '}}')::json"


class _NewTable(_Body):
    """Makes the source of a function for tables that it does not know.

    It records whole rows, and the key by what the table's index says at the time. A masked table may be made anew, under another name,
    too: so every column is hidden whose name is that of a masked one.
    """

    def __init__(self, database: Database, level: str, log: Log) -> None:
        super().__init__(database, Table("", ""), level, log)
        masked = [masking.columns for masking in database.masking]
        names = {column for columns in (*masked, *database.encrypted.values()) for column in columns}
        self._masked = dict.fromkeys(sorted(names), MASK)

    def _declarations(self) -> list[str]:
        keyed = (
            "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(number, position)"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number"
            " WHERE i.indrelid = TG_RELID AND i.indisprimary AND k.position <= i.indnkeyatts ORDER BY k.position"
        )
        return [
            *super()._declarations(),
            f" v_key text[] := ARRAY({keyed});",
            " v_schema text := TG_TABLE_SCHEMA;",
            " v_table text := TG_TABLE_NAME;",
            " v_partition text;",
        ]

    def _first(self) -> list[str]:
        root = (
            " SELECT n.nspname, r.relname, format('%I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME) INTO v_schema, v_table, v_partition"
            "\n  FROM pg_class c JOIN pg_class r ON r.oid = pg_partition_root(c.oid) JOIN pg_namespace n ON n.oid = r.relnamespace"
            "\n  WHERE c.oid = TG_RELID AND c.relispartition;"
        )
        lines = [" IF (SELECT c.relispartition FROM pg_class c WHERE c.oid = TG_RELID) THEN", root, " END IF;"]
        if self._masked:
            hidden = ", ".join(quoted_text(name) for name in self._masked)
            shown = f"SELECT a.attname FROM pg_attribute a WHERE a.attrelid = TG_RELID AND a.attname <> ALL (ARRAY[{hidden}])"
            lines.append(f" v_shown := ARRAY({shown});")
        return lines

    def _branch(self, event: str) -> str:
        return f"  {self._statement(event, False)};"

    def _names(self) -> tuple[str, str, str]:
        return "v_schema", "v_table", "v_partition"

    def _unknown_key(self, record: str) -> str:
        image = self._image(record, False)
        several = f"(SELECT json_agg({image} ->> k.name ORDER BY k.position)::text FROM unnest(v_key) WITH ORDINALITY k(name, position))"
        return f"CASE cardinality(v_key) WHEN 0 THEN NULL WHEN 1 THEN {image} ->> v_key[1] ELSE {several} END"


def _field(record: str, name: str) -> str:
    return f"{record}.{quoted_name(name)}"


def _changed(column: Column, old: str, new: str) -> str:
    one, two = _field(old, column.name), _field(new, column.name)
    # Equal numbers may be written differently, and some types have no equality at all: then what is stored is compared.
    return f"{one} IS DISTINCT FROM {two}" if column.comparable else f"ROW({one})::record *<> ROW({two})::record"


def _with_commas(fields: Sequence[str]) -> str:
    """The fields that are not null, with commas between them."""
    if not fields:
        return "''"
    if len(fields) < _ARGUMENTS:
        return f"concat_ws(',', {', '.join(fields)})"
    step = _ARGUMENTS - 1
    groups = [f"NULLIF({_with_commas(fields[start : start + step])}, '')" for start in range(0, len(fields), step)]
    return _with_commas(groups)
