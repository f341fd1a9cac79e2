"""When a session holds a connection, and how often it asks the pool for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import selectinload

from sessionlocal import Database
from tests.counts.face import Face
from tests.counts.models import Item, Order
from tests.support.backends import Backend

ASYNC = pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiomysql", "asyncmy", "aiosqlite")
SYNC = pytest.mark.backends("postgresql-psycopg", "pymysql", "pysqlite")


@pytest.fixture
async def face(backend: Backend, rows: None) -> AsyncIterator[Face]:
    """A Database that is reached directly, with one open connection in its pool: SQLite takes part."""
    database = Database(backend.url)
    made = Face(database, backend, None)
    await made.connect()  # the first session asks once more, to learn what the server can do
    yield made
    await database.dispose()


@contextmanager
def checkouts(face: Face) -> Iterator[list[object]]:
    """Collect the connections that the pool lends."""
    lent: list[object] = []

    def note(connection: object, record: object, proxy: object) -> None:
        lent.append(connection)

    event.listen(face.pool, "checkout", note)
    yield lent
    event.remove(face.pool, "checkout", note)


@ASYNC
async def test_nothing_is_held_during_foreign_awaits(face: Face) -> None:
    """A clean session holds no connection while its task awaits anything but the database."""
    held = []
    async with face.session() as db:
        for read in (db.get(Item, 1), db.scalars(select(Item)), db.execute(select(Item.id).limit(1))):
            await read
            await asyncio.sleep(0)
            held.append(face.in_use)
        orders = await db.scalars(select(Order).options(selectinload(Order.lines)))
        await db.refresh(orders.one())
        await asyncio.sleep(0)
        held.append(face.in_use)

    assert [0, 0, 0, 0] == held


@SYNC
async def test_sync_holds_nothing_between_statements(face: Face) -> None:
    """A clean sync session holds no connection between its statements."""
    held = []
    async with face.session() as db:
        for number in range(1, 4):
            await db.get(Item, number)
            held.append(face.in_use)

    assert [0, 0, 0] == held


async def test_pending_changes_hold_nothing(face: Face) -> None:
    """Objects that wait for a flush need no connection."""
    async with face.session() as db:
        db.add(Item(name="pending"))
        await asyncio.sleep(0)
        held = face.in_use

    assert 0 == held


async def test_a_transaction_holds_one_connection(face: Face) -> None:
    """Written work holds its one connection through foreign awaits, and gives it back at the end."""
    async with face.session() as db:
        db.add(Item(name="written"))
        await db.flush()
        await asyncio.sleep(0)
        held = face.in_use

    assert (1, 0) == (held, face.in_use)


async def test_unused_session_asks_for_no_connection(face: Face) -> None:
    """A session that is never used asks the pool for nothing, however it ends."""
    with checkouts(face) as lent:
        async with face.session() as db:
            await db.commit()
            await db.rollback()
        async with face.own_session():
            pass

    assert [] == lent


@ASYNC
async def test_consecutive_statements_keep_their_connection(face: Face) -> None:
    """Twenty reads in a row are one checkout on an async driver."""
    with checkouts(face) as lent:
        async with face.session() as db:
            for number in range(1, 21):
                await db.get(Item, number)

    assert 1 == len(lent)


@ASYNC
async def test_each_foreign_await_costs_one_checkout(face: Face) -> None:
    """After a foreign await the next read asks the pool again."""
    with checkouts(face) as lent:
        async with face.session() as db:
            for number in range(1, 4):
                await db.get(Item, number)
                await db.get(Item, number + 10)
                await asyncio.sleep(0)

    assert 3 == len(lent)


@SYNC
async def test_each_sync_read_is_one_checkout(face: Face) -> None:
    """A clean sync session asks the pool once for each read."""
    with checkouts(face) as lent:
        async with face.session() as db:
            for number in range(1, 6):
                await db.get(Item, number)

    assert 5 == len(lent)


async def test_a_unit_that_writes_is_one_checkout(face: Face) -> None:
    """From the first write to the commit there is one checkout."""
    with checkouts(face) as lent:
        async with face.session() as db:
            for number in range(3):
                db.add(Item(name=f"written {number}"))
                await db.flush()

    assert 1 == len(lent)


async def test_nothing_is_opened_twice(face: Face) -> None:
    """Units that follow each other share the one connection of the pool."""
    opened: list[object] = []
    event.listen(face.pool, "connect", lambda connection, record: opened.append(connection))
    for number in range(5):
        async with face.session() as db:
            await db.get(Item, 1)
            db.add(Item(name=f"number {number}"))

    assert [] == opened
