#!/usr/bin/python
# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Encrypt columns in place, rotate their keys, decrypt them, count them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pg_encrypted_columns
short_description: Encrypt columns in place, rotate their keys, decrypt them, count their rows by key
version_added: 1.0.0
author:
  - The bulwark.postgresql authors (@bulwark-project)
description:
  - Converts the values of columns to Fernet tokens that the application reads with C(field_encryption.py), while the application goes on
    working. Values are read and written page by page, each page in a transaction of its own, and only rows that nobody has changed
    meanwhile are written. A run can be stopped at any moment; the next one goes on with what is left.
  - Before anything is changed, whatever would break is refused with the way out.
  - The keys are read where the module runs, and never reach the server. Plaintext is in no statement, unless columns are decrypted.
options:
  columns:
    description:
      - Database name to a dictionary of tables, each as C(schema.table), and in each a dictionary of columns with these keys.
      - C(keyring) is the name of the keyring whose primary key encrypts. Required.
      - C(format) is V(fernet) by default, the plain token. V(keyed) puts the id of the key before it, so that SQL can count the rows of
        each key, and needs applications whose C(field_encryption.py) knows it.
      - C(forbid_plaintext) set to V(true) adds a CHECK constraint that lets in nothing but tokens. Every application has to encrypt by
        then.
      - C(blind_index) adds a column C(NAME_index) of type text with an index, in which equal values have equal entries, so that a value is
        still found. Its value names what makes values equal. V(exact), V(text) for Unicode without regard to case, V(digits) for the
        digits alone. The application writes it with C(blind_index) of C(field_encryption.py).
      - C(accept) is a list of what is not to be refused. V(indexes), V(views), V(triggers), V(publications), V(audit), V(few_values).
    type: dict
    required: true
  state:
    description:
      - V(encrypted) encrypts what is plaintext. V(rotated) also encrypts anew what another key than the primary one has encrypted.
        V(decrypted) takes the encryption away. V(census) only counts; without a keyring, too.
    type: str
    choices: [encrypted, rotated, decrypted, census]
    default: encrypted
  keyring_files:
    description: Name of a keyring to the path of its file on the host that the module runs on.
    type: dict
    default: {}
  keyring_contents:
    description: Name of a keyring to its text instead.
    type: dict
    default: {}
  page_size:
    description: How many rows a transaction converts.
    type: int
    default: 1000
  workers:
    description: How many processes convert a table at a time. By default as many as there are cores.
    type: int
  max_replica_lag:
    description: How many seconds a standby may be behind. While one is further behind, the work waits.
    type: float
    default: 10
extends_documentation_fragment:
  - bulwark.postgresql.login
  - bulwark.postgresql.login.attributes
  - bulwark.postgresql.policy
  - bulwark.postgresql.policy.patience
requirements:
  - psycopg2 on the host that executes the module
  - cryptography on the host that executes the module
notes:
  - Progress is shown in C(application_name) of C(pg_stat_activity), and in the host's own log.
  - Plaintext stays in dead rows until VACUUM, in WAL and in backups that were made before. The module names it.
seealso:
  - module: bulwark.postgresql.fernet_keyring
"""

EXAMPLES = r"""
- name: Encrypt the columns
  bulwark.postgresql.pg_encrypted_columns:
    columns:
      shop:
        app.user_profiles:
          ssn: {keyring: pii}
          phone: {keyring: pii, blind_index: digits}
    keyring_files: {pii: /etc/shop/pii.json}

- name: Count the rows of each key
  bulwark.postgresql.pg_encrypted_columns:
    columns: {shop: {app.user_profiles: {ssn: {keyring: pii, format: keyed}}}}
    state: census
"""

RETURN = r"""
columns:
  description:
    - What is in each column after the run. C(keys) has the rows of each key by its id, C(unknown) the tokens whose key is not in the
      keyring or not known without one, C(plain) the values that are no tokens.
  returned: success
  type: list
  elements: dict
  sample:
    - database: shop
      column: app.user_profiles.ssn
      keyring: pii
      format: fernet
      "null": 0
      plain: 0
      keys: {0cf56fe34e8ec3f2: 1500}
      unknown: 0
leftovers:
  description: Where plaintext still is after the run, and what to do about it.
  returned: success
  type: list
  elements: str
  sample: ["shop, app.user_profiles.ssn: dead rows until VACUUM (app.user_profiles); WAL and backups made before now: make a new backup"]
index_columns:
  description: The columns of blind indexes that the run adds, or with O(state=decrypted) removes.
  returned: success
  type: list
  elements: str
  sample: [app.user_profiles.phone_index]
msg:
  description: What was done, in one line.
  returned: success
  type: str
  sample: 1500 rows of 1 column encrypted
in_recovery:
  description: Whether the server is a standby.
  returned: success
  type: bool
  sample: false
skipped_reason:
  description: Why nothing was done although something is left.
  returned: on a standby
  type: str
  sample: in recovery
mistakes:
  description: The mistakes in the document, each with its place.
  returned: when the document is wrong
  type: list
  elements: dict
  sample:
    - path: columns.shop["app.user_profiles"].email
      message: app.user_profiles.email is in a UNIQUE constraint, users_email_key, and no two tokens are equal - drop it first
