# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that the collection is measured against: community.postgresql's modules in loops, and ldap2pg 5.9.

community.postgresql comes with the ansible package of the project's environment, so both collections run on the same Ansible, Python
and psycopg2. ldap2pg gets an environment of its own in .work/bench, at the versions of requirements/bench.txt.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import Any

from bench.support.generate import KINDS, OWNER, Shape

ROOT = Path(__file__).resolve().parent.parent.parent
SCRATCH = ROOT / ".work" / "bench"
REQUIREMENTS = ROOT / "requirements" / "bench.txt"

# ldap2pg imports python-ldap even where its roles are static. Building that needs OpenLDAP's headers; these names are all it looks up.
_LDAP_STAND_IN = {
    "__init__.py": """__version__ = "none"
SCOPE_BASE, SCOPE_ONELEVEL, SCOPE_SUBTREE, SCOPE_SUBORDINATE = range(4)
class LDAPError(Exception): pass
class DECODING_ERROR(LDAPError): pass
""",
    "dn.py": "def str2dn(*unused): raise NotImplementedError\n",
    "sasl.py": "",
}

# As its own command does, with a clock that starts after the imports.
_LDAP2PG_TIMED = """
import time
from ldap2pg.script import main
start = time.perf_counter()
try:
    main()
finally:
    print(time.perf_counter() - start)
"""

# What ldap2pg calls the privileges; its names without 'all' would add default privileges.
_LDAP2PG_ALL = {
    "tables": ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"],
    "sequences": ["SELECT", "UPDATE", "USAGE"],
}


class PeerError(Exception):
    """A tool to compare with cannot be installed or does not work here."""


def call(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises PeerError with the end of its output if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise PeerError(f"{' '.join(command[:4])} ... failed ({done.returncode}):\n{(done.stdout + done.stderr)[-3000:]}")
    return done


def community_postgresql_version() -> str:
    """The version of the community.postgresql that ansible-playbook will use."""
    root = Path(sysconfig.get_path("purelib")) / "ansible_collections" / "community" / "postgresql"
    try:
        version = json.loads((root / "MANIFEST.json").read_text())["collection_info"]["version"]
    except OSError as error:
        raise PeerError(f"community.postgresql is not in this Python's ansible package: {error}") from None
    return str(version)


def install_ldap2pg() -> tuple[list[str], str]:
    """The command that runs ldap2pg and prints the seconds of its work, and its version."""
    folder = SCRATCH / "ldap2pg"
    command = folder / "bin" / "ldap2pg"
    if not command.exists():
        venv.create(folder, with_pip=True)
        python = str(folder / "bin" / "python")
        call([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", str(REQUIREMENTS)])
        stand_in = Path(call([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip()) / "ldap"
        stand_in.mkdir()
        for name, text in _LDAP_STAND_IN.items():
            (stand_in / name).write_text(text)
    return [str(folder / "bin" / "python"), "-c", _LDAP2PG_TIMED], call([str(command), "--version"]).stdout.split()[1]


def ldap2pg_config(server: Any, database: str, shape: Shape, roles: dict[str, str]) -> dict[str, Any]:
    """The rights of generate.plain_policy in ldap2pg's terms (JSON is YAML)."""
    privileges = {}
    for kind, rights in KINDS.items():
        names = ["__connect__", "__usage_on_schemas__"]
        for what, words in zip(("tables", "sequences"), rights, strict=True):
            names += [f"__{word.lower()}_on_all_{what}__" for word in (_LDAP2PG_ALL[what] if words == ["ALL"] else words)]
        privileges[kind] = names
    return {
        "version": 5,
        "postgres": {
            "dsn": f"host={server.host} port={server.port} user={server.superuser} dbname=postgres",
            "databases_query": [database],
            "schemas_query": shape.schema_names,
            "managed_roles_query": list(roles),
            "roles_blacklist_query": [server.superuser, "pg_*", OWNER],
        },
        "privileges": privileges,
        "sync_map": [{"roles": list(roles)}] + [{"grant": {"privilege": kind, "role": role}} for role, kind in roles.items()],
    }


def loop_playbook(server: Any, databases: list[str], shape: Shape, roles: dict[str, str], python: str) -> list[dict[str, Any]]:
    """A playbook that reaches the state of generate.policy as users of community.postgresql write it: one fact a loop item."""
    login = {"login_unix_socket": str(server.host), "login_port": server.port, "login_user": server.superuser}

    def privs(name: str, loop: str, **arguments: Any) -> dict[str, Any]:
        module = {"login_db": "{{ item.0 }}", "roles": "{{ item[-1] }}", "state": "present", **arguments, **login}
        return {"name": name, "tags": ["grants"], "community.postgresql.postgresql_privs": module, "loop": loop}

    everywhere = "{{ databases | product(schemas) | map('flatten') | product(kinds) | map('flatten') | list }}"
    tasks: list[dict[str, Any]] = [
        {
            "name": "Group roles",
            "tags": ["roles"],
            "community.postgresql.postgresql_user": {
                "login_db": "postgres",
                "name": "{{ item }}",
                "role_attr_flags": "NOLOGIN",
                "state": "present",
                **login,
            },
            "loop": "{{ kinds }}",
        },
        privs("Connect", "{{ databases | product(kinds) | list }}", type="database", objs="{{ item.0 }}", privs="CONNECT"),
        privs("Use schemas", everywhere, type="schema", objs="{{ item.1 }}", privs="USAGE"),
    ]
    for position, what in enumerate(("tables", "sequences")):
        words = {role: ",".join(KINDS[kind][position]) for role, kind in roles.items()}
        holders = [role for role, text in words.items() if text]
        loop = everywhere.replace("kinds", f"{what}_privileges.keys()")
        given = {"privs": f"{{{{ {what}_privileges[item[-1]] }}}}", "schema": "{{ item.1 }}"}
        tasks.append(privs(f"All {what}", loop, type=what[:-1], objs="ALL_IN_SCHEMA", **given))
        tasks.append(privs(f"Future {what}", loop, type="default_privs", objs=what.upper(), target_roles=OWNER, **given))
        tasks[-1]["vars"] = tasks[-2]["vars"] = {f"{what}_privileges": {role: words[role] for role in holders}}
    return [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {
                "ansible_python_interpreter": python,
                "databases": databases,
                "schemas": shape.schema_names,
                "kinds": list(roles),
            },
            "tasks": tasks,
        }
    ]


def loop_items(databases: int, schemas: int, roles: dict[str, str]) -> int:
    """How many loop items of loop_playbook give privileges: the module calls without those that make the roles."""
    sequence_holders = sum(1 for kind in roles.values() if KINDS[kind][1])
    return databases * len(roles) + databases * schemas * (3 * len(roles) + 2 * sequence_holders)
