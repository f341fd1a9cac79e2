"""Databases for other people's libraries, closed when the test ends, and clients that keep an application's errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from fastapi import FastAPI

from sessionlocal import Database
from tests.support.backends import Backend


@pytest.fixture(autouse=True)
def our_loggers() -> Iterator[None]:
    """Leave the loggers of this process as they were: Alembic's template and Celery's worker configure logging anew."""
    root, loggers = logging.getLogger(), logging.Logger.manager.loggerDict
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for logger in list(loggers.values()):
        if isinstance(logger, logging.Logger) and logger.name.startswith("sessionlocal"):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)


@pytest.fixture
async def open_database(backend: Backend) -> AsyncIterator[Callable[..., Database]]:
    """Return a function like ``Database`` whose URL is the test's; what it made is disposed at the end."""
    made: list[Database] = []

    def open_(url: str = backend.url, **options: object) -> Database:
        made.append(Database(url, **options))
        return made[-1]

    yield open_
    for database in made:
        await database.dispose()


@pytest.fixture
async def database(open_database: Callable[..., Database]) -> Database:
    """A Database with nothing but its URL."""
    return open_database()


@pytest.fixture
async def browse() -> AsyncIterator[Callable[[FastAPI], httpx.AsyncClient]]:
    """Return a function from an application to a client with forms and cookies; unhandled errors arrive as 500."""
    opened: list[httpx.AsyncClient] = []

    def client(app: FastAPI) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        opened.append(httpx.AsyncClient(transport=transport, base_url="http://testserver"))
        return opened[-1]

    yield client
    for each in opened:
        await each.aclose()
