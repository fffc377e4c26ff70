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
    return mine


def options(holder: pki.Holder, ca: str = CA.pem, **more: Any) -> dict[str, Any]:
    """The module's options for a certificate."""
    return {"certificate": holder.chain, "key_content": holder.key_pem, "ca": ca, "names": NAMES, **more}


def run(server: Server, *, check: bool = False, **given: Any) -> module.Result:
    """The module's result."""
    return module.run(server, "pg_ssl_files", check=check, diff=True, **given)


def place(server: Server) -> Path:
    """Where the generations are."""
    return server.data / "bulwark_tls"


def snapshot(server: Server) -> object:
    """Every file there is, with its content and mode, and where links lead."""
    found = {}
    for path in sorted(server.data.glob("bulwark_tls/**/*")):
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
        (options(pki.certificate("localhost", CA, ["other"])), "does not stand for localhost, 127.0.0.1"),
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
