"""One spelling for both faces of a Database, so that each count is written once.

Promises: on an async driver the session is the ``AsyncSession`` itself; on a sync driver each method of the ``Session``
has done its work before its result is awaited, and nothing is added to what goes over the wire.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from sessionlocal import Database
from tests.support.backends import Backend
from tests.support.proxy import Proxy, Trips

# psycopg prepares a statement when it is executed for the sixth time, asyncpg at once: the eighth run is like any later
# one.
WARM_UPS = 6

Work = Callable[[], Awaitable[Any]]


class Cost(NamedTuple):
    """Round trips of a unit of work: once its statements are prepared, and the first time on a connection."""

    warm: int
    cold: int


class Face:
    """A Database behind the counting proxy, met through the driver of the test."""

    def __init__(self, database: Database, backend: Backend, proxy: Proxy | None) -> None:
        self.database = database
        self.backend = backend
        self.proxy = proxy
        self.trips: Trips | None = None  # of the last warm run, for the message of a failed assertion
        self._numbers = itertools.count(1)

    def new_name(self) -> str:
        """Return a name that no row has yet."""
        return f"new {next(self._numbers)}"

    @property
    def in_use(self) -> int:
        """How many connections the pool has lent."""
        stats = self.database.stats()
        pool = stats.async_pool if self.backend.is_async else stats.sync_pool
        return 0 if pool is None else pool.in_use

    @property
    def pool(self) -> Any:
        """The pool, for listeners."""
        return (self.database.engine.sync_engine if self.backend.is_async else self.database.sync_engine).pool

    def session(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        """Open a unit of work that commits."""
        return self.database.session(**options) if self.backend.is_async else self._sync_unit(**options)

    def own_session(self, *, read_only: bool = False) -> AbstractAsyncContextManager[Any]:
        """Open a session that commits nothing by itself."""
        if not self.backend.is_async:
            return self._sync_session(read_only)
        return self.database.read() if read_only else self.database.SessionLocal()

    @asynccontextmanager
    async def _sync_unit(self, **options: Any) -> AsyncIterator[Any]:
        with self.database.sync_session(**options) as db:
            yield Awaited(db)

    @asynccontextmanager
    async def _sync_session(self, read_only: bool) -> AsyncIterator[Any]:
        with self.database.SyncSessionLocal() as db:
            db.read_only = read_only  # type: ignore[attr-defined]
            yield Awaited(db)

    async def connect(self) -> None:
        """Open the first connection, so that what follows counts statements only."""
        async with self.session() as db:
            await db.execute(text("SELECT 1"))

    async def measure(self, work: Work) -> Cost:
        """Return what ``work`` costs on a connection that is open already; ``trips`` tells the details."""
        await self.connect()
        cold = await self.count(work)
        for _ in range(WARM_UPS):
            await work()
        self.trips = await self.count(work)
        return Cost(self.trips.total, cold.total)

    async def count(self, work: Work) -> Trips:
        """Return the round trips of one run of ``work``."""
        assert self.proxy is not None
        with self.proxy.counting() as trips:
            await work()
        return trips


class Awaited:
    """A sync session under the names of an ``AsyncSession``."""

    def __init__(self, session: Session) -> None:
        self.sync_session = session

    def add(self, entity: object) -> None:
        self.sync_session.add(entity)

    def add_all(self, entities: Any) -> None:
        self.sync_session.add_all(entities)

    def begin(self) -> AbstractAsyncContextManager[Any]:
        return _entered(self.sync_session.begin)

    def begin_nested(self) -> AbstractAsyncContextManager[Any]:
        return _entered(self.sync_session.begin_nested)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.sync_session, name)

        async def done(*args: Any, **options: Any) -> Any:
            return method(*args, **options)

        return done


@asynccontextmanager
async def _entered(begin: Callable[[], Any]) -> AsyncIterator[Any]:
    with begin() as entered:
        yield entered
