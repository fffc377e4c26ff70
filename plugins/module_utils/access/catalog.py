# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what belongs to the whole server: roles, memberships, databases, tablespaces, parameter privileges. Allowed in a read-only session.

A NULL ACL stands for the built-in default, so acldefault() takes its place (PostgreSQL documentation, "Privileges").
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..core.catalog import exploded, read_acl, role_names
from ..core.parameters import split_setting
from .model import PARAMETER, TABLESPACE, Cluster, DatabaseFacts, Holding, Membership, ObjectClass, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..core.database import Database


BOOTSTRAP_SUPERUSER = 10  # the OID of the role that initdb made


# How many locks all sessions together may hold; PostgreSQL keeps a little more room.
_LOCK_TABLE = """
SELECT pg_catalog.current_setting('max_locks_per_transaction')::bigint
 * (pg_catalog.current_setting('max_connections')::bigint + pg_catalog.current_setting('max_prepared_transactions')::bigint)
"""


def read_cluster(database: Database, removable: Iterable[str] = ()) -> Cluster:
    """Roles, memberships, databases, tablespaces and parameter privileges. removable: roles whose possessions to list."""
    names = role_names(database)
    readable = bool(database.value("SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')"))
    iterations = database.query("SELECT setting::int FROM pg_catalog.pg_settings WHERE name = 'scram_iterations'")
    return Cluster(
        names=names,
        version=database.server_version,
        in_recovery=database.in_recovery(),
        applying=str(database.value("SELECT session_user")),
        bootstrap=names[BOOTSTRAP_SUPERUSER],
        roles=_roles(database, names, readable),
        memberships=_memberships(database, names),
        databases=_databases(database, names),
        objects=tuple(_cluster_objects(database, names)),
        scram_iterations=iterations[0][0] if iterations else 4096,
        passwords_readable=readable,
        parameters=frozenset(name for (name,) in database.query("SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings")),
        encodings=frozenset(
            name
            for (name,) in database.query(
                "SELECT pg_catalog.pg_encoding_to_char(number) FROM pg_catalog.generate_series(0, 34) number WHERE "
                "pg_catalog.pg_encoding_to_char(number) <> ''"
            )
        ),
        holdings=_holdings(database, sorted(removable)),
        sessions=int(
            database.value("SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE usename = session_user AND datname IS NOT NULL")
        ),
        login_password=database.login_password,
        lock_table=int(database.value(_LOCK_TABLE)),
    )


def refreshed(database: Database, cluster: Cluster) -> Cluster:
    """The cluster as it is now, as far as a plan for the connected database looks at it.

    Role names, their settings, and the database itself.
    """
    names = role_names(database)
    settings = _role_settings(database, names)
    roles = {name: replace(cluster.roles.get(name, Role(name)), settings=settings.get(name, {})) for name in names.values()}
    return replace(cluster, names=names, roles=roles, databases={**cluster.databases, **_databases(database, names, database.name)})


def _roles(database: Database, names: Mapping[int, str], readable: bool) -> dict[str, Role]:
    settings = _role_settings(database, names)
    table, password = ("pg_authid", "coalesce(r.rolpassword, '')") if readable else ("pg_roles", "NULL")
    rows = database.query(
        "SELECT r.rolname, r.rolcanlogin, r.rolsuper, r.rolcreatedb, r.rolcreaterole, r.rolinherit, r.rolreplication, r.rolbypassrls,"
        " r.rolconnlimit, CASE WHEN NOT isfinite(r.rolvaliduntil) THEN r.rolvaliduntil::text WHEN r.rolvaliduntil IS NULL THEN 'infinity'"
        " ELSE (extract(epoch FROM r.rolvaliduntil) * 1000000)::numeric(40, 0)::text END,"
        f" pg_catalog.shobj_description(r.oid, 'pg_authid'), {password} FROM pg_catalog.{table} r ORDER BY r.rolname"
    )
    return {
        row[0]: Role(
            name=row[0],
            login=row[1],
            superuser=row[2],
            createdb=row[3],
            createrole=row[4],
            inherit=row[5],
            replication=row[6],
            bypassrls=row[7],
            connection_limit=row[8],
            valid_until=row[9],
            comment=row[10],
            password=row[11],
            settings=settings.get(row[0], {}),
        )
        for row in rows
    }


