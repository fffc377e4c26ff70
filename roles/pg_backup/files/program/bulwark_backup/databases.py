# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One database, or some tables of it, from a logical backup into a new database beside the one in use."""

from __future__ import annotations

import os
from dataclasses import replace

from bulwark_backup.backups import LOGICAL, Backup, all_backups, folder, problems
from bulwark_backup.config import BackupError, Config
from bulwark_backup.jobs import check_server, conninfo, environment, login, query
from bulwark_backup.storage import Pipeline, unpacking

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Materialized views are refreshed as their owner, to whom forced policies apply: with row_security off, as pg_restore has it, that is an error.
RESTORE_OPTIONS = ("--exit-on-error", "--enable-row-security")


def restore(
    config: Config, name: str, target: str | None, tables: Sequence[str], identity: str | None, label: str | None, say: Callable[[str], None]
) -> tuple[Backup, str]:
    """Restore a database; the backup that was taken, and the name of the new database.

    target: the name of the new database. tables: only their rows, such as app.orders; everything else that comes before the data is there, too, and no
    index, key or policy. Raises BackupError, and drops the new database where that failed.
    """
    config = replace(config, user=config.administrator)  # the only one who may make what others own
    check_server(config)
    backup = chosen(config, name, label)
    target = target or f"{name}_{backup.label.lower()}"
    there = {found for (found,) in query(config, "SELECT datname FROM pg_database")}
    if target in there:
        raise BackupError(f"there is a database {target}: nothing is replaced; drop it, rename it, or choose another name with --as")
    wrong = problems(config, backup)
    if wrong:
        raise BackupError("the backup is damaged, choose another one by --label: " + "; ".join(wrong))
    path = next(os.path.join(folder(config, LOGICAL, backup.label), file.name) for file in backup.files if file.source == name)
    parts = [[]] if not tables else [["--section=pre-data"], ["--data-only", *_selection(tables)]]
    say(f"backup {backup.label} of {name}, {os.path.getsize(path) >> 20} MiB, into the new database {target}")
    query(config, f"CREATE DATABASE {_quoted(config, target)} TEMPLATE template0")
    try:
        for part in parts:
            command = [config.program("pg_restore"), *RESTORE_OPTIONS, *part, *login(config), "-d", conninfo(target)]
            with open(path, "rb") as source, Pipeline([*unpacking(path, identity), command], source, environment()) as pipeline:
                pipeline.finish(partly=bool(tables))
        for table in tables:
            if query(config, f"SELECT to_regclass({_text(table)}) IS NULL", target) == [["t"]]:
                raise BackupError(f"there is no table {table} in the backup")
    except BaseException:
        query(config, f"DROP DATABASE {_quoted(config, target)}")
        raise
    return backup, target


def chosen(config: Config, name: str, label: str | None) -> Backup:
    """The newest logical backup that has a database, or the one with a label. Raises BackupError."""
    backups = [backup for backup in all_backups(config, LOGICAL) if label in (None, backup.label)]
    fit = [backup for backup in backups if any(file.source == name and file.name.startswith("database") for file in backup.files)]
    if not fit:
        raise BackupError(f"no logical backup{f' {label}' if label else ''} has a database {name}")
    return fit[-1]


def _selection(tables: Sequence[str]) -> list[str]:
    """The options by which pg_restore takes these tables alone. Raises BackupError."""
    words = []
    for table in tables:
        schema, dot, name = table.partition(".")
        if not dot or not schema or not name:
            raise BackupError(f"{table} is no table with its schema, such as app.orders")
        words += ["--schema", schema, "--table", name]
    return words


def _quoted(config: Config, name: str) -> str:
    return query(config, f"SELECT quote_ident({_text(name)})")[0][0]


def _text(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
