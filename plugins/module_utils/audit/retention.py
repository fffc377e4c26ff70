# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the records of a partition to a file before it is dropped: CSV, compressed by zstd, with its SHA-256 beside it.

The file has its name only when all of it is on the disk and has been read back. A run that is killed leaves nothing that another one would
take for an export, and a second export of the same records finds the first. The directory has room for the records uncompressed, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING, Callable

from ..core.errors import BulwarkError
from ..core.files import sync_directory, write_text
from ..core.statements import compose, identifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..core.database import Database

RunCommand = Callable[["list[str]"], "tuple[int, str]"]  # returns the exit code and what the program says of an error

_CHUNK = 1 << 20  # bytes


def check_directory(directory: str) -> None:
    """Raise BulwarkError where nothing could be exported to the directory."""
    if not os.path.isdir(directory) or not os.access(directory, os.W_OK | os.X_OK):
        raise BulwarkError(
            f"the directory {directory} for old records of the audit log is not there, or may not be written to by this user"
        )
    if shutil.which("zstd") is None:
        raise BulwarkError(
            "old records of the audit log are compressed by zstd, which is not installed on this host: install the package zstd"
        )


def export(session: Database, schema: str, partition: str, directory: str, run_command: RunCommand) -> int:
    """Write the records of a partition to DIRECTORY/DATABASE.SCHEMA.PARTITION.csv.zst; returns how many there are.

    Raises BulwarkError where it cannot be written, or where a file of that name holds other records. Nothing is left half-written.
    """
    name = f"{session.name}.{schema}.{partition}.csv.zst".replace("/", "_")
    path = os.path.join(directory, name)
    with _scratch(directory, path) as scratch:
        plain, packed = os.path.join(scratch, "records.csv"), os.path.join(scratch, name)
        query = compose("COPY (SELECT * FROM {} ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)", identifier(schema, partition))
        with open(plain, "wb") as file:
            rows = session.copy_out(query, file)
        digest = _digest(plain)
        problem = _zstd(run_command, "-o", packed, plain)
        if problem is not None:
            raise BulwarkError(f"zstd could not write the records of {schema}.{partition}: {problem}; nothing was dropped")
        if _content_digest(packed, plain, run_command) != digest:
            raise BulwarkError(f"{path}: what was written is not what was read back; nothing was dropped")
        if not os.path.exists(path):
            with open(packed, "rb") as file:
                os.fsync(file.fileno())
            os.replace(packed, path)
        elif _content_digest(path, plain, run_command) != digest:
            raise BulwarkError(f"{path} is there already and holds other records: move it away; nothing was dropped")
        write_text(f"{path}.sha256", f"{_digest(path)}  {name}\n")
        sync_directory(directory)
        return rows


@contextlib.contextmanager
def _scratch(directory: str, path: str) -> Iterator[str]:
    """A directory beside the file, of which nothing is left. Raises BulwarkError that names the file where the disk does not do."""
    made = None
    try:
        made = tempfile.mkdtemp(prefix=".audit-", dir=directory)
        yield made
    except OSError as error:
        raise BulwarkError(f"cannot write {path}: {error.strerror}; nothing was dropped") from None
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _zstd(run_command: RunCommand, *arguments: str) -> str | None:
    """What zstd complains about, None where it succeeds."""
    code, complaint = run_command(["zstd", "-q", "-f", *arguments])
    return None if code == 0 else complaint.strip() or f"exit code {code}"


def _content_digest(path: str, scratch: str, run_command: RunCommand) -> str | None:
    """The digest of what a compressed file holds, None where it is no such file or damaged. scratch: a file to be overwritten."""
    os.truncate(scratch, 0)
    return _digest(scratch) if _zstd(run_command, "-d", "-o", scratch, path) is None else None


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()
