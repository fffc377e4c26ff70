# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the document that speaks of roles, their passwords, settings and memberships."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from ..core import scram
from ..core.document import Node, child, kind_of, quoted, text_problem, value_text
from ..core.errors import Mistake, nearest
from ..core.identifiers import name_problem, one_role_problem, parameter_problem, role_name_problem
from ..core.parameters import LIST_PARAMETERS, split_setting
from .model import AbsentRole, Membership, Role
from .moments import moment_of

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
    "keep_members",
)
_ABSENT_KEYS = ("state", "reassign_to")
_MEMBER_KEYS = ("role", "admin", "inherit", "set", "grantor")
_MOST_CONNECTIONS = 2**31 - 1


def read_roles(document: Node, passwords: object, exact: bool) -> tuple[tuple[Role, ...], tuple[AbsentRole, ...]]:
    """The declared roles and those that must not exist. exact: attributes that are not said have their defaults."""
    roles: list[Role] = []
    absent: list[AbsentRole] = []
    secrets = _passwords(document, passwords)
    for name, value, path in document.mapping("roles"):
        problem = role_name_problem(name)
        if problem:
            document.mistakes.append(Mistake(path, problem))
            continue
        _refuse_inline_password(value, path, document.mistakes)
        node = Node(_without_password(value), path, document.mistakes, (*_KEYS, "reassign_to"))
        if node.word("state", ("present", "absent"), "present") == "absent":
            absent.append(_read_absent(node, name, secrets))
        else:
            if node.says("reassign_to"):
                node.mistake("reassign_to", "belongs to a role with state: absent")
            roles.append(_read_role(node, name, secrets, exact))
    _check_password_names(document, secrets)
    _check_memberships(document, roles, absent)
    return tuple(roles), tuple(absent)


def _passwords(document: Node, passwords: object) -> Mapping[str, Any]:
    """Role -> secret. No message here or below shows a secret."""
    if passwords is None:
        return {}
    if not isinstance(passwords, Mapping):
        document.mistakes.append(Mistake("passwords", f"must be a mapping of role names to passwords, not {kind_of(passwords)}"))
        return {}
    for name in passwords:
        if not isinstance(name, str):
            document.mistakes.append(Mistake(child("passwords", str(name)), f"a name must be a string, not {value_text(name)} (quote it)"))
    return {str(name): secret for name, secret in passwords.items() if isinstance(name, str)}


def _refuse_inline_password(value: object, path: str, mistakes: list[Mistake]) -> None:
    if isinstance(value, Mapping) and "password" in value:
        mistakes.append(
            Mistake(
                f"{path}.password",
                "passwords live apart from the policy, which holds no secret: put it into passwords (variable pg_users_passwords)",
            )
        )


def _without_password(value: object) -> object:
    return {key: item for key, item in value.items() if key != "password"} if isinstance(value, Mapping) else value


def _read_absent(node: Node, name: str, passwords: Mapping[str, Any]) -> AbsentRole:
    for key in _KEYS:
        if key != "state" and node.says(key):
            node.mistake(key, f"has no meaning for a role with state: absent; accepted: {', '.join(_ABSENT_KEYS)}")
    if name in passwords:
        node.mistake("", "is declared absent but has an entry in passwords")
    heir = node.text("reassign_to", one_role_problem)
    if heir == name:
        node.mistake("reassign_to", "a role cannot hand over to itself")
    return AbsentRole(name, heir, node.path)


def _read_role(node: Node, name: str, passwords: Mapping[str, Any], exact: bool) -> Role:
    secret = _secret(node, child("passwords", name), passwords[name]) if name in passwords else None
    has_password = node.boolean("has_password")
    if name in passwords and has_password is False:
        node.mistake("has_password", "is false, but passwords has an entry for this role")
    if name not in passwords and has_password is True:
        node.mistake("has_password", "is true, but passwords has no entry for this role")
    login_default = True if name in passwords else False if exact else None
    values: dict[str, Any] = {flag: node.boolean(flag, False if exact else None) for flag in _FLAGS}
    return Role(
        name=name,
        login=node.boolean("login", login_default),
        inherit=node.boolean("inherit", True if exact else None),
        connection_limit=node.integer("connection_limit", -1 if exact else None, -1, _MOST_CONNECTIONS),
        valid_until=_valid_until(node, "infinity" if exact else None),
        comment=node.text("comment"),
        settings={**_settings(node, "settings", None), **_database_settings(node)},
        member_of=_memberships(node, name),
        keep_members=_patterns(node),
        password=secret,
        has_password=has_password,
        path=node.path,
        **values,
    )


def _secret(node: Node, place: str, value: object) -> str | None:
    problem: str | None = None
    if value is None or value == "":
        problem = "must not be empty; for a role without a password say has_password: false"
    elif not isinstance(value, str):
        problem = f"must be a string, not {kind_of(value)}" + (" (quote it)" if isinstance(value, (bool, int, float)) else "")
    elif text_problem(value):
        problem = text_problem(value)
    elif scram.kind(value) == "md5":
        problem = "is an md5 verifier; give the plain password or a SCRAM-SHA-256 verifier"
    elif value.startswith("SCRAM-SHA-256$") and not scram.is_verifier(value):
        problem = "begins like a SCRAM-SHA-256 verifier but is none"
    if problem:
        node.mistakes.append(Mistake(place, problem))
        return None
    return str(value)


