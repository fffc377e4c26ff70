# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job: read everything, plan everything, and only then apply, one transaction a database, each verified before its commit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from ..core.catalog import read_consistently
from ..core.errors import BulwarkError, Mistake, PolicyError
from ..core.plan import Change, Patience, Plan, apply_alone, apply_in_transaction, apply_planned, in_parts, within
from .catalog import read_cluster, refreshed
from .checks import cluster_mistakes, contents_mistakes
from .contents import BULK_KINDS, read_contents, with_names
from .guard import check_revocations, count_existing, lockout_mistakes, missing_rights
from .reconcile import (
    contents_of_new,
    contents_of_template0,
    creation,
    details_of,
    facts_of_new,
    names_needed,
    plan_removals,
    reconcile_cluster,
    reconcile_database,
)
from .reconcile_roles import creator_notes, membership_notes, password_notes, plan_own_password
from .scope import Scope, scope_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..core.database import Database as Session
    from ..core.database import Server
    from .model import Cluster, Contents, Database, Policy


@dataclass(frozen=True)
class Options:
    """How to read the policy and how to apply it.

    iterations: of new SCRAM verifiers, None for the server's own setting. end_sessions: of roles that could not begin them any more.
    """

    mode: str = "managed"
    protected: tuple[str, ...] = ()
    kept_schemas: tuple[str, ...] = ()
    iterations: int | None = None
    max_revoke_share: float = 0.5
    allow_mass_revoke: bool = False
    patience: Patience = field(default_factory=Patience)
    path_prefix: str = ""
    end_sessions: bool = False

    def __post_init__(self) -> None:
        within("scram_iterations", self.iterations, 1, 2**31 - 1)
        within("max_revoke_share", self.max_revoke_share, 0, 1)


@dataclass(frozen=True)
class Planned:
    """The whole plan in its parts, in the order of their execution."""

    before: Plan
    creations: tuple[tuple[Database, Change], ...]
    databases: tuple[tuple[Database, Plan], ...]
    removals: Plan
    own_password: Plan
    notes: tuple[str, ...]
    scope: Scope
    cluster: Cluster

    @property
    def whole(self) -> Plan:
        """All changes in order."""
        plan = self.before + Plan(tuple(change for _database, change in self.creations))
        for _database, part in self.databases:
            plan = plan + part
        return plan + self.removals + self.own_password


_BEFORE, _REMOVALS = "roles and memberships", "removal of roles"

# Who owns a session whose role is gone is only known by its number.
_STALE_SESSIONS = """
SELECT COALESCE(r.rolname::text, 'a role that is gone (OID ' || a.usesysid || ')'), a.datname::text,
 CASE WHEN r.oid IS NULL THEN 'dropped' WHEN NOT r.rolcanlogin THEN 'may not log in' ELSE 'may not connect to the database' END,
 pg_catalog.array_agg(a.pid ORDER BY a.pid)
FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
WHERE a.backend_type = 'client backend' AND a.usesysid IS NOT NULL AND a.datid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
 AND (r.oid IS NULL OR (r.rolname = ANY (%(roles)s) AND NOT r.rolsuper
      AND (NOT r.rolcanlogin OR NOT pg_catalog.has_database_privilege(r.oid, a.datid, 'CONNECT'))))
GROUP BY 1, 2, 3 ORDER BY 1, 2
"""


@dataclass(frozen=True)
class OpenSessions:
    """Sessions of a role in a database that it could not begin now."""

    role: str
    database: str
    reason: str
    pids: list[int]

    def __str__(self) -> str:
        return f"{self.role} ({self.reason}): {len(self.pids)} in {self.database}"


