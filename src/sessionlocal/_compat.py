"""The few internals of SQLAlchemy that this library leans on, one function each, so that an upgrade has one file to
look at."""

from __future__ import annotations

import asyncio
import sys
import threading
from types import FrameType
from typing import Any, TypeAlias, TypeVar

from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool, StaticPool
from sqlalchemy.util import ScopedRegistry, ThreadLocalRegistry, await_only

__all__ = ["CursorResult", "OptionEngine"]

FIRST_CONNECT_POLL = 0.01  # seconds. A fraction of a connect, which is what is waited for.

RawContext: TypeAlias = Any
AnyPool = TypeVar("AnyPool", bound=Pool)


def pool_connection(connection: Connection) -> PoolProxiedConnection | None:
    """Return what a Connection holds of its pool, without reviving one that was given up."""
    found: PoolProxiedConnection | None = connection._dbapi_connection
    return found


def check_in(connection: PoolProxiedConnection) -> None:
    """Return a connection whose transaction is known to be over: no ROLLBACK is sent."""
    connection._close_special(transaction_reset=True)


def returns_at_once(pool: Pool) -> bool:
    """Tell whether a checkin only puts the connection back: nothing is closed, and no listener of the user's talks to
    the server."""
    if pool.dispatch.reset or pool.dispatch.checkin:
        return False
    return isinstance(pool, StaticPool) or (isinstance(pool, QueuePool) and pool.overflow() <= 0)


def for_async_engines(pool_class: type[AnyPool]) -> type[AnyPool]:
    """Let ``create_async_engine`` take a pool class."""
    setattr(pool_class, "_is_asyncio", True)  # noqa: B010  a class attribute that SQLAlchemy types as a property
    return pool_class


def share_listeners(pool: Pool, source: Pool) -> None:
    """Let ``pool`` tell the listeners of ``source``, also those that are added later. Pools of several event loops may
    share them."""
    vars(pool)["dispatch"] = source.dispatch
    on_connect: Any = source.dispatch.connect.for_modify(source.dispatch)
    if not isinstance(on_connect._exec_once_mutex, FirstConnect):
        on_connect._exec_once_mutex = FirstConnect()


class FirstConnect:
    """Lets one connection be the first, which tells the dialect about its server, while those of all loops wait.

    SQLAlchemy's own lock belongs to one event loop: another loop that waits for it gets a RuntimeError
    (tests/ecosystem/test_requirements.py). Used inside a greenlet, and once per engine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> bool:
        while not self._lock.acquire(blocking=False):
            await_only(asyncio.sleep(FIRST_CONNECT_POLL))
        return True

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def queue_limit(pool: QueuePool) -> int:
    """Return how many connections a queue pool may have open; 0 stands for no limit."""
    return 0 if pool._max_overflow < 0 else pool.size() + pool._max_overflow


def discard(connection: PoolProxiedConnection, error: BaseException | None = None) -> None:
    """Close a pooled connection for good; the pool opens another one when it needs it."""
    if connection.is_valid:
        connection.invalidate(error)


def disconnected(error: Exception, engine: Engine) -> BaseException:
    """Return SQLAlchemy's error for a driver's that means a lost connection."""
    return DBAPIError.instance(
        None,
        None,
        error,
        engine.dialect.loaded_dbapi.Error,
        hide_parameters=engine.hide_parameters,
        connection_invalidated=True,
        dialect=engine.dialect,
    )


def buffer_rows(context: RawContext) -> None:
    """Read every row of the statement that ``context`` has just run, so that its connection can be used by somebody
    else."""
    cursor = context.cursor
    if cursor.description is not None:
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, cursor.description, cursor.fetchall())


class ReadCursor:
    """What is left of a driver's cursor whose rows were fetched: what it said about them. Closing it takes no time."""

    __slots__ = ("description", "lastrowid", "rowcount")

    def __init__(self, cursor: Any) -> None:
        self.description = cursor.description
        self.lastrowid = cursor.lastrowid
        self.rowcount = cursor.rowcount

    async def close(self) -> None:
        """Do nothing: SQLite has reset the statement with its last row."""


