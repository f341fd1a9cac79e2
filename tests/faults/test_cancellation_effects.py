"""What a cancellation leaves to the session and to the caller, beyond not losing anything."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.elements import TextClause

from tests.faults.ground import Ground, Parent, write

pytestmark = [
    pytest.mark.usefixtures("async_backend", "no_leftovers"),
    pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiosqlite", "aiomysql", "asyncmy"),
]

A_MOMENT = 0.05  # seconds, much shorter than the slow read
SLOW_READ = {
    "postgresql": text("SELECT pg_sleep(0.5)"),
    "mariadb": text("SELECT sleep(0.5)"),
    "sqlite": text(
        "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 2000000) "
        "SELECT count(*) FROM numbers"
    ),
}


@pytest.fixture
def slow_read(ground: Ground) -> TextClause:
    """A read that takes the database half a second."""
    return SLOW_READ[ground.observer.backend.dialect]


async def test_a_session_survives_a_read_that_timed_out(ground: Ground, slow_read: TextClause) -> None:
    """After ``asyncio.timeout`` around one read, a clean session reads, writes and commits as before."""
    async with ground.database.SessionLocal() as db:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_MOMENT):
                await db.execute(slow_read)
        assert [] == (await db.scalars(select(Parent))).all()
        await write(db)
        await db.commit()

    assert (1, 1) == ground.stored
    await ground.at_rest()


async def test_a_timed_out_read_loses_what_was_written_before(ground: Ground, slow_read: TextClause) -> None:
    """A read that is cancelled inside a transaction takes it along; after a rollback the session works."""
    async with ground.database.SessionLocal() as db:
        await write(db)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(A_MOMENT):
                await db.execute(slow_read)
        await db.rollback()
        assert [] == (await db.scalars(select(Parent))).all()
        await db.commit()

    assert (0, 0) == ground.stored
    await ground.at_rest()


async def test_a_cancellation_keeps_its_message(ground: Ground, slow_read: TextClause) -> None:
    """The CancelledError that leaves a unit of work is the one that was thrown in."""
    started = asyncio.Event()

    async def unit() -> None:
        async with ground.database.session() as db:
            await write(db)
            started.set()
            await db.execute(slow_read)

    task = asyncio.create_task(unit())
    await started.wait()
    task.cancel("the client left")
    with pytest.raises(asyncio.CancelledError, match="the client left"):
        await task

    assert (0, 0) == ground.stored
    await ground.at_rest()


async def test_a_cancelled_commit_keeps_its_connection(ground: Ground) -> None:
    """A commit that is cancelled in flight is finished, and its connection serves the next session."""
    await ground.warm()
    opened: list[object] = []
    event.listen(ground.database.engine.sync_engine.pool, "connect", lambda *connection: opened.append(connection))

    async def unit(db: AsyncSession) -> None:
        await write(db)
        asyncio.get_running_loop().call_soon(task_of["unit"].cancel)
        await db.commit()

    task_of: dict[str, asyncio.Task[None]] = {}
    async with ground.database.SessionLocal() as db:
        task_of["unit"] = asyncio.create_task(unit(db))
        with pytest.raises(asyncio.CancelledError):
            await task_of["unit"]
    stored = ground.stored
    await ground.at_rest()

    assert (1, 1) == stored
    assert [] == opened


@pytest.mark.parametrize("cancel_first", [True, False], ids=["cancelled, then granted", "granted, then cancelled"])
async def test_a_grant_and_a_cancellation_in_the_same_tick(ground: Ground, cancel_first: bool) -> None:
    """A connection that is granted in the very moment in which its waiter is cancelled is not lost."""
    holders = [await ground.database.engine.connect() for _ in range(2)]

    async def read() -> None:
        async with ground.database.SessionLocal() as db:
            await db.scalars(select(Parent))

    waiter = asyncio.create_task(read())
    await asyncio.sleep(0)
    if cancel_first:
        waiter.cancel()
        await holders[0].close()
    else:
        await holders[0].close()
        waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await holders[1].close()

    await ground.at_rest()
