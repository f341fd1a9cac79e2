"""What did not end well is not stored, whatever the client is told about it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse

from sessionlocal import Database, SessionDep, current_session
from sessionlocal.events import Committed, RolledBack
from tests.support.asgi import Asgi

from .app import Teapot, make_app
from .clients import Client, Connect
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]

FAILURES = [
    ("/raise/http?name=x", 403),
    ("/raise/plain?name=x", 500),
    ("/raise/mapped?name=x", 200),
    ("/raise/sync/http?name=x", 403),
    ("/raise/sync/plain?name=x", 500),
    ("/raise/sync/mapped?name=x", 200),
    ("/raise-model?name=x", 500),
    ("/raise-validation?name=x", 422),
    ("/raise-dependency?name=x", 401),
    ("/status/400?name=x", 400),
    ("/status/503?name=x", 503),
    ("/status/sync/404?name=x", 404),
]


@pytest.mark.parametrize(("path", "status"), FAILURES)
async def test_nothing_is_stored_by_a_request_that_failed(client: Client, names: Names, path: str, status: int) -> None:
    """An HTTPException, a plain exception, one that a handler turns into a 200, a returned error status, a response
    that breaks its model, a later dependency that refuses: in each case the written row is rolled back."""
    answer = await client.post(path)

    assert status == answer.status
    assert [] == names()


@pytest.mark.parametrize(("status", "stored"), [(204, ["x"]), (302, ["x"]), (399, ["x"]), (400, [])])
async def test_a_returned_status_decides(client: Client, names: Names, status: int, stored: list[str]) -> None:
    """Redirects and everything below 400 commit; 400 and above roll back."""
    answer = await client.post(f"/status/{status}?name=x")

    assert status == answer.status
    assert stored == names()


@pytest.mark.parametrize(("kind", "status"), [("http", 403), ("plain", 500), ("mapped", 200)])
async def test_an_explicit_commit_is_kept(client: Client, names: Names, kind: str, status: int) -> None:
    """What the endpoint committed itself before it raised stays; what it wrote after that is rolled back."""
    answer = await client.post(f"/raise/committed/{kind}?name=kept")

    assert status == answer.status
    assert ["kept"] == names()


async def test_the_next_request_starts_clean(client: Client, names: Names) -> None:
    """After a failure the next request commits its own work and nothing of the one before."""
    await client.post("/raise/plain?name=lost")
    await client.post("/status/400?name=lost-too")
    answer = await client.post("/items?name=stored")

    assert 201 == answer.status
    assert ["stored"] == names()


async def test_the_handler_still_reads_what_the_request_wrote(database: Database, names: Names) -> None:
    """An exception handler runs inside the request: it sees the session and its uncommitted rows, which are rolled
    back after it."""
    app = FastAPI()
    database.install(app)

    @app.exception_handler(Teapot)
    async def answer(request: Request, error: Teapot) -> Response:
        item = await current_session().get(Item, 1)
        return JSONResponse({"name": None if item is None else item.name})

    @app.post("/")
    async def write(db: SessionDep) -> None:
        db.add(Item(id=1, name="draft"))
        await db.flush()
        raise Teapot

    async with Asgi(app) as client:
        exchange = await client.post("/")

    assert {"name": "draft"} == exchange.json()
    assert [] == names()


async def test_current_session_knows_of_the_failure_too(database: Database, connect: Connect, names: Names) -> None:
    """An endpoint that takes its session from ``current_session()`` is rolled back as well when a handler turns its
    exception into a 200."""
    from sessionlocal.fastapi import _compat

    if not _compat.HAS_FUNCTION_STACK:
        pytest.skip("this FastAPI tells nobody but a dependency that the endpoint raised")
    app = make_app(database)

    @app.post("/current")
    async def write() -> None:
        db = current_session()
        db.add(Item(name="x"))
        await db.flush()
        raise Teapot

    async with connect(app) as client:
        answer = await client.post("/current")

    assert 200 == answer.status
    assert [] == names()


async def test_facts_tell_how_each_request_ended(database: Database) -> None:
    """A subscriber learns which requests were committed, which were rolled back, and why."""
    app, facts = make_app(database), []
    database.facts.subscribe(facts.append)

    async with Asgi(app) as client:
        await client.post("/items?name=a")
        await client.post("/raise/http?name=b")
        await client.post("/status/400?name=c")
        await client.get("/items")

    assert [
        Committed("POST /items", database.name),
        RolledBack("POST /raise/{kind}", database.name, "HTTPException"),
        RolledBack("POST /status/{status}", database.name, "status"),
    ] == facts


async def test_a_rollback_that_was_asked_for_is_silent(database: Database, said: Callable[[int], list[str]]) -> None:
    """An endpoint that fails in an ordinary way makes no noise in this library's log."""
    app = make_app(database)

    async with Asgi(app) as client:
        await client.post("/raise/http?name=b")
        await client.post("/status/400?name=c")

    assert [] == said(logging.WARNING)
    assert [] == said(logging.ERROR)


async def test_an_exception_in_a_dependency_after_its_yield_is_too_late_to_lie(
    database: Database, names: Names
) -> None:
    """A function-scope dependency that raises after its ``yield`` fails the request, and nothing is stored."""
    from typing import Any

    from fastapi import Depends

    from .conftest import HAS_DEPENDENCY_SCOPES

    if not HAS_DEPENDENCY_SCOPES:
        pytest.skip("this FastAPI has no function scope")

    async def check(db: SessionDep) -> Any:
        yield
        raise HTTPException(402)

    app = make_app(database)

    @app.post("/checked", dependencies=[Depends(check, scope="function")])
    async def write(db: SessionDep) -> None:
        db.add(Item(name="x"))
        await db.flush()

    async with Asgi(app) as client:
        exchange = await client.post("/checked")

    assert 402 == exchange.status
    assert [] == names()
