# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Encryption of single values before they are written to PostgreSQL, with keys that the database never sees.

One file that needs nothing but the package cryptography (Python 3.9 and later): import it from the collection, or copy it into the
application. Values become Fernet tokens, ASCII text for columns of type TEXT or BYTEA. With keyed=True the id of the key stands before
the token, f1.ID.TOKEN: so the key is known without a trial, and SQL can count the rows of each. Both forms are read by every keyring.

    encrypt_value(text); decrypt_value(token)                 with the default keyring
    Keyring.from_file(path).encrypt(text)                     or from_environment, from_credential, from_text
    mapped_column(EncryptedText)                              SQLAlchemy 2
    ssn = EncryptedTextField()                                Django
    register_psycopg(connection); Encrypted(text); decrypted_rows(dict_row, "ssn")      psycopg 3
    blind_index(text, "app.users.phone", "digits")            to find equal values; see there

The default keyring is that of configure(), else the file that the environment variable ENCRYPTION_KEYRING names, else the systemd
credential encryption_keyring, else the environment variable ENCRYPTION_KEY, which holds a keyring, or keys separated by commas with the
primary one first. ENCRYPTION_KEYED=1 makes it write the keyed form.

Every error is a FieldEncryptionError. Its text names keys by their id and never holds a key, a token or a value.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import re
import stat
import threading
import time
import traceback
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Callable, NoReturn, Union

try:
    from cryptography.fernet import Fernet, InvalidToken, MultiFernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:
    CRYPTOGRAPHY_ERROR: str | None = traceback.format_exc()
else:
    CRYPTOGRAPHY_ERROR = None

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEYRING_VARIABLE = "ENCRYPTION_KEYRING"  # the path of a keyring file
KEY_VARIABLE = "ENCRYPTION_KEY"  # a keyring, or keys
KEYED_VARIABLE = "ENCRYPTION_KEYED"  # whether the default keyring writes the keyed form: 1
CREDENTIAL = "encryption_keyring"  # the name of a systemd credential

STATES = ("staged", "primary", "secondary", "retired", "destroyed")
READING_STATES = ("primary", "secondary", "staged")  # the states whose keys decrypt, the likeliest first

_FORMAT = 1
_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")
_TOKEN = re.compile(rb"[A-Za-z0-9_-]+={0,2}")
_ID = re.compile(r"[0-9a-f]{16}")
_ID_CONTEXT = b"bulwark.postgresql fernet key id\0"
_KEYED = re.compile(rb"f1\.([0-9a-f]{16})\.(.*)", re.DOTALL)
_VERSION = 0x80  # of a token: the Fernet specification
_FIXED, _BLOCK = 1 + 8 + 16 + 32, 16  # bytes of a token: version, time, IV and HMAC; then blocks of AES
_CHECK_INTERVAL = 1.0  # seconds between two looks at a keyring file
_LOG = logging.getLogger("field_encryption")

Token = Union[str, bytes, bytearray, memoryview]

# Blind indexes: the name of a normalizer, the prefix of its values, and what it makes of a text. A prefix never gets another meaning.
NORMALIZERS: dict[str, tuple[str, Callable[[str], str]]] = {
    "exact": ("be1", lambda text: text),
    "text": ("bt1", lambda text: unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).strip()),
    "digits": ("bd1", lambda text: "".join(letter for letter in unicodedata.normalize("NFKC", text) if letter in "0123456789")),
}
_INDEX_BYTES = 16  # of an HMAC that are kept


class FieldEncryptionError(ValueError):
    """An error of this file. Its text holds no secret."""


class KeyFormatError(FieldEncryptionError):
    """Something else stands where a Fernet key belongs."""


class KeyringError(FieldEncryptionError):
    """A keyring cannot be read or used."""


class TokenError(FieldEncryptionError):
    """Something else stands where a token belongs, or the token is truncated."""


class WrongKeyError(TokenError):
    """No key of the keyring verifies the token: it was made with another key, or it was altered."""


# Keys


