# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""SCRAM verifiers: the standard's own example, those of real servers, and texts that are none."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.core import scram

KEY = "A" * 43 + "="

# Passwords and the verifiers that PostgreSQL 14 made of them: what is normalized, what is not, and what SASLprep refuses.
FROM_A_SERVER = {
    "secret": "VkEpzC822WmExEAlecruYQ==$/VMB1YCM/04gavUhbTXJW0Jx7f0sflDiW1YOlyU2fVE=:pl6cF9Phxg7KK0RjWATx/4rJ4BWZIDZxnU+ye6Re/9E=",
    "p\u00e4ssw\u00f6rd": "eXtIatBdKyN+Di6RCYTW+w==$nxiCYsVDuxQVyWhXr0TCVuCFrMqp6h0B2H4rqWVcCBc=:m3Ua4f+GlpkkGpgiyRJDFbDxLibIRTfGNdyFJVtiV9E=",
    "I\u00adX": "S4Npx9twCXXlnEgIWnoXDw==$EEL824vmwaFvZnawkLyqNYFfj2VInZXtgYBactlnsxg=:dJg93V8xdmxBE8IGYs0jzGXBuRv12uBYNVOX30+ouTg=",
    "\u00aa": "pZetmIpA3DzKeV3IJpCuTQ==$wUeMFnQ9MOK8qX1AaPzLITWQhE0l9rzxZwTTGTDgv0w=:ZuCFrUCq/5V1h3bf6jHARwRmLWV085oygqQz/3rjvQs=",
    "\u2168": "qi59pmQUljJBhlRocqdYKA==$f/0eXrxhkI5TFv/XMTEx/iSxj//hJxPapFM+NQxzUhE=:Vv0E+mXQ6RamxOaLJWKQRenvmKyG6xy2d2VbYVhznYc=",
    "a\u200bb": "AngxyFpIPetKQRt5itNKcQ==$f5ixdzHaQVK8+0RvIr7liMyp83k0liqb13JurMeSv0A=:4KzZkdNVw3u4JSQ04lasRs0/ztTAlSloGQgjELAIkY8=",
    "\u1d2c": "IW5PLV4gafabHfzSAF2YOw==$ilKEABbMZnwB2SHuHYcCa+3sobp0yXvMSx1EB9EVkM0=:CPCjC2tMe8N5rG04vJaK4Edfnc+zXQxTSnv2mmmpCoA=",
    "\u2000x": "BpWLcOlDXvzd3moVHvRksQ==$xGfLFCHtX6wYtjmfuCdVSbA6jmOgaPL+3IYgNTLUo+8=:BEPcm5j/Kt4eoWfhPgW3OcUsCf0iKlU6Q6y/NN/VeqI=",
    "\u06271": "EY59zyiiveFNm3J/8TFiYQ==$xbjlg6LOSWZUwSKY/+DcVuY6GpBQCMrtLJxoifwk/Y0=:Ju3QrlbDGQlW96oS3fbB9phZz0K2gex+mJQmEWpCEhQ=",
    "\u05d0a": "0PvpxMBnpCxAfqr8Ml1Odg==$lVNfBoKB5jz5/W0Ty2rnvNJVaI557vu4HOJrTorDLvY=:mjp8G8XMIdSHv4AwATNRSK3CExwfuSIbZh16MonkPo0=",
    "\u0221": "bK++qL/HNq4xft2L6Gf/iw==$jLzg7ljuwxj63/Rzs6X3UIDomUDhV6kciObBmneZAVg=:H1qJQNTYwjqK+fPSThn3cCTsVjVbiu6jeXiKRM5f+I8=",
    "\u00ad": "3cb/8H7BKvcDjI31B2cNEg==$jZfIuiM8jHXGkC9yJCGLbMNh1UiVSN0Dm82R41Ffrr4=:I0LLntiivpAbbRh2IIiMxECUVAT5B4iY7VpJnXM3c+g=",
    "\u65e5\u672c\u8a9e": "hjYpOlAUL8lybL7+sJNudw==$nscsUl8utdD2uUQRD9LnWaSlDR17qfpxnke8ajVIaz8=:G09S26hPi78tHZB1kcQWPBHKrAoDMdjO7wy5PiSQ7AM=",
    "\U0001f418": "LfzmXwNdDb5mkvDs0QspYg==$C0okfN4ahqrLtbT0DVcsJyxZz4/S8wyF3xYLpIEKrLg=:FEkicvqGZ43mcjNtQ84woq9Qqw58yxNq2oUVqRKRn0c=",
    "a\x07b": "gefOW+yrhCSVZrjviuVdSA==$stfUK7Q0njraUqfeXPrVBtrpEsUWaFPIRKA7BmURyZ0=:LB3gYoApTEqCbgq15Z2+fLN3LZnG/rvclZdV299nKoQ=",
    "\ufdfa": "8uXa23KvdEZfAB64aNWF/w==$OSxQPEVBsKlUK49zfNi3oOxe8xwhe2UF5+KSHOSvz3Q=:uS1ENpyr1hnPN/OHN67Qu/TRdPlCwdmVrEa2Zo/oujs=",
    "e\u0301": "e53d+pYkoj/h89DPYcNyaA==$bvzmy+m0TIOg3xkRXn+zTWiQ6kfiqijcTpO57ufn4u0=:OtRfdmIau/s4Tndkztwuitc9hCn8OK4fZZgTlOk+eBk=",
    "\u212b": "jSgaA1l8NL3z4waVrPdXQQ==$4YsZUnNaXsGBTpm86OAVrmzi95OkE98zZV+tcTfwDGw=:2dh8JnT/fhbQrg5FYMC94AI02//15FpxcgOGMo5DvYg=",
    'it\'s "quoted"\\': "FPfdCH/srvJjOBcwO0tdJw==$zrTTJPgEXlZb44eU1gmc+qLPR57dlgdDlrb5cGzjRdQ=:WrhI3XLnjmtdH0ya7G/KDy+0QEBC4ir9lJl/KSchwOY=",
}

