# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with certificates, authorities and revocation lists, each as a sentence; nothing here reads a file or the time."""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .material import Certificate, RevocationList, canonical_name, chain, is_address, signed_by, weakness

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_SERVER_AUTH = frozenset({"1.3.6.1.5.5.7.3.1", "2.5.29.37.0"})
_CLIENT_AUTH = frozenset({"1.3.6.1.5.5.7.3.2", "2.5.29.37.0"})
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)


@dataclass(frozen=True)
class Client:
    """A certificate of a client that is to be made anew, and why. revoked: its key is to be made anew too.

    digest: SHA-256 over the text of the certificate that was judged, empty where there is none.
    """

    name: str
    reason: str
    revoked: bool
    digest: str


def day(moment: datetime.datetime) -> str:
    """A time as a person reads it."""
    return moment.strftime("%Y-%m-%d %H:%M UTC")


def name_problem(name: str) -> str | None:
    """Why a text is no name of a server, or None."""
    wanted = canonical_name(name)
    if is_address(wanted) or (_DNS_NAME.fullmatch(name.strip()) and len(wanted) <= 253):
        return None
    return "is neither a DNS name nor an IP address"


def _validity(certificate: Certificate, now: datetime.datetime) -> str | None:
    if certificate.not_after < now:
        return f"has expired on {day(certificate.not_after)}"
    if certificate.not_before > now:
        return f"is not valid before {day(certificate.not_before)}"
    return None


def missing_names(certificate: Certificate, names: Iterable[str]) -> list[str]:
    """The names that the certificate is not valid for."""
    return [name for name in names if not certificate.covers(name)]


def certificate_problems(
    given: Sequence[Certificate], authorities: Sequence[Certificate], names: Sequence[str], now: datetime.datetime
) -> list[str]:
    """What is wrong with a server's certificate and the intermediate ones after it. Without authorities nothing is said about its chain."""
    leaf = given[0]
    found = [problem for problem in (_validity(leaf, now), weakness(leaf)) if problem]
    if leaf.uses is not None and not _SERVER_AUTH & set(leaf.uses):
        found.append("is not one of a server: its extended key usage lacks serverAuth")
    missing = missing_names(leaf, names)
    if missing:
        found.append(f"is not valid for {', '.join(missing)}; its subjectAltName has {', '.join(leaf.names) or 'nothing'}")
    if authorities:
        found += chain_problems(given, authorities, now)
    return found


def chain_problems(given: Sequence[Certificate], authorities: Sequence[Certificate], now: datetime.datetime) -> list[str]:
    """Why a certificate does not lead to a root among the authorities by certificates that are valid."""
    roots = tuple(each for each in authorities if each.self_signed)
    between = (*given[1:], *(each for each in authorities if each not in roots))
    way = chain(given[0], between, roots)
    if way is None:
        known = ", ".join(sorted({each.subject for each in authorities}))
        return [f"does not lead to an authority of ca: it is signed by {given[0].issuer}, ca has {known}"]
    problems = ((each, _validity(each, now)) for each in way[1:])
    return [f"is signed by {each.subject}, which {problem}" for each, problem in problems if problem]


def authority_problems(authorities: Sequence[Certificate], now: datetime.datetime) -> list[str]:
    """What is wrong with a bundle of authorities."""
    found = []
    for each in authorities:
        if not each.authority:
            found.append(
                f"{each.subject} is no authority: its certificate lacks the CA flag (basicConstraints CA:TRUE, keyUsage keyCertSign)"
            )
        problem = _validity(each, now) or weakness(each)
        if problem:
            ended = each.not_after < now
            way = ": leave it out (pg_ssl_ca_keep_old: false, for the old one of the role's own), or have a new one" if ended else ""
            found.append(f"{each.subject} {problem}{way}")
    if authorities and not found and not any(each.self_signed for each in authorities):
        found.append("has no root: chains end in a certificate that signed itself")
    return found


