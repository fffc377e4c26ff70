#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of a server as one document declares them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_settings
short_description: Make the settings of a server what a policy says
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Writes one document of settings as one file that the server includes, after checking every name and value against the server's own
    description of its
    settings, type, range, accepted words and unit.
  - The file is exact. A setting that the document no longer has leaves it. What other files say is left alone.
  - The server reads the new file without applying it first. If it finds an error, or does not have the settings after the reload, the
    old file is restored
    within the same call.
  - The server is reloaded, never restarted. What waits for a restart is returned in RV(pending_restart) until it has happened, and is
    no change.
  - Run it on the server's host as the server's account. Where that is not so and the role is a superuser, ALTER SYSTEM is used.
  - Where the connection may not change settings, as on a managed service, the baseline alone is skipped with RV(skipped_reason), and
    settings are refused.
  - Settings belong to a server, not to its data, so that a standby has its own and this works there as on a primary.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.patroni
  - bulwark.postgresql.policy
options:
  settings:
    description:
      - Name to value. A value may be a string, a number, a boolean or a list.
      - With a dictionary, C(value) is the value, C(optional) set to V(true) skips the setting where this version does not know it, and
        C(reason) goes into
        the file as a comment.
      - A setting of O(baseline) with the value V(null) is left alone.
      - C(shared_preload_libraries) is merged with what other files say. A library that is not installed is refused.
    type: dict
    default: {}
  baseline:
    description: V(default) adds the settings of CIS and STIG that the collection knows for this version, each with its reason.
      O(settings) goes before it.
    type: str
    choices: [default, none]
    default: none
  name:
    description: The name of the file, without its ending, in the directory that the main configuration file includes. V(conf.d) is made
      where there is none.
    type: str
    default: bulwark
  method:
    description:
      - V(file) writes the file, V(alter_system) uses ALTER SYSTEM, which is never exact because nobody knows whose its settings are.
      - V(patroni) writes Patroni's dynamic configuration, for all members of its cluster. The names that the document has set are kept
        there, under the key
        C(bulwark), so that it is exact.
      - V(auto) takes Patroni where it runs the server, else the file where the server is on this host, and else ALTER SYSTEM.
    type: str
    choices: [auto, file, alter_system, patroni]
    default: auto
  overrides:
    description:
      - What to do where ALTER SYSTEM once set something else, which is read after every file.
      - V(refuse) names each, V(reset) uses ALTER SYSTEM RESET.
      - A later line in another file, or the server's command line, is always refused.
    type: str
    choices: [refuse, reset]
    default: refuse
  declared_roles:
    description:
      - Roles whose settings another policy keeps, such as that of M(bulwark.postgresql.pg_access).
      - The limits of time of O(baseline) are not for login roles that are superusers or have REPLICATION. Each of them gets V(0) by
        ALTER ROLE where it has no value of its own. For these roles there is a warning instead.
    type: list
    elements: str
    default: []
seealso:
  - module: bulwark.postgresql.pg_cluster_info
  - name: Server Configuration
    description: PostgreSQL's documentation of settings.
    link: https://www.postgresql.org/docs/current/runtime-config.html
"""

EXAMPLES = r"""
- name: The baseline, and what this server needs beside it
  bulwark.postgresql.pg_settings:
    login_unix_socket: /var/run/postgresql
    baseline: default
    settings:
      work_mem: 64MB
      statement_timeout: null # left alone
      shared_preload_libraries: [pg_stat_statements]
      transaction_timeout: {value: 1h, optional: true, reason: PostgreSQL 17 and later}
  become: true
  become_user: postgres
"""

RETURN = r"""
settings:
  description: What changes, sorted by name.
  returned: success
  type: list
  elements: dict
  sample:
    - {name: log_disconnections, before: "off", after: "on", context: superuser-backend}
file:
  description: The file that holds the settings. V(null) with ALTER SYSTEM.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/conf.d/bulwark.conf
method:
  description: How the settings were, or would be, written.
  returned: success
  type: str
  sample: file
reset:
  description: The settings that ALTER SYSTEM RESET was used on.
  returned: success
  type: list
  elements: str
  sample: []
unlimited:
  description: The roles that got V(0) in place of a limit of time of the baseline.
  returned: success
  type: list
  elements: str
  sample: [postgres]
unknown:
  description: Optional settings that this version does not know.
  returned: success
  type: list
  elements: str
  sample: [transaction_timeout]
