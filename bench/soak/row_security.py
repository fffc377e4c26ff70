# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random statements of tenants, very many of them: none reads or writes anything but what a plain WHERE would.

BULWARK_STATEMENTS says how many on each major version (10000 unless set), BULWARK_PG_MAJORS which versions.
"""

from __future__ import annotations

import os

import psycopg2

from bench import claims
from tests import servers, tenant_oracle
from tests.integration import module
from tests.integration.sql import execute


def leaks(server: servers.Server, kind: str, seed: int, statements: int) -> int:
    """The number of statements that reach other rows, of one kind of key."""
    execute(server, f"CREATE DATABASE {kind}")
    execute(server, *tenant_oracle.schema(kind, server.major), db=kind)
    result = module.run(server, "pg_row_security", databases={kind: {"tenancy": tenant_oracle.TENANCY}})
    if result.get("failed"):
        raise RuntimeError(result["msg"])
    connection = psycopg2.connect(host=server.host, port=server.port, user="postgres", dbname=kind)
    try:
        found = list(tenant_oracle.differences(connection, kind, server.major, seed, statements))
    finally:
        connection.close()
    for line in found:
        print(line)
    return len(found)


def main() -> None:
    """One claim a major version."""
    statements = int(os.environ.get("BULWARK_STATEMENTS", "10000"))
    for major in servers.majors():
        with servers.running(major) as server:
            execute(server, f"CREATE ROLE {tenant_oracle.ROLE}")
            kinds = list(tenant_oracle.KEYS)
            found = sum(leaks(server, kind, 1000 * major + number, statements // len(kinds)) for number, kind in enumerate(kinds))
        claims.record(
            f"PostgreSQL {major}: random statements of 50 tenants that read or write anything but what a plain WHERE would",
            f"make soak (BULWARK_STATEMENTS={statements} on each major version)",
            found,
            0,
            versions={"postgresql": servers.versions()[major]},
        )


if __name__ == "__main__":
    main()
