"""The parameters of a URL in the words of each driver."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest

from sessionlocal.config import normalise
from sessionlocal.errors import ConfigurationError

POSTGRESQL = "postgresql+asyncpg://app@db/shop"


@pytest.fixture(autouse=True)
def no_pgoptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave libpq's variable out."""
    monkeypatch.delenv("PGOPTIONS", raising=False)


def both(query: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what asyncpg and psycopg get for the same parameters."""
    url = f"{POSTGRESQL}?{query}"
    return normalise(url, sync=False).connect_args, normalise(url, sync=True).connect_args


@pytest.mark.parametrize(
    ("query", "asyncpg", "psycopg"),
    [
        ("", {}, {}),
        ("sslmode=require", {"ssl": "require"}, {"sslmode": "require"}),
        ("sslmode=no-verify", {"ssl": "require"}, {"sslmode": "require"}),
        ("sslmode=verify_full", {"ssl": "verify-full"}, {"sslmode": "verify-full"}),
        ("ssl=require", {"ssl": "require"}, {"sslmode": "require"}),
        ("ssl=true", {"ssl": "require"}, {"sslmode": "require"}),
        ("ssl=false", {"ssl": "disable"}, {"sslmode": "disable"}),
        ("channel_binding=prefer", {}, {"channel_binding": "prefer"}),
        ("connect_timeout=5", {"timeout": 5.0}, {"connect_timeout": 5}),
        ("connect_timeout=0", {"timeout": None}, {"connect_timeout": 0}),
        ("timeout=2.5", {"timeout": 2.5}, {"connect_timeout": 3}),
        ("application_name=a%20b", {"server_settings": {"application_name": "a b"}}, {"application_name": "a b"}),
        ("fallback_application_name=a", {"server_settings": {"application_name": "a"}}, {"application_name": "a"}),
        ("options=-c%20geqo%3Doff", {"server_settings": {"geqo": "off"}}, {"options": "-c geqo=off"}),
        ("options=endpoint%3Dep-1", {"server_settings": {"options": "endpoint=ep-1"}}, {"options": "endpoint=ep-1"}),
        ("target_session_attrs=any", {"target_session_attrs": "any"}, {"target_session_attrs": "any"}),
        ("statement_cache_size=0", {"statement_cache_size": 0}, {"prepare_threshold": None}),
        ("prepared_statement_cache_size=0", {"prepared_statement_cache_size": 0}, {"prepare_threshold": None}),
        ("prepare_threshold=3", {}, {"prepare_threshold": 3}),
        ("command_timeout=9", {"command_timeout": 9.0}, {}),
        ("keepalives_idle=30", {}, {"keepalives_idle": "30"}),
        ("gssencmode=disable&sslcompression=0", {}, {"gssencmode": "disable", "sslcompression": "0"}),
        ("supa=base-pooler.x", {}, {}),
    ],
)
def test_postgresql_parameters_are_translated(query: str, asyncpg: dict[str, Any], psycopg: dict[str, Any]) -> None:
    """One URL means the same to asyncpg and to psycopg, whichever of them it was written for."""
    assert (asyncpg, psycopg) == both(query)


def test_pgbouncer_is_no_parameter_of_a_driver() -> None:
    """pgbouncer=true turns the statement caches off and is not passed on."""
    asyncpg, psycopg = both("pgbouncer=true")

    assert (0, 0) == (asyncpg["statement_cache_size"], asyncpg["prepared_statement_cache_size"])
    assert {"prepare_threshold": None} == psycopg


def test_certificates_reach_asyncpg_in_a_dsn(tmp_path: Path) -> None:
    """asyncpg builds its SSLContext as libpq would, from files that it takes in a DSN only."""
    files = {name: tmp_path / f"{name}.pem" for name in ("sslrootcert", "sslcert", "sslkey")}
    for path in files.values():
        path.touch()
    query = "&".join(f"{name}={quote(str(path), safe='')}" for name, path in files.items())

    asyncpg, psycopg = both(f"sslmode=verify-full&{query}")

    expected = {"sslmode": "verify-full", **{name: str(path) for name, path in files.items()}}
    assert expected == psycopg
    assert expected == {key: value for key, [value] in parse_qs(urlsplit(asyncpg["dsn"]).query).items()}


def test_the_system_s_authorities_need_no_file() -> None:
    """sslrootcert=system is libpq's; for asyncpg it is a context that verifies certificate and host."""
    asyncpg, psycopg = both("sslmode=verify-full&sslrootcert=system")

    assert {"sslmode": "verify-full", "sslrootcert": "system"} == psycopg
    assert (ssl.CERT_REQUIRED, True) == (asyncpg["ssl"].verify_mode, asyncpg["ssl"].check_hostname)


def test_channel_binding_that_asyncpg_lacks_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    """Neon's URLs ask for it; asyncpg connects without, and the log says what that means."""
    caplog.set_level(logging.INFO)

    asyncpg, psycopg = both("sslmode=require&channel_binding=require")

    assert ({"ssl": "require"}, "require") == (asyncpg, psycopg["channel_binding"])
    assert "asyncpg has no channel binding" in caplog.text


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sslmode=sometimes", "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslrootcert=/nowhere/root.crt", "sslrootcert names /nowhere/root.crt, which is not a file"),
        ("sslmode=require&sslrootcert=system", "sslrootcert=system goes with sslmode=verify-full only"),
        ("connect_timeout=soon", "connect_timeout must be a number"),
        ("statement_cache_size=few", "statement_cache_size must be a number"),
        ("pgbouncer=maybe", "pgbouncer must be true or false"),
        ("requirepeer=postgres", "asyncpg has no 'requirepeer'; remove it, or write postgresql+psycopg://"),
        ("gssencmode=require", "asyncpg has no 'gssencmode'"),
        ("replication=database", "asyncpg has no 'replication'"),
        ("sslmod=require", "unknown parameter 'sslmod': did you mean 'sslmode'?"),
        ("jit=off", "unknown parameter 'jit'; if it is a setting of the server, write options=-cjit%3Dvalue"),
        ("search_path=tenant", "'search_path' is a setting of the server; write options=-csearch_path%3Dname"),
        ("statement_timeout=5000", "use statement_timeout= or DATABASE_STATEMENT_TIMEOUT, in seconds"),
        ("schema=public", "'schema' belongs to Prisma"),
        ("connection_limit=1", "'connection_limit' belongs to Prisma; remove it and use pool_size="),
        ("currentSchema=a", "'currentSchema' belongs to JDBC"),
    ],
)
def test_what_asyncpg_would_choke_on_is_refused_by_name(query: str, reason: str) -> None:
    """The error comes before the first connection, names the parameter and says what to write."""
    with pytest.raises(ConfigurationError) as caught:
        both(query)

    assert reason in str(caught.value)


