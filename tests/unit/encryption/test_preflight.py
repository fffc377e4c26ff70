# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a column needs to be encrypted."""

from __future__ import annotations

from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.client.field_encryption import Key, Keyring
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.model import FERNET, KEYED, Column
from ansible_collections.bulwark.postgresql.plugins.module_utils.encryption.preflight import check_name, token_length

FERNET_KEY = Fernet(Fernet.generate_key())


@given(st.binary(max_size=3000))
def test_the_length_of_a_token_is_known_before_it_is_made(value: bytes) -> None:
    assert token_length(len(value), FERNET) == len(FERNET_KEY.encrypt(value))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_the_length_of_a_keyed_token_is_known_before_it_is_made(value: str) -> None:
    assert token_length(len(value.encode()), KEYED) == len(Keyring([Key.generate()], keyed=True).encrypt(value))


@given(st.text(min_size=1, max_size=63).filter(lambda name: len(name.encode("utf-8", "replace")) <= 63))
def test_a_constraint_has_a_name_that_postgresql_can_hold(name: str) -> None:
    assert len(check_name(Column("", "", "", "", name, "")).encode()) <= 63
