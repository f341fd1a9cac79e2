"""A Database with tables, an application on it, and the ways to reach an application."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI

from sessionlocal import Database
from tests.support.backends import Backend
from tests.support.observer import Observer

from .app import make_app
from .clients import WAYS, Client, Connect
from .models import Base

HAS_DEPENDENCY_SCOPES = "scope" in inspect.signature(Depends).parameters


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "options(**options): options of the test's Database")


@pytest.fixture
async def database(
    request: pytest.FixtureRequest, backend: Backend, observer: Observer, tables: Callable[[Any], None]
) -> AsyncIterator[Database]:
    """A Database with empty tables. Afterwards no connection is lent and no transaction is open."""
    tables(Base)
    mark = request.node.get_closest_marker("options")
    opened = Database(backend.url, **(mark.kwargs if mark else {}))
    yield opened
    await opened.dispose()
    assert 0 == in_use(opened)
    await observer.settled()


@pytest.fixture
def app(database: Database) -> FastAPI:
    """The sample application."""
    return make_app(database)


@pytest.fixture(params=list(WAYS))
def connect(request: pytest.FixtureRequest) -> Connect:
    """Each way to reach an application: ``async with connect(app) as client``."""
    return WAYS[request.param]


@pytest.fixture
async def client(app: FastAPI, connect: Connect) -> AsyncIterator[Client]:
    """A client of the sample application, each way."""
    async with connect(app) as opened:
        yield opened


@pytest.fixture
def names(observer: Observer) -> Callable[[], list[str]]:
    """Return a function that lists the names of the items that everybody can see."""
    return lambda: [name for (name,) in observer.all("SELECT name FROM item ORDER BY name")]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[int], list[str]]:
    """Return a function that lists what this library logged on exactly one level."""
    caplog.set_level(logging.DEBUG, logger="sessionlocal")

    def messages(level: int) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno == level and record.name.startswith("sessionlocal")
        ]

    return messages


def in_use(database: Database) -> int:
    """Count the connections that sessions of ``database`` hold at this moment."""
    stats = database.stats()
    return sum(pool.in_use for pool in (stats.async_pool, stats.sync_pool) if pool is not None)
