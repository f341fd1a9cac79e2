"""The spelling that guides teach works unchanged, and what they get wrong is said in words that help."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from sqlalchemy import select, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

import sessionlocal
from sessionlocal import Database, DependencyMisuse, SessionDep, get_db, get_sync_db
from tests.support.asgi import Asgi
from tests.support.backends import Backend

from .clients import Connect
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]


@pytest.fixture
def guide(database: Database) -> FastAPI:
    """An application as the guides write it."""
    app, SessionLocal = FastAPI(), database.SessionLocal
    database.install(app)

    @app.post("/depends")
    async def with_depends(name: str, db: AsyncSession = Depends(get_db)) -> dict[str, Any]:
        item = Item(name=name)
        db.add(item)
        await db.commit()
        await db.refresh(item)
        return {"id": item.id, "name": item.name}

    @app.post("/depends-sync")
    def with_depends_sync(name: str, db: Session = Depends(get_sync_db)) -> dict[str, Any]:
        item = Item(name=name)
        db.add(item)
        db.commit()
        db.refresh(item)
        return {"id": item.id, "name": item.name}

    @app.post("/factory")
    async def with_factory(name: str) -> dict[str, Any]:
        async with SessionLocal() as db:
            item = Item(name=name)
            db.add(item)
            await db.commit()
            await db.refresh(item)
            return {"id": item.id, "name": item.name}

    @app.post("/default-factory")
    async def with_default_factory(name: str) -> dict[str, Any]:
        async with sessionlocal.SessionLocal() as db, db.begin():
            db.add(item := Item(name=name))
        return {"id": item.id, "name": item.name}

    @app.post("/begin-first")
    async def begin_first(name: str, db: AsyncSession = Depends(get_db)) -> dict[str, Any]:
        async with db.begin():
            db.add(item := Item(name=name))
        assert await db.scalar(select(Item.name).where(Item.id == item.id)) == name
        return {"id": item.id, "name": item.name}

    @app.post("/begin-later")
    async def begin_later(name: str, db: AsyncSession = Depends(get_db)) -> dict[str, Any]:
        if await db.scalar(select(Item).where(Item.name == name)) is not None:
            raise HTTPException(409)
        async with db.begin():
            db.add(item := Item(name=name))
        return {"id": item.id, "name": item.name}

    @app.post("/try-except")
    async def with_try(name: str, db: AsyncSession = Depends(get_db)) -> dict[str, Any]:
        try:
            item = Item(name=name)
            db.add(item)
            await db.commit()
        except Exception:
            await db.rollback()
            raise
        finally:
            await db.close()
        return {"id": item.id, "name": item.name}

    return app


SPELLINGS = ["depends", "depends-sync", "factory", "default-factory", "begin-first", "begin-later", "try-except"]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_the_guides_spelling_works(guide: FastAPI, connect: Connect, names: Names, spelling: str) -> None:
    """Each way to take a session and to commit that the guides show stores the row and answers with it; the second
    time it is a conflict."""
    async with connect(guide) as client:
        first = await client.post(f"/{spelling}?name=guide")
        second = await client.post(f"/{spelling}?name=guide")

    assert (200, "guide") == (first.status, first.json()["name"])
    assert 409 == second.status
    assert ["guide"] == names()


async def test_an_endpoint_is_a_function(guide: FastAPI, database: Database, names: Names) -> None:
    """An endpoint called as a plain function with a session works; who opened the session ends it."""

    async def create(name: str, db: SessionDep) -> Item:
        item = Item(name=name)
        db.add(item)
        await db.flush()
        return item

    async with database.session() as db:
        item = await create("direct", db)

    assert "direct" == item.name
    assert ["direct"] == names()


# -- overrides in tests


@pytest.fixture
def overridden(database: Database) -> FastAPI:
    """An application with a route to write and one to read, both through ``get_db``."""
    app = FastAPI()
    database.install(app)

    @app.post("/items")
    async def create(name: str, db: SessionDep) -> dict[str, str]:
        db.add(Item(name=name))
        await db.flush()
        return {"name": name}

    return app


async def test_an_override_with_a_generator_is_the_users(
    overridden: FastAPI, backend: Backend, connect: Connect, names: Names
) -> None:
    """A session that an override yields is neither committed nor closed by us."""
    engine = create_async_engine(backend.url)
    ended = []

    async def override() -> AsyncIterator[AsyncSession]:
        async with async_sessionmaker(engine)() as db:
            yield db
            ended.append(db.in_transaction())
        await engine.dispose()

    overridden.dependency_overrides[get_db] = override
    async with connect(overridden) as client:
        assert 200 == (await client.post("/items?name=x")).status

    assert [True] == ended
    assert [] == names()


async def test_an_override_with_a_function_is_the_users(overridden: FastAPI, backend: Backend, names: Names) -> None:
    """A session that an override returns, as test suites do, stays open and uncommitted over several requests."""
    engine = create_async_engine(backend.url)
    async with AsyncSession(engine) as own:
        overridden.dependency_overrides[get_db] = lambda: own
        async with Asgi(overridden) as client:
            await client.post("/items?name=a")
            await client.post("/items?name=b")

        assert own.in_transaction()
        assert ["a", "b"] == sorted((await own.scalars(select(Item.name))).all())
        assert [] == names()
    await engine.dispose()


async def test_an_override_with_a_session_of_ours_is_the_users(
    overridden: FastAPI, database: Database, names: Names
) -> None:
    """Also a session that the test opened from our own factory is left alone."""
    async with database.SessionLocal() as own:
        overridden.dependency_overrides[get_db] = lambda: own
        async with Asgi(overridden) as client:
            assert 200 == (await client.post("/items?name=a")).status

        assert own.in_transaction()
        assert [] == names()
        await own.rollback()


async def test_an_override_with_a_mock_is_the_users(overridden: FastAPI) -> None:
    """``AsyncMock(spec=AsyncSession)`` is called by the endpoint only: never committed, rolled back or closed."""
    mock = AsyncMock(spec=AsyncSession)
    overridden.dependency_overrides[get_db] = lambda: mock

    async with Asgi(overridden) as client:
        answer = await client.post("/items?name=x")

    assert 200 == answer.status
    assert ["add", "flush"] == [call[0] for call in mock.method_calls]


async def test_an_override_of_the_databases_own_dependency(database: Database) -> None:
    """``dependency_overrides[database.get_db]`` replaces what asked for that dependency, and ``get_db`` what asked for
    this one: they are two keys."""
    app = FastAPI()
    database.install(app)

    @app.get("/own")
    async def own(db: AsyncSession = Depends(database.get_db)) -> str:
        return str(db)

    @app.get("/module")
    async def module(db: AsyncSession = Depends(get_db)) -> str:
        return type(db).__name__

    app.dependency_overrides[database.get_db] = lambda: "replaced"
    async with Asgi(app) as client:
        assert ["replaced", "AsyncSession"] == [(await client.get(path)).json() for path in ("/own", "/module")]


@pytest.mark.parametrize("entered", [True, False], ids=["with", "without"])
async def test_the_test_client_works(overridden: FastAPI, names: Names, entered: bool) -> None:
    """FastAPI's own TestClient works, entered or not: without ``with`` each request has an event loop of its own."""

    def use() -> list[int]:
        client = TestClient(overridden)
        if entered:
            with client:
                return [client.post(f"/items?name={name}").status_code for name in "abb"]
        return [client.post(f"/items?name={name}").status_code for name in "abb"]

    assert [200, 200, 409] == await asyncio.to_thread(use)
    assert ["a", "b"] == names()


