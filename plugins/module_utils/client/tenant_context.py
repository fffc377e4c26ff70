# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tenant of a transaction, for applications whose PostgreSQL isolates tenants by row-level security.

One file without dependencies: import it from the collection, or copy it into the application. It sets the tenant for one transaction and
never for a
session, so that a connection that goes back to a pool, or to PgBouncer in transaction mode, carries nothing to whoever gets it next.

    with tenant(connection, 42):                     psycopg 3 and psycopg2
    async with tenant_async(connection, 42):         psycopg 3, asyncio
    use_with_sessions(Session); use_with_engine(engine)      SQLAlchemy 2; then: with tenant_scope(42):
    with tenant_atomic(42):                          Django; and TenantMiddleware

Whoever forgets it sees no rows. Each function raises TypeError or ValueError for what cannot be a tenant, and TenantError.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import re
import uuid
from typing import TYPE_CHECKING, Any, Callable, Union

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SETTING = "app.current_tenant_id"

Tenant = Union[str, int, uuid.UUID]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(\.[A-Za-z_][A-Za-z0-9_$]*)+")
_IDLE, _IN_TRANSACTION = 0, 2  # libpq's PQTRANS_IDLE and PQTRANS_INTRANS

# Sets the tenant for the transaction, and gives no row where the transaction has another one already.
_SET = "SELECT pg_catalog.set_config({0}, {1}, true) WHERE COALESCE(pg_catalog.current_setting({0}, true), '') IN ('', {1})"
_POSITIONAL = _SET.format("%(name)s", "%(tenant)s")
_NAMED = _SET.format(":name", ":tenant")


class TenantError(RuntimeError):
    """The tenant cannot be set here; the text says why."""


class OutsideTransactionError(TenantError):
    """There is no transaction that the tenant could be set for."""


def tenant_text(value: Tenant) -> str:
    """The text of a tenant's key. Raises TypeError for anything but str, int and UUID, ValueError for an empty one."""
    if isinstance(value, (bool, enum.Enum)) or not isinstance(value, (str, int, uuid.UUID)):
        raise TypeError(f"a tenant is a str, an int or a UUID, not {type(value).__name__}")
    text = str(value)
    if not text.strip() or "\0" in text:
        raise ValueError("a tenant must not be empty")
    return text


def _parameters(value: Tenant, setting: str) -> dict[str, str]:
    if not _NAME.fullmatch(setting):
        raise ValueError(f"{setting!r} is no name of a setting such as {SETTING}")
    return {"name": setting, "tenant": tenant_text(value)}


def _check(row: Any) -> None:
    if row is None:
        raise TenantError("the transaction has another tenant already (or the session: somebody has set one with SET): end it first")


# psycopg 3 and psycopg2


def set_tenant(connection: Any, value: Tenant, *, setting: str = SETTING) -> None:
    """Set the tenant in the transaction of a psycopg or psycopg2 connection, which begins one if it is not in autocommit mode.

    Raises OutsideTransactionError in autocommit mode outside a transaction, TenantError where the transaction has another tenant.
    """
    parameters = _parameters(value, setting)
    if connection.autocommit and connection.info.transaction_status != _IN_TRANSACTION:
        raise OutsideTransactionError(
            "the connection is in autocommit mode and in no transaction: the tenant would be gone with the statement that sets it"
        )
    with connection.cursor() as cursor:
        cursor.execute(_POSITIONAL, parameters)
        _check(cursor.fetchone())


@contextlib.contextmanager
def tenant(connection: Any, value: Tenant, *, setting: str = SETTING) -> Iterator[Any]:
    """A transaction of a psycopg or psycopg2 connection for one tenant; it is committed at the end, or rolled back after an exception.

    Raises TenantError where a transaction is open already: use set_tenant in that one.
    """
    _parameters(value, setting)
    _check_idle(connection)
    if hasattr(connection, "transaction"):  # psycopg 3
        with connection.transaction():
            set_tenant(connection, value, setting=setting)
            yield connection
    else:
        with connection:  # psycopg2 2.9 begins a transaction in autocommit mode, too, with the first statement
            with connection.cursor() as cursor:
                cursor.execute(_POSITIONAL, _parameters(value, setting))
                _check(cursor.fetchone())
            if connection.info.transaction_status != _IN_TRANSACTION:
                raise OutsideTransactionError("the connection has not begun a transaction (psycopg2 before 2.9 in autocommit mode)")
            yield connection


@contextlib.asynccontextmanager
async def tenant_async(connection: Any, value: Tenant, *, setting: str = SETTING) -> AsyncIterator[Any]:
    """As tenant, for an AsyncConnection of psycopg 3."""
    parameters = _parameters(value, setting)
    _check_idle(connection)
    async with connection.transaction():
        cursor = await connection.execute(_POSITIONAL, parameters)
        _check(await cursor.fetchone())
        yield connection


