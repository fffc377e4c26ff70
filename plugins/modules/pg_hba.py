#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules by which a server lets clients in, as one document declares them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_hba
short_description: Make pg_hba.conf exactly what a policy says, without locking anybody out
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Writes the whole of C(pg_hba.conf), and of C(pg_ident.conf) where O(ident) is given, from one ordered document. What the document
    does not have goes.
  - Every name is checked against the roles and databases of the server, every address, method and option against what the version
    knows. A rule that no
    connection would reach is a mistake, and so is one without encryption or with a weak method, unless it is allowed by name.
  - Rules under which the connection of the applying role would be refused are refused before anything is written. The server then
    checks the file before it
    loads it, and after the reload a new connection is opened. If that fails, the old files are restored and loaded.
  - A file that was changed and never loaded is loaded.
  - Where Patroni runs the server, the rules go into its dynamic configuration, for all members of its cluster. Rules that would lock
    out Patroni itself, or a
    standby that is connected, are refused.
  - Run it on the server's host as the server's account. Rules belong to a server, not to its data, so that it works on a standby as on
    a primary.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.patroni
  - bulwark.postgresql.policy
  - bulwark.postgresql.policy.expected
options:
  rules:
    description:
      - The rules in the order in which the server tries them. The first that matches a connection decides.
      - Several addresses become several lines.
      - Each rule is a dictionary with these keys.
      - C(type) is V(hostssl), the default, V(host), V(hostnossl), V(hostgssenc), V(hostnogssenc), or V(local) for the Unix socket.
      - C(databases) is a name or a list of names. The words V(all), V(sameuser) and V(samerole) mean what they mean in the file, and so
        does
        V(/expression) from PostgreSQL 16 on. A dictionary with C(name) is that name and nothing else. None of them is for physical
        replication.
      - C(replication) set to V(true), in place of C(databases), makes it a rule for physical replication.
      - C(roles) as C(databases), with V(all), and V(+group) for the members of a role.
      - C(addresses) is one or a list of networks, addresses, names of hosts, V(.domain), V(samehost), V(samenet) or V(all). V(local)
        has none.
      - C(method) is how the client proves who it is. The default is V(scram-sha-256), and V(peer) for V(local).
      - C(options) is a dictionary of the method's options, for example C(map) or C(clientcert).
      - C(comment) is one line that goes into the file above the rule.
    type: raw
    required: true
  first_rules:
    description: Rules as in O(rules), which come before them, such as those for backups.
    type: raw
    default: []
  ident:
    description:
      - Name of a map to the operating-system users, or names in certificates, and the roles that they may be.
      - From PostgreSQL 16 on C(role) may be V(all), V(+group) or an expression. A role that is called so is a dictionary with C(name).
      - Without it C(pg_ident.conf) is left alone.
    type: raw
  administrators:
    description:
      - Roles that come first, each through the Unix socket by V(peer).
      - By default the role that applies the rules, if it connects as the operating-system user of the same name.
    type: list
    elements: str
  reject_rest:
    description: Whether the file ends with rules that reject everything else. Without them the server refuses what no rule matches all
      the same.
    type: bool
    default: true
  allow_plain:
    description: Whether rules may take TCP connections without encryption.
    type: bool
    default: false
  allow_weak:
    description: Whether rules may use the methods V(trust), V(password), V(md5) and V(ident).
    type: bool
    default: false
seealso:
  - module: bulwark.postgresql.pg_hba_info
  - name: The pg_hba.conf File
    description: PostgreSQL's documentation of the rules.
    link: https://www.postgresql.org/docs/current/auth-pg-hba-conf.html
"""

EXAMPLES = r"""
- name: The application over TLS, an exporter by certificate, a standby, and nobody else
  bulwark.postgresql.pg_hba:
    login_unix_socket: /var/run/postgresql
    rules:
      - databases: shop
        roles: [app_service, readonly_user]
        addresses: [10.1.0.0/16, "fd00:1::/48"]
        comment: the application servers
      - databases: postgres
        roles: exporter
        addresses: 10.1.9.9
        method: cert
        options: {map: monitoring}
      - replication: true
        roles: replicator
        addresses: db2.example.org
    ident:
      monitoring:
        - {system_user: exporter.example.org, role: exporter}
  become: true
  become_user: postgres