# -- mistakes


async def test_depends_of_a_call_is_refused_at_the_route(database: Database) -> None:
    """``Depends(get_db())`` is an error where the route is defined, and says to leave the parentheses out."""
    app = FastAPI()

    with pytest.raises(DependencyMisuse, match=r"write Depends\(get_db\), without parentheses \[DBS201\]"):

        @app.get("/")
        async def endpoint(db: AsyncSession = Depends(get_db())) -> None:
            """Never called."""


async def use_anext() -> None:
    """Take the first value, as of a generator."""
    await anext(get_db())


async def use_async_for() -> None:
    """Iterate."""
    async for _ in get_db():
        """Never reached."""


async def use_async_with() -> None:
    """Enter."""
    async with get_db():
        """Never reached."""


async def use_await() -> None:
    """Await."""
    await get_db()


async def use_next() -> None:
    """Take the first value, as of a sync generator."""
    next(get_db())


async def use_for() -> None:
    """Iterate, sync."""
    for _ in get_sync_db():
        """Never reached."""


async def use_with() -> None:
    """Enter, sync."""
    with get_sync_db():
        """Never reached."""


async def use_as_session() -> None:
    """Use what it returned as a session."""
    db = get_db()
    await db.execute(select(Item))


@pytest.mark.parametrize(
    ("mistake", "advice"),
    [
        (use_anext, r"async with database\.session\(\)"),
        (use_async_for, r"async with database\.session\(\)"),
        (use_async_with, r"async with database\.session\(\)"),
        (use_await, r"async with database\.session\(\)"),
        (use_next, r"with database\.sync_session\(\)"),
        (use_for, r"with database\.sync_session\(\)"),
        (use_with, r"with database\.sync_session\(\)"),
        (use_as_session, r"db: SessionDep"),
    ],
)
async def test_calling_the_dependency_is_refused_with_what_to_write_instead(
    mistake: Callable[[], Any], advice: str
) -> None:
    """``get_db()`` iterated, awaited, entered or used as a session raises an error that says what to write."""
    with pytest.raises(DependencyMisuse, match=advice):
        await mistake()


async def test_plain_text_is_refused_with_the_fix(database: Database) -> None:
    """``execute("SELECT 1")`` raises SQLAlchemy's error, which names ``text()``."""
    async with database.session() as db:
        with pytest.raises(ArgumentError, match=r"text\("):
            await db.execute("SELECT 1")  # type: ignore[call-overload]
        assert 1 == await db.scalar(text("SELECT 1"))


async def test_get_db_may_be_used_in_a_type_alias_of_ones_own(database: Database, names: Names) -> None:
    """``Annotated[AsyncSession, Depends(get_db)]`` under a name of the application's own is the same session."""
    from .test_one_session import inner

    app = FastAPI()
    database.install(app)

    @app.get("/")
    async def endpoint(db: SessionDep, other: AsyncSession = Depends(inner)) -> bool:
        return db is other

    async with Asgi(app) as client:
        assert (await client.get("/")).json() is True
