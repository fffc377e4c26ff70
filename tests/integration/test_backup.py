# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg-bulwark-backup: WAL is archived safely, backups are made, verified, expired, and what is damaged is found."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests import servers
from tests.integration.sql import execute, session, value

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).resolve().parents[2] / "roles" / "pg_backup" / "files" / "program"
PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin") or sys.executable  # that every account may run
pytestmark = [
    pytest.mark.oldest_and_newest,
    pytest.mark.skipif(not all(map(shutil.which, ("age", "zstd"))), reason="age and zstd are not installed"),
]


@dataclass
class Backups:
    """A server that archives, its configuration, and two keys that the server does not have."""

    server: servers.Server
    root: Path
    config: dict[str, Any]
    identities: list[Path] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return Path(self.config["directory"])

    def write(self, **changes: Any) -> None:
        """Write the configuration, with changes."""
        self.config.update(changes)
        (self.root / "config.json").write_text(json.dumps(self.config))
        (self.root / "config.json").chmod(0o644)

    def command(self, *words: str) -> list[str]:
        return [PYTHON, "-I", str(PROGRAM), "--config", str(self.root / "config.json"), *words]

    def call(self, *words: str, now: str | None = None, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run the program as the account of the server."""
        account = self.account
        account["env"].update({"BULWARK_BACKUP_NOW": now} if now else {})
        done = subprocess.run(self.command(*words), capture_output=True, text=True, check=False, **account)
        assert "Traceback" not in done.stderr, done.stderr
        assert status is None or done.returncode == status, done.stderr
        return done

    @property
    def account(self) -> dict[str, Any]:
        """Options that make a process one of the server's account."""
        options = servers._as_server_account(self.server.bindir)
        return {**options, "env": {name: text for name, text in options["env"].items() if name in ("PATH", "LD_LIBRARY_PATH", "HOME")}}

    def unpacked(self, path: Path, identity: int = 0) -> bytes:
        """What a stored file holds, by age and zstd themselves."""
        plain = subprocess.run(["age", "-d", "-i", str(self.identities[identity]), str(path)], capture_output=True, check=True).stdout
        return subprocess.run(["zstd", "-dc"], input=plain, capture_output=True, check=True).stdout

    def wal(self) -> list[Path]:
        return sorted(path for path in (self.directory / "wal").rglob("*") if path.is_file())

    def switch(self) -> str:
        """Write something, end the segment, and wait until the archiver has it; its name."""
        name = value(self.server, "SELECT pg_walfile_name(pg_current_wal_lsn())")
        execute(self.server, "SELECT pg_logical_emit_message(false, 'test', 'x')", "SELECT pg_switch_wal()")
        self.wait(lambda: value(self.server, f"SELECT last_archived_wal >= '{name}' FROM pg_stat_archiver"))
        return str(name)

    @staticmethod
    def wait(true: Any, seconds: float = 20) -> None:
        limit = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < limit, "waited for too long"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def made(mine: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backups]:
    """One server and its archive, for the tests of this file."""
    server = mine
    root = Path("/var/tmp") / f"bulwark-backup-{os.getpid()}-{mine.major}"
    root.mkdir()
    root.chmod(0o755)
    keys = tmp_path_factory.mktemp("keys")
    identities, recipients = [], []
    for number in range(2):
        identity = keys / f"identity{number}"
        subprocess.run(["age-keygen", "-o", str(identity)], check=True, capture_output=True)
        identities.append(identity)
        recipients.append(subprocess.run(["age-keygen", "-y", str(identity)], check=True, capture_output=True, text=True).stdout.strip())
    try:
        directory = root / "backup"
        directory.mkdir(0o700)
        account = servers.server_account()
        if os.geteuid() == 0:
            os.chown(directory, account.pw_uid, account.pw_gid)
        config = {
            "directory": str(directory),
            "data_directory": value(server, "SHOW data_directory"),
            "system_identifier": value(server, "SELECT system_identifier::text FROM pg_control_system()"),
            "recipients": recipients,
            "host": server.host,
            "port": server.port,
            "bin_directory": str(server.bindir),
            "keep": {"physical": {"count": 2}, "logical": {"days": 30}},
        }
        backups = Backups(server, root, config, identities)
        backups.write()
        server.restart(archive_mode="on", archive_command=" ".join(backups.command("archive", "%p", "%f")), archive_timeout=60)
        execute(server, "CREATE DATABASE shop")
        execute(server, "CREATE TABLE t AS SELECT n, md5(n::text) AS text FROM generate_series(1, 20000) n", db="shop")
        yield backups
    finally:
        shutil.rmtree(root, ignore_errors=True)


# The archive


def segment(backups: Backups) -> tuple[Path, str]:
    """A whole segment of the server, and its name."""
    name = backups.switch()
    return Path(backups.config["data_directory"]) / "pg_wal" / name, name


def test_the_server_archives_what_its_recipients_alone_can_read(made: Backups) -> None:
    name = made.switch()
    stored = [path for path in made.wal() if path.name.startswith(name)]
    assert len(stored) == 1
    content = made.unpacked(stored[0], 0)
    assert content == made.unpacked(stored[0], 1)
    assert len(content) == 16 << 20
    assert hashlib.sha256(content).hexdigest() in stored[0].name
    assert stored[0].stat().st_mode & 0o777 == 0o600
    assert stored[0].parent.stat().st_mode & 0o777 == 0o700


def test_the_same_again_is_success_and_another_content_is_refused(made: Backups, tmp_path: Path) -> None:
    path, name = segment(made)
    tmp_path.chmod(0o755)
    before = [(each, each.stat().st_mtime_ns) for each in made.wal() if name in each.name]
    copy = made.root / "copy"
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o644)
    made.call("archive", str(copy), name)
    assert [(each, each.stat().st_mtime_ns) for each in made.wal() if name in each.name] == before
    changed = bytearray(copy.read_bytes())
    changed[-1] ^= 1
    copy.write_bytes(changed)
    assert "is there with another content" in made.call("archive", str(copy), name, status=1).stderr
    assert [(each, each.stat().st_mtime_ns) for each in made.wal() if name in each.name] == before


