"""Several databases side by side, several event loops and threads on one, every kind of pool, and a forked child."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import NullPool, StaticPool, func, insert, select, text
from sqlalchemy.util import await_only

from sessionlocal import Database, UsedAfterFork
from tests.support.backends import Backend
from tests.support.observer import Observer

from .ground import Ground, only, sync_session
from .models import Account, Base

LOOPS = 3


@pytest.mark.backends("postgresql", "mariadb")  # two writers of one SQLite file would wait for each other
def test_two_databases_side_by_side(ground: Ground) -> None:
    """Sessions of two Databases in one task have transactions of their own."""
    other = ground.another()
    with ground.session() as first, ground.session(other) as second:
        first.add(Account(id=1))
        first.flush()
        second.add(Account(id=2))
        second.flush()
        first.rollback()
        second.commit()

    assert [(2,)] == ground.observer.all("SELECT id FROM account")


@pytest.mark.usefixtures("schema")
def test_event_loops_in_sequence(async_backend: Backend, observer: Observer) -> None:
    """One Database serves event loop after event loop; each has connections of its own and leaves none."""
    database = Database(async_backend.url)

    async def work(id: int) -> None:
        async with database.session() as db:
            assert id - 1 == await db.scalar(select(func.count()).select_from(Account))
            db.add(Account(id=id))
        await database.dispose()

    for id in range(1, LOOPS + 1):
        asyncio.run(work(id))

    assert LOOPS == observer.scalar("SELECT count(*) FROM account")
    assert 0 == database.stats().async_pool.in_use  # type: ignore[union-attr]


@pytest.mark.usefixtures("schema")
def test_an_event_loop_that_was_not_disposed_of(async_backend: Backend) -> None:
    """A loop that ended with idle connections does not disturb the next one."""
    database = Database(async_backend.url)

    async def work() -> int | None:
        async with database.SessionLocal() as db:
            return await db.scalar(text("SELECT 1"))

    async def work_and_close() -> int | None:
        found = await work()
        await database.dispose()
        return found

    first = asyncio.new_event_loop()
    assert 1 == first.run_until_complete(work())
    assert 1 == asyncio.run(work_and_close())
    first.run_until_complete(database.dispose())
    first.close()


@pytest.mark.usefixtures("schema")
def test_event_loops_in_threads(async_backend: Backend, observer: Observer) -> None:
    """Loops that run at the same time in threads of their own share a Database and no connection."""
    database = Database(async_backend.url)
    together = threading.Barrier(LOOPS, timeout=20)
    errors: list[BaseException] = []

    async def work(id: int) -> None:
        async with database.SessionLocal() as db:
            assert 1 == await db.scalar(text("SELECT 1"))
            together.wait()
            for n in range(5):
                db.add(Account(id=id * 100 + n))
                await db.commit()
        await database.dispose()

    def run(id: int) -> None:
        try:
            asyncio.run(work(id))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(id,)) for id in range(1, LOOPS + 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [] == errors
    assert LOOPS * 5 == observer.scalar("SELECT count(*) FROM account")


def unit_and_reads(ground: Ground, database: Database) -> None:
    """Write a row, see it, discard another one."""
    with ground.session(database) as db:
        assert 0 == db.scalar(select(func.count()).select_from(Account))
        db.add(Account(id=1))
        db.commit()
        db.add(Account(id=2))
        db.flush()
        ground.elsewhere()
        db.rollback()
        assert [1] == list(db.scalars(select(Account.id)))
        ground.elsewhere()


def test_a_pool_that_keeps_nothing(ground: Ground) -> None:
    """With NullPool each checkout is a connection of its own, and none stays."""
    database = ground.another(poolclass=NullPool)
    unit_and_reads(ground, database)

    assert [(1,)] == ground.observer.all("SELECT id FROM account")


def test_a_pool_that_overflows(ground: Ground) -> None:
    """``max_overflow`` connections are opened when needed and closed afterwards."""
    database = ground.another(pool_size=1, max_overflow=2)
    meeting = ground.meeting(3)

    def hold() -> int:
        with ground.session(database) as db:
            db.connection() if ground.dialect != "sqlite" else db.scalar(select(func.count()).select_from(Account))
            meeting()
            return db.scalar(text("SELECT 1")) or 0

    assert [1, 1, 1] == only(ground.together(hold, hold, hold))
    ground.elsewhere()
    stats = database.stats()
    pool = stats.async_pool if ground.is_async else stats.sync_pool
    assert pool is not None
    assert 0 == pool.in_use
    assert 1 >= pool.idle


@pytest.mark.backends("sqlite")
def test_a_database_in_memory(ground: Ground) -> None:
    """In-memory SQLite keeps its tables between sessions, and a clean session does not lose them."""
    database = Database("sqlite://" if not ground.is_async else "sqlite+aiosqlite://")
    ground.adopt(database)
    if ground.is_async:
        await_only(database.create_all(Base))
    else:
        database.create_all_sync(Base)
    unit_and_reads(ground, database)
    with ground.session(database) as db:
        assert [1] == list(db.scalars(select(Account.id)))


@pytest.mark.backends("sqlite")
def test_one_connection_for_everybody(ground: Ground) -> None:
    """With StaticPool every session uses the same connection, one after the other."""
    database = ground.another(poolclass=StaticPool)
    unit_and_reads(ground, database)

    assert [(1,)] == ground.observer.all("SELECT id FROM account")


def in_child(work: Callable[[], Any]) -> Any:
    """Run a function in a forked child and return what it returned, through a pipe."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = {"result": work()}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = json.loads(pipe.read() or '{"error": "the child died"}')
    os.waitpid(child, 0)
    assert "error" not in answer, answer
    return answer["result"]


