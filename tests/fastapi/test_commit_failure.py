"""No client sees a 2xx for work that was not committed: a failed commit replaces the response."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

from sessionlocal import Database, SessionDep, current_session
from tests.support.asgi import Asgi
from tests.support.observer import Observer

from .app import make_app, router
from .clients import Client, Connect, Live
from .conftest import in_use
from .models import Item, Seat

pytestmark = pytest.mark.backends("postgresql-asyncpg")

RESERVATIONS = ["", "/sync", "/response", "/stream", "/sync-stream"]


def count(observer: Observer) -> int:
    """Count the seats that everybody can see."""
    return int(observer.scalar("SELECT count(*) FROM seat"))


@pytest.fixture
def taken(app: FastAPI, observer: Observer) -> str:
    """The code of a seat that is taken."""
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")
    return "taken"


@pytest.mark.parametrize("way", RESERVATIONS)
async def test_a_duplicate_found_at_commit_is_a_409(
    client: Client, app: FastAPI, observer: Observer, taken: str, way: str
) -> None:
    """A deferred constraint that fails at COMMIT is answered with 409 and a problem document; the original response is
    dropped whole, its body iterator and background tasks untouched."""
    answer = await client.post(f"/seats{way}?code={taken}")

    assert 409 == answer.status
    assert "application/problem+json" == answer.headers["content-type"]
    assert "urn:sessionlocal:unique-violation" == answer.json()["type"]
    assert "x-code" not in answer.headers
    assert [] == app.state.ran
    assert 1 == count(observer)


async def test_the_connection_serves_the_next_request(client: Client, taken: str) -> None:
    """Exactly one response is on the wire: a keep-alive connection goes on after a replaced response."""
    statuses = [
        (await client.post(f"/seats{way}?code={code}")).status
        for way, code in [("", taken), ("/stream", taken), ("/response", "free"), ("/sync", taken)]
    ]

    assert [409, 409, 201, 409] == statuses
    if isinstance(client, Live):
        assert 1 == client.connections


@pytest.mark.parametrize("way", RESERVATIONS)
async def test_one_response_is_sent(app: FastAPI, taken: str, way: str) -> None:
    """The application starts one response and ends it once."""
    async with Asgi(app) as client:
        exchange = await client.post(f"/seats{way}?code={taken}")

    assert ["response 409", "end"] == [exchange.timeline[0], exchange.timeline[-1]]
    assert 1 == [message["type"] for message in exchange.messages].count("http.response.start")
    assert exchange.complete
    assert exchange.error is None


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("kind", [IntegrityError, DBAPIError, SQLAlchemyError])
@pytest.mark.parametrize("order", ["before", "after"])
async def test_the_applications_own_handler_renders_the_failure(
    database: Database, observer: Observer, kind: type[Exception], is_async: bool, order: str
) -> None:
    """A handler that the application registered, async or not, before or after ``install``, for the error or for a
    base of it, decides what the client sees."""
    app = FastAPI()

    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"mine": type(error).__name__}, 418)

    def answer_sync(request: Request, error: Exception) -> Response:
        return JSONResponse({"mine": type(error).__name__}, 418)

    if order == "after":
        database.install(app)
    app.add_exception_handler(kind, answer if is_async else answer_sync)
    if order == "before":
        database.install(app)
    app.include_router(router)
    app.state.ran = []
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        exchange = await client.post("/seats?code=taken")

    assert 418 == exchange.status
    assert {"mine": "IntegrityError"} == exchange.json()


async def test_a_handler_of_everything_renders_the_failure_without_ours(
    database: Database, observer: Observer, connect: Connect
) -> None:
    """With ``errors=False`` the application's handler of ``Exception`` renders a failed commit."""
    app = make_app(database, errors=False)

    @app.exception_handler(Exception)
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"mine": type(error).__name__}, 500)

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        answer_ = await client.post("/seats?code=taken")

    assert 500 == answer_.status
    assert {"mine": "IntegrityError"} == answer_.json()


async def test_a_handler_of_everything_leaves_conflicts_to_us(database: Database, observer: Observer) -> None:
    """A handler of ``Exception`` is the last resort, not a rule for database errors: a duplicate stays a 409."""
    app = make_app(database)

    @app.exception_handler(Exception)
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({}, 500)

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        exchange = await client.post("/seats?code=taken")

    assert 409 == exchange.status


async def test_without_any_handler_it_is_a_500(database: Database, observer: Observer, connect: Connect) -> None:
    """With ``errors=False`` and no handler a failed commit is a 500, as any exception that nobody handles."""
    app = make_app(database, errors=False)
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        failed = await client.post("/seats?code=taken")
        stored = await client.post("/seats?code=free")

    assert [500, 201] == [failed.status, stored.status]