def test_a_clone_must_not_archive_here(made: Backups) -> None:
    path, _name = segment(made)
    foreign = bytearray(path.read_bytes())
    foreign[24] ^= 1
    copy = made.root / "foreign"
    copy.write_bytes(foreign)
    copy.chmod(0o644)
    assert "a clone must not archive into the archive of its original" in made.call("archive", str(copy), "0000000100000000000000FE", status=1).stderr
    assert not [each for each in made.wal() if "FE-" in each.name]


@pytest.mark.parametrize("name", ["../x", "000000010000000000000001.tmp", "x", "", "00000001.history.x", "000000010000000000000001\n"])
def test_other_names_are_refused(made: Backups, name: str) -> None:
    before = made.wal()
    assert "is no name of a file of WAL" in made.call("archive", str(made.root / "config.json"), name, status=1).stderr
    assert made.wal() == before


@pytest.mark.parametrize("name", ["000000FE.history", "0000000100000000000000FD.00000028.backup"])
def test_history_and_backup_files_are_archived(made: Backups, name: str) -> None:
    source = made.root / "small"
    source.write_text("1\t0/3000000\tno recovery target\n")
    source.chmod(0o644)
    made.call("archive", str(source), name)
    target = made.root / "back" / "small"
    target.parent.mkdir(exist_ok=True)
    target.parent.chmod(0o777)
    identity = made.root / "identity"
    shutil.copy(made.identities[1], identity)
    identity.chmod(0o644)
    made.call("fetch", name, str(target), "--identity", str(identity))
    assert target.read_text() == source.read_text()
    target.unlink()
    identity.unlink()


def test_what_is_not_there_differs_from_what_is_broken(made: Backups) -> None:
    name = made.switch()
    stored = next(path for path in made.wal() if path.name.startswith(name))
    target = made.root / "target"
    identity = made.root / "identity"
    shutil.copy(made.identities[0], identity)
    identity.chmod(0o644)
    folder = made.root / "out"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    target = folder / "wal"
    made.call("fetch", "0000000100000000000000FF", str(target), "--identity", str(identity), status=1)
    made.call("fetch", name, str(target), status=200)
    made.call("fetch", name, str(target), "--identity", str(identity))
    assert hashlib.sha256(target.read_bytes()).hexdigest() in stored.name
    target.unlink()
    content = stored.read_bytes()
    try:
        for damaged in (content[:-100], bytes([*content[:100], content[100] ^ 1, *content[101:]]), b""):
            stored.write_bytes(damaged)
            made.call("fetch", name, str(target), "--identity", str(identity), status=200)
            assert list(folder.iterdir()) == []
    finally:
        stored.write_bytes(content)
        identity.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own needs root")
def test_a_full_disk_leaves_nothing_half_written_and_recovers_by_itself(made: Backups) -> None:
    small = made.root / "small-disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", str(small)], check=True)
    normal = made.config["directory"]
    path, name = segment(made)
    noise = bytearray(path.read_bytes())
    noise[4096:] = random.Random(1).randbytes(len(noise) - 4096)
    source = made.root / "noise"
    source.write_bytes(noise)
    source.chmod(0o644)
    try:
        made.write(directory=str(small))
        assert made.call("archive", str(source), name, status=1).stderr
        assert [each for each in small.rglob("*") if each.is_file()] == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
        made.call("archive", str(source), name)
        assert len([each for each in small.rglob("*") if each.is_file()]) == 1
    finally:
        made.write(directory=normal)
        subprocess.run(["umount", str(small)], check=True)
        small.rmdir()


