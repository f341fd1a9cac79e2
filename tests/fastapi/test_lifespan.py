"""install() and lifespan: a Database opens and closes with its application, however the application is built."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import Database, NotInstalled, SessionDep, get_db
from sessionlocal.fastapi import _compat
from tests.support.asgi import Asgi
from tests.support.backends import Backend
from tests.support.observer import Observer

from .app import make_app, router
from .clients import Connect
from .models import Item

pytestmark = pytest.mark.backends("postgresql-asyncpg")

Names = Callable[[], list[str]]
needs_function_stack = pytest.mark.skipif(
    not _compat.HAS_FUNCTION_STACK, reason="this FastAPI tells nobody that the endpoint has returned"
)


@pytest.fixture
def log() -> list[str]:
    """What a lifespan did."""
    return []


@pytest.fixture
def users_lifespan(database: Database, log: list[str]) -> Any:
    """A lifespan of the application's own, which uses the database at both ends and hands state on."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with database.session() as db:
            log.append(f"up {await db.scalar(text('SELECT 1'))}")
        yield {"answer": "from the lifespan"}
        async with database.session() as db:
            log.append(f"down {await db.scalar(text('SELECT 1'))}")

    return lifespan


async def test_a_users_lifespan_goes_on_working(
    database: Database, connect: Connect, users_lifespan: Any, log: list[str]
) -> None:
    """``install`` composes with a lifespan of the application's own: both run, ours around it, its state arrives."""
    app = FastAPI(lifespan=users_lifespan)
    database.install(app)

    @app.get("/")
    async def answer(request: Request, db: SessionDep) -> str:
        return str(request.state.answer)

    async with connect(app) as client:
        assert "from the lifespan" == (await client.get("/")).json()

    assert ["up 1", "down 1"] == log


async def test_a_lifespan_set_after_install_composes_by_hand(
    database: Database, users_lifespan: Any, log: list[str]
) -> None:
    """An application that replaces its lifespan after ``install`` may compose ours itself."""
    app = FastAPI()
    database.install(app)
    app.router.lifespan_context = users_lifespan

    @app.get("/")
    async def read(db: SessionDep) -> int | None:
        return await db.scalar(text("SELECT 1"))

    async with Asgi(app) as client:
        assert 1 == (await client.get("/")).json()

    assert ["up 1", "down 1"] == log


async def test_install_and_lifespan_together_are_harmless(database: Database, connect: Connect, names: Names) -> None:
    """``FastAPI(lifespan=database.lifespan)`` and ``install``, twice even: one of each."""
    app = FastAPI(lifespan=database.lifespan)
    database.install(app)
    database.install(app)
    app.include_router(router)

    async with connect(app) as client:
        assert 201 == (await client.post("/items?name=x")).status
        assert 403 == (await client.post("/raise/http?name=y")).status

    assert ["x"] == names()


@pytest.fixture
def bare(database: Database) -> FastAPI:
    """An application with our lifespan and without ``install``."""
    app = FastAPI(lifespan=database.lifespan)

    @app.post("/items")
    async def create(name: str, db: AsyncSession = Depends(database.get_db)) -> None:
        db.add(Item(name=name))

    @app.post("/raise")
    async def fail(name: str, db: AsyncSession = Depends(database.get_db)) -> None:
        db.add(Item(name=name))
        await db.flush()
        raise HTTPException(403)

    return app


@needs_function_stack
async def test_the_lifespan_alone_commits_before_the_response(bare: FastAPI, names: Names) -> None:
    """With ``lifespan=database.lifespan`` alone, the commit comes before the response and an exception rolls back."""
    seen: list[list[str]] = []
    async with Asgi(bare) as client:
        stored = await client.post("/items?name=x", hooks={"http.response.start": lambda message: seen.append(names())})
        raised = await client.post("/raise?name=y")
        failed = await client.post("/items?name=x")

    assert [200, 403, 500] == [stored.status, raised.status, failed.status]
    assert [["x"]] == seen
    assert ["x"] == names()


@needs_function_stack
async def test_the_lifespan_alone_holds_nothing(
    bare: FastAPI, connect: Connect, database: Database, observer: Observer
) -> None:
    """Without ``install`` nothing is lent after the requests, either."""
    async with connect(bare) as client:
        for number in range(10):
            await client.post(f"/items?name={number}")
            await client.post(f"/raise?name={number}")
        await observer.settled()


if not _compat.HAS_FUNCTION_STACK:  # nothing is skipped where there is nothing to test

    async def test_the_lifespan_alone_is_not_enough_before_0_121(bare: FastAPI) -> None:
        """Where FastAPI gives no way to commit before the response, a session without ``install`` is refused."""
        async with Asgi(bare) as client:
            exchange = await client.post("/items?name=x")

        assert isinstance(exchange.error, NotInstalled)


