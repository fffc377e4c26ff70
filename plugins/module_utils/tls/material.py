# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates, keys and revocation lists as PEM text: the only place of the engine that imports cryptography."""

from __future__ import annotations

import datetime
import ipaddress
import re
import traceback
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import BulwarkError

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa

    # What a damaged text, or one of a kind that cryptography does not know, ends in.
    _UNREADABLE = (
        ValueError,
        TypeError,
        LookupError,
        UnsupportedAlgorithm,
        x509.InvalidVersion,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    )
    CRYPTOGRAPHY_ERROR: str | None = None
except ImportError:
    CRYPTOGRAPHY_ERROR = traceback.format_exc()

_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
_CERTIFICATES = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})
_SMALLEST_RSA = 2048  # bits: what OpenSSL accepts at the security level of today's distributions


class MaterialError(BulwarkError):
    """A text that is not what it should be; the message says what is wrong with it."""


@dataclass(frozen=True)
class Certificate:
    """A certificate. names: of its subjectAltName, dns ones in lower case and addresses. authority: whether it may sign others.

    path_length: how many authorities may stand between it and a certificate of a server, None for any number.
    """

    subject: str
    issuer: str
    common_name: str
    serial: int
    names: tuple[str, ...]
    not_before: datetime.datetime
    not_after: datetime.datetime
    authority: bool
    path_length: int | None
    uses: tuple[str, ...] | None
    pem: str
    parsed: Any = field(compare=False, repr=False)

    @property
    def serial_text(self) -> str:
        """The serial number as OpenSSL prints it."""
        text = f"{self.serial:X}"
        return text.rjust(len(text) + len(text) % 2, "0")

    @property
    def self_signed(self) -> bool:
        """Whether it is a root: what a chain ends in."""
        return signed_by(self, self)

    def covers(self, name: str) -> bool:
        """Whether a client that connects to that name or address takes the certificate for it."""
        wanted = canonical_name(name)
        if wanted in self.names:
            return True
        _first, _dot, rest = wanted.partition(".")
        return not is_address(wanted) and "." in rest and f"*.{rest}" in self.names


@dataclass(frozen=True)
class RevocationList:
    """A list of revoked certificates of one authority."""

    issuer: str
    revoked: frozenset[int]
    last_update: datetime.datetime
    next_update: datetime.datetime | None
    pem: str
    parsed: Any = field(compare=False, repr=False)


# Names


def canonical_name(name: str) -> str:
    """A DNS name in lower case, or an address in its one spelling."""
    text = name.strip().strip("[]")
    try:
        return str(ipaddress.ip_address(text.partition("%")[0]))
    except ValueError:
        return text.rstrip(".").lower()


def is_address(name: str) -> bool:
    """Whether a canonical name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# Reading


def _blocks(text: str, what: str) -> list[tuple[str, str]]:
    """The PEM blocks of a text: (label, block). Raises MaterialError for a block that is cut off."""
    found = [(match[1], match[0] + "\n") for match in _BLOCK.finditer(text)]
    if text.count("-----BEGIN ") != len(found):
        raise MaterialError(f"is cut off: a PEM block of the {what} has no end")
    return found


def read_certificates(text: str) -> tuple[Certificate, ...]:
    """All certificates of a PEM text, in their order. Raises MaterialError."""
    found = [block for label, block in _blocks(text, "certificate") if label in _CERTIFICATES]
    if not found:
        raise MaterialError("holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    certificates = []
    for number, block in enumerate(found, start=1):
        try:
            certificates.append(_certificate(x509.load_pem_x509_certificate(block.encode("ascii"))))
        except _UNREADABLE as error:
            which = f"certificate {number} of {len(found)}" if len(found) > 1 else "the certificate"
            raise MaterialError(f"{which} cannot be read: {_reason(error)}") from None
    return tuple(certificates)


def _certificate(parsed: Any) -> Certificate:
    _public(parsed.public_key())  # which is read only now
    _algorithm = parsed.signature_hash_algorithm
    names = tuple(name for name in _alternative_names(parsed) if name)
    constraints = _extension(parsed, x509.BasicConstraints)
    usage = _extension(parsed, x509.KeyUsage)
    extended = _extension(parsed, x509.ExtendedKeyUsage)
    common = parsed.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return Certificate(
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        common_name=str(common[-1].value) if common else "",
        serial=parsed.serial_number,
        names=names,
        not_before=_utc(parsed, "not_valid_before"),
        not_after=_utc(parsed, "not_valid_after"),
        authority=bool(constraints and constraints.ca and (usage is None or usage.key_cert_sign)),
        path_length=constraints.path_length if constraints else None,
        uses=tuple(use.dotted_string for use in extended) if extended is not None else None,
        pem=parsed.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        parsed=parsed,
    )


def _alternative_names(parsed: Any) -> list[str]:
    extension = _extension(parsed, x509.SubjectAlternativeName)
    if extension is None:
        return []
    addresses = [str(address) for address in extension.get_values_for_type(x509.IPAddress)]
    return [name.lower() for name in extension.get_values_for_type(x509.DNSName)] + addresses


def _extension(parsed: Any, kind: Any) -> Any:
    """An extension's value, None where there is none."""
    try:
        return parsed.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _utc(parsed: Any, name: str) -> Any:
    """A time with its zone; releases of cryptography before 42 have it without one."""
    value = getattr(parsed, f"{name}_utc", None)
    if value is None:
        value = getattr(parsed, name, None)
    return value.replace(tzinfo=datetime.timezone.utc) if value is not None else None


