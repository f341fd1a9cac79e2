"""The session: rules that hang on the sync ``Session``, so that ``AsyncSession``, which drives one inside, obeys them
too.

Promises: a session is one unit's workspace, used by one task at a time. Until its first write it is *clean* and holds
nothing. ``begin()`` works at any time: the outermost one adopts what is pending and commits it, an inner one joins.
``close()`` is final: a session that has ended refuses further work. Work left behind without a commit is a warning
that names the line.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, SessionTransaction

from . import _compat
from .connection import Lease, SessionConnection, SessionEngine, State
from .errors import MixedSessions, ReadOnlySession, SessionClosed, UnitExpired

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

log = logging.getLogger(__name__)

FACE = "sessionlocal_face"


def lease_through(engine: Engine, face: SessionEngine) -> None:
    """Let sessions that are bound to ``engine`` connect through ``face``, which leases connections."""
    setattr(engine, FACE, face)


class Unit:
    """What a session belongs to: a request, or a ``with`` block. Knows the other session that may write, and how to
    call both."""

    def __init__(
        self, name: str | Callable[[], str], *, on_begin: Callable[[SessionRules], None] | None = None
    ) -> None:
        self._name = name
        self._on_begin = on_begin
        self.writers: list[weakref.ref[SessionRules]] = []

    @property
    def name(self) -> str:
        """How messages call the unit. A request's name is known when it has been routed."""
        return self._name if isinstance(self._name, str) else self._name()

    def admit_writer(self, session: SessionRules) -> None:
        """Let ``session`` begin to write; raise :class:`MixedSessions` while another session of the same unit has an
        open write."""
        for reference in self.writers:
            other = reference()
            if other is not None and other is not session and other.has_written:
                raise MixedSessions(
                    f"{self.name}: the {other.face} session has uncommitted writes, so the {session.face} one may not "
                    "write too: neither would see the other's rows; use one of them, or commit the first"
                )
        if all(reference() is not session for reference in self.writers):
            self.writers.append(weakref.ref(session))
        if self._on_begin is not None:
            self._on_begin(session)


