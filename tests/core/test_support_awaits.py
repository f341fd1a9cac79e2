"""Cancellation at every await reaches each suspension exactly once, and reports what became of the coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.awaits import Attempt, cancel_at_each_await, cancel_scope_at_each_await
from tests.support.backends import Backend
from tests.support.observer import Observer

VARIANTS = pytest.mark.parametrize(
    "cancel", [cancel_at_each_await, cancel_scope_at_each_await], ids=["native", "anyio"]
)


async def wait_for_an_event() -> None:
    """Suspend once, on a future that the loop sets."""
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    await event.wait()


@VARIANTS
async def test_every_suspension_is_cancelled_once(cancel: Callable[..., object]) -> None:
    """Five awaits are five steps, each of which gets one await further than the one before."""
    reached: list[int] = []

    async def five() -> str:
        reached.append(0)
        for _ in range(5):
            await wait_for_an_event()
            reached[-1] += 1
        return "done"

    attempts: list[Attempt] = []
    steps = await cancel(five, after_each=attempts.append)  # type: ignore[misc]

    assert 5 == steps
    assert [0, 1, 2, 3, 4, 5] == reached
    assert [1, 2, 3, 4, 5, None] == [attempt.step for attempt in attempts]
    assert ["cancelled"] * 5 + ["completed"] == [attempt.outcome for attempt in attempts]
    assert "done" == attempts[-1].result


@VARIANTS
async def test_a_bare_yield_is_a_suspension(cancel: Callable[..., object]) -> None:
    """``sleep(0)``, which waits on nothing, is cancelled as well."""

    async def two() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert 2 == await cancel(two)  # type: ignore[misc]


@VARIANTS
async def test_awaits_while_handling_the_cancellation_are_part_of_the_run(cancel: Callable[..., object]) -> None:
    """Clean-up that awaits a shielded task runs to its end under either kind of cancellation."""
    cleaned: list[bool] = []

    async def clean_up() -> None:
        with anyio.CancelScope(shield=True):
            await wait_for_an_event()
        cleaned.append(True)

    async def work() -> None:
        try:
            await wait_for_an_event()
        finally:
            await clean_up()

    assert 2 == await cancel(work)  # type: ignore[misc]
    # Native cancellation pays no respect to the shield and stops the clean-up once.
    assert (2 if cancel is cancel_at_each_await else 3) == len(cleaned)


async def test_a_second_cancellation_comes_at_the_next_suspension() -> None:
    """With ``times=2`` clean-up is cancelled at its first await."""
    finished: list[str] = []

    async def work() -> None:
        try:
            await wait_for_an_event()
        finally:
            await wait_for_an_event()
            finished.append("cleaned")

    await cancel_at_each_await(work, times=2)
    assert ["cleaned"] == finished, "only the undisturbed run gets to its end"

    finished.clear()
    await cancel_at_each_await(work, times=1)
    assert ["cleaned", "cleaned"] == finished


async def test_anyio_cancels_again_at_every_await() -> None:
    """A cancelled scope interrupts an await even after the coroutine has swallowed the first cancellation."""
    swallowed: list[int] = []

    async def stubborn() -> None:
        for number in range(3):
            event = asyncio.Event()
            asyncio.get_running_loop().call_later(0.02, event.set)
            try:
                await event.wait()
            except asyncio.CancelledError:
                swallowed.append(number)

    assert 3 == await cancel_scope_at_each_await(stubborn)
    assert [0, 1, 2, 1, 2, 2] == swallowed


async def test_a_swallowed_cancellation_is_completed() -> None:
    """A coroutine that finishes in spite of the cancellation counts as completed, at a step."""

    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await wait_for_an_event()
        return "finished anyway"

    attempts: list[Attempt] = []
    assert 1 == await cancel_at_each_await(stubborn, after_each=attempts.append)
    assert [(1, "completed", "finished anyway"), (None, "completed", "finished anyway")] == [
        (attempt.step, attempt.outcome, attempt.result) for attempt in attempts
    ]


async def test_an_error_under_cancellation_is_handed_over() -> None:
    """What the coroutine raises in place of the cancellation is the attempt's error."""

    async def translate() -> None:
        try:
            await wait_for_an_event()
        except asyncio.CancelledError:
            raise LookupError("unknown") from None

    attempts: list[Attempt] = []
    assert 1 == await cancel_at_each_await(translate, after_each=attempts.append)
    assert ["raised", "completed"] == [attempt.outcome for attempt in attempts]
    assert "unknown" == str(attempts[0].error)


async def test_an_error_without_cancellation_is_raised() -> None:
    """A coroutine that fails by itself fails the test."""

    async def fail() -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError, match="broken"):
        await cancel_at_each_await(fail)


async def test_a_failed_check_names_step_and_line() -> None:
    """An error raised by ``after_each`` carries a note with the step and the function that was waiting."""

    async def inner() -> None:
        await wait_for_an_event()

    def check(attempt: Attempt) -> None:
        assert attempt.step is None, "leaked"

    with pytest.raises(AssertionError, match="leaked") as failure:
        await cancel_at_each_await(inner, after_each=check)
    (note,) = failure.value.__notes__
    assert note.startswith("at step 1, cancelled in ")
    assert note.endswith(": cancelled")
    assert "wait_for_an_event > " in note


async def test_checks_may_be_async_and_see_every_run() -> None:
    """``before_each`` and ``after_each`` are awaited around every run, the last one included."""
    seen: list[str] = []

    async def before() -> None:
        await asyncio.sleep(0)
        seen.append("before")

    async def after(attempt: Attempt) -> None:
        await asyncio.sleep(0)
        seen.append(attempt.outcome)

    await cancel_at_each_await(wait_for_an_event, before_each=before, after_each=after)
    assert ["before", "cancelled", "before", "completed"] == seen


async def test_a_coroutine_that_never_waits_has_no_steps() -> None:
    """Zero is returned where there was nothing to cancel, for the caller to notice."""

    async def at_once() -> int:
        return 1

    assert 0 == await cancel_at_each_await(at_once)


async def test_the_step_is_the_cancellation_that_a_task_would_see() -> None:
    """The future that the coroutine waits for is cancelled, as by ``task.cancel()`` from outside."""
    futures: list[asyncio.Future[None]] = []

    async def work() -> None:
        future = asyncio.get_running_loop().create_future()
        futures.append(future)
        asyncio.get_running_loop().call_soon(lambda: None if future.done() else future.set_result(None))
        await future

    assert 1 == await cancel_at_each_await(work)
    assert [True, False] == [future.cancelled() for future in futures]


async def test_real_drivers_are_cancelled_at_every_await(async_backend: Backend, observer: Observer) -> None:
    """On every async driver a transaction has awaits to cancel, and afterwards the server is rid of all of them."""

    async def transaction() -> None:
        engine = create_async_engine(async_backend.url)
        try:
            async with engine.begin() as connection:
                await connection.execute(text("select 1"))
        finally:
            await asyncio.shield(engine.dispose())

    attempts: list[Attempt] = []
    steps = await cancel_at_each_await(transaction, after_each=attempts.append)
    await observer.settled(backends=0)

    assert steps >= 3
    assert steps == sum(attempt.step is not None for attempt in attempts)
    assert "completed" == attempts[-1].outcome
