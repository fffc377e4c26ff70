# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated policies on generated states: what every role may do afterwards is what the policy says, and a second plan is empty.

The examples are few and the same in an ordinary run. BULWARK_EXAMPLES=500 makes it a soak, BULWARK_SHRINK=1 looks for the smallest failing one.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
from typing import Any

import psycopg2
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.integration.module import apply, info, plan, run, unchanged
from tests.integration.oracle import KINDS, PUBLIC, Promise, State, broken, privileges_of, state
from tests.integration.sql import execute, ident, query, session, wipe
from tests.integration.world import DATABASE, MANAGED, ODD, SCHEMAS, STRANGERS, statements, things

SOAK = "BULWARK_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("BULWARK_EXAMPLES", "12"))
TEMPLATE = "world template"
Policy = dict[str, Any]

TABLES = ("orders", "users", "Mixed Case", "events", "events_2026", "user_names", "totals", "remote")
COLUMNS = {"orders": ("id", "customer", 'e "mail" x'), "users": ("id", "name", "secret"), "Mixed Case": ("id", "Name"), "user_names": ("id", "name")}
PATTERNS = ("orders", "use*", "*", "*e*s", "Mixed*")
NAMES = {
    "sequences": ("numbers", "users_id_seq", "orders_id_seq"),
    "functions": ("total", "total(integer)", "total(int, text)", "refresh", "add_up(integer)", "Odd, Name"),
    "types": ("order_state", "positive", "pair", "span"),
}


def some(items: Any, most: int = 3) -> st.SearchStrategy[list[Any]]:
    """A few different ones, at least one."""
    return st.lists(st.sampled_from(tuple(items)), min_size=1, max_size=most, unique=True)


def privileges(kind: str) -> st.SearchStrategy[list[str]]:
    """Privileges that every version knows, or all of them."""
    return st.one_of(some(privileges_of(kind, 14)), st.just(["ALL"]))


@st.composite
def grants(draw: st.DrawFn, grantees: tuple[str, ...], empty: bool) -> dict[str, Any]:
    """One entry of a schema's grants; in an empty schema nothing is named."""
    grant: dict[str, Any] = {"to": draw(some(grantees))}
    word = draw(st.sampled_from(("schema", "tables", "tables", "columns", "views", "sequences", "functions", "types")))
    if word == "schema":
        grant["privileges"] = draw(privileges("schema"))
    elif empty:
        word = "tables" if word == "columns" else word
        grant |= {"privileges": draw(privileges(KINDS[word])), word: "all"}
    elif word == "columns":
        table = draw(st.sampled_from(tuple(COLUMNS)))
        grant |= {"privileges": draw(privileges("column")), "tables": [table], "columns": draw(some(COLUMNS[table]))}
    else:
        named = {"tables": (*TABLES, *PATTERNS), "views": ("user_names", "totals"), **NAMES}[word]
        grant |= {"privileges": draw(privileges(KINDS[word])), word: draw(st.one_of(st.just("all"), some(named)))}
        if grant[word] == "all" and word != "views" and draw(st.booleans()):
            grant["except"] = draw(some(named if word != "tables" else TABLES, 2))
    if PUBLIC not in grant["to"] and draw(st.integers(0, 4)) == 0:
        grant["grant_option"] = True
    return grant


@st.composite
def schemas(draw: st.DrawFn, name: str, roles: tuple[str, ...], grantees: tuple[str, ...], additive: bool) -> dict[str, Any]:
    """One schema of the policy."""
    schema: dict[str, Any] = {"partitions": draw(st.sampled_from(("parent", "mirror")))}
    if not additive:
        for key in draw(st.lists(st.sampled_from(("owner", "objects_owner")), unique=True)):
            schema[key] = draw(st.sampled_from(roles))
    profile = st.sampled_from(("app_service", "migration", "readonly", "reporting"))
    leaving = st.fixed_dictionaries({"profile": profile, "except": some(("users", "user*", "events"), 2)})
    schema["profiles"] = draw(st.dictionaries(st.sampled_from(roles), st.one_of(profile, leaving), max_size=3))
    schema["grants"] = draw(st.lists(grants(grantees, name == "public"), max_size=4))
    default = st.fixed_dictionaries(
        {"owner": st.sampled_from(roles), "to": some(grantees, 2), "type": st.just("tables"), "privileges": some(("SELECT", "INSERT"))}
    )
    schema["default_privileges"] = draw(st.lists(default, max_size=1))
    return schema


