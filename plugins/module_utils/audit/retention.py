# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the records of a partition to a file before it is dropped: CSV, compressed by zstd, with its SHA-256 beside it.

The file has its name only when all of it is on the disk and has been read back. A run that is killed leaves nothing that another one would
take for an export, and a second export of the same records finds the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from typing import IO, TYPE_CHECKING, Any

from ..core.errors import BulwarkError
from ..core.files import sync_directory, write_text
from ..core.statements import compose, identifier

if TYPE_CHECKING:
    from ..core.database import Database

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


def export(session: Database, schema: str, partition: str, directory: str) -> int:
    """Write the records of a partition to DIRECTORY/DATABASE.SCHEMA.PARTITION.csv.zst; returns how many there are.

    Raises BulwarkError where it cannot be written, or where a file of that name holds other records. Nothing is left half-written.
    """
    name = f"{session.name}.{schema}.{partition}.csv.zst".replace("/", "_")
    path = os.path.join(directory, name)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{name}.new-", dir=directory)
        with open(handle, "wb") as file:
            rows, digest = _compress(session, schema, partition, file)
            file.flush()
            os.fsync(file.fileno())
        if _content_digest(temporary) != digest:
            raise BulwarkError(f"{path}: what was written is not what was read back; nothing was dropped")
        if not os.path.exists(path):
            os.replace(temporary, path)
        elif _content_digest(path) != digest:
            raise BulwarkError(f"{path} is there already and holds other records: move it away; nothing was dropped")
        write_text(f"{path}.sha256", f"{_file_digest(path)}  {name}\n")
        sync_directory(directory)
    except OSError as error:
        raise BulwarkError(f"cannot write {path}: {error.strerror}; nothing was dropped") from None
    else:
        return rows
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _compress(session: Database, schema: str, partition: str, file: IO[bytes]) -> tuple[int, str]:
    """Copy the records in their order through zstd; returns how many there are and the digest of what they are before it."""
    query = compose("COPY (SELECT * FROM {} ORDER BY id) TO STDOUT WITH (FORMAT csv, HEADER)", identifier(schema, partition))
    rows, digest = 0, ""
    ends = os.pipe()
    compressor = _Program(["zstd", "-q", "-c"], ends[0], stdin=ends[0], stdout=file)
    with contextlib.suppress(BrokenPipeError), open(ends[1], "wb") as pipe:  # zstd says why it has stopped
        sink = _Digesting(pipe)
        rows = session.copy_out(query, sink)
        digest = sink.digest.hexdigest()
    complaint = compressor.wait()
    if complaint is not None:
        raise BulwarkError(f"zstd could not write the records of {schema}.{partition}: {complaint}; nothing was dropped")
    return rows, digest


class _Program:
    """A program that runs beside this one, at the other end of a pipe, which is closed when it ends."""

    def __init__(self, command: list[str], end: int, **streams: Any) -> None:
        self._done: subprocess.CompletedProcess[bytes] | None = None

        def work() -> None:
            try:
                self._done = subprocess.run(command, stderr=subprocess.PIPE, check=False, **streams)
            finally:
                os.close(end)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def wait(self) -> str | None:
        """None where it succeeded, else what it said."""
        self._thread.join()
        if self._done is None:
            return "it could not be started"
        return (
            None
            if self._done.returncode == 0
            else self._done.stderr.decode(errors="replace").strip() or f"exit code {self._done.returncode}"
        )


class _Digesting:
    """A file that passes on what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Pass on and count in."""
        self.digest.update(data)
        return self._file.write(data)


def _content_digest(path: str) -> str | None:
    """The digest of what a compressed file holds, None where it is no such file or damaged."""
    digest = hashlib.sha256()
    ends = os.pipe()
    reader = _Program(["zstd", "-q", "-d", "-c", path], ends[1], stdout=ends[1])
    with open(ends[0], "rb") as pipe:
        for chunk in iter(lambda: pipe.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest() if reader.wait() is None else None


def _file_digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()
