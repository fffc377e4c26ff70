# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a role that makes backups holds, beside its attributes and memberships."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA = "bulwark_backup"
TABLE = "canary"
DATABASE = "postgres"  # where the program asks the server, and where its canary is


@dataclass(frozen=True)
class Wanted:
    """canary: whether the role writes the canary, whose schema and table are its own then, and makes restore points."""

    role: str
    canary: bool


@dataclass(frozen=True)
class Actual:
    """What the server has. unconnected: databases that the role has no right of its own to connect to, in order.

    restore_points: whether it may make them. schema_owner, table_owner: of the canary; None where it is not there.
    """

    unconnected: tuple[str, ...]
    restore_points: bool
    schema_owner: str | None
    table_owner: str | None
