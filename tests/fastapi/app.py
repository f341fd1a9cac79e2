"""The sample application: many small routes, each a way in which applications use a session.

``make_app(database)`` gives every test an application of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import Database, SessionDep, SyncSessionDep, get_db

from .models import Item, Seat


class Teapot(Exception):
    """What the application answers with a 200."""


class ItemOut(BaseModel):
    """The shape of an answer that needs an id."""

    id: int
    name: str


router = APIRouter()


# -- writes that succeed


@router.post("/items", status_code=201)
async def create(name: str, db: SessionDep) -> dict[str, int]:
    item = Item(name=name)
    db.add(item)
    await db.flush()
    return {"id": item.id}


@router.post("/items/unflushed", status_code=201)
async def create_unflushed(name: str, db: SessionDep) -> dict[str, str]:
    db.add(Item(name=name))
    return {"name": name}


@router.post("/items/sync", status_code=201)
def create_sync(name: str, db: SyncSessionDep) -> dict[str, str]:
    db.add(Item(name=name))
    db.flush()
    return {"name": name}


@router.post("/items/response", status_code=201)
async def create_with_response(name: str, db: SessionDep) -> Response:
    db.add(Item(name=name))
    return JSONResponse({"name": name}, 201)


@router.post("/items/model", status_code=201, response_model=ItemOut)
async def create_with_model(name: str, db: SessionDep) -> Any:
    item = Item(name=name)
    db.add(item)
    await db.flush()
    return {"id": item.id, "name": item.name}


@router.post("/items/stream", status_code=201)
async def create_and_stream(name: str, db: SessionDep) -> StreamingResponse:
    db.add(Item(name=name))

    async def body() -> AsyncIterator[str]:
        yield "first "
        yield "second"

    return StreamingResponse(body(), 201)


@router.get("/items")
async def read_names(db: SessionDep) -> list[str]:
    return list(await db.scalars(select(Item.name).order_by(Item.name)))


@router.get("/items/sync")
def read_names_sync(db: SyncSessionDep) -> list[str]:
    return list(db.scalars(select(Item.name).order_by(Item.name)))


@router.get("/unused")
async def leave_unused(db: SessionDep, other: SyncSessionDep) -> dict[str, str]:
    return {"session": type(db).__name__}


# -- writes that must not be stored


@router.post("/status/{status}")
async def answer_with_status(status: int, name: str, db: SessionDep) -> Response:
    db.add(Item(name=name))
    await db.flush()
    return JSONResponse({"name": name}, status)


@router.post("/status/sync/{status}")
def answer_with_status_sync(status: int, name: str, db: SyncSessionDep) -> Response:
    db.add(Item(name=name))
    db.flush()
    return JSONResponse({"name": name}, status)


@router.post("/raise/{kind}")
async def raise_after_write(kind: str, name: str, db: SessionDep) -> None:
    db.add(Item(name=name))
    await db.flush()
    raise_error(kind)


@router.post("/raise/sync/{kind}")
def raise_after_write_sync(kind: str, name: str, db: SyncSessionDep) -> None:
    db.add(Item(name=name))
    db.flush()
    raise_error(kind)


@router.post("/raise/committed/{kind}")
async def raise_after_commit(kind: str, name: str, db: SessionDep) -> None:
    db.add(Item(name=name))
    await db.commit()
    db.add(Item(name=f"{name} again"))
    await db.flush()
    raise_error(kind)


def raise_error(kind: str) -> None:
    """Raise the error of that kind."""
    if kind == "http":
        raise HTTPException(403)
    if kind == "mapped":
        raise Teapot
    raise RuntimeError("the endpoint failed")


@router.post("/raise-model", response_model=ItemOut)
async def break_the_model(name: str, db: SessionDep) -> Any:
    db.add(Item(name=name))
    await db.flush()
    return {"unexpected": name}


async def write_in_dependency(name: str, db: SessionDep) -> None:
    db.add(Item(name=name))
    await db.flush()


async def number(number: int) -> int:
    return number


@router.post("/raise-validation", dependencies=[Depends(write_in_dependency), Depends(number)])
async def never_valid() -> None:
    """Never called without ``number``."""


async def refuse(db: SessionDep) -> None:
    raise HTTPException(401)


@router.post("/raise-dependency", dependencies=[Depends(write_in_dependency), Depends(refuse)])
async def never_allowed() -> None:
    """Never called."""


# -- commits that fail


@router.post("/seats", status_code=201)
async def reserve(code: str, db: SessionDep, background: BackgroundTasks, request: Request) -> dict[str, str]:
    db.add(Seat(code=code))
    background.add_task(request.app.state.ran.append, "background")
    return {"code": code}


@router.post("/seats/sync", status_code=201)
def reserve_sync(code: str, db: SyncSessionDep, background: BackgroundTasks, request: Request) -> dict[str, str]:
    db.add(Seat(code=code))
    background.add_task(request.app.state.ran.append, "background")
    return {"code": code}


@router.post("/seats/response", status_code=201)
async def reserve_with_response(code: str, db: SessionDep) -> Response:
    db.add(Seat(code=code))
    return JSONResponse({"code": code}, 201, headers={"X-Code": code})


@router.post("/seats/stream", status_code=201)
async def reserve_and_stream(code: str, db: SessionDep, request: Request) -> StreamingResponse:
    db.add(Seat(code=code))
    ran = request.app.state.ran

    async def body() -> AsyncIterator[str]:
        ran.append("body")
        while True:
            yield "more "

    return StreamingResponse(body(), 201)


@router.post("/seats/sync-stream", status_code=201)
def reserve_and_stream_sync(code: str, db: SyncSessionDep, request: Request) -> StreamingResponse:
    db.add(Seat(code=code))
    ran = request.app.state.ran

    def body() -> Iterator[str]:
        ran.append("body")
        while True:
            yield "more "

    return StreamingResponse(body(), 201)


@router.get("/seats/count")
async def count_seats(db: Annotated[AsyncSession, Depends(get_db)]) -> int | None:
    return await db.scalar(select(func.count()).select_from(Seat))


def make_app(database: Database, **options: Any) -> FastAPI:
    """Return a new application with every route, in which ``database`` is installed with ``options``."""
    app = FastAPI()
    app.state.ran = []
    database.install(app, **options)
    app.include_router(router)

    @app.exception_handler(Teapot)
    async def answer_teapot(request: Request, error: Teapot) -> Response:
        return JSONResponse({"teapot": True})

    return app