def release_cursor(result: CursorResult[Any]) -> None:
    """Let go of an aiosqlite cursor, whose rows its adapter has fetched. SQLAlchemy 2.0 has done so itself.

    SQLAlchemy closes it after the statement, or with the result, by a round trip to the driver's thread. A clean
    session would give its connection back meanwhile, as if its task awaited something else
    (tests/cases/test_clean_sessions.py).
    """
    cursor: Any = result.cursor
    if type(cursor).__name__ == "AsyncAdapt_aiosqlite_cursor" and hasattr(cursor, "_cursor"):
        cursor._cursor = ReadCursor(cursor._cursor)


def locks_rows(context: ExecutionContext) -> bool:
    """Tell whether the statement was written with ``with_for_update()``, also where the database compiles it to
    nothing."""
    compiled: Any = context.compiled
    return compiled is not None and statement_locks_rows(compiled.statement)


def statement_locks_rows(statement: object) -> bool:
    """Tell the same for a statement that is not compiled yet."""
    return getattr(statement, "_for_update_arg", None) is not None


def root_transaction(session: Session) -> SessionTransaction | None:
    """Return the outermost transaction of a session."""
    transaction: SessionTransaction | None = session._transaction
    while transaction is not None and transaction.parent is not None:
        transaction = transaction.parent
    return transaction


def current_transaction(session: Session) -> SessionTransaction | None:
    """Return the innermost transaction of a session, begun by the user or not."""
    transaction: SessionTransaction | None = session._transaction
    return transaction


def connections_of(session: Session) -> list[Connection]:
    """Return the Connections that take part in the session's transaction."""
    root = root_transaction(session)
    return [] if root is None else list({entry[0] for entry in root._connections.values()})


def join(transaction: SessionTransaction) -> SessionTransaction:
    """Open a unit inside ``transaction`` that commits nothing itself and whose failure dooms the outer one."""
    return transaction._begin()


def is_failed(transaction: SessionTransaction) -> bool:
    """Tell whether an error has rolled ``transaction`` back, and nobody has called ``rollback()`` since."""
    return transaction._state.name == "DEACTIVE"


class UnitTransaction(SessionTransaction):
    """A transaction whose block does not end quietly when an error inside, caught there, has rolled it back."""

    def __exit__(self, type_: Any, value: Any, traceback: Any) -> None:
        failed = type_ is None and is_failed(self)
        super().__exit__(type_, value, traceback)
        if failed:
            raise PendingRollbackError(
                "this unit of work was rolled back by an error that was caught inside it, so nothing of it is stored; "
                "put begin_nested() around the part that may fail",
                code="7s2a",
            )


def end_loudly(transaction: SessionTransaction) -> None:
    """Give a transaction that SQLAlchemy made the end of :class:`UnitTransaction`."""
    transaction.__class__ = UnitTransaction


def is_closed_for_good(session: Session) -> bool:
    """Tell whether ``close()`` has ended a session that was made with ``close_resets_only=False``."""
    return session._close_state.name == "CLOSED"


def has_pending_changes(session: Session) -> bool:
    """Tell whether a flush would have something to do. Cheaper than looking at ``new``, ``dirty`` and ``deleted``."""
    return not session._is_clean()


def scoped_registry_calling(depth: int) -> ScopedRegistry[Any] | ThreadLocalRegistry[Any] | None:
    """Return the registry of a ``scoped_session`` when that is who calls the factory, ``depth`` frames above this
    one."""
    frame: FrameType = sys._getframe(depth + 1)
    if frame.f_code in (ScopedRegistry.__call__.__code__, ThreadLocalRegistry.__call__.__code__):
        registry: ScopedRegistry[Any] = frame.f_locals["self"]
        return registry
    return None
