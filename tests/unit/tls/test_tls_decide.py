# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with certificates is found, all of it, and nothing is found in good ones."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.tls import generations, material
from ansible_collections.bulwark.postgresql.plugins.module_utils.tls.checks import name_problem
from ansible_collections.bulwark.postgresql.plugins.module_utils.tls.policy import read_policy
from ansible_collections.bulwark.postgresql.plugins.module_utils.tls.reconcile import Decision, decide
from tests import pki

if TYPE_CHECKING:
    from pathlib import Path

    from ansible_collections.bulwark.postgresql.plugins.module_utils.core.errors import Mistake

CA = pki.authority("Root")
OTHER = pki.authority("Other root")
NAMES = ["db1.example.org", "10.0.0.5"]
GOOD = pki.certificate("db1.example.org", CA, NAMES)


def judge(
    tmp_path: Path | None = None, installed: pki.Holder | None = None, ca: pki.Holder | None = CA, in_use: frozenset[str] = frozenset(), **options: Any
) -> tuple[Decision, dict[str, str]]:
    """The decision, and the mistakes by option."""
    mistakes: list[Mistake] = []
    options = {"names": NAMES, "ca": ca.pem if ca else None, "renew_before": 30, **options}
    wanted = read_policy(options, str(tmp_path or "/nonexistent"), mistakes)
    texts = {"server.crt": installed.chain, "server.key": installed.key_pem, **({"ca.crt": ca.pem} if ca else {})} if installed else {}
    there = generations.Installed("1", 0.0, texts) if installed else None
    decision = decide(wanted, there, in_use, pki.now(), mistakes)
    return decision, {mistake.path: mistake.message for mistake in mistakes}


def mistakes_of(holder: pki.Holder, **options: Any) -> dict[str, str]:
    """What is wrong with installing a certificate and its key."""
    return judge(**{"certificate": holder.chain, "key_content": holder.key_pem, **options})[1]


def test_a_good_one_is_installed() -> None:
    decision, mistakes = judge(certificate=GOOD.chain, key_content=GOOD.key_pem)
    assert mistakes == {}
    assert decision.texts is not None
    assert (decision.texts["server.crt"], decision.texts["server.key"], decision.texts["ca.crt"]) == (GOOD.pem, GOOD.key_pem, CA.pem)
    assert decision.reasons == ()
    assert GOOD.key_pem.splitlines()[1] not in repr(decision)


@pytest.mark.parametrize("key", [rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()], ids=["rsa", "ed25519"])
def test_other_kinds_of_keys(key: Any) -> None:
    options: dict[str, Any] = {"key": key}
    if isinstance(key, rsa.RSAPrivateKey):
        root = pki.authority("RSA root", key=rsa.generate_private_key(65537, 2048))
        assert mistakes_of(pki.certificate("db1", root, NAMES, **options), ca=root) == {}
    assert mistakes_of(pki.certificate("db1", CA, NAMES, **options)) == {}


def test_a_chain_through_an_intermediate_authority() -> None:
    issuing = pki.authority("Issuing", CA)
    leaf = pki.certificate("db1", issuing, NAMES)
    assert mistakes_of(leaf) == {}
    without = mistakes_of(pki.Holder(leaf.certificate, leaf.key))
    assert "does not lead to an authority of ca" in without["certificate"]
    narrow = pki.authority("Narrow root", path_length=0)
    too_long = pki.certificate("db1", pki.authority("Issuing", narrow), NAMES)
    assert "does not lead" in mistakes_of(too_long, ca=narrow)["certificate"]