def _raw(text: object) -> bytes:
    """The 32 bytes of a key. Raises KeyFormatError."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if not isinstance(text, str):
        raise KeyFormatError(f"a Fernet key is text, not {type(text).__name__}")
    raw = base64.urlsafe_b64decode(text) if _KEY.fullmatch(text) else b""
    if base64.urlsafe_b64encode(raw).decode("ascii") != text or not text:
        raise KeyFormatError(
            f"this is no Fernet key but {len(text)} characters of something else, such as a passphrase: a key is 32 random bytes in"
            " URL-safe base64, 44 characters that end with =; make one with Fernet.generate_key()"
        )
    return raw


def key_id(key: str | bytes) -> str:
    """The id of a key: 16 hexadecimal digits of a hash, which reveal nothing of the key. Raises KeyFormatError."""
    return hashlib.sha256(_ID_CONTEXT + _raw(key)).hexdigest()[:16]


@dataclass(frozen=True)
class Key:
    """One key of a keyring. secret: the key itself, None once it is destroyed. created: UTC, None where it is not known."""

    id: str
    state: str
    created: datetime | None = None
    secret: str | None = field(default=None, repr=False)

    @classmethod
    def from_secret(cls, secret: str, state: str = "primary", created: datetime | None = None) -> Key:
        """A key from its text. Raises KeyFormatError, and KeyringError for an unknown state."""
        if state not in STATES:
            raise KeyringError(f"there is no state of that name; there are {', '.join(STATES)}")
        return cls(key_id(secret), state, created, secret)

    @classmethod
    def generate(cls, state: str = "primary") -> Key:
        """A new key, of the random generator of the operating system."""
        return cls.from_secret(Fernet.generate_key().decode("ascii"), state, datetime.now(timezone.utc).replace(microsecond=0))

    def as_data(self) -> dict[str, str]:
        """The entry of a keyring file; it holds the key."""
        data = {"id": self.id, "state": self.state}
        if self.created is not None:
            data["created"] = self.created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.secret is not None:
            data["key"] = self.secret
        return data


@dataclass(frozen=True)
class TokenInfo:
    """What a token shows without being decrypted. key_id and state: None where no key of the keyring verifies it."""

    key_id: str | None
    state: str | None
    created: datetime


def token_time(token: Token) -> datetime:
    """When a token was made, as it says itself: without a key nobody knows whether it is true. Raises TokenError."""
    seconds = int.from_bytes(_decoded(_token_bytes(token))[1:9], "big")
    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        pass
    raise TokenError("this is no Fernet token: its time is out of range")


def split_token(token: Token) -> tuple[str | None, bytes]:
    """The id of the key that stands before a token, None for a plain one, and the token itself. Raises TokenError."""
    data = _raw_token(token)
    found = _KEYED.fullmatch(data) if data.startswith(b"f1.") else None
    return (found[1].decode("ascii"), found[2]) if found else (None, data)


def is_token(value: object) -> bool:
    """Whether a value has the form of a token, plain or keyed. Only a key can tell whether it is one."""
    try:
        _decoded(_token_bytes(value))
    except TokenError:
        return False
    return True


def _token_bytes(token: object) -> bytes:
    """A token without the id of its key."""
    return split_token(token)[1]  # type: ignore[arg-type]


def _raw_token(token: object) -> bytes:
    if isinstance(token, str):
        if token.isascii():
            return token.encode("ascii")
        raise TokenError(f"this is no Fernet token but {len(token)} characters of other text, perhaps a value that was never encrypted")
    if isinstance(token, (bytes, bytearray, memoryview)):
        return bytes(token)
    raise TokenError(f"a token is str or bytes, not {type(token).__name__}")


def _decoded(token: bytes) -> bytes:
    """The bytes of a token. Raises TokenError for what has not the form of one (Fernet specification, token format)."""
    raw = b""
    if _TOKEN.fullmatch(token):
        try:
            raw = base64.urlsafe_b64decode(token)
        except binascii.Error:
            raw = b""
        if not raw and token.startswith(b"gAAAA"):
            raise TokenError(f"the token is truncated or has been altered: its {len(token)} characters are no whole base64")
    if not raw or raw[0] != _VERSION:
        raise TokenError(f"this is no Fernet token but {len(token)} characters of other text, perhaps a value that was never encrypted")
    if len(raw) < _FIXED + _BLOCK or (len(raw) - _FIXED) % _BLOCK:
        raise TokenError(f"the token is truncated: {len(token)} characters are no length that a token can have")
    return raw


# Keyrings as text


def _mistake(source: str, message: str) -> NoReturn:
    raise KeyringError(f"{source}: {message}")


def _time(text: object, source: str) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        pass
    return _mistake(source, "created is no time such as 2026-01-31T12:00:00Z")


def _entry(data: object, source: str) -> Key:
    if not isinstance(data, dict) or not set(data) <= {"id", "state", "created", "key"}:
        _mistake(source, "an entry has id, state, created, key, and nothing else")
    identity, state, secret = data.get("id"), data.get("state"), data.get("key")
    if state not in STATES:
        _mistake(source, f"state must be one of {', '.join(STATES)}")
    created = _time(data.get("created"), source)
    if state == "destroyed":
        if secret is not None or not isinstance(identity, str) or not _ID.fullmatch(identity):
            _mistake(source, "a destroyed key has its id and no longer the key")
        return Key(identity, state, created)
    if secret is None:
        _mistake(source, f"the key is missing; only a destroyed one may have none, and this is {state}")
    try:
        key = Key.from_secret(secret, state, created)
    except KeyFormatError as error:
        message = str(error)
    else:
        if identity not in (None, key.id):
            _mistake(source, f"the id belongs to another key; this one's is {key.id}")
        return key
    return _mistake(source, message)


def parse_keyring(text: str, source: str = "the keyring") -> tuple[Key, ...]:
    """The keys of a keyring, from its JSON, or from keys separated by commas or whitespace of which the first is the primary one.

    source: named in errors. Raises KeyringError.
    """
    if not isinstance(text, str):
        _mistake(source, f"a keyring is text, not {type(text).__name__}")
    if not text.lstrip().startswith("{"):
        words = [word for word in re.split(r"[\s,]+", text) if word]
        data: Any = [{"key": word, "state": "secondary" if place else "primary"} for place, word in enumerate(words)]
    else:
        try:
            data = json.loads(text)
        except ValueError:  # its exception holds the text
            data = None
        if not isinstance(data, dict) or data.get("format") != _FORMAT or not isinstance(data.get("keys"), list):
            _mistake(source, f'this is no keyring; it begins {{"format": {_FORMAT}, "keys": [')
        data = data["keys"]
    keys = tuple(_entry(each, f"{source}, key {place}") for place, each in enumerate(data, start=1))
    if not keys:
        _mistake(source, "there is no key in it")
    if len({key.id for key in keys}) < len(keys):
        _mistake(source, "the same key is in it twice")
    if sum(key.state == "primary" for key in keys) > 1:
        _mistake(source, "only one key can be primary")
    return keys


def dump_keyring(keys: Iterable[Key]) -> str:
    """The text of a keyring file; it holds the keys."""
    return json.dumps({"format": _FORMAT, "keys": [key.as_data() for key in keys]}, indent=2) + "\n"


# Keyrings in use


@dataclass(frozen=True)
class _Loaded:
    """The keys of one moment, ready for use. readers: the keys that decrypt, in the order of both."""

    keys: tuple[Key, ...]
    readers: tuple[tuple[Key, Fernet], ...] = field(repr=False)
    primary: Fernet | None = field(repr=False)
    all: MultiFernet | None = field(repr=False)
    by_id: dict[str, Fernet] = field(repr=False)
    index_keys: dict[tuple[str, str, str], bytes] = field(repr=False, default_factory=dict)
    stamp: tuple[int, ...] = ()


def _prepared(keys: Sequence[Key], stamp: tuple[int, ...] = ()) -> _Loaded:
    if CRYPTOGRAPHY_ERROR is not None:
        raise KeyringError("the Python package cryptography is not installed")
    readers = tuple((key, Fernet(key.secret)) for state in READING_STATES for key in keys if key.state == state and key.secret is not None)
    primary = next((fernet for key, fernet in readers if key.state == "primary"), None)
    every = MultiFernet([fernet for _key, fernet in readers]) if readers else None
    return _Loaded(tuple(keys), readers, primary, every, {key.id: fernet for key, fernet in readers}, stamp=stamp)


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _read(path: str, private: bool) -> tuple[str, tuple[int, ...]]:
    """The text of a keyring file. Raises KeyringError, also where other users may read it and private is set."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read()
    except OSError as error:
        reason = error.strerror
    else:
        if private and stat.S_IMODE(status.st_mode) & 0o007:
            _mistake(path, "every user of the host can read or write it: chmod o= and replace the keys that were exposed")
        if content.isascii():
            return content.decode("ascii"), _stamp(status)
        reason = "this is no keyring but binary data"
    return _mistake(path, f"cannot read the keyring: {reason}")


