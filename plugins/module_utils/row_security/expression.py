# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL expressions that a person writes: whether one is a single expression, so that nothing else can hide behind it."""

from __future__ import annotations

import hashlib
import re

from ..core.document import text_problem

# The pieces of SQL that may hold anything, as the chapter "Lexical Structure" has them.
_PIECES = re.compile(
    r"""(?P<escape>\b[eE]'(?:[^'\\]|\\.|'')*')
    |(?P<text>'(?:[^']|'')*')
    |(?P<name>"(?:[^"]|"")*")
    |(?P<dollar>\$(?P<tag>[^\x00-@\[-^`{-\x7f]*)\$.*?\$(?P=tag)\$)
    |(?P<comment>--|/\*)
    |(?P<open>[(\[])|(?P<close>[)\]])|(?P<end>;)|(?P<quote>['"])""",
    re.DOTALL | re.VERBOSE,
)


def expression_problem(text: str) -> str | None:
    """Why a text cannot be one SQL expression, or None. Whether it means anything is the server's to say."""
    problem = text_problem(text)
    if problem or not text.strip():
        return problem or "must not be empty"
    depth: list[str] = []
    for piece in _PIECES.finditer(text):
        kind = piece.lastgroup if piece.lastgroup != "tag" else "dollar"
        if kind == "comment":
            return "must not hold a comment"
        if kind == "end":
            return "must be one expression, without a semicolon"
        if kind == "quote":
            return "has a quotation mark that is not closed"
        if kind == "open":
            depth.append(")" if piece[0] == "(" else "]")
        if kind == "close" and (not depth or depth.pop() != piece[0]):
            return f'has a "{piece[0]}" too many'
    return f'lacks a "{depth[-1]}"' if depth else None


def stamp(written: tuple[str | None, str | None], stored: tuple[str | None, str | None]) -> str:
    """The comment of a policy: digests of its USING and WITH CHECK as a person wrote them and as the server shows them."""
    return f"bulwark.postgresql: {digest(*written)} {digest(*stored)}"


def digest(using: str | None, check: str | None) -> str:
    """A digest of two expressions; the server computes the same (reconcile)."""
    return hashlib.sha256(f"{using or ''}\x01{check or ''}".encode()).hexdigest()[:32]