@pytest.mark.parametrize(
    ("holder", "options", "place", "message"),
    [
        (pki.certificate("db1", CA, NAMES, days=(-9, -1)), {}, "certificate", "has expired on"),
        (pki.certificate("db1", CA, NAMES, days=(1, 9)), {}, "certificate", "is not valid before"),
        (pki.certificate("db1", CA, ["db2.example.org", "10.0.0.5"]), {}, "certificate", "is not valid for db1.example.org; its subjectAltName has"),
        (pki.certificate("db1.example.org", CA), {}, "certificate", "its subjectAltName has nothing"),
        (pki.certificate("db1", OTHER, NAMES), {}, "certificate", "is signed by CN=Other root, ca has CN=Root"),
        (pki.certificate("db1", CA, NAMES, uses=[ExtendedKeyUsageOID.CLIENT_AUTH]), {}, "certificate", "lacks serverAuth"),
        (pki.certificate("db1", CA, NAMES, key=rsa.generate_private_key(65537, 1024)), {}, "certificate", "RSA key of 1024 bits"),
        (GOOD, {"key_content": pki.pem_of(pki.new_key())}, "key", "does not fit the certificate"),
        (GOOD, {"key_content": pki.pem_of(GOOD.key, b"secret")}, "key", "is encrypted"),
        (GOOD, {"key_content": GOOD.pem}, "key", "holds no private key"),
        (GOOD, {"key_content": None}, "key", "is missing"),
        (GOOD, {"key_content": None, "key": "/nonexistent/key"}, "key", "names the file /nonexistent/key, which is not there"),
        (GOOD, {"key_content": None, "key": "relative/key"}, "key", "is neither PEM text"),
        (GOOD, {"certificate": GOOD.pem[:-80]}, "certificate", "is cut off"),
        (GOOD, {"certificate": GOOD.pem.replace("MII", "AAA")}, "certificate", "cannot be read"),
        (GOOD, {"certificate": GOOD.key_pem}, "certificate", "holds no certificate"),
        (GOOD, {"crl": "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----"}, "crl", "cannot be read"),
        (GOOD, {"crl": pki.revocation_list(OTHER)}, "crl", "is not signed by an authority of ca"),
        (GOOD, {"crl": pki.revocation_list(CA, days=(-9, -1))}, "crl", "has expired on"),
        (GOOD, {"names": ["db 1"]}, "names[0]", "is neither a DNS name nor an IP address"),
        (GOOD, {"revoked": ["no number"]}, "revoked[0]", "hexadecimal"),
        (GOOD, {"clients": ["../app"]}, "clients[0]", "cannot be the common name"),
    ],
)
def test_what_is_wrong(holder: pki.Holder, options: dict[str, Any], place: str, message: str) -> None:
    found = mistakes_of(holder, **options)
    assert message in found.get(place, ""), found
    assert len(found) == 1


@pytest.mark.parametrize(
    ("ca", "message"),
    [
        (pki.certificate("Root", ca=False), "lacks the CA flag"),
        (pki.certificate("Root"), "lacks the CA flag"),
        (pki.authority("Root", days=(-9, -1)), "leave it out (pg_ssl_ca_keep_old: false"),
        (pki.authority("Issuing", CA), "has no root"),
    ],
)
def test_what_is_wrong_with_an_authority(ca: pki.Holder, message: str) -> None:
    assert message in mistakes_of(pki.certificate("db1", ca, NAMES), ca=ca)["ca"]


def test_every_mistake_is_told() -> None:
    found = mistakes_of(
        pki.certificate("db1", OTHER, ["db9"], days=(-9, -1)), key_content=pki.pem_of(pki.new_key()), crl=pki.revocation_list(OTHER), names=[*NAMES, "a b"]
    )
    assert sorted(found) == ["certificate", "crl", "key", "names[2]"]


def test_a_list_of_one_authority_needs_those_of_the_others() -> None:
    both = CA.pem + OTHER.pem
    found = mistakes_of(GOOD, ca=None, crl=pki.revocation_list(CA))
    assert "needs the authority" in found["crl"]
    mistakes: list[Mistake] = []
    wanted = read_policy({"ca": both, "crl": pki.revocation_list(CA), "renew_before": 30}, "/nonexistent", mistakes)
    decide(wanted, None, frozenset(), pki.now(), mistakes)
    assert ["there is no list of CN=Other root" in mistake.message for mistake in mistakes] == [True]


@pytest.mark.parametrize(("days", "wrong"), [(30, True), (29, True), (31, False)])
def test_what_is_renewed_on_each_run_is_refused(days: int, wrong: bool) -> None:
    assert ("must be below" in mistakes_of(GOOD, issued_for=days).get("renew_before", "")) is wrong


@pytest.mark.parametrize(
    ("installed", "options", "reason"),
    [
        (None, {}, "there is no certificate yet"),
        (pki.certificate("db1", CA, NAMES, days=(-9, 20)), {}, "within 30 days"),
        (pki.certificate("db1", CA, NAMES, days=(-9, -1)), {}, "has expired on"),
        (GOOD, {"names": [*NAMES, "db9"]}, "is not valid for db9"),
        (pki.certificate("db1", OTHER, NAMES), {}, "does not lead to an authority"),
        (GOOD, {"issuer": OTHER.pem}, "is signed by CN=Root, not by CN=Other root"),
    ],
)
def test_why_another_one_is_needed(installed: pki.Holder | None, options: dict[str, Any], reason: str) -> None:
    decision, mistakes = judge(installed=installed, **options)
    assert mistakes == {}
    assert reason in decision.reasons[0]
    assert decision.texts is None


def test_the_installed_one_stays_and_the_rest_follows() -> None:
    assert judge(installed=GOOD)[0].texts is None
    assert judge(installed=GOOD, certificate=GOOD.chain)[0].texts is None
    decision, mistakes = judge(installed=GOOD, crl=pki.revocation_list(CA))
    assert (mistakes, decision.reasons) == ({}, ())
    assert decision.texts is not None
    assert decision.texts["server.key"] == GOOD.key_pem
    assert "ca.crl" in [change.object for change in decision.changes]


