# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Monthly partitions of the log: which ones are missing, which ones are too old, and the functions that make them. Pure.

Months are in UTC and counted from the year 0: year * 12 + month - 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.statements import quoted_name
from .model import Function, Partition
from .source import ENTRIES, REFUSE, SAFE_PATH

if TYPE_CHECKING:
    from .model import Database, Log, Sink

DEFAULT = "entries_default"
APPEND_ONLY = "append_only"

# The default partition holds what was written when nobody had made a partition in time. Those records move to their month.
_MAKE_PARTITION = """
DECLARE
 v_from timestamptz := date_trunc('month', a_month::timestamp) AT TIME ZONE 'UTC';
 v_to timestamptz := (date_trunc('month', a_month::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
 v_name text := 'entries_' || to_char(a_month, 'YYYY_MM');
BEGIN
 LOCK TABLE {default} IN ACCESS EXCLUSIVE MODE;
 EXECUTE format('CREATE TABLE {log}.%I (LIKE {entries} INCLUDING DEFAULTS)', v_name);
 IF EXISTS (SELECT FROM {default} d WHERE d.changed_at >= v_from AND d.changed_at < v_to) THEN
  ALTER TABLE {default} DISABLE TRIGGER {append_only};
  EXECUTE format('WITH late AS (DELETE FROM {default} d WHERE d.changed_at >= %L AND d.changed_at < %L RETURNING d.*)'
   ' INSERT INTO {log}.%I SELECT * FROM late', v_from, v_to, v_name);
  ALTER TABLE {default} ENABLE ALWAYS TRIGGER {append_only};
 END IF;
 EXECUTE format('CREATE TRIGGER {append_only} BEFORE UPDATE OR DELETE OR TRUNCATE ON {log}.%I'
  ' FOR EACH STATEMENT EXECUTE FUNCTION {refuse}()', v_name);
 EXECUTE format('ALTER TABLE {log}.%I ENABLE ALWAYS TRIGGER {append_only}', v_name);
 EXECUTE format('ALTER TABLE {entries} ATTACH PARTITION {log}.%I FOR VALUES FROM (%L) TO (%L)', v_name, v_from, v_to);
END
"""

_MAKE_PARTITIONS = """
DECLARE
 v_month timestamp;
 v_months timestamp[];
 v_made integer := 0;
BEGIN
 -- Into an array first: a table that an open query reads cannot be changed.
 v_months := ARRAY(SELECT g FROM generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
   date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => a_months_ahead), interval '1 month') g
  UNION SELECT DISTINCT date_trunc('month', d.changed_at AT TIME ZONE 'UTC') FROM {default} d ORDER BY 1);
 FOREACH v_month IN ARRAY v_months LOOP
  CONTINUE WHEN EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   CROSS JOIN regexp_match(pg_get_expr(c.relpartbound, c.oid), '''(.+?)''.*''(.+?)''') bounds
   WHERE i.inhparent = '{entries}'::regclass AND v_month AT TIME ZONE 'UTC' >= bounds[1]::timestamptz
    AND v_month AT TIME ZONE 'UTC' < bounds[2]::timestamptz);
  PERFORM {log}.make_partition(v_month::date);
  v_made := v_made + 1;
 END LOOP;
 RETURN v_made;
END
"""


def partition_functions(log: Log) -> list[Function]:
    """The functions that make partitions, for the collection and for a scheduler. They run as the owner of the log."""
    names = {
        "log": quoted_name(log.schema),
        "entries": quoted_name(log.schema, ENTRIES),
        "default": quoted_name(log.schema, DEFAULT),
        "refuse": quoted_name(log.schema, REFUSE),
        "append_only": APPEND_ONLY,
    }

    def function(name: str, source: str, arguments: str, returns: str) -> Function:
        for word, text in names.items():
            source = source.replace("{" + word + "}", text)
        return Function(name, source, (SAFE_PATH,), True, False, arguments=arguments, returns=returns)

    return [
        function("make_partition", _MAKE_PARTITION, "a_month date", "void"),
        function("make_partitions", _MAKE_PARTITIONS, "a_months_ahead integer", "integer"),
    ]


def missing_months(log: Log, sink: Sink) -> list[int]:
    """The months from this one on that have no partition, and those of records that are in the default partition."""
    wanted = {*range(sink.month, sink.month + log.months_ahead + 1), *sink.default_months}
    return sorted(month for month in wanted if not any(part.first <= month < part.end for part in sink.partitions))


def expired(database: Database, sink: Sink) -> list[Partition]:
    """The partitions that retention lets go: those that end before the months that are kept beside the current one."""
    if database.retention is None:
        return []
    return [part for part in sink.partitions if part.end <= sink.month - database.retention.months]


def first_day(month: int) -> str:
    """The first day of a month, as SQL writes it."""
    return f"{month // 12:04d}-{month % 12 + 1:02d}-01"


def partition_name(month: int) -> str:
    """The name of the partition of a month."""
    return f"entries_{first_day(month)[:7].replace('-', '_')}"