@pytest.mark.parametrize("which", ["module", "database"])
async def test_without_either_the_error_names_install(database: Database, which: str) -> None:
    """An application without ``install`` and lifespan gets an error that names ``database.install(app)``."""
    app = FastAPI()

    @app.get("/")
    async def read(db: AsyncSession = Depends(get_db if which == "module" else database.get_db)) -> None:
        """Never called."""

    async with Asgi(app) as client:
        exchange = await client.get("/")

    assert 500 == exchange.status
    assert isinstance(exchange.error, NotInstalled)
    assert "database.install(app)" in str(exchange.error)


async def test_install_after_the_first_request_is_refused(database: Database) -> None:
    """``install`` on an application that serves already raises: its middleware cannot be changed any more."""
    app = FastAPI()

    async with Asgi(app) as client:
        await client.get("/")

    with pytest.raises(NotInstalled, match="after the first request"):
        database.install(app)


async def test_the_first_database_installed_is_the_default(database: Database, backend: Backend) -> None:
    """With several databases in one application, ``get_db`` and ``SessionDep`` mean the one installed first; each has
    dependencies of its own."""
    second = Database(backend.url)
    app = FastAPI()
    database.install(app)
    second.install(app)

    @app.get("/")
    async def compare(
        default: SessionDep,
        one: AsyncSession = Depends(database.get_db),
        two: AsyncSession = Depends(second.get_db),
    ) -> list[bool]:
        return [default is one, default is two, two.bind is second.engine]

    async with Asgi(app) as client:
        assert [True, False, True] == (await client.get("/")).json()


async def test_each_of_several_databases_is_committed(
    database: Database, backend: Backend, connect: Connect, names: Names
) -> None:
    """A request that writes to two databases commits both before its response, and neither when it fails."""
    second = Database(backend.url)
    app = FastAPI()
    database.install(app)
    second.install(app)

    @app.post("/{name}")
    async def write(
        name: str, one: AsyncSession = Depends(database.get_db), two: AsyncSession = Depends(second.get_db)
    ) -> None:
        one.add(Item(name=f"{name} one"))
        two.add(Item(name=f"{name} two"))
        if name == "bad":
            raise HTTPException(400)

    async with connect(app) as client:
        await client.post("/good")
        await client.post("/bad")

    assert ["good one", "good two"] == names()


async def test_a_mounted_application_may_have_a_database_of_its_own(database: Database, backend: Backend) -> None:
    """In a mounted application with a Database of its own, that one is the default; around it, the outer one."""
    second = Database(backend.url)
    app, sub = FastAPI(), FastAPI()
    database.install(app)
    second.install(sub)
    app.mount("/sub", sub)

    @app.get("/")
    async def outer(db: SessionDep) -> bool:
        return db.bind is database.engine

    @sub.get("/")
    async def inner(db: SessionDep, of_outer: AsyncSession = Depends(database.get_db)) -> list[bool]:
        return [db.bind is second.engine, of_outer.bind is database.engine]

    async with Asgi(app) as client:
        assert (await client.get("/")).json() is True
        assert [True, True] == (await client.get("/sub/")).json()
    await second.dispose()


async def test_two_applications_may_share_a_database(database: Database, names: Names) -> None:
    """One Database installed in two applications serves both, and the end of one does not disturb the other."""
    first, second = make_app(database), make_app(database)

    async with Asgi(first) as one:
        async with Asgi(second) as two:
            await one.post("/items?name=a")
            await two.post("/items?name=b")
        await one.post("/items?name=c")

    assert ["a", "b", "c"] == names()


async def test_an_application_may_be_started_again(database: Database, names: Names) -> None:
    """After a shutdown the same application starts again, as test suites do."""
    app = make_app(database)

    for name in "ab":
        async with Asgi(app) as client:
            assert 201 == (await client.post(f"/items?name={name}")).status

    assert ["a", "b"] == names()


async def test_shutdown_closes_every_connection(database: Database, connect: Connect, observer: Observer) -> None:
    """When the application has stopped, the server has no connection of it left, async or sync."""
    async with connect(make_app(database)) as client:
        await client.post("/items?name=x")
        await client.get("/items/sync")

    await observer.settled(backends=0)


def test_a_loop_that_ends_without_shutdown_closes_its_connections(backend: Backend, observer: Observer) -> None:
    """A script that forgets ``dispose()`` leaves no connection behind: the pool is closed with its event loop."""
    database = Database(backend.url)

    async def script() -> int | None:
        async with database.session() as db:
            return await db.scalar(text("SELECT 1"))

    assert 1 == asyncio.run(script())
    observer.settle(backends=0)


async def test_applications_do_not_keep_each_other_alive(database: Database) -> None:
    """An application that is gone is not kept by the Database that was installed in it."""
    import gc
    import weakref

    gone = weakref.ref(make_app(database))
    gc.collect()

    assert gone() is None