@pytest.mark.parametrize("query", ["requirepeer=postgres", "gssencmode=require", "replication=database"])
def test_what_only_libpq_knows_is_passed_to_it(query: str) -> None:
    """psycopg gets libpq's parameters as they are."""
    assert dict([query.split("=")]) == normalise(f"postgresql+psycopg://app@db/shop?{query}", sync=False).connect_args


@pytest.mark.parametrize(
    ("query", "verify_mode", "check_hostname"),
    [
        ("ssl-mode=PREFERRED", ssl.CERT_NONE, False),
        ("ssl-mode=REQUIRED", ssl.CERT_NONE, False),
        ("ssl_mode=VERIFY_CA", ssl.CERT_REQUIRED, False),
        ("ssl_mode=VERIFY_IDENTITY", ssl.CERT_REQUIRED, True),
        ("sslmode=require", ssl.CERT_NONE, False),
        ("ssl=true", ssl.CERT_NONE, False),
        ('ssl={"rejectUnauthorized":true}', ssl.CERT_REQUIRED, True),
        ("sslaccept=strict", ssl.CERT_REQUIRED, True),
        ("ssl_verify_cert=true", ssl.CERT_REQUIRED, False),
        ("ssl_verify_cert=true&ssl_verify_identity=true", ssl.CERT_REQUIRED, True),
        ("ssl_check_hostname=true", ssl.CERT_REQUIRED, True),
    ],
)
def test_mysql_gets_one_ssl_context(query: str, verify_mode: ssl.VerifyMode, check_hostname: bool) -> None:
    """The spellings of hosts and drivers become the only thing that every driver understands."""
    args = normalise(f"mysql+asyncmy://app@db/shop?{query}", sync=False).connect_args
    context = args.pop("ssl")

    assert {} == args
    assert (verify_mode, check_hostname) == (context.verify_mode, context.check_hostname)


