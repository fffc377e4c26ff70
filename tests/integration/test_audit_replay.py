# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log is complete: replayed onto the rows that were there before, it gives the rows that are there after."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests import audit_workload
from tests.audit_workload import DATABASE, POLICY, Workload
from tests.integration import module
from tests.integration.sql import value

if TYPE_CHECKING:
    from tests.servers import Server

STATEMENTS = 2500


@pytest.mark.parametrize("changed_only", [False, True], ids=["whole rows", "changed columns"])
def test_a_replay_of_the_log_gives_the_rows(cluster: Server, changed_only: bool) -> None:
    audit_workload.prepare(cluster)
    # Some rows are there before the log begins.
    Workload(1, cluster.major).run(cluster, 300)
    policy: dict[str, Any] = {DATABASE: {**POLICY[DATABASE], "changed_columns_only": changed_only}}
    assert not (result := module.run(cluster, "pg_audit_trail", databases=policy)).get("failed"), result["msg"]
    before = audit_workload.rows_of(cluster)
    workload = Workload(cluster.major * 2 + changed_only, cluster.major)
    workload.run(cluster, STATEMENTS)
    # How many are refused depends on how the sessions meet.
    assert workload.done > STATEMENTS / 2
    assert value(cluster, "SELECT count(*) FROM audit.audit_log", db=DATABASE) > STATEMENTS / 2
    actions = value(cluster, "SELECT count(DISTINCT (table_name, action)) FROM audit.audit_log", db=DATABASE)
    assert actions >= 30, "the workload does not reach every table with every statement"
    assert audit_workload.differences(audit_workload.replayed(cluster, before, changed_only), audit_workload.rows_of(cluster)) == []
