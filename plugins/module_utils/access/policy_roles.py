# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the document that speaks of roles, their passwords, settings and memberships."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from typing import Any

from ..core import scram
from ..core.document import Node, entries_of, kind_of
from ..core.errors import Mistake, nearest
from ..core.identifiers import name_problem, role_name_problem, text_problem
from .catalog import LIST_PARAMETERS, split_setting
from .model import AbsentRole, Membership, Role

_FLAGS = ("superuser", "createdb", "createrole", "replication", "bypassrls")
_KEYS = (
    "state",
    "login",
    *_FLAGS,
    "inherit",
    "connection_limit",
    "valid_until",
    "comment",
    "has_password",
    "settings",
    "database_settings",
    "member_of",
)
_ABSENT_KEYS = ("state", "reassign_to")
_MEMBER_KEYS = ("role", "admin", "inherit", "set", "grantor")
# A parameter, or a custom one with a prefix; PostgreSQL folds their case.
_PARAMETER = re.compile(r"^[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)*$")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def read_roles(document: Node, passwords: Mapping[str, Any], exact: bool) -> tuple[tuple[Role, ...], tuple[AbsentRole, ...]]:
    """The declared roles and those that must not exist. exact: attributes that are not said have their defaults."""
    roles: list[Role] = []
    absent: list[AbsentRole] = []
    for name, value, path in document.mapping("roles"):
        problem = role_name_problem(name)
        if problem:
            document.mistakes.append(Mistake(path, problem))
            continue
        _refuse_inline_password(value, path, document.mistakes)
        node = Node(_without_password(value), path, document.mistakes, (*_KEYS, "reassign_to"))
        if node.word("state", ("present", "absent"), "present") == "absent":
            absent.append(_read_absent(node, name, passwords))
        else:
            if "reassign_to" in node:
                node.mistake("reassign_to", "belongs to a role with state: absent")
            roles.append(_read_role(node, name, passwords, exact))
    _check_passwords(document, passwords, {role.name for role in roles} | {role.name for role in absent})
    _check_memberships(document, roles, absent)
    return tuple(roles), tuple(absent)


def _refuse_inline_password(value: object, path: str, mistakes: list[Mistake]) -> None:
    if isinstance(value, Mapping) and "password" in value:
        mistakes.append(
            Mistake(f"{path}.password", "passwords live apart from the policy, which holds no secret: put it into passwords (variable pg_users_passwords)")
        )


def _without_password(value: object) -> object:
    return {key: item for key, item in value.items() if key != "password"} if isinstance(value, Mapping) else value


def _read_absent(node: Node, name: str, passwords: Mapping[str, Any]) -> AbsentRole:
    for key in _KEYS:
        if key != "state" and key in node:
            node.mistake(key, f"has no meaning for a role with state: absent; accepted: {', '.join(_ABSENT_KEYS)}")
    if name in passwords:
        node.mistake("", "is declared absent but has an entry in passwords")
    heir = node.text("reassign_to", name_problem)
    if heir == name:
        node.mistake("reassign_to", "a role cannot hand over to itself")
    return AbsentRole(name, heir, node.path)


def _read_role(node: Node, name: str, passwords: Mapping[str, Any], exact: bool) -> Role:
    secret = _secret(passwords.get(name), f"passwords.{name}", node.mistakes)
    has_password = node.boolean("has_password")
    if secret is not None and has_password is False:
        node.mistake("has_password", "is false, but passwords has an entry for this role")
    if secret is None and has_password is True and name not in passwords:
        node.mistake("has_password", "is true, but passwords has no entry for this role")
    login_default = bool(secret) if exact or secret else None
    values: dict[str, Any] = {flag: node.boolean(flag, False if exact else None) for flag in _FLAGS}
    return Role(
        name=name,
        login=node.boolean("login", login_default),
        inherit=node.boolean("inherit", True if exact else None),
        connection_limit=node.integer("connection_limit", -1 if exact else None, -1),
        valid_until=_valid_until(node, "infinity" if exact else None),
        comment=node.text("comment"),
        settings=_all_settings(node),
        member_of=_memberships(node, name),
        password=secret,
        has_password=has_password,
        path=node.path,
        **values,
    )


def _secret(value: object, path: str, mistakes: list[Mistake]) -> str | None:
    problem = None
    if value is None:
        return None
    if not isinstance(value, str):
        problem = f"must be a string, not {kind_of(value)}; quote it"
    elif not value:
        problem = "must not be empty; for a role without a password say has_password: false"
    elif text_problem(value):
        problem = text_problem(value)
    elif scram.kind(value) == "md5":
        problem = "is an md5 verifier; give the plain password or a SCRAM-SHA-256 verifier"
    elif value.startswith("SCRAM-SHA-256$") and not scram.is_verifier(value):
        problem = "begins like a SCRAM-SHA-256 verifier but is none"
    if problem:
        mistakes.append(Mistake(path, problem))
        return None
    return str(value)