def _check_idle(connection: Any) -> None:
    if connection.info.transaction_status != _IDLE:
        raise TenantError(
            "a transaction is open already, whose earlier statements had no tenant or another one: end it, or use set_tenant in it"
        )


# SQLAlchemy 2

_scope: contextvars.ContextVar[Tenant | None] = contextvars.ContextVar("bulwark_tenant", default=None)


@contextlib.contextmanager
def tenant_scope(value: Tenant) -> Iterator[None]:
    """The tenant of every transaction that SQLAlchemy begins within, in this thread or asyncio task."""
    tenant_text(value)
    if _scope.get() not in (None, value):
        raise TenantError("scopes of two tenants do not nest")
    token = _scope.set(value)
    try:
        yield
    finally:
        _scope.reset(token)


def _set_by_sqlalchemy(connection: Any, value: Tenant | None, setting: str, *, nested: bool = False) -> None:
    if value is None:
        return  # and the database shows no rows
    import sqlalchemy

    parameters = _parameters(value, setting)
    if not nested:
        _check(connection.execute(sqlalchemy.text(_NAMED), parameters).first())
    kept = connection.execute(sqlalchemy.text("SELECT pg_catalog.current_setting(:name, true)"), {"name": setting}).scalar()
    if kept == parameters["tenant"]:
        return
    if nested:  # the tenant would stay when the savepoint is released
        raise TenantError("the transaction around this savepoint has begun without this tenant: name it before the transaction begins")
    raise OutsideTransactionError("the connection is in autocommit mode: the tenant is gone already")


def use_with_sessions(target: Any, *, setting: str = SETTING) -> None:
    """Set the tenant in each transaction of SQLAlchemy sessions: session.info["tenant"], or that of tenant_scope when it begins.

    target: a sessionmaker, a Session class, or one session; of an AsyncSession, its sync_session or sync_session_class.
    """
    import sqlalchemy

    def after_begin(session: Any, transaction: Any, connection: Any) -> None:
        said, scope = session.info.get("tenant"), _scope.get()
        if said is not None and scope is not None and tenant_text(said) != tenant_text(scope):
            raise TenantError("the session has a tenant of its own (info), and the scope has another")
        _set_by_sqlalchemy(connection, scope if said is None else said, setting, nested=transaction.nested)

    sqlalchemy.event.listen(target, "after_begin", after_begin)


def use_with_engine(engine: Any, *, setting: str = SETTING) -> None:
    """Set the tenant of tenant_scope in each transaction of a SQLAlchemy engine; of an AsyncEngine, pass its sync_engine."""
    import sqlalchemy

    def begin(connection: Any) -> None:
        _set_by_sqlalchemy(connection, _scope.get(), setting)

    sqlalchemy.event.listen(engine, "begin", begin)


# Django


@contextlib.contextmanager
def tenant_atomic(value: Tenant, *, using: str | None = None, setting: str = SETTING) -> Iterator[None]:
    """django.db.transaction.atomic for one tenant. using: the alias of the database."""
    from django.db import connections, transaction

    parameters = _parameters(value, setting)
    connection = connections[using or "default"]
    inner = connection.in_atomic_block
    with transaction.atomic(using=using):
        with connection.cursor() as cursor:
            cursor.execute("SELECT COALESCE(pg_catalog.current_setting(%(name)s, true), '')", parameters)
            (before,) = cursor.fetchone()
            cursor.execute(_POSITIONAL, parameters)
            _check(cursor.fetchone())
        yield
        if inner and not before and not connection.needs_rollback:  # the transaction goes on without the tenant
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_catalog.set_config(%(name)s, '', true)", parameters)


class TenantMiddleware:
    """Runs each request of Django in a transaction for its tenant.

    settings.TENANT_OF_REQUEST: a function, or its dotted path, that gives the tenant of a request; None for one without, which then sees
    no rows.
    settings.TENANT_SETTING: the name of the setting, if it is not the usual one. What is streamed after the view has returned is outside
    the transaction.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        from django.conf import settings
        from django.utils.module_loading import import_string

        self._get_response = get_response
        of_request = settings.TENANT_OF_REQUEST
        self._tenant_of: Callable[[Any], Tenant | None] = import_string(of_request) if isinstance(of_request, str) else of_request
        self._setting = getattr(settings, "TENANT_SETTING", SETTING)

    def process_exception(self, _request: Any, _exception: Exception) -> None:
        """Undo what a view has written that ends with an exception, of which Django makes a response before it comes to us."""
        from django.db import transaction

        if transaction.get_connection().in_atomic_block:
            transaction.set_rollback(True)

    def __call__(self, request: Any) -> Any:
        """The response to a request."""
        value = self._tenant_of(request)
        if value is None:
            return self._get_response(request)
        with tenant_atomic(value, setting=self._setting):
            return self._get_response(request)