def test_a_renewed_certificate_may_keep_its_key() -> None:
    renewed = pki.certificate("db1", CA, NAMES, key=GOOD.key)
    decision, mistakes = judge(installed=GOOD, certificate=renewed.chain)
    assert mistakes == {}
    assert decision.texts is not None
    assert not any("new key" in change.description for change in decision.changes)


def test_a_file_that_a_setting_names_does_not_go() -> None:
    mistakes: list[Mistake] = []
    wanted = read_policy({"names": NAMES, "certificate": GOOD.chain, "key_content": GOOD.key_pem}, "/nonexistent", mistakes)
    old = pki.certificate("db1", CA, NAMES)
    there = generations.Installed("1", 0.0, {"server.crt": old.chain, "server.key": old.key_pem, "ca.crt": CA.pem})
    assert "ca.crt" not in (decide(wanted, there, frozenset(), pki.now(), mistakes).texts or {})
    assert "ca.crt" in (decide(wanted, there, frozenset({"ca.crt"}), pki.now(), mistakes).texts or {})
    assert mistakes == []


def test_clients() -> None:
    revoked = pki.certificate("revoked", CA)
    ending = pki.certificate("ending", CA, days=(-9, 3))
    good = pki.certificate("good", CA)
    known = "".join(holder.pem for holder in (revoked, ending, good))
    found = judge(clients=["good", "ending", "revoked", "new"], client_certificates=known, issuer=CA.pem, revoked=[revoked.serial])[0].clients
    assert [(client.name, client.revoked) for client in found] == [("ending", False), ("revoked", True), ("new", False)]


def test_a_revocation_list_is_made_anew() -> None:
    lost = pki.certificate("app", CA)
    assert judge(installed=GOOD, revoked=[lost.serial])[0].list_reasons == ("there is none yet",)
    good = pki.revocation_list(CA, [lost])
    assert judge(installed=GOOD, crl=good, revoked=[lost.serial])[0].list_reasons == ()
    assert judge(installed=GOOD, crl=good, revoked=[])[0].list_reasons != ()
    assert judge(installed=GOOD, crl=good)[0].list_reasons == ()
    assert "expires on" in judge(installed=GOOD, crl=pki.revocation_list(CA, days=(-9, 9)))[0].list_reasons[0]


@pytest.mark.parametrize(
    ("names", "name", "covered"),
    [
        (["db1.example.org"], "DB1.Example.ORG", True),
        (["db1.example.org"], "db1.example.org.", True),
        (["*.example.org"], "db1.example.org", True),
        (["*.example.org"], "a.db1.example.org", False),
        (["*.org"], "example.org", False),
        (["::1"], "0:0:0:0:0:0:0:1", True),
        (["10.0.0.5"], "10.0.0.50", False),
        (["localhost"], "127.0.0.1", False),
    ],
)
def test_names(names: list[str], name: str, covered: bool) -> None:
    (certificate,) = material.read_certificates(pki.certificate("x", CA, names).pem)
    assert certificate.covers(name) is covered


@given(st.text(max_size=300))
def test_no_text_is_a_traceback(text: str) -> None:
    name_problem(text)
    for reader in (material.read_certificates, material.read_lists, material.read_key):
        with pytest.raises(material.MaterialError):
            reader(text)


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_text_is_refused_or_the_same(data: st.DataObject) -> None:
    text = GOOD.pem
    position = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:position] + data.draw(st.characters(max_codepoint=127)) + text[position + 1 :]
    try:
        found = material.read_certificates(damaged)
    except material.MaterialError:
        return
    changed = material.fingerprint(found[0]) != material.fingerprint(material.read_certificates(text)[0])
    assert not changed or not material.signed_by(found[0], material.read_certificates(CA.pem)[0])


def test_times_have_a_zone() -> None:
    (certificate,) = material.read_certificates(GOOD.pem)
    assert certificate.not_after.tzinfo == datetime.timezone.utc
    assert certificate.serial_text.lstrip("0") == GOOD.serial.lstrip("0")


def test_a_list_of_somebody_else_that_ends_soon_is_a_warning() -> None:
    ending = pki.revocation_list(CA, days=(-9, 3))

    def warned(**options: Any) -> bool:
        return any("revocation list of CN=Root expires on" in warning for warning in judge(**options)[0].warnings)

    assert warned(crl=ending)
    assert not warned(crl=pki.revocation_list(CA))
    assert not warned(crl=ending, revoked=[])  # of an authority of ours, another one is made


def test_der_is_told_from_pem(tmp_path: Path) -> None:
    path = tmp_path / "db1.der"
    path.write_bytes(GOOD.certificate.public_bytes(serialization.Encoding.DER))
    for text in (str(path), path.read_bytes().decode("utf-8", "surrogateescape")):
        mistakes: list[Mistake] = []
        read_policy({"names": NAMES, "certificate": text, "key_content": GOOD.key_pem, "renew_before": 30}, "/nonexistent", mistakes)
        assert [(mistake.path, "in DER, not in PEM" in mistake.message) for mistake in mistakes] == [("certificate", True)]
