# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role of backups is missing."""

from __future__ import annotations

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.backup.model import Actual, Wanted
from ansible_collections.bulwark.postgresql.plugins.module_utils.backup.reconcile import reconcile

WHOLE = Actual((), True, "backup", "backup")


@pytest.mark.parametrize(
    ("canary", "actual", "expected"),
    [
        (True, WHOLE, []),
        (True, Actual((), True, "backup", None), []),
        (True, Actual(("a", "b"), True, "backup", None), ["backup: +CONNECT on a, b"]),
        (True, Actual((), False, None, None), ["backup: function pg_create_restore_point  +EXECUTE", "schema bulwark_backup: new, owner backup"]),
        (True, Actual((), True, "dba", "dba"), ["schema bulwark_backup: owner dba -> backup", "table bulwark_backup.canary: owner dba -> backup"]),
        (False, Actual(("a",), False, None, None), ["backup: +CONNECT on a"]),
    ],
)
def test_what_is_missing_is_planned_and_nothing_else(canary: bool, actual: Actual, expected: list[str]) -> None:
    assert [change.description for change in reconcile(Wanted("backup", canary), actual).changes] == expected
