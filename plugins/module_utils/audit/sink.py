# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of the log: (what is declared, what is there) -> Plan. Pure.

Everything in it is made by and belongs to a role that nobody logs in as. Rows are only added, by the functions of the audited tables.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from ..core.plan import Change, Effect, Plan
from ..core.statements import compose, identifier, joined, keywords, literal, quoted_name, quoted_text, role
from .model import Trigger
from .partitions import APPEND_ONLY, DEFAULT, expired, first_day, missing_months, partition_functions, partition_name
from .reading import reading_functions
from .seals import SEALS, seal_functions
from .source import ENTRIES, HASH_KEY, REFUSE, refusing_function

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ..core.catalog import AclEntry
    from .model import Database, Function, Log, Relation, RoleFacts, Sink
    from .reading import View

# pg_trigger.tgtype of BEFORE UPDATE OR DELETE OR TRUNCATE FOR EACH STATEMENT.
_BEFORE_ANY = 2 + 8 + 16 + 32

# What is in each table, by name. Types are written as the server shows them.
_TABLES: Mapping[str, Mapping[str, str]] = {
    ENTRIES: {
        "id": "bigint NOT NULL",
        "changed_at": "timestamp with time zone NOT NULL",
        "statement_at": "timestamp with time zone NOT NULL",
        "transaction_id": "xid8 NOT NULL",
        "action": '"char" NOT NULL',
        "schema_name": "text NOT NULL",
        "table_name": "text NOT NULL",
        "partition_name": "text",
        "record_id": "text",
        "new_record_id": "text",
        "session_role": "text NOT NULL",
        "effective_role": "text NOT NULL",
        "application_user": "text",
        "tenant": "text",
        "client_address": "inet",
        "application_name": "text",
        "old_values": "json",
        "new_values": "json",
    },
    HASH_KEY: {"secret": "bytea NOT NULL"},
    SEALS: {
        "id": "bigint NOT NULL",
        "sealed_at": "timestamp with time zone NOT NULL",
        "kind": "text NOT NULL",
        "end_transaction": "xid8 NOT NULL",
        "records": "bigint NOT NULL",
        "ids": "bigint[] NOT NULL",
        "digests": "bytea[] NOT NULL",
        "head": "bytea NOT NULL",
    },
}
_PARTITIONED = frozenset({ENTRIES})
_MORE = {
    (ENTRIES, "id"): " GENERATED ALWAYS AS IDENTITY",
    (ENTRIES, "record_id"): ' COLLATE pg_catalog."C"',
    (ENTRIES, "new_record_id"): ' COLLATE pg_catalog."C"',
}
_SECRET = (
    "INSERT INTO {table} SELECT pg_catalog.sha256(pg_catalog.convert_to("
    "pg_catalog.string_agg(pg_catalog.gen_random_uuid()::text, ''), 'UTF8'))"
    " FROM pg_catalog.generate_series(1, 4)"
)
# Name -> what the index is on.
_INDEXES = {
    "entries_transaction": "(transaction_id)",
    "entries_changed_at": "USING brin (changed_at)",
    # Without the table: it would cost every record more than it saves a question.
    "entries_record": "(record_id)",
    "entries_new_record": "(new_record_id) WHERE new_record_id IS NOT NULL",
}


def owner_plan(log: Log, roles: Mapping[str, RoleFacts]) -> Plan:
    """The role that owns the log."""
    if log.owner in roles:
        return Plan()
    about = f"role {log.owner}"
    return Plan((Change(about, f"+{about} (NOLOGIN)", compose("CREATE ROLE {} NOLOGIN", identifier(log.owner)), effect=Effect.CREATE),))


def plan_retention(database: Database, log: Log, sink: Sink, only: str | None = None, rows: int | None = None) -> Plan:
    """Drops the partitions that retention lets go. only: one of them. rows: as many as were exported, or it is not dropped."""
    changes = []
    for part in expired(database, sink):
        if only not in (None, part.name) or database.retention is None:
            continue
        table = identifier(log.schema, part.name)
        check = compose("DO {}", literal(_COUNT.format(table=quoted_name(log.schema, part.name), rows=rows)))
        statements = [
            *([] if rows is None else [check]),
            compose("SELECT {}({})", identifier(log.schema, "seal_drop"), literal(part.name)),
            compose("ALTER TABLE {} DETACH PARTITION {}", identifier(log.schema, ENTRIES), table),
            compose("DROP TABLE {}", table),
        ]
        about = f"schema {log.schema}"
        what = f"{about}  -partition {part.name} (written to {database.retention.directory} first)"
        changes.append(Change(about, what, joined("; ", statements), database.name, Effect.DROP))
    return Plan(tuple(changes))


