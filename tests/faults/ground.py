"""What a disturbed Database must look like afterwards: nothing lent, nothing open, nothing half stored."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

from sqlalchemy import ForeignKey, String, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sessionlocal import Database
from tests.support.awaits import Attempt
from tests.support.observer import Observer

CLEANUP_TIMEOUT = 5.0  # seconds, the default: what is answered is never given up
STUCK_GOODBYE = "AsyncAdapt_aiosqlite_connection._terminate_graceful_close"
REST_TIMEOUT = 5.0  # seconds until connections that are being closed have left the pool


class Base(DeclarativeBase):
    """The tables of these tests."""


class Parent(Base):
    """Half of what a unit stores."""

    __tablename__ = "parents"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Child(Base):
    """The other half."""

    __tablename__ = "children"

    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(ForeignKey("parents.id"))


class Ground:
    """A Database with a small pool, and a look at its server from outside."""

    def __init__(self, url: str, observer: Observer, *, is_async: bool = True, **options: Any) -> None:
        self.observer = observer
        self.is_async = is_async
        self.database = Database(url, **{"pool_size": 2, "cleanup_timeout": CLEANUP_TIMEOUT, **options})

    @property
    def in_use(self) -> int:
        """How many connections the pool has lent."""
        stats = self.database.stats()
        pool = stats.async_pool if self.is_async else stats.sync_pool
        return 0 if pool is None else pool.in_use

    @property
    def stored(self) -> tuple[int, int]:
        """How many parents and children are committed."""
        parents = self.observer.scalar("SELECT count(*) FROM parents")
        return parents, self.observer.scalar("SELECT count(*) FROM children")

    async def warm(self) -> None:
        """Leave one open connection in the pool, which has run every statement of these tests, and no row."""
        async with self.database.session() as db:
            parent = await write(db)
            await db.scalars(select(Parent))
            await db.flush()
            await db.execute(text("DELETE FROM children"))
            await db.delete(parent)

    async def clear(self) -> None:
        """Remove every row and close every connection."""
        await self.database.dispose()
        self.observer.execute("DELETE FROM children")
        self.observer.execute("DELETE FROM parents")

    async def nothing_lent(self) -> None:
        """Wait until every connection is back in the pool, or closed."""
        deadline = time.monotonic() + REST_TIMEOUT
        while self.in_use and time.monotonic() < deadline:  # noqa: ASYNC110 - a pool sets no event
            await asyncio.sleep(0.001)
        assert 0 == self.in_use

    async def at_rest(self) -> None:
        """Assert that nothing is lent or open, that a new session works, and that the pool has every connection."""
        await end_stuck_goodbyes()
        await self.nothing_lent()
        await self.observer.settled(open_transactions=0)
        parents, children = self.stored
        assert parents == children
        async with self.database.session() as db:
            assert parents == len((await db.scalars(select(Parent))).all())
            await write(db)
        assert (parents + 1, children + 1) == self.stored
        assert 0 == self.in_use
        await self.database.dispose()
        self.observer.close()  # SQLite closes its files late while another connection of the process is open
        gc.collect()  # aiosqlite leaves a connection whose opening was cancelled to the garbage collector
        await self.observer.settled(open_transactions=0, backends=0)

    async def after(self, attempt: Attempt) -> None:
        """Assert that a run which was cancelled says so, and that it left nothing behind."""
        if attempt.step is not None:
            assert "cancelled" == attempt.outcome, attempt.error
        await self.at_rest()


async def end_stuck_goodbyes() -> None:
    """Cancel what SQLAlchemy forgets when opening an aiosqlite connection is cancelled twice: the connection is closed,
    but a task of the adapter waits for the driver's thread, which has ended."""
    while stuck := [task for task in asyncio.all_tasks() if _coroutine(task) == STUCK_GOODBYE]:
        for task in stuck:
            task.cancel()
        await asyncio.sleep(0)


def _coroutine(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")


async def write(db: AsyncSession) -> Parent:
    """Store a parent with its child, in two statements."""
    parent = Parent(name="Ada")
    db.add(parent)
    await db.flush()
    db.add(Child(parent_id=parent.id))
    await db.flush()
    return parent
