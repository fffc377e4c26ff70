#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The effective rules of a server, what is wrong with them, and which one a connection hits."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_hba_info
short_description: Read a server's pg_hba.conf, lint it, and ask which rule a connection hits
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Reads the rules with everything that the file includes, in the order in which the server tries them, and changes nothing.
  - On the server's host the files are read there. From elsewhere the server is asked for them, which takes a superuser.
  - The answer to a question is the first rule that matches. Where only the server could tell, as with the name of a host or C(samenet),
    the answer says
    which rules may come before it.
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.info_attributes
options:
  questions:
    description: Connections to ask about.
    type: list
    elements: dict
    default: []
    suboptions:
      role:
        description: Who connects.
        type: str
        required: true
      database:
        description: To which database. Needless with O(questions[].replication).
        type: str
        default: ""
      address:
        description: From which address, or host where DNS says the same. Without it, through the Unix socket.
        type: str
      encrypted:
        description: Whether with TLS. Without it, both are answered, and C(encryption) says whether it is required.
        type: bool
      replication:
        description: Whether it is a connection for physical replication.
        type: bool
        default: false
seealso:
  - module: bulwark.postgresql.pg_hba
"""

EXAMPLES = r"""
- name: Is the application accepted, and only with TLS?
  bulwark.postgresql.pg_hba_info:
    login_unix_socket: /var/run/postgresql
    questions:
      - {role: app_service, database: shop, address: 10.1.2.3}
  become: true
  become_user: postgres
  register: hba

- name: It is
  ansible.builtin.assert:
    that:
      - hba.answers[0].method == 'scram-sha-256'
      - hba.answers[0].encryption == 'required'
      - hba.lint | selectattr('severity', 'eq', 'high') | length == 0
"""

RETURN = r"""
rules:
  description: The rules in order, with names as the file writes them.
  returned: success
  type: list
  elements: dict
  sample:
    - {type: hostssl, databases: [all], roles: [all], address: 10.0.0.0/8, method: cert, options: {}, file: /srv/pg/pg_hba.conf, line:
      9, comment: ""}
lint:
  description:
    - Findings, those of the file as a whole first. The codes are C(unreadable), C(not_loaded), C(missing_role), C(missing_database),
      C(shadowed), C(trust),
      C(password), C(md5), C(ident), C(radius), C(plain), C(ldap_plain), C(ssl_off), C(no_authority), C(md5_verifier), C(wide),
      C(everybody) and C(superuser).
  returned: success
  type: list
  elements: dict
  sample:
    - {code: trust, severity: high, message: "accepts whoever claims the name, without a password", rule: local all all trust, file:
      /srv/pg_hba.conf, line: 9}
answers:
  description: One for each question, in their order. C(encryption) is V(required), V(optional), V(refused) or V(no connection).
  returned: success
  type: list
  elements: dict
  sample:
    - role: app
      database: shop
      address: 10.1.2.3
      encrypted: true
      replication: false
      rule: hostssl all all 10.0.0.0/8 scram-sha-256
      file: /etc/postgresql/17/main/pg_hba.conf
      line: 9
      method: scram-sha-256
      allowed: true
      certain: true
      maybe: []
      encryption: required
loaded_at:
  description: When the server last read its files.
  returned: success
  type: str
  sample: "2026-01-31 12:00:00.123456+00"
stale:
  description: Files that were changed since.
  returned: success
  type: list
  elements: str
  sample: []
server_version:
  description: The server's version number, as in the setting server_version_num.
  returned: success
  type: int
  sample: 170011
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ansible_collections.bulwark.postgresql.plugins.module_utils.core.facts import read_facts
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import run
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.catalog import read_state
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.lint import lint
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.match import ask
from ansible_collections.bulwark.postgresql.plugins.module_utils.hba.model import Question

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, dict[str, Any]] = {
    "questions": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "role": {"type": "str", "required": True},
            "database": {"type": "str", "default": ""},
            "address": {"type": "str"},
            "encrypted": {"type": "bool"},
            "replication": {"type": "bool", "default": False},
        },
    },
}


def read(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """The module's result."""
    with server.connect() as database:
        facts = read_facts(database)
        state = read_state(database, facts)
    answers = []
    for each in module.params["questions"]:
        question = Question(each["role"], each["database"], each["address"], replication=each["replication"])
        answer = ask(state.rules, question, state.roles, state.major, each["encrypted"])
        if state.problems or state.stale:  # the server goes by what it loaded before
            answer = {**answer, "certain": False}
        answers.append(answer)
    return {
        "changed": False,
        "rules": [rule.as_data() for rule in state.rules],
        "lint": [asdict(finding) for finding in lint(state.rules, state.problems, state)],
        "answers": answers,
        "loaded_at": state.loaded_at,
        "stale": list(state.stale),
        "server_version": facts.version,
    }


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, read)


if __name__ == "__main__":
    main()
