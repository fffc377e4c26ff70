# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What encryption costs, as ratios measured in one run on one machine.

    bench/encryption.py                      all claims on PostgreSQL 18
    bench/encryption.py values columns       some of them
    bench/encryption.py --rows 100000        smaller

values   encrypt and decrypt of field_encryption against bare Fernet
columns  a column encrypted and rotated by pg_encrypted_columns, against an ordinary migration script, row by row, and against one worker
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import psycopg2
from cryptography.fernet import Fernet, MultiFernet

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import field_encryption as fe
from bench import claims
from bench.support import engine_process
from tests import servers
from tests.integration import module
from tests.integration.sql import execute, value

if TYPE_CHECKING:
    from collections.abc import Mapping

VALUES, ROUNDS = 20_000, 7
SAMPLE = 20_000  # rows of the ordinary script, whose time grows with their number
MEMORY_LIMIT_KIB = 200 * 1024
NO_CHANGE_LIMIT_SECONDS = 2.0
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}


def seconds(work: Callable[[], Any]) -> float:
    """How long something takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def values(_options: argparse.Namespace, versions: Mapping[str, str]) -> None:
    """Values a second of one core."""
    key = Fernet.generate_key().decode()
    bare, ring = Fernet(key), fe.Keyring.from_text(key)
    texts = [f"900-11-{number:05}" for number in range(VALUES)]
    tokens = [ring.encrypt(text) for text in texts]
    works: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "encrypt": (lambda: [ring.encrypt(text) for text in texts], lambda: [bare.encrypt(text.encode()).decode() for text in texts]),
        "decrypt": (lambda: [ring.decrypt(token) for token in tokens], lambda: [bare.decrypt(token.encode()).decode() for token in tokens]),
    }
    for name, (ours, theirs) in works.items():
        ratio = statistics.median(seconds(theirs) / seconds(ours) for _round in range(ROUNDS))
        text = f"{name}: values a second of field_encryption against bare Fernet of cryptography on the same values"
        claims.record(text, "bench/encryption.py values", ratio, 0.95, versions=versions, at_least=True)


def fill(server: servers.Server, rows: int) -> None:
    """The table with its plaintext, made anew."""
    execute(
        server,
        "DROP TABLE IF EXISTS app.t",
        "CREATE TABLE app.t (id bigint PRIMARY KEY, ssn text, note text)",
        f"INSERT INTO app.t SELECT n, '900-11-' || lpad(n::text, 7, '0'), 'a note of some length' FROM generate_series(1, {rows}) n",
        "VACUUM ANALYZE app.t",
        db="shop",
    )


def by_row(server: servers.Server, rows: int, new: Callable[[str], str]) -> float:
    """Seconds a row of an ordinary migration script: read everything, one UPDATE a row, one COMMIT at the end."""
    connection = psycopg2.connect(host=server.host, port=server.port, user="postgres", dbname="shop")
    begin = time.perf_counter()
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, ssn FROM app.t ORDER BY id LIMIT %s", (rows,))
        for number, text in cursor.fetchall():
            cursor.execute("UPDATE app.t SET ssn = %s WHERE id = %s", (new(text), number))
    taken = time.perf_counter() - begin
    connection.close()
    return taken / rows


def run(server: servers.Server, keyring: Path, **options: Any) -> tuple[float, int, dict[str, Any]]:
    """Seconds and peak memory of the module in a process of its own, and its result."""
    columns = {"shop": {"app.t": {"ssn": {"keyring": "pii", "format": "keyed"}}}}
    arguments = module.arguments(server, {"columns": columns, "keyring_files": {"pii": str(keyring)}, **options})
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(arguments, file)
        file.flush()
        program = [sys.executable, engine_process.__file__, "module", file.name, "--module", "pg_encrypted_columns"]
        done = subprocess.run(program, capture_output=True, text=True, check=False, env=module.environment())
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    answer = json.loads(done.stdout)
    if answer["result"].get("failed"):
        raise RuntimeError(answer["result"]["msg"])
    return answer["seconds"], answer["peak_kib"], answer["result"]


def columns(options: argparse.Namespace, versions: Mapping[str, str]) -> None:
    """One column of a large table."""
    rows = options.rows

    def record(text: str, ratio: float, bound: float, at_least: bool = True) -> None:
        claims.record(f"{rows:,} rows, {text}", "bench/encryption.py columns", ratio, bound, versions=versions, at_least=at_least)

    with servers.running(18, **SETTINGS) as server, tempfile.TemporaryDirectory() as directory:
        execute(server, "CREATE DATABASE shop")
        execute(server, "CREATE SCHEMA app", db="shop")
        keyring = Path(directory) / "pii.json"
        first, second = fe.Key.generate("primary"), fe.Key.generate("primary")
        keyring.write_text(fe.dump_keyring([first]))
        keyring.chmod(0o600)
        bare = Fernet(str(first.secret))
        fill(server, SAMPLE)
        script = by_row(server, SAMPLE, lambda text: bare.encrypt(text.encode()).decode())
        fill(server, rows)
        one, _peak, _result = run(server, keyring, workers=1)
        fill(server, rows)
        two, peak, _result = run(server, keyring, workers=2)
        record("encrypted by two workers: against an ordinary migration script, row by row (from a sample)", script * rows / two, 12)
        record("encrypted by two workers: against one worker", one / two, 1.7)
        record("encrypted: peak memory of the module against 200 MiB", peak / MEMORY_LIMIT_KIB, 1, False)
        same = statistics.median(run(server, keyring)[0] for _round in range(3))
        record("with nothing to change, tokens that name their key: work of the module against 2 s", same / NO_CHANGE_LIMIT_SECONDS, 1, False)
        keyring.write_text(fe.dump_keyring([second, fe.Key.from_secret(str(first.secret), "secondary")]))
        both = MultiFernet([Fernet(str(second.secret)), bare])
        rotated, _peak, _result = run(server, keyring, state="rotated", workers=2)
        if value(server, "SELECT count(*) FROM app.t WHERE NOT starts_with(ssn, %(start)s)", {"start": f"f1.{second.id}."}, db="shop"):
            raise RuntimeError("not everything was rotated")
        script = by_row(server, SAMPLE, lambda token: both.rotate(token.rpartition(".")[2].encode()).decode())
        record("rotated by two workers: against an ordinary script, row by row (from a sample)", script * rows / rotated, 7)


PARTS = {"values": values, "columns": columns}


def main() -> None:
    """The parts that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    options = parser.parse_args()
    versions = {"postgresql": servers.versions()[18]}
    for name in options.parts or PARTS:
        PARTS[name](options, versions)


if __name__ == "__main__":
    main()
