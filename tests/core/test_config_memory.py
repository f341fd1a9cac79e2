"""A SQLite database in memory: one for both engines, every thread and every event loop, while its Config lives."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from sessionlocal import config
from sessionlocal.config import Config, load

PRIVATE = [
    "sqlite://",
    "sqlite+aiosqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite:///file::memory:?uri=true",
    "sqlite:///file:a?mode=memory&uri=true",
    "sqlite:///a?mode=memory",
]
SHARED_CACHE = [
    "sqlite:///file:shared?mode=memory&cache=shared&uri=true",
    "sqlite:///file::memory:?cache=shared&uri=true",
]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory, where a file by the name of :memory: would be seen."""
    monkeypatch.chdir(tmp_path)


@contextmanager
def sync_engine(settings: Config) -> Iterator[Engine]:
    """Make the sync engine as a Database does, and close its connections."""
    engine = create_engine(settings.sync_url, connect_args=settings.sync_connect_args, **settings.sync_engine_options)
    yield engine
    engine.dispose()


async def run_async(settings: Config, statement: str) -> list[int]:
    """Run one statement on an async engine that lives no longer than it."""
    engine = create_async_engine(settings.url, connect_args=settings.async_connect_args, **settings.engine_options)
    try:
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            return list(result.scalars()) if result.returns_rows else []
    finally:
        await engine.dispose()


@pytest.mark.parametrize("url", PRIVATE)
def test_both_engines_in_every_event_loop_see_the_same_tables(url: str, tmp_path: Path) -> None:
    """A table outlives the loop, the engine and the connection that created it, and no file is written."""
    settings = load(url)

    asyncio.run(run_async(settings, "CREATE TABLE item (id INTEGER)"))
    asyncio.run(run_async(settings, "INSERT INTO item VALUES (7)"))

    assert [7] == asyncio.run(run_async(settings, "SELECT id FROM item"))
    with sync_engine(settings) as engine, engine.connect() as connection:
        assert [7] == list(connection.scalars(text("SELECT id FROM item")))
    assert [] == list(tmp_path.iterdir())


def test_two_databases_in_memory_are_two() -> None:
    """The same URL twice is no way to share data."""
    first, second = load("sqlite://"), load("sqlite://")

    with sync_engine(first) as engine, engine.begin() as connection:
        connection.execute(text("CREATE TABLE item (id INTEGER)"))

    with (
        sync_engine(second) as engine,
        engine.connect() as connection,
        pytest.raises(OperationalError, match="no such"),
    ):
        connection.execute(text("SELECT * FROM item"))


def test_two_connections_have_a_transaction_each() -> None:
    """A rollback on one connection takes nothing from another, as it would if all shared one."""
    with sync_engine(load("sqlite://", isolation_level=None)) as engine:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE item (id INTEGER)"))
        with engine.connect() as first, engine.connect() as second:
            first.execute(text("INSERT INTO item VALUES (1)"))
            first.commit()
            second.execute(text("INSERT INTO item VALUES (2)"))
            second.rollback()

            assert [1] == list(first.scalars(text("SELECT id FROM item")))


def test_the_memory_is_freed_with_its_config() -> None:
    """The connection that keeps the database is closed when nobody can reach it any more."""
    settings = load("sqlite://")
    name = f"{settings.sync_url.database}?vfs=memdb"
    with sync_engine(settings) as engine, engine.begin() as connection:
        connection.execute(text("CREATE TABLE item (id INTEGER)"))

    del settings, engine, connection
    gc.collect()

    late = sqlite3.connect(name, uri=True)
    assert [] == late.execute("SELECT name FROM sqlite_master").fetchall()
    late.close()


@pytest.mark.parametrize("url", SHARED_CACHE)
def test_a_shared_cache_is_left_to_one_connection_per_engine(url: str) -> None:
    """Its name is somebody's choice, and its locks do not wait, so sessions of one engine share a connection."""
    settings = load(url)

    assert (StaticPool, StaticPool) == (settings.engine_options["poolclass"], settings.sync_engine_options["poolclass"])
    assert set() == {"pool_size", "max_overflow", "pool_timeout"} & settings.engine_options.keys()


def test_an_older_sqlite_gets_one_connection_per_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.36 connections could not share memory with ordinary locks; the tables are kept all the same."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 35, 5))
    settings = load("sqlite://")

    assert StaticPool is settings.engine_options["poolclass"]
    with sync_engine(settings) as engine:
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE item (id INTEGER)"))
        with engine.connect() as connection:
            assert [] == list(connection.scalars(text("SELECT id FROM item")))


def test_what_is_shown_is_what_was_written() -> None:
    """The name that the database gets is no business of whoever reads a log."""
    settings = load("sqlite://")

    assert ("sqlite://", "in memory") == (settings.address, settings.name)
    assert repr(settings).startswith("<Config sqlite:// ")


@pytest.mark.parametrize("url", [*PRIVATE, *SHARED_CACHE])
def test_every_kind_of_memory_is_recognised(url: str) -> None:
    """Whatever its spelling, it is given no journal."""
    assert {"foreign_keys": "ON"} == config.sqlite_pragmas(load(url).url)
