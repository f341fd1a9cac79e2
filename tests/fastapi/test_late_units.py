"""What is written after the response has started may stay open for a limited time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from sessionlocal import Database, SessionDep, SyncSessionDep, UnitExpired
from sessionlocal.events import RolledBack
from tests.fastapi.models import Item
from tests.support.asgi import Asgi
from tests.support.observer import Observer

LIMIT = 0.02  # seconds; what is waited for is the roll-back itself

pytestmark = [
    pytest.mark.backends("postgresql-asyncpg", "postgresql-psycopg-async", "mariadb-aiomysql", "aiosqlite"),
    pytest.mark.options(late_unit_timeout=LIMIT),
]


def rolled_back(database: Database) -> asyncio.Event:
    """Return an event that is set when the library has rolled work back."""
    happened, loop = asyncio.Event(), asyncio.get_running_loop()

    def hear(fact: object) -> None:
        if isinstance(fact, RolledBack):
            loop.call_soon_threadsafe(happened.set)

    database.facts.subscribe(hear)
    return happened


def innermost(error: BaseException | None) -> BaseException | None:
    """Return the error itself: old versions of Starlette wrap what a body raises into a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def test_a_unit_of_a_stream_expires(
    database: Database, asgi: type[Asgi], observer: Observer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is rolled back and reported, its locks are gone while the stream still runs, and to go on is an error."""
    app, seen = FastAPI(), []
    database.install(app)

    @app.get("/")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            expired = rolled_back(database)
            yield "start"
            db.add(Item(name="late"))
            await db.flush()
            await expired.wait()
            seen.append(observer.open_transactions())
            yield str(await db.scalar(select(func.count()).select_from(Item)))

        return StreamingResponse(body())

    async with asgi(app) as client:
        answer = await client.get("/")

    assert UnitExpired is type(innermost(answer.error))
    assert [0] == seen
    assert 0 == observer.scalar("select count(*) from item")
    assert "was open for 0.02 s and was rolled back" in caplog.text


async def test_a_rollback_lets_an_expired_session_go_on(
    database: Database, asgi: type[Asgi], observer: Observer
) -> None:
    """After rollback() the session works again, and what it writes then is committed at the end."""
    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            expired = rolled_back(database)
            yield "start"
            db.add(Item(name="lost"))
            await db.flush()
            await expired.wait()
            await db.rollback()
            db.add(Item(name="kept"))
            yield "end"

        return StreamingResponse(body())

    async with asgi(app) as client:
        answer = await client.get("/")

    assert b"startend" == answer.body
    assert [("kept",)] == observer.all("select name from item")


async def test_a_unit_of_a_sync_body_expires(database: Database, asgi: type[Asgi], observer: Observer) -> None:
    """The same holds for a sync session in a body that runs in a thread."""
    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def stream(db: SyncSessionDep) -> StreamingResponse:
        expired, loop = rolled_back(database), asyncio.get_running_loop()

        def body() -> Iterator[str]:
            yield "start"
            db.add(Item(name="late"))
            db.flush()
            asyncio.run_coroutine_threadsafe(expired.wait(), loop).result()
            yield str(db.scalar(select(func.count()).select_from(Item)))

        return StreamingResponse(body())

    async with asgi(app) as client:
        answer = await client.get("/")

    assert UnitExpired is type(innermost(answer.error))
    assert 0 == observer.scalar("select count(*) from item")


async def test_a_unit_that_ends_in_time_is_left_alone(database: Database, asgi: type[Asgi], observer: Observer) -> None:
    """What commits within its limit is stored, and the timer of one unit never ends another."""
    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for number in range(3):
                yield str(number)
                db.add(Item(name=f"step {number}"))
                await db.commit()

        return StreamingResponse(body())

    async with asgi(app) as client:
        answer = await client.get("/")

    assert b"012" == answer.body
    assert 3 == observer.scalar("select count(*) from item")
