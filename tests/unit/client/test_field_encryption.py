# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that applications encrypt: round trips, what is refused and with which words, rotation, reload, threads, libraries."""

from __future__ import annotations

import ast
import base64
import hmac
import os
import pickle
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import field_encryption as fe

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="  # of the vectors of the Fernet specification
OTHER = Fernet.generate_key().decode()
RING = fe.Keyring.from_text(SECRET)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(autouse=True)
def no_default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test inherits a keyring."""
    for name in (fe.KEYRING_VARIABLE, fe.KEY_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    fe.configure(None)
    yield
    fe.configure(None)


def everything(error: BaseException | None) -> str:
    """What an exception shows, with those that are chained to it, even where the chain is not printed."""
    shown = ""
    while error is not None:
        shown += f"{error} {error!r} {error.args!r} {vars(error)!r} {''.join(traceback.format_exception(error))}"
        shown += f"{getattr(error, 'object', '')} {getattr(error, 'doc', '')}"
        error = error.__cause__ or error.__context__
    return shown


def keyring_file(path: Path, *keys: fe.Key) -> Path:
    path.touch(mode=0o600)
    path.write_text(fe.dump_keyring(keys))
    return path


@given(TEXTS)
def test_round_trip(text: str) -> None:
    token = RING.encrypt(text)
    assert RING.decrypt(token) == text
    assert RING.decrypt(token.encode()) == RING.decrypt(memoryview(token.encode())) == text
    assert Fernet(SECRET).decrypt(token) == text.encode()
    assert fe.is_token(token)
    assert not text or text in ("=", "_", "-") or len(text) < 6 or text not in token


@given(TEXTS)
def test_tokens_of_others_are_read(text: str) -> None:
    assert RING.decrypt(Fernet(SECRET).encrypt(text.encode())) == text


def test_the_vector_of_the_specification() -> None:
    """verify.json of the Fernet specification."""
    token = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="
    assert RING.decrypt(token) == "hello"
    assert fe.token_time(token).isoformat() == "1985-10-26T08:20:00+00:00"


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("123-45-6789", "gAAAAABrCYKLof5O-OwoUleaukoGwZAze7Gf6Q9l7Wr9Mf6ibnp_PJx25fDSuCpMmjPQMq5d81GcxTdJzS7hlQz5qMqe1rf2Jg=="),
        (
            "Grüße, 世界 🔑",
            "gAAAAABrCYKLWzXwTJ90Im9S-yiJU0IzWd-CDUOODq-hBBZj7ceK2AbPKRdN80SZ4477aX0cNpKH4HkX1Oaw9qkeZgHBOXmHydIqqBqd5C_NiPDyus0-EjE=",
        ),
    ],
)
def test_tokens_of_another_implementation(text: str, token: str) -> None:
    """Made by the package fernet 0.4.0 of npm, which also read what encrypt made of these texts."""
    ring = fe.Keyring.from_text("k7vNWdeWg1RIRrrsKDB7uhPBPTDRyLUjx5iSVFrDY7E=")
    assert ring.decrypt(token) == text


@given(TEXTS, st.data())
def test_an_altered_token(text: str, data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(RING.encrypt(text)))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(fe.TokenError) as caught:
        RING.decrypt(base64.urlsafe_b64encode(raw).decode())
    assert SECRET not in everything(caught.value)


@given(TEXTS, st.data())
def test_a_truncated_token(text: str, data: st.DataObject) -> None:
    token = RING.encrypt(text)
    with pytest.raises(fe.TokenError) as caught:
        RING.decrypt(token[: data.draw(st.integers(0, len(token) - 3))])
    assert token[:20] not in everything(caught.value)


@given(st.one_of(st.text(), st.binary()))
def test_what_is_no_token(value: Any) -> None:
    with pytest.raises(fe.TokenError) as caught:
        RING.decrypt(value)
    with pytest.raises(fe.TokenError) as other:  # whose traceback has the same code and names of files
        RING.decrypt("")
    assert len(set(value)) < 12 or str(value) not in everything(caught.value) or str(value) in everything(other.value)
    assert not fe.is_token(value)


@pytest.mark.parametrize("value", [None, 1, True, b"x", ["x"], object()])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(fe.FieldEncryptionError, match="only text can be encrypted"):
        RING.encrypt(value)
    if value != b"x":
        with pytest.raises(fe.TokenError, match="a token is str or bytes"):
            RING.decrypt(value)


def test_a_value_never_stands_in_an_error() -> None:
    for text in ("my secret value \ud800", "\udfff123-45-6789"):
        with pytest.raises(fe.FieldEncryptionError, match="UTF-8") as caught:
            RING.encrypt(text)
        assert "123-45" not in everything(caught.value)
        assert "secret value" not in everything(caught.value)
    binary = b"secret" + b" value \xff"  # not as one word, since a traceback shows this line
    with pytest.raises(fe.TokenError, match="no text but binary data") as caught:
        RING.decrypt(Fernet(SECRET).encrypt(binary))
    assert "secret value" not in everything(caught.value)


def test_a_wrong_key_is_named_by_its_id() -> None:
    token = fe.Keyring.from_text(OTHER).encrypt("secret value")
    with pytest.raises(fe.WrongKeyError, match=f"another key than those of the keyring .{fe.key_id(SECRET)}., or it was altered") as caught:
        RING.decrypt(token)
    for hidden in (SECRET, OTHER, token, "secret value"):
        assert hidden not in everything(caught.value)


@pytest.mark.parametrize("wrong", ["", "correct horse battery staple", SECRET[:-1], SECRET + "=", f" {SECRET}", SECRET[:-2] + "5=", "ä" * 44, 5, None])
def test_what_is_no_key(wrong: Any) -> None:
    with pytest.raises(fe.KeyFormatError, match="Fernet key") as caught:
        fe.key_id(wrong)
    assert not isinstance(wrong, str) or len(wrong) < 5 or wrong not in everything(caught.value)


def test_an_id_reveals_nothing_of_the_key() -> None:
    assert fe.key_id(SECRET) == fe.key_id(SECRET.encode()) != fe.key_id(OTHER)
    assert len(fe.key_id(SECRET)) == 16
    assert fe.key_id(SECRET) not in SECRET


def test_nothing_shows_a_key() -> None:
    key = fe.Key.generate()
    assert key.secret
    ring = fe.Keyring([key])
    for shown in (repr(key), str(key), repr(ring), str(ring), f"{ring.keys}", repr(ring._loaded), repr(vars(ring))):
        assert key.secret not in shown
        assert key.id in shown
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(ring)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no key in it"),
        (" , ", "there is no key in it"),
        ("{", "this is no keyring"),
        ('{"format": 1, "keys": []}', "there is no key in it"),
        ('{"format": 2, "keys": []}', "this is no keyring"),
        ('{"format": 1, "keys": [{"state": "primary"}]}', "the key is missing"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "main"}}]}}', "state must be one of staged, primary"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "primary", "id": "{"0" * 16}"}}]}}', "the id belongs to another key"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "primary", "created": "now"}}]}}', "created is no time"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "destroyed", "id": "{"0" * 16}"}}]}}', "a destroyed key has its id"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "primary", "extra": 1}}]}}', "and nothing else"),
        (f'{{"format": 1, "keys": ["{SECRET}"]}}', "an entry has"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "primary"}}', "this is no keyring"),
        (f"{SECRET},{SECRET}", "the same key is in it twice"),
        (f"{SECRET}, correct-horse-battery-staple", "key 2: this is no Fernet key but 28 characters"),
        (f'{{"format": 1, "keys": [{{"key": "{SECRET}", "state": "primary"}}, {{"key": "{OTHER}", "state": "primary"}}]}}', "only one key can be primary"),
    ],
)
def test_what_is_no_keyring(text: str, message: str) -> None:
    with pytest.raises(fe.KeyringError, match=message) as caught:
        fe.Keyring.from_text(text)
    for hidden in (SECRET, OTHER, "correct-horse"):
        assert hidden not in everything(caught.value)


def test_rotation() -> None:
    """Each state as Keystone has it: staged reads, primary writes, secondary reads, retired does not."""
    old, new = fe.Key.generate(), fe.Key.generate("staged")
    first = fe.Keyring([old])
    token = first.encrypt("x")
    staged = fe.Keyring([old, new])
    promoted = fe.Keyring([replace(old, state="secondary"), replace(new, state="primary")])
    retired = fe.Keyring([replace(old, state="retired"), replace(new, state="primary")])
    assert staged.primary_id == old.id
    assert staged.rotate(token) == token
    ahead = promoted.encrypt("y")
    assert staged.decrypt(ahead) == "y"  # a host that has not heard of the promotion
    assert promoted.decrypt(token) == "x"
    rotated = promoted.rotate(token)
    assert promoted.rotate(rotated) == rotated
    assert retired.decrypt(rotated) == "x"
    assert (promoted.info(token).key_id, promoted.info(token).state) == (old.id, "secondary")
    assert promoted.info(rotated) == fe.TokenInfo(new.id, "primary", fe.token_time(token))
    assert first.info(rotated).key_id is None
    for act in (retired.decrypt, retired.rotate):
        with pytest.raises(fe.WrongKeyError, match=f"made with the key {old.id}, which is retired"):
            act(token)
    assert retired.info(token).state == "retired"
    destroyed = fe.Keyring([fe.Key(old.id, "destroyed"), replace(new, state="primary")])
    assert fe.parse_keyring(fe.dump_keyring(destroyed.keys)) == destroyed.keys


def test_without_a_primary_key() -> None:
    ring = fe.Keyring([fe.Key.generate("staged")])
    for act in (lambda: ring.encrypt("x"), lambda: ring.rotate(RING.encrypt("x"))):
        with pytest.raises(fe.KeyringError, match="no key is primary"):
            act()
    with pytest.raises(fe.WrongKeyError, match="none"):
        fe.Keyring([fe.Key("0" * 16, "destroyed")]).decrypt(RING.encrypt("x"))


def test_a_file_is_read_again_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old, new = fe.Key.generate(), fe.Key.generate()
    path = keyring_file(tmp_path / "pii.json", old)
    ring = fe.Keyring.from_file(path, interval=0)
    token = ring.encrypt("x")
    os.replace(keyring_file(tmp_path / "next", replace(old, state="secondary"), new), path)
    assert ring.info(ring.encrypt("y")).key_id == ring.primary_id == new.id
    assert ring.decrypt(token) == "x"
    path.write_text(f'{{"format": 1, "keys": "{new.secret}"')
    assert [ring.decrypt(token) for _time in range(3)] == ["x"] * 3  # the keys in use stay
    path.unlink()
    assert ring.decrypt(token) == "x"
    assert len(caplog.messages) == 2
    assert str(new.secret) not in caplog.text
    with pytest.raises(fe.KeyringError, match="No such file"):
        ring.reload()
    assert ring.decrypt(token) == "x"


def test_a_file_is_looked_at_once_in_an_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = fe.Keyring.from_file(keyring_file(tmp_path / "pii.json", fe.Key.generate()), interval=3600)
    monkeypatch.setattr(fe.os, "stat", lambda _path: pytest.fail("looked at the file"))
    assert ring.decrypt(ring.encrypt("x")) == "x"


def test_a_file_that_everybody_reads_is_refused(tmp_path: Path) -> None:
    path = keyring_file(tmp_path / "pii.json", fe.Key.generate())
    path.chmod(0o640)
    fe.Keyring.from_file(path)
    path.chmod(0o644)
    with pytest.raises(fe.KeyringError, match="every user of the host can read"):
        fe.Keyring.from_file(path)
    path.write_bytes(b"\xff")
    path.chmod(0o600)
    with pytest.raises(fe.KeyringError, match="binary data"):
        fe.Keyring.from_file(path)


def test_threads_share_a_keyring_that_rotates(tmp_path: Path) -> None:
    """No thread ever fails while the keyring goes through staged, promoted, again and again, as the steps of a rotation allow."""
    keys = [fe.Key.generate("staged") for _each in range(6)]
    path = keyring_file(tmp_path / "pii.json", replace(keys[0], state="primary"), keys[1])
    ring = fe.Keyring.from_file(path, interval=0)
    done, errors = threading.Event(), []

    def work(name: int) -> None:
        kept = [ring.encrypt(f"{name}")]
        try:
            while not done.is_set():
                kept = [*kept[-5:], ring.encrypt(f"{name}")]
                assert {ring.decrypt(token) for token in kept} == {f"{name}"}
                ring.rotate(kept[0])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for place in range(1, len(keys)):
        states = ["secondary" if each < place else "primary" if each == place else "staged" for each in range(len(keys))]
        os.replace(keyring_file(tmp_path / "next", *(replace(key, state=state) for key, state in zip(keys, states))), path)
        threading.Event().wait(0.05)
    done.set()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert ring.primary_id == keys[-1].id


def test_where_the_default_keyring_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(fe.KeyringError, match="there is no keyring: set ENCRYPTION_KEYRING"):
        fe.encrypt_value("x")
    monkeypatch.setenv(fe.KEY_VARIABLE, f"{SECRET}, {OTHER}")
    token = fe.encrypt_value("x")
    assert fe.decrypt_value(token) == RING.decrypt(token) == fe.decrypt_value(Fernet(OTHER).encrypt(b"x")) == "x"
    key = fe.Key.generate()
    keyring_file(tmp_path / fe.CREDENTIAL, key).chmod(0o444)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    fe.configure(None)
    assert fe.default_keyring().primary_id == key.id
    file = fe.Key.generate()
    monkeypatch.setenv(fe.KEYRING_VARIABLE, str(keyring_file(tmp_path / "pii.json", file)))
    fe.configure(None)
    assert fe.default_keyring().primary_id == file.id
    fe.configure(RING)
    assert fe.default_keyring() is RING


def test_sources_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(fe.KeyringError, match="the environment variable NOT_SET is not set"):
        fe.Keyring.from_environment("NOT_SET")
    with pytest.raises(fe.KeyringError, match="LoadCredential=pii:PATH"):
        fe.Keyring.from_credential("pii")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(fe.KeyringError, match="cannot read the keyring: No such file"):
        fe.Keyring.from_credential("pii")


def test_sqlalchemy() -> None:
    import sqlalchemy as sa

    table = sa.Table("profiles", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("ssn", fe.EncryptedText(RING)))
    engine = sa.create_engine("sqlite://", hide_parameters=True)
    with engine.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [{"id": 1, "ssn": "123-45-6789"}, {"id": 2, "ssn": None}])
        assert [row.ssn for row in connection.execute(sa.select(table.c.ssn).order_by(table.c.id))] == ["123-45-6789", None]
        stored = connection.execute(sa.text("SELECT ssn FROM profiles WHERE id = 1")).scalar_one()
        assert RING.decrypt(stored) == "123-45-6789"
        assert connection.execute(sa.select(table.c.id).where(table.c.ssn.is_(None))).scalar_one() == 2
        assert connection.execute(sa.select(table.c.id).where(table.c.ssn.is_not(None))).scalar_one() == 1
        for wrong in (lambda: table.c.ssn == "123-45-6789", lambda: table.c.ssn.like("123%"), lambda: table.c.ssn.in_(["1"])):
            with pytest.raises(fe.FieldEncryptionError, match="compared with NULL only"):
                wrong()
        with pytest.raises(sa.exc.StatementError) as caught:
            connection.execute(table.insert(), {"id": 3, "ssn": 123456789})
        assert "123456789" not in str(caught.value)


def test_django() -> None:
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}, USE_TZ=True)
        django.setup()
    from django.db import connection, models

    class Profile(models.Model):
        ssn = fe.EncryptedTextField(null=True)

        class Meta:
            app_label = "field_encryption"

    fe.configure(RING)
    assert Profile._meta.get_field("ssn").deconstruct()[1] == f"{fe.__name__}.EncryptedTextField"
    if connection.vendor != "sqlite":
        pytest.skip("Django was configured for a server by another test of this process")
    with connection.schema_editor() as editor:
        editor.create_model(Profile)
    made = Profile.objects.create(ssn="123-45-6789")
    Profile.objects.create(ssn=None)
    assert Profile.objects.get(pk=made.pk).ssn == "123-45-6789"
    with connection.cursor() as cursor:
        cursor.execute("SELECT ssn FROM field_encryption_profile WHERE id = %s", [made.pk])
        assert RING.decrypt(cursor.fetchone()[0]) == "123-45-6789"
    assert Profile.objects.filter(ssn__isnull=True).count() == 1
    Profile.objects.filter(pk=made.pk).update(ssn="new")
    Profile.objects.bulk_create([Profile(ssn="bulk")])
    assert [each.ssn for each in Profile.objects.order_by("pk")] == ["new", None, "bulk"]
    with pytest.raises(fe.FieldEncryptionError, match="isnull only"):
        Profile.objects.filter(ssn="new")
    with pytest.raises(fe.FieldEncryptionError, match="no expression"):
        Profile.objects.update(ssn=models.functions.Lower("ssn"))


def test_psycopg() -> None:
    """The dumper and the row factory, without a server."""
    from types import SimpleNamespace

    from psycopg.adapt import PyFormat, Transformer
    from psycopg.rows import dict_row

    context = Transformer()
    fe.register_psycopg(context, RING)
    sent = bytes(context.get_dumper(fe.Encrypted("x"), PyFormat.AUTO).dump(fe.Encrypted("123-45-6789")))
    assert RING.decrypt(sent) == "123-45-6789"
    assert bytes(context.get_dumper("x", PyFormat.AUTO).dump("plain")) == b"plain"
    assert "123" not in repr(fe.Encrypted("123-45-6789"))
    columns = [SimpleNamespace(name="id"), SimpleNamespace(name="ssn"), SimpleNamespace(name="phone")]
    make = fe.decrypted_rows(lambda cursor: lambda row: dict(zip([each.name for each in cursor.description], row)), "ssn", "phone", keyring=RING)
    assert make(SimpleNamespace(description=columns))((1, sent.decode(), None)) == {"id": 1, "ssn": "123-45-6789", "phone": None}
    assert callable(fe.decrypted_rows(dict_row, "ssn"))


def test_the_file_stands_alone() -> None:
    """An application can copy it: it imports the standard library and cryptography, nothing of Ansible or of this collection."""
    tree = ast.parse(Path(fe.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    names = {alias.name.split(".")[0] for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or ".").split(".")[0] for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert names <= {*sys.stdlib_module_names, "cryptography"}
    with pytest.raises(AttributeError, match="has no attribute"):
        fe.nothing  # noqa: B018


# Tokens that name their key


def keyed_ring(*keys: fe.Key) -> fe.Keyring:
    return fe.Keyring(keys, keyed=True)


@given(TEXTS)
def test_a_keyed_token_names_its_key_and_is_read_by_every_keyring(text: str) -> None:
    primary, old = fe.Key.generate("primary"), fe.Key.generate("secondary")
    token = keyed_ring(primary, old).encrypt(text)
    assert token.startswith(f"f1.{primary.id}.gAAAA")
    assert fe.split_token(token)[0] == primary.id
    assert fe.is_token(token)
    assert fe.Keyring([primary, old]).decrypt(token) == text == fe.Keyring([old, primary]).decrypt(token.encode())


def test_rotation_changes_the_form_to_that_of_the_keyring() -> None:
    primary, old = fe.Key.generate("primary"), fe.Key.generate("secondary")
    plain = fe.Keyring([fe.Key.from_secret(str(old.secret))]).encrypt(SECRET)
    keyed = keyed_ring(primary, old).rotate(plain)
    assert keyed.startswith(f"f1.{primary.id}.")
    assert fe.Keyring([primary]).rotate(keyed) == keyed.split(".")[2]


@pytest.mark.parametrize("token", ["f1.0123456789abcdef.", "f1.0123456789abcdef.gAAAA", "f1.0123456789abcdeX.gAAAA", "f1."])
def test_what_is_no_keyed_token(token: str) -> None:
    assert not fe.is_token(token)
    with pytest.raises(fe.TokenError):
        RING.decrypt(token)


def test_a_keyed_token_of_another_key_is_refused_by_its_name() -> None:
    token = keyed_ring(fe.Key.generate()).encrypt(SECRET)
    with pytest.raises(fe.WrongKeyError) as caught:
        RING.decrypt(token)
    assert SECRET not in everything(caught.value)
    mine = RING.encrypt(SECRET)
    with pytest.raises(fe.WrongKeyError):
        RING.decrypt(f"f1.{'0' * 16}.{mine}")


def test_the_environment_asks_for_the_keyed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    key = fe.Key.generate()
    monkeypatch.delenv(fe.KEYRING_VARIABLE, raising=False)
    monkeypatch.setenv(fe.KEY_VARIABLE, str(key.secret))
    monkeypatch.setenv(fe.KEYED_VARIABLE, "1")
    fe.configure(None)
    try:
        assert fe.encrypt_value("x").startswith(f"f1.{key.id}.")
    finally:
        fe.configure(None)


COLUMN = "app.user_profiles.phone"


def by_hand(key: str, prefix: str, column: str, normalized: str) -> str:
    """A value of a blind index by RFC 5869 and RFC 2104, with the standard library alone."""
    extracted = hmac.digest(b"\0" * 32, base64.urlsafe_b64decode(key), "sha256")
    secret = hmac.digest(extracted, f"bulwark.postgresql blind index\0{prefix}\0{column}\1".encode(), "sha256")
    digest = hmac.digest(secret, normalized.encode("utf-8", "surrogatepass"), "sha256")[:16]
    return f"{prefix}.{fe.key_id(key)}." + base64.urlsafe_b64encode(digest).decode().rstrip("=")


@given(st.text(st.characters()), st.sampled_from(list(fe.NORMALIZERS)))
def test_a_blind_index_is_an_hmac_under_a_key_of_its_own(text: str, normalizer: str) -> None:
    key = fe.Key.generate()
    ring = fe.Keyring([key])
    prefix, normalized = fe.NORMALIZERS[normalizer]
    assert normalized(normalized(text)) == normalized(text)
    assert ring.blind_index(text, COLUMN, normalizer) == by_hand(str(key.secret), prefix, COLUMN, normalized(text))
    assert ring.blind_indexes(text, COLUMN, normalizer) == [ring.blind_index(text, COLUMN, normalizer)]


@pytest.mark.parametrize(
    ("normalizer", "one", "other", "same"),
    [
        ("digits", "+1 (555) 010-0100", "1-555-010-0100", True),
        ("digits", "\uff11\uff15\uff15\uff15", "1555", True),
        ("digits", "555-0100", "555-0101", False),
        ("text", " Straße ", "STRASSE", True),
        ("text", "ﬁle", "FILE", True),
        ("text", "a b", "ab", False),
        ("exact", "a", "A", False),
        ("exact", "a ", "a", False),
    ],
)
def test_a_normalizer_makes_equal_what_means_the_same(normalizer: str, one: str, other: str, same: bool) -> None:
    ring = fe.Keyring([fe.Key.generate()])
    assert (ring.blind_index(one, COLUMN, normalizer) == ring.blind_index(other, COLUMN, normalizer)) is same


def test_a_blind_index_differs_between_columns_keys_and_normalizers() -> None:
    ring, second = fe.Keyring([fe.Key.generate()]), fe.Keyring([fe.Key.generate()])
    values = [each.blind_index("5550100", column, how) for each in (ring, second) for column in (COLUMN, "app.users.phone") for how in fe.NORMALIZERS]
    assert len({value.rpartition(".")[2] for value in values}) == len(values)


def test_a_look_up_finds_what_every_key_that_reads_has_written() -> None:
    keys = [fe.Key.generate("staged"), fe.Key.generate(), fe.Key.generate("secondary"), fe.Key.generate("retired")]
    ring = fe.Keyring(keys)
    alone = [fe.Keyring([replace(key, state="primary")]).blind_index("x", COLUMN) for key in keys]
    assert ring.blind_indexes("x", COLUMN) == [alone[1], alone[2], alone[0]]
    assert ring.blind_index("x", COLUMN) == alone[1]
    with pytest.raises(fe.KeyringError, match="no key is primary"):
        fe.Keyring(keys[2:]).blind_index("x", COLUMN)


def test_what_cannot_be_indexed() -> None:
    ring = fe.Keyring([fe.Key.generate()])
    with pytest.raises(fe.FieldEncryptionError, match="only text can be indexed, not int"):
        ring.blind_index(5, COLUMN)  # type: ignore[arg-type]
    with pytest.raises(fe.FieldEncryptionError, match="there is no normalizer 'phone'; there are exact, text, digits"):
        ring.blind_indexes("5", COLUMN, "phone")