def test_a_killed_archiver_leaves_nothing_that_is_in_the_way(made: Backups) -> None:
    path, name = segment(made)
    copy = made.root / "copy"
    content = bytearray(path.read_bytes())
    chosen = random.Random(made.server.major)
    for attempt in range(8):
        content[-8:] = attempt.to_bytes(8, "big")
        copy.write_bytes(content)
        copy.chmod(0o644)
        other = f"{name[:16]}0000{0xA000 + attempt:04X}"
        process = subprocess.Popen(made.command("archive", str(copy), other), stderr=subprocess.DEVNULL, **made.account)
        time.sleep(chosen.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        process.wait()
        made.call("archive", str(copy), other)
        stored = [each for each in made.wal() if other in each.name]
        assert len(stored) == 1
        assert made.unpacked(stored[0]) == content
        stored[0].unlink()


# Backups


def test_a_physical_backup_is_restored_by_other_programs_alone(made: Backups, tmp_path: Path) -> None:
    made.call("run", "physical")
    found = json.loads(made.call("list", "--json").stdout)[-1]
    folder = made.directory / "physical" / found["label"]
    assert [each["name"] for each in found["files"]] == ["base.tar.zst.age"]
    archive = tmp_path / "base.tar"
    archive.write_bytes(made.unpacked(folder / "base.tar.zst.age", 1))
    listed = subprocess.run(["tar", "-tf", str(archive)], capture_output=True, text=True, check=True).stdout.split()
    assert "backup_manifest" in listed
    assert "PG_VERSION" in listed
    data = tmp_path / "data"
    data.mkdir(0o700)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(data)], check=True)
    verify = subprocess.run([made.server.bindir / "pg_verifybackup", "-n", str(data)], capture_output=True, text=True, check=False)
    assert verify.returncode == 0, verify.stderr
    status = json.loads(made.call("status", "--json", status=None).stdout)
    assert status["kinds"]["physical"]["newest"] == found["label"]
    assert status["archiver"]["failing"] is False


def test_a_logical_backup_has_every_database_and_the_roles(made: Backups) -> None:
    execute(made.server, 'CREATE DATABASE "odd \' = \\ name"', "CREATE ROLE somebody PASSWORD 'secret'")
    time.sleep(1)
    made.call("run", "logical")
    found = [each for each in json.loads(made.call("list", "--json").stdout) if each["kind"] == "logical"][-1]
    folder = made.directory / "logical" / found["label"]
    assert [each["source"] for each in found["files"]] == ["roles and tablespaces", "odd ' = \\ name", "postgres", "shop"]
    assert b"CREATE ROLE somebody" in made.unpacked(folder / "globals.sql.zst.age")
    execute(made.server, "CREATE DATABASE restored")
    dump = made.root / "shop.dump"
    dump.write_bytes(made.unpacked(folder / found["files"][-1]["name"]))
    login = ["-h", made.server.host, "-p", str(made.server.port), "-U", "postgres"]
    subprocess.run([made.server.bindir / "pg_restore", *login, "-d", "restored", str(dump)], check=True)
    assert value(made.server, "SELECT sum(n) FROM t WHERE text = md5(n::text)", db="restored") == 200010000
    time.sleep(1)
    made.write(databases=["shop", "shopp"])
    try:
        assert "there is no database shopp" in made.call("run", "logical", status=1).stderr
    finally:
        made.write(databases=[])


def test_damage_is_found_without_a_key(made: Backups) -> None:
    made.call("run", "physical")
    made.switch()
    made.call("verify")
    files = [*(made.directory / "physical").rglob("*.age"), *(made.directory / "logical").rglob("*.age")]
    for path in files[:4]:
        content = path.read_bytes()
        for damaged in (content[:-1], bytes([*content[:100], content[100] ^ 1, *content[101:]]), None):
            if damaged is None:
                path.unlink()
            else:
                path.write_bytes(damaged)
            assert path.name in made.call("verify", status=1).stdout
            path.write_bytes(content)
            path.chmod(0o600)
            shutil.chown(path, servers.server_account().pw_uid, servers.server_account().pw_gid)
    made.switch()
    made.switch()
    middle = [path for path in made.wal() if len(path.name.split("-")[0]) == 24][-2]
    content = middle.read_bytes()
    middle.unlink()
    assert f"{middle.name.split('-')[0]} is missing" in made.call("verify", status=1).stdout
    middle.write_bytes(content)
    middle.chmod(0o600)
    shutil.chown(middle, servers.server_account().pw_uid, servers.server_account().pw_gid)
    made.call("verify")