async def test_a_lost_server_before_commit_is_not_a_200(
    database: Database, observer: Observer, connect: Connect, names: Callable[[], list[str]]
) -> None:
    """Where the backend is gone before COMMIT the client gets a 503, and the next request works.

    A 500 where asyncpg has read the server's last words and not yet its farewell: it takes that for a bug of its own.
    """
    app = make_app(database)

    @app.post("/killed", status_code=201)
    async def write_and_be_killed(db: SessionDep) -> None:
        db.add(Item(name="lost"))
        await db.flush()
        observer.end_sessions()

    async with connect(app) as client:
        killed = await client.post("/killed")
        after = await client.post("/items?name=after")

    assert 201 == after.status
    assert killed.status in (500, 503)
    if killed.status == 503:
        # Whether the server's farewell is heard before the socket breaks is up to the event loop.
        assert killed.json()["type"] in ("urn:sessionlocal:database-unavailable", "urn:sessionlocal:commit-unknown")
    assert ["after"] == names()


@pytest.mark.parametrize("installed", [False, True], ids=["plain", "installed"])
async def test_a_mounted_application_renders_with_its_own_handler(
    database: Database, observer: Observer, connect: Connect, installed: bool
) -> None:
    """The handler of a mounted application goes before that of the application around it."""
    app, sub = make_app(database), FastAPI()
    if installed:
        database.install(sub)

    @app.exception_handler(IntegrityError)
    async def answer(request: Request, error: IntegrityError) -> Response:
        return JSONResponse({"by": "parent"}, 400)

    @sub.exception_handler(IntegrityError)
    async def answer_sub(request: Request, error: IntegrityError) -> Response:
        return JSONResponse({"by": "mounted"}, 418)

    sub.include_router(router)
    sub.state.ran = []
    app.mount("/sub", sub)
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        mounted = await client.post("/sub/seats?code=taken")
        parent = await client.post("/seats?code=taken")

    assert (418, {"by": "mounted"}) == (mounted.status, mounted.json())
    assert (400, {"by": "parent"}) == (parent.status, parent.json())


@pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")  # of Starlette's middleware, before 0.40
async def test_a_mounted_application_without_handlers_uses_those_around_it(
    database: Database, observer: Observer, connect: Connect
) -> None:
    """Without a handler of its own, a mounted application's failed commit is rendered by the application around it,
    also from behind a middleware of the mounted one."""
    app, sub = make_app(database), FastAPI()
    sub.include_router(router)
    sub.state.ran = []

    @sub.middleware("http")
    async def pass_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        return await call_next(request)

    app.mount("/sub", sub)
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        answers = [await client.post(f"/sub/seats{way}?code=taken") for way in RESERVATIONS]

    gc.collect()
    assert [409] * len(RESERVATIONS) == [answer.status for answer in answers]
    assert [] == [entry for entry in sub.state.ran if entry == "background"]


async def test_a_mounted_applications_handler_of_everything_renders_the_failure(
    database: Database, observer: Observer
) -> None:
    """A mounted application that handles ``Exception`` answers for its own failed commits."""
    app, sub = make_app(database, errors=False), FastAPI()

    @sub.exception_handler(Exception)
    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"by": "mounted"}, 500)

    sub.include_router(router)
    sub.state.ran = []
    app.mount("/sub", sub)
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        exchange = await client.post("/sub/seats?code=taken")

    assert (500, {"by": "mounted"}) == (exchange.status, exchange.json())
    assert isinstance(exchange.error, IntegrityError)


async def test_what_the_handler_writes_is_not_stored(
    database: Database, observer: Observer, names: Callable[[], list[str]]
) -> None:
    """A handler that answers a failed commit with a 200 gets its answer sent, and nothing it wrote is stored: the
    request has failed."""
    app = make_app(database)

    @app.exception_handler(IntegrityError)
    async def answer(request: Request, error: IntegrityError) -> Response:
        db = current_session()
        db.add(Item(name="by the handler"))
        await db.flush()
        return JSONResponse({"sorry": True})

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        exchange = await client.post("/seats?code=taken")

    assert (200, {"sorry": True}) == (exchange.status, exchange.json())
    assert [] == names()


async def test_a_handler_that_fails_is_a_500(database: Database, observer: Observer) -> None:
    """A handler that raises while it renders a failed commit makes it a 500; nothing hangs."""
    app = make_app(database)

    @app.exception_handler(IntegrityError)
    async def answer(request: Request, error: IntegrityError) -> Response:
        raise LookupError("no template")

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        exchange = await client.post("/seats?code=taken")

    assert 500 == exchange.status
    assert isinstance(exchange.error, LookupError)


