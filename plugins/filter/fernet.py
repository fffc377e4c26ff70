# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters for Fernet keys and tokens; each has its documentation in a file of its name."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import (
    FieldEncryptionError,
    Keyring,
    TokenError,
    key_id,
    token_time,
)


def _clear_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make Ansible's error of ours, which holds no secret."""

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except FieldEncryptionError as error:
            message = str(error)
        raise AnsibleFilterError(f"{function.__name__}: {message}")

    return checked


def _keyring(key: Any) -> Keyring:
    """A keyring from what a variable may hold: a key, a list of them with the primary one first, a keyring's text or its data."""
    if isinstance(key, Mapping):
        key = json.dumps(key)
    elif isinstance(key, (list, tuple)) and all(isinstance(each, str) for each in key):
        key = ",".join(key)
    if not isinstance(key, str):
        raise FieldEncryptionError(f"the key must be a Fernet key, a list of them, or a keyring, not {type(key).__name__}")
    return Keyring.from_text(key)


@_clear_errors
def fernet_encrypt(value: str, key: Any, existing: str | None = None) -> str:
    """The token of a text; `existing`, if that is a token of the same text under the primary key."""
    ring = _keyring(key)
    if existing:
        try:
            if ring.info(existing).state == "primary" and ring.decrypt(existing) == value:
                return existing
        except TokenError:
            pass  # a new token takes its place
    return ring.encrypt(value)


@_clear_errors
def fernet_decrypt(token: str, key: Any) -> str:
    """The text in a token."""
    return _keyring(key).decrypt(token)


@_clear_errors
def fernet_rotate(token: str, key: Any) -> str:
    """The same value under the primary key; the token itself where it is that already."""
    return _keyring(key).rotate(token)


@_clear_errors
def fernet_key_id(key: str) -> str:
    """The id of a key."""
    return key_id(key)


@_clear_errors
def fernet_token_info(token: str, key: Any = None) -> dict[str, str | None]:
    """What a token shows without being decrypted."""
    if key is None:
        return {"key_id": None, "state": None, "created": token_time(token).strftime("%Y-%m-%dT%H:%M:%SZ")}
    info = _keyring(key).info(token)
    return {"key_id": info.key_id, "state": info.state, "created": info.created.strftime("%Y-%m-%dT%H:%M:%SZ")}


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file."""
        return {each.__name__: each for each in (fernet_encrypt, fernet_decrypt, fernet_rotate, fernet_key_id, fernet_token_info)}
