"""Cancellation at every await: a coroutine is run again and again, each time cancelled one step later.

Promises: step k cancels the task at its k-th suspension, exactly as ``task.cancel()`` from outside at that moment
would; the steps end with a run that nothing interrupted, so no await is missed; a failed check says which step it was
and in which line the coroutine waited.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import anyio

MAX_STEPS = 5000  # a coroutine with more awaits than this does not end
Outcome = Literal["completed", "cancelled", "raised"]


@dataclass
class Attempt:
    """One run. ``step`` is the suspension at which it was cancelled, None for the last run, which was not.

    A run that was cancelled may still be ``"completed"``: then the coroutine finished what it was doing and swallowed
    the cancellation.
    """

    step: int | None
    where: str = ""
    outcome: Outcome = "completed"
    result: Any = None
    error: BaseException | None = None

    def __str__(self) -> str:
        if self.step is None:
            return "the uninterrupted run"
        return f"step {self.step}, cancelled in {self.where}: {self.outcome}"


class Check(Protocol):
    """Something to do around each run; may be async."""

    def __call__(self, attempt: Attempt, /) -> Any: ...


MakeCoroutine = Callable[[], Coroutine[Any, Any, Any]]


async def cancel_at_each_await(
    make_coroutine: MakeCoroutine,
    *,
    before_each: Callable[[], Any] | None = None,
    after_each: Check | None = None,
    times: int = 1,
) -> int:
    """Cancel a new coroutine natively at its first suspension, the next one at its second, until one is not reached.

    ``before_each()`` and ``after_each(attempt)`` run around every run, the undisturbed one included. ``times=2``
    cancels a second time at the suspension after, as a server does whose patience ends while the first cancellation is
    being handled.

    Every run must start from the same state, or steps are missed: a warm pool has fewer awaits than a cold one.
    ``before_each`` sees to that.

    Returns:
        How many suspensions were cancelled. Assert that it is more than zero.
    """
    return await _at_each_await(make_coroutine, before_each, after_each, lambda: _NativeCancel(times))


async def cancel_scope_at_each_await(
    make_coroutine: MakeCoroutine,
    *,
    before_each: Callable[[], Any] | None = None,
    after_each: Check | None = None,
) -> int:
    """Do the same with an anyio cancel scope, which cancels again at every await until the scope is left."""
    return await _at_each_await(make_coroutine, before_each, after_each, _ScopeCancel)


async def _at_each_await(
    make_coroutine: MakeCoroutine,
    before_each: Callable[[], Any] | None,
    after_each: Check | None,
    canceller: Callable[[], Canceller],
) -> int:
    for step in range(1, MAX_STEPS + 1):
        if before_each is not None:
            await _maybe(before_each())
        attempt = await _attempt(make_coroutine(), step, canceller())
        try:
            if attempt.error is not None and attempt.step is None:
                raise attempt.error
            assert attempt.step is not None or attempt.outcome == "completed", "the coroutine cancelled itself"
            if after_each is not None:
                await _maybe(after_each(attempt))
        except BaseException as error:
            error.add_note(f"at {attempt}")
            raise
        if attempt.step is None:
            return step - 1
    raise AssertionError(f"the coroutine still waits after {MAX_STEPS} steps")


async def _attempt(coroutine: Coroutine[Any, Any, Any], step: int, canceller: Canceller) -> Attempt:
    """Run a coroutine in a task of its own and cancel it at one step."""
    steps = Steps(coroutine, step, canceller)
    task = asyncio.ensure_future(canceller.run(steps))
    await asyncio.wait({task})
    attempt = Attempt(step if steps.reached else None, steps.where)
    if task.cancelled():
        attempt.outcome = "cancelled"
    elif (error := task.exception()) is not None:
        attempt.outcome, attempt.error = "raised", error
    else:
        attempt.outcome, attempt.result = task.result()
    return attempt


class Canceller(Protocol):
    """Runs the steps of a coroutine and knows how to cancel them."""

    async def run(self, steps: Steps) -> tuple[Outcome, Any]: ...

    def cancel(self) -> asyncio.Future[Any] | None:
        """Cancel; called from within the task at the chosen suspension and at every one after.

        Returns:
            What the task must wait for until the cancellation arrives, or None if it is there already.
        """
        ...


class _NativeCancel:
    def __init__(self, times: int) -> None:
        self._left = times

    async def run(self, steps: Steps) -> tuple[Outcome, Any]:
        return "completed", await steps

    def cancel(self) -> None:
        if not self._left:
            return
        self._left -= 1
        task = asyncio.current_task()
        assert task is not None
        # From inside a running step this marks the task, and the future that is yielded next is cancelled as soon as
        # the task waits on it.
        task.cancel()


class _ScopeCancel:
    def __init__(self) -> None:
        self._scope = anyio.CancelScope()

    async def run(self, steps: Steps) -> tuple[Outcome, Any]:
        result = None
        with self._scope:
            result = await steps
        return ("cancelled" if self._scope.cancelled_caught else "completed"), result

    def cancel(self) -> asyncio.Future[Any] | None:
        if self._scope.cancel_called:
            return None
        self._scope.cancel()
        # A scope does not cancel the task that runs, only one that waits, a round of the event loop later; and not at
        # all where the task waits behind a shield.
        loop = asyncio.get_running_loop()
        arriving = loop.create_future()
        loop.call_soon(loop.call_soon, _release, arriving)
        return arriving


def _release(arriving: asyncio.Future[Any]) -> None:
    if not arriving.done():
        arriving.set_result(None)


class Steps:
    """An awaitable that drives a coroutine and counts its suspensions."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], step: int, canceller: Canceller) -> None:
        self._coroutine = coroutine
        self._step = step
        self._canceller = canceller
        self._count = 0
        self.where = ""

    @property
    def reached(self) -> bool:
        """Whether the chosen step came."""
        return self._count >= self._step

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._coroutine.__await__()
        resume: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                waits_for = resume()
            except StopIteration as end:
                return end.value
            arriving = self._suspended()
            try:
                if arriving is not None:
                    yield from _interrupted(waits_for, arriving)
                value = yield waits_for
            except BaseException as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, value)

    def _suspended(self) -> asyncio.Future[Any] | None:
        self._count += 1
        if self._count == self._step:
            self.where = _where(self._coroutine)
        return self._canceller.cancel() if self.reached else None


def _interrupted(waits_for: Any, arriving: asyncio.Future[Any]) -> Generator[Any, Any, None]:
    """Wait for a cancellation to arrive and pass it on to the future that the coroutine waits for, as its task would.

    Returns if that future has to be waited for after all: a task, for one, takes its time to be cancelled.
    """
    try:
        yield from arriving
    except asyncio.CancelledError as error:
        if not isinstance(waits_for, asyncio.Future) or not waits_for.cancel(*error.args):
            raise


def _where(coroutine: Any) -> str:
    """Return the line in which a chain of coroutines waits, and the function that asked for it."""
    places = []
    while coroutine is not None:
        frame = _first(coroutine, "cr_frame", "gi_frame", "ag_frame")
        if frame is not None:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
        coroutine = _first(coroutine, "cr_await", "gi_yieldfrom", "ag_await")
    return " > ".join(places[-2:]) or "an awaitable without a frame"


async def _maybe(result: Any) -> None:
    if inspect.isawaitable(result):
        await result


def _first(owner: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(owner, name, None)) is not None), None)
