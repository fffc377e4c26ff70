# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of the module -> what is wanted. Collects every mistake with the option that it is in."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from ..core.document import quoted
from ..core.errors import BulwarkError, Mistake
from ..core.files import read_text
from .checks import name_problem
from .generations import STAGED, mode_problem
from .material import Certificate, MaterialError, canonical_name, read_certificates, read_key, read_lists
from .model import Policy

if TYPE_CHECKING:
    from collections.abc import Mapping

_BEGIN = "-----BEGIN "
_SERIAL = re.compile(r"(?:0x)?[0-9a-f]{1,40}", re.ASCII)
_FILE_NAME = re.compile(r"[^./\0][^/\0]*")
_LONGEST_COMMON_NAME = 64  # characters, by X.509

Read = TypeVar("Read")


def read_policy(options: Mapping[str, Any], directory: str, mistakes: list[Mistake]) -> Policy:
    """Read what the options say or point at. Mistakes are appended; what has one is as if it were not given.

    directory: where the generations are, and a key that waits for its certificate.
    """
    certificate = _read("certificate", options, read_certificates, mistakes)
    issuer = _read("issuer", options, read_certificates, mistakes)
    authorities = _read("ca", options, read_certificates, mistakes) or ()
    lists = _read("crl", options, read_lists, mistakes) or ()
    if lists and not options.get("ca"):
        mistakes.append(Mistake("crl", "needs the authority that signed it, in ca"))
    renew_before, days = int(options.get("renew_before") or 0), options.get("issued_for")
    if days is not None and renew_before >= days:
        mistakes.append(
            Mistake("renew_before", f"must be below {days}, the days that a certificate is issued for: each run would renew it")
        )
    key, key_file, key_mistake = _key(options, os.path.join(directory, STAGED))
    return Policy(
        names=_names(options.get("names") or [], mistakes),
        certificate=certificate,
        authorities=tuple({each.pem: each for each in authorities}.values()),
        lists=lists,
        issuer=issuer[0] if issuer else None,
        revoked=None if options.get("revoked") is None else _revoked(options["revoked"], mistakes),
        clients=_clients(options, mistakes),
        renew_before=renew_before,
        key_file=key_file,
        key=key,
        key_mistake=key_mistake,
    )


def _read(option: str, options: Mapping[str, Any], reader: Callable[[str], Read], mistakes: list[Mistake]) -> Read | None:
    """An option that is PEM text, or the path of a file that holds it."""
    value = str(options.get(option) or "").strip()
    if not value:
        return None
    try:
        return reader(_text(value))
    except BulwarkError as problem:
        mistakes.append(Mistake(option, str(problem)))
        return None


_DER = "in DER, not in PEM: openssl x509 (or pkey, or crl) -inform der writes it in PEM"


def _text(value: str) -> str:
    if _BEGIN in value:
        return value
    if value.startswith("0") and any(not character.isprintable() for character in value):
        raise MaterialError(f"is {_DER}")
    if not os.path.isabs(value):
        raise MaterialError(f"is neither PEM text (-----BEGIN ...) nor an absolute path, but {quoted(value)}")
    text = read_text(value)
    if text is None:
        raise MaterialError(f"names the file {value}, which is not there")
    if _BEGIN not in text and not text.isprintable() and text.startswith("0"):
        raise MaterialError(
            f"names the file {value}, which is in DER, not in PEM: openssl x509 (or pkey, or crl) -inform der writes it in PEM"
        )
    return text


def _key(options: Mapping[str, Any], staged: str) -> tuple[Any, str | None, Mistake | None]:
    """The key, the file that it is from, and what is wrong with it, which only matters where the key is needed."""
    content, path = str(options.get("key_content") or "").strip(), options.get("key")
    if content and path:
        return None, None, Mistake("key", "is given twice: as a file in key and as a text in key_content")
    if not content and not path and os.path.exists(staged):
        path = staged
    if not content and not path:
        return None, None, None
    try:
        text = content or _text(str(path))
        problem = mode_problem(str(path)) if path else None
        return (None, path, Mistake("key", problem)) if problem else (read_key(text), path, None)
    except BulwarkError as problem_found:
        return None, path, Mistake("key", str(problem_found))


def _names(names: list[Any], mistakes: list[Mistake]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for position, name in enumerate(names):
        problem = name_problem(str(name))
        if problem:
            mistakes.append(Mistake(f"names[{position}]", f"{quoted(str(name))} {problem}"))
        else:
            found[canonical_name(str(name))] = None
    return tuple(found)


def _revoked(serials: list[Any], mistakes: list[Mistake]) -> frozenset[int]:
    found = set()
    for position, serial in enumerate(serials):
        text = str(serial).replace(":", "").lower()
        if _SERIAL.fullmatch(text):
            found.add(int(text, 16))
        else:
            mistakes.append(
                Mistake(
                    f"revoked[{position}]", f"must be a serial number in hexadecimal, as openssl x509 -serial prints it, not {quoted(text)}"
                )
            )
    return frozenset(found)


def _clients(options: Mapping[str, Any], mistakes: list[Mistake]) -> dict[str, Certificate | None]:
    """Each client with the newest certificate of its name, None for one that has none."""
    known = _read("client_certificates", options, read_certificates, mistakes) or ()
    newest = {each.common_name: each for each in sorted(known, key=lambda each: each.not_after)}
    found: dict[str, Certificate | None] = {}
    for position, name in enumerate(options.get("clients") or []):
        if _FILE_NAME.fullmatch(str(name)) and len(str(name)) <= _LONGEST_COMMON_NAME:
            found[str(name)] = newest.get(str(name))
        else:
            mistakes.append(
                Mistake(f"clients[{position}]", f"{quoted(str(name))} cannot be the common name of a certificate and the name of its file")
            )
    return found
