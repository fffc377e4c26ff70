# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module fernet_keyring on real files: made once, every step of a rotation, and nothing lost or shown."""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import Key, Keyring, dump_keyring, key_id, parse_keyring
from tests.integration.module import finished, run, started

if TYPE_CHECKING:
    from pathlib import Path

NO_SERVER = SimpleNamespace(login={})


def keyring(path: Path, *, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run the module; no result and no diff of it ever shows a key."""
    secrets = [each["key"] for each in json.loads(path.read_text())["keys"] if "key" in each] if path.exists() and not options.pop("damaged", False) else []
    result = run(NO_SERVER, "fernet_keyring", path=str(path), check=check, diff=True, **options)
    if not result.get("failed"):
        secrets += [each["key"] for each in json.loads(path.read_text())["keys"] if "key" in each] if path.exists() else []
    for secret in secrets:
        assert secret not in json.dumps(result)
    return result


def states(path: Path) -> list[str]:
    return [key.state for key in Keyring.from_file(path).keys]


def step(path: Path, **options: Any) -> dict[str, Any]:
    """A step that changes something: check mode foretells it and touches nothing."""
    before = path.read_bytes() if path.exists() else None
    foretold = keyring(path, check=True, **options)
    assert (path.read_bytes() if path.exists() else None) == before
    done = keyring(path, **options)
    assert not done.get("failed"), done["msg"]
    assert (foretold["changed"], done["changed"]) == (True, True)
    assert [key["state"] for key in foretold["keyring"]] == [key["state"] for key in done["keyring"]] == states(path)
    return done


def unchanged(path: Path, **options: Any) -> None:
    before = path.read_bytes()
    for check in (True, False):
        result = keyring(path, check=check, **options)
        assert result["changed"] is False, result
        assert result["diff"]["before"] == result["diff"]["after"]
    assert path.read_bytes() == before


def refused(path: Path, **options: Any) -> str:
    before = path.read_bytes() if path.exists() else None
    for check in (True, False):
        result = keyring(path, check=check, **options)
        assert result.get("failed"), result
    assert (path.read_bytes() if path.exists() else None) == before
    return str(result["msg"])


def test_made_once(tmp_path: Path) -> None:
    path = tmp_path / "pii.json"
    made = step(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made["diff"]["after"] == f"{made['primary_id']} primary\n"
    assert made["msg"] == "The keyring has 1 primary"
    unchanged(path)
    for damaged in ("", "{}", '{"format": 1, "keys": []}'):
        path.write_text(damaged)
        assert str(path) in refused(path, damaged=True)
    assert "cannot use the directory" in keyring(tmp_path / "missing" / "pii.json")["msg"]
    assert [each.name for each in tmp_path.iterdir()] == ["pii.json"]


def test_check_mode_does_not_name_a_key_that_it_does_not_make(tmp_path: Path) -> None:
    result = keyring(tmp_path / "pii.json", check=True)
    assert result["keyring"][0]["id"] is None
    assert result["primary_id"] is None
    assert result["diff"]["after"] == "(new key) primary\n"


def test_a_whole_rotation(tmp_path: Path) -> None:
    path = tmp_path / "pii.json"
    old = step(path)["primary_id"]
    token = Keyring.from_file(path).encrypt("x")
    step(path, state="staged")
    assert states(path) == ["primary", "staged"]
    unchanged(path, state="staged")
    unchanged(path)
    new = step(path, state="primary")["primary_id"]
    assert states(path) == ["secondary", "primary"]
    assert new != old
    unchanged(path, state="primary")
    unchanged(path, state="primary", key_id=new)
    rotated = Keyring.from_file(path).rotate(token)
    step(path, state="retired")
    unchanged(path, state="retired")
    assert Keyring.from_file(path).decrypt(rotated) == "x"
    step(path, state="secondary", key_id=old)
    assert Keyring.from_file(path).decrypt(token) == "x"
    step(path, state="primary", key_id=old)  # back to the old key
    step(path, state="primary", key_id=new)
    step(path, state="retired", key_id=old)
    step(path, state="destroyed", key_id=old)
    unchanged(path, state="destroyed", key_id=old)
    assert states(path) == ["destroyed", "primary"]
    assert Keyring.from_file(path).decrypt(rotated) == "x"


def test_steps_that_would_lose_a_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pii.json"
    assert "make it first, with state=present" in refused(path, state="staged")
    old = step(path)["primary_id"]
    assert "promote another key" in refused(path, state="retired", key_id=old)
    assert "promote another key" in refused(path, state="destroyed", key_id=old)
    assert "needs key_id" in refused(path, state="destroyed")
    assert f"there is no key {'0' * 16} in the keyring; there are {old} (primary)" in refused(path, state="primary", key_id="0" * 16)
    assert "key_id does not go with state=staged" in refused(path, state="staged", key_id=old)
    assert "content goes with state=present" in refused(path, state="staged", content=path.read_text())
    step(path, state="staged")
    step(path, state="primary")
    assert "retire it first" in refused(path, state="destroyed", key_id=old)
    step(path, state="retired")
    assert "make it secondary first" in refused(path, state="primary", key_id=old)
    step(path, state="destroyed", key_id=old)
    assert "nothing brings it back" in refused(path, state="secondary", key_id=old)


def test_a_keyring_of_the_controller_is_installed(tmp_path: Path) -> None:
    source, path = tmp_path / "source.json", tmp_path / "pii.json"
    keyring(source)
    install = partial(step, path)
    assert install(content=source.read_text())["primary_id"] == Keyring.from_file(source).primary_id
    unchanged(path, content=source.read_text())
    unchanged(path, content=json.loads(source.read_text()))  # as a variable may hold it
    step(source, state="staged")
    install(content=source.read_text())
    assert path.read_text() == source.read_text()
    lost = dump_keyring([Key.generate()])
    assert "what was encrypted with it could not be read any more" in refused(path, content=lost)
    first, second = Keyring.from_file(path).keys
    destroyed = dump_keyring([Key(first.id, "destroyed"), Key.from_secret(str(second.secret), "primary")])
    assert f"destroys the key {first.id}, which is primary here: retire it first" in refused(path, content=destroyed)
    assert "no key of the new keyring is primary" in refused(path, content=dump_keyring([Key.from_secret(str(first.secret), "secondary"), second]))
    message = refused(path, content="correct-horse-battery-staple")
    assert "this is no Fernet key but 28 characters" in message
    assert "correct-horse" not in message


def test_permissions(tmp_path: Path) -> None:
    path = tmp_path / "pii.json"
    group = str(path.parent.stat().st_gid)
    step(path, group=group)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o666)
    assert keyring(path, check=True, group=group)["changed"] is True
    # A process of its own: where the controller's part of Ansible is loaded, warnings go to its display.
    repaired = finished(started(NO_SERVER, "fernet_keyring", {"path": str(path), "group": group}))
    assert repaired["changed"] is True
    assert "Every user of the host could read or write" in str(repaired["warnings"])
    unchanged(path, group=group)
    assert path.stat().st_mode & 0o777 == 0o640
    assert "value of mode must be one of" in refused(path, mode="0644")


def test_runs_at_the_same_time_make_one_keyring(tmp_path: Path) -> None:
    path = tmp_path / "pii.json"
    results = [finished(each) for each in [started(NO_SERVER, "fernet_keyring", {"path": str(path)}) for _each in range(4)]]
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert {result["primary_id"] for result in results} == {key_id(json.loads(path.read_text())["keys"][0]["key"])}


def in_environment(path: Path, variable: str = "ENCRYPTION_KEY") -> list[str]:
    """The keys that a shell finds in an environment file."""
    script = f'set -a; . "$1"; exec printenv {variable}'
    found = subprocess.run(["sh", "-ec", script, "sh", str(path)], capture_output=True, text=True, check=True).stdout.strip()
    return [each.id for each in parse_keyring(found)]


def test_an_environment_file_holds_the_keys_that_read_and_keeps_its_other_lines(tmp_path: Path) -> None:
    source, path = tmp_path / "source.json", tmp_path / "shop.env"
    keyring(source)
    before = "# of the service\nURL='postgresql://db/shop'\nexport ENCRYPTION_KEY_OLD=x"
    path.write_text(before)

    def install(*, changed: bool = True) -> None:
        options = {"variable": "ENCRYPTION_KEY", "content": source.read_text()}
        for check in (True, False):
            result = run(NO_SERVER, "fernet_keyring", path=str(path), check=check, diff=True, **options)
            assert result["changed"] is changed, result
        assert not any(str(key.secret) in json.dumps(result) for key in Keyring.from_file(source).keys)
        if changed:
            install(changed=False)

    install()
    (first,) = Keyring.from_file(source).keys
    assert path.read_text() == f"{before}\nENCRYPTION_KEY={first.secret}\n"
    step(source, state="staged")
    install()
    second = Keyring.from_file(source).keys[1]
    assert in_environment(path) == [first.id, second.id]
    step(source, state="primary")
    install()
    assert in_environment(path) == [second.id, first.id]
    step(source, state="retired")
    install()
    assert in_environment(path) == [second.id]
    quoted = path.read_text().replace(f"ENCRYPTION_KEY={second.secret}", f'export ENCRYPTION_KEY="{second.secret}"')
    path.write_text(quoted)
    install(changed=False)
    assert path.read_text() == quoted
    step(source, state="staged")
    install()
    assert path.read_text().startswith(f"{before}\nexport ENCRYPTION_KEY={second.secret},")


def test_what_an_environment_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    key = Key.generate()
    path = tmp_path / "shop.env"
    for text, options, message in (
        ("", {"variable": "A-B"}, "variable must be the name of an environment variable"),
        ("", {"variable": "K"}, "variable needs state=present and content"),
        ("", {"variable": "K", "state": "staged"}, "variable needs state=present and content"),
        (f"K={key.secret}\nK={key.secret}\n", {"variable": "K", "content": dump_keyring([key])}, "sets K 2 times: leave one line"),
        ("K=passphrase\n", {"variable": "K", "content": dump_keyring([key])}, "K, key 1: this is no Fernet key but 10 characters"),
        (f"K={key.secret}\n", {"variable": "K", "content": dump_keyring([Key.generate()])}, f"lacks the key {key.id}"),
    ):
        path.write_text(text)
        result = run(NO_SERVER, "fernet_keyring", path=str(path), **options)
        assert result.get("failed"), result
        assert message in result["msg"]
        assert path.read_text() == text


@pytest.fixture
def identities(tmp_path: Path) -> list[tuple[Path, str]]:
    """Two identities of age with their public keys."""
    if shutil.which("age-keygen") is None:
        pytest.skip("age is not installed here: install the package age")
    found = []
    for name in ("operators", "elsewhere"):
        path = tmp_path / f"{name}.txt"
        subprocess.run(["age-keygen", "-o", str(path)], check=True, capture_output=True)
        found.append((path, subprocess.run(["age-keygen", "-y", str(path)], check=True, capture_output=True, text=True).stdout.strip()))
    return found


def copied(copy: Path, identity: Path) -> list[tuple[str, str]]:
    """The ids and states of the keys in an escrow copy, read by age."""
    text = subprocess.run(["age", "--decrypt", "--identity", str(identity), str(copy)], check=True, capture_output=True, text=True).stdout
    return [(key.id, key.state) for key in parse_keyring(text)]


def test_an_escrow_copy_has_every_key_before_it_is_used(tmp_path: Path, identities: list[tuple[Path, str]]) -> None:
    path, copy = tmp_path / "pii.json", tmp_path / "pii.age"
    escrow = {"path": str(copy), "recipients": [public for _path, public in identities]}
    step(path, escrow=escrow)
    unchanged(path, escrow=escrow)
    unchanged(path)

    def same() -> None:
        for identity, _public in identities:
            assert copied(copy, identity) == [(key.id, key.state) for key in Keyring.from_file(path).keys]
        note = json.loads((tmp_path / "pii.age.json").read_text())
        assert [(key["id"], key["state"]) for key in note["keys"]] == copied(copy, identities[0][0])
        for secret in (str(key.secret) for key in Keyring.from_file(path).keys if key.secret):
            assert secret not in copy.read_text() + json.dumps(note)

    same()
    for options in ({"state": "staged"}, {"state": "primary"}, {"state": "retired"}):
        step(path, **options)  # without the option
        same()
    for spoil in (copy.unlink, lambda: copy.write_text(copy.read_text()[:-40]), (tmp_path / "pii.age.json").unlink):
        spoil()
        step(path)
        same()
    other = {**escrow, "path": str(tmp_path / "other.age")}
    assert keyring(path, escrow=other)["escrow"] == other
    assert copied(tmp_path / "other.age", identities[0][0])


def test_no_key_is_made_whose_copy_cannot_be(tmp_path: Path, identities: list[tuple[Path, str]]) -> None:
    path, publics = tmp_path / "pii.json", [public for _path, public in identities]
    for recipients, copy, message in (
        (publics[:1], "pii.age", "must name at least two public keys"),
        ([publics[0], publics[0]], "pii.age", "must name at least two public keys"),
        ([publics[0], "correct horse"], "pii.age", "'correct horse' is no public key of age"),
        ([publics[0], f"{publics[1][:-1]}1"], "pii.age", "age made no escrow copy"),
        (publics, "missing/pii.age", "cannot write"),
    ):
        result = keyring(path, escrow={"path": str(tmp_path / copy), "recipients": recipients})
        assert result.get("failed"), result
        assert message in result["msg"], result
        assert not path.exists()
        assert not (tmp_path / "pii.age").exists()
