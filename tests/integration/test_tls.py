# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""pg_ssl_files on real servers, judged by psql and openssl: what is installed is what clients see, and what is wrong never gets there."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests import pki, servers
from tests.integration import module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import Server

CA = pki.authority("First CA")
NAMES = ["localhost", "127.0.0.1"]


@pytest.fixture(scope="module", params=servers.majors(), ids=lambda major: f"pg{major}")
def mine(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of this file's own, since its files and settings are what the tests change."""
    with servers.running(request.param) as started:
        yield started


@pytest.fixture
def bare(mine: Server) -> Server:
    """The server without anything that an earlier test has installed."""
    place = mine.data / "bulwark_tls"
    (mine.data / "conf.d" / "bulwark_ssl.conf").unlink(missing_ok=True)
    mine.psql("SELECT pg_reload_conf()")
    os.system(f"rm -rf {place}")
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
    """Apply what has something to do: check mode foretells it without touching anything, and a second run finds nothing left."""
    before = snapshot(server)
    foretold = run(server, check=True, **given)
    assert not foretold.get("failed"), foretold["msg"]
    assert snapshot(server) == before
    done = run(server, **given)
    assert not done.get("failed"), done["msg"]
    assert (foretold["changed"], done["changed"]) == (True, True)
    assert foretold["diff"] == done["diff"]
    for check in (True, False):
        again = run(server, check=check, **given)
        assert (again["changed"], again["diff"]["prepared"]) == (False, "")
    return done


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
    second = pki.certificate("localhost", CA, NAMES)
    done = applied(bare, **options(second))
    assert done["in_use"] is True
    assert done["certificate"]["serial"].lstrip("0") == second.serial.lstrip("0")
