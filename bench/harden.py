# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks and the seconds of a harden.yml that has nothing to do, on the demo: bench/harden.md."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from bench import claims
from tests import servers

ROOT = Path(__file__).resolve().parent.parent
MOST = 40  # tasks, for all that the playbook will ever do

PAGE = """\
<!--
SPDX-FileCopyrightText: The bulwark.postgresql authors
SPDX-License-Identifier: GPL-3.0-or-later
-->
# A run that has nothing to do

The second `harden.yml` of the demo, on a local connection, measured by `bench/harden.py` on {cores} cores:

| | |
| --- | --- |
| tasks, skipped ones among them | {tasks} (bound {most}) |
| executed | {executed} |
| seconds | {seconds} |
"""


def main() -> None:
    """Run the demo, which fails where the second run changes anything."""
    done = subprocess.run([str(ROOT / "demo" / "run")], capture_output=True, text=True, check=True)
    found = re.search(r"ok=(\d+) changed=0 .*?, (\d+) tasks in ([\d.]+) s", done.stdout)
    if found is None:
        raise RuntimeError(f"the demo does not say how long its second run took:\n{done.stdout}")
    executed, tasks, seconds = int(found[1]), int(found[2]), found[3]
    claims.record("tasks of a harden.yml that has nothing to do", "make bench", tasks, MOST, versions={"postgresql": servers.versions()[18]})
    page = PAGE.format(cores=len(os.sched_getaffinity(0)), tasks=tasks, most=MOST, executed=executed, seconds=seconds)
    (ROOT / "bench" / "harden.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
