# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The declared document -> the model, and the place and text of each mistake in it."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.access import moments
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.model import DefaultGrant, Grant, Policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError

APP = "databases.shop.schemas.app"
GRANT = f"{APP}.grants[0]"
DEFAULT = f"{APP}.default_privileges[0]"


def role(**attributes: Any) -> dict[str, Any]:
    """A document with the role r."""
    return {"roles": {"r": attributes}}


def schema(**declared: Any) -> dict[str, Any]:
    """A document with the schema app of shop."""
    return {"databases": {"shop": {"schemas": {"app": declared}}}}


def grant(**declared: Any) -> dict[str, Any]:
    """A document with one grant in the schema app."""
    return schema(grants=[{"to": "r", "privileges": ["SELECT"], **declared}])


def default(**declared: Any) -> dict[str, Any]:
    """A document with one default privilege in the schema app."""
    return schema(default_privileges=[{"owner": "o", "to": "r", "type": "tables", "privileges": ["SELECT"], **declared}])


def mistakes(document: Any, passwords: Any = None) -> dict[str, str]:
    """Path -> message."""
    with pytest.raises(PolicyError) as caught:
        read_policy(document, passwords)
    return {mistake.path: mistake.message for mistake in caught.value.mistakes}


# Each document has exactly one mistake: the document, its path, a part of its message.
WRONG: list[tuple[Any, str, str]] = [
    ([], "policy", "must be a mapping, not a list"),
    ({"rolls": {}}, "rolls", 'did you mean "roles"'),
    (role(logn=True), "roles.r.logn", 'did you mean "login"'),
    (role(password="hidden"), "roles.r.password", "pg_users_passwords"),
    (role(connection_limit=-2), "roles.r.connection_limit", "from -1 to 2147483647"),
    (role(valid_until="2027-02-31"), "roles.r.valid_until", "2027-12-31T00:00:00Z"),
    (role(valid_until="0001-01-01T00:00:00+14:00"), "roles.r.valid_until", "date and time"),
    (role(comment="a\0"), "roles.r.comment", "NUL"),
    (role(settings={"work_mem": None}), "roles.r.settings.work_mem", "not nothing"),
    (role(settings={"DateStyle": ["ISO"]}), "roles.r.settings.DateStyle", "as one string"),
    (role(settings={"work_mem": "1MB", "Work_Mem": "2MB"}), "roles.r.settings.work_mem", "twice"),
    (role(database_settings={"shop": {"a b": 1}}), 'roles.r.database_settings.shop["a b"]', "no name of a parameter"),
    (role(member_of=["n" * 64]), "roles.r.member_of[0].role", "truncate"),
    (role(member_of=["r"]), "roles.r.member_of[0]", "member of itself"),
    (role(member_of=[{"admin": True}]), "roles.r.member_of[0].role", "is missing"),
    (role(member_of=["a", {"role": "a", "admin": True}]), "roles.r.member_of[1]", "contradicts"),
    (role(reassign_to="s"), "roles.r.reassign_to", "state: absent"),
    (role(state="absent", login=True), "roles.r.login", "no meaning"),
    (role(state="absent", reassign_to="r"), "roles.r.reassign_to", "itself"),
    ({"roles": {"r": {"member_of": ["s"]}, "s": {"state": "absent"}}}, "roles.r.member_of[0]", '"s" is declared absent'),
    ({"roles": {"a": {"member_of": ["b"]}, "b": {"member_of": ["c"]}, "c": {"member_of": ["a"]}}}, "roles.a.member_of", '"a" -> "b" -> "c" -> "a"'),
    ({"roles": {"s": {"state": "absent"}}, **schema(owner="s")}, f"{APP}.owner", "declared absent"),
    ({"roles": {"s": {"state": "absent"}}, **schema(profiles={"s": "readonly"})}, f"{APP}.profiles.s", "declared absent"),
    (schema(owner="PUBLIC"), f"{APP}.owner", "PUBLIC"),
    (schema(profiles={"r": "readonyl"}), f"{APP}.profiles.r", 'did you mean "readonly"'),
    (schema(profiles={"PUBLIC": "readonly"}), f"{APP}.profiles.PUBLIC", "cannot have a profile"),
    ({"profiles": {"p": {"tabels": []}}}, "profiles.p.tabels", 'did you mean "tables"'),
    ({"profiles": {"p": {"schema": ["SELECT"]}}}, "profiles.p.schema", "accepted: CREATE, USAGE, ALL"),
    ({"databases": {"shop": {"schemas": {"pg_catalog": {}}}}}, "databases.shop.schemas.pg_catalog", "PostgreSQL's own"),
    (grant(tabels="all"), f"{GRANT}.tabels", 'did you mean "tables"'),
    (grant(tables="all", views="all"), GRANT, "several kinds"),
    (grant(tables="all", privileges="SELECT, INSERT"), f"{GRANT}.privileges", "write the privileges as a list"),
    (grant(tables="all", privileges=[]), f"{GRANT}.privileges", "grants nothing"),
    (grant(tables="all", to=[]), f"{GRANT}.to", "is missing"),
    (grant(tables=[]), f"{GRANT}.tables", "names nothing"),
    (grant(tables=None), f"{GRANT}.tables", "names nothing"),
    (grant(tables=["a"], **{"except": ["b"]}), f"{GRANT}.except", "pattern"),
    (grant(tables=["a*"], columns=["x"]), f"{GRANT}.columns", "one by one"),
    (grant(views=["a"], columns=["x"]), f"{GRANT}.columns", "one by one"),
    (grant(tables=["a"], columns=["x"], privileges=["DELETE"]), f"{GRANT}.privileges", "accepted: INSERT, REFERENCES, SELECT, UPDATE, ALL"),
    (grant(tables="all", to="public", grant_option=True), f"{GRANT}.grant_option", "PUBLIC"),
    ({"grants": [{"to": "r", "privileges": ["SET"]}]}, "grants[0]", "accepted: tablespaces, parameters"),
    (default(type="table"), f"{DEFAULT}.type", 'did you mean "tables"'),
    (default(type="schemas", privileges=["USAGE"]), f"{DEFAULT}.type", "databases.shop.default_privileges"),
    (default(to="PUBLIC", type="functions", privileges=[]), DEFAULT, "to: PUBLIC, type: functions, privileges: []"),
    (default(owner=None), f"{DEFAULT}.owner", "is missing"),
    (
        schema(grants=[{"to": "r", "privileges": "ALL", "tables": "all"}, {"to": "r", "privileges": ["SELECT"], "tables": ["t"], "columns": ["c"]}]),
        f"{APP}.grants[1]",
        f'has no effect: "r" gets SELECT on the whole of "t" at {APP}.grants[0]',
    ),
]

