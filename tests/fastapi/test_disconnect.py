"""Clients that leave, requests that are cancelled, requests that no route answers: nothing is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from pydantic import BaseModel

from sessionlocal import Database, SessionDep, SyncSessionDep
from tests.support.asgi import Asgi
from tests.support.live import raw_request, serve
from tests.support.observer import Observer

from .app import make_app
from .clients import Client
from .conftest import in_use
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]


class ItemIn(BaseModel):
    """A body, so that the request must be read to its end."""

    name: str
    note: str = ""


@pytest.fixture
def slow(database: Database) -> FastAPI:
    """An application with a route that writes and then waits until the test lets it go."""
    app = make_app(database)
    app.state.inside = threading.Event()
    app.state.go_on = threading.Event()

    @app.post("/body", status_code=201)
    async def with_body(body: ItemIn, db: SessionDep) -> None:
        db.add(Item(name=body.name))

    @app.post("/slow", status_code=201)
    async def slow(name: str, db: SessionDep) -> None:
        db.add(Item(name=name))
        await db.flush()
        app.state.inside.set()
        while not app.state.go_on.is_set():  # noqa: ASYNC110 - the test is on another event loop
            await asyncio.sleep(0.005)

    @app.post("/slow/sync", status_code=201)
    def slow_sync(name: str, db: SyncSessionDep) -> None:
        db.add(Item(name=name))
        db.flush()
        app.state.inside.set()
        app.state.go_on.wait(10)

    return app


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE", "PUT"])
async def test_methods_without_a_route_are_answered(client: Client, database: Database, method: str) -> None:
    """HEAD, OPTIONS and the like on a route that lacks them are a 405, and touch no database."""
    answer = await client.request(method, "/items")

    assert 405 == answer.status
    assert 0 == in_use(database)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
async def test_methods_with_a_route_commit_like_any_other(app: FastAPI, names: Names, method: str) -> None:
    """A HEAD or OPTIONS route that writes is committed before its response, as any method is."""

    @app.api_route("/any", methods=[method])
    async def endpoint(db: SessionDep) -> None:
        db.add(Item(name=method))

    seen: list[list[str]] = []
    async with Asgi(app) as client:
        await client.request(method, "/any", hooks={"http.response.start": lambda message: seen.append(names())})

    assert [[method]] == seen


async def test_unknown_paths_and_invalid_bodies_touch_nothing(client: Client, app: FastAPI, database: Database) -> None:
    """A 404 and a 422 are answered without a connection."""

    @app.post("/body")
    async def with_body(body: ItemIn, db: SessionDep) -> None:
        """Never called without a name."""

    statuses = [(await client.get("/nowhere")).status, (await client.post("/body", json={})).status]

    assert [404, 422] == statuses
    stats = database.stats()
    assert stats.async_pool is None or 0 == stats.async_pool.idle


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_client_that_leaves_while_it_sends_stores_nothing(
    slow: FastAPI, observer: Observer, names: Names, loop: Any, reset: bool
) -> None:
    """A client that is gone before its request was complete stores nothing; the next one is served."""
    with serve(slow, loop=loop) as server:
        raw_request(
            server, "POST", "/body", json={"name": "half", "note": "x" * 50}, leave="while sending", reset=reset
        )
        reply = await asyncio.to_thread(raw_request, server, "POST", "/body", json={"name": "whole"})
        await observer.settled()

    assert reply is not None
    assert 201 == reply.status
    assert ["whole"] == names()


@pytest.mark.parametrize("way", ["/slow", "/slow/sync"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_client_that_leaves_while_the_endpoint_runs_changes_nothing(
    slow: FastAPI, database: Database, observer: Observer, names: Names, way: str, reset: bool
) -> None:
    """An endpoint whose client has left runs to its end and is committed: the work was asked for, and nobody can know
    when the client left."""
    with serve(slow) as server:
        raw_request(server, "POST", f"{way}?name=asked", leave="after sending", reset=reset)
        assert await asyncio.to_thread(slow.state.inside.wait, 10)
        slow.state.go_on.set()
        await observer.settled()

    assert ["asked"] == names()
    assert 0 == in_use(database)


async def test_a_client_that_leaves_after_the_headers_has_its_row(
    slow: FastAPI, observer: Observer, names: Names
) -> None:
    """Where the headers had arrived, the row is there, whatever the client did next."""
    slow.state.go_on.set()
    with serve(slow) as server:
        reply = raw_request(server, "POST", "/slow?name=x", leave="after headers", reset=True)
        await observer.settled()

    assert reply is not None
    assert ["x"] == names()


class Impatient:
    """A pure ASGI middleware that gives every request a moment and then answers 504 itself."""

    def __init__(self, app: Any, inside: threading.Event) -> None:
        self.app = app
        self.inside = inside

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(None) as moment:
                watcher = asyncio.ensure_future(self.expire(moment))
                try:
                    await self.app(scope, receive, send)
                finally:
                    watcher.cancel()
        except TimeoutError:
            await send({"type": "http.response.start", "status": 504, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async def expire(self, moment: asyncio.Timeout) -> None:
        while not self.inside.is_set():  # noqa: ASYNC110 - set by another thread
            await asyncio.sleep(0.005)
        moment.reschedule(0)


@pytest.mark.parametrize("way", ["/slow", "/slow/sync"])
async def test_a_request_that_is_timed_out_stores_nothing(
    slow: FastAPI, database: Database, observer: Observer, names: Names, way: str
) -> None:
    """A middleware that cancels a request in the middle of its unit, and answers itself, leaves nothing: no row, no
    connection, no transaction."""
    slow.add_middleware(Impatient, inside=slow.state.inside)

    async with Asgi(slow) as client:
        request = asyncio.ensure_future(client.post(f"{way}?name=late"))
        await asyncio.to_thread(slow.state.inside.wait, 10)
        exchange = await request
        slow.state.go_on.set()  # a thread cannot be cancelled: it goes on with a session that has ended
        await observer.settled()
        assert 0 == in_use(database)

    assert 504 == exchange.status
    assert [] == names()


async def test_a_server_that_shuts_down_during_a_request_leaves_nothing(
    slow: FastAPI, database: Database, observer: Observer, names: Names
) -> None:
    """A request that is still running when the server's patience ends is cancelled: nothing is stored or held."""
    with serve(slow, grace=0) as server:
        raw_request(server, "POST", "/slow?name=late", leave="after sending")
        assert await asyncio.to_thread(slow.state.inside.wait, 10)

    await observer.settled()
    assert [] == names()
    assert 0 == in_use(database)


