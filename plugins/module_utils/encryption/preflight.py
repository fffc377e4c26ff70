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

_OFTEN = 10  # as often as a value may be there on average in a column with a blind index
_FEW = 10  # different values, below which a table is too small to tell

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
    if facts.blind_index is not None and facts.blind_index.type != "text":
        yield mistake(f"has its blind index in {column.index_name}, which is of type {facts.blind_index.type}: rename that column")
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


def index_problem(column: Column, census: Census, values: int, different: int) -> Mistake | None:
    """Why a blind index would tell too much, or cannot be made."""
    if census.unknown:
        return Mistake(
            f"{column.path}.blind_index",
            f"{column.label} has {census.unknown} tokens of a key that is not in the keyring {column.keyring}, which cannot be indexed:"
            " add that key, or encrypt them anew",
        )
    if values < _FEW * _OFTEN or different * _OFTEN > values or "few_values" in column.accept:
        return None
    return Mistake(
        f"{column.path}.blind_index",
        f"{column.label} has {different} different values in {values} rows: equal values have equal entries, by which whoever sees the"
        " table guesses them; leave the index out, or say accept: [few_values]",
    )


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