@pytest.mark.parametrize("query", ["", "ssl-mode=DISABLED", "ssl=false", "ssl_disabled=true"])
def test_mysql_without_tls_gets_no_context(query: str) -> None:
    """No word, or a no, leaves the driver to itself."""
    assert {} == normalise(f"mysql+asyncmy://app@db/shop?{query}", sync=False).connect_args


def test_mysql_parameters_are_typed() -> None:
    """Text from a URL becomes what the driver takes; what it has no name for stays with its twin."""
    url = "mysql+aiomysql://app@db/shop?charset=latin1&read_timeout=7&local_infile=1&unix_socket=/run/mysqld.sock"
    common = {"charset": "latin1", "local_infile": True, "unix_socket": "/run/mysqld.sock"}

    assert common == normalise(url, sync=False).connect_args
    assert {**common, "read_timeout": 7} == normalise(url, sync=True).connect_args


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("charst=utf8mb4", "unknown parameter 'charst': did you mean 'charset'?"),
        ("connect_timeout=soon", "connect_timeout must be a number"),
        ("local_infile=maybe", "local_infile must be true or false"),
        ("ssl_mode=SOMETIMES", "ssl_mode must be one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY"),
        ("ssl_ca=/nowhere/ca.pem", "ssl_ca names /nowhere/ca.pem, which is not a file"),
    ],
)
def test_wrong_mysql_parameters_are_refused_by_name(query: str, reason: str) -> None:
    """The error comes before the first connection."""
    with pytest.raises(ConfigurationError) as caught:
        normalise(f"mysql+asyncmy://app@db/shop?{query}", sync=False)

    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("url", "database", "query", "args"),
    [
        ("sqlite:///a.db", "a.db", {}, {}),
        ("sqlite:///a.db?timeout=7", "a.db", {}, {"timeout": 7.0}),
        ("sqlite:///a.db?check_same_thread=false", "a.db", {"check_same_thread": "false"}, {}),
        ("sqlite:///a.db?mode=ro", "file:a.db", {"mode": "ro", "uri": "true"}, {}),
        ("sqlite:///a%23b.db?mode=ro", "file:a%23b.db", {"mode": "ro", "uri": "true"}, {}),
        ("sqlite:///file:a.db?mode=ro&uri=true", "file:a.db", {"mode": "ro", "uri": "true"}, {}),
        ("sqlite:////srv/me@home/a.db", "/srv/me@home/a.db", {}, {}),
        ("sqlite:///C:/data/a.db", "C:/data/a.db", {}, {}),
        ("sqlite://", None, {}, {}),
    ],
)
def test_sqlite_urls_are_read(url: str, database: str | None, query: dict[str, str], args: dict[str, Any]) -> None:
    """A parameter of SQLite's own URIs takes effect, which without uri=true it would not."""
    found = normalise(url, sync=False)

    assert (database, query, args) == (found.url.database, dict(found.url.query), found.connect_args)


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("isolation_level=IMMEDIATE", "isolation_level makes the driver begin transactions by itself"),
        ("journal_mode=WAL", "unknown parameter 'journal_mode'"),
        ("foreign_keys=on", "a PRAGMA is run in a listener for SQLAlchemy's 'connect' event"),
        ("timeot=3", "unknown parameter 'timeot': did you mean 'timeout'?"),
        ("timeout=soon", "timeout must be a number"),
    ],
)
def test_wrong_sqlite_parameters_are_refused_by_name(query: str, reason: str) -> None:
    """SQLAlchemy would ignore them."""
    with pytest.raises(ConfigurationError) as caught:
        normalise(f"sqlite:///a.db?{query}", sync=False)

    assert reason in str(caught.value)
