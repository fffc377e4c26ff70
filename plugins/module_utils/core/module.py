# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The door's frame: what every module of the collection shares, and the only part of the engine that knows Ansible."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from .database import PSYCOPG2_ERROR, Server, connection_parameters
from .errors import BulwarkError, PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

# The options of the doc fragment bulwark.postgresql.login; their names are community.postgresql's.
LOGIN_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "login_host": {"type": "str"},
    "login_port": {"type": "int", "default": 5432},
    "login_unix_socket": {"type": "path"},
    "login_user": {"type": "str"},
    "login_password": {"type": "str", "no_log": True},
    "login_db": {"type": "str", "default": "postgres"},
    "ssl_mode": {"type": "str", "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]},
    "ca_cert": {"type": "path"},
}

_CONNECT_TIMEOUT = 10  # seconds


def run(options: Mapping[str, Any], body: Callable[[AnsibleModule, Server], dict[str, Any]], *, log_options: bool = True) -> None:
    """Make the module, run its body against the server that its login options name, and end with its result or with one clear error.

    log_options: Ansible writes the options to the host's own log; False where secrets stand in the midst of them.
    """
    module = AnsibleModule(argument_spec={**LOGIN_OPTIONS, **options}, supports_check_mode=True, no_log=not log_options)
    if PSYCOPG2_ERROR is not None:
        module.fail_json(msg=missing_required_lib("psycopg2"), exception=PSYCOPG2_ERROR)
    parameters = {**connection_parameters(module.params), "connect_timeout": _CONNECT_TIMEOUT}
    try:
        result = body(module, Server(parameters, module.params["login_db"]))
    except PolicyError as error:
        mistakes = [{"path": mistake.path, "message": mistake.message} for mistake in error.mistakes]
        module.fail_json(msg=str(error), mistakes=mistakes)
    except BulwarkError as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)
