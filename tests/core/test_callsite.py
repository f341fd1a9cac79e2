"""Reports name the user's line, through greenlets and across tasks."""

from __future__ import annotations

import asyncio
import threading

from sqlalchemy.util import greenlet_spawn

from sessionlocal import callsite


def test_here_is_the_line_that_calls() -> None:
    """In plain code it is the caller's own line and function."""
    found = callsite.here()

    assert __file__ in found
    assert found.endswith("in test_here_is_the_line_that_calls()")


async def test_here_looks_through_a_greenlet() -> None:
    """Inside SQLAlchemy's greenlet it is the function that runs there."""

    def inside() -> str:
        return callsite.here()

    assert (await greenlet_spawn(inside)).endswith("in inside()")


async def test_a_waiting_task_is_found_where_it_waits() -> None:
    """For another task it is the innermost line of the user's that waits."""
    started = asyncio.Event()

    async def waits() -> None:
        started.set()
        await asyncio.Event().wait()

    async def outer() -> None:
        await waits()

    task = asyncio.create_task(outer())
    await started.wait()
    await asyncio.sleep(0)

    assert callsite.of(task).endswith("in waits()")
    task.cancel()


async def test_a_task_without_a_line_of_the_users_is_named() -> None:
    """A task that runs library code only is called by its name."""
    task = asyncio.create_task(asyncio.Event().wait(), name="reader")
    await asyncio.sleep(0)

    assert "reader (Event.wait)" == callsite.of(task)
    task.cancel()


def test_another_thread_is_found_where_it_runs() -> None:
    """For a thread it is the line that it executes."""
    ready, done = threading.Event(), threading.Event()

    def works() -> None:
        ready.set()
        done.wait()

    thread = threading.Thread(target=works)
    thread.start()
    ready.wait()

    try:
        assert callsite.of(thread.ident).endswith("in works()")
    finally:
        done.set()
        thread.join()


def test_nobody_is_an_unknown_line() -> None:
    """Without an owner there is nothing to name."""
    assert callsite.UNKNOWN == callsite.of(None)
