# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A row a minute whose place in WAL is known, so that a drill can tell exactly how far a restore got; each hour a restore point.

What the server says of each row is recorded outside of it, after the commit: a file of lines of JSON for each day.
"""

from __future__ import annotations

import glob
import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone

from bulwark_backup.archive import stored
from bulwark_backup.jobs import query
from bulwark_backup.restore import position
from bulwark_backup.storage import make_directory, sync_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from bulwark_backup.config import Config

TABLE = "bulwark_backup.canary"
_MAKE = f"""DO $$BEGIN
IF to_regclass('{TABLE}') IS NULL THEN
IF to_regnamespace('bulwark_backup') IS NULL THEN CREATE SCHEMA bulwark_backup; END IF;
CREATE TABLE {TABLE} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL);
COMMENT ON TABLE {TABLE} IS 'A row a minute, by which pg-bulwark-backup drill knows how far a restore got';
END IF; END$$"""
_ADD = f"INSERT INTO {TABLE} (at) VALUES (clock_timestamp()) RETURNING id, at"
_WHERE = "SELECT lsn, pg_walfile_name(lsn) FROM pg_current_wal_insert_lsn() lsn"
_KEPT = timedelta(days=60)  # of the records; the table keeps a week

# What is compared with the restored cluster: what names and rights there are, by names and not by OIDs.
_CLUSTER = """SELECT json_build_object(
 'roles', (SELECT count(*) FROM pg_roles WHERE rolname !~ '^pg_'),
 'memberships', (SELECT count(*) FROM pg_auth_members),
 'rights', md5((SELECT string_agg(x, E'\\n' ORDER BY x) FROM (
   SELECT concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil,
     md5(rolpassword)) FROM pg_authid
   UNION ALL SELECT concat_ws(' ', roleid::regrole, member::regrole, admin_option) FROM pg_auth_members
   UNION ALL SELECT concat_ws(' ', datname, datdba::regrole, datacl::text) FROM pg_database) AS a(x))))"""
_DATABASE = """SELECT json_build_object(
 'relations', (SELECT count(*) FROM pg_class c WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'),
 'functions', (SELECT count(*) FROM pg_proc),
 'policies', (SELECT count(*) FROM pg_policy),
 'triggers', (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
 'rights', md5((SELECT string_agg(x, E'\\n' ORDER BY x) FROM (
   SELECT concat_ws(' ', nspname, nspowner::regrole, nspacl::text) FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
   UNION ALL SELECT concat_ws(' ', c.oid::regclass, relowner::regrole, relacl::text, relrowsecurity, relforcerowsecurity) FROM pg_class c
     WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND relpersistence <> 't'
   UNION ALL SELECT concat_ws(' ', attrelid::regclass, attname, attacl::text) FROM pg_attribute WHERE attacl IS NOT NULL
   UNION ALL SELECT concat_ws(' ', p.oid::regprocedure, proowner::regrole, prosecdef, proacl::text) FROM pg_proc p WHERE p.oid >= 16384
   UNION ALL SELECT concat_ws(' ', polrelid::regclass, polname, polcmd, polpermissive, polroles::regrole[]::text, pg_get_expr(polqual, polrelid),
     pg_get_expr(polwithcheck, polrelid)) FROM pg_policy
   UNION ALL SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled, tgfoid::regprocedure) FROM pg_trigger WHERE NOT tgisinternal) AS a(x))))"""


@dataclass(frozen=True)
class Row:
    """A row of the table. at: when it was written. lsn: a position after its commit. file: the file of WAL of that position.

    restore_point: its name, where one was made after the row and before the next. catalog: what the cluster had then.
    """

    id: int
    at: str
    lsn: str
    file: str
    restore_point: str | None = None
    catalog: dict[str, Any] | None = None

    @property
    def time(self) -> datetime:
        """When it was written."""
        return datetime.fromisoformat(self.at)


def catalog(config: Config) -> dict[str, Any]:
    """Counts and a digest of what there is and who may do what, of the cluster and of each database."""
    found = {"": json.loads(query(config, _CLUSTER)[0][0])}
    for (name,) in query(config, "SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1"):
        found[name] = json.loads(query(config, "SET search_path = pg_catalog;" + _DATABASE, name)[0][0])
    return found


def add(config: Config, now: datetime) -> Row | None:
    """Write a row, and the first one of each hour a restore point; None on a standby, which cannot. Raises BackupError."""
    if query(config, "SELECT pg_is_in_recovery()") == [["t"]]:
        return None
    query(config, _MAKE)
    number, at = query(config, f"SET timezone = 'UTC'; SET datestyle = 'ISO'; {_ADD}")[0]
    lsn, file = query(config, _WHERE)[0]
    name, before = None, None
    if not os.path.exists(_path(config, now)) or not any(row.restore_point and row.time.hour == now.hour for row in _read(_path(config, now))):
        before = catalog(config)
        name = f"bulwark {now.astimezone(timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
        lsn, file = query(config, f"SELECT lsn, pg_walfile_name(lsn) FROM pg_create_restore_point('{name}') lsn")[0]
        if catalog(config) != before:  # changed in the midst: a drill could not know which of both it has to find
            before = None
        query(config, f"DELETE FROM {TABLE} WHERE at < clock_timestamp() - interval '7 days'")
        _prune(config, now)
    row = Row(int(number), _iso(at), lsn, file, name, before)
    _append(config, _path(config, now), row)
    return row


def _iso(text: str) -> str:
    """A time as PostgreSQL writes it in UTC, as ISO 8601 with six digits."""
    return datetime.fromisoformat(text.replace("+00", "+00:00")).isoformat()


def _path(config: Config, now: datetime) -> str:
    return config.path("canary", f"{now.astimezone(timezone.utc):%Y-%m-%d}.jsonl")


def _append(config: Config, path: str, row: Row) -> None:
    make_directory(config.path("canary"))
    line = json.dumps(asdict(row)) + "\n"
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b", buffering=0) as file:
        if file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n":
            line = "\n" + line  # a killed run has left half a line
        file.write(line.encode())
        os.fsync(file.fileno())
    sync_directory(config.path("canary"))


def _prune(config: Config, now: datetime) -> None:
    for path in _files(config):
        if path < _path(config, now - _KEPT):
            os.unlink(path)


def _files(config: Config) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(config.path("canary")), "*.jsonl")))


def _read(path: str) -> Iterator[Row]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                yield Row(**json.loads(line))
            except (ValueError, TypeError):  # half a line, of a run that was killed
                continue


def archived(config: Config, after: str) -> list[Row]:
    """The rows that a restore can be told to end with, the newest last: after a position, and with the next row archived as well.

    Of the newest timeline alone: what an older one had written later is not in the history of the cluster.
    """
    rows = [row for path in _files(config) for row in _read(path)]
    newest = max((row.file[:8] for row in rows), default="")
    rows = sorted((row for row in rows if row.file[:8] == newest), key=lambda row: row.id)
    return [row for row, following in zip(rows, rows[1:]) if position(row.lsn) >= position(after) and stored(config, following.file)]


def position_of(config: Config, name: str) -> str | None:
    """The position of one of our restore points; None for one that is not ours."""
    return next((row.lsn for path in _files(config) for row in _read(path) if row.restore_point == name), None)


def problems(config: Config, wanted: Row, exact: bool) -> list[str]:
    """What is wrong with the rows of a restored cluster. exact: that the wanted row has to be the last one."""
    found = query(config, f"SET timezone = 'UTC'; SET datestyle = 'ISO'; SELECT id, at FROM {TABLE} WHERE id >= {wanted.id} ORDER BY id LIMIT 2")
    if not found or int(found[0][0]) != wanted.id:
        return [f"row {wanted.id} of {TABLE}, committed at {wanted.at}, is not there"]
    if _iso(found[0][1]) != wanted.at:
        return [f"row {wanted.id} of {TABLE} is of {found[0][1]}, and was committed at {wanted.at}"]
    if exact and len(found) > 1:
        return [f"row {found[1][0]} of {TABLE} is there, and was committed after the target"]
    return []


def counts(found: dict[str, Any]) -> str:
    """How many of each there are, in words."""
    names = ("roles", "memberships", "relations", "functions", "policies", "triggers")
    return ", ".join(f"{sum(each.get(name, 0) for each in found.values())} {name}" for name in names)


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Where the catalog of a restored cluster is not what it was."""
    wrong = []
    for name in sorted(wanted.keys() | found.keys()):
        of = f"database {name}" if name else "the cluster"
        if name not in found or name not in wanted:
            wrong.append(f"{of} is " + ("not there" if name not in found else "there, and was not"))
            continue
        wrong += [f"{key} of {of}: {found[name].get(key)}, and there were {value}" for key, value in wanted[name].items() if found[name].get(key) != value]
    return wrong
