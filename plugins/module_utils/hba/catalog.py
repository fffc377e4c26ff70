# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what decides about connections: the files, the roles, the databases, and how this session itself connected."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..core.catalog import memberships_of
from ..core.errors import BulwarkError
from ..core.files import read_text
from .model import Problem, Question, State
from .reading import read_mappings, read_rules

if TYPE_CHECKING:
    from ..core.database import Database
    from ..core.facts import ClusterFacts

_DATABASES = "SELECT datname FROM pg_catalog.pg_database"

_MAY_READ_VERIFIERS = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')"
_MD5 = "SELECT rolname FROM pg_catalog.pg_authid WHERE rolcanlogin AND rolpassword ~ '^md5'"

_SUPERUSERS = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin"

_OWN = """
SELECT session_user::text, pg_catalog.current_database()::text, pg_catalog.host(pg_catalog.inet_client_addr()),
 COALESCE((SELECT s.ssl FROM pg_catalog.pg_stat_ssl s WHERE s.pid = pg_catalog.pg_backend_pid()), false),
 COALESCE((SELECT g.encrypted FROM pg_catalog.pg_stat_gssapi g WHERE g.pid = pg_catalog.pg_backend_pid()), false)
"""

_CHANGED = """
SELECT pg_catalog.pg_conf_load_time() < f.modification FROM pg_catalog.pg_stat_file(%(path)s, true) f
"""

_ERRORS = {
    True: "SELECT file_name, line_number, error FROM pg_catalog.pg_hba_file_rules WHERE error IS NOT NULL ORDER BY rule_number, 2",
    False: "SELECT NULL, line_number, error FROM pg_catalog.pg_hba_file_rules WHERE error IS NOT NULL ORDER BY line_number",
}

# A rule for TLS on a server without is no error: it never matches, and the server takes the file.
_HARMLESS = ("hostssl record cannot match", "hostgssenc record cannot match")


class LocalFiles:
    """Files of this host."""

    def text(self, path: str) -> str | None:
        """The text of a file."""
        return read_text(path)

    def names(self, path: str) -> list[str]:
        """The names in a directory."""
        try:
            return os.listdir(path)
        except OSError as error:
            raise BulwarkError(f"cannot read {path}: {error.strerror}") from None


class ServerFiles:
    """Files of a server elsewhere, read by itself for a superuser."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def text(self, path: str) -> str | None:
        """The text of a file."""
        data = self._database.value("SELECT pg_catalog.pg_read_binary_file(%(path)s, 0, 100000000, true)", {"path": path})
        return None if data is None else bytes(data).decode("utf-8", "surrogateescape")

    def names(self, path: str) -> list[str]:
        """The names in a directory."""
        return [name for (name,) in self._database.query("SELECT pg_catalog.pg_ls_dir(%(path)s)", {"path": path})]


def read_state(database: Database, facts: ClusterFacts) -> State:
    """Everything at once. Raises BulwarkError where the role may not see the files."""
    if not facts.hba_file or not facts.ident_file or not (facts.superuser or facts.local):
        raise BulwarkError(f'the role "{facts.role}" may not see the rules of this server: connect as a superuser')
    reader: Any = LocalFiles() if facts.local else ServerFiles(database)
    contents = read_rules(facts.hba_file, reader, facts.major)
    maps = read_mappings(facts.ident_file, reader, facts.major)
    own = [*contents.problems, *maps.problems]
    # What only the server can tell, such as an expression that it does not take.
    seen = {(each.file, each.line) for each in own}
    theirs = [each for each in file_errors(database, facts) if (each.file, each.line) not in seen] if facts.superuser else []
    role, name, address, encrypted, gss = database.query(_OWN)[0]
    return State(
        major=facts.major,
        roles=memberships_of(database),
        databases=frozenset(name for (name,) in database.query(_DATABASES)),
        ssl=database.value("SELECT pg_catalog.current_setting('ssl')::bool"),
        authorities=database.value("SELECT pg_catalog.current_setting('ssl_ca_file') <> ''"),
        md5=frozenset(name for (name,) in database.query(_MD5)) if database.value(_MAY_READ_VERIFIERS) else frozenset(),
        superusers=frozenset(name for (name,) in database.query(_SUPERUSERS)),
        rules=tuple(contents.rules),
        problems=(*own, *theirs),
        mappings=tuple(maps.mappings),
        stale=tuple(path for path in [*contents.files, *maps.files] if _is_newer(database, path, facts)),
        loaded_at=str(database.value("SELECT pg_catalog.pg_conf_load_time()")),
        own=Question(role, name, address, encrypted, gss),
    )


def _is_newer(database: Database, path: str, facts: ClusterFacts) -> bool:
    """Whether a file was changed after the server has last read its files. In a second that both share, this host's own clock tells."""
    if facts.local:
        try:
            changed = os.stat(path).st_mtime
        except OSError:
            return False
        with_fraction = "SELECT extract(epoch FROM pg_catalog.pg_conf_load_time())::float8 < %(changed)s"
        return bool(database.value(with_fraction, {"changed": changed}))
    return bool(database.value(_CHANGED, {"path": path}))


def file_errors(database: Database, facts: ClusterFacts) -> list[Problem]:
    """What the server itself says of the files as they stand, before it is told to load them."""
    found = [Problem(file or facts.hba_file or "", line or 0, error) for file, line, error in database.query(_ERRORS[facts.major >= 16])]
    if facts.major >= 15:
        file_name = "file_name" if facts.major >= 16 else "NULL"
        statement = f"SELECT {file_name}, line_number, error FROM pg_catalog.pg_ident_file_mappings WHERE error IS NOT NULL ORDER BY 1, 2"
        found += [Problem(file or facts.ident_file or "", line or 0, error) for file, line, error in database.query(statement)]
    return [each for each in found if not each.message.startswith(_HARMLESS)]
