"""After the response has started: a second unit of work that holds nothing, and of which only the log is told."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from fastapi import BackgroundTasks, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select

from sessionlocal import Database, SessionDep, SyncSessionDep, current_session
from tests.support.asgi import Asgi
from tests.support.live import Connection, raw_request, serve
from tests.support.observer import Observer

from .app import make_app
from .clients import Connect
from .conftest import in_use
from .models import Item, Seat

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]
Said = Callable[[int], list[str]]
COUNT = select(func.count()).select_from(Item)


async def test_an_async_stream_reads_and_writes(database: Database, connect: Connect, names: Names) -> None:
    """A streaming body sees the request's committed rows; what it writes is committed when the body was sent."""
    app = make_app(database)

    @app.post("/stream")
    async def stream(db: SessionDep) -> StreamingResponse:
        db.add(Item(name="request"))

        async def body() -> AsyncIterator[str]:
            yield f"{await db.scalar(COUNT)} "
            db.add(Item(name="stream"))
            await db.flush()
            yield f"{await db.scalar(COUNT)}"

        return StreamingResponse(body())

    async with connect(app) as client:
        answer = await client.post("/stream")

    assert b"1 2" == answer.body
    assert ["request", "stream"] == names()


async def test_a_sync_stream_reads_and_writes(database: Database, connect: Connect, names: Names) -> None:
    """The same for a body that is an ordinary generator, run in threads."""
    app = make_app(database)

    @app.post("/stream")
    def stream(db: SyncSessionDep) -> StreamingResponse:
        db.add(Item(name="request"))

        def body() -> Iterator[str]:
            yield f"{db.scalar(COUNT)} "
            db.add(Item(name="stream"))
            db.flush()
            yield f"{db.scalar(COUNT)}"

        return StreamingResponse(body())

    async with connect(app) as client:
        answer = await client.post("/stream")

    assert b"1 2" == answer.body
    assert ["request", "stream"] == names()


async def test_background_tasks_read_and_write(database: Database, connect: Connect, names: Names) -> None:
    """Background tasks, async and not, see the request's rows; what they write is committed."""
    app = make_app(database)

    @app.post("/background")
    async def schedule(db: SessionDep, background: BackgroundTasks) -> None:
        db.add(Item(name="request"))

        async def note() -> None:
            db.add(Item(name=f"async saw {await db.scalar(COUNT)}"))

        background.add_task(note)

    @app.post("/background/sync")
    def schedule_sync(db: SyncSessionDep, background: BackgroundTasks) -> None:
        db.add(Item(name="sync request"))

        def note() -> None:
            db.add(Item(name=f"sync saw {db.scalar(COUNT)}"))

        background.add_task(note)

    for path in ("/background", "/background/sync"):
        async with connect(app) as client:  # a server that has stopped has run its background tasks
            assert 200 == (await client.post(path)).status

    assert ["async saw 1", "request", "sync request", "sync saw 3"] == names()


async def test_a_late_commit_comes_after_the_body(database: Database) -> None:
    """The second unit is committed when the body is out and the background tasks are done."""
    app, timeline = make_app(database), []
    database.facts.subscribe(lambda fact: timeline.append(type(fact).__name__))

    @app.post("/background")
    async def schedule(db: SessionDep, background: BackgroundTasks) -> str:
        db.add(Item(name="request"))
        background.add_task(db.add, Item(name="background"))
        return "done"

    async with Asgi(app) as client:
        await client.post("/background", timeline=timeline)

    assert ["Committed", "response 200", "body 6", "Committed", "end"] == timeline


async def test_a_background_task_that_fails_is_rolled_back_and_reported(
    database: Database, connect: Connect, names: Names, said: Said
) -> None:
    """The rows of a background task that raises are rolled back with an ERROR that names the route; the request's own
    stay."""
    app = make_app(database)

    @app.post("/background")
    async def schedule(db: SessionDep, background: BackgroundTasks) -> None:
        db.add(Item(name="request"))

        async def fail() -> None:
            db.add(Item(name="background"))
            await db.flush()
            raise LookupError

        background.add_task(fail)

    async with connect(app) as client:
        assert 200 == (await client.post("/background")).status

    assert ["request"] == names()
    assert [
        "POST /background: work done after the response had started was rolled back: LookupError was raised"
    ] == said(logging.ERROR)


async def test_a_late_commit_that_fails_is_reported(
    database: Database, connect: Connect, observer: Observer, said: Said
) -> None:
    """A commit that fails after the response is an ERROR in the log, and the next request is not affected."""
    app = make_app(database)

    @app.post("/background")
    async def schedule(db: SessionDep, background: BackgroundTasks) -> None:
        background.add_task(db.add, Seat(code="taken"))

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")
    async with connect(app) as client:
        assert 200 == (await client.post("/background")).status
        assert 201 == (await client.post("/items?name=next")).status

    assert ["POST /background: work done after the response had started was not stored: its commit failed"] == said(
        logging.ERROR
    )
    assert 1 == observer.scalar("SELECT count(*) FROM seat")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