class Keyring:
    """Keys that encrypt and decrypt values. Safe to share between threads; a file is read again when it has changed.

    The primary key encrypts. It, the secondary and the staged ones decrypt; retired and destroyed ones do not.
    """

    def __init__(self, keys: Sequence[Key], *, source: str = "the keyring", keyed: bool = False) -> None:
        """source: named in errors. keyed: write the keyed form. Use one of the class methods, unless you have keys."""
        self._source = source
        self._keyed = keyed
        self._path: str | None = None
        self._private = True
        self._interval = _CHECK_INTERVAL
        self._next = float("inf")  # when to look at the file again
        self._refused: tuple[int, ...] = ()  # the stamp of a file that was not accepted
        self._lock = threading.Lock()
        self._loaded = _prepared(keys)

    @classmethod
    def from_text(cls, text: str, *, source: str = "the keyring", keyed: bool = False) -> Keyring:
        """A keyring from its text, as parse_keyring takes it."""
        return cls(parse_keyring(text, source), source=source, keyed=keyed)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, interval: float = _CHECK_INTERVAL, private: bool = True, keyed: bool = False
    ) -> Keyring:
        """A keyring from a file, which is looked at every `interval` seconds at most and read again when it has changed.

        private: refuse a file that every user of the host may read. Raises KeyringError. A later change that cannot be read is logged,
        and the keys in use stay.
        """
        made = cls((), source=os.fspath(path), keyed=keyed)
        made._path, made._private, made._interval = os.fspath(path), private, interval
        made.reload()
        return made

    @classmethod
    def from_environment(cls, name: str = KEY_VARIABLE, *, keyed: bool = False) -> Keyring:
        """A keyring from the text in an environment variable. Raises KeyringError."""
        text = os.environ.get(name, "")
        if not text.strip():
            raise KeyringError(f"the environment variable {name} is not set: it must hold a keyring, or Fernet keys separated by commas")
        return cls.from_text(text, source=f"the environment variable {name}", keyed=keyed)

    @classmethod
    def from_credential(cls, name: str = CREDENTIAL, *, keyed: bool = False) -> Keyring:
        """A keyring from a credential that systemd gives to a service (LoadCredential=). Raises KeyringError."""
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if not directory:
            raise KeyringError(f"this service has no credentials: add LoadCredential={name}:PATH to its unit")
        return cls.from_file(os.path.join(directory, name), private=False, keyed=keyed)

    def __repr__(self) -> str:
        """The ids and states of the keys."""
        return f"<Keyring {self._source}: {', '.join(f'{key.id} {key.state}' for key in self._loaded.keys)}>"

    def __reduce__(self) -> NoReturn:
        """A keyring is not to be pickled, since that would copy the keys. Raises TypeError."""
        raise TypeError("a keyring cannot be pickled or copied: open it again where it is needed")

    @property
    def keys(self) -> tuple[Key, ...]:
        """The keys, in their order in the file."""
        return self._current().keys

    @property
    def primary_id(self) -> str | None:
        """The id of the key that encrypts."""
        return next((key.id for key in self.keys if key.state == "primary"), None)

    def reload(self) -> None:
        """Read the file again now. Raises KeyringError; the keys in use then stay."""
        if self._path is not None:
            with self._lock:
                text, stamp = _read(self._path, self._private)
                self._loaded = _prepared(parse_keyring(text, self._source), stamp)
                self._refused, self._next = (), time.monotonic() + self._interval

    def _current(self) -> _Loaded:
        if time.monotonic() >= self._next and self._path is not None:
            self._look(self._path)
        return self._loaded

    def _look(self, path: str) -> None:
        """Read the file again if it has changed."""
        with self._lock:
            if time.monotonic() < self._next:  # another thread has just looked
                return
            self._next = time.monotonic() + self._interval
            try:
                seen = _stamp(os.stat(path))
                if seen in (self._loaded.stamp, self._refused):
                    return
                self._refused = seen
                text, stamp = _read(path, self._private)
                self._loaded = _prepared(parse_keyring(text, self._source), stamp)
                self._refused = ()
            except KeyringError as error:
                _LOG.warning("%s; the keys that were read before stay in use", error)
            except OSError as error:
                if self._refused != (0,):
                    self._refused = (0,)
                    _LOG.warning("cannot read %s: %s; the keys that were read before stay in use", path, error.strerror)

    def encrypt(self, text: str) -> str:
        """The token of a text. Raises FieldEncryptionError for what is no text, KeyringError where no key is primary."""
        if not isinstance(text, str):
            raise FieldEncryptionError(f"only text can be encrypted, not {type(text).__name__}: make text of it first")
        loaded = self._loaded if time.monotonic() < self._next else self._current()
        if loaded.primary is None:
            raise KeyringError(f"{self._source}: no key is primary, so nothing can be encrypted: promote one")
        try:
            data = text.encode()
        except UnicodeEncodeError:  # it holds the text
            data = None
        if data is None:
            raise FieldEncryptionError("the text has characters that UTF-8 cannot hold (surrogates)")
        return self._form(loaded, loaded.primary.encrypt(data))

    def _form(self, loaded: _Loaded, token: bytes) -> str:
        """A token of the primary key as this keyring writes it."""
        text = token.decode("ascii")
        return f"f1.{loaded.readers[0][0].id}.{text}" if self._keyed else text

    def decrypt(self, token: Token) -> str:
        """The text in a token. Raises TokenError, and WrongKeyError where no key of the keyring verifies it."""
        identity, data = split_token(token)
        loaded = self._loaded if time.monotonic() < self._next else self._current()
        reader = loaded.all if identity is None else loaded.by_id.get(identity)
        try:
            plain = reader.decrypt(data) if reader is not None else None
        except InvalidToken:
            plain = None
        if plain is None:
            self._refuse(data, loaded)
        try:
            return plain.decode()
        except UnicodeDecodeError:  # it holds the value
            pass
        raise TokenError("the token holds no text but binary data")

    def _refuse(self, token: bytes, loaded: _Loaded) -> NoReturn:
        """Raise the error that says why a token cannot be decrypted."""
        _decoded(token)
        for key in loaded.keys:
            if key.state == "retired" and key.secret is not None and _verifies(Fernet(key.secret), token):
                raise WrongKeyError(f"the token was made with the key {key.id}, which is retired: make it secondary to read it")
        tried = ", ".join(key.id for key, _fernet in loaded.readers) or "none"
        raise WrongKeyError(f"the token was made with another key than those of {self._source} ({tried}), or it was altered")

    def blind_index(self, text: str, column: str, normalizer: str = "exact") -> str:
        """What stands for a text in the blind index of a column, under the primary key; equal texts have the same.

        column: "schema.table.column", the one that holds the tokens. normalizer: one of NORMALIZERS, which makes texts equal that mean
        the same. Write it together with the token, and look up with blind_indexes. Raises FieldEncryptionError.
        """
        loaded = self._current()
        if loaded.primary is None:
            raise KeyringError(f"{self._source}: no key is primary, so nothing can be indexed: promote one")
        return _index_of(loaded, loaded.readers[0][0], text, column, normalizer)

    def blind_indexes(self, text: str, column: str, normalizer: str = "exact") -> list[str]:
        """What may stand for a text in the blind index of a column, one for each key that reads: WHERE phone_index = ANY (...)."""
        loaded = self._current()
        return [_index_of(loaded, key, text, column, normalizer) for key, _fernet in loaded.readers]

    def info(self, token: Token) -> TokenInfo:
        """Which key a token was made with, and when, found by its HMAC and without decrypting it. Raises TokenError."""
        data = _token_bytes(token)
        created = token_time(data)
        loaded = self._current()
        retired = [(key, Fernet(key.secret)) for key in loaded.keys if key.state == "retired" and key.secret is not None]
        for key, fernet in (*loaded.readers, *retired):
            if _verifies(fernet, data):
                return TokenInfo(key.id, key.state, created)
        return TokenInfo(None, None, created)

    def rotate(self, token: Token) -> str:
        """The token of the same value and time under the primary key, in the form that this keyring writes.

        Raises KeyringError where no key is primary, otherwise as decrypt.
        """
        identity, data = split_token(token)
        loaded = self._current()
        if loaded.primary is None:
            raise KeyringError(f"{self._source}: no key is primary, so nothing can be rotated: promote one")
        for key, fernet in loaded.readers:
            if identity not in (None, key.id):
                continue
            if fernet is loaded.primary:
                if _verifies(fernet, data):
                    return self._form(loaded, data)
                continue
            try:
                plain = fernet.decrypt(data)
            except InvalidToken:
                continue
            return self._form(loaded, loaded.primary.encrypt_at_time(plain, int.from_bytes(_decoded(data)[1:9], "big")))
        return self._refuse(data, loaded)


