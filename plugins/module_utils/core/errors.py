# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the engine. Only core/module.py turns them into a module's failure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class BulwarkError(Exception):
    """An error whose text tells the operator what happened and what to do."""


@dataclass(frozen=True)
class Mistake:
    """One mistake in a policy: where it is in the user's YAML and what would be right."""

    path: str
    message: str


class PolicyError(BulwarkError):
    """A policy that cannot be applied, with all of its mistakes."""

    def __init__(self, mistakes: Iterable[Mistake], path_prefix: str = "") -> None:
        """mistakes: at least one. path_prefix: put before every path, to name the user's own variable."""
        unique = sorted(set(mistakes), key=lambda mistake: (mistake.path, mistake.message))
        self.mistakes: Sequence[Mistake] = tuple(Mistake(path_prefix + mistake.path, mistake.message) for mistake in unique)
        super().__init__(self._text())

    def _text(self) -> str:
        count = len(self.mistakes)
        heading = f"The policy has {count} mistake{'s' if count != 1 else ''}; nothing was changed:"
        return "\n".join([heading, *(f"  - {mistake.path}: {mistake.message}" for mistake in self.mistakes)])


def nearest(word: str, accepted: Iterable[str]) -> str:
    """A hint such as ' (did you mean "login"?)' with the nearest accepted word, or nothing where none is near."""
    candidates: list[str] = sorted(set(accepted))
    found = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    if not found:
        found = [candidate for candidate in candidates if candidate.lower() == word.lower()][:1]
    return f' (did you mean "{found[0]}"?)' if found else ""