def _role_settings(database: Database, names: Mapping[int, str]) -> dict[str, dict[tuple[str | None, str], object]]:
    settings: dict[str, dict[tuple[str | None, str], object]] = {}
    for role, place, items in database.query(
        "SELECT s.setrole::bigint, d.datname, s.setconfig FROM pg_catalog.pg_db_role_setting s"
        " LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase WHERE s.setrole <> 0"
    ):
        of_role = settings.setdefault(names[role], {})
        for item in items:
            name, _equals, value = item.partition("=")
            of_role[(place, name)] = split_setting(name, value)
    return settings


def _memberships(database: Database, names: Mapping[int, str]) -> tuple[Membership, ...]:
    options = "m.inherit_option, m.set_option" if database.major >= 16 else "NULL, NULL"
    rows = database.query(
        f"SELECT m.roleid::bigint, m.member::bigint, m.grantor::bigint, m.admin_option, {options} FROM pg_catalog.pg_auth_members m"
    )
    found = (
        Membership(
            role=names[role],
            member=names[member],
            grantor=names.get(grantor) if database.major >= 16 else None,
            admin=admin,
            inherit=inherit,
            set=set_option,
        )
        for role, member, grantor, admin, inherit, set_option in rows
    )
    return tuple(sorted(found, key=lambda entry: (entry.member, entry.role, entry.grantor or "")))


def _databases(database: Database, names: Mapping[int, str], only: str | None = None) -> dict[str, DatabaseFacts]:
    rows = database.query(
        "SELECT d.datname, d.datdba::bigint, "
        + exploded("coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))")
        + ", pg_catalog.shobj_description(d.oid, 'pg_database'), d.datallowconn, d.datistemplate"
        " FROM pg_catalog.pg_database d WHERE %(only)s IS NULL OR d.datname = %(only)s ORDER BY d.datname",
        {"only": only},
    )
    found = (
        DatabaseFacts(name, names[owner], read_acl(acl, names), comment, connectable, template)
        for name, owner, acl, comment, connectable, template in rows
    )
    return {facts.name: facts for facts in found}


def _cluster_objects(database: Database, names: Mapping[int, str]) -> Iterable[ObjectClass]:
    for name, owner, acl in database.query(
        "SELECT t.spcname, t.spcowner::bigint, "
        + exploded("coalesce(t.spcacl, pg_catalog.acldefault('t', t.spcowner))")
        + " FROM pg_catalog.pg_tablespace t ORDER BY t.spcname"
    ):
        yield ObjectClass(TABLESPACE, names[owner], read_acl(acl, names), name=name, names=(name,))
    if database.major >= 15:
        for name, acl in database.query(
            "SELECT p.parname, " + exploded("p.paracl") + " FROM pg_catalog.pg_parameter_acl p ORDER BY p.parname"
        ):
            yield ObjectClass(PARAMETER, names[BOOTSTRAP_SUPERUSER], read_acl(acl, names), name=name, names=(name,))


def _holdings(database: Database, roles: Sequence[str]) -> tuple[Holding, ...]:
    if not roles:
        return ()
    rows = database.query(
        "SELECT r.rolname, CASE WHEN s.classid = 'pg_catalog.pg_default_acl'::pg_catalog.regclass THEN 'granted'"
        " WHEN s.classid = 'pg_catalog.pg_user_mapping'::pg_catalog.regclass THEN 'mapping' WHEN s.deptype = 'o' THEN 'owns'"
        " WHEN s.deptype = 'r' THEN 'policy' ELSE 'granted' END, d.datname, count(*)"
        " FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_roles r ON s.refclassid = "
        "'pg_catalog.pg_authid'::pg_catalog.regclass AND r.oid = s.refobjid"
        " LEFT JOIN pg_catalog.pg_database d ON d.oid = s.dbid WHERE r.rolname = ANY(%(roles)s) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3",
        {"roles": list(roles)},
    )
    return tuple(Holding(*row) for row in rows)