def _index_of(loaded: _Loaded, key: Key, text: str, column: str, normalizer: str) -> str:
    """A value of a blind index: PREFIX.KEY ID.HMAC. Its key is derived from the key of the tokens and from the column (HKDF, RFC 5869)."""
    if not isinstance(text, str):
        raise FieldEncryptionError(f"only text can be indexed, not {type(text).__name__}: make text of it first")
    if normalizer not in NORMALIZERS:
        raise FieldEncryptionError(f"there is no normalizer {normalizer!r}; there are {', '.join(NORMALIZERS)}")
    prefix, normalized = NORMALIZERS[normalizer]
    place = (key.id, column, prefix)
    secret = loaded.index_keys.get(place)
    if secret is None:
        info = b"\0".join((b"bulwark.postgresql blind index", prefix.encode(), column.encode()))
        secret = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(_raw(key.secret))
        loaded.index_keys[place] = secret
    data = normalized(text).encode("utf-8", "surrogatepass")
    digest = hmac.digest(secret, data, "sha256")[:_INDEX_BYTES]
    return f"{prefix}.{key.id}.{base64.urlsafe_b64encode(digest).decode('ascii').rstrip('=')}"


def _verifies(fernet: Fernet, token: bytes) -> bool:
    """Whether a key made a token, by its HMAC."""
    try:
        fernet.extract_timestamp(token)
    except InvalidToken:
        return False
    return True


