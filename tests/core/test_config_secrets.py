"""No password survives in anything that is shown: reprs, messages, tracebacks, log records, masked URLs."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from sessionlocal.config import Config, load, mask
from sessionlocal.errors import ConfigurationError

CONTROL = "\u2603\u2604\u2605"  # a password that no message contains by chance
passwords = st.text(min_size=4, max_size=40) | st.text(alphabet="abAB19:/?#@[]{}$%&'\" \n", min_size=4, max_size=40)
schemes = st.sampled_from(
    [
        "postgres",
        "postgresql+asyncpg",
        "postgresql+psycopg2",
        "mysql",
        "mariadb+pymysql",
        "sqlite",
        "nosuch",
        "mssql+pyodbc",
    ]
)
# Where people put a password, rightly and wrongly. Each keeps the password in one piece.
PLACES = [
    "{scheme}://app:{password}@db/shop",
    "{scheme}://app:{password}@db:5432/shop?sslmode=require",
    "{scheme}://:{password}@db/shop",
    "{scheme}://app:{password}@/shop?host=/run/postgresql",
    "{scheme}://app:{password}@a:1,b:2/shop",
    "{scheme}://app:{password}@db:port/shop",
    "{scheme}://app:{password}@<host>/shop",
    "{scheme}://app:{password}",
    "{scheme}:app:{password}@db/shop",
    "{scheme}://app@db/shop?password={password}",
    "{scheme}://app@db/shop?sslpassword={password}&sslmode=require",
    "{scheme}://app:{password}@db/shop?unknown_parameter=1",
    "{scheme}://app:{password}@db/shop?connect_timeout=soon",
    "jdbc:{scheme}://db/shop?user=app&password={password}",
    "DATABASE_URL={scheme}://app:{password}@db/shop",
    "psql '{scheme}://app:{password}@db/shop'",
    ' "{scheme}://app:{password}@db/shop"\n',
    "host=db user=app password={password}",
    "Server=db;Uid=app;Pwd={password};",
    "{password}",
]


@pytest.fixture(scope="module", autouse=True)
def nowhere() -> Iterator[None]:
    """Run in an empty directory; hypothesis runs many examples in one test, so this is done once."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        yield
        os.chdir(before)


@contextlib.contextmanager
def written_to_the_log() -> Iterator[io.StringIO]:
    """Collect what any logger writes, with tracebacks."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield stream
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def everything_shown(url: str | URL, **options: Any) -> str:
    """Return all that a URL makes visible: in the log, in an error with all its causes, or in what came out of it."""
    with written_to_the_log() as stream:
        try:
            shown = "".join(reprs(load(url, **options)))
        except ConfigurationError as error:
            shown = "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__) + str(vars(error))
        logging.getLogger(__name__).info("%s", mask(url))
        return shown + stream.getvalue()


def reprs(config: Config) -> Iterator[str]:
    """Yield what a Config and its parts look like in a log or a debugger."""
    yield repr(config)
    yield f"{config.address} {config.name}"
    for sync in (False, True):
        try:
            target = config.target(sync=sync)
        except ConfigurationError as error:
            yield "".join(traceback.format_exception(error))
        else:
            yield f"{target!r} {target.connect_args!r} {target.engine_options!r}"
            # A dialect that we do not know may need its parameters where they are; ours are safe to show.
            yield str(target.url) if config.dialect in ("postgresql", "mysql", "mariadb", "sqlite") else ""


@settings(deadline=None, max_examples=300)
@given(place=st.sampled_from(PLACES), scheme=schemes, password=passwords, encoded=st.booleans())
@example(PLACES[7], "postgres", "secret", False)
@example(PLACES[5], "postgres", "se@cr:et", False)
def test_no_password_is_shown(place: str, scheme: str, password: str, encoded: bool) -> None:
    """Whatever the password, the place and the mistake, nothing that is shown contains it."""
    written = quote(password, safe="") if encoded else password
    assume(password.strip() == password and written not in place and password not in scheme)
    shown_anyway = everything_shown(place.format(scheme=scheme, password=CONTROL))
    # Where the host was forgotten, a password that reads like a port, or like "@host", cannot be told from one.
    assume(place != PLACES[7] or ("@" not in written and not re.match(r"\d+(?:[/?]|$)", written)))
    assume(password not in shown_anyway and written not in shown_anyway)

    shown = everything_shown(place.format(scheme=scheme, password=written))

    assert password not in shown
    assert written not in shown


@settings(deadline=None, max_examples=100)
@given(password=passwords)
def test_no_password_of_a_url_object_is_shown(password: str) -> None:
    """A URL that was built, with the password in its place or among the parameters, is masked as well."""
    for url in (
        URL.create("postgresql", "app", password, "db", 5432, "shop"),
        URL.create("postgresql", "app", None, "db", 5432, "shop", {"password": password}),
    ):
        control = everything_shown(url.set(password=CONTROL, query={}))
        assume(password not in control)

        assert password not in everything_shown(url)


@settings(deadline=None, max_examples=100)
@given(password=passwords)
def test_no_password_of_connect_args_is_shown(password: str) -> None:
    """Arguments for the driver are named, and their values kept to themselves."""
    url = "postgresql://app@db/shop"
    assume(password not in everything_shown(url, connect_args={"password": CONTROL}))

    assert password not in everything_shown(url, connect_args={"password": password})


def test_engines_show_no_password() -> None:
    """What SQLAlchemy shows of an engine is masked too, since nothing secret is left among the parameters."""
    config = load("postgresql://app:hunter22@db/shop?sslmode=require&sslpassword=hunter22")
    sync = create_engine(config.sync_url, connect_args=config.sync_connect_args, **config.sync_engine_options)
    asynchronous = create_async_engine(config.url, connect_args=config.async_connect_args, **config.engine_options)

    assert "hunter22" not in f"{sync!r} {sync.url} {asynchronous!r} {asynchronous.url}"


def test_echo_hides_parameters(caplog: pytest.LogCaptureFixture) -> None:
    """echo=True prints the SQL; the values stay out of the log."""
    config = load("sqlite://", echo=True)
    engine = create_engine(config.sync_url, connect_args=config.sync_connect_args, **config.sync_engine_options)

    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT ?", ("hunter22",))
    engine.dispose()

    assert "SELECT ?" in caplog.text
    assert "hunter22" not in caplog.text
