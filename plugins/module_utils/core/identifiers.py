# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of roles, databases, schemas and objects: which ones PostgreSQL can hold."""

from __future__ import annotations

MAX_BYTES = 63  # NAMEDATALEN - 1 in every ordinary build


def text_problem(text: str) -> str | None:
    """Why PostgreSQL cannot hold the text, or None."""
    if "\0" in text:
        return "must not hold the character NUL"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "must be valid Unicode"
    return None


def name_problem(name: str) -> str | None:
    """Why PostgreSQL cannot hold the name as it is, or None. Any other character is fine; statements quote every name."""
    if not name:
        return "a name must not be empty"
    problem = text_problem(name)
    if problem:
        return problem
    length = len(name.encode("utf-8"))
    if length > MAX_BYTES:
        return f"a name may have {MAX_BYTES} bytes, this one has {length}; PostgreSQL would truncate it"
    return None


def role_name_problem(name: str) -> str | None:
    """As name_problem, for the name of a role that the policy declares."""
    if name.startswith("pg_"):
        return "role names that begin with pg_ are PostgreSQL's own"
    if name.lower() in ("public", "none"):
        return f'"{name}" is a reserved word and cannot be a role'
    return name_problem(name)


def schema_name_problem(name: str) -> str | None:
    """As name_problem, for the name of a schema that the policy declares."""
    if name.startswith("pg_") or name == "information_schema":
        return "this schema is PostgreSQL's own and is left alone"
    return name_problem(name)