class SessionRules(Session):
    """A SQLAlchemy ``Session`` with the rules of this library. ``Database`` mixes it into the session class that you
    choose."""

    face: str = "sync"
    read_only: bool = False
    isolation: str | None = None
    unit: Unit | None = None
    opened_by: tuple[CodeType, int] | None = None
    unit_number: int = 0
    """How many transactions of this session have ended."""
    expired_after: float | None = None
    """Seconds after which the open unit was rolled back from outside; the next use says so."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("close_resets_only", False)
        self._explicit: SessionTransaction | None = None
        self._meeting: Lease | None = None  # what the first session of an engine learns about its server with
        super().__init__(*args, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.unit_name} {self.state}>"

    # -- facts

    @property
    def unit_name(self) -> str:
        """What this session serves, as messages call it: ``POST /orders``, or where it was opened."""
        if self.unit is not None:
            return self.unit.name
        if self.opened_by is None:
            return "a session of your own"
        code, line = self.opened_by
        return f"the session opened at {code.co_filename}:{line} in {code.co_name}()"

    @property
    def state(self) -> str:
        """``CLOSED``, ``PENDING`` (changes not flushed), ``OPEN`` (a transaction on the server) or ``CLEAN``."""
        if _compat.is_closed_for_good(self):
            return "CLOSED"
        if self.has_written:
            return "OPEN"
        return "PENDING" if _compat.has_pending_changes(self) else "CLEAN"

    @property
    def has_written(self) -> bool:
        """True while a transaction of this session is open on the server."""
        return any(_open(connection) for connection in _compat.connections_of(self))

    @property
    def explicit(self) -> bool:
        """True inside a unit that the user began."""
        return self._explicit is not None

    @property
    def has_work(self) -> bool:
        """True while a commit would do anything: store what was written or waits for a flush, or say that it failed."""
        return self.has_failed or self.has_unsaved

    @property
    def has_failed(self) -> bool:
        """True after an error has rolled the transaction back, until ``rollback()`` is called."""
        root = _compat.root_transaction(self)
        return root is not None and _compat.is_failed(root)

    @property
    def has_unsaved(self) -> bool:
        """True while there is something to store: a transaction is open, or changes wait for a flush."""
        return self.has_written or _compat.has_pending_changes(self)

    # -- where connections come from

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """Return the bind that SQLAlchemy chooses; an engine of a Database is met through the face that leases
        connections."""
        if self.expired_after is not None:
            raise UnitExpired(
                f"{self.unit_name}: this unit of work was open for {self.expired_after:g} s after the response had "
                "started, and was rolled back; call rollback() to go on, and commit in smaller steps"
            )
        bind = super().get_bind(*args, **options)
        face: SessionEngine | None = getattr(bind, FACE, None)
        if face is None:
            return bind
        if not face.knows_server:
            self._meet(face)
        return face

    def _meet(self, face: SessionEngine) -> None:
        self._refuse_second_user()
        self._meeting = Lease(face)
        try:
            face.meet_server(self._meeting)
        finally:
            self._meeting = None

    def connection(self, *args: Any, **options: Any) -> Connection:
        """Return the session's Connection, as SQLAlchemy does. The transaction begins now and the connection stays to
        its end."""
        self._refuse_second_user()
        found = super().connection(*args, **self._take_isolation(options))
        if isinstance(found, SessionConnection) and found.lease is not None:
            found.lease.begin()
        return found

    def _take_isolation(self, options: dict[str, Any]) -> dict[str, Any]:
        """Apply an isolation level to connections that the session has already; SQLAlchemy would warn and ignore it."""
        chosen = dict(options.get("execution_options") or {})
        level = chosen.get("isolation_level")
        present = _leases(self)
        if level is None or not present:
            return options
        for lease in present:
            lease.ask_isolation(level)
        del chosen["isolation_level"]
        return {**options, "execution_options": chosen or None}

    # -- units of work

    def begin(self, nested: bool = False) -> SessionTransaction:
        """Begin a unit of work, at any time.

        The outermost ``begin()`` adopts what is pending or written already and commits all of it at its end. One
        inside it joins: it commits nothing, and an exception leaving it dooms the whole unit. ``nested=True`` opens a
        savepoint.
        """
        self._refuse_second_user()
        current = _compat.current_transaction(self)
        if nested:
            return super().begin(nested=True)
        if current is not None and (self._explicit is not None or current.parent is not None):
            return _compat.join(current)
        begun = super().begin() if current is None else current
        _compat.end_loudly(begun)
        self._explicit = begun
        for lease in _leases(self):
            lease.keep()
        return begun

    def _autobegin_t(self, begin: bool = False) -> SessionTransaction:
        if _compat.is_closed_for_good(self):
            raise SessionClosed(
                f"{self.unit_name}: this session has ended; "
                "open one for later work with `async with database.session() as db:`, "
                "and read what a response needs before the endpoint returns"
            )
        return super()._autobegin_t(begin)

    def flush(self, objects: Sequence[Any] | None = None) -> None:
        """Write what is pending, as SQLAlchemy does."""
        self._refuse_second_user()
        super().flush(objects)

    def commit(self) -> None:
        """Write what is pending and commit, as SQLAlchemy does."""
        self._refuse_second_user()
        super().commit()

    def rollback(self) -> None:
        """Undo what is not committed, as SQLAlchemy does."""
        self._refuse_second_user()
        self.expired_after = None
        super().rollback()

    def expire_unit(self, seconds: float) -> None:
        """Roll back an open unit from outside, because it was open for ``seconds``; its next use raises
        :class:`UnitExpired`."""
        self._refuse_second_user()
        self.expired_after = seconds
        super().rollback()

    def _refuse_second_user(self) -> None:
        # Before SQLAlchemy changes the state of the session, which belongs to the statement of the first user.
        for lease in _leases(self) if self._meeting is None else [self._meeting]:
            lease.refuse_second_user()

    def close(self) -> None:
        """End the session for good: roll back what is open, give the connection back, detach its objects."""
        if self.unit is None and not _compat.is_closed_for_good(self) and self.has_unsaved:
            log.warning(
                "%s was closed with uncommitted work, which is lost; call commit() before it ends", self.unit_name
            )
        for lease in _leases(self):
            lease.ending = True
        super().close()

    # -- reads that lock

    if not TYPE_CHECKING:

        def execute(self, statement: Any, *args: Any, **options: Any) -> Any:
            return super().execute(statement, *args, **self._refreshing(statement, options))

        def scalars(self, statement: Any, *args: Any, **options: Any) -> Any:
            return super().scalars(statement, *args, **self._refreshing(statement, options))

        def scalar(self, statement: Any, *args: Any, **options: Any) -> Any:
            return super().scalar(statement, *args, **self._refreshing(statement, options))

        def get(self, entity: Any, ident: Any, *, with_for_update: Any = None, **options: Any) -> Any:
            if with_for_update and self._may_refresh():
                options.setdefault("populate_existing", True)
            return super().get(entity, ident, with_for_update=with_for_update, **options)

    def _refreshing(self, statement: object, options: dict[str, Any]) -> dict[str, Any]:
        """A locking select brings the objects that it locks up to date: what was read before the lock may be stale."""
        if not _compat.statement_locks_rows(statement) or not self._may_refresh():
            return options
        chosen = {"populate_existing": True, **(options.get("execution_options") or {})}
        return {**options, "execution_options": chosen}

    def _may_refresh(self) -> bool:
        # With autoflush on, changes are sent before the select; without it a refresh would overwrite them.
        return self.autoflush or not _compat.has_pending_changes(self)

    # -- what a lease asks

    def before_begin(self, sql: str | None) -> None:
        """Called before the transaction begins on the server; raises when it must not."""
        if self.unit is not None and not self.read_only:
            self.unit.admit_writer(self)

    def refuse_write(self, sql: str) -> None:
        """Called before a statement that certainly writes is sent on a read-only session."""
        verb = sql.lstrip().split(None, 1)[0].upper()
        raise ReadOnlySession(f"{self.unit_name}: {verb} on a read-only session; take SessionDep to write")


def _open(connection: Connection) -> bool:
    if not isinstance(connection, SessionConnection):
        return connection.in_transaction()
    lease = connection.lease
    return lease is not None and lease.state in (State.OPEN, State.LOST)


def _leases(session: Session) -> list[Any]:
    found = [
        connection.lease for connection in _compat.connections_of(session) if isinstance(connection, SessionConnection)
    ]
    return [lease for lease in found if lease is not None]


@event.listens_for(SessionRules, "after_begin", propagate=True, insert=True)
def _attach(session: SessionRules, transaction: SessionTransaction, connection: Connection) -> None:
    """Let the lease know whom it serves, before any statement of the session or of a listener of the user's."""
    if not isinstance(connection, SessionConnection):
        return
    lease = connection.lease
    if lease is None:
        return
    lease.tenant = weakref.ref(session)
    if session.isolation is not None:
        lease.ask_isolation(session.isolation)
    if session._explicit is not None:
        lease.keep()


