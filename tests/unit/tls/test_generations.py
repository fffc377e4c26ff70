# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whenever a run ends, the link leads to a whole generation, and the next run can go on."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError
from ansible_collections.bulwark.postgresql.plugins.module_utils.tls import generations

if TYPE_CHECKING:
    from pathlib import Path

ME = (os.geteuid(), os.getegid())
STEPS = ("mkdir", "open", "fsync", "rename", "symlink", "replace", "unlink", "rmdir")


class KilledError(BaseException):
    """The end of the process, at a step that changes something."""


def texts(word: str) -> dict[str, str]:
    """A generation whose files belong together."""
    return {file: f"{word} {file}\n" for file in generations.FILES}


def turn(directory: str, word: str) -> None:
    """What an installation does."""
    generations.make_root(directory, ME)
    generations.switch(directory, generations.add(directory, texts(word), ME))
    generations.prune(directory)


def installed(directory: str) -> str:
    """The word of the generation in use, whose files all have it."""
    found = generations.read_installed(directory)
    assert found is not None
    (word,) = {text.split()[0] for text in found.texts.values()}
    assert set(found.texts) == set(generations.FILES)
    return word


def steps(directory: str, word: str, fatal: int) -> int:
    """Install, and be killed at the given step; how many steps there were."""
    count = 0

    def counted(real: Any) -> Any:
        def step(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                raise KilledError
            return real(*args, **options)

        return step

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KilledError):
        for name in STEPS:
            patch.setattr(os, name, counted(getattr(os, name)))
        turn(directory, word)
    return count


def test_killed_at_every_step(tmp_path: Path) -> None:
    directory = str(tmp_path / "tls")
    turn(directory, "first")
    turn(directory, "second")
    before, fatal = "second", 1
    while steps(directory, f"killed{fatal}", fatal) >= fatal:
        assert installed(directory) in (before, f"killed{fatal}")
        before = f"whole{fatal}"
        turn(directory, before)
        assert installed(directory) == before
        assert len(os.listdir(directory)) == 3
        fatal += 1
    assert fatal > 20
    assert installed(directory) == f"killed{fatal}"


def test_what_is_not_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "current").mkdir()
    with pytest.raises(BulwarkError, match="is not the symbolic link"):
        generations.read_installed(str(tmp_path))


def test_nothing_is_none(tmp_path: Path) -> None:
    assert generations.read_installed(str(tmp_path / "missing")) is None
    (tmp_path / "current").symlink_to("7")
    assert generations.read_installed(str(tmp_path)) is None


def test_files_are_closed_from_the_start(tmp_path: Path) -> None:
    os.umask(0)
    try:
        turn(str(tmp_path / "tls"), "first")
    finally:
        os.umask(0o022)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "tls").rglob("*") if not path.is_symlink()}
    assert modes == {"1": 0o700, **dict.fromkeys(generations.FILES, 0o600)}


@pytest.mark.parametrize(("mode", "problem"), [(0o600, False), (0o400, False), (0o640, os.geteuid() != 0), (0o644, True), (0o660, True)])
def test_modes_of_keys(tmp_path: Path, mode: int, problem: bool) -> None:
    (tmp_path / "key").touch()
    (tmp_path / "key").chmod(mode)
    assert (generations.mode_problem(str(tmp_path / "key")) is not None) is problem
