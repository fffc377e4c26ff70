# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what the role of backups holds, plans what is missing, and grants it in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.plan import Patience, Plan, apply_planned
from .catalog import read
from .model import DATABASE
from .reconcile import reconcile

if TYPE_CHECKING:
    from ..core.database import Server
    from .model import Wanted


def plan(server: Server, wanted: Wanted) -> Plan:
    """What is missing."""
    with server.connect(DATABASE) as database, database.reading():
        return reconcile(wanted, read(database, wanted.role))


def apply(server: Server, wanted: Wanted, planned: Plan, patience: Patience) -> int:
    """Grant it; returns how often that was tried again. Raises BulwarkError."""
    with server.connect(DATABASE) as database:
        return apply_planned(database, planned, lambda: reconcile(wanted, read(database, wanted.role)), patience)
