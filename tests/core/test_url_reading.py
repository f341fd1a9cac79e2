"""What a pasted URL is taken for: made to work, or refused with the reason and the way out."""

from __future__ import annotations

import logging

import pytest
from sqlalchemy import URL, make_url

from sessionlocal.config import mask, normalise
from sessionlocal.errors import ConfigurationError


def read(url: str) -> URL:
    """Return what the async driver gets."""
    return normalise(url, sync=False).url


@pytest.mark.parametrize(
    "url",
    [
        "postgres://app:pw@db:5432/shop",
        "POSTGRES://app:pw@db:5432/shop",
        "pgsql://app:pw@db:5432/shop",
        "postgresql://app:pw@db:5432/shop",
        "postgres+asyncpg://app:pw@db:5432/shop",
        "postgresql+psycopg2://app:pw@db:5432/shop",
    ],
)
def test_every_spelling_of_postgresql_is_understood(url: str) -> None:
    """Hosts, older SQLAlchemy and other languages call it differently."""
    assert make_url("postgresql+asyncpg://app:pw@db:5432/shop") == read(url)


@pytest.mark.parametrize(
    ("url", "drivername"),
    [
        ("mysql2://app@db/shop", "mysql+aiomysql"),
        ("mariadb://app@db/shop", "mariadb+aiomysql"),
        ("sqlite3:///a.db", "sqlite+aiosqlite"),
        ("postgresql+psycopg_async://app@db/shop", "postgresql+psycopg"),
    ],
)
def test_other_schemes_are_understood(url: str, drivername: str) -> None:
    """Rails' mysql2 and a driver's internal name lead to the same database."""
    assert drivername == read(url).drivername