@st.composite
def policies(draw: st.DrawFn) -> tuple[Policy, str]:
    """A policy document and the mode to apply it in."""
    mode = draw(st.sampled_from(("managed", "managed", "managed", "additive", "authoritative")))
    roles = tuple(draw(st.lists(st.sampled_from(MANAGED), min_size=2, max_size=5, unique=True)))
    grantees = (*roles, PUBLIC, STRANGERS[0])
    attributes: dict[str, Any] = {}
    for position, role in enumerate(roles):
        attributes[role] = {"inherit": draw(st.booleans()), "login": draw(st.booleans()), "superuser": draw(st.integers(0, 9)) == 0}
        attributes[role]["member_of"] = draw(st.lists(st.sampled_from(roles[:position]), max_size=2, unique=True)) if position else []
        if draw(st.integers(0, 4)) == 0:
            attributes[role]["keep_members"] = draw(st.sampled_from((["str*"], ["stranger"], ["St*"])))
    database: dict[str, Any] = {"schemas": {}}
    if mode != "additive" and draw(st.booleans()):
        database["owner"] = draw(st.sampled_from(roles))
    for name in draw(some(("app", ODD, "public"))):
        database["schemas"][name] = draw(schemas(name, roles, grantees, mode == "additive"))
    on_database = st.fixed_dictionaries({"to": some(grantees), "privileges": privileges("database")})
    far = st.fixed_dictionaries({"to": some(roles), "privileges": st.just(["USAGE"]), "foreign_servers": st.just(["far Away"])})
    database["grants"] = draw(st.lists(st.one_of(on_database, far), max_size=2))
    profiles = {"reporting": {"schema": ["USAGE"], "tables": ["SELECT", "REFERENCES"], "types": ["USAGE"], "functions": ["EXECUTE"]}}
    return {"roles": attributes, "profiles": profiles, "databases": {DATABASE: database}}, mode


EVERYBODY = (*MANAGED, *STRANGERS)


@st.composite
def drift(draw: st.DrawFn) -> str:
    """One statement that makes the state another; those that fail on the server do not matter."""
    schema = ident(draw(st.sampled_from(SCHEMAS)))
    role = ident(draw(st.sampled_from(EVERYBODY)))
    grantee = draw(st.one_of(st.just("PUBLIC"), st.sampled_from(EVERYBODY).map(ident)))
    option = " WITH GRANT OPTION" if grantee != "PUBLIC" and draw(st.booleans()) else ""
    table = ident(draw(st.sampled_from(TABLES)))
    word = draw(st.sampled_from(privileges_of("table", 14)))
    kind = draw(st.sampled_from(("TABLES", "SEQUENCES", "FUNCTIONS", "TYPES")))
    by = draw(st.one_of(st.just(""), st.just(""), st.sampled_from(EVERYBODY).map(lambda name: f"SET ROLE {ident(name)};")))
    column = ident(draw(st.sampled_from(COLUMNS["orders"])))
    database = ident(DATABASE)
    place = draw(st.sampled_from(("", f"IN SCHEMA {schema}")))
    choices = (
        f"{by} GRANT {word} ON {schema}.{table} TO {grantee}{option}",
        f"{by} GRANT {word} ON {schema}.{table} TO {grantee}{option}",
        f"{by} GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {grantee}{option}",
        f"{by} GRANT SELECT ({column}), UPDATE (id) ON {schema}.orders TO {grantee}{option}",
        f"GRANT ALL ON ALL {draw(st.sampled_from(('TABLES', 'SEQUENCES', 'FUNCTIONS')))} IN SCHEMA {schema} TO {grantee}{option}",
        f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {schema} FROM PUBLIC",
        f"GRANT USAGE ON TYPE {schema}.pair TO {grantee}{option}",
        f"REVOKE USAGE ON TYPE {schema}.positive FROM PUBLIC",
        f"GRANT CREATE, USAGE ON SCHEMA {schema} TO {grantee}{option}",
        f"GRANT CREATE, TEMPORARY ON DATABASE {database} TO {grantee}{option}",
        f"REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",
        f'GRANT USAGE ON FOREIGN SERVER "far Away" TO {grantee}{option}',
        f"GRANT SELECT ON LARGE OBJECT 4711 TO {grantee}{option}",
        f"GRANT {ident(draw(st.sampled_from(EVERYBODY)))} TO {role}",
        f"ALTER TABLE {schema}.{table} OWNER TO {role}",
        f"ALTER FUNCTION {schema}.total(integer) OWNER TO {role}",
        f"ALTER SCHEMA {schema} OWNER TO {role}",
        f"ALTER DATABASE {database} OWNER TO {role}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} {place} GRANT ALL ON {kind} TO {grantee}{option}",
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE ALL ON {kind} FROM PUBLIC, {role}",
        f"ALTER ROLE {role} {draw(st.sampled_from(('NOINHERIT', 'CREATEDB', 'CREATEROLE', 'LOGIN')))}",
        f"DROP ROLE {ident(draw(st.sampled_from(MANAGED)))}",
    )
    return draw(st.sampled_from(choices))


