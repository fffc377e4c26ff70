# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each policy has one mistake that the document alone shows: it is refused with the place and a hint, before any server is asked."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import PolicyError
from tests.access_documents import IN_APP, database, default, grant, roles, schema

# What is wrong; the policy; what the message must hold: the place, and a hint at what would be right.
WRONG: dict[str, tuple[Any, tuple[str, ...]]] = {
    "policy is a text": ("roles", ()),
    "policy is a list": ([{"roles": {}}], ()),
    "unknown key at the top": ({"rolls": {}}, ("rolls", 'did you mean "roles"')),
    "roles is a list": ({"roles": ["r"]}, ("roles",)),
    "databases is a list": ({"databases": ["shop"]}, ("databases",)),
    "grants is a mapping": (schema(grants={"to": "r"}), (f"{IN_APP}.grants",)),
    "a grant is a text": (schema(grants=["SELECT"]), (f"{IN_APP}.grants",)),
    "a role is a text": (roles(r="login"), ("roles.r",)),
    "a group's name is a number": (roles(r={"member_of": [7]}), ("roles.r.member_of",)),
    "unknown attribute": (roles(r={"logn": True}), ("roles.r.logn", 'did you mean "login"')),
    "attribute of the wrong type": (roles(r={"login": "perhaps"}), ("roles.r.login", "string")),
    "attribute is a list": (roles(r={"createdb": [True]}), ("roles.r.createdb",)),
    "limit is a text": (roles(r={"connection_limit": "many"}), ("roles.r.connection_limit", "string")),
    "limit is too low": (roles(r={"connection_limit": -2}), ("roles.r.connection_limit", "-2")),
    "limit is too high": (roles(r={"connection_limit": 2**40}), ("roles.r.connection_limit",)),
    "no such time": (roles(r={"valid_until": "tomorrow"}), ("roles.r.valid_until", "tomorrow")),
    "no such day": (roles(r={"valid_until": "2027-02-31"}), ("roles.r.valid_until",)),
    "comment is a list": (roles(r={"comment": ["x"]}), ("roles.r.comment",)),
    "comment with a NUL": (roles(r={"comment": "a\0b"}), ("roles.r.comment",)),
    "settings is a list": (roles(r={"settings": ["work_mem"]}), ("roles.r.settings",)),
    "a setting is a mapping": (roles(r={"settings": {"work_mem": {"a": 1}}}), ("roles.r.settings.work_mem",)),
    "member of PUBLIC": (roles(r={"member_of": ["PUBLIC"]}), ("roles.r.member_of",)),
    "member of itself": (roles(r={"member_of": ["r"]}), ("roles.r.member_of",)),
    "unknown key of a membership": (roles(a={}, r={"member_of": [{"role": "a", "admn": True}]}), ("roles.r.member_of", 'did you mean "admin"')),
    "membership without a role": (roles(r={"member_of": [{"admin": True}]}), ("roles.r.member_of", "role")),
    "members of each other": (roles(a={"member_of": ["b"]}, b={"member_of": ["a"]}), ("roles.", "a", "b")),
    "a longer circle": (roles(a={"member_of": ["b"]}, b={"member_of": ["c"]}, c={"member_of": ["a"]}), ("roles.",)),
    "the same membership twice": (roles(a={}, r={"member_of": ["a", {"role": "a", "admin": True}]}), ("roles.r.member_of",)),
    "PUBLIC as a role": (roles(PUBLIC={"login": True}), ("roles.PUBLIC",)),
    "a reserved role name": (roles(pg_mine={}), ("roles.pg_mine", "pg_")),
    "the reserved role name none": (roles(none={}), ("roles.none",)),
    "an empty name": ({"roles": {"": {}}}, ("roles",)),
    "a role name of 64 bytes": ({"roles": {"n" * 64: {}}}, ("roles", "63")),
    "a role name of 64 bytes in 32 characters": ({"roles": {"ü" * 32: {}}}, ("roles", "63")),
    "a role name with a NUL": ({"roles": {"a\0b": {}}}, ("roles",)),
    "unknown state": (roles(r={"state": "gone"}), ("roles.r.state", "gone", "absent")),
    "absent with attributes": (roles(r={"state": "absent", "login": True}), ("roles.r",)),
    "absent and granted to": (
        {"roles": {"s": {"state": "absent"}}, "databases": {"shop": {"grants": [{"to": "s", "privileges": ["CONNECT"]}]}}},
        ("databases.shop.grants", "absent"),
    ),
    "absent and an owner": ({"roles": {"s": {"state": "absent"}}, "databases": {"shop": {"owner": "s"}}}, ("databases.shop.owner", "absent")),
    "absent and a group": (roles(s={"state": "absent"}, r={"member_of": ["s"]}), ("roles.r.member_of", "absent")),
    "reassigned to itself": (roles(s={"state": "absent", "reassign_to": "s"}), ("roles.s",)),
    "reassigned to an absent role": (roles(s={"state": "absent", "reassign_to": "r"}, r={"state": "absent"}), ("roles.s", "absent")),
    "reassigned though present": (roles(r={"reassign_to": "s"}, s={}), ("roles.r",)),
    "unknown key of a database": (database(ownr="r"), ("databases.shop.ownr", 'did you mean "owner"')),
    "owner is PUBLIC": (database(owner="PUBLIC"), ("databases.shop.owner",)),
    "a database name of 64 bytes": ({"roles": {}, "databases": {"d" * 64: {}}}, ("databases", "63")),
    "the database template0": ({"roles": {}, "databases": {"template0": {}}}, ("databases.template0",)),
    "unknown key of a schema": (schema(profile={}), (f"{IN_APP}.profile", 'did you mean "profiles"')),
    "a system schema": (database(schemas={"pg_catalog": {}}), ("databases.shop.schemas.pg_catalog",)),
    "a schema with a reserved name": (database(schemas={"pg_new": {}}), ("databases.shop.schemas.pg_new",)),
    "a schema name of 64 bytes": (database(schemas={"s" * 64: {}}), ("databases.shop.schemas", "63")),
    "unknown way with partitions": (schema(partitions="both"), (f"{IN_APP}.partitions", "both", "mirror")),
    "unknown profile": (schema(profiles={"r": "readonyl"}), (f"{IN_APP}.profiles.r", 'did you mean "readonly"')),
    "a profile with an unknown key": ({"profiles": {"p": {"table": ["SELECT"]}}}, ("profiles.p.table", 'did you mean "tables"')),
    "a profile with an unknown privilege": ({"profiles": {"p": {"tables": ["EXECUTE"]}}}, ("profiles.p.tables", "EXECUTE")),
    "unknown privilege": (grant(tables="all", privileges=["SELEKT"]), (f"{IN_APP}.grants", "SELEKT", 'did you mean "SELECT"')),
    "privilege of another kind": (grant(tables="all", privileges=["EXECUTE"]), (f"{IN_APP}.grants", "EXECUTE")),
    "privilege that columns have not": (grant(tables=["t"], columns=["id"], privileges=["DELETE"]), (f"{IN_APP}.grants", "DELETE")),
    "privileges is a number": (grant(tables="all", privileges=7), (f"{IN_APP}.grants",)),
    "no privileges": (schema(grants=[{"to": "r", "tables": "all"}]), (f"{IN_APP}.grants", "privileges")),
    "no grantee": (schema(grants=[{"tables": "all", "privileges": ["SELECT"]}]), (f"{IN_APP}.grants", "to")),
    "two kinds of objects": (grant(tables="all", sequences="all"), (f"{IN_APP}.grants", "tables", "sequences")),
    "unknown kind of objects": (grant(tabels="all"), (f"{IN_APP}.grants", 'did you mean "tables"')),
    "columns of nothing": (grant(columns=["id"]), (f"{IN_APP}.grants", "columns")),
    "columns of all tables": (grant(tables="all", columns=["id"]), (f"{IN_APP}.grants", "columns")),
    "tables outside a schema": (database(grants=[{"to": "r", "privileges": ["SELECT"], "tables": "all"}]), ("databases.shop.grants", "tables")),
    "grant option is a text": (grant(tables="all", grant_option="sometimes"), (f"{IN_APP}.grants", "grant_option")),
    "grant option for PUBLIC": (grant(tables="all", to="PUBLIC", grant_option=True), (f"{IN_APP}.grants", "PUBLIC")),
    "default privileges of an unknown type": (default(type="table"), (f"{IN_APP}.default_privileges", 'did you mean "tables"')),
    "default privileges on schemas in a schema": (
        default(type="schemas", privileges=["USAGE"]),
        (f"{IN_APP}.default_privileges", "databases.shop.default_privileges"),
    ),
    "default privileges of another kind": (default(privileges=["EXECUTE"]), (f"{IN_APP}.default_privileges", "EXECUTE")),
    "default privileges without an owner": (
        schema(default_privileges=[{"to": "s", "type": "tables", "privileges": ["SELECT"]}]),
        (f"{IN_APP}.default_privileges", "owner"),
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_policy_is_refused_with_the_place_and_a_hint(what: str) -> None:
    policy, words = WRONG[what]
    with pytest.raises(PolicyError) as caught:
        read_policy(policy, {}, "managed")
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) <= 2000
