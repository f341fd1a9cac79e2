"""The defaults that each database and driver gets, and what the user's own words change."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from sessionlocal.config import SQLITE_PRAGMAS, load, sqlite_pragmas
from sessionlocal.errors import ConfigurationError


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty directory, without libpq's variables."""
    monkeypatch.delenv("PGOPTIONS", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("url", ["postgresql://app@db/shop", "mysql://app@db/shop", "mariadb://app@db/shop"])
def test_a_server_gets_ten_connections_and_no_overflow(url: str) -> None:
    """A burst waits for a connection instead of opening one; values stay out of the logs; connections are renewed."""
    expected = {"pool_size": 10, "max_overflow": 0, "pool_timeout": 10.0, "pool_recycle": 1800, "hide_parameters": True}

    config = load(url)

    assert expected == dict(config.engine_options)
    assert expected == dict(config.sync_engine_options)


def test_sqlite_gets_five_connections_that_are_never_renewed() -> None:
    """A file has no network and no idle timeout."""
    expected = {"pool_size": 5, "max_overflow": 0, "pool_timeout": 10.0, "pool_recycle": -1, "hide_parameters": True}

    assert expected == dict(load("sqlite:///a.db").engine_options)


def test_asyncpg_gets_the_limits_in_the_start_up_packet() -> None:
    """server_settings are sent while connecting, so no statement is needed for them."""
    args = load("postgresql+asyncpg://app@db/shop").async_connect_args

    assert {
        "timeout": 10.0,
        "server_settings": {
            "statement_timeout": "30000",
            "lock_timeout": "10000",
            "idle_in_transaction_session_timeout": "60000",
            "application_name": "sessionlocal",
        },
    } == dict(args)


@pytest.mark.parametrize("sync", [False, True])
def test_psycopg_gets_the_limits_in_the_start_up_packet(sync: bool) -> None:
    """options= is sent while connecting, by the sync driver as by the async one."""
    args = load("postgresql+psycopg://app@db/shop").target(sync=sync).connect_args

    assert {
        "connect_timeout": 10,
        "application_name": "sessionlocal",
        "options": "-c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000",
    } == dict(args)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, None), (0, "0"), (0.25, "250"), (0.0001, "1"), (90, "90000")],
)
def test_none_leaves_a_limit_to_the_server_and_zero_lifts_it(limit: float | None, expected: str | None) -> None:
    """None sends nothing, so that ALTER ROLE ... SET counts; no limit is rounded down to none."""
    args = load("postgresql+asyncpg://app@db/shop", statement_timeout=limit).async_connect_args

    assert expected == args["server_settings"].get("statement_timeout")


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("?options=-c%20statement_timeout%3D1s", {}, "1s"),
        ("?options=-cstatement_timeout%3D1s%20-c%20geqo%3Doff", {}, "1s"),
        ("?options=--statement-timeout%3D1s", {}, "1s"),
        ("", {"connect_args": {"server_settings": {"statement_timeout": "1s"}}}, "1s"),
        ("", {"connect_args": {"options": "-c statement_timeout=1s"}}, "1s"),
    ],
)
def test_what_the_user_says_about_the_server_beats_our_limits(url: str, options: dict[str, Any], expected: str) -> None:
    """In whichever driver's words it is said, both engines are told the same."""
    config = load(f"postgresql+asyncpg://app@db/shop{url}", **options)

    assert expected == config.async_connect_args["server_settings"]["statement_timeout"]
    assert f"-c statement_timeout={expected}" in config.sync_connect_args["options"]
    assert "30000" not in config.sync_connect_args["options"]


def test_pgoptions_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """libpq ignores PGOPTIONS when options= is passed, as we do; so what it says is added, for both drivers."""
    monkeypatch.setenv("PGOPTIONS", "-c search_path=tenant,public")

    config = load("postgresql://app@db/shop")

    assert "tenant,public" == config.async_connect_args["server_settings"]["search_path"]
    assert "-c search_path=tenant,public" in config.sync_connect_args["options"]


def test_a_space_in_a_server_setting_is_escaped_for_libpq() -> None:
    """A value keeps its spaces and backslashes on the way through options=."""
    config = load("postgresql://app@db/shop", connect_args={"server_settings": {"search_path": 'a, "b\\c"'}})

    assert '-c search_path=a,\\ "b\\\\c"' in config.sync_connect_args["options"]