# The default keyring

_default: Keyring | None = None
_default_lock = threading.Lock()


def configure(keyring: Keyring | None) -> None:
    """Set the default keyring; None: find it again at the next use."""
    global _default  # noqa: PLW0603
    with _default_lock:
        _default = keyring


def default_keyring() -> Keyring:
    """The default keyring; the head of this file says where it comes from. Raises KeyringError."""
    global _default  # noqa: PLW0603
    found = _default
    if found is None:
        with _default_lock:
            found = _default = _default or _find_keyring()
    return found


def _find_keyring() -> Keyring:
    path = os.environ.get(KEYRING_VARIABLE)
    keyed = os.environ.get(KEYED_VARIABLE, "") == "1"
    if path:
        return Keyring.from_file(path, keyed=keyed)
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and os.path.exists(os.path.join(directory, CREDENTIAL)):
        return Keyring.from_credential(keyed=keyed)
    if os.environ.get(KEY_VARIABLE, "").strip():
        return Keyring.from_environment(keyed=keyed)
    raise KeyringError(f"there is no keyring: set {KEYRING_VARIABLE} to the path of one, or {KEY_VARIABLE} to a Fernet key")


def encrypt_value(plaintext: str) -> str:
    """The token of a text under the primary key of the default keyring. Raises FieldEncryptionError."""
    return default_keyring().encrypt(plaintext)


