"""A server that never answers the end of a transaction: clean-up is bounded, and its connection is not used again."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession

from tests.faults.ground import Base, Ground, write
from tests.support.backends import Backend
from tests.support.observer import Observer
from tests.support.proxy import Proxy

pytestmark = [
    pytest.mark.usefixtures("async_backend", "no_leftovers"),
    pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiomysql", "asyncmy"),
]
CLEANUP_TIMEOUT = 0.2  # seconds
LOGGER = "sessionlocal.connection"


@pytest.fixture
async def ground(
    backend: Backend, proxy: Proxy, observer: Observer, tables: Callable[[MetaData], None]
) -> AsyncIterator[Ground]:
    """A Database behind the proxy, which gives an end of a transaction little time."""
    tables(Base.metadata)
    made = Ground(proxy.url, observer, is_async=backend.is_async, cleanup_timeout=CLEANUP_TIMEOUT)
    await made.warm()  # connecting sends a ROLLBACK of its own
    yield made
    proxy.resume()
    await made.database.dispose()


async def roll_back(db: AsyncSession) -> None:
    """End by hand."""
    await db.rollback()


async def close(db: AsyncSession) -> None:
    """End by closing."""
    await db.close()


def said(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what the library logged at a level."""
    return [record.getMessage() for record in caplog.records if (record.name, record.levelno) == (LOGGER, level)]


@pytest.mark.parametrize("end", [roll_back, close])
async def test_rollback_without_an_answer(
    ground: Ground, proxy: Proxy, caplog: pytest.LogCaptureFixture, end: Callable[[AsyncSession], Awaitable[None]]
) -> None:
    """A rollback that the server never answers ends all the same, with a warning, and its connection is discarded."""
    db = ground.database.SessionLocal()
    await write(db)
    proxy.when("^ROLLBACK", proxy.stall)
    await end(db)
    warned = said(caplog, logging.WARNING)
    await ground.nothing_lent()
    opened = proxy.opened
    proxy.resume()
    await db.close()

    assert ["a rollback was not answered; its connection is discarded, which undoes the work"] == warned
    await ground.at_rest()
    assert opened < proxy.opened


async def test_exception_while_the_server_is_silent(ground: Ground, proxy: Proxy) -> None:
    """The exception that ended a unit is raised even where its rollback is never answered."""
    proxy.when("^ROLLBACK", proxy.stall)

    async def unit() -> None:
        async with ground.database.session() as db:
            await write(db)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await unit()
    await ground.nothing_lent()
    proxy.resume()

    await ground.at_rest()


async def cancelled_when(proxy: Proxy, pattern: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Run ``work`` until a statement is sent, which makes the server silent; then cancel it, and wait for its end."""
    sent = threading.Event()

    def silence() -> None:
        proxy.stall()
        sent.set()

    proxy.when(pattern, silence)

    async def run() -> None:
        await work()

    task = asyncio.create_task(run())
    assert await asyncio.to_thread(sent.wait, 5)
    task.cancel()
    await asyncio.wait({task})
    return task


async def test_cancelled_commit_without_an_answer(
    ground: Ground, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A cancelled commit that has no answer in time is an ERROR in the log; the cancellation is raised."""

    async def unit() -> None:
        async with ground.database.session() as db:
            await write(db)

    task = await cancelled_when(proxy, "^COMMIT", unit)
    errors = said(caplog, logging.ERROR)
    await ground.nothing_lent()
    proxy.resume()

    assert task.cancelled()
    assert ["COMMIT or ROLLBACK had no answer 0.2 s after a cancellation; its outcome is unknown"] == errors
    await ground.observer.settled()
    parents, children = ground.stored
    assert parents == children
    await ground.at_rest()


async def test_cancelled_rollback_without_an_answer(ground: Ground, proxy: Proxy) -> None:
    """A cancelled rollback that has no answer in time ends, stores nothing, and raises the cancellation."""

    async def unit() -> None:
        async with ground.database.SessionLocal() as db:
            await write(db)
            await db.rollback()

    task = await cancelled_when(proxy, "^ROLLBACK", unit)
    await ground.nothing_lent()
    proxy.resume()

    assert task.cancelled()
    await ground.observer.settled()
    assert (0, 0) == ground.stored
    await ground.at_rest()


async def test_cancelled_statement_without_an_answer(ground: Ground, proxy: Proxy) -> None:
    """A unit that is cancelled while its INSERT has no answer ends, stores nothing, and raises the cancellation."""

    async def unit() -> None:
        async with ground.database.session() as db:
            await write(db)

    task = await cancelled_when(proxy, "^INSERT INTO children", unit)
    proxy.resume()

    assert task.cancelled()
    await ground.nothing_lent()
    await ground.observer.settled()
    assert (0, 0) == ground.stored
    await ground.at_rest()