def _valid_until(node: Node, default: str | None) -> str | None:
    value = node.raw("valid_until")
    if value is None:
        return default
    if isinstance(value, (datetime, date)):
        value = value.isoformat()
    if not isinstance(value, str):
        node.mistake("valid_until", f'must be a date and time such as "2027-12-31T00:00:00Z", or "infinity", not {kind_of(value)}')
        return default
    if value.strip().lower() == "infinity":
        return "infinity"
    text = value.strip()
    text = text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text
    text = text + ":00" if len(text) > 13 and text[-3:-2] in ("+", "-") else text  # PostgreSQL prints +00
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        node.mistake("valid_until", f'"{value}" is no date and time; write it as "2027-12-31T00:00:00Z", or "infinity"')
        return default
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return str((moment - _EPOCH) // timedelta(microseconds=1))


def _all_settings(node: Node) -> dict[tuple[str | None, str], object]:
    settings = _settings(node.mapping("settings"), None, node.mistakes)
    for database, value, path in node.mapping("database_settings"):
        settings.update(_settings(entries_of(value, path, node.mistakes), database, node.mistakes))
    return settings


def _settings(entries: Iterable[tuple[str, Any, str]], database: str | None, mistakes: list[Mistake]) -> dict[tuple[str | None, str], object]:
    settings: dict[tuple[str | None, str], object] = {}
    for name, value, path in entries:
        if isinstance(value, bool):
            plain: object = "on" if value else "off"
        elif isinstance(value, (int, float, str)) and not text_problem(str(value)):
            plain = split_setting(name.lower(), str(value))
        elif isinstance(value, (list, tuple)) and name.lower() in LIST_PARAMETERS and all(isinstance(item, str) for item in value):
            plain = tuple(str(item) for item in value)
        else:
            mistakes.append(Mistake(path, f"must be a string, a number or a boolean, not {kind_of(value)}"))
            continue
        if not _PARAMETER.match(name):
            mistakes.append(Mistake(path, f'"{name}" is no name of a parameter'))
            continue
        settings[(database, name)] = plain
    return settings


def _memberships(node: Node, member: str) -> tuple[Membership, ...]:
    found: dict[str, Membership] = {}
    value = node.raw("member_of")
    if isinstance(value, str):
        node.mistake("member_of", "must be a list of roles")
        return ()
    for item, path in node.entries("member_of"):
        if isinstance(item, str):
            entry = Membership(str(item), member, path=path)
        else:
            each = Node(item, path, node.mistakes, _MEMBER_KEYS)
            role = each.text("role", name_problem)
            if role is None:
                if "role" not in each:
                    each.mistake("role", "is missing")
                continue
            entry = Membership(
                role, member, each.text("grantor", name_problem), bool(each.boolean("admin", False)), each.boolean("inherit"), each.boolean("set"), path
            )
        if entry.role in found and found[entry.role] != entry:
            node.mistakes.append(Mistake(path, f"contradicts an earlier entry for {entry.role}"))
        found.setdefault(entry.role, entry)
    return tuple(replace(found[role]) for role in sorted(found))


def _check_passwords(document: Node, passwords: Mapping[str, Any], names: set[str]) -> None:
    for name in sorted(passwords, key=str):
        if name not in names:
            document.mistakes.append(Mistake(f"passwords.{name}", f"there is no role of this name in the policy{nearest(str(name), names)}"))


def _check_memberships(document: Node, roles: list[Role], absent: list[AbsentRole]) -> None:
    gone = {role.name for role in absent}
    edges = {role.name: [entry.role for entry in role.member_of] for role in roles}
    for role in roles:
        for entry in role.member_of:
            if entry.role == role.name:
                document.mistakes.append(Mistake(entry.path, "a role cannot be a member of itself"))
            elif entry.role.lower() == "public":
                document.mistakes.append(Mistake(entry.path, "everybody belongs to PUBLIC already; it cannot be granted"))
            elif entry.role in gone:
                document.mistakes.append(Mistake(entry.path, f'role "{entry.role}" is declared absent'))
        cycle = _cycle(role.name, edges)
        if cycle and role.name == min(cycle) and len(cycle) > 2:
            document.mistakes.append(Mistake(f"{role.path}.member_of", "the memberships form a cycle: " + " -> ".join(cycle)))
    for each in absent:
        if each.reassign_to in gone:
            document.mistakes.append(Mistake(f"{each.path}.reassign_to", f'role "{each.reassign_to}" is declared absent'))


def _cycle(start: str, edges: Mapping[str, list[str]]) -> list[str]:
    """The way from a role back to itself over memberships, or nothing."""
    ways: list[list[str]] = [[start]]
    seen: set[str] = set()
    while ways:
        way = ways.pop()
        for following in edges.get(way[-1], []):
            if following == start:
                return [*way, start]
            if following not in seen:
                seen.add(following)
                ways.append([*way, following])
    return []