class Convergence:
    """One policy and one server. Opens a session a database, closes each when it is done."""

    def __init__(self, server: Server, policy: Policy, options: Options) -> None:
        self._server = server
        self._policy = policy
        self._options = options
        self._anew: dict[str, Plan] = {}
        self._stale: tuple[OpenSessions, ...] | None = None
        self.executed_data: list[dict[str, Any]] = []  # the plan as it was executed, where that is another one

    def executed(self, planned: Planned) -> Plan:
        """The plan as it was executed: what was planned anew, after somebody else had changed something, is in its place."""
        anew = self._anew
        databases = tuple((each, anew.get(f'database "{each.name}"', part)) for each, part in planned.databases)
        before, removals = anew.get(_BEFORE, planned.before), anew.get(_REMOVALS, planned.removals)
        return replace(planned, before=before, databases=databases, removals=removals).whole

    @property
    def planned_anew(self) -> tuple[str, ...]:
        """The parts of the plan that somebody else's changes have made void."""
        return tuple(self._anew)

    def plan(self) -> Planned:
        """The plan, from read-only transactions. Raises PolicyError with all mistakes, or BulwarkError where a guard refuses."""
        return read_consistently(self._plan)

    def _plan(self) -> Planned:
        with self._server.connect() as session, session.reading():
            cluster = self._read_cluster(session)
        scope = self._scope(cluster)
        mistakes = cluster_mistakes(scope, cluster)
        if mistakes:
            # A plan would make no sense now, but a person wants to hear of all mistakes at once.
            mistakes.extend(self._mistakes_within(scope, cluster))
            raise PolicyError(mistakes, self._options.path_prefix)
        databases: list[tuple[Database, Plan]] = []
        existing = 0
        for database in self._policy.databases:
            part, contents, found = self._plan_database(scope, cluster, database)
            mistakes.extend(found)
            databases.append((database, part))
            existing += count_existing(scope, contents.objects)
        facts = [cluster.databases[each.name] for each in self._policy.databases if each.name in cluster.databases]
        mistakes.extend(lockout_mistakes(scope, cluster, facts))
        if mistakes:
            raise PolicyError(mistakes, self._options.path_prefix)
        planned = Planned(
            before=reconcile_cluster(scope, cluster, self._options.iterations),
            creations=tuple((each, creation(each)) for each in self._policy.databases if each.name not in cluster.databases),
            databases=tuple(databases),
            removals=Plan(tuple(plan_removals(scope, cluster))),
            own_password=Plan(tuple(plan_own_password(scope, cluster, self._options.iterations))),
            notes=(
                *password_notes(scope, cluster),
                *membership_notes(scope, cluster),
                *creator_notes(scope, cluster),
                *_lock_notes(databases, cluster),
            ),
            scope=scope,
            cluster=cluster,
        )
        planned = replace(planned, notes=(*planned.notes, *missing_rights(scope, cluster, planned.whole)))
        check_revocations(planned.whole, existing, self._options.max_revoke_share, self._options.allow_mass_revoke)
        return planned

    def _mistakes_within(self, scope: Scope, cluster: Cluster) -> Iterator[Mistake]:
        for database in self._policy.databases:
            facts = cluster.databases.get(database.name)
            if facts is not None and facts.connectable:
                with self._server.connect(database.name) as session, session.reading():
                    yield from self._mistakes_in(
                        scope, read_contents(session, details_of(scope, database.name), cluster.names), cluster, session
                    )

    def _mistakes_in(self, scope: Scope, contents: Contents, cluster: Cluster, session: Session) -> list[Mistake]:
        mistakes = contents_mistakes(scope, contents)
        if mistakes:  # read again with all names, to tell the nearest
            mistakes = contents_mistakes(
                scope, with_names(session, details_of(scope, contents.database, BULK_KINDS), cluster.names, contents)
            )
        return mistakes

    def _read_cluster(self, session: Session) -> Cluster:
        return read_cluster(session, [role.name for role in self._policy.absent_roles])

    def _scope(self, cluster: Cluster) -> Scope:
        options = self._options
        return scope_of(self._policy, options.mode, cluster, options.protected, options.kept_schemas)

    def _plan_database(self, scope: Scope, cluster: Cluster, database: Database) -> tuple[Plan, Contents, list[Mistake]]:
        facts = cluster.databases.get(database.name)
        if facts is not None:
            with self._server.connect(database.name) as session, session.reading():
                plan, contents = self._plan_session(scope, cluster, database, session)
                found = self._mistakes_in(scope, contents, cluster, session)
            return plan, contents, found
        source = cluster.databases.get(database.template or "template1")
        with self._server.connect(source.name if source and source.connectable else None) as session, session.reading():
            template = read_contents(session, details_of(scope, database.name, BULK_KINDS), cluster.names)
        if source and not source.connectable:
            template = contents_of_template0(template, cluster)
        contents = contents_of_new(template, database.name)
        plan = reconcile_database(scope, cluster, database, facts_of_new(cluster, database), contents)
        return plan, contents, contents_mistakes(scope, contents)

    def _plan_session(self, scope: Scope, cluster: Cluster, database: Database, session: Session) -> tuple[Plan, Contents]:
        """The plan for the database of the session; names are read only where a change needs them."""
        facts = cluster.databases[database.name]
        contents = read_contents(session, details_of(scope, database.name), cluster.names)
        needed = names_needed(scope, cluster, database, facts, contents)
        if needed:
            contents = with_names(session, details_of(scope, database.name, needed), cluster.names, contents)
        return reconcile_database(scope, cluster, database, facts, contents), contents

    def apply(self, planned: Planned) -> int:
        """Execute the plan; returns the number of retries. The error names what a failure leaves undone, part by part."""
        retries = 0
        done: list[str] = []
        with in_parts(done):
            with self._server.connect() as session:
                if planned.before:
                    retries += self._apply_part(_BEFORE, session, planned.before, lambda: self._cluster_left(session))
                    done.append(_BEFORE)
                for database, change in planned.creations:
                    retries += self._create(session, database, change)
                    done.append(f"creation of {change.object}")
            for database, part in planned.databases:
                if part:
                    retries += self._apply_database(planned, database, part, done)
                    done.append(f'database "{database.name}"')
            if planned.removals:
                with self._server.connect() as session:
                    retries += self._apply_part(_REMOVALS, session, planned.removals, lambda: self._removals_left(session))
                done.append(_REMOVALS)
            self.stale_sessions()
            if self._anew:
                with self._server.connect() as session:
                    self.executed_data = self.executed(planned).as_data(session)
            if planned.own_password:  # nothing of the run logs in after this
                with self._server.connect() as session:
                    left = partial(self._own_password_left, session)
                    retries += self._apply_part("the applying role's password", session, planned.own_password, left)
        return retries

    def _apply_part(
        self, name: str, session: Session, part: Plan, left: Callable[[], Plan], check: Callable[[Plan], None] = lambda _plan: None
    ) -> int:
        """check: raises BulwarkError where the part, planned anew, would do what no plan may."""

        def accept(fresh: Plan) -> None:
            check(fresh)
            self._anew[name] = fresh

        return apply_planned(session, part, left, self._options.patience, accept)

    def _create(self, session: Session, database: Database, change: Change) -> int:
        try:
            return apply_alone(session, change, self._options.patience)
        except BulwarkError:
            if session.closed or database.name not in self._read_cluster(session).databases:
                raise
            return 1

    def _cluster_left(self, session: Session) -> Plan:
        cluster = self._read_cluster(session)
        scope = self._scope(cluster)
        mistakes = lockout_mistakes(scope, cluster, ())
        if mistakes:
            raise PolicyError(mistakes, self._options.path_prefix)
        return reconcile_cluster(scope, cluster, self._options.iterations)

    def _removals_left(self, session: Session) -> Plan:
        cluster = self._read_cluster(session)
        return Plan(tuple(plan_removals(self._scope(cluster), cluster)))

    def _own_password_left(self, session: Session) -> Plan:
        cluster = self._read_cluster(session)
        return Plan(tuple(plan_own_password(self._scope(cluster), cluster, self._options.iterations)))

    def _apply_database(self, planned: Planned, database: Database, part: Plan, done: list[str]) -> int:
        with self._server.connect(database.name) as session:
            existing = 0

            def left() -> Plan:
                nonlocal existing
                plan, contents = self._plan_session(planned.scope, refreshed(session, planned.cluster), database, session)
                existing = count_existing(planned.scope, contents.objects)
                return plan

            def check(fresh: Plan) -> None:
                check_revocations(fresh, existing, self._options.max_revoke_share, self._options.allow_mass_revoke)

            retries = 0
            *first, last = part.in_transactions(_most_locks(planned.cluster))
            for number, each in enumerate(first, 1):
                retries += apply_in_transaction(session, each.changes, Plan, self._options.patience)  # the last one is verified for all
                done.append(f'part {number} of {len(first) + 1} of database "{database.name}"')
            return retries + self._apply_part(f'database "{database.name}"', session, last, left, check)

    def stale_sessions(self) -> tuple[OpenSessions, ...]:
        """Sessions of roles of the policy that could not be begun any more, as apply() has found and, where that is asked, ended them."""
        if self._stale is not None:
            return self._stale
        roles = [*(role.name for role in self._policy.roles), *(role.name for role in self._policy.absent_roles)]
        with self._server.connect() as session:
            found = [OpenSessions(*row) for row in session.query(_STALE_SESSIONS, {"roles": roles})]
            if self._options.end_sessions and found and not session.in_recovery():
                pids = [pid for each in found for pid in each.pids]
                session.query("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.unnest(%(pids)s::int[]) pid", {"pids": pids})
        self._stale = tuple(found)
        return self._stale


def _most_locks(cluster: Cluster) -> int:
    """How many locks of the server's table one transaction may take, so that others find room."""
    return cluster.lock_table // 2


def _lock_notes(databases: Iterable[tuple[Database, Plan]], cluster: Cluster) -> Iterator[str]:
    """Which databases are too large for one transaction."""
    for database, plan in databases:
        parts = len(plan.in_transactions(_most_locks(cluster)))
        if parts > 1:
            yield (
                f'database "{database.name}" takes {parts} transactions: one would hold more locks than half of what the server has room'
                f" for ({cluster.lock_table} = max_locks_per_transaction x connections). What is interrupted goes on with the next run"
            )


def summary(planned: Planned) -> str:
    """How much each part of the plan changes, in one line."""
    whole = planned.whole
    return f"{whole.counted()}: {whole.granted} privileges granted, {whole.revoked} revoked"
