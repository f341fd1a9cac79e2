"""One session serves one statement at a time: a second use is refused before anything is sent."""

# ruff: noqa: PT012 - the blocks under test are those that an exception leaves

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import ConcurrentUse, Database
from tests.support.observer import Observer

from .ground import MEETING_TIMEOUT, Ground
from .models import Account

pytestmark = pytest.mark.usefixtures("no_leftovers")

PENDING: dict[str, Callable[[AsyncSession], Awaitable[Any]]] = {
    "execute": lambda db: db.execute(select(Account)),
    "commit": lambda db: db.commit(),
    "rollback": lambda db: db.rollback(),
    "flush": lambda db: db.flush(),
    "get": lambda db: db.get(Account, 7),
    "connection": lambda db: db.connection(),
    "stream": lambda db: db.stream(select(Account)),
    "run_sync": lambda db: db.run_sync(lambda session: session.scalars(select(Account)).all()),
}
SLOW = {"postgresql": "SELECT 42, pg_sleep(0.2)", "mariadb": "SELECT 42, sleep(0.2)"}
SLOW["sqlite"] = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT 42, max(i) FROM n"
)


def slow(database: Database) -> str:
    """Return a plain read that lasts long enough for another statement to come in between."""
    return SLOW[database.engine.dialect.name.replace("mysql", "mariadb")]


async def warm(db: AsyncSession) -> None:
    """Let a session have used its database before."""
    await db.execute(text("SELECT 1"))
    await asyncio.sleep(0)


async def first_reads(db: AsyncSession, database: Database) -> Any:
    """The statement that was there first."""
    return await db.scalar(text(slow(database)))


async def second_uses(db: AsyncSession, use: Callable[[AsyncSession], Awaitable[Any]]) -> Any:
    """The use that comes in between."""
    return await use(db)


@pytest.mark.parametrize("is_warm", [False, True], ids=["fresh", "warm"])
@pytest.mark.parametrize("name", PENDING)
async def test_a_second_use_is_refused(name: str, is_warm: bool, database: Database, observer: Observer) -> None:
    """Whatever a second task does with a session in use is refused, names both places, and leaves the first alone."""
    sent: list[str] = []
    async with database.SessionLocal() as db:
        if is_warm:
            await warm(db)
        db.add(Account(id=1)) if name == "flush" else None
        event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
        with db.no_autoflush:
            first, second = await asyncio.gather(
                first_reads(db, database), second_uses(db, PENDING[name]), return_exceptions=True
            )

        assert 42 == first
        assert isinstance(second, ConcurrentUse), second
        assert "first_reads()" in second.first
        assert "second_uses()" in second.second or "<lambda>" in second.second
        assert [slow(database)] == sent
        db.expunge_all()
        assert [] == (await db.scalars(select(Account))).all()
        await db.rollback()
    assert 0 == await healthy(database)


async def test_closing_a_session_in_use_lets_its_statement_end(database: Database) -> None:
    """``close()`` by another task leaves the running statement to its end, and the connection goes back."""
    db = database.SessionLocal()
    await warm(db)
    first, second = await asyncio.gather(first_reads(db, database), db.close(), return_exceptions=True)

    assert 42 == first or isinstance(first, Exception)
    assert second is None or isinstance(second, ConcurrentUse)
    await db.close()
    assert 0 == await healthy(database)


async def healthy(database: Database) -> int:
    """Prove that the next session works, and return how many connections are lent after it."""
    async with database.SessionLocal() as db:
        assert 1 == await db.scalar(text("SELECT 1"))
    await asyncio.sleep(0)
    return database.stats().async_pool.in_use  # type: ignore[union-attr]


async def test_a_second_use_inside_a_block(database: Database, observer: Observer) -> None:
    """A block that ends because of a refused second use rolls back everything, also while the first statement runs."""
    db = database.SessionLocal()
    with pytest.raises(ConcurrentUse):
        async with db, db.begin():
            db.add(Account(id=1))
            await db.flush()
            await asyncio.gather(first_reads(db, database), second_uses(db, PENDING["execute"]))

    await observer.settled()
    assert 0 == observer.scalar("SELECT count(*) FROM account")
    assert 0 == await healthy(database)


async def test_one_task_after_the_other_is_fine(database: Database) -> None:
    """Tasks that take turns share a session without complaint."""
    async with database.SessionLocal() as db:
        turn = asyncio.Lock()

        async def read() -> int | None:
            async with turn:
                return await db.scalar(text("SELECT 1"))

        assert [1] * 5 == await asyncio.gather(*(read() for _ in range(5)))


@pytest.mark.usefixtures("sync_backend")
def test_two_threads_on_one_session(ground: Ground) -> None:
    """A second thread is refused while the first one's statement runs, and the first one's result is right."""
    inside, refused = threading.Event(), threading.Event()

    @event.listens_for(ground.engine, "before_cursor_execute")
    def wait_inside(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        inside.set()
        assert refused.wait(MEETING_TIMEOUT)

    with ground.session() as db:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(db.scalar(text("SELECT 42"))))
        thread.start()
        assert inside.wait(MEETING_TIMEOUT)
        with pytest.raises(Exception) as raised:
            db.scalar(text("SELECT 43"))
        refused.set()
        thread.join()

        assert isinstance(raised.value, ConcurrentUse), raised.value
        assert "test_two_threads_on_one_session" in raised.value.second
        assert [42] == found
        assert 44 == db.scalar(text("SELECT 44"))
    assert 0 == ground.in_use


def test_fifty_threads_or_five_hundred_tasks_get_distinct_sessions(ground: Ground) -> None:
    """``SessionLocal()`` called by many at once gives each a session of its own."""
    many = 500 if ground.is_async else 50
    opened = ground.together(*[ground.session] * many)

    assert many == len({id(getattr(db, "target", db)) for db in opened})
    for db in opened:
        assert not isinstance(db, BaseException)
        db.close()
