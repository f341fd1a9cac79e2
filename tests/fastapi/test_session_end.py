"""After the request: the session is closed for good, what it loaded stays readable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

import sessionlocal
from sessionlocal import Database, OutsideRequest, SessionClosed, SessionDep, SyncSessionDep, current_request
from sessionlocal import current_session as session_of_request
from tests.support.asgi import Asgi

from .clients import Connect
from .conftest import in_use
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")


@pytest.fixture
def kept(database: Database, app: FastAPI) -> list[Any]:
    """What the routes ``/keep`` and ``/keep/sync`` leave behind: a session, and an object that it loaded."""
    kept: list[Any] = []

    @app.post("/keep/{number}")
    async def keep(number: int, db: SessionDep) -> None:
        item = Item(name="kept")
        db.add(item)
        await db.flush()
        kept.extend([db, item])

    @app.post("/keep/sync/{number}")
    def keep_sync(number: int, db: SyncSessionDep) -> None:
        item = Item(name="kept")
        db.add(item)
        db.flush()
        kept.extend([db, item])

    return kept


async def test_use_after_the_request_names_the_route(app: FastAPI, kept: list[Any], connect: Connect) -> None:
    """A session used after its request raises ``SessionClosed``, which names the route and says what to do."""
    async with connect(app) as client:
        await client.post("/keep/1")
    db, _ = kept

    with pytest.raises(SessionClosed, match=r"POST /keep/\{number\}.*database\.session\(\).*\[DBS302\]"):
        await db.execute(select(Item))
    with pytest.raises(SessionClosed, match=r"POST /keep/\{number\}"):
        async with db.begin():
            pass


async def test_use_of_a_sync_session_after_the_request_names_the_route(
    app: FastAPI, kept: list[Any], connect: Connect
) -> None:
    """The same for the sync session."""
    async with connect(app) as client:
        await client.post("/keep/sync/1")
    db, _ = kept

    with pytest.raises(SessionClosed, match=r"POST /keep/sync/\{number\}"):
        db.scalars(select(Item))


@pytest.mark.parametrize("way", ["/keep/1", "/keep/sync/1"])
async def test_loaded_objects_stay_readable(app: FastAPI, kept: list[Any], way: str) -> None:
    """What was loaded or stored can be read after the request, and is detached."""
    async with Asgi(app) as client:
        await client.post(way)
    _, item = kept

    assert ("kept", 0) == (item.name, item.amount)
    assert isinstance(item.id, int)


async def test_a_task_that_outlives_its_request_is_told(database: Database, connect: Connect) -> None:
    """A task that the endpoint started and left behind gets ``SessionClosed`` instead of a connection that leaks."""
    app, outcome, ended = FastAPI(), [], asyncio.Event()
    database.install(app)

    @app.post("/start")
    async def start(db: SessionDep) -> None:
        async def later() -> None:
            await ended.wait()
            try:
                await db.scalar(select(Item.id))
            except SessionClosed as error:
                outcome.append(error)

        tasks.append(asyncio.create_task(later()))

    tasks: list[asyncio.Task[None]] = []
    async with Asgi(app) as client:
        await client.post("/start")
        ended.set()
        await asyncio.gather(*tasks)
        assert 0 == in_use(database)

    assert ["POST /start"] == [str(error).split(":")[0] for error in outcome]


async def test_outside_a_request_there_is_no_current_session(database: Database) -> None:
    """``current_session()`` and ``current_request()`` outside a request raise an error that names the fix."""
    with pytest.raises(OutsideRequest, match=r"database\.session\(\).*\[DBS112\]"):
        session_of_request()
    with pytest.raises(OutsideRequest):
        current_request()


async def test_an_async_scoped_session_is_the_requests(database: Database, connect: Connect) -> None:
    """``async_scoped_session(SessionLocal, scopefunc=current_request)`` gives the request's session, and keeps
    nothing of 100 requests."""
    scoped = async_scoped_session(database.SessionLocal, scopefunc=current_request)
    app = FastAPI()
    database.install(app)

    @app.post("/{number}")
    async def write(number: int, db: SessionDep) -> bool:
        scoped.add(Item(name=f"item {number}"))
        await scoped.flush()
        return scoped() is db

    @app.get("/")
    async def count(db: SessionDep) -> int:
        return len((await scoped.scalars(select(Item))).all())

    async with connect(app) as client:
        answers = [(await client.post(f"/{number}")).json() for number in range(100)]
        assert 100 == (await client.get("/")).json()

    assert [True] * 100 == answers
    assert {} == scoped.registry.registry
    with pytest.raises(OutsideRequest, match=r"database\.session\(\)"):
        await scoped.execute(select(Item))


async def test_the_default_factory_in_an_async_scoped_session(database: Database) -> None:
    """The same with the module's ``SessionLocal``, which is that of the Database installed."""
    scoped = async_scoped_session(sessionlocal.SessionLocal, scopefunc=current_request)  # type: ignore[type-var]
    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def compare(db: SessionDep) -> bool:
        return scoped() is db

    async with Asgi(app) as client:
        assert (await client.get("/")).json() is True


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_a_scoped_session_is_the_requests(database: Database, connect: Connect, way: str) -> None:
    """``scoped_session`` around a factory of ours works on the session of whichever request asks, thread or not."""
    app = FastAPI()
    database.install(app)
    if way == "async":
        scoped: Any = scoped_session(database.SessionLocal)  # type: ignore[type-var]

        @app.post("/{number}")
        async def write(number: int, db: SessionDep) -> bool:
            scoped.add(Item(name=f"item {number}"))
            return len(db.new) == 1

    else:
        scoped = scoped_session(database.SyncSessionLocal)

        @app.post("/{number}")
        def write_sync(number: int, db: SyncSessionDep) -> bool:
            scoped.add(Item(name=f"item {number}"))
            return len(db.new) == 1

    async with connect(app) as client:
        answers = [(await client.post(f"/{number}")).json() for number in range(10)]

    assert [True] * 10 == answers
    with pytest.raises(OutsideRequest, match=r"database\.session\(\)"):
        scoped.add(Item(name="outside"))


async def test_the_name_of_a_session_is_its_route(database: Database, app: FastAPI) -> None:
    """A session's ``repr`` names the route, also when a middleware had asked for it before the route was known."""

    @app.middleware("http")
    async def early(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        session_of_request()
        return await call_next(request)

    @app.get("/named/{number}")
    async def named(number: int, db: SessionDep) -> str:
        return repr(db.sync_session)

    async with Asgi(app) as client:
        answer = await client.get("/named/7")

    assert "<Session GET /named/{number} CLEAN>" == answer.json()


async def test_the_name_of_a_mounted_route_includes_its_mount(database: Database, app: FastAPI) -> None:
    """A route of a mounted application is named with the path of the mount."""
    sub = FastAPI()
    app.mount("/shop", sub)

    @sub.get("/items/{number}")
    async def named(number: int, db: SessionDep) -> str:
        return repr(db.sync_session)

    async with Asgi(app) as client:
        assert "<Session GET /shop/items/{number} CLEAN>" == (await client.get("/shop/items/1")).json()


async def test_sessions_are_what_sqlalchemy_calls_sessions(database: Database, app: FastAPI) -> None:
    """What a route gets is an ``AsyncSession`` or a ``Session``, for every ``isinstance`` in the world."""

    @app.get("/types")
    async def types(db: SessionDep, sync: SyncSessionDep) -> list[bool]:
        return [isinstance(db, AsyncSession), isinstance(sync, Session), isinstance(db.sync_session, Session)]

    async with Asgi(app) as client:
        assert [True, True, True] == (await client.get("/types")).json()