@pytest.mark.parametrize(
    ("pasted", "removed"),
    [
        ("  postgres://app:pw@db/shop\n", "white space"),
        ('"postgres://app:pw@db/shop"', "quotes"),
        ("'postgres://app:pw@db/shop'", "quotes"),
        ("\u201cpostgres://app:pw@db/shop\u201d", "quotes"),
        ("DATABASE_URL=postgres://app:pw@db/shop", "a name"),
        ('export DATABASE_URL="postgres://app:pw@db/shop"', "a name and quotes"),
        ("DATABASE_URL = 'postgres://app:pw@db/shop'\n", "quotes and white space and a name"),
        ("psql 'postgres://app:pw@db/shop'", "the psql command and quotes"),
        ("psql postgres://app:pw@db/shop", "the psql command"),
    ],
)
def test_what_was_pasted_around_a_url_is_ignored_with_a_warning(
    pasted: str, removed: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The application starts, and the setting can be corrected later."""
    assert make_url("postgresql+asyncpg://app:pw@db/shop") == read(pasted)
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert set(removed.split(" and ")) == set(
        record.getMessage().removeprefix("url: ignored ").partition(" around the URL")[0].split(" and ")
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "is empty. For development: DATABASE_URL=sqlite:///./app.db"),
        ("''", "is empty"),
        ("hello", "is not a URL; it must look like postgresql://"),
        ("postgresql:/app@db/shop", "is not a URL; it must look like postgresql://"),
        ("jdbc:postgresql://db:5432/shop?user=app&password=hunter22", "is a JDBC URL; remove 'jdbc:'"),
        ("https://hunter22.supabase.co", "is a web address"),
        ("prisma+postgres://accelerate.prisma-data.net/?api_key=hunter22", "leads to Prisma's own proxy"),
        ("mongodb+srv://app:hunter22@cluster/shop", "is no SQL database"),
        ("redis://:hunter22@cache", "is no SQL database"),
        ("C:\\data\\app.db", "is a path; for a SQLite file write sqlite:///C:/path/app.db"),
        ("/srv/app.db", "is a path; for a SQLite file write sqlite:///./app.db or sqlite:////srv/app.db"),
        ("./app.db", "is a path"),
        ("file:app.db", "is a path"),
        ("sqlite:app.db", "lacks slashes; write sqlite:///./app.db"),
        ("sqlite:/app.db", "lacks slashes"),
        ("sqlite://app.db", "a SQLite URL has no host: after 'sqlite:' come three slashes"),
        ("sqlite://:memory:", "a SQLite URL has no host"),
        ("host=db dbname=shop user=app password=hunter22", "is a list of names and values; write it as a URL"),
        ("Server=db;Database=shop;User Id=app;Password=hunter22", "is a list of names and values"),
        ("psql 'postgres://app:hunter22@db/shop' -c 'select 1'", "contains more than a URL"),
        ("postgres://app:hunter22@db/shop\nSECRET=1", "contains a line break"),
        ("postgres://app:hunter22@\x00db/shop", "contains a line break or control character"),
        ("postgres://app:hunter22@db:port/shop", "still has the placeholder 'host' or 'port'"),
        ("postgres://user:password@host:5432/name", "still has the placeholder 'host' or 'port'"),
        ("postgres://user:password@hostname/name", "still has the placeholder 'host' or 'port'"),
        ("postgres://app:hunter22@db:54x2/shop", "is not a port number"),
        ("postgres://app:hunter22@db:99999/shop", "is not a port number"),
        ("postgres://app:hunter22", "is not a port number. If it belongs to the password"),
        ("postgres://app:hunt@er22@db/shop", "an '@' in the user or the password must be written %40"),
        ("postgres://app:hunt/er22@db/shop", "write '/' as %2F and '?' as %3F in the password"),
        ("postgres://app:hunt?er22@db/shop", "write '/' as %2F and '?' as %3F in the password"),
        ("postgres://db:5432/shop?application_name=a@b", "'@' as %40 if it is after the host"),
        ("postgres://app:hunter22@::1:5432/shop", "IPv6 addresses have brackets"),
        ("postgres://app:<password>@db/shop", "still has a placeholder"),
        ("postgres://app:${DB_PASSWORD}@db/shop", "still has a placeholder"),
        ("postgres://app:$DB_PASSWORD@db/shop", "still has a placeholder"),
        ("postgres://app:{{ password }}@db/shop", "still has a placeholder"),
        ("postgres://app:%(password)s@db/shop", "still has a placeholder"),
        ("postgres://postgres.ref:[YOUR-PASSWORD]@db.supabase.com:6543/postgres", "still has a placeholder"),
        ("postgres://app:your-password@db/shop", "still has a placeholder"),
        ("postgres://your_username:hunter22@db/shop", "still has a placeholder"),
        ("postgres://app:YOUR_DB_PASSWORD@db/shop", "still has a placeholder"),
        ("postgres://app:hunter22@<host>:5432/shop", "still has a placeholder"),
        ("postgres://app:hunter22@db/<database>", "still has a placeholder"),
        ("postgres://app:********@db/shop", "was copied from where its password is masked"),
        ("postgres://app:...@db/shop", "was copied from where its password is masked"),
        ("nosuch://app:hunter22@db/shop", "no SQLAlchemy dialect named 'nosuch' is installed"),
        ("postgrsql://app:hunter22@db/shop", "did you mean 'postgresql'?"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_reason(url: str, reason: str) -> None:
    """The message names the setting and the way out, and quotes nothing that may be a secret."""
    with pytest.raises(ConfigurationError) as caught:
        read(url)

    assert str(caught.value).startswith("url")
    assert reason in str(caught.value)
    assert "hunt" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "password"),
    [
        ("p%40ss%2Fw%3Fo%23r%3Ad", "p@ss/w?o#r:d"),
        ("%24%7BHOME%7D", "${HOME}"),
        ("%2A%2A%2A", "***"),
        ("100%25", "100%"),
        ("a+b c", "a+b c"),
        ("p%C3%A4ss", "päss"),
        ("%5Bnot%5D", "[not]"),
    ],
)
def test_a_percent_encoded_password_is_decoded(written: str, password: str) -> None:
    """Everything can be in a password, and an encoded placeholder is none."""
    assert password == read(f"postgres://app:{written}@db/shop").password


@pytest.mark.parametrize("password", ["hunt#er22", "hunt:er22"])
def test_punctuation_that_only_others_stumble_over_works_with_a_warning(
    password: str, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLAlchemy reads it; a migration tool or psql may not."""
    assert password == read(f"postgres://app:{password}@db/shop").password
    assert "write ':' as %3A and '#' as %23" in caplog.text
    assert "hunt" not in caplog.text


def test_the_credentials_of_a_tutorial_are_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    """user:password may be real in development, and is a mistake elsewhere."""
    assert "password" == read("postgres://user:password@localhost/shop").password
    assert "the user and the password of a tutorial" in caplog.text


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgres://app:pw@[::1]:6432/shop", "::1", 6432),
        ("postgres://app:pw@[2001:db8::1]/shop", "2001:db8::1", None),
        ("postgres:///shop", None, None),
        ("postgres://", None, None),
        ("postgres://db:5432/shop", "db", 5432),
        ("postgres://app@db/shop?application_name=a@b", "db", None),
        ("postgres://db/shop?application_name=a@b", "db", None),
    ],
)
def test_hosts_are_read(url: str, host: str | None, port: int | None) -> None:
    """IPv6 has brackets; a URL without a host leaves it to the driver."""
    assert (host, port) == (read(url).host, read(url).port)


