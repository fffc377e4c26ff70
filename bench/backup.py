# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What backups cost, as ratios against bare commands that were measured in the same run.

    bench/backup.py                      all claims, on a database of 2 GB of PostgreSQL 18
    bench/backup.py archive physical     some of them
    bench/backup.py --megabytes 500      smaller

archive   a segment of WAL archived, against a copy by dd with the same care: temporary file, fsync, link, fsync of the directory
physical  a backup with zstd and age, against pg_basebackup | zstd -1, and against one without age
logical   a dump, against pg_dump -Fc
restore   a restore and a drill, against age, zstd, tar and a start by hand
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import claims
from tests import servers
from tests.integration.sql import execute, value
from tests.integration.test_backup import PROGRAM, PYTHON

if TYPE_CHECKING:
    from collections.abc import Mapping

ROUNDS = 3
SEGMENTS = 24
SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB", "checkpoint_timeout": "1h", "wal_keep_size": "4GB"}
# What a careful archive_command does at least: $1 the segment, $2 the name that it gets.
FLOOR = 'dd if="$1" of="$2.tmp" bs=1M conv=fsync status=none && ln "$2.tmp" "$2" && rm "$2.tmp" && sync "$(dirname "$2")"'


class Bench:
    """A server, its backups, and the commands that they are measured against, all as the server's account."""

    def __init__(self, server: servers.Server, root: Path, options: argparse.Namespace, versions: Mapping[str, str]) -> None:
        self.server, self.root, self.options, self.versions = server, root, options, versions
        self.login = f"-h {server.host} -p {server.port} -U postgres"
        self.identity = root / "identity"
        self.shell(f"age-keygen -o {self.identity} 2>/dev/null")
        recipient = self.shell(f"age-keygen -y {self.identity}").strip()
        self.config: dict[str, Any] = {
            "directory": str(root / "backup"),
            "data_directory": value(server, "SHOW data_directory"),
            "system_identifier": value(server, "SELECT system_identifier::text FROM pg_control_system()"),
            "host": server.host,
            "port": server.port,
            "bin_directory": str(server.bindir),
            "scratch": str(root / "scratch"),
            "recipients": [recipient, recipient],
            "databases": ["shop"],
        }
        self.configure()
        self.shell(f"mkdir -m 0700 {root}/backup")

    def configure(self, **changes: Any) -> None:
        self.config.update(changes)
        (self.root / "config.json").write_text(json.dumps(self.config))
        (self.root / "config.json").chmod(0o644)

    def shell(self, command: str, *words: str) -> str:
        """What a command prints; every stage of a pipe counts."""
        account = servers._as_server_account(self.server.bindir)
        account["env"] = {"PATH": f"{self.server.bindir}:/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command, "bash", *words], capture_output=True, text=True, check=False, **account)
        if done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout

    def timed(self, command: str, *words: str) -> float:
        begin = time.perf_counter()
        self.shell(command, *words)
        return time.perf_counter() - begin

    def program(self, words: str) -> str:
        return f"{PYTHON} -I {PROGRAM} --config {self.root}/config.json {words}"

    def record(self, text: str, part: str, ratio: float, bound: float, at_least: bool = False) -> None:
        claims.record(f"{self.options.megabytes:,} MB, {text}", f"bench/backup.py {part}", ratio, bound, versions=self.versions, at_least=at_least)

    def newest(self, kind: str) -> Path:
        return max((self.root / "backup" / kind).iterdir())


def archive(bench: Bench) -> None:
    """Segments of a server at work, ours and the copy by turns."""
    names = value(bench.server, "SELECT string_agg(name, ' ' ORDER BY name) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'").split()[:SEGMENTS]
    bench.shell(f"mkdir {bench.root}/floor")
    ratios = []
    for name in names:
        path = f"{bench.config['data_directory']}/pg_wal/{name}"
        floor = bench.timed(FLOOR, path, f"{bench.root}/floor/{name}")
        ratios.append(bench.timed(bench.program(f"archive {path} {name}")) / floor)
    bench.record("a segment of WAL archived: against a copy with fsync by dd", "archive", statistics.median(ratios), 1.1)


def physical(bench: Bench) -> None:
    """Whole backups by turns."""
    options = "-D - -F tar -X fetch -c fast --manifest-checksums=SHA256"
    bare = f"pg_basebackup {bench.login} {options} | zstd -q -1 -c > {bench.root}/bare.zst; sync {bench.root}/bare.zst"
    recipients = bench.config["recipients"]
    times: dict[str, list[float]] = {"bare": [], "plain": [], "ours": []}
    for _round in range(ROUNDS):
        times["bare"].append(bench.timed(bare))
        bench.configure(recipients=[])
        times["plain"].append(bench.timed(bench.program("run physical")))
        bench.configure(recipients=recipients)
        times["ours"].append(bench.timed(bench.program("run physical")))
    best = {name: min(each) for name, each in times.items()}
    bench.record("a physical backup with zstd and age, read back: against pg_basebackup | zstd -1", "physical", best["ours"] / best["bare"], 1.1)
    bench.record("a physical backup: with age against without", "physical", best["ours"] / best["plain"], 1.15)


def logical(bench: Bench) -> None:
    """Dumps by turns."""
    bare, ours = [], []
    for _round in range(ROUNDS):
        bare.append(bench.timed(f"pg_dump {bench.login} -Fc -f {bench.root}/bare.dump shop; sync {bench.root}/bare.dump"))
        ours.append(bench.timed(bench.program("run logical")))
    bench.record("a logical backup: pg_dump -Fc against it, time", "logical", min(bare) / min(ours), 2, at_least=True)
    size = sum(path.stat().st_size for path in bench.newest("logical").glob("database*"))
    bench.record("a logical backup: size against pg_dump -Fc", "logical", size / (bench.root / "bare.dump").stat().st_size, 1)


def restore(bench: Bench) -> None:
    """Restores and drills of the newest backup by turns; nothing is archived after it."""
    bench.shell(bench.program("run physical"))
    path, data = bench.newest("physical") / "base.tar.zst.age", bench.root / "data"
    start = f"pg_ctl -D {data} -s -w -t 600 -l {bench.root}/log -o '-k {bench.root} -p 5432 -c listen_addresses= -c archive_mode=off -c ssl=off' start"
    unpack = f"mkdir -m 0700 {data}; age -d -i {bench.identity} {path} | zstd -q -dc | tar -x -C {data}; pg_verifybackup -n -q {data}"
    stop = f"pg_ctl -D {data} -s -m immediate stop; rm -rf {data}"
    ours = bench.program(f"restore {data} --identity {bench.identity}")
    times: dict[str, list[float]] = {"bare": [], "ours": [], "drill": []}
    for _round in range(ROUNDS):
        times["bare"].append(bench.timed(f"{unpack}; {start}"))
        bench.shell(stop)
        times["ours"].append(bench.timed(f"{ours}; {start}"))
        bench.shell(stop)
        bench.shell(bench.program(f"drill physical --identity {bench.identity}"))
        evidence = json.loads(max((bench.root / "backup" / "runs").glob("*-drill-physical.json")).read_text())
        times["drill"].append(evidence["rto"])
    best = {name: min(each) for name, each in times.items()}
    bench.record("restored and started: against age, zstd, tar and a start by hand", "restore", best["ours"] / best["bare"], 1.1)
    bench.record("a drill, until its server has recovered: against the same by hand", "restore", best["drill"] / best["bare"], 1.25)


PARTS = {"archive": archive, "physical": physical, "logical": logical, "restore": restore}


def main() -> None:
    """The parts that are asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    options = parser.parse_args()
    root = Path(f"/var/tmp/bulwark-bench-backup-{time.time_ns()}")
    root.mkdir(mode=0o755)
    shutil.chown(root, servers.server_account().pw_uid)
    try:
        with servers.running(18, **SETTINGS) as server:
            execute(server, "CREATE DATABASE shop")
            rows = options.megabytes * 1_000_000 // 240  # a row is 200 bytes of text and 40 more, half of it hard to compress
            execute(
                server,
                "CREATE TABLE t (id bigint PRIMARY KEY, text text)",
                "INSERT INTO t SELECT n, md5(n::text) || md5((n * 7)::text) || md5((n * 11)::text) || repeat('an order of a customer ', 4)"
                f" FROM generate_series(1, {rows}) n",
                db="shop",
            )
            bench = Bench(server, root, options, {"postgresql": servers.versions()[18]})
            for name in options.parts or PARTS:
                PARTS[name](bench)
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
