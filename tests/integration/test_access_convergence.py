# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_access on real servers: what it reaches, what a second run finds, what it leaves alone."""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import time
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.catalog import read_cluster
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.converge import Convergence
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Database, StatementError
from tests.integration.module import Playbook, apply, converge, finished, info, plan, process, refused, run, unchanged
from tests.integration.oracle import Promise, broken, state
from tests.integration.sql import database_fingerprint, execute, fingerprint, ident, query, session, value
from tests.integration.world import DATABASE, ODD, statements, things
from tests.servers import majors

if TYPE_CHECKING:
    from pathlib import Path

THREE_USERS: dict[str, Any] = {
    "roles": {"app_service": {"login": True}, "migration_user": {"login": True}, "readonly_user": {"login": True}},
    "databases": {
        "shop": {
            "schemas": {
                "app": {
                    "owner": "migration_user",
                    "profiles": {"app_service": "app_service", "migration_user": "migration", "readonly_user": "readonly"},
                }
            }
        }
    },
}


def allowed(server: Any, role: str, statement: str, db: str = "shop") -> bool:
    """Whether a role that logs in may run a statement, which is rolled back."""
    with session(server, db, role) as connection:
        connection.autocommit = False
        try:
            connection.cursor().execute(statement)
        except psycopg2.errors.InsufficientPrivilege:
            return False
        finally:
            connection.rollback()
    return True


def in_shop(**schema: Any) -> dict[str, Any]:
    """A policy with the roles r and s and one schema of one database."""
    return {"roles": {"r": {}, "s": {}}, "databases": {"shop": {"schemas": {"app": schema}}}}