SECRETS: list[tuple[Any, str, str]] = [
    ("", "passwords.r", "must not be empty"),
    (12345678, "passwords.r", "must be a string, not a number"),
    ("hid\0den", "passwords.r", "NUL"),
    ("md5" + "0123456789abcdef" * 2, "passwords.r", "md5"),
    ("SCRAM-SHA-256$hidden", "passwords.r", "is none"),
]


@pytest.mark.parametrize(("document", "path", "message"), WRONG)
def test_each_mistake_has_its_place_and_a_hint(document: Any, path: str, message: str) -> None:
    found = mistakes(document)
    assert list(found) == [path]
    assert message in found[path]


@pytest.mark.parametrize(("secret", "path", "message"), SECRETS)
def test_wrong_passwords_are_told_without_them(secret: Any, path: str, message: str) -> None:
    found = mistakes(role(), {"r": secret})
    assert list(found) == [path]
    assert message in found[path]
    assert "hid" not in str(found)
    assert "1234" not in str(found)


def test_passwords_and_roles_must_agree() -> None:
    assert 'did you mean "reader"' in mistakes({"roles": {"reader": {}}}, {"raeder": "x"})["passwords.raeder"]
    assert "is false" in mistakes(role(has_password=False), {"r": "x"})["roles.r.has_password"]
    assert "must be a mapping" in mistakes({}, ["x"])["passwords"]


def test_attributes_that_are_not_said() -> None:
    exact = read_policy({"roles": {"r": None, "s": {}}}, {"s": "x"}).roles
    assert [(each.login, each.superuser, each.inherit, each.connection_limit, each.valid_until, each.comment) for each in exact] == [
        (False, False, True, -1, "infinity", None),
        (True, False, True, -1, "infinity", None),
    ]
    additive = read_policy({"roles": {"r": None, "s": {}}}, {"s": "x"}, "additive").roles
    assert [(each.login, each.superuser, each.inherit, each.connection_limit, each.valid_until) for each in additive] == [
        (None, None, None, None, None),
        (True, None, None, None, None),
    ]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01", "0"),
        ("1970-01-01T00:00:01Z", "1000000"),
        ("1970-01-01 02:00:00+02", "0"),
        ("1970-01-01T00:00:00.5-01:30", "5400500000"),
        ("Infinity", "infinity"),
        ("2027-12-31T00:00:00Z", "1830211200000000"),
    ],
)
def test_times(text: str, moment: str) -> None:
    assert read_policy(role(valid_until=text)).roles[0].valid_until == moment


def test_settings() -> None:
    given_settings = {"Work_Mem": "64MB", "jit": False, "cpu_tuple_cost": 0.5, "search_path": '"My, schema", app', "temp_tablespaces": ["a b"]}
    found = read_policy(role(settings=given_settings, database_settings={"shop": {"jit": True}})).roles[0].settings
    assert found == {
        (None, "work_mem"): "64MB",
        (None, "jit"): "off",
        (None, "cpu_tuple_cost"): "0.5",
        (None, "search_path"): ("My, schema", "app"),
        (None, "temp_tablespaces"): ("a b",),
        ("shop", "jit"): "on",
    }


