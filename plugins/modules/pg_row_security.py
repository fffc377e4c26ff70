#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Row-level security of whole databases, as one document declares it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_row_security
short_description: Isolate the rows of tenants by row-level security, exactly as a policy says
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Makes the row-level security of the tables that a policy selects what the policy says, in all its databases with one call.
  - Each table gets row-level security, enabled and forced on its owner, a restrictive policy that no other policy can widen, and
    permissive policies for
    what each role may do on the table at all. What the policy does not declare goes.
  - A session sees and writes the rows whose tenant column equals a setting of the session, which the application sets in each
    transaction. Without the
    setting, with an empty one, or with one that is no value of the column's type, it sees no row and may write none.
  - What is equal is not touched. Looking takes no lock but that of reading, works in check mode and on a standby.
  - Before a transaction commits, the state is read again. If anything is left to do, it is rolled back.
  - The owner of the tables sees no rows either, unless a setting says which. Superusers and roles with BYPASSRLS see all rows. Dumps
    take such a role.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.policy
  - bulwark.postgresql.policy.expected
  - bulwark.postgresql.policy.patience
options:
  databases:
    description:
      - Name of a database to a dictionary with C(tenancy), C(schemas), or both.
      - C(tenancy) isolates the rows of tenants. It is a dictionary with these keys. The first four are required.
      - C(setting) is the name of the setting that holds the tenant, with a dot in it.
      - C(column) is the name of the column that holds the tenant. It may be of type smallint, integer, bigint, uuid, text, varchar or
        char, or of a domain
        over one of them.
      - C(roles) is the list of roles, usually those that the application logs in as, that see the rows of one tenant only.
      - C(schemas) is a list of schemas, or a dictionary of them. A schema is V(all), which stands for every table that has the column,
        a list of tables, or
        a dictionary with C(tables) and C(except), two such lists. Names of tables may hold the wildcard C(*).
      - C(roles_all_rows) is a list of roles, such as one for support or the owner of materialized views, that see and write the rows of
        all tenants.
      - C(parents) is a dictionary of schemas, and in each of tables without the column. The value is the table, of the same schema,
        whose row has the tenant,
        or a dictionary with C(table), C(schema) and C(foreign_key), the name of the constraint, which is needed where there are several.
      - C(build_indexes) set to V(true) makes the missing indexes, by C(CREATE INDEX CONCURRENTLY). By default they are reported.
      - C(schemas), beside C(tenancy), is a dictionary of schemas, and in each of tables, whose row-level security is written out.
        C(enabled) and C(forced)
        are true by default. C(policies) is a dictionary of the names of policies with C(command) (V(all), the default, V(select),
        V(insert), V(update)
        or V(delete)), C(roles), C(using), C(with_check), and C(permissive), which is true by default. The two expressions are SQL, read
        with a search
        path of C(pg_catalog) alone.
    type: dict
    required: true
  mode:
    description:
      - V(managed) is exact for the tables that the policy selects. Policies of theirs that it does not declare go.
      - V(additive) leaves those alone, and reports them.
    type: str
    choices: [managed, additive]
    default: managed
  per_table:
    description:
      - Whether each table is changed in a transaction of its own, so that at no time more than one table is locked. Meant for busy servers.
      - Otherwise it is one transaction a database.
    type: bool
    default: false
  preview:
    description:
      - Whether to change nothing, and to count instead how many rows of each isolated table each role sees now and would see then, in
        the context of each of
        the ten tenants with the most rows, and without one. Reads every row of these tables, and works on a standby.
    type: bool
    default: false
seealso:
  - module: bulwark.postgresql.pg_row_security_info
  - module: bulwark.postgresql.pg_access
  - name: Row Security Policies
    description: PostgreSQL's documentation.
    link: https://www.postgresql.org/docs/current/ddl-rowsecurity.html
