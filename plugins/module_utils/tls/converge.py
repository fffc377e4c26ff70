# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a new generation of certificate files in place and verifies it in a handshake; failing that, the old one is restored."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.document import quoted
from ..core.errors import BulwarkError, Mistake, PolicyError
from ..core.facts import read_facts
from ..core.files import read_text, remove, write_text
from ..core.install import Installation, Undo, install
from ..core.plan import Change, Effect, Plan
from .catalog import read_use
from .generations import (
    AUTHORITIES,
    CERTIFICATE,
    KEY,
    LINK,
    LISTS,
    STAGED,
    add,
    discard,
    make_root,
    prune,
    read_installed,
    remove_root,
    switch,
)
from .handshake import address_of, load_problem, shown_certificate
from .material import der, fingerprint, fits
from .model import Installed, Place, Policy, Use
from .policy import read_policy
from .reconcile import Decision, decide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..core.database import Database, Server
    from ..core.facts import ClusterFacts

_DIRECTORY = "bulwark_tls"
_AS_BEFORE = "the previous certificate is in use"


@dataclass(frozen=True)
class Switch:
    """The link leads to another generation. previous: the one that it led to, None where there was no link."""

    directory: str
    name: str
    previous: str | None

    def do(self, _database: Database) -> Undo:
        """Move the link."""
        switch(self.directory, self.name)
        return lambda _session: switch(self.directory, self.previous)


@dataclass(frozen=True)
class Planned:
    """The plan, and what it was made from. moving: the files come out of the data directory."""

    plan: Plan
    place: Place
    facts: ClusterFacts
    policy: Policy
    installed: Installed | None
    decision: Decision
    use: Use
    moving: bool

    @property
    def directory(self) -> str:
        """Where the generations are."""
        return self.place.directory

    def path(self, file: str) -> str:
        """Where a file is for the server: through the link."""
        return os.path.join(self.directory, LINK, file)

    def files(self) -> dict[str, str]:
        """The values of the server's settings; empty where there is no such file."""
        there = {CERTIFICATE, KEY} if self.decision.leaf else set()
        there |= {file for file, given in ((AUTHORITIES, self.policy.authorities), (LISTS, self.policy.lists)) if given and there}
        names = {"certificate": CERTIFICATE, "key": KEY, "ca": AUTHORITIES, "crl": LISTS}
        return {name: self.path(file) if file in there else "" for name, file in names.items()}


def plan(server: Server, options: Mapping[str, Any], path_prefix: str) -> Planned:
    """Read the server, the files and the options, and find out what will change. Raises PolicyError with every mistake, BulwarkError."""
    mistakes: list[Mistake] = []
    with server.connect() as database:
        facts = read_facts(database)
        place = _place(facts, options["directory"], mistakes)
        use = read_use(database, place)
    moving = _moving(place)
    source = place.former if moving and place.former else place.directory
    policy = read_policy(options, source, mistakes)
    installed = read_installed(source)
    decision = decide(policy, installed, use.files, datetime.datetime.now(datetime.timezone.utc), mistakes)
    if mistakes:
        raise PolicyError(mistakes, path_prefix)
    if moving and decision.texts is None and decision.leaf is not None and installed is not None:
        decision = replace(decision, texts=installed.texts)
    planned = Planned(Plan(), place, facts, policy, installed, decision, use, moving)
    return replace(planned, plan=Plan(tuple(_changes(planned))).under(f"TLS files in {place.directory}"))


def _changes(planned: Planned) -> Iterator[Change]:
    former, use = planned.place.former or "", planned.use
    if planned.moving:
        yield Change(former, f"moved from {former}", None, None, Effect.WRITE)
    yield from planned.decision.changes
    if planned.decision.texts is None and _stale(planned):
        yield Change("server", "the server loads what is there", None, None, Effect.RELOAD)
    if former and not planned.moving and (use.here or not use.files):  # no setting names it any more
        yield Change(former, f"{former} is removed", None, None, Effect.DROP)


