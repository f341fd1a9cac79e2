"""Checkout and checkin: when a session has a connection, and when it gives it back.

A session's ``Connection`` does not hold a pool connection; it holds a :class:`Lease`, which checks one out for the
first statement and decides, where statements reach the driver, when a transaction begins and when the connection may
leave.

Promises: opening a session does no I/O. A plain read runs in driver autocommit. A clean session holds no connection
while its task awaits anything but the database. COMMIT and ROLLBACK are sent if and only if the driver says that a
transaction is open. Two tasks never use one lease at the same time. A connection that was interrupted in the middle of
a statement is not used again.

    IDLE --checkout--> HELD --begin--> OPEN --end--> HELD
     ^                  |               |
     +----- checkin ----+               +--lose, invalidate--> LOST --end--> HELD         (any) --close--> CLOSED
"""

from __future__ import annotations

import asyncio
import enum
import logging
import os
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from sqlalchemy import event, exc
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, Pool, PoolProxiedConnection
from sqlalchemy.util import await_only, greenlet_spawn
from sqlalchemy.util.concurrency import in_greenlet

from . import _compat, callsite
from .dialects import Edge, Terms
from .dialects.plain_read import is_plain_read, is_write
from .errors import CommitUnknown, ConcurrentUse, IsolationConflict, UsedAfterFork

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import ExceptionContext, ExecutionContext

log = logging.getLogger(__name__)

T = TypeVar("T")

CLEANUP_TIMEOUT = 5.0  # seconds. A rollback that takes longer has lost its server; the connection is closed instead.
PATIENCE = 5  # rounds of the event loop in which work that was given up is cancelled again
AUTOCOMMIT = "AUTOCOMMIT"
SNAPSHOT_LEVELS = frozenset({"REPEATABLE READ", "SERIALIZABLE"})

_leasing: ContextVar[bool] = ContextVar("sessionlocal_leasing", default=False)
_generation = 0  # how many times this process descends from a fork
_inherited: list[object] = []  # connections of the parent, kept: their destructors would speak to its server


def _forked() -> None:
    global _generation
    _generation += 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class State(enum.Enum):
    """What a lease holds. The drawing is in the module's docstring, the legal moves are ``MOVES``."""

    IDLE = "no connection"
    HELD = "a connection, no transaction"
    OPEN = "a transaction"
    LOST = "a transaction that the database has given up; rollback() is all that is left"
    CLOSED = "nothing any more"


MOVES: dict[tuple[State, str], State] = {
    (State.IDLE, "checkout"): State.HELD,
    (State.IDLE, "invalidate"): State.IDLE,
    (State.HELD, "begin"): State.OPEN,
    (State.HELD, "checkin"): State.IDLE,
    (State.HELD, "invalidate"): State.IDLE,
    (State.OPEN, "end"): State.HELD,
    (State.OPEN, "lose"): State.LOST,
    (State.OPEN, "invalidate"): State.LOST,
    (State.LOST, "invalidate"): State.LOST,
    (State.LOST, "end"): State.HELD,
} | {(state, "close"): State.CLOSED for state in State}


class Tenant(Protocol):
    """What a lease asks of the session that it serves."""

    read_only: bool

    def before_begin(self, sql: str | None) -> None:
        """Called before a transaction begins; raises when it must not. ``sql`` is the statement that wants it, if one
        does."""
        ...

    def refuse_write(self, sql: str) -> None:
        """Called before a statement that certainly writes is sent on a read-only session; raises."""
        ...


