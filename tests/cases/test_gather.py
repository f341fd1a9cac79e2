"""``database.gather()`` runs reads on sibling sessions, so many at a time, and ends together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import Database, ReadOnlySession
from tests.support.observer import Observer

from .ground import MEETING_TIMEOUT
from .models import Account

pytestmark = pytest.mark.usefixtures("no_leftovers")


def held_until(meeting: asyncio.Barrier) -> Callable[[AsyncSession], Any]:
    """A read that holds its connection until as many others as the meeting has parties hold theirs."""

    async def read(db: AsyncSession) -> int:
        await db.connection()
        await asyncio.wait_for(meeting.wait(), MEETING_TIMEOUT)
        return int(await db.scalar(text("SELECT 1")) or 0)

    return read


async def test_results_keep_their_order(database: Database) -> None:
    """The results come in the order of the reads, whichever ended first."""
    found = await database.gather(*(lambda db, n=n: db.scalar(text(f"SELECT {n}")) for n in range(7)))

    assert [0, 1, 2, 3, 4, 5, 6] == found


async def test_nothing_to_gather(database: Database) -> None:
    """No reads give no results."""
    assert [] == await database.gather()


async def test_reads_run_at_the_same_time(database: Database) -> None:
    """As many reads as the limit allows hold a connection at once."""
    meeting = asyncio.Barrier(3)

    assert [1, 1, 1] == await database.gather(*[held_until(meeting)] * 3, limit=3)


async def test_the_limit_is_kept(database: Database) -> None:
    """No more connections are lent than the limit says."""
    lent: list[int] = []
    event.listen(database.engine.sync_engine, "checkout", lambda *_: lent.append(database.stats().async_pool.in_use))  # type: ignore[union-attr]

    async def read(db: AsyncSession) -> None:
        await db.connection()
        await asyncio.sleep(0)

    await database.gather(*[read] * 10, limit=2)
    assert 2 == max(lent)


async def test_the_first_failure_cancels_the_others(database: Database, observer: Observer) -> None:
    """A read that fails ends the others in the middle of their work, and its error is raised."""
    meeting = asyncio.Barrier(2)
    ends: list[str] = []

    async def endless(db: AsyncSession) -> None:
        try:
            await db.connection()
            await meeting.wait()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    async def failing(db: AsyncSession) -> None:
        await meeting.wait()
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, ExceptionGroup)) as raised:
        await database.gather(endless, failing, limit=2)

    assert isinstance(raised.value, ZeroDivisionError), "one failure is raised as itself"
    assert ["cancelled"] == ends
    await observer.settled()
    assert 0 == database.stats().async_pool.in_use  # type: ignore[union-attr]


async def test_gathered_reads_may_not_write(database: Database) -> None:
    """Each read has a read-only session."""

    async def write(db: AsyncSession) -> None:
        db.add(Account(id=1))
        await db.flush()

    with pytest.raises((ReadOnlySession, ExceptionGroup)) as raised:
        await database.gather(write)
    assert isinstance(raised.value, ReadOnlySession)


async def test_gather_beside_an_open_session(database: Database) -> None:
    """A session of the caller is left alone."""
    async with database.SessionLocal() as db:
        db.add(Account(id=1))
        await db.flush()
        found = await database.gather(lambda other: other.scalar(select(Account.id)))
        assert [None] == found
        await db.rollback()
