"""SQLAdmin, used as its documentation shows, on the Database's engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqladmin import Admin, ModelView
from starlette.requests import Request

from sessionlocal import Database, SessionDep
from tests.support.observer import Observer

from .shop import MISSING, Base, Item

pytestmark = pytest.mark.backends("postgresql-asyncpg", "sqlite-aiosqlite")


class ItemAdmin(ModelView, model=Item):
    """The screens of the items."""

    column_list = ["id", "name"]
    form_columns = ["name"]

    async def on_model_change(self, data: dict[str, Any], model: Any, is_created: bool, request: Request) -> None:
        """Send an item called orphan to a category that is not there."""
        if data["name"] == "orphan":
            data["category_id"] = MISSING


@pytest.fixture(params=["engine", "sync_engine"])
async def client(
    request: pytest.FixtureRequest,
    database: Database,
    tables: Callable[[type[Base]], None],
    browse: Callable[[FastAPI], httpx.AsyncClient],
) -> httpx.AsyncClient:
    """An application with an admin on the async or the sync engine, and a route of its own."""
    tables(Base)
    app = FastAPI()
    database.install(app)
    admin = Admin(app, getattr(database, request.param))
    admin.add_view(ItemAdmin)

    @app.post("/items", status_code=201)
    async def create(name: str, db: SessionDep) -> None:
        db.add(Item(name=name))

    return browse(app)


async def test_the_admin_lists_what_requests_stored(client: httpx.AsyncClient) -> None:
    """A row that a request committed is on the list."""
    await client.post("/items", params={"name": "fountain pen"})

    page = await client.get("/admin/item/list")

    assert 200 == page.status_code
    assert "fountain pen" in page.text


async def test_the_admin_creates_edits_and_deletes(client: httpx.AsyncClient, observer: Observer) -> None:
    """Each form is stored when its reply is sent."""
    made = await client.post("/admin/item/create", data={"name": "pen"})
    assert 302 == made.status_code
    number, name = observer.all("SELECT id, name FROM items")[0]
    assert "pen" == name

    changed = await client.post(f"/admin/item/edit/{number}", data={"name": "pencil"})
    assert 302 == changed.status_code
    assert "pencil" == observer.scalar("SELECT name FROM items")

    assert 200 == (await client.delete("/admin/item/delete", params={"pks": str(number)})).status_code
    assert 0 == observer.scalar("SELECT count(*) FROM items")


async def test_a_failed_commit_of_a_form_is_an_error(client: httpx.AsyncClient, observer: Observer) -> None:
    """A commit that the database refuses leaves the form open with status 400, and nothing is stored."""
    refused = await client.post("/admin/item/create", data={"name": "orphan"})

    assert 400 == refused.status_code
    assert 0 == observer.scalar("SELECT count(*) FROM items")
    assert 201 == (await client.post("/items", params={"name": "pen"})).status_code


async def test_the_admin_leaves_the_sessions_of_requests_alone(client: httpx.AsyncClient, database: Database) -> None:
    """SQLAdmin reconfigures the factory it works with; made from the engine, that is a factory of its own."""
    async with database.session() as db:
        assert db.autoflush