"""

import json
import os
from typing import TYPE_CHECKING, Any

from ansible.module_utils.basic import missing_required_lib

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import (
    CRYPTOGRAPHY_ERROR,
    FieldEncryptionError,
    Keyring,
)
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import BulwarkError
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.module import PATIENCE_OPTIONS, run
from ansible_collections.bulwark.postgresql.plugins.module_utils.core.plan import within
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.converge import Convergence, Work, summary
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.convert import Pace
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.model import CENSUS, DECRYPTED, ENCRYPTED, STATES
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.policy import read_policy

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.database import Server

OPTIONS: dict[str, Any] = {
    "columns": {"type": "dict", "required": True},
    "state": {"type": "str", "choices": list(STATES), "default": ENCRYPTED},
    "keyring_files": {"type": "dict", "default": {}, "no_log": False},
    "keyring_contents": {"type": "dict", "default": {}, "no_log": True},
    "page_size": {"type": "int", "default": 1000},
    "workers": {"type": "int"},
    "max_replica_lag": {"type": "float", "default": 10},
    **PATIENCE_OPTIONS,
}


def keyrings_of(params: dict[str, Any]) -> dict[str, Keyring]:
    """The keyrings by name. Raises BulwarkError for one that cannot be read."""
    try:
        found = {name: Keyring.from_file(str(path)) for name, path in params["keyring_files"].items()}
        for name, text in params["keyring_contents"].items():  # which a template may have made a dictionary of
            found[name] = Keyring.from_text(text if isinstance(text, str) else json.dumps(text), source=f"keyring {name}")
    except FieldEncryptionError as error:
        raise BulwarkError(str(error)) from None
    return found


def pace_of(params: dict[str, Any]) -> Pace:
    """How fast to go. Raises BulwarkError for numbers that make no sense."""
    within("page_size", params["page_size"], 1, 100_000)
    within("workers", params["workers"], 1, 64)
    within("max_replica_lag", params["max_replica_lag"], 0, 86_400)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return Pace(params["page_size"], params["workers"] or cores, params["max_replica_lag"], params["lock_timeout"], params["lock_retries"])


def converge(module: AnsibleModule, server: Server) -> dict[str, Any]:
    """Plan, convert unless in check mode or on a standby, and return the module's result."""
    params, state = module.params, module.params["state"]
    if CRYPTOGRAPHY_ERROR is not None and state != CENSUS:
        module.fail_json(msg=missing_required_lib("cryptography"), exception=CRYPTOGRAPHY_ERROR)
    keyrings = keyrings_of(params)
    columns = read_policy(params["columns"], None if state == CENSUS else list(keyrings), params["path_prefix"])
    convergence = Convergence(server, columns, keyrings, state, pace_of(params))
    works = convergence.plan(params["path_prefix"])
    left = [work for work in works if work]
    result: dict[str, Any] = {
        "changed": bool(left),
        "diff": {"prepared": "".join(f"{_line(work, state)}\n" for work in left)},
        "leftovers": [],
        "index_columns": [f"{work.column.table_label}.{work.column.index_name}" for work in left if _alters(work, state)],
        "msg": _message(works, state),
    }
    with server.connect() as session:
        result["in_recovery"] = session.in_recovery()
    if left and not module.check_mode:
        if result["in_recovery"]:
            result.update(
                changed=False, skipped_reason="in recovery", msg=f"skipped: in recovery; the primary needs {summary(works, state)}"
            )
        else:
            works = convergence.apply(works, module.log)
            result["leftovers"] = [_leftover(work) for work in left if work.census.plain and state != DECRYPTED]
    for work in works:
        if work.census.unknown and (state != CENSUS and state != ENCRYPTED):
            module.warn(
                f"{work.column.label}: {work.census.unknown} rows are tokens of a key that is not in the keyring {work.column.keyring}"
            )
    for text in result["leftovers"]:
        module.warn(f"Plaintext is left: {text}")
    return {**result, "columns": [_shown(work) for work in works]}


def _message(works: list[Work], state: str) -> str:
    if state == CENSUS:
        return f"{sum(work.census.plain for work in works)} values in {len(works)} columns are no tokens"
    return summary(works, state) if any(works) else "Everything is as declared"


def _alters(work: Work, state: str) -> bool:
    """Whether a run adds or removes the column of a blind index."""
    return bool(work.column.blind_index) and (work.facts.blind_index is None) == (state != DECRYPTED)


def _line(work: Work, state: str) -> str:
    column = work.column
    how = "" if state == DECRYPTED else f", keyring {column.keyring}, format {column.form}"
    if column.blind_index and state != DECRYPTED:
        how += f", blind index {column.index_name} ({column.blind_index})"
    return f"database {column.database}\n  column {column.label}  {work.rows} of {work.census.rows} rows {state}{how}"


def _leftover(work: Work) -> str:
    column = work.column
    return (
        f"{column.database}, {column.label}: in dead rows until VACUUM {column.table_label}; in WAL and in backups that were made"
        " before now, so make a new backup and let the old ones expire; on standbys likewise"
    )


def _shown(work: Work) -> dict[str, Any]:
    column, census = work.column, work.census
    return {
        "database": column.database,
        "column": column.label,
        "keyring": column.keyring,
        "format": column.form,
        "null": census.nulls,
        "plain": census.plain,
        "keys": dict(census.by_key),
        "unknown": census.unknown,
    }


def main() -> None:
    """The module's entry point."""
    run(OPTIONS, converge)


if __name__ == "__main__":
    main()
