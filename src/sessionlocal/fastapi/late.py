"""Units of work that begin after the response has started: how long each may stay open.

Nobody waits for such a unit, so nobody would notice that it holds a connection, and locks, for as long as a slow client
reads. Promises: a unit that is open longer than its limit is rolled back and reported, and whoever goes on with it gets
``UnitExpired``. While a statement of it is running the server's own limits apply, and the roll-back waits for its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import ConcurrentUse
from ..session import SessionRules

log = logging.getLogger(__name__)

PATIENCE = 0.1  # seconds between two looks at a unit whose statement is still running when its time is over


class LateUnit:
    """The timer of one unit of work."""

    def __init__(
        self,
        rules: SessionRules,
        limit: float,
        loop: asyncio.AbstractEventLoop,
        expire: Callable[[SessionRules, float], Awaitable[None]],
    ) -> None:
        self._rules = rules
        self._limit = limit
        self._loop = loop
        self._roll_back = expire
        self._began = rules.unit_number
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        loop.call_soon_threadsafe(self._wait, limit)  # a sync session begins in a thread

    def _wait(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        if self._rules.unit_number == self._began and self._rules.has_written:
            self._task = self._loop.create_task(self._expire())

    async def _expire(self) -> None:
        try:
            await self._roll_back(self._rules, self._limit)
        except ConcurrentUse:
            self._wait(PATIENCE)
            return
        log.error(
            "%s: a unit of work begun after the response had started was open for %g s and was rolled back; "
            "commit in smaller steps, or raise late_unit_timeout",
            self._rules.unit_name,
            self._limit,
        )

    async def stop(self) -> None:
        """Forget the timer; a roll-back that is under way is waited for."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await asyncio.wait({self._task})
