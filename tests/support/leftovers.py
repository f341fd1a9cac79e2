"""What a test must not leave behind: running tasks, connections for the garbage collector, errors nobody saw.

Promises: the check runs after the fixtures of the test that were set up later, on the test's own event loop; it reports
everything it found at once; other warnings reach pytest as if the check were not there.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import warnings
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

# Loggers on which libraries report what they could not raise: there is no caller any more.
LOUD = {
    "sqlalchemy.pool": logging.WARNING,
    "asyncio": logging.ERROR,
}
# asyncpg abandons a future when a connection is terminated in the middle of a statement, which is what a cancellation
# does.
KNOWN_NOISE = ("unexpected connection_lost() call",)
FORGOTTEN = ("was never awaited", "garbage collector is trying to clean up")


class _Listener(logging.Handler):
    """Collects what is said on one logger from a level on."""

    def __init__(self, level: int, heard: list[str]) -> None:
        super().__init__(level)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        said = f"{record.name}: {record.getMessage()}"
        about = f"{said}\n{record.exc_info[1]!r}" if record.exc_info else said
        if not any(noise in about for noise in KNOWN_NOISE):
            self._heard.append(about)


@pytest.fixture
def no_leftovers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test, after it ended, if it left tasks, unclosed connections or unseen errors.

    For a whole module: ``pytestmark = pytest.mark.usefixtures("no_leftovers")``.
    """
    heard: list[str] = []
    listeners = {name: _Listener(level, heard) for name, level in LOUD.items()}
    for name, listener in listeners.items():
        logging.getLogger(name).addHandler(listener)
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("no_pending_tasks")
    try:
        with warnings.catch_warnings(record=True) as caught:
            # Recorded, not raised: most of these come out of destructors, where an exception goes nowhere.
            warnings.simplefilter("always", ResourceWarning)
            yield
            gc.collect()
    finally:
        for name, listener in listeners.items():
            logging.getLogger(name).removeHandler(listener)
    left = heard + [str(warning.message) for warning in caught if _is_leftover(warning)]
    for warning in caught:
        if not _is_leftover(warning):
            warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)
    _complain(left)


@pytest.fixture
async def no_pending_tasks() -> AsyncIterator[None]:
    """Fail an async test if a task of its event loop is pending after it."""
    before = asyncio.all_tasks()
    yield
    current = asyncio.current_task()
    _complain([f"pending task {describe(task)}" for task in asyncio.all_tasks() - before if task is not current])


def _complain(left: list[str]) -> None:
    if left:
        pytest.fail("the test left something behind:\n" + "\n".join(left), pytrace=False)


def describe(task: asyncio.Task[Any]) -> str:
    """Return a task's name, coroutine and place."""
    stack = task.get_stack(limit=1)
    place = f" at {stack[0].f_code.co_filename}:{stack[0].f_lineno}" if stack else ""
    return f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', task.get_coro())}{place}"


def _is_leftover(warning: warnings.WarningMessage) -> bool:
    return issubclass(warning.category, ResourceWarning) or any(sign in str(warning.message) for sign in FORGOTTEN)
