#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the backups of a server stand."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_backup_info
short_description: How the backups of a server and the archive of its WAL stand
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Asks the program C(pg-bulwark-backup), which the role C(pg_backup) has installed on the host, and changes nothing.
  - Run it as the user of the operating system that the server runs as.
attributes:
  check_mode:
    description: Reads only, in check mode as ever.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
options:
  program:
    description: The command.
    type: path
    default: /usr/local/bin/pg-bulwark-backup
  config:
    description: The configuration of the cluster.
    type: path
    default: /etc/bulwark-backup/main.json
seealso:
  - name: Backups
    description: The page of the collection's documentation.
    link: https://github.com/bulwark-project/bulwark.postgresql/blob/main/docs/backup.md
"""

EXAMPLES = r"""
- name: Ask how the backups stand
  bulwark.postgresql.pg_backup_info:
  become: true
  become_user: postgres
  register: backups

- name: Fail where somebody should look
  ansible.builtin.assert:
    that: backups.problems | length == 0
"""

RETURN = r"""
problems:
  description: What somebody should look at.
  returned: success
  type: list
  elements: str
  sample: ["there is no logical backup"]
kinds:
  description: For C(physical) and C(logical) how many there are, their bytes, the newest and the oldest one, and the age of the newest in
    seconds.
  returned: success
  type: dict
wal:
  description: How many files of WAL are archived, how many wait for it, and for how many seconds the oldest of them has.
  returned: success
  type: dict
archiver:
  description: What the server says of its archiver.
  returned: success
  type: dict
free:
  description: Bytes that are free where the backups are.
  returned: success
  type: int
last_runs:
  description: The record of the last run of each job.
  returned: success
  type: dict
"""

import json

from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """The module's entry point."""
    options = {
        "program": {"type": "path", "default": "/usr/local/bin/pg-bulwark-backup"},
        "config": {"type": "path", "default": "/etc/bulwark-backup/main.json"},
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    command = [module.params["program"], "--config", module.params["config"], "status", "--json"]
    _status, output, error = module.run_command(command, cwd="/")
    try:
        found = json.loads(output)
    except ValueError:
        module.fail_json(msg=f"{command[0]} gave no status: {' '.join((error or output).split()) or 'no message'}")
    else:
        module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