def ending_authorities(authorities: Sequence[Certificate], renew_before: int, now: datetime.datetime) -> list[str]:
    """The authorities that end so soon that certificates of theirs would end with them."""
    soon = now + datetime.timedelta(days=3 * renew_before)
    return [
        f"the authority {each.subject} expires on {day(each.not_after)}: have another one ready"
        for each in authorities
        if each.not_after < soon
    ]


def list_problems(lists: Sequence[RevocationList], authorities: Sequence[Certificate], now: datetime.datetime) -> list[str]:
    """What is wrong with revocation lists: each is of an authority, is still good, and no authority lacks one."""
    found = []
    signers = set()
    for each in lists:
        signer = next((authority for authority in authorities if signed_by(each, authority)), None)
        if signer is None:
            found.append(f"the list of {each.issuer} is not signed by an authority of ca")
            continue
        signers.add(signer.pem)
        if each.next_update is not None and each.next_update < now:
            found.append(
                f"the list of {each.issuer} has expired on {day(each.next_update)}: PostgreSQL would refuse every client certificate"
            )
        if each.last_update > now:
            found.append(f"the list of {each.issuer} is not valid before {day(each.last_update)}")
    lacking = sorted({each.subject for each in authorities if each.pem not in signers})
    if lists and lacking and not found:
        found.append(
            f"there is no list of {', '.join(lacking)}: with a list of one authority, PostgreSQL refuses the client "
            "certificates of all others"
        )
    return found


def ending_lists(lists: Sequence[RevocationList], renew_before: int, now: datetime.datetime) -> list[str]:
    """The lists that end soon, and that only somebody else can make anew."""
    soon = now + datetime.timedelta(days=renew_before)
    return [
        f"the revocation list of {each.issuer} expires on {day(each.next_update)}: replace it, or PostgreSQL refuses every client"
        " certificate then"
        for each in lists
        if each.next_update is not None and each.next_update < soon
    ]


def renewal_reasons(leaf: Certificate, issuer: Certificate | None, renew_before: int, now: datetime.datetime) -> list[str]:
    """Why a certificate that is good now is to be replaced."""
    found = []
    if now <= leaf.not_after < now + datetime.timedelta(days=renew_before):
        found.append(f"expires on {day(leaf.not_after)}, within {renew_before} days")
    if issuer is not None and not signed_by(leaf, issuer):
        found.append(f"is signed by {leaf.issuer}, not by {issuer.subject}")
    return found


def list_reasons(lists: Sequence[RevocationList], revoked: frozenset[int] | None, renew_before: int, now: datetime.datetime) -> list[str]:
    """Why revocation lists are to be made anew. revoked: what they have to hold, None for whatever they do."""
    found = []
    if revoked and not lists:
        found.append("there is none yet")
    for each in lists:
        if each.next_update is not None and each.next_update < now + datetime.timedelta(days=renew_before):
            found.append(f"the list of {each.issuer} expires on {day(each.next_update)}")
        if revoked is not None and each.revoked != revoked:
            found.append(f"the list of {each.issuer} has {len(each.revoked)} certificates, {len(revoked)} are revoked")
    return found


def client_problem(
    name: str,
    certificate: Certificate | None,
    issuer: Certificate | None,
    revoked: frozenset[int],
    renew_before: int,
    now: datetime.datetime,
) -> Client | None:
    """Why a client's certificate is to be made anew, or None."""
    if certificate is None:
        return Client(name, "there is none yet", False, "")
    digest = hashlib.sha256(certificate.pem.strip().encode("ascii")).hexdigest()
    if certificate.serial in revoked:
        return Client(name, "is revoked", True, digest)
    found = [problem for problem in (_validity(certificate, now),) if problem]
    if certificate.uses is not None and not _CLIENT_AUTH & set(certificate.uses):
        found.append("is not one of a client: its extended key usage lacks clientAuth")
    found += renewal_reasons(certificate, issuer, renew_before, now)
    return Client(name, "; ".join(found), False, digest) if found else None
