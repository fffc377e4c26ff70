# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Collects the project's measured claims: the scripts of this folder call record(), `make bench` gathers the answers.

A claim that does not hold is recorded as not holding; nothing here turns it into an error.
Run as a program it runs scripts one after another and gathers what they record:

    python -m bench.claims bench/results.json                       every script of bench/
    python -m bench.claims bench/soak.json                          every script of bench/soak/
    python -m bench.claims bench/results.json bench/access.py ...   these
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
COLLECT = "BULWARK_BENCH_COLLECT"  # the file that a run gathers claims in, one JSON object a line


def record(
    claim: str,
    command: str,
    ratio: float,
    bound: float,
    holds: bool | None = None,
    versions: Mapping[str, str] | None = None,
    at_least: bool = False,
) -> bool:
    """Record one claim: what is claimed, the command that measures it again, the measured figure and its bound.

    Without `holds` the figure must be at most the bound, or with at_least=True at least the bound.
    """
    if holds is None:
        holds = ratio >= bound if at_least else ratio <= bound
    entry = {
        "claim": claim,
        "command": command,
        "ratio": float(f"{ratio:.4g}"),
        "bound": bound,
        "holds": bool(holds),
        "versions": {"python": platform.python_version(), **(versions or {})},
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }
    word = "holds" if holds else "DOES NOT HOLD"
    print(f"{word}: {claim}: {entry['ratio']:g} ({'at least' if at_least else 'bound'} {bound:g})", flush=True)
    target = os.environ.get(COLLECT)
    if target:
        with open(target, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return bool(holds)


def gather(target: Path, scripts: Sequence[Path]) -> int:
    """Run every script; write what they recorded to `target`; return how many scripts failed to run to their end.

    The claims of a script that failed, or that was not run, stay as they were: an older measurement beats none.
    """
    previous = json.loads(target.read_text(encoding="utf-8")) if target.exists() else []
    collected = ROOT / ".work" / f"{target.stem}.jsonl"
    collected.parent.mkdir(exist_ok=True)
    collected.unlink(missing_ok=True)
    failed = 0
    for script in scripts:
        print(f"--- {script}", flush=True)
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / '.work' / 'collections'}", COLLECT: str(collected)},
            check=False,
        )
        if done.returncode != 0:
            failed += 1
            print(f"{script} ended with {done.returncode}", file=sys.stderr)
    lines = collected.read_text(encoding="utf-8").splitlines() if collected.exists() else []
    merged = {entry["claim"]: entry for entry in [*previous, *map(json.loads, lines)]}
    text = json.dumps(sorted(merged.values(), key=lambda entry: entry["claim"]), indent=2, ensure_ascii=False)
    target.write_text(text + "\n", encoding="utf-8")
    print(f"{target}: {len(merged)} claims, {sum(not entry['holds'] for entry in merged.values())} of them do not hold")
    return failed


def scripts_for(target: Path) -> list[Path]:
    """The scripts whose claims belong in a file: those of bench/, or for soak.json of bench/soak/, that record any."""
    folder = ROOT / "bench" / "soak" if target.stem == "soak" else ROOT / "bench"
    own = Path(__file__).resolve()
    return [path for path in sorted(folder.glob("*.py")) if path != own and "claims.record(" in path.read_text(encoding="utf-8")]


def main(arguments: Sequence[str]) -> int:
    """Gather the claims of the scripts named, or of all that there are for this file."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(arguments[0])
    scripts = [Path(name).resolve() for name in arguments[1:]] or scripts_for(target)
    if not scripts:
        print(f"{target}: no script records claims for it yet")
        return 0
    return 1 if gather(target, scripts) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
