# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who is a member of a declared role, and what a membership gives: exact, for members that the policy knows and for those that it does not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.module import apply, converge, plan, refused, unchanged
from tests.integration.sql import execute, query, session

OWNER = {"roles": {"owner_grp": {}, "app": {"inherit": False, "member_of": ["owner_grp"]}}}


def memberships(server: Any) -> set[tuple[str, str]]:
    """(member, role) of every membership of ordinary roles."""
    return set(query(server, "SELECT member::regrole::text, roleid::regrole::text FROM pg_auth_members WHERE member >= 16384"))


def has_rights_of(server: Any, member: str, role: str) -> bool:
    """Whether the member has the role's rights without SET ROLE."""
    return bool(query(server, "SELECT pg_has_role(%(member)s, %(role)s, 'USAGE')", {"member": member, "role": role})[0][0])


@pytest.mark.parametrize("before", ["", "TRUE", "FALSE"])
def test_a_membership_inherits_what_the_role_s_own_attribute_says(cluster: Any, before: str) -> None:
    if before:
        execute(cluster, "CREATE ROLE owner_grp", "CREATE ROLE app NOINHERIT")
        execute(cluster, f"GRANT owner_grp TO app{f' WITH INHERIT {before}' if cluster.major >= 16 else ''}")
    if before == "FALSE" or (before and cluster.major < 16):
        unchanged(cluster, OWNER)
    else:
        converge(cluster, OWNER)
    assert has_rights_of(cluster, "app", "owner_grp") is False
    converge(cluster, {"roles": {"owner_grp": {}, "app": {"member_of": ["owner_grp"]}}})
    assert has_rights_of(cluster, "app", "owner_grp") is True
    if cluster.major >= 16:
        converge(cluster, {"roles": {"owner_grp": {}, "app": {"inherit": False, "member_of": [{"role": "owner_grp", "inherit": True}]}}})
        assert has_rights_of(cluster, "app", "owner_grp") is True


