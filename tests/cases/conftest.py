"""The ground that every case stands on."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sessionlocal import Database
from tests.support.backends import Backend
from tests.support.observer import Observer

from .ground import Ground
from .models import Base

OPENED = pytest.StashKey[Ground]()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a plain test function that asked for a ground inside the greenlet and event loop of its driver."""
    ground = pyfuncitem.stash.get(OPENED, None)
    if ground is None or inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    ground.run(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    return True


@pytest.fixture
def ground(
    request: pytest.FixtureRequest, backend: Backend, observer: Observer, tables: Callable[[Any], None]
) -> Iterator[Ground]:
    """A database with tables on the driver of the test. ``@pytest.mark.database(...)`` gives its options.

    Afterwards no connection is lent and no transaction open.
    """
    tables(Base)
    mark = request.node.get_closest_marker("database")
    opened = Ground(backend, observer, **(mark.kwargs if mark else {}))
    request.node.stash[OPENED] = opened
    yield opened
    opened.close()


@pytest.fixture
def schema(tables: Callable[[Any], None]) -> None:
    """The tables of the cases, for tests that make their Database and event loops themselves."""
    tables(Base)


@pytest.fixture
async def database(
    async_backend: Backend, observer: Observer, tables: Callable[[Any], None]
) -> AsyncIterator[Database]:
    """A database with tables, for tests that are coroutines. Afterwards no connection is lent, no transaction open."""
    tables(Base)
    opened = Database(async_backend.url)
    yield opened
    await opened.dispose()
    assert opened.stats().async_pool.in_use == 0  # type: ignore[union-attr]
    await observer.settled()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "database(**options): options of the Database of a case")
