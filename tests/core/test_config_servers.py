"""What real servers say about connections that were opened with our arguments."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from sessionlocal.config import load
from tests.support.backends import Backend

Row = Sequence[Any]


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory, without libpq's variable."""
    monkeypatch.delenv("PGOPTIONS", raising=False)
    monkeypatch.chdir(tmp_path)


def ask(backend: Backend, *statements: str, url: str | URL = "", **options: Any) -> list[Row]:
    """Run statements on one new connection of the backend's driver; return the rows of the last."""
    config = load(url or backend.url, **options)
    return asyncio.run(_ask_async(config, statements)) if backend.is_async else _ask_sync(config, statements)


async def _ask_async(config: Any, statements: Sequence[str]) -> list[Row]:
    engine = create_async_engine(config.url, connect_args=config.async_connect_args, **config.engine_options)
    try:
        async with engine.connect() as connection:
            results = [await connection.execute(text(statement)) for statement in statements]
            return [tuple(row) for row in results[-1]]
    finally:
        await engine.dispose()


def _ask_sync(config: Any, statements: Sequence[str]) -> list[Row]:
    engine = create_engine(config.sync_url, connect_args=config.sync_connect_args, **config.sync_engine_options)
    try:
        with engine.connect() as connection:
            results = [connection.execute(text(statement)) for statement in statements]
            return [tuple(row) for row in results[-1]]
    finally:
        engine.dispose()


POSTGRESQL_LIMITS = """
    SELECT current_setting('statement_timeout'), current_setting('lock_timeout'),
           current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')
"""


def test_postgresql_is_told_our_limits(postgresql_backend: Backend) -> None:
    """Each driver's start-up packet sets the time limits and names the application."""
    assert [("30s", "10s", "1min", "sessionlocal")] == ask(postgresql_backend, POSTGRESQL_LIMITS)


def test_postgresql_is_told_the_user_s_limits(postgresql_backend: Backend) -> None:
    """Options of ours, parameters of the URL and settings of the role: each is what the server reports."""
    url = make_url(postgresql_backend.url).update_query_dict(
        {"options": "-c lock_timeout=1234 -c search_path=a,\\ b", "application_name": "a b"}
    )
    rows = ask(
        postgresql_backend,
        "SELECT current_setting('statement_timeout'), current_setting('lock_timeout'), "
        "current_setting('search_path'), current_setting('application_name')",
        url=url,
        statement_timeout=1.5,
    )

    assert [("1500ms", "1234ms", "a, b", "a b")] == rows


def test_none_leaves_postgresql_s_limits_to_the_role(postgresql_backend: Backend) -> None:
    """The packet would beat ALTER ROLE ... SET; with None nothing is sent, and 0 lifts what the role has."""
    limits: Mapping[str, Any] = {"statement_timeout": None, "lock_timeout": 0, "idle_in_transaction_timeout": None}

    rows = ask(
        postgresql_backend,
        "SELECT name, source FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout') ORDER BY name",
        **limits,
    )

    assert {"lock_timeout": True, "statement_timeout": False} == {name: source == "client" for name, source in rows}


def test_postgresql_ends_a_slow_statement(postgresql_backend: Backend) -> None:
    """The limit is the server's: the statement ends there, with the server's own error."""
    with pytest.raises(DBAPIError) as caught:
        ask(postgresql_backend, "SELECT pg_sleep(60)", statement_timeout=0.05)

    assert "57014" == getattr(caught.value.orig, "sqlstate", None)


def test_nothing_is_set_behind_a_transaction_pooler(postgresql_backend: Backend) -> None:
    """The application is named; what would outlive a transaction is left alone."""
    rows = ask(
        postgresql_backend,
        "SELECT count(*) FILTER (WHERE source = 'client'), current_setting('application_name') FROM pg_settings "
        "WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout')",
        pooler="transaction",
    )

    assert [(0, "sessionlocal")] == rows


def test_behind_a_transaction_pooler_no_statement_stays_prepared_under_a_shared_name(
    postgresql_backend: Backend,
) -> None:
    """psycopg prepares nothing, and asyncpg's names are drawn anew for each statement."""
    names = [
        name
        for _ in range(2)
        for (name,) in ask(
            postgresql_backend,
            *["SELECT 1"] * 7,
            "SELECT name FROM pg_prepared_statements",
            pooler="transaction",
        )
    ]

    assert len(names) == len(set(names))
    assert all(name.startswith("__sessionlocal_") for name in names)


def test_postgresql_is_reached_through_the_second_of_two_hosts(postgresql_backend: Backend) -> None:
    """A URL with several hosts finds the one that answers."""
    url = make_url(postgresql_backend.url)
    several = url.render_as_string(hide_password=False).replace(
        f"{url.host}:{url.port}", f"{url.host}:1,{url.host}:{url.port}"
    )

    assert [(1,)] == ask(postgresql_backend, "SELECT 1", url=f"{several}?target_session_attrs=read-write")


