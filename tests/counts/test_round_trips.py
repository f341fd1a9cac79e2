"""What each way of using a session costs on the wire: exact round trips on every driver with a server.

The tables are the promise; a change may lower a number, never raise it. ``warm`` is any later run; ``cold`` the first
one on an open connection, where asyncpg prepares each new statement (one round trip) and psycopg does not yet. Nothing
else is ever sent: no ping or reset around a checkout, no time limit per request.
"""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from sessionlocal import ReadOnlySession
from tests.counts.face import Cost, Face
from tests.counts.models import Item, Line, Order

ASYNCPG = {
    "an unused session": Cost(warm=0, cold=0),
    "one read": Cost(warm=1, cold=2),
    "twenty reads": Cost(warm=20, cold=21),
    "a list of fifty": Cost(warm=1, cold=2),
    "an order with its lines": Cost(warm=2, cold=4),
    "an insert": Cost(warm=3, cold=4),
    "an update": Cost(warm=3, cold=4),
    "a read, then a write": Cost(warm=4, cold=6),
    "a locked read, then a write": Cost(warm=4, cold=6),
    "a purchase": Cost(warm=6, cold=10),
    "an empty begin()": Cost(warm=0, cold=0),
    "a read inside begin()": Cost(warm=3, cold=4),
    "the rollback of a clean session": Cost(warm=0, cold=0),
    "the commit of a clean session": Cost(warm=0, cold=0),
    "the rollback of a write": Cost(warm=3, cold=4),
    "session.connection()": Cost(warm=2, cold=2),
    "an insert in a savepoint": Cost(warm=5, cold=8),
    "a streamed list of fifty": Cost(warm=5, cold=6),
    "a read-only read": Cost(warm=1, cold=2),
    "a refused write": Cost(warm=0, cold=0),
    "an insert that fails": Cost(warm=3, cold=4),
    "a thousand objects": Cost(warm=3, cold=4),
    "a thousand rows": Cost(warm=3, cold=4),
    "a gather of three": Cost(warm=3, cold=4),
    "a ping": Cost(warm=1, cold=1),
}
PSYCOPG = {
    "an unused session": Cost(warm=0, cold=0),
    "one read": Cost(warm=1, cold=1),
    "twenty reads": Cost(warm=20, cold=21),
    "a list of fifty": Cost(warm=1, cold=1),
    "an order with its lines": Cost(warm=2, cold=2),
    "an insert": Cost(warm=3, cold=3),
    "an update": Cost(warm=3, cold=3),
    "a read, then a write": Cost(warm=4, cold=4),
    "a locked read, then a write": Cost(warm=4, cold=4),
    "a purchase": Cost(warm=6, cold=6),
    "an empty begin()": Cost(warm=0, cold=0),
    "a read inside begin()": Cost(warm=3, cold=3),
    "the rollback of a clean session": Cost(warm=0, cold=0),
    "the commit of a clean session": Cost(warm=0, cold=0),
    "the rollback of a write": Cost(warm=3, cold=3),
    "session.connection()": Cost(warm=2, cold=2),
    "an insert in a savepoint": Cost(warm=5, cold=5),
    "a streamed list of fifty": Cost(warm=7, cold=7),
    "a read-only read": Cost(warm=1, cold=1),
    "a refused write": Cost(warm=0, cold=0),
    "an insert that fails": Cost(warm=3, cold=3),
    "a thousand objects": Cost(warm=3, cold=3),
    "a thousand rows": Cost(warm=3, cold=3),
    "a gather of three": Cost(warm=3, cold=3),
    "a ping": Cost(warm=1, cold=1),
}
MYSQL = {
    "an unused session": Cost(warm=0, cold=0),
    "one read": Cost(warm=1, cold=1),
    "twenty reads": Cost(warm=20, cold=20),
    "a list of fifty": Cost(warm=1, cold=1),
    "an order with its lines": Cost(warm=2, cold=2),
    "an insert": Cost(warm=3, cold=3),
    "an update": Cost(warm=3, cold=3),
    "a read, then a write": Cost(warm=4, cold=4),
    "a locked read, then a write": Cost(warm=4, cold=4),
    "a purchase": Cost(warm=6, cold=6),
    "an empty begin()": Cost(warm=0, cold=0),
    "a read inside begin()": Cost(warm=3, cold=3),
    "the rollback of a clean session": Cost(warm=0, cold=0),
    "the commit of a clean session": Cost(warm=0, cold=0),
    "the rollback of a write": Cost(warm=3, cold=3),
    "session.connection()": Cost(warm=2, cold=2),
    "an insert in a savepoint": Cost(warm=5, cold=5),
    "a streamed list of fifty": Cost(warm=3, cold=3),
    "a read-only read": Cost(warm=1, cold=1),
    "a refused write": Cost(warm=0, cold=0),
    "an insert that fails": Cost(warm=3, cold=3),
    "a thousand objects": Cost(warm=3, cold=3),
    "a thousand rows": Cost(warm=3, cold=3),
    "a gather of three": Cost(warm=3, cold=3),
    "a ping": Cost(warm=1, cold=1),
}
COSTS = {"asyncpg": ASYNCPG, "psycopg": PSYCOPG, "aiomysql": MYSQL, "asyncmy": MYSQL, "pymysql": MYSQL}
FIFTY = select(Item).order_by(Item.id).limit(50)
ANSWER_DELAY = 0.2  # seconds, longer than it takes to send a thousand rows


