# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verifies the log against its seals, and the seals against heads that were kept elsewhere. Reads only, and works on a standby.

It uses no function of the log's schema: whoever edits records may have edited those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.document import Node, value_text
from ..core.errors import Mistake, PolicyError
from ..core.statements import compose, identifier
from .seals import HEAD, RECORD_DIGEST, SEALS
from .source import ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.database import Database

_SETTINGS = "SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO'"

_CHAIN = """
SELECT c.id, c.expected, c.head = c.computed, pg_catalog.encode(c.head, 'hex'), c.records FROM (
 SELECT s.id, s.head, s.records, lag(s.id, 1, 0::bigint) OVER w + 1 AS expected, {head} AS computed
 FROM {{seals}} s WINDOW w AS (ORDER BY s.id)) c ORDER BY c.id
""".format(head=HEAD.replace("{previous}", "lag(s.head, 1, ''::bytea) OVER w"))

# A record is found by its id. What is not sealed yet is not looked at.
_RECORDS = f"""
WITH seals AS MATERIALIZED (SELECT s.id, s.kind, s.ids, s.digests FROM {{seals}} s),
sealed AS (SELECT s.id AS seal, u.id, u.digest FROM seals s CROSS JOIN LATERAL unnest(s.ids, s.digests) u(id, digest)
 WHERE s.kind = 'seal'),
dropped AS (SELECT u.id FROM seals s CROSS JOIN LATERAL unnest(s.ids) u(id) WHERE s.kind = 'drop'),
found AS (SELECT e.id, e.transaction_id, e.tableoid, {RECORD_DIGEST} AS digest FROM {{entries}} e)
SELECT COALESCE(s.id, f.id), s.seal, f.tableoid::regclass::text,
 CASE WHEN f.id IS NULL THEN 'removed' WHEN s.id IS NULL THEN 'added' ELSE 'edited' END
FROM sealed s FULL JOIN found f ON f.id = s.id
WHERE f.id IS NULL AND NOT EXISTS (SELECT FROM dropped d WHERE d.id = s.id)
 OR s.id IS NULL AND f.transaction_id < %(end)s::xid8 OR s.digest <> f.digest
UNION ALL
SELECT e.id, NULL, min(e.tableoid::regclass::text), 'added' FROM {{entries}} e GROUP BY e.id HAVING count(*) > 1
ORDER BY 1, 4 LIMIT %(most)s
"""
_END = "SELECT (SELECT s.end_transaction::text FROM {seals} s ORDER BY s.id DESC LIMIT 1)"
_UNSEALED = "SELECT count(*) FROM {entries} e WHERE e.transaction_id >= %(end)s::xid8"

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_HEAD = re.compile(r"[0-9a-f]{64}")
_MOST = 1000  # problems that are listed


@dataclass(frozen=True)
class Problem:
    """What is wrong. record: the id of a record, seal: of a seal, where it is about one."""

    what: str
    record: int | None = None
    seal: int | None = None
    partition: str | None = None


@dataclass(frozen=True)
class Verified:
    """What a verification found. sealed, unsealed: how many records. head: of the last seal, in hex."""

    problems: tuple[Problem, ...]
    seals: int
    sealed: int
    unsealed: int
    head: str | None


def verify(session: Database, schema: str, heads: Mapping[int, str]) -> Verified:
    """Verify the log of one database, in one snapshot. heads: of seals, by their number, as they were kept elsewhere."""
    with session.reading():
        session.execute(_SETTINGS)
        chain = session.query(_on(schema, _CHAIN))
        end = session.value(_on(schema, _END)) or "0"
        problems = list(_chain_problems(chain, heads))
        for record, seal, partition, what in session.query(_on(schema, _RECORDS), {"end": end, "most": _MOST}):
            problems.append(Problem(f"record {record} was {what}", record, seal, partition))
        unsealed = session.value(_on(schema, _UNSEALED), {"end": end})
    sealed = sum(records for *_rest, records in chain)
    return Verified(tuple(problems), len(chain), sealed, unsealed, chain[-1][3] if chain else None)


def read_heads(document: Mapping[str, Any]) -> dict[str, dict[int, str]]:
    """Heads of seals by database, from a module's option. Raises PolicyError with each entry that is none."""
    mistakes: list[Mistake] = []
    root = Node({"heads": dict(document)}, "", mistakes, ("heads",))
    found: dict[str, dict[int, str]] = {}
    for name, seals, path in root.mapping("heads"):
        found[name] = {}
        if not isinstance(seals, Mapping):
            mistakes.append(Mistake(path, f"must be a mapping of seals to heads, not {value_text(seals)}"))
            continue
        for number, head in seals.items():
            if _NUMBER.fullmatch(str(number)) and isinstance(head, str) and _HEAD.fullmatch(head):
                found[name][int(number)] = head
            else:
                mistakes.append(
                    Mistake(f"{path}.{number}", "must be the number of a seal and its head of 64 hexadecimal digits, in quotes")
                )
    if mistakes:
        raise PolicyError(mistakes)
    return found


def _on(schema: str, query: str) -> Any:
    return compose(query, seals=identifier(schema, SEALS), entries=identifier(schema, ENTRIES))


def _chain_problems(chain: list[tuple[Any, ...]], heads: Mapping[int, str]) -> Iterator[Problem]:
    found: dict[int, str] = {}
    for number, expected, right, head, _records in chain:
        found[number] = head
        for gone in range(expected, number):
            yield Problem(f"seal {gone} was removed", seal=gone)
        if not right and expected == number:
            yield Problem(f"seal {number} was edited, or one was put before it", seal=number)
    for number, head in sorted(heads.items()):
        if number not in found and not any(number < other for other in found):
            yield Problem(f"seal {number}, which is known elsewhere, and what came after it were removed", seal=number)
        elif found.get(number, head) != head:
            yield Problem(f"seal {number} is not the one that is known elsewhere: the chain was written anew", seal=number)