def _valid_until(node: Node, default: str | None) -> str | None:
    value = node.raw("valid_until")
    if value is None:
        return default
    if isinstance(value, date):
        value = value.isoformat()
    moment = moment_of(value.strip()) if isinstance(value, str) else None
    if moment is None:
        node.mistake("valid_until", f'must be a date and time such as "2027-12-31T00:00:00Z", or "infinity", not {value_text(value)}')
        return default
    return moment


def _database_settings(node: Node) -> dict[tuple[str | None, str], object]:
    settings: dict[tuple[str | None, str], object] = {}
    databases = [name for name, _value, _path in node.mapping("database_settings")]
    if databases:
        inner = Node(node.raw("database_settings"), node.at("database_settings"), [], databases)  # the mistakes are noted above
        inner.mistakes = node.mistakes
        for database in databases:
            problem = name_problem(database)
            if problem:
                inner.mistake(database, problem)
            settings.update(_settings(inner, database, database))
    return settings


def _settings(node: Node, key: str, database: str | None) -> dict[tuple[str | None, str], object]:
    settings: dict[tuple[str | None, str], object] = {}
    for name, value, path in node.mapping(key):
        problem = parameter_problem(name) or _value_problem(name.lower(), value)
        if problem is None and (database, name.lower()) in settings:
            problem = "is here twice; the names of parameters know no capitals"
        if problem:
            node.mistakes.append(Mistake(path, problem))
        else:
            settings[(database, name.lower())] = _plain(name.lower(), value)
    return settings


def _value_problem(name: str, value: object) -> str | None:
    if isinstance(value, (list, tuple)) and name in LIST_PARAMETERS:
        wrong = [item for item in value if not isinstance(item, str)]
        if wrong:
            return f"must be a list of strings; one element is {value_text(wrong[0])}"
        return next((problem for problem in map(text_problem, value) if problem), None)
    if not isinstance(value, (bool, int, float, str)):
        hint = "; write the elements as one string, separated by commas" if isinstance(value, (list, tuple)) else ""
        return f"must be a string, a number or a boolean, not {value_text(value)}{hint}"
    return text_problem(value) if isinstance(value, str) else None


def _plain(name: str, value: Any) -> object:
    if isinstance(value, bool):
        return split_setting(name, "on" if value else "off")
    if isinstance(value, (list, tuple)):
        return tuple(str(item) for item in value)
    return split_setting(name, str(value))


def _memberships(node: Node, member: str) -> tuple[Membership, ...]:
    found: dict[str, Membership] = {}
    for item, path in node.entries("member_of"):
        each = Node({"role": item} if isinstance(item, str) else item, path, node.mistakes, _MEMBER_KEYS)
        if not each.says("role") and each.sound:
            each.mistake("role", "is missing: the role to be a member of")
        role = each.text("role", _group_problem)
        entry = Membership(
            role or "",
            member,
            each.text("grantor", one_role_problem),
            bool(each.boolean("admin", False)),
            each.boolean("inherit"),
            each.boolean("set"),
            path,
        )
        if role is None:
            continue
        if role in found and found[role] != entry:
            node.mistakes.append(Mistake(path, f"contradicts an earlier entry for {quoted(role)}"))
        found.setdefault(role, entry)
    return tuple(found[role] for role in sorted(found))


def _patterns(node: Node) -> tuple[str, ...]:
    found = []
    for item, path in node.entries("keep_members"):
        if isinstance(item, str) and item and not text_problem(item):
            found.append(item)
        else:
            node.mistakes.append(Mistake(path, f"must be a role's name, or a pattern such as emp_*, not {value_text(item)}"))
    return tuple(found)


def _group_problem(name: str) -> str | None:
    return "everybody belongs to PUBLIC already; it cannot be granted" if name in ("public", "PUBLIC") else name_problem(name)


def _check_password_names(document: Node, passwords: Mapping[str, Any]) -> None:
    names = [name for name, _value, _path in Node({"roles": document.raw("roles")}, "", [], ("roles",)).mapping("roles")]
    for name in sorted(set(passwords) - set(names)):
        document.mistakes.append(Mistake(child("passwords", name), f"there is no role of this name in the policy{nearest(name, names)}"))


def _check_memberships(document: Node, roles: list[Role], absent: list[AbsentRole]) -> None:
    gone = {role.name for role in absent}
    edges = {role.name: [entry.role for entry in role.member_of] for role in roles}
    for role in roles:
        for entry in role.member_of:
            if entry.role == role.name:
                document.mistakes.append(Mistake(entry.path, "a role cannot be a member of itself"))
            document.mistakes.extend(
                Mistake(entry.path, f"role {quoted(name)} is declared absent")
                for name in (entry.role, entry.grantor)
                if name is not None and name in gone
            )
        cycle = _cycle(role.name, edges)
        if cycle and role.name == min(cycle) and len(cycle) > 2:
            document.mistakes.append(Mistake(f"{role.path}.member_of", "the memberships form a cycle: " + " -> ".join(map(quoted, cycle))))
    for each in absent:
        if each.reassign_to in gone and each.reassign_to != each.name:
            document.mistakes.append(Mistake(f"{each.path}.reassign_to", f"role {quoted(each.reassign_to or '')} is declared absent"))


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