class Lease(PoolProxiedConnection):
    """The pool connection of one session transaction, checked out when a statement needs it and given back when it is
    clean."""

    __slots__ = (
        "__weakref__",
        "_closing",
        "_depth",
        "_doomed",
        "_edge",
        "_engine",
        "_generation",
        "_interrupted",
        "_kept",
        "_mutex",
        "_owner",
        "_pooled",
        "_reading",
        "_scheduled",
        "_streams",
        "eager",
        "ending",
        "isolation",
        "never",
        "state",
        "tenant",
        "terms",
    )

    def __init__(self, engine: SessionEngine) -> None:
        self._engine = engine
        self._edge = engine.edge
        self._pooled: PoolProxiedConnection | None = None
        self._mutex = threading.Lock()
        self._owner: callsite.Owner | None = None
        self._depth = 0
        self._streams: set[StreamCursor] = set()
        self._reading = False  # the transaction serves a stream and nothing else
        self._scheduled = False
        self._interrupted = False
        self._doomed = False  # a statement failed, and the server will not commit the transaction any more
        self._closing = False
        self._kept = False
        self._generation = _generation
        self.state = State.IDLE
        self.eager = engine.begins_at_once
        self.never = engine.never_begins
        self.ending = (
            False  # its session is being closed: what another task is doing meanwhile is left to end by itself
        )
        self.isolation: str | None = None
        self.terms = Terms()
        self.tenant: weakref.ref[Tenant] | None = None

    def __repr__(self) -> str:
        return f"<Lease {self._engine.url.render_as_string(hide_password=True)} {self.state.name}>"

    def _move(self, operation: str) -> None:
        self.state = MOVES[self.state, operation]

    # -- one statement at a time

    def enter(self) -> None:
        """Claim the lease for the current task or thread; raise :class:`ConcurrentUse` when another one is using it."""
        self._refuse_inherited()
        me = self._engine.current_owner()
        if self._owner == me:
            self._depth += 1
        elif self._mutex.acquire(blocking=False):
            self._owner = me
            self._depth = 1
        else:
            raise self._concurrent_use()

    def leave(self) -> None:
        """Release the claim; give the connection back now (sync), or as soon as the task awaits something else
        (async)."""
        self._depth -= 1
        if self._depth:
            return
        self._owner = None
        self._mutex.release()
        if self._closing:
            self.close()
        elif self._returnable():
            self._schedule_return()

    def refuse_second_user(self) -> None:
        """Raise :class:`ConcurrentUse` while another task or thread is using the lease."""
        if self._used_elsewhere():
            raise self._concurrent_use()

    def _used_elsewhere(self) -> bool:
        return bool(self._depth) and self._owner != self._engine.current_owner()

    def _concurrent_use(self) -> ConcurrentUse:
        first, second = callsite.of(self._owner), callsite.here()
        return ConcurrentUse(
            f"this session is in use: {first} waits for the database while {second} uses it too; "
            "a session serves one statement at a time. "
            "Use database.gather(...) for concurrent reads, or a session of its own for each task",
            first=first,
            second=second,
        )

    @property
    def _is_inherited(self) -> bool:
        return self._generation != _generation

    def _refuse_inherited(self) -> None:
        # Also with a connection in hand: its socket is the parent's.
        if self._is_inherited:
            raise UsedAfterFork("this session was opened before the process forked; open sessions in the child instead")

    # -- checkout and checkin

    def checkout(self) -> PoolProxiedConnection:
        """Return the pool connection; take one from the pool, resting in autocommit, when there is none."""
        self._refuse_inherited()
        if self._pooled is not None:
            return self._pooled
        if self.state is State.LOST:
            raise self._lost()
        if self.state is State.CLOSED:
            raise exc.ResourceClosedError("this connection's session has ended")
        token = _leasing.set(True)
        try:
            pooled = self._engine.pool.connect()
        finally:
            _leasing.reset(token)
        try:
            if not self._edge.is_resting(pooled.dbapi_connection):
                self._edge.rest(pooled.dbapi_connection)
        except BaseException as error:
            self._engine.discard(pooled, error)
            raise
        self._pooled = pooled
        self._move("checkout")
        return pooled

    def _returnable(self) -> bool:
        if self._pooled is None or self._kept or self._streams or self._closing or self._interrupted:
            return False
        return self.state is State.HELD or (self.state is State.OPEN and self._reading)

    def _schedule_return(self) -> None:
        if not self._engine.is_async:
            self.give_back()
        elif not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._return_if_idle)

    def _return_if_idle(self) -> None:
        """Runs on the event loop once the task has awaited something: the next statement, which keeps the connection,
        or anything else."""
        self._scheduled = False
        if self.is_idle:
            self.give_back()

    @property
    def is_idle(self) -> bool:
        """True while a connection is held that nothing needs: no statement, no stream, no transaction."""
        return not self._depth and self._returnable()

    def give_back(self) -> None:
        """Put the connection back into the pool, in this very call where that needs no I/O, else in a task of its
        own."""
        pooled, self._pooled = self._pooled, None
        if pooled is None:
            return
        reading, self._reading = self._reading, False
        if self.state is State.OPEN:
            self._move("end")
        self._move("checkin")
        if not self._engine.is_async:
            self._finish(pooled, reading)
        elif not reading and _compat.returns_at_once(self._engine.current_pool()):
            _compat.check_in(pooled)
        else:
            self._engine.spawn(greenlet_spawn(self._finish, pooled, reading))

    def _finish(self, pooled: PoolProxiedConnection, reading: bool) -> None:
        """End the transaction of a finished stream, if there was one, and check the connection in."""
        connection = pooled.dbapi_connection
        try:
            if reading and self._edge.in_transaction(connection):
                self._edge.commit(connection)  # psycopg would drop its prepared statements at a ROLLBACK
            if reading:
                self._edge.settle(connection, self.terms)
        except BaseException as error:
            _compat.discard(pooled, error)
            raise
        _compat.check_in(pooled)

    # -- where statements reach the driver

    def run(self, execute: Callable[[], None], sql: str, context: ExecutionContext) -> None:
        """Send one statement; begin a transaction before it when it is not certainly a plain read."""
        began = self._prepare(sql, context)
        self._interrupted = True
        try:
            execute()
        except Exception as error:
            still_open = self._edge.survives(self.dbapi_connection, error)
            self._interrupted = False
            if began and not still_open:
                self._move("lose")  # a deadlock, or SQLite out of space: the server has rolled back the whole unit
            elif self.state is State.OPEN and self._edge.dooms(error):
                self._doomed = True
            raise
        self._interrupted = False
        if self._doomed and sql.startswith("ROLLBACK TO"):
            self._doomed = False
        if not self._edge.rows_buffered:
            self._save_rows(context)

    def _save_rows(self, context: Any) -> None:
        """Read the rows of a driver that fetches as it goes before the connection leaves, or keep it for a stream."""
        if context.execution_options.get("stream_results"):
            context.cursor = self._stream(context.cursor)
        elif self.state is State.HELD:
            _compat.buffer_rows(context)

    def _prepare(self, sql: str, context: ExecutionContext) -> bool:
        """Begin if this statement needs it; return whether the server had a transaction open before that."""
        if self.state is State.LOST:
            raise self._lost()
        if self.state is State.HELD:
            cursor: Any = context.cursor
            self._begin_for(sql, context, streaming=type(cursor) is StreamCursor)
            return False
        if self._reading:
            self._reading = self._plain(sql, context)
        if self._edge.in_transaction(self.dbapi_connection):
            return True
        # DDL on MySQL has committed; what follows is a transaction again.
        self._start(self._edge.arm)
        return False

    @staticmethod
    def _lost() -> exc.PendingRollbackError:
        return exc.PendingRollbackError(
            "the database has given this transaction up after an earlier error; call rollback() before going on",
            code="8s2b",
        )

    def _plain(self, sql: str, context: ExecutionContext) -> bool:
        return not self.eager and is_plain_read(sql, self._edge.dialect) and not _compat.locks_rows(context)

    def _begin_for(self, sql: str, context: ExecutionContext, streaming: bool) -> None:
        plain = self._plain(sql, context)
        if (plain and not (streaming and self._edge.streams_in_transaction)) or self.never:
            return
        tenant = self._tenant()
        if tenant is not None:
            if tenant.read_only and is_write(sql, self._edge.dialect):
                tenant.refuse_write(sql)
            if not plain:
                tenant.before_begin(sql)
        self._reading = plain
        self._arm(self._edge.arm)

    def begin(self) -> None:
        """Begin now and keep the connection to the end: for ``session.connection()``, whose user may go past
        SQLAlchemy."""
        self.keep()
        if self.never:
            return
        self.enter()
        try:
            self.checkout()
            if self.state is State.HELD:
                tenant = self._tenant()
                if tenant is not None:
                    tenant.before_begin(None)
                self._arm(self._edge.begin)
            self._reading = False
        finally:
            self.leave()

    def keep(self) -> None:
        """Begin with the next statement, whatever it is, and hold the connection until the transaction ends."""
        self.eager = True

    def _arm(self, start: Callable[[Any, Terms], None]) -> None:
        tenant = self._tenant()
        self.terms = Terms(isolation=self.isolation, read_only=tenant is not None and tenant.read_only)
        self._start(start)
        self._doomed = False
        self._move("begin")

    def _start(self, start: Callable[[Any, Terms], None]) -> None:
        connection = self.checkout().dbapi_connection
        try:
            start(connection, self.terms)
        except Exception:
            self._edge.settle(connection, self.terms)
            raise
        except BaseException as error:
            # BEGIN is on its way, and the next one to get this connection would be inside a transaction
            # (tests/faults/test_cancellation.py).
            self.invalidate(error)
            raise

    def _tenant(self) -> Tenant | None:
        return None if self.tenant is None else self.tenant()

    def ask_isolation(self, level: str) -> None:
        """Use ``level`` for the transaction; raise :class:`IsolationConflict` when one has begun with another."""
        level = level.upper().replace("_", " ")
        if self.state is State.OPEN and level != self.terms.isolation:
            raise IsolationConflict(
                f"isolation level {level} was asked for after the transaction had begun with "
                f"{self.terms.isolation or 'the default level'}; "
                "ask for it before the first write, or in database.session(isolation=...)"
            )
        if level == AUTOCOMMIT:
            self.never = True
            return
        self.isolation = level
        self.eager = self.eager or level in SNAPSHOT_LEVELS

    # -- the face that SQLAlchemy's Connection sees

    def commit(self) -> None:
        """Send COMMIT if a transaction is open. When it fails the transaction is rolled back before the error is
        raised."""
        self._end(self._edge.commit)

    def rollback(self) -> None:
        """Send ROLLBACK if a transaction is open."""
        self._end(self._edge.rollback)

    def _end(self, finish: Callable[[Any], None]) -> None:
        if self.ending and (self._is_inherited or self._used_elsewhere()):
            return
        self.enter()
        try:
            if self.state is State.OPEN:
                assert self._pooled is not None
                refused = self._doomed and finish == self._edge.commit
                self._conclude(self._pooled, self._refuse if refused else finish)
            elif self.state is State.LOST:
                self._conclude_lost(finish)
        finally:
            self.leave()

    @staticmethod
    def _refuse(connection: Any) -> None:
        # PostgreSQL answers COMMIT with ROLLBACK then, and no driver calls that an error.
        raise exc.PendingRollbackError(
            "a statement of this transaction failed, so that the database can only roll it back; call rollback(), or "
            "put what may fail into `async with db.begin_nested():`",
            code="8s2b",
        )

    def _conclude_lost(self, finish: Callable[[Any], None]) -> None:
        if finish == self._edge.commit:
            raise self._lost()
        if self._pooled is not None:
            self._conclude(self._pooled, finish)

    def _conclude(self, pooled: PoolProxiedConnection, finish: Callable[[Any], None]) -> None:
        """End the transaction, and leave a connection that rests, or none.

        A rollback without an answer has succeeded: the server undoes what a lost connection has not committed. A
        commit without an answer raises :class:`CommitUnknown`, unless it is known that COMMIT was not carried out.
        """
        lost: Exception | None = None
        unsent = self._edge.is_closed(pooled.dbapi_connection)
        try:
            self._shielded(lambda: self._finish_on_server(pooled.dbapi_connection, finish), finish)
        except BaseException as error:
            if isinstance(error, Exception) and self._is_lost(error, pooled.dbapi_connection):
                lost = error
            if self._interrupted:
                self._drop(pooled, error)
            if lost is None:
                raise
        finally:
            self._reading = False
            if self.state in (State.OPEN, State.LOST) and self._pooled is not None:
                self._move("end")
        if lost is None:
            return
        if finish == self._edge.commit:
            if unsent or self._edge.denies(lost):
                raise _compat.disconnected(lost, self._engine) from lost
            raise CommitUnknown(
                "the connection was lost between COMMIT and its answer, so the work may or may not be stored; "
                "look whether it is before doing it again"
            ) from lost
        log.warning("a rollback was not answered; its connection is discarded, which undoes the work", exc_info=lost)

    def _finish_on_server(self, connection: Any, finish: Callable[[Any], None]) -> None:
        try:
            for stream in list(self._streams):
                stream.close()  # MySQL takes no COMMIT while rows are on their way
            self._interrupted = True
            if self._edge.in_transaction(connection):
                finish(connection)
        except Exception as error:
            if not self._is_lost(error, connection):
                self._undo(connection)
            raise
        self._edge.settle(connection, self.terms)
        self._interrupted = False

    def _undo(self, connection: Any) -> None:
        # SQLite keeps the transaction open when COMMIT fails; a later request would commit it
        # (tests/cases/test_commit_failure.py).
        try:
            if self._edge.in_transaction(connection):
                self._edge.rollback(connection)
            self._edge.settle(connection, self.terms)
        except Exception:
            log.warning("a rollback failed; its connection is discarded", exc_info=True)
        else:
            self._interrupted = False

    def _is_lost(self, error: Exception, connection: Any) -> bool:
        """Tell whether an error means that the server did not answer."""
        dialect = self._engine.dialect
        if isinstance(error, dialect.loaded_dbapi.Error):
            return dialect.is_disconnect(error, connection, None)
        return isinstance(error, (OSError, EOFError))

    def _shielded(self, work: Callable[[], None], finish: Callable[[Any], None]) -> None:
        """Do ``work`` to its end even when the task is cancelled meanwhile. A rollback is waited for no longer than the
        clean-up timeout, a commit as long as nobody cancels it."""
        if not self._engine.is_async:
            work()
            return
        bounded = finish != self._edge.commit
        await_only(_answered(greenlet_spawn(work), self._engine.cleanup_timeout, bounded=bounded))

    def _drop(self, pooled: PoolProxiedConnection, error: BaseException) -> None:
        """Discard a connection whose server has not answered; nothing is asked of it any more."""
        if self._pooled is pooled:
            self._pooled = None
            self._move("invalidate")
        self._interrupted = False
        self._engine.discard(pooled, error, self._take_streams(), silent=True)

    @property
    def dbapi_connection(self) -> Any:  # type: ignore[override]
        return self.checkout().dbapi_connection

    @property
    def driver_connection(self) -> Any:  # type: ignore[override]
        return self.checkout().driver_connection

    @property
    def info(self) -> dict[Any, Any]:
        return self.checkout().info

    @property
    def record_info(self) -> dict[Any, Any] | None:
        return self.checkout().record_info

    @property
    def is_valid(self) -> bool:
        return self.state not in (State.LOST, State.CLOSED)

    @property
    def is_detached(self) -> bool:
        return self._pooled is not None and self._pooled.is_detached

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a driver cursor; any argument asks for a server-side one, which holds the connection until it is
        closed."""
        cursor = self.checkout().cursor(*args, **kwargs)
        if not args and not kwargs:
            return cursor
        return self._stream(cursor)

    def _stream(self, cursor: Any) -> StreamCursor:
        opened = StreamCursor(cursor, self)
        self._streams.add(opened)
        return opened

    def fetch(self, fetch: Callable[..., T], *args: Any) -> T:
        """Ask the server for rows of a stream; whoever is interrupted meanwhile leaves a connection that waits for
        them."""
        self._interrupted = True
        try:
            rows = fetch(*args)
        except Exception:
            self._interrupted = False
            raise
        self._interrupted = False
        return rows

    def stream_closed(self, cursor: StreamCursor) -> None:
        """A server-side cursor was closed: the connection may leave when nothing else needs it."""
        self._streams.discard(cursor)
        if not self._depth and self._returnable():
            self._schedule_return()

    def detach(self) -> None:
        self.keep()
        self._kept = True
        self.checkout().detach()

    def invalidate(self, e: BaseException | None = None, soft: bool = False) -> None:
        """Discard the pool connection. A clean session goes on with another one; an open transaction is lost."""
        pooled = self._pooled
        if pooled is None:
            return
        if soft:
            pooled.invalidate(e, soft=True)
            return
        self._pooled = None
        self._reading = self._interrupted = False
        self._move("invalidate")
        self._engine.discard(pooled, e, self._take_streams())

    def _take_streams(self) -> set[StreamCursor]:
        streams, self._streams = self._streams, set()
        return streams

    @property
    def survives(self) -> bool:
        """True while the error just raised has interrupted no statement: the connection is as good as before."""
        return not self._interrupted

    def close(self) -> None:
        """Roll back what is open and give the connection back. While another task's statement runs, that statement
        does it at its end."""
        if self._is_inherited:
            _inherited.append(self._pooled)
            self._pooled = None
        elif self._used_elsewhere():
            self._closing = True
            return
        pooled, self._pooled = self._pooled, None
        was_open = self.state is State.OPEN
        self._closing = False
        self._move("close")
        if pooled is None:
            return
        if was_open or self._interrupted or self._streams:
            self._clean(pooled)
        else:
            self._check_in(pooled)

    def _clean(self, pooled: PoolProxiedConnection) -> None:
        if self._interrupted:
            self._engine.discard(pooled, asyncio.CancelledError(), self._take_streams())
            return
        try:
            self._conclude(pooled, self._edge.rollback)
        finally:
            if pooled.is_valid:
                self._check_in(pooled)

    def _check_in(self, pooled: PoolProxiedConnection) -> None:
        if self._engine.is_async and not _compat.returns_at_once(self._engine.current_pool()):
            self._engine.spawn(greenlet_spawn(_compat.check_in, pooled))
        else:
            _compat.check_in(pooled)

    def _close_special(self, transaction_reset: bool = False) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        if self._pooled is None and name.startswith(
            "_"
        ):  # SQLAlchemy asks while it handles an error: no time to connect
            if name == "_connection_record":
                return None
            raise AttributeError(name)
        return getattr(self.checkout(), name)


class StreamCursor:
    """A server-side cursor that tells its lease when it is closed. Everything else is the driver's cursor."""

    __slots__ = ("_cursor", "_lease")

    def __init__(self, cursor: Any, lease: Lease) -> None:
        object.__setattr__(self, "_cursor", cursor)
        object.__setattr__(self, "_lease", lease)

    def close(self) -> None:
        lease: Lease | None = self._lease
        if lease is None or not lease.survives:
            return
        try:
            lease.fetch(self._cursor.close)
        finally:
            if lease.survives:
                object.__setattr__(self, "_lease", None)
                lease.stream_closed(self)

    def abandon(self) -> None:
        """Close the client's half: the connection is gone."""
        object.__setattr__(self, "_lease", None)
        try:
            self._cursor.close()
        except Exception:
            log.debug("a cursor had rows to come when its connection was discarded", exc_info=True)

    def fetchone(self) -> Any:
        return self._fetch(self._cursor.fetchone)

    def fetchmany(self, *args: Any) -> Any:
        return self._fetch(self._cursor.fetchmany, *args)

    def fetchall(self) -> Any:
        return self._fetch(self._cursor.fetchall)

    def _fetch(self, fetch: Callable[..., Any], *args: Any) -> Any:
        lease: Lease | None = self._lease
        return fetch(*args) if lease is None else lease.fetch(fetch, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._cursor, name, value)

    def __iter__(self) -> Any:
        return iter(self._cursor)


