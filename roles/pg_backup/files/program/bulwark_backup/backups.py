# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backups that are in the directory: each a folder with a manifest, which is written last, so that a folder without one is not there."""

from __future__ import annotations

import glob
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone

from bulwark_backup.config import BackupError, Config
from bulwark_backup.storage import digest_of, make_directory, sync_directory, write_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

PHYSICAL = "physical"
LOGICAL = "logical"
KINDS = (PHYSICAL, LOGICAL)
_MANIFEST = "manifest.json"
_LABEL = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Stored:
    """A file of a backup. size, sha256: of the file as it is stored. source: the database, or what else is in it."""

    name: str
    size: int
    sha256: str
    source: str


@dataclass(frozen=True)
class Backup:
    """A backup. label: its folder, made of the time at which it began. seconds: how long it took. facts: what only one kind has, such as
    the first and last position of a physical one.
    """

    kind: str
    label: str
    seconds: float
    server_version: str
    system_identifier: str
    files: tuple[Stored, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def began(self) -> datetime:
        """When it began."""
        return datetime.strptime(self.label, _LABEL).replace(tzinfo=timezone.utc)

    @property
    def size(self) -> int:
        """Bytes as they are stored."""
        return sum(file.size for file in self.files)


def label_of(now: datetime) -> str:
    """The label of a backup that begins at a time."""
    return now.astimezone(timezone.utc).strftime(_LABEL)


def folder(config: Config, kind: str, label: str) -> str:
    """The folder of a backup."""
    return config.path(kind, label)


def save(config: Config, backup: Backup) -> None:
    """Write the manifest, by which the backup is there."""
    directory = folder(config, backup.kind, backup.label)
    write_text(os.path.join(directory, _MANIFEST), json.dumps(asdict(backup), indent=1) + "\n")
    sync_directory(os.path.dirname(directory))


def read(config: Config, kind: str, label: str) -> Backup:
    """A backup by its manifest. Raises BackupError where that is damaged."""
    path = os.path.join(folder(config, kind, label), _MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return Backup(**{**data, "files": tuple(Stored(**each) for each in data["files"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackupError(f"{path} is damaged: {error}") from None


def all_backups(config: Config, kind: str) -> list[Backup]:
    """The backups of a kind, the oldest first; folders without a manifest are none. Raises BackupError."""
    try:
        labels = sorted(os.listdir(config.path(kind)))
    except FileNotFoundError:
        return []
    return [read(config, kind, label) for label in labels if os.path.exists(os.path.join(folder(config, kind, label), _MANIFEST))]


def newest_manifest(directory: str) -> dict[str, Any]:
    """The newest manifest in a directory of backups. Raises BackupError where there is none."""
    found = glob.glob(os.path.join(glob.escape(directory), "*", "*", _MANIFEST))
    if not found:
        raise BackupError(f"there is no backup in {directory}")
    newest = max(found, key=lambda path: os.path.basename(os.path.dirname(path)))
    try:
        with open(newest, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError) as error:
        raise BackupError(f"{newest} is damaged: {error}") from None


def remove(config: Config, backup: Backup) -> None:
    """Remove a backup: its manifest first, so that half of it is never taken for a whole one."""
    directory = folder(config, backup.kind, backup.label)
    os.unlink(os.path.join(directory, _MANIFEST))
    sync_directory(directory)
    shutil.rmtree(directory)


def sweep(config: Config, kind: str) -> None:
    """Remove what a job that was killed has left. To be called under the lock."""
    make_directory(config.path(kind))
    for label in os.listdir(config.path(kind)):
        directory = folder(config, kind, label)
        if os.path.isdir(directory) and not os.path.exists(os.path.join(directory, _MANIFEST)):
            shutil.rmtree(directory)


def problems(config: Config, backup: Backup) -> list[str]:
    """What is wrong with the stored files of a backup: missing, truncated, changed."""
    found = []
    for file in backup.files:
        path = os.path.join(folder(config, backup.kind, backup.label), file.name)
        try:
            size, digest = digest_of(path)
        except OSError as error:
            found.append(f"{path}: {error.strerror}")
            continue
        if size != file.size:
            found.append(f"{path}: has {size} bytes, and had {file.size}")
        elif digest != file.sha256:
            found.append(f"{path}: its content has changed")
    return found
