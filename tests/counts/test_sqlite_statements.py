"""What SQLite is asked to do: it has no wire, so its statements are counted, BEGIN and COMMIT included."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import selectinload

from sessionlocal import Database, ReadOnlySession
from tests.counts.face import Face, Work
from tests.counts.models import Item, Line, Order
from tests.support.backends import Backend

pytestmark = pytest.mark.backends("sqlite")
STATEMENTS = {
    "an unused session": [],
    "one read": ["SELECT"],
    "an order with its lines": ["SELECT", "SELECT"],
    "an insert": ["BEGIN IMMEDIATE", "INSERT", "COMMIT"],
    "an update": ["BEGIN IMMEDIATE", "UPDATE", "COMMIT"],
    "a read, then a write": ["SELECT", "BEGIN IMMEDIATE", "UPDATE", "COMMIT"],
    "a locked read, then a write": ["BEGIN IMMEDIATE", "SELECT", "UPDATE", "COMMIT"],
    "a purchase": ["BEGIN IMMEDIATE", "SELECT", "INSERT", "UPDATE", "INSERT", "COMMIT"],
    "an empty begin()": [],
    "a read inside begin()": ["BEGIN IMMEDIATE", "SELECT", "COMMIT"],
    "the end of a clean session": ["SELECT"],
    "the rollback of a write": ["BEGIN IMMEDIATE", "INSERT", "ROLLBACK"],
    "session.connection()": ["BEGIN IMMEDIATE", "COMMIT"],
    "an insert in a savepoint": ["BEGIN IMMEDIATE", "SAVEPOINT", "INSERT", "RELEASE", "COMMIT"],
    "a read-only read": ["SELECT"],
    "a refused write": [],
    "an insert that fails": ["BEGIN IMMEDIATE", "INSERT", "ROLLBACK"],
    "a thousand objects": ["BEGIN IMMEDIATE", *1000 * ["INSERT"], "COMMIT"],
}


@pytest.fixture
def heard() -> list[str]:
    """The statements that SQLite has run since the list was emptied."""
    return []


@pytest.fixture
async def face(backend: Backend, rows: None, heard: list[str]) -> AsyncIterator[Face]:
    """A Database on the file, each connection of which tells what it runs."""
    database = Database(backend.url)
    found = Face(database, backend, None)

    def listen(connection: Any, record: object) -> None:
        if backend.is_async:
            connection.run_async(lambda driver: driver.set_trace_callback(heard.append))
        else:
            connection.set_trace_callback(heard.append)

    event.listen(found.pool, "connect", listen)
    yield found
    await database.dispose()


async def statements(face: Face, heard: list[str], work: Work) -> list[str]:
    """Return the verbs of what ``work`` makes an open connection run."""
    await face.connect()
    heard.clear()
    await work()
    return [_verb(statement) for statement in heard if not statement.startswith("--")]


def _verb(statement: str) -> str:
    return statement if statement.startswith("BEGIN") else statement.split(None, 1)[0]


async def test_unused_session(face: Face, heard: list[str]) -> None:
    """A session that is never used runs nothing."""

    async def work() -> None:
        async with face.session():
            pass

    assert STATEMENTS["an unused session"] == await statements(face, heard, work)


async def test_one_read(face: Face, heard: list[str]) -> None:
    """A read is its statement, without BEGIN or ROLLBACK."""

    async def work() -> None:
        async with face.session() as db:
            await db.get(Item, 1)

    assert STATEMENTS["one read"] == await statements(face, heard, work)


async def test_collection(face: Face, heard: list[str]) -> None:
    """An object with its collection is two statements."""

    async def work() -> None:
        async with face.session() as db:
            (await db.scalars(select(Order).options(selectinload(Order.lines)))).all()

    assert STATEMENTS["an order with its lines"] == await statements(face, heard, work)


async def test_insert(face: Face, heard: list[str]) -> None:
    """An insert takes the write lock first, so that it cannot fail half way."""

    async def work() -> None:
        async with face.session() as db:
            db.add(Item(name="new"))

    assert STATEMENTS["an insert"] == await statements(face, heard, work)


async def test_update(face: Face, heard: list[str]) -> None:
    """An atomic UPDATE is one statement in a transaction."""

    async def work() -> None:
        async with face.session() as db:
            await db.execute(update(Item).where(Item.id == 1).values(stock=Item.stock - 1))

    assert STATEMENTS["an update"] == await statements(face, heard, work)


async def test_read_modify_write(face: Face, heard: list[str]) -> None:
    """A read stays outside of the transaction that stores its change."""

    async def work() -> None:
        async with face.session() as db:
            (await db.get(Item, 1)).stock -= 1

    assert STATEMENTS["a read, then a write"] == await statements(face, heard, work)


async def test_locked_read_modify_write(face: Face, heard: list[str]) -> None:
    """A locking read takes the write lock before it reads."""

    async def work() -> None:
        async with face.session() as db:
            (await db.get(Item, 1, with_for_update=True)).stock -= 1

    assert STATEMENTS["a locked read, then a write"] == await statements(face, heard, work)


async def test_purchase(face: Face, heard: list[str]) -> None:
    """A purchase is its four statements in one transaction."""

    async def work() -> None:
        async with face.session() as db:
            item = await db.get(Item, 1, with_for_update=True)
            item.stock -= 1
            order = Order(customer="Ada")
            db.add(order)
            await db.flush()
            db.add(Line(order_id=order.id, item_id=item.id, quantity=1))

    assert sorted(STATEMENTS["a purchase"]) == sorted(await statements(face, heard, work))


async def test_empty_begin(face: Face, heard: list[str]) -> None:
    """``begin()`` around nothing runs nothing."""

    async def work() -> None:
        async with face.session() as db, db.begin():
            pass

    assert STATEMENTS["an empty begin()"] == await statements(face, heard, work)


async def test_read_inside_begin(face: Face, heard: list[str]) -> None:
    """A read inside ``begin()`` holds the write lock, so that what it decides can be stored."""

    async def work() -> None:
        async with face.session() as db, db.begin():
            await db.get(Item, 1)

    assert STATEMENTS["a read inside begin()"] == await statements(face, heard, work)


@pytest.mark.parametrize("end", ["commit", "rollback"])
async def test_end_of_a_clean_session(face: Face, heard: list[str], end: str) -> None:
    """Neither the commit nor the rollback of a session that has only read runs anything."""

    async def work() -> None:
        async with face.session() as db:
            await db.get(Item, 1)
            await getattr(db, end)()

    assert STATEMENTS["the end of a clean session"] == await statements(face, heard, work)


async def test_rollback_of_a_write(face: Face, heard: list[str]) -> None:
    """A write that is taken back is rolled back once."""

    async def work() -> None:
        async with face.session() as db:
            db.add(Item(name="never stored"))
            await db.flush()
            await db.rollback()

    assert STATEMENTS["the rollback of a write"] == await statements(face, heard, work)


async def test_connection(face: Face, heard: list[str]) -> None:
    """``session.connection()`` begins once."""

    async def work() -> None:
        async with face.session() as db:
            await db.connection()
            await db.connection()

    assert STATEMENTS["session.connection()"] == await statements(face, heard, work)


async def test_savepoint(face: Face, heard: list[str]) -> None:
    """A savepoint adds its SAVEPOINT and its RELEASE."""

    async def work() -> None:
        async with face.session() as db, db.begin_nested():
            db.add(Item(name="new"))

    assert STATEMENTS["an insert in a savepoint"] == await statements(face, heard, work)


async def test_read_only_read(face: Face, heard: list[str]) -> None:
    """A read-only session runs a plain read as any other session does."""

    async def work() -> None:
        async with face.own_session(read_only=True) as db:
            await db.get(Item, 1)

    assert STATEMENTS["a read-only read"] == await statements(face, heard, work)


async def test_refused_write(face: Face, heard: list[str]) -> None:
    """A write that a read-only session refuses is never run."""

    async def work() -> None:
        async with face.own_session(read_only=True) as db:
            db.add(Item(name="never run"))
            with pytest.raises(ReadOnlySession):
                await db.flush()

    assert STATEMENTS["a refused write"] == await statements(face, heard, work)


async def test_failing_insert(face: Face, heard: list[str]) -> None:
    """An insert that violates a constraint is rolled back once."""

    async def work() -> None:
        with pytest.raises(IntegrityError):
            async with face.session() as db:
                db.add(Item(name="item 1"))

    assert STATEMENTS["an insert that fails"] == await statements(face, heard, work)


async def test_thousand_objects(face: Face, heard: list[str]) -> None:
    """A thousand new objects are stored in one transaction; SQLAlchemy inserts them one by one on SQLite."""

    async def work() -> None:
        async with face.session() as db:
            db.add_all([Item(name=f"new {number}") for number in range(1000)])

    assert STATEMENTS["a thousand objects"] == await statements(face, heard, work)
