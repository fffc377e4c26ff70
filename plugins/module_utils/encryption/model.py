# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the encryption domain speaks of: the columns that a document names, and what is there for them on the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FERNET = "fernet"
KEYED = "keyed"
FORMATS = (FERNET, KEYED)

ENCRYPTED = "encrypted"
ROTATED = "rotated"
DECRYPTED = "decrypted"
CENSUS = "census"
STATES = (ENCRYPTED, ROTATED, DECRYPTED, CENSUS)

# What hangs on a column or table and that a person may accept, each with the word for it.
ACCEPTED = ("audit", "few_values", "indexes", "publications", "triggers", "views")


@dataclass(frozen=True)
class Column:
    """A column that the document names.

    keyring: the name of its keyring. form: FERNET or KEYED. forbid_plaintext: a CHECK constraint lets in nothing but tokens.
    accept: words of ACCEPTED, what is not to be refused. blind_index: the normalizer of the column beside it by which values are found, ""
    for none.
    """

    path: str
    database: str
    schema: str
    table: str
    name: str
    keyring: str
    form: str = FERNET
    forbid_plaintext: bool = False
    accept: tuple[str, ...] = ()
    blind_index: str = ""

    @property
    def index_name(self) -> str:
        """The column of the blind index."""
        return f"{self.name}_index"

    @property
    def table_label(self) -> str:
        """The table as messages name it."""
        return f"{self.schema}.{self.table}"

    @property
    def label(self) -> str:
        """The column as messages name it."""
        return f"{self.table_label}.{self.name}"


@dataclass(frozen=True)
class Mark:
    """What the comment of a column says of its encryption."""

    form: str
    keyring: str


@dataclass(frozen=True)
class BlindIndex:
    """The column of a blind index. type: of the column. ready: whether a valid index is on it. invalid: names of those that are not."""

    type: str
    ready: bool = False
    invalid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """A column and its table as they are.

    kind: pg_class.relkind. type: as the server shows it. longest: the most characters that the type holds, None for no limit.
    keys: the columns of the primary key with their types, as SQL. constraints: name -> (pg_constraint.contype, definition) of those
    that are on the column. audit: for each trigger of an audit log whether it hides the column.
    """

    kind: str
    type: str
    longest: int | None = None
    generated: bool = False
    feeds: tuple[str, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    constraints: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    indexes: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()
    audit: tuple[bool, ...] = ()
    views: tuple[str, ...] = ()
    publications: tuple[str, ...] = ()
    filtered: bool = False
    may_write: bool = True
    comment: str = ""
    mark: Mark | None = None
    blind_index: BlindIndex | None = None


@dataclass(frozen=True)
class Census:
    """The rows of a column. by_key: tokens by the id of their key. other_form: those of them that are not in the declared form.
    unknown: tokens that no key of the keyring verifies, or, without a keyring, whose key is not known. plain: values that are no tokens.
    longest: bytes of the longest of those. unindexed: values that the blind index does not have, or only under a key that does not count.
    """

    nulls: int = 0
    plain: int = 0
    by_key: Mapping[str, int] = field(default_factory=dict)
    other_form: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0
    longest: int = 0
    unindexed: int = 0

    @property
    def rows(self) -> int:
        """All rows."""
        return self.nulls + self.plain + self.unknown + sum(self.by_key.values())
