"""The Database: one per logical database, made once, owner of its engines, pools and session factories.

Everything it hands out is SQLAlchemy's: ``engine`` is an ``AsyncEngine``, ``SessionLocal`` an ``async_sessionmaker``
whose sessions are ``AsyncSession``. Making a Database reads the settings and does no I/O; engines are made when they
are first asked for, and each event loop gets a pool of its own. After ``fork()`` a child opens connections of its own
and never touches its parent's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar, overload

import anyio
from sqlalchemy import MetaData, event, inspect, text
from sqlalchemy.engine import URL, Connection, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import Pool, QueuePool, StaticPool

from . import _compat, config, session
from .connection import SNAPSHOT_LEVELS, LoopPool, SessionEngine, finish_despite_cancel, observe
from .dialects import Edge, Terms, edge_for
from .errors import ConfigurationError, OutsideRequest, SchemaManaged
from .events import CommitFailed, Committed, Facts, RolledBack
from .session import SessionRules, Unit, rules_of

log = logging.getLogger(__name__)

WITHOUT_QUEUE = 30.0  # seconds that a checkout waits where the pool has no queue: SQLAlchemy's own default
UNBOUNDED = 40  # connections that a pool without a limit is taken to have: as many as FastAPI has threads

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
Work = Callable[[AsyncSession], Awaitable[T]]

_living: weakref.WeakSet[Database] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class PoolStats:
    """How many connections one pool may have, has idle, and has lent."""

    size: int
    idle: int
    in_use: int


@dataclass(frozen=True, slots=True)
class Stats:
    """The pools of a Database at one moment. ``None`` stands for an engine that nobody has asked for yet."""

    async_pool: PoolStats | None
    sync_pool: PoolStats | None


class SessionFactory(async_sessionmaker[AsyncSession]):
    """``SessionLocal``: each call returns a new, independent ``AsyncSession`` with SQLAlchemy's own end, which commits
    nothing.

    Wrapped into ``async_scoped_session(SessionLocal, scopefunc=current_request)`` it gives the request's session
    instead.
    """

    database: Database

    def __call__(self, **options: Any) -> AsyncSession:
        registry = _compat.scoped_registry_calling(1)
        if registry is not None:
            return self.in_scope(registry)
        if self.kw.get("bind") is None and "bind" not in options:
            options["bind"] = self.database.engine
        made = super().__call__(**options)
        self.sign(made, sys._getframe(1))
        return made

    def in_scope(self, registry: Any) -> AsyncSession:
        """Return the request's session for the registry of a ``scoped_session``."""
        shared: AsyncSession = _request_session(self.database, "async", registry)
        return shared

    def sign(self, made: AsyncSession, caller: FrameType) -> None:
        """Remember where a session was opened, for the messages about it."""
        _sign(made, "async", caller)


class SyncSessionFactory(sessionmaker[Session]):
    """``SyncSessionLocal``: the same for sync code; wrapped into ``scoped_session`` it gives the request's sync
    session."""

    database: Database

    def __call__(self, **options: Any) -> Session:
        registry = _compat.scoped_registry_calling(1)
        if registry is not None:
            shared: Session = _request_session(self.database, "sync", registry)
            return shared
        if self.kw.get("bind") is None and "bind" not in options:
            options["bind"] = self.database.sync_engine
        made = super().__call__(**options)
        _sign(made, "sync", sys._getframe(1))
        return made


