# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seals: digests of the records of finished transactions, each chained to the one before. Pure.

Writers are not held up, since nobody but the sealing job looks at the chain. The job takes the transactions from the last seal up to the
oldest one that is still running, so that nothing can be added to them any more. It goes by transactions, not by ids, which are drawn before
a commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.statements import quoted_name
from .model import Function
from .source import ENTRIES, SAFE_PATH

if TYPE_CHECKING:
    from .model import Log

SEALS = "seals"
SEGMENT = 50_000  # records of a seal, or one transaction where that has more

# What the text of a record depends on.
TEXT_SETTINGS = ("TimeZone=utc", "DateStyle=iso")

# The digest of a record e: of everything that it says.
RECORD_DIGEST = (
    "sha256(convert_to(ROW(e.id, e.changed_at, e.statement_at, e.transaction_id, e.action, e.schema_name, e.table_name, e.partition_name,"
    " e.record_id, e.new_record_id, e.session_role, e.effective_role, e.application_user, e.tenant, e.client_address, e.application_name,"
    " e.old_values, e.new_values)::text, 'UTF8'))"
)

# The head of a seal s: of the head before it and of everything that the seal says.
HEAD = (
    "sha256({previous} || convert_to(ROW(s.id, s.sealed_at, s.kind, s.end_transaction, s.records, s.ids)::text, 'UTF8')"
    " || (SELECT COALESCE(string_agg(u.digest, ''::bytea ORDER BY u.n), ''::bytea) FROM unnest(s.digests) WITH ORDINALITY u(digest, n)))"
)

_CHAIN = """
 INSERT INTO {seals} SELECT s.*, {head} FROM (SELECT v_id + 1 AS id, clock_timestamp() AS sealed_at, {kind} AS kind,
  v_end AS end_transaction, cardinality(v_ids) AS records, v_ids AS ids, v_digests AS digests) s;
"""

_SEAL = """
DECLARE
 v_horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
 v_id bigint;
 v_first xid8;
 v_end xid8;
 v_previous bytea;
 v_ids bigint[];
 v_digests bytea[];
 v_made integer := 0;
BEGIN
 -- One job at a time; the statements that follow see what the one before has made.
 LOCK TABLE {seals} IN SHARE ROW EXCLUSIVE MODE;
 LOOP
  SELECT s.id, s.end_transaction, s.head INTO v_id, v_end, v_previous FROM {seals} s ORDER BY s.id DESC LIMIT 1;
  IF NOT FOUND THEN
   v_id := 0; v_end := '0'; v_previous := '';
  END IF;
  v_first := (SELECT e.transaction_id FROM {entries} e WHERE e.transaction_id >= v_end AND e.transaction_id < v_horizon
   ORDER BY e.transaction_id LIMIT 1);
  EXIT WHEN v_first IS NULL;
  -- Where the next seal begins: whole transactions only.
  v_end := (SELECT e.transaction_id FROM {entries} e WHERE e.transaction_id >= v_first AND e.transaction_id < v_horizon
   ORDER BY e.transaction_id OFFSET {segment} LIMIT 1);
  IF v_end = v_first THEN
   v_end := (SELECT e.transaction_id FROM {entries} e WHERE e.transaction_id > v_first AND e.transaction_id < v_horizon
    ORDER BY e.transaction_id LIMIT 1);
  END IF;
  v_end := COALESCE(v_end, v_horizon);
  SELECT array_agg(e.id ORDER BY e.id), array_agg({digest} ORDER BY e.id) INTO v_ids, v_digests
   FROM {entries} e WHERE e.transaction_id >= v_first AND e.transaction_id < v_end;
{chain}  v_made := v_made + 1;
 END LOOP;
 RETURN v_made;
END
"""

# A partition that is dropped leaves a link of the chain that names its records, so that their absence is no gap.
_SEAL_DROP = """
DECLARE
 v_id bigint;
 v_end xid8;
 v_previous bytea;
 v_ids bigint[];
 v_digests bytea[] := '{}';
BEGIN
 IF NOT EXISTS (SELECT FROM {seals}) THEN
  RETURN;
 END IF;
 PERFORM {log}.seal();
 SELECT s.id, s.end_transaction, s.head INTO v_id, v_end, v_previous FROM {seals} s ORDER BY s.id DESC LIMIT 1;
 EXECUTE format('SELECT array_agg(e.id ORDER BY e.id) FROM {log}.%I e', a_partition) INTO v_ids;
 IF v_ids IS NULL THEN
  RETURN;
 END IF;
 IF EXISTS (SELECT FROM {entries} e WHERE e.id = ANY (v_ids) AND e.transaction_id >= v_end) THEN
  RAISE '% holds records that cannot be sealed yet, since an older transaction is still running', a_partition;
 END IF;
{chain}END
"""


def seal_functions(log: Log) -> list[Function]:
    """The functions that seal, for the collection and for a scheduler. They run as the owner of the log."""
    names = {"log": quoted_name(log.schema), "entries": quoted_name(log.schema, ENTRIES), "seals": quoted_name(log.schema, SEALS)}

    def function(name: str, source: str, kind: str, arguments: str, returns: str) -> Function:
        source = source.replace("{chain}", _CHAIN.strip("\n") + "\n").replace("{kind}", f"'{kind}'")
        parts = {"head": HEAD.replace("{previous}", "v_previous"), "digest": RECORD_DIGEST, "segment": str(SEGMENT), **names}
        for word, text in parts.items():
            source = source.replace("{" + word + "}", text)
        return Function(name, source, (*TEXT_SETTINGS, SAFE_PATH), True, False, arguments=arguments, returns=returns)

    return [
        function("seal", _SEAL, "seal", "", "integer"),
        function("seal_drop", _SEAL_DROP, "drop", "a_partition text", "void"),
    ]