@pytest.fixture
def shop(cluster: Any) -> Any:
    """A server with the database shop, its schema app, a table t and the login roles r and s."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE r", "CREATE ROLE s", "CREATE ROLE other LOGIN")
    execute(cluster, "CREATE SCHEMA app; CREATE TABLE app.t (id int, name text); GRANT USAGE ON SCHEMA app TO PUBLIC", db="shop")
    return cluster


@pytest.fixture
def world(cluster: Any) -> Any:
    """A server with an object of every kind."""
    execute(cluster, f"CREATE DATABASE {ident(DATABASE)}", "CREATE ROLE stranger LOGIN")
    execute(cluster, *statements(), db=DATABASE)
    return cluster


# --- the whole way -------------------------------------------------------------------------------------------------------------------


def test_three_least_privilege_users_from_nothing(cluster: Any) -> None:
    converge(cluster, THREE_USERS)
    execute(cluster, "CREATE TABLE app.orders (id bigint GENERATED ALWAYS AS IDENTITY, item text)", db="shop", user="migration_user")
    execute(cluster, "CREATE TABLE app.notes (id serial, note text)", db="shop", user="migration_user")
    execute(cluster, "CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", db="shop", user="migration_user")
    unchanged(cluster, THREE_USERS)
    for statement in ("SELECT * FROM app.orders", "INSERT INTO app.notes (note) VALUES ('x')", "UPDATE app.orders SET item = ''", "DELETE FROM app.notes"):
        assert allowed(cluster, "app_service", statement), statement
    for statement in (
        "TRUNCATE app.orders",
        "DROP TABLE app.orders",
        "ALTER TABLE app.orders ADD x int",
        "CREATE TABLE app.x ()",
        "CREATE TABLE public.x ()",
        "CREATE SCHEMA x",
        "CREATE TEMPORARY TABLE x ()",
        "SELECT app.f()",
    ):
        assert not allowed(cluster, "app_service", statement), statement
    assert allowed(cluster, "readonly_user", "SELECT * FROM app.notes")
    for statement in ("INSERT INTO app.orders (item) VALUES ('x')", "SELECT nextval('app.notes_id_seq')", "CREATE TABLE app.x ()"):
        assert not allowed(cluster, "readonly_user", statement), statement
    assert allowed(cluster, "migration_user", "ALTER TABLE app.orders ADD x int")
    execute(cluster, "CREATE ROLE outsider LOGIN")
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        query(cluster, "SELECT 1", db="shop", user="outsider")


def test_ad_hoc_rights_of_a_managed_role_are_taken_back(cluster: Any) -> None:
    apply(cluster, THREE_USERS)
    execute(cluster, "CREATE TABLE app.orders (id int)", db="shop", user="migration_user")
    execute(cluster, "GRANT INSERT, TRUNCATE ON app.orders TO readonly_user", "GRANT CREATE ON SCHEMA public TO readonly_user", db="shop")
    done = converge(cluster, THREE_USERS)
    assert done["revoked"] == 3
    assert done["granted"] == 0
    assert "readonly_user: table app.orders  -INSERT -TRUNCATE" in done["diff"]["prepared"]


def test_check_mode_changes_nothing(world: Any) -> None:
    before = fingerprint(world)
    policy = {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"app": {"owner": "r", "profiles": {"r": "migration"}}}}, "new": {"owner": "r"}}}
    assert plan(world, policy)["changed"] is True
    assert fingerprint(world) == before


def test_check_mode_works_in_a_read_only_session(world: Any) -> None:
    policy = {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"app": {"owner": "r", "profiles": {"r": "migration"}}}}}}
    expected = plan(world, policy)["sql"]
    execute(world, "CREATE ROLE auditor SUPERUSER LOGIN", "ALTER ROLE auditor SET default_transaction_read_only = on")
    assert plan(world, policy, login_user="auditor")["sql"] == expected
    apply(world, policy)
    unchanged(world, policy, login_user="auditor")


def test_a_no_change_run_writes_nothing(cluster: Any) -> None:
    apply(cluster, THREE_USERS)
    execute(cluster, "CREATE TABLE app.a (id serial); CREATE VIEW app.v AS SELECT 1", db="shop", user="migration_user")
    apply(cluster, THREE_USERS)
    execute(cluster, "CHECKPOINT")
    rows = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_sys_tables"
    for _attempt in range(3):  # the server's own background may write something in between
        before = value(cluster, "SELECT pg_current_wal_insert_lsn()")
        touched = value(cluster, rows, db="shop")
        unchanged(cluster, THREE_USERS)
        written = value(cluster, "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), %(before)s)", {"before": before})
        assert value(cluster, rows, db="shop") == touched
        if written == 0:
            break
    assert written == 0


@pytest.fixture
def standby(shop: Any) -> Any:
    """A standby of the server with the database shop, made when nobody drops databases any more."""
    made = shop.make_standby()
    yield made
    made.remove()


def test_a_standby_is_planned_for_and_left_alone(shop: Any, standby: Any) -> None:
    policy = in_shop(profiles={"r": "readonly"})
    shop.wait_for(standby)
    expected = plan(shop, policy)["sql"]
    assert plan(standby, policy)["sql"] == expected
    result = apply(standby, policy, diff=True)
    assert result["changed"] is False
    assert result["in_recovery"] is True
    assert "skipped: in recovery" in result["msg"]
    assert result["sql"] == expected
    apply(shop, policy)
    shop.wait_for(standby)
    again = apply(standby, policy)
    assert again["sql"] == []
    assert "skipped" not in again["msg"]


def test_two_runs_at_once_do_not_disturb_each_other(world: Any) -> None:
    policy = {"roles": {"r": {}, "s": {}}, "databases": {DATABASE: {"schemas": {n: {"profiles": {"r": "migration", "s": "readonly"}} for n in ("app", ODD)}}}}
    results = [finished(each) for each in [process(world, policy) for _run in range(3)]]
    for result in results:
        assert not result.get("failed"), result["msg"]
    unchanged(world, policy)


def test_a_role_that_somebody_makes_between_two_sessions_of_a_run(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"app": {"profiles": {"r": "readonly"}}}}}}
    read = read_cluster

    def read_then_made(*arguments: Any) -> Any:
        found = read(*arguments)
        if "late" not in found.roles:
            world.psql("CREATE ROLE late; CREATE SCHEMA lates AUTHORIZATION late", DATABASE)
        return found

    for reader in ("converge", "inspect"):
        monkeypatch.setattr(f"ansible_collections.bulwark.postgresql.plugins.module_utils.access.{reader}.read_cluster", read_then_made)
        world.psql("DROP SCHEMA IF EXISTS lates; DROP ROLE IF EXISTS late", DATABASE)
        assert "late" in info(world)["policy"]["roles"] if reader == "inspect" else plan(world, policy)["changed"]


@pytest.fixture
def newest(servers: dict[int, Any]) -> Any:
    """The server of the newest major."""
    server = servers[max(majors())]
    server.reset()
    return server


@pytest.mark.oldest_and_newest
def test_a_playbook_with_check_and_diff_first(newest: Any, tmp_path: Path) -> None:
    """The role, by the real ansible-playbook: what --check --diff shows is what is then done, once."""
    variables = {f"pg_users_{key}": value for key, value in THREE_USERS.items()}
    connection = {"module_defaults": {"group/bulwark.postgresql.pg": newest.login}}
    tasks = [{"name": "Access", "ansible.builtin.include_role": {"name": "bulwark.postgresql.pg_users", "apply": connection}}]
    playbook = Playbook(tmp_path, tasks, variables)
    before = fingerprint(newest)
    outputs = []
    for flags in (("--check", "--diff"), ("--diff",), ("--diff",)):
        running = playbook.start(*flags)
        outputs.append(running.communicate(timeout=120)[0])
        assert running.returncode == 0, outputs[-1]
        if "--check" in flags:
            assert fingerprint(newest) == before
    shown, done, again = outputs
    for line in ("role readonly_user: created", "readonly_user: schema app  +USAGE"):
        assert line in shown
        assert line in done
    assert "changed=1" in shown
    assert "changed=1" in done
    assert "changed=0" in again


# --- roles ---------------------------------------------------------------------------------------------------------------------------


ATTRIBUTES = "rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolinherit, rolconnlimit"


def test_attributes_of_a_role(cluster: Any) -> None:
    full = {
        "login": True,
        "superuser": True,
        "createdb": True,
        "createrole": True,
        "replication": True,
        "bypassrls": True,
        "inherit": False,
        "connection_limit": 7,
        "valid_until": "2030-01-02T03:04:05Z",
        "comment": 'it\'s a "comment" \\ ü',
    }
    converge(cluster, {"roles": {"r": full}})
    asked = f"SELECT {ATTRIBUTES}, rolvaliduntil AT TIME ZONE 'UTC', shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname = 'r'"
    row = query(cluster, asked)[0]
    assert row[:8] == (True, True, True, True, True, True, False, 7)
    assert str(row[8]) == "2030-01-02 03:04:05"
    assert row[9] == full["comment"]
    for key in full:
        converge(cluster, {"roles": {"r": {**full, key: {"comment": "other", "valid_until": "2031-01-01", "connection_limit": 8}.get(key, not full[key])}}})
        converge(cluster, {"roles": {"r": full}})
    converge(cluster, {"roles": {"r": {}}})
    row = query(cluster, asked)[0]
    assert row[:8] == (False, False, False, False, False, False, True, -1)
    assert row[9] == full["comment"]  # left alone when not given


@pytest.mark.parametrize(
    ("given", "stored"),
    [("2027-12-31T00:00:00Z", "2027-12-31 00:00:00"), ("2027-12-31", "2027-12-31 00:00:00"), ("2027-12-31T10:00:00+02:00", "2027-12-31 08:00:00")],
)
def test_valid_until_is_a_moment_whatever_the_time_zone(cluster: Any, given: str, stored: str) -> None:
    execute(cluster, "ALTER ROLE postgres SET timezone = 'America/New_York'")
    policy = {"roles": {"r": {"valid_until": given}}}
    converge(cluster, policy)
    assert value(cluster, "SELECT (rolvaliduntil AT TIME ZONE 'UTC')::text FROM pg_roles WHERE rolname = 'r'") == stored
    converge(cluster, {"roles": {"r": {"valid_until": "infinity"}}})
    unchanged(cluster, {"roles": {"r": {}}})


def test_settings_of_a_role(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE r")
    execute(cluster, "ALTER ROLE r SET log_statement = 'ddl'", "ALTER ROLE r IN DATABASE shop SET work_mem = '1MB'")
    settings = {
        "statement_timeout": "5s",
        "search_path": ["app", "Mixed Case", "$user", "public"],
        "work_mem": "64MB",
        "jit": False,
        "random_page_cost": 1.5,
        "application_name": "it's, a name",
        "temp_file_limit": 1000,
    }
    policy = {"roles": {"r": {"settings": settings, "database_settings": {"shop": {"work_mem": "32MB"}}}}, "databases": {"shop": {}}}
    converge(cluster, policy)
    stored = {config for (config,) in query(cluster, "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setdatabase = 0")}
    assert "statement_timeout=5s" in stored
    assert 'search_path=app, "Mixed Case", "$user", public' in stored
    assert not any(config.startswith("log_statement") for config in stored)
    execute(cluster, "ALTER ROLE r LOGIN")
    assert value(cluster, "SELECT array_length(current_schemas(true), 1) IS NOT NULL AND current_setting('application_name') <> ''", user="r")
    converge(cluster, {"roles": {"r": {}}, "databases": {"shop": {}}})
    assert query(cluster, "SELECT setconfig FROM pg_db_role_setting WHERE setrole <> 0") == []


def test_settings_stay_in_additive_mode(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE r", "ALTER ROLE r SET work_mem = '1MB'")
    converge(cluster, {"roles": {"r": {"settings": {"statement_timeout": "5s"}}}}, mode="additive")
    assert value(cluster, "SELECT setconfig FROM pg_db_role_setting") == ["work_mem=1MB", "statement_timeout=5s"]


# --- passwords -----------------------------------------------------------------------------------------------------------------------


def logs_in(server: Any, role: str, password: str) -> bool:
    """Whether a role may log in over TCP with a password."""
    try:
        psycopg2.connect(host="127.0.0.1", port=server.port, user=role, password=password, dbname="postgres").close()
    except psycopg2.OperationalError as error:
        if "password authentication failed" not in str(error):
            raise
        return False
    return True


def verifier(server: Any, role: str) -> str | None:
    """The stored verifier."""
    return value(server, "SELECT rolpassword FROM pg_authid WHERE rolname = %(role)s", {"role": role})


@pytest.mark.parametrize("password", ["plain", "with 'quotes' \"and\" \\ $1 %s", "pässwörd ①", "x" * 200, "Ⅸ­soft"])
def test_a_plain_password_becomes_a_verifier_that_works(cluster: Any, password: str) -> None:
    policy = {"roles": {"r": {"login": True}}}
    done = converge(cluster, policy, passwords={"r": password})
    stored = verifier(cluster, "r")
    assert stored is not None
    assert stored.startswith("SCRAM-SHA-256$4096:")
    assert logs_in(cluster, "r", password)
    assert not logs_in(cluster, "r", password + "x")
    assert any("********" in statement for statement in done["sql"])
    converge(cluster, policy, passwords={"r": "another one"})
    assert logs_in(cluster, "r", "another one")
    assert not logs_in(cluster, "r", password)


def test_a_ready_verifier_is_stored_as_it_is(cluster: Any) -> None:
    policy = {"roles": {"r": {"login": True}, "s": {"login": True}}}
    apply(cluster, policy, passwords={"s": "secret one"})
    ready = verifier(cluster, "s")
    converge(cluster, policy, passwords={"r": ready, "s": "secret one"})
    assert verifier(cluster, "r") == ready
    unchanged(cluster, policy, passwords={"r": "secret one", "s": ready})


def test_a_password_makes_a_login_role(cluster: Any) -> None:
    converge(cluster, {"roles": {"r": {}, "group": {}}}, passwords={"r": "x y z"})
    assert query(cluster, "SELECT rolname, rolcanlogin FROM pg_roles WHERE rolname IN ('r', 'group') ORDER BY 1") == [("group", False), ("r", True)]


def test_weak_verifiers_are_replaced(cluster: Any) -> None:
    digest = hashlib.md5(b"same passwordr").hexdigest()
    empty = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==$" + "A" * 43 + "=:" + "A" * 43 + "="
    execute(cluster, f"CREATE ROLE r LOGIN PASSWORD 'md5{digest}'", "CREATE ROLE s LOGIN", f"CREATE ROLE w LOGIN PASSWORD '{empty}'")
    done = converge(cluster, {"roles": {"r": {"login": True}, "s": {"login": True}, "w": {}}}, passwords={"r": "same password", "s": "s", "w": "w"})
    assert str(verifier(cluster, "r")).startswith("SCRAM-SHA-256$")
    assert logs_in(cluster, "r", "same password")
    assert logs_in(cluster, "w", "w")
    assert "md5" in done["diff"]["prepared"]


def test_iterations_of_verifiers(cluster: Any) -> None:
    policy = {"roles": {"r": {"login": True}}}
    apply(cluster, policy, passwords={"r": "p"})
    converge(cluster, policy, passwords={"r": "p"}, scram_iterations=10000)
    assert str(verifier(cluster, "r")).startswith("SCRAM-SHA-256$10000:")
    unchanged(cluster, policy, passwords={"r": "p"})  # what is stored is good enough where nothing is asked for


def test_a_role_that_must_have_no_password(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE r LOGIN PASSWORD 'x'", "CREATE ROLE s LOGIN PASSWORD 'x'")
    converge(cluster, {"roles": {"r": {"login": True, "has_password": False}, "s": {"login": True}}})
    assert verifier(cluster, "r") is None
    assert verifier(cluster, "s") is not None  # nothing is said of it


# --- memberships ---------------------------------------------------------------------------------------------------------------------


def memberships(server: Any) -> set[tuple[Any, ...]]:
    """(member, role, admin) of every membership between ordinary roles."""
    return set(query(server, "SELECT member::regrole::text, roleid::regrole::text, admin_option FROM pg_auth_members WHERE member >= 16384"))


def test_memberships_of_a_managed_member_are_exact(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE a", "CREATE ROLE b", "CREATE ROLE r", "CREATE ROLE x", "GRANT a TO r WITH ADMIN OPTION", "GRANT b TO x")
    execute(cluster, "GRANT pg_read_all_data TO r")
    policy = {"roles": {"r": {"member_of": ["a", {"role": "b", "admin": True}]}, "a": {}, "b": {}}}
    converge(cluster, policy)
    assert memberships(cluster) == {("r", "a", False), ("r", "b", True)}
    converge(cluster, {"roles": {"r": {"member_of": []}}})
    assert memberships(cluster) == set()


def test_a_predefined_role_can_be_given(cluster: Any) -> None:
    converge(cluster, {"roles": {"r": {"member_of": ["pg_monitor"]}}})
    assert memberships(cluster) == {("r", "pg_monitor", False)}


def test_memberships_stay_in_additive_mode(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE a", "CREATE ROLE b", "CREATE ROLE r", "GRANT a TO r WITH ADMIN OPTION")
    converge(cluster, {"roles": {"r": {"member_of": ["b"]}}}, mode="additive")
    assert memberships(cluster) == {("r", "a", True), ("r", "b", False)}


def test_options_of_memberships(cluster: Any) -> None:
    member = {"role": "a", "admin": False, "inherit": False, "set": False}
    policy = {"roles": {"a": {}, "r": {"member_of": [member]}}}
    if cluster.major < 16:
        message = refused(cluster, policy)
        assert "roles.r.member_of" in message
        assert "PostgreSQL 16" in message
        return
    execute(cluster, "CREATE ROLE a", "CREATE ROLE r", "GRANT a TO r WITH INHERIT TRUE, SET TRUE, ADMIN TRUE")
    converge(cluster, policy)
    asked = "SELECT admin_option, inherit_option, set_option, grantor::regrole::text FROM pg_auth_members WHERE member = 'r'::regrole"
    assert query(cluster, asked) == [(False, False, False, "postgres")]
    for key in ("admin", "inherit", "set"):
        converge(cluster, {"roles": {"a": {}, "r": {"member_of": [{**member, key: True}]}}})
        converge(cluster, policy)


def test_memberships_by_other_grantors(cluster: Any) -> None:
    if cluster.major < 16:
        message = refused(cluster, {"roles": {"a": {}, "g": {}, "r": {"member_of": [{"role": "a", "grantor": "g"}]}}})
        assert "grantor" in message
        assert "PostgreSQL 16" in message
        return
    execute(cluster, "CREATE ROLE a", "CREATE ROLE g", "CREATE ROLE r", "GRANT a TO g WITH ADMIN OPTION", "GRANT a TO r GRANTED BY g")
    execute(cluster, "GRANT a TO r WITH INHERIT TRUE GRANTED BY postgres")
    asked = "SELECT grantor::regrole::text FROM pg_auth_members WHERE member = 'r'::regrole"
    keeping = {"a": {}, "g": {"member_of": [{"role": "a", "admin": True}]}}
    converge(cluster, {"roles": {**keeping, "r": {"member_of": [{"role": "a", "grantor": "g"}]}}})
    assert query(cluster, asked) == [("g",)]
    unchanged(cluster, {"roles": {**keeping, "r": {"member_of": ["a"]}}})  # any grantor will do
    converge(cluster, {"roles": {**keeping, "r": {}}})
    assert query(cluster, asked) == []


def test_a_grantor_is_taken_back_with_what_it_gave(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE a", "CREATE ROLE g", "CREATE ROLE r", "GRANT a TO g WITH ADMIN OPTION", "SET ROLE g; GRANT a TO r")
    converge(cluster, {"roles": {"a": {}, "g": {}, "r": {}}})
    assert memberships(cluster) == set()


# --- rights on every kind of object --------------------------------------------------------------------------------------------------


def keeps_promise(server: Any, policy: dict[str, Any], mode: str = "managed", **options: Any) -> None:
    """Converge, and ask the server of every right of every role on every object of the world."""
    before = state(server, DATABASE, things(server))
    converge(server, policy, mode=mode, **options)
    promise = Promise(policy, DATABASE, before, mode, server.major)
    assert broken(server, DATABASE, promise) == []
    assert {thing.key: thing.owner for thing in things(server)} == promise.owners


def every_kind(**grant: Any) -> dict[str, Any]:
    """A policy with grants on every kind of object in one database."""
    entries = [
        {"privileges": ["USAGE"]},
        {"privileges": ["SELECT", "INSERT"], "tables": ["orders", "Mixed Case"]},
        {"privileges": ["SELECT", "UPDATE"], "tables": ["users"], "columns": ["id", "name"]},
        {"privileges": ["REFERENCES"], "tables": ["orders"], "columns": ['e "mail" x']},
        {"privileges": ["ALL"], "views": "all"},
        {"privileges": ["USAGE", "SELECT"], "sequences": ["numbers", "users_id_seq"]},
        {"privileges": ["EXECUTE"], "functions": ["total(integer, text)", "refresh", "add_up"]},
        {"privileges": ["USAGE"], "types": ["order_state", "positive"]},
    ]
    outside = [
        {"privileges": ["CONNECT", "TEMPORARY"]},
        {"privileges": ["USAGE"], "languages": ["plpgsql"]},
        {"privileges": ["USAGE"], "foreign_data_wrappers": ["far"]},
        {"privileges": ["USAGE"], "foreign_servers": ["far Away"]},
        {"privileges": ["SELECT"], "large_objects": [4711]},
    ]
    schemas = {name: {"grants": [{**entry, **grant} for entry in entries]} for name in ("app", ODD)}
    return {"roles": {"r": {}, "S p": {}}, "databases": {DATABASE: {"schemas": schemas, "grants": [{**entry, **grant} for entry in outside]}}}


def test_grants_on_every_kind_of_object(world: Any) -> None:
    policy = every_kind(to=["r", "S p"])
    keeps_promise(world, policy)
    acl = value(world, "SELECT lomacl::text FROM pg_largeobject_metadata WHERE oid = 4711", db=DATABASE)
    assert "r=r/postgres" in acl
    keeps_promise(world, every_kind(to="r"))
    acl = value(world, "SELECT lomacl::text FROM pg_largeobject_metadata WHERE oid = 4711", db=DATABASE)
    assert "S p" not in acl


def test_grant_options_on_every_kind_of_object(world: Any) -> None:
    keeps_promise(world, every_kind(to=["r", "S p"], grant_option=True))
    keeps_promise(world, every_kind(to=["r", "S p"]), allow_mass_revoke=True)


def test_all_objects_of_a_kind_with_exceptions(world: Any) -> None:
    grants = [
        {"to": "r", "privileges": ["SELECT"], "tables": "all", "except": ["users", "Mixed*"]},
        {"to": "r", "privileges": "ALL", "sequences": "all", "except": ["numbers"]},
        {"to": "r", "privileges": ["EXECUTE"], "functions": "all"},
        {"to": "r", "privileges": ["USAGE"], "types": "all"},
        {"to": "S p", "privileges": ["SELECT"], "tables": ["*er*"]},
    ]
    for partitions in ("parent", "mirror"):
        schemas = {name: {"partitions": partitions, "grants": grants} for name in ("app", ODD)}
        keeps_promise(world, {"roles": {"r": {}, "S p": {}}, "databases": {DATABASE: {"schemas": schemas}}})


def test_rights_on_partitions_are_taken_away_unless_mirrored(world: Any) -> None:
    execute(world, "CREATE ROLE r", "CREATE ROLE s")
    execute(world, "GRANT SELECT ON app.events_2026 TO r, s, stranger", db=DATABASE)
    asked = "SELECT has_table_privilege(r, 'app.events_2026', 'SELECT') FROM unnest(array['r', 's', 'stranger']) r"
    grant = {"to": ["r"], "privileges": ["SELECT"], "tables": "all"}
    policy: dict[str, Any] = {"roles": {"r": {}, "s": {}}, "databases": {DATABASE: {"schemas": {"app": {"grants": [grant]}}}}}
    converge(world, policy)
    assert query(world, asked, db=DATABASE) == [(False,), (False,), (False,)]
    policy["databases"][DATABASE]["schemas"]["app"]["partitions"] = "mirror"
    converge(world, policy)
    assert query(world, asked, db=DATABASE) == [(True,), (False,), (False,)]


def test_extension_members_are_left_alone(world: Any) -> None:
    members = (
        "SELECT p.oid::regprocedure::text, proacl::text, proowner FROM pg_proc p JOIN pg_depend d"
        " ON d.objid = p.oid AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'fuzzystrmatch') ORDER BY 1"
    )
    before = query(world, members, db=DATABASE)
    assert before
    schema = {"objects_owner": "r", "profiles": {"r": "migration"}, "grants": [{"to": "r", "privileges": ["EXECUTE"], "functions": "all"}]}
    converge(world, {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"app": schema}}}})
    assert query(world, members, db=DATABASE) == before


def test_an_extension_member_that_the_policy_names_is_granted(world: Any) -> None:
    grant = {"to": "r", "privileges": ["EXECUTE"], "functions": ["soundex(text)"], "grant_option": True}
    converge(world, {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"app": {"grants": [grant]}}}}})
    assert value(world, "SELECT has_function_privilege('r', 'app.soundex(text)', 'EXECUTE WITH GRANT OPTION')", db=DATABASE)


def test_column_rights_beside_table_rights(shop: Any) -> None:
    columns = {"to": "r", "privileges": ["SELECT", "UPDATE"], "tables": ["t"], "columns": ["id"]}
    whole = {"to": "r", "privileges": ["SELECT"], "tables": ["t"]}
    asked = "SELECT has_column_privilege('r', 'app.t', c, p) FROM unnest(array['id', 'name']) c, unnest(array['SELECT', 'UPDATE']) p"
    execute(shop, "GRANT SELECT, UPDATE ON app.t TO r", db="shop")
    converge(shop, in_shop(grants=[columns]))  # a column's REVOKE would have no effect while the table's right stands
    assert query(shop, asked, db="shop") == [(True,), (True,), (False,), (False,)]
    both = {**columns, "privileges": ["UPDATE"]}
    converge(shop, in_shop(grants=[both, whole]))
    assert query(shop, asked, db="shop") == [(True,), (True,), (True,), (False,)]
    message = refused(shop, in_shop(grants=[columns, whole]))
    assert "databases.shop.schemas.app.grants[0]" in message
    assert "no effect" in message
    converge(shop, in_shop(grants=[whole]))
    assert query(shop, asked, db="shop") == [(True,), (False,), (True,), (False,)]
    converge(shop, in_shop(grants=[columns]))
    assert query(shop, asked, db="shop") == [(True,), (True,), (False,), (False,)]


def test_a_column_right_with_grant_option_beside_a_table_right_without(shop: Any) -> None:
    whole = {"to": "r", "privileges": ["INSERT"], "tables": ["t"]}
    converge(shop, in_shop(grants=[whole, {**whole, "columns": ["id"], "grant_option": True}]))
    asked = "SELECT has_column_privilege('r', 'app.t', c, 'INSERT WITH GRANT OPTION') FROM unnest(array['id', 'name']) c"
    assert query(shop, asked, db="shop") == [(True,), (False,)]
    converge(shop, in_shop(grants=[whole]))
    assert query(shop, asked, db="shop") == [(False,), (False,)]


def test_rights_given_by_another_grantor_go_too(shop: Any) -> None:
    execute(shop, "GRANT USAGE ON SCHEMA app TO r, s; GRANT SELECT ON app.t TO r WITH GRANT OPTION", db="shop")
    execute(shop, "SET ROLE r; GRANT SELECT ON app.t TO s, PUBLIC; GRANT SELECT (id) ON app.t TO other", db="shop")
    converge(shop, in_shop(grants=[{"to": "r", "privileges": ["SELECT"], "tables": ["t"], "grant_option": True}]))
    acl = value(shop, "SELECT relacl::text FROM pg_class WHERE relname = 't'", db="shop")
    assert acl == "{postgres=arwdDxtm/postgres,r=r*/postgres}" if shop.major >= 17 else "{postgres=arwdDxt/postgres,r=r*/postgres}"
    assert not value(shop, "SELECT has_column_privilege('other', 'app.t', 'id', 'SELECT')", db="shop")


def test_a_chain_of_grant_options_is_cut_at_its_root(shop: Any) -> None:
    execute(shop, "GRANT SELECT ON app.t TO r WITH GRANT OPTION", "SET ROLE r; GRANT SELECT ON app.t TO s WITH GRANT OPTION", db="shop")
    execute(shop, "SET ROLE s; GRANT SELECT ON app.t TO other", db="shop")
    converge(shop, in_shop(grants=[{"to": "s", "privileges": ["SELECT"], "tables": ["t"]}]))
    asked = "SELECT has_table_privilege(r, 'app.t', 'SELECT') FROM unnest(array['r', 's', 'other']) r"
    assert query(shop, asked, db="shop") == [(False,), (True,), (False,)]


def test_parameters(cluster: Any) -> None:
    policy = {"roles": {"r": {}}, "grants": [{"to": "r", "privileges": ["SET", "ALTER SYSTEM"], "parameters": ["work_mem", "log_statement"]}]}
    if cluster.major < 15:
        message = refused(cluster, policy)
        assert "PostgreSQL 15" in message
        assert "grants" in message
        return
    execute(cluster, "CREATE ROLE r", "GRANT SET ON PARAMETER log_duration TO r")
    converge(cluster, policy)
    asked = "SELECT p, has_parameter_privilege('r', p, 'SET'), has_parameter_privilege('r', p, 'ALTER SYSTEM') FROM unnest(%(names)s) p"
    names = {"names": ["log_duration", "log_statement", "work_mem"]}
    assert [row[1:] for row in query(cluster, asked, names) if row[0] != "work_mem"] == [(False, False), (True, True)]
    assert query(cluster, asked, {"names": ["work_mem"]}) == [("work_mem", True, True)]
    converge(cluster, {"roles": {"r": {}}, "grants": []})
    assert query(cluster, asked, {"names": ["log_statement"]}) == [("log_statement", False, False)]


def test_tablespaces(cluster: Any) -> None:
    if cluster.major >= 15:
        execute(cluster, "SET allow_in_place_tablespaces = on", "CREATE TABLESPACE \"Fast one\" LOCATION ''")
    name = "Fast one" if cluster.major >= 15 else "pg_default"
    converge(cluster, {"roles": {"r": {}}, "grants": [{"to": "r", "privileges": ["CREATE"], "tablespaces": [name]}]})
    assert value(cluster, "SELECT has_tablespace_privilege('r', %(name)s, 'CREATE')", {"name": name})
    converge(cluster, {"roles": {"r": {}}})
    assert not value(cluster, "SELECT has_tablespace_privilege('r', %(name)s, 'CREATE')", {"name": name})


def test_all_means_what_the_version_knows(shop: Any) -> None:
    converge(shop, in_shop(grants=[{"to": "r", "privileges": "ALL", "tables": "all"}]))
    rights = value(shop, "SELECT count(*)::int FROM pg_class, aclexplode(relacl) WHERE relname = 't' AND grantee = 'r'::regrole", db="shop")
    assert rights == (8 if shop.major >= 17 else 7)


def test_maintain(shop: Any) -> None:
    policy = in_shop(grants=[{"to": "r", "privileges": ["MAINTAIN"], "tables": "all"}])
    if shop.major < 17:
        assert "MAINTAIN" in refused(shop, policy)
    else:
        converge(shop, policy)
        assert value(shop, "SELECT has_table_privilege('r', 'app.t', 'MAINTAIN')", db="shop")


# --- default privileges --------------------------------------------------------------------------------------------------------------


def defaults(server: Any) -> set[tuple[Any, ...]]:
    """(owner, schema or None, type letter, grantee, privilege) of the default privileges in shop, owners' own left out."""
    rows = query(
        server,
        "SELECT defaclrole::regrole::text, (SELECT nspname FROM pg_namespace n WHERE n.oid = defaclnamespace), defaclobjtype::text,"
        " coalesce((SELECT rolname FROM pg_roles r WHERE r.oid = grantee), 'PUBLIC'), privilege_type"
        " FROM pg_default_acl, aclexplode(defaclacl) WHERE grantee <> defaclrole",
        db="shop",
    )
    return set(rows)