def read_lists(text: str) -> tuple[RevocationList, ...]:
    """All revocation lists of a PEM text. Raises MaterialError."""
    found = [block for label, block in _blocks(text, "revocation list") if label == "X509 CRL"]
    if not found:
        raise MaterialError("holds no revocation list in PEM form (-----BEGIN X509 CRL-----)")
    lists = []
    for block in found:
        try:
            parsed = x509.load_pem_x509_crl(block.encode("ascii"))
            lists.append(
                RevocationList(
                    issuer=parsed.issuer.rfc4514_string(),
                    revoked=frozenset(entry.serial_number for entry in parsed),
                    last_update=_utc(parsed, "last_update"),
                    next_update=_utc(parsed, "next_update"),
                    pem=parsed.public_bytes(serialization.Encoding.PEM).decode("ascii"),
                    parsed=parsed,
                )
            )
        except _UNREADABLE as error:
            raise MaterialError(f"the revocation list cannot be read: {_reason(error)}") from None
    return tuple(lists)


def read_key(text: str) -> Any:
    """A private key. Raises MaterialError, whose message never holds anything of the key."""
    if "ENCRYPTED" in text:
        raise MaterialError("is encrypted: a server that starts by itself needs a key without a passphrase")
    found = [block for label, block in _blocks(text, "key") if label.endswith("PRIVATE KEY")]
    if len(found) != 1:
        raise MaterialError(f"holds {'no' if not found else 'more than one'} private key in PEM form")
    try:
        return serialization.load_pem_private_key(found[0].encode("ascii"), password=None)
    except _UNREADABLE:
        raise MaterialError("the private key cannot be read") from None  # the reason may quote the key


def key_text(key: Any) -> str:
    """A private key as PEM."""
    form = serialization.PrivateFormat.PKCS8
    return str(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode("ascii"))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


# Questions


def fits(key: Any, certificate: Certificate) -> bool:
    """Whether a private key is that of a certificate."""
    return _public(key.public_key()) == _public(certificate.parsed.public_key())


def _public(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def weakness(certificate: Certificate) -> str | None:
    """Why OpenSSL would not take the certificate for being too weak, or None."""
    key = certificate.parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _SMALLEST_RSA:
        return f"has an RSA key of {key.key_size} bits; {_SMALLEST_RSA} is the least that is taken"
    algorithm = getattr(certificate.parsed, "signature_hash_algorithm", None)
    if algorithm is not None and algorithm.name in ("md5", "sha1") and certificate.subject != certificate.issuer:
        return f"is signed with {algorithm.name}"
    return None


def signed_by(signed: Certificate | RevocationList, authority: Certificate) -> bool:
    """Whether an authority's key has made the signature of a certificate or of a revocation list."""
    if signed.parsed.issuer != authority.parsed.subject:
        return False
    key = authority.parsed.public_key()
    body = signed.parsed.tbs_certlist_bytes if isinstance(signed, RevocationList) else signed.parsed.tbs_certificate_bytes
    try:
        _verify(key, signed.parsed, body)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _verify(key: Any, parsed: Any, body: bytes) -> None:
    """Raises InvalidSignature. Written out because older releases of cryptography cannot do it by themselves."""
    algorithm = parsed.signature_hash_algorithm
    if isinstance(key, rsa.RSAPublicKey):
        scheme = getattr(parsed, "signature_algorithm_parameters", None)
        if not isinstance(scheme, (padding.PSS, padding.PKCS1v15)):
            scheme = padding.PKCS1v15()
        key.verify(parsed.signature, body, scheme, algorithm)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(parsed.signature, body, ec.ECDSA(algorithm))
    elif isinstance(key, (ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)):
        key.verify(parsed.signature, body)
    else:
        raise UnsupportedAlgorithm("a key of this kind signs no certificate of a server")


def chain(leaf: Certificate, others: tuple[Certificate, ...], roots: tuple[Certificate, ...]) -> tuple[Certificate, ...] | None:
    """The way from a certificate to a root, both included; None where there is none. others: what may stand between them."""

    def onward(way: tuple[Certificate, ...]) -> tuple[Certificate, ...] | None:
        last, between = way[-1], len(way) - 1
        for next_one in (*roots, *others):
            if next_one in way or not next_one.authority or (next_one.path_length is not None and between > next_one.path_length):
                continue
            if not signed_by(last, next_one):
                continue
            found = (*way, next_one) if next_one in roots else onward((*way, next_one))
            if found:
                return found
        return None

    return (leaf,) if leaf in roots else onward((leaf,))


def fingerprint(certificate: Certificate) -> str:
    """SHA-256 over the certificate, in hexadecimal."""
    return str(certificate.parsed.fingerprint(hashes.SHA256()).hex())


def der(certificate: Certificate) -> bytes:
    """The certificate as a server sends it."""
    return bytes(certificate.parsed.public_bytes(serialization.Encoding.DER))
