# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files -> rules, with includes and @files followed, and what is wrong with a line told in the server's own terms."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field
from typing import Callable, Protocol

from ..core.errors import BulwarkError
from .grammar import Line, Token, parse
from .model import METHODS, TYPES, Problem, Rule, UserMapping

_DEPTH = 10  # files within files, as the server has it
_PREFIX_LENGTH = re.compile(r"\s*[+-]?[0-9]+", re.ASCII)

# The options and the methods that take them; None: any method.
_OPTIONS: dict[str, tuple[str, ...] | None] = {
    "map": ("ident", "peer", "gss", "sspi", "cert", "oauth"),
    "clientcert": None,
    "clientname": None,
    **dict.fromkeys(("pamservice", "pam_use_hostname"), ("pam",)),
    **dict.fromkeys(("krb_realm", "include_realm"), ("gss", "sspi")),
    **dict.fromkeys(("compat_realm", "upn_username"), ("sspi",)),
    **dict.fromkeys(("radiusservers", "radiusports", "radiussecrets", "radiusidentifiers"), ("radius",)),
    **dict.fromkeys(("issuer", "scope", "validator", "delegate_ident_mapping"), ("oauth",)),
    **dict.fromkeys(
        ("ldapurl", "ldaptls", "ldapscheme", "ldapserver", "ldapport", "ldapbinddn", "ldapbindpasswd", "ldapsearchattribute",
         "ldapsearchfilter", "ldapbasedn", "ldapprefix", "ldapsuffix"),
        ("ldap",),
    ),
}  # fmt: skip
_MANDATORY = {"oauth": ("issuer", "scope"), "radius": ("radiusservers", "radiussecrets")}
_VALUES = {"clientcert": ("verify-ca", "verify-full"), "clientname": ("CN", "DN")}


class LineError(Exception):
    """What is wrong with a line."""


class Reader(Protocol):
    """Where files come from."""

    def text(self, path: str) -> str | None:
        """The text of a file, None where there is none."""

    def names(self, path: str) -> list[str]:
        """The names in a directory."""


@dataclass
class RulesRead:
    """What a pg_hba.conf says, with everything that it includes. files: all that were read."""

    rules: list[Rule] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass
class MappingsRead:
    """What a pg_ident.conf says, with everything that it includes. files: all that were read."""

    mappings: list[UserMapping] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class _Recorder:
    """A reader that keeps the names of the files that were there."""

    def __init__(self, reader: Reader, files: list[str]) -> None:
        self._files = files
        self._reader = reader
        self.names = reader.names

    def text(self, path: str) -> str | None:
        """The text of a file."""
        text = self._reader.text(path)
        if text is not None and path not in self._files:
            self._files.append(path)
        return text


def read_rules(path: str, reader: Reader, major: int) -> RulesRead:
    """The rules in the order in which they count. A missing file is a problem of line 0."""
    contents = RulesRead()

    def take(line: Line, file: str) -> None:
        contents.rules.append(rule_of(line, file, major))

    _read(path, _Recorder(reader, contents.files), major, contents.problems, take)
    return contents


def read_mappings(path: str, reader: Reader, major: int) -> MappingsRead:
    """The lines of pg_ident.conf in the order in which they count. Without the file there are none."""
    contents = MappingsRead()

    def take(line: Line, _file: str) -> None:
        contents.mappings.append(_mapping_of(line))

    if reader.text(path) is not None:
        _read(path, _Recorder(reader, contents.files), major, contents.problems, take)
    return contents


def _read(path: str, reader: Reader, major: int, problems: list[Problem], take: Callable[[Line, str], None], depth: int = 0) -> None:
    """Give each line to a function, those of included files in their place. take: its arguments are a line and its file."""
    text = reader.text(path)
    if text is None:
        problems.append(Problem(path, 0, "the file does not exist"))
        return
    for line in parse(text):
        try:
            expanded = with_files(line, path, reader)
            included = _included(expanded, path, reader, depth) if major >= 16 else None
            for place in included or ():
                _read(place, reader, major, problems, take, depth + 1)
            if included is None and expanded.fields:
                take(expanded, path)
        except (LineError, BulwarkError) as error:
            problems.append(Problem(path, line.number, str(error)))


def _included(line: Line, path: str, reader: Reader, depth: int) -> list[str] | None:
    """The files that a line includes, None where it is no include."""
    if len(line.fields) != 2 or line.fields[0][0].text not in ("include", "include_if_exists", "include_dir"):
        return None
    if depth >= _DEPTH:
        raise LineError("files are included too deeply")
    word, place = line.fields[0][0].text, _beside(path, line.fields[1][0].text)
    if word == "include_dir":
        names = sorted(reader.names(place))
        return [os.path.join(place, name) for name in names if name.endswith(".conf") and not name.startswith(".")]
    if reader.text(place) is not None:
        return [place]
    if word == "include":
        raise LineError(f'could not open file "{place}"')
    return []


def _beside(path: str, name: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(path), name))