def test_in_additive_mode_the_attribute_that_the_role_has_counts(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE owner_grp", "CREATE ROLE app NOINHERIT", "CREATE ROLE other")
    converge(cluster, {"roles": {"owner_grp": {}, "app": {"member_of": ["owner_grp"]}, "other": {"member_of": ["owner_grp"]}}}, mode="additive")
    assert (has_rights_of(cluster, "app", "owner_grp"), has_rights_of(cluster, "other", "owner_grp")) == (False, True)


def test_a_member_that_the_policy_does_not_know_is_taken_out(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE migration_user", "CREATE ROLE intern", "CREATE ROLE ldap_ann", "CREATE ROLE ldap_bob", "CREATE ROLE apart")
    execute(cluster, "GRANT migration_user TO intern, ldap_ann, ldap_bob, pg_monitor", "GRANT apart TO intern")
    policy: dict[str, Any] = {"roles": {"migration_user": {"keep_members": ["ldap_a*"]}}}
    done = converge(cluster, policy)
    assert "  intern: role migration_user  -MEMBER" in done["diff"]["prepared"]
    # Who is a member of what the policy does not name is not its business, and predefined roles are protected.
    assert memberships(cluster) == {("ldap_ann", "migration_user"), ("intern", "apart")}
    assert has_rights_of(cluster, "pg_monitor", "migration_user")
    del policy["roles"]["migration_user"]["keep_members"]
    converge(cluster, policy)
    assert memberships(cluster) == {("intern", "apart")}


def test_additive_mode_takes_no_option_of_a_membership(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE g", "CREATE ROLE a", "GRANT g TO a WITH ADMIN OPTION")
    policy = {"roles": {"a": {"member_of": ["g"]}}}
    if cluster.major >= 16:
        execute(cluster, "GRANT g TO a WITH INHERIT FALSE")
        converge(cluster, policy, mode="additive")
        assert query(cluster, "SELECT inherit_option FROM pg_auth_members WHERE member = 'a'::regrole") == [(True,)]
    else:
        unchanged(cluster, policy, mode="additive")
    assert query(cluster, "SELECT admin_option FROM pg_auth_members WHERE member = 'a'::regrole") == [(True,)]


def test_members_stay_in_additive_mode(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE r", "CREATE ROLE intern", "GRANT r TO intern")
    unchanged(cluster, {"roles": {"r": {}}}, mode="additive")


def test_a_member_goes_with_what_it_has_passed_on(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE r", "CREATE ROLE intern LOGIN", "CREATE ROLE friend", "GRANT r TO intern WITH ADMIN OPTION")
    execute(cluster, "GRANT r TO friend", user="intern")
    converge(cluster, {"roles": {"r": {}}})
    assert memberships(cluster) == set()


def test_superusers_are_reported(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE boss SUPERUSER", "CREATE ROLE r", "GRANT r TO boss")
    unchanged(cluster, {"roles": {"r": {}}})
    told = [str(warning) for warning in apply(cluster, {"roles": {"r": {}}})["warnings"]]
    assert len(told) == 1
    assert "superuser boss is a member of r" in told[0]


def test_the_applying_role_keeps_what_it_administers_by(cluster: Any) -> None:
    execute(cluster, "CREATE ROLE deputy LOGIN CREATEROLE CREATEDB")
    execute(cluster, "CREATE ROLE r", "CREATE ROLE intern", user="deputy")
    execute(cluster, "GRANT r TO deputy WITH ADMIN OPTION", "GRANT r TO intern")
    if cluster.major >= 16:
        execute(cluster, "SET createrole_self_grant = 'set, inherit'; CREATE ROLE s", user="deputy")
    before = {pair for pair in memberships(cluster) if pair[0] == "deputy"}
    policy = {"roles": {"r": {}, **({"s": {}} if cluster.major >= 16 else {})}}
    if cluster.major >= 16:  # what postgres granted, deputy may not take back
        execute(cluster, "REVOKE r FROM intern", "SET ROLE deputy; GRANT r TO intern")
    converge(cluster, policy, login_user="deputy")
    assert memberships(cluster) == before
    converge(cluster, {"roles": {**policy["roles"], "r": {"connection_limit": 3}}}, login_user="deputy")
    if cluster.major >= 16:  # another administrator leaves the creator what PostgreSQL has given it, and says so
        told = [str(warning) for warning in apply(cluster, {"roles": {"s": {}}})["warnings"]]
        assert ("deputy", "s") in memberships(cluster)
        assert any("deputy is a member of s" in warning for warning in told), told


def test_a_wrong_pattern_is_refused(cluster: Any) -> None:
    for wrong, place in (("ldap*", "roles.r.keep_members"), ([7], "roles.r.keep_members[0]"), ([""], "roles.r.keep_members[0]")):
        assert place in refused(cluster, {"roles": {"r": {"keep_members": wrong}}})


def test_a_plan_that_takes_the_way_in_with_a_membership_is_refused(cluster: Any) -> None:
    """The applying role comes into the database through a group that is itself a foreign member of a declared role."""
    execute(cluster, "CREATE ROLE deputy LOGIN CREATEROLE", "CREATE ROLE r", "CREATE ROLE staff", "GRANT r TO staff", "GRANT staff TO deputy")
    execute(cluster, "CREATE DATABASE shop", "REVOKE CONNECT ON DATABASE shop FROM PUBLIC", "GRANT CONNECT ON DATABASE shop TO r")
    policy = {"roles": {"r": {}}, "databases": {"shop": {"grants": [{"to": "r", "privileges": ["CONNECT"]}]}}}
    assert "deputy" in refused(cluster, policy, login_user="deputy")
    policy["roles"]["r"]["keep_members"] = ["staff"]
    plan(cluster, policy, login_user="deputy")


def test_a_login_role_that_makes_objects_by_a_membership_alone_is_told(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE d1")
    schema = {"owner": "bar_owner", "profiles": {"bar_owner": "migration", "bar_reader": "readonly"}}
    roles = {"bar_owner": {}, "bar_reader": {}, "bar_user": {"login": True, "member_of": ["bar_owner"]}}
    policy: dict[str, Any] = {"roles": roles, "databases": {"d1": {"schemas": {"data": schema}}}}
    warnings = str(apply(cluster, policy)["warnings"])
    assert "bar_user may make objects in d1.data as a member of bar_owner" in warnings
    schema["profiles"]["bar_user"] = "migration"
    assert "bar_user may make" not in str(apply(cluster, policy).get("warnings"))


@pytest.mark.parametrize("mode", ["managed", "additive"])
@pytest.mark.parametrize("statements", [
    ["GRANT team TO old WITH ADMIN OPTION", "SET SESSION AUTHORIZATION old", "GRANT team TO dev WITH ADMIN OPTION", "SET SESSION AUTHORIZATION dev",
     "GRANT team TO third"],
    ["GRANT CONNECT ON DATABASE d1 TO old WITH GRANT OPTION", "SET SESSION AUTHORIZATION old", "GRANT CONNECT ON DATABASE d1 TO dev"],
    ["GRANT SELECT ON pg_catalog.pg_authid TO old WITH GRANT OPTION", "SET SESSION AUTHORIZATION old", "GRANT SELECT ON pg_catalog.pg_authid TO dev"],
    ["GRANT SELECT ON pg_catalog.pg_authid TO dev WITH GRANT OPTION", "SET SESSION AUTHORIZATION dev", "GRANT SELECT (rolname) ON pg_catalog.pg_authid TO old"],
])  # fmt: skip
def test_what_a_leaver_passed_on_goes_with_it(cluster: Any, mode: str, statements: list[str]) -> None:
    execute(cluster, "CREATE DATABASE d1", *(f"CREATE ROLE {name} LOGIN" for name in ("old", "dev", "third", "team")))
    execute(cluster, *statements)
    converge(cluster, {"roles": {"old": {"state": "absent"}}, "databases": {"postgres": {}}}, mode=mode)


def test_a_leaver_s_event_trigger_needs_a_superuser(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE d1", "CREATE ROLE old SUPERUSER", "CREATE ROLE boss SUPERUSER", "CREATE ROLE heir")
    function = "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"
    execute(cluster, function, "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()", "ALTER EVENT TRIGGER e OWNER TO old", db="d1")
    policy: dict[str, Any] = {"roles": {"old": {"state": "absent", "reassign_to": "heir"}}, "databases": {"d1": {}}}
    for check in (True, False):
        assert "roles.old.reassign_to: owns event trigger e in database" in refused(cluster, policy, check=check)
    policy["roles"]["old"]["reassign_to"] = "boss"
    converge(cluster, policy)


def test_a_leaver_s_subscription_is_reassigned(cluster: Any) -> None:
    execute(cluster, "CREATE DATABASE d1", "CREATE ROLE old SUPERUSER", "CREATE ROLE boss SUPERUSER")
    with session(cluster, "d1") as connection:
        connection.cursor().execute("CREATE SUBSCRIPTION s CONNECTION 'dbname=x' PUBLICATION p WITH (connect = false, slot_name = NONE)")
        connection.cursor().execute("ALTER SUBSCRIPTION s OWNER TO old")
        try:
            converge(cluster, {"roles": {"old": {"state": "absent", "reassign_to": "boss"}}, "databases": {"d1": {}}})
        finally:
            connection.cursor().execute("DROP SUBSCRIPTION s")
