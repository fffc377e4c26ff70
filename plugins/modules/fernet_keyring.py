#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keyring files, and the states of their keys."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fernet_keyring
short_description: Keyring of Fernet keys, and the state of each key
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - A keyring is a file with the keys that encrypt values of an application. It is made once. A file that is there is never replaced by
    another keyring, also where it is empty or damaged, which is an error.
  - A key goes from state to state. The primary key encrypts. It, the secondary and the staged ones decrypt. A retired key does neither
    and is kept. Of a destroyed one the id is left.
  - A rotation stages a new key on every host, promotes it on every host, encrypts what is stored again, and retires the old key.
  - Result, diff and log name keys by their ids, which reveal nothing of them.
attributes:
  check_mode:
    description: Can run in check mode and return the changes without making them. The id of a key that is not made yet is not known.
    support: full
  diff_mode:
    description: Shows ids and states, and never a key.
    support: full
  idempotent:
    description: A second run changes nothing, except that O(state=staged) makes a key whenever none is staged.
    support: full
options:
  path:
    description: The file. Its directory must exist.
    type: path
    required: true
  state:
    description:
      - V(present) makes a missing keyring with one primary key, or installs O(content).
      - V(staged) makes a new staged key, unless there is one.
      - V(primary) promotes O(key_id), by default the staged key. The previous primary key becomes secondary.
      - V(secondary) makes the retired key O(key_id) readable again.
      - V(retired) retires O(key_id), by default all secondary keys.
      - V(destroyed) removes the retired key O(key_id) from the file. What it encrypted, in old backups too, is lost then.
    type: str
    choices: [present, staged, primary, secondary, retired, destroyed]
    default: present
  key_id:
    description: The id of the key.
    type: str
  content:
    description:
      - With O(state=present), the whole keyring as text, such as that of a file which this module made on the controller.
      - A keyring that lacks a key of the one in the file is refused, unless that key was destroyed.
    type: jsonarg
  variable:
    description:
      - The file is an environment file, such as one of C(EnvironmentFile) of systemd, of dotenv or of Docker, and this variable of it holds
        the keys that read, the primary one first. Other lines of the file stay.
      - Goes with O(state=present) and O(content) alone, since states have no place there.
    type: str
  escrow:
    description:
      - A copy of the keyring that is encrypted by C(age), so that the loss of the file does not lose what is encrypted. It is written
        before a new key is used.
      - The keyring file remembers it, and each later change of a key makes the copy anew, with this option or without.
      - Beside the copy is a note, C(.json), with the ids and states of the keys that are in it.
    type: dict
    suboptions:
      path:
        description: The file of the copy.
        type: path
        required: true
      recipients:
        description: At least two public keys of C(age) or SSH. Whoever has the identity of one of them can read the copy.
        type: list
        elements: str
        required: true
  owner:
    description: The owner of the file. By default a file that is there keeps it.
    type: str
  group:
    description: The group that may read the file if O(mode) is V(0640).
    type: str
  mode:
    description: The permissions of the file. By default V(0640) with O(group), and V(0600) without.
    type: str
    choices: ["0600", "0640"]
requirements:
  - cryptography on the host that the module runs on
  - age on that host for O(escrow)
seealso:
  - plugin: bulwark.postgresql.fernet_encrypt
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Make the keyring of an application, once
  bulwark.postgresql.fernet_keyring:
    path: /etc/shop/pii.json
    group: shop

- name: Make the keyring of an application, with a copy for the loss of it
  bulwark.postgresql.fernet_keyring:
    path: /srv/keys/shop-pii.json
    escrow:
      path: /srv/escrow/shop-pii.age
      recipients: "{{ escrow_recipients }}"    # age1..., at least two

- name: Give a service the keys in its environment
  bulwark.postgresql.fernet_keyring:
    path: /etc/shop/keys.env
    variable: ENCRYPTION_KEY
    content: "{{ lookup('ansible.builtin.file', '/srv/keys/shop-pii.json') }}"

- name: Stage a new key
  bulwark.postgresql.fernet_keyring:
    path: /etc/shop/pii.json
    state: staged

- name: Promote it
  bulwark.postgresql.fernet_keyring:
    path: /etc/shop/pii.json
    state: primary

- name: Retire the old one, once everything is encrypted with the new one
  bulwark.postgresql.fernet_keyring:
    path: /etc/shop/pii.json
    state: retired

- name: Destroy it, once no backup needs it
  bulwark.postgresql.fernet_keyring:
    path: /etc/shop/pii.json
    state: destroyed
    key_id: 0cf56fe34e8ec3f2
"""

RETURN = r"""
keyring:
  description: The keys after the run, in the order of the file.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The id, none for a key that check mode would make.
      type: str
    state:
      description: The state.
      type: str
    created:
      description: When it was made, in UTC.
      type: str
  sample: [{id: 0cf56fe34e8ec3f2, state: primary, created: "2026-01-31T12:00:00Z"}]
primary_id:
  description: The id of the key that encrypts, none where there is none or where check mode would make it.
  returned: success
  type: str
  sample: 0cf56fe34e8ec3f2