_COUNT = """BEGIN LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; IF (SELECT pg_catalog.count(*) FROM {table}) <> {rows} THEN
 RAISE 'its records are not those that were exported: run again'; END IF; END"""


class SinkPlan:
    """Plans the schema of one database. functions: those that record the audited tables. views: those by which people read."""

    def __init__(self, database: Database, log: Log, sink: Sink, functions: Iterable[Function], views: Iterable[View]) -> None:
        self._database = database
        self._log = log
        self._sink = sink
        self._functions = {
            function.name: function
            for function in (refusing_function(), *reading_functions(log), *partition_functions(log), *seal_functions(log), *functions)
        }
        self._views = {view.name: view for view in views}
        self._about = f"schema {log.schema}"

    def make(self) -> Plan:
        """What is missing or not as it should be."""
        changes = [*self._schema(), *self._tables(), *self._made_views(), *self._made_functions(), *self._protection(), *self._rights()]
        return Plan((*changes, *self._partitions()))

    def remove(self) -> Plan:
        """Functions and views that no table needs any more. To be done when their triggers are gone."""
        functions = sorted(name for name, each in self._sink.functions.items() if each.trigger and name not in self._functions)
        views = sorted(name for name, each in self._sink.relations.items() if each.kind == "v" and name not in self._views)
        changes = [
            self._change(Effect.DROP, f"-function {name}", compose("DROP FUNCTION {}()", identifier(self._log.schema, name)))
            for name in functions
        ]
        changes += [
            self._change(Effect.DROP, f"-view {name}", compose("DROP VIEW {}", identifier(self._log.schema, name))) for name in views
        ]
        return Plan(tuple(changes))

    def _change(self, effect: Effect, description: str, *statements: Any) -> Change:
        return Change(self._about, f"{self._about}  {description}", joined("; ", statements), self._database.name, effect)

    def _as_owner(self, *statements: Any) -> list[Any]:
        """Statements by the owner, so that nobody's default privileges come into it."""
        return _as(self._log.owner, *statements)

    def _schema(self) -> Iterator[Change]:
        name, owner = identifier(self._log.schema), identifier(self._log.owner)
        if self._sink.owner is None:
            yield self._change(
                Effect.CREATE, f"+schema, owned by {self._log.owner}", compose("CREATE SCHEMA {} AUTHORIZATION {}", name, owner)
            )
        elif self._sink.owner != self._log.owner:
            yield self._change(
                Effect.ALTER, f"owner {self._sink.owner} -> {self._log.owner}", compose("ALTER SCHEMA {} OWNER TO {}", name, owner)
            )

    def _tables(self) -> Iterator[Change]:
        for name, columns in _TABLES.items():
            if name in self._sink.relations:
                yield from self._owned(self._sink.relations[name])
                continue
            table = identifier(self._log.schema, name)
            listed = joined(
                ", ",
                [compose("{} {}", identifier(column), keywords(kind + _MORE.get((name, column), ""))) for column, kind in columns.items()],
            )
            tail = " PARTITION BY RANGE (changed_at)" if name in _PARTITIONED else ""
            statements = [compose("CREATE TABLE {} ({}){}", table, listed, keywords(tail))]
            if name == HASH_KEY:
                statements.append(compose(_SECRET, table=table))
            yield self._change(Effect.CREATE, f"+table {name}", *self._as_owner(*statements))
        for relation in self._sink.relations.values():
            if relation.parent == ENTRIES and relation.kind == "r":
                yield from self._owned(relation)
        entries = identifier(self._log.schema, ENTRIES)
        if DEFAULT not in self._sink.relations:
            statement = compose("CREATE TABLE {} PARTITION OF {} DEFAULT", identifier(self._log.schema, DEFAULT), entries)
            yield self._change(Effect.CREATE, f"+partition {DEFAULT}", *self._as_owner(statement))
        for name, on in _INDEXES.items():
            if name not in self._sink.relations:
                statement = compose("CREATE INDEX {} ON {} {}", identifier(name), entries, keywords(on))
                yield self._change(Effect.CREATE, f"+index {name}", *self._as_owner(statement))

    def _partitions(self) -> Iterator[Change]:
        for month in missing_months(self._log, self._sink):
            statement = compose("SELECT {}({})", identifier(self._log.schema, "make_partition"), literal(first_day(month)))
            late = " (its records are in the default partition)" if month in self._sink.default_months else ""
            yield self._change(Effect.CREATE, f"+partition {partition_name(month)}{late}", statement)

    def _owned(self, relation: Relation) -> Iterator[Change]:
        if relation.owner != self._log.owner:
            kind = keywords("VIEW" if relation.kind == "v" else "TABLE")
            statement = compose("ALTER {} {} OWNER TO {}", kind, identifier(self._log.schema, relation.name), identifier(self._log.owner))
            yield self._change(Effect.ALTER, f"{relation.name}: owner {relation.owner} -> {self._log.owner}", statement)

    def _made_functions(self) -> Iterator[Change]:
        for name, function in sorted(self._functions.items()):
            there = self._sink.functions.get(name)
            if there is not None and _same(there, function) and there.owner == self._log.owner:
                continue
            yield from self._made_function(function, there)

    def _made_function(self, function: Function, there: Function | None) -> Iterator[Change]:
        name = identifier(self._log.schema, function.name)
        signature = compose("{}({})", name, keywords(function.arguments))
        security = "SECURITY DEFINER" if function.definer else "SECURITY INVOKER"
        settings = " ".join("SET {} = {}".format(*setting.split("=", 1)) for setting in function.settings)
        make = compose(
            "CREATE OR REPLACE FUNCTION {} RETURNS {} LANGUAGE plpgsql {} {} {} AS {}",
            signature,
            keywords(function.returns),
            keywords("STABLE" if function.volatility == "s" else "VOLATILE"),
            keywords(security),
            keywords(settings),
            literal(function.source),
        )
        # Whoever may execute it could make it write records of a table of his own.
        close = compose("REVOKE ALL ON FUNCTION {} FROM PUBLIC", signature)
        if there is None:
            yield self._change(Effect.CREATE, f"+function {function.name}", *self._as_owner(make, close))
            return
        before = compose("{}({})", name, keywords(there.arguments))
        first = []
        if (there.arguments, there.returns) != (function.arguments, function.returns):
            first = [compose("DROP FUNCTION {}", before)]
        elif there.owner != self._log.owner:
            first = [compose("ALTER FUNCTION {} OWNER TO {}", before, identifier(self._log.owner))]
        yield self._change(Effect.ALTER, f"function {function.name} is another", *first, *self._as_owner(make, close))

    def _protection(self) -> Iterator[Change]:
        """Keeps rows from being changed or removed, in each partition, too: a statement on one does not fire the trigger of its parent."""
        partitions = [name for name, each in self._sink.relations.items() if each.parent == ENTRIES and each.kind == "r"]
        for name in (ENTRIES, HASH_KEY, SEALS, *sorted({DEFAULT, *partitions})):
            there = self._sink.relations.get(name)
            found = {trigger.name: trigger for trigger in there.triggers} if there else {}
            if found.get(APPEND_ONLY) == Trigger(APPEND_ONLY, REFUSE, _BEFORE_ANY):
                continue
            table, trigger = identifier(self._log.schema, name), identifier(APPEND_ONLY)
            statements = [compose("DROP TRIGGER {} ON {}", trigger, table)] if APPEND_ONLY in found else []
            statements += [
                compose(
                    "CREATE TRIGGER {} BEFORE UPDATE OR DELETE OR TRUNCATE ON {} FOR EACH STATEMENT EXECUTE FUNCTION {}()",
                    trigger,
                    table,
                    identifier(self._log.schema, REFUSE),
                ),
                compose("ALTER TABLE ONLY {} ENABLE ALWAYS TRIGGER {}", table, trigger),
            ]
            word = "is another" if APPEND_ONLY in found else "+"
            yield self._change(
                Effect.ALTER,
                f"{name}: trigger {APPEND_ONLY} {word}" if found else f"{name}: +trigger {APPEND_ONLY}",
                *self._as_owner(*statements),
            )

    def _made_views(self) -> Iterator[Change]:
        for view in self._views.values():
            there = self._sink.relations.get(view.name)
            if there is not None and not self._remade(view):
                yield from self._owned(there)
                continue
            name = identifier(self._log.schema, view.name)
            statements = [] if there is None else [compose("DROP VIEW {}", name)]
            # A filter by tenant comes before every condition of whoever reads.
            statements.append(compose("CREATE VIEW {} WITH (security_barrier) AS {}", name, keywords(view.query)))
            statements.append(compose("DO {}", literal(_comment(view, self._log.schema))))
            yield self._change(
                Effect.CREATE, f"+view {view.name}" if there is None else f"view {view.name} is another", *self._as_owner(*statements)
            )

    def _remade(self, view: View) -> bool:
        """Whether the plan makes the view anew."""
        there = self._sink.relations.get(view.name)
        return there is None or there.comment != _stamp(view.query, there.definition)

    # Who may read it

    def _rights(self) -> Iterator[Change]:
        """Readers see the views, and nobody else anything. What the plan makes anew has no rights yet."""
        schema, database = self._log.schema, self._database
        everyone = sorted({*database.readers, *database.tenant_readers})
        sink = self._sink
        yield from self._grants("", compose("SCHEMA {}", identifier(schema)), sink.owner or self._log.owner, sink.acl, everyone, "USAGE")
        for name, relation in sorted(sink.relations.items()):
            if relation.kind not in ("i", "I") and (relation.kind != "v" or (name in self._views and not self._remade(self._views[name]))):
                kind = keywords("SEQUENCE" if relation.kind == "S" else "TABLE")
                readers = self._views[name].readers if relation.kind == "v" else ()
                target = compose("{} {}", kind, identifier(schema, name))
                yield from self._grants(name, target, relation.owner, relation.acl, readers, "SELECT")
        for name, view in self._views.items():
            if self._remade(view):
                yield from self._grants(name, compose("TABLE {}", identifier(schema, name)), self._log.owner, (), view.readers, "SELECT")
        for name, function in sorted(self._functions.items()):
            target = compose("FUNCTION {}({})", identifier(schema, name), keywords(function.arguments))
            readers = database.readers if function.for_readers else ()
            there = sink.functions.get(name)
            dropped = there is None or (there.arguments, there.returns) != (function.arguments, function.returns)
            if there is None or dropped:
                yield from self._grants(f"function {name}", target, self._log.owner, (), readers, "EXECUTE")
            elif _same(there, function):
                yield from self._grants(f"function {name}", target, there.owner, there.acl or (), readers, "EXECUTE")

    def _grants(
        self, name: str, target: Any, owner: str, acl: Iterable[AclEntry], grantees: Iterable[str], wanted: str
    ) -> Iterator[Change]:
        """Makes one privilege the only one, and these roles the only ones that have it beside the owner.

        What an owner of before had, and what he has granted, goes over to the new one with the object.
        """
        name += ": " if name else ""
        held = {(entry.grantee, entry.privilege): entry for entry in acl if entry.grantee not in (owner, self._log.owner)}
        for (grantee, privilege), entry in sorted(held.items()):
            right = grantee in grantees and privilege == wanted
            if right and not entry.grantable:
                continue
            words, option = (" WITH GRANT OPTION", "GRANT OPTION FOR ") if right else ("", "")
            statement = compose("REVOKE {}{} ON {} FROM {} CASCADE", keywords(option), keywords(privilege), target, role(grantee))
            grantor = self._log.owner if entry.grantor == owner else entry.grantor
            yield self._change(Effect.REVOKE, f"{name}-{privilege}{words} of {grantee}", *_as(grantor, statement))
        for grantee in grantees:
            if (grantee, wanted) not in held:
                statement = compose("GRANT {} ON {} TO {}", keywords(wanted), target, role(grantee))
                yield self._change(Effect.GRANT, f"{name}+{wanted} to {grantee}", *self._as_owner(statement))


