# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares our reading of pg_hba.conf with the server's own, pg_hba_file_rules."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

import psycopg2

from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.catalog import LocalFiles
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import Rule, address_parts
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.reading import read_rules

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.servers import Server

_COLUMNS = "line_number, type, database, user_name, address, netmask, auth_method, error"

# No mistake in a line, but in what the server was built with, and in when it is read.
_OF_THE_SERVER = ("not supported by this build", "record cannot match")


def disagreements(server: Server, files: Iterable[str]) -> list[dict[str, Any]]:
    """Each text that the server reads in another way, with both readings. The server's file is put back."""
    path = server.data / "pg_hba.conf"
    before = path.read_bytes()
    found = []
    connection = psycopg2.connect(server.conninfo())
    connection.autocommit = True
    try:
        for text in files:
            path.write_bytes(text.encode())
            theirs, unknown = _theirs(connection, server)
            ours = {each for each in _ours(server) if each[:2] not in unknown}
            if theirs != ours:
                found.append({"text": text, "only the server": sorted(theirs - ours, key=str), "only we": sorted(ours - theirs, key=str)})
    finally:
        connection.close()
        path.write_bytes(before)
    return found


def _theirs(connection: Any, server: Server) -> tuple[set[tuple[Any, ...]], set[tuple[Any, ...]]]:
    """What the server reads, and the lines of which it does not say what they are."""
    main = "file_name = current_setting('hba_file')" if server.major >= 16 else "true"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {_COLUMNS}, {main} FROM pg_hba_file_rules")
        rows = cursor.fetchall()
    found: set[tuple[Any, ...]] = set()
    unknown: set[tuple[Any, ...]] = set()
    for line, kind, databases, roles, address, netmask, method, error, is_main in rows:
        if error and not any(each in error for each in _OF_THE_SERVER):
            found.add((is_main, line, "error"))
        elif kind is None:
            unknown.add((is_main, line))
        else:
            where = address if netmask is None else str(ipaddress.ip_address(address)) + "/" + str(ipaddress.ip_address(netmask))
            found.add((is_main, line, kind, tuple(databases or ()), tuple(roles or ()), where, method))
    return found, unknown


def _ours(server: Server) -> set[tuple[Any, ...]]:
    path = str(server.data / "pg_hba.conf")
    contents = read_rules(path, LocalFiles(), server.major)
    found: set[tuple[Any, ...]] = {(each.file == path, each.line, "error") for each in contents.problems}
    for rule in contents.rules:
        names = tuple(token.text for token in rule.databases), tuple(token.text for token in rule.roles)
        found.add((rule.file == path, rule.line, rule.type, *names, _where(rule), rule.method))
    return found


def _where(rule: Rule) -> str | None:
    if rule.address is None:
        return None
    network = rule.network
    if network is not None:
        return rule.address.text.partition("/")[0] + "/" + str(network.netmask)
    return "/".join(address_parts(rule.address))
