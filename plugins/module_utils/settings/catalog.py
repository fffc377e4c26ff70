# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server says about its parameters and its files. Only reads."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from .model import Definition, Entry, State

if TYPE_CHECKING:
    from ..core.database import Database
    from ..core.facts import ClusterFacts

_DEFINITIONS = """
SELECT pg_catalog.lower(name), vartype, context, setting, unit, min_val::float8, max_val::float8, enumvals, source, sourcefile,
 pending_restart
FROM pg_catalog.pg_settings ORDER BY name
"""

_ENTRIES = """
SELECT sourcefile, sourceline, seqno, pg_catalog.lower(name), setting, error FROM pg_catalog.pg_file_settings ORDER BY seqno
"""

# The server tells whole seconds of a file.
_UNCHANGED = """
SELECT f FROM pg_catalog.unnest(%(files)s::text[]) f
WHERE (pg_catalog.pg_stat_file(f, true)).modification + interval '1 s' < pg_catalog.pg_conf_load_time()
"""

_MAY_READ = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')"


def read_state(database: Database, facts: ClusterFacts) -> State:
    """Parameters, the lines of the configuration files if the role may see them, and the libraries."""
    definitions = {
        name: Definition(name, kind, context, setting, unit, low, high, tuple(words or ()), source, file, pending)
        for name, kind, context, setting, unit, low, high, words, source, file, pending in database.query(_DEFINITIONS)
    }
    current = _current_files(database, facts, {each.file for each in definitions.values() if each.file})
    return State(facts.major, definitions, read_entries(database), facts.libraries_available, facts.libraries_loaded, current)


def _current_files(database: Database, facts: ClusterFacts, files: set[str]) -> frozenset[str]:
    """Those that nobody has changed since the server loaded them."""
    if not facts.local:
        if not (facts.superuser and files):
            return frozenset()
        return frozenset(name for (name,) in database.query(_UNCHANGED, {"files": sorted(files)}))
    loaded = float(database.value("SELECT extract(epoch FROM pg_catalog.pg_conf_load_time())::float8"))
    found = set()
    for name in files:
        with contextlib.suppress(OSError):
            if os.stat(name).st_mtime < loaded:
                found.add(name)
    return frozenset(found)


def read_entries(database: Database) -> tuple[Entry, ...]:
    """Every line that sets something, in the order in which they count; the server reads its files for it, and applies nothing."""
    if not database.value(_MAY_READ) or not database.value(
        "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE')"
    ):
        return ()
    return tuple(
        Entry(file, line, order, name or "", value or "", error) for file, line, order, name, value, error in database.query(_ENTRIES)
    )