"""

EXAMPLES = r"""
- name: Every table with a tenant in it shows one tenant at a time
  bulwark.postgresql.pg_row_security:
    login_unix_socket: /var/run/postgresql
    databases:
      shop:
        tenancy:
          setting: app.current_tenant_id
          column: tenant_id
          schemas:
            app: {except: [countries]}
          roles: [app_service, readonly_user]
  become: true
  become_user: postgres
"""

RETURN = r"""
tables:
  description: The isolated tables, by database.
  returned: success
  type: dict
  sample: {shop: [app.orders, app.users]}
preview:
  description:
    - What each role that may read an isolated table sees of it. C(tenant) is V(null) without a context. C(now) is V(null) where the
      policies that are there
      end in an error, whose text is C(problem).
  returned: with O(preview)
  type: list
  elements: dict
  sample:
    - {database: shop, table: app.orders, role: readonly_user, tenant: "1", now: 6100, then: 2034, problem: null}
preview_text:
  description: The same as a table, with the roles that would see nothing at its end.
  returned: with O(preview)
  type: str
  sample: |
    table             role           tenant  now   then
    shop: app.orders  readonly_user  1       6100  2034
    shop: app.orders  readonly_user  (none)  6100  0
findings:
  description: What gets around the policies of the tenancy, as in M(bulwark.postgresql.pg_row_security_info). Those of severity V(high)
    are warnings, too.
  returned: success
  type: list
  elements: dict
  sample: []
plan:
  description: The changes in order, for people and programs.
  returned: success
  type: list
  elements: dict
  sample:
    - database: shop
      object: table app.orders
      change: table app.orders  +row-level security enabled and forced
      sql: ALTER TABLE "app"."orders" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY
      secret: false
sql:
  description: The statements of the plan in order.
  returned: success
  type: list
  elements: str
  sample: ['ALTER TABLE "app"."orders" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY']
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: "Made 3 changes (shop 3); 12 tables are isolated"
retries:
  description: How often a transaction was tried again because a lock was held.
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
mistakes:
  description: The mistakes in the policy, each with its place.
  returned: when the policy is wrong
  type: list
  elements: dict
  sample:
    - path: pg_row_security_databases.shop.tenancy.roles
      message: 'the server has no role "app_servce" (did you mean "app_service"?)'
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import (
    EXPECTED_OPTIONS,
    PATIENCE_OPTIONS,
    Proposal,
    outcome,
    patience_of,
    run,
)
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.converge import Convergence, Options
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.row_security.preview import as_text

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "databases": {"type": "dict", "required": True},
    "mode": {"type": "str", "choices": ["managed", "additive"], "default": "managed"},
    "per_table": {"type": "bool", "default": False},
    "preview": {"type": "bool", "default": False},
    **EXPECTED_OPTIONS,
    **PATIENCE_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode or on a standby, and return the module's result."""
    params = module.params
    options = Options(
        mode=params["mode"],
        per_table=params["per_table"],
        patience=patience_of(params),
        expected_roles=tuple(params["expected_roles"]),
        expected_databases=tuple(params["expected_databases"]),
        path_prefix=params["path_prefix"],
    )
    convergence = Convergence(server, read_policy(params["databases"], params["path_prefix"]), options)
    planned = convergence.plan()
    plan = planned.whole
    if params["preview"]:
        seen = convergence.preview()
        text = as_text(seen)
        shown = {"preview": [asdict(each) for each in seen], "preview_text": text, "diff": {"prepared": text}}
        return {"changed": False, **shown, "msg": f"Counted {len(seen)} views of tables; nothing was changed"}
    count = sum(len(tables) for tables in planned.tables.values())
    summary = f"{plan.counted()}; {count} table{'s are' if count != 1 else ' is'} isolated"
    proposal = Proposal(plan, summary, lambda: convergence.apply(planned), planned.notes)
    tables = {name: [table.label for table in found] for name, found in planned.tables.items()}
    return {**outcome(module, server, proposal), "tables": tables, "findings": [asdict(finding) for finding in planned.findings]}


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
