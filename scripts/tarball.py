# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the collection, installs the tarball in an empty place and runs its playbook from there against a PostgreSQL of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.servers import Server, majors, running

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = ROOT / ".work" / "tarball"

# What a user of the collection gets, and nothing else.
CONTENT = {
    "CHANGELOG.md",
    "CHANGELOG.rst",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "LICENSES",
    "MANIFEST.json",
    "README.md",
    "REUSE.toml",
    "changelogs",
    "docs",
    "examples",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}

VARIABLES = {
    "pg_users_roles": {"tarball_app": {"login": True}, "tarball_owner": {}},
    "pg_users_databases": {
        "tarball": {"owner": "tarball_owner", "schemas": {"app": {"owner": "tarball_owner", "profiles": {"tarball_app": "app_service"}}}},
    },
}


class TarballError(Exception):
    """The tarball is not as it should be."""


def run(*command: str, **environment: str) -> str:
    """What a program prints, run outside this tree with no other copy of the collection in sight."""
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ANSIBLE_CONFIG")}
    clean.update(ANSIBLE_COLLECTIONS_PATH=str(SCRATCH / "collections"), ANSIBLE_FORCE_COLOR="0", **environment)
    done = subprocess.run(command, cwd=SCRATCH, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise TarballError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build() -> Path:
    """The tarball, with a look at what is in it."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    (SCRATCH / "collections").mkdir(parents=True)
    run("ansible-galaxy", "collection", "build", str(ROOT), "--output-path", str(SCRATCH))
    (tarball,) = SCRATCH.glob("bulwark-postgresql-*.tar.gz")
    with tarfile.open(tarball) as tar:
        names = tar.getnames()
    strange = sorted({name.split("/")[0] for name in names} - CONTENT)
    strange += [name for name in names if "__pycache__" in name or name.endswith((".pyc", "~"))]
    if strange:
        raise TarballError(f"{tarball.name} holds what users have no use for (galaxy.yml, build_ignore): {', '.join(strange)}")
    print(f"{tarball.name}: {len(names)} files and folders, {tarball.stat().st_size // 1024} KiB")
    return tarball


def harden(server: Server) -> int:
    """Run the installed playbook; how many tasks changed something."""
    variables = {
        **VARIABLES,
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "bulwark_become": False,
        "bulwark_login_unix_socket": server.host,
        "bulwark_login_port": server.port,
        "bulwark_login_user": server.superuser,
    }
    inventory = SCRATCH / "inventory.json"
    inventory.write_text(json.dumps({"postgresql": {"hosts": {"server": variables}}}), encoding="utf-8")
    output = run("ansible-playbook", "-i", str(inventory), "bulwark.postgresql.harden")
    recap = re.search(r"^server\s+: ok=\d+\s+changed=(\d+)", output, re.MULTILINE)
    if recap is None:
        raise TarballError(f"no recap in the playbook's output\n{output}")
    return int(recap[1])


def main() -> None:
    """Build, install, run twice."""
    tarball = build()
    run("ansible-galaxy", "collection", "install", str(tarball), "--offline", "--no-deps", "-p", str(SCRATCH / "collections"))
    listed = run("ansible-doc", "-t", "module", "-l", "bulwark.postgresql").split()
    missing = {"bulwark.postgresql.pg_access", "bulwark.postgresql.pg_access_info"} - set(listed)
    if missing:
        raise TarballError(f"ansible-doc does not list {', '.join(sorted(missing))}")
    with running(max(majors())) as server:
        changed = [harden(server), harden(server)]
        may_read = server.psql("SELECT has_schema_privilege('tarball_app', 'app', 'USAGE')", db="tarball")
    if changed[0] == 0 or changed[1] != 0 or may_read != "t":
        raise TarballError(f"the installed playbook changed {changed} tasks in its two runs; tarball_app may use schema app: {may_read}")
    print(f"the installed playbook ran twice on PostgreSQL {server.version}: changed={changed[0]}, then changed={changed[1]}")


if __name__ == "__main__":
    try:
        main()
    except TarballError as error:
        sys.exit(f"tarball: {error}")
