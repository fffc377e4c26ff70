#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roles, memberships, privileges and owners of a server as a policy declares them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_access
short_description: Make roles, privileges and owners exactly what a policy says
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Takes one document for the whole server and all its databases, reads the catalogs, and makes roles, memberships, privileges, default
    privileges and owners exactly what the document says, with one transaction for each database.
  - Missing roles, databases and schemas that the document declares are created. Databases, schemas and objects are never dropped.
  - Each transaction ends with a second reading. If something is still left to do then, it is rolled back and the module fails.
  - On a standby the module changes nothing and says so.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.policy
  - bulwark.postgresql.policy.patience
options:
  policy:
    description:
      - The document. Its keys are C(roles), C(profiles), C(grants) and C(databases).
      - The role C(bulwark.postgresql.pg_users) takes the same keys as variables with the prefix C(pg_users_).
      - The page C(docs/access.md) of the collection describes every key.
    type: dict
    required: true
  passwords:
    description:
      - Role name to password. A plain password is turned into a SCRAM-SHA-256 verifier before it leaves the host that the module runs on. A
        verifier is used as it is.
      - Each is compared with the stored verifier by that one's own salt, so that an unchanged password is no change.
    type: dict
    default: {}
  mode:
    description:
      - V(managed) is exact for the roles, with their members, and the schemas that the policy names, and leaves the rest alone.
      - V(additive) grants what is missing and revokes nothing.
      - V(authoritative) is exact for every role but superusers and O(protected_roles) in the databases that the policy names.
    type: str
    choices: [managed, additive, authoritative]
    default: managed
  scram_iterations:
    description: Iterations of new SCRAM verifiers. Stored ones with another count are replaced. Without it, new verifiers get the
      server's setting.
    type: int
  max_revoke_share:
    description: A plan that revokes more than this share of the existing privileges, and at least 100, is refused.
    type: float
    default: 0.5
  allow_mass_revoke:
    description: Allow a plan to exceed O(max_revoke_share).
    type: bool
    default: false
  end_sessions:
    description:
      - Whether sessions are ended that could not be begun any more, because their role was dropped, may not log in or may not connect to
        the database. PostgreSQL lets them go on. Without it they are told.
    type: bool
    default: false
  kept_schemas:
    description:
      - Schemas that something else keeps, such as the log of M(bulwark.postgresql.pg_audit_trail). No right in them is taken from anybody,
        unless the policy names the schema in the database, or takes the role away.
    type: list
    elements: str
    default: []
  kept_roles:
    description:
      - Names of roles that something else keeps, such as that of the role C(bulwark.postgresql.pg_backup). They keep what they have, as
        those of O(protected_roles), unless the policy names them.
    type: list
    elements: str
    default: []
  protected_roles:
    description: Patterns of names of roles that keep what they have unless the policy names them.
    type: list
    elements: str
    default: [pg_*, rds*, cloudsql*, azure*, alloydb*]
seealso:
  - module: bulwark.postgresql.pg_access_info
  - name: Privileges
    description: PostgreSQL's documentation of privileges.
    link: https://www.postgresql.org/docs/current/ddl-priv.html
"""

EXAMPLES = r"""
- name: Three least-privilege users of one schema
  bulwark.postgresql.pg_access:
    login_unix_socket: /var/run/postgresql
    passwords:
      app_service: "{{ vault_app_service_password }}"
      readonly_user: "{{ vault_readonly_user_password }}"
    policy:
      roles:
        app_service: {}
        readonly_user: {connection_limit: 10}
        migration_user: {login: true}
      databases:
        shop:
          schemas:
            app:
              owner: migration_user
              profiles:
                app_service: app_service
                migration_user: migration
                readonly_user: readonly
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
    - database: shop
      object: table app.orders
      change: "readonly_user: table app.orders  -UPDATE"
      sql: REVOKE UPDATE ON TABLE "app"."orders" FROM "readonly_user"
      secret: false
sql:
  description: The statements of the plan in order. Passwords are shown as asterisks.
  returned: success
  type: list
  elements: str
  sample: ['GRANT SELECT ON TABLE "app"."orders" TO "readonly_user"']
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: "Made 3 changes (server 1, shop 2): 4 privileges granted, 1 revoked"
granted:
  description: How many privileges the plan gives, over all objects and roles.
  returned: success
  type: int
  sample: 4
revoked:
  description: How many privileges the plan takes.
  returned: success
  type: int
  sample: 1
stale_sessions:
  description: Sessions that could not be begun any more, which O(end_sessions) ends.
  returned: success
  type: list
  elements: dict
  sample:
    - {role: old_reporter, database: shop, reason: may not log in, pids: [4711]}
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
    - path: pg_users_roles.app_service.logn
      message: 'unknown key (did you mean "login"?); accepted: state, login, superuser'
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.access.converge import Convergence, Options, summary
from ansible_collections.bulwark.postgresql.plugins.module_utils.access.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import PATIENCE_OPTIONS, Proposal, outcome, patience_of, run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "policy": {"type": "dict", "required": True},
    "passwords": {"type": "dict", "default": {}, "no_log": True},
    "mode": {"type": "str", "choices": ["managed", "additive", "authoritative"], "default": "managed"},
    "scram_iterations": {"type": "int"},
    "max_revoke_share": {"type": "float", "default": 0.5},
    "allow_mass_revoke": {"type": "bool", "default": False},
    "kept_schemas": {"type": "list", "elements": "str", "default": []},
    "end_sessions": {"type": "bool", "default": False},
    "kept_roles": {"type": "list", "elements": "str", "default": []},
    "protected_roles": {"type": "list", "elements": "str", "default": ["pg_*", "rds*", "cloudsql*", "azure*", "alloydb*"]},
    **PATIENCE_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode or on a standby, and return the module's result."""
    params = module.params
    policy = read_policy(params["policy"], params["passwords"], params["mode"], params["path_prefix"])
    options = Options(
        mode=params["mode"],
        protected=(*params["protected_roles"], *params["kept_roles"]),
        kept_schemas=tuple(params["kept_schemas"]),
        iterations=params["scram_iterations"],
        max_revoke_share=params["max_revoke_share"],
        allow_mass_revoke=params["allow_mass_revoke"],
        patience=patience_of(params),
        path_prefix=params["path_prefix"],
        end_sessions=params["end_sessions"] and not module.check_mode,
    )
    convergence = Convergence(server, policy, options)
    planned = convergence.plan()
    plan = planned.whole
    proposal = Proposal(plan, summary(planned), lambda: convergence.apply(planned), planned.notes)
    result = outcome(module, server, proposal)
    if convergence.planned_anew:
        plan = convergence.executed(planned)
        data = convergence.executed_data
        result.update(plan=data, sql=[change["sql"] for change in data], diff={"prepared": plan.diff()})
        module.warn(f"somebody else has changed these meanwhile, so that they were planned anew: {', '.join(convergence.planned_anew)}")
    ending = params["end_sessions"] and not result["in_recovery"]
    stale = convergence.stale_sessions()
    if stale and not ending:
        module.warn(f"sessions go on that could not be begun now: {'; '.join(map(str, stale))} (end_sessions ends them)")
    return {
        **result,
        "changed": result["changed"] or bool(stale and ending),
        "granted": plan.granted,
        "revoked": plan.revoked,
        "stale_sessions": [asdict(each) for each in stale],
    }


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
