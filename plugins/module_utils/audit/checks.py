# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wrong with a document on this server, and what it leaves open. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.document import quoted
from ..core.errors import Mistake, nearest
from .reconcile import audited
from .sink import foreign_tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from .model import Database, Log, Masking, RoleFacts, Sink, Table

_SHOWN = 5  # names that a note lists


def role_mistakes(database: Database, roles: Mapping[str, RoleFacts], expected: Collection[str]) -> Iterator[Mistake]:
    """Readers that the server does not have. expected: roles that count as there."""
    for key, name in (*(("readers", name) for name in database.readers), *(("tenant_readers", name) for name in database.tenant_readers)):
        if name not in roles and name not in expected:
            yield Mistake(f"{database.path}.{key}", f"the server has no role {quoted(name)}{nearest(name, roles)}")


def owner_mistakes(log: Log, roles: Mapping[str, RoleFacts]) -> Iterator[Mistake]:
    """An owner that somebody could log in as."""
    found = roles.get(log.owner)
    if found is not None and (found.login or found.superuser):
        what = "may log in" if found.login else "is a superuser"
        yield Mistake("owner", f"role {quoted(log.owner)} {what}; the log belongs to a role that nobody can log in as")


def table_mistakes(database: Database, log: Log, tables: Sequence[Table], schemas: Collection[str], sink: Sink) -> Iterator[Mistake]:
    """Schemas, tables and columns that are not there, or that cannot be audited as the document says."""
    for name in foreign_tables(sink):
        yield Mistake(
            database.path, f"table {log.schema}.{name} is there with other columns: it is not this log's, or that of another version"
        )
    for selection in database.selections:
        if selection.schema not in schemas:
            yield Mistake(selection.path, f"the database has no schema {quoted(selection.schema)}{nearest(selection.schema, schemas)}")
            continue
        within = [table for table in tables if table.schema == selection.schema]
        yield from selection.missing((table.name for table in within), matched=not database.new_tables)
        for table in within:
            if not selection.holds(table.schema, table.name):
                continue
            if table.foreign_partition:
                yield Mistake(
                    selection.path,
                    f"{table.label} has a foreign table as a partition, {table.foreign_partition}, and so cannot be recorded; except it",
                )
            elif table.root is not None and not _holds(database, table.root):
                where = ".".join(table.root)
                yield Mistake(
                    selection.path, f"{table.label} is a partition: name the table at the top, {where}, or except the partition, too"
                )
    places = {each.table.place: each.table for each in audited(database, tables)}
    for masking in database.masking:
        yield from _mask_mistakes(masking, places, tables)


def _holds(database: Database, place: tuple[str, str]) -> bool:
    return any(selection.holds(*place) for selection in database.selections)


def _mask_mistakes(masking: Masking, places: Mapping[tuple[str, str], Table], tables: Sequence[Table]) -> Iterator[Mistake]:
    table = places.get((masking.schema, masking.table))
    if table is None:
        there = next((each for each in tables if each.place == (masking.schema, masking.table)), None)
        if there is not None and there.root is not None:
            yield Mistake(masking.path, f"is a partition: name the table at the top, {'.'.join(there.root)}")
        else:
            labels = [each.label for each in places.values()]
            yield Mistake(masking.path, f"is not among the audited tables{nearest(f'{masking.schema}.{masking.table}', labels)}")
        return
    names = [column.name for column in table.columns]
    for column in masking.columns:
        if column not in names:
            yield Mistake(f"{masking.path}.{column}", f"table {table.label} has no column {quoted(column)}{nearest(column, names)}")
        elif table.key is not None and column in table.key.columns:
            yield Mistake(f"{masking.path}.{column}", "is in the key, by which records are found: it cannot be hidden")


def notes(database: Database, log: Log, tables: Sequence[Table], roles: Mapping[str, RoleFacts]) -> Iterator[str]:
    """What the log cannot do for this document."""
    mine = [each.table for each in audited(database, tables)]
    keyless = [table.label for table in mine if table.key is None]
    if keyless:
        yield f"no primary key, so that their records have no record_id: {_listed(keyless)}"
    owner = roles.get(log.owner)
    if owner is not None and owner.members:
        yield f"{_listed(owner.members)} can become {log.owner}, which owns the log, and take its protection away: REVOKE the membership"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