class Database:
    """The engines, pools and sessions of one database.

    Args:
        url: a URL or its text. Without it, the settings are read: ``DATABASE_URL`` and its relatives (see the page
            "Configuration").
        default: the URL to use when no setting names one; a warning says so.
        options: any option of this library, of ``create_engine`` or of ``Session``; a misspelt one is refused.

    Raises:
        ConfigurationError: a setting is missing, misspelt or impossible, or the driver of the URL is not installed.
    """

    def __init__(self, url: str | URL | None = None, *, default: str | None = None, **options: Any) -> None:
        self.config = config.load(url, default=default, **options)
        self.facts = Facts()
        self._lock = threading.RLock()
        self._engine: AsyncEngine | None = None
        self._sync_engine: Engine | None = None
        self._faces: dict[Engine, SessionEngine] = {}
        self.SessionLocal = self._factory()
        self.SyncSessionLocal = self._sync_factory()
        _living.add(self)

    def __repr__(self) -> str:
        return f"<Database {self.config.address}>"

    @property
    def name(self) -> str:
        """How messages call this database: its own name on the server, or its file."""
        return self.config.name

    # -- engines

    @property
    def engine(self) -> AsyncEngine:
        """The async engine, an ordinary one: ``engine.begin()`` is an ordinary transaction."""
        if self._engine is None:
            with self._lock:
                if self._engine is None:
                    self._engine = self._make_engine(self.config.target(sync=False))
        return self._engine

    @property
    def sync_engine(self) -> Engine:
        """The sync engine, for ``def`` endpoints, scripts and migrations; it has a pool of its own."""
        if self._sync_engine is None:
            with self._lock:
                if self._sync_engine is None:
                    self._sync_engine = self._make_sync_engine(self.config.target(sync=True))
        return self._sync_engine

    def _make_engine(self, target: config.Target) -> AsyncEngine:
        options = self._engine_options(target)
        if "pool" not in options:
            options.setdefault("poolclass", LoopPool)
        engine = create_async_engine(target.url, connect_args=dict(target.connect_args), **options)
        self._adopt(engine.sync_engine, target)
        return engine

    def _make_sync_engine(self, target: config.Target) -> Engine:
        engine = create_engine(target.url, connect_args=dict(target.connect_args), **self._engine_options(target))
        self._adopt(engine, target)
        return engine

    def _engine_options(self, target: config.Target) -> dict[str, Any]:
        options = dict(target.engine_options)
        if self.config.isolation_level is not None:
            options["isolation_level"] = self.config.isolation_level
        return options

    def _adopt(self, engine: Engine, target: config.Target) -> None:
        edge = edge_for(engine.dialect)
        level = self.config.isolation_level
        at_once = target.begin == "first-statement" or (level or "") in SNAPSHOT_LEVELS
        face = SessionEngine(
            engine,
            edge=edge,
            begins_at_once=at_once,
            never_begins=level == "AUTOCOMMIT",
            cleanup_timeout=self.config.cleanup_timeout,
        )
        observe(engine, edge, autocommit=level == "AUTOCOMMIT")
        _prepare_connections(engine, edge)
        session.lease_through(engine, face)
        self._faces[engine] = face

    # -- sessions

    def _factory(self) -> SessionFactory:
        asked = self.config.session_class
        inner = session.session_class(asked.sync_session_class)
        factory = SessionFactory(class_=asked, sync_session_class=inner, **self.config.session_options)
        factory.database = self
        return factory

    def _sync_factory(self) -> SyncSessionFactory:
        asked = session.session_class(self.config.sync_session_class)
        factory = SyncSessionFactory(class_=asked, **self.config.session_options)
        factory.database = self
        return factory

    def open_session(self, unit: Unit, *, read_only: bool = False) -> AsyncSession:
        """Return a new session that belongs to ``unit``. No I/O; the caller closes it."""
        made = self.SessionLocal()
        _assign(made, unit, "async", read_only)
        return made

    def open_sync_session(self, unit: Unit, *, read_only: bool = False) -> Session:
        """Return a new sync session that belongs to ``unit``. No I/O; the caller closes it."""
        made = self.SyncSessionLocal()
        _assign(made, unit, "sync", read_only)
        return made

    @asynccontextmanager
    async def session(self, *, begin: bool = False, isolation: str | None = None) -> AsyncIterator[AsyncSession]:
        """Open a session for one unit of work: committed when the block ends, rolled back when an exception leaves it.

        Inside a request it is independent of the request's own session. ``begin=True`` begins before the first read.
        """
        db = self.open_session(_unit_here())
        async with self._unit_of_work(db, begin=begin, isolation=isolation):
            yield db

    @asynccontextmanager
    async def _unit_of_work(self, db: AsyncSession, *, begin: bool, isolation: str | None) -> AsyncIterator[None]:
        rules = _rules(db)
        rules.isolation = isolation
        try:
            if begin:
                await db.begin()
            yield
            await self.commit(db)
        except BaseException as error:
            await self.roll_back(db, reason=type(error).__name__)
            raise
        finally:
            await self.close_session(db)

    @contextmanager
    def sync_session(self, *, begin: bool = False, isolation: str | None = None) -> Iterator[Session]:
        """Do what :meth:`session` does for sync code."""
        db = self.open_sync_session(_unit_here())
        rules = _rules(db)
        rules.isolation = isolation
        try:
            if begin:
                db.begin()
            yield db
            self.commit_sync(db)
        except BaseException as error:
            self.roll_back_sync(db, reason=type(error).__name__)
            raise
        finally:
            db.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Open a session that refuses to write, in the client with a clear error and on the server with a READ ONLY
        transaction."""
        db = self.open_session(_unit_here(), read_only=True)
        try:
            yield db
        finally:
            await self.close_session(db)

    # Typed as asyncio.gather is: a tuple has a type for each place, and unpacks like the list that it really is.
    @overload
    async def gather(self, r1: Work[T1], /, *, limit: int | None = None) -> tuple[T1]: ...

    @overload
    async def gather(self, r1: Work[T1], r2: Work[T2], /, *, limit: int | None = None) -> tuple[T1, T2]: ...

    @overload
    async def gather(
        self, r1: Work[T1], r2: Work[T2], r3: Work[T3], /, *, limit: int | None = None
    ) -> tuple[T1, T2, T3]: ...

    @overload
    async def gather(
        self, r1: Work[T1], r2: Work[T2], r3: Work[T3], r4: Work[T4], /, *, limit: int | None = None
    ) -> tuple[T1, T2, T3, T4]: ...

    @overload
    async def gather(
        self,
        r1: Work[T],
        r2: Work[T],
        r3: Work[T],
        r4: Work[T],
        r5: Work[T],
        /,
        *reads: Work[T],
        limit: int | None = None,
    ) -> list[T]: ...

    async def gather(self, *reads: Work[Any], limit: int | None = None) -> Any:
        """Run reads at the same time, each on a read-only session of its own, and return their results in order.

        Each read is a function of a session, as in ``lambda db: db.scalar(select(...))``. At most ``limit``
        connections are used at once, a quarter of the pool unless you say otherwise. The first failure cancels the
        others and is raised.
        """
        budget = asyncio.Semaphore(limit or max(1, capacity(self.engine.pool) // 4))

        async def run(read: Work[Any]) -> Any:
            async with budget, self.read() as db:
                return await read(db)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(run(read)) for read in reads]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None  # an `except` clause of the caller names the error of a read
        return [task.result() for task in tasks]

    # -- ends of units, shared with the web layer

    async def commit(self, db: AsyncSession) -> None:
        """Commit what a session has done, if anything; after a failure roll back and raise it."""
        rules = _rules(db)
        if not rules.has_work:
            session.give_back(rules)
            return
        try:
            await db.commit()
        except BaseException as error:
            self._failed(rules, error)
            with _second_failure_logged():
                await finish_despite_cancel(db.rollback(), self.config.cleanup_timeout)
            raise
        self.facts.state(Committed(rules.unit_name, self.name))

    async def roll_back(self, db: AsyncSession, *, reason: str) -> bool:
        """Roll back what a session has done; return whether there was anything. Finishes even when the task is
        cancelled."""
        rules = _rules(db)
        if not rules.has_work:
            session.give_back(rules)
            return False
        await finish_despite_cancel(db.rollback(), self.config.cleanup_timeout)
        self.facts.state(RolledBack(rules.unit_name, self.name, reason))
        return True

    async def close_session(self, db: AsyncSession) -> None:
        """Close a session, whatever its state. Finishes even when the task is cancelled."""
        rules = _rules(db)
        if rules.has_work or rules.in_transaction():
            await finish_despite_cancel(db.close(), self.config.cleanup_timeout)
        else:
            rules.close()

    def commit_sync(self, db: Session) -> None:
        """Do what :meth:`commit` does for a sync session."""
        rules = _rules(db)
        if not rules.has_work:
            return
        try:
            db.commit()
        except BaseException as error:
            self._failed(rules, error)
            with _second_failure_logged():
                db.rollback()
            raise
        self.facts.state(Committed(rules.unit_name, self.name))

    def roll_back_sync(self, db: Session, *, reason: str) -> bool:
        """Do what :meth:`roll_back` does for a sync session."""
        rules = _rules(db)
        if not rules.has_work:
            return False
        db.rollback()
        self.facts.state(RolledBack(rules.unit_name, self.name, reason))
        return True

    def _failed(self, rules: SessionRules, error: BaseException) -> None:
        self.facts.state(CommitFailed(rules.unit_name, self.name, error))

    # -- the database itself

    async def create_all(self, base: Any) -> None:
        """Create the tables of a declarative base, or of a ``MetaData``, that do not exist yet. For development.

        Raises:
            SchemaManaged: the database holds an Alembic version table, so its schema belongs to migrations.
        """
        async with self.engine.begin() as connection:
            await connection.run_sync(_create_all, _metadata(base))

    def create_all_sync(self, base: Any) -> None:
        """Do what :meth:`create_all` does, for scripts and tests that have no event loop."""
        with self.sync_engine.begin() as connection:
            _create_all(connection, _metadata(base))

    async def ping(self) -> None:
        """Ask the database for an answer, in one round trip; raise what SQLAlchemy raises when there is none."""
        async with self.read() as db:
            await db.execute(text("SELECT 1"))

    def stats(self) -> Stats:
        """Return what the pools hold. No I/O."""
        return Stats(
            async_pool=_pool_stats(self._engine.sync_engine) if self._engine is not None else None,
            sync_pool=_pool_stats(self._sync_engine) if self._sync_engine is not None else None,
        )

    async def open(self) -> None:
        """Make the engine for the running event loop. Connections are opened when they are needed."""
        _ = self.engine

    async def dispose(self) -> None:
        """Close the idle connections of the running event loop, and those of the sync engine. The Database stays
        usable."""
        with anyio.CancelScope(shield=True):
            if self._engine is not None:
                await self._faces[self._engine.sync_engine].wait_spawned()
                await self._engine.dispose()
        if self._sync_engine is not None:
            self._sync_engine.dispose()

    def dispose_sync(self) -> None:
        """Close the idle connections of the sync engine."""
        if self._sync_engine is not None:
            self._sync_engine.dispose()

    def forget_connections(self) -> None:
        """Drop the pools without closing what is in them: after a fork the sockets belong to the parent."""
        self._lock = threading.RLock()
        if self._sync_engine is not None:
            self._sync_engine.dispose(close=False)


def _after_fork() -> None:
    for database in list(_living):
        database.forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _second_failure_logged() -> Iterator[None]:
    """Whoever waits is told of the first failure; the session is closed next, whatever its rollback says."""
    try:
        yield
    except Exception:
        log.warning("the rollback after a failed commit failed too", exc_info=True)


# -- how sessions are made


def _sign(made: AsyncSession | Session, face: str, caller: FrameType) -> None:
    rules = rules_of(made)
    if rules is not None:
        rules.face = face
        rules.opened_by = (caller.f_code, caller.f_lineno)


def _assign(made: AsyncSession | Session, unit: Unit, face: str, read_only: bool) -> None:
    rules = _rules(made)
    rules.unit = unit
    rules.face = face
    rules.read_only = read_only


def _rules(made: AsyncSession | Session) -> SessionRules:
    rules = rules_of(made)
    if rules is None:
        raise ConfigurationError(f"{type(made).__name__} was not made by this library")
    return rules


def _unit_here() -> Unit:
    return Unit("database.session()")


def _request_session(database: Database, face: str, registry: Any) -> Any:
    """Return the request's own session for a ``scoped_session`` that keeps it, and make it forget the session with the
    request."""
    request = session.current.get()
    if request is None:
        raise OutsideRequest(
            "scoped_session(SessionLocal) was used where no request is being served; open a session with "
            "`async with database.session() as db:` there"
        )
    if not hasattr(registry, "scopefunc"):
        return RequestScoped(database, face)
    key = registry.scopefunc()
    request.at_end(lambda: registry.registry.pop(key, None))
    return request.session(database, face)


class RequestScoped:
    """What a thread-local ``scoped_session`` keeps: it stands for the session of whichever request asks."""

    __slots__ = ("_database", "_face")

    def __init__(self, database: Database, face: str) -> None:
        self._database = database
        self._face = face

    def __getattr__(self, name: str) -> Any:
        request = session.current.get()
        if request is None:
            raise OutsideRequest(
                f"scoped_session(SessionLocal).{name} was used where no request is being served; open a session with "
                "`async with database.session() as db:` there"
            )
        return getattr(request.session(self._database, self._face), name)

    def close(self) -> None:
        """Do nothing: the request closes its session. Called by ``scoped_session.remove()``."""


# -- how connections are prepared


def _prepare_connections(engine: Engine, edge: Edge) -> None:
    if edge.dialect != "sqlite":
        return
    pragmas = config.sqlite_pragmas(engine.url)

    @event.listens_for(engine, "connect")
    def apply(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        try:
            for name, value in pragmas.items():
                cursor.execute(f"PRAGMA {name} = {value}")
        finally:
            cursor.close()

    @event.listens_for(engine, "savepoint")
    def begin_before(connection: Connection, name: str) -> None:
        # pysqlite begins before DML only. A savepoint that comes first would be the transaction itself and its RELEASE
        # the commit, out of a test's outer transaction (tests/ecosystem/test_requirements.py).
        driver = connection.connection.dbapi_connection
        if type(connection) is Connection and not edge.in_transaction(driver):
            edge.begin(driver, Terms())


def _create_all(connection: Connection, metadata: MetaData) -> None:
    if inspect(connection).has_table("alembic_version"):
        raise SchemaManaged(
            "create_all() was called on a database with an alembic_version table; its schema belongs to migrations: "
            "run `alembic upgrade head` instead"
        )
    metadata.create_all(connection)


def _metadata(base: Any) -> MetaData:
    found = base if isinstance(base, MetaData) else getattr(base, "metadata", None)
    if not isinstance(found, MetaData):
        raise TypeError(f"create_all() takes a declarative base or a MetaData, not {type(base).__name__}")
    return found


def capacity(pool: Pool) -> int:
    """Return how many connections a pool lends at once."""
    if isinstance(pool, LoopPool):
        return pool.capacity
    if isinstance(pool, QueuePool):
        return _compat.queue_limit(pool) or UNBOUNDED
    return 1 if isinstance(pool, StaticPool) else UNBOUNDED


def patience(pool: Pool) -> float:
    """Return how many seconds a pool lets a checkout wait."""
    return float(pool.timeout()) if isinstance(pool, LoopPool | QueuePool) else WITHOUT_QUEUE


def _pool_stats(engine: Engine) -> PoolStats:
    pool: Any = engine.pool
    if not hasattr(pool, "checkedin"):
        return PoolStats(size=0, idle=0, in_use=0)
    return PoolStats(size=pool.size(), idle=pool.checkedin(), in_use=pool.checkedout())