def test_default_privileges_by_schema_and_global(shop: Any) -> None:
    execute(shop, "ALTER DEFAULT PRIVILEGES FOR ROLE r IN SCHEMA app GRANT DELETE ON TABLES TO s", db="shop")
    here = [
        {"owner": "r", "to": "s", "type": "tables", "privileges": ["SELECT", "INSERT"]},
        {"owner": "r", "to": ["s", "PUBLIC"], "type": "sequences", "privileges": ["USAGE"]},
        {"owner": "r", "to": "s", "type": "types", "privileges": ["USAGE"]},
        {"owner": "r", "to": "s", "type": "functions", "privileges": ["EXECUTE"]},
    ]
    everywhere = [
        {"owner": "r", "to": "PUBLIC", "type": "functions", "privileges": []},
        {"owner": "r", "to": "s", "type": "schemas", "privileges": ["USAGE"]},
    ]
    policy = in_shop(default_privileges=here)
    policy["databases"]["shop"]["default_privileges"] = everywhere
    converge(shop, policy)
    assert defaults(shop) == {
        ("r", "app", "r", "s", "SELECT"),
        ("r", "app", "r", "s", "INSERT"),
        ("r", "app", "S", "s", "USAGE"),
        ("r", "app", "S", "PUBLIC", "USAGE"),
        ("r", "app", "T", "s", "USAGE"),
        ("r", "app", "f", "s", "EXECUTE"),
        ("r", None, "n", "s", "USAGE"),
    }
    execute(shop, "GRANT CREATE ON SCHEMA app TO r", "SET ROLE r; CREATE FUNCTION app.g() RETURNS int LANGUAGE sql AS 'SELECT 1'", db="shop")
    assert query(shop, "SELECT has_function_privilege(r, 'app.g()', 'EXECUTE') FROM unnest(array['s', 'other']) r", db="shop") == [(True,), (False,)]