# Different spellings that PostgreSQL takes for the same password, and those that it does not.
SAME = [("I\u00adX", "IX"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u200bb", "a b"), ("\u2000x", " x"), ("e\u0301", "\u00e9"), ("\u212b", "\u00e5".upper())]
DIFFERENT = [("\u1d2c", "A"), ("\u0221", "d"), ("secret", "Secret"), ("\u00ad", ""), ("a ", "a")]

NO_VERIFIERS = {
    "a plain password": "secret",
    "nothing": "",
    "no salt": f"SCRAM-SHA-256$4096:${KEY}:{KEY}",
    "a salt that is no base64": f"SCRAM-SHA-256$4096:=${KEY}:{KEY}",
    "a key that is too long": f"SCRAM-SHA-256$4096:AAAA${'A' * 44}:{KEY}",
    "a key that is missing": f"SCRAM-SHA-256$4096:AAAA${KEY}",
    "no iterations": f"SCRAM-SHA-256$0:AAAA${KEY}:{KEY}",
    "too many iterations": f"SCRAM-SHA-256$2147483648:AAAA${KEY}:{KEY}",
    "digits of another script": f"SCRAM-SHA-256$\u0661:AAAA${KEY}:{KEY}",
    "a newline behind": f"SCRAM-SHA-256$4096:AAAA${KEY}:{KEY}\n",
    "something before": f" SCRAM-SHA-256$4096:AAAA${KEY}:{KEY}",
    "another mechanism": f"SCRAM-SHA-1$4096:AAAA${KEY}:{KEY}",
}


def test_the_example_of_rfc_7677() -> None:
    """User 'user', password 'pencil': the client proof and the server signature of the RFC follow from our verifier."""
    made = scram.verifier("pencil", 4096, base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    stored_key, server_key = (base64.b64decode(part) for part in made.split("$")[2].split(":"))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}".encode()
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.new(stored_key, message, hashlib.sha256).digest()
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert hashlib.sha256(client_key).digest() == stored_key
    assert base64.b64encode(hmac.new(server_key, message, hashlib.sha256).digest()) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize("password", FROM_A_SERVER, ids=ascii)
def test_verifiers_of_a_server(password: str) -> None:
    stored = f"SCRAM-SHA-256$4096:{FROM_A_SERVER[password]}"
    assert scram.is_verifier(stored)
    assert scram.matches(password, stored)
    assert scram.matches(password, stored, 4096)
    assert not scram.matches(password, stored, 4097)
    assert not scram.matches(password + "x", stored)


@pytest.mark.parametrize(("one", "other"), SAME, ids=ascii)
def test_spellings_of_one_password(one: str, other: str) -> None:
    assert scram.verifier(one, 1, b"salt") == scram.verifier(other, 1, b"salt")


@pytest.mark.parametrize(("one", "other"), DIFFERENT, ids=ascii)
def test_spellings_of_two_passwords(one: str, other: str) -> None:
    assert scram.verifier(one, 1, b"salt") != scram.verifier(other, 1, b"salt")


@pytest.mark.parametrize("text", NO_VERIFIERS.values(), ids=NO_VERIFIERS)
def test_texts_that_are_no_verifiers(text: str) -> None:
    assert not scram.is_verifier(text)
    assert not scram.matches("secret", text)


def test_kinds_of_stored_passwords() -> None:
    assert scram.kind(None) == scram.kind("") == "none"
    assert scram.kind("md5" + "0123456789abcdef" * 2) == "md5"
    assert scram.kind(scram.verifier("x", 1)) == "scram"
    assert scram.kind("md5" + "0123456789ABCDEF" * 2) == "unknown"
    assert scram.kind("secret") == scram.kind("\u00e4") == "unknown"


def test_every_verifier_has_a_salt_of_its_own() -> None:
    one, other = scram.verifier("secret", 1), scram.verifier("secret", 1)
    assert one != other
    assert len(base64.b64decode(one.split("$")[1].partition(":")[2])) == 16
    assert scram.verifier("secret").startswith("SCRAM-SHA-256$4096:")


def test_a_given_verifier_is_compared_as_it_is() -> None:
    one, other = scram.verifier("secret", 1), scram.verifier("secret", 1)
    assert scram.matches(one, one, 4096)
    assert not scram.matches(one, other)
    assert not scram.matches(one, "")
    assert not scram.matches(one, "\u00e4")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.binary(min_size=1, max_size=20))
def test_any_password_matches_its_verifier(password: str, salt: bytes) -> None:
    stored = scram.verifier(password, 1, salt)
    assert scram.is_verifier(stored)
    assert scram.matches(password, stored, 1)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_no_text_is_too_odd_to_compare(given_text: str, stored: str) -> None:
    assert scram.matches(given_text, stored) is False
    assert scram.kind(stored) in ("none", "unknown")
