"""WebSockets: one session per socket, which holds nothing between messages and commits only what it is told to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from sqlalchemy import func, select

from sessionlocal import Database, SessionDep, SyncSessionDep
from tests.support.live import serve
from tests.support.observer import Observer

from .conftest import in_use
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]
Said = Callable[[int], list[str]]
WARNING = (
    "WEBSOCKET /ws: uncommitted work was rolled back; a WebSocket commits nothing by itself: commit once per message"
)


@pytest.fixture
def chat(database: Database) -> FastAPI:
    """An application whose socket does what each message says and answers with the number of rows it sees."""
    app = FastAPI()
    database.install(app)

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket, db: SessionDep) -> None:
        await websocket.accept()
        try:
            while True:
                order, _, name = (await websocket.receive_text()).partition(" ")
                if order in ("store", "leave", "fail", "roll"):
                    db.add(Item(name=name))
                    await db.flush()
                if order == "store":
                    await db.commit()
                if order == "roll":
                    await db.rollback()
                if order == "fail":
                    raise LookupError
                await websocket.send_json(await db.scalar(select(func.count()).select_from(Item)))
        except WebSocketDisconnect:
            pass

    @app.websocket("/unit")
    async def unit(websocket: WebSocket, db: SessionDep) -> None:
        await websocket.accept()
        async with db.begin():
            for _ in range(2):
                db.add(Item(name=await websocket.receive_text()))
                await db.flush()
                await websocket.send_json(True)
        await websocket.receive_text()
        await websocket.close()

    @app.websocket("/sync")
    async def sync(websocket: WebSocket, db: SyncSessionDep) -> None:
        await websocket.accept()
        db.add(Item(name=await websocket.receive_text()))
        await asyncio.to_thread(db.commit)
        await websocket.send_json(True)

    return app


@asynccontextmanager
async def dial(app: FastAPI, path: str = "/ws", loop: Any = "asyncio") -> AsyncIterator[Any]:
    """Serve the application and open a socket to it."""
    from websockets.asyncio.client import connect

    with serve(app, loop=loop) as server:
        async with connect(f"ws://{server.host}:{server.port}{path}") as socket:
            yield socket


async def ask(socket: Any, message: str) -> str:
    """Send a message and return the answer."""
    await socket.send(message)
    return str(await asyncio.wait_for(socket.recv(), 10))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_each_message_commits_what_it_wants(chat: FastAPI, names: Names, said: Said, loop: str) -> None:
    """A commit per message works, each is seen by others at once, and nobody is warned."""
    async with dial(chat, loop=loop) as socket:
        assert "1" == await ask(socket, "store a")
        assert ["a"] == names()
        assert "2" == await ask(socket, "store b")
        assert "2" == await ask(socket, "roll c")

    assert ["a", "b"] == names()
    assert [] == said(logging.WARNING) + said(logging.ERROR)


async def test_no_connection_is_held_between_messages(chat: FastAPI, database: Database, observer: Observer) -> None:
    """A socket that waits for its client holds no connection, and no transaction is open."""
    async with dial(chat) as socket:
        for message in ("count", "store a", "count", "leave b"):
            await ask(socket, message)
            await observer.settled()
            while in_use(database):  # noqa: ASYNC110 - the answer leaves a moment before the endpoint waits again
                await asyncio.sleep(0)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_what_is_left_uncommitted_is_rolled_back_at_the_next_message(
    chat: FastAPI, names: Names, said: Said, loop: str
) -> None:
    """Uncommitted work is rolled back, with a WARNING that names the socket, when the next message is waited for."""
    async with dial(chat, loop=loop) as socket:
        assert "1" == await ask(socket, "leave a")
        assert "0" == await ask(socket, "count")
        assert "1" == await ask(socket, "store b")

    assert ["b"] == names()
    assert [WARNING] == said(logging.WARNING)


async def test_what_is_left_uncommitted_at_the_end_is_rolled_back(
    chat: FastAPI, names: Names, observer: Observer, said: Said
) -> None:
    """An endpoint that ends in the middle of its work stores nothing, and says so."""
    async with dial(chat) as socket:
        await socket.send("fail a")
        await socket.wait_closed()
        await observer.settled()

    assert [] == names()
    assert [WARNING] == said(logging.WARNING)


async def test_an_explicit_unit_may_span_messages(chat: FastAPI, names: Names, said: Said) -> None:
    """Inside ``async with db.begin()`` waiting for a message rolls nothing back: the unit is the endpoint's own."""
    async with dial(chat, "/unit") as socket:
        await ask(socket, "a")
        await ask(socket, "b")
        await socket.send("done")
        await socket.wait_closed()

    assert ["a", "b"] == names()
    assert [] == said(logging.WARNING)


async def test_a_client_that_vanishes_leaves_nothing(
    chat: FastAPI, names: Names, observer: Observer, database: Database
) -> None:
    """A socket whose client vanishes in the middle of a unit is rolled back and holds nothing."""
    async with dial(chat, "/unit") as socket:
        await ask(socket, "a")
        socket.transport.abort()
        await observer.settled()

    assert [] == names()


async def test_a_sync_session_in_a_websocket(chat: FastAPI, names: Names) -> None:
    """The sync session is the socket's too, and commits when told to."""
    async with dial(chat, "/sync") as socket:
        assert "true" == await ask(socket, "a")

    assert ["a"] == names()


@pytest.mark.options(pool_size=2)
async def test_sockets_do_not_take_the_permits_of_sync_requests(chat: FastAPI) -> None:
    """Sockets that stay open do not keep sync requests waiting, however many there are."""
    from contextlib import AsyncExitStack

    from websockets.asyncio.client import connect

    from .clients import Live

    @chat.get("/names")
    def names(db: SyncSessionDep) -> list[str]:
        return list(db.scalars(select(Item.name)))

    with serve(chat) as server:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connect(f"ws://{server.host}:{server.port}/sync"))
            client = Live(server)
            stack.callback(client.close)
            answer = await asyncio.wait_for(client.get("/names"), 10)

    assert 200 == answer.status