def test_old_backups_go_when_a_new_one_is_good_and_never_before(made: Backups) -> None:
    for day in (1, 2, 3, 4):
        made.switch()
        made.call("run", "physical", now=f"2030-01-0{day}T01:15:00+00:00")
    labels = [each["label"] for each in json.loads(made.call("list", "--json").stdout) if each["kind"] == "physical"]
    assert labels == ["20300103T011500Z", "20300104T011500Z"]
    first = json.loads(made.call("list", "--json").stdout)[0]["facts"]["start"]
    number = int(first.partition("/")[2], 16) >> 24
    kept = [int(path.name[16:24], 16) for path in made.wal() if path.name[24] == "-"]
    assert min(kept) == number
    made.call("verify")
    # A job that fails lets nothing go.
    made.write(port=1)
    assert made.call("run", "physical", now="2030-01-05T01:15:00+00:00", status=1).stderr
    made.write(port=made.server.port)
    assert [each["label"] for each in json.loads(made.call("list", "--json").stdout) if each["kind"] == "physical"] == labels
    assert "the clock has gone back" in made.call("run", "physical", now="2029-01-05T01:15:00+00:00", status=1).stderr
    status = json.loads(made.call("status", "--json", status=1).stdout)
    assert any("the last physical run failed" in problem for problem in status["problems"])


def test_jobs_wait_for_each_other(made: Backups) -> None:
    made.write(lock_wait=0)
    holder = subprocess.Popen(["flock", str(made.directory / "lock"), "sleep", "30"], start_new_session=True)
    try:
        time.sleep(0.5)
        assert "another job has held" in made.call("run", "logical", status=1).stderr
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
        made.write(lock_wait=60)


def test_a_killed_job_is_no_backup_and_the_next_one_cleans_up(made: Backups) -> None:
    before = json.loads(made.call("list", "--json").stdout)
    chosen = random.Random(3)
    for _attempt in range(3):
        process = subprocess.Popen(made.command("run", "logical"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **made.account)
        time.sleep(chosen.uniform(0.1, 0.4))
        process.kill()
        process.wait()
    time.sleep(1)
    made.call("run", "logical")
    after = json.loads(made.call("list", "--json").stdout)
    assert len(after) - len(before) in (1, 2, 3, 4)
    folders = {path.name for path in (made.directory / "logical").iterdir()}
    assert folders == {each["label"] for each in after if each["kind"] == "logical"}
    made.call("verify")


# Restoring


class Ledger:
    """Commits one row after another, and knows position and time between each two of them."""

    def __init__(self, backups: Backups) -> None:
        self.backups = backups
        self.between: list[tuple[int, str, str]] = []
        execute(backups.server, "DROP TABLE IF EXISTS ledger", "CREATE TABLE ledger (n int PRIMARY KEY, amount int)")

    def write(self, count: int) -> None:
        with session(self.backups.server) as connection, connection.cursor() as cursor:
            for _row in range(count):
                number = len(self.between) + 1
                cursor.execute("INSERT INTO ledger VALUES (%s, %s)", (number, number * 7))
                time.sleep(0.02)
                cursor.execute("SELECT pg_current_wal_insert_lsn()::text, clock_timestamp()::text")
                self.between.append((number, *cursor.fetchone()))
                time.sleep(0.02)


@pytest.fixture(scope="module")
def ledger(made: Backups) -> Ledger:
    """A ledger with a backup in the midst, a restore point, and everything archived."""
    shutil.rmtree(made.directory / "physical", ignore_errors=True)
    made.write(keep={})
    found = Ledger(made)
    found.write(10)
    made.call("run", "physical")
    found.write(20)
    made.switch()
    found.write(15)
    execute(made.server, "SELECT pg_create_restore_point('before the release')")
    found.write(15)
    made.switch()
    found.write(5)
    time.sleep(1)
    made.call("run", "physical")  # after every target
    found.write(1)
    made.switch()
    return found


def restored(made: Backups, *words: str) -> list[tuple[Any, ...]]:
    """Restore to a directory, start it, and read the ledger there."""
    data = made.root / "restored"
    identity = made.root / "identity"
    shutil.copy(made.identities[1], identity)
    identity.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(identity, servers.server_account().pw_uid)
        shutil.chown(made.root, servers.server_account().pw_uid)
    try:
        made.call("restore", str(data), "--identity", str(identity), *words)
        return started(made, data)
    finally:
        shutil.rmtree(data, ignore_errors=True)
        identity.unlink()


def started(made: Backups, data: Path, option: str = "") -> list[tuple[Any, ...]]:
    """Start a restored data directory, read the ledger, and stop it."""
    port = servers.free_port()
    control = [str(made.server.bindir / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
    try:
        options = f"-k {made.root} -p {port} -c listen_addresses= -c ssl=off {option}"
        started = subprocess.run([*control, "-l", str(made.root / "restored.log"), "-o", options, "start"], check=False, **made.account)
        assert started.returncode == 0, (made.root / "restored.log").read_text()
        Backups.wait(lambda: asked(made, port, "SELECT NOT pg_is_in_recovery()") == [(True,)])
        assert asked(made, port, "SHOW archive_mode") == [("off",)]
        return asked(made, port, "SELECT n, amount FROM ledger ORDER BY n")
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], capture_output=True, check=False, **made.account)


def asked(made: Backups, port: int, statement: str) -> list[tuple[Any, ...]]:
    connection = psycopg2.connect(host=str(made.root), port=port, user="postgres", dbname="postgres")
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())
    finally:
        connection.close()


