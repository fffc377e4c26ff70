# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of pg_hba.conf and lines of pg_ident.conf: what they are, what is asked of them and what is found in them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Union

from .grammar import Token, line_text, written

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

TYPES = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
ANYWHERE = ("0.0.0.0/0", "::/0", "all")

METHODS = (
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "sspi",
    "ident",
    "peer",
    "ldap",
    "radius",
    "cert",
    "pam",
    "bsd",
    "oauth",
)
WEAK = ("trust", "password", "md5", "ident")
# Options whose values are secrets: they are in the files and in Patroni's configuration, and nowhere else.
SECRET_OPTIONS = ("ldapbindpasswd", "radiussecrets")
HIDDEN = "********"
# What the server, and our reading of a file, quote of a line that they do not take.
_QUOTED = re.compile(r"(not in name=value format|RADIUS secrets? list).*", re.DOTALL)

WITH_PASSWORD = ("scram-sha-256", "md5", "password")


@dataclass(frozen=True)
class Rule:
    """A rule. address: None for local, else all, samehost, samenet, a network, an address with a mask, or a host's name.

    options: in the order of the file. file, line: where it stands. path: where the policy says it. comment: the policy's.
    """

    type: str
    databases: tuple[Token, ...]
    roles: tuple[Token, ...]
    address: Token | None
    method: str
    options: tuple[tuple[str, str], ...] = ()
    file: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)
    path: str = field(default="", compare=False)
    comment: str = field(default="", compare=False)

    @property
    def network(self) -> Network | None:
        """The addresses, where they are a network."""
        return network_of(self.address)

    def option(self, name: str) -> str | None:
        """The value of an option; the last one counts."""
        return dict(self.options).get(name)

    @property
    def shown_options(self) -> tuple[tuple[str, str], ...]:
        """The options with their secrets hidden."""
        return tuple((name, HIDDEN if name in SECRET_OPTIONS else value) for name, value in self.options)

    def fields(self) -> list[tuple[Token, ...]]:
        """The fields of its line, secrets included."""
        # An address and its mask, where no prefix length says the same, are two fields.
        parts = [] if self.address is None else [(Token(part, self.address.quoted),) for part in address_parts(self.address)]
        options = [(Token(f"{name}={value}"),) for name, value in self.options]
        return [(Token(self.type),), self.databases, self.roles, *parts, (Token(self.method),), *options]

    def text(self) -> str:
        """The line as the server needs it, secrets included."""
        return line_text(self.fields())

    def __str__(self) -> str:
        return replace(self, options=self.shown_options).text()

    def as_data(self) -> dict[str, Any]:
        """As a module returns it: names as the file writes them."""
        return {
            "type": self.type,
            "databases": [written(token) for token in self.databases],
            "roles": [written(token) for token in self.roles],
            "address": None
            if self.address is None
            else " ".join(written(Token(part, self.address.quoted)) for part in address_parts(self.address)),
            "method": self.method,
            "options": dict(self.shown_options),
            "file": self.file,
            "line": self.line,
            "comment": self.comment,
        }


def address_parts(address: Token) -> list[str]:
    """An address as the fields of a file: one, or an address and a mask."""
    first, blank, second = address.text.partition(" ")
    if blank and is_ip(first) and is_ip(second):
        return [first, second]
    return [address.text]


def is_ip(text: str) -> bool:
    """Whether a text is an address in full, each part of it a decimal number (or in IPv6)."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=8192)
def network_of(address: Token | None) -> Network | None:
    """The network that an address of a rule names, None for anything else."""
    if address is None or "/" not in address.text:
        return None
    try:
        return ipaddress.ip_network(address.text, strict=False)
    except ValueError:
        return None


@dataclass(frozen=True)
class UserMapping:
    """A line of pg_ident.conf. roles: the database roles; system_user: a name, or /expression."""

    map: Token
    system_user: Token
    role: Token
    line: int = field(default=0, compare=False)

    def fields(self) -> list[tuple[Token, ...]]:
        """The fields of its line."""
        return [(self.map,), (self.system_user,), (self.role,)]

    def __str__(self) -> str:
        return line_text(self.fields())


@dataclass(frozen=True)
class Question:
    """A connection. address: None through a Unix socket. replication: of a physical standby or pg_basebackup."""

    role: str
    database: str
    address: str | None = None
    encrypted: bool = False
    gss: bool = False
    replication: bool = False


@dataclass(frozen=True)
class Problem:
    """A line that cannot be read."""

    file: str
    line: int
    message: str

    @property
    def shown(self) -> str:
        """The message without what it may quote of a secret."""
        return _QUOTED.sub(r"\1", self.message)


@dataclass(frozen=True)
class Finding:
    """What the linter says of a rule, or of the file where line is 0. severity: high, medium or low."""

    code: str
    severity: str
    message: str
    rule: str = ""
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class State:
    """What the server has. roles: each with the roles that it is a member of. stale: files that were changed after the last reload.

    authorities: whether ssl_ca_file is set, by which client certificates are checked. md5: the login roles whose verifier is an MD5 one, as
    far as it may be read. superusers: those that may log in.
    """

    major: int
    roles: dict[str, frozenset[str]] = field(default_factory=dict)
    databases: frozenset[str] = frozenset()
    ssl: bool = True
    authorities: bool = True
    md5: frozenset[str] = frozenset()
    superusers: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    problems: tuple[Problem, ...] = ()
    mappings: tuple[UserMapping, ...] = ()
    stale: tuple[str, ...] = ()
    loaded_at: str = ""
    own: Question = field(default_factory=lambda: Question("", ""))
