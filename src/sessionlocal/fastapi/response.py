"""How a request ends: the commit gate, the outcome, and what is left when the response is on its way.

Promises: the commit is done before ``http.response.start`` leaves, and it is done only when nothing was raised and the status is below 400.
A failed commit replaces the response: no byte of the original is sent, its background tasks do not run, its body is not iterated. The
replacement is rendered by the application's own handler. After the ASGI call every session of the request is closed.

    WORKING --response start--> ANSWERING --end of the call--> ENDED
       |                            |
       +-- commit or roll back      +-- commit what the body or a background task wrote, if the client got all of it
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import session
from ..connection import finish_despite_cancel
from ..session import Unit, rules_of
from . import _compat

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from .install import Database

log = logging.getLogger(__name__)

KEY = "sessionlocal"


class Phase(enum.Enum):
    """How far a request has come."""

    WORKING = "nothing was sent"
    ANSWERING = "the response has started"
    ENDED = "the ASGI call is over"


class Dropped(BaseException):
    """Unwinds the application from the ``send`` of a response whose commit failed. A BaseException, so that no handler of it answers."""


class RequestSessions:
    """The sessions of one request and one Database: at most one async, one sync, and a read-only one."""

    __slots__ = ("database", "held_permits", "opened", "unit")

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.unit = Unit(name)
        self.opened: dict[str, AsyncSession | Session] = {}
        self.held_permits = 0

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

    @property
    def has_work(self) -> bool:
        """True while a session of this request has something to commit."""
        return any(rules.has_work for db in self.opened.values() if (rules := rules_of(db)) is not None)

    async def settle(self, *, commit: bool, reason: str) -> None:
        """Commit or roll back every session; afterwards none of them holds a connection. Raises what a commit raises."""
        for face, db in self.opened.items():
            if face == "sync":
                await self._settle_sync(db, commit=commit, reason=reason)
            elif commit:
                await self.database.commit(db)  # type: ignore[arg-type]
            else:
                await self.database.roll_back(db, reason=reason)  # type: ignore[arg-type]
        self.release_permits()

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
        """Close every session, whatever its state."""
        for face, db in self.opened.items():
            if face == "sync":
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(db.close, limiter=self.database.end_limiter())
            else:
                await self.database.close_session(db)  # type: ignore[arg-type]
        self.release_permits()

    def release_permits(self) -> None:
        """Let other requests of sync endpoints run."""
        while self.held_permits:
            self.held_permits -= 1
            self.database.sync_permits().release()


class RequestState:
    """What this library knows of one ASGI call. Lives on the scope under ``KEY``, shared by every application that serves the call."""

    __slots__ = ("_at_end", "_slots", "_token", "databases", "disconnected", "error", "phase", "scope", "sent_whole")

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.databases: list[Database] = []
        self.phase = Phase.WORKING
        self.error: BaseException | None = None
        self.sent_whole = False
        self.disconnected = False
        self._slots: dict[Any, RequestSessions] = {}
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

    @property
    def touched(self) -> bool:
        """True once a session of this request was asked for."""
        return bool(self._slots)

    def sessions(self, database: Database) -> RequestSessions:
        """Return this request's sessions of ``database``."""
        found = self._slots.get(database)
        if found is None:
            found = self._slots[database] = RequestSessions(database, self.name)
        return found

    def session(self, database: Database, face: str) -> Any:
        """Return this request's session of ``database``; part of ``session.Surroundings``."""
        return self.sessions(database).get(face)

    def at_end(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the call is over; part of ``session.Surroundings``."""
        self._at_end.append(callback)

    def note(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Remember that the endpoint, or a dependency, raised: a handler may still turn that into a 200. An ``__exit__`` callback."""
        if error is not None and self.error is None:
            self.error = error

    async def settle(self, *, commit: bool) -> None:
        """End the request's units of work. A commit that fails rolls back the rest, and is raised."""
        reason = "" if commit else type(self.error).__name__ if self.error is not None else "status"
        slots = list(self._slots.values())
        for done, slot in enumerate(slots):
            try:
                await slot.settle(commit=commit, reason=reason)
            except BaseException as failure:
                if done:
                    log.error("%s: %d of %d databases had committed before %r failed", self.name, done, len(slots), slot.database)
                self.note(type(failure), failure, None)
                for other in slots[done:]:
                    await other.settle(commit=False, reason=type(failure).__name__)
                raise

    async def finish_late(self, error: BaseException | None) -> None:
        """Commit what was written after the response had started, if the call ended well and the client got the whole body."""
        if not any(slot.has_work for slot in self._slots.values()):
            return
        if error is None and self.sent_whole:
            try:
                await self.settle(commit=True)
            except Exception:
                log.exception("%s: work done after the response had started was not stored: its commit failed", self.name)
            return
        why = f"{type(error).__name__} was raised" if error is not None else "the client left before the end"
        log.error("%s: work done after the response had started was rolled back: %s", self.name, why)
        self.note(type(error), error, None)
        await self.settle(commit=False)

    async def between_messages(self) -> None:
        """Roll back what a WebSocket endpoint has not committed when it waits for the next message."""
        for slot in self._slots.values():
            if slot.has_work and not _waits_in_another_task(slot):
                log.warning("%s: uncommitted work was rolled back before the next message; commit once per message", self.name)
                await slot.settle(commit=False, reason="websocket")

    async def close(self) -> None:
        """Close every session; afterwards using one raises ``SessionClosed``."""
        self.phase = Phase.ENDED
        for slot in self._slots.values():
            try:
                await slot.close()
            except Exception:
                log.warning("%s: a session could not be closed cleanly; its connection was discarded", self.name, exc_info=True)
        for callback in self._at_end:
            callback()


def _waits_in_another_task(slot: RequestSessions) -> bool:
    return any(rules is not None and rules.explicit for rules in map(rules_of, slot.opened.values()))


class SessionScope:
    """The outermost layer: the request's state begins here, and its sessions end here, when every middleware has returned."""

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self.app = app
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        state: RequestState | None = scope.get(KEY)
        if state is not None:  # a mounted application with an install() of its own
            state.databases.append(self.database)
            await self.app(scope, receive, send)
            return
        state = scope[KEY] = RequestState(scope)
        state.databases.append(self.database)
        token = session.current.set(state)
        try:
            await self.app(scope, receive, send)
        finally:
            session.current.reset(token)
            if state.touched:
                await finish_despite_cancel(state.close(), self.database.config.cleanup_timeout)


class CommitGate:
    """The innermost middleware: nothing gets out before the commit, and every other middleware sees the final status."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        state: RequestState = scope[KEY]
        failure: BaseException | None = None

        async def gated(message: Message) -> None:
            nonlocal failure
            if message["type"] == "http.response.start" and state.phase is Phase.WORKING:
                if state.touched:
                    try:
                        await state.settle(commit=message["status"] < 400 and state.error is None)
                    except Exception as error:
                        failure = error
                        raise Dropped from error
                state.phase = Phase.ANSWERING
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                state.sent_whole = not state.disconnected

        async def watched() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not state.sent_whole:
                state.disconnected = True
            return message

        try:
            await self.app(scope, watched, gated)
        except BaseException as error:
            if failure is not None and _is_drop(error):
                await self._replace(state, failure, receive, send)
            else:
                await self._unwind(state, error)
                raise
        else:
            await state.finish_late(None)

    async def _replace(self, state: RequestState, failure: BaseException, receive: Receive, send: Send) -> None:
        """Answer with what the application's own handler makes of a failed commit; without a handler the failure goes on."""
        request = Request(state.scope, receive)
        for app in (state.scope.get("app"), *(database.app_of(state.scope) for database in reversed(state.databases))):
            handler = _compat.handler_for(app, failure)
            if handler is not None:
                response = await _compat.call_handler(handler, request, failure)
                state.phase = Phase.ANSWERING
                await response(state.scope, receive, send)
                return
        raise failure

    async def _unwind(self, state: RequestState, error: BaseException) -> None:
        if not state.touched:
            return
        if state.phase is Phase.ANSWERING:
            await state.finish_late(error)
        else:
            state.note(type(error), error, None)
            await state.settle(commit=False)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        state: RequestState = scope[KEY]

        async def between() -> Message:
            if state.touched:
                await state.between_messages()
            return await receive()

        try:
            await self.app(scope, between, send)
        finally:
            if state.touched and any(slot.has_work for slot in state._slots.values()):
                log.warning("%s: uncommitted work was rolled back when the socket ended; commit once per message", state.name)


def _is_drop(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_drop(part) for part in error.exceptions)
    return isinstance(error, Dropped)
