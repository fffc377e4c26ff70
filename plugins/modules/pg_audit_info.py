#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the audit logs of a server hold, and whether they were edited."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_audit_info
short_description: Read the audit log of a server, find what gets around it, and verify it
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Says of each database which tables are recorded, how far the log goes back, how large it is, and who could get around it, each with its
    fix.
  - With O(verify) it compares each record with its seal, and the seals with each other and with heads that were kept elsewhere. It names
    every record that was removed, edited or added, and every seal that was.
  - Changes nothing, and works on a standby.
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
  verify:
    description: Whether to verify all sealed records. Reads the whole log.
    type: bool
    default: false
  heads:
    description:
      - Heads of seals as they were kept elsewhere, by database. In each, the number of a seal to its head, as
        M(bulwark.postgresql.pg_audit_seal) has returned it.
    type: dict
    default: {}
seealso:
  - module: bulwark.postgresql.pg_audit_trail
  - module: bulwark.postgresql.pg_audit_seal
"""

EXAMPLES = r"""
- name: Verify the audit log
  bulwark.postgresql.pg_audit_info:
    login_unix_socket: /var/run/postgresql
    databases: [shop]
    verify: true
    heads:
      shop: {12: 6a0e2b5f1d9c4e3f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f}
  become: true
  become_user: postgres
  register: audit
  failed_when: audit.problems | length > 0
"""

RETURN = r"""
databases:
  description: The logs, by database. A database without one is V(null).
  returned: success
  type: dict
  sample:
    shop:
      tables: [{table: app.orders, level: statement}]
      partitions: [entries_2026_11, entries_2026_12]
      size: 1810432
      first: '2026-11-02 09:12:44.12+00'
      last: '2026-11-26 18:57:29.01+00'
findings:
  description: What gets around the logs. V(high), V(medium) or V(info), with its fix.
  returned: success
  type: list
  elements: dict
  sample:
    - code: owner
      severity: medium
      database: shop
      object: app.orders
      message: "can be kept off the record by migration_user: who owns a table can disable its triggers"
      fix: let a role that nobody can log in as own the table (objects_owner in pg_users_databases)
problems:
  description: What was removed, edited or added, at most 1,000 records a database.
  returned: with O(verify)
  type: list
  elements: dict
  sample:
    - {database: shop, what: record 4711 was edited, record: 4711, seal: 12, partition: audit.entries_2026_11}
verified:
  description: How many seals and records were compared, how many records are not sealed yet, and the head of the last seal, by database.
  returned: with O(verify)
  type: dict
  sample: {shop: {seals: 12, sealed: 481223, unsealed: 14, head: 6a0e2b…}}
msg:
  description: What was found, in one line.
  returned: success
  type: str
  sample: "481223 records are as they were sealed"
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.inspect import inspect
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.verification import read_heads, verify
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "databases": {"type": "list", "elements": "str", "required": True},
    "schema": {"type": "str", "default": "audit"},
    "verify": {"type": "bool", "default": False},
    "heads": {"type": "dict", "default": {}},
}


def read(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Read and, where asked, verify each database."""
    params = module.params
    heads = read_heads(params["heads"])
    databases: dict[str, Any] = {}
    findings: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    verified: dict[str, Any] = {}
    for name in params["databases"]:
        with server.connect(name) as session:
            found = inspect(session, params["schema"])
            if found is None:
                databases[name] = None
                continue
            data = asdict(found)
            findings += data.pop("findings")
            databases[name] = data
            if params["verify"]:
                checked = asdict(verify(session, params["schema"], heads.get(name, {})))
                problems += [{"database": name, **problem} for problem in checked.pop("problems")]
                verified[name] = checked
    result = {"changed": False, "databases": databases, "findings": findings}
    if not params["verify"]:
        return {**result, "msg": f"{len(findings)} finding{'s' if len(findings) != 1 else ''}"}
    count = sum(each["sealed"] for each in verified.values())
    text = "; ".join(problem["what"] for problem in problems[:5]) if problems else f"{count} records are as they were sealed"
    return {**result, "problems": problems, "verified": verified, "msg": text}


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, read)


if __name__ == "__main__":
    main()
