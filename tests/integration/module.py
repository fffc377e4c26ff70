# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways to run a module of the collection: in this process (quick), as a process of its own, and through ansible-playbook.

All three end in ansible-core's own argument parsing and exit_json, so that a test sees what a playbook would.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ansible.module_utils.common import warnings as ansible_warnings
from ansible.module_utils.testing import patch_module_args

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPOSITORY = Path(__file__).resolve().parents[2]
COLLECTIONS = REPOSITORY / ".work" / "collections"
NAMESPACE = "ansible_collections.bulwark.postgresql.plugins.modules"

Result = dict[str, Any]


def arguments(server: Any, options: Mapping[str, Any], *, check: bool = False, diff: bool = False) -> dict[str, Any]:
    """The module's arguments: the server's login options, the test's own, and what Ansible adds."""
    internal = {"_ansible_check_mode": check, "_ansible_diff": diff, "_ansible_remote_tmp": "/tmp", "_ansible_keep_remote_files": False}
    return {**server.login, **options, **internal}


def run(server: Any, module: str, *, check: bool = False, diff: bool = False, **options: Any) -> Result:
    """Run a module in this process and return its result, failed or not. An exception that escapes it fails the test."""
    main = importlib.import_module(f"{NAMESPACE}.{module}").main
    output = io.StringIO()
    ansible_warnings._global_warnings.clear()  # they belong to the process, which in real life holds one run
    with patch_module_args(arguments(server, options, check=check, diff=diff)), contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        main()
    return parsed(output.getvalue())


def parsed(output: str) -> Result:
    """The result that a module printed, which must be the only thing that it printed."""
    assert "Traceback" not in output, output
    result = json.loads(output)
    assert isinstance(result, dict)
    return result


def apply(server: Any, policy: Mapping[str, Any], *, check: bool = False, diff: bool = False, **options: Any) -> Result:
    """Apply a policy; it must succeed."""
    result = run(server, "pg_access", policy=policy, check=check, diff=diff, **options)
    assert not result.get("failed"), result["msg"]
    return result


def plan(server: Any, policy: Mapping[str, Any], **options: Any) -> Result:
    """What applying would do, by check mode with --diff."""
    return apply(server, policy, check=True, diff=True, **options)


def converge(server: Any, policy: Mapping[str, Any], **options: Any) -> Result:
    """Apply a policy that has something to do. Check mode must have foretold it, and a second run finds nothing left."""
    foretold = plan(server, policy, **options)
    done = apply(server, policy, diff=True, **options)
    assert foretold["sql"] == done["sql"]
    assert foretold["plan"] == done["plan"]
    assert foretold["diff"] == done["diff"]
    assert (foretold["changed"], done["changed"]) == (True, True)
    unchanged(server, policy, **options)
    return done


def unchanged(server: Any, policy: Mapping[str, Any], **options: Any) -> None:
    """The server is as the policy says, by an applying run and by a check."""
    for check in (False, True):
        again = apply(server, policy, check=check, **options)
        assert again["sql"] == []
        assert again["changed"] is False


def refused(server: Any, policy: Any, *, check: bool = False, **options: Any) -> str:
    """The message with which a policy is refused."""
    result = run(server, "pg_access", policy=policy, check=check, **options)
    assert result.get("failed") is True, result
    assert not result.get("changed"), result
    return str(result["msg"])


def _equal(snapshot: Callable[[], object], before: object, patience: float) -> bool:
    """Whether everything is as it was, within some seconds where the answer may lag behind (Patroni's does)."""
    deadline = time.monotonic() + patience
    while snapshot() != before:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def foretold(act: Callable[..., Result], snapshot: Callable[[], object], *same: str, patience: float = 0) -> Result:
    """Act on what has something to do: check mode foretells it, in these parts of the result and the diff, without touching
    anything, and a second run finds nothing left.
    """
    before = snapshot()
    announced = act(check=True)
    assert not announced.get("failed"), announced["msg"]
    assert _equal(snapshot, before, patience)
    done = act(check=False)
    assert not done.get("failed"), done["msg"]
    assert (announced["changed"], done["changed"]) == (True, True)
    assert {part: announced[part] for part in ("diff", *same)} == {part: done[part] for part in ("diff", *same)}
    for check in (True, False):
        again = act(check=check)
        assert (again["changed"], again["diff"]["prepared"]) == (False, ""), again
    return done


def refusal(act: Callable[..., Result], snapshot: Callable[[], object], *, patience: float = 0) -> str:
    """The message of a refusal, which leaves everything as it was."""
    before = snapshot()
    result = act()
    assert result.get("failed"), result
    assert _equal(snapshot, before, patience), (result["msg"], before, snapshot())
    return str(result["msg"])


def info(server: Any, **options: Any) -> Result:
    """What pg_access_info says."""
    result = run(server, "pg_access_info", **options)
    assert not result.get("failed"), result["msg"]
    assert result.get("changed") is False
    return result


def environment() -> dict[str, str]:
    """The environment in which Python and Ansible find the collection and nothing of the user's own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PG"))}
    return {
        **kept,
        "PYTHONPATH": str(COLLECTIONS),
        "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_DEVEL_WARNING": "False",
        "LC_ALL": "C.UTF-8",
    }


def process(server: Any, policy: Mapping[str, Any], **options: Any) -> subprocess.Popen[str]:
    """pg_access in a process of its own that a test can watch and kill; its arguments come through standard input."""
    return started(server, "pg_access", {"policy": policy, **options})


def started(server: Any, module: str, options: Mapping[str, Any]) -> subprocess.Popen[str]:
    """A module in a process of its own."""
    made = subprocess.Popen(
        [sys.executable, "-m", f"{NAMESPACE}.{module}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd="/",
    )
    assert made.stdin is not None
    made.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments(server, options)}))
    made.stdin.close()
    return made


def finished(started: subprocess.Popen[str], timeout: float = 60) -> Result:
    """The result of a process that ends by itself."""
    assert started.stdout is not None
    assert started.stderr is not None
    started.wait(timeout)
    complaints = started.stderr.read()
    assert "Traceback" not in complaints, complaints
    return parsed(started.stdout.read())


class Playbook:
    """A playbook of one play on localhost, run by the real ansible-playbook in a directory of its own."""

    def __init__(self, directory: Path, tasks: list[dict[str, Any]], variables: Mapping[str, Any]) -> None:
        self.directory = directory
        play = {"name": "Test", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
        (directory / "play.yml").write_text(yaml.safe_dump([play], allow_unicode=True, sort_keys=False), encoding="utf-8")
        secrets = directory / "variables.yml"
        secrets.touch(mode=0o600)
        secrets.write_text(yaml.safe_dump(dict(variables), allow_unicode=True), encoding="utf-8")

    def start(self, *flags: str) -> subprocess.Popen[str]:
        """ansible-playbook with the given flags, its output in one stream."""
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-e", "@variables.yml", *flags, "play.yml"]
        home = {
            "ANSIBLE_HOME": str(self.directory / "home"),
            "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(self.directory / "remote"),
            "ANSIBLE_CACHE_PLUGIN": "jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(self.directory / "facts"),
        }
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env={**environment(), **home},
        )
