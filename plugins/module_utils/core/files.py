# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's configuration files: written whole or not at all, and put back where the server does not take them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from typing import TYPE_CHECKING

from .errors import BulwarkError

if TYPE_CHECKING:
    from .database import Database, Server

_NEW = ".new-"  # between the name of a file and what makes its temporary name unique
_LEFT_BEHIND = 3600  # seconds after which a temporary file is nobody's: a run that was killed has left it

_PAUSE = 0.02  # seconds between two looks at the time of the last reload


def read_text(path: str) -> str | None:
    """The text of a file, None where there is none. Bytes that are not UTF-8 survive a reading and a writing.

    Raises BulwarkError where the file may not be read.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BulwarkError(f"cannot read {path}: {error.strerror}") from None


def write_text(path: str, text: str, mode: int = 0o600) -> None:
    """Replace a file as one step that a crash cannot halve: temporary file beside it, fsync, rename, fsync of the directory.

    An existing file keeps its owner, group and mode; a new one gets `mode`. A symbolic link stays, its target is replaced.
    Raises BulwarkError that names the file; what was there is then untouched.
    """
    target = os.path.realpath(path)
    _check_link(path, target)
    directory, name = os.path.split(target)
    temporary: str | None = None
    try:
        # The leading dot keeps an include_dir from reading it, should it be left behind.
        handle, temporary = tempfile.mkstemp(prefix=f".{name}{_NEW}", dir=directory)
        with open(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
            file.flush()
            _like_the_old(file.fileno(), target, mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _remove_leftovers(directory, f".{name}{_NEW}")
        sync_directory(directory)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise BulwarkError(f"cannot write {path}: {error.strerror}; the file is as it was") from None


def _check_link(path: str, target: str) -> None:
    """Root follows no link to a file of somebody else than the owner of the directory that the link is in. Raises BulwarkError."""
    if os.geteuid() != 0 or not os.path.islink(path):
        return
    with contextlib.suppress(FileNotFoundError):
        owner, theirs = os.stat(os.path.dirname(os.path.abspath(path))).st_uid, os.stat(target).st_uid
        if owner not in (0, theirs):
            raise BulwarkError(
                f"cannot write {path}: it is a link to {target}, which belongs to another account than the directory of the link"
            )


def _like_the_old(handle: int, target: str, mode: int) -> None:
    """Give a new file the owner, group and mode of the one it replaces; without one, root gives it to the owner of the directory."""
    try:
        old = os.stat(target)
        mode = stat.S_IMODE(old.st_mode)
    except FileNotFoundError:
        old = os.stat(os.path.dirname(target))
        if os.geteuid() != 0:
            os.fchmod(handle, mode)
            return
    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
        os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, mode)


def _remove_leftovers(directory: str, prefix: str) -> None:
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if name.startswith(prefix) and os.lstat(path).st_mtime < time.time() - _LEFT_BEHIND:
            os.unlink(path)


def keep(path: str) -> str | None:
    """Give a file a second name beside it, by which put_back() undoes a change without any room on the disk. Returns that name.

    None where there is no file, or its file system has no hard links.
    """
    target = os.path.realpath(path)
    directory, name = os.path.split(target)
    kept = os.path.join(directory, f".{name}.kept")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept)  # of a run that was killed
        os.link(target, kept, follow_symlinks=False)
    except OSError:
        return None
    return kept


def put_back(kept: str, path: str) -> None:
    """Undo what has happened to a file since keep(). Raises BulwarkError."""
    target = os.path.realpath(path)
    try:
        os.replace(kept, target)
        # Where both names were still those of one file, the second has stayed.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(kept)
        sync_directory(os.path.dirname(target))
    except OSError as error:
        raise BulwarkError(f"cannot put {path} back, which is kept as {kept}: {error.strerror}") from None


def give(path: str, owner: tuple[int, int]) -> None:
    """Root gives a file or directory that it has just made to an account, which may own the directory that it is in.

    No link is followed that the account may have put in its place meanwhile. Raises OSError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(handle)
        if (found.st_uid, found.st_gid) == owner:
            return
        if found.st_uid != os.geteuid() or (not stat.S_ISDIR(found.st_mode) and found.st_nlink != 1):
            raise OSError(errno.EPERM, "somebody has put another file in its place")
        os.fchown(handle, *owner)
    finally:
        os.close(handle)


def shared_mode(directory: str, mode: int) -> int:
    """A mode for something new in a directory that its group may read and others may not, as initdb -g makes it: as readable as that."""
    try:
        of_directory = stat.S_IMODE(os.stat(directory).st_mode)
    except OSError:
        return mode
    return mode | (mode >> 3 & 0o050) if of_directory & 0o057 == 0o050 else mode


def make_directory(path: str, mode: int = 0o700) -> None:
    """Make a directory if it is missing; root gives it to the owner of the one it is in."""
    if os.path.isdir(path):
        return
    try:
        os.mkdir(path, mode)
        above = os.stat(os.path.dirname(path))
        if os.geteuid() == 0:
            give(path, (above.st_uid, above.st_gid))
        sync_directory(os.path.dirname(path))
    except OSError as error:
        raise BulwarkError(f"cannot make the directory {path}: {error.strerror}") from None


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: str) -> None:
    """Remove a file if it is there."""
    try:
        os.unlink(path)
        sync_directory(os.path.dirname(os.path.realpath(path)))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BulwarkError(f"cannot remove {path}: {error.strerror}") from None


def reload(server: Server, database: Database, timeout: float = 10.0, *, recovering: bool = False) -> None:
    """Have the server read its files again, and wait until sessions that begin now see them.

    recovering: what is loaded now may keep new sessions out, so they are tried until they are accepted. Raises BulwarkError where the
    server does not
    do it within `timeout` seconds, or, unless recovering, where a new session is refused.
    """
    before = database.value("SELECT pg_catalog.clock_timestamp()")
    if not database.value("SELECT pg_catalog.pg_reload_conf()"):
        raise BulwarkError(
            "the server could not be made to reload its configuration (pg_reload_conf() returned false; see the server's log)"
        )
    deadline = time.monotonic() + timeout
    refused = ""
    while True:
        try:
            # The postmaster reads first and gives what it read to the sessions that it starts.
            with server.connect() as session:
                if session.value("SELECT pg_catalog.pg_conf_load_time() > %(before)s", {"before": before}):
                    return
        except BulwarkError as error:
            if not recovering:
                raise BulwarkError(f"after the reload a new connection was refused: {error}") from None
            refused = f" ({error})"
        if time.monotonic() > deadline:
            raise BulwarkError(f"the server has not reloaded its configuration within {timeout:g} s; see its log{refused}")
        time.sleep(_PAUSE)