def with_files(line: Line, path: str, reader: Reader, depth: int = 0) -> Line:
    """The line with what its @files hold in their place. Raises LineError where one is missing."""
    fields = (tuple(each for token in tokens for each in _tokens(token, path, reader, depth)) for tokens in line.fields)
    # The server forgets a field of which an empty file leaves nothing.
    return Line(line.number, tuple(tokens for tokens in fields if tokens))


def _tokens(token: Token, path: str, reader: Reader, depth: int) -> list[Token]:
    if token.quoted or not token.text.startswith("@") or token.text == "@":
        return [token]
    place = _beside(path, token.text[1:])
    text = reader.text(place)
    if text is None:
        raise LineError(f'could not open file "{place}"')
    if depth >= _DEPTH:
        raise LineError("files are included too deeply")
    return [each for line in parse(text) for tokens in with_files(line, place, reader, depth + 1).fields for each in tokens]


def rule_of(line: Line, path: str, major: int) -> Rule:
    """The rule of a line. Raises LineError with what the server, too, would say."""
    fields = list(line.fields)
    kind = _single(fields, "connection type").text
    if kind not in TYPES:
        raise LineError(f'invalid connection type "{kind}"')
    databases = _next(fields, "database")
    roles = _next(fields, "role")
    address = None if kind == "local" else _address(fields)
    method = _single(fields, "authentication method").text
    if method not in METHODS or (method == "oauth" and major < 18):
        raise LineError(f'invalid authentication method "{method}"')
    if method == "ident" and kind == "local":
        method = "peer"
    options = tuple(_option(token.text) for tokens in fields for token in tokens)
    problem = method_problem(kind, method) or options_problem(kind, method, options, major)
    if problem:
        raise LineError(problem)
    return Rule(kind, databases, roles, address, method, options, file=path, line=line.number)


def _next(fields: list[tuple[Token, ...]], what: str) -> tuple[Token, ...]:
    if not fields:
        raise LineError(f"end-of-line before {what} specification")
    return fields.pop(0)


def _single(fields: list[tuple[Token, ...]], what: str) -> Token:
    tokens = _next(fields, what)
    if len(tokens) != 1:
        raise LineError(f"multiple values specified for {what}")
    return tokens[0]


def _address(fields: list[tuple[Token, ...]]) -> Token:
    token = _single(fields, "IP address")
    if any(token.keyword(word) for word in ("all", "samehost", "samenet")):
        return token
    host, slash, length = token.text.partition("/")
    address = as_ip(host)
    if address is None:
        if slash:
            raise LineError(f'specifying both host name and CIDR mask is invalid: "{token.text}"')
        return token
    if slash:
        if not _PREFIX_LENGTH.fullmatch(length) or not 0 <= int(length) <= address.max_prefixlen:
            raise LineError(f'invalid CIDR mask in address "{token.text}"')
        return Token(f"{address}/{int(length)}")
    mask = as_ip(_single(fields, "netmask").text)
    if mask is None or mask.version != address.version:
        raise LineError("IP address and mask do not match, or the mask is none")
    length_of_mask = _prefix_length(mask)
    return Token(f"{address} {mask}" if length_of_mask is None else f"{address}/{length_of_mask}")


def as_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address in any notation that the server's system takes for one, such as 127.1; None for a name."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        pass
    if not text or not text.isascii() or re.search(r"\s", text):
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, UnicodeError):
        return None


def _prefix_length(mask: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | None:
    bits = bin(int(mask))[2:].zfill(mask.max_prefixlen)
    return bits.count("1") if "01" not in bits else None


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise LineError(f"authentication option not in name=value format: {text}")
    return name, value


def method_problem(kind: str, method: str) -> str | None:
    """Why connections of a type cannot use a method, or None."""
    if kind == "local" and method == "gss":
        return "gssapi authentication is not supported on local sockets"
    if kind != "local" and method == "peer":
        return "peer authentication is only supported on local sockets"
    if kind != "hostssl" and method == "cert":
        return "cert authentication is only supported on hostssl connections"
    return None


def options_problem(kind: str, method: str, options: tuple[tuple[str, str], ...], major: int) -> str | None:
    """What is wrong with the options of a rule, or None."""
    for name, value in options:
        if name not in _OPTIONS or (_OPTIONS[name] == ("oauth",) and major < 18):
            return f'unrecognized authentication option name: "{name}"'
        methods = _OPTIONS[name]
        if methods is not None and method not in methods:
            return f'authentication option "{name}" is only valid for authentication methods {", ".join(methods)}'
        if name in _VALUES and kind != "hostssl":
            return f'{name} can only be configured for "hostssl" rows'
        if name in _VALUES and value not in _VALUES[name]:
            return f'invalid value for {name}: "{value}"'
        if name == "clientcert" and method == "cert" and value != "verify-full":
            return 'clientcert only accepts "verify-full" when using "cert" authentication'
    given = {name for name, value in options}
    missing = [name for name in _MANDATORY.get(method, ()) if name not in given]
    return f'authentication method "{method}" requires argument "{missing[0]}" to be set' if missing else None


def _mapping_of(line: Line) -> UserMapping:
    fields = list(line.fields)
    name, user, role = (_single(fields, what) for what in ("map name", "system user name", "database role"))
    return UserMapping(name, user, role, line=line.number)
