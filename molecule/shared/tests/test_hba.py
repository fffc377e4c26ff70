# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may connect, and how: tried by psql from the host and through its socket."""

from __future__ import annotations

from typing import Any, Callable

import pytest

Query = Callable[..., str]

ROLES = ("app_service", "migration_user", "readonly_user", "analyst")


@pytest.mark.parametrize("role", ROLES)
def test_no_connection_without_tls(host: Any, role: str) -> None:
    command = f"PGPASSFILE=/root/pgpass PGSSLMODE=disable psql -XqAt --no-password --host=127.0.0.1 --username={role} --dbname=shop --command='SELECT 1'"
    result = host.run(command)
    assert result.rc != 0
    assert "pg_hba.conf rejects connection" in result.stderr
    assert host.run(command.replace("PGSSLMODE=disable", "PGSSLMODE=require")).stdout == "1\n"


@pytest.mark.parametrize("role", ROLES)
def test_the_socket_is_the_administrators(host: Any, role: str) -> None:
    result = host.run(f"runuser -u postgres -- psql -XqAt --username={role} --dbname=shop --command='SELECT 1'")
    assert result.rc != 0
    assert "pg_hba.conf rejects connection" in result.stderr


def test_no_standby_comes_in(host: Any) -> None:
    connection = "host=127.0.0.1 user=app_service dbname=shop replication=true"
    result = host.run(f"PGPASSFILE=/root/pgpass psql -Xq --no-password '{connection}' --command=IDENTIFY_SYSTEM")
    assert result.rc != 0
    assert "pg_hba.conf rejects replication connection" in result.stderr


def test_the_files_belong_to_the_server(host: Any, query: Query) -> None:
    file = host.file(query("SHOW hba_file"))
    assert (file.user, file.group, file.mode) == ("postgres", "postgres", 0o640)
    assert query("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL") == "0"
    assert query("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method IN ('trust', 'md5', 'password', 'ident')") == "0"
