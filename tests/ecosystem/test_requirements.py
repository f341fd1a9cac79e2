"""What real applications require of their session layer, one test for each row of docs/requirements.md."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from sqlalchemy import event, func, insert, make_url, select, text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool
from sqlmodel import SQLModel
from sqlmodel import select as sqlmodel_select
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from sessionlocal import (
    Database,
    ReadSessionDep,
    SessionDep,
    SessionLocal,
    SyncSessionDep,
    current_session,
    get_db,
)
from tests.support.backends import Backend
from tests.support.observer import Observer

from .shop import MISSING, Base, Item

pytestmark = pytest.mark.backends("postgresql-asyncpg", "postgresql-psycopg-async", "sqlite-aiosqlite")

Tables = Callable[[Any], None]
Browse = Callable[[FastAPI], httpx.AsyncClient]
Open = Callable[..., Database]

COUNT = "SELECT count(*) FROM items"
NAMES = "SELECT name FROM items ORDER BY name"


@pytest.fixture(autouse=True)
def shop(tables: Tables) -> None:
    """The tables of the shop, in every test."""
    tables(Base)


def served(database: Database, **options: Any) -> FastAPI:
    """Return an application with ``database`` installed."""
    app = FastAPI(**options)
    database.install(app)
    return app


def names(rows: list[tuple[Any, ...]]) -> list[str]:
    """Return the first column."""
    return [row[0] for row in rows]


# -- 1 to 5


async def test_code_outside_requests_has_the_same_database(backend: Backend, asgi: Any, observer: Observer) -> None:
    """Start-up, a script with a loop of its own, and a thread without one store through one Database."""
    database = Database(backend.url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with database.session() as db:
            db.add(Item(name="from start-up"))
        yield

    async def script() -> None:
        async with database.session() as db:
            db.add(Item(name="from a script"))
        await database.dispose()

    def thread() -> None:
        with database.sync_session() as db:
            db.add(Item(name="from a thread"))

    app = served(database, lifespan=lifespan)
    async with asgi(app):
        await asyncio.to_thread(asyncio.run, script())
        await asyncio.to_thread(thread)

    assert ["from a script", "from a thread", "from start-up"] == names(observer.all(NAMES))


async def test_a_test_suite_takes_the_place_of_the_session(
    database: Database, backend: Backend, browse: Browse, observer: Observer
) -> None:
    """An overridden get_db is used as it is, and a commit inside the test's outer transaction does not escape it."""
    app = served(database)

    @app.post("/items", status_code=201)
    async def create(name: str, db: Annotated[AsyncSession, Depends(get_db)]) -> int:
        db.add(Item(name=name))
        await db.commit()
        return (await db.scalar(select(func.count()).select_from(Item))) or 0

    async with database.engine.connect() as connection:
        outer = await connection.begin()
        async with AsyncSession(connection, join_transaction_mode="create_savepoint") as mine:
            app.dependency_overrides[get_db] = lambda: mine
            client = browse(app)
            assert [1, 2] == [(await client.post("/items", params={"name": n})).json() for n in ("a", "b")]
        await outer.rollback()

    assert 0 == observer.scalar(COUNT)


async def test_explicit_calls_keep_their_meaning(database: Database, browse: Browse, observer: Observer) -> None:
    """commit, rollback, flush and refresh do what SQLAlchemy says, several times in a request, and its end adds
    nothing."""
    app = served(database)

    @app.post("/items")
    async def create(db: SessionDep) -> list[str]:
        first = Item(name="first")
        db.add(first)
        await db.flush()
        assert first.id is not None
        await db.commit()
        db.add(Item(name="withdrawn"))
        await db.flush()
        await db.rollback()
        second = Item(name="second")
        db.add(second)
        await db.commit()
        await db.refresh(second)
        return names(observer.all(NAMES))

    response = await browse(app).post("/items")

    assert 200 == response.status_code
    assert ["first", "second"] == response.json() == names(observer.all(NAMES))