def _as(name: str, *statements: Any) -> list[Any]:
    """Statements by another role."""
    return [compose("SET LOCAL ROLE {}", identifier(name)), *statements, keywords("RESET ROLE")]


def _same(there: Function, wanted: Function) -> bool:
    facts = (
        (each.source, sorted(each.settings), each.definer, each.arguments, each.returns, each.volatility, each.language)
        for each in (there, wanted)
    )
    return len({repr(fact) for fact in facts}) == 1


def foreign_tables(sink: Sink) -> list[str]:
    """Tables of the schema with a name of ours and other columns: made by somebody else, or by another version."""
    wrong = []
    for name, columns in _TABLES.items():
        there = sink.relations.get(name)
        shown = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        if there is not None and there.columns != shown:
            wrong.append(name)
    return wrong


def _stamp(written: str, stored: str) -> str:
    """The comment of a view: digests of what was written and, from the server, of what it has become."""
    return f"bulwark.postgresql: {hashlib.sha256(written.encode()).hexdigest()[:32]} {stored[:32]}"


# What the view's definition has become is known to the server alone, once it is there.
_BODY = """BEGIN EXECUTE (SELECT pg_catalog.format('COMMENT ON VIEW %s IS %L', c.oid::pg_catalog.regclass, {start} || pg_catalog.left(
 pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.pg_get_viewdef(c.oid), 'UTF8')), 'hex'), 32))
 FROM pg_catalog.pg_class c WHERE c.oid = {view}::pg_catalog.regclass); END"""


def _comment(view: View, schema: str) -> str:
    return _BODY.format(start=quoted_text(_stamp(view.query, "")), view=quoted_text(quoted_name(schema, view.name)))
