"""A connection that is lost around COMMIT: whoever committed learns that, and never hears of a false success."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import MetaData, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import CommitUnknown
from tests.faults.ground import Base, Child, Ground, Parent, write
from tests.support.asgi import Asgi
from tests.support.backends import Backend
from tests.support.observer import Observer
from tests.support.proxy import Proxy

pytestmark = pytest.mark.usefixtures("wire_backend", "no_leftovers")
ASYNC = pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiomysql", "asyncmy")
ANSWER_TIMEOUT = 5.0  # seconds


@pytest.fixture
async def ground(
    backend: Backend, proxy: Proxy, observer: Observer, tables: Callable[[MetaData], None]
) -> AsyncIterator[Ground]:
    """A Database behind the proxy."""
    tables(Base.metadata)
    made = Ground(proxy.url, observer, is_async=backend.is_async)
    await count(made)  # connecting may send a COMMIT of its own
    yield made
    await made.database.dispose()


async def store(ground: Ground, before_commit: Callable[[], None] = lambda: None) -> None:
    """Store a parent with its child in one unit, through the driver of the test."""
    if not ground.is_async:
        await asyncio.to_thread(store_in_thread, ground, before_commit)
        return
    async with ground.database.session() as db:
        await write(db)
        before_commit()


def store_in_thread(ground: Ground, before_commit: Callable[[], None]) -> None:
    """Do the same with a sync session."""
    with ground.database.sync_session() as db:
        parent = Parent(name="Ada")
        db.add(parent)
        db.flush()
        db.add(Child(parent_id=parent.id))
        db.flush()
        before_commit()


async def count(ground: Ground) -> int:
    """Read through the library."""
    if not ground.is_async:
        return await asyncio.to_thread(count_in_thread, ground)
    async with ground.database.session() as db:
        return len((await db.scalars(select(Parent))).all())


def count_in_thread(ground: Ground) -> int:
    """Do the same with a sync session."""
    with ground.database.sync_session() as db:
        return len(db.scalars(select(Parent)).all())


def lose_the_answer(proxy: Proxy) -> Callable[[], Awaitable[None]]:
    """Drop the answer to the next COMMIT; return what waits until the server has it, and cuts the connection then."""
    sent = threading.Event()

    def drop() -> None:
        proxy.drop_replies()
        sent.set()

    proxy.when("^COMMIT", drop)

    async def cut() -> None:
        assert await asyncio.to_thread(sent.wait, ANSWER_TIMEOUT)
        while not proxy.flights[-1].answered:  # noqa: ASYNC110 - the proxy runs on another thread
            await asyncio.sleep(0.001)
        proxy.cut()
        proxy.keep_replies()

    return cut


async def test_a_lost_answer(ground: Ground, proxy: Proxy) -> None:
    """A commit whose answer is lost raises ``CommitUnknown`` though its work is stored."""
    cut = lose_the_answer(proxy)
    storing = asyncio.create_task(store(ground))
    await cut()
    with pytest.raises(CommitUnknown, match="may or may not be stored") as raised:
        await storing

    assert isinstance(raised.value, SQLAlchemyError)
    assert isinstance(raised.value.__cause__, Exception)
    assert (1, 1) == ground.stored
    await ground.nothing_lent()
    assert 1 == await count(ground)


async def test_a_lost_commit(ground: Ground, proxy: Proxy) -> None:
    """A commit that never reaches the server raises ``CommitUnknown`` as well: the client cannot tell."""
    proxy.when("^COMMIT", proxy.cut)
    with pytest.raises(CommitUnknown):
        await store(ground)

    await ground.observer.settled()
    assert (0, 0) == ground.stored
    await ground.nothing_lent()
    assert 0 == await count(ground)


async def test_a_session_that_the_server_ended_before(ground: Ground) -> None:
    """A commit on a connection that the server has closed meanwhile is an error, and nothing is stored."""
    with pytest.raises(SQLAlchemyError):
        await store(ground, before_commit=ground.observer.end_sessions)

    await ground.observer.settled()
    assert (0, 0) == ground.stored
    await ground.nothing_lent()
    assert 0 == await count(ground)


@ASYNC
async def test_a_session_that_the_server_ended_and_the_client_noticed(ground: Ground) -> None:
    """A commit on a connection that the driver knows to be closed is an error, never a silent success."""
    noticed = asyncio.Event()

    async def unit() -> None:
        async with ground.database.session() as db:
            await write(db)
            ground.observer.end_sessions()
            await ground.observer.settled(backends=0)
            noticed.set()

    with pytest.raises(SQLAlchemyError):
        await unit()
    assert noticed.is_set()
    assert (0, 0) == ground.stored
    await ground.nothing_lent()


@ASYNC
async def test_the_session_of_a_lost_commit(ground: Ground, proxy: Proxy) -> None:
    """After ``CommitUnknown`` and a rollback the same session goes on with another connection."""
    async with ground.database.SessionLocal() as db:
        await write(db)
        proxy.when("^COMMIT", proxy.cut)
        with pytest.raises(CommitUnknown):
            await db.commit()
        await db.rollback()
        await write(db)
        await db.commit()

    assert (1, 1) == ground.stored


@ASYNC
async def test_a_request_learns_of_it(ground: Ground, proxy: Proxy) -> None:
    """A request whose commit has no answer is told 503 and that the outcome is unknown, in place of its 201."""
    app = FastAPI()
    ground.database.install(app)

    @app.post("/", status_code=201)
    async def create(db: AsyncSession = Depends(ground.database.get_db)) -> dict[str, str]:
        await write(db)
        return {}

    async with Asgi(app) as client:
        proxy.when("^COMMIT", proxy.cut)
        answer = await client.post("/")

    assert 503 == answer.status
    assert "urn:sessionlocal:commit-unknown" == answer.json()["type"]