async def test_background_tasks_of_the_replacement_run(database: Database, observer: Observer) -> None:
    """The replacement is a response of its own: its background tasks run, the original's do not."""
    app = make_app(database)

    @app.exception_handler(IntegrityError)
    async def answer(request: Request, error: IntegrityError) -> Response:
        tasks = BackgroundTasks()
        tasks.add_task(app.state.ran.append, "of the replacement")
        return JSONResponse({}, 409, background=tasks)

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        await client.post("/seats?code=taken")

    assert ["of the replacement"] == app.state.ran


@pytest.mark.parametrize("way", ["async", "sync"])
async def test_yield_dependencies_are_closed_when_the_response_is_dropped(
    database: Database, observer: Observer, connect: Connect, way: str
) -> None:
    """Dependencies with ``yield`` run their exit code before the replacement has been sent to its end."""
    app, ran = make_app(database), []

    async def resource() -> Any:
        ran.append("open")
        try:
            yield
        finally:
            ran.append("close")

    def resource_sync() -> Iterator[None]:
        ran.append("open")
        try:
            yield
        finally:
            ran.append("close")

    @app.post("/with-resource", dependencies=[Depends(resource if way == "async" else resource_sync)])
    async def reserve(db: SessionDep) -> None:
        db.add(Seat(code="taken"))

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        answer = await client.post("/with-resource")
        closed = list(ran)

    assert 409 == answer.status
    assert ["open", "close"] == closed


async def test_a_dependency_that_turns_every_exception_into_a_500_does_not_hide_the_conflict(
    database: Database, observer: Observer
) -> None:
    """A dependency that swallows or replaces what it sees at its ``yield`` cannot turn a failed commit into anything
    but what the handler makes of it."""
    app = make_app(database)

    async def swallow() -> Any:
        try:
            yield
        except Exception:  # noqa: BLE001, RUF100 - the mistake under test
            return

    async def replace() -> Any:
        try:
            yield
        except Exception as error:
            raise LookupError from error

    @app.post("/swallow", dependencies=[Depends(swallow)])
    @app.post("/replace", dependencies=[Depends(replace)])
    async def reserve(db: SessionDep) -> None:
        db.add(Seat(code="taken"))

    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with Asgi(app) as client:
        statuses = [(await client.post(path)).status for path in ("/swallow", "/replace")]

    assert [409, 409] == statuses


async def test_a_failure_in_the_endpoint_has_the_same_answer(database: Database) -> None:
    """A duplicate that the flush finds inside the endpoint is the same 409 as one that the commit finds."""
    app = make_app(database)

    async with Asgi(app) as client:
        await client.post("/items?name=once")
        in_endpoint = await client.post("/items?name=once")
        at_commit = await client.post("/items/unflushed?name=once")

    assert [409, 409] == [in_endpoint.status, at_commit.status]
    assert in_endpoint.json() == at_commit.json()


async def test_a_duplicate_that_the_endpoint_handles_is_its_own_affair(database: Database, connect: Connect) -> None:
    """An endpoint that catches the error of a savepoint goes on and its other work is committed."""
    app = make_app(database)

    @app.post("/catch")
    async def catch(db: SessionDep) -> int:
        db.add(Item(name="kept"))
        await db.flush()
        try:
            async with db.begin_nested():
                db.add(Item(name="kept"))
        except IntegrityError:
            pass
        return len((await db.scalars(select(Item))).all())

    async with connect(app) as client:
        answer = await client.post("/catch")
        stored = await client.get("/items")

    assert (200, 1) == (answer.status, answer.json())
    assert ["kept"] == stored.json()


async def test_a_transaction_that_failed_and_was_ignored_is_not_a_200(database: Database, observer: Observer) -> None:
    """An endpoint that swallows a database error without a rollback, and answers 200, does not get that 200 out: the
    work before the error is gone, and saying otherwise would be a lie."""
    app = make_app(database)

    @app.post("/swallow")
    async def swallow(db: SessionDep) -> dict[str, bool]:
        db.add(Item(name="before"))
        await db.flush()
        with suppress(DBAPIError):
            await db.execute(text("SELECT 1/0"))
        return {"ok": True}

    async with Asgi(app) as client:
        exchange = await client.post("/swallow")

    assert 0 == observer.scalar("SELECT count(*) FROM item")
    assert exchange.status is not None
    assert 500 <= exchange.status


async def test_nothing_is_held_after_a_failed_commit(database: Database, observer: Observer, connect: Connect) -> None:
    """Pool and server are back where they were after ten failed commits on a pool of one."""
    app = make_app(database)
    observer.execute("INSERT INTO seat (code) VALUES ('taken')")

    async with connect(app) as client:
        statuses = {(await client.post(f"/seats{way}?code=taken")).status for way in RESERVATIONS * 2}
        held = in_use(database)
        await observer.settled()

    assert {409} == statuses
    assert 0 == held
