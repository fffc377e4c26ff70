# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the modules that talk to Patroni; module_utils/core/module.py has their types."""

from __future__ import annotations


class ModuleDocFragment:
    """Patroni's REST interface."""

    DOCUMENTATION = r"""
options:
  patroni_url:
    description: Where Patroni's REST interface answers on the managed node.
    type: str
    default: http://localhost:8008
  patroni_user:
    description: The user of the interface, where it wants one for changes.
    type: str
  patroni_password:
    description: The user's password.
    type: str
  patroni_ca_cert:
    description: The authority that proves the interface's certificate, for an address with https. By default the system's.
    type: path
"""