def test_behind_a_transaction_pooler_nothing_lasts_longer_than_a_transaction() -> None:
    """No limits in the start-up packet, no statement cache, and statements under names that nobody else has."""
    config = load("postgresql+asyncpg://app@db/shop", pooler="transaction")
    args = dict(config.async_connect_args)
    name = args.pop("prepared_statement_name_func")

    assert {
        "timeout": 10.0,
        "server_settings": {"application_name": "sessionlocal"},
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
    } == args
    assert name() != name()
    assert {"connect_timeout": 10, "application_name": "sessionlocal", "prepare_threshold": None} == dict(
        config.sync_connect_args
    )


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("postgresql+asyncpg://app@db/shop", {}, ("first-write", "first-write")),
        ("postgresql+asyncpg://app@db/shop", {"pooler": "transaction"}, ("first-statement", "first-write")),
        (
            "postgresql+asyncpg://app@db/shop",
            {"pooler": "transaction", "begin": "first-write"},
            ("first-write", "first-write"),
        ),
        ("postgresql+psycopg://app@db/shop", {"pooler": "transaction"}, ("first-write", "first-write")),
        ("postgresql://app@db/shop", {"begin": "first-statement"}, ("first-statement", "first-statement")),
    ],
)
def test_what_begins_a_transaction(url: str, options: dict[str, Any], expected: tuple[str, str]) -> None:
    """asyncpg needs a transaction to keep a pooler's server connection between preparing a statement and running it."""
    config = load(url, **options)

    assert expected == (config.begin, config.sync_begin)


@pytest.mark.parametrize("unset", [{"pooler": None}, {}])
def test_a_pooler_that_the_url_gives_away_can_be_denied(unset: dict[str, Any]) -> None:
    """pooler=None is an answer, not the lack of one."""
    config = load("postgresql://app:pw@ep-a-1-pooler.eu.aws.neon.tech/shop", **unset)

    assert (None if unset else "transaction") == config.pooler


def test_limits_that_a_pooler_swallows_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who asks for a limit learns that it is not set, and where to set it."""
    load("postgresql://app@db/shop", pooler="transaction", lock_timeout=3)

    assert ["lock_timeout: not set behind a transaction pooler; use ALTER ROLE ... SET"] == [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]


@pytest.mark.parametrize("driver", ["aiomysql", "asyncmy"])
def test_mysql_gets_one_init_command(driver: str) -> None:
    """One statement sets the limits under the names of both servers, and strict mode beside what the server has."""
    config = load(f"mysql+{driver}://app@db/shop")
    expected = {
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": 10,
        "program_name": "sessionlocal",
        "init_command": (
            "SET SESSION /*M!100300 idle_transaction_timeout=60, */ /*M!100101 max_statement_time=30.000, */ "
            "/*!50708 max_execution_time=30000, */ innodb_lock_wait_timeout=10, "
            "sql_mode=CONCAT_WS(',', NULLIF(@@sql_mode, ''), 'STRICT_TRANS_TABLES'), @sessionlocal=1"
        ),
    }

    assert expected == dict(config.async_connect_args)
    assert expected == dict(config.sync_connect_args)


def test_mysql_is_sent_nothing_where_nothing_is_wanted() -> None:
    """Without limits and with a sql_mode of the user's own there is no init command."""
    config = load(
        "mysql://app@db/shop?sql_mode=ANSI", statement_timeout=None, lock_timeout=None, idle_in_transaction_timeout=None
    )

    assert "init_command" not in config.async_connect_args


def test_no_limit_is_the_longest_wait_where_zero_means_something_else() -> None:
    """MariaDB takes a lock wait of 0 as "do not wait", and PyMySQL refuses a connect timeout of 0."""
    args = load("mysql://app@db/shop", lock_timeout=0, connect_timeout=0).async_connect_args

    assert "innodb_lock_wait_timeout=1073741824," in args["init_command"]
    assert 31_536_000 == args["connect_timeout"]


