#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The row-level security of a live server as a document, and what gets around it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_row_security_info
short_description: Read the row-level security of a server, and find what gets around it
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Reads policies from a live server and returns the document that M(bulwark.postgresql.pg_row_security) takes.
  - Finds what policies do not fence, such as owners, superusers, views, definer functions, partitions, TRUNCATE and keys, each with its
    fix.
  - Only reads, in read-only transactions. Works on a standby. Counts the rows without a tenant where the tenant column may be NULL.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.info_attributes
  - bulwark.postgresql.policy
options:
  databases:
    description: The databases to look into. Without it, those of O(policy), or every database that allows connections and is no template.
    type: list
    elements: str
  policy:
    description:
      - The document of M(bulwark.postgresql.pg_row_security), its option O(bulwark.postgresql.pg_row_security#module:databases). With
        it, findings are about
        the tables and roles of its tenancies, and those that depend on the tenant column are made.
      - Without it, they are about every table that has row-level security and every role that a policy names.
    type: dict
    default: {}
seealso:
  - module: bulwark.postgresql.pg_row_security
"""

EXAMPLES = r"""
- name: What gets around the policies?
  bulwark.postgresql.pg_row_security_info:
    login_unix_socket: /var/run/postgresql
    databases: [shop]
  become: true
  become_user: postgres
  register: row_security

- name: Nothing grave does
  ansible.builtin.assert:
    that: row_security.findings | selectattr('severity', 'eq', 'high') | length == 0
    fail_msg: "{{ row_security.text }}"
"""

RETURN = r"""
policy:
  description: The row-level security of the server as it is, by database, as M(bulwark.postgresql.pg_row_security) takes it.
  returned: success
  type: dict
  sample: {shop: {schemas: {app: {documents: {policies: {own: {roles: [app_service], using: (owner = CURRENT_USER)}}}}}}}
findings:
  description:
    - What gets around the policies, the gravest first. C(severity) is V(high), V(medium) or V(low).
    - The codes are listed in the page C(docs/row_security.md) of the collection.
  returned: success
  type: list
  elements: dict
  sample:
    - code: truncate
      severity: high
      database: shop
      object: app.orders
      message: TRUNCATE removes the rows of all tenants, and app_service may
      fix: REVOKE TRUNCATE ON app.orders FROM app_service
text:
  description: The findings for people.
  returned: success
  type: str
  sample: |
    high: shop: app.orders: TRUNCATE removes the rows of all tenants, and app_service may [truncate]
      REVOKE TRUNCATE ON app.orders FROM app_service
server_version:
  description: The server's version number, as in the setting server_version_num.
  returned: success
  type: int
  sample: 180006
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
  sample: false
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import POLICY_OPTIONS, run
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.findings import as_text
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.inspect import inspect
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.policy import read_policy

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "databases": {"type": "list", "elements": "str"},
    "policy": {"type": "dict", "default": {}},
    **POLICY_OPTIONS,
}


def read(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """The module's result."""
    params = module.params
    found = inspect(server, params["databases"], read_policy(params["policy"], params["path_prefix"]))
    return {"changed": False, **found, "findings": [asdict(finding) for finding in found["findings"]], "text": as_text(found["findings"])}


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, read)


if __name__ == "__main__":
    main()
