"""The promises of a request, once on every driver that a request can use."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from sessionlocal import Database, MixedSessions, SessionClosed, SessionDep, SyncSessionDep
from tests.support.asgi import Asgi
from tests.support.observer import Observer

from .app import make_app
from .clients import Connect
from .conftest import in_use
from .models import Item
from .test_rollback import FAILURES

# Not the main driver, on which every other module runs.
pytestmark = pytest.mark.backends("sqlite-aiosqlite", "postgresql-psycopg-async", "mariadb-aiomysql", "mariadb-asyncmy")

Names = Callable[[], list[str]]
COUNT = select(func.count()).select_from(Item)


@pytest.mark.parametrize("way", ["", "/unflushed", "/sync", "/stream"])
async def test_the_row_is_visible_when_the_response_starts(app: FastAPI, names: Names, way: str) -> None:
    """At the moment the response starts an outside observer sees the row."""
    seen: list[list[str]] = []
    async with Asgi(app) as client:
        exchange = await client.post(
            f"/items{way}?name=early", hooks={"http.response.start": lambda message: seen.append(names())}
        )

    assert 201 == exchange.status
    assert [["early"]] == seen


@pytest.mark.parametrize("way", ["", "/sync", "/stream"])
async def test_a_duplicate_found_at_commit_is_a_409(
    database: Database, observer: Observer, connect: Connect, way: str
) -> None:
    """A duplicate that is found when the request commits is a 409 on a connection that goes on; the dropped response
    leaves no trace."""
    app = make_app(database)
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        failed = await client.post(f"/seats{way}?code=taken")
        stored = await client.post("/seats?code=free")

    assert [409, 201] == [failed.status, stored.status]
    assert "urn:sessionlocal:unique-violation" == failed.json()["type"]
    assert ["background"] == app.state.ran
    assert 2 == observer.scalar("SELECT count(*) FROM seat")


async def test_nothing_is_stored_by_requests_that_failed(app: FastAPI, connect: Connect, names: Names) -> None:
    """Each way in which a request can fail stores nothing, and the next request is served."""
    async with connect(app) as client:
        statuses = [(await client.post(path)).status for path, _ in FAILURES]
        assert 201 == (await client.post("/items?name=after")).status

    assert [status for _, status in FAILURES] == statuses
    assert ["after"] == names()


async def test_work_after_the_response_is_committed(
    database: Database, app: FastAPI, connect: Connect, names: Names
) -> None:
    """Streams and background tasks read the request's rows, and what they write is committed."""

    @app.post("/late")
    async def late(db: SessionDep, background: BackgroundTasks) -> StreamingResponse:
        db.add(Item(name="request"))

        async def body() -> AsyncIterator[str]:
            yield str(await db.scalar(COUNT))
            db.add(Item(name="stream"))

        background.add_task(db.add, Item(name="background"))
        return StreamingResponse(body(), background=background)

    async with connect(app) as client:
        assert b"1" == (await client.post("/late")).body

    assert ["background", "request", "stream"] == names()
    assert 0 == in_use(database)


async def test_a_background_task_that_fails_is_rolled_back(
    app: FastAPI, names: Names, said: Callable[[int], list[str]]
) -> None:
    """A background task that raises is rolled back and reported."""

    @app.post("/late")
    async def late(db: SessionDep, background: BackgroundTasks) -> None:
        async def fail() -> None:
            db.add(Item(name="background"))
            await db.flush()
            raise LookupError

        background.add_task(fail)

    async with Asgi(app) as client:
        await client.post("/late")

    assert [] == names()
    assert 1 == len(said(logging.ERROR))


async def test_a_session_ends_with_its_request(app: FastAPI) -> None:
    """A session used after its request raises, and names the route."""
    kept: list[Any] = []

    @app.post("/keep")
    async def keep(db: SessionDep) -> None:
        db.add(Item(name="kept"))
        kept.append(db)

    async with Asgi(app) as client:
        await client.post("/keep")

    with pytest.raises(SessionClosed, match="POST /keep"):
        await kept[0].scalar(COUNT)


async def test_two_writing_sessions_are_refused(app: FastAPI, names: Names) -> None:
    """The second of two sessions that want to write is refused before anything of it is sent."""

    @app.post("/both")
    async def both(a: SessionDep, b: SyncSessionDep) -> None:
        a.add(Item(name="async"))
        await a.flush()
        b.add(Item(name="sync"))
        b.flush()

    async with Asgi(app) as client:
        exchange = await client.post("/both")

    assert isinstance(exchange.error, MixedSessions)
    assert [] == names()


async def test_a_foreign_await_in_a_clean_request_holds_no_connection(database: Database, app: FastAPI) -> None:
    """An endpoint that has only read holds nothing while it waits for something else."""
    import asyncio

    @app.get("/wait")
    async def wait(db: SessionDep) -> int:
        await db.scalar(COUNT)
        for _ in range(5):
            await asyncio.sleep(0)
        return in_use(database)

    async with Asgi(app) as client:
        assert 0 == (await client.get("/wait")).json()
