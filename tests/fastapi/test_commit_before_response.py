"""200 means durable: what a client is told was stored is stored before the first byte of the answer leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse

from sessionlocal import Database, SessionDep, current_session
from tests.support.asgi import Asgi, Exchange

from .app import make_app, router
from .clients import Client, Connect
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]
WRITES = ["", "/unflushed", "/sync", "/response", "/model", "/stream"]


async def post_and_look(app: FastAPI, path: str, names: Names, **options: Any) -> tuple[Exchange, list[list[str]]]:
    """Post, and note which rows everybody sees at the moment the response starts."""
    seen: list[list[str]] = []
    async with Asgi(app) as client:
        exchange = await client.post(
            path, hooks={"http.response.start": lambda message: seen.append(names())}, **options
        )
    return exchange, seen


@pytest.mark.parametrize("way", WRITES)
async def test_the_row_is_visible_when_the_response_starts(app: FastAPI, names: Names, way: str) -> None:
    """At the moment ``http.response.start`` is sent, an outside observer sees the row, whatever kind of endpoint wrote
    it."""
    exchange, seen = await post_and_look(app, f"/items{way}?name=early", names)

    assert 201 == exchange.status
    assert [["early"]] == seen


@pytest.mark.parametrize("way", WRITES)
async def test_a_client_is_answered_with_what_is_stored(client: Client, names: Names, way: str) -> None:
    """Over every way in, each kind of endpoint answers 201 and its row is there."""
    answer = await client.post(f"/items{way}?name=stored")

    assert 201 == answer.status
    assert ["stored"] == names()


async def test_a_second_request_reads_what_the_first_was_told(client: Client) -> None:
    """A request on the same connection sees the row that the one before was answered for."""
    await client.post("/items?name=a")
    await client.post("/items/sync?name=b")

    assert ["a", "b"] == (await client.get("/items")).json()
    assert ["a", "b"] == (await client.get("/items/sync")).json()


async def tag(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """A middleware as the FastAPI tutorial shows it."""
    response = await call_next(request)
    response.headers["X-Seen-Status"] = str(response.status_code)
    return response


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("way", ["", "/sync", "/stream"])
async def test_middleware_added_before_or_after_install_changes_nothing(
    database: Database, names: Names, order: str, way: str
) -> None:
    """Behind gzip and ``@app.middleware("http")``, added before or after ``install``, the commit comes first."""
    app = FastAPI()
    if order == "after":
        database.install(app)
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.middleware("http")(tag)
    if order == "before":
        database.install(app)
    app.include_router(router)

    exchange, seen = await post_and_look(app, f"/items{way}?name=x", names, headers={"accept-encoding": "gzip"})

    assert 201 == exchange.status
    assert "201" == exchange.headers["x-seen-status"]
    assert "gzip" == exchange.headers["content-encoding"]
    assert [["x"]] == seen


@pytest.mark.parametrize("order", ["before", "after"])
async def test_middleware_sees_the_status_of_the_replacement(database: Database, order: str) -> None:
    """Where a commit fails every middleware, added before or after ``install``, sees the 409 and not the 201."""
    app = make_app(database) if order == "after" else FastAPI()
    app.middleware("http")(tag)
    app.add_middleware(GZipMiddleware, minimum_size=1)
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    if order == "before":
        app.state.ran = []
        database.install(app)
        app.include_router(router)

    async with Asgi(app) as client:
        await client.post("/seats?code=a")
        exchange = await client.post("/seats?code=a", headers={"origin": "https://shop.example"})

    assert 409 == exchange.status
    assert "409" == exchange.headers["x-seen-status"]
    assert "https://shop.example" == exchange.headers["access-control-allow-origin"]


@pytest.mark.parametrize("installed", [False, True], ids=["plain", "installed"])
async def test_a_mounted_application_commits_before_its_response(
    database: Database, connect: Connect, names: Names, installed: bool
) -> None:
    """A mounted application commits before it answers, with and without an ``install`` of its own."""
    app, sub = FastAPI(), FastAPI()
    database.install(app)
    if installed:
        database.install(sub)
    sub.include_router(router)
    app.mount("/sub", sub)

    async with connect(app) as client:
        answer = await client.post("/sub/items?name=mounted")

    assert 201 == answer.status
    assert ["mounted"] == names()


@pytest.mark.parametrize("installed", [False, True], ids=["plain", "installed"])
async def test_the_row_of_a_mounted_application_is_visible_when_its_response_starts(
    database: Database, names: Names, installed: bool
) -> None:
    """The commit of a mounted application, too, comes before ``http.response.start``, buffering middleware or not."""
    app, sub = FastAPI(), FastAPI()
    database.install(app)
    if installed:
        database.install(sub)
    sub.middleware("http")(tag)
    sub.include_router(router)
    app.mount("/sub", sub)

    exchange, seen = await post_and_look(app, "/sub/items?name=mounted", names)

    assert "201" == exchange.headers["x-seen-status"]
    assert [["mounted"]] == seen


async def test_router_level_dependencies_write_into_the_same_unit(database: Database, names: Names) -> None:
    """What a dependency of a router writes is committed with what the endpoint writes, before the response."""

    async def audit(db: SessionDep) -> None:
        db.add(Item(name="audit"))

    app, audited = FastAPI(), APIRouter(prefix="/audited", dependencies=[Depends(audit)])
    database.install(app)

    @audited.post("/items", status_code=201)
    async def create(db: SessionDep) -> None:
        db.add(Item(name="item"))

    app.include_router(audited)

    _, seen = await post_and_look(app, "/audited/items", names)

    assert [["audit", "item"]] == seen


async def test_what_a_middleware_writes_before_the_endpoint_is_committed(database: Database, names: Names) -> None:
    """A middleware that writes through ``current_session()`` takes part in the request's unit of work."""
    app = make_app(database)

    @app.middleware("http")
    async def log_visit(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        current_session().add(Item(name="visit"))
        return await call_next(request)

    _, seen = await post_and_look(app, "/items?name=item", names)

    assert [["item", "visit"]] == seen


async def test_a_response_that_a_middleware_makes_itself_is_committed_first(database: Database, names: Names) -> None:
    """A middleware that writes and answers without asking the application gets its commit before its response, too."""
    app = make_app(database)

    @app.middleware("http")
    async def answer(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        current_session().add(Item(name="visit"))
        return JSONResponse({}, 202)

    exchange, seen = await post_and_look(app, "/items?name=item", names)

    assert 202 == exchange.status
    assert [["visit"]] == seen


async def test_no_statement_follows_the_commit(database: Database) -> None:
    """Once the library has committed, nothing is sent to the database before the reply."""
    from sqlalchemy import event

    app, sent = make_app(database), []
    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *rest: sent.append(statement.split()[0]),
    )
    database.facts.subscribe(lambda fact: sent.append(type(fact).__name__))

    async with Asgi(app) as client:
        await client.post("/items/model?name=x", timeline=sent)

    assert ["INSERT", "Committed", "response 201"] == sent[:3]
    assert "end" == sent[-1]
    assert "SELECT" not in sent
