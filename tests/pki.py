# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Authorities, certificates and revocation lists for the tests, good ones and every kind of bad one."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from collections.abc import Sequence

DAY = datetime.timedelta(days=1)
PEM = serialization.Encoding.PEM


def now() -> datetime.datetime:
    """The time."""
    return datetime.datetime.now(datetime.timezone.utc)


@dataclass(frozen=True)
class Holder:
    """A certificate and its key. above: the intermediate certificates between it and the root."""

    certificate: x509.Certificate
    key: Any
    above: str = ""
    root: bool = False

    @property
    def pem(self) -> str:
        """The certificate alone."""
        return self.certificate.public_bytes(PEM).decode()

    @property
    def chain(self) -> str:
        """What a server would have in its file."""
        return self.pem + self.above

    @property
    def key_pem(self) -> str:
        """The private key."""
        return pem_of(self.key)

    @property
    def serial(self) -> str:
        """The serial number as openssl prints it."""
        return f"{self.certificate.serial_number:X}"


def new_key() -> Any:
    """A private key."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_of(key: Any, passphrase: bytes | None = None) -> str:
    """A private key as text."""
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    return str(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, protection).decode())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def certificate(
    common_name: str,
    by: Holder | None = None,
    names: Sequence[str] = (),
    *,
    key: Any = None,
    ca: bool | None = None,
    path_length: int | None = None,
    days: tuple[float, float] = (-1, 90),
    uses: Sequence[x509.ObjectIdentifier] = (),
) -> Holder:
    """A certificate, signed by `by` or by itself. ca: the CA flag, None for no such extension. days: from when to when it is valid, from now."""
    key = key or new_key()
    subject = _name(common_name)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by.certificate.subject if by else subject).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now() + days[0] * DAY).not_valid_after(now() + days[1] * DAY)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    if uses:
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    signed = builder.sign(by.key if by else key, hashes.SHA256())
    return Holder(signed, key, "" if by is None or by.root else by.chain, root=by is None)


def authority(common_name: str = "Test CA", by: Holder | None = None, **options: Any) -> Holder:
    """An authority: a root, or one below another, which is sent along with what it signs."""
    return certificate(common_name, by, ca=True, **options)


def revocation_list(by: Holder, revoked: Sequence[Holder] = (), days: tuple[float, float] = (-1, 90)) -> str:
    """A revocation list."""
    builder = x509.CertificateRevocationListBuilder().issuer_name(by.certificate.subject)
    builder = builder.last_update(now() + days[0] * DAY).next_update(now() + days[1] * DAY)
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number).revocation_date(now()).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(PEM).decode()


def sign_request(request: str, by: Holder, days: float) -> str:
    """The certificate that an authority gives for a request."""
    asked = x509.load_pem_x509_csr(request.encode())
    builder = x509.CertificateBuilder().subject_name(asked.subject).issuer_name(by.certificate.subject).public_key(asked.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now() - DAY).not_valid_after(now() + days * DAY)
    for extension in asked.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(by.key, hashes.SHA256()).public_bytes(PEM).decode()
