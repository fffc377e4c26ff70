# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pg_encryption by ansible-playbook: the same keys on each run, no key in its output, clear errors."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import Key, Keyring, dump_keyring
from tests.integration.module import REPOSITORY, Playbook

if TYPE_CHECKING:
    from pathlib import Path


def play(directory: Path, *flags: str, keyrings: dict[str, Any], client: str = "") -> tuple[int, str]:
    """The exit code and the output at -vvv, which has no key of any file below the directory, and none of the variables."""
    keys = {"name": "bulwark.postgresql.pg_encryption", "tasks_from": "keyrings"}
    tasks: list[dict[str, Any]] = [{"name": "Install the keyrings", "ansible.builtin.include_role": keys}]
    if client:
        role = {"name": "bulwark.postgresql.pg_encryption", "tasks_from": "client"}
        tasks.append({"name": "Install the file", "ansible.builtin.include_role": role, "vars": {"pg_encryption_client": client}})
    process = Playbook(directory, tasks, {"pg_encryption_keyrings": keyrings}).start("-vvv", "--diff", *flags)
    output, _errors = process.communicate(timeout=120)
    texts = [path.read_text() for path in directory.glob("*.json")] + [str(each.get("content", "")) for each in keyrings.values() if isinstance(each, dict)]
    for secret in re.findall(r"[A-Za-z0-9_-]{43}=", "".join(texts)):
        assert secret not in output
    return process.returncode, output


def changes(output: str) -> int:
    (number,) = re.findall(r"changed=(\d+)", output)
    return int(number)


def test_the_role(tmp_path: Path) -> None:
    source, path, client = (tmp_path / name for name in ("source.json", "pii.json", "field_encryption.py"))
    keyrings = {"pii": {"path": str(path), "source": str(source), "group": str(tmp_path.stat().st_gid)}}
    code, output = play(tmp_path, "--check", keyrings=keyrings, client=str(client))
    assert (code, source.exists(), path.exists()) == (0, False, False), output
    assert "(new key) primary" in output
    code, output = play(tmp_path, keyrings=keyrings, client=str(client))
    assert (code, changes(output)) == (0, 3), output
    assert path.read_text() == source.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    original = REPOSITORY / "plugins" / "module_utils" / "client" / "field_encryption.py"
    assert client.read_bytes() == original.read_bytes()
    for flags in ((), ("--check",)):
        code, output = play(tmp_path, *flags, keyrings=keyrings, client=str(client))
        assert (code, changes(output)) == (0, 0), output


def test_a_keyring_in_a_variable(tmp_path: Path) -> None:
    key, path = Key.generate(), tmp_path / "pii.json"
    for content in (dump_keyring([key]), json.loads(dump_keyring([key]))):
        code, output = play(tmp_path, keyrings={"pii": {"path": str(path), "content": content}})
        assert code == 0, output
    assert changes(output) == 0
    assert Keyring.from_file(path).primary_id == key.id
    code, output = play(tmp_path, keyrings={"pii": {"path": str(path), "content": dump_keyring([Key.generate()])}})
    assert code == 2
    assert f"lacks the key {key.id}" in output


def test_what_is_refused(tmp_path: Path) -> None:
    for wrong in (
        {"path": "/x/y"},
        {"path": "relative", "source": "/x"},
        {"path": "/x/y", "source": "/x", "content": "x"},
        {"path": "/x", "source": "/x", "user": "y"},
    ):
        code, output = play(tmp_path, keyrings={"pii": wrong})
        assert code == 2
        assert "pg_encryption_keyrings.pii must have path" in " ".join(output.split())
    code, output = play(tmp_path, keyrings={})
    assert (code, changes(output)) == (0, 0), output