async def test_a_stream_whose_client_left_is_rolled_back(
    database: Database, observer: Observer, names: Names, said: Said, loop: str, reset: bool
) -> None:
    """Where the client leaves in the middle of an endless stream, the stream is closed, what it wrote is rolled back
    with an ERROR, and nothing is held."""
    app, closed = make_app(database), threading.Event()

    @app.post("/stream")
    async def stream(db: SessionDep) -> StreamingResponse:
        db.add(Item(name="request"))

        async def body() -> AsyncIterator[str]:
            try:
                db.add(Item(name="stream"))
                await db.flush()
                while True:
                    yield "x" * 1000
                    await asyncio.sleep(0)
            finally:
                closed.set()

        return StreamingResponse(body())

    with serve(app, loop=loop) as server:  # type: ignore[arg-type]
        raw_request(server, "POST", "/stream", leave="mid-body", reset=reset)
        assert await asyncio.to_thread(closed.wait, 10)
        await observer.settled()
        assert ["request"] == names()

    assert [
        "POST /stream: work done after the response had started was rolled back: the client left before the end"
    ] == said(logging.ERROR)


async def test_a_stream_that_only_read_is_left_silently(database: Database, said: Said) -> None:
    """A client that leaves a stream of reads is nobody's problem: no ERROR, no WARNING."""
    app, closed = make_app(database), threading.Event()

    @app.get("/stream")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            try:
                while True:
                    yield f"{await db.scalar(COUNT)}" * 1000
            finally:
                closed.set()

        return StreamingResponse(body())

    with serve(app) as server:
        raw_request(server, "GET", "/stream", leave="mid-body", reset=True)
        assert await asyncio.to_thread(closed.wait, 10)

    assert [] == said(logging.ERROR) + said(logging.WARNING)


async def test_a_slow_client_holds_no_connection(database: Database) -> None:
    """Between two chunks of a stream that reads, the session holds no connection, however long the client takes."""
    app, asked, go_on = make_app(database), threading.Event(), threading.Event()

    @app.get("/stream")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield f"{await db.scalar(COUNT)}"
            await asyncio.sleep(0)
            asked.set()
            await asyncio.to_thread(go_on.wait, 10)
            yield f"{await db.scalar(COUNT)}"

        return StreamingResponse(body())

    with serve(app) as server, Connection(server) as connection:
        connection.send("GET", "/stream")
        reply = await asyncio.to_thread(connection.read_headers)
        await asyncio.to_thread(connection.read_chunk, reply)
        assert await asyncio.to_thread(asked.wait, 10)
        held = in_use(database)
        go_on.set()
        await asyncio.to_thread(connection.read, reply)

    assert 0 == held
    assert b"00" == reply.body


async def test_a_failing_stream_is_rolled_back(database: Database, names: Names, said: Said) -> None:
    """A stream that raises after it wrote is rolled back, and the client sees a broken body."""
    app = make_app(database)

    @app.post("/stream")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            yield "begin"
            db.add(Item(name="stream"))
            await db.flush()
            raise LookupError

        return StreamingResponse(body())

    with serve(app) as server:
        reply = await asyncio.to_thread(raw_request, server, "POST", "/stream")

    assert reply is not None
    assert not reply.complete
    assert [] == names()
    assert 1 == len(said(logging.ERROR))


async def test_a_long_stream_commits_explicitly(database: Database, connect: Connect, names: Names) -> None:
    """A stream may commit as often as it likes; each commit is seen by others while it goes on."""
    app = make_app(database)

    @app.post("/stream")
    async def stream(db: SessionDep) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for number in range(3):
                db.add(Item(name=f"item {number}"))
                await db.commit()
                yield str(len(names()))

        return StreamingResponse(body())

    async with connect(app) as client:
        assert b"123" == (await client.post("/stream")).body


