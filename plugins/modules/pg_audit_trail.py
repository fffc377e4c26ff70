#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log of whole databases, as one document declares it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_audit_trail
short_description: Record who changed what and when, in a log that nobody can quietly edit
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Records every INSERT, UPDATE, DELETE and TRUNCATE of the tables that a policy selects, in all its databases with one call.
  - The log is a schema of its own in each database. It belongs to a role that nobody can log in as. The roles of the application have no
    right in it. UPDATE, DELETE and TRUNCATE of it are refused by triggers, to its owner and to superusers, too.
  - Each table gets triggers that record statements as a whole. Where that would miss something, they record row by row. The result says
    which tables and why.
  - It is exact. A trigger that is missing, disabled or another, a function that was changed, and a new table or partition are in the plan
    and then mended. A table that the policy no longer names loses its triggers and keeps its records.
  - What is equal is not touched. Looking takes no lock but that of reading, works in check mode and on a standby.
  - Before a transaction commits, the state is read again. If anything is left to do, it is rolled back.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.policy
  - bulwark.postgresql.policy.expected
  - bulwark.postgresql.policy.patience
options:
  databases:
    description:
      - Name of a database to a dictionary with these keys. C(tables) is required.
      - C(tables) is a list of schemas, or a dictionary of them. A schema is V(all), which stands for all its tables, a list of tables, or a
        dictionary with C(all) or C(tables), and C(except). Names of tables may hold the wildcard C(*). Partitions belong to the table at
        the top.
      - C(mask) is a dictionary of tables, each as C(schema.table), and in each either a list of columns or a dictionary of them. Their
        values are not in the log. V(mask), which is what a list means, puts C(***) in their place, V(hash) a hash with a key that is kept
        in the log's schema, V(exclude) nothing at all.
      - C(readers) is a list of roles that may read the log, by the view C(audit_log), a view for each table, and the functions C(history),
        C(row_at) and C(undo). C(tenant_readers) is a list of roles that may read the view C(tenant_log), which shows the records of the
        tenant in context.
      - C(changed_columns_only) set to V(true) stores of an UPDATE the columns that it changed, and not whole rows.
      - C(skip_unchanged) set to V(true) stores nothing for a row in which an UPDATE changes nothing.
      - C(new_tables) set to V(true) makes an event trigger that has tables which C(tables) selects recorded from their creation on. It
        needs a superuser.
      - C(retention) is a dictionary with C(months), how many whole months are kept beside the current one, and C(directory), an absolute
        path on the host that runs the module. Older partitions are written there, as CSV compressed by C(zstd) with its SHA-256 beside it,
        read back, and only then dropped. By default everything is kept.
    type: dict
    required: true
  encrypted_columns:
    description:
      - Columns that are masked if C(mask) does not say how, since they are or will be encrypted. Written as the option C(columns) of
        M(bulwark.postgresql.pg_encrypted_columns).
    type: dict
    default: {}
  schema:
    description: The schema of the log.
    type: str
    default: audit
  owner:
    description: The role that owns the log. It is created where it is missing.
    type: str
    default: audit_owner
  user_setting:
    description:
      - The setting in which the application says for whom it works. It is a claim of the application, beside the role of the session, which
        is not. Without it, with an empty one, the record has the role of the session.
    type: str
    default: app.current_user
  tenant_setting:
    description: The setting that holds the tenant, as in M(bulwark.postgresql.pg_row_security).
    type: str
    default: app.current_tenant_id
  months_ahead:
    description:
      - How many monthly partitions of the log there are beside that of the current month. Records for which there is none go to a default
        partition, and from there to their month by the next run.
    type: int
    default: 3
  per_table:
    description:
      - Whether each table is changed in a transaction of its own, so that at no time more than one table is locked. Meant for busy servers.
      - Otherwise it is one transaction a database.
    type: bool
    default: false
seealso:
  - module: bulwark.postgresql.pg_row_security
  - module: bulwark.postgresql.pg_access
  - name: Triggers
    description: PostgreSQL's documentation.
    link: https://www.postgresql.org/docs/current/triggers.html
"""

EXAMPLES = r"""
- name: Every change of the shop's tables is on record
  bulwark.postgresql.pg_audit_trail:
    login_unix_socket: /var/run/postgresql
    databases:
      shop:
        tables: {app: {all: true, except: [sessions]}}
        mask: {app.user_profiles: [ssn, phone]}
        readers: [auditor]
  become: true
  become_user: postgres
"""

RETURN = r"""
tables:
  description:
    - The audited tables, by database. C(level) is V(statement) or V(row), and C(reason) says why it is the latter.
  returned: success
  type: dict
  sample: {shop: [{table: app.orders, level: statement, reason: null}]}
plan:
  description: The changes in order, for people and programs.
  returned: success
  type: list
  elements: dict
  sample:
    - database: shop
      object: table app.orders
      change: table app.orders  +audit for each statement
      sql: CREATE TRIGGER "0_audit_insert" AFTER INSERT ON "app"."orders" ...
      secret: false
sql:
  description: The statements of the plan in order.
  returned: success
  type: list
  elements: str
  sample: ['CREATE SCHEMA "audit" AUTHORIZATION "audit_owner"']
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: "Made 14 changes (server 1, shop 13); 12 tables are audited"
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
    - path: pg_audit_databases.shop.readers
      message: 'the server has no role "auditer" (did you mean "auditor"?)'
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.converge import Convergence, Options
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.model import Log
from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import (
    EXPECTED_OPTIONS,
    PATIENCE_OPTIONS,
    Proposal,
    outcome,
    patience_of,
    run,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.audit.reconcile import Audited
    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "databases": {"type": "dict", "required": True},
    "encrypted_columns": {"type": "dict", "default": {}},
    **{name: {"type": type(value).__name__, "default": value} for name, value in asdict(Log()).items()},
    "per_table": {"type": "bool", "default": False},
    **EXPECTED_OPTIONS,
    **PATIENCE_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode or on a standby, and return the module's result."""
    params = module.params
    log = Log(**{name: params[name] for name in asdict(Log())})
    options = Options(
        per_table=params["per_table"],
        patience=patience_of(params),
        expected_roles=tuple(params["expected_roles"]),
        expected_databases=tuple(params["expected_databases"]),
        path_prefix=params["path_prefix"],
    )
    convergence = Convergence(
        server, read_policy(params["databases"], log, params["path_prefix"], params["encrypted_columns"]), log, options
    )
    planned = convergence.plan()
    plan = planned.whole
    count = sum(len(tables) for tables in planned.tables.values())
    summary = f"{plan.counted()}; {count} table{'s are' if count != 1 else ' is'} audited"

    def run_command(command: list[str]) -> tuple[int, str]:
        code, _output, error = module.run_command(command, cwd="/")
        return code, error

    proposal = Proposal(plan, summary, lambda: convergence.apply(planned, run_command), planned.notes)
    tables = {name: [_shown(each) for each in found] for name, found in planned.tables.items()}
    return {**outcome(module, server, proposal), "tables": tables}


def _shown(each: Audited) -> dict[str, Any]:
    return {"table": each.table.label, "level": each.level, "reason": each.reason}


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
