"""A request has one session of a database, whoever asks for it and however."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response, WebSocket
from fastapi.testclient import TestClient
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sessionlocal import (
    Database,
    MixedSessions,
    ReadSessionDep,
    SessionDep,
    SyncSessionDep,
    current_session,
    get_db,
    get_sync_db,
)
from tests.support.asgi import Asgi

from .app import make_app
from .clients import Client, Connect
from .conftest import HAS_DEPENDENCY_SCOPES, in_use
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

needs_scopes = pytest.mark.skipif(not HAS_DEPENDENCY_SCOPES, reason="this FastAPI has one scope for all dependencies")
Middleware = Callable[[Request], Awaitable[Response]]


async def inner(db: SessionDep) -> AsyncSession:
    """A dependency that has the session."""
    return db


def inner_sync(db: SyncSessionDep) -> Session:
    """A dependency that has the sync session."""
    return db


async def outer(db: SessionDep, from_inner: Annotated[AsyncSession, Depends(inner)]) -> list[AsyncSession]:
    """A dependency that has the session twice."""
    return [db, from_inner]


async def test_nested_dependencies_share_the_session(database: Database, connect: Connect) -> None:
    """A dependency, a dependency of it and the endpoint get the very same object, cached or not."""
    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def compare(
        db: SessionDep,
        both: Annotated[list[AsyncSession], Depends(outer)],
        fresh: Annotated[AsyncSession, Depends(get_db, use_cache=False)],
        own: AsyncSession = Depends(database.get_db),
    ) -> int:
        return len({id(db), *map(id, both), id(fresh), id(own), id(current_session())})

    async with connect(app) as client:
        assert 1 == (await client.get("/")).json()


async def test_sync_dependencies_share_the_sync_session(database: Database, connect: Connect) -> None:
    """The same holds for the sync session, which is another object than the async one."""
    app = FastAPI()
    database.install(app)

    @app.get("/")
    def compare(
        db: SyncSessionDep,
        nested: Annotated[Session, Depends(inner_sync)],
        fresh: Annotated[Session, Depends(get_sync_db, use_cache=False)],
        async_one: SessionDep,
        own: Session = Depends(database.get_sync_db),
    ) -> list[Any]:
        return [len({id(db), id(nested), id(fresh), id(own)}), isinstance(async_one, AsyncSession)]

    async with connect(app) as client:
        assert [1, True] == (await client.get("/")).json()


@needs_scopes
async def test_yield_dependencies_of_both_scopes_share_the_session(
    database: Database, connect: Connect, names: Callable[[], list[str]]
) -> None:
    """A dependency with ``yield``, of function or request scope, has the session before and after its ``yield``; what
    the function scope writes after it is committed with the request, before the response."""
    app, seen = FastAPI(), []
    database.install(app)

    async def in_function(db: SessionDep) -> Any:
        db.add(Item(name="before, function"))
        seen.append(db)
        yield db
        db.add(Item(name="after, function"))
        seen.append(db)

    async def in_request(db: SessionDep) -> Any:
        db.add(Item(name="before, request"))
        seen.append(db)
        yield db
        seen.append(db)
        db.add(Item(name=f"after, request: {await db.scalar(select(func.count()).select_from(Item))}"))

    @app.post("/", dependencies=[Depends(in_function, scope="function"), Depends(in_request, scope="request")])
    async def write(db: SessionDep) -> None:
        seen.append(db)

    async with connect(app) as client:
        assert 200 == (await client.post("/")).status

    assert 5 == len(seen)
    assert 1 == len(set(map(id, seen)))
    assert ["after, function", "after, request: 3", "before, function", "before, request"] == names()


async def test_yield_dependencies_use_the_session_on_both_sides(
    database: Database, connect: Connect, names: Callable[[], list[str]]
) -> None:
    """A dependency with ``yield`` of the default scope reads after its ``yield`` what the request has stored."""
    app, seen = FastAPI(), []
    database.install(app)

    async def audited(db: SessionDep) -> Any:
        seen.append((await db.scalars(select(Item.name))).all())
        yield
        seen.append((await db.scalars(select(Item.name))).all())

    @app.post("/", dependencies=[Depends(audited)])
    async def write(db: SessionDep) -> None:
        db.add(Item(name="x"))

    async with connect(app) as client:
        assert 200 == (await client.post("/")).status

    assert [[], ["x"]] == seen
    assert ["x"] == names()


async def test_a_router_dependency_shares_the_session(database: Database) -> None:
    """A dependency of a router or of the application gets the session of the endpoint."""
    seen = []

    async def remember(db: SessionDep) -> None:
        seen.append(db)

    app = FastAPI(dependencies=[Depends(remember)])
    router = APIRouter(dependencies=[Depends(remember)])
    database.install(app)

    @router.get("/")
    async def endpoint(db: SessionDep) -> None:
        seen.append(db)

    app.include_router(router)

    async with Asgi(app) as client:
        await client.get("/")

    assert 1 == len(set(map(id, seen)))


@pytest.mark.parametrize("installed", [False, True], ids=["plain", "installed"])
async def test_middleware_and_mounted_applications_share_the_session(
    database: Database, connect: Connect, installed: bool
) -> None:
    """A middleware that asks before or after ``call_next``, ``request.state`` and a mounted application have one
    session."""
    app, sub, seen = FastAPI(), FastAPI(), []
    database.install(app)
    if installed:
        database.install(sub)
    app.mount("/sub", sub)

    @app.middleware("http")
    async def remember(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        request.state.db = current_session()
        seen.append(request.state.db)
        response = await call_next(request)
        seen.append(current_session())
        return response

    @sub.get("/")
    async def endpoint(request: Request, db: SessionDep) -> None:
        seen.extend([db, request.state.db, current_session()])

    async with connect(app) as client:
        assert 200 == (await client.get("/sub/")).status

    assert 5 == len(seen)
    assert 1 == len(set(map(id, seen)))


async def test_different_requests_have_different_sessions(database: Database) -> None:
    """Two requests never share a session, one after the other or at the same time."""
    import asyncio

    app, seen = FastAPI(), []
    database.install(app)
    both_inside = asyncio.Barrier(2)

    @app.get("/")
    async def endpoint(db: SessionDep) -> None:
        seen.append(db)
        await both_inside.wait()

    async with Asgi(app) as client:
        await asyncio.gather(client.get("/"), client.get("/"))

    assert 2 == len(set(map(id, seen)))


async def test_the_same_database_under_two_names_gives_one_session(database: Database) -> None:
    """``database.get_db`` and the module's ``get_db`` give one session, also in the order that asks for the module's
    first."""
    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def endpoint(a: Annotated[AsyncSession, Depends(get_db)], b: AsyncSession = Depends(database.get_db)) -> bool:
        return a is b

    async with Asgi(app) as client:
        assert (await client.get("/")).json() is True


async def test_a_websocket_has_one_session(database: Database) -> None:
    """Dependencies of a WebSocket and its endpoint share one session."""
    app = FastAPI()
    database.install(app)

    @app.websocket("/ws")
    async def endpoint(
        websocket: WebSocket, db: SessionDep, both: Annotated[list[AsyncSession], Depends(outer)]
    ) -> None:
        await websocket.accept()
        await websocket.send_json(len({id(db), *map(id, both), id(current_session())}))
        await websocket.close()

    def converse() -> Any:
        with TestClient(app) as client, client.websocket_connect("/ws") as socket:
            return socket.receive_json()

    import asyncio

    assert 1 == await asyncio.to_thread(converse)


async def test_an_unused_session_checks_nothing_out(app: FastAPI, database: Database) -> None:
    """A request that asks for sessions and never uses them takes no connection from any pool."""
    async with Asgi(app) as client:
        answer = await client.get("/unused")
        stats = database.stats()

    assert 200 == answer.status
    assert stats.async_pool is not None
    assert (0, 0) == (stats.async_pool.idle, stats.async_pool.in_use)
    assert stats.sync_pool is None or (0, 0) == (stats.sync_pool.idle, stats.sync_pool.in_use)


@pytest.mark.parametrize("first", ["async", "sync"])
async def test_two_writing_sessions_are_refused(database: Database, names: Callable[[], list[str]], first: str) -> None:
    """Where the async and the sync session both write, the second write raises ``MixedSessions`` before it is sent,
    and the request stores nothing."""
    app = FastAPI()
    database.install(app)

    @app.post("/")
    async def write_twice(a: SessionDep, b: SyncSessionDep) -> None:
        a.add(Item(name="async"))
        b.add(Item(name="sync"))
        if first == "async":
            await a.flush()
            b.flush()
        else:
            b.flush()
            await a.flush()

    async with Asgi(app) as client:
        exchange = await client.post("/")

    assert isinstance(exchange.error, MixedSessions)
    assert "POST /" in str(exchange.error)
    assert "[DBS206]" in str(exchange.error)
    assert [] == names()


@pytest.mark.parametrize("flushed", ["neither", "async", "sync"])
async def test_two_sessions_with_work_at_the_end_are_refused(
    database: Database, names: Callable[[], list[str]], flushed: str
) -> None:
    """Two sessions that both have something to commit at the end would be two transactions: nothing is stored."""
    app = FastAPI()
    database.install(app)

    @app.post("/")
    async def write_twice(a: SessionDep, b: SyncSessionDep) -> None:
        a.add(Item(name="async"))
        b.add(Item(name="sync"))
        if flushed == "async":
            await a.flush()
        elif flushed == "sync":
            b.flush()

    async with Asgi(app) as client:
        exchange = await client.post("/")

    assert 500 == exchange.status
    assert isinstance(exchange.error, MixedSessions)
    assert [] == names()


async def test_reading_with_both_sessions_is_fine(database: Database, names: Callable[[], list[str]]) -> None:
    """The async and the sync session may both read, one may write, and after a commit of the first the second may."""
    app = FastAPI()
    database.install(app)

    @app.post("/read")
    async def read_both(a: SessionDep, b: SyncSessionDep, c: ReadSessionDep) -> list[Any]:
        b.add(Item(name="one writer"))
        query = select(func.count()).select_from(Item)
        return [await a.scalar(query), await c.scalar(query), b.scalar(query)]

    @app.post("/one-after-the-other")
    async def write_both(a: SessionDep, b: SyncSessionDep) -> None:
        a.add(Item(name="first"))
        await a.commit()
        b.add(Item(name="second"))

    async with Asgi(app) as client:
        assert [0, 0, 1] == (await client.post("/read")).json()
        assert 200 == (await client.post("/one-after-the-other")).status

    assert ["first", "one writer", "second"] == names()


async def test_a_foreign_await_in_a_clean_request_holds_no_connection(database: Database, connect: Connect) -> None:
    """While an endpoint that has only read awaits something else, it holds no connection."""
    import asyncio

    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def read_and_wait(db: SessionDep) -> int:
        await db.scalar(select(func.count()).select_from(Item))
        await asyncio.sleep(0)
        return in_use(database)

    async with connect(app) as client:
        assert 0 == (await client.get("/")).json()


async def test_the_read_session_refuses_writes_and_names_the_route(database: Database) -> None:
    """``ReadSessionDep`` refuses a write with an error that names the route; the client gets a 500."""
    from sessionlocal import ReadOnlySession

    app = make_app(database)

    @app.post("/refused")
    async def write(db: ReadSessionDep) -> None:
        db.add(Item(name="x"))
        await db.flush()

    async with Asgi(app) as client:
        exchange = await client.post("/refused")

    assert 500 == exchange.status
    assert isinstance(exchange.error, ReadOnlySession)
    assert "POST /refused" in str(exchange.error)


async def test_a_forgotten_flush_on_a_read_session_is_refused_at_the_end(client: Client, app: FastAPI) -> None:
    """An object added to a read session and never flushed is a failed commit, not a silent loss."""

    @app.post("/refused")
    async def write(db: ReadSessionDep) -> None:
        db.add(Item(name="x"))

    assert 500 == (await client.post("/refused")).status
