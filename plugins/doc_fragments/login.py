# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the connection options that all modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """The connection options; their names are those of community.postgresql."""

    DOCUMENTATION = r"""
options:
  login_host:
    description:
      - Host name or address of the server.
      - Without O(login_host) and O(login_unix_socket) the connection goes through libpq's default Unix socket.
    type: str
  login_port:
    description: TCP port of the server, which is also part of the name of its Unix socket.
    type: int
    default: 5432
  login_unix_socket:
    description: Directory of the server's Unix socket. Takes precedence over O(login_host).
    type: path
  login_user:
    description: The role to connect as. Without it, libpq takes the name of the operating-system user.
    type: str
  login_password:
    description: The password of O(login_user). Not needed where the server knows the user by peer or certificate.
    type: str
  login_db:
    description: The database to connect to for what belongs to the whole server.
    type: str
    default: postgres
  ssl_mode:
    description: How libpq uses TLS. Use V(verify-full) over a network.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
  ca_cert:
    description: File with the certificates of the authorities that may have signed the server's certificate.
    type: path
requirements:
  - psycopg2 on the host that the module runs on
"""

    ATTRIBUTES = r"""
attributes:
  check_mode:
    description: Can run in check mode and return the changes without making them; works in a read-only session and on a standby.
    support: full
  diff_mode:
    description: Shows what changes or would change, in the terms of the policy.
    support: full
  idempotent:
    description: A second run with the same policy changes nothing.
    support: full
  action_group:
    description: Use C(group/bulwark.postgresql.pg) in C(module_defaults) to set the connection options once.
    support: full
    membership:
      - bulwark.postgresql.pg
"""

    INFO_ATTRIBUTES = r"""
attributes:
  check_mode:
    description: Can run in check mode; it only reads.
    support: full
  diff_mode:
    description: Shows what changes. Nothing ever does.
    support: N/A
  idempotent:
    description: Changes nothing.
    support: full
  action_group:
    description: Use C(group/bulwark.postgresql.pg) in C(module_defaults) to set the connection options once.
    support: full
    membership:
      - bulwark.postgresql.pg
"""
