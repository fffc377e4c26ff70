# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading documents: every getter's good values, and the exact path and text of every mistake."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.document import Node, child, quoted
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import Mistake, PolicyError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.identifiers import name_problem


class Text(str):
    """A string that remembers where it is from, as Ansible's are."""

    __slots__ = ()


def read(value: Any) -> Node:
    """A node with one key, x, at the path top."""
    return Node({"x": value}, "top", [], ("x",))


@pytest.mark.parametrize("value", [True, "yes", "True", " on ", Text("true")])
def test_true(value: object) -> None:
    node = read(value)
    assert node.boolean("x") is True
    assert not node.mistakes


@pytest.mark.parametrize("value", [False, "no", "FALSE", "off"])
def test_false(value: object) -> None:
    assert read(value).boolean("x", True) is False


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (1, "the number 1"),
        ("", 'the string ""'),
        ("perhaps", 'the string "perhaps"'),
        ([True], "a list"),
        ({}, "a mapping"),
        (b"", "a bytes"),
        ("a\nb", 'the string "a\\nb"'),
        ("x" * 99, 'the string "' + "x" * 60 + '..."'),
        (10**99, "a number"),
        ("\ud800", 'the string "\\ud800"'),
    ],
)
def test_no_boolean(value: object, found: str) -> None:
    node = read(value)
    assert node.boolean("x", "default") == "default"
    assert node.mistakes == [Mistake("top.x", f"must be true or false, not {found}")]


@pytest.mark.parametrize(("value", "number"), [(5, 5), ("5", 5), (" -1 ", -1), ("+7", 7), (Text("9"), 9)])
def test_integers(value: object, number: int) -> None:
    assert read(value).integer("x", None, -1, 9) == number


@pytest.mark.parametrize("value", [-2, 10, True, 1.0, "1.0", "", "x", "\u0665", "--5", "9" * 5000, [], float("nan")])
def test_no_integer(value: object) -> None:
    node = read(value)
    assert node.integer("x", 3, -1, 9) == 3
    assert [mistake.path for mistake in node.mistakes] == ["top.x"]
    assert node.mistakes[0].message.startswith("must be a whole number from -1 to 9, not ")


def test_texts_are_plain_strings() -> None:
    assert read(Text("a")).text("x").__class__ is str
    assert [name.__class__ for name in read([Text("a")]).names("x", name_problem)] == [str]
    assert [type(name) for name, _value, _path in read({Text("a"): 1}).mapping("x")] == [str]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "must be a string, not the number 5"),
        ("a\0", "must not hold the character NUL"),
        ("\ud800", "must be valid Unicode"),
        ([], "must be a string, not a list"),
    ],
)
def test_no_text(value: object, message: str) -> None:
    node = read(value)
    assert node.text("x") is None
    assert node.mistakes == [Mistake("top.x", message)]


def test_names() -> None:
    assert read("a").names("x", name_problem) == ("a",)
    assert read(["b", "a", "b"]).names("x", name_problem) == ("b", "a")
    node = read(["a", 5, "", None])
    assert node.names("x", name_problem) == ("a",)
    assert node.mistakes == [
        Mistake("top.x[1]", "must be a name, not the number 5 (quote it)"),
        Mistake("top.x[2]", "a name must not be empty"),
        Mistake("top.x[3]", "must be a name, not nothing"),
    ]


def test_words() -> None:
    assert read("one").word("x", ("one", "two"), "two") == "one"
    node = read("tow")
    assert node.word("x", ("one", "two"), "one") == "one"
    assert node.mistakes == [Mistake("top.x", '"tow" is not accepted (did you mean "two"?); accepted: one, two')]


def test_mappings_come_sorted_with_their_paths() -> None:
    node = read({"b": 1, "a.c": 2, 7: 3})
    assert list(node.mapping("x")) == [("a.c", 2, 'top.x["a.c"]'), ("b", 1, "top.x.b")]
    assert node.mistakes == [Mistake("top.x.7", "a name must be a string, not the number 7 (quote it)")]


def test_lists_come_with_their_paths() -> None:
    assert list(read(["a", {}]).entries("x")) == [("a", "top.x[0]"), ({}, "top.x[1]")]


@pytest.mark.parametrize("value", ["a", 5, True, {"a": 1}])
def test_no_list(value: object) -> None:
    node = read(value)
    assert list(node.entries("x")) == []
    assert [mistake.path for mistake in node.mistakes] == ["top.x"]


def test_a_key_without_a_value_says_nothing() -> None:
    node = read(None)
    assert (node.boolean("x", 1), node.text("x"), node.integer("x", 2, 0, 9), node.names("x", name_problem)) == (1, None, 2, ())
    assert list(node.mapping("x")) == list(node.entries("x")) == []
    assert "x" in node
    assert not node.says("x")
    assert not node.mistakes


def test_unknown_keys_and_no_mapping() -> None:
    node = Node({"logn": 1, 5: 2}, "roles.r", [], ("login",))
    assert node.mistakes == [
        Mistake("roles.r.logn", 'unknown key (did you mean "login"?); accepted: login'),
        Mistake("roles.r.5", "unknown key; accepted: login"),
    ]
    assert not node.sound
    node = Node([], "", [], ("login",))
    assert node.mistakes == [Mistake("policy", "must be a mapping, not a list")]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("app", "a.app"),
        ("\u00fc-1", "a.\u00fc-1"),
        ("a.b", 'a["a.b"]'),
        ("a b", 'a["a b"]'),
        ('a"', 'a["a\\""]'),
        ("\n", 'a["\\n"]'),
        ("", 'a[""]'),
        ("x[0]", 'a["x[0]"]'),
    ],
)
def test_paths(name: str, path: str) -> None:
    assert child("a", name) == path


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_paths_are_one_line_and_tell_names_apart(one: str, other: str) -> None:
    assert child("a", one).encode("utf-8").count(b"\n") == 0
    assert quoted(one).encode("utf-8").count(b"\n") == 0
    if "\\" not in one + other:
        assert (child("a", one) == child("a", other)) is (one == other)


def test_the_error_names_all_mistakes_once_in_order() -> None:
    error = PolicyError([Mistake("b", "two"), Mistake("a", "one"), Mistake("b", "two")], "pg_users_")
    assert [mistake.path for mistake in error.mistakes] == ["pg_users_a", "pg_users_b"]
    assert str(error) == "The policy has 2 mistakes; nothing was changed:\n  - pg_users_a: one\n  - pg_users_b: two"
