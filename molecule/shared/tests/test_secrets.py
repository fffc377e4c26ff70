# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passwords and verifiers are where they belong and nowhere else. Each test first makes sure that it looks at the right place."""

from __future__ import annotations

import os
import pathlib
import re
from typing import Any

import pytest

SERVER_LOG = "/var/log/postgresql/postgresql-*-main.log"
VERIFIER = r"SCRAM-SHA-256\$[0-9]+:|md5[0-9a-f]{32}"


def secrets(host: Any) -> list[str]:
    lines = host.file("/root/secrets").content_string.splitlines()
    assert len(lines) >= 4
    return list(lines)


def found(host: Any, options: str, where: str) -> str:
    """The files and lines that grep finds; neither finding nothing nor a file that went away meanwhile is an error."""
    result = host.run(f"grep --no-messages --text {options} {where}")
    return str(result.stdout)


def test_the_server_log_holds_no_secret(host: Any) -> None:
    assert found(host, "-E 'GRANT .* TO .*app_service'", SERVER_LOG) != ""
    assert found(host, "-F -f /root/secrets", SERVER_LOG) == ""
    assert found(host, f"-E '{VERIFIER}'", SERVER_LOG) == ""


def test_no_process_showed_a_secret(host: Any) -> None:
    assert "sudo" in found(host, "'BECOME-SUCCESS'", "/var/log/witness.log")
    assert found(host, "-F -f /root/secrets", "/var/log/witness.log") == ""
    assert found(host, f"-E '{VERIFIER}'", "/var/log/witness.log") == ""


def test_no_file_holds_a_password(host: Any) -> None:
    assert found(host, "-r -l -F -f /root/secrets", "/root/secrets") != ""
    assert found(host, "-r -l -F -f /root/secrets", "/etc /home /opt /root/.ansible /srv /tmp /usr/local /var") == ""


def test_ansible_says_no_secret(host: Any) -> None:
    """Ansible's log of every playbook so far, with --diff."""
    text = pathlib.Path(os.environ["BULWARK_MOLECULE_LOG"]).read_text(encoding="utf-8")
    assert "role app_service: password" in text
    assert [secret for secret in secrets(host) if secret in text] == []
    assert re.search(VERIFIER, text) is None


@pytest.mark.parametrize("directory", ["/root/.ansible/tmp", "/var/lib/postgresql/.ansible/tmp", "/var/tmp"])
def test_ansible_left_no_temporary_files(host: Any, directory: str) -> None:
    assert "ansible-tmp" not in host.run(f"ls -A {directory}").stdout