@event.listens_for(SessionRules, "after_transaction_end", propagate=True, insert=True)
def _forget(session: SessionRules, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.unit_number += 1
    if session._explicit is transaction:
        session._explicit = None


def session_class(base: type[Session]) -> type[Session]:
    """Return ``base`` with the rules of this library mixed in."""
    if issubclass(base, SessionRules):
        return base
    return type(base.__name__, (SessionRules, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def rules_of(session: Session | AsyncSession) -> SessionRules | None:
    """Return the sync session that carries the rules, or None for a session that this library did not make."""
    inner = getattr(session, "sync_session", session)
    return inner if isinstance(inner, SessionRules) else None


def give_back(session: SessionRules) -> None:
    """Put the connections of a clean session back into their pools now, instead of when the task next awaits
    something."""
    for lease in _leases(session):
        if lease.is_idle:
            lease.give_back()


class Surroundings(Protocol):
    """The request that is being served, as code outside the web layer may know it."""

    @property
    def database(self) -> Any:
        """The Database of the innermost application that serves the request."""
        ...

    def session(self, database: Any, face: str) -> Any:
        """Return the request's own session of ``database``; ``face`` is ``async``, ``sync`` or ``read``."""
        ...

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the request is over."""
        ...


current: ContextVar[Surroundings | None] = ContextVar("sessionlocal_request", default=None)
"""The request that the running code belongs to."""
