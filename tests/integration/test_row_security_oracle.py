# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tenant reads and writes in 2,000 random statements is what a plain WHERE gives; without the role, the same comparison finds leaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2
import pytest

from tests import tenant_oracle
from tests.integration import module
from tests.integration.sql import execute

if TYPE_CHECKING:
    from tests.servers import Server

STATEMENTS = 2000  # on each major version, over three types of keys


@pytest.mark.parametrize("kind", tenant_oracle.KEYS)
def test_no_statement_of_a_tenant_reaches_another(cluster: Server, kind: str) -> None:
    execute(cluster, "CREATE DATABASE shop", f"CREATE ROLE {tenant_oracle.ROLE}")
    execute(cluster, *tenant_oracle.schema(kind, cluster.major), db="shop")
    connection = psycopg2.connect(host=cluster.host, port=cluster.port, user="postgres", dbname="shop")
    try:
        assert len(list(tenant_oracle.differences(connection, kind, cluster.major, 1, 30))) > 10, "the oracle sees nothing"
        result = module.run(cluster, "pg_row_security", databases={"shop": {"tenancy": tenant_oracle.TENANCY}})
        assert not result.get("failed"), result["msg"]
        assert list(tenant_oracle.differences(connection, kind, cluster.major, cluster.major, STATEMENTS // len(tenant_oracle.KEYS))) == []
    finally:
        connection.close()
