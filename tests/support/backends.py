"""The drivers on which every behaviour is shown, and the marks that choose among them.

A test that asks for the fixture ``backend``, directly or through another fixture, runs once per driver. Asking for
``async_backend``, ``sync_backend``, ``wire_backend`` and the like as well, or marking the test
``@pytest.mark.backends("postgresql", "sqlite-aiosqlite")``, narrows the list; several wishes are combined with "and".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import URL, make_url

SYNC_SCHEMES = {
    "sqlite": "sqlite+pysqlite",
    "postgresql": "postgresql+psycopg",
    "mariadb": "mariadb+pymysql",
    "mysql": "mysql+pymysql",
}


@dataclass(frozen=True)
class Driver:
    """One way to reach one kind of database."""

    id: str
    dialect: str
    scheme: str
    is_async: bool

    def backend(self, database: URL) -> Backend:
        """Return this driver's view of a database."""
        url = database.set(drivername=self.scheme).render_as_string(hide_password=False)
        return Backend(self.id, url, self.is_async, self.dialect, self.scheme.partition("+")[2])


@dataclass(frozen=True)
class Backend:
    """A driver and an empty database. ``is_async`` tells the two faces of psycopg apart, whose URLs are equal."""

    id: str
    url: str
    is_async: bool
    dialect: str
    driver: str

    @property
    def sync_url(self) -> str:
        """The same database through a plain sync driver."""
        return make_url(self.url).set(drivername=SYNC_SCHEMES[self.dialect]).render_as_string(hide_password=False)


DRIVERS = (
    Driver("sqlite-aiosqlite", "sqlite", "sqlite+aiosqlite", is_async=True),
    Driver("sqlite-pysqlite", "sqlite", "sqlite+pysqlite", is_async=False),
    Driver("postgresql-asyncpg", "postgresql", "postgresql+asyncpg", is_async=True),
    Driver("postgresql-psycopg-async", "postgresql", "postgresql+psycopg", is_async=True),
    Driver("postgresql-psycopg", "postgresql", "postgresql+psycopg", is_async=False),
    Driver("mariadb-aiomysql", "mariadb", "mariadb+aiomysql", is_async=True),
    # On purpose: most URLs of MariaDB servers in the field say mysql.
    Driver("mariadb-asyncmy", "mariadb", "mysql+asyncmy", is_async=True),
    Driver("mariadb-pymysql", "mariadb", "mariadb+pymysql", is_async=False),
)
MYSQL_DRIVERS = (
    Driver("mysql-aiomysql", "mysql", "mysql+aiomysql", is_async=True),
    Driver("mysql-asyncmy", "mysql", "mysql+asyncmy", is_async=True),
    Driver("mysql-pymysql", "mysql", "mysql+pymysql", is_async=False),
)

# Fixtures that narrow the list of drivers for the test that asks for them.
NARROWED_BY: dict[str, Callable[[Driver], bool]] = {
    "async_backend": lambda driver: driver.is_async,
    "sync_backend": lambda driver: not driver.is_async,
    "wire_backend": lambda driver: driver.dialect != "sqlite",
    "proxy": lambda driver: driver.dialect != "sqlite",
    "sqlite_backend": lambda driver: driver.dialect == "sqlite",
    "postgresql_backend": lambda driver: driver.dialect == "postgresql",
    "mysql_backend": lambda driver: driver.dialect in ("mariadb", "mysql"),
}


def choose(
    fixtures: Iterable[str] = (), marks: Sequence[Sequence[str]] = (), *, mysql: bool | None = None
) -> list[Driver]:
    """Return the drivers for a test, given the fixtures that it asks for and the arguments of its ``backends`` marks.

    MySQL joins where a server is given, and where a test asks for nothing else, so that the reason for skipping is
    shown.

    Raises:
        LookupError: the wishes exclude each other, or one names nothing that exists.
    """
    wishes = [NARROWED_BY[name] for name in fixtures if name in NARROWED_BY]
    wishes += [_named(names) for names in marks]
    chosen = [driver for driver in (*DRIVERS, *MYSQL_DRIVERS) if all(wish(driver) for wish in wishes)]
    if not chosen:
        raise LookupError(f"no driver fits the fixtures and marks {[list(names) for names in marks]}")
    given = bool(os.environ.get("MYSQL_URL")) if mysql is None else mysql
    without_mysql = [driver for driver in chosen if driver not in MYSQL_DRIVERS]
    return chosen if given or not without_mysql else without_mysql


def _named(names: Sequence[str]) -> Callable[[Driver], bool]:
    """Return a wish for drivers whose id, dialect or driver name is among ``names``."""
    known = {name for driver in (*DRIVERS, *MYSQL_DRIVERS) for name in _names(driver)}
    if unknown := set(names) - known:
        raise LookupError(f"no driver is called {sorted(unknown)}; there are {sorted(known)}")
    return lambda driver: bool(_names(driver) & set(names))


def _names(driver: Driver) -> set[str]:
    return {driver.id, driver.dialect, driver.scheme.partition("+")[2]}
