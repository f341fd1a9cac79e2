"""One face for both worlds: a test calls a sync session, or an async one, in the same words.

A test that asks for ``ground`` is a plain function. On an async driver it runs inside SQLAlchemy's greenlet, in one
task of one event loop, and ``Blocking`` awaits whatever an ``AsyncSession`` returns. So it is the real AsyncSession
that is tested, as a coroutine would use it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

from sqlalchemy import Engine, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncResult, AsyncSession, AsyncSessionTransaction
from sqlalchemy.ext.asyncio.engine import AsyncTransaction
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only, greenlet_spawn

from sessionlocal import Database
from sessionlocal.connection import Lease, SessionConnection
from sessionlocal.session import SessionRules, rules_of
from tests.support.backends import Backend
from tests.support.observer import Observer

T = TypeVar("T")
FACES = (AsyncConnection, AsyncEngine, AsyncResult, AsyncSession, AsyncSessionTransaction, AsyncTransaction)
MEETING_TIMEOUT = 20.0  # seconds. Only a broken test waits so long for another task or thread.


class Blocking:
    """An object of SQLAlchemy's async face, called as if it blocked. Needs the greenlet that every ``ground`` test
    runs in."""

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "target", target)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.target, name)
        if not inspect.ismethod(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            return _blocking(found(*args, **options))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.target, name, value)

    def __contains__(self, item: object) -> bool:
        return item in self.target

    def __enter__(self) -> Any:
        return _blocking(self.target.__aenter__())

    def __exit__(self, *error: Any) -> Any:
        return await_only(self.target.__aexit__(*error))

    def __iter__(self) -> Iterator[Any]:
        rows = self.target.__aiter__()
        while True:
            try:
                row = await_only(rows.__anext__())
            except StopAsyncIteration:
                return
            yield row


def _blocking(found: Any) -> Any:
    if inspect.isawaitable(found) and not hasattr(found, "__aenter__"):
        found = await_only(found)  # what can be awaited or entered (begin(), connect()) is left to the `with`
    return Blocking(found) if isinstance(found, FACES) else found


class Ground:
    """One database on one driver. Counts its pool checkouts and its statements."""

    def __init__(self, backend: Backend, observer: Observer, **options: Any) -> None:
        self.backend = backend
        self.observer = observer
        self.is_async = backend.is_async
        self.dialect = backend.dialect
        self.checkouts = 0
        self.statements: list[str] = []
        self._runner = asyncio.Runner()
        self._databases: list[Database] = []
        self.database = self.another(**options)
        event.listen(self.engine, "checkout", self._checked_out)
        event.listen(self.engine, "before_cursor_execute", self._executed)

    def another(self, **options: Any) -> Database:
        """Return another Database on the same server, disposed at the end."""
        return self.adopt(Database(self.backend.url, **options))

    def adopt(self, database: Database) -> Database:
        """Dispose of a Database at the end."""
        self._databases.append(database)
        return database

    def _checked_out(self, *_: Any) -> None:
        self.checkouts += 1

    def _executed(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.statements.append(statement)

    # -- the face of this driver

    @property
    def engine(self) -> Engine:
        """The engine behind this driver's sessions, for listeners."""
        return self.engine_of(self.database)

    def engine_of(self, database: Database) -> Engine:
        """Return the engine behind another Database's sessions."""
        return database.engine.sync_engine if self.is_async else database.sync_engine

    def session(self, database: Database | None = None, **options: Any) -> Session:
        """Open ``SessionLocal()`` or ``SyncSessionLocal()``."""
        database = database or self.database
        if self.is_async:
            return cast(Session, Blocking(database.SessionLocal(**options)))
        return database.SyncSessionLocal(**options)

    def unit(self, database: Database | None = None, **options: Any) -> AbstractContextManager[Session]:
        """Open ``database.session()`` or ``database.sync_session()``."""
        database = database or self.database
        if self.is_async:
            return cast("AbstractContextManager[Session]", _Unit(database, options))
        return database.sync_session(**options)

    def factory_begin(self) -> AbstractContextManager[Session]:
        """``SessionLocal.begin()`` or ``SyncSessionLocal.begin()``."""
        if self.is_async:
            return cast("AbstractContextManager[Session]", _Context(self.database.SessionLocal.begin()))
        return self.database.SyncSessionLocal.begin()

    def connect(self, database: Database | None = None) -> AbstractContextManager[Connection]:
        """``engine.connect()`` of the plain engine."""
        database = database or self.database
        if self.is_async:
            return cast("AbstractContextManager[Connection]", Blocking(database.engine.connect()))
        return database.sync_engine.connect()

    def begin(self, database: Database | None = None) -> AbstractContextManager[Connection]:
        """``engine.begin()`` of the plain engine."""
        database = database or self.database
        if self.is_async:
            return cast("AbstractContextManager[Connection]", _Context(database.engine.begin()))
        return database.sync_engine.begin()

    def begin_now(self, db: Session, *, nested: bool = False) -> Any:
        """``await db.begin()`` or ``db.begin()``, without a ``with`` block."""
        if isinstance(db, Blocking):
            target = db.target
            return Blocking(await_only(_start(target.begin_nested() if nested else target.begin())))
        return db.begin(nested=nested)

    def stream(self, db: Session, statement: Any, **options: Any) -> Any:
        """``db.stream()``, or ``db.execute()`` with ``yield_per``."""
        if isinstance(db, Blocking):
            return db.stream(statement, execution_options={"yield_per": 2, **options})
        return db.execute(statement, execution_options={"yield_per": 2, **options})

    # -- the world around a session

    def elsewhere(self) -> None:
        """Await something that is not the database; a sync program has no such moment, and needs none."""
        if self.is_async:
            await_only(self._settle())

    def together(self, *work: Callable[[], T]) -> list[T | BaseException]:
        """Run functions at the same time, in tasks or in threads; return their results, or what they raised."""
        if self.is_async:
            tasks = [greenlet_spawn(_outcome, one) for one in work]
            return cast("list[T | BaseException]", await_only(asyncio.gather(*tasks)))
        with ThreadPoolExecutor(len(work)) as threads:
            return list(threads.map(_outcome, work))

    def moment(self) -> Moment:
        """Return something that one task or thread announces and others wait for."""
        return Moment(is_async=self.is_async)

    def meeting(self, parties: int) -> Callable[[], None]:
        """Return a function that returns once so many tasks or threads have called it."""
        if not self.is_async:
            barrier = threading.Barrier(parties, timeout=MEETING_TIMEOUT)
            return lambda: (barrier.wait(), None)[1]
        arrivals = asyncio.Barrier(parties)
        return lambda: (await_only(asyncio.wait_for(arrivals.wait(), MEETING_TIMEOUT)), None)[1]

    # -- facts

    @property
    def in_use(self) -> int:
        """How many connections the pool has lent."""
        return cast(int, cast(Any, self.engine.pool).checkedout())

    @property
    def open_transactions(self) -> int:
        """How many transactions others have open, as the server sees it."""
        return self.observer.open_transactions()

    @contextmanager
    def expecting_checkouts(self, count: int) -> Iterator[None]:
        """Assert that a block takes a connection from the pool so many times; an engine's very first session, which
        learns what the server can do, takes one more and is not counted."""
        with self.session() as first:
            first.execute(text("SELECT 1"))
        self.elsewhere()
        before = self.checkouts
        yield
        taken = self.checkouts - before
        assert count == taken

    # -- life

    def run(self, function: Callable[..., Any], **arguments: Any) -> None:
        """Run a test."""
        if self.is_async:
            self._runner.run(_within(function, arguments))
        else:
            function(**arguments)

    def close(self) -> None:
        """Assert that nothing is left on the pools and on the server, and close the pools."""
        self._runner.run(self._settle())
        lent = {repr(database): database.stats() for database in self._databases}
        self._runner.run(self._dispose())
        self._runner.close()
        for name, stats in lent.items():
            for pool in (stats.async_pool, stats.sync_pool):
                assert pool is None or pool.in_use == 0, f"{name} has {pool.in_use} connections lent"
        self.observer.settle()

    async def _settle(self) -> None:
        await asyncio.sleep(0)
        for database in self._databases if self.is_async else []:
            await self.engine_of(database).sessionlocal_face.wait_spawned()  # type: ignore[attr-defined]

    async def _dispose(self) -> None:
        for database in self._databases:
            await database.dispose()