def test_one_default_privilege_more_takes_none_away(shop: Any) -> None:
    first = {"owner": "r", "to": "s", "type": "tables", "privileges": ["SELECT"]}
    converge(shop, in_shop(default_privileges=[first]))
    converge(shop, in_shop(default_privileges=[first, {**first, "privileges": ["INSERT"]}]))
    assert defaults(shop) == {("r", "app", "r", "s", "SELECT"), ("r", "app", "r", "s", "INSERT")}
    converge(shop, in_shop(default_privileges=[first]))
    assert defaults(shop) == {("r", "app", "r", "s", "SELECT")}


def of_new_function(server: Any, *roles: str) -> dict[str, bool]:
    """Who may execute a function that r makes now."""
    execute(server, "SET ROLE r; CREATE FUNCTION app.made() RETURNS int LANGUAGE sql AS 'SELECT 1'", db="shop")
    asked = "SELECT r, has_function_privilege(r, 'app.made()', 'EXECUTE') FROM unnest(%(roles)s::text[]) r"
    rows = query(server, asked, {"roles": list(roles)}, db="shop")
    execute(server, "DROP FUNCTION app.made()", db="shop")
    return dict(rows)


EMPTIED = "ALTER DEFAULT PRIVILEGES FOR ROLE r REVOKE ALL ON FUNCTIONS FROM PUBLIC, r"
WITHOUT_OWNER = "ALTER DEFAULT PRIVILEGES FOR ROLE r REVOKE ALL ON FUNCTIONS FROM r"
ALONE = f"{EMPTIED}; ALTER DEFAULT PRIVILEGES FOR ROLE r GRANT EXECUTE ON FUNCTIONS TO s"


