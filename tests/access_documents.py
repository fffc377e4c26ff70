# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small policy documents with one thing in them, for tests of what is wrong with it."""

from __future__ import annotations

from typing import Any

Policy = dict[str, Any]


def roles(**declared: Any) -> Policy:
    """A policy of roles alone."""
    return {"roles": declared}


def database(**declared: Any) -> Policy:
    """A policy with the database shop."""
    return {"roles": {"r": {}, "s": {}}, "databases": {"shop": declared}}


def schema(**declared: Any) -> Policy:
    """A policy with the schema app of shop."""
    return database(schemas={"app": declared})


def grant(**declared: Any) -> Policy:
    """A policy with one grant in the schema app of shop."""
    return schema(grants=[{"to": "r", "privileges": ["SELECT"], **declared}])


def default(**declared: Any) -> Policy:
    """A policy with one default privilege in the schema app of shop."""
    return schema(default_privileges=[{"owner": "r", "to": "s", "type": "tables", "privileges": ["SELECT"], **declared}])


IN_APP = "databases.shop.schemas.app"
