"""A small items API: the example of the README, complete. `make demo` serves it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import RedirectResponse
from models import Base, Item, ItemIn, ItemOut, StockChange
from sqlalchemy import select

from sessionlocal import Database, ReadSessionDep, SessionDep

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

database = Database(default="sqlite:///./items.db")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await database.create_all(Base)
    yield


app = FastAPI(title="Items", summary="sessionlocal in five minutes", lifespan=lifespan)
database.install(app)


@app.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    return RedirectResponse("/docs")


@app.post("/items", status_code=201, response_model=ItemOut)
async def create_item(body: ItemIn, db: SessionDep) -> Item:
    """Store an item. A name that is taken is a 409: nothing in this function has to look for it."""
    item = Item(**body.model_dump())
    db.add(item)
    await db.flush()
    return item


@app.get("/items", response_model=list[ItemOut])
async def list_items(db: ReadSessionDep, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> list[Item]:
    """List items by name. One statement in autocommit; the connection is back in the pool before the JSON is made."""
    return list(await db.scalars(select(Item).order_by(Item.name).limit(limit)))


@app.get("/items/{item_id}", response_model=ItemOut)
async def read_item(item_id: int, db: ReadSessionDep) -> Item:
    """Return one item."""
    item = await db.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "no such item")
    return item


@app.post("/items/{item_id}/stock", response_model=ItemOut)
async def change_stock(item_id: int, change: StockChange, db: SessionDep) -> Item:
    """Change the stock. The row is locked before it is read, so that no concurrent change is lost."""
    item = await db.get(Item, item_id, with_for_update=True)
    if item is None:
        raise HTTPException(404, "no such item")
    if item.stock + change.by < 0:
        raise HTTPException(409, f"only {item.stock} left")
    item.stock += change.by
    return item


@app.delete("/items/{item_id}", status_code=204)
async def delete_item(item_id: int, db: SessionDep) -> None:
    """Delete an item."""
    item = await db.get(Item, item_id)
    if item is None:
        raise HTTPException(404, "no such item")
    await db.delete(item)
