# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The document of rules -> the rules, in order. Collects every mistake with its YAML path."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ..core.document import Node, quoted, text_problem, value_text
from ..core.errors import Mistake, PolicyError, nearest
from .coverage import Coverage
from .grammar import Token
from .lint import is_unknown_role, role_name, unknown_databases, unknown_roles
from .match import is_expression
from .model import METHODS, SECRET_OPTIONS, TYPES, WEAK, Rule, UserMapping, is_ip
from .reading import as_ip, method_problem, options_problem

if TYPE_CHECKING:
    from .model import State

_KEYS = ("type", "databases", "roles", "addresses", "method", "options", "comment", "replication")
_DATABASE_WORDS = ("all", "sameuser", "samerole")
_ADDRESS_WORDS = ("all", "samehost", "samenet")
# A host's name, or the end of some. Its last part holds a letter, unlike that of an address or a range of them.
_HOST = re.compile(r"[.]?([\w-]+[.])*(?=[^.]*[a-z])[\w-]+[.]?", re.ASCII | re.IGNORECASE)
_PLAIN = ("host", "hostnossl", "hostnogssenc")


@dataclass(frozen=True)
class Permissions:
    """What a policy has to ask for by name.

    plain: connections without encryption. weak: methods that do not authenticate the client well.
    """

    plain: bool = False
    weak: bool = False


@dataclass(frozen=True)
class Policy:
    """The whole document. mappings: None where pg_ident.conf is left alone."""

    rules: tuple[Rule, ...] = ()
    mappings: tuple[UserMapping, ...] | None = None


@dataclass(frozen=True)
class Documents:
    """What is declared. rules: the list of rules. ident: map name -> list of system_user and role, or None. first_rules: before rules."""

    rules: Any
    ident: Any = None
    first_rules: Any = ()


def read_policy(
    documents: Documents,
    administrators: Iterable[str],
    reject_rest: bool,
    permissions: Permissions,
    state: State,
    path_prefix: str = "",
) -> Policy:
    """Check the document against the server's roles and databases. Raises PolicyError with every mistake.

    administrators: roles that get a rule of their own, first.
    """
    mistakes: list[Mistake] = []
    declared = {each.name: getattr(documents, each.name) for each in fields(documents)}
    root = Node(declared, "", mistakes, list(declared))
    mappings = None if documents.ident is None else tuple(_mappings(root, mistakes, state))
    first = [
        Rule("local", (Token("all"),), (_name(role),), None, "peer", comment="the administrator", path="administrators")
        for role in administrators
    ]
    entries = [*root.entries("first_rules"), *root.entries("rules")]
    rules = [rule for value, path in entries for rule in _rules(value, path, mistakes, state)]
    rules = [*first, *(rule for rule in rules if rule not in first)]
    _check_rules(rules, mappings if mappings is not None else state.mappings, permissions, state, mistakes, path_prefix)
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    return Policy((*rules, *(_rest() if reject_rest else [])), mappings)


def secrets_of(document: Any) -> set[str]:
    """The secrets in a document of rules, right or wrong, that nobody may see."""
    rules = document if isinstance(document, (list, tuple)) else ()
    options = [rule["options"] for rule in rules if isinstance(rule, Mapping) and isinstance(rule.get("options"), Mapping)]
    return {part for each in options for name in SECRET_OPTIONS for part in _texts(each.get(name))}


