#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Seals of audit logs, and their heads."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_audit_seal
short_description: Seal the records of the audit log, so that later changes to them are found
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Takes the records of all transactions that have ended since the last seal, and chains a digest of each to the seals before. Writers are
    not held up.
  - Returns the heads of the chains. Keep them where nobody who could edit the log gets at them. M(bulwark.postgresql.pg_audit_info)
    compares.
  - May be stopped at any moment and run as often as one likes. The function C(seal) of the log's schema does the same for a scheduler.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
options:
  databases:
    description: The databases.
    type: list
    elements: str
    required: true
  schema:
    description: The schema of the log.
    type: str
    default: audit
seealso:
  - module: bulwark.postgresql.pg_audit_trail
  - module: bulwark.postgresql.pg_audit_info
"""

EXAMPLES = r"""
- name: Seal what was recorded
  bulwark.postgresql.pg_audit_seal:
    login_unix_socket: /var/run/postgresql
    databases: [shop]
  become: true
  become_user: postgres
  register: sealed

- name: Keep the heads on the controller
  ansible.builtin.copy:
    content: "{{ sealed.heads | to_nice_json }}"
    dest: /var/lib/audit/{{ inventory_hostname }}.json
    mode: "0600"
  delegate_to: localhost
"""

RETURN = r"""
heads:
  description: The number of the last seal of each database that has one, and its head, as M(bulwark.postgresql.pg_audit_info) takes them.
  returned: success
  type: dict
  sample: {shop: {"12": 6a0e2b…}}
made:
  description: How many seals were made, or would be made at least in check mode, by database.
  returned: success
  type: dict
  sample: {shop: 1}
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: Made 1 seal
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.sealing import seal
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "databases": {"type": "list", "elements": "str", "required": True},
    "schema": {"type": "str", "default": "audit"},
}


def make(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Seal each database, and return the heads."""
    made: dict[str, int] = {}
    heads: dict[str, dict[str, str]] = {}
    for name in module.params["databases"]:
        with server.connect(name) as session:
            made[name], last = seal(session, module.params["schema"], dry_run=module.check_mode)
        if last is not None:
            heads[name] = {str(last[0]): last[1]}
    count = sum(made.values())
    text = f"{'Would make' if module.check_mode else 'Made'} {count} seal{'s' if count != 1 else ''}"
    return {"changed": count > 0, "made": made, "heads": heads, "msg": text if count else "Everything that can be sealed is"}


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, make)


if __name__ == "__main__":
    main()
