"""Many sync requests at once on a small pool: nobody waits in a thread for a connection that only a thread can free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import anyio
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import func, select

from sessionlocal import Database, SyncSessionDep
from tests.support.asgi import Asgi
from tests.support.live import raw_request, serve
from tests.support.observer import Observer

from .conftest import in_use
from .models import Item

pytestmark = [pytest.mark.backends("postgresql-asyncpg"), pytest.mark.options(pool_size=5, pool_timeout=10)]

CLIENTS = 100


class Counted(BaseModel):
    """A response model: serializing it takes one more turn in the thread pool."""

    count: int
    before: int


def count_items(db: SyncSessionDep) -> int:
    """A dependency that queries, in a thread."""
    return db.scalar(select(func.count()).select_from(Item)) or 0


@pytest.fixture
def busy(database: Database) -> FastAPI:
    """An application whose sync routes have a querying sub-dependency and a response model."""
    app = FastAPI()
    database.install(app)

    @app.get("/read", response_model=Counted)
    def read(db: SyncSessionDep, before: Annotated[int, Depends(count_items)]) -> Any:
        return {"count": db.scalar(select(func.count()).select_from(Item)), "before": before}

    @app.post("/write", response_model=Counted, status_code=201)
    def write(name: str, db: SyncSessionDep, before: Annotated[int, Depends(count_items)]) -> Any:
        db.add(Item(name=name))
        db.flush()
        return {"count": db.scalar(select(func.count()).select_from(Item)), "before": before}

    return app


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_hundred_sync_requests_at_once_all_succeed(busy: FastAPI, observer: Observer, loop: Any) -> None:
    """100 clients at once, a pool of 5, FastAPI's 40 threads, a response model and a querying ``def`` sub-dependency:
    no request fails, reading or writing."""
    with serve(busy, loop=loop) as server, ThreadPoolExecutor(CLIENTS) as clients:
        read = [clients.submit(raw_request, server, "GET", "/read") for _ in range(CLIENTS)]
        wrote = [clients.submit(raw_request, server, "POST", f"/write?name={number}") for number in range(CLIENTS)]
        statuses = await asyncio.to_thread(lambda: [future.result() for future in (*read, *wrote)])

    assert {200: CLIENTS, 201: CLIENTS} == {
        code: [reply.status for reply in statuses if reply is not None].count(code) for code in (200, 201)
    }
    assert CLIENTS == observer.scalar("SELECT count(*) FROM item")


async def test_permits_come_back_on_every_path(database: Database, observer: Observer) -> None:
    """After an exception, an error status, a refused dependency, a failed commit, a cancellation and a client that
    left, as many sync requests may run as before."""
    app = FastAPI()
    database.install(app)

    def write(name: str, db: SyncSessionDep) -> None:
        db.add(Item(name=name))
        db.flush()

    @app.post("/raise", dependencies=[Depends(write)])
    def fail() -> None:
        raise LookupError

    @app.post("/http", dependencies=[Depends(write)])
    def refuse() -> None:
        raise HTTPException(403)

    @app.post("/status", dependencies=[Depends(write)])
    def answer() -> JSONResponse:
        return JSONResponse({}, 400)

    @app.post("/invalid", dependencies=[Depends(write)])
    def invalid(number: int) -> None:
        """Never called."""

    @app.post("/ok", dependencies=[Depends(write)])
    def ok() -> None:
        """Leaves a duplicate behind the second time."""

    @app.post("/wait", dependencies=[Depends(write)])
    async def wait() -> None:
        await asyncio.Event().wait()

    async with Asgi(app) as client:
        for round_ in range(5):
            for path in ("/raise", "/http", "/status", "/invalid"):
                await client.post(f"{path}?name={round_}")
            await client.post("/ok?name=once")
            await client.post(f"/ok?name=gone-{round_}", leave="after the request")
            with anyio.move_on_after(0.2):
                await client.post("/wait?name=cancelled")
            task = asyncio.ensure_future(client.post("/wait?name=cancelled"))
            while not observer.open_transactions():  # noqa: ASYNC110 - until the request has written
                await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        permits = database.sync_permits()
        free = 0
        while not permits.locked():
            await permits.acquire()
            free += 1

    assert 5 == free
    assert 0 == in_use(database)


@pytest.mark.options(pool_size=1, pool_timeout=0.2)
async def test_a_permit_that_does_not_come_is_a_503(database: Database) -> None:
    """A sync request that waits longer for a permit than it would for the pool is answered with 503."""
    app, inside, go_on = FastAPI(), asyncio.Event(), asyncio.Event()
    database.install(app)

    @app.get("/hold")
    async def hold(db: SyncSessionDep) -> None:
        inside.set()
        await go_on.wait()

    async with Asgi(app) as client:
        first = asyncio.ensure_future(client.get("/hold"))
        await inside.wait()
        second = await client.get("/hold")
        go_on.set()
        assert 200 == (await first).status

    assert 503 == second.status
    assert "urn:sessionlocal:pool-timeout" == second.json()["type"]


async def test_two_databases_in_opposite_order_do_not_block_each_other(
    database: Database, names: Callable[[], list[str]]
) -> None:
    """Requests that take the sync sessions of two databases in opposite order may wait for each other; none does for
    longer than it would for the pool, and the next ones are served."""
    other = Database(database.config.url, pool_size=1, pool_timeout=1)
    app = FastAPI()
    database.install(app)
    other.install(app)

    @app.get("/one")
    def one(a: Any = Depends(database.get_sync_db), b: Any = Depends(other.get_sync_db)) -> int:
        return a.scalar(select(1)) + b.scalar(select(1))

    @app.get("/two")
    def two(b: Any = Depends(other.get_sync_db), a: Any = Depends(database.get_sync_db)) -> int:
        return a.scalar(select(1)) + b.scalar(select(1))

    async with Asgi(app) as client:
        answers = await asyncio.gather(*(client.get(path) for path in ("/one", "/two") * 10))
        after = [(await client.get(path)).json() for path in ("/one", "/two")]

    assert {answer.status for answer in answers} <= {200, 503}
    assert [2, 2] == after
