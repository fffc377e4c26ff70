# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's certificate, key, authorities and revocation list as one generation: a directory, and a link that is moved as one step.

DIRECTORY/7/server.crt  server.key  ca.crt  ca.crl
DIRECTORY/current -> 7
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from typing import TYPE_CHECKING

from ..core.errors import BulwarkError
from ..core.files import give, read_text, sync_directory
from .model import Installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CERTIFICATE, KEY, AUTHORITIES, LISTS = "server.crt", "server.key", "ca.crt", "ca.crl"
FILES = (CERTIFICATE, KEY, AUTHORITIES, LISTS)
LINK = "current"
STAGED = "staged.key"  # a key that waits for its certificate
_UNFINISHED = ".unfinished-"
_KEPT = 2  # generations


def read_installed(directory: str) -> Installed | None:
    """What the link leads to; None where there is nothing, or nothing whole. Raises BulwarkError for what is not ours."""
    link = os.path.join(directory, LINK)
    try:
        name = os.readlink(link)
        since = os.lstat(link).st_mtime
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BulwarkError(f"{link} is not the symbolic link that it should be: {error.strerror}; move it away") from None
    texts = {file: read_text(os.path.join(link, file)) for file in FILES}
    if texts[CERTIFICATE] is None or texts[KEY] is None:
        return None
    found = {file: text for file, text in texts.items() if text is not None}
    return Installed(name, since, found, mode_problem(os.path.join(link, KEY)))


def mode_problem(path: str) -> str | None:
    """Why PostgreSQL would not take a file with a key for its mode, or None."""
    found = os.stat(path)
    mode = stat.S_IMODE(found.st_mode)
    # Debian's layout: root owns the key, and a group of the server's account may read it.
    allowed = 0o640 if found.st_uid == 0 else 0o600
    return f"has the mode {mode:04o}: others could read it; {allowed:04o} is the widest" if mode & ~(allowed | 0o100) else None


def make_root(directory: str, owner: tuple[int, int]) -> None:
    """Make the directory itself, if it is missing, for its owner alone."""
    if os.path.isdir(directory):
        return
    with _os_errors(f"cannot make the directory {directory}"):
        os.mkdir(directory, 0o700)
        _give(directory, owner)
        sync_directory(os.path.dirname(directory))


def add(directory: str, texts: Mapping[str, str], owner: tuple[int, int]) -> str:
    """Write a new generation, which nobody uses yet; its name. A crash leaves a directory that prune() removes."""
    with _os_errors(f"cannot write a new generation in {directory}"):
        scratch = tempfile.mkdtemp(prefix=_UNFINISHED, dir=directory)  # mode 0700
        for file, text in texts.items():
            path = os.path.join(scratch, file)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="ascii") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(handle)
            _give(path, owner)
        _give(scratch, owner)
        sync_directory(scratch)
        name = str(max((int(each) for each in _numbered(directory)), default=0) + 1)
        os.rename(scratch, os.path.join(directory, name))
        sync_directory(directory)
    return name


def switch(directory: str, name: str | None) -> None:
    """Let the link lead to a generation, as one step; None takes it away."""
    link = os.path.join(directory, LINK)
    with _os_errors(f"cannot move {link}"):
        if name is None:
            os.unlink(link)
        else:
            new = os.path.join(directory, f".{LINK}.new")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            os.symlink(name, new)
            os.replace(new, link)
        sync_directory(directory)


def discard(directory: str, name: str) -> None:
    """Remove a generation that is not to be used after all, unless the link leads to it."""
    link = os.path.join(directory, LINK)
    if not (os.path.islink(link) and os.readlink(link) == name):
        shutil.rmtree(os.path.join(directory, name), ignore_errors=True)


def prune(directory: str) -> None:
    """Remove what is unfinished, and all generations but the one in use and the newest others."""
    with _os_errors(f"cannot remove old generations in {directory}"):
        used = os.readlink(os.path.join(directory, LINK))
        older = sorted((each for each in _numbered(directory) if each != used), key=int, reverse=True)
        doomed = older[_KEPT - 1 :] + [each for each in os.listdir(directory) if each.startswith(_UNFINISHED)]
        for each in doomed:
            shutil.rmtree(os.path.join(directory, each))


def remove_root(directory: str) -> None:
    """Remove the directory with all generations; the keys in it first."""
    with _os_errors(f"cannot remove {directory}"):
        for place, _directories, names in os.walk(directory):
            for name in names:
                if name in (KEY, STAGED):
                    os.unlink(os.path.join(place, name))
        shutil.rmtree(directory)


def _numbered(directory: str) -> list[str]:
    return [each for each in os.listdir(directory) if each.isascii() and each.isdigit()]


def _give(path: str, owner: tuple[int, int]) -> None:
    """Root gives a file to the server's account; that account has it already."""
    if os.geteuid() == 0:
        give(path, owner)


@contextlib.contextmanager
def _os_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BulwarkError(f"{what}: {error.strerror}") from None
