# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_ssl_files on real servers, judged by psql and openssl: what is installed is what clients see, and what is wrong never gets there."""

from __future__ import annotations

import functools
import os
import random
import re
import shutil
import stat
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from ansible_collections.bulwark.postgresql.plugins.module_utils.tls import generations
from tests import pki, servers
from tests.integration import module

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import Server

CA = pki.authority("First CA")
NAMES = ["localhost", "127.0.0.1"]
KILLS = 12  # a major


@pytest.fixture
def bare(mine: Server) -> Server:
    """The server without anything that an earlier test has installed."""
    (mine.data / "conf.d" / "bulwark_ssl.conf").unlink(missing_ok=True)
    mine.psql("SELECT pg_reload_conf()")
    shutil.rmtree(place(mine), ignore_errors=True)
    shutil.rmtree(mine.data / "bulwark_tls", ignore_errors=True)
    return mine


def options(holder: pki.Holder, ca: str = CA.pem, **more: Any) -> dict[str, Any]:
    """The module's options for a certificate."""
    return {"certificate": holder.chain, "key_content": holder.key_pem, "ca": ca, "names": NAMES, **more}


def run(server: Server, *, check: bool = False, **given: Any) -> module.Result:
    """The module's result."""
    return module.run(server, "pg_ssl_files", check=check, diff=True, **given)


def place(server: Server) -> Path:
    """Where the generations are."""
    return server.directory / "data_bulwark_tls"


def snapshot(server: Server) -> object:
    """Every file there is, with its content and mode, and where links lead."""
    found = {}
    for path in sorted([*place(server).rglob("*"), *server.data.glob("bulwark_tls/**/*")]):
        what: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "directory"
        found[str(path)] = (what, stat.S_IMODE(path.lstat().st_mode))
    return found


def applied(server: Server, **given: Any) -> module.Result:
    """Apply what has something to do."""
    return module.foretold(functools.partial(run, server, **given), functools.partial(snapshot, server))


