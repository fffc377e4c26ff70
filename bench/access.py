# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pg_access costs, as ratios measured in one run on one machine.

    bench/access.py                      all claims on PostgreSQL 18
    bench/access.py loop large           some of them
    bench/access.py --major 15 wal       on another major

loop     100 databases x 3 schemas x 6 roles, against community.postgresql's modules in loops
ldap2pg  one database, 5 roles x 200 tables, against ldap2pg 5.9
large    one database, 10,000 tables with 20,000 sequences x 20 roles, against the server's own time
wal      what a run that changes nothing writes
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import closing
from importlib.metadata import version as installed
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import claims
from bench.support import generate, peers
from bench.support.generate import KINDS, OWNER, Rights, Shape
from tests import servers

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".work" / "bench"
COLLECTIONS = ROOT / ".work" / "collections"

SETTINGS = {
    "max_locks_per_transaction": 1024,  # databases of 30,000 relations are made in batches of 500 tables
    "shared_buffers": "512MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "full_page_writes": "on",
}

MEMORY_LIMIT_KIB = 80 * 1024
NO_CHANGE_LIMIT_SECONDS = 0.5
BATCH = 100  # statements in one round trip, where the server's own time is measured


class BenchError(Exception):
    """What was to be compared does not do the same thing, or failed."""


