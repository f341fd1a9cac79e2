"""fastapi-pagination, used as its documentation shows; only the session comes from here."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from fastapi import FastAPI
from fastapi_pagination import LimitOffsetPage, Page, add_pagination
from fastapi_pagination.ext.sqlalchemy import apaginate, paginate
from pydantic import BaseModel, ConfigDict
from sqlalchemy import select

from sessionlocal import Database, ReadSessionDep, SessionDep, SyncSessionDep

from .shop import Base, Item

pytestmark = [pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite"), pytest.mark.usefixtures("no_leftovers")]


class ItemOut(BaseModel):
    """An item as the pages show it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str


@pytest.fixture
async def client(
    database: Database,
    tables: Callable[[type[Base]], None],
    browse: Callable[[FastAPI], httpx.AsyncClient],
) -> httpx.AsyncClient:
    """An application with every kind of page over seven items."""
    tables(Base)
    app = FastAPI()
    database.install(app)

    @app.get("/items")
    async def items(db: SessionDep) -> Page[ItemOut]:
        return await apaginate(db, select(Item).order_by(Item.id))

    @app.get("/items/read-only")
    async def items_read_only(db: ReadSessionDep) -> LimitOffsetPage[ItemOut]:
        return await apaginate(db, select(Item).order_by(Item.id))

    @app.get("/items/sync")
    def items_sync(db: SyncSessionDep) -> Page[ItemOut]:
        return paginate(db, select(Item).order_by(Item.id))

    @app.post("/items/then-page", status_code=201)
    async def add_then_page(db: SessionDep) -> Page[ItemOut]:
        db.add(Item(name="new"))
        return await apaginate(db, select(Item).order_by(Item.id))

    add_pagination(app)
    async with database.session() as db:
        db.add_all(Item(name=f"item {number}") for number in range(7))
    return browse(app)


@pytest.mark.parametrize("path", ["/items?page=2&size=3", "/items/sync?page=2&size=3"])
async def test_a_page_holds_its_items_and_the_total(client: httpx.AsyncClient, path: str) -> None:
    """Async and sync sessions give the same page."""
    page = (await client.get(path)).json()

    assert ["item 3", "item 4", "item 5"] == [item["name"] for item in page["items"]]
    assert 7 == page["total"]


async def test_a_read_only_session_is_enough_for_a_page(client: httpx.AsyncClient) -> None:
    """Counting and selecting write nothing, so the read-only session serves both."""
    page = (await client.get("/items/read-only?limit=2&offset=5")).json()

    assert ["item 5", "item 6"] == [item["name"] for item in page["items"]]


async def test_a_page_holds_no_connection_when_it_is_sent(client: httpx.AsyncClient, database: Database) -> None:
    """Both reads of a page ran in autocommit: nothing is checked out afterwards."""
    await client.get("/items")

    stats = database.stats().async_pool
    assert stats is not None
    assert 0 == stats.in_use


async def test_a_page_shows_the_writes_of_its_own_request(client: httpx.AsyncClient) -> None:
    """The page is read by the session that wrote, so it holds the new row, which is committed."""
    first = await client.post("/items/then-page")
    second = await client.post("/items/then-page")

    assert [201, 409] == [first.status_code, second.status_code]
    assert 8 == first.json()["total"]