@pytest.mark.usefixtures("sync_backend")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(ground: Ground) -> None:
    """A child uses the Database that it inherited on new connections; its parent's go on working."""

    def child() -> list[int]:
        with ground.database.sync_session() as db:
            db.add(Account(id=2))
        with ground.database.sync_session() as db:
            return list(db.scalars(select(Account.id).order_by(Account.id)))

    with ground.session() as db:
        db.add(Account(id=1))
        db.commit()
        db.execute(select(Account))
        assert [1, 2] == in_child(child)
        assert [1, 2] == list(db.scalars(select(Account.id).order_by(Account.id)))
        db.execute(insert(Account).values(id=3, balance=0))
        db.commit()

    assert 3 == ground.observer.scalar("SELECT count(*) FROM account")


@pytest.mark.usefixtures("sync_backend")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_session_from_before_the_fork(ground: Ground) -> None:
    """A session that was opened before the fork refuses to work in the child, with an error that says so."""
    with ground.session() as db:
        db.execute(select(Account))

        def child() -> str:
            try:
                db.execute(select(Account))
            except UsedAfterFork as error:
                return str(error)
            return "it worked"

        assert "before the process forked" in in_child(child)
        assert [] == db.scalars(select(Account)).all()


@pytest.mark.usefixtures("sync_backend")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_open_transaction_from_before_the_fork(ground: Ground) -> None:
    """A transaction that is open at the fork stays the parent's: the child can neither use nor end it."""
    with ground.session() as db:
        db.add(Account(id=1))
        db.flush()

        def child() -> str:
            try:
                db.execute(select(Account))
            except UsedAfterFork:
                db.close()
                return "refused"
            return "it worked"

        assert "refused" == in_child(child)
        assert "OPEN" == sync_session(db).state
        db.commit()

    assert 1 == ground.observer.scalar("SELECT count(*) FROM account")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("schema")
@pytest.mark.backends("postgresql", "mariadb")
def test_a_forked_child_on_the_async_engine(async_backend: Backend, observer: Observer) -> None:
    """The same for the async engine: the child runs a loop of its own on connections of its own."""
    database = Database(async_backend.url)

    async def count() -> int | None:
        async with database.SessionLocal() as db:
            return await db.scalar(select(func.count()).select_from(Account))

    loop = asyncio.new_event_loop()
    assert 0 == loop.run_until_complete(count())
    assert 0 == in_child(lambda: asyncio.run(count()))
    assert 0 == loop.run_until_complete(count())
    loop.run_until_complete(database.dispose())
    loop.close()
