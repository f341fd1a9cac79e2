"""Cancellation at every await: no connection is lost, no transaction stays open, no row is half stored.

Each operation is run again and again, cancelled one await later each time, in three ways: once; twice, the second time
while the first is being handled; and by an anyio scope, which cancels at each await until it is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from tests.faults.ground import Child, Ground, Parent, write
from tests.support.awaits import Attempt, cancel_at_each_await, cancel_scope_at_each_await

pytestmark = [
    pytest.mark.usefixtures("async_backend", "no_leftovers"),
    pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiosqlite", "aiomysql", "asyncmy"),
]

Operation = Callable[[], Any]
Enumerate = Callable[..., Awaitable[None]]


@pytest.fixture(params=["once", "twice", "scope"])
def at_each_await(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Enumerate:
    """Run an operation cancelled at each of its awaits, and say how many there were."""

    async def enumerate_awaits(operation: Operation, **checks: Any) -> None:
        if request.param == "scope":
            awaits = await cancel_scope_at_each_await(operation, **checks)
        else:
            awaits = await cancel_at_each_await(operation, times=2 if request.param == "twice" else 1, **checks)
        record_property("awaits", awaits)
        print(f"{request.node.name}: cancelled at each of {awaits} awaits")
        assert awaits > 0

    return enumerate_awaits


class Prepared:
    """A session that is brought to a point before each run, and the operation that is cancelled from there on."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self.db: AsyncSession

    async def clean(self) -> None:
        """A new session, and a pool with one open connection."""
        await self.ground.clear()
        await self.ground.warm()
        self.db = self.ground.database.SessionLocal()

    async def written(self) -> None:
        """A session with two rows flushed."""
        await self.clean()
        await write(self.db)

    async def close(self) -> None:
        """Close the session, as ``async with`` does."""
        await self.db.close()


@pytest.fixture
def prepared(ground: Ground) -> Prepared:
    """A session to disturb."""
    return Prepared(ground)


async def test_cold_checkout(ground: Ground, at_each_await: Enumerate) -> None:
    """Cancelling a session that opens its connection loses nothing."""

    async def read() -> None:
        async with ground.database.SessionLocal() as db:
            await db.scalar(select(Parent))

    await at_each_await(read, before_each=ground.clear, after_each=ground.after)


async def test_waiting_for_a_connection(ground: Ground, at_each_await: Enumerate) -> None:
    """Cancelling a session that waits for a connection of a full pool leaves the pool as it was."""
    holders: list[AsyncConnection] = []
    releasing: list[asyncio.Task[None]] = []

    async def fill() -> None:
        await ground.clear()
        holders[:] = [await ground.database.engine.connect() for _ in range(2)]

    async def read() -> None:
        releasing.append(asyncio.get_running_loop().create_task(holders[0].close()))
        async with ground.database.SessionLocal() as db:
            await db.scalar(select(Parent))

    async def after(attempt: Attempt) -> None:
        await releasing.pop()
        await holders[1].close()
        await ground.after(attempt)

    await at_each_await(read, before_each=fill, after_each=after)


async def test_read(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling a read loses nothing."""

    async def read() -> None:
        try:
            await prepared.db.scalar(select(Parent))
            await prepared.db.scalars(select(Child))
        finally:
            await prepared.close()

    await at_each_await(read, before_each=prepared.clean, after_each=prepared.ground.after)


async def test_flush(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling a flush, or the BEGIN in front of it, stores nothing."""

    async def flush() -> None:
        try:
            await write(prepared.db)
        finally:
            await prepared.close()

    await at_each_await(flush, before_each=prepared.clean, after_each=prepared.ground.after)


async def test_commit(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling a commit stores everything or nothing."""

    async def commit() -> None:
        try:
            await prepared.db.commit()
        finally:
            await prepared.close()

    await at_each_await(commit, before_each=prepared.written, after_each=prepared.ground.after)


async def test_rollback(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling a rollback stores nothing."""

    async def roll_back() -> None:
        try:
            await prepared.db.rollback()
        finally:
            await prepared.close()

    async def after(attempt: Attempt) -> None:
        assert (0, 0) == prepared.ground.stored
        await prepared.ground.after(attempt)

    await at_each_await(roll_back, before_each=prepared.written, after_each=after)


async def test_close(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling the close of a session with uncommitted work still rolls it back."""

    async def after(attempt: Attempt) -> None:
        assert (0, 0) == prepared.ground.stored
        await prepared.ground.after(attempt)

    await at_each_await(prepared.close, before_each=prepared.written, after_each=after)


async def test_stream(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling a stream, before, while and after it is read, ends its transaction."""

    async def stream() -> None:
        try:
            result = await prepared.db.stream(select(Parent).execution_options(yield_per=1))
            async for _ in result:
                pass
        finally:
            await prepared.close()

    async def before() -> None:
        await prepared.clean()
        prepared.ground.observer.execute("INSERT INTO parents (id, name) VALUES (9001, 'a'), (9002, 'b'), (9003, 'c')")
        prepared.ground.observer.execute(
            "INSERT INTO children (id, parent_id) VALUES (9001, 9001), (9002, 9002), (9003, 9003)"
        )

    await at_each_await(stream, before_each=before, after_each=prepared.ground.after)


async def test_savepoint(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling a savepoint undoes the transaction around it."""

    async def nest() -> None:
        try:
            async with prepared.db.begin_nested():
                await write(prepared.db)
            await prepared.db.commit()
        finally:
            await prepared.close()

    await at_each_await(nest, before_each=prepared.clean, after_each=prepared.ground.after)


async def test_connection(prepared: Prepared, at_each_await: Enumerate) -> None:
    """Cancelling ``session.connection()`` leaves no transaction open."""

    async def connect() -> None:
        try:
            await prepared.db.connection()
        finally:
            await prepared.close()

    await at_each_await(connect, before_each=prepared.clean, after_each=prepared.ground.after)


async def test_unit_of_work(ground: Ground, at_each_await: Enumerate) -> None:
    """Cancelling a whole unit of work, from its first connect to its end, stores everything or nothing."""

    async def unit() -> None:
        async with ground.database.session() as db:
            await db.scalar(select(func.count()).select_from(Parent))
            await write(db)

    async def after(attempt: Attempt) -> None:
        if attempt.step is None:
            assert (1, 1) == ground.stored
        await ground.after(attempt)

    await at_each_await(unit, before_each=ground.clear, after_each=after)


async def test_read_only_unit(ground: Ground, at_each_await: Enumerate) -> None:
    """Cancelling a read-only session in a transaction leaves its connection able to write."""

    async def before() -> None:
        await ground.clear()
        await ground.warm()

    async def read() -> None:
        async with ground.database.read() as db:
            await db.scalar(select(Parent))
            await db.connection()
            await db.scalar(select(Parent))

    await at_each_await(read, before_each=before, after_each=ground.after)


async def test_gather(ground: Ground, at_each_await: Enumerate) -> None:
    """Cancelling a gather cancels every read of it, and waits until their connections are back."""

    async def before() -> None:
        await ground.clear()
        await ground.warm()

    async def read(db: AsyncSession) -> Any:
        return (await db.scalars(select(Parent))).all()

    async def gather() -> None:
        await ground.database.gather(read, read, read, limit=2)

    await at_each_await(gather, before_each=before, after_each=ground.after)
