# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of memberships that mode additive must leave."""

from __future__ import annotations

from typing import Any

from tests.integration.module import converge, unchanged
from tests.integration.sql import execute, query


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