@pytest.mark.parametrize("before", [EMPTIED, WITHOUT_OWNER, ALONE], ids=["empty", "without its owner", "one role alone"])
def test_no_empty_list_lets_public_execute_what_a_creator_makes(shop: Any, before: str) -> None:
    """PostgreSQL takes a list with nobody in it for none at all and gives PUBLIC what it gives by itself."""
    execute(shop, before, db="shop")
    converge(shop, in_shop(owner="r", profiles={"r": "migration"}))
    assert of_new_function(shop, "r", "s", "other") == {"r": True, "s": False, "other": False}


def test_a_right_that_goes_opens_nothing_to_public(shop: Any) -> None:
    execute(shop, f"GRANT CREATE ON SCHEMA app TO PUBLIC; {ALONE}", db="shop")
    converge(shop, {"roles": {"s": {}}, "databases": {"shop": {}}})
    assert of_new_function(shop, "r", "s", "other") == {"r": True, "s": False, "other": False}


def test_additive_mode_takes_nothing_away_by_an_empty_list(shop: Any) -> None:
    execute(shop, f"GRANT CREATE ON SCHEMA app TO PUBLIC; {EMPTIED}", db="shop")
    policy = in_shop()
    policy["databases"]["shop"]["default_privileges"] = [{"owner": "r", "to": "s", "type": "functions", "privileges": ["EXECUTE"]}]
    converge(shop, policy, mode="additive")
    assert of_new_function(shop, "r", "s", "other") == {"r": True, "s": True, "other": True}


def test_an_empty_list_that_the_policy_does_not_need_stays(shop: Any) -> None:
    policy = in_shop(owner="r", profiles={"r": "migration"})
    execute(shop, "ALTER DEFAULT PRIVILEGES FOR ROLE s REVOKE ALL ON FUNCTIONS FROM PUBLIC, s", db="shop")
    converge(shop, policy)
    execute(shop, "ALTER DEFAULT PRIVILEGES FOR ROLE s REVOKE ALL ON TYPES FROM PUBLIC, s", db="shop")
    unchanged(shop, policy)
    unchanged(shop, info(shop)["policy"])


def test_default_privileges_on_large_objects(shop: Any) -> None:
    policy = in_shop()
    policy["databases"]["shop"]["default_privileges"] = [{"owner": "r", "to": "s", "type": "large_objects", "privileges": ["SELECT"]}]
    if shop.major < 18:
        message = refused(shop, policy)
        assert "large objects" in message
        assert "PostgreSQL 18" in message
    else:
        converge(shop, policy)
        assert defaults(shop) == {("r", None, "L", "s", "SELECT")}


def test_a_revoke_that_postgresql_ignores_is_refused_with_the_form_that_works(shop: Any) -> None:
    before = fingerprint(shop)
    message = refused(shop, in_shop(default_privileges=[{"owner": "r", "to": "PUBLIC", "type": "functions", "privileges": []}]))
    assert "databases.shop.schemas.app.default_privileges" in message
    assert "databases.shop.default_privileges" in message
    assert fingerprint(shop) == before


def test_what_creators_make_tomorrow_is_covered(shop: Any) -> None:
    policy = in_shop(owner="r", profiles={"r": "migration", "s": "readonly"})
    converge(shop, policy)
    execute(shop, "SET ROLE r; CREATE TABLE app.new (id serial); CREATE VIEW app.v AS SELECT 1; CREATE MATERIALIZED VIEW app.m AS SELECT 1", db="shop")
    asked = "SELECT has_table_privilege('s', oid, 'SELECT'), has_table_privilege('s', oid, 'INSERT'), has_table_privilege('other', oid, 'SELECT')"
    rows = query(shop, f"{asked} FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relname IN ('new', 'v', 'm')", db="shop")
    assert rows == [(True, False, False)] * 3
    unchanged(shop, policy)


# --- owners --------------------------------------------------------------------------------------------------------------------------


def test_owners_of_everything(world: Any) -> None:
    execute(world, "CREATE ROLE old")
    execute(world, "ALTER TABLE app.users OWNER TO old; ALTER FUNCTION app.total(integer) OWNER TO old; GRANT SELECT ON app.users TO stranger", db=DATABASE)
    schemas = {name: {"owner": "boss", "objects_owner": 'Owner "x"'} for name in ("app", ODD)}
    policy = {"roles": {"boss": {}, 'Owner "x"': {}}, "databases": {DATABASE: {"owner": "boss", "schemas": schemas}}}
    keeps_promise(world, policy)


def test_sequences_of_columns_follow_their_table(world: Any) -> None:
    """Named one by one in a grant, too: PostgreSQL changes their owner with the table's and refuses to do so alone."""
    grants = [{"to": "s", "privileges": ["USAGE"], "sequences": ["orders_id_seq", "users_id_seq", "numbers"]}]
    keeps_promise(world, {"roles": {"r": {}, "s": {}}, "databases": {DATABASE: {"schemas": {"app": {"objects_owner": "r", "grants": grants}}}}})


def test_an_unnamed_schema_keeps_its_owners_and_rights(world: Any) -> None:
    execute(world, "CREATE ROLE old")
    execute(world, "ALTER TABLE other.users OWNER TO old; GRANT SELECT ON other.orders TO stranger; GRANT CREATE ON SCHEMA other TO stranger", db=DATABASE)
    schema = {"owner": "r", "objects_owner": "r", "profiles": {"r": "migration"}}
    keeps_promise(world, {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"app": schema}}}})


def test_an_unnamed_database_is_not_touched(shop: Any) -> None:
    execute(shop, "CREATE DATABASE apart")
    execute(shop, "CREATE TABLE t (); GRANT ALL ON t TO r; GRANT ALL ON DATABASE apart TO s", db="apart")
    before = database_fingerprint(shop, "apart"), value(shop, "SELECT datacl::text FROM pg_database WHERE datname = 'apart'")
    converge(shop, in_shop(profiles={"r": "readonly"}))
    assert before == (database_fingerprint(shop, "apart"), value(shop, "SELECT datacl::text FROM pg_database WHERE datname = 'apart'"))


def test_databases_and_schemas_are_made(cluster: Any) -> None:
    policy: dict[str, Any] = {
        "roles": {"o w": {}, "r": {}},
        "databases": {
            'New "db" ü': {
                "owner": "o w",
                "comment": "it's new",
                "template": "template0",
                "encoding": "UTF8",
                "locale": "C",
                "schemas": {"S.1": {"owner": "o w", "comment": "one", "profiles": {"r": "app_service"}}, "two": {}},
            },
            "plain": {},
        },
    }
    converge(cluster, policy)
    asked = "SELECT datname, datdba::regrole::text, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname ~ '(New|plain)' ORDER BY 1"
    assert query(cluster, asked) == [('New "db" ü', '"o w"', "it's new"), ("plain", "postgres", None)]
    asked = "SELECT nspname, nspowner::regrole::text, obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname IN ('S.1', 'two') ORDER BY 1"
    assert query(cluster, asked, db='New "db" ü') == [("S.1", '"o w"', "one"), ("two", "postgres", None)]
    policy["databases"]['New "db" ü']["comment"] = "not so new"
    converge(cluster, policy)


