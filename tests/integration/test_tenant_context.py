# SPDX-FileCopyrightText: The bulwark.postgresql authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The file that applications import sets the tenant for one transaction, with every library, and behind the real PgBouncer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg2
import pytest
import sqlalchemy
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from ansible_collections.bulwark.postgresql.plugins.module_utils.client import tenant_context
from ansible_collections.bulwark.postgresql.plugins.module_utils.client.tenant_context import (
    OutsideTransactionError,
    TenantError,
    set_tenant,
    tenant,
    tenant_async,
    tenant_scope,
    use_with_engine,
    use_with_sessions,
)
from tests.integration import module
from tests.integration.sql import execute
from tests.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.servers import Server

pytestmark = pytest.mark.oldest_and_newest

COUNT = "SELECT count(*), count(DISTINCT tenant_id), min(tenant_id) FROM app.orders"
LEFT = "SELECT coalesce(current_setting('app.current_tenant_id', true), '')"


@pytest.fixture
def shop(cluster: Server) -> Server:
    """Orders of three tenants: tenant n has n of them."""
    execute(cluster, "CREATE DATABASE shop", "CREATE ROLE app LOGIN")
    execute(
        cluster,
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO app; CREATE TABLE app.orders (id serial, tenant_id int NOT NULL)",
        "INSERT INTO app.orders (tenant_id) SELECT t FROM generate_series(1, 3) t, generate_series(1, t)",
        "GRANT SELECT, INSERT, DELETE ON app.orders TO app; GRANT USAGE ON SEQUENCE app.orders_id_seq TO app",
        db="shop",
    )
    tenancy = {"setting": tenant_context.SETTING, "column": "tenant_id", "schemas": ["app"], "roles": ["app"]}
    result = module.run(cluster, "pg_row_security", databases={"shop": {"tenancy": tenancy}})
    assert not result.get("failed"), result["msg"]
    return cluster


def url(server: Server, driver: str) -> str:
    return f"postgresql+{driver}://app@/shop?host={server.host}&port={server.port}"


