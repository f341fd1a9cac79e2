"""The few internals of SQLAlchemy that this library leans on, one function each, so that an upgrade has one file to
look at."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, TypeAlias

from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.engine.interfaces import ExecutionContext
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.pool import Pool, PoolProxiedConnection, QueuePool
from sqlalchemy.util import ScopedRegistry, ThreadLocalRegistry

__all__ = ["CursorResult", "OptionEngine"]

RawContext: TypeAlias = Any


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
    return not isinstance(pool, QueuePool) or pool.overflow() <= 0


def discard(connection: PoolProxiedConnection, error: BaseException | None = None) -> None:
    """Close a pooled connection for good; the pool opens another one when it needs it."""
    if connection.is_valid:
        connection.invalidate(error)


def buffer_rows(context: RawContext) -> None:
    """Read every row of the statement that ``context`` has just run, so that its connection can be used by somebody
    else."""
    cursor = context.cursor
    if cursor.description is not None:
        context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, cursor.description, cursor.fetchall())


def locks_rows(context: ExecutionContext) -> bool:
    """Tell whether the statement was written with ``with_for_update()``, also where the database compiles it to
    nothing."""
    compiled: Any = context.compiled
    if compiled is None:
        return False
    return getattr(compiled.statement, "_for_update_arg", None) is not None


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
