"""What a request costs on the wire, from the first byte to the last, through a real application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from tests.counts.face import Cost, Face
from tests.counts.models import Item
from tests.support.asgi import Asgi

ASYNCPG = {
    "GET /items/1": Cost(warm=1, cold=2),
    "GET /items": Cost(warm=1, cold=2),
    "POST /items": Cost(warm=3, cold=4),
    "GET /unused": Cost(warm=0, cold=0),
    "GET /missing": Cost(warm=0, cold=0),
    "POST /refused": Cost(warm=3, cold=4),
}
OTHERS = {
    "GET /items/1": Cost(warm=1, cold=1),
    "GET /items": Cost(warm=1, cold=1),
    "POST /items": Cost(warm=3, cold=3),
    "GET /unused": Cost(warm=0, cold=0),
    "GET /missing": Cost(warm=0, cold=0),
    "POST /refused": Cost(warm=3, cold=3),
}


class ItemOut(BaseModel, from_attributes=True):
    """An item in a response."""

    id: int
    name: str


@pytest.fixture
def app(face: Face) -> FastAPI:
    """A small application whose endpoints are of the driver's kind."""
    made = FastAPI()
    face.database.install(made)
    add_shared(made)
    if face.backend.is_async:
        add_async(made, face)
    else:
        add_sync(made, face)
    return made


def add_shared(app: FastAPI) -> None:
    """Add a route without a session."""

    @app.get("/missing")
    async def missing() -> dict[str, Any]:
        return {}


def add_async(app: FastAPI, face: Face) -> None:
    """Add the routes with async sessions."""
    get_db = face.database.get_db

    @app.get("/items/{number}", response_model=ItemOut)
    async def item(number: int, db: AsyncSession = Depends(get_db)) -> Any:
        return await db.get(Item, number)

    @app.get("/items", response_model=list[ItemOut])
    async def items(db: AsyncSession = Depends(get_db)) -> Any:
        return (await db.scalars(select(Item).order_by(Item.id).limit(50))).all()

    @app.post("/items", status_code=201, response_model=ItemOut)
    async def create(db: AsyncSession = Depends(get_db)) -> Any:
        created = Item(name=face.new_name())
        db.add(created)
        await db.flush()
        return created

    @app.get("/unused")
    async def unused(db: AsyncSession = Depends(get_db)) -> dict[str, Any]:
        return {}

    @app.post("/refused", status_code=409)
    async def refused(db: AsyncSession = Depends(get_db)) -> dict[str, Any]:
        db.add(Item(name="never stored"))
        await db.flush()
        return {}


def add_sync(app: FastAPI, face: Face) -> None:
    """Add the same routes with sync sessions."""
    get_db = face.database.get_sync_db

    @app.get("/items/{number}", response_model=ItemOut)
    def item(number: int, db: Session = Depends(get_db)) -> Any:
        return db.get(Item, number)

    @app.get("/items", response_model=list[ItemOut])
    def items(db: Session = Depends(get_db)) -> Any:
        return db.scalars(select(Item).order_by(Item.id).limit(50)).all()

    @app.post("/items", status_code=201, response_model=ItemOut)
    def create(db: Session = Depends(get_db)) -> Any:
        created = Item(name=face.new_name())
        db.add(created)
        db.flush()
        return created

    @app.get("/unused")
    def unused(db: Session = Depends(get_db)) -> dict[str, Any]:
        return {}

    @app.post("/refused", status_code=409)
    def refused(db: Session = Depends(get_db)) -> dict[str, Any]:
        db.add(Item(name="never stored"))
        db.flush()
        return {}


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[Asgi]:
    """The application, started."""
    async with Asgi(app) as opened:
        yield opened


async def assert_costs(face: Face, client: Asgi, request: str, status: int) -> None:
    """Compare what a request costs with the table."""
    method, path = request.split()

    async def work() -> None:
        assert status == (await client.request(method, path)).status

    measured = await face.measure(work)

    assert (ASYNCPG if face.backend.driver == "asyncpg" else OTHERS)[request] == measured, face.trips
    assert 0 == face.in_use


async def test_get_item(face: Face, client: Asgi) -> None:
    """A GET of one item is one round trip."""
    await assert_costs(face, client, "GET /items/1", 200)


async def test_get_list(face: Face, client: Asgi) -> None:
    """A GET of a list is one round trip."""
    await assert_costs(face, client, "GET /items", 200)


async def test_post_item(face: Face, client: Asgi) -> None:
    """A POST of an item is three round trips, the commit before its response included."""
    await assert_costs(face, client, "POST /items", 201)


async def test_unused_session(face: Face, client: Asgi) -> None:
    """A request whose session is not used sends nothing."""
    await assert_costs(face, client, "GET /unused", 200)


async def test_no_session(face: Face, client: Asgi) -> None:
    """A request without a session sends nothing."""
    await assert_costs(face, client, "GET /missing", 200)


async def test_refused_request(face: Face, client: Asgi) -> None:
    """A request that is answered with 409 after an insert is three round trips, the last a ROLLBACK."""
    await assert_costs(face, client, "POST /refused", 409)
