# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server shows in a TLS handshake, and what it refuses: asked by openssl and psql."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, Callable

import pytest

Query = Callable[..., str]

BUNDLE = "/root/ca.crt"


@pytest.fixture(scope="module", autouse=True)
def bundle(host: Any) -> None:
    """What a client needs to know the server by, as the controller has it."""
    text = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "ca" / "clients" / "ca.crt").read_text(encoding="ascii")
    assert host.run(f"printf %s {shlex.quote(text)} > {BUNDLE}").rc == 0


def connect(host: Any, options: str) -> Any:
    return host.run(f"PGPASSFILE=/root/pgpass psql -XqAt --no-password {shlex.quote('user=app_service dbname=shop ' + options)} --command='SELECT 1'")


def test_verify_full(host: Any) -> None:
    assert connect(host, f"host=localhost sslmode=verify-full sslrootcert={BUNDLE}").stdout == "1\n"


def test_another_name_is_refused(host: Any) -> None:
    result = connect(host, f"host=db.example.org hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={BUNDLE}")
    assert result.rc != 0
    assert "does not match host name" in result.stderr


def test_another_authority_is_refused(host: Any) -> None:
    result = connect(host, "host=127.0.0.1 sslmode=verify-ca sslrootcert=/etc/ssl/certs/ca-certificates.crt")
    assert result.rc != 0
    assert "certificate verify failed" in result.stderr


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(host: Any, version: str) -> None:
    # Security level 0, so that it is the server that refuses.
    result = host.run(f"openssl s_client -starttls postgres -connect 127.0.0.1:5432 {version} -cipher DEFAULT@SECLEVEL=0 </dev/null")
    assert "Cipher is (NONE)" in result.stdout


def test_the_certificate_stands_for_the_names(host: Any) -> None:
    shown = host.run(f"openssl s_client -starttls postgres -connect 127.0.0.1:5432 -verify_hostname localhost -CAfile {BUNDLE} </dev/null")
    assert "Verify return code: 0 (ok)" in shown.stdout


def test_the_key_is_the_servers_alone(host: Any, query: Query) -> None:
    file = host.file(query("SHOW ssl_key_file"))
    assert (file.user, file.group, file.mode) == ("postgres", "postgres", 0o600)
    assert query("SHOW ssl") == "on"
