# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the program is told: one JSON file, which the role writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass, field, fields


class BackupError(Exception):
    """An error whose text tells the operator what happened and what to do."""


@dataclass(frozen=True)
class Keep:
    """What is kept of a kind of backup: the newest `count`, all that are younger than `days`, and never fewer than `minimum`."""

    count: int = 0
    days: float = 0
    minimum: int = 1


@dataclass(frozen=True)
class Config:
    """The configuration of one cluster.

    directory: where the backups are. recipients: age public keys, none for no encryption. host, port: of the server. user: the role that
    backups are made by. administrator: a superuser, for restores and drills only.
    bin_directory: that of the server's programs. databases: those that are dumped, none for all. data_directory: of the server.
    metrics_file: for Prometheus' textfile collector, or empty. scratch: the directory that drills restore into. drill_days: the last good
    drill of each kind that is kept may be so many days old; 0 for no promise. service: the unit of systemd that runs the
    server, or empty.
    """

    directory: str
    data_directory: str
    system_identifier: str
    recipients: tuple[str, ...] = ()
    host: str = "/var/run/postgresql"
    port: int = 5432
    user: str = "postgres"
    administrator: str = "postgres"
    bin_directory: str = "/usr/bin"
    databases: tuple[str, ...] = ()
    keep: dict[str, Keep] = field(default_factory=dict)
    compression_level: int = 1
    metrics_file: str = ""
    lock_wait: float = 3600
    scratch: str = "/var/tmp/bulwark-drill"
    drill_days: float = 0
    service: str = ""

    def path(self, *parts: str) -> str:
        """A path below the directory."""
        return os.path.join(self.directory, *parts)

    def program(self, name: str) -> str:
        """One of PostgreSQL's programs, of the server's own version."""
        return os.path.join(self.bin_directory, name)

    @property
    def suffix(self) -> str:
        """How the names of stored files end."""
        return ".zst.age" if self.recipients else ".zst"


def of_directory(directory: str, manifest: dict[str, str]) -> Config:
    """The configuration of a host that has a directory of backups and nothing else. manifest: of the newest backup there.

    Raises BackupError where PostgreSQL of that major version is not installed.
    """
    major = manifest["server_version"].split(".")[0].split("rc")[0].split("beta")[0]
    places = [f"/usr/lib/postgresql/{major}/bin", f"/usr/pgsql-{major}/bin", *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    for place in places:
        server = os.path.join(place, "postgres")
        if os.path.exists(server) and re.search(rf"\b{major}\b", subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout):
            return Config(directory, "", manifest["system_identifier"], bin_directory=place)
    raise BackupError(f"PostgreSQL {major}, whose backups are in {directory}, is not installed here")


def load(path: str) -> Config:
    """Read the configuration. Raises BackupError."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise BackupError(f"cannot read the configuration {path}: {error}") from None
    known = {each.name for each in fields(Config)}
    unknown = sorted(set(data) - known)
    missing = sorted({"directory", "data_directory", "system_identifier"} - set(data))
    if unknown or missing:
        raise BackupError(f"{path}: " + "; ".join([*(f"{name} is unknown" for name in unknown), *(f"{name} is missing" for name in missing)]))
    keep = {kind: Keep(**given) for kind, given in data.pop("keep", {}).items()}
    for name in ("recipients", "databases"):
        data[name] = tuple(data.get(name, ()))
    return Config(**data, keep=keep)