async def test_a_middleware_that_writes_after_the_endpoint_is_committed(
    database: Database, connect: Connect, names: Names
) -> None:
    """What a middleware writes after ``call_next`` belongs to the second unit, which is committed."""
    app = make_app(database)

    @app.middleware("http")
    async def audit(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        db = current_session()
        db.add(Item(name=f"saw {response.status_code}"))
        await db.flush()
        return response

    async with connect(app) as client:
        assert 201 == (await client.post("/items?name=x")).status
        assert 403 == (await client.post("/raise/http?name=y")).status

    assert ["saw 201", "saw 403", "x"] == names()


async def test_a_pure_middleware_that_writes_after_the_call_is_committed(
    database: Database, observer: Observer, connect: Connect, names: Names
) -> None:
    """The same for a plain ASGI middleware that writes when the application has returned."""
    app = make_app(database)

    class Audit:
        def __init__(self, app: object) -> None:
            self.app = app

        async def __call__(self, scope: object, receive: object, send: object) -> None:
            await self.app(scope, receive, send)  # type: ignore[operator]
            if scope["type"] == "http":  # type: ignore[index]
                current_session().add(Item(name=f"audit of {scope['method']}"))  # type: ignore[index]

    app.add_middleware(Audit)

    async with connect(app) as client:
        assert 201 == (await client.post("/items?name=x")).status
        await client.get("/items")

    # The last reply may reach its client before the commit: what a middleware does after the call, nobody waits for.
    await observer.settled()
    assert ["audit of GET", "audit of POST", "x"] == names()


# -- generator endpoints


def has_generator_endpoints() -> bool:
    """Tell whether this FastAPI streams what a generator endpoint yields."""
    from fastapi import routing

    return hasattr(routing, "_is_async_gen_callable") or hasattr(routing, "EventSourceResponse")


needs_generators = pytest.mark.skipif(not has_generator_endpoints(), reason="this FastAPI has no generator endpoints")


@needs_generators
@pytest.mark.parametrize("kind", ["jsonl", "sse"])
@pytest.mark.parametrize("writes", ["first", "later"])
async def test_a_generator_endpoint_reads_and_writes(
    database: Database, connect: Connect, names: Names, kind: str, writes: str
) -> None:
    """A generator endpoint (JSONL or server-sent events) uses the session from its first line to its last."""
    from collections.abc import AsyncIterable

    app = make_app(database)
    options = {}
    if kind == "sse":
        from fastapi.sse import EventSourceResponse

        options["response_class"] = EventSourceResponse

    async def feed(db: SessionDep) -> AsyncIterable[int]:
        if writes == "first":
            db.add(Item(name="first"))
            await db.flush()
        for number in range(3):
            yield await db.scalar(COUNT) or 0
            db.add(Item(name=f"item {number}"))
            await db.flush()

    app.post("/feed", **options)(feed)

    async with connect(app) as client:
        answer = await client.post("/feed")

    begin = 1 if writes == "first" else 0
    lines = [line.removeprefix(b"data: ") for line in answer.body.splitlines() if line.strip()]
    assert 200 == answer.status
    assert [begin, begin + 1, begin + 2] == [json.loads(line) for line in lines]
    assert ["first"] * begin + ["item 0", "item 1", "item 2"] == names()


@needs_generators
@pytest.mark.parametrize("kind", ["jsonl", "sse"])
async def test_a_generator_endpoint_after_a_writing_dependency(
    database: Database, connect: Connect, names: Names, kind: str
) -> None:
    """What dependencies of a generator endpoint wrote is committed as the request's own unit; the generator goes on
    with the session."""
    from collections.abc import AsyncIterable

    from fastapi import Depends

    app = make_app(database)
    options = {}
    if kind == "sse":
        from fastapi.sse import EventSourceResponse

        options["response_class"] = EventSourceResponse

    async def visit(db: SessionDep) -> None:
        db.add(Item(name="visit"))
        await db.flush()

    async def feed(db: SessionDep) -> AsyncIterable[int]:
        yield await db.scalar(COUNT) or 0
        db.add(Item(name="feed"))
        await db.flush()
        yield await db.scalar(COUNT) or 0

    app.post("/feed", dependencies=[Depends(visit)], **options)(feed)

    async with connect(app) as client:
        answer = await client.post("/feed")

    lines = [line.removeprefix(b"data: ") for line in answer.body.splitlines() if line.strip()]
    assert [1, 2] == [json.loads(line) for line in lines]
    assert ["feed", "visit"] == names()


@needs_generators
async def test_a_sync_generator_endpoint_reads_and_writes(database: Database, connect: Connect, names: Names) -> None:
    """A generator endpoint that is not async has the sync session."""
    from collections.abc import Iterable

    app = make_app(database)

    @app.post("/feed")
    def feed(db: SyncSessionDep) -> Iterable[int]:
        for number in range(2):
            yield db.scalar(COUNT) or 0
            db.add(Item(name=f"item {number}"))
            db.flush()

    async with connect(app) as client:
        answer = await client.post("/feed")

    assert [0, 1] == [json.loads(line) for line in answer.body.splitlines()]
    assert ["item 0", "item 1"] == names()


@needs_generators
@pytest.mark.parametrize("kind", ["jsonl", "sse"])
async def test_a_generator_endpoint_whose_client_left_is_closed(
    database: Database, observer: Observer, names: Names, kind: str
) -> None:
    """An endless generator endpoint ends when its client leaves; its uncommitted rows are rolled back and nothing is
    held."""
    from collections.abc import AsyncIterable

    app = make_app(database)
    options = {}
    if kind == "sse":
        from fastapi.sse import EventSourceResponse

        options["response_class"] = EventSourceResponse

    async def feed(db: SessionDep) -> AsyncIterable[str]:
        db.add(Item(name="feed"))
        await db.flush()
        while True:
            yield f"{await db.scalar(COUNT)}" * 1000

    app.post("/feed", **options)(feed)

    with serve(app) as server:
        raw_request(server, "POST", "/feed", leave="mid-body", reset=True)
        await observer.settled()

    assert [] == names()
    assert 0 == in_use(database)
