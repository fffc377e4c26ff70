# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the modules that take a policy; module_utils/core/module.py has their types."""

from __future__ import annotations


class ModuleDocFragment:
    """How a policy is read, and how long its changes may wait for locks."""

    DOCUMENTATION = r"""
options:
  path_prefix:
    description: Put before the path of each mistake in an error message, so that it names the user's own variable.
    type: str
    default: ""
"""

    EXPECTED = r"""
options:
  expected_roles:
    description: Roles that count as there already, for a check mode in which an earlier task would create them.
    type: list
    elements: str
    default: []
  expected_databases:
    description: As O(expected_roles), for databases.
    type: list
    elements: str
    default: []
"""

    PATIENCE = r"""
options:
  lock_timeout:
    description: How many milliseconds a statement may wait for a lock.
    type: int
    default: 5000
  lock_retries:
    description: How often a transaction that got no lock is tried again, with growing pauses.
    type: int
    default: 5
"""
