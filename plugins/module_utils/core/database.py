# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A connection to one database of a server: the only place that imports psycopg2."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .errors import BulwarkError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

try:
    import psycopg2
    import psycopg2.sql

    sql = psycopg2.sql

    class Remembered(sql.Composable):
        """A composable that keeps its text. The text depends on the connection's encoding alone, which is always UTF-8."""

        def __init__(self, part: sql.Composable) -> None:
            super().__init__(part)
            self._part = part
            self._text: str | None = None

        def as_string(self, context: Any) -> str:
            """The text of the part."""
            if self._text is None:
                self._text = str(self._part.as_string(context))
            return self._text

    PSYCOPG2_ERROR: str | None = None
except ImportError:
    PSYCOPG2_ERROR = traceback.format_exc()

APPLICATION_NAME = "bulwark.postgresql"

# Everything that could write the text of a statement somewhere, with the value that keeps it from doing so.
_SILENT_SETTINGS: Mapping[str, str] = {
    "log_statement": "none",
    "log_min_duration_statement": "-1",
    "log_min_duration_sample": "-1",
    "log_transaction_sample_rate": "0",
    "log_min_error_statement": "panic",
    "log_duration": "off",
    "track_activities": "off",
    "pg_stat_statements.track": "none",
    "pgaudit.log": "none",
}

_TIMEOUTS = ("statement_timeout", "transaction_timeout", "lock_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout")

# What shows a statement that succeeds; the others show one that fails or are redacted by their own software.
_TELLTALES = ("log_statement", "log_min_duration_statement", "log_min_duration_sample", "log_transaction_sample_rate")

# SQLSTATEs after which the same transaction may well succeed: lock_not_available, deadlock_detected, serialization_failure,
# and object_in_use, which CREATE DATABASE gets while somebody is connected to its template.
_TRANSIENT_STATES = frozenset({"55P03", "40P01", "40001", "55006"})


