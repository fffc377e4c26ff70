# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of the scenarios have in common: psql as any role, on the managed node, without any code of the collection."""

from __future__ import annotations

import shlex
from typing import Any, Callable

import pytest

Outcomes = Callable[..., "list[str]"]
Query = Callable[..., str]

TCP = "psql -XqAt --no-password --host=127.0.0.1"


@pytest.fixture(scope="module")
def outcomes(host: Any) -> Outcomes:
    """Runs statements as a role, over TCP with its password, in one session: the SQLSTATE of each, or the message of a refused connection.

    The session has the context of the first tenant, as the application's transactions have one.
    """

    def run(role: str, statements: list[str], *, database: str = "shop", keep: bool = True) -> list[str]:
        begin, end = ("", "") if keep else ("BEGIN;\n", "ROLLBACK;\n")
        script = "".join(f"{begin}{statement};\n\\echo :SQLSTATE\n{end}" for statement in statements)
        command = f"PGOPTIONS='-c app.current_tenant_id=1' PGPASSFILE=/root/pgpass {TCP} --username={role} --dbname={database} --output=/dev/null"
        result = host.run(f"printf %s {shlex.quote(script)} | {command}")
        states = str(result.stdout).split()
        return states if len(states) == len(statements) else [str(result.stderr).strip()] * len(statements)

    return run


@pytest.fixture(scope="module")
def query(host: Any) -> Query:
    """The answer to a query: of a role over TCP, in the context of a tenant, of the superuser over the Unix socket."""

    def run(sql: str, *, database: str = "shop", role: str | None = None, tenant: str = "") -> str:
        psql = f"PGOPTIONS='-c app.current_tenant_id={tenant}' PGPASSFILE=/root/pgpass {TCP} --username={role}" if role else "runuser -u postgres -- psql -XqAt"
        result = host.run(f"{psql} --set=ON_ERROR_STOP=1 --dbname={database} --command={shlex.quote(sql)}")
        assert result.rc == 0, result.stderr
        return str(result.stdout).strip()

    return run