async def test_the_dependency_gives_a_real_session(database: Database, browse: Browse) -> None:
    """What routes get are instances of SQLAlchemy's own classes."""
    app = served(database)
    seen: list[Any] = []

    @app.get("/async")
    async def asynchronous(db: SessionDep) -> None:
        seen.append(db)

    @app.get("/sync")
    def synchronous(db: SyncSessionDep) -> None:
        seen.append(db)

    client = browse(app)
    await client.get("/async")
    await client.get("/sync")

    assert AsyncSession is type(seen[0])
    assert isinstance(seen[0].sync_session, Session)
    assert isinstance(seen[1], Session)


async def test_plain_sqlalchemy_objects_are_within_reach(database: Database, backend: Backend, tables: Tables) -> None:
    """Engine, factory and pool are SQLAlchemy's, and work with what takes those."""
    connects: list[object] = []
    event.listen(database.engine.sync_engine, "connect", lambda connection, record: connects.append(connection))

    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Item).values(name="through the engine"))
    async with database.SessionLocal() as db:
        found = await db.scalar(select(Item.name))

    assert "through the engine" == found
    assert 1 == len(connects)
    assert isinstance(database.engine, AsyncEngine)
    assert isinstance(database.SessionLocal, async_sessionmaker)
    assert make_url(backend.url).database == database.engine.url.database


# -- 6 to 10


async def test_engine_arguments_pass_through(backend: Backend, open_database: Open) -> None:
    """Options of create_engine arrive there, and a URL object is as good as its text."""
    spelt: list[object] = []

    def to_json(value: object) -> str:
        spelt.append(value)
        return '"spelt"'

    database = open_database(
        make_url(backend.url),
        pool_size=3,
        max_overflow=2,
        pool_recycle=90,
        pool_pre_ping=True,
        pool_use_lifo=True,
        isolation_level="SERIALIZABLE",
        json_serializer=to_json,
        execution_options={"schema_translate_map": {"nowhere": None}},
    )
    pool: Any = database.engine.pool

    assert 3 == pool.size()
    assert 90 == pool._recycle
    assert pool._pre_ping
    assert "SERIALIZABLE" == database.config.isolation_level
    assert {"nowhere": None} == dict(database.engine.sync_engine.get_execution_options())["schema_translate_map"]
    assert to_json == database.engine.dialect._json_serializer
    assert isinstance(open_database(poolclass=NullPool).engine.pool, NullPool)
    assert isinstance(open_database(poolclass=AsyncAdaptedQueuePool).engine.pool, AsyncAdaptedQueuePool)


async def test_expire_on_commit_is_chosen(open_database: Open) -> None:
    """Objects stay loaded after a commit; expire_on_commit=True and autoflush=False are honoured."""
    keeping, expiring = open_database(), open_database(expire_on_commit=True, autoflush=False)
    loaded: dict[str, bool] = {}
    for name, database in (("keeping", keeping), ("expiring", expiring)):
        async with database.SessionLocal() as db:
            item = Item(name=name)
            db.add(item)
            await db.commit()
            loaded[name] = "name" in item.__dict__
            await db.refresh(item)
            assert name == item.name

    assert {"keeping": True, "expiring": False} == loaded
    async with expiring.session() as db:
        db.add(Item(name="not flushed by a select"))
        assert 2 == await db.scalar(select(func.count()).select_from(Item))


async def test_authentication_and_endpoint_share_one_session(
    database: Database, browse: Browse, observer: Observer
) -> None:
    """A dependency, its sub-dependency and the endpoint get the same session; what nobody uses opens no connection."""
    app = served(database)
    seen: list[AsyncSession] = []

    async def current_user(db: SessionDep) -> str:
        seen.append(db)
        return "ann"

    @app.get("/me")
    async def me(user: Annotated[str, Depends(current_user)], db: SessionDep) -> str:
        seen.append(db)
        return user

    before = observer.backends()
    assert "ann" == (await browse(app).get("/me")).json()

    assert seen[0] is seen[1]
    assert before == observer.backends()