async def assert_costs(face: Face, work: str, run: object) -> None:
    """Compare what ``run`` costs with the table."""
    measured = await face.measure(run)  # type: ignore[arg-type]

    assert COSTS[face.backend.driver][work] == measured, face.trips


async def test_unused_session(face: Face) -> None:
    """A session that is never used sends nothing."""

    async def work() -> None:
        async with face.session():
            pass

    await assert_costs(face, "an unused session", work)
    assert 0 == face.in_use


async def test_one_read(face: Face) -> None:
    """A read by primary key is its statement and nothing else."""

    async def work() -> None:
        async with face.session() as db:
            assert "item 1" == (await db.get(Item, 1)).name

    await assert_costs(face, "one read", work)
    assert face.trips is not None
    assert 1 == len(face.trips.statements)
    assert face.trips.statements[0].startswith("SELECT items.id")


async def test_twenty_reads(face: Face) -> None:
    """Twenty reads in one session are twenty round trips."""

    async def work() -> None:
        async with face.session() as db:
            for number in range(1, 21):
                await db.get(Item, number)

    await assert_costs(face, "twenty reads", work)


async def test_list(face: Face) -> None:
    """A list of fifty rows is one round trip."""

    async def work() -> None:
        async with face.session() as db:
            assert 50 == len((await db.scalars(FIFTY)).all())

    await assert_costs(face, "a list of fifty", work)


async def test_collection(face: Face) -> None:
    """An object with a collection loaded by ``selectinload`` is two round trips."""

    async def work() -> None:
        async with face.session() as db:
            orders = await db.scalars(select(Order).where(Order.id == 1).options(selectinload(Order.lines)))
            assert 3 == len(orders.one().lines)

    await assert_costs(face, "an order with its lines", work)


async def test_insert(face: Face) -> None:
    """An insert whose id is read back is BEGIN, INSERT and COMMIT."""

    async def work() -> None:
        async with face.session() as db:
            item = Item(name=face.new_name())
            db.add(item)
            await db.flush()
            assert item.id > 50

    await assert_costs(face, "an insert", work)


async def test_update(face: Face) -> None:
    """An atomic UPDATE is BEGIN, UPDATE and COMMIT."""

    async def work() -> None:
        async with face.session() as db:
            await db.execute(update(Item).where(Item.id == 1).values(stock=Item.stock - 1))

    await assert_costs(face, "an update", work)


async def test_read_modify_write(face: Face) -> None:
    """An object that is read, changed and stored costs the read, BEGIN, UPDATE and COMMIT."""

    async def work() -> None:
        async with face.session() as db:
            (await db.get(Item, 1)).stock -= 1

    await assert_costs(face, "a read, then a write", work)


async def test_locked_read_modify_write(face: Face) -> None:
    """Locking the object first costs no more: BEGIN moves in front of the read."""

    async def work() -> None:
        async with face.session() as db:
            (await db.get(Item, 1, with_for_update=True)).stock -= 1

    await assert_costs(face, "a locked read, then a write", work)


async def test_purchase(face: Face) -> None:
    """A purchase of four statements is four round trips, BEGIN and COMMIT."""

    async def work() -> None:
        async with face.session() as db:
            item = await db.get(Item, 1, with_for_update=True)
            item.stock -= 1
            order = Order(customer="Ada")
            db.add(order)
            await db.flush()
            db.add(Line(order_id=order.id, item_id=item.id, quantity=1))

    await assert_costs(face, "a purchase", work)


async def test_empty_begin(face: Face) -> None:
    """``begin()`` around nothing sends nothing."""

    async def work() -> None:
        async with face.session() as db, db.begin():
            pass

    await assert_costs(face, "an empty begin()", work)


