# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server elsewhere that reports the paths of one that runs here: nothing here is written, reloaded or believed to be its own."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import pki, servers
from tests.integration import module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

PASSWORD = "a password for the tests"


class Elsewhere:
    """A server whose files are at the paths of another one, in a mount namespace of its own. login: reaches it by TCP."""

    def __init__(self, server: Server, near: Server) -> None:
        self.major = server.major
        self.login = {"login_host": "127.0.0.1", "login_port": server.port, "login_user": "postgres", "login_password": PASSWORD, "ssl_mode": "require"}
        self.data = near.data


@pytest.fixture(scope="module", params=[min(servers.majors()), max(servers.majors())], ids=lambda major: f"pg{major}")
def near(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The server that runs here."""
    with servers.running(request.param) as started:
        started.psql(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
        yield started


@pytest.fixture(params=["a cluster of its own", "a copy of the same cluster"])
def elsewhere(near: Server, request: pytest.FixtureRequest) -> Iterator[Elsewhere]:
    """The other server: its directory is mounted over the near one's, where only its own processes see it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    other = near.make_standby() if request.param == "a copy of the same cluster" else servers.start(near.major)
    try:
        if request.param == "a cluster of its own":
            other.psql(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
        other.stop()
        configuration = other.data / "server.conf"
        text = configuration.read_text(encoding="utf-8").replace(str(other.directory), str(near.directory))
        configuration.write_text(text, encoding="utf-8")
        script = 'mount --make-rprivate / && mount --bind "$1" "$2" && exec setpriv --reuid="$3" --clear-groups "$4" start -ws -l "$2/server.log" -D "$2/data"'
        arguments = [str(other.directory), str(near.directory), str(servers.server_account().pw_uid), str(near.bindir / "pg_ctl")]
        environment = servers._as_server_account(near.bindir)["env"]
        # Not to a pipe, which the server would keep.
        subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, "sh", *arguments], check=True, cwd="/", env=environment, stdout=subprocess.DEVNULL, timeout=60
        )
        yield Elsewhere(other, near)
    finally:
        other.stop("immediate")
        other.remove()


def everything(server: Server) -> object:
    """The files of the server that runs here, and when it read them last."""
    texts = {str(path): path.read_bytes() for path in sorted(server.data.rglob("*.conf"))}
    links = sorted(str(path) for path in server.directory.rglob("*bulwark_tls*"))
    return texts, links, server.psql("SELECT pg_conf_load_time()")


def test_the_wrong_server_is_never_touched(near: Server, elsewhere: Any) -> None:
    found = module.run(elsewhere, "pg_cluster_info")
    assert found["data_directory"] == str(near.data)
    assert (found["local"], found["postmaster_pid"], found["service"]) == (False, None, None)
    before = everything(near)
    time.sleep(0.1)
    holder, authority = pki.certificate("localhost", pki.authority(), ["localhost"]), pki.authority()
    for name, options in (
        ("pg_settings", {"settings": {"work_mem": "9MB"}, "method": "file"}),
        ("pg_hba", {"rules": [{"type": "local", "databases": "all", "roles": "postgres", "method": "trust"}], "allow_weak": True}),
        ("pg_ssl_files", {"certificate": holder.chain, "key_content": holder.key_pem, "ca": authority.pem, "names": ["localhost"]}),
    ):
        for check in (True, False):
            result = module.run(elsewhere, name, check=check, **options)
            assert result.get("failed"), (name, result)
            assert "not on this host" in result["msg"]
    assert everything(near) == before
    # The near one itself is known as before.
    assert module.run(near, "pg_cluster_info")["local"] is True