async def test_sync_endpoints_do_not_deadlock(open_database: Open, browse: Browse) -> None:
    """Sixty requests at once to a def endpoint with a querying dependency succeed on two connections."""
    app = served(open_database(pool_size=2, max_overflow=0, pool_timeout=30))

    def user(db: SyncSessionDep) -> int:
        return db.scalar(text("SELECT 1")) or 0

    @app.get("/count", response_model=int)
    def count(one: Annotated[int, Depends(user)], db: SyncSessionDep) -> int:
        return one + (db.scalar(select(func.count()).select_from(Item)) or 0)

    client = browse(app)
    answers = await asyncio.gather(*(client.get("/count") for _ in range(60)))

    assert [(200, 1)] * 60 == [(answer.status_code, answer.json()) for answer in answers]


async def test_the_commit_precedes_the_response(database: Database, asgi: Any, observer: Observer) -> None:
    """The row is visible when the reply starts and to background tasks; a commit that fails is no 2xx and runs none."""
    app = served(database)
    ran: list[str] = []

    @app.post("/items", status_code=201)
    async def create(name: str, db: SessionDep, tasks: BackgroundTasks, category: int | None = None) -> None:
        db.add(Item(name=name, category_id=category))
        tasks.add_task(lambda: ran.append(f"{name}: {observer.scalar(COUNT)} stored"))

    stored: list[Any] = []
    look = {"http.response.start": lambda message: stored.append(observer.scalar(COUNT))}
    async with asgi(app) as client:
        good = await client.post("/items?name=good", hooks=look)
        bad = await client.post(f"/items?name=bad&category={MISSING}", hooks=look)

    assert [201, 409] == [good.status, bad.status]
    assert [1, 1] == stored
    assert ["good: 1 stored"] == ran
    assert b"bad" not in bad.body


# -- 11 to 20


async def test_a_sync_session_in_a_coroutine_works(database: Database, browse: Browse) -> None:
    """A sync session taken by an async endpoint works and is committed; it blocks the loop while it does."""
    app = served(database)

    @app.post("/items", status_code=201)
    async def create(db: SyncSessionDep) -> None:
        db.add(Item(name="blocking"))

    assert 201 == (await browse(app).post("/items")).status_code
    async with database.session() as db:
        assert "blocking" == await db.scalar(select(Item.name))


@pytest.mark.parametrize("path", ["/flushed", "/at-commit"])
async def test_a_duplicate_is_a_conflict_without_a_handler(
    database: Database, browse: Browse, observer: Observer, path: str
) -> None:
    """Ten requests that all look first and then insert make one row and nine 409s, none a 500."""
    app = served(database)
    looked = asyncio.Barrier(10)

    @app.post("/flushed", status_code=201)
    async def flushed(db: SessionDep) -> None:
        await insert_if_absent(db)
        await db.flush()

    @app.post("/at-commit", status_code=201)
    async def at_commit(db: SessionDep) -> None:
        await insert_if_absent(db)

    async def insert_if_absent(db: AsyncSession) -> None:
        if await db.scalar(select(Item).where(Item.name == "only")) is not None:
            raise HTTPException(400, "taken")
        await looked.wait()
        db.add(Item(name="only"))

    client = browse(app)
    answers = await asyncio.gather(*(client.post(path) for _ in range(10)))

    assert [201] + [409] * 9 == sorted(answer.status_code for answer in answers)
    assert 1 == observer.scalar(COUNT)


async def test_slow_work_holds_no_connection(open_database: Open, browse: Browse) -> None:
    """Twenty requests that read and then wait for something else are all waiting at once, on a pool of one."""
    database = open_database(pool_size=1, max_overflow=0, pool_timeout=30)
    app = served(database)
    all_waiting = asyncio.Barrier(20)
    held: list[int] = []

    @app.get("/slow")
    async def slow(db: SessionDep) -> int:
        await db.scalar(select(Item.id))
        await all_waiting.wait()
        await asyncio.sleep(0)  # the last to arrive was not made to wait
        stats = database.stats().async_pool
        held.append(stats.in_use if stats else -1)
        await all_waiting.wait()
        return (await db.scalar(text("SELECT 7"))) or 0

    client = browse(app)
    answers = await asyncio.gather(*(client.get("/slow") for _ in range(20)))

    assert [7] * 20 == [answer.json() for answer in answers]
    assert [0] * 20 == held