class SessionConnection(Connection):
    """The Connection that a session hands out: an ordinary one, on a lease instead of a pool connection."""

    @property
    def lease(self) -> Lease | None:
        """The lease, or None once the connection was invalidated or closed."""
        held = _compat.pool_connection(self)
        return held if isinstance(held, Lease) else None

    def _execute_context(self, dialect: Any, constructor: Any, *args: Any, **kwargs: Any) -> Any:
        # The one place that every statement passes, whatever built it. Connecting is done here, before SQLAlchemy
        # has a statement in hand, so that its errors are those of a connect (tests/cases/test_connect_errors.py).
        lease = self.lease
        if lease is None:
            return super()._execute_context(dialect, constructor, *args, **kwargs)
        lease.enter()
        try:
            try:
                lease.checkout()
            except dialect.loaded_dbapi.Error as error:
                Connection._handle_dbapi_exception_noconnection(error, dialect, self.engine)
            result = super()._execute_context(dialect, constructor, *args, **kwargs)
            if self.dialect.is_async:
                _compat.release_cursor(result)
            return result
        finally:
            lease.leave()

    def execution_options(self, **options: Any) -> Any:
        """Set options as SQLAlchemy does; an isolation level becomes the one that this session's transaction begins
        with."""
        lease = self.lease
        if lease is not None:
            level = options.pop("isolation_level", None)
            if level is not None:
                lease.ask_isolation(level)
        return super().execution_options(**options)

    def invalidate(self, exception: BaseException | None = None) -> None:
        """Discard the pool connection, unless all that happened is that a task was cancelled between two statements."""
        lease = self.lease
        if lease is None:
            super().invalidate(exception)
        elif exception is None or not lease.survives:
            lease.invalidate(exception)