@pytest.fixture(params=["psycopg", "psycopg2", "psycopg autocommit", "psycopg2 autocommit"])
def connection(shop: Server, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A connection of either library, in either mode."""
    library = psycopg if request.param.startswith("psycopg ") or request.param == "psycopg" else psycopg2
    made: Any = library.connect(host=shop.host, port=shop.port, user="app", dbname="shop")
    made.autocommit = request.param.endswith("autocommit")
    yield made
    made.close()


def answer(connection: Any, statement: str = COUNT) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        return cursor.fetchone()


def total(server: Server) -> str:
    return server.psql("SELECT count(*) FROM app.orders", db="shop")


def test_a_block_is_a_transaction_of_one_tenant(shop: Server, connection: Any) -> None:
    for number in (2, "3", 2):
        with tenant(connection, number):
            assert answer(connection) == (int(number), 1, int(number))
        assert answer(connection, LEFT) == ("",)
        assert answer(connection) == (0, 0, None)
        connection.rollback()
    with tenant(connection, 1), connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.orders (tenant_id) VALUES (1)")
    assert total(shop) == "7"


def test_an_exception_rolls_back_and_leaves_nothing(shop: Server, connection: Any) -> None:
    def fail() -> None:
        with tenant(connection, 1), connection.cursor() as cursor:
            cursor.execute("INSERT INTO app.orders (tenant_id) VALUES (1)")
            raise KeyError("ours")

    with pytest.raises(KeyError):
        fail()
    with pytest.raises((psycopg.Error, psycopg2.Error)), tenant(connection, 1), connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.orders (tenant_id) VALUES (2)")
    assert total(shop) == "6"
    assert answer(connection) == (0, 0, None)
    connection.rollback()
    with tenant(connection, 3):
        assert answer(connection) == (3, 1, 3)


def test_outside_of_a_transaction_and_within_another_it_refuses(connection: Any) -> None:
    if connection.autocommit:
        with pytest.raises(OutsideTransactionError):
            set_tenant(connection, 1)
        return
    assert answer(connection) == (0, 0, None)  # has begun a transaction
    with pytest.raises(TenantError, match="open already"), tenant(connection, 1):
        pass
    set_tenant(connection, 1)
    set_tenant(connection, 1)
    with pytest.raises(TenantError, match="another tenant"):
        set_tenant(connection, 2)
    assert answer(connection) == (1, 1, 1)
    connection.rollback()
    set_tenant(connection, 2)
    assert answer(connection) == (2, 1, 2)
    connection.commit()
    with tenant(connection, 1), pytest.raises(TenantError), tenant(connection, 2):
        pass


def test_a_savepoint_keeps_the_tenant(connection: Any) -> None:
    with tenant(connection, 2):
        answer(connection, "SELECT 1")
        with connection.cursor() as cursor:
            cursor.execute("SAVEPOINT one")
            with pytest.raises((psycopg.Error, psycopg2.Error)):
                cursor.execute("SELECT 1 / 0")
            cursor.execute("ROLLBACK TO SAVEPOINT one")
        assert answer(connection) == (2, 1, 2)


def test_asyncio(shop: Server) -> None:
    async def one(number: int) -> None:
        async with await psycopg.AsyncConnection.connect(host=shop.host, port=shop.port, user="app", dbname="shop") as connection:
            for _round in range(5):
                async with tenant_async(connection, number):
                    cursor = await connection.execute(COUNT)
                    await asyncio.sleep(0.001)
                    assert await cursor.fetchone() == (number, 1, number)
            assert await (await connection.execute(COUNT)).fetchone() == (0, 0, None)
            with pytest.raises(TenantError, match="open already"):
                async with tenant_async(connection, number):
                    pass

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in (1, 2, 3)))

    asyncio.run(all_of_them())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_sqlalchemy_sessions_and_engines(shop: Server, driver: str) -> None:
    """One connection in the pool, so that whatever is left behind is found by the next."""
    engine = sqlalchemy.create_engine(url(shop, driver), pool_size=1, max_overflow=0)
    made = orm.sessionmaker(engine)
    use_with_sessions(made)
    count = sqlalchemy.text(COUNT)
    for number in (1, 2, 3):
        with made(info={"tenant": number}) as session:
            assert tuple(session.execute(count).one()) == (number, 1, number)
            with session.begin_nested():
                assert session.execute(count).one()[0] == number
            session.commit()
            assert session.execute(count).one()[0] == number  # the next transaction of the session
        with tenant_scope(number), made() as session:
            assert session.execute(count).one()[0] == number
        with made() as session:
            assert session.execute(count).one()[0] == 0
    with engine.connect() as connection:
        assert connection.execute(count).one()[0] == 0
    with made() as session:
        assert session.execute(count).one()[0] == 0
        with tenant_scope(2):
            session.begin_nested()
            with pytest.raises(TenantError, match="has begun without this tenant"):
                session.execute(count)
    with tenant_scope(2), made(info={"tenant": 1}) as session, pytest.raises(TenantError, match="the scope has another"):
        session.execute(count)
    use_with_engine(engine)
    with tenant_scope(2), engine.begin() as connection:
        assert tuple(connection.execute(count).one()) == (2, 1, 2)
    with engine.begin() as connection:
        assert connection.execute(count).one()[0] == 0
    automatic = engine.execution_options(isolation_level="AUTOCOMMIT")
    with tenant_scope(2), pytest.raises(OutsideTransactionError), automatic.connect() as connection:
        connection.execute(count)
    engine.dispose()


def test_sqlalchemy_in_threads_and_tasks(shop: Server) -> None:
    engine = sqlalchemy.create_engine(url(shop, "psycopg"), pool_size=2, max_overflow=0)
    use_with_engine(engine)
    wrong: list[object] = []

    def work(number: int) -> None:
        for _round in range(20):
            with tenant_scope(number), engine.begin() as connection:
                found = tuple(connection.execute(sqlalchemy.text(COUNT)).one())
            if found != (number, 1, number):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    assert wrong == []

    async def tasks() -> None:
        asynchronous = create_async_engine(url(shop, "psycopg"), pool_size=2, max_overflow=0)
        made = async_sessionmaker(asynchronous, sync_session_class=type("Sessions", (orm.Session,), {}))
        use_with_sessions(made.kw["sync_session_class"])

        async def one(number: int) -> None:
            with tenant_scope(number):
                for _round in range(5):
                    session: AsyncSession
                    async with made() as session:
                        found = (await session.execute(sqlalchemy.text(COUNT))).one()
                        await asyncio.sleep(0.001)
                        assert tuple(found) == (number, 1, number)

        await asyncio.gather(*(one(number) for number in (1, 2, 3)))
        await asynchronous.dispose()

    asyncio.run(tasks())


DJANGO = """
import sys
from django.conf import settings
from django.http import HttpResponse, Http404
from django.test import RequestFactory
from django.urls import path

def count():
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*), count(DISTINCT tenant_id), min(tenant_id) FROM app.orders")
        return cursor.fetchone()

def show(request):
    return HttpResponse(repr(count()))

def fail(request):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO app.orders (tenant_id) VALUES (2)")
    raise Http404("nothing")

