# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Personal data is in the database as tokens alone, which the key on the controller reads, by cryptography and no code of the collection."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Callable

import pytest
from cryptography.fernet import Fernet

Outcomes = Callable[..., "list[str]"]
Query = Callable[..., str]


@pytest.fixture(scope="module")
def fernet() -> Fernet:
    """The primary key of the scenario."""
    keyring = json.loads((Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pii.json").read_text(encoding="utf-8"))
    return Fernet(next(key["key"] for key in keyring["keys"] if key["state"] == "primary"))


def test_every_value_is_a_token_of_the_key_and_what_it_was(query: Query, fernet: Fernet) -> None:
    rows = [row.split("|") for row in query("SELECT user_id, ssn, phone FROM app.user_profiles WHERE user_id <= 1500 ORDER BY id LIMIT 200").splitlines()]
    assert len(rows) == 200
    for user, ssn, phone in rows:
        number = int(user)
        assert fernet.decrypt(ssn.encode()).decode() == f"900-{number % 100:02}-{number:04}"
        assert fernet.decrypt(phone.encode()).decode() == f"+1-555-01{number % 100:02}"
    assert query("SELECT count(*) FROM app.user_profiles WHERE ssn NOT LIKE 'gAAAA%' OR phone NOT LIKE 'gAAAA%'") == "0"


def test_plaintext_is_kept_out(outcomes: Outcomes, fernet: Fernet) -> None:
    token = fernet.encrypt(b"900-00-0000").decode()
    update = "UPDATE app.user_profiles SET ssn = '{}' WHERE user_id = (SELECT min(user_id) FROM app.user_profiles)"
    assert outcomes("app_service", [update.format("900-00-0000"), update.format(token)], keep=False) == ["23514", "00000"]


def test_no_plaintext_is_in_the_statistics_the_log_of_the_server_and_the_audit_log(host: Any, query: Query) -> None:
    assert query("SELECT count(*) FROM pg_stats WHERE tablename = 'user_profiles' AND most_common_vals::text ~ '(900-[0-9]{2}-[0-9]{4}|555-01)'") == "0"
    assert query("SELECT count(*) FROM audit.entries WHERE old_values::text ~ '900-[0-9]{2}-[0-9]{4}' OR new_values::text ~ '900-[0-9]{2}-[0-9]{4}'") == "0"
    found = host.run("grep -rhoE '900-(0[1-9]|[1-9][0-9])-[0-9]{4}' /var/log/postgresql")
    assert found.stdout == ""


def test_the_key_is_not_on_the_host_of_the_server(host: Any) -> None:
    keyring = (Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "pii.json").read_text(encoding="utf-8")
    for each in json.loads(keyring)["keys"]:
        pattern = f"[{each['key'][0]}]{each['key'][1:]}"  # does not match itself, in the log of the processes that were seen
        found = host.run(f"grep -rlE -e '{pattern}' /etc /var/lib/postgresql /var/log /var/tmp /tmp /home /root")
        assert found.stdout == ""


def test_the_escrow_copy_has_the_keys() -> None:
    directory = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    command = ["age", "--decrypt", "--identity", str(directory / "identities"), str(directory / "pii.age")]
    copy = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(copy)["keys"] == json.loads((directory / "pii.json").read_text(encoding="utf-8"))["keys"]
