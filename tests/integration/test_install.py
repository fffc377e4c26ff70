# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of a server's configuration become true together, or files, settings and what is loaded are as they were."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import database, install
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server


def connected(server: Server) -> database.Server:
    """The engine's own way in."""
    return database.Server(database.connection_parameters(server.login), "postgres")


def fail() -> None:
    raise BulwarkError("the proof failed")


def steps(server: Server) -> list[install.Step]:
    """A file that is there, one that is not, one that goes, and a statement."""
    texts = {"work_mem.conf": "work_mem = '11MB'\n", "new.conf": "maintenance_work_mem = '33MB'\n", "gone.conf": None}
    files = [install.FileText(str(server.data / "conf.d" / name), text, old(server, name)) for name, text in texts.items()]
    return [*files, install.Statement("ALTER SYSTEM SET temp_buffers = '11MB'", "ALTER SYSTEM RESET temp_buffers")]


def old(server: Server, name: str) -> str | None:
    path = server.data / "conf.d" / name
    return path.read_text(encoding="utf-8") if path.exists() else None


@pytest.fixture
def configured(mine: Server) -> Server:
    """A server with an include_dir and two files in it."""
    directory = mine.data / "conf.d"
    if not directory.exists():
        directory.mkdir()
        with (mine.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write("include_dir 'conf.d'\n")
    for path in directory.iterdir():
        path.unlink()
    (directory / "work_mem.conf").write_text("work_mem = '5MB'\n", encoding="utf-8")
    (directory / "gone.conf").write_text("maintenance_work_mem = '22MB'\n", encoding="utf-8")
    account = mine.data.stat()
    for path in (directory, *directory.iterdir()):
        if os.geteuid() == 0:
            os.chown(path, account.st_uid, account.st_gid)
    mine.psql("SELECT pg_reload_conf(), pg_sleep(0.1)")
    return mine


def shown(server: Server) -> list[str]:
    return [server.psql(f"SHOW {name}") for name in ("work_mem", "maintenance_work_mem", "temp_buffers")]


def contents(server: Server) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (server.data / "conf.d").iterdir()}


def test_everything_is_true_together_or_as_it_was(configured: Server) -> None:
    before, files = shown(configured), contents(configured)
    server = connected(configured)

    def refuse(_session: database.Database) -> None:
        raise BulwarkError("the check failed")

    for wrong in (install.Installation(steps(configured), fail, "as before"), install.Installation(steps(configured), lambda: None, "as before", refuse)):
        with pytest.raises(BulwarkError, match=r"the (proof|check) failed; as before"):
            install.install(server, wrong)
        assert (shown(configured), contents(configured)) == (before, files)
    install.install(server, install.Installation(steps(configured), lambda: None, "as before"))
    assert shown(configured) == ["11MB", "33MB", "11MB"]
    assert sorted(contents(configured)) == ["new.conf", "work_mem.conf"]
    configured.psql("ALTER SYSTEM RESET temp_buffers; SELECT pg_reload_conf()")


def test_a_later_change_that_cannot_be_made_undoes_the_earlier_ones(configured: Server, tmp_path: Path) -> None:
    before, files = shown(configured), contents(configured)
    missing = install.FileText(str(tmp_path / "no" / "file"), "text", None)
    with pytest.raises(BulwarkError, match=r"cannot write .*; as before"):
        install.install(connected(configured), install.Installation([*steps(configured), missing], lambda: None, "as before"))
    assert (shown(configured), contents(configured)) == (before, files)


def test_a_disk_that_fills_up_meanwhile_keeps_nothing_from_being_undone(configured: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full disk is a mock: a real one would fill up at no chosen moment."""
    before, files = shown(configured), contents(configured)

    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def prove() -> None:
        monkeypatch.setattr(tempfile, "mkstemp", full)
        fail()

    with pytest.raises(BulwarkError, match=r"^the proof failed; as before$"):
        install.install(connected(configured), install.Installation(steps(configured), prove, "as before"))
    assert (shown(configured), contents(configured)) == (before, files)


def test_a_file_that_somebody_else_has_changed_meanwhile_is_left_alone(configured: Server) -> None:
    planned = steps(configured)
    (configured.data / "conf.d" / "gone.conf").write_text("maintenance_work_mem = '44MB'\n", encoding="utf-8")
    files = contents(configured)
    with pytest.raises(BulwarkError, match="changed by somebody else"):
        install.install(connected(configured), install.Installation(planned, lambda: None, "as before"))
    assert contents(configured) == files


def test_two_runs_do_not_interleave(configured: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "_LOCK_TIMEOUT", 1)
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert leave.wait(20)

    first = threading.Thread(target=install.install, args=(connected(configured), install.Installation(steps(configured), hold, "")))
    first.start()
    try:
        assert entered.wait(20)
        with pytest.raises(BulwarkError, match="another run has been changing"):
            install.install(connected(configured), install.Installation((), lambda: None, ""))
    finally:
        leave.set()
        first.join()
    install.install(connected(configured), install.Installation((), lambda: None, ""))
