# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every module of the collection shares, and the only part of the engine that knows Ansible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from .database import PSYCOPG2_ERROR, Server, connection_parameters
from .errors import BulwarkError, PolicyError
from .patroni import Patroni
from .plan import Patience, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Proposal:
    """A plan, what to say of it, and how it is applied. notes: warnings. apply: returns the number of retries."""

    plan: Plan
    summary: str
    apply: Callable[[], int]
    notes: tuple[str, ...] = ()


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


# The options of the doc fragment bulwark.postgresql.patroni.
PATRONI_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "patroni_url": {"type": "str", "default": "http://localhost:8008"},
    "patroni_user": {"type": "str"},
    "patroni_password": {"type": "str", "no_log": True},
    "patroni_ca_cert": {"type": "path"},
}


def patroni_of(params: Mapping[str, Any]) -> Patroni:
    """Patroni's REST interface, from the options above."""
    from ansible.module_utils.urls import open_url  # here: it takes 50 ms, and few runs ask Patroni

    login = {"user": params["patroni_user"], "password": params["patroni_password"]}
    return Patroni(open_url, params["patroni_url"], ca_cert=params["patroni_ca_cert"], **login)


# The options of the doc fragment bulwark.postgresql.policy, of every module that takes a policy.
POLICY_OPTIONS: Mapping[str, Mapping[str, Any]] = {"path_prefix": {"type": "str", "default": ""}}

# Its section "expected".
EXPECTED_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "expected_roles": {"type": "list", "elements": "str", "default": []},
    "expected_databases": {"type": "list", "elements": "str", "default": []},
}

# Its section "patience", of every module that changes what is in databases.
PATIENCE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    **POLICY_OPTIONS,
    "lock_timeout": {"type": "int", "default": 5000},
    "lock_retries": {"type": "int", "default": 5},
}


def patience_of(params: Mapping[str, Any]) -> Patience:
    """How long to wait for locks, from the options above."""
    return Patience(params["lock_timeout"], params["lock_retries"])


def outcome(module: AnsibleModule, server: Server, proposal: Proposal) -> dict[str, Any]:
    """Apply a plan of statements, unless in check mode or on a standby, and return what every module says of it."""
    plan = proposal.plan
    with server.connect() as session:
        data = plan.as_data(session)
        version, in_recovery = session.server_version, session.in_recovery()
    result: dict[str, Any] = {
        "changed": bool(plan),
        "plan": data,
        "sql": [change["sql"] for change in data],
        "diff": {"prepared": plan.diff()},
        "retries": 0,
        "in_recovery": in_recovery,
        "server_version": version,
    }
    for note in proposal.notes:
        module.warn(note)
    if not plan:
        result["msg"] = "Everything is as declared"
    elif module.check_mode:
        result["msg"] = f"Would make {proposal.summary}"
    elif in_recovery:
        result.update(changed=False, skipped_reason="in recovery", msg=f"skipped: in recovery; the primary needs {proposal.summary}")
    else:
        result["retries"] = proposal.apply()
        result["msg"] = f"Made {proposal.summary}"
    return result


class _Module(AnsibleModule):
    """A module whose answer Ansible can read: bytes of a file that are not UTF-8, which survive here as surrogates, are shown as \\xfc."""

    def warn(self, warning: str, **more: Any) -> None:
        """As Ansible's."""
        super().warn(_readable(warning), **more)

    def exit_json(self, **result: Any) -> NoReturn:
        """As Ansible's."""
        super().exit_json(**_readable(result))

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        """As Ansible's."""
        super().fail_json(_readable(msg), **_readable(result))


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {key: _readable(each) for key, each in value.items()}
    return [_readable(each) for each in value] if isinstance(value, (list, tuple)) else value


def run(options: Mapping[str, Any], body: Callable[[AnsibleModule, Server], dict[str, Any]], *, log_options: bool = True) -> None:
    """Make the module, run its body against the server that its login options name, and end with its result or with one clear error.

    log_options: Ansible writes the options to the host's own log; False where secrets stand in the midst of them.
    """
    module = _Module(argument_spec={**LOGIN_OPTIONS, **options}, supports_check_mode=True, no_log=not log_options)
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