def test_nothing_is_ever_dropped(world: Any) -> None:
    before = {thing.key for thing in things(world)}
    converge(world, {"roles": {}, "databases": {DATABASE: {"schemas": {"app": {}}}}}, mode="authoritative", allow_mass_revoke=True)
    assert {thing.key for thing in things(world)} == before


# --- PUBLIC --------------------------------------------------------------------------------------------------------------------------


def test_public_loses_its_rights_in_a_named_database(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE outsider LOGIN")
    policy = {"roles": {}, "databases": {"shop": {}, "template1": {}}}
    converge(cluster, policy)
    for name in ("shop", "template1"):
        asked = "SELECT has_database_privilege('outsider', %(name)s, p) FROM unnest(array['CONNECT', 'TEMPORARY', 'CREATE']) p"
        assert query(cluster, asked, {"name": name}) == [(False,)] * 3
        assert value(cluster, "SELECT has_schema_privilege('outsider', 'public', 'CREATE')", db=name) is False
        assert value(cluster, "SELECT has_schema_privilege('outsider', 'public', 'USAGE')", db=name) is True
    execute(cluster, "CREATE DATABASE later")
    assert value(cluster, "SELECT has_schema_privilege('outsider', 'public', 'CREATE')", db="later") is False


def test_public_may_be_granted_to(world: Any) -> None:
    grants = [{"to": "public", "privileges": ["USAGE"]}, {"to": "PUBLIC", "privileges": ["EXECUTE"], "functions": ["total"]}]
    policy = {"roles": {"r": {}}, "databases": {DATABASE: {"grants": [{"to": "PUBLIC", "privileges": ["CONNECT"]}], "schemas": {"app": {"grants": grants}}}}}
    keeps_promise(world, policy)


# --- modes ---------------------------------------------------------------------------------------------------------------------------


MESS = (
    "GRANT ALL ON ALL TABLES IN SCHEMA app TO r, stranger, PUBLIC; GRANT ALL ON ALL TABLES IN SCHEMA other TO r, stranger, PUBLIC",
    "GRANT USAGE, CREATE ON SCHEMA app, other TO r, stranger; GRANT SELECT (id) ON other.orders TO stranger",
    "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA other TO r, stranger; GRANT USAGE ON TYPE other.pair TO stranger",
    f"GRANT CREATE ON DATABASE {ident(DATABASE)} TO r, stranger, PUBLIC",
)


@pytest.mark.parametrize("mode", ["managed", "additive", "authoritative"])
def test_modes(world: Any, mode: str) -> None:
    execute(world, "CREATE ROLE r")
    execute(world, *MESS, db=DATABASE)
    policy = {"roles": {"r": {}, "fresh": {}}, "databases": {DATABASE: {"schemas": {"app": {"profiles": {"r": "readonly", "fresh": "app_service"}}}}}}
    keeps_promise(world, policy, mode, allow_mass_revoke=True)
    assert value(world, "SELECT has_table_privilege('stranger', 'other.users', 'SELECT')", db=DATABASE) is (mode != "authoritative")


def test_protected_roles_keep_what_they_have(shop: Any) -> None:
    execute(shop, "CREATE ROLE rds_admin", "CREATE ROLE keeper")
    execute(shop, "GRANT SELECT ON app.t TO rds_admin, keeper, other, pg_monitor", db="shop")
    converge(shop, in_shop(), mode="authoritative", protected_roles=["rds*", "pg_*", "ke*er"])
    asked = "SELECT has_table_privilege(r, 'app.t', 'SELECT') FROM unnest(array['rds_admin', 'keeper', 'pg_monitor', 'other']) r"
    assert query(shop, asked, db="shop") == [(True,), (True,), (True,), (False,)]


# --- absent roles --------------------------------------------------------------------------------------------------------------------


def exists(server: Any, role: str) -> bool:
    """Whether there is such a role."""
    return bool(query(server, "SELECT FROM pg_roles WHERE rolname = %(role)s", {"role": role}))


ABSENT = {"roles": {"gone": {"state": "absent"}}, "databases": {"shop": {}}}


def test_an_absent_role_is_dropped_with_its_rights(shop: Any) -> None:
    execute(shop, "CREATE ROLE gone LOGIN", "GRANT gone TO r", "GRANT s TO gone", "ALTER ROLE gone SET work_mem = '1MB'")
    execute(shop, "GRANT ALL ON app.t TO gone WITH GRANT OPTION", "SET ROLE gone; GRANT SELECT ON app.t TO other", db="shop")
    execute(shop, "ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT SELECT ON TABLES TO gone", "GRANT ALL ON DATABASE shop TO gone", db="shop")
    execute(shop, "ALTER DEFAULT PRIVILEGES FOR ROLE gone GRANT SELECT ON TABLES TO other", db="shop")
    converge(shop, ABSENT)
    assert not exists(shop, "gone")
    assert value(shop, "SELECT count(*)::int FROM pg_class WHERE relname = 't'", db="shop") == 1


@pytest.mark.parametrize("whose", ["gone", "PUBLIC, gone"])
def test_an_absent_role_that_has_taken_its_own_default_privileges_away_is_dropped(shop: Any, whose: str) -> None:
    taken = "ALTER DEFAULT PRIVILEGES FOR ROLE gone REVOKE {} FROM {}"
    pairs = (("ALL ON FUNCTIONS", "PUBLIC, gone"), ("ALL ON TYPES", whose), ("ALL ON TABLES", whose), ("USAGE ON SEQUENCES", "gone"))
    execute(shop, "CREATE ROLE gone", *(taken.format(*pair) for pair in pairs), db="shop")
    converge(shop, ABSENT)
    assert not exists(shop, "gone")


def test_an_absent_role_that_owns_objects_is_refused(shop: Any) -> None:
    execute(shop, "CREATE ROLE gone")
    execute(shop, "ALTER TABLE app.t OWNER TO gone", db="shop")
    before = fingerprint(shop)
    message = refused(shop, ABSENT)
    assert "roles.gone" in message
    assert "reassign_to" in message
    assert "shop" in message
    assert fingerprint(shop) == before


def test_an_absent_role_hands_over_what_it_owns(shop: Any) -> None:
    execute(shop, "CREATE ROLE gone", "ALTER DATABASE shop OWNER TO gone")
    execute(shop, "ALTER TABLE app.t OWNER TO gone; ALTER SCHEMA app OWNER TO gone; CREATE TYPE app.e AS ENUM ('a'); ALTER TYPE app.e OWNER TO gone", db="shop")
    execute(shop, "CREATE TABLE public.p (id serial); ALTER TABLE public.p OWNER TO gone; GRANT SELECT ON public.p TO other", db="shop")
    policy = {"roles": {"gone": {"state": "absent", "reassign_to": "heir"}, "heir": {}}, "databases": {"shop": {}}}
    converge(shop, policy)
    assert not exists(shop, "gone")
    owners = "SELECT relowner::regrole::text FROM pg_class WHERE relname IN ('t', 'p', 'p_id_seq')"
    assert query(shop, owners, db="shop") == [("heir",)] * 3
    assert value(shop, "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'shop'") == "heir"


def test_an_absent_role_hands_over_what_hangs_together(shop: Any) -> None:
    """A range type brings functions, a serial column a sequence, and a rule of its owner's schema keeps it from going elsewhere."""
    execute(shop, "CREATE ROLE gone", "GRANT CREATE ON DATABASE shop TO gone")
    execute(shop, "SET ROLE gone; CREATE SCHEMA own; CREATE TYPE own.span AS RANGE (subtype = int); CREATE TABLE own.t (id serial, at own.span)", db="shop")
    execute(shop, 'SET ROLE gone; CREATE AGGREGATE own.total(int) (sfunc = int4pl, stype = int); CREATE COLLATION own.c FROM "C"', db="shop")
    execute(
        shop,
        "SELECT lo_create(77); ALTER LARGE OBJECT 77 OWNER TO gone; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER w FOREIGN DATA WRAPPER w;"
        "ALTER SERVER w OWNER TO gone; CREATE PUBLICATION p; ALTER PUBLICATION p OWNER TO gone",
        db="shop",
    )
    policy = {"roles": {"gone": {"state": "absent", "reassign_to": "heir"}, "heir": {}}, "databases": {"shop": {"schemas": {"own": {"objects_owner": "r"}}}}}
    policy["roles"]["r"] = {}
    converge(shop, policy)
    assert not exists(shop, "gone")
    assert value(shop, "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'own.t'::regclass", db="shop") == "r"
    assert value(shop, "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'own'", db="shop") == "heir"


def test_an_absent_role_with_objects_in_a_database_that_is_not_named(shop: Any) -> None:
    execute(shop, "CREATE DATABASE apart", "CREATE ROLE gone")
    execute(shop, "CREATE TABLE mine (); ALTER TABLE mine OWNER TO gone", db="apart")
    before = fingerprint(shop)
    message = refused(shop, {"roles": {"gone": {"state": "absent", "reassign_to": "r"}}, "databases": {"shop": {}}})
    assert "apart" in message
    assert "roles.gone" in message
    assert fingerprint(shop) == before


# --- guards --------------------------------------------------------------------------------------------------------------------------


def test_nobody_locks_himself_out(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE boss SUPERUSER LOGIN")
    before = fingerprint(cluster)
    for role in (
        {"login": False, "superuser": True},
        {"login": True},
        {"state": "absent"},
        {"login": True, "superuser": True, "connection_limit": 0},
        {"login": True, "superuser": True, "valid_until": "2001-01-01"},
    ):
        message = refused(cluster, {"roles": {"boss": role}}, login_user="boss")
        assert "roles.boss" in message, message
    assert fingerprint(cluster) == before
    unchanged(cluster, {"roles": {"boss": {"login": True, "superuser": True}}}, login_user="boss")


def test_the_last_administrator_stays(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE boss SUPERUSER LOGIN", "ALTER ROLE postgres NOLOGIN")
    try:
        message = refused(cluster, {"roles": {"boss": {"superuser": True, "login": False}}}, login_user="boss")
        assert "roles" in message
    finally:
        execute(cluster, "ALTER ROLE postgres LOGIN", user="boss")


def deputy(server: Any) -> None:
    """An administrator who is no superuser, and a database of his."""
    execute(server, "CREATE ROLE deputy LOGIN CREATEROLE CREATEDB", "CREATE DATABASE shop OWNER deputy")
    execute(server, "ALTER SCHEMA public OWNER TO deputy; CREATE SCHEMA app AUTHORIZATION deputy", db="shop")
    execute(server, "SET ROLE deputy; CREATE TABLE app.t (id int)", db="shop")


def test_an_administrator_who_is_no_superuser(cluster: Any) -> None:
    deputy(cluster)
    policy: dict[str, Any] = {
        "roles": {"app": {"connection_limit": 5, "settings": {"work_mem": "8MB"}}, "reader": {"member_of": ["team"]}, "team": {}},
        "databases": {"shop": {"schemas": {"app": {"profiles": {"app": "app_service", "team": "readonly"}}}}},
    }
    converge(cluster, policy, login_user="deputy")
    assert value(cluster, "SELECT has_table_privilege('reader', 'app.t', 'SELECT')", db="shop")
    execute(cluster, "GRANT DELETE ON app.t TO team", db="shop")
    converge(cluster, policy, login_user="deputy")
    unchanged(cluster, policy)


def test_an_administrator_who_is_no_superuser_keeps_his_way_in(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE deputy LOGIN CREATEROLE CREATEDB", "CREATE DATABASE shop", "GRANT CREATE ON DATABASE shop TO deputy WITH GRANT OPTION")
    before = fingerprint(cluster)
    for policy in (
        {"roles": {"deputy": {"login": False, "createrole": True}}},
        {"roles": {"deputy": {"login": True, "createrole": False}}},
        {"roles": {}, "databases": {"shop": {}}},
    ):
        message = refused(cluster, policy, login_user="deputy")
        assert "deputy" in message, message
    assert fingerprint(cluster) == before


def test_a_mass_revocation_needs_leave(shop: Any) -> None:
    execute(shop, "DO $$ BEGIN FOR i IN 1..60 LOOP EXECUTE format('CREATE TABLE app.t%s ()', i); END LOOP; END $$", db="shop")
    execute(shop, "GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA app TO r", db="shop")
    before = fingerprint(shop)
    message = refused(shop, in_shop())
    assert "allow_mass_revoke" in message
    assert "revokes 122 " in message
    assert fingerprint(shop) == before
    assert "allow_mass_revoke" in refused(shop, in_shop(), check=True)
    converge(shop, in_shop(), allow_mass_revoke=True)


def test_a_mass_revocation_within_the_share_needs_none(shop: Any) -> None:
    execute(shop, "DO $$ BEGIN FOR i IN 1..60 LOOP EXECUTE format('CREATE TABLE app.t%s ()', i); END LOOP; END $$", db="shop")
    execute(shop, "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA app TO r", db="shop")
    kept = {"to": "r", "privileges": ["SELECT", "INSERT", "UPDATE"], "tables": "all"}
    converge(shop, in_shop(grants=[kept]))


# --- ways in -------------------------------------------------------------------------------------------------------------------------


def test_over_tls_with_a_password(shop: Any) -> None:
    execute(shop, "CREATE ROLE admin SUPERUSER LOGIN PASSWORD 'a pass'")
    login = {"login_unix_socket": "", "login_host": "127.0.0.1", "login_user": "admin", "login_password": "a pass"}
    secure = {**login, "ssl_mode": "verify-full", "ca_cert": str(shop.ca_cert)}
    policy = {"roles": {"admin": {"superuser": True, "login": True}, "r": {}}, "databases": {"shop": {"schemas": {"app": {"profiles": {"r": "readonly"}}}}}}
    converge(shop, policy, **secure)
    failed = run(shop, "pg_access", policy=policy, **{**secure, "login_password": "wrong"})
    assert failed["failed"]
    assert "password authentication failed" in failed["msg"]


def test_a_path_prefix_names_the_users_own_variables(shop: Any) -> None:
    policy = {"roles": {"r": {"logn": True}}, "databases": {"shop": {"schemas": {"app": {"grants": [{"to": "nobody", "privileges": ["USAGE"]}]}}}}}
    message = refused(shop, policy, path_prefix="pg_users_")
    assert "pg_users_roles.r.logn" in message
    assert 'did you mean "login"' in message
    del policy["roles"]["r"]["logn"]
    assert "pg_users_databases.shop.schemas.app.grants" in refused(shop, policy, path_prefix="pg_users_")


def test_time_goes_into_the_servers_work_not_ours(shop: Any) -> None:
    """Thousands of tables are a few statements, not thousands."""
    execute(shop, "DO $$ BEGIN FOR i IN 1..1000 LOOP EXECUTE format('CREATE TABLE app.t%s ()', i); END LOOP; END $$", db="shop")
    began = time.monotonic()
    done = converge(shop, in_shop(profiles={"r": "readonly", "s": "app_service"}))
    assert len(done["sql"]) < 50
    assert time.monotonic() - began < 20


def test_many_databases_in_one_run(cluster: Any) -> None:
    names = [f"db {number}" for number in range(5)]
    policy = {"roles": {"r": {}, "s": {}}, "databases": {name: {"schemas": {"app": {"profiles": {"r": "readonly", "s": "app_service"}}}} for name in names}}
    done = converge(cluster, policy)
    assert {change["database"] for change in done["plan"]} >= set(names)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = "SELECT has_schema_privilege('r', 'app', 'USAGE')"
        assert list(pool.map(lambda name: value(cluster, asked, db=name), names)) == [True] * 5


ROUTINES = """
CREATE PROCEDURE app.p(IN a int, OUT b text) LANGUAGE sql AS $$ SELECT 'x' $$;
CREATE FUNCTION app.p(a int, b text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE app.q(OUT a int, IN b int, IN c int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE app.q(IN a int, IN b int, IN c int) LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE app."Odd ""name"(INOUT a numeric(5, 2), VARIADIC b text[]) LANGUAGE sql AS 'SELECT 1.0';
CREATE PROCEDURE app.nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE app.total(int) (SFUNC = int4pl, STYPE = int);
CREATE FUNCTION app.odd(OUT a int, VARIADIC b "char"[]) LANGUAGE sql AS 'SELECT 1';
"""


def test_routines_that_differ_in_their_out_parameters_alone(shop: Any) -> None:
    execute(shop, ROUTINES, db="shop")
    converge(shop, in_shop(objects_owner="s", grants=[{"to": "r", "privileges": ["EXECUTE"], "functions": "all"}]))
    routines = "SELECT proname, proowner::regrole::text, has_function_privilege('r', oid, 'EXECUTE'), has_function_privilege('other', oid, 'EXECUTE')"
    found = query(shop, f"{routines} FROM pg_proc WHERE pronamespace = 'app'::regnamespace", db="shop")
    assert len(found) == 8
    assert {row[1:] for row in found} == {("s", True, False)}
    converge(shop, in_shop(objects_owner="s"))
    assert {row[2] for row in query(shop, f"{routines} FROM pg_proc WHERE pronamespace = 'app'::regnamespace", db="shop")} == {False}


def test_an_owner_that_is_not_among_the_roles_is_no_traceback(shop: Any) -> None:
    execute(shop, "CREATE ROLE late; CREATE SCHEMA lost AUTHORIZATION late", db="shop")
    oid = value(shop, "SELECT oid FROM pg_roles WHERE rolname = 'late'")
    execute(shop, "SET allow_system_table_mods = on; DELETE FROM pg_authid WHERE rolname = 'late'", db="shop")
    try:
        said = refused(shop, in_shop(owner="s"))
        assert f"the role with OID {oid}, which was not there when the roles were read: it was made meanwhile, so run again" in said
        result = run(shop, "pg_access_info", databases=["shop"])
        assert result.get("failed"), result
        assert f"the role with OID {oid}" in result["msg"]
    finally:
        execute(shop, f"UPDATE pg_namespace SET nspowner = 10 WHERE nspowner = {oid}", f"DELETE FROM pg_shdepend WHERE refobjid = {oid}", db="shop")


def test_a_role_that_is_named_like_everybody_is_refused(shop: Any) -> None:
    execute(shop, 'CREATE ROLE "PUBLIC" LOGIN; GRANT USAGE ON SCHEMA app TO "PUBLIC"; GRANT UPDATE ON app.t TO "PUBLIC"', db="shop")
    assert 'rename it first, with ALTER ROLE "PUBLIC" RENAME TO' in refused(shop, in_shop(owner="s"))
    result = run(shop, "pg_access_info", databases=["shop"])
    assert 'a role is named "PUBLIC"' in result["msg"]
    execute(shop, 'ALTER ROLE "PUBLIC" RENAME TO everybody')
    converge(shop, in_shop(owner="s"))
    assert value(shop, "SELECT has_table_privilege('everybody', 'app.t', 'UPDATE')", db="shop") is False


LEAVER = """
CREATE EXTENSION postgres_fdw;
GRANT EXECUTE ON FUNCTION postgres_fdw_handler() TO old;
GRANT USAGE ON FOREIGN DATA WRAPPER postgres_fdw TO old;
GRANT USAGE ON LANGUAGE plpgsql TO old;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_waldir() TO old;
GRANT SELECT ON pg_catalog.pg_authid, information_schema.tables TO old;
GRANT SELECT (rolname) ON pg_catalog.pg_authid TO old;
GRANT USAGE ON TYPE pg_catalog.int4 TO old;
GRANT USAGE ON SCHEMA pg_catalog, information_schema TO old;
GRANT SELECT ON app.t TO old;
ALTER DEFAULT PRIVILEGES FOR ROLE old IN SCHEMA app GRANT SELECT ON TABLES TO s;
ALTER DEFAULT PRIVILEGES FOR ROLE s GRANT SELECT ON TABLES TO old;
"""


@pytest.mark.parametrize("mode", ["managed", "additive", "authoritative"])
def test_a_role_that_goes_loses_what_it_has_on_extensions_and_on_postgresql_itself(shop: Any, mode: str) -> None:
    execute(shop, "CREATE ROLE old; GRANT r TO old; GRANT old TO s")
    execute(shop, LEAVER, db="shop")
    policy = {"roles": {"old": {"state": "absent", "reassign_to": "s"}}, "databases": {"shop": {}}}
    done = converge(shop, policy, mode=mode)
    assert "old: function pg_ls_waldir()  -ALL" in done["diff"]["prepared"]
    assert value(shop, "SELECT count(*) FROM pg_roles WHERE rolname = 'old'") == 0


def test_a_user_mapping_of_a_role_that_goes_is_named(shop: Any) -> None:
    execute(shop, "CREATE ROLE old")
    execute(shop, "CREATE EXTENSION postgres_fdw; CREATE SERVER w FOREIGN DATA WRAPPER postgres_fdw; CREATE USER MAPPING FOR old SERVER w", db="shop")
    for entry in ({"state": "absent"}, {"state": "absent", "reassign_to": "s"}):
        for check in (True, False):
            said = refused(shop, {"roles": {"old": entry}, "databases": {"shop": {}}}, check=check)
            assert 'roles.old: has 1 user mapping in database "shop", which nobody can inherit: drop them first' in said


def test_an_owner_that_has_lost_its_own_default_privileges_gets_them_back(shop: Any) -> None:
    execute(shop, "CREATE ROLE mig LOGIN", "CREATE ROLE ro LOGIN")
    for kind in ("TABLES", "SEQUENCES", "FUNCTIONS"):
        words = "EXECUTE" if kind == "FUNCTIONS" else "SELECT"
        execute(shop, f"ALTER DEFAULT PRIVILEGES FOR ROLE mig GRANT {words} ON {kind} TO ro", db="shop")
        execute(shop, f"ALTER DEFAULT PRIVILEGES FOR ROLE mig REVOKE ALL ON {kind} FROM mig", db="shop")
    app = {"owner": "mig", "objects_owner": "mig", "profiles": {"mig": "migration", "ro": "readonly"}}
    policy = {"roles": {"mig": {"login": True}, "ro": {"login": True}}, "databases": {"shop": {"schemas": {"app": app}}}}
    converge(shop, policy)
    execute(shop, "SET ROLE mig; CREATE TABLE app.tomorrow (a int); CREATE SEQUENCE app.numbers; CREATE FUNCTION app.f() RETURNS int RETURN 1", db="shop")
    tables = ", ".join(f"has_table_privilege('mig', 'app.tomorrow', '{word}')" for word in ("SELECT", "INSERT", "TRUNCATE"))
    others = "has_sequence_privilege('mig', 'app.numbers', 'USAGE'), has_function_privilege('mig', 'app.f()', 'EXECUTE')"
    assert query(shop, f"SELECT {tables}, {others}", db="shop") == [(True,) * 5]
    unchanged(shop, policy)


def test_a_database_that_quotes_all_identifiers(shop: Any) -> None:
    execute(shop, "ALTER DATABASE shop SET quote_all_identifiers = on")
    execute(shop, "CREATE TYPE app.pair AS (a int); CREATE FUNCTION app.f(app.pair, int) RETURNS int LANGUAGE sql AS 'SELECT 1'", db="shop")
    policy = in_shop(grants=[{"to": "r", "privileges": ["EXECUTE"], "functions": ["f(app.pair, int)"]}])
    converge(shop, policy)
    assert value(shop, "SELECT has_function_privilege('r', 'app.f(app.pair, int)', 'EXECUTE')", db="shop") is True


def test_the_hint_of_the_server_is_in_the_error(cluster: Any) -> None:
    with (
        Database({"host": cluster.host, "port": cluster.port, "user": "postgres"}, "postgres") as connection,
        pytest.raises(StatementError, match=r"function nosuch.integer. does not exist.*; No function matches the given name"),
    ):
        connection.query("SELECT nosuch(1)")


def test_sessions_that_could_not_be_begun_any_more(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE shop", *(f"CREATE ROLE {name} LOGIN" for name in ("gone", "barred", "closed", "stays")))
    policy = {"roles": {"gone": {"state": "absent"}, "barred": {}, "closed": {"login": True}, "stays": {"login": True}}, "databases": {"shop": {}}}
    policy["databases"]["shop"] = {"grants": [{"to": "stays", "privileges": ["CONNECT"]}]}
    with contextlib.ExitStack() as stack:
        sessions = {name: stack.enter_context(session(cluster, "shop", name)) for name in ("gone", "barred", "closed", "stays")}
        plan(cluster, policy)
        told = apply(cluster, policy)
        assert sorted((each["reason"], len(each["pids"])) for each in told["stale_sessions"]) == [
            ("dropped", 1),
            ("may not connect to the database", 1),
            ("may not log in", 1),
        ]
        assert "sessions go on that could not be begun now" in str(told["warnings"])
        assert all(each.info.transaction_status == 0 for each in sessions.values())
        assert apply(cluster, policy, check=True, end_sessions=True)["changed"] is True
        assert apply(cluster, policy, end_sessions=True)["changed"] is True
        for name, each in sessions.items():
            with contextlib.suppress(psycopg2.Error):
                each.cursor().execute("SELECT 1")
            assert bool(each.closed) is (name != "stays")
        again = apply(cluster, policy, end_sessions=True)
        assert (again["changed"], again["stale_sessions"]) == (False, [])


def test_a_plan_that_is_made_anew_goes_through_the_guards_and_is_shown(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody grants much between the plan and its transaction."""
    tables = "DO $$BEGIN FOR n IN 1..300 LOOP EXECUTE format('CREATE TABLE many.t%s (a int)', n); END LOOP; END$$"
    execute(world, "CREATE ROLE r", "CREATE SCHEMA many", tables, db=DATABASE)
    policy = {"roles": {"r": {}}, "databases": {DATABASE: {"schemas": {"many": {"grants": [{"to": "r", "privileges": ["USAGE"]}]}}}}}
    make = Convergence.plan

    def granted_after(statement: str) -> None:
        def planned(self: Convergence) -> Any:
            found = make(self)
            execute(world, statement, db=DATABASE)
            return found

        monkeypatch.setattr(Convergence, "plan", planned)

    granted_after("GRANT SELECT ON ALL TABLES IN SCHEMA many TO r")
    result = run(world, "pg_access", policy=policy)
    assert "max_revoke_share" in result["msg"]
    readable = "SELECT count(*) FROM pg_class WHERE relnamespace = 'many'::regnamespace AND has_table_privilege('r', oid, 'SELECT')"
    assert value(world, readable, db=DATABASE) == 300
    execute(world, "REVOKE SELECT ON ALL TABLES IN SCHEMA many FROM r", db=DATABASE)
    granted_after("GRANT SELECT ON many.t1 TO r")
    done = apply(world, policy, diff=True)
    assert "r: table many.t1  -SELECT" in done["diff"]["prepared"]
    assert "planned anew" in str(done["warnings"])
    assert any("REVOKE" in statement and "t1" in statement for statement in done["sql"])