urlpatterns = [path("show", show), path("fail", fail)]
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "HOST": sys.argv[1], "PORT": sys.argv[2], "USER": "app", "NAME": "shop",
                           "ATOMIC_REQUESTS": sys.argv[3] == "atomic", "CONN_MAX_AGE": None}},
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", TENANT_OF_REQUEST=lambda request: request.headers.get("X-Tenant"),
    MIDDLEWARE=["ansible_collections.bulwark.postgresql.plugins.module_utils.client.tenant_context.TenantMiddleware"],
)
import django
django.setup()
from django.db import connection, transaction
from django.test import Client
from ansible_collections.bulwark.postgresql.plugins.module_utils.client.tenant_context import TenantError, tenant_atomic

client = Client(raise_request_exception=False)
for number in ("1", "2", "3", "1"):
    assert client.get("/show", headers={"X-Tenant": number}).content.decode() == f"({number}, 1, {number})"
    assert client.get("/show").content == b"(0, 0, None)"
assert client.get("/fail", headers={"X-Tenant": "2"}).status_code == 404
assert client.get("/show", headers={"X-Tenant": "2"}).content == b"(2, 1, 2)", "a view that failed has written"
with tenant_atomic(3):
    assert count()[0] == 3
    with transaction.atomic():
        assert count()[0] == 3
    try:
        with tenant_atomic(1):
            raise AssertionError("two tenants in one transaction")
    except TenantError:
        pass
assert count()[0] == 0
with transaction.atomic():
    for number in (1, 2):
        with tenant_atomic(number):
            assert count()[0] == number
        assert count()[0] == 0, "the tenant has outlived its block"
    try:
        with tenant_atomic(3):
            raise KeyError
    except KeyError:
        pass
    assert count()[0] == 0
print("fine")
"""


@pytest.mark.parametrize("mode", ["atomic", "plain"])
def test_django(shop: Server, tmp_path: Path, mode: str) -> None:
    (tmp_path / "site_.py").write_text(DJANGO, encoding="utf-8")
    command = [sys.executable, "site_.py", str(shop.host), str(shop.port), mode]
    done = subprocess.run(command, cwd=tmp_path, env=module.environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "fine\n", done.stderr


@contextlib.contextmanager
def pgbouncer(server: Server, directory: Path) -> Iterator[int]:
    """PgBouncer in transaction mode with one connection to the server; its port."""
    port = free_port()
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    (directory / "users.txt").write_text('"app" ""\n', encoding="utf-8")
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\nshop = host={server.host} port={server.port} user=app\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = trust\nauth_file = {directory}/users.txt\npool_mode = transaction\ndefault_pool_size = 1\n",
        encoding="utf-8",
    )
    account: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        for path in (directory, *directory.iterdir()):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
    process = subprocess.Popen([program, str(directory / "pgbouncer.ini")], stderr=subprocess.PIPE, text=True, cwd="/", **account)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg2.connect(host="127.0.0.1", port=port, user="app", dbname="shop").close()
                break
            except psycopg2.OperationalError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    process.kill()
                    raise AssertionError(f"{error}\n{process.stderr.read() if process.stderr else ''}") from None
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(not (shutil.which("pgbouncer") or Path("/usr/sbin/pgbouncer").exists()), reason="pgbouncer is not installed")
def test_behind_pgbouncer_in_transaction_mode(shop: Server, public_path: Path) -> None:
    """Two applications share one connection of the server, turn by turn; what either leaves behind the other would find."""
    with pgbouncer(shop, public_path) as port:
        one, two = (psycopg.connect(host="127.0.0.1", port=port, user="app", dbname="shop", prepare_threshold=None, autocommit=True) for _number in range(2))
        with one, two:
            backends = set()
            for number in (1, 2, 3, 1):
                for connection, of in ((one, number), (two, number % 3 + 1)):
                    with tenant(connection, of):
                        assert answer(connection) == (of, 1, of)
                        backends.add(answer(connection, "SELECT pg_backend_pid()"))
                    assert answer(connection) == (0, 0, None)
                with pytest.raises(OutsideTransactionError):
                    set_tenant(one, 1)
                assert answer(two) == (0, 0, None)
            assert len(backends) == 1


def test_the_role_installs_the_file(tmp_path: Path) -> None:
    """On a host of an application, where it stands alone."""
    target = tmp_path / "tenant_context.py"
    task = {"ansible.builtin.import_role": {"name": "bulwark.postgresql.pg_row_security", "tasks_from": "client"}, "name": "Install"}
    started = module.Playbook(tmp_path, [task], {"pg_row_security_client": str(target)}).start()
    output, _nothing = started.communicate(timeout=60)
    assert started.returncode == 0, output
    assert target.read_bytes() == Path(tenant_context.__file__).read_bytes()
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tenant_context; tenant_context.tenant_text(1)"]
    assert subprocess.run(command, check=False, cwd="/").returncode == 0