def test_profiles_become_grants_and_default_privileges() -> None:
    policy = read_policy({"roles": {"m": {}}, **schema(owner="m", profiles={"m": "migration", "r": {"profile": "readonly", "except": ["secret*"]}})})
    path = f"{APP}.profiles.r"
    assert [each for each in policy.grants if each.grantees == ("r",)] == [
        Grant(path, "database", ("r",), frozenset({"CONNECT"}), "shop"),
        Grant(path, "schema", ("r",), frozenset({"USAGE"}), "shop", "app"),
        Grant(path, "table", ("r",), frozenset({"SELECT"}), "shop", "app", excluding=("secret*",)),
        Grant(path, "sequence", ("r",), frozenset({"SELECT"}), "shop", "app"),
    ]
    assert set(policy.default_grants) == {
        DefaultGrant(path, "shop", "app", "m", "tables", ("r",), frozenset({"SELECT"})),
        DefaultGrant(path, "shop", "app", "m", "sequences", ("r",), frozenset({"SELECT"})),
        DefaultGrant(APP, "shop", None, "m", "functions", ("PUBLIC",), frozenset()),
    }


def test_a_creators_functions_stay_open_where_the_policy_says_so() -> None:
    document = schema(profiles={"m": "migration"})
    document["databases"]["shop"]["default_privileges"] = [{"owner": "m", "to": "public", "type": "functions", "privileges": ["EXECUTE"]}]
    assert [each.privileges for each in read_policy(document).default_grants] == [frozenset({"EXECUTE"})]


def test_a_superuser_who_owns_a_schema_is_no_creator() -> None:
    assert read_policy({"roles": {"m": {"superuser": True}}, **schema(owner="m", profiles={"r": "readonly"})}).default_grants == ()


def test_words_are_normalized() -> None:
    entry = {"to": ["public", "b", "a"], "privileges": ["temp", "Connect"]}
    found = read_policy({"databases": {"shop": {"grants": [entry]}}}).grants[0]
    assert (found.grantees, found.privileges) == (("PUBLIC", "a", "b"), {"CONNECT", "TEMPORARY"})
    assert read_policy(grant(tables="all", privileges="all privileges")).grants[0].privileges == {"ALL"}
    parameter = {"grants": [{"to": "r", "privileges": ["alter  system"], "parameters": ["Work_Mem"]}]}
    assert (read_policy(parameter).grants[0].names, read_policy(parameter).grants[0].privileges) == (("work_mem",), {"ALTER SYSTEM"})


KEYS = st.sampled_from(
    (
        "roles",
        "profiles",
        "grants",
        "databases",
        "schemas",
        "default_privileges",
        "owner",
        "to",
        "type",
        "privileges",
        "tables",
        "functions",
        "columns",
        "except",
        "member_of",
        "role",
        "settings",
        "search_path",
        "database_settings",
        "state",
        "reassign_to",
        "valid_until",
        "profile",
        "large_objects",
        "r",
    )
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None), max_size=6),
    KEYS,
    st.sampled_from(("SELECT", "all", "ALL", "absent", "readonly", "PUBLIC", "f(", "2027-01-01", "--1", "\u00b2")),
)
GARBAGE = st.recursive(
    SCALARS, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(KEYS, SCALARS), inner, max_size=4)), max_leaves=25
)
SHAPED = st.fixed_dictionaries(
    {},
    optional={
        "roles": st.dictionaries(KEYS, GARBAGE, max_size=3),
        "profiles": GARBAGE,
        "grants": st.lists(GARBAGE, max_size=3),
        "databases": st.dictionaries(KEYS, st.fixed_dictionaries({"schemas": st.dictionaries(KEYS, GARBAGE, max_size=2), "grants": GARBAGE}), max_size=2),
    },
)


def outcome(document: Any, passwords: Any, mode: str) -> Policy | str:
    """The policy, or the text of the refusal."""
    try:
        return read_policy(document, passwords, mode)
    except PolicyError as error:
        return str(error)


@settings(max_examples=300, deadline=None)
@given(st.one_of(GARBAGE, SHAPED), GARBAGE, st.sampled_from(("managed", "additive", "authoritative")))
def test_any_document_is_read_or_refused_and_always_in_the_same_way(document: Any, passwords: Any, mode: str) -> None:
    first = outcome(document, passwords, mode)
    assert outcome(document, passwords, mode) == first
    with contextlib.suppress(AttributeError, TypeError):
        assert outcome(dict(reversed(document.items())), passwords, mode) == first


@given(st.integers(-62135596800_000_000, 9_000_000_000_000_000_000))
def test_a_time_survives_being_written(moment: int) -> None:
    assert moments.moment_of(moments.timestamp(str(moment))) == str(moment)