def shown(server: Server) -> str:
    """The certificate that openssl gets to see."""
    command = ["openssl", "s_client", "-starttls", "postgres", "-connect", f"127.0.0.1:{server.port}"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", done.stdout, re.DOTALL)
    assert found, done.stdout + done.stderr
    return found[0]


def use(server: Server, done: module.Result, **settings: Any) -> None:
    """Let the server use what is installed, as the role does."""
    files = done["files"]
    paths = {"ssl_cert_file": files["certificate"], "ssl_key_file": files["key"], "ssl_ca_file": files["ca"], "ssl_crl_file": files["crl"]}
    result = module.run(server, "pg_settings", name="bulwark_ssl", settings={"ssl": True, **paths, **settings})
    assert not result.get("failed"), result["msg"]


def test_it_is_installed_then_used_then_renewed(bare: Server) -> None:
    first = pki.certificate("localhost", CA, NAMES)
    done = applied(bare, **options(first))
    assert (done["needed"], done["in_use"]) == (False, False)
    assert os.readlink(place(bare) / "current") == "1"
    assert stat.S_IMODE((place(bare) / "current" / "server.key").stat().st_mode) == 0o600
    assert first.key_pem.splitlines()[1] not in str(done)
    use(bare, done)
    for _turn in range(3):
        renewed = pki.certificate("localhost", CA, NAMES)
        done = applied(bare, **options(renewed))
        assert done["in_use"] is True
        assert shown(bare) == renewed.pem
    assert sorted(os.listdir(place(bare))) == ["3", "4", "current"]
    assert not list(bare.data.rglob("*bulwark_tls*"))


def in_the_data_directory(server: Server, *, waiting: bool = False) -> pki.Holder:
    """The files where earlier releases put them, in use; waiting: with a key for the next certificate."""
    holder, former = pki.certificate("localhost", CA, NAMES), server.data / "bulwark_tls"
    account = servers.server_account()
    owner = (account.pw_uid, account.pw_gid) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    generations.make_root(str(former), owner)
    texts = {"server.crt": holder.chain, "server.key": holder.key_pem, "ca.crt": CA.pem}
    generations.switch(str(former), generations.add(str(former), texts, owner))
    if waiting:
        (former / "staged.key").write_text(pki.pem_of(pki.new_key()), encoding="ascii")
        (former / "staged.key").chmod(0o600)
    current = former / "current"
    use(server, {"files": {"certificate": f"{current}/server.crt", "key": f"{current}/server.key", "ca": f"{current}/ca.crt", "crl": ""}})
    return holder


@pytest.mark.parametrize("renewed", [False, True], ids=["as it is", "renewed"])
def test_files_come_out_of_the_data_directory(bare: Server, *, renewed: bool) -> None:
    holder = in_the_data_directory(bare, waiting=True)
    former = bare.data / "bulwark_tls"
    staged = (former / "staged.key").read_bytes()
    given = options(pki.certificate("localhost", CA, NAMES)) if renewed else {"names": NAMES, "ca": CA.pem}
    foretold = run(bare, check=True, **given)
    assert (foretold["changed"], place(bare).exists()) == (True, False)
    done = run(bare, **given)
    assert not done.get("failed"), done["msg"]
    assert done["diff"] == foretold["diff"]
    assert f"moved from {former}" in done["diff"]["prepared"]
    # Until the settings name the new place, the server goes on with the former one.
    assert (shown(bare), former.exists()) == (holder.pem, True)
    assert run(bare, **given)["changed"] is False
    use(bare, done)
    assert shown(bare) == (given["certificate"] if renewed else holder.pem)
    done = applied(bare, **given)
    assert f"{former} is removed" in done["diff"]["prepared"]
    assert (former.exists(), (place(bare) / "staged.key").read_bytes()) == (False, staged)
    assert shown(bare) == (given["certificate"] if renewed else holder.pem)


def test_a_directory_in_the_data_directory_is_refused(bare: Server) -> None:
    for inside in (bare.data, bare.data / "tls", bare.data / ".." / "data" / "tls"):
        result = run(bare, **options(pki.certificate("localhost", CA, NAMES), directory=str(inside), path_prefix="pg_ssl_"))
        assert [mistake["path"] for mistake in result["mistakes"]] == ["pg_ssl_directory"]
        assert "must be outside the data directory" in result["msg"]


def test_a_restored_base_backup_starts(bare: Server) -> None:
    """The machine's data directory is lost, and restored where it was; the key is in no backup."""
    holder = pki.certificate("localhost", CA, NAMES)
    use(bare, applied(bare, **options(holder)))
    backup = bare.directory / "backup"
    servers._run([bare.bindir / "pg_basebackup", "-D", backup, "-h", bare.host, "-p", str(bare.port), "-U", "postgres", "-c", "fast"], "pg_basebackup")
    key = holder.key_pem.splitlines()[1]
    assert not [path for path in backup.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
    bare.stop("immediate")
    shutil.rmtree(bare.data)
    backup.rename(bare.data)
    bare.start()
    assert shown(bare) == holder.pem


def test_a_key_on_the_server_is_moved_in(bare: Server) -> None:
    directory = place(bare)
    directory.mkdir(mode=0o700)
    holder = pki.certificate("localhost", CA, NAMES)
    staged = directory / "staged.key"
    staged.write_text(holder.key_pem, encoding="ascii")
    staged.chmod(0o644)
    account = servers.server_account()
    for path in (directory, staged):
        os.chown(path, account.pw_uid, account.pw_gid)
    result = run(bare, certificate=holder.chain, ca=CA.pem, names=NAMES)
    assert "has the mode 0644: others could read it" in result["msg"]
    staged.chmod(0o600)
    applied(bare, certificate=holder.chain, ca=CA.pem, names=NAMES)
    assert sorted(os.listdir(directory)) == ["1", "current"]


def test_the_key_of_an_installed_generation_is_closed_again(bare: Server) -> None:
    holder = pki.certificate("localhost", CA, NAMES)
    use(bare, applied(bare, **options(holder)))
    (place(bare) / "current" / "server.key").chmod(0o644)
    done = applied(bare, **options(holder))
    assert "server.key: has the mode 0644" in done["diff"]["prepared"]
    assert stat.S_IMODE((place(bare) / "current" / "server.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (options(pki.certificate("localhost", CA, NAMES, days=(-9, -1))), "has expired on"),
        (options(pki.certificate("localhost", CA, ["other"])), "is not valid for localhost, 127.0.0.1"),
        (options(pki.certificate("localhost", CA, NAMES), key_content=pki.pem_of(pki.new_key())), "does not fit the certificate"),
        (options(pki.certificate("localhost", CA, NAMES), ca=pki.certificate("First CA", ca=False).pem), "lacks the CA flag"),
        (options(pki.certificate("localhost", CA, NAMES), crl=pki.revocation_list(CA, days=(-9, -1))), "PostgreSQL would refuse every client"),
        (options(pki.certificate("localhost", CA, NAMES), certificate=CA.pem[:200]), "is cut off"),
        (options(pki.certificate("localhost", CA, NAMES), ca="/nonexistent/ca.crt"), "which is not there"),
    ],
)
def test_bad_input_leaves_the_server_as_it_was(bare: Server, wrong: dict[str, Any], message: str) -> None:
    good = pki.certificate("localhost", CA, NAMES)
    use(bare, applied(bare, **options(good)))
    before = snapshot(bare)
    for check in (True, False):
        result = run(bare, check=check, path_prefix="pg_ssl_", **wrong)
        assert result.get("failed"), result
        assert message in result["msg"]
        assert result["mistakes"][0]["path"].startswith("pg_ssl_")
        assert (snapshot(bare), shown(bare)) == (before, good.pem)


def test_a_certificate_that_the_server_does_not_show_goes_back(bare: Server) -> None:
    good = pki.certificate("localhost", CA, NAMES)
    use(bare, applied(bare, **options(good)))
    # With these the server does not take another certificate: it keeps all of what it had.
    bare.psql("ALTER SYSTEM SET ssl_ciphers = 'NONSENSE'")
    try:
        before = snapshot(bare)
        result = run(bare, **options(pki.certificate("localhost", CA, NAMES)))
        assert "does not show the new certificate" in result["msg"]
        assert (snapshot(bare), shown(bare)) == (before, good.pem)
    finally:
        bare.psql("ALTER SYSTEM RESET ssl_ciphers")
        bare.psql("SELECT pg_reload_conf()")


def test_a_reload_that_was_missed_is_made_up_for(bare: Server) -> None:
    holder, after = pki.certificate("localhost", CA, NAMES), pki.certificate("localhost", CA, NAMES)
    use(bare, applied(bare, **options(holder)))
    applied(bare, **options(after))
    generations.switch(str(place(bare)), "1")  # as after a run that was killed before it could reload
    done = applied(bare, names=NAMES, ca=CA.pem)
    assert "the server loads what is there" in done["diff"]["prepared"]
    assert shown(bare) == holder.pem


@pytest.mark.oldest_and_newest
def test_a_killed_run_leaves_a_working_server_and_the_next_one_ends_it(bare: Server) -> None:
    use(bare, applied(bare, **options(pki.certificate("localhost", CA, NAMES))))
    seed = random.Random(bare.major)
    for _turn in range(KILLS):
        given = options(pki.certificate("localhost", CA, NAMES))
        started = module.started(bare, "pg_ssl_files", given)
        time.sleep(seed.uniform(0.15, 0.7))
        started.kill()
        started.wait()
        assert {"server.crt", "server.key", "ca.crt"} <= set(os.listdir(place(bare) / "current"))
        assert shown(bare).startswith("-----BEGIN CERTIFICATE-----")
        done = run(bare, **given)
        assert not done.get("failed"), done["msg"]
        assert shown(bare) == given["certificate"]
        assert run(bare, **given)["changed"] is False
    applied(bare, **options(pki.certificate("localhost", CA, NAMES)))  # which clears away what was left
    assert len(os.listdir(place(bare))) == 3


def test_a_standby_has_files_of_its_own(mine: Server) -> None:
    standby = mine.make_standby()
    try:
        use(standby, applied(standby, **options(pki.certificate("localhost", CA, NAMES))))
        assert run(standby, names=NAMES, ca=CA.pem)["in_recovery"] is True
    finally:
        standby.remove()