class Moment:
    """A point in time that one task or thread reaches and others wait for."""

    def __init__(self, *, is_async: bool) -> None:
        self._event: Any = asyncio.Event() if is_async else threading.Event()
        self._is_async = is_async

    def reach(self) -> None:
        """Let the others go on."""
        self._event.set()

    @property
    def reached(self) -> bool:
        """Whether it is past."""
        return bool(self._event.is_set())

    def wait(self) -> None:
        """Wait for it."""
        if self._is_async:
            await_only(asyncio.wait_for(self._event.wait(), MEETING_TIMEOUT))
        else:
            assert self._event.wait(MEETING_TIMEOUT)


class _Context:
    """An async context manager, entered as if it blocked."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> Any:
        return _blocking(self._context.__aenter__())

    def __exit__(self, *error: Any) -> Any:
        return await_only(self._context.__aexit__(*error))


class _Unit(_Context):
    def __init__(self, database: Database, options: dict[str, Any]) -> None:
        super().__init__(database.session(**options))


async def _start(startable: Any) -> Any:
    return await startable


async def _within(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    await greenlet_spawn(lambda: function(**arguments))


def _outcome(work: Callable[[], T]) -> T | BaseException:
    try:
        return work()
    except Exception as error:
        return error


def only(outcomes: list[Any]) -> list[Any]:
    """Return the results of ``together``; raise the first error among them."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def sync_session(db: Session) -> SessionRules:
    """Return the sync session that carries the rules, whichever face it was opened with."""
    rules = rules_of(cast(Any, db).target if isinstance(db, Blocking) else db)
    assert rules is not None
    return rules


def lease_of(db: Session) -> Lease:
    """Return the lease of a session that has used its database."""
    connections = {entry[0] for entry in sync_session(db)._transaction._connections.values()}  # type: ignore[union-attr]
    (connection,) = connections
    assert isinstance(connection, SessionConnection)
    assert connection.lease is not None
    return connection.lease
