# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The escrow copy of a keyring: encrypted by age to people who keep their identities elsewhere, and written before a new key is used.

What age makes is another file each time. So a note beside the copy, which holds no secret, says of which keyring and for whom it is.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from ..client.field_encryption import dump_keyring
from ..core.errors import BulwarkError
from ..core.files import read_text, write_text

if TYPE_CHECKING:
    from .keyring import Keys

# Runs a command with this text as its input: exit code, output, errors.
RunWithInput = Callable[[list[str], str], "tuple[int, str, str]"]

_RECIPIENT = re.compile(r"age1[a-z0-9]+|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?")
_MARK = "escrow"  # the key of a keyring file that says where its copy is


@dataclass(frozen=True)
class Escrow:
    """Where the copy is, and the public keys of those who can read it."""

    path: str
    recipients: tuple[str, ...]

    def as_data(self) -> dict[str, Any]:
        """For a keyring file and a result."""
        return {"path": self.path, "recipients": list(self.recipients)}


def escrow_of(given: Any) -> Escrow | None:
    """The escrow that an option asks for. Raises BulwarkError."""
    if given is None:
        return None
    recipients = tuple(dict.fromkeys(each.strip() for each in given["recipients"]))
    for each in recipients:
        if not _RECIPIENT.fullmatch(each):
            raise BulwarkError(f"escrow.recipients: {each[:20]!r} is no public key of age (age1...) or of SSH")
    if len(recipients) < 2:
        raise BulwarkError("escrow.recipients must name at least two public keys, so that one lost identity does not lose the keys")
    return Escrow(given["path"], recipients)


def remembered(text: str | None) -> Escrow | None:
    """The escrow that a keyring file names."""
    try:
        data = json.loads(text or "").get(_MARK)
        return Escrow(data["path"], tuple(data["recipients"]))
    except (ValueError, AttributeError, KeyError, TypeError):
        return None


def keyring_text(keys: Keys, escrow: Escrow | None) -> str:
    """The text of a keyring file. With an escrow the file names it, so that no later step of a key leaves the copy behind."""
    text = dump_keyring(keys)
    return text if escrow is None else json.dumps({**json.loads(text), _MARK: escrow.as_data()}, indent=2) + "\n"


def _note_path(escrow: Escrow) -> str:
    return f"{escrow.path}.json"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _note(escrow: Escrow, keys: Keys, copy: str) -> str:
    listed = [{name: text for name, text in key.as_data().items() if name != "key"} for key in keys]
    # Of a text with random keys of 256 bits nobody finds the text by its digest.
    data = {"keys": listed, "keyring": _digest(dump_keyring(keys)), "copy": _digest(copy), "recipients": list(escrow.recipients)}
    return json.dumps(data, indent=2) + "\n"


def is_current(escrow: Escrow, keys: Keys) -> bool:
    """Whether the copy is there, whole, of these keys and for these recipients."""
    copy = read_text(escrow.path)
    return copy is not None and read_text(_note_path(escrow)) == _note(escrow, keys, copy)


def write_copy(escrow: Escrow, keys: Keys, age: str | None, run: RunWithInput) -> None:
    """Write the copy and then its note. age: the path of the program. Raises BulwarkError."""
    if age is None:
        raise BulwarkError("the escrow copy of a keyring needs the program age on this host: install the package age")
    command = [age, "--encrypt", "--armor"]
    for recipient in escrow.recipients:
        command += ["--recipient", recipient]
    code, copy, errors = run(command, dump_keyring(keys))
    if code != 0 or not copy.startswith("-----BEGIN AGE ENCRYPTED FILE-----"):
        reason = (errors.strip().splitlines() or ["no reason given"])[0]
        raise BulwarkError(f"age made no escrow copy {escrow.path}: {reason}; the keyring is as it was")
    write_text(escrow.path, copy)
    write_text(_note_path(escrow), _note(escrow, keys, copy), mode=0o644)
