#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role that makes backups needs in the databases of a server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup_access
short_description: Grant the role of backups what it needs in the databases
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Grants a role CONNECT on every database that may be connected to and is no template, so that C(pg_dump) gets into those, too, that
    are closed to C(PUBLIC).
  - With O(canary), grants EXECUTE on C(pg_create_restore_point(text)), and makes the role the owner of the schema C(bulwark_backup) and
    its table in the database C(postgres), where C(pg-bulwark-backup canary) writes.
  - Nothing is revoked. The role C(bulwark.postgresql.pg_backup) makes the role itself by M(bulwark.postgresql.pg_access) and calls this
    module.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.policy
  - bulwark.postgresql.policy.patience
options:
  role:
    description: The role. In check mode it need not be there yet.
    type: str
    required: true
  canary:
    description: Whether it writes the canary and makes restore points.
    type: bool
    default: true
seealso:
  - module: bulwark.postgresql.pg_access
  - name: Backups
    description: The page of the collection's documentation.
    link: https://github.com/bulwark-project/bulwark.postgresql/blob/main/docs/backup.md
"""

EXAMPLES = r"""
- name: Let the role of backups into every database
  bulwark.postgresql.pg_backup_access:
    login_unix_socket: /var/run/postgresql
    role: bulwark_backup
  become: true
  become_user: postgres
"""

RETURN = r"""
plan:
  description: The changes in the order in which they are (or would be) made.
  returned: success
  type: list
  elements: dict
  sample:
    - database:
      object: databases
      change: "bulwark_backup: +CONNECT on postgres, shop"
      sql: GRANT CONNECT ON DATABASE "postgres", "shop" TO "bulwark_backup"
      secret: false
sql:
  description: The statements of the plan in order.
  returned: success
  type: list
  elements: str
  sample: ['GRANT CONNECT ON DATABASE "postgres", "shop" TO "bulwark_backup"']
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: "Made 3 changes (server 1, postgres 2)"
retries:
  description: How often the transaction was tried again because a lock was held.
  returned: success
  type: int
  sample: 0
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
  sample: false
skipped_reason:
  description: Why nothing was done although the plan is not empty.
  returned: on a standby
  type: str
  sample: in recovery
server_version:
  description: The server's version number, as in the setting server_version_num.
  returned: success
  type: int
  sample: 180006
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.backup.converge import apply, plan
from ansible_collections.bulwark.postgresql.plugins.module_utils.backup.model import Wanted
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import PATIENCE_OPTIONS, Proposal, outcome, patience_of, run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "role": {"type": "str", "required": True},
    "canary": {"type": "bool", "default": True},
    **PATIENCE_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode or on a standby, and return the module's result."""
    wanted = Wanted(module.params["role"], module.params["canary"])
    patience = patience_of(module.params)
    planned = plan(server, wanted)
    return outcome(module, server, Proposal(planned, planned.counted(), lambda: apply(server, wanted, planned, patience)))


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