pending_restart:
  description: The settings of the server whose new value waits for a restart, after this run.
  returned: success
  type: list
  elements: str
  sample: [shared_preload_libraries]
restart_required:
  description: Whether there are any.
  returned: success
  type: bool
  sample: true
service:
  description: Who keeps the server running and what restarts it, as in M(bulwark.postgresql.pg_cluster_info).
  returned: success
  type: dict
  sample:
    manager: systemd
    unit: postgresql@17-main.service
    restart: [systemctl, restart, postgresql@17-main.service]
    restart_user: root
previous_file:
  description: Where the file as it was is kept until the restart has happened.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/conf.d/.bulwark.conf.previous
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: 31 settings changed; shared_preload_libraries waits for a restart
skipped_reason:
  description: Why nothing was done, where only the baseline is wanted and this connection may not change settings, as on a managed service.
  returned: where settings are out of reach
  type: str
  sample: "the role \"app\" may not change the settings of this server: connect as a superuser"
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
    - path: pg_server_settings.work_men
      message: 'PostgreSQL 17 has no setting work_men (did you mean "work_mem"?); say optional: true to skip it'
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import PATRONI_OPTIONS, POLICY_OPTIONS, patroni_of, run
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.plan import Effect
from ansible_collections.bulwark.postgresql.plugins.module_utils.settings.converge import (
    Options,
    OutOfReachError,
    apply,
    check_start,
    plan,
    waiting,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "settings": {"type": "dict", "default": {}},
    "baseline": {"type": "str", "choices": ["default", "none"], "default": "none"},
    "name": {"type": "str", "default": "bulwark"},
    "method": {"type": "str", "choices": ["auto", "file", "alter_system", "patroni"], "default": "auto"},
    "overrides": {"type": "str", "choices": ["refuse", "reset"], "default": "refuse"},
    "declared_roles": {"type": "list", "elements": "str", "default": []},
    **POLICY_OPTIONS,
    **PATRONI_OPTIONS,
}


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, apply unless in check mode, and return the module's result."""
    params = module.params
    patroni = patroni_of(params)
    options = Options(
        method=params["method"],
        overrides=params["overrides"],
        name=params["name"],
        declared_roles=tuple(params["declared_roles"]),
        patroni=patroni,
    )
    try:
        planned = plan(server, params["settings"], params["baseline"], options, params["path_prefix"])
    except OutOfReachError as error:
        if params["settings"]:
            raise
        # Nobody asked for more than the baseline: on such a server it is the provider's to keep.
        return {
            "changed": False,
            "skipped_reason": str(error),
            "msg": f"skipped: {error}",
            "restart_required": False,
            "pending_restart": [],
        }
    changed = bool(planned.plan)
    for warning in planned.warnings:
        module.warn(warning)

    def run_command(command: list[str]) -> tuple[int, str]:
        code, _output, error = module.run_command(command, cwd="/")
        return code, error

    if changed and not module.check_mode:
        apply(server, planned, run_command, patroni)
    elif changed and not any(each.object.startswith("ssl_") and each.object.endswith("_file") for each in planned.parameters):
        check_start(planned, run_command)  # in check mode, files that an earlier task would install are not there yet
    pending = waiting(server, planned) if not module.check_mode else planned.facts.pending_restart
    count = len(planned.parameters)
    done = (
        f"{count} setting{'s' if count != 1 else ''} {'would change' if module.check_mode else 'changed'}"
        if changed
        else "Everything is as declared"
    )
    if planned.unlimited:
        done += f"; no limits of time for {', '.join(planned.unlimited)}"
    if planned.plan.of(Effect.RELOAD):
        done = "The server would load its settings" if module.check_mode else "The server has loaded its settings"
    waits = f"; waiting for a restart: {', '.join(pending)}" if pending else ""
    return {
        "changed": changed,
        "settings": [
            {"name": each.object, "before": each.before, "after": each.after, "context": each.context} for each in planned.parameters
        ],
        "diff": {"prepared": planned.plan.diff()},
        "file": planned.file,
        "method": planned.method,
        "unlimited": list(planned.unlimited),
        "reset": [each.object for each in planned.plan.of(Effect.RESET)],
        "unknown": list(planned.policy.skipped),
        "pending_restart": list(pending),
        "restart_required": bool(pending),
        "service": asdict(planned.facts.service) if planned.facts.service else None,
        "previous_file": planned.previous,
        "msg": done + waits,
        "in_recovery": planned.facts.in_recovery,
        "server_version": planned.facts.version,
    }


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
