# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are there whole and durable or not at all, compressed by zstd and encrypted by age on their way."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time

from bulwark_backup.config import BackupError, Config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO, Any

_CHUNK = 1 << 20


def make_directory(path: str) -> None:
    """A directory that only its owner can enter, with its name durable in the one above."""
    if not os.path.isdir(path):
        make_directory(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: str) -> None:
    """Make a file and its name durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_directory(os.path.dirname(path))


@contextlib.contextmanager
def new_file(path: str) -> Iterator[Any]:
    """A file to write to that gets its name when it is durable. Raises FileExistsError where the name is taken."""
    directory, name = os.path.split(path)
    make_directory(directory)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        os.unlink(temporary)
    sync_directory(directory)


def write_text(path: str, text: str, mode: int = 0o600) -> None:
    """Replace a file by one with another text."""
    temporary = f"{path}.{os.getpid()}.tmp"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_directory(os.path.dirname(path))


def program(name: str) -> str:
    """The path of a program. Raises BackupError where it is not installed."""
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/local/bin:/usr/bin:/bin")
    if found is None:
        raise BackupError(f"the program {name} is not installed")
    return found


def packing(config: Config) -> list[list[str]]:
    """The commands that a file goes through on its way into the directory."""
    commands = [[program("zstd"), "-q", f"-{config.compression_level}", "-c"]]
    if config.recipients:
        commands.append([program("age"), *(word for recipient in config.recipients for word in ("-r", recipient))])
    return commands


def unpacking(path: str, identity: str | None) -> list[list[str]]:
    """The commands that a stored file goes through on its way out. identity: the file of an age identity. Raises BackupError."""
    commands = []
    if path.endswith(".age"):
        if identity is None:
            raise BackupError(f"{path} is encrypted: name the file of an age identity of one of its recipients with --identity")
        commands.append([program("age"), "-d", "-i", identity])
    commands.append([program("zstd"), "-q", "-d", "-c"])
    return commands


class Pipeline:
    """Commands whose output goes into the next. Every exit status counts. Usable as a context: processes never outlive it."""

    def __init__(self, commands: Sequence[Sequence[str]], source: IO[bytes] | int, environment: dict[str, str] | None = None) -> None:
        self._commands = commands
        self._processes: list[subprocess.Popen[bytes]] = []
        self._errors: list[str] = []
        given: Any = source
        for command in commands:
            process = subprocess.Popen(list(command), stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True)
            if self._processes and given is not None:
                given.close()
            given = process.stdout
            self._processes.append(process)
        self.output: IO[bytes] = given

    @property
    def input(self) -> IO[bytes]:
        """The standard input of the first command, if source was subprocess.PIPE."""
        assert self._processes[0].stdin is not None
        return self._processes[0].stdin

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *unused: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def finish(self, partly: bool = False) -> str:
        """Wait for all; what they wrote to standard error. Raises BackupError for the first that failed, before those whose reader was gone.

        partly: the last command may end before it has read everything.
        """
        said = []
        for process in self._processes:
            assert process.stderr is not None
            said.append(process.stderr.read().decode(errors="replace"))
            process.wait()
        failed = [each for each in zip(self._commands, self._processes, said) if each[1].returncode]
        if partly and not self._processes[-1].returncode:
            failed = [each for each in failed if each[1].returncode != -signal.SIGPIPE]
        for command, process, text in sorted(failed, key=lambda each: each[1].returncode == -signal.SIGPIPE):
            reason = " ".join(text.split()[-60:]) or "no message"
            raise BackupError(f"{os.path.basename(command[0])} failed with status {process.returncode}: {reason}")
        return "".join(said)


def copy(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    """Copy to the end; returns the number of bytes and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    while True:
        chunk = source.read(_CHUNK)
        if not chunk:
            return size, digest.hexdigest()
        digest.update(chunk)
        size += len(chunk)
        target.write(chunk)


def digest_of(path: str) -> tuple[int, str]:
    """Size and SHA-256 of a file."""
    with open(path, "rb") as file, open(os.devnull, "wb") as nowhere:
        return copy(file, nowhere)


@contextlib.contextmanager
def locked(config: Config, wait: float | None = None) -> Iterator[None]:
    """One job at a time: backup, expiry and drill. Raises BackupError if another one goes on for longer than the wait (seconds)."""
    limit = time.monotonic() + (config.lock_wait if wait is None else wait)
    handle = os.open(config.path("lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            if time.monotonic() > limit:
                raise BackupError(f"another job has held {config.path('lock')} for too long: this one has done nothing")
            time.sleep(0.2)
        yield
    finally:
        os.close(handle)