async def test_two_databases_stand_side_by_side(
    open_database: Open, browse: Browse, observer: Observer, tmp_path: Path
) -> None:
    """Each Database has dependencies of its own; one request uses both, and a sync engine stands beside the async."""
    main = open_database()
    archive = open_database(f"sqlite+aiosqlite:///{tmp_path}/archive.db")
    await archive.create_all(Base)
    app = served(main)

    @app.post("/items", status_code=201)
    async def create(db: SessionDep, old: Annotated[AsyncSession, Depends(archive.get_db)]) -> None:
        db.add(Item(name="in main"))
        old.add(Item(name="in archive"))

    assert 201 == (await browse(app).post("/items")).status_code
    with archive.sync_session() as db:
        assert ["in archive"] == list(db.scalars(select(Item.name)))
    assert ["in main"] == names(observer.all(NAMES))


async def test_a_with_block_is_a_unit_of_work(database: Database, observer: Observer) -> None:
    """database.session() commits at the end of its block and rolls back when an exception leaves it."""
    async with database.session() as db:
        db.add(Item(name="kept"))

    async def fail() -> None:
        async with database.session() as db:
            db.add(Item(name="dropped"))
            await db.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()

    assert ["kept"] == names(observer.all(NAMES))


async def test_reading_and_manual_sessions_stand_beside_the_committing_one(
    database: Database, browse: Browse, observer: Observer
) -> None:
    """ReadSessionDep refuses to write, SessionLocal() stores what is committed by hand, SessionDep commits."""
    app = served(database)

    @app.post("/read-only")
    async def read_only(db: ReadSessionDep) -> None:
        db.add(Item(name="refused"))
        with pytest.raises(InvalidRequestError, match="read-only"):
            await db.flush()
        raise HTTPException(403)

    @app.post("/manual")
    async def manual() -> None:
        async with database.SessionLocal() as db:
            db.add(Item(name="by hand"))
            await db.commit()
        async with SessionLocal() as db:
            assert "by hand" == await db.scalar(select(Item.name))

    @app.post("/committing")
    async def committing(db: SessionDep) -> None:
        db.add(Item(name="by the request"))

    client = browse(app)
    answers = [(await client.post(path)).status_code for path in ("/read-only", "/manual", "/committing")]

    assert [403, 200, 200] == answers
    assert ["by hand", "by the request"] == names(observer.all(NAMES))


async def test_savepoints_keep_the_rest_of_the_unit(database: Database, browse: Browse, observer: Observer) -> None:
    """A duplicate inside begin_nested() costs the savepoint only."""
    app = served(database)

    @app.post("/items", status_code=201)
    async def create(db: SessionDep) -> None:
        db.add(Item(name="outer"))
        await db.flush()
        with pytest.raises(IntegrityError):
            async with db.begin_nested():
                db.add(Item(name="outer"))
        async with db.begin_nested():
            db.add(Item(name="inner"))

    assert 201 == (await browse(app).post("/items")).status_code
    assert ["inner", "outer"] == names(observer.all(NAMES))


async def test_event_listeners_are_called(database: Database, browse: Browse, observer: Observer) -> None:
    """Listeners on the engine, on the session class, on one factory's sessions and on a mapper all hear."""
    heard: list[str] = []
    engine = database.engine.sync_engine
    hear = [
        (engine, "connect", lambda *_: heard.append("connect")),
        (engine, "before_cursor_execute", lambda c, cursor, sql, *_: heard.append(sql.split()[0])),
        (Session, "before_flush", lambda *_: heard.append("before_flush")),
        (Session, "after_commit", lambda *_: heard.append("after_commit")),
        (Item, "before_insert", lambda mapper, c, item: setattr(item, "name", item.name.upper())),
    ]
    for target, name, listener in hear:
        event.listen(target, name, listener)
    try:
        app = served(database)

        @app.post("/items", status_code=201)
        async def create(db: SessionDep) -> None:
            db.add(Item(name="heard"))

        await browse(app).post("/items")
    finally:
        for target, name, listener in hear:
            event.remove(target, name, listener)

    assert ["before_flush", "connect", "INSERT", "after_commit"] == heard
    assert ["HEARD"] == names(observer.all(NAMES))


