# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Fernet key that is generated once."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fernet_key
short_description: Fernet key in a file of the controller, generated once
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Returns the key in a file. If the file is missing, a key is generated and written to it first, in check mode too. A file that is there
    is never written again, also where it is empty or damaged, which is an error.
  - The file is readable by its owner only. Keep it out of version control, or encrypt it with C(ansible-vault).
options:
  _terms:
    description: The paths of the files.
    type: list
    elements: path
    required: true
  create:
    description: Whether to generate a missing key. Otherwise that is an error.
    type: bool
    default: true
requirements:
  - cryptography on the controller
seealso:
  - module: bulwark.postgresql.fernet_keyring
"""

EXAMPLES = r"""
- name: Give an application its key
  ansible.builtin.copy:
    content: "ENCRYPTION_KEY={{ lookup('bulwark.postgresql.fernet_key', '/srv/keys/shop.key') }}\n"
    dest: /etc/shop/encryption.env
    mode: "0600"
  no_log: true
"""

RETURN = r"""
_raw:
  description: The keys.
  type: list
  elements: str
"""

import os
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import FieldEncryptionError, Key, key_id
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.files import read_text, write_text
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.keyring import locked


class LookupModule(LookupBase):
    """What Ansible asks for."""

    def run(self, terms: list[str], variables: Any = None, **kwargs: Any) -> list[str]:
        """The key of each file."""
        self.set_options(var_options=variables, direct=kwargs)
        try:
            return [self._key(os.path.abspath(os.path.expanduser(str(term))), self.get_option("create")) for term in terms]
        except (BulwarkError, FieldEncryptionError) as error:
            message = str(error)
        raise AnsibleLookupError(f"fernet_key: {message}")

    def _key(self, path: str, create: bool) -> str:
        """The key in a file, generated if the file is missing. Raises BulwarkError that names the file."""
        text = self._loaded(path)
        if text is None and create:
            with locked(path):
                if read_text(path) is None:
                    write_text(path, f"{Key.generate().secret}\n")
            text = self._loaded(path)
        if text is None:
            raise BulwarkError(f"there is no file {path}, and create is false")
        key = text.strip()
        try:
            key_id(key)
        except FieldEncryptionError as error:
            raise BulwarkError(f"{path}: {error}") from None
        return key

    def _loaded(self, path: str) -> str | None:
        """The text of a file, decrypted where ansible-vault has encrypted it; None where there is none."""
        text = read_text(path)
        if text is None or not text.startswith("$ANSIBLE_VAULT"):
            if text is not None and os.stat(path).st_mode & 0o007:
                raise BulwarkError(f"{path}: every user of the host can read or write it: chmod o= and replace the key")
            return text
        return str(self._loader.get_text_file_contents(path)) if hasattr(self._loader, "get_text_file_contents") else self._from_vault(path)

    def _from_vault(self, path: str) -> str:
        content, _shown = self._loader._get_file_contents(path)
        return content.decode()
