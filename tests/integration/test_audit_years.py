# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The audit log over years: partitions made ahead, a lapse, retention with its files, and what goes wrong with them."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.integration import module
from tests.integration.sql import execute, query, value

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

POLICY: dict[str, Any] = {"shop": {"tables": ["app"], "readers": ["auditor"]}}
needs_zstd = pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the program zstd")
THIS_MONTH = "date_trunc('month', now() AT TIME ZONE 'UTC')"


@pytest.fixture
def shop(cluster: Server) -> Server:
    """A database with a log."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE auditor LOGIN", "CREATE ROLE app_service LOGIN")
    execute(cluster, "CREATE SCHEMA app; CREATE TABLE app.t (id int PRIMARY KEY, v text)", db="shop")
    applied(cluster)
    return cluster


def applied(server: Server, databases: Any = None, **options: Any) -> module.Result:
    """The module, which has to succeed."""
    result = module.run(server, "pg_audit_trail", databases=databases or POLICY, diff=True, **options)
    assert not result.get("failed"), result["msg"]
    return result


def with_retention(directory: Path, months: int = 2) -> dict[str, Any]:
    """The policy with a retention."""
    return {"shop": {**POLICY["shop"], "retention": {"months": months, "directory": str(directory)}}}


def partitions(server: Server) -> list[str]:
    """The partitions of the log."""
    return [
        name for (name,) in query(server, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'audit.entries'::regclass ORDER BY 1", db="shop")
    ]


def months(server: Server, first: int, last: int) -> list[str]:
    """The names of the partitions of these months, counted from the current one."""
    names = f"SELECT 'audit.entries_' || to_char({THIS_MONTH} + make_interval(months => n), 'YYYY_MM') FROM generate_series({first}, {last}) n"
    return [name for (name,) in query(server, names)]


def old_records(server: Server, *ago: int) -> None:
    """Records as they were written some months ago, two for each."""
    for number in ago:
        when = f"({THIS_MONTH} - make_interval(months => {number}) + interval '3 days') AT TIME ZONE 'UTC'"
        columns = "changed_at, statement_at, transaction_id, action, schema_name, table_name, record_id, session_role, effective_role, new_values"
        values = f"{when}, now(), '1', 'I', 'app', 't', '{number}', 'app', 'app', json_build_object('v', E'ä \" ,\\n{number}')"
        execute(server, f"INSERT INTO audit.entries ({columns}) SELECT {values} FROM generate_series(1, 2)", db="shop")


def test_partitions_are_made_ahead(shop: Server) -> None:
    assert partitions(shop) == sorted([*months(shop, 0, 3), "audit.entries_default"])
    more = applied(shop, months_ahead=5)
    assert [change["change"].split("  ")[-1] for change in more["plan"]] == ["+partition " + name.removeprefix("audit.") for name in months(shop, 4, 5)]
    assert applied(shop, months_ahead=5)["plan"] == []
    execute(shop, "SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German, DMY'; INSERT INTO app.t VALUES (1, 'a')", db="shop")
    assert value(shop, "SELECT tableoid::regclass::text FROM audit.entries", db="shop") == months(shop, 0, 0)[0]
    for statement in ("DELETE FROM", "TRUNCATE"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="append-only"):
            execute(shop, f"{statement} {months(shop, 0, 0)[0]}", db="shop")


@pytest.mark.parametrize("scheduled", [False, True], ids=["by the role", "by a scheduler"])
def test_a_lapse_is_mended(shop: Server, scheduled: bool) -> None:
    """Months without a partition: records are in the default one, and then in their own, without one being lost."""
    execute(shop, f"DROP TABLE {months(shop, 0, 0)[0]}, {months(shop, 2, 2)[0]}", db="shop")
    old_records(shop, 5, 3)
    execute(shop, "INSERT INTO app.t VALUES (1, 'late')", db="shop")
    before = query(shop, "SELECT * FROM audit.audit_log ORDER BY id", db="shop")
    assert value(shop, "SELECT count(*) FROM audit.entries_default", db="shop") == 5
    if scheduled:
        settings = "SET TimeZone = 'America/New_York'; SET DateStyle = 'SQL, DMY'"
        assert shop.psql(f"{settings}; SELECT audit.make_partitions(3)", db="shop") == "4"
        assert shop.psql("SELECT audit.make_partitions(3)", db="shop") == "0"
    else:
        changes = [change["change"] for change in applied(shop)["plan"]]
        assert sum("(its records are in the default partition)" in change for change in changes) == 3
    assert applied(shop)["plan"] == []
    assert value(shop, "SELECT count(*) FROM audit.entries_default", db="shop") == 0
    assert query(shop, "SELECT * FROM audit.audit_log ORDER BY id", db="shop") == before
    assert {*months(shop, -5, -5), *months(shop, -3, -3), *months(shop, 0, 3)} <= set(partitions(shop))
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        execute(shop, "DELETE FROM audit.entries_default", db="shop")


def test_only_the_owner_makes_partitions(shop: Server) -> None:
    for role in ("auditor", "app_service"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(shop, "SELECT audit.make_partitions(3)", db="shop", user=role)


def exported(directory: Path) -> dict[str, list[dict[str, str]]]:
    """The records of each file, read without the collection."""
    found = {}
    for file in sorted(directory.glob("*.csv.zst")):
        text = subprocess.run(["zstd", "-dc", file], capture_output=True, check=True).stdout.decode()
        found[file.name] = list(csv.DictReader(io.StringIO(text)))
        digest, name = (directory / f"{file.name}.sha256").read_text(encoding="utf-8").split()
        assert (digest, name) == (hashlib.sha256(file.read_bytes()).hexdigest(), file.name)
    return found


@needs_zstd
def test_old_months_are_written_to_files_and_dropped(shop: Server, public_path: Path) -> None:
    old_records(shop, 4, 3, 2, 1)
    applied(shop)
    gone = query(
        shop,
        f"SELECT id::text, new_values->>'v' FROM audit.entries WHERE changed_at < ({THIS_MONTH} - interval '2 months') AT TIME ZONE 'UTC' ORDER BY id",
        db="shop",
    )
    announced = applied(shop, with_retention(public_path), check=True)
    assert (exported(public_path), len(announced["plan"])) == ({}, 2)
    done = applied(shop, with_retention(public_path))
    assert done["diff"] == announced["diff"]
    assert applied(shop, with_retention(public_path))["plan"] == []
    files = exported(public_path)
    assert list(files) == [f"shop.{name}.csv.zst" for name in months(shop, -4, -3)]
    assert [(row["id"], row["new_values"]) for rows in files.values() for row in rows] == [
        (number, f'{{"v" : "{text}"}}'.replace('ä " ,\n', 'ä \\" ,\\n')) for number, text in gone
    ]
    assert set(partitions(shop)) == {*months(shop, -2, 3), "audit.entries_default"}
    assert value(shop, "SELECT count(*) FROM audit.entries", db="shop") == 4
    # As the page says.
    file = next(iter(files))
    execute(shop, "CREATE TABLE old_records (LIKE audit.entries)", db="shop")
    text = subprocess.run(["zstd", "-dc", public_path / file], capture_output=True, check=True).stdout.decode()
    shop.psql(f"COPY old_records FROM stdin WITH (FORMAT csv, HEADER);\n{text}\\.\n", db="shop")
    assert value(shop, "SELECT count(*) FROM old_records", db="shop") == 2


@needs_zstd
@pytest.mark.oldest_and_newest
def test_what_cannot_be_written_is_not_dropped(shop: Server, public_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_records(shop, 4)
    applied(shop)
    before = partitions(shop)

    def refused(databases: Any) -> str:
        result = module.run(shop, "pg_audit_trail", databases=databases)
        assert result.get("failed"), result
        assert partitions(shop) == before
        return str(result["msg"])

    assert "is not there" in refused(with_retention(public_path / "missing"))
    file = public_path / f"shop.{months(shop, -4, -4)[0]}.csv.zst"
    file.write_bytes(b"something else")
    assert "holds other records" in refused(with_retention(public_path))
    assert file.read_bytes() == b"something else"
    file.unlink()
    # A full disk, and a zstd that fails: programs in its place, since neither can be had here otherwise.
    programs = public_path / "bin"
    programs.mkdir()
    for name, script in {"full": "echo 'zstd: error 70: No space left on device' >&2; exit 70", "lost": 'for last; do :; done; cp "$last" "$4"'}.items():
        (programs / "zstd").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / "zstd").chmod(0o755)
        with monkeypatch.context() as patched:
            patched.setenv("PATH", f"{programs}:{os.environ['PATH']}")
            message = refused(with_retention(public_path))
        assert {"full": "No space left on device", "lost": "not what was read back"}[name] in message
    assert [path for path in public_path.iterdir() if path != programs] == []
    # An export that was made, by a run that was killed before the drop, is found again.
    applied(shop, with_retention(public_path))
    assert len(exported(public_path)) == 1


WRONG = {
    "no directory": ({"months": 3}, "retention.directory", "is required"),
    "no months": ({"directory": "/tmp"}, "retention.months", "is required"),
    "too short": ({"months": 0, "directory": "/tmp"}, "retention.months", "from 1 to"),
    "a relative directory": ({"months": 3, "directory": "tmp"}, "retention.directory", "absolute path"),
    "an unknown key": ({"months": 3, "directory": "/tmp", "days": 3}, "retention.days", "unknown key"),
}


@pytest.mark.oldest_and_newest
def test_a_wrong_retention_is_refused_with_its_place(shop: Server) -> None:
    for name, (retention, path, text) in WRONG.items():
        result = module.run(shop, "pg_audit_trail", databases={"shop": {**POLICY["shop"], "retention": retention}})
        assert any(mistake["path"].endswith(path) and text in mistake["message"] for mistake in result["mistakes"]), (name, result)