async def test_a_middleware_puts_the_session_on_the_request(
    database: Database, browse: Browse, observer: Observer
) -> None:
    """request.state.db set by a middleware is the session of the request, with its commit."""
    app = served(database)

    @app.middleware("http")
    async def put(request: Request, call_next: Any) -> Any:
        request.state.db = current_session()
        return await call_next(request)

    @app.post("/items", status_code=201)
    async def create(request: Request, db: SessionDep) -> bool:
        request.state.db.add(Item(name="through the state"))
        return request.state.db is db

    answer = await browse(app).post("/items")

    assert [201, True] == [answer.status_code, answer.json()]
    assert ["through the state"] == names(observer.all(NAMES))


# -- 21 to 28


class Tenanted(DeclarativeBase):
    """Tables that each tenant has in a schema of its own."""


class Note(Tenanted):
    """A row of one tenant."""

    __tablename__ = "notes"
    __table_args__ = {"schema": "tenant"}

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]


async def test_each_request_has_the_schema_of_its_tenant(
    database: Database, backend: Backend, browse: Browse, observer: Observer, tmp_path: Path
) -> None:
    """schema_translate_map set on the request's session sends reads and writes to the tenant's schema."""
    tenants = ("blue", "green")
    if backend.dialect == "sqlite":

        @event.listens_for(database.engine.sync_engine, "connect")
        def attach(connection: Any, record: object) -> None:
            for tenant in tenants:
                connection.execute(f"ATTACH '{tmp_path}/{tenant}.db' AS {tenant}")

    async with database.engine.begin() as connection:
        for tenant in tenants:
            if backend.dialect != "sqlite":
                await connection.execute(text(f"CREATE SCHEMA {tenant}"))
            mapped = await connection.execution_options(schema_translate_map={"tenant": tenant})
            await mapped.run_sync(Tenanted.metadata.create_all)

    app = served(database)

    async def tenant_session(tenant: str, db: SessionDep) -> AsyncSession:
        await db.connection(execution_options={"schema_translate_map": {"tenant": tenant}})
        return db

    @app.post("/notes/{tenant}", status_code=201)
    async def write(tenant: str, db: Annotated[AsyncSession, Depends(tenant_session)]) -> list[str]:
        db.add(Note(body=f"of {tenant}"))
        return list(await db.scalars(select(Note.body)))

    client = browse(app)

    assert [["of blue"], ["of green"]] == [(await client.post(f"/notes/{tenant}")).json() for tenant in tenants]
    async with database.session() as db:
        for tenant in tenants:
            assert 1 == await db.scalar(text(f"SELECT count(*) FROM {tenant}.notes"))


async def test_the_session_of_the_request_needs_no_parameter(
    database: Database, browse: Browse, observer: Observer
) -> None:
    """current_session() deep inside a call is the session of the request."""
    app = served(database)

    async def deep() -> None:
        current_session().add(Item(name="ambient"))

    @app.post("/items", status_code=201)
    async def create(db: SessionDep) -> bool:
        await deep()
        return current_session() is db

    answer = await browse(app).post("/items")

    assert [201, True] == [answer.status_code, answer.json()]
    assert ["ambient"] == names(observer.all(NAMES))


class Hero(SQLModel, table=True):
    """A table of SQLModel's. Its metadata holds nothing else."""

    from sqlmodel import Field as _Field

    id: int | None = _Field(default=None, primary_key=True)
    name: str