async def test_a_request_cancelled_at_any_await_leaves_nothing(database: Database, observer: Observer) -> None:
    """Whatever await of a request is cancelled, afterwards no connection is lent and no transaction is open."""
    from tests.support.awaits import cancel_at_each_await

    app, numbers = make_app(database), iter(range(10_000))

    async with Asgi(app) as client:

        async def request() -> int | None:
            return (await client.post(f"/items?name={next(numbers)}")).status

        async def nothing_is_held(attempt: Any) -> None:
            await observer.settled()
            async with asyncio.timeout(5):
                while in_use(database):  # noqa: ASYNC110 - an interrupted connection is discarded in a task of its own
                    await asyncio.sleep(0.005)

        async def warm() -> None:
            await client.get("/items")

        steps = await cancel_at_each_await(request, before_each=warm, after_each=nothing_is_held)
        assert 200 == (await client.get("/items")).status

    print(f"{steps} awaits were cancelled")
    assert steps > 0


async def test_the_request_can_still_be_read_by_the_endpoint(client: Client, app: FastAPI) -> None:
    """``Request.is_disconnected()`` works as without us."""

    @app.get("/connected")
    async def connected(request: Request, db: SessionDep) -> bool:
        return await request.is_disconnected()

    assert (await client.get("/connected")).json() is False