class SessionEngine(_compat.OptionEngine):
    """The face of an engine towards sessions: the same pool, dialect and listeners, but its connections are leases."""

    def __init__(
        self,
        engine: Engine,
        *,
        edge: Edge,
        begins_at_once: bool,
        never_begins: bool,
        cleanup_timeout: float = CLEANUP_TIMEOUT,
    ) -> None:
        super().__init__(engine, {})
        self.edge = edge
        self.begins_at_once = begins_at_once
        self.never_begins = never_begins
        self.cleanup_timeout = cleanup_timeout
        self.is_async = engine.dialect.is_async
        self.knows_server = False
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self) -> Connection:
        return SessionConnection(self, Lease(self))

    def meet_server(self, lease: Lease) -> None:
        """Connect once, so that the dialect learns what the server can do before a session compiles by it.

        MariaDB under a ``mysql://`` URL has RETURNING (tests/fastapi/test_every_backend.py).
        """
        if self.is_async and not in_greenlet():
            return
        try:
            lease.enter()  # the session is in use meanwhile (tests/cases/test_concurrent_use.py)
            try:
                lease.checkout()
            finally:
                lease.leave()
        except self.dialect.loaded_dbapi.Error as error:
            Connection._handle_dbapi_exception_noconnection(error, self.dialect, self)
        finally:
            lease.close()
        self.knows_server = True

    def raw_connection(self) -> PoolProxiedConnection:
        return Lease(self)

    def current_owner(self) -> callsite.Owner:
        """Return who is running: the task, or the thread where there is none."""
        if self.is_async:
            task = asyncio.current_task()
            if task is not None:
                return task
        return threading.get_ident()

    def current_pool(self) -> Pool:
        """Return the pool that serves the running event loop."""
        pool = self.pool
        return pool.current() if isinstance(pool, LoopPool) else pool

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run clean-up that needs I/O outside of any request; failures are logged, the connection is then discarded."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a connection could not be returned to its pool and was discarded", exc_info=error)

    def discard(
        self,
        pooled: PoolProxiedConnection,
        error: BaseException | None,
        streams: Iterable[StreamCursor] = (),
        *,
        silent: bool = False,
    ) -> None:
        """Close a connection for good, and the client's half of its streams.

        After a cancellation that is done apart from the cancelled task, where nothing can cancel it again: the driver
        takes leave of the server. ``silent`` says that the server does not answer: nothing is asked of it then.
        """

        def work() -> None:
            if not silent:
                self._abandon(pooled)
            _compat.discard(pooled, error)
            for stream in streams:
                stream.abandon()

        if not self.is_async or (not silent and not _is_cancellation(error)):
            work()
        elif silent and self.dialect.has_terminate:  # outside of a greenlet the driver waits for nobody
            asyncio.get_running_loop().call_soon(work)
        else:
            self.spawn(greenlet_spawn(work))

    def _abandon(self, pooled: PoolProxiedConnection) -> None:
        try:
            self.edge.abandon(pooled.dbapi_connection)
        except Exception:
            log.debug("a connection that is being discarded could not end its transaction", exc_info=True)

    async def wait_spawned(self) -> None:
        """Wait until no clean-up is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def _is_cancellation(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, Exception)


async def finish_despite_cancel(work: Coroutine[Any, Any, None], timeout: float) -> None:
    """Await the end of a unit of work; a cancellation that arrives meanwhile is raised afterwards.

    Each COMMIT or ROLLBACK in it is bounded by ``timeout`` seconds once the task is cancelled; twice as much is enough
    for one that ends a session. Raises what ``work`` raises, unless the task was cancelled.
    """
    await _answered(work, 2 * timeout, bounded=False)


async def _answered(work: Coroutine[Any, Any, None], timeout: float, *, bounded: bool) -> None:
    """Await ``work`` to its end; a cancellation that arrives meanwhile is raised afterwards.

    ``work`` has ``timeout`` seconds: from now on if it is ``bounded``, else from the moment of the cancellation.

    Raises:
        TimeoutError: the time is over, and nobody cancelled the task; ``work`` was given up.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    end = loop.time() + timeout
    try:
        await asyncio.wait({task}, timeout=timeout if bounded else None)
    except asyncio.CancelledError:
        await _outlast(task, end if bounded else loop.time() + timeout)
        _report_outcome(task, timeout)
        raise
    if not task.done():
        await _outlast(task, end)
        raise TimeoutError(f"no answer within {timeout} s")
    task.result()


