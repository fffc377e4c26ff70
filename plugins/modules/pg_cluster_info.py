#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a server's files are, how it is run, and what waits for a restart."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_cluster_info
short_description: Read where a server's files are and how it is run
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Asks the running server, and its process where that is on the same host, for its version, files, ports, programs and service.
    Nothing is guessed
    from the operating system, so that Debian's clusters, the layout of the RHEL family, containers, Patroni, managed services and servers
    that were
    started by hand are all the same to what is built on it.
  - Only reads. Works on a standby, and with a role that has no rights. What that role may not see is V(null).
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.info_attributes
seealso:
  - module: bulwark.postgresql.pg_settings
"""

EXAMPLES = r"""
- name: Ask the server about itself
  bulwark.postgresql.pg_cluster_info:
    login_unix_socket: /var/run/postgresql
  become: true
  become_user: postgres
  register: cluster

- name: Show what waits for a restart
  ansible.builtin.debug:
    msg: "{{ cluster.pending_restart }}"
"""

RETURN = r"""
version:
  description: The version as people write it.
  returned: success
  type: str
  sample: "17.11"
server_version:
  description: The server's version number, as in the setting server_version_num.
  returned: success
  type: int
  sample: 170011
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
  sample: false
role:
  description: The role that the module connected as.
  returned: success
  type: str
  sample: postgres
superuser:
  description: Whether that role is a superuser.
  returned: success
  type: bool
  sample: true
system_identifier:
  description: The number that the cluster got when it was made, and that its standbys and its WAL have, too.
  returned: success
  type: str
  sample: "7712629487227264965"
data_directory:
  description: The data directory.
  returned: success
  type: str
  sample: /var/lib/postgresql/17/main
config_file:
  description: The main configuration file.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/postgresql.conf
hba_file:
  description: The file with the rules of client authentication.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/pg_hba.conf
ident_file:
  description: The file with the maps of user names.
  returned: success
  type: str
  sample: /etc/postgresql/17/main/pg_ident.conf
port:
  description: The TCP port.
  returned: success
  type: int
  sample: 5432
socket_directories:
  description: The directories of the Unix sockets.
  returned: success
  type: list
  elements: str
  sample: [/var/run/postgresql]
listen_addresses:
  description: The addresses that the server listens on.
  returned: success
  type: list
  elements: str
  sample: [localhost]
postmaster_pid:
  description: The server's first process, if it runs on the host that the module runs on.
  returned: success
  type: int
  sample: 812
bin_directory:
  description: The directory of the program that the server runs, and of the other programs of its version.
  returned: success
  type: str
  sample: /usr/lib/postgresql/17/bin
local:
  description: Whether the server runs on the host that the module runs on and its configuration can be read there.
  returned: success
  type: bool
  sample: true
service:
  description:
    - Who keeps the server running. C(manager) is V(systemd), V(pg_ctlcluster), V(pg_ctl), V(container) or V(patroni); C(unit) is
      systemd's name of the
      service; C(restart) is the command that restarts the server, empty where none here can; C(restart_user) is the user whom it
        needs, V(null) for whoever the module ran as.
    - V(null) for a server on another host.
  returned: success
  type: dict
  sample:
    manager: systemd
    unit: postgresql@17-main.service
    restart: [systemctl, restart, postgresql@17-main.service]
    restart_user: root
patroni:
  description: Whether Patroni runs the server.
  returned: success
  type: bool
  sample: false
managed:
  description: Whether a provider runs the server, so that it has no files and no superuser for its users.
  returned: success
  type: bool
  sample: false
pending_restart:
  description: The settings whose new value waits for a restart.
  returned: success
  type: list
  elements: str
  sample: [shared_preload_libraries]
libraries_loaded:
  description: The libraries in the settings shared_preload_libraries and session_preload_libraries.
  returned: success
  type: list
  elements: str
  sample: [pg_stat_statements]
libraries_available:
  description: The libraries in the server's library directory, which can be loaded. Empty where the role may not list it.
  returned: success
  type: list
  elements: str
  sample: [auth_delay, auto_explain, pg_stat_statements]
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.facts import read_facts
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server


def read(_module: AnsibleModule, server: Server) -> dict[str, Any]:
    """The module's result."""
    with server.connect() as database:
        facts = asdict(read_facts(database))
        return {"changed": False, **facts, "version": database.version_text, "server_version": facts["version"]}


def main() -> None:
    """The module's entry point."""
    run({}, read)


if __name__ == "__main__":
    main()
