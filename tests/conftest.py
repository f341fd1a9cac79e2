"""Fixtures of every test: databases on every driver, tables, a look from outside, a counting proxy, a live server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, MetaData

from tests.support import schema
from tests.support.asgi import Asgi
from tests.support.backends import Backend, Driver, choose
from tests.support.live import Server, serve
from tests.support.observer import Observer, PlainClient
from tests.support.proxy import Proxy
from tests.support.servers import MYSQL_NOT_GIVEN, Servers, Unavailable

pytest_plugins = ["tests.support.floor", "tests.support.leftovers"]

shared_servers = pytest.StashKey[Servers]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "backends(*names): run on drivers with one of these ids, dialects or names")
    if config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput"):
        # The workers of a parallel run share the servers that are started for it.
        config.stash[shared_servers] = Servers(label="shared")
        config.stash[shared_servers].share(os.environ)


def pytest_unconfigure(config: pytest.Config) -> None:
    if (servers := config.stash.get(shared_servers, None)) is not None:
        servers.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once per driver that its fixtures and marks leave."""
    if "backend" not in metafunc.fixturenames or _parametrizes_backend(metafunc):
        return
    marks = [mark.args for mark in metafunc.definition.iter_markers("backends")]
    try:
        drivers = choose(metafunc.fixturenames, marks)
    except LookupError as error:
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {error}") from error
    metafunc.parametrize("backend", drivers, indirect=True, ids=[driver.id for driver in drivers])


def _parametrizes_backend(metafunc: pytest.Metafunc) -> bool:
    return any("backend" in str(mark.args[0]).split(",") for mark in metafunc.definition.iter_markers("parametrize"))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """The database servers of this process of the run."""
    found = Servers(label=os.environ.get("PYTEST_XDIST_WORKER", "main"))
    yield found
    found.close()


@pytest.fixture
def database_url(servers: Servers) -> Callable[[str], URL]:
    """Return a function from a dialect to the URL of this process's database; without such a server it skips."""

    def url(dialect: str) -> URL:
        try:
            return servers.database(dialect)
        except Unavailable as reason:
            missing(str(reason))
            raise

    return url


@pytest.fixture(scope="session")
def clients(servers: Servers) -> Iterator[dict[str, PlainClient]]:
    """The plain connections of this process of the run, by URL; they outlive the tests."""
    opened: dict[str, PlainClient] = {}
    yield opened
    for client in opened.values():
        client.close()


def missing(reason: str) -> None:
    """Skip a test whose server is not there; under CI that is a failure, except for MySQL, which is optional."""
    if os.environ.get("CI", "").lower() in ("1", "true") and reason != MYSQL_NOT_GIVEN:
        pytest.fail(f"CI must not skip: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture
def backend(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: Callable[[str], URL],
    clients: dict[str, PlainClient],
) -> Iterator[Backend]:
    """A driver and an empty database; the test fails if it ends with a transaction open."""
    driver: Driver = request.param
    if driver.dialect == "sqlite":
        database = URL.create("sqlite", database=str(tmp_path / "test.sqlite3"))
    else:
        database = database_url(driver.dialect)
    opened = driver.backend(database)
    yield opened
    with observing(opened, clients) as observer, failing_plainly():
        schema.empty(observer)


@contextmanager
def observing(backend: Backend, clients: dict[str, PlainClient]) -> Iterator[Observer]:
    """Look at a backend's database through the connection kept for it; a file gets one for the occasion."""
    if backend.dialect == "sqlite":
        with closing(Observer(backend)) as observer:
            yield observer
        return
    client = clients.setdefault(backend.sync_url, PlainClient(backend))
    client.ensure_connected()
    yield Observer(backend, client)


@contextmanager
def failing_plainly() -> Iterator[None]:
    """Report a transaction left open in one line: the fault is the test's, not in the code that found it."""
    try:
        yield
    except schema.LeftOpen as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture
def async_backend(backend: Backend) -> Backend:
    """A backend with an async driver."""
    return backend


@pytest.fixture
def sync_backend(backend: Backend) -> Backend:
    """A backend with a sync driver."""
    return backend


@pytest.fixture
def wire_backend(backend: Backend) -> Backend:
    """A backend that is reached over a network: not SQLite."""
    return backend


@pytest.fixture
def sqlite_backend(backend: Backend) -> Backend:
    """A SQLite file."""
    return backend


@pytest.fixture
def postgresql_backend(backend: Backend) -> Backend:
    """A PostgreSQL database."""
    return backend


@pytest.fixture
def mysql_backend(backend: Backend) -> Backend:
    """A MariaDB database, or a MySQL one."""
    return backend


@pytest.fixture
def observer(backend: Backend, clients: dict[str, PlainClient]) -> Iterator[Observer]:
    """An independent client of the test's database, in autocommit."""
    with observing(backend, clients) as opened:
        yield opened


@pytest.fixture
def tables(observer: Observer) -> Iterator[Callable[[MetaData], None]]:
    """Return a function that creates the tables of a metadata or a declarative base, dropped after the test."""
    with ExitStack() as stack:

        def create(metadata: Any) -> None:
            metadata = getattr(metadata, "metadata", metadata)
            stack.callback(drop, metadata)
            schema.create(metadata, observer)

        def drop(metadata: MetaData) -> None:
            with failing_plainly():
                schema.drop(metadata, observer)

        yield create


@pytest.fixture
def proxy(backend: Backend) -> Iterator[Proxy]:
    """A counting proxy in front of the test's database; use ``proxy.url``. SQLite has no wire and is left out."""
    with Proxy.for_url(backend.url) as opened:
        yield opened


@pytest.fixture(name="serve")
def serve_fixture() -> Callable[..., AbstractContextManager[Server]]:
    """Return `tests.support.live.serve`: ``with serve(app, loop="uvloop") as server``."""
    return serve


@pytest.fixture
def asgi() -> type[Asgi]:
    """Return `tests.support.asgi.Asgi`: ``async with asgi(app) as client``."""
    return Asgi
