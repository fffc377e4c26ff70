# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters, tests and lookup for Fernet keys and tokens, through Ansible's own templating."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from ansible.errors import AnsibleError, AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.filter import fernet as filters
from ansible_collections.bulwark.postgresql.plugins.lookup.fernet_key import LookupModule
from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import Key, dump_keyring, key_id
from ansible_collections.bulwark.postgresql.plugins.test import fernet as tests
from tests.integration.module import Playbook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OLD, NEW = (Fernet.generate_key().decode() for _each in range(2))
RING = dump_keyring([Key.from_secret(OLD, "secondary"), Key.from_secret(NEW, "primary")])
TOKEN = filters.fernet_encrypt("hidden value", OLD)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_round_trip(text: str) -> None:
    for key in (NEW, [NEW, OLD], RING, json.loads(RING)):
        assert filters.fernet_decrypt(filters.fernet_encrypt(text, key), RING) == text


def test_through_ansible(tmp_path: Path) -> None:
    """A playbook finds every plugin, and no output of it, at -vvv, has a key."""
    key = tmp_path / "shop.key"
    checks = [
        "token | bulwark.postgresql.fernet_decrypt(ring) == 'x'",
        "token | bulwark.postgresql.fernet_rotate([new, old]) is bulwark.postgresql.fernet_token",
        "'y' | bulwark.postgresql.fernet_encrypt(ring) | bulwark.postgresql.fernet_decrypt(new) == 'y'",
        "old | bulwark.postgresql.fernet_key_id == old_id",
        "(token | bulwark.postgresql.fernet_token_info(ring)).state == 'secondary'",
        "old is bulwark.postgresql.fernet_key and 'correct horse' is not bulwark.postgresql.fernet_key",
        f"lookup('bulwark.postgresql.fernet_key', '{key}') == lookup('bulwark.postgresql.fernet_key', '{key}')",
    ]
    tasks = [
        {"name": "Check the plugins", "ansible.builtin.assert": {"that": checks}},
        {"name": "Refuse a wrong key", "ansible.builtin.debug": {"msg": "{{ token | bulwark.postgresql.fernet_decrypt(new) }}"}},
    ]
    variables = {"old": OLD, "new": NEW, "ring": json.loads(RING), "token": filters.fernet_encrypt("x", OLD), "old_id": key_id(OLD)}
    process = Playbook(tmp_path, tasks, variables).start("-vvv")
    output, _errors = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert "All assertions passed" in output
    assert f"another key than those of the keyring ({key_id(NEW)})" in output
    for hidden in (OLD, NEW, variables["token"], key.read_text().strip()):
        assert hidden not in output


def test_existing_stays_as_long_as_the_text_is_the_same() -> None:
    token = filters.fernet_encrypt("x", RING)
    assert filters.fernet_encrypt("x", RING, existing=token) == token
    assert filters.fernet_encrypt("x", RING) != token
    for existing in (
        filters.fernet_encrypt("y", RING),
        filters.fernet_encrypt("x", OLD),
        token[:-8],
        "",
        "none of them",
        filters.fernet_encrypt("x", Fernet.generate_key().decode()),
    ):
        made = filters.fernet_encrypt("x", RING, existing=existing)
        assert made != existing
        assert filters.fernet_decrypt(made, NEW) == "x"


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: filters.fernet_encrypt("hidden value", "correct-horse"), "fernet_encrypt: the keyring, key 1: this is no Fernet key but 13 characters"),
        (lambda: filters.fernet_encrypt("hidden value", 5), "the key must be a Fernet key, a list of them, or a keyring, not int"),
        (lambda: filters.fernet_encrypt(5, OLD), "only text can be encrypted, not int"),
        (lambda: filters.fernet_decrypt("hidden value", OLD), "fernet_decrypt: this is no Fernet token but 12 characters"),
        (lambda: filters.fernet_decrypt(TOKEN, NEW), "made with another key"),
        (lambda: filters.fernet_decrypt(TOKEN[:-8], OLD), "truncated"),
        (lambda: filters.fernet_rotate(5, OLD), "a token is str or bytes, not int"),
        (lambda: filters.fernet_key_id("correct horse"), "fernet_key_id: this is no Fernet key but 13 characters"),
        (lambda: filters.fernet_token_info("hidden value"), "this is no Fernet token"),
    ],
)
def test_what_is_refused(act: Callable[[], object], message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message) as caught:
        act()
    for hidden in (OLD, NEW, TOKEN, "hidden value", "horse"):
        assert hidden not in str(caught.value)


def test_the_tests() -> None:
    assert tests.fernet_key(OLD)
    assert tests.fernet_token(TOKEN)
    for value in ("correct horse", 5, None, ["x"], TOKEN[:-8]):
        assert not tests.fernet_key(value)
        assert not tests.fernet_token(value)


def lookup(path: Path, **options: Any) -> str:
    """The lookup itself, which needs Ansible for nothing but its options."""
    plugin = LookupModule(loader=DataLoader())
    plugin.set_options = lambda **_given: None  # type: ignore[method-assign]
    plugin.get_option = lambda name: options.get(name, True)  # type: ignore[method-assign]
    return str(plugin.run([str(path)])[0])


def test_the_lookup_generates_once(tmp_path: Path) -> None:
    path = tmp_path / "shop.key"
    with pytest.raises(AnsibleError, match=r"there is no file .*, and create is false"):
        lookup(path, create=False)
    key = lookup(path)
    key_id(key)
    assert lookup(path) == key == path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(AnsibleError, match="every user of the host"):
        lookup(path)
    path.chmod(0o600)
    for damaged in ("", "correct horse battery", key[:-2]):
        path.write_text(damaged)
        with pytest.raises(AnsibleError, match="this is no Fernet key") as caught:
            lookup(path)
        assert not damaged or damaged not in str(caught.value)
        assert path.read_text() == damaged
    with pytest.raises(AnsibleError, match="cannot use the directory"):
        lookup(tmp_path / "missing" / "shop.key")


def test_lookups_at_the_same_time_get_the_same_key(tmp_path: Path) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(lookup(tmp_path / "shop.key"))) for _each in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert len(set(found)) == 1
