# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files are replaced whole and keep what they were."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import files
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError

if TYPE_CHECKING:
    from pathlib import Path


def names(directory: Path) -> list[str]:
    """What lies in a directory."""
    return sorted(os.listdir(directory))


def test_a_new_file_has_the_mode_from_the_start(tmp_path: Path) -> None:
    files.write_text(str(tmp_path / "key"), "secret\n", 0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert names(tmp_path) == ["key"]


def test_an_existing_file_keeps_its_mode_and_what_is_no_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "pg_hba.conf"
    path.write_bytes(b"# caf\xe9\r\nlocal all all peer\n")
    path.chmod(0o640)
    text = files.read_text(str(path))
    assert text is not None
    files.write_text(str(path), text + "# more\n", 0o600)
    assert path.read_bytes() == b"# caf\xe9\r\nlocal all all peer\n# more\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "conf").write_text("a", encoding="utf-8")
    (tmp_path / "conf").symlink_to("real/conf")
    files.write_text(str(tmp_path / "conf"), "b")
    assert (tmp_path / "conf").is_symlink()
    assert (tmp_path / "real" / "conf").read_text(encoding="utf-8") == "b"


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert files.read_text(str(tmp_path / "missing")) is None


def test_a_directory_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(BulwarkError, match=r"cannot read .*: Is a directory"):
        files.read_text(str(tmp_path))
    with pytest.raises(BulwarkError, match=r"cannot write .*missing/conf: No such file or directory"):
        files.write_text(str(tmp_path / "missing" / "conf"), "x")


def test_what_a_killed_run_left_behind_goes_after_a_while(tmp_path: Path) -> None:
    for name in (".file.new-killed", ".file.new-running", ".file.previous", ".other.new-killed"):
        (tmp_path / name).touch()
        if name != ".file.new-running":
            os.utime(tmp_path / name, (0, 0))
    files.write_text(str(tmp_path / "file"), "new")
    assert names(tmp_path) == [".file.new-running", ".file.previous", ".other.new-killed", "file"]


AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")


def steal(monkeypatch: pytest.MonkeyPatch, directory: Path, target: Path) -> None:
    """The account that has the directory puts a link in the place of what root has just made in it."""
    mkdir = os.mkdir

    def raced(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        os.rmdir(path)
        os.symlink(target, path)

    os.chown(directory, 65534, 65534)
    monkeypatch.setattr(os, "mkdir", raced)


@AS_ROOT
def test_root_gives_nothing_that_a_link_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    steal(monkeypatch, theirs, victim)
    with pytest.raises(BulwarkError, match="cannot make the directory"):
        files.make_directory(str(theirs / "conf.d"))
    assert victim.stat().st_uid == 0


@AS_ROOT
def test_root_gives_only_what_it_has_made(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x", encoding="utf-8")
    os.link(secret, tmp_path / "link")
    with pytest.raises(OSError, match="put another file in its place"):
        files.give(str(tmp_path / "link"), (65534, 65534))
    assert secret.stat().st_uid == 0
    alone = tmp_path / "alone"
    alone.write_text("x", encoding="utf-8")
    for _again in range(2):
        files.give(str(alone), (65534, 65534))
    assert (alone.stat().st_uid, alone.stat().st_gid) == (65534, 65534)


@AS_ROOT
def test_root_writes_no_file_of_another_account_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("root's own", encoding="utf-8")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "bulwark.conf").symlink_to(victim)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(BulwarkError, match=r"it is a link to .*victim, which belongs to another account"):
        files.write_text(str(theirs / "bulwark.conf"), "x")
    assert victim.read_text(encoding="utf-8") == "root's own"
    os.chown(victim, 65534, 65534)
    files.write_text(str(theirs / "bulwark.conf"), "x")
    assert victim.read_text(encoding="utf-8") == "x"


@pytest.mark.parametrize(("directory", "mode", "expected"), [(0o750, 0o700, 0o750), (0o750, 0o600, 0o640), (0o700, 0o600, 0o600), (0o755, 0o600, 0o600)])
def test_what_is_new_is_as_readable_for_a_group_as_its_directory(tmp_path: Path, directory: int, mode: int, expected: int) -> None:
    tmp_path.chmod(directory)
    assert files.shared_mode(str(tmp_path), mode) == expected
