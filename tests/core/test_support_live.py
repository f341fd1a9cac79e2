"""The live server is a real one, and the raw client can behave as badly as real ones do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.support.live import Connection, LoopName, Server, raw_request

Serve = Callable[..., AbstractContextManager[Server]]
BOTH_LOOPS = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
LEFT_TIMEOUT = 10  # seconds for the server to notice that the client left


class Told:
    """What the application under test tells the test from its own thread."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.left = threading.Event()


@pytest.fixture
def told() -> Told:
    """Nothing told yet."""
    return Told()


@pytest.fixture
def app(told: Told) -> FastAPI:
    """An application that tells what happens to it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        told.events.append("opened")
        yield
        told.events.append("closed")

    app = FastAPI(lifespan=lifespan)

    @app.get("/loop")
    async def loop() -> dict[str, str]:
        return {"loop": type(asyncio.get_running_loop()).__module__, "thread": threading.current_thread().name}

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, int]:
        try:
            return {"size": len(await request.body())}
        except Exception as error:
            told.events.append(type(error).__name__)
            told.left.set()
            raise

    @app.get("/broken")
    async def broken() -> None:
        raise LookupError("broken")

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0)
            finally:
                told.left.set()

        return StreamingResponse(chunks())

    @app.get("/silent")
    async def silent(request: Request) -> None:
        while not await request.is_disconnected():  # noqa: ASYNC110 - Starlette offers nothing to wait on
            await asyncio.sleep(0.01)
        told.left.set()

    @app.get("/short")
    async def short() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"half"
            raise LookupError("in the middle of the body")

        return StreamingResponse(chunks())

    return app


@BOTH_LOOPS
def test_the_application_runs_on_a_loop_of_its_own(serve: Serve, app: FastAPI, told: Told, loop: LoopName) -> None:
    """The chosen event loop runs on another thread, between the two ends of the lifespan."""
    with serve(app, loop=loop) as server:
        answer = httpx.get(server.url + "/loop").json()
        assert ["opened"] == told.events

    assert answer["loop"].startswith(loop)
    assert f"uvicorn-{server.port}" == answer["thread"]
    assert ["opened", "closed"] == told.events


@BOTH_LOOPS
def test_nothing_is_left_after_the_block(serve: Serve, app: FastAPI, loop: LoopName) -> None:
    """Port and thread are gone, no task was pending, and a second server can be started."""
    with serve(app, loop=loop) as server, Connection(server) as kept_alive:
        assert 200 == kept_alive.request("GET", "/loop").status

    assert f"uvicorn-{server.port}" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port), timeout=1)
    assert [] == server.leftovers


async def test_an_async_test_can_use_it_too(serve: Serve, app: FastAPI) -> None:
    """The server does not share the loop of an async test, and coroutines can be run on the server's."""

    async def here() -> str:
        return threading.current_thread().name

    with serve(app) as server:
        async with httpx.AsyncClient() as client:
            assert 200 == (await client.get(server.url + "/loop")).status_code
        name = await asyncio.to_thread(server.run, here())

    assert f"uvicorn-{server.port}" == name


def test_a_failing_start_is_raised(serve: Serve) -> None:
    """What the lifespan raises at start-up is raised in the test, as it was."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    with pytest.raises(LookupError, match="no database"), serve(FastAPI(lifespan=lifespan)):
        pass


def test_a_failing_end_is_raised(serve: Serve) -> None:
    """What the lifespan raises at shutdown is raised in the test, as it was."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        raise LookupError("cannot close")

    with pytest.raises(LookupError, match="cannot close"), serve(FastAPI(lifespan=lifespan)):
        pass


def test_errors_that_left_the_application_are_kept(serve: Serve, app: FastAPI) -> None:
    """The client sees a 500, the test the exception that the server saw."""
    with serve(app) as server:
        assert 500 == httpx.get(server.url + "/broken").status_code

    assert ["LookupError('broken')"] == [repr(error) for error in server.errors]


def test_one_connection_serves_many_requests(serve: Serve, app: FastAPI) -> None:
    """The raw client keeps its connection alive, and reads status, headers and body."""
    with serve(app) as server, Connection(server) as connection:
        replies = [connection.request("POST", "/echo", body=b"x" * size) for size in (0, 10, 100_000)]

    assert [{"size": 0}, {"size": 10}, {"size": 100_000}] == [reply.json() for reply in replies]
    assert all(reply.complete for reply in replies)
    assert "application/json" == replies[0].headers["content-type"]


def test_a_body_that_breaks_off_is_not_complete(serve: Serve, app: FastAPI) -> None:
    """A response that the server aborts keeps its status and says that it is not whole."""
    with serve(app) as server:
        reply = raw_request(server, "GET", "/short")

    assert reply is not None
    assert (200, b"half", False) == (reply.status, reply.body, reply.complete)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_leaving_while_sending(serve: Serve, app: FastAPI, told: Told, reset: bool) -> None:
    """A client that leaves with half of its body sent is a disconnect for the endpoint that reads it."""
    with serve(app) as server:
        assert raw_request(server, "POST", "/echo", body=b"x" * 1000, leave="while sending", reset=reset) is None
        assert told.left.wait(LEFT_TIMEOUT)

    assert "ClientDisconnect" in told.events


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
def test_leaving_after_sending(serve: Serve, app: FastAPI, told: Told, reset: bool) -> None:
    """A client that leaves before the answer is noticed by an endpoint that looks."""
    with serve(app) as server:
        assert raw_request(server, "GET", "/silent", leave="after sending", reset=reset) is None
        assert told.left.wait(LEFT_TIMEOUT)


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("leave", ["after headers", "mid-body"])
def test_leaving_while_the_body_streams(serve: Serve, app: FastAPI, told: Told, leave: str, reset: bool) -> None:
    """A client that leaves during an endless body ends it."""
    with serve(app) as server:
        reply = raw_request(server, "GET", "/endless", leave=leave, reset=reset)  # type: ignore[arg-type]
        assert told.left.wait(LEFT_TIMEOUT)

    assert reply is not None
    assert 200 == reply.status
    assert (leave == "mid-body") == bool(reply.body)
    assert not reply.complete


def test_requests_that_do_not_end_are_cancelled(serve: Serve) -> None:
    """At the end of the block a request that still runs is cancelled after the grace period."""
    app = FastAPI()
    started, cancelled = threading.Event(), threading.Event()

    @app.get("/")
    async def forever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serve(app, grace=0))
        connection = stack.enter_context(contextlib.closing(Connection(server)))
        connection.send("GET", "/")
        assert started.wait(5)
        server.stop()

    assert cancelled.is_set()
