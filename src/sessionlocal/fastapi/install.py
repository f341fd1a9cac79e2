"""``Database`` with its web face: installing it in an application, its lifespan, and its own dependencies."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
from starlette.applications import Starlette

from .. import database as core
from ..errors import NotInstalled
from . import _compat, problem
from .request import SessionDependency
from .response import CommitGate, SessionScope

END_THREADS = 8
"""Commits and closes of sync sessions run apart from FastAPI's 40 threads, all of which may wait for a connection."""


class Database(core.Database):
    __doc__ = core.Database.__doc__

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.get_db = SessionDependency("get_db", "async", self)
        self.get_sync_db = SessionDependency("get_sync_db", "sync", self)
        self.get_read_db = SessionDependency("get_read_db", "read", self)
        self._applications: weakref.WeakSet[Any] = weakref.WeakSet()
        self._opened: weakref.WeakSet[Any] = weakref.WeakSet()
        self._permits: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            weakref.WeakKeyDictionary()
        )
        self._limiters: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = (
            weakref.WeakKeyDictionary()
        )

    def install(self, app: Starlette, *, errors: bool = True) -> None:
        """Serve the requests of ``app``: commit before each response, close after it, open and close with the
        application.

        Args:
            app: the application, before its first request. Middleware may be added before or after.
            errors: answer database errors as ``application/problem+json``, unless the application has handlers of its
                own.

        Raises:
            NotInstalled: the application is already serving requests.
        """
        if app in self._applications:
            return
        if _compat.is_serving(app):
            raise NotInstalled("install() was called after the first request; call it where the application is made")
        self._applications.add(app)
        _compat.wrap_outermost(app, partial(SessionScope, owner=app, database=self))
        _compat.add_innermost(app, CommitGate)
        _compat.compose_lifespan(app, self._around)
        if errors:
            problem.add_handlers(app)

    @asynccontextmanager
    async def _around(self, original: Any, app: Any) -> AsyncIterator[Any]:
        async with self.lifespan(app), original(app) as state:
            yield state

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Open with the application and close with it. ``install`` composes this; compose it yourself if you do not
        install."""
        if app in self._opened:
            yield
            return
        self._opened.add(app)
        await self.open()
        try:
            yield
        finally:
            self._opened.discard(app)
            await self.dispose()

    def is_open_in(self, app: Any) -> bool:
        """Tell whether ``app`` runs this Database's lifespan."""
        return app in self._opened

    def sync_permits(self) -> asyncio.Semaphore:
        """Return the permits of sync requests: as many as the pool has connections, so that no thread ever waits for
        one that only another waiting thread could give back."""
        loop = asyncio.get_running_loop()
        found = self._permits.get(loop)
        if found is None:
            found = self._permits[loop] = asyncio.Semaphore(core.capacity(self.sync_engine.pool))
        return found

    @property
    def permit_timeout(self) -> float:
        """How many seconds a sync request waits for a permit: what it would wait for the pool itself."""
        return core.patience(self.sync_engine.pool)

    def end_limiter(self) -> anyio.CapacityLimiter:
        """Return the threads in which sync sessions are committed and closed."""
        loop = asyncio.get_running_loop()
        found = self._limiters.get(loop)
        if found is None:
            found = self._limiters[loop] = anyio.CapacityLimiter(END_THREADS)
        return found