def _place(facts: ClusterFacts, directory: str | None, mistakes: list[Mistake]) -> Place:
    """Where the files are: beside the configuration where that is the server's own and outside the data directory, else beside that.

    In the data directory the link would keep pgBackRest from every backup, pg_basebackup would leave it out, so that a restored server
    did not
    start, and the private key would be in every backup.
    """
    if not facts.local or not facts.data_directory or not facts.config_file:
        raise BulwarkError("the server's files are not on this host, or may not be read: run this on the server's host, as its account")
    data = os.path.realpath(facts.data_directory)
    found = os.stat(data)
    if os.geteuid() not in (0, found.st_uid):
        raise BulwarkError("the server's files belong to another account: run this as the server's account (become_user: postgres)")
    if directory and not os.path.isabs(directory):
        raise BulwarkError(f"the directory has to be an absolute path, not {quoted(directory)}")
    if directory and _inside(directory, data):
        text = f"must be outside the data directory {data}: backups would stop at the link or leave it out, and would hold the private key"
        mistakes.append(Mistake("directory", text))
    former = os.path.join(data, _DIRECTORY)
    chosen = os.path.normpath(directory or _default(facts, data, found.st_uid))
    return Place(chosen, (found.st_uid, found.st_gid), former if os.path.isdir(former) and former != chosen else None)


def _inside(path: str, data: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), data]) == data


def _default(facts: ClusterFacts, data: str, account: int) -> str:
    beside = os.path.dirname(os.path.realpath(facts.config_file or ""))
    if not _inside(beside, data) and os.stat(beside).st_uid == account:
        return os.path.join(beside, _DIRECTORY)
    above, name = os.path.split(data)
    chosen = os.path.join(above, f"{name}_{_DIRECTORY}")
    ask = "name a directory outside the data directory that lasts as long and that the server's account may write to (pg_ssl_directory)"
    if facts.service is not None and facts.service.manager == "container" and os.path.ismount(data):
        raise BulwarkError(f"{chosen} would be lost with the container: {ask}")
    if not os.path.isdir(chosen) and not os.access(above, os.W_OK | os.X_OK):
        raise BulwarkError(f"{chosen} cannot be made: {ask}")
    return chosen


def _moving(place: Place) -> bool:
    """Whether what is in the former directory has to be brought here first."""
    if place.former is None or read_installed(place.directory) is not None or os.path.exists(os.path.join(place.directory, STAGED)):
        return False
    return read_installed(place.former) is not None or os.path.exists(os.path.join(place.former, STAGED))


def _stale(planned: Planned) -> bool:
    """Whether the server still has what was there before, as after a run that was killed between the link and the reload."""
    if planned.installed is None or not (planned.use.on and planned.use.here):
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
    if planned.moving:
        _bring_key(planned)
    if planned.decision.texts is not None:
        _install(server, planned, planned.decision.texts)
    elif planned.plan.of(Effect.RELOAD):
        install(server, Installation((), lambda: _prove(planned), _AS_BEFORE))
    for change in planned.plan.of(Effect.DROP):
        _prove(planned)
        remove_root(change.object)


def _bring_key(planned: Planned) -> None:
    """The key that waits for its certificate comes along, from the former directory."""
    text = read_text(os.path.join(planned.place.former or "", STAGED))
    make_root(planned.directory, planned.place.owner)
    if text is not None:
        write_text(os.path.join(planned.directory, STAGED), text, 0o600)


def _install(server: Server, planned: Planned, texts: Mapping[str, str]) -> None:
    make_root(planned.directory, planned.place.owner)
    name = add(planned.directory, texts, planned.place.owner)
    try:
        _load(os.path.join(planned.directory, name), texts)
        previous = planned.installed.name if planned.installed and not planned.moving else None
        steps = [Switch(planned.directory, name, previous)]
        # After a move, the settings still name the former files.
        install(server, Installation(steps, lambda: _prove(planned), _AS_BEFORE, loads=planned.use.here))
    except BaseException:
        discard(planned.directory, name)
        raise
    prune(planned.directory)
    key_file, leaf = planned.policy.key_file, planned.decision.leaf
    ours = (planned.directory, planned.place.former)
    if key_file and leaf and os.path.dirname(key_file) in ours and fits(planned.policy.key, leaf):
        remove(os.path.join(planned.directory, os.path.basename(key_file)))  # it was put there for this


def _load(generation: str, texts: Mapping[str, str]) -> None:
    paths = {file: os.path.join(generation, file) for file in texts}
    problem = load_problem(paths[CERTIFICATE], paths[KEY], paths.get(AUTHORITIES))
    if problem:
        raise BulwarkError(f"OpenSSL would not load the files, so that nothing was changed: {problem}")


def _prove(planned: Planned) -> None:
    """Raises BulwarkError where the server does not show the certificate."""
    if planned.use.on and planned.use.here and _shown(planned) is False:
        raise BulwarkError("after the reload the server does not show the new certificate; its log says why")


def certificate_data(planned: Planned) -> dict[str, Any] | None:
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
