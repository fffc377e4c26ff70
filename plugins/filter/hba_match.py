# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filter hba_match; its documentation is hba_match.yml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.grammar import Token, field_tokens
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.match import ask
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import TYPES, Question, Rule


def hba_match(
    rules: list[dict[str, Any]],
    *,
    role: str,
    database: str = "",
    address: str | None = None,
    encrypted: bool | None = None,
    replication: bool = False,
    groups: list[str] | None = None,
    major: int = 18,
) -> dict[str, Any]:
    """The answer as pg_hba_info gives it. Raises AnsibleFilterError where the input is no list of its rules."""
    if not isinstance(rules, list):
        raise AnsibleFilterError("hba_match takes the rules that pg_hba_info returns, a list")
    question = Question(role, database, address, replication=replication)
    return ask([_rule(each, place) for place, each in enumerate(rules)], question, {role: frozenset(groups or [])}, major, encrypted)


def _rule(each: Any, place: int) -> Rule:
    needed = ("type", "databases", "roles", "method")
    if not isinstance(each, Mapping) or any(key not in each for key in needed) or each["type"] not in TYPES:
        raise AnsibleFilterError(f"hba_match: entry {place} is no rule of pg_hba_info: it has {', '.join(needed)}, and address")
    parts = [] if each["type"] == "local" else field_tokens(str(each.get("address") or "all"))
    # An address and its mask are two words of one.
    address = Token(" ".join(part.text for part in parts), parts[0].quoted) if parts else None
    return Rule(
        each["type"],
        tuple(token for name in each["databases"] for token in field_tokens(name)),
        tuple(token for name in each["roles"] for token in field_tokens(name)),
        address,
        each["method"],
        tuple((each.get("options") or {}).items()),
        file=each.get("file", ""),
        line=each.get("line", 0),
    )


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """The filters of this file."""
        return {"hba_match": hba_match}