def rows(last: int) -> list[tuple[int, int]]:
    return [(number, number * 7) for number in range(1, last + 1)]


@pytest.mark.parametrize("seed", range(3))
def test_recovery_ends_exactly_at_a_position(made: Backups, ledger: Ledger, seed: int) -> None:
    number, lsn, _time = random.Random(seed + made.server.major).choice(ledger.between[15:60])
    assert restored(made, "--lsn", lsn) == rows(number)


def test_recovery_ends_exactly_at_a_time(made: Backups, ledger: Ledger) -> None:
    number, _lsn, at = random.Random(made.server.major).choice(ledger.between[15:60])
    assert restored(made, "--time", at.replace(" ", "T") + ":00") == rows(number)


def test_recovery_ends_exactly_at_a_restore_point(made: Backups, ledger: Ledger) -> None:
    assert ledger.between
    assert restored(made, "--name", "before the release") == rows(45)
    labels = [each["label"] for each in json.loads(made.call("list", "--json").stdout) if each["kind"] == "physical"]
    shown = made.call("restore", "/nonexistent", "--dry-run", "--name", "before the release").stdout
    assert f"backup {labels[0]}" in shown
    assert "is not known: this is the oldest backup" in shown


def test_recovery_goes_to_the_end_of_the_archive(made: Backups, ledger: Ledger) -> None:
    assert restored(made) == rows(len(ledger.between))


def test_what_cannot_be_restored_is_refused_and_nothing_is_touched(made: Backups, ledger: Ledger) -> None:
    live = made.config["data_directory"]
    before = sorted(os.listdir(live))
    refusals = {
        (live,): "is a data directory that is not empty",
        (str(made.root / "x"), "--lsn", ledger.between[0][1]): "no physical backup had ended before the position",
        (str(made.root / "x"), "--time", "2001-01-01T00:00:00+00:00"): "no physical backup had ended before the time",
        (str(made.root / "x"), "--time", "2031-01-01T00:00:00"): "the time needs its time zone",
        (str(made.root / "x"), "--time", "noon"): "noon is no time",
        (str(made.root / "x"), "--lsn", "7"): "7 is no position in WAL",
        (str(made.root / "x"), "--lsn", "0/7", "--name", "x"): "name one target",
        (str(made.root / "x"), "--label", "20010101T000000Z"): "there is no physical backup 20010101T000000Z; there are",
    }
    for words, message in refusals.items():
        assert message in made.call("restore", *words, "--identity", "/nonexistent", status=1).stderr
    assert sorted(os.listdir(live)) == before
    assert not (made.root / "x").exists()
    backup = max((made.directory / "physical").rglob("*.age"))
    content = backup.read_bytes()
    try:
        backup.write_bytes(bytes([*content[:1000], content[1000] ^ 1, *content[1001:]]))
        assert "the backup is damaged" in made.call("restore", str(made.root / "x"), "--identity", "/nonexistent", status=1).stderr
        assert not (made.root / "x").exists()
    finally:
        backup.write_bytes(content)


# Drills


@pytest.fixture
def drilled(made: Backups) -> Iterator[Path]:
    """The directory that drills restore into, with an identity beside it that the server's account reads."""
    account = servers.server_account()
    identity = made.root / "escrow"
    shutil.copy(made.identities[1], identity)
    identity.chmod(0o600)
    if os.geteuid() == 0:
        shutil.chown(identity, account.pw_uid)
        shutil.chown(made.root, account.pw_uid)
    made.write(scratch=str(made.root / "scratch"))
    try:
        yield made.root / "scratch"
    finally:
        made.call("drill", "stop", status=None)
        shutil.rmtree(made.root / "scratch", ignore_errors=True)
        identity.unlink()
        made.write(scratch="/var/tmp/bulwark-drill")


def drill(made: Backups, *words: str, status: int = 0, now: str | None = None) -> subprocess.CompletedProcess[str]:
    return made.call("drill", *words, "--identity", str(made.root / "escrow"), status=status, now=now)


@pytest.fixture(scope="module")
def canary(made: Backups) -> Backups:
    """A backup, rows of the canary after it, the first one with a restore point, and all of them but the last in the archive."""
    execute(
        made.server,
        "CREATE ROLE app NOLOGIN", "CREATE ROLE member", "GRANT app TO member",
        "CREATE TABLE rows_of_tenants (id int PRIMARY KEY, tenant int)", "GRANT SELECT ON rows_of_tenants TO app",
        "ALTER TABLE rows_of_tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "CREATE POLICY mine ON rows_of_tenants TO app USING (tenant = 1)",
        "CREATE ROLE owner", "ALTER TABLE rows_of_tenants OWNER TO owner", "CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM rows_of_tenants",
        "ALTER MATERIALIZED VIEW sums OWNER TO owner",
        db="shop",
    )  # fmt: skip
    time.sleep(1)
    for kind in ("physical", "logical"):
        made.call("run", kind)
    for _row in range(3):
        made.call("canary")
        made.switch()
    execute(made.server, "GRANT UPDATE ON rows_of_tenants TO app", db="shop")
    made.call("canary")
    made.switch()
    return made