@pytest.fixture(scope="module")
def template(server: Any) -> Any:
    """The server with a database to copy for each example."""
    wipe(server)
    execute(server, f"CREATE DATABASE {ident(TEMPLATE)}")
    execute(server, *statements(), db=TEMPLATE)
    yield server
    wipe(server)


def disturb(server: Any, drifts: list[str], mode: str) -> None:
    """A fresh copy of the template, and the drift on it."""
    with session(server) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {ident(DATABASE)} WITH (FORCE)")
        cursor.execute("SELECT string_agg(quote_ident(rolname), ', ') FROM pg_roles WHERE rolname <> 'postgres' AND rolname !~ '^pg_'")
        names = cursor.fetchone()[0]
        if names:
            cursor.execute(f"DROP ROLE {names}")
        cursor.execute(f"CREATE DATABASE {ident(DATABASE)} TEMPLATE {ident(TEMPLATE)}")
        for name in EVERYBODY:
            cursor.execute(f"CREATE ROLE {ident(name)}")
        if mode != "additive":
            cursor.execute(f"ALTER ROLE {ident(MANAGED[0])} SUPERUSER")
    with session(server, DATABASE) as connection, connection.cursor() as cursor:
        for statement in drifts:
            with contextlib.suppress(psycopg2.Error):
                cursor.execute(statement)
            cursor.execute("RESET ROLE")


def read(server: Any) -> State:
    """The state of the example's database."""
    return state(server, DATABASE, things(server))


def check_memberships(server: Any, promise: Promise) -> None:
    """Who is a member of what is as promised: of declared roles, and of roles that declared ones are members of."""
    pairs = query(
        server,
        "SELECT u.rolname, g.rolname FROM pg_auth_members JOIN pg_roles u ON u.oid = member JOIN pg_roles g ON g.oid = roleid WHERE u.rolname !~ '^pg_'",
    )
    assert set(pairs) == {pair for pair in promise.members() if not pair[0].startswith("pg_")}


