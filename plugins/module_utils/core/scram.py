# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM-SHA-256 verifiers as PostgreSQL stores them (RFC 5802, RFC 7677), so that no server ever sees a plain password."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import stringprep
import unicodedata

DEFAULT_ITERATIONS = 4096
_SALT_LENGTH = 16  # bytes, as PostgreSQL's own

_VERIFIER = re.compile(r"SCRAM-SHA-256\$([0-9]{1,10}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]{44}):([A-Za-z0-9+/=]{44})")
_MD5 = re.compile(r"md5[0-9a-f]{32}")
_PROHIBITED = (
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def verifier(password: str, iterations: int = DEFAULT_ITERATIONS, salt: bytes | None = None) -> str:
    """The verifier of a plain password. salt: 16 random bytes unless given."""
    used = os.urandom(_SALT_LENGTH) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), used, iterations)
    client_key = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    server_key = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    stored_key = hashlib.sha256(client_key).digest()
    parts = (base64.b64encode(part).decode("ascii") for part in (used, stored_key, server_key))
    return "SCRAM-SHA-256${}:{}${}:{}".format(iterations, *parts)


def is_verifier(text: str) -> bool:
    """Whether the text is a SCRAM-SHA-256 verifier rather than a plain password. PostgreSQL takes what is only like one as a password."""
    return _parsed(text) is not None


def _parsed(text: str) -> tuple[int, bytes] | None:
    """The iteration count and the salt of a verifier."""
    found = _VERIFIER.fullmatch(text)
    if found is None:
        return None
    iterations, salt, stored_key, server_key = found.groups()
    try:
        raw = base64.b64decode(salt, validate=True)
        keys = [base64.b64decode(key, validate=True) for key in (stored_key, server_key)]
    except binascii.Error:
        return None
    if not 0 < int(iterations) < 2**31 or not raw or any(len(key) != hashlib.sha256().digest_size for key in keys):
        return None
    return int(iterations), raw


def kind(stored: str | None) -> str:
    """What a stored password is: scram, md5, none or unknown."""
    if not stored:
        return "none"
    if is_verifier(stored):
        return "scram"
    return "md5" if _MD5.fullmatch(stored) else "unknown"


def matches(given: str, stored: str, iterations: int | None = None) -> bool:
    """Whether a plain password or a verifier is the stored one. iterations: the count that a plain password's verifier must have."""
    if is_verifier(given):
        return hmac.compare_digest(given.encode("utf-8"), stored.encode("utf-8", "surrogatepass"))
    parsed = _parsed(stored)
    if parsed is None or (iterations is not None and parsed[0] != iterations):
        return False
    return hmac.compare_digest(verifier(given, *parsed).encode("utf-8"), stored.encode("utf-8"))


def _prepared(password: str) -> bytes:
    """SASLprep (RFC 4013) as PostgreSQL does it: the raw bytes where it fails.

    Two things are PostgreSQL's own: a character that is both a space and mapped to nothing becomes a space, and what is prohibited is
    looked for
    before the normalization.
    """
    mapped = "".join(_mapped(character) for character in password)
    if not mapped or any(table(character) for character in mapped for table in _PROHIBITED) or not _bidi_allowed(mapped):
        return password.encode("utf-8")
    return unicodedata.normalize("NFKC", mapped).encode("utf-8")


def _mapped(character: str) -> str:
    if stringprep.in_table_c12(character):
        return " "
    return "" if stringprep.in_table_b1(character) else character


def _bidi_allowed(text: str) -> bool:
    right_to_left = [stringprep.in_table_d1(char) for char in text]
    if not any(right_to_left):
        return True
    return right_to_left[0] and right_to_left[-1] and not any(stringprep.in_table_d2(char) for char in text)