def processes() -> str:
    """The command lines of everything that runs."""
    return subprocess.run(["ps", "ax", "-ww", "-o", "args"], capture_output=True, text=True, check=True).stdout


def rows_of_canary(made: Backups) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((made.directory / "canary").iterdir()) for line in path.read_text().splitlines()]


def evidence_of(made: Backups, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max((made.directory / "runs").glob(f"*-drill-{kind}.json")).read_text())
    return found


def test_a_canary_has_a_restore_point_each_hour_and_says_where_it_is(canary: Backups) -> None:
    rows = rows_of_canary(canary)
    there = value(canary.server, "SELECT json_agg(json_build_object('id', id, 'at', at) ORDER BY id) FROM bulwark_backup.canary")
    assert [row["id"] for row in rows] == [row["id"] for row in there]
    assert sum(row["restore_point"] is not None for row in rows) in (1, 2)  # the hour may have ended
    for row in rows:
        assert value(canary.server, f"SELECT pg_walfile_name('{row['lsn']}')") == row["file"]


def test_a_drill_ends_at_the_restore_point_and_finds_the_catalog_as_it_was(canary: Backups, drilled: Path) -> None:
    live = value(canary.server, "SELECT pg_postmaster_start_time()::text")
    printed = drill(canary, "physical").stdout
    found = evidence_of(canary, "physical")
    points = [row for row in rows_of_canary(canary)[:-1] if row["restore_point"]]
    assert found["target"] == f"the restore point {points[-1]['restore_point']}"
    assert found["row"]["id"] == points[-1]["id"]
    checks = {check["name"]: check for check in found["checks"]}
    assert {name: check["ok"] for name, check in checks.items()} == {"cluster": True, "recovery target": True, "catalog": True, "amcheck": True}
    assert "1 policies" in checks["catalog"]["text"]
    assert found["rto"] > 0
    assert 0 < found["rpo"] < 600
    assert {"server", "postgres", "age", "zstd"} == set(found["versions"])
    assert "restored   in" in printed
    assert not drilled.exists()
    assert value(canary.server, "SELECT pg_postmaster_start_time()::text") == live


def test_a_drill_ends_at_the_newest_archived_row(canary: Backups, drilled: Path) -> None:
    drill(canary, "physical", "--target", "row")
    assert evidence_of(canary, "physical")["row"]["id"] == rows_of_canary(canary)[-2]["id"]
    drill(canary, "physical", "--target", "end")
    assert evidence_of(canary, "physical")["target"] == "the end of the archive"
    assert not drilled.exists()


def test_a_drill_restores_every_dump(canary: Backups, drilled: Path) -> None:
    drill(canary, "logical")
    found = evidence_of(canary, "logical")
    assert {check["name"]: check["ok"] for check in found["checks"]} == {"databases": True, "amcheck": True}
    assert not drilled.exists()


def test_what_a_drill_leaves_running_is_reached_by_its_socket_alone(canary: Backups, drilled: Path) -> None:
    running = json.loads(drill(canary, "physical", "--keep", "--target", "row", "--json").stdout)["running"]

    def ask(statement: str) -> Any:
        connection = psycopg2.connect(**running, dbname="postgres")
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()[0][0]
        finally:
            connection.close()

    assert ask("SELECT count(*) FROM bulwark_backup.canary") == len(rows_of_canary(canary)) - 1
    settings = {"listen_addresses": "", "archive_mode": "off", "shared_preload_libraries": "", "max_logical_replication_workers": "0"}
    assert {name: ask(f"SHOW {name}") for name in settings} == settings
    assert drilled.stat().st_mode & 0o777 == 0o700
    assert str(drilled) in processes()
    canary.call("status", "--json", status=None)
    check = json.dumps({"name": "policy", "ok": False, "text": "2 grants are missing"})
    assert "WRONG      policy: 2 grants are missing" in canary.call("drill", "stop", "--check", check, status=1).stdout
    assert evidence_of(canary, "physical")["error"] == "policy: 2 grants are missing"
    assert not drilled.exists()
    assert str(drilled) not in processes()
    assert any("policy: 2 grants are missing" in problem for problem in json.loads(canary.call("status", "--json", status=1).stdout)["problems"])


def test_another_host_needs_the_directory_and_an_identity_alone(canary: Backups, drilled: Path) -> None:
    environment = canary.account["env"]
    account = {**canary.account, "env": {**environment, "PATH": f"{canary.server.bindir}:{environment['PATH']}"}}
    words = ["--directory", str(canary.directory), "drill", "physical", "--identity", str(canary.root / "escrow"), "--scratch", str(drilled)]
    done = subprocess.run([PYTHON, "-I", str(PROGRAM), *words], capture_output=True, text=True, check=False, **account)
    assert done.returncode == 0, done.stderr
    assert "restored   in" in done.stdout