def test_several_hosts_reach_both_drivers() -> None:
    """libpq's commas become what SQLAlchemy reads, the default port filled in."""
    url = "postgres://app:pw@a:5433,b/shop?target_session_attrs=read-write"

    for sync in (False, True):
        found = normalise(url, sync=sync)
        assert ("a:5433", "b:5432") == found.url.query["host"]
        assert "read-write" == found.connect_args["target_session_attrs"]


def test_a_socket_directory_is_passed_through() -> None:
    """host= in the parameters is where libpq looks for a socket."""
    assert {"host": "/var/run/postgresql"} == dict(read("postgres://app@/shop?host=/var/run/postgresql").query)


def test_credentials_in_the_parameters_move_to_where_they_are_masked() -> None:
    """libpq takes user= and password= there; SQLAlchemy would show them in every log line."""
    found = normalise("postgres://db/?user=app&password=hunter22&dbname=shop", sync=True)

    assert make_url("postgresql+psycopg://app:hunter22@db/shop") == found.url
    assert "hunter22" not in str(found)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgres://app:hunter22@db:5432/shop", "postgres://app:***@db:5432/shop"),
        ("postgres://app:hunt%40er22@db/shop?sslmode=require", "postgres://app:***@db/shop?sslmode=require"),
        ("postgres://app@db/shop?password=hunter22", "postgres://app@db/shop?password=***"),
        ("postgres://app@db/shop?sslpassword=hunter22", "postgres://app@db/shop?sslpassword=***"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter22", "mssql+pyodbc:///?odbc_connect=***"),
        ("postgres://app:hunt@er22@db/shop", "***"),
        ("postgres://app:hunter22", "***"),
        ("host=db password=hunter22", "***"),
        ("hunter22", "***"),
        ("", "***"),
        ("sqlite:///app.db", "sqlite:///app.db"),
    ],
)
def test_a_masked_url_shows_no_password(url: str, shown: str) -> None:
    """A URL that can be read is shown without its secrets; of another one nothing is shown."""
    assert shown == mask(url)


def test_a_url_object_is_masked_too() -> None:
    """SQLAlchemy masks the password only; parameters are masked as well."""
    url = URL.create("postgresql", "app", "hunter22", "db", None, "shop", {"password": "hunter22", "sslkey": "a.key"})

    assert "postgresql://app:***@db/shop?password=***&sslkey=a.key" == mask(url)


@pytest.mark.parametrize(
    ("url", "pooler"),
    [
        ("postgres://app:pw@db/shop", None),
        ("postgres://app:pw@db/shop?pgbouncer=true", "transaction"),
        ("postgres://app:pw@ep-a-1-pooler.eu.aws.neon.tech/shop?pgbouncer=false", None),
        ("postgres://app:pw@ep-a-1-pooler.eu.aws.neon.tech/shop", "transaction"),
        ("postgres://app:pw@ep-a-1.eu.aws.neon.tech/shop", None),
        ("postgres://app.ref:pw@aws-0-eu.pooler.supabase.com:6543/postgres", "transaction"),
        ("postgres://app.ref:pw@aws-0-eu.pooler.supabase.com:5432/postgres", None),
    ],
)
def test_a_transaction_pooler_is_recognised(url: str, pooler: str | None) -> None:
    """The URL says so, or its host is known for it."""
    assert pooler == normalise(url, sync=False).pooler