def decrypt_value(token: Token) -> str:
    """The text in a token, with the default keyring. Raises FieldEncryptionError."""
    return default_keyring().decrypt(token)


def blind_index(text: str, column: str, normalizer: str = "exact") -> str:
    """Keyring.blind_index with the default keyring."""
    return default_keyring().blind_index(text, column, normalizer)


def blind_indexes(text: str, column: str, normalizer: str = "exact") -> list[str]:
    """Keyring.blind_indexes with the default keyring."""
    return default_keyring().blind_indexes(text, column, normalizer)


# psycopg 3


class Encrypted(str):
    """A text that psycopg sends to the server as a token, once register_psycopg has been called."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Without the text."""
        return "<Encrypted>"


def register_psycopg(context: Any = None, keyring: Keyring | None = None) -> None:
    """Encrypt each parameter of type Encrypted. context: a connection or cursor of psycopg 3; None: all of them."""
    import psycopg
    from psycopg.types.string import StrDumperUnknown

    class EncryptedDumper(StrDumperUnknown):  # so that the server takes it for text or bytea, whichever the column is
        def dump(self, obj: Any) -> Any:
            return super().dump((keyring or default_keyring()).encrypt(str.__str__(obj)))

    adapters = psycopg.adapters if context is None else context.adapters
    adapters.register_dumper(Encrypted, EncryptedDumper)


