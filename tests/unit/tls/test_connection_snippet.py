# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snippets say what was asked for, whatever characters it has, and never less than verify-full."""

from __future__ import annotations

import ast
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import psycopg2.extensions
import pytest
import sqlalchemy
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


@pytest.mark.parametrize(("hosts", "ports"), [("db1,db2", "5432,5433"), (["db1", "db2"], 5432), (["db1", "::1"], ["5432", 5433])])
def test_several_hosts_mean_the_same_to_each_client(hosts: Any, ports: Any) -> None:
    shop = {**SHOP, "host": hosts, "port": ports, "target_session_attrs": "standby"}
    found = psycopg2.extensions.parse_dsn(connection_snippet(shop))
    names = found["host"].split(",")
    each = found["port"].split(",") if "," in found["port"] else [found["port"]] * 2
    assert (names[0], each[0], len(names), found["target_session_attrs"]) == ("db1", "5432", 2, "standby")
    call = ast.parse(connection_snippet(shop, "sqlalchemy"), mode="eval").body
    assert isinstance(call, ast.Call)
    url = sqlalchemy.make_url(ast.literal_eval(call.args[0]))
    _positional, named = sqlalchemy.create_engine(url).dialect.create_connect_args(url)
    assert (named["host"], named["port"]) == (found["host"], ",".join(each))
    jdbc = connection_snippet(shop, "jdbc")
    assert jdbc.startswith("jdbc:postgresql://db1:5432,")
    assert "targetServerType=secondary" in jdbc
    assert "host=" + ",".join(names) in connection_snippet(shop, "service").splitlines()


@pytest.mark.parametrize(
    ("parameters", "style", "message"),
    [
        ("host=db1", "url", "must be a dictionary"),
        ({**SHOP, "sslmode": "disable"}, "url", "unknown parameters sslmode"),
        ({"host": "db1"}, "url", "dbname, sslrootcert must be given"),
        (SHOP, "odbc", "there is no style"),
        ({**SHOP, "dbname": "a\nhost=evil"}, "service", "cannot be written"),
        ({**SHOP, "user": "a\0"}, "url", "NUL"),
        ({**SHOP, "host": "db1,db2,db3", "port": "5432,5433"}, "url", "3 hosts need one port for all or one for each"),
        ({**SHOP, "host": "db1,"}, "url", "hosts need"),
        ({**SHOP, "target_session_attrs": "master"}, "jdbc", "target_session_attrs must be one of any, primary"),
    ],
)
def test_what_is_refused(parameters: object, style: str, message: str) -> None:
    with pytest.raises(AnsibleFilterError, match=message):
        connection_snippet(parameters, style)
