"""Which driver serves a URL, and what is said when there is none."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessionlocal.config import load, normalise
from sessionlocal.errors import ConfigurationError

Install = Callable[..., None]
DRIVERS = {"asyncpg", "psycopg", "psycopg2", "aiomysql", "asyncmy", "pymysql", "MySQLdb", "aiosqlite", "sqlite3"}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Return a function that makes exactly these of the driver modules look installed."""
    real = importlib.util.find_spec
    monkeypatch.chdir(tmp_path)

    def only(*modules: str) -> None:
        def find_spec(name: str, package: str | None = None) -> Any:
            if name in DRIVERS:
                return object() if name in modules else None
            return real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return only


ALL = sorted(DRIVERS)


@pytest.mark.parametrize(
    ("url", "installed", "asynchronous", "synchronous"),
    [
        ("postgres://app@db/shop", ALL, "postgresql+asyncpg", "postgresql+psycopg"),
        ("postgres://app@db/shop", ["psycopg"], "postgresql+psycopg", "postgresql+psycopg"),
        ("postgres://app@db/shop", ["asyncpg", "psycopg2"], "postgresql+asyncpg", "postgresql+psycopg2"),
        ("postgresql+asyncpg://app@db/shop", ALL, "postgresql+asyncpg", "postgresql+psycopg"),
        ("postgresql+psycopg://app@db/shop", ALL, "postgresql+psycopg", "postgresql+psycopg"),
        ("postgresql+psycopg2://app@db/shop", ALL, "postgresql+asyncpg", "postgresql+psycopg2"),
        ("postgresql+psycopg2://app@db/shop", ["psycopg2", "psycopg"], "postgresql+psycopg", "postgresql+psycopg2"),
        ("postgresql+pg8000://app@db/shop", ALL, "postgresql+asyncpg", "postgresql+pg8000"),
        ("postgres://app@db/shop?pgbouncer=true", ALL, "postgresql+psycopg", "postgresql+psycopg"),
        ("postgres://app@db/shop?pgbouncer=true", ["asyncpg", "psycopg2"], "postgresql+asyncpg", "postgresql+psycopg2"),
        ("postgresql+asyncpg://app@db/shop?pgbouncer=true", ALL, "postgresql+asyncpg", "postgresql+psycopg"),
        ("mysql://app@db/shop", ALL, "mysql+aiomysql", "mysql+pymysql"),
        ("mysql://app@db/shop", ["asyncmy", "MySQLdb"], "mysql+asyncmy", "mysql+mysqldb"),
        ("mysql+pymysql://app@db/shop", ALL, "mysql+aiomysql", "mysql+pymysql"),
        ("mysql+mysqldb://app@db/shop", ALL, "mysql+aiomysql", "mysql+mysqldb"),
        ("mysql+asyncmy://app@db/shop", ALL, "mysql+asyncmy", "mysql+pymysql"),
        ("mysql+aiomysql://app@db/shop", ALL, "mysql+aiomysql", "mysql+pymysql"),
        ("mariadb://app@db/shop", ALL, "mariadb+aiomysql", "mariadb+pymysql"),
        ("sqlite:///a.db", ALL, "sqlite+aiosqlite", "sqlite+pysqlite"),
        ("sqlite+aiosqlite:///a.db", ALL, "sqlite+aiosqlite", "sqlite+pysqlite"),
        ("sqlite+pysqlite:///a.db", ALL, "sqlite+aiosqlite", "sqlite+pysqlite"),
    ],
)
def test_both_sides_get_the_best_driver_there_is(
    url: str, installed: list[str], asynchronous: str, synchronous: str, install: Install
) -> None:
    """A driver that the URL names is kept for its side; the other side gets its twin."""
    install(*installed)

    assert asynchronous == normalise(url, sync=False).url.drivername
    assert synchronous == normalise(url, sync=True).url.drivername


