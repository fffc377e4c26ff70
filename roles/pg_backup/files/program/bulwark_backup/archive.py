# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""archive_command and restore_command.

A file of WAL is stored as NAME-DIGEST.zst[.age], where the digest is that of what it holds: so the same file again is known without
reading what is encrypted, and another content under the same name is refused.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys

from bulwark_backup.config import BackupError, Config
from bulwark_backup.storage import Pipeline, copy, new_file, packing, sync_file, unpacking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SEGMENT = re.compile(r"[0-9A-F]{24}(\.partial)?")
_NAME = re.compile(r"[0-9A-F]{24}(\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history")
_STORED = re.compile(r"(?P<name>[0-9A-F.a-z]+)-(?P<digest>[0-9a-f]{64})\.zst(\.age)?")
_IDENTIFIER = slice(24, 32)  # xlp_sysid of XLogLongPageHeaderData (access/xlog_internal.h), in the byte order of the machine


def folder(config: Config, name: str) -> str:
    """Where a file of WAL is stored: those of one log file (4 GB) together."""
    return config.path("wal", "history" if name.endswith(".history") else name[:16])


def stored(config: Config, name: str) -> list[str]:
    """The stored files of one name; more than one only if somebody has put it there."""
    found = glob.glob(os.path.join(glob.escape(folder(config, name)), f"{name}-*"))
    return sorted(path for path in found if _STORED.fullmatch(os.path.basename(path)))


def archive(config: Config, path: str, name: str) -> None:
    """Store a file of WAL. Returns when it is durable. Raises BackupError, and OSError for a disk that is full or gone."""
    if not _NAME.fullmatch(name):
        raise BackupError(f"{name!r} is no name of a file of WAL")
    with open(path, "rb") as file:
        content = file.read()
    if _SEGMENT.fullmatch(name):
        _check_identity(config, name, content)
    digest = hashlib.sha256(content).hexdigest()
    _sweep(folder(config, name), name)
    for there in stored(config, name):
        if f"-{digest}." not in os.path.basename(there):
            raise BackupError(f"{there} is there with another content: does another cluster archive here, or was this one restored without a new timeline?")
        sync_file(there)
        return
    target = os.path.join(folder(config, name), f"{name}-{digest}{config.suffix}")
    with new_file(target) as file, open(path, "rb") as source, Pipeline(packing(config), source) as pipeline:
        copy(pipeline.output, file)
        pipeline.finish()


def _check_identity(config: Config, name: str, content: bytes) -> None:
    found = str(int.from_bytes(content[_IDENTIFIER], sys.byteorder))
    if found != config.system_identifier:
        raise BackupError(
            f"{name} is of the cluster {found}, and {config.directory} of the cluster {config.system_identifier}: a clone must not archive"
            " into the archive of its original"
        )


def _sweep(directory: str, name: str) -> None:
    """Remove what a killed archiver has left of this file; the server runs one at a time."""
    for path in glob.glob(os.path.join(glob.escape(directory), f".{name}-*.tmp")):
        os.unlink(path)


def fetch(config: Config, name: str, path: str, identity: str | None) -> bool:
    """Bring a file of WAL to a path; False where the archive does not have it. Raises BackupError for one that is damaged."""
    if not _NAME.fullmatch(name):
        return False
    found = stored(config, name)
    if not found:
        return False
    wanted = _STORED.fullmatch(os.path.basename(found[-1]))
    assert wanted is not None
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(found[-1], "rb") as source, open(temporary, "wb") as file, Pipeline(unpacking(found[-1], identity), source) as pipeline:
            _size, digest = copy(pipeline.output, file)
            pipeline.finish()
        if digest != wanted["digest"]:
            raise BackupError(f"{found[-1]} is damaged: its content is not the one that was archived")
        os.rename(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return True


def segments(config: Config) -> Iterator[tuple[str, str]]:
    """Every stored file of WAL: its name and path."""
    for directory in sorted(glob.glob(os.path.join(glob.escape(config.path("wal")), "*"))):
        for entry in sorted(os.listdir(directory)):
            found = _STORED.fullmatch(entry)
            if found:
                yield found["name"], os.path.join(directory, entry)