class Bench:
    """A server, and the means to run on it what is compared."""

    def __init__(self, server: Any, rounds: int, command: str) -> None:
        self.server = server
        self.rounds = rounds
        self.command = command
        self.versions = {
            "postgresql": server.version,
            "ansible-core": installed("ansible-core"),
            "python": sys.version.split()[0],
            "psycopg2": installed("psycopg2-binary"),
        }
        WORK.mkdir(parents=True, exist_ok=True)
        generate.create_roles(server, [OWNER])

    def playbook(self, plays: list[dict[str, Any]], tags: str = "all") -> tuple[float, bool]:
        """Wall time of an ansible-playbook run, and whether it reported a change."""
        file = WORK / "playbook.yml"
        file.write_text(json.dumps(plays))
        environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), "ANSIBLE_LOCALHOST_WARNING": "false"}
        program = str(Path(sys.executable).parent / "ansible-playbook")
        start = time.perf_counter()
        done = peers.call([program, "-i", "localhost,", "--tags", tags, str(file)], env=environment)
        return time.perf_counter() - start, "changed=0" not in done.stdout and "changed=" in done.stdout

    def engine(self, policy: dict[str, Any], *options: str, check: bool = False) -> dict[str, Any]:
        """pg_access in a fresh Python process; with the wall time of that process."""
        arguments = {"policy": policy, **self.server.login, "allow_mass_revoke": True, "_ansible_check_mode": check}
        return self._process("module", arguments, *options)

    def bare(self, statements: list[list[str]]) -> float:
        """Seconds that the server takes for statements ([database, text]), in a fresh process."""
        login = {"host": self.server.host, "port": self.server.port, "user": self.server.superuser}
        answer = self._process("bare", {"login": login, "statements": statements})
        return float(answer["seconds"])

    def _process(self, work: str, given: dict[str, Any], *options: str) -> dict[str, Any]:
        file = WORK / f"{work}.json"
        file.write_text(json.dumps(given))
        program = [sys.executable, str(ROOT / "bench" / "support" / "engine_process.py"), work, str(file), *options]
        # From compiled files, as pip leaves those of the peer, whatever this environment says.
        environment = {**os.environ, "PYTHONPATH": str(COLLECTIONS), "PYTHONPYCACHEPREFIX": str(WORK / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}
        start = time.perf_counter()
        done = subprocess.run(program, capture_output=True, text=True, env=environment, check=False)
        wall = time.perf_counter() - start
        if done.returncode:
            raise BenchError(f"{work} failed:\n{done.stderr[-3000:]}")
        answer = {**json.loads(done.stdout), "wall": wall}
        if answer.get("result", {}).get("failed"):
            raise BenchError(f"pg_access failed: {answer['result']['msg']}")
        return answer

    def record(self, claim: str, ratio: float, bound: float, *, at_least: bool = False, peer: dict[str, str] | None = None) -> None:
        """Keep one measured claim, whose text is the same in every run. peer: name and version of what is measured against."""
        text = f"PostgreSQL {self.server.major}, {claim}"
        claims.record(text, self.command, ratio, bound, versions={**self.versions, **(peer or {})}, at_least=at_least)


def median(values: list[float]) -> float:
    """The median, as a float."""
    return float(statistics.median(values))


def paired(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' ratios: two runs that follow each other share the machine's mood."""
    return median([mine / other for mine, other in zip(ours, theirs, strict=True)])


def say(text: str) -> None:
    """Progress for whoever watches."""
    print(f"    {text}", flush=True)


def expect_changed(changed: bool, wanted: bool, what: str) -> None:
    """Raises BenchError if a run changed something where it should not, or the other way round."""
    if changed != wanted:
        raise BenchError(f"{what} reported changed={changed}")


def expect_same(mine: Rights, theirs: Rights, what: str) -> None:
    """Raises BenchError unless both tools reached the same privileges."""
    if mine != theirs:
        only_mine, only_theirs = sorted(mine - theirs)[:5], sorted(theirs - mine)[:5]
        raise BenchError(f"{what}: the privileges differ; ours alone: {only_mine}; theirs alone: {only_theirs}")


# 100 databases, against loops of community.postgresql


def module_playbook(server: Any, policy: dict[str, Any]) -> list[dict[str, Any]]:
    """One task that states the whole policy."""
    task = {"name": "Access", "bulwark.postgresql.pg_access": {"policy": "{{ policy }}", "allow_mass_revoke": True, **server.login}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    return [{**play, "vars": {"ansible_python_interpreter": sys.executable, "policy": policy}}]


def loop_times(bench: Bench, shape: Shape, roles: dict[str, str], count: int) -> list[float]:
    """Seconds that the loops would take for so many databases, converging and then with nothing to do, extrapolated from one database."""
    plays = peers.loop_playbook(bench.server, ["sample"], shape, roles, sys.executable)
    floor = bench.playbook(plays, "none")[0]
    totals = []
    for wanted in (True, False):
        seconds = []
        for tags in ("roles", "grants"):
            taken, changed = bench.playbook(plays, tags)
            expect_changed(changed, wanted, f"the loop over {tags}")
            seconds.append(taken)
        totals.append(seconds[0] + (seconds[1] - floor) * count)
    return totals


def module_times(bench: Bench, plays: list[dict[str, Any]]) -> list[float]:
    """Seconds of one ansible-playbook run, converging and then with nothing to do."""
    times = []
    for wanted in (True, False):
        taken, changed = bench.playbook(plays)
        expect_changed(changed, wanted, "pg_access")
        times.append(taken)
    return times


def measure_loop(bench: Bench) -> None:
    """100 databases x 3 schemas x 6 roles."""
    server, shape, count = bench.server, Shape(schemas=3, tables=5, sequences=1), 100
    roles = {kind: kind for kind in KINDS}
    version = peers.community_postgresql_version()
    generate.create_database(server, "template", shape)
    names = [f"tenant{number:03}" for number in range(1, count + 1)]
    plays = module_playbook(server, generate.policy(names, shape, roles))
    loops, module = [], []
    for _round in range(bench.rounds):
        generate.copy_databases(server, "template", ["sample"])
        loops.append(loop_times(bench, shape, roles, count))
        theirs = generate.privileges(server, "sample", list(roles))
        generate.drop_databases(server, ["sample"])
        generate.drop_roles(server, roles)

        generate.copy_databases(server, "template", names)
        module.append(module_times(bench, plays))
        for name in (names[0], names[-1]):
            expect_same(generate.privileges(server, name, list(roles)), theirs, name)
        generate.drop_databases(server, names)
        generate.drop_roles(server, roles)
        say(f"loops {loops[-1][0]:.0f} s and {loops[-1][1]:.0f} s (extrapolated), pg_access {module[-1][0]:.2f} s and {module[-1][1]:.2f} s")
    generate.drop_databases(server, ["template"])

    sampled, all_items = (peers.loop_items(number, shape.schemas, roles) + len(roles) for number in (1, count))
    for position, (what, least) in enumerate((("converge", 400), ("with nothing to change", 1000))):
        bench.record(
            f"100 databases x 3 schemas x 6 roles, {what}: wall time of ansible-playbook with community.postgresql's postgresql_user and "
            f"postgresql_privs in loops, extrapolated to {all_items} loop items from a measured sample of {sampled}, against one pg_access task",
            paired([pair[position] for pair in loops], [pair[position] for pair in module]),
            least,
            at_least=True,
            peer={"community.postgresql": version},
        )


# ldap2pg


def known_to_ldap2pg(rights: Rights) -> Rights:
    """Without MAINTAIN, which is newer than ldap2pg 5.9."""
    return {right for right in rights if right[3] != "MAINTAIN"}


def measure_ldap2pg(bench: Bench) -> None:
    """One database, 5 roles x 200 tables with 400 sequences."""
    server, shape = bench.server, Shape(schemas=1, tables=200, sequences=2)
    roles = {kind: kind for kind in islice(KINDS, 5)}
    command, version = peers.install_ldap2pg()
    generate.create_roles(server, roles)
    generate.create_database(server, "template", shape)
    config = WORK / "ldap2pg.yml"
    config.write_text(json.dumps(peers.ldap2pg_config(server, "theirs", shape, roles)))
    policy = generate.plain_policy("mine", shape, roles)

    def theirs(wanted: bool) -> tuple[float, float]:
        start = time.perf_counter()
        done = peers.call([*command, "--config", str(config), "--real", "--no-color"])
        wall = time.perf_counter() - start
        expect_changed("Grant " in done.stderr, wanted, "ldap2pg")
        return float(done.stdout.split()[-1]), wall

    def mine(wanted: bool) -> tuple[float, float]:
        answer = bench.engine(policy)
        expect_changed(answer["result"]["changed"], wanted, "pg_access")
        return answer["seconds"], answer["wall"]

    times: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    rounds = 2 * bench.rounds + 1
    for number in range(rounds):
        generate.copy_databases(server, "template", ["theirs", "mine"])
        tools = (("theirs", theirs), ("mine", mine))
        for wanted in (True, False):
            for name, tool in tools if number % 2 else reversed(tools):
                times.setdefault((name, wanted), []).append(tool(wanted))
        mine_now, theirs_now = (known_to_ldap2pg(generate.privileges(server, name, list(roles))) for name in ("mine", "theirs"))
        expect_same(mine_now, theirs_now, "ldap2pg")
        generate.drop_databases(server, ["theirs", "mine"])
    generate.drop_databases(server, ["template"])
    generate.drop_roles(server, roles)
    for what, wanted in (("converge", True), ("with nothing to change", False)):
        for position, of in enumerate(("work", "whole process, with the interpreter's start and imports,")):
            others, ours = ([pair[position] for pair in times[name, wanted]] for name in ("theirs", "mine"))
            say(f"{what}, {of.split(',')[0]}: ldap2pg {median(others):.3f} s, pg_access {median(ours):.3f} s")
            bench.record(
                f"5 roles x 200 tables and 400 sequences, {what}: {of} of ldap2pg with static roles and no LDAP against pg_access",
                paired(others, ours),
                1,
                at_least=True,
                peer={"ldap2pg": version},
            )


# 10,000 tables


def in_batches(plan: list[dict[str, Any]]) -> list[list[str]]:
    """A plan's statements as a person would send them: one transaction a database, many statements a round trip."""
    by_database: dict[str, list[str]] = {}
    for change in plan:
        by_database.setdefault(change["database"] or "postgres", []).append(change["sql"])
    sent = []
    for database, statements in by_database.items():
        parts = ["; ".join(statements[start : start + BATCH]) for start in range(0, len(statements), BATCH)]
        sent += [[database, text] for text in ("BEGIN", *parts, "COMMIT")]
    return sent


def converge_rounds(bench: Bench, policy_of: Callable[[str], dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Seconds of (the module, the same statements sent bare), each time on a fresh copy of 'template'; 'mine' is left converged."""
    server = bench.server
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(bench.rounds):
        generate.drop_databases(server, ["mine", "bare"])
        generate.copy_databases(server, "template", ["mine", "bare"])
        statements = in_batches(bench.engine(policy_of("bare"), check=True)["result"]["plan"])
        for turn in (0, 1) if number % 2 == 0 else (1, 0):
            if turn == 0:
                answer = bench.engine(policy_of("mine"))
                expect_changed(answer["result"]["changed"], True, "pg_access")
                times[0].append(answer["seconds"])
            else:
                times[1].append(bench.bare(statements))
        expect_changed(bench.engine(policy_of("bare"), check=True)["result"]["changed"], False, "pg_access after the bare statements")
        say(f"converging: {times[0][-1]:.2f} s in the module, {times[1][-1]:.2f} s bare")
    return times


def measure_large(bench: Bench) -> None:
    """One database, 10,000 tables with 20,000 sequences x 20 roles."""
    server, shape = bench.server, Shape(schemas=10, tables=1000, sequences=2)
    roles = {f"{kind}_{number}": kind for number, kind in zip(range(20), cycle(KINDS), strict=False)}
    generate.create_roles(server, roles)
    generate.create_database(server, "template", shape)
    say("10,000 tables made")

    def policy_of(name: str) -> dict[str, Any]:
        return generate.policy([name], shape, roles)

    mine, bare = converge_rounds(bench, policy_of)
    head = "10,000 tables and 20,000 sequences x 20 roles"
    bench.record(
        f"{head}, converge: work of pg_access, with reading, planning and reading again, against its own statements sent in batches of {BATCH}",
        paired(mine, bare),
        1.15,
    )

    generate.run(server, ["VACUUM"], "mine")  # as autovacuum does after so many changes; it is off here
    recorded = bench.engine(policy_of("mine"), "--statements")
    expect_changed(recorded["result"]["changed"], False, "pg_access")
    seconds, queries, peaks = [], [], []
    for _round in range(2 * bench.rounds + 1):
        answer = bench.engine(policy_of("mine"))
        seconds.append(answer["seconds"])
        peaks.append(answer["peak_kib"])
        queries.append(bench.bare(recorded["statements"]))
    say(f"no change: {median(seconds):.3f} s in the module, {median(queries):.3f} s bare, at most {max(peaks) / 1024:.0f} MiB")
    head += ", with nothing to change"
    bench.record(f"{head}: work of pg_access against its own catalog queries sent by bare psycopg2", paired(seconds, queries), 1.5)
    bench.record(f"{head}: work of pg_access against {NO_CHANGE_LIMIT_SECONDS} s", median(seconds) / NO_CHANGE_LIMIT_SECONDS, 1)
    bench.record(f"{head}: peak memory of the process against {MEMORY_LIMIT_KIB // 1024} MiB", max(peaks) / MEMORY_LIMIT_KIB, 1)
    generate.drop_databases(server, ["mine", "bare", "template"])
    generate.drop_roles(server, roles)


# What a run without changes writes

_FOOTPRINT = """
    SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn,
           (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_sys_tables),
           (SELECT n_tup_upd FROM pg_stat_sys_tables WHERE relid = 'pg_class'::regclass),
           (SELECT md5(string_agg(xmin::text || ctid::text, ',' ORDER BY ctid)) FROM pg_class)
"""


def footprint(server: Any, database: str) -> tuple[int, int, int, str]:
    """(WAL position, rows of catalogs ever written, rows of pg_class ever updated, all row versions of pg_class)."""
    with closing(generate.connect(server, database)) as connection, connection.cursor() as cursor:
        if server.major < 15:
            time.sleep(1)  # statistics reach the collector on their own time
        cursor.execute(_FOOTPRINT)
        position, written, updated, versions = cursor.fetchone()
    return int(position), int(written), int(updated), str(versions)


def measure_wal(bench: Bench) -> None:
    """A run with nothing to change, on a quiet server: no autovacuum, no checkpoint, no snapshots for standbys."""
    server, shape = bench.server, Shape(schemas=3, tables=200, sequences=2)
    server.restart(**SETTINGS, autovacuum="off", wal_level="minimal", max_wal_senders=0)
    roles = {kind: kind for kind in KINDS}
    generate.create_database(server, "mine", shape)
    policy = generate.policy(["mine"], shape, roles)
    before = footprint(server, "mine")
    expect_changed(bench.engine(policy)["result"]["changed"], True, "pg_access")
    if any(now == then for now, then in zip(footprint(server, "mine"), before, strict=True)):
        raise BenchError("what the converging run wrote was not seen, so this could not see what a run without changes writes")
    for database in ("mine", "postgres"):
        generate.run(server, ["VACUUM (FREEZE, ANALYZE)"], database)
    bench.engine(policy)  # the first reader after a change may set hint bits, whoever it is
    footprint(server, "mine")
    generate.run(server, ["CHECKPOINT"])
    wal, written, updated = 0, 0, 0
    for _round in range(bench.rounds):
        idle = [footprint(server, "mine") for _round in range(2)]
        if idle[0] != idle[1]:
            raise BenchError(f"the server writes by itself: {idle}")
        expect_changed(bench.engine(policy)["result"]["changed"], False, "pg_access")
        after = footprint(server, "mine")
        wal = max(wal, after[0] - idle[1][0])
        written = max(written, after[1] - idle[1][1])
        updated = max(updated, after[2] - idle[1][2], int(after[3] != idle[1][3]))
    what = "600 tables and 1,200 sequences x 6 roles, with nothing to change"
    bench.record(f"{what}: bytes of WAL written", wal, 0)
    bench.record(f"{what}: rows of pg_class updated, by statistics, xmin and ctid", updated, 0)
    bench.record(f"{what}: rows of all catalogs inserted, updated or deleted", written, 0)
    generate.drop_databases(server, ["mine"])
    generate.drop_roles(server, roles)


MEASUREMENTS: dict[str, Callable[[Bench], None]] = {
    "loop": measure_loop,
    "ldap2pg": measure_ldap2pg,
    "large": measure_large,
    "wal": measure_wal,
}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("claims", nargs="*", choices=[*MEASUREMENTS, []], metavar="claim", help=", ".join(MEASUREMENTS))
    parser.add_argument("--major", type=int, default=18, help="PostgreSQL's major version (18)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of which the median counts (3)")
    options = parser.parse_args()
    failed = []
    for name in options.claims or MEASUREMENTS:
        print(f"{name} on PostgreSQL {options.major}", flush=True)
        with servers.running(options.major, **SETTINGS) as server:
            try:
                MEASUREMENTS[name](Bench(server, options.rounds, f"bench/access.py --major {options.major} {name}"))
            except (BenchError, peers.PeerError) as error:
                failed.append(name)
                print(f"{name} was not measured: {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
