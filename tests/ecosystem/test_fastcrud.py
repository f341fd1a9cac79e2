"""fastcrud, used as its documentation shows; only the session comes from here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastcrud import FastCRUD, crud_router
from pydantic import BaseModel

from sessionlocal import Database, SessionDep, get_db
from tests.support.observer import Observer

from .shop import MISSING, Base, Item

pytestmark = [pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite"), pytest.mark.usefixtures("no_leftovers")]


class ItemIn(BaseModel):
    """What makes an item."""

    name: str
    category_id: int | None = None


class ItemChange(BaseModel):
    """What changes an item."""

    name: str | None = None
    category_id: int | None = None


items: Any = FastCRUD(Item)


@pytest.fixture
async def client(
    database: Database,
    tables: Callable[[type[Base]], None],
    browse: Callable[[FastAPI], httpx.AsyncClient],
) -> httpx.AsyncClient:
    """An application whose routes are fastcrud's, and one route that makes two calls."""
    tables(Base)
    app = FastAPI()
    database.install(app)
    router = crud_router(
        session=get_db, model=Item, create_schema=ItemIn, update_schema=ItemChange, path="/items", tags=["items"]
    )
    app.include_router(router)

    @app.post("/pairs", status_code=201)
    async def create_pair(first: ItemIn, second: ItemIn, db: SessionDep) -> None:
        await items.create(db, first, commit=False)
        await items.create(db, second, commit=False)

    return browse(app)


async def test_the_generated_routes_store_change_and_delete(client: httpx.AsyncClient, observer: Observer) -> None:
    """Each generated route does what it says, and another client of the database sees it."""
    made = await client.post("/items", json={"name": "pen"})
    assert 200 == made.status_code
    assert "pen" == observer.scalar("SELECT name FROM items")
    number = observer.scalar("SELECT id FROM items")

    assert 200 == (await client.patch(f"/items/{number}", json={"name": "pencil"})).status_code
    assert "pencil" == observer.scalar("SELECT name FROM items")
    assert "pencil" == (await client.get(f"/items/{number}")).json()["name"]
    assert 1 == (await client.get("/items")).json()["total_count"]

    assert 200 == (await client.delete(f"/items/{number}")).status_code
    assert 0 == observer.scalar("SELECT count(*) FROM items")
    assert 404 == (await client.get(f"/items/{number}")).status_code


async def test_a_failed_commit_of_a_generated_route_is_an_error(client: httpx.AsyncClient, observer: Observer) -> None:
    """A commit that the database refuses is answered with 409, and the next request works."""
    refused = await client.post("/items", json={"name": "pen", "category_id": MISSING})
    accepted = await client.post("/items", json={"name": "pen"})

    assert 409 == refused.status_code
    assert 200 == accepted.status_code
    assert 1 == observer.scalar("SELECT count(*) FROM items")


async def test_a_change_that_conflicts_is_a_conflict(client: httpx.AsyncClient, observer: Observer) -> None:
    """fastcrud does not look for the name before it changes one; the database does, and the client learns it."""
    await client.post("/items", json={"name": "pen"})
    await client.post("/items", json={"name": "ink"})
    number = observer.scalar("SELECT id FROM items WHERE name = 'ink'")

    assert 409 == (await client.patch(f"/items/{number}", json={"name": "pen"})).status_code
    assert [("ink",), ("pen",)] == observer.all("SELECT name FROM items ORDER BY name")


async def test_two_calls_without_commit_are_one_unit(client: httpx.AsyncClient, observer: Observer) -> None:
    """With commit=False the request commits: both rows or none."""
    both = await client.post("/pairs", json={"first": {"name": "a"}, "second": {"name": "b"}})
    none = await client.post("/pairs", json={"first": {"name": "c"}, "second": {"name": "a"}})

    assert [201, 409] == [both.status_code, none.status_code]
    assert [("a",), ("b",)] == observer.all("SELECT name FROM items ORDER BY name")
