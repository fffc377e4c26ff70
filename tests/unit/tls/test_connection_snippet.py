# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snippets say what was asked for, whatever characters it has, and never less than verify-full."""

from __future__ import annotations

import ast
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg2.extensions
import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.filter.connection_snippet import connection_snippet

SHOP = {"host": "db1.example.org", "dbname": "shop", "user": "shop_app", "sslrootcert": "/etc/ca.crt"}
WORDS = st.text(st.characters(min_codepoint=1, codec="utf-8"), min_size=1, max_size=20)


def test_service() -> None:
    assert connection_snippet({**SHOP, "sslcert": "/c", "sslkey": "/k"}, "service") == (
        "[shop]\nhost=db1.example.org\nport=5432\ndbname=shop\nuser=shop_app\nsslmode=verify-full\nsslrootcert=/etc/ca.crt\nsslcert=/c\nsslkey=/k\n"
    )


@given(WORDS, WORDS, WORDS)
def test_the_url_means_what_was_said(dbname: str, user: str, path: str) -> None:
    found = psycopg2.extensions.parse_dsn(connection_snippet({"host": "db1", "dbname": dbname, "user": user, "sslrootcert": path}))
    assert found == {"host": "db1", "port": "5432", "dbname": dbname, "user": user, "sslrootcert": path, "sslmode": "verify-full"}


@given(WORDS, WORDS)
def test_jdbc(dbname: str, user: str) -> None:
    text = connection_snippet({"host": "::1", "dbname": dbname, "user": user, "sslrootcert": "/ca", "channel_binding": "require"}, "jdbc")
    parts = urlsplit(text.removeprefix("jdbc:"))
    assert (parts.hostname, unquote(parts.path[1:])) == ("::1", dbname)
    assert parse_qs(parts.query) == {"user": [user], "sslmode": ["verify-full"], "sslrootcert": ["/ca"], "channelBinding": ["require"]}


@given(WORDS)
def test_python(dbname: str) -> None:
    call = ast.parse(connection_snippet({**SHOP, "dbname": dbname}, "psycopg"), mode="eval").body
    assert isinstance(call, ast.Call)
    assert {word.arg: ast.literal_eval(word.value) for word in call.keywords} == {**SHOP, "dbname": dbname, "port": "5432", "sslmode": "verify-full"}
    entry = ast.literal_eval(connection_snippet({**SHOP, "dbname": dbname, "port": 5433}, "django"))
    assert (entry["NAME"], entry["PORT"], entry["OPTIONS"]["sslmode"]) == (dbname, "5433", "verify-full")


@pytest.mark.parametrize(
    ("parameters", "style", "message"),
    [
        ("host=db1", "url", "must be a dictionary"),
        ({**SHOP, "sslmode": "disable"}, "url", "unknown parameters sslmode"),
        ({"host": "db1"}, "url", "dbname, sslrootcert must be given"),
        (SHOP, "odbc", "there is no style"),
        ({**SHOP, "dbname": "a\nhost=evil"}, "service", "cannot be written"),
        ({**SHOP, "user": "a\0"}, "url", "NUL"),
    ],
)
def test_what_is_refused(parameters: object, style: str, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        connection_snippet(parameters, style)