def _texts(value: Any) -> Iterable[str]:
    """The texts in a value of any shape, whole and in the parts that a message may quote."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif value is not None and str(value):
        yield str(value)
        yield from (part for part in re.split(r'[\s,"]+', str(value)) if part)


def _rest() -> list[Rule]:
    everything = (Token("all"), Token("replication"))
    all_roles = (Token("all"),)
    return [
        Rule("local", everything, all_roles, None, "reject", comment="everything else"),
        Rule("host", everything, all_roles, Token("all"), "reject"),
    ]


def _name(name: str) -> Token:
    """A name as itself, whatever else it could mean."""
    plain = name.replace("_", "").isalnum() and name.isascii() and name.islower()
    return Token(name, quoted=not plain or name in (*_DATABASE_WORDS, "samegroup", "replication"))


def _rules(value: Any, path: str, mistakes: list[Mistake], state: State) -> list[Rule]:
    node = Node(value, path, mistakes, _KEYS)
    if not node.sound:
        return []
    kind = node.word("type", TYPES, "hostssl")
    method = node.word("method", METHODS, "peer" if kind == "local" else "scram-sha-256")
    replication = node.boolean("replication", False)
    if replication and node.says("databases"):
        node.mistake("databases", "replication connects to no database: leave one of the two out")
    databases = (Token("replication"),) if replication else _tokens(node, "databases", _DATABASE_WORDS, state)
    roles = _tokens(node, "roles", ("all",), state)
    addresses = _addresses(node, kind)
    options = tuple(_options(node))
    comment = node.text("comment", _one_line) or ""
    problem = method_problem(kind, method) or options_problem(kind, method, options, state.major)
    if kind == "local" and method == "ident":
        problem = "on the Unix socket it is called peer"
    if method == "oauth" and state.major < 18:
        problem = f"PostgreSQL {state.major} does not know oauth, which came with 18"
    if problem:
        node.mistake("method", problem)
    if not (databases and roles and addresses):
        return []
    return [Rule(kind, databases, roles, each, method, options, path=path, comment=comment) for each in addresses]


def _one_line(text: str) -> str | None:
    return "must be one line" if "\n" in text or "\r" in text else text_problem(text)


def _tokens(node: Node, key: str, words: tuple[str, ...], state: State) -> tuple[Token, ...]:
    """Names, words such as all, and for roles +group. A mapping with `name` is that name and nothing else."""
    if not node.says(key):
        node.mistake(key, f"is missing: all, or a list of {key}")
        return ()
    value = node.raw(key)
    listed = isinstance(value, (list, tuple))
    found = []
    for position, item in enumerate(value if listed else [value]):
        place = f"{node.at(key)}[{position}]" if listed else node.at(key)
        token = _token(item, place, words, node.mistakes, state)
        if token is not None and token not in found:
            found.append(token)
    if listed and not value:
        node.mistake(key, "is empty: no connection could match")
    return tuple(found)


def _token(item: Any, place: str, words: tuple[str, ...], mistakes: list[Mistake], state: State) -> Token | None:
    literal = isinstance(item, Mapping)
    name = Node(item, place, mistakes, ["name"]).raw("name") if literal else item
    if not isinstance(name, str):
        mistakes.append(
            Mistake(place, f"must be a name, not {value_text(name)}" + (" (quote it)" if isinstance(name, (bool, int, float)) else ""))
        )
        return None
    wrong = _one_line(name) or ("a name must not be empty" if not name.strip("+") else None)
    if wrong is None and name.startswith("/") and state.major < 16 and not literal:
        wrong = f"PostgreSQL {state.major} takes no expressions here, which came with 16"
    if wrong is None and literal and is_expression(Token(name), state.major):
        wrong = "PostgreSQL takes what begins with / for an expression: rename it, or match it with one"
    if wrong is not None:
        mistakes.append(Mistake(place, wrong))
        return None
    if literal:
        return Token(name, quoted=True)
    if name in words or (name.startswith("+") and words == ("all",)):
        return Token(name)
    return _name(name)


def _addresses(node: Node, kind: str) -> list[Token | None]:
    if kind == "local":
        if node.says("addresses"):
            node.mistake("addresses", "local is the Unix socket, which has no addresses")
        return [None]
    if not node.says("addresses"):
        node.mistake("addresses", "is missing: networks such as 10.1.0.0/16, hosts, or samenet")
        return []
    value = node.raw("addresses")
    listed = isinstance(value, (list, tuple))
    if listed and not value:
        node.mistake("addresses", "is empty: no connection could match")
    found: list[Token | None] = []
    for position, item in enumerate(value if listed else [value]):
        place = f"{node.at('addresses')}[{position}]" if listed else node.at("addresses")
        problem, token = _address(item)
        if problem:
            node.mistakes.append(Mistake(place, problem))
        elif token not in found:
            found.append(token)
    return found


def _address(item: Any) -> tuple[str | None, Token]:
    """What is wrong with an address, and the address."""
    if not isinstance(item, str):
        return f"must be an address, not {value_text(item)}", Token("")
    wrong = _one_line(item)
    if wrong or not item or any(character.isspace() for character in item):
        return wrong or f"{quoted(item)} is no address, network or host", Token("")
    if item in _ADDRESS_WORDS:
        return None, Token(item)
    host, slash, _length = item.partition("/")
    address = as_ip(host)
    if address is None and not _HOST.fullmatch(item):
        return f"{quoted(item)} is no address, network or host" + ("" if item.isascii() else "; write it in ASCII (xn--...)"), Token("")
    if address is not None and not is_ip(host):
        return f"{quoted(item)} is short for {address}, or has octal parts: write it in full", Token("")
    if address is None:
        return None, Token(item)
    if not slash:
        return None, Token(f"{address}/{address.max_prefixlen}")
    try:
        return None, Token(str(ipaddress.ip_network(item)))
    except ValueError:
        pass
    try:
        return (
            f"{quoted(item)} has bits beyond its prefix; did you mean {ipaddress.ip_network(item, strict=False)}, or {address} alone?",
            Token(""),
        )
    except ValueError:
        return f"{quoted(item)} is no network: the part after / is a number from 0 to {address.max_prefixlen}", Token("")


def _options(node: Node) -> Iterable[tuple[str, str]]:
    for name, value, path in node.mapping("options"):
        if isinstance(value, bool):
            yield name, str(int(value))
        elif isinstance(value, (str, int)) and not _one_line(str(value)):
            yield name, str(value)
        else:
            node.mistakes.append(Mistake(path, f"must be one line of text, not {value_text(value)}"))


def _mappings(root: Node, mistakes: list[Mistake], state: State) -> Iterable[UserMapping]:
    for name, value, path in root.mapping("ident"):
        if not isinstance(value, (list, tuple)):
            mistakes.append(Mistake(path, f"must be a list of system_user and role, not {value_text(value)}"))
            continue
        for position, item in enumerate(value):
            node = Node(item, f"{path}[{position}]", mistakes, ("system_user", "role"))
            user = node.text("system_user", _one_line)
            for key in ("system_user", "role"):
                if not node.raw(key) and node.sound:
                    node.mistake(key, "is missing")
            role = _token(node.raw("role"), node.at("role"), ("all",), mistakes, state) if node.raw("role") else None
            problem = None if role is None else _role_problem(role, user or "", state)
            if problem:
                node.mistake("role", problem)
            elif user and role:
                yield UserMapping(Token(name, True), Token(user, True), role)


def _role_problem(role: Token, user: str, state: State) -> str | None:
    """What is wrong with a role of pg_ident.conf, or None."""
    if not role.quoted and (role.text == "all" or role.text.startswith("+")) and state.major < 16:
        return f"PostgreSQL {state.major} takes {role.text} for a name here; the words came with 16"
    if r"\1" in role.text and user.startswith("/"):
        return None  # what the expression finds
    return (
        f"the server has no role {quoted(role_name(role))}{nearest(role_name(role), state.roles)}" if is_unknown_role(role, state) else None
    )


def _check_rules(
    rules: list[Rule], mappings: Iterable[UserMapping], permissions: Permissions, state: State, mistakes: list[Mistake], path_prefix: str
) -> None:
    maps = {mapping.map.text for mapping in mappings}
    coverage = Coverage(rules, state.major)
    for position, rule in enumerate(rules):
        if rule.type in _PLAIN and rule.method != "reject" and not permissions.plain:
            mistakes.append(Mistake(rule.path, f"{rule.type} takes connections without encryption; say hostssl, or allow_plain: true"))
        if rule.method in WEAK and not permissions.weak:
            mistakes.append(
                Mistake(
                    rule.path,
                    f"method {rule.method} does not authenticate the client well enough; use scram-sha-256, cert or peer, or "
                    "set allow_weak: true",
                )
            )
        wanted = rule.option("map")
        if wanted is not None and not wanted.startswith("/") and wanted not in maps:
            mistakes.append(Mistake(rule.path, f"there is no map {quoted(wanted)} in ident{nearest(wanted, maps)}"))
        missing = [("role", token.text.lstrip("+"), set(state.roles)) for token in unknown_roles(rule, state)]
        missing += [("database", token.text, set(state.databases)) for token in unknown_databases(rule, state)]
        for kind, name, known in missing:
            hint = nearest(name, known)
            if (kind, name) == ("database", "replication"):
                hint = "; for the connections of standbys and pg_basebackup, say replication: true instead of databases"
            mistakes.append(Mistake(rule.path, f"the server has no {kind} {quoted(name)}{hint}"))
        above = coverage.first_above(position)
        if above is not None:
            mistakes.append(Mistake(rule.path, f"no connection would reach it: {path_prefix}{above.path} takes them all ({above})"))
