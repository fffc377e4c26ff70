# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_cluster_info against what the test itself knows of its servers."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

from tests import servers
from tests.integration import module

if TYPE_CHECKING:
    from tests.servers import Server


class As:
    """A server as another role reaches it."""

    def __init__(self, server: Server, role: str) -> None:
        self.login = {**server.login, "login_user": role}


def asked(server: Any) -> module.Result:
    """What the module says."""
    result = module.run(server, "pg_cluster_info")
    assert not result.get("failed"), result
    assert result["changed"] is False
    return result


def test_a_server_started_by_hand(cluster: Server) -> None:
    found = asked(cluster)
    assert found["version"] == cluster.version
    assert found["data_directory"] == str(cluster.data)
    assert {found[f"{file}_file"] for file in ("config", "hba", "ident")} == {
        str(cluster.data / name) for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf")
    }
    assert found["port"] == cluster.port
    assert found["socket_directories"] == [cluster.host]
    assert found["bin_directory"] == str(cluster.bindir)
    assert found["postmaster_pid"] == int((cluster.data / "postmaster.pid").read_text(encoding="ascii").split()[0])
    assert (found["local"], found["patroni"], found["managed"], found["in_recovery"]) == (True, False, False, False)
    assert found["service"]["manager"] == "pg_ctl"
    assert "pg_stat_statements" in found["libraries_available"]


def test_a_role_without_rights_sees_what_it_may(cluster: Server) -> None:
    cluster.psql("CREATE ROLE visitor LOGIN")
    found = asked(As(cluster, "visitor"))
    assert (found["role"], found["superuser"], found["local"], found["managed"]) == ("visitor", False, False, False)
    assert (found["data_directory"], found["config_file"], found["service"]) == (None, None, None)
    assert found["port"] == cluster.port
    assert found["libraries_available"] == []


def test_a_managed_service_is_known_by_its_provider_s_role(cluster: Server) -> None:
    # A stand-in: no provider's server can run here.
    cluster.psql("CREATE ROLE rds_superuser; CREATE ROLE master LOGIN CREATEROLE CREATEDB; GRANT rds_superuser TO master")
    assert asked(As(cluster, "master"))["managed"] is True
    assert asked(cluster)["managed"] is False


def test_what_waits_for_a_restart_until_it_has_happened(server: Server) -> None:
    with servers.running(server.major) as own:
        own.psql("ALTER SYSTEM SET shared_preload_libraries = 'auto_explain'; SELECT pg_reload_conf(); SELECT pg_sleep(0.3)")
        assert asked(own)["pending_restart"] == ["shared_preload_libraries"]
        command = asked(own)["service"]["restart"]
        demoted: dict[str, Any] = {}
        if os.geteuid() == 0:
            account = servers.server_account()
            demoted = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        # Through pipes, as Ansible runs it: a server that kept them would hang this.
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60, **demoted)
        found = asked(own)
        assert (found["pending_restart"], found["libraries_loaded"]) == ([], ["auto_explain"])


def test_a_standby(server: Server) -> None:
    standby = server.make_standby()
    try:
        found = asked(standby)
        assert (found["in_recovery"], found["local"]) == (True, True)
        assert found["data_directory"] == str(standby.data)
    finally:
        standby.remove()