async def test_read_inside_begin(face: Face) -> None:
    """A read inside ``begin()`` is BEGIN, the read and COMMIT."""

    async def work() -> None:
        async with face.session() as db, db.begin():
            await db.get(Item, 1)

    await assert_costs(face, "a read inside begin()", work)


async def test_rollback_of_a_clean_session(face: Face) -> None:
    """Rolling back a session that has only read sends nothing."""
    await face.connect()
    async with face.session() as db:
        await db.get(Item, 1)
        cost = await face.count(db.rollback)

    assert COSTS[face.backend.driver]["the rollback of a clean session"].warm == cost.total, cost


async def test_commit_of_a_clean_session(face: Face) -> None:
    """Committing a session that has only read sends nothing."""
    await face.connect()
    async with face.session() as db:
        await db.get(Item, 1)
        cost = await face.count(db.commit)

    assert COSTS[face.backend.driver]["the commit of a clean session"].warm == cost.total, cost


async def test_rollback_of_a_write(face: Face) -> None:
    """An insert that is rolled back is BEGIN, INSERT and ROLLBACK."""

    async def work() -> None:
        async with face.session() as db:
            db.add(Item(name="never stored"))
            await db.flush()
            await db.rollback()

    await assert_costs(face, "the rollback of a write", work)


async def test_connection(face: Face) -> None:
    """``session.connection()`` sends one BEGIN, which a COMMIT ends."""

    async def work() -> None:
        async with face.session() as db:
            await db.connection()
            await db.connection()

    await assert_costs(face, "session.connection()", work)


async def test_savepoint(face: Face) -> None:
    """A savepoint adds its SAVEPOINT and its RELEASE to the transaction around it."""

    async def work() -> None:
        async with face.session() as db, db.begin_nested():
            db.add(Item(name=face.new_name()))

    await assert_costs(face, "an insert in a savepoint", work)


@pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiomysql", "asyncmy")
async def test_stream(face: Face) -> None:
    """A stream holds a transaction while it is read: BEGIN, what the driver needs for a cursor, and COMMIT."""

    async def work() -> None:
        async with face.session() as db:
            result = await db.stream(FIFTY)
            assert 50 == len([item async for item in result.scalars()])

    await assert_costs(face, "a streamed list of fifty", work)


async def test_read_only_read(face: Face) -> None:
    """A read in a read-only session is one round trip as well."""

    async def work() -> None:
        async with face.own_session(read_only=True) as db:
            await db.get(Item, 1)

    await assert_costs(face, "a read-only read", work)


async def test_refused_write(face: Face) -> None:
    """A write that a read-only session refuses is never sent."""

    async def work() -> None:
        async with face.own_session(read_only=True) as db:
            db.add(Item(name="never sent"))
            with pytest.raises(ReadOnlySession):
                await db.flush()

    await assert_costs(face, "a refused write", work)


async def test_failing_insert(face: Face) -> None:
    """An insert that violates a constraint is BEGIN, INSERT and ROLLBACK."""

    async def work() -> None:
        with pytest.raises(IntegrityError):
            async with face.session() as db:
                db.add(Item(name="item 1"))

    await assert_costs(face, "an insert that fails", work)


async def test_thousand_objects(face: Face) -> None:
    """A thousand new objects are stored, and their ids known, after BEGIN, one INSERT and COMMIT."""

    async def work() -> None:
        async with face.session() as db:
            db.add_all([Item(name=face.new_name()) for _ in range(1000)])

    await assert_costs(face, "a thousand objects", work)


async def test_thousand_rows(face: Face) -> None:
    """A thousand rows given to one ``insert()`` travel without waiting for each other's answers."""
    assert face.proxy is not None
    face.proxy.delay(to_client=ANSWER_DELAY)

    async def work() -> None:
        async with face.session() as db:
            await db.execute(insert(Item), [{"name": face.new_name(), "stock": 1} for _ in range(1000)])

    await assert_costs(face, "a thousand rows", work)


async def read_one(db: AsyncSession) -> Item | None:
    """Read an item."""
    return await db.get(Item, 1)


@pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiomysql", "asyncmy")
async def test_gather(face: Face) -> None:
    """Three reads at once are three round trips; on one connection, when the limit says so."""

    async def work() -> None:
        assert 3 == len(await face.database.gather(read_one, read_one, read_one, limit=1))

    await assert_costs(face, "a gather of three", work)


@pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiomysql", "asyncmy")
async def test_ping(face: Face) -> None:
    """A ping is one round trip."""
    await assert_costs(face, "a ping", face.database.ping)
