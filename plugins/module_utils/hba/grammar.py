# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The grammar of pg_hba.conf and pg_ident.conf: logical lines, fields, tokens, quoting, and writing them so that they read the same.

Source: the chapter "Client Authentication" of PostgreSQL's documentation, and what pg_hba_file_rules of 14 to 18 says of odd texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BLANK = " \t\r"
_SPECIAL = re.compile(r'[\s,#"]|\\$')


@dataclass(frozen=True)
class Token:
    """A word of a file. quoted: it began with a quotation mark, so that it is a name and no keyword, no group and no @file."""

    text: str
    quoted: bool = False

    def keyword(self, word: str) -> bool:
        """Whether it is this keyword."""
        return not self.quoted and self.text == word

    def __str__(self) -> str:
        return written(self)


@dataclass(frozen=True)
class Line:
    """A logical line that is not empty. number: of its first line in the file, from 1."""

    number: int
    fields: tuple[tuple[Token, ...], ...]


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, those that end with a backslash joined with the next."""
    lines = text.split("\n")
    position = 0
    while position < len(lines):
        number, joined, last = position + 1, "", 0
        while position < len(lines):
            joined = (joined + lines[position]).rstrip("\r")
            position += 1
            # A backslash counts only where the line added something: an empty line ends it.
            if not (len(joined) > last and joined.endswith("\\")):
                break
            joined = joined[:-1]
            last = len(joined)
        yield number, joined


def parse(text: str) -> list[Line]:
    """The lines of a file that hold something. Every text can be read; a quotation mark that is not closed ends with its line."""
    found = []
    for number, line in logical_lines(text):
        fields = tuple(_fields(line))
        if fields:
            found.append(Line(number, fields))
    return found


def _fields(line: str) -> Iterator[tuple[Token, ...]]:
    position = 0
    while True:
        tokens: list[Token] = []
        comma = True
        while comma:
            token, position, comma = _token(line, position)
            if token is None:
                break
            tokens.append(token)
        if not tokens:
            return
        yield tuple(tokens)


def _token(line: str, position: int) -> tuple[Token | None, int, bool]:
    """The next token, where to go on, and whether a comma followed it."""
    while position < len(line) and line[position] in _BLANK + ",":
        position += 1
    text = ""
    inside = doubled = seen = initial = False
    while position < len(line):
        character = line[position]
        if not inside and character in _BLANK + "#,":
            break
        if character != '"' or doubled:
            text += character
        doubled = not doubled if inside and character == '"' else False
        if character == '"':
            inside, seen = not inside, True
            initial = initial or not text
        position += 1
    if not (seen or text):
        return None, len(line), False
    if position < len(line) and line[position] == "#":
        return Token(text, initial), len(line), False
    comma = position < len(line) and line[position] == ","
    return Token(text, initial), position + comma, comma


def written(token: Token) -> str:
    """The token as a file has it."""
    if token.quoted:
        return _in_quotes(token.text)
    special = _SPECIAL.search(token.text)
    if special is None:
        return token.text
    # Quotation marks that do not begin the token leave it what it is: ldapsuffix=", dc=example"
    equals = token.text.find("=", 0, special.start())
    cut = equals + 1 if equals >= 0 else max(special.start(), 1)
    return token.text[:cut] + _in_quotes(token.text[cut:])


def _in_quotes(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def field_text(tokens: Iterable[Token]) -> str:
    """A field as a file has it."""
    return ",".join(written(token) for token in tokens)


def field_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of one field; of a text that has more, all of them."""
    return tuple(token for field in _fields(text.replace("\n", " ")) for token in field)


def line_text(fields: Iterable[tuple[Token, ...]], widths: Iterable[int] = ()) -> str:
    """A line as a file has it, its columns padded to the widths."""
    texts = [field_text(field) for field in fields]
    padded = [text.ljust(width) for text, width in zip(texts, widths)]
    return " ".join([*padded, *texts[len(padded) :]]).rstrip(" ")
