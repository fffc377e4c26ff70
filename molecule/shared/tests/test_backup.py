# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cron makes backups that the identities on the controller alone can read."""

from __future__ import annotations

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = "runuser -u postgres -- pg-bulwark-backup"
DIRECTORY = "/var/backups/postgresql"


@pytest.fixture(scope="module")
def identities() -> list[str]:
    """The secret keys, of the operators and in escrow."""
    text = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "identities").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("AGE-SECRET-KEY")]


@pytest.fixture(scope="module")
def backups(host: Any) -> dict[str, dict[str, Any]]:
    """The newest backup of each kind, of those that cron has made."""
    for _second in range(150):
        found = json.loads(host.run(f"{PROGRAM} list --json").stdout or "[]")
        newest = {each["kind"]: each for each in found}
        if len(newest) == 2:
            return newest
        time.sleep(1)
    raise AssertionError(host.run(f"{PROGRAM} status").stdout)


@pytest.mark.parametrize("which", [0, 1])
def test_a_physical_backup_is_whole_for_each_identity(host: Any, backups: dict[str, dict[str, Any]], identities: list[str], which: int) -> None:
    path = f"{DIRECTORY}/physical/{backups['physical']['label']}/base.tar.zst.age"
    listed = host.run(f"printf %s {shlex.quote(identities[which])} | age -d -i - {path} | zstd -dc | tar -t")
    assert listed.rc == 0, listed.stderr
    assert {"PG_VERSION", "backup_manifest", "global/pg_control"} <= set(listed.stdout.split())


def test_a_logical_backup_has_the_tables_and_the_roles(host: Any, backups: dict[str, dict[str, Any]], identities: list[str]) -> None:
    folder = f"{DIRECTORY}/logical/{backups['logical']['label']}"
    start = f"printf %s {shlex.quote(identities[0])} | age -d -i - {folder}"
    listed = host.run(f"{start}/database0.dump.zst.age | zstd -dc | pg_restore --list")
    assert listed.rc == 0, listed.stderr
    assert "TABLE DATA app users" in listed.stdout
    assert "POLICY app users" in listed.stdout
    assert "CREATE ROLE app_service" in host.run(f"{start}/globals.sql.zst.age | zstd -dc").stdout


def test_they_are_made_by_a_role_that_is_no_superuser(host: Any, backups: dict[str, dict[str, Any]]) -> None:
    assert backups
    assert json.loads(host.file("/etc/bulwark-backup/main.json").content_string)["user"] == "bulwark_backup"
    asked = "SELECT rolsuper, rolreplication, rolbypassrls FROM pg_roles WHERE rolname = current_user"
    result = host.run(f"runuser -u postgres -- psql -XqAt -U bulwark_backup -d postgres -c {shlex.quote(asked)}")
    assert result.stdout.strip() == "f|t|t", result.stderr


def test_nobody_else_reads_the_directory_and_nothing_in_it_is_plain(host: Any, backups: dict[str, dict[str, Any]]) -> None:
    assert backups
    directory = host.file(DIRECTORY)
    assert (directory.user, directory.mode) == ("postgres", 0o700)
    plain = host.run(f"find {DIRECTORY} -type f ! -name '*.age' ! -name '*.json' ! -name '*.jsonl' ! -name lock ! -name '.*.tmp'")
    assert plain.stdout == ""


def test_what_was_stored_is_what_is_there(host: Any, backups: dict[str, dict[str, Any]]) -> None:
    assert backups
    verified = host.run(f"{PROGRAM} verify")
    assert verified.stdout.splitlines()[-1] == "0 problems", verified.stdout
