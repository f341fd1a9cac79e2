"""How a request ends: the commit gate, the outcome, and what is left when the response is on its way.

Promises: the commit is done before ``http.response.start`` leaves, and it is done only when nothing was raised and the
status is below 400. A failed commit replaces the response: no byte of the original is sent, its background tasks do
not run, its body is not iterated. The replacement is rendered by the application's own handler. After the ASGI call
every session of the request is closed.

    WORKING --response start--> ANSWERING --end of the call--> ENDED
       |                            |
       +-- commit or roll back      +-- commit what the body or a background task wrote, if the client got all of it
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from sqlalchemy import exc
from sqlalchemy.util import greenlet_spawn
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import database as core
from .. import session
from ..connection import finish_despite_cancel
from ..errors import MixedSessions
from ..events import RolledBack
from ..session import SessionRules, Unit, rules_of
from . import _compat
from .late import LateUnit

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from .install import Database

log = logging.getLogger(__name__)

KEY = "sessionlocal"
LEFT_BY_SOCKET = "%s: uncommitted work was rolled back; a WebSocket commits nothing by itself: commit once per message"


class Phase(enum.Enum):
    """How far a request has come."""

    WORKING = "nothing was sent"
    ANSWERING = "the response has started"
    ENDED = "the ASGI call is over"


class ResponseDropped(Exception):
    """Unwinds the application from the ``send`` of a response whose commit failed, which is its ``__cause__``.

    An ordinary exception: FastAPI does not run the exit code of sync dependencies for any other. Whatever the
    application makes of it, the outcome of the request is the failed commit.
    """


class RequestSessions:
    """The sessions of one request and one Database: at most one async, one sync, and a read-only one."""

    __slots__ = ("_late", "_loop", "_state", "database", "holds_permit", "opened", "unit")

    def __init__(self, database: Database, state: RequestState) -> None:
        self.database = database
        self.unit = Unit(lambda: state.name, on_begin=self._limit)
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._late: list[LateUnit] = []
        self.opened: dict[str, AsyncSession | Session] = {}
        self.holds_permit = False

    def get(self, face: str) -> AsyncSession | Session:
        """Return the session of that face, opened at its first use."""
        found = self.opened.get(face)
        if found is None:
            found = self.opened[face] = self._open(face)
        return found

    def _open(self, face: str) -> AsyncSession | Session:
        if face == "sync":
            return self.database.open_sync_session(self.unit)
        return self.database.open_session(self.unit, read_only=face == "read")

    def _limit(self, rules: SessionRules) -> None:
        """A transaction begins: once the response has started, its time is limited."""
        if self._state.phase is Phase.ANSWERING:
            limit = self.database.config.late_unit_timeout
            self._late.append(LateUnit(rules, limit, self._loop, self._expire))

    async def _expire(self, rules: SessionRules, seconds: float) -> None:
        if rules.face == "sync":
            await anyio.to_thread.run_sync(rules.expire_unit, seconds, limiter=self.database.end_limiter())
        else:
            await greenlet_spawn(rules.expire_unit, seconds)
        self.database.facts.state(RolledBack(self.unit.name, self.database.name, "late"))

    @property
    def has_work(self) -> bool:
        """True while a session of this request has something to commit."""
        return any(rules.has_work for db in self.opened.values() if (rules := rules_of(db)) is not None)

    @property
    def in_explicit_unit(self) -> bool:
        """True while the endpoint is inside a ``begin()`` of its own."""
        return any(rules is not None and rules.explicit for rules in map(rules_of, self.opened.values()))

    async def settle(self, *, commit: bool, reason: str) -> None:
        """Commit or roll back every session; afterwards none of them holds a connection. Raises what a commit
        raises."""
        if commit:
            self._refuse_two_writers()
        for face, db in self.opened.items():
            if face == "sync":
                await self._settle_sync(db, commit=commit, reason=reason)
            elif commit:
                await self.database.commit(db)  # type: ignore[arg-type]
            else:
                await self.database.roll_back(db, reason=reason)  # type: ignore[arg-type]
        self.release_permit()

    def _refuse_two_writers(self) -> None:
        """Two sessions with work would be two commits, of which the second can fail. What was flushed is refused
        earlier, before it is sent."""
        waiting = [
            rules.face
            for rules in map(rules_of, self.opened.values())
            if rules and rules.has_work and not rules.read_only
        ]
        if len(waiting) > 1:
            raise MixedSessions(
                f"{self.unit.name}: the {waiting[0]} and the {waiting[1]} session both have work to commit, which "
                "cannot be done at once; use one of them, or commit the first"
            )

    async def _settle_sync(self, db: Any, *, commit: bool, reason: str) -> None:
        rules = rules_of(db)
        if rules is None or not rules.has_work:
            return

        def work() -> None:
            if commit:
                self.database.commit_sync(db)
            else:
                self.database.roll_back_sync(db, reason=reason)

        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(work, limiter=self.database.end_limiter())

    async def close(self) -> None:
        """Close every session, whatever its state, also where closing one of them fails, which is raised."""
        async with AsyncExitStack() as stack:
            stack.callback(self.release_permit)
            for late in self._late:
                await late.stop()
            for face, db in self.opened.items():
                close: Callable[[Any], Awaitable[None]] = (
                    self._close_sync if face == "sync" else self.database.close_session
                )
                stack.push_async_callback(close, db)

    async def _close_sync(self, db: Any) -> None:
        rules = rules_of(db)
        if rules is not None and not rules.has_work:
            db.close()  # holds no connection: nothing to wait for
            return
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(db.close, limiter=self.database.end_limiter())

    async def take_permit(self) -> None:
        """Wait, on the event loop and not in a thread, until one more sync request may use the pool."""
        if self.holds_permit:
            return
        limit = self.database.permit_timeout
        try:
            async with asyncio.timeout(limit):
                await self.database.sync_permits().acquire()
        except TimeoutError:
            raise exc.TimeoutError(
                f"{self.unit.name}: no connection of the sync pool came free within {limit:g} s, pool_size "
                f"{core.capacity(self.database.sync_engine.pool)}; raise pool_size, or look for requests that hold one"
            ) from None
        self.holds_permit = True

    def release_permit(self) -> None:
        """Let another request of sync endpoints run."""
        if self.holds_permit:
            self.holds_permit = False
            self.database.sync_permits().release()


class RequestState:
    """What this library knows of one ASGI call. Lives on the scope under ``KEY``, shared by every application that
    serves the call."""

    __slots__ = (
        "_at_end",
        "_slots",
        "_watched",
        "apps",
        "databases",
        "disconnected",
        "error",
        "phase",
        "scope",
        "sent_whole",
    )

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.databases: list[Database] = []
        self.apps: list[Any] = []
        self.phase = Phase.WORKING
        self.error: BaseException | None = None
        self.sent_whole = False
        self.disconnected = False
        self._slots: dict[Any, RequestSessions] = {}
        self._watched: AsyncExitStack | None = None
        self._at_end: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<RequestState {self.name} {self.phase.name}>"

    @property
    def name(self) -> str:
        """The route, as messages call it."""
        return _compat.route_name(self.scope)

    @property
    def database(self) -> Database:
        """The database of the innermost application that serves this call."""
        return self.databases[-1]

    def serve_with(self, database: Database, app: Any) -> None:
        """Remember that ``app``, in which ``database`` is installed, takes part in this call."""
        self.databases.append(database)
        self.apps.append(app)

    @contextmanager
    def served_with(self, database: Database, app: Any) -> Iterator[None]:
        """Let ``database`` be the one that code in ``app`` means while ``app`` serves the call."""
        self.serve_with(database, app)
        try:
            yield
        finally:
            self.databases.remove(database)

    @property
    def touched(self) -> bool:
        """True once a session of this request was asked for."""
        return bool(self._slots)

    def sessions(self, database: Database) -> RequestSessions:
        """Return this request's sessions of ``database``."""
        found = self._slots.get(database)
        if found is None:
            found = self._slots[database] = RequestSessions(database, self)
        return found

    def session(self, database: Database, face: str) -> Any:
        """Return this request's session of ``database``; part of ``session.Surroundings``."""
        self.watch(self.scope)
        return self.sessions(database).get(face)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the call is over; part of ``session.Surroundings``."""
        self._at_end.append(callback)

    def watch(self, scope: Scope) -> None:
        """Learn it when the endpoint, or a dependency, raises: before any handler turns that into a response. Before
        FastAPI 0.121 only a dependency is told."""
        stack = _compat.function_stack(scope)
        if stack is not None and stack is not self._watched and self.phase is Phase.WORKING:
            self._watched = stack
            stack.push(self.note)
            _compat.before_events(scope, lambda: self.before_response(200))

    def note(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Remember that the endpoint, or a dependency, raised: a handler may still turn that into a 200. An
        ``__exit__`` callback."""
        if error is not None and self.error is None:
            self.error = error

    async def before_response(self, status: int) -> None:
        """Commit or roll back, as the outcome says, before the response starts."""
        if self.touched:
            await self.settle(commit=status < 400 and self.error is None)
        self.phase = Phase.ANSWERING

    async def unwind(self, error: BaseException) -> None:
        """Roll back because an exception leaves the application."""
        if not self.touched:
            return
        if self.phase is Phase.ANSWERING:
            await self.finish_late(error)
            return
        self.note(type(error), error, None)
        await self.settle(commit=False)

    async def settle(self, *, commit: bool) -> None:
        """End the request's units of work. A commit that fails rolls back the rest, and is raised; a rollback that
        fails is not, since closing the session comes next and ends it in any case."""
        slots = list(self._slots.values())
        if not commit:
            await self._roll_back(slots)
            return
        for done, slot in enumerate(slots):
            try:
                await slot.settle(commit=True, reason="")
            except BaseException as failure:
                if done:
                    log.error(
                        "%s: %d of %d databases had committed before %r failed",
                        self.name,
                        done,
                        len(slots),
                        slot.database,
                    )
                self.note(type(failure), failure, None)
                await self._roll_back(slots[done:])
                raise

    async def _roll_back(self, slots: list[RequestSessions]) -> None:
        reason = "status" if self.error is None else type(self.error).__name__
        for slot in slots:
            try:
                await slot.settle(commit=False, reason=reason)
            except Exception:
                log.warning("%s: a rollback failed; its session is closed instead", self.name, exc_info=True)

    async def finish_late(self, error: BaseException | None) -> None:
        """Commit what was written after the response had started, if the call ended well and the client got the whole
        body."""
        if not any(slot.has_work for slot in self._slots.values()):
            return
        if error is None and self.sent_whole:
            try:
                await self.settle(commit=True)
            except Exception:
                log.exception(
                    "%s: work done after the response had started was not stored: its commit failed", self.name
                )
            return
        why = f"{type(error).__name__} was raised" if error is not None else "the client left before the end"
        log.error("%s: work done after the response had started was rolled back: %s", self.name, why)
        self.note(type(error), error, None)
        await self.settle(commit=False)

    async def between_messages(self) -> None:
        """Roll back what a WebSocket endpoint has not committed when it waits for the next message."""
        for slot in self._slots.values():
            if slot.has_work and not slot.in_explicit_unit:
                log.warning(LEFT_BY_SOCKET, self.name)
                await slot.settle(commit=False, reason="websocket")

    async def close(self) -> None:
        """Close every session; afterwards using one raises ``SessionClosed``."""
        self.phase = Phase.ENDED
        if self.scope["type"] == "websocket" and any(slot.has_work for slot in self._slots.values()):
            log.warning(LEFT_BY_SOCKET, self.name)
        for slot in self._slots.values():
            try:
                await slot.close()
            except Exception:
                log.warning(
                    "%s: a session could not be closed cleanly; its connection was discarded", self.name, exc_info=True
                )
        for callback in self._at_end:
            callback()