def check_tomorrow(server: Any, promise: Promise) -> None:
    """Objects that the schema's creators make after the run carry the promised rights and no others."""
    makers = {
        "tables": ("table", "CREATE TABLE {} (id int)", "'{}'::regclass"),
        "sequences": ("sequence", "CREATE SEQUENCE {}", "'{}'::regclass"),
        "functions": ("function", "CREATE FUNCTION {}() RETURNS int LANGUAGE sql AS 'SELECT 1'", "'{}()'::regprocedure"),
    }
    for schema in promise.schemas:
        for creator in promise.creators(schema):
            for word, (kind, statement, oid) in makers.items():
                name = f"{ident(schema)}.tomorrow"
                rights = promise.tomorrow(schema, creator, word)
                script = f"BEGIN; GRANT ALL ON SCHEMA {ident(schema)} TO {ident(creator)}; SET LOCAL ROLE {ident(creator)}; {statement.format(name)};"
                letter = {"table": "r", "sequence": "s", "function": "f"}[kind]
                ask = (
                    f"{script} SELECT coalesce((SELECT rolname FROM pg_roles WHERE oid = a.grantee), 'PUBLIC'), a.privilege_type, a.is_grantable"
                    f" FROM (SELECT {'proowner, proacl FROM pg_proc' if kind == 'function' else 'relowner, relacl FROM pg_class'}"
                    f" WHERE oid = {oid.format(name.replace(chr(39), chr(39) * 2))}) x (owner, acl),"
                    f" aclexplode(coalesce(acl, acldefault('{letter}', owner))) a"
                )
                found = {(grantee, privilege): option for grantee, privilege, option in query(server, ask, db=DATABASE) if grantee != creator}
                wanted = {right: option for right, option in rights.items() if right[0] != creator}
                assert found == wanted, f"new {word} of {creator} in {schema}"


def without_vain_grants(server: Any, policy: Policy, options: dict[str, Any]) -> None:
    """Take out what the module refuses with its place: column grants that a grant on the whole table makes vain, and circles of members."""
    result = run(server, "pg_access", policy=policy, check=True, **options)
    vain = [mistake["path"] for mistake in result.get("mistakes", []) if "has no effect" in mistake["message"]]
    for name, schema in policy["databases"][DATABASE]["schemas"].items():
        place = f".schemas.{name}" if name.isidentifier() else f".schemas[{json.dumps(name, ensure_ascii=False)}]"
        kept = [grant for number, grant in enumerate(schema["grants"]) if not any(path.endswith(f"{place}.grants[{number}]") for path in vain)]
        schema["grants"] = kept
    # In additive mode a membership on the server stays, and the declared ones may close a circle with it.
    if any("is itself a member of" in mistake["message"] for mistake in result.get("mistakes", [])):
        assert options["mode"] == "additive"
        for role in policy["roles"].values():
            role["member_of"] = []


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=not SOAK,
    phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if "BULWARK_SHRINK" in os.environ else ())),
    suppress_health_check=list(HealthCheck),
)
@given(declared=policies(), drifts=st.lists(drift(), min_size=5, max_size=25))
def test_every_right_is_what_the_policy_says(template: Any, declared: tuple[Policy, str], drifts: list[str]) -> None:
    policy, mode = declared
    policy = copy.deepcopy(policy)
    disturb(template, drifts, mode)
    before = read(template)
    options = {"mode": mode, "allow_mass_revoke": True}
    note(f"{template.major}: {mode}")
    for statement in drifts:
        note(statement)

    without_vain_grants(template, policy, options)
    foretold = plan(template, policy, **options)
    done = apply(template, policy, **options)
    assert done["sql"] == foretold["sql"]
    assert plan(template, policy, **options)["sql"] == []

    promise = Promise(policy, DATABASE, before, mode, template.major)
    assert broken(template, DATABASE, promise) == []
    owners = {thing.key: thing.owner for thing in things(template)}
    assert owners == promise.owners
    check_memberships(template, promise)
    if mode != "additive":
        check_tomorrow(template, promise)


@settings(
    max_examples=max(EXAMPLES // 2, 1),
    deadline=None,
    derandomize=not SOAK,
    phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if "BULWARK_SHRINK" in os.environ else ())),
    suppress_health_check=list(HealthCheck),
)
@given(drifts=st.lists(drift().filter(lambda statement: "SET ROLE" not in statement), min_size=5, max_size=25))
def test_the_document_of_any_state_changes_nothing(template: Any, drifts: list[str]) -> None:
    """Rights that the owner did not give himself are left out of the document, so there are none here."""
    disturb(template, drifts, "managed")
    document = info(template, databases=[DATABASE])["policy"]
    note("\n".join(drifts))
    unchanged(template, document)