@pytest.mark.parametrize("damage", ["a bit of the backup", "the end of the backup", "a segment", "a bit of a segment", "the key", "the whole backup"])
def test_a_drill_fails_for_what_cannot_be_restored(canary: Backups, drilled: Path, damage: str) -> None:
    physical = max((canary.directory / "physical").iterdir()) / "base.tar.zst.age"
    start = json.loads((physical.parent / "manifest.json").read_text())["facts"]["start"]
    row = rows_of_canary(canary)[-2]
    low = f"{int(start.partition('/')[2], 16) >> 24:08X}"
    segments = [path for path in canary.wal() if path.name[24] == "-" and low < path.name[16:24] <= row["file"][16:]]
    path = {"a segment": segments[0], "a bit of a segment": segments[0], "the key": canary.root / "escrow"}.get(damage, physical)
    content = path.read_bytes()
    owner = path.stat().st_uid
    try:
        if damage.startswith("a bit"):
            path.write_bytes(bytes([*content[:2000], content[2000] ^ 1, *content[2001:]]))
        elif damage == "the end of the backup":
            path.write_bytes(content[:-1])
        elif damage == "the key":
            subprocess.run(["age-keygen", "-o", str(canary.root / "other")], check=True, capture_output=True)
            path.write_bytes((canary.root / "other").read_bytes())
        else:
            path.unlink()
        message = drill(canary, "physical", "--target", "row", status=1).stderr
        assert message
        found = evidence_of(canary, "physical")
        assert found["error"]
        assert not drilled.exists()
        assert any("the last drill-physical run failed" in each for each in json.loads(canary.call("status", "--json", status=1).stdout)["problems"])
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(path, owner)


def test_a_drill_finds_what_is_not_as_it_was(canary: Backups, drilled: Path) -> None:
    record = sorted((canary.directory / "canary").iterdir())[-1]
    text = record.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    try:
        changed = json.loads(text.splitlines()[0])
        assert changed["restore_point"]
        changed["catalog"]["shop"]["policies"] += 1
        record.write_text("\n".join([json.dumps(changed), *text.splitlines()[1:]]) + "\n")
        error = drill(canary, "physical", status=1).stderr
        assert "policies of database shop: 1, and there were 2" in error
        lines[-2]["at"] = "2020-01-01T00:00:00+00:00"
        record.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert "and was committed at 2020" in drill(canary, "physical", "--target", "row", status=1).stderr
        lines[-2].update(lsn=lines[-3]["lsn"], at=json.loads(text.splitlines()[-2])["at"])
        record.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert "is not there" in drill(canary, "physical", "--target", "row", status=1).stderr
    finally:
        record.write_text(text)
    assert not drilled.exists()


def test_a_drill_never_touches_what_it_has_not_made(canary: Backups, drilled: Path) -> None:
    live = canary.config["data_directory"]
    before = sorted(os.listdir(live))
    drilled.mkdir()
    (drilled / "precious").write_text("x")
    refusals = {
        live: "must not be in each other",
        f"{live}/scratch": "must not be in each other",
        str(Path(live).parent): "must not be in each other",
        str(canary.directory / "x"): "must not be in each other",
        "/": "must not be in each other",
        str(drilled): "is not empty, and no drill has made it",
    }
    for scratch, message in refusals.items():
        assert message in drill(canary, "physical", "--scratch", scratch, status=1).stderr
        canary.call("drill", "stop", "--scratch", scratch, status=None)
    link = canary.root / "link"
    link.symlink_to(live)
    assert "must not be in each other" in drill(canary, "physical", "--scratch", str(link), status=1).stderr
    link.unlink()
    assert sorted(os.listdir(live)) == before
    assert (drilled / "precious").read_text() == "x"
    assert value(canary.server, "SELECT 1") == 1


def test_a_drill_that_was_killed_is_cleaned_up_by_the_next(canary: Backups, drilled: Path) -> None:
    chosen = random.Random(canary.server.major)
    for _attempt in range(3):
        words = ["drill", "physical", "--identity", str(canary.root / "escrow")]
        process = subprocess.Popen(canary.command(*words), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **canary.account)
        time.sleep(chosen.uniform(0.2, 3))
        process.kill()
        process.wait()
    drill(canary, "physical")
    assert not drilled.exists()
    assert str(drilled) not in processes()