async def test_the_session_class_is_chosen(open_database: Open, browse: Browse, tables: Tables) -> None:
    """With session_class=SQLModel's, routes get that class and its exec."""
    tables(SQLModel.metadata)
    database = open_database(session_class=SQLModelSession)
    app = served(database)

    @app.post("/heroes", status_code=201)
    async def create(db: Annotated[SQLModelSession, Depends(get_db)]) -> list[str]:
        assert type(db) is SQLModelSession
        db.add(Hero(name="Deadpond"))
        return list((await db.exec(sqlmodel_select(Hero.name))).all())

    assert ["Deadpond"] == (await browse(app).post("/heroes")).json()


async def test_each_event_loop_has_connections_of_its_own(database: Database, observer: Observer) -> None:
    """Loops in three threads use one Database one after the other and at once; disposing closes a loop's own."""
    meet = threading.Barrier(3)

    async def work(number: int) -> int:
        async with database.session() as db:
            db.add(Item(name=f"loop {number}"))
        await asyncio.to_thread(meet.wait, 20)
        async with database.session() as db:
            count = await db.scalar(select(func.count()).select_from(Item))
        await database.dispose()
        return count or 0

    with ThreadPoolExecutor(3) as threads:
        loop = asyncio.get_running_loop()
        runs = [loop.run_in_executor(threads, asyncio.run, work(number)) for number in range(3)]
        assert [3, 3, 3] == await asyncio.gather(*runs)
    async with database.session() as db:
        assert 3 == await db.scalar(select(func.count()).select_from(Item))


async def test_sqlite_is_set_up_for_an_application(database: Database, sqlite_backend: Backend) -> None:
    """WAL, foreign keys and a busy timeout are on, and 8 x 10 read-modify-writes under a lock lose none."""
    pragmas = ("journal_mode", "foreign_keys", "busy_timeout")
    async with database.session() as db:
        set_up = [await db.scalar(text(f"PRAGMA {pragma}")) for pragma in pragmas]
        db.add(Item(id=1, name="0"))

    async def add_one() -> None:
        for _ in range(10):
            async with database.session(begin=True) as db:
                item = await db.get_one(Item, 1)
                item.name = str(int(item.name) + 1)

    await asyncio.gather(*(add_one() for _ in range(8)))

    assert ["wal", 1, 10_000] == set_up
    async with database.session() as db:
        assert "80" == await db.scalar(select(Item.name))


class Container:
    """How some applications keep their Database: on an object, under names of their own."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def session(self, db: SessionDep) -> AsyncSession:
        """Return the request's session: a bound method as a dependency."""
        return db


async def test_the_dependency_goes_by_any_name(database: Database, browse: Browse, observer: Observer) -> None:
    """A bound method, an attribute and an alias of the application's own all give the session of the request."""
    container = Container(database)
    app = served(database)
    DbSession = Annotated[AsyncSession, Depends(container.database.get_db)]
    Bound = Annotated[AsyncSession, Depends(container.session)]

    async def create(one: DbSession, two: Bound, three: AsyncSession = Depends(get_db)) -> bool:
        one.add(Item(name="by any name"))
        return one is two is three

    create.__annotations__.update(one=DbSession, two=Bound)
    app.post("/items", status_code=201)(create)
    answer = await browse(app).post("/items")

    assert [201, True] == [answer.status_code, answer.json()]
    assert ["by any name"] == names(observer.all(NAMES))


@pytest.mark.backends("postgresql-asyncpg")
async def test_a_transaction_pooler_is_respected(open_database: Open) -> None:
    """pooler="transaction" keeps nothing on a server connection that the next one will not have; search_path passes."""
    database = open_database(
        pooler="transaction",
        application_name="shop",
        connect_args={"server_settings": {"search_path": "pg_catalog"}},
    )
    arguments = database.config.async_connect_args

    assert 0 == arguments["statement_cache_size"]
    assert "shop" == arguments["server_settings"]["application_name"]
    assert "first-statement" == database.config.begin
    async with database.session() as db:
        assert "pg_catalog" == await db.scalar(text("SHOW search_path"))
        assert "shop" == await db.scalar(text("SHOW application_name"))
