"""A test that asks for ``no_leftovers`` fails when it leaves tasks, connections or unseen errors behind."""

from __future__ import annotations

import pytest

from tests.core.test_support_backends import run_suite

SUITE = """
import asyncio
import gc
import socket
import warnings
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

pytestmark = [pytest.mark.usefixtures("no_leftovers"), pytest.mark.backends("sqlite-aiosqlite")]
tasks = []

async def test_clean(backend):
    engine = create_async_engine(backend.url)
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
    await engine.dispose()

def test_clean_and_sync():
    pass

def test_other_warnings_pass():
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine")

async def test_task():
    tasks.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten-task"))
    await asyncio.sleep(0)

async def test_connection(backend):
    engine = create_async_engine(backend.url)
    connection = await engine.connect()
    del connection
    gc.collect()
    await engine.dispose()

async def test_failed_task():
    async def fail():
        raise LookupError("nobody asked")
    task = asyncio.create_task(fail())
    await asyncio.wait({task})

async def test_coroutine():
    async def never():
        pass
    never()

def test_socket():
    socket.socket()
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], str]:
    """What became of the suite."""
    return run_suite(tmp_path_factory.mktemp("suite"), SUITE)


def test_clean_tests_are_left_alone(outcome: tuple[dict[str, int], str]) -> None:
    """Every test body passes, and three tests are without an error."""
    counts, output = outcome

    assert 8 == counts["passed"], output
    assert 5 == counts["error"], output


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("test_task", "pending task forgotten-task Event.wait"),
        ("test_connection", "The garbage collector is trying to clean up non-checked-in connection"),
        ("test_failed_task", "Task exception was never retrieved"),
        ("test_coroutine", "never' was never awaited"),
        ("test_socket", "unclosed <socket.socket"),
    ],
)
def test_what_is_left_is_named(outcome: tuple[dict[str, int], str], test: str, message: str) -> None:
    """The error of each test says what it left behind."""
    _, output = outcome
    error = output.partition(f" ERROR at teardown of {test}")[2].partition(" ERROR at ")[0]

    assert "the test left something behind:" in error
    assert message in error, output