def test_an_init_command_of_the_user_replaces_ours(caplog: pytest.LogCaptureFixture) -> None:
    """Two commands cannot be sent as one, so ours gives way and a warning says what is lost."""
    config = load("mysql://app@db/shop", connect_args={"init_command": "SET @a = 1"})

    assert "SET @a = 1" == config.async_connect_args["init_command"]
    assert "no time limits and no strict mode" in caplog.text


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("sqlite:///a.db", {}, 10.0),
        ("sqlite:///a.db", {"lock_timeout": 2.5}, 2.5),
        ("sqlite:///a.db?timeout=7", {}, 7.0),
        ("sqlite:///a.db", {"connect_args": {"timeout": 8}}, 8),
        ("sqlite:///a.db", {"lock_timeout": 0}, 2_000_000.0),
        ("sqlite:///a.db", {"lock_timeout": None}, None),
    ],
)
def test_sqlite_waits_for_a_lock_as_long_as_lock_timeout(
    url: str, options: dict[str, Any], expected: float | None
) -> None:
    """The busy timeout is the lock timeout of SQLite, and nothing else is passed to its driver."""
    config = load(url, **options)

    assert ({} if expected is None else {"timeout": expected}) == dict(config.async_connect_args)
    assert config.async_connect_args == config.sync_connect_args


def test_sqlite_cannot_end_a_statement_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The default is silently absent; a limit that somebody asked for is not."""
    load("sqlite:///a.db")
    assert [] == caplog.records

    load("sqlite:///a.db", statement_timeout=3)
    assert "statement_timeout is ignored" in caplog.text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///a.db", dict(SQLITE_PRAGMAS)),
        ("sqlite://", {"foreign_keys": "ON"}),
        ("sqlite:///:memory:", {"foreign_keys": "ON"}),
        ("sqlite:///file:a?mode=memory&uri=true", {"foreign_keys": "ON"}),
        ("sqlite:///file:a.db?mode=ro&uri=true", {"synchronous": "NORMAL", "foreign_keys": "ON"}),
    ],
)
def test_pragmas_fit_the_kind_of_database(url: str, expected: dict[str, str]) -> None:
    """Memory has no journal, and a file that is only read cannot be given one."""
    assert expected == sqlite_pragmas(make_url(url))


def test_connect_args_serve_both_drivers_in_their_own_words() -> None:
    """asyncpg's words are translated for psycopg; what has no translation stays with its driver."""
    config = load(
        "postgresql+asyncpg://app@db/shop",
        connect_args={"ssl": "verify-full", "timeout": 3, "command_timeout": 9, "statement_cache_size": 0},
    )

    assert ("verify-full", 3.0, 9.0) == tuple(
        config.async_connect_args[n] for n in ("ssl", "timeout", "command_timeout")
    )
    assert ("verify-full", 3, None) == tuple(
        config.sync_connect_args[name] for name in ("sslmode", "connect_timeout", "prepare_threshold")
    )
    assert set() == {"command_timeout", "statement_cache_size", "ssl", "timeout"} & config.sync_connect_args.keys()


def test_each_driver_may_have_connect_args_of_its_own() -> None:
    """sync_connect_args replaces connect_args for the sync driver."""
    config = load(
        "postgresql://app@db/shop", connect_args={"command_timeout": 9}, sync_connect_args={"keepalives_idle": 5}
    )

    assert ("command_timeout" in config.sync_connect_args, 5) == (False, config.sync_connect_args["keepalives_idle"])
    assert "keepalives_idle" not in config.async_connect_args


def test_what_the_other_driver_cannot_do_is_an_error_when_it_is_used() -> None:
    """An SSLContext is for asyncpg; an application without sync sessions never hears of psycopg."""
    context = ssl.create_default_context()

    config = load("postgresql://app@db/shop", connect_args={"ssl": context})

    assert context is config.async_connect_args["ssl"]
    with pytest.raises(ConfigurationError, match="only asyncpg takes an SSLContext; pass sync_connect_args="):
        _ = config.sync_connect_args


@pytest.mark.parametrize("url", ["mssql+pyodbc://app:pw@db/shop", "oracle+oracledb://app:pw@db/shop"])
def test_an_unknown_database_begins_with_the_first_statement(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What it loses is said once, when it is configured; its URL and driver are left as they are."""
    config = load(url, begin="first-write")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]

    assert "first-statement" == config.sync_begin
    assert url.partition(":")[0] == config.sync_url.drivername
    assert {} == dict(config.sync_connect_args)
    assert all("a transaction begins with the first statement" in warning for warning in warnings)
    assert warnings