escrow:
  description: Where the escrow copy is, and who can read it; none where there is none.
  returned: success
  type: dict
  contains:
    path:
      description: The file of the copy.
      type: str
    recipients:
      description: Their public keys.
      type: list
  sample: {path: /srv/escrow/shop-pii.age, recipients: [age1operators, age1escrow]}
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: The keyring has 1 primary, 1 secondary
"""

import contextlib
import os
import re
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import CRYPTOGRAPHY_ERROR, Key
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.files import read_text, write_text
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.escrow import (
    escrow_of,
    is_current,
    keyring_text,
    remembered,
    write_copy,
)
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.keyring import (
    Keys,
    check_replacement,
    counts,
    keys_of,
    keys_of_variable,
    lines,
    reach,
    readers,
    set_variable,
)
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.keyring import locked as lock

OPTIONS: dict[str, dict[str, Any]] = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "default": "present", "choices": ["present", "staged", "primary", "secondary", "retired", "destroyed"]},
    "key_id": {"type": "str", "no_log": False},
    "content": {"type": "jsonarg", "no_log": True},
    "variable": {"type": "str"},
    "escrow": {
        "type": "dict",
        "options": {"path": {"type": "path", "required": True}, "recipients": {"type": "list", "elements": "str", "required": True}},
    },
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "str", "choices": ["0600", "0640"]},
}


def wanted(params: dict[str, Any], old: Keys | None) -> Keys:
    """The keys that the options ask for. Raises BulwarkError."""
    path, state = params["path"], params["state"]
    if state != "present":
        if old is None:
            raise BulwarkError(f"there is no keyring {path}: make it first, with state=present")
        return reach(old, state, params["key_id"])
    if params["content"] is None:
        return old if old is not None else (Key.generate(),)
    new = keys_of(params["content"], "content")
    check_replacement(old or (), new)
    return readers(new) if params["variable"] is not None else new


def check_options(params: dict[str, Any]) -> None:
    """Raises BulwarkError for options that do not go together."""
    state, variable = params["state"], params["variable"]
    if params["content"] is not None and state != "present":
        raise BulwarkError(f"content goes with state=present, not with state={state}")
    if params["key_id"] is not None and state in ("present", "staged"):
        raise BulwarkError(f"key_id does not go with state={state}, which makes keys")
    if variable is None:
        return
    if params["escrow"] is not None:
        raise BulwarkError("escrow is that of the keyring on the controller, and does not go with variable")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise BulwarkError("variable must be the name of an environment variable: letters, digits and underscores, and no digit first")
    if params["content"] is None:
        raise BulwarkError("variable needs state=present and content: an environment file has no place for the states of keys")


def permissions(module: AnsibleModule, old: str | None) -> bool:
    """Set owner, group and mode of a file that is there; whether that changed anything."""
    path, group = module.params["path"], module.params["group"]
    if old is None and module.check_mode:
        return False
    if old is not None and os.stat(path).st_mode & 0o007:
        module.warn(f"Every user of the host could read or write {path}: replace its keys")
    changed = module.set_owner_if_different(path, module.params["owner"], False)
    changed = module.set_group_if_different(path, group, changed)
    return bool(module.set_mode_if_different(path, module.params["mode"] or ("0640" if group else "0600"), changed))


def make(module: AnsibleModule) -> dict[str, Any]:
    """Make the keyring what the options ask for. Raises BulwarkError."""
    path, variable, params = module.params["path"], module.params["variable"], module.params
    check_options(params)
    with contextlib.nullcontext() if module.check_mode else lock(path):
        text = read_text(path)
        # An empty or damaged keyring is never taken for a missing one.
        old = keys_of_variable(text, variable, path) if variable else None if text is None else keys_of(text, path)
        new = wanted(params, old)
        escrow = escrow_of(params["escrow"]) or (None if variable else remembered(text))
        copied = escrow is None or is_current(escrow, new)
        changed = new != old or not copied or (not variable and escrow != remembered(text))
        if escrow is not None and not copied and not module.check_mode:
            run_command = partial(module.run_command, binary_data=True)
            write_copy(escrow, new, module.get_bin_path("age"), lambda command, data: run_command(command, data=data))
        if changed and not module.check_mode:
            write_text(path, set_variable(text, variable, new) if variable else keyring_text(new, escrow))
        access = permissions(module, text)
    # Keys that check mode has generated are not those that a run would make.
    known = new if not module.check_mode or params["content"] is not None else (old or ())
    ids = {key.id for key in known}
    keys = [
        {name: value if key.id in ids or name == "state" else None for name, value in key.as_data().items() if name != "key"} for key in new
    ]
    return {
        "changed": changed or access,
        "keyring": keys,
        "primary_id": next((key["id"] for key in keys if key["state"] == "primary"), None),
        "escrow": escrow.as_data() if escrow is not None else None,
        "diff": {
            "before": lines(old),
            "after": lines(new, known) + ("" if copied or escrow is None else f"escrow copy: {escrow.path}\n"),
            "before_header": path,
            "after_header": path,
        },
        "msg": f"The keyring {'would have' if module.check_mode and changed else 'has'} {counts(new)}",
    }


def main() -> None:
    """The module's entry point."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if CRYPTOGRAPHY_ERROR is not None:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=CRYPTOGRAPHY_ERROR)
    try:
        result = make(module)
    except BulwarkError as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
