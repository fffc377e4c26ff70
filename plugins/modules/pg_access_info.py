#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles, privileges and owners of a live server as a policy, and who can do what."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_access_info
short_description: Read roles, privileges and owners of a server as a policy
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Reads a live server and returns the document that M(bulwark.postgresql.pg_access) takes, so that a team can begin with what it has.
  - Returns who can do what, as data and as a table.
  - Only reads, in read-only transactions. Works on a standby.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.info_attributes
options:
  databases:
    description: The databases to look into. Without it, every database that allows connections and is no template.
    type: list
    elements: str
  matrix_roles:
    description: The roles to show in the matrix. Without it, all but superusers and PostgreSQL's own.
    type: list
    elements: str
seealso:
  - module: bulwark.postgresql.pg_access
"""

EXAMPLES = r"""
- name: Read the policy that the server has now
  bulwark.postgresql.pg_access_info:
    login_unix_socket: /var/run/postgresql
    databases: [shop]
  become: true
  become_user: postgres
  register: access

- name: Show who can do what
  ansible.builtin.debug:
    msg: "{{ access.matrix_text.splitlines() }}"
"""

RETURN = r"""
policy:
  description:
    - The document of the server as it is. Passwords and rights on extension members are not in it, and rights that others than the owner
      gave (RV(passed_on)) come from the owner.
    - Where the role is no superuser, superusers and the roles of managed services are not in it.
  returned: success
  type: dict
  sample: {roles: {app_service: {login: true}}, databases: {shop: {owner: migration_user}}}
matrix:
  description: What each role may do with each object, by itself, as the owner, or by membership. PUBLIC is a role of its own, whose
    rights everybody has.
  returned: success
  type: list
  elements: dict
  sample:
    - database: shop
      role: readonly_user
      kind: table
      object: app.orders
      privileges: [SELECT]
matrix_text:
  description: The same as an aligned table with PostgreSQL's abbreviations.
  returned: success
  type: str
  sample: |
    database  kind   object      readonly_user
    shop      table  app.orders  r
    r = SELECT
    Superusers, who may do everything: postgres
left_out:
  description: Databases that this role may not connect to, where O(databases) names none.
  returned: success
  type: list
  elements: str
  sample: [rdsadmin]
passed_on:
  description: Rights that others than the owner gave.
  returned: success
  type: list
  elements: str
  sample: [b has SELECT on table shop.app.orders from a; by the document it comes from the owner]
superusers:
  description: The roles that may do everything, which are not in the matrix.
  returned: success
  type: list
  elements: str
  sample: [postgres]
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

from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.inspect import inspect
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.matrix import as_text
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "databases": {"type": "list", "elements": "str"},
    "matrix_roles": {"type": "list", "elements": "str"},
}


_SHOWN = 10  # warnings of one kind


def read(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """The module's result."""
    found = inspect(server, module.params["databases"], module.params["matrix_roles"])
    if found["left_out"]:
        module.warn(f"left out, since this role may not connect to them: {', '.join(found['left_out'])}")
    for text in found["passed_on"][:_SHOWN]:
        module.warn(text)
    if len(found["passed_on"]) > _SHOWN:
        module.warn(f"{len(found['passed_on']) - _SHOWN} more rights that others than the owner gave are in passed_on")
    entries: list[dict[str, Any]] = found["matrix"]
    return {"changed": False, **found, "matrix_text": as_text(entries, found["superusers"])}


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, read)


if __name__ == "__main__":
    main()
