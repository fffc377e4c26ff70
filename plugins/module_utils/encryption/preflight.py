# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What would break if a column were encrypted, each with the way out. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import Mistake
from .model import DECRYPTED, KEYED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .model import Census, Column, Facts

_TYPES = ("text", "character varying")
_CONSTRAINTS = {
    "p": "the primary key",
    "u": "a UNIQUE constraint",
    "f": "a foreign key",
    "x": "an EXCLUDE constraint",
    "c": "a CHECK constraint",
}

_HEADER, _BLOCK = 1 + 8 + 16 + 32, 16  # bytes of a token before base64: the Fernet specification


def token_length(size: int, form: str) -> int:
    """How many characters the token of a value of so many bytes has."""
    raw = _HEADER + _BLOCK * (size // _BLOCK + 1)
    return 4 * -(-raw // 3) + (len("f1..") - 1 + 16 + 1 if form == KEYED else 0)


def check_name(column: Column) -> str:
    """The name of the constraint that lets in nothing but tokens."""
    return f"{column.name.encode()[:53].decode(errors='ignore')}_encrypted"


def problems(column: Column, facts: Facts, state: str) -> Iterator[Mistake]:
    """Why the column cannot be converted."""

    def mistake(message: str) -> Mistake:
        return Mistake(column.path, f"{column.label} {message}")

    if facts.kind not in ("r", "p"):
        yield Mistake(column.path, f"{column.table_label} is no table")
        return
    if facts.type not in _TYPES:
        yield mistake(f"is of type {facts.type}: a token is text. Add a column of type text, fill it, and encrypt that one")
    if facts.generated:
        yield mistake("is a generated column: encrypt what it is made of in the application instead")
    if facts.feeds:
        yield mistake(f"feeds the generated column {', '.join(facts.feeds)}, which would hold tokens: drop that first")
    if not facts.keys:
        yield mistake("is in a table without a primary key, by which rows are found: add one")
    for name, (kind, definition) in sorted(facts.constraints.items()):
        if name == check_name(column) and kind == "c":
            continue
        what = _CONSTRAINTS[kind]
        out = (
            f": {definition}. Drop it, and have the application check the value"
            if kind == "c"
            else ", and no two tokens are equal: drop it first"
        )
        yield mistake(f"is in {what}, {name}{out}")
    if facts.filtered:
        yield mistake(
            "is in a table with row-level security that hides rows from this role: connect as a superuser or a role with BYPASSRLS"
        )
    if not facts.may_write:
        yield mistake("is in a table that this role does not own: connect as its owner or as a superuser")
    yield from _hanging(column, facts, mistake_prefix=column.label, state=state)


def _hanging(column: Column, facts: Facts, mistake_prefix: str, state: str) -> Iterator[Mistake]:
    """What may be accepted, and is not."""
    unmasked = state != DECRYPTED and not all(facts.audit)
    found = (
        ("indexes", facts.indexes, "has the index {}, which finds nothing among tokens: drop it"),
        ("views", facts.views, "is read by the view {}, which would show tokens"),
        ("triggers", facts.triggers, "is in a table with the trigger {}, which fires for each row that is converted"),
        ("publications", facts.publications, "is published by {}, so that each converted row goes to its subscribers"),
        (
            "audit",
            ("0_audit_update",) if unmasked else (),
            "is recorded by the audit log ({}), which would keep each plaintext: mask it there",
        ),
    )
    for word, names, text in found:
        if names and word not in column.accept:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            yield Mistake(column.path, f"{mistake_prefix} {text.format(shown)}, or say accept: [{word}]")


def length_problem(column: Column, facts: Facts, census: Census) -> Mistake | None:
    """Why the tokens do not fit into the column."""
    needed = token_length(census.longest, column.form)
    if facts.longest is None or needed <= facts.longest or not census.plain:
        return None
    return Mistake(
        column.path,
        f"{column.label} is of type {facts.type}({facts.longest}), and its longest value needs a token of {needed} characters:"
        f" ALTER TABLE ... ALTER COLUMN ... TYPE text, which rewrites nothing",
    )
