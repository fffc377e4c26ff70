#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Restore a backup in a drill."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_restore_drill
short_description: Restore the newest backup where nobody else gets at it, and compare it with what is known
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Runs C(pg-bulwark-backup drill). The newest backup is restored into a directory of its own, by an identity of C(age) alone, and
    started on a Unix socket that only this account can enter. The live cluster is never touched.
  - Run it as an account that may run PostgreSQL and read the backups, such as C(postgres) on the host of the server. On another host,
    O(directory) is enough.
  - The record of the drill stays beside the backups.
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: none
  diff_mode:
    description: There is nothing to compare.
    support: none
options:
  kind:
    description: The kind of the backup.
    type: str
    choices: [physical, logical]
    default: physical
  state:
    description:
      - V(done) stops the restored server and removes its directory. V(started) leaves it running for further checks, whose end is
        V(stopped).
    type: str
    choices: [done, started, stopped]
    default: done
  identity:
    description: The text of an identity of C(age). It is in memory only (C(/dev/shm)), and gone when the backup is restored.
    type: str
  identity_file:
    description: The path of an identity on this host instead.
    type: path
  target:
    description:
      - Where the recovery of a physical backup ends. V(best) is the newest restore point of the canary whose following WAL is archived,
        V(row) the newest such row of the canary, V(end) the end of the archive.
    type: str
    choices: [best, row, end]
    default: best
  checks:
    description: With O(state=stopped), what further checks have found, which is added to the record.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: What was looked at.
        type: str
        required: true
      ok:
        description: Whether it is right.
        type: bool
        required: true
      text:
        description: What was found.
        type: str
        required: true
  scratch:
    description: The directory to restore into, instead of that of the configuration. It is removed afterwards.
    type: path
  program:
    description: The command.
    type: path
    default: /usr/local/bin/pg-bulwark-backup
  config:
    description: The configuration of the cluster.
    type: path
    default: /etc/bulwark-backup/main.json
  directory:
    description: Instead of a configuration, on another host, the directory of the backups.
    type: path
seealso:
  - module: bulwark.postgresql.pg_backup_info
  - name: Backups
    description: The page of the collection's documentation.
    link: https://github.com/bulwark-project/bulwark.postgresql/blob/main/docs/backup.md
"""

EXAMPLES = r"""
- name: Restore the newest backup in a drill, by the identity in escrow
  bulwark.postgresql.pg_restore_drill:
    identity: "{{ lookup('ansible.builtin.file', '/media/escrow/identity.txt') }}"
  become: true
  become_user: postgres
"""

RETURN = r"""
drill:
  description:
    - The record of the drill. C(rto) is how many seconds the restore took, C(rpo) how many seconds of work would have been lost,
      C(checks) what was looked at, C(running) where the restored server is reached, C(lines) the record for a person.
  returned: when there was a drill
  type: dict
  sample:
    backup: 20260131T011500Z
    target: the restore point bulwark 2026-01-31T12:00:00Z
    rto: 42.1
    rpo: 61.0
    checks: [{name: cluster, ok: true, text: system identifier 7400000000000000001}]
problems:
  description: What was not as it was.
  returned: success
  type: list
  elements: str
  sample: []
"""

import json
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _in_memory(module: AnsibleModule, text: str) -> str:
    """The path of a file that is in memory alone and only this account may read."""
    if not os.path.isdir("/dev/shm"):
        module.fail_json(msg="there is no /dev/shm, where an identity could be in memory alone: name the path of a file in identity_file")
    handle, path = tempfile.mkstemp(prefix="bulwark-drill-", dir="/dev/shm")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text.strip() + "\n")
    return path


def _words(given: dict[str, Any], identity: str | None) -> list[str]:
    words = [
        given["program"],
        *(["--directory", given["directory"]] if given["directory"] else ["--config", given["config"]]),
        "drill",
        "--json",
    ]
    if given["scratch"]:
        words += ["--scratch", given["scratch"]]
    if given["state"] == "stopped":
        return [*words, "stop", *(word for check in given["checks"] for word in ("--check", json.dumps(check)))]
    if identity:
        words += ["--identity", identity]
    return [*words, *(["--keep"] if given["state"] == "started" else []), "--target", given["target"], given["kind"]]


def main() -> None:
    """The module's entry point."""
    options = {
        "kind": {"type": "str", "choices": ["physical", "logical"], "default": "physical"},
        "state": {"type": "str", "choices": ["done", "started", "stopped"], "default": "done"},
        "identity": {"type": "str", "no_log": True},
        "identity_file": {"type": "path"},
        "target": {"type": "str", "choices": ["best", "row", "end"], "default": "best"},
        "checks": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "ok": {"type": "bool", "required": True},
                "text": {"type": "str", "required": True},
            },
        },
        "scratch": {"type": "path"},
        "program": {"type": "path", "default": "/usr/local/bin/pg-bulwark-backup"},
        "config": {"type": "path", "default": "/etc/bulwark-backup/main.json"},
        "directory": {"type": "path"},
    }
    module = AnsibleModule(argument_spec=options, mutually_exclusive=[("identity", "identity_file")], supports_check_mode=False)
    given = module.params
    path = _in_memory(module, given["identity"]) if given["identity"] else None
    try:
        status, output, error = module.run_command(_words(given, path or given["identity_file"]), cwd="/")
    finally:
        if path:
            os.unlink(path)
    try:
        found = json.loads(output) if output.startswith("{") else None
    except ValueError:
        found = None
    if status and found is None:
        module.fail_json(msg=" ".join(error.split()) or f"{given['program']} failed with status {status}")
    problems = [f"{check['name']}: {check['text']}" for check in (found or {}).get("checks", ()) if check["ok"] is False]
    result = {"changed": False, "problems": problems, **({"drill": found} if found else {})}
    if problems and given["state"] != "started":
        module.fail_json(msg="what was restored is not as it was: " + "; ".join(problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
