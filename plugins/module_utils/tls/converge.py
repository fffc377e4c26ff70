# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a new generation of certificate files in place, has the server load it, and sees it shown; failing that, the old one is back."""

from __future__ import annotations

import datetime
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.document import quoted
from ..core.errors import BulwarkError, Mistake, PolicyError
from ..core.facts import read_facts
from ..core.files import reload, remove
from .generations import AUTHORITIES, CERTIFICATE, FILES, KEY, LINK, LISTS, Installed, add, discard, make_root, prune, read_installed, switch
from .handshake import address_of, load_problem, shown_certificate
from .material import der, fingerprint, fits
from .policy import Wanted, read_wanted
from .reconcile import Decision, decide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..core.database import Database, Server
    from ..core.facts import ClusterFacts

_DIRECTORY = "bulwark_tls"

_USE = """
SELECT current_setting('ssl') = 'on', extract(epoch FROM pg_catalog.pg_conf_load_time())::float8,
 ARRAY[current_setting('ssl_cert_file'), current_setting('ssl_key_file'), current_setting('ssl_ca_file'), current_setting('ssl_crl_file')]
"""


@dataclass(frozen=True)
class Use:
    """What the server does with the files. on: it speaks TLS with our certificate. files: the ones of the link that its settings name."""

    on: bool
    loaded: float
    files: frozenset[str]


@dataclass(frozen=True)
class Planned:
    """What will be done. stale: the server has not loaded what is installed."""

    directory: str
    owner: tuple[int, int]
    facts: ClusterFacts
    wanted: Wanted
    installed: Installed | None
    decision: Decision
    use: Use
    stale: bool

    def __bool__(self) -> bool:
        return self.decision.texts is not None or self.stale

    def path(self, file: str) -> str:
        """Where a file is for the server: through the link."""
        return os.path.join(self.directory, LINK, file)

    def files(self) -> dict[str, str]:
        """The values of the server's settings; empty where there is no such file."""
        there = {CERTIFICATE, KEY} if self.decision.leaf else set()
        there |= {file for file, given in ((AUTHORITIES, self.wanted.authorities), (LISTS, self.wanted.lists)) if given and there}
        names = {"certificate": CERTIFICATE, "key": KEY, "ca": AUTHORITIES, "crl": LISTS}
        return {name: self.path(file) if file in there else "" for name, file in names.items()}

    def diff(self) -> str:
        """The changes as a person reads them."""
        lines = [*self.decision.differences, *(["the server loads what is there"] if self.stale else [])]
        return "\n".join([f"TLS files in {self.directory}", *(f"  {line}" for line in lines)]) + "\n" if lines else ""


def plan(server: Server, options: Mapping[str, Any], path_prefix: str) -> Planned:
    """Read the server, the files and the options, and find out what will change. Raises PolicyError with every mistake, BulwarkError."""
    mistakes: list[Mistake] = []
    with server.connect() as database:
        facts = read_facts(database)
        owner, directory = _place(facts, options["directory"])
        use = _use(database, directory)
    wanted = read_wanted(options, directory, mistakes)
    installed = read_installed(directory)
    decision = decide(wanted, installed, use.files, datetime.datetime.now(datetime.timezone.utc), mistakes)
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    planned = Planned(directory, owner, facts, wanted, installed, decision, use, False)
    stale = decision.texts is None and _stale(planned)
    return Planned(directory, owner, facts, wanted, installed, decision, use, stale)


def _place(facts: ClusterFacts, directory: str | None) -> tuple[tuple[int, int], str]:
    """Who owns the files, and where they are: beside the configuration where that is the server's own, else in the data directory."""
    if not facts.local or not facts.data_directory or not facts.config_file:
        raise BulwarkError("the server's files are not on this host, or may not be read: run this on the server's host, as its account")
    data = os.stat(facts.data_directory)
    if os.geteuid() not in (0, data.st_uid):
        raise BulwarkError("the server's files belong to another account: run this as the server's account (become_user: postgres)")
    beside = os.path.dirname(os.path.realpath(facts.config_file))
    if os.stat(beside).st_uid != data.st_uid:
        beside = facts.data_directory
    if directory and not os.path.isabs(directory):
        raise BulwarkError(f"the directory has to be an absolute path, not {quoted(directory)}")
    return (data.st_uid, data.st_gid), os.path.normpath(directory or os.path.join(beside, _DIRECTORY))


def _use(database: Database, directory: str) -> Use:
    on, loaded, paths = database.query(_USE)[0]
    ours = {os.path.join(directory, LINK, file): file for file in FILES}
    files = frozenset(ours[path] for path in paths if path in ours)
    return Use(bool(on) and CERTIFICATE in files, float(loaded), files)


def _stale(planned: Planned) -> bool:
    """Whether the server still has what was there before, as after a run that was killed between the link and the reload."""
    if planned.installed is None or not planned.use.on:
        return False
    return planned.use.loaded < planned.installed.since or _shown(planned) is False


def _shown(planned: Planned) -> bool | None:
    """Whether the server shows the certificate of the decision; None where it cannot be asked."""
    address = address_of(planned.facts.listen_addresses)
    if address is None or planned.decision.leaf is None:
        return None
    return shown_certificate(address, planned.facts.port) == der(planned.decision.leaf)


def apply(server: Server, planned: Planned) -> None:
    """Do it. Raises BulwarkError; the server has then what it had before."""
    if planned.decision.texts is None:
        with server.connect() as database:
            reload(server, database)
        _prove(planned)
        return
    make_root(planned.directory, planned.owner)
    name = add(planned.directory, planned.decision.texts, planned.owner)
    try:
        _load(os.path.join(planned.directory, name), planned.decision.texts)
        with server.connect() as database:
            _put_in_use(server, database, planned, name)
    except BaseException:
        discard(planned.directory, name)
        raise
    prune(planned.directory)
    key_file, leaf = planned.wanted.key_file, planned.decision.leaf
    if key_file and leaf and os.path.dirname(key_file) == planned.directory and fits(planned.wanted.key, leaf):
        remove(key_file)  # it was put there for this


def _load(generation: str, texts: Mapping[str, str]) -> None:
    paths = {file: os.path.join(generation, file) for file in texts}
    problem = load_problem(paths[CERTIFICATE], paths[KEY], paths.get(AUTHORITIES))
    if problem:
        raise BulwarkError(f"OpenSSL would not load the files, so that nothing was changed: {problem}")


def _put_in_use(server: Server, database: Database, planned: Planned, name: str) -> None:
    try:
        switch(planned.directory, name)
        if planned.use.files:
            reload(server, database)
            _prove(planned)
    except BaseException:
        with suppress(BulwarkError):
            switch(planned.directory, planned.installed.name if planned.installed else None)
            if planned.use.files:
                reload(server, database)
        raise


def _prove(planned: Planned) -> None:
    """Raises BulwarkError where the server does not show the certificate."""
    if planned.use.on and _shown(planned) is False:
        raise BulwarkError("after the reload the server does not show the new certificate; its log says why")


def told(planned: Planned) -> dict[str, Any] | None:
    """The server's certificate afterwards, for the result."""
    leaf = planned.decision.leaf
    if leaf is None:
        return None
    return {
        "subject": leaf.subject,
        "issuer": leaf.issuer,
        "names": list(leaf.names),
        "not_before": leaf.not_before.isoformat(),
        "not_after": leaf.not_after.isoformat(),
        "serial": leaf.serial_text,
        "fingerprint": fingerprint(leaf),
    }
