# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests for Fernet keys and tokens; each has its documentation in a file of its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import KeyFormatError, is_token, key_id

if TYPE_CHECKING:
    from collections.abc import Callable


def fernet_key(value: Any) -> bool:
    """Whether a value is a Fernet key."""
    try:
        key_id(value)
    except KeyFormatError:
        return False
    return True


def fernet_token(value: Any) -> bool:
    """Whether a value has the form of a Fernet token."""
    return is_token(value)


class TestModule:
    """What Ansible asks for."""

    def tests(self) -> dict[str, Callable[[Any], bool]]:
        """The tests of this file."""
        return {"fernet_key": fernet_key, "fernet_token": fernet_token}
