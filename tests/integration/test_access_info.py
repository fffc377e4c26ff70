# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_access_info: the document that it reads from a server is what pg_access makes of a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.module import apply, info, run, unchanged
from tests.integration.sql import execute, fingerprint, ident, query, wipe
from tests.integration.world import DATABASE, ODD, statements

if TYPE_CHECKING:
    from tests.servers import Server

ROLES = (
    "CREATE ROLE reader NOLOGIN",
    "CREATE ROLE \"App 'User'\" LOGIN CONNECTION LIMIT 7 VALID UNTIL '2030-01-01 00:00:00Z'",
    "CREATE ROLE boss LOGIN CREATEDB CREATEROLE NOINHERIT",
    "CREATE ROLE loner",
    "GRANT reader TO \"App 'User'\"",
    "GRANT reader TO boss WITH ADMIN OPTION",
    'ALTER ROLE boss SET search_path = app, "Mixed Case", public',
    "ALTER ROLE boss SET work_mem = '8MB'",
    "COMMENT ON ROLE boss IS 'it''s the boss'",
)
RIGHTS = (
    "GRANT USAGE ON SCHEMA app, {odd} TO reader; GRANT SELECT ON ALL TABLES IN SCHEMA app TO reader; REVOKE SELECT ON app.users FROM reader",
    "GRANT SELECT, UPDATE ON {odd}.orders TO \"App 'User'\" WITH GRANT OPTION; GRANT SELECT (id, name) ON app.users TO \"App 'User'\"",
    "GRANT USAGE ON SEQUENCE app.numbers TO reader; GRANT ALL ON FUNCTION app.total(integer, text) TO reader; GRANT USAGE ON TYPE {odd}.pair TO boss",
    "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA app FROM PUBLIC; REVOKE CONNECT ON DATABASE {db} FROM PUBLIC; GRANT CONNECT ON DATABASE {db} TO reader",
    "ALTER DEFAULT PRIVILEGES FOR ROLE boss IN SCHEMA app GRANT SELECT ON TABLES TO reader",
    "ALTER DEFAULT PRIVILEGES FOR ROLE boss REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC; ALTER SCHEMA {odd} OWNER TO boss",
    'GRANT USAGE ON FOREIGN SERVER "far Away" TO boss; GRANT SELECT ON LARGE OBJECT 4711 TO reader; GRANT SELECT ON other.users TO PUBLIC',
)


@pytest.fixture
def lived_in(cluster: Server) -> Server:
    """A server whose rights were given by hand."""
    make(cluster)
    execute(cluster, *ROLES)
    execute(cluster, *(text.format(odd=ident(ODD), db=ident(DATABASE)) for text in RIGHTS), db=DATABASE)
    return cluster


def make(server: Server) -> None:
    """The database with its objects and nobody's rights."""
    execute(server, f"CREATE DATABASE {ident(DATABASE)}")
    execute(server, *statements(), db=DATABASE)


def test_the_generated_policy_changes_nothing(lived_in: Server) -> None:
    before = fingerprint(lived_in)
    policy = info(lived_in)["policy"]
    assert fingerprint(lived_in) == before
    unchanged(lived_in, policy)
    unchanged(lived_in, policy, mode="authoritative")
    assert fingerprint(lived_in) == before


def test_an_empty_default_privilege_is_none_in_the_policy(lived_in: Server) -> None:
    """PostgreSQL counts a list with nobody in it as none, so that PUBLIC may execute what these roles make."""
    owners = ("boss", "reader", "\"App 'User'\"")
    text = "ALTER DEFAULT PRIVILEGES FOR ROLE {0} REVOKE ALL ON {1} FROM PUBLIC, {0}"
    execute(lived_in, "ALTER SCHEMA app OWNER TO reader", db=DATABASE)
    execute(lived_in, *(text.format(owner, kind) for owner in owners for kind in ("FUNCTIONS", "TYPES")), db=DATABASE)
    policy = info(lived_in)["policy"]
    told = [entry for entry in policy["databases"][DATABASE]["default_privileges"] if entry["type"] in ("functions", "types")]
    given = {(entry["owner"], entry["to"], *entry["privileges"]) for entry in told}
    assert given == {("boss", "PUBLIC", "EXECUTE"), ("reader", "PUBLIC", "EXECUTE")}
    before = fingerprint(lived_in)
    unchanged(lived_in, policy)
    unchanged(lived_in, policy, mode="authoritative")
    assert fingerprint(lived_in) == before


