# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""(What is wanted, what is installed, the time) -> what is to be written, and what is needed before that can be.

Reads nothing, writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.errors import Mistake
from ..core.plan import Change, Effect
from .checks import (
    authority_problems,
    certificate_problems,
    chain_problems,
    client_problem,
    day,
    ending_authorities,
    ending_lists,
    list_problems,
    list_reasons,
    renewal_reasons,
)
from .generations import AUTHORITIES, CERTIFICATE, KEY, LISTS
from .material import Certificate, MaterialError, fingerprint, fits, key_text, read_certificates, read_key, read_lists

if TYPE_CHECKING:
    import datetime
    from collections.abc import Mapping

    from .checks import Client
    from .model import Installed, Policy


@dataclass(frozen=True)
class Decision:
    """texts: of the files of a new generation, None where the installed one stays. leaf: the server's certificate afterwards.

    reasons: why another certificate is needed, which only somebody else can issue. list_reasons: the same for revocation lists.
    """

    texts: Mapping[str, str] | None = field(repr=False)
    leaf: Certificate | None
    reasons: tuple[str, ...]
    list_reasons: tuple[str, ...]
    clients: tuple[Client, ...]
    changes: tuple[Change, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Pair:
    """A certificate with the intermediate ones after it, and its key."""

    chain: tuple[Certificate, ...]
    key: Any = field(repr=False)


def decide(
    wanted: Policy, installed: Installed | None, in_use: frozenset[str], now: datetime.datetime, mistakes: list[Mistake]
) -> Decision:
    """in_use: the files of the link that the server's settings name, which a new generation must not lack."""
    mistakes += [Mistake("ca", problem) for problem in authority_problems(wanted.authorities, now)]
    if wanted.authorities:
        mistakes += [Mistake("crl", problem) for problem in list_problems(wanted.lists, wanted.authorities, now)]
    there, damage = _installed_pair(installed)
    pair, reasons = there, damage
    if wanted.certificate is not None and (there is None or wanted.certificate[0].pem != there.chain[0].pem):
        pair, reasons = _given_pair(wanted, there, now, mistakes), []
    elif there is not None:
        pair = _Pair(wanted.certificate or there.chain, there.key)
        reasons = certificate_problems(pair.chain, wanted.authorities, wanted.names, now)
        # A key in a file may wait for a certificate that is still to come.
        if wanted.key is not None and wanted.key_file is None and not fits(wanted.key, pair.chain[0]):
            mistakes.append(Mistake("key", "does not fit the certificate"))
    if pair is not None:
        reasons = [*reasons, *renewal_reasons(pair.chain[0], wanted.issuer, wanted.renew_before, now)]
    # Authorities that the certificate does not lead to would be put in place with the certificate that does.
    broken = pair is None or (bool(wanted.authorities) and bool(chain_problems(pair.chain, wanted.authorities, now)))
    texts = None if broken or pair is None else _texts(wanted, pair, installed, in_use)
    changes = _changes(texts, installed, pair) if texts is not None else ()
    judged = (
        client_problem(name, each, wanted.issuer, wanted.revoked or frozenset(), wanted.renew_before, now)
        for name, each in wanted.clients.items()
    )
    return Decision(
        texts=texts if changes else None,
        leaf=pair.chain[0] if pair else None,
        reasons=tuple(reasons),
        list_reasons=tuple(list_reasons(wanted.lists, wanted.revoked, wanted.renew_before, now)),
        clients=tuple(each for each in judged if each),
        changes=changes,
        warnings=(
            *ending_authorities(wanted.authorities, wanted.renew_before, now),
            *(ending_lists(wanted.lists, wanted.renew_before, now) if wanted.revoked is None else ()),
        ),
    )


def _installed_pair(installed: Installed | None) -> tuple[_Pair | None, list[str]]:
    if installed is None:
        return None, ["there is no certificate yet"]
    try:
        found = _Pair(read_certificates(installed.texts[CERTIFICATE]), read_key(installed.texts[KEY]))
    except MaterialError as problem:
        return None, [f"the installed one {problem}"]
    return (found, []) if fits(found.key, found.chain[0]) else (None, ["the installed one has a key that does not fit"])


def _given_pair(wanted: Policy, there: _Pair | None, now: datetime.datetime, mistakes: list[Mistake]) -> _Pair:
    """The certificate of the options with its key: the one of the options, or the installed one."""
    given = wanted.certificate or ()
    problems = certificate_problems(given, () if authority_problems(wanted.authorities, now) else wanted.authorities, wanted.names, now)
    mistakes += [Mistake("certificate", problem) for problem in problems]
    key = wanted.key
    if wanted.key_mistake is not None:
        mistakes.append(wanted.key_mistake)
    elif key is None and there is not None and fits(there.key, given[0]):
        key = there.key
    elif key is None:
        mistakes.append(Mistake("key", "is missing: the certificate is new, and the installed key is not its own"))
    elif not fits(key, given[0]):
        mistakes.append(Mistake("key", "does not fit the certificate"))
    return _Pair(given, key)


def _texts(wanted: Policy, pair: _Pair, installed: Installed | None, in_use: frozenset[str]) -> dict[str, str]:
    texts = {CERTIFICATE: _joined(pair.chain), KEY: key_text(pair.key) if pair.key is not None else ""}
    if wanted.authorities:
        texts[AUTHORITIES] = _joined(wanted.authorities)
    if wanted.lists:
        texts[LISTS] = "".join(each.pem for each in wanted.lists)
    for file in (AUTHORITIES, LISTS):
        # A setting that names a missing file keeps a server from starting: the file goes after the setting has gone.
        if file not in texts and installed is not None and file in installed.texts and file in in_use:
            texts[file] = installed.texts[file]
    return texts


def _joined(certificates: tuple[Certificate, ...]) -> str:
    return "".join(each.pem for each in certificates)


def _changes(texts: Mapping[str, str], installed: Installed | None, pair: _Pair | None) -> tuple[Change, ...]:
    """What changes, file by file; nothing of a key but that it is another one."""
    found: list[tuple[str, str]] = []
    before = installed.texts if installed else {}
    for file in (CERTIFICATE, AUTHORITIES, LISTS):
        if file in texts and texts[file] != before.get(file):
            old, new = _lines(file, before.get(file)), _lines(file, texts[file])
            lines = [*(f"    - {line}" for line in old if line not in new), *(f"    + {line}" for line in new if line not in old)]
            found.append((file, "\n".join([f"{file}:", *lines])))
    if installed is not None and installed.key_problem:
        found.append((KEY, f"{KEY}: {installed.key_problem}"))
    if pair is not None and pair.key is not None and not _same_key(before.get(KEY), pair):
        found.append((KEY, f"{KEY}: a new key"))
    return tuple(Change(file, description, None, None, Effect.WRITE) for file, description in found)


def _same_key(text: str | None, pair: _Pair) -> bool:
    try:
        return text is not None and fits(read_key(text), pair.chain[0])
    except MaterialError:
        return False


def _lines(file: str, text: str | None) -> list[str]:
    if text is None:
        return []
    try:
        if file == LISTS:
            lists = read_lists(text)
            return [
                f"{each.issuer}, {len(each.revoked)} revoked, next update {day(each.next_update) if each.next_update else 'never'}"
                for each in lists
            ]
        return [described(each) for each in read_certificates(text)]
    except MaterialError as problem:
        return [f"(a file that {problem})"]


def described(certificate: Certificate) -> str:
    """A certificate in one line."""
    names = f" ({', '.join(certificate.names)})" if certificate.names else ""
    return (
        f"{certificate.subject}{names}, signed by {certificate.issuer}, expires {day(certificate.not_after)}, "
        f"serial {certificate.serial_text}, SHA-256 {fingerprint(certificate)[:16]}"
    )