@pytest.mark.parametrize(
    ("url", "installed", "sync", "advice"),
    [
        ("postgres://app@db/shop", ["psycopg2"], False, 'pip install "sessionlocal[postgresql]"'),
        ("postgres://app@db/shop", ["asyncpg"], True, 'pip install "sessionlocal[postgresql]"'),
        ("mysql://app@db/shop", ["pymysql"], False, 'pip install "sessionlocal[mysql]"'),
        ("mariadb://app@db/shop", ["asyncmy"], True, 'pip install "sessionlocal[mysql]"'),
        ("sqlite://", ["sqlite3"], False, "pip install aiosqlite"),
        ("postgresql+asyncpg://app@db/shop", ["psycopg"], False, 'pip install "sessionlocal[asyncpg]"'),
        ("postgresql+psycopg://app@db/shop", ["asyncpg"], True, 'pip install "sessionlocal[psycopg]"'),
        ("postgresql+psycopg2://app@db/shop", ["asyncpg"], True, "pip install psycopg2-binary"),
        ("mysql+asyncmy://app@db/shop", ["pymysql"], False, 'pip install "sessionlocal[asyncmy]"'),
        ("mysql+mysqldb://app@db/shop", ["pymysql"], True, "pip install mysqlclient"),
    ],
)
def test_a_missing_driver_names_what_to_install(
    url: str, installed: list[str], sync: bool, advice: str, install: Install
) -> None:
    """The error is ours and has the command, not an ImportError from inside SQLAlchemy."""
    install(*installed)

    with pytest.raises(ConfigurationError) as caught:
        normalise(url, sync=sync)

    assert advice in str(caught.value)


def test_a_named_driver_must_be_there_at_once(install: Install) -> None:
    """A URL that asks for asyncpg does not start on another driver."""
    install("psycopg")

    with pytest.raises(ConfigurationError, match="asyncpg is not installed"):
        load("postgresql+asyncpg://app@db/shop")


def test_no_driver_at_all_is_an_error_at_once(install: Install) -> None:
    """An application that cannot connect in any way does not start."""
    install()

    with pytest.raises(ConfigurationError, match="no async driver for PostgreSQL is installed"):
        load("postgres://app@db/shop")


def test_the_driver_of_one_side_may_be_missing_until_it_is_used(install: Install) -> None:
    """An application with sync endpoints only needs no async driver, and the other way round."""
    install("asyncpg")
    config = load("postgres://app:hunter22@db/shop")

    assert ("postgresql+asyncpg", "shop") == (config.url.drivername, config.name)
    assert "<Config postgresql://app:***@db/shop drivers=asyncpg begin=first-write>" == repr(config)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no sync driver for PostgreSQL is installed"):
            _ = config.sync_url


@pytest.mark.parametrize(
    ("url", "level"), [("postgresql+psycopg2://app@db/shop", "WARNING"), ("postgres://app@db/shop", "INFO")]
)
def test_a_driver_that_we_cannot_ask_begins_with_the_first_statement(
    url: str, level: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    """psycopg2 serves, with less: a warning where somebody chose it, a note where nothing better is installed."""
    caplog.set_level(logging.INFO)
    install("asyncpg", "psycopg2")

    config = load(url)

    assert ("first-write", "first-statement") == (config.begin, config.sync_begin)
    assert [level] == [record.levelname for record in caplog.records]
    assert "we do not know the driver of postgresql+psycopg2 well" in caplog.text


@pytest.mark.parametrize(
    ("url", "sync", "missing"),
    [
        ("mssql+pyodbc://app:pw@db/shop", False, "serves sync sessions only"),
        ("mssql+aioodbc://app:pw@db/shop", True, "async"),
    ],
)
def test_an_unknown_dialect_serves_the_side_of_its_driver(url: str, sync: bool, missing: str) -> None:
    """Which twin belongs to it is not known here, so the other side is refused rather than guessed."""
    config = load(url)

    assert url.partition(":")[0] == config.target(sync=not sync).url.drivername
    with pytest.raises(ConfigurationError, match=missing):
        config.target(sync=sync)


@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
def test_tls_that_is_required_is_given_to_a_driver_that_insists(mode: str, install: Install) -> None:
    """aiomysql logs in without TLS when a server offers none, so asyncmy serves such a URL."""
    install("aiomysql", "asyncmy", "MySQLdb")

    assert "mysql+asyncmy" == normalise(f"mysql://app@db/shop?ssl-mode={mode}", sync=False).url.drivername
    assert "mysql+aiomysql" == normalise("mysql://app@db/shop?ssl-mode=PREFERRED", sync=False).url.drivername


@pytest.mark.parametrize("url", ["mysql+aiomysql://app@db/shop?ssl_mode=REQUIRED", "mysql://app@db/shop?ssl=true"])
def test_tls_that_is_required_is_refused_without_such_a_driver(url: str, install: Install) -> None:
    """What a driver cannot promise is not promised."""
    install("aiomysql", "MySQLdb")

    with pytest.raises(ConfigurationError, match=r'plain text .* pip install "sessionlocal\[asyncmy\]"'):
        normalise(url, sync=False)
