"""Requests that are cancelled at random moments, eight at a time: the application is as good as new afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import Database
from tests.faults.ground import Ground, Parent, end_stuck_goodbyes, write
from tests.support.asgi import Asgi, Exchange

pytestmark = [
    pytest.mark.usefixtures("async_backend", "no_leftovers"),
    pytest.mark.backends("asyncpg", "postgresql-psycopg-async", "aiosqlite", "aiomysql", "asyncmy"),
]
REQUESTS = 200
TASKS = 8
SEED = 20_240_229
MAX_ROUNDS = 60  # rounds of the event loop before a cancellation; a write takes about forty
PATHS = (("GET", "/parents"), ("POST", "/parents"), ("POST", "/refused"), ("GET", "/gathered"))


@pytest.fixture
def app(ground: Ground) -> FastAPI:
    """An application that reads, writes, refuses and gathers."""
    database: Database = ground.database
    made = FastAPI()
    database.install(made)

    @made.get("/parents")
    async def read(db: AsyncSession = Depends(database.get_db)) -> int:
        found = (await db.scalars(select(Parent))).all()
        await asyncio.sleep(0)
        await db.scalars(select(Parent).limit(1))
        return len(found)

    @made.post("/parents", status_code=201)
    async def create(db: AsyncSession = Depends(database.get_db)) -> None:
        await write(db)

    @made.post("/refused", status_code=409)
    async def refuse(db: AsyncSession = Depends(database.get_db)) -> None:
        await write(db)

    @made.get("/gathered")
    async def gathered() -> int:
        return len(await database.gather(count, count))

    return made


async def count(db: AsyncSession) -> int:
    """Read everything."""
    return len((await db.scalars(select(Parent))).all())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Asgi]:
    """The application, started."""
    async with Asgi(app) as opened:
        yield opened


async def cancelled_natively(client: Asgi, method: str, path: str, rounds: int, *, times: int) -> Exchange | None:
    """Make a request and cancel its task after some rounds of the event loop, perhaps twice."""
    task = asyncio.create_task(client.request(method, path))
    for _ in range(times):
        for _ in range(rounds):
            if task.done():
                break
            await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait({task})
    return None if task.cancelled() else task.result()


async def cancelled_by_a_scope(client: Asgi, method: str, path: str, rounds: int) -> Exchange | None:
    """Make a request in an anyio scope and cancel the scope after some rounds of the event loop."""
    answer: Exchange | None = None
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            for _ in range(rounds):
                await asyncio.sleep(0)
            scope.cancel()

        cancelling = asyncio.create_task(cancel())
        answer = await client.request(method, path)
    await asyncio.wait({cancelling})
    return answer


def requests(chance: random.Random) -> Iterator[tuple[str, str, int, str]]:
    """Draw the requests: what is asked, when it is cancelled, and how."""
    for _ in range(REQUESTS):
        method, path = chance.choice(PATHS)
        yield method, path, chance.randrange(MAX_ROUNDS), chance.choice(("once", "twice", "scope"))


async def test_random_cancellations(ground: Ground, client: Asgi) -> None:
    """After 200 requests that were cancelled at random moments, eight at a time, nothing is lost or half stored."""
    await ground.warm()
    waiting: Any = requests(random.Random(SEED))
    outcomes: list[tuple[str, str, Exchange | None]] = []

    async def worker() -> None:
        for method, path, rounds, how in waiting:
            if how == "scope":
                answer = await cancelled_by_a_scope(client, method, path, rounds)
            else:
                answer = await cancelled_natively(client, method, path, rounds, times=2 if how == "twice" else 1)
            outcomes.append((method, path, answer))
            await end_stuck_goodbyes()

    async with asyncio.TaskGroup() as group:
        for _ in range(TASKS):
            group.create_task(worker())
    created = sum(path == "/parents" and answer is not None and answer.status == 201 for _, path, answer in outcomes)
    attempted = sum((method, path) == ("POST", "/parents") for method, path, _ in outcomes)
    cancelled = sum(answer is None for *_, answer in outcomes)

    assert REQUESTS == len(outcomes)
    assert 0 < cancelled
    await ground.nothing_lent()
    parents, children = ground.stored
    assert parents == children
    assert created <= parents <= attempted
    await ground.at_rest()