def test_a_fresh_server_with_the_generated_policy_has_the_same_matrix(lived_in: Server) -> None:
    found = info(lived_in, databases=[DATABASE])
    assert found["matrix"]
    wipe(lived_in)
    make(lived_in)
    apply(lived_in, found["policy"])
    again = info(lived_in, databases=[DATABASE])
    assert again["matrix"] == found["matrix"]
    assert again["matrix_text"] == found["matrix_text"]
    assert again["policy"] == found["policy"]


def test_the_matrix_is_what_the_server_says(lived_in: Server) -> None:
    """What has_table_privilege() says is what the matrix shows for the role or for PUBLIC."""
    roles = ["reader", "App 'User'", "boss", "loner"]
    matrix = info(lived_in, databases=[DATABASE], matrix_roles=[*roles, "PUBLIC"])["matrix"]
    assert {entry["role"] for entry in matrix} <= {*roles, "PUBLIC"}
    tables = query(
        lived_in,
        "SELECT r, p, n.nspname, c.relname FROM unnest(%(roles)s::text[]) r, unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p,"
        " pg_class c JOIN pg_namespace n ON n.oid = relnamespace AND nspname IN ('app', 'other')"
        " WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND has_table_privilege(r, c.oid, p)",
        {"roles": roles},
        db=DATABASE,
    )
    wanted = {(role, f"{schema}.{table}", word) for role, word, schema, table in tables}
    held = {(entry["role"], entry["object"], word) for entry in matrix if entry["kind"] == "table" for word in entry["privileges"]}
    everybody = {(role, place, word) for holder, place, word in held if holder == "PUBLIC" for role in roles}
    shown = {item for item in held | everybody if item[0] in roles and item[2] not in ("REFERENCES", "TRIGGER", "MAINTAIN")}
    assert {item for item in shown if item[1].startswith(("app.", "other."))} == wanted


def test_the_text_is_aligned_and_holds_the_same(lived_in: Server) -> None:
    found = info(lived_in, databases=[DATABASE])
    objects = {(entry["database"], entry["kind"], entry["object"]) for entry in found["matrix"]}
    lines = found["matrix_text"].splitlines()[: 1 + len(objects)]
    assert "app.orders" in found["matrix_text"]
    for role in {entry["role"] for entry in found["matrix"]}:
        column = lines[0].index(role)
        assert all(len(line) <= column or line[column - 1] == " " for line in lines), role


def test_reading_needs_no_writing(lived_in: Server) -> None:
    expected = info(lived_in)["policy"]
    execute(lived_in, "CREATE ROLE auditor SUPERUSER LOGIN", "ALTER ROLE auditor SET default_transaction_read_only = on")
    found = info(lived_in, login_user="auditor")["policy"]
    found["roles"].pop("auditor")
    assert found == expected


def test_an_ordinary_role_can_read(lived_in: Server) -> None:
    """No superuser is needed to look: what may not be read is left out, not guessed."""
    execute(lived_in, "CREATE ROLE looker LOGIN", f"GRANT CONNECT ON DATABASE {ident(DATABASE)} TO looker")
    found = info(lived_in, login_user="looker", databases=[DATABASE])
    assert set(found["policy"]["roles"]) >= {"reader", "boss"}


@pytest.mark.parametrize("options", [{"databases": ["nowhere"]}, {"databases": ["template0"]}, {"matrix_roles": ["nobody"]}])
def test_what_does_not_exist_is_refused(lived_in: Server, options: dict[str, Any]) -> None:
    result = run(lived_in, "pg_access_info", **options)
    assert result["failed"]
    assert next(iter(options.values()))[0] in result["msg"]
