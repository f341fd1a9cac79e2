"""Where in the user's code something happens: the line that a warning or an error can name.

Nothing is recorded while things go well. When a report is due, the stack is walked: the frames of this thread, of the
greenlets that SQLAlchemy put between them, or of a task that waits somewhere else.
"""

from __future__ import annotations

import asyncio
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import greenlet

LIBRARIES = (str(Path(__file__).parent), sysconfig.get_paths()["stdlib"], "<")
INSTALLED = ("/site-packages/", "/dist-packages/")
UNKNOWN = "an unknown line"

Owner = asyncio.Task[Any] | int
"""Who uses a session: a task, or the ident of a thread."""


def here() -> str:
    """Return ``file:line in function`` of the innermost frame of the caller that is the user's own."""
    task = _running_task()
    found = _describe(_own_frames(task))
    return _task_name(task) if found is UNKNOWN and task is not None else found


def of(owner: Owner | None) -> str:
    """Return the same for a task that is suspended, or a thread that runs, somewhere else."""
    if isinstance(owner, int):
        return _describe(_outwards(sys._current_frames().get(owner)))
    if owner is None:
        return UNKNOWN
    found = _describe(reversed(list(_awaited_frames(owner))))
    return _task_name(owner) if found is UNKNOWN else found


def _running_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _task_name(task: asyncio.Task[Any]) -> str:
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', 'a coroutine')})"


def _own_frames(task: asyncio.Task[Any] | None) -> Iterator[FrameType]:
    """Walk outwards through the greenlets, as far as the task's own coroutine: what runs the event loop is not the
    caller."""
    outermost = getattr(task.get_coro(), "cr_frame", None) if task is not None else None
    for frame in _all_frames():
        yield frame
        if frame is outermost:
            return


def _all_frames() -> Iterator[FrameType]:
    yield from _outwards(sys._getframe(1))
    parent = greenlet.getcurrent().parent
    while parent is not None:
        yield from _outwards(parent.gr_frame)
        parent = parent.parent


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited_frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Follow what a task awaits, from its outermost coroutine inwards."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = (
            getattr(awaited, "cr_frame", None)
            or getattr(awaited, "gi_frame", None)
            or getattr(awaited, "ag_frame", None)
        )
        if frame is not None:
            yield frame
        awaited = (
            getattr(awaited, "cr_await", None)
            or getattr(awaited, "gi_yieldfrom", None)
            or getattr(awaited, "ag_await", None)
        )


def _describe(frames: Iterator[FrameType]) -> str:
    for frame in frames:
        path = frame.f_code.co_filename
        if path.startswith(LIBRARIES) or any(part in path for part in INSTALLED):
            continue
        return f"{path}:{frame.f_lineno} in {frame.f_code.co_name}()"
    return UNKNOWN