def test_an_old_drill_is_a_problem(canary: Backups, drilled: Path) -> None:
    drill(canary, "physical")
    canary.write(drill_days=7, keep={"physical": {"count": 7}})
    try:
        later = "2031-01-01T00:00:00+00:00"
        now = json.loads(canary.call("status", "--json", status=None).stdout)["problems"]
        then = json.loads(canary.call("status", "--json", now=later, status=1).stdout)["problems"]
        assert not any("no drill" in problem for problem in now)
        assert any("no drill has restored the physical backups for 7 days" in problem for problem in then)
    finally:
        canary.write(drill_days=0, keep={})
    assert not drilled.exists()


# In the place of the original, and single databases


@pytest.mark.parametrize("mounted", [False, pytest.param(True, marks=pytest.mark.skipif(os.geteuid() != 0, reason="a mount needs root"))])
def test_a_cluster_is_restored_in_its_place_and_the_old_one_is_kept(made: Backups, ledger: Ledger, mounted: bool) -> None:
    """A copy of the live cluster stands for it: the live server of the tests goes on. mounted: the data directory is a file system."""
    number, lsn, _time = ledger.between[40]
    place = made.root / "place"
    identity = made.root / "identity"
    shutil.copy(made.identities[0], identity)
    if os.geteuid() == 0:
        shutil.chown(identity, servers.server_account().pw_uid)
        shutil.chown(made.root, servers.server_account().pw_uid)
    if mounted:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0700,uid={servers.server_account().pw_uid}", "tmpfs", str(place)], check=True)
    made.call("restore", str(place), "--identity", str(identity))
    (place / "old").write_text("x")
    try:
        shown = made.call("restore", str(place), "--replace", "--dry-run", "--lsn", lsn).stdout
        assert f"lost: everything that was committed after the position {lsn}" in shown
        assert (place / "old").exists()
        live = made.config["data_directory"]
        assert "a server runs in" in made.call("restore", live, "--replace", "--identity", str(identity), status=1).stderr
        assert "age failed" in made.call("restore", str(place), "--replace", "--identity", str(made.root / "config.json"), status=1).stderr
        assert (place / "old").exists()
        assert not list(made.root.glob("place.before-*"))
        made.call("restore", str(place), "--replace", "--identity", str(identity), "--lsn", lsn)
        assert [path.joinpath("old").read_text() for path in made.root.glob("place.before-*")] == ["x"]
        assert not (place / "old").exists()
        assert (place / "recovery.signal").exists()
        assert "archive_mode" not in (place / "postgresql.auto.conf").read_text()
        assert f"recovery_target_lsn = '{lsn}'" in (place / "postgresql.auto.conf").read_text()
        assert number == 41
        assert started(made, place, "-c archive_mode=off") == rows(number)
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)
        for path in (place, *made.root.glob("place.before-*")):
            shutil.rmtree(path, ignore_errors=True)
        identity.unlink()


def test_a_database_is_restored_beside_the_one_in_use(canary: Backups, drilled: Path) -> None:
    words = ["--identity", str(canary.root / "escrow")]
    execute(canary.server, "DELETE FROM t WHERE n <= 5000", db="shop")
    assert "is in the database shop_then" in canary.call("restore-database", "shop", "--as", "shop_then", *words).stdout
    assert value(canary.server, "SELECT count(*) FROM t", db="shop_then") == 20000
    assert value(canary.server, "SELECT count(*) FROM t", db="shop") == 15000
    assert value(canary.server, "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'rows_of_tenants'", db="shop_then") is True
    assert "there is a database shop_then" in canary.call("restore-database", "shop", "--as", "shop_then", *words, status=1).stderr
    canary.call("restore-database", "shop", "--as", 'odd " name', "--table", "public.t", *words)
    assert value(canary.server, "SELECT count(*) FROM t", db='odd " name') == 20000
    assert value(canary.server, "SELECT count(*) FROM rows_of_tenants", db='odd " name') == 0
    for wrong, message in {
        ("nosuch", "--as", "x"): "no logical backup has a database nosuch",
        ("shop", "--as", "x", "--table", "t"): "t is no table with its schema",
        ("shop", "--as", "x", "--table", "public.nosuch"): "there is no table public.nosuch in the backup",
        ("shop", "--as", "x", "--label", "20010101T000000Z"): "no logical backup 20010101T000000Z has a database shop",
    }.items():
        assert message in canary.call("restore-database", *wrong, *words, status=1).stderr
        assert value(canary.server, "SELECT count(*) FROM pg_database WHERE datname = 'x'") == 0
    assert not drilled.exists()


def test_a_backup_that_was_made_before_anything_was_archived_has_no_gap(canary: Backups) -> None:
    """Last, since it restarts the server without archiving."""
    settings = dict(canary.server.settings)
    canary.server.restart(archive_mode="off")
    time.sleep(1)
    canary.call("run", "physical")
    execute(canary.server, "SELECT pg_switch_wal()")
    execute(canary.server, "CHECKPOINT")
    canary.server.restart(**settings)
    for kept in sorted((canary.directory / "physical").iterdir())[:-1]:
        shutil.rmtree(kept)
    for path in canary.wal():
        path.unlink()
    canary.switch()
    canary.call("verify")