class CommitGate:
    """The innermost middleware: nothing gets out before the commit, and every other middleware sees the final
    status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state: RequestState | None = scope.get(KEY)
        if state is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self.serve(state, scope, receive, send)
        else:
            await self.converse(state, scope, receive, send)

    async def serve(self, state: RequestState, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; commit before its response starts."""
        failure: Exception | None = None

        async def gated(message: Message) -> None:
            nonlocal failure
            if failure is not None:
                raise ResponseDropped("its commit failed") from failure
            if state.phase is Phase.WORKING and message["type"] == "http.response.start":
                try:
                    await state.before_response(message["status"])
                except Exception as error:
                    failure = error
                    raise ResponseDropped("its commit failed") from error
            await send(message)

        try:
            await self.app(scope, receive, gated)
        except BaseException as error:
            if failure is None or not isinstance(error, Exception):
                await state.unwind(error)
                raise
        if failure is not None:
            await self.replace(state, failure, receive, send)

    async def replace(self, state: RequestState, failure: Exception, receive: Receive, send: Send) -> None:
        """Answer with what the application's own handler makes of a failed commit; without a handler the failure goes
        on."""
        inner = state.scope.get("app")
        for app in (inner, *reversed(state.apps)):
            answers_all = app is inner and app not in state.apps
            handler = _compat.handler_for(app, failure, answers_all=answers_all)
            if handler is None:
                continue
            response = await _compat.call_handler(handler, Request(state.scope, receive), failure)
            if response is None:
                break
            await state.settle(commit=False)  # what the handler wrote: the request has failed
            state.phase = Phase.ANSWERING
            await response(state.scope, receive, send)
            if not _compat.is_last_resort(app, handler):
                return
            break
        raise failure

    async def converse(self, state: RequestState, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a WebSocket; nothing is committed but what the endpoint commits."""
        task = asyncio.current_task()

        async def between() -> Message:
            if state.touched and asyncio.current_task() is task:
                await state.between_messages()
            return await receive()

        await self.app(scope, between, send)


class SessionScope(CommitGate):
    """The outermost layer: the request's state begins here, and its sessions end here, when every middleware has
    returned.

    It is a gate too, for a response that a middleware makes without asking the application.
    """

    def __init__(self, app: ASGIApp, owner: Any, database: Database) -> None:
        super().__init__(app)
        self.owner = owner
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        state: RequestState | None = scope.get(KEY)
        if state is not None:  # a second Database, or a mounted application with an install() of its own
            with state.served_with(self.database, self.owner):
                await self.app(scope, receive, send)
            return
        state = scope[KEY] = RequestState(scope)
        state.serve_with(self.database, self.owner)
        token = session.current.set(state)
        try:
            await super().__call__(scope, self._watched(state, receive), self._counted(state, send))
            if scope["type"] == "http":
                await state.finish_late(None)
        finally:
            session.current.reset(token)
            if state.touched:
                await finish_despite_cancel(state.close(), self.database.config.cleanup_timeout)

    def _counted(self, state: RequestState, send: Send) -> Send:
        """Notice that the client was sent everything."""

        async def counted(message: Message) -> None:
            await send(message)
            if _is_last(message):
                state.sent_whole = not state.disconnected

        return counted

    def _watched(self, state: RequestState, receive: Receive) -> Receive:
        """Notice that the client left before that."""

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not state.sent_whole:
                state.disconnected = True
            return message

        return watched


def _is_last(message: Message) -> bool:
    if message["type"] == "http.response.body":
        return not message.get("more_body", False)
    return bool(message["type"] == "http.response.pathsend")
