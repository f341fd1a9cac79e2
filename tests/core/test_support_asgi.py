"""The raw ASGI client records every message, looks at the moment of sending, and leaves when told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.support.asgi import Asgi, ClientLeft


def application(events: list[str]) -> FastAPI:
    """An application that notes what happens to it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        events.append("opened")
        yield {"word": "from the lifespan"}
        events.append("closed")

    app = FastAPI(lifespan=lifespan)

    @app.post("/echo/{name}")
    async def echo(name: str, q: str, request: Request, later: BackgroundTasks) -> dict[str, Any]:
        later.add_task(events.append, "background")
        return {"name": name, "q": q, "body": await request.json(), "word": request.state.word}

    @app.get("/broken")
    async def broken() -> None:
        raise LookupError("broken")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                for number in range(1000):
                    yield b"%d," % number
                events.append("streamed")
            finally:
                events.append("stream closed")

        return StreamingResponse(chunks())

    return app


@pytest.fixture
def events() -> list[str]:
    """What happened, in order."""
    return []


async def test_an_exchange_holds_the_whole_conversation(asgi: type[Asgi], events: list[str]) -> None:
    """Status, headers, body, query, path, lifespan state and background work are as on a real server."""
    async with asgi(application(events)) as client:
        exchange = await client.post("/echo/a%20b?q=1", json={"x": 1}, timeline=events)

    assert 200 == exchange.status
    assert "application/json" == exchange.headers["content-type"]
    assert {"name": "a b", "q": "1", "body": {"x": 1}, "word": "from the lifespan"} == exchange.json()
    assert exchange.complete
    assert exchange.error is None
    assert ["opened", "response 200", f"body {len(exchange.body)}", "background", "end", "closed"] == events


async def test_a_hook_runs_before_the_message_is_sent(asgi: type[Asgi], events: list[str]) -> None:
    """A hook, plain or async, looks at the world when the response is about to start."""

    async def look(message: Any) -> None:
        events.append(f"looking at {message['status']}")

    async with asgi(application(events)) as client:
        await client.post("/echo/a?q=1", json={}, timeline=events, hooks={"http.response.start": look})
        await client.get(
            "/stream", timeline=(second := []), hooks={"http.response.start": lambda message: second.append("plain")}
        )

    assert ["opened", "looking at 200", "response 200"] == events[:3]
    assert ["plain", "response 200"] == second[:2]


async def test_what_a_hook_raises_is_raised_by_send(asgi: type[Asgi], events: list[str]) -> None:
    """A hook can stand for a server whose ``send`` fails."""

    def fail(message: Any) -> None:
        raise OSError("no route to the client")

    async with asgi(application(events)) as client:
        exchange = await client.post("/echo/a?q=1", json={}, hooks={"http.response.start": fail})

    assert "no route to the client" == str(exchange.error)
    assert exchange.status is None


async def test_an_exception_that_leaves_the_application_is_kept(asgi: type[Asgi], events: list[str]) -> None:
    """The 500 that the client saw and the exception that the server saw are both there."""
    async with asgi(application(events)) as client:
        exchange = await client.get("/broken")

    assert 500 == exchange.status
    assert "LookupError('broken')" == repr(exchange.error)


async def test_leaving_before_the_request_hides_it(asgi: type[Asgi], events: list[str]) -> None:
    """A client that is gone before its body was read is a disconnect instead of a request."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    exchange = await asgi(app, lifespan=False).post("/", body=b"1", leave="before the request")

    assert ["http.disconnect"] == received
    assert [] == exchange.messages
    assert ["http.response.start"] == [message["type"] for message in exchange.unheard]


async def test_leaving_after_the_request_is_a_disconnect(asgi: type[Asgi]) -> None:
    """The request arrives in full, and the next message is the disconnect."""
    received: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        received.extend([(await receive())["type"], (await receive())["type"]])

    await asgi(app, lifespan=False).post("/", body=b"1", leave="after the request")

    assert ["http.request", "http.disconnect"] == received


async def test_leaving_while_streaming_cancels_the_stream(asgi: type[Asgi], events: list[str]) -> None:
    """A client that leaves after the first chunk hears no second one, and the body iterator is closed unfinished."""
    async with asgi(application(events)) as client:
        exchange = await client.get("/stream", leave="at the first chunk")

    assert b"0," == exchange.body
    assert exchange.left
    assert not exchange.complete
    assert "streamed" not in events


async def test_leaving_at_the_start_hears_no_body(asgi: type[Asgi], events: list[str]) -> None:
    """A client that leaves when the response starts has a status and nothing else."""
    async with asgi(application(events)) as client:
        exchange = await client.get("/stream", leave="at the start")

    assert 200 == exchange.status
    assert b"" == exchange.body


async def test_sends_can_fail_as_in_newer_servers(asgi: type[Asgi]) -> None:
    """With ``sends_fail`` the application learns from ``send`` that the client left."""
    errors: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": b"x"})
        except OSError as error:
            errors.append(error)

    await asgi(app, lifespan=False).get("/", leave="at the start", sends_fail=True)

    assert [ClientLeft] == [type(error) for error in errors]


async def test_a_failing_lifespan_is_raised(asgi: type[Asgi]) -> None:
    """What start-up raises is raised in the test, as it was."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise LookupError("no database")
        yield

    with pytest.raises(LookupError, match="no database"):
        await asgi(FastAPI(lifespan=lifespan)).__aenter__()