async def _outlast(task: asyncio.Future[None], end: float) -> None:
    """Wait for ``task`` until ``end``, whoever cancels the waiting one; then give it up."""
    loop = asyncio.get_running_loop()
    with anyio.CancelScope(shield=True):
        while not task.done() and (left := end - loop.time()) > 0:
            await _wait_uncancelled(task, left)
        # psycopg reacts to a cancellation by asking the server to stop and waiting for it; a second one ends that.
        for _ in range(PATIENCE):
            if task.done():
                return
            task.cancel()
            await _wait_uncancelled(task, 0)


async def _wait_uncancelled(task: asyncio.Future[None], timeout: float) -> None:
    try:
        await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        return  # the cancellation that brought us here is raised by the caller


def _report_outcome(task: asyncio.Future[None], timeout: float) -> None:
    """Nobody learns the outcome of work whose task was cancelled; a bad one goes to the log."""
    if not task.done() or task.cancelled():
        log.error("COMMIT or ROLLBACK had no answer %.1f s after a cancellation; its outcome is unknown", timeout)
    elif (error := task.exception()) is not None:
        log.error("COMMIT or ROLLBACK failed after its task was cancelled", exc_info=error)


class LoopPool(Pool):
    """A pool of connections for each event loop, since an async connection belongs to the loop that opened it.

    Each is SQLAlchemy's own queue pool; this one only chooses. A pool is closed with its loop, wherever that loop was
    run: a script without ``dispose()``, a test client, a worker.
    """

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 0,
        timeout: float = 30.0,
        use_lifo: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(creator, **options)
        self._limits = {"pool_size": pool_size, "max_overflow": max_overflow, "timeout": timeout, "use_lifo": use_lifo}
        self._options = options
        self._pools: dict[asyncio.AbstractEventLoop, AsyncAdaptedQueuePool] = {}
        self._guards: dict[asyncio.AbstractEventLoop, list[AsyncGenerator[None, None]]] = {}
        self._parents: list[Any] = []
        self._home = _generation

    def current(self) -> AsyncAdaptedQueuePool:
        """Return the pool of the running event loop, made at its first use."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None or self._home != _generation:
            pool = self._make(loop)
        return pool

    def _make(self, loop: asyncio.AbstractEventLoop) -> AsyncAdaptedQueuePool:
        if self._home != _generation:  # the sockets belong to the parent process
            self._pools.clear()
            self._parents.append(self._guards)  # not collected: that would wake the parent's loop
            self._guards = {}
            self._home = _generation
        for other in [other for other in self._pools if other.is_closed()]:
            del self._pools[other]
            self._guards.pop(other, None)
        options = {**self._options, "dialect": self._dialect}
        pool = AsyncAdaptedQueuePool(self._creator, **self._limits, **options)  # type: ignore[arg-type]
        _compat.share_listeners(pool, self)
        self._pools[loop] = pool
        self._guards.setdefault(loop, []).append(_close_with_loop(pool))
        return pool

    def connect(self) -> PoolProxiedConnection:
        return self.current().connect()

    def _do_get(self) -> Any:
        return self.current()._do_get()

    def _do_return_conn(self, record: Any) -> None:
        self.current()._do_return_conn(record)

    def _invalidate(self, connection: Any, exception: BaseException | None = None, _checkin: bool = True) -> None:
        self.current()._invalidate(connection, exception, _checkin)

    def dispose(self) -> None:
        """Close the idle connections of the running loop; those of other loops can only be closed there."""
        loop = asyncio.get_running_loop()
        pool = self._pools.pop(loop, None)
        if pool is None:
            return
        lent = pool.checkedout()
        pool.dispose()
        if not lent:  # else they come back to this pool, and are closed when the loop ends
            await_only(self._guards[loop].pop().aclose())

    def recreate(self) -> LoopPool:
        return self

    def size(self) -> int:
        return int(self._limits["pool_size"])

    @property
    def capacity(self) -> int:
        """How many connections each event loop may have."""
        return self.size() + max(0, int(self._limits["max_overflow"]))

    def checkedin(self) -> int:
        return sum(pool.checkedin() for pool in self._pools.values())

    def checkedout(self) -> int:
        return sum(pool.checkedout() for pool in self._pools.values())

    def overflow(self) -> int:
        return sum(max(pool.overflow(), 0) for pool in self._pools.values())

    def timeout(self) -> float:
        return float(self._limits["timeout"])

    def status(self) -> str:
        return f"{len(self._pools)} event loops, {self.checkedin()} connections idle, {self.checkedout()} in use"


def _close_with_loop(pool: Pool) -> AsyncGenerator[None, None]:
    """Close what is idle in ``pool`` when the running event loop ends: asyncio closes the async generators of a loop
    before the loop itself."""

    async def closing() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await greenlet_spawn(pool.dispose)

    guard = closing()
    with suppress(StopIteration):
        guard.__anext__().send(None)  # up to the yield, which awaits nothing
    return guard


def observe(engine: Engine, edge: Edge, *, autocommit: bool) -> None:
    """Put the driver edge of ``engine`` in force: statements of sessions pass their lease, other checkouts get
    ordinary connections."""

    @event.listens_for(engine, "do_execute")
    def do_execute(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
        return _deliver(context, statement, lambda: context.dialect.do_execute(cursor, statement, parameters, context))

    @event.listens_for(engine, "do_executemany")
    def do_executemany(cursor: Any, statement: str, parameters: Any, context: Any) -> bool | None:
        return _deliver(
            context, statement, lambda: context.dialect.do_executemany(cursor, statement, parameters, context)
        )

    @event.listens_for(engine, "do_execute_no_params")
    def do_execute_no_params(cursor: Any, statement: str, context: Any) -> bool | None:
        return _deliver(context, statement, lambda: context.dialect.do_execute_no_params(cursor, statement, context))

    @event.listens_for(engine, "handle_error")
    def give_up_broken(failure: ExceptionContext) -> BaseException | None:
        # SQLAlchemy 2.0 lets asyncpg's words for a connection that is ending pass unchanged, and would pool it.
        error = failure.original_exception
        if not isinstance(error, Exception) or not edge.breaks(error):
            return None
        failure.is_disconnect = True
        known = isinstance(error, engine.dialect.loaded_dbapi.Error)
        return None if known else _compat.disconnected(error, engine)

    @event.listens_for(engine, "handle_error")
    def undo_failed_commit(failure: ExceptionContext) -> None:
        # SQLite keeps a transaction open whose COMMIT failed. SQLAlchemy takes it for ended and pools the connection,
        # and the next to write waits for a lock that nobody will release (tests/ecosystem/test_sqladmin.py).
        if failure.statement is not None or type(failure.connection) is not Connection:
            return
        held = failure.connection.connection
        if not failure.is_disconnect and edge.in_transaction(held.dbapi_connection):
            edge.rollback(held.dbapi_connection)

    if autocommit:
        return

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        if not _leasing.get() and edge.is_resting(connection):
            edge.restore(connection)


def _deliver(context: Any, statement: str, execute: Callable[[], None]) -> bool | None:
    if context is None:
        return None
    connection = context.root_connection
    if type(connection) is not SessionConnection:
        return None
    lease = connection.lease
    if lease is None:
        return None
    lease.run(execute, statement, context)
    return True
