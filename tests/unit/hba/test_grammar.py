# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading and writing pg_hba.conf: what is written reads the same, and odd texts read as the server reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.grammar import Token, line_text, parse
from tests import hba_texts


def fields(text: str) -> list[list[list[str]]]:
    """The texts of the tokens of each line."""
    return [[[token.text for token in field] for field in line.fields] for line in parse(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host all all", [[["host"], ["all"], ["all"]]]),
        ("a,b c", [[["a", "b"], ["c"]]]),
        ("a, b c", [[["a", "b"], ["c"]]]),
        ("a ,b c", [[["a"], ["b"], ["c"]]]),
        (",a", [[["a"]]]),
        ('"a b" c', [[["a b"], ["c"]]]),
        ('"a""b"', [[['a"b']]]),
        ('a"b c"d', [[["ab cd"]]]),
        ('"a b', [[["a b"]]]),
        ('""', [[[""]]]),
        ("a#b c\nd", [[["a"]], [["d"]]]),
        ('"a#b"', [[["a#b"]]]),
        ("a \\\nb", [[["a"], ["b"]]]),
        ("a \\\n\nb", [[["a"]], [["b"]]]),
        ("# a \\\nb\nc", [[["c"]]]),
        ("a\r\nb\r\n", [[["a"]], [["b"]]]),
        ("a\\", [[["a"]]]),
        ("", []),
    ],
)
def test_a_text_reads_as_the_server_reads_it(text: str, expected: list[list[list[str]]]) -> None:
    assert fields(text) == expected


def test_lines_have_the_number_of_their_first_line() -> None:
    assert [line.number for line in parse("# x\n\na \\\nb\nc\n")] == [3, 5]


@given(st.text(alphabet=st.sampled_from(' \t\r\n,#"\\@+/=ab1.é:\v')))
def test_what_is_written_reads_the_same(text: str) -> None:
    lines = parse(text)
    again = parse("".join(line_text(line.fields) + "\n" for line in lines))
    assert [line.fields for line in again] == [line.fields for line in lines]


@given(st.integers(), st.sampled_from((14, 16, 18)))
def test_rules_are_written_so_that_they_read_the_same(seed: int, major: int) -> None:
    assert hba_texts.file_survives(seed, major)


@given(st.integers(), st.sampled_from((14, 16, 18)))
def test_what_a_document_says_is_what_its_file_says(seed: int, major: int) -> None:
    assert hba_texts.document_survives(seed, major)


def test_includes_are_read_where_the_version_knows_them() -> None:
    text = "include more.conf\nlocal @names all peer\n"
    rules = [str(rule) for rule in hba_texts.read(text, 18).rules]
    assert rules == [
        "local all app peer",
        "host x y 10.0.0.1/32 scram-sha-256",
        "local shop,postgres,app all peer",
    ]
    assert [problem.message for problem in hba_texts.read(text, 15).problems] == ['invalid connection type "include"']


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hots all all trust", "invalid connection type"),
        ("host all all 10.0.0.0/33 trust", "invalid CIDR mask"),
        ("host all all db.example.org/8 trust", "both host name and CIDR mask"),
        ("host all all 10.0.0.0 trust", "mask"),
        ("host all all", "end-of-line before IP address"),
        ("local all all cert", "only supported on hostssl"),
        ("host all all all peer", "only supported on local"),
        ("local all all peer nonsense", "name=value"),
        ("local all all peer x=y", "unrecognized"),
        ("hostssl all all all oauth issuer=x", 'requires argument "scope"'),
        ("local all all @missing peer", "could not open"),
    ],
)
def test_a_line_that_the_server_refuses_is_a_problem(line: str, message: str) -> None:
    found = hba_texts.read(f"# heading\n{line}\n", 18)
    assert not found.rules
    assert [problem.line for problem in found.problems] == [2]
    assert message in found.problems[0].message


def test_names_that_are_words_are_quoted() -> None:
    assert [str(Token(text, quoted=True)) for text in ("all", 'a"b')] == ['"all"', '"a""b"']