"""

RETURN = r"""
rules:
  description: The rules that the server has afterwards, in order, with names as the file writes them.
  returned: success
  type: list
  elements: dict
  sample:
    - type: hostssl
      databases: [shop]
      roles: [app_service, readonly_user]
      address: 10.1.0.0/16
      method: scram-sha-256
      options: {}
      file: /etc/postgresql/17/main/pg_hba.conf
      line: 4
      comment: the application servers
lint:
  description: What the linter says of them, as in M(bulwark.postgresql.pg_hba_info).
  returned: success
  type: list
  elements: dict
  sample:
    - {code: ssl_off, severity: medium, message: cannot match while the setting ssl is off, rule: hostssl shop app 10.1.0.0/16 cert,
      file: "", line: 0}
file:
  description: The file.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/pg_hba.conf
reloaded:
  description: Whether the server was, or would be, told to load its files.
  returned: success
  type: bool
  sample: true
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: 9 rules in /etc/postgresql/17/main/pg_hba.conf; a new connection was accepted under them
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
  sample: false
server_version:
  description: The server's version number, as in the setting server_version_num.
  returned: success
  type: int
  sample: 170011
mistakes:
  description: The mistakes in the policy, each with its place.
  returned: when the policy is wrong
  type: list
  elements: dict
  sample:
    - path: pg_hba_rules[1]
      message: 'the server has no role "exporte" (did you mean "exporter"?)'
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import (
    EXPECTED_OPTIONS,
    PATRONI_OPTIONS,
    POLICY_OPTIONS,
    patroni_of,
    run,
)
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.converge import Options, apply, plan
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.policy import Permissions, secrets_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "rules": {"type": "raw", "required": True},
    "first_rules": {"type": "raw", "default": []},
    "ident": {"type": "raw"},
    "administrators": {"type": "list", "elements": "str"},
    "reject_rest": {"type": "bool", "default": True},
    "allow_plain": {"type": "bool", "default": False},
    "allow_weak": {"type": "bool", "default": False},
    **EXPECTED_OPTIONS,
    **POLICY_OPTIONS,
    **PATRONI_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode, and return the module's result."""
    params = module.params
    for rules in (params["first_rules"], params["rules"]):
        module.no_log_values.update(secrets_of(rules))  # in what Ansible itself shows of the options
    patroni = patroni_of(params)
    options = Options(
        administrators=None if params["administrators"] is None else tuple(params["administrators"]),
        reject_rest=params["reject_rest"],
        permissions=Permissions(params["allow_plain"], params["allow_weak"]),
        has_password=bool(params["login_password"]),
        expected_roles=tuple(params["expected_roles"]),
        expected_databases=tuple(params["expected_databases"]),
        patroni=patroni,
        first_rules=params["first_rules"],
    )
    planned = plan(server, params["rules"], params["ident"], options, params["path_prefix"])
    changed = bool(planned.plan)
    if changed and not module.check_mode:
        apply(server, planned, patroni)
    findings = planned.findings()
    if any(finding.code == "ssl_off" for finding in findings):
        module.warn("ssl is off on this server, so that no connection matches a rule of the type hostssl: turn it on (role pg_ssl)")
    for finding in findings:
        if finding.code in ("no_authority", "md5_verifier"):
            module.warn(f"{finding.rule}: {finding.message}")
    file = planned.facts.hba_file
    count = len(planned.policy.rules)
    accepted = "" if module.check_mode else "; a new connection was accepted under them"
    return {
        "changed": changed,
        "rules": [{**rule.as_data(), "file": file} for rule in planned.policy.rules],
        "lint": [asdict(finding) for finding in findings],
        "diff": {"prepared": planned.plan.diff()},
        "file": file,
        "reloaded": changed,
        "msg": f"{count} rules in {planned.place}{accepted}" if changed else "Everything is as declared",
        "in_recovery": planned.facts.in_recovery,
        "server_version": planned.facts.version,
    }


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge, log_options=False)


if __name__ == "__main__":
    main()
