# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of TLS: what is wanted, what is installed and where, and what the server does with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .material import is_address

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.errors import Mistake
    from .material import Certificate, RevocationList


@dataclass(frozen=True)
class Policy:
    """What is wanted. certificate: None keeps the installed one; else it and the intermediate ones after it.

    key: the private key, None to use the installed one. key_file: where it was read. clients: name to certificate, None for one that is
    to be made.
    revoked: the serial numbers that the lists have to hold, None for whatever they do.
    """

    names: tuple[str, ...]
    certificate: tuple[Certificate, ...] | None
    authorities: tuple[Certificate, ...]
    lists: tuple[RevocationList, ...]
    issuer: Certificate | None
    revoked: frozenset[int] | None
    clients: Mapping[str, Certificate | None]
    renew_before: int
    key_file: str | None = None
    key: Any = field(default=None, repr=False)
    key_mistake: Mistake | None = None

    @property
    def alternative_names(self) -> list[str]:
        """The names as a subjectAltName spells them."""
        return [f"{'IP' if is_address(name) else 'DNS'}:{name}" for name in self.names]


@dataclass(frozen=True)
class Installed:
    """The generation that the server uses. texts: of the files that are there. since: when the link was moved, in seconds."""

    name: str
    since: float
    texts: Mapping[str, str] = field(repr=False)
    key_problem: str | None = None


@dataclass(frozen=True)
class Place:
    """Where the files are.

    owner: the server's account. former: the directory inside the data directory that had them, where it still exists.
    """

    directory: str
    owner: tuple[int, int]
    former: str | None


@dataclass(frozen=True)
class Use:
    """What the server does with the files. on: it speaks TLS with our certificate. files: the ones of the link that its settings name.

    here: these are files of the directory itself, not of the former one.
    """

    on: bool
    loaded: float
    files: frozenset[str]
    here: bool