class StatementError(BulwarkError):
    """A statement that the server refused. transient: trying the transaction again may help. at_commit: it was the COMMIT."""

    def __init__(self, message: str, sqlstate: str = "", transient: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.transient = transient
        self.lost = lost
        self.at_commit = False


def _statement_error(error: Any) -> StatementError:
    """psycopg2's error without the excerpt of the statement that libpq appends, which may hold a secret."""
    diagnostics = getattr(error, "diag", None)
    primary = getattr(diagnostics, "message_primary", None)
    lost = primary is None or (error.pgcode or "").startswith(("57P", "08"))
    text = primary or (str(error).strip().splitlines() or ["the connection was lost"])[0]
    detail = getattr(diagnostics, "message_detail", None)
    if detail:
        text += f" ({' '.join(detail.split())})"
    hint = getattr(diagnostics, "message_hint", None)
    if hint:
        text += f"; {' '.join(hint.split())}"
    transient = error.pgcode in _TRANSIENT_STATES or "tuple concurrently" in text
    return StatementError(text, error.pgcode or "", transient, lost)


class Database:
    """One session with one database, in autocommit mode until a transaction is opened.

    parameters: libpq connection parameters without dbname (host, port, user, password, sslmode, sslrootcert).
    Raises BulwarkError where no connection can be made.
    """

    def __init__(self, parameters: Mapping[str, Any], name: str) -> None:
        self.name = name
        self._transaction = False
        try:
            self._connection = psycopg2.connect(dbname=name, application_name=APPLICATION_NAME, client_encoding="UTF8", **parameters)
        except psycopg2.Error as error:
            reason = " ".join(str(error).split()) or "no reason given"
            raise BulwarkError(f'cannot connect to database "{name}": {reason}') from None
        self._connection.autocommit = True
        # A database or a role may have it on, and the names that the server prints would be others than those of a policy.
        self.execute("SET quote_all_identifiers = off")
        self.server_version: int = self._connection.server_version

    def __enter__(self) -> Database:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server."""
        self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether the session has ended, by close() or by a lost connection."""
        return bool(self._connection.closed)

    @property
    def login_password(self) -> str | None:
        """The password that this session logged in with; None where the server asked for none."""
        return str(self._connection.info.password) if self._connection.info.used_password else None

    @property
    def major(self) -> int:
        """The server's major version, for example 18."""
        return self.server_version // 10000

    @property
    def version_text(self) -> str:
        """The server's version as people write it, for example 18.6."""
        return f"{self.major}.{self.server_version % 10000}"

    def query(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """All rows of a statement. statement: text, or a composed psycopg2.sql object."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall())
        except psycopg2.Error as error:
            raise _statement_error(error) from None

    def value(self, statement: Any, parameters: Mapping[str, Any] | None = None) -> Any:
        """The first column of the first row."""
        return self.query(statement, parameters)[0][0]

    def copy_out(self, statement: Any, file: Any) -> int:
        """Write what COPY ... TO STDOUT gives to a file; returns the number of rows."""
        try:
            with self._connection.cursor() as cursor:
                cursor.copy_expert(statement, file)
                return int(cursor.rowcount)
        except psycopg2.Error as error:
            raise _statement_error(error) from None

    def execute(self, *statements: Any) -> None:
        """Run statements that return nothing of interest, in one round trip."""
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("; ".join(self.text(statement) for statement in statements))
        except psycopg2.Error as error:
            raise _statement_error(error) from None

    def warnings(self) -> list[str]:
        """What PostgreSQL has warned of since this was asked the last time."""
        found = [text.partition(":")[2].strip() for text in self._connection.notices if text.startswith("WARNING")]
        self._connection.notices.clear()
        return list(dict.fromkeys(" ".join(text.split()) for text in found))

    def text(self, statement: Any) -> str:
        """The statement as the server would be sent it."""
        return statement if isinstance(statement, str) else str(statement.as_string(self._connection))

    def without_timeouts(self) -> None:
        """Keep this session alive and able to work, whatever timeouts the server's configuration is going to have."""
        found = self.query("SELECT name FROM pg_catalog.pg_settings WHERE name = ANY(%(names)s)", {"names": list(_TIMEOUTS)})
        self.execute(*(sql.SQL("SET {} = 0").format(sql.Identifier(name)) for (name,) in found))

    def in_recovery(self) -> bool:
        """Whether the server is a standby (or still recovering), where nothing can be written."""
        return bool(self.value("SELECT pg_catalog.pg_is_in_recovery()"))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot for all queries within, in a transaction that cannot write; works on a standby."""
        with self._transaction_of("ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = pg_catalog"):
            yield

    @contextmanager
    def writing(self, lock_timeout: int, lock_key: int) -> Iterator[None]:
        """A transaction that commits at the end, or rolls back whatever happens in it.

        lock_timeout: milliseconds a statement may wait for a lock. lock_key: the advisory lock that keeps two runs from interleaving.
        """
        with self._transaction_of("ISOLATION LEVEL READ COMMITTED READ WRITE"):
            self.execute(sql.SQL("SET LOCAL search_path = pg_catalog; SET LOCAL lock_timeout = {}").format(sql.Literal(lock_timeout)))
            self.query("SELECT pg_advisory_xact_lock(%(key)s)", {"key": lock_key})
            yield

    @contextmanager
    def _transaction_of(self, characteristics: str) -> Iterator[None]:
        if self._transaction:
            raise AssertionError("transactions do not nest")
        self.execute("BEGIN " + characteristics)
        self._transaction = True
        try:
            yield
            self._commit()
        except BaseException:
            if not self._connection.closed:
                try:
                    self.execute("ROLLBACK")
                except StatementError:
                    self._connection.close()  # the first error is the one to tell
            raise
        finally:
            self._transaction = False

    def _commit(self) -> None:
        try:
            self.execute("COMMIT")
        except StatementError as error:
            error.at_commit = True
            raise

    @contextmanager
    def silenced(self) -> Iterator[None]:
        """Keep the text of the statements within out of the server's log and statistics views; others are logged as ever.

        Raises BulwarkError where a setting that would show them may not be changed by this role.
        """
        changed = self._silence("password verifiers", True)
        yield
        for name, setting in changed.items():
            self.query("SELECT pg_catalog.set_config(%(name)s, %(value)s, true)", {"name": name, "value": setting})

    def silence(self, shown: str) -> None:
        """As silenced, for the rest of the session. shown: what the log would show, for the error."""
        self.execute("BEGIN")
        self._silence(shown, False)
        self.execute("COMMIT")

    def _silence(self, shown: str, local: bool) -> dict[str, str]:
        """What has been changed, with its value before."""
        changed: dict[str, str] = {}
        for name, setting in self.query(
            "SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE name = ANY(%(names)s) ORDER BY name",
            {"names": list(_SILENT_SETTINGS)},
        ):
            wanted = _SILENT_SETTINGS[name]
            if setting == wanted:
                continue
            if self._set_if_allowed(name, wanted, local):
                changed[name] = setting
            elif name in _TELLTALES:
                raise BulwarkError(
                    f"the server's log would show {shown} ({name} = {setting}), and this role may not turn that off; "
                    f"apply the policy as a superuser, set {name} to {wanted}, or on PostgreSQL 15 and later GRANT SET ON PARAMETER {name}"
                )
        return changed

    def _set_if_allowed(self, name: str, value: str, local: bool) -> bool:
        self.execute("SAVEPOINT silence")
        try:
            self.query("SELECT set_config(%(name)s, %(value)s, %(local)s)", {"name": name, "value": value, "local": local})
        except StatementError as error:
            if error.sqlstate != "42501":
                raise
            self.execute("ROLLBACK TO SAVEPOINT silence")
            return False
        self.execute("RELEASE SAVEPOINT silence")
        return True

    def lock_holders(self) -> str:
        """The oldest other transactions that hold locks in this database, for an error message; no statement texts."""
        rows = self.query(
            "SELECT a.pid, a.usename, a.state, extract(epoch FROM pg_catalog.now() - a.xact_start)::int"
            " FROM pg_catalog.pg_stat_activity a"
            " WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname = pg_catalog.current_database() AND EXISTS ("
            " SELECT FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.granted AND l.locktype IN ('relation', 'advisory', "
            "'tuple', 'object'))"
            " ORDER BY a.xact_start NULLS LAST LIMIT 3"
        )
        return "; ".join(f"process {pid} of {user} ({state}, {seconds} s in its transaction)" for pid, user, state, seconds in rows)


class Server:
    """Opens sessions with the databases of one server.

    parameters: as for Database. maintenance: the database to connect to for what concerns the whole server.
    """

    def __init__(self, parameters: Mapping[str, Any], maintenance: str) -> None:
        self._parameters = dict(parameters)
        self._maintenance = maintenance

    def connect(self, name: str | None = None) -> Database:
        """A new session with the database of that name, or with the maintenance database."""
        return Database(self._parameters, name or self._maintenance)


def connection_parameters(options: Mapping[str, Any]) -> dict[str, Any]:
    """libpq's parameters from the login options of a module (see the doc fragment login)."""
    pairs: Sequence[tuple[str, Any]] = (
        ("host", options.get("login_unix_socket") or options.get("login_host")),
        ("port", options.get("login_port")),
        ("user", options.get("login_user")),
        ("password", options.get("login_password")),
        ("sslmode", options.get("ssl_mode")),
        ("sslrootcert", options.get("ca_cert")),
        ("connect_timeout", options.get("connect_timeout")),
    )
    return {key: value for key, value in pairs if value not in (None, "")}
