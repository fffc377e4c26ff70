# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role pg_server restarts a server only where it may, and a server that does not come back gets the settings that it had."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests import servers
from tests.integration.module import Playbook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server


@pytest.fixture(scope="module")
def mine() -> Iterator[Server]:
    """A server that is restarted in earnest, by the command that pg_cluster_info finds; one major is enough for the role's own tasks."""
    with servers.running(max(servers.majors())) as started:
        yield started


def becoming(server: Server) -> dict[str, str]:
    """How root becomes the server's account, who may not look into root's virtual environment and gets the system's Python."""
    python = server.directory / "python"
    python.write_text(f'#!/bin/sh\n[ "$(id -u)" = 0 ] && exec {sys.executable} "$@"\nexec /usr/bin/python3 "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return {
        "ansible_become_method": "ansible.builtin.su",
        "ansible_become_flags": "-s /bin/sh",
        "ansible_python_interpreter": str(python),
        "ansible_remote_tmp": str(server.directory / "ansible"),
        "ansible_pipelining": "true",
    }


def play(server: Server, directory: Path, settings: dict[str, Any], *, restart: bool) -> tuple[int, str]:
    """Exit code and output of a play with the role."""
    role = {
        "name": "Server",
        "ansible.builtin.include_role": {
            "name": "bulwark.postgresql.pg_server",
            "apply": {"module_defaults": {"group/bulwark.postgresql.pg": server.login}},
        },
        "vars": {"pg_server_settings": settings, "pg_server_baseline": "none", "pg_server_restart": restart},
    }
    directory.mkdir(exist_ok=True)
    running = Playbook(directory, [role], becoming(server) if os.geteuid() == 0 else {}).start()
    output = running.communicate(timeout=120)[0]
    return running.returncode, output


@pytest.mark.oldest_and_newest
def test_a_restart_happens_only_where_it_is_allowed(mine: Server, tmp_path: Path) -> None:
    libraries = {"shared_preload_libraries": ["auto_explain"]}
    before = mine.psql("SELECT pg_postmaster_start_time()")
    code, output = play(mine, tmp_path / "told", libraries, restart=False)
    assert code == 0, output
    assert "waiting for a restart: shared_preload_libraries" in output
    assert mine.psql("SELECT pg_postmaster_start_time()") == before

    code, output = play(mine, tmp_path / "done", libraries, restart=True)
    assert code == 0, output
    assert mine.psql("SHOW shared_preload_libraries") == "auto_explain"
    assert mine.psql("SELECT pg_postmaster_start_time()") != before

    after = mine.psql("SELECT pg_postmaster_start_time()")
    code, output = play(mine, tmp_path / "again", libraries, restart=True)
    assert (code, "changed=0" in output) == (0, True), output
    assert mine.psql("SELECT pg_postmaster_start_time()") == after


@pytest.mark.oldest_and_newest
def test_a_server_that_does_not_come_back_gets_the_settings_that_it_had(mine: Server, tmp_path: Path) -> None:
    code, output = play(mine, tmp_path / "good", {"shared_preload_libraries": ["auto_explain"], "work_mem": "8MB"}, restart=True)
    assert code == 0, output
    # A library that is there, and is none of PostgreSQL's: only a start finds out.
    code, output = play(mine, tmp_path / "bad", {"shared_preload_libraries": ["libpq"], "work_mem": "9MB"}, restart=True)
    assert code != 0
    assert "the settings are as they were, and it was started with them" in output
    assert mine.psql("SHOW shared_preload_libraries") == "auto_explain"
    assert mine.psql("SHOW work_mem") == "8MB"


@pytest.mark.newest
@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another account needs root")
def test_a_play_that_has_become_the_account_which_may_restarts_by_it(mine: Server, tmp_path: Path) -> None:
    """The server's account has no psycopg2 here: root stands for it, and what pg_settings has found is given."""
    found = {"method": "file", "pending_restart": ["max_connections"], "service": {"restart": ["touch", "restarted"], "restart_user": None}}
    role = {
        "name": "Restart",
        "ansible.builtin.include_role": {
            "name": "bulwark.postgresql.pg_server",
            "tasks_from": "restart",
            "apply": {"module_defaults": {"group/bulwark.postgresql.pg": mine.login}},
        },
        "vars": {"pg_server_result": found},
    }
    made = Playbook(tmp_path, [role], becoming(mine))
    text = (tmp_path / "play.yml").read_text(encoding="utf-8")
    words = """  become: "{{ not some_host | default('', true) }}"\n  become_user: "{{ some_user | default('root') }}"\n"""  # as harden does
    (tmp_path / "play.yml").write_text(text.replace("  gather_facts:", f"{words}  gather_facts:"), encoding="utf-8")
    running = made.start()
    output = running.communicate(timeout=120)[0]
    assert running.returncode == 0, output
    assert (tmp_path / "restarted").exists(), output