def test_asyncpg_and_psycopg_take_the_same_ssl_words(postgresql_backend: Backend) -> None:
    """What a host's dashboard shows connects with either driver; prefer needs no certificate on the server."""
    query = "sslmode=prefer&channel_binding=prefer&gssencmode=prefer&sslcompression=0&connect_timeout=5"

    assert [(1,)] == ask(postgresql_backend, "SELECT 1", url=f"{postgresql_backend.url}?{query}")


@pytest.mark.backends("mariadb")
def test_mariadb_is_told_our_limits(mysql_backend: Backend) -> None:
    """One init command sets them under MariaDB's names, with each driver, in autocommit and utf8mb4."""
    rows = ask(
        mysql_backend,
        "SELECT @@max_statement_time, @@innodb_lock_wait_timeout, @@idle_transaction_timeout, "
        "@@autocommit, @@character_set_connection, @@sql_mode LIKE '%STRICT_TRANS_TABLES%'",
    )

    assert [(30.0, 10, 60, 1, "utf8mb4", 1)] == rows


@pytest.mark.backends("mariadb")
def test_mariadb_is_told_the_user_s_limits(mysql_backend: Backend) -> None:
    """None leaves a limit to the server; fractions of a second are kept where the server keeps them."""
    rows = ask(
        mysql_backend,
        "SELECT @@max_statement_time, @@innodb_lock_wait_timeout, "
        "@@idle_transaction_timeout = @@global.idle_transaction_timeout",
        statement_timeout=1.5,
        lock_timeout=2.5,
        idle_in_transaction_timeout=None,
    )

    assert [(1.5, 3, 1)] == rows


@pytest.mark.backends("mysql-aiomysql", "mysql-asyncmy", "mysql-pymysql")
def test_mysql_is_told_our_limits(mysql_backend: Backend) -> None:
    """The same init command sets them under MySQL's names."""
    rows = ask(
        mysql_backend,
        "SELECT @@max_execution_time, @@innodb_lock_wait_timeout, @@autocommit, @@character_set_connection, "
        "@@sql_mode LIKE '%STRICT_TRANS_TABLES%'",
    )

    assert [(30000, 10, 1, "utf8mb4", 1)] == rows


@pytest.mark.backends("mariadb")
def test_strict_mode_refuses_what_does_not_fit(mysql_backend: Backend) -> None:
    """A text too long is an error and not a shorter text, also on a server that was made lenient."""
    with pytest.raises(DBAPIError) as caught:
        ask(
            mysql_backend,
            "CREATE TEMPORARY TABLE strict (name VARCHAR(3))",
            "INSERT INTO strict VALUES ('abcd')",
            "SELECT name FROM strict",
        )

    assert 1406 == caught.value.orig.args[0]  # type: ignore[union-attr]


@pytest.mark.backends("mariadb")
def test_mariadb_ends_a_slow_statement(mysql_backend: Backend) -> None:
    """The limit is the server's: the statement ends there, with the server's own error."""
    with pytest.raises(DBAPIError) as caught:
        ask(mysql_backend, "SELECT COUNT(*) FROM seq_1_to_1000000 a, seq_1_to_1000000 b", statement_timeout=0.05)

    assert 1969 == caught.value.orig.args[0]  # type: ignore[union-attr]


def test_sqlite_waits_for_locks(sqlite_backend: Backend) -> None:
    """The busy timeout that SQLite reports is the lock timeout."""
    assert [(2500,)] == ask(sqlite_backend, "PRAGMA busy_timeout", lock_timeout=2.5)


def test_a_read_only_file_is_opened_read_only(sqlite_backend: Backend) -> None:
    """mode=ro takes effect without uri=true being said."""
    ask(sqlite_backend, "CREATE TABLE item (id INTEGER)", "SELECT 1")

    with pytest.raises(DBAPIError, match="readonly database"):
        ask(sqlite_backend, "INSERT INTO item VALUES (1)", "SELECT 1", url=f"{sqlite_backend.url}?mode=ro")


@pytest.mark.backends("mariadb")
def test_a_password_with_punctuation_logs_in(mysql_backend: Backend) -> None:
    """A percent-encoded password is decoded once, whatever is in it."""
    user, password = f"u{secrets.token_hex(4)}", "p@ss/w?o#r:d%41 +"
    url = make_url(mysql_backend.url).set(username=user, password=password)
    ask(mysql_backend, f"CREATE USER {user} IDENTIFIED BY '{password.replace(':', chr(92) + ':')}'", "SELECT 1")
    try:
        ask(mysql_backend, f"GRANT ALL ON {url.database}.* TO {user}", "SELECT 1")

        rows = ask(mysql_backend, "SELECT CURRENT_USER()", url=url.render_as_string(hide_password=False))
    finally:
        ask(mysql_backend, f"DROP USER {user}", "SELECT 1")

    assert [(f"{user}@%",)] == rows