def decrypted_rows(row_factory: Callable[[Any], Any], *columns: str, keyring: Keyring | None = None) -> Callable[[Any], Any]:
    """A row factory of psycopg 3 that decrypts these columns, by name, before another one makes the row. NULL stays None."""

    def factory(cursor: Any) -> Callable[[Sequence[Any]], Any]:
        make = row_factory(cursor)
        places = frozenset(place for place, column in enumerate(cursor.description or ()) if column.name in columns)

        def row(values: Sequence[Any]) -> Any:
            ring = keyring or default_keyring()
            return make([ring.decrypt(value) if place in places and value is not None else value for place, value in enumerate(values)])

        return row

    return factory


# SQLAlchemy 2 and Django: the classes are made when they are first asked for, so that neither is needed to import this file.


def _sqlalchemy_type() -> Any:
    from sqlalchemy import LargeBinary, Text
    from sqlalchemy.sql import operators
    from sqlalchemy.types import TypeDecorator

    class EncryptedText(TypeDecorator[str]):
        """A text that is a token in a column of type TEXT. keyring: instead of the default one. binary: the column is a BYTEA.

        Make engines with hide_parameters=True: the texts of SQLAlchemy's own errors would hold values otherwise.
        """

        impl = Text
        cache_ok = True

        class comparator_factory(TypeDecorator.Comparator[str]):  # noqa: N801  # the name is SQLAlchemy's
            def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
                if op in (operators.is_, operators.is_not) or other == (None,):
                    return super().operate(op, *other, **kwargs)
                raise FieldEncryptionError("an encrypted column can be compared with NULL only: each token of a value is different")

        def __init__(self, keyring: Keyring | None = None, binary: bool = False) -> None:
            super().__init__()
            self.keyring = keyring
            self.binary = binary

        def load_dialect_impl(self, dialect: Any) -> Any:
            return dialect.type_descriptor(LargeBinary() if self.binary else Text())

        def process_bind_param(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
            if value is None:
                return None
            token = (self.keyring or default_keyring()).encrypt(value)
            return token.encode("ascii") if self.binary else token

        def process_result_value(self, value: Any, dialect: Any) -> Any:  # noqa: ARG002
            return None if value is None else (self.keyring or default_keyring()).decrypt(value)

    return EncryptedText


def _django_field() -> Any:
    from django.db import models

    class EncryptedTextField(models.TextField):  # type: ignore[misc]
        """A text that is a token in a column of type text. Only the look-up isnull works, since each token of a value is different."""

        def get_db_prep_save(self, value: Any, connection: Any) -> Any:
            if hasattr(value, "as_sql"):
                raise FieldEncryptionError("an encrypted field takes a value, and no expression that the database would evaluate")
            value = self.get_prep_value(value)
            return super().get_db_prep_save(None if value is None else default_keyring().encrypt(value), connection)

        def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:  # noqa: ARG002
            return None if value is None else default_keyring().decrypt(value)

        def get_lookup(self, lookup_name: str) -> Any:
            if lookup_name != "isnull":
                raise FieldEncryptionError("an encrypted field has the look-up isnull only: each token of a value is different")
            return super().get_lookup(lookup_name)

    return EncryptedTextField


_LAZY: dict[str, Callable[[], Any]] = {"EncryptedText": _sqlalchemy_type, "EncryptedTextField": _django_field}
_lazy_lock = threading.Lock()


def __getattr__(name: str) -> Any:
    """EncryptedText and EncryptedTextField, made at the first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _lazy_lock:
        if name not in globals():
            made = _LAZY[name]()
            made.__qualname__, made.__module__ = name, __name__  # where Django's migrations import it from
            globals()[name] = made
    return globals()[name]
