"""What a route asks for: the dependencies, their aliases, and the session of the request that is being served.

Promises: every ``Depends(get_db)`` of a request gets the same session, in any dependency, with any scope and with
``use_cache=False``. Handing it out does no I/O. Calling, iterating or patching ``get_db`` instead of giving it to
``Depends`` is an error that says so.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

from fastapi import Depends
from fastapi.requests import HTTPConnection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.types import Scope

from .. import session
from ..errors import DependencyMisuse, NotInstalled, OutsideRequest
from . import _compat
from .response import KEY, Phase, RequestState

if TYPE_CHECKING:
    from .install import Database

__all__ = [
    "ReadSessionDep",
    "SessionDep",
    "SyncSessionDep",
    "current_request",
    "current_session",
    "get_db",
    "get_read_db",
    "get_sync_db",
]


SIGNATURE = inspect.Signature(
    [inspect.Parameter("connection", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)]
)
"""What FastAPI is to hand to a dependency. Said outright: old versions cannot resolve the annotations of an instance's
``__call__``."""


class SessionDependency:
    """``get_db``: give it to ``Depends``. Hands out the request's session, async, sync or read-only."""

    def __init__(self, name: str, face: str, database: Database | None = None) -> None:
        self._name = name
        self._face = face
        self._database = database
        self.__name__ = name
        # FastAPI looks at the instance's __call__ to see how to run it; a call looks at the class's, below.
        provide: Any = self._provide if _compat.HAS_FUNCTION_STACK else self._provide_and_watch
        self.__dict__["__call__"] = provide
        self.__signature__ = SIGNATURE

    def __call__(self, connection: HTTPConnection | None = None) -> Any:
        if connection is None:
            return CalledDependency(self._name)
        return self.__dict__["__call__"](connection)

    def __repr__(self) -> str:
        return f"<dependency {self._name}>"

    async def _provide(self, connection: HTTPConnection) -> AsyncSession | Session:
        scope = connection.scope
        state = scope.get(KEY) or self._bare(scope)
        state.watch(scope)
        return await self._open(state)

    async def _provide_and_watch(self, connection: HTTPConnection) -> AsyncIterator[AsyncSession | Session]:
        """Before FastAPI 0.121: an exit that runs before the handlers can only be had from a generator."""
        state = connection.scope.get(KEY)
        if state is None:
            raise self._not_installed()
        try:
            yield await self._open(state)
        except BaseException as error:
            state.note(type(error), error, None)
            raise

    async def _open(self, state: RequestState) -> AsyncSession | Session:
        sessions = state.sessions(self._database or state.database)
        if self._face == "sync" and state.phase is Phase.WORKING and state.scope["type"] == "http":
            await sessions.take_permit()
        return sessions.get(self._face)

    def _bare(self, scope: Scope) -> RequestState:
        """Serve an application that composes ``lifespan`` itself: FastAPI's exit stacks commit and close."""
        database = self._database
        if database is None or not database.is_open_in(scope.get("app")):
            raise self._not_installed()
        function, request = _compat.function_stack(scope), _compat.request_stack(scope)
        if function is None or request is None:
            raise self._not_installed()
        state = scope[KEY] = RequestState(scope)
        state.serve_with(database, scope.get("app"))

        async def close(kind: Any, error: BaseException | None, trace: Any) -> None:
            if state.phase is Phase.ANSWERING:
                state.sent_whole = error is None
                await state.finish_late(error)
            await state.close()

        async def settle(kind: Any, error: BaseException | None, trace: Any) -> None:
            await state.settle(commit=error is None and state.error is None and scope["type"] == "http")
            state.phase = Phase.ANSWERING

        request.push_async_exit(close)
        function.push_async_exit(settle)
        return state

    def _not_installed(self) -> NotInstalled:
        return NotInstalled(
            f"{self._name} runs in an application that no Database was installed in; "
            "call database.install(app) where the application is made"
        )


class CalledDependency:
    """What ``get_db()`` returns: the guidance that fits whatever is done with it next."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise DependencyMisuse(f"{what}: {instead}")

    @property
    def __signature__(self) -> inspect.Signature:
        self._refuse(f"Depends({self._name}()) was given a call", f"write Depends({self._name}), without parentheses")

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        self._refuse(f"Depends({self._name}()) was given a call", f"write Depends({self._name}), without parentheses")

    def __aiter__(self) -> NoReturn:
        self._refuse(f"`async for` over {self._name}()", "open a session with `async with database.session() as db:`")

    async def __anext__(self) -> NoReturn:
        self._refuse(f"anext({self._name}())", "open a session with `async with database.session() as db:`")

    def __iter__(self) -> NoReturn:
        self._refuse(f"`for` over {self._name}()", "open a session with `with database.sync_session() as db:`")

    def __next__(self) -> NoReturn:
        self._refuse(f"next({self._name}())", "open a session with `with database.sync_session() as db:`")

    def __await__(self) -> NoReturn:
        self._refuse(f"await {self._name}()", "open a session with `async with database.session() as db:`")

    async def __aenter__(self) -> NoReturn:
        self._refuse(f"`async with {self._name}()`", "open a session with `async with database.session() as db:`")

    async def __aexit__(self, *exc: object) -> None:
        """Never reached: ``__aenter__`` refuses."""

    def __enter__(self) -> NoReturn:
        self._refuse(f"`with {self._name}()`", "open a session with `with database.sync_session() as db:`")

    def __exit__(self, *exc: object) -> None:
        """Never reached: ``__enter__`` refuses."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse(
            f"{self._name}().{name}",
            "get_db is a dependency, not a session: take `db: SessionDep`, or open `database.session()`",
        )


get_db = SessionDependency("get_db", "async")
"""The request's ``AsyncSession``, of the Database installed in the application that serves the request."""

get_sync_db = SessionDependency("get_sync_db", "sync")
"""The request's sync ``Session``, for ``def`` endpoints."""

get_read_db = SessionDependency("get_read_db", "read")
"""The request's read-only ``AsyncSession``."""

SessionDep = Annotated[AsyncSession, Depends(get_db)]
SyncSessionDep = Annotated[Session, Depends(get_sync_db)]
ReadSessionDep = Annotated[AsyncSession, Depends(get_read_db)]


def current_session() -> AsyncSession:
    """Return the ``AsyncSession`` of the request that is being served, for code that no dependency reaches.

    Raises:
        OutsideRequest: no request is being served.
    """
    state = _current("current_session()")
    found: AsyncSession = state.session(state.database, "async")
    return found


def current_request() -> object:
    """Return a token that is the same throughout one request: the ``scopefunc`` of ``async_scoped_session``.

    Raises:
        OutsideRequest: no request is being served.
    """
    return _current("current_request()")


def _current(what: str) -> Any:
    state = session.current.get()
    if state is None:
        raise OutsideRequest(
            f"{what} was called where no request is being served; "
            "open a session with `async with database.session() as db:` there"
        )
    return state
