"""The proxy counts round trips exactly, and breaks the network when asked to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import asyncpg
import psycopg
import pymysql
import pytest
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.backends import Backend
from tests.support.observer import Observer
from tests.support.proxy import Proxy

DELAY = 0.02  # seconds, each way: long enough that anything not waited for would be seen too early
DELAYS = pytest.mark.parametrize("delay", [0.0, DELAY], ids=["direct", "delayed"])


def psycopg_arguments(url: str) -> dict[str, Any]:
    """Return the arguments of ``psycopg.connect``."""
    parsed = make_url(url)
    return {
        "host": parsed.host,
        "port": parsed.port,
        "user": parsed.username,
        "password": parsed.password,
        "dbname": parsed.database,
    }


def pymysql_arguments(url: str) -> dict[str, Any]:
    """Return the arguments of ``pymysql.connect``."""
    parsed = make_url(url)
    return {
        "host": parsed.host,
        "port": parsed.port,
        "user": parsed.username,
        "password": parsed.password or "",
        "database": parsed.database,
    }


async def asyncpg_connection(url: str) -> Any:
    """Connect with asyncpg itself."""
    parsed = make_url(url)
    return await asyncpg.connect(
        host=parsed.host, port=parsed.port, user=parsed.username, password=parsed.password, database=parsed.database
    )


@DELAYS
@pytest.mark.backends("asyncpg")
async def test_asyncpg_takes_two_trips_cold_and_one_warm(proxy: Proxy, delay: float) -> None:
    """A statement that asyncpg has to prepare is two round trips, a prepared one is one."""
    proxy.delay(delay, delay)
    connection = await asyncpg_connection(proxy.url)
    with proxy.counting() as cold:
        await connection.fetchval("select 1")
    with proxy.counting() as warm:
        await connection.fetchval("select 1")
    await connection.close()

    assert 2 == cold.total, cold
    assert 1 == warm.total, warm
    assert ["select 1"] == warm.statements


@DELAYS
@pytest.mark.backends("asyncpg")
async def test_asyncpg_transaction_is_three_trips(proxy: Proxy, delay: float) -> None:
    """BEGIN, a prepared statement and COMMIT are three round trips on asyncpg."""
    proxy.delay(delay, delay)
    connection = await asyncpg_connection(proxy.url)
    await connection.fetchval("select 1")
    with proxy.counting() as trips:
        async with connection.transaction():
            await connection.fetchval("select 1")
    await connection.close()

    assert ["BEGIN;", "select 1", "COMMIT;"] == trips.statements
    assert 3 == trips.total, trips


@DELAYS
@pytest.mark.backends("postgresql-psycopg")
def test_psycopg_takes_one_trip(proxy: Proxy, delay: float) -> None:
    """A statement is one round trip on psycopg, with and without parameters."""
    proxy.delay(delay, delay)
    with closing(psycopg.connect(**psycopg_arguments(proxy.url), autocommit=True)) as connection:
        with proxy.counting() as plain:
            connection.execute("select 1").fetchone()
        with proxy.counting() as with_parameters:
            connection.execute("select %s::int", (1,)).fetchone()

    assert 1 == plain.total, plain
    assert 1 == with_parameters.total, with_parameters
    assert ["select $1::int"] == with_parameters.statements


@DELAYS
@pytest.mark.backends("postgresql-psycopg")
def test_pipelined_statements_are_one_trip(proxy: Proxy, delay: float) -> None:
    """Statements that are sent without waiting for answers share a round trip."""
    proxy.delay(delay, delay)
    with closing(psycopg.connect(**psycopg_arguments(proxy.url), autocommit=True)) as connection:
        with proxy.counting() as trips, connection.pipeline():
            cursors = [connection.execute("select %s::int", (number,)) for number in range(3)]

        assert [0, 1, 2] == [cursor.fetchall()[0][0] for cursor in cursors]
    assert 1 == trips.total, trips
    assert 3 == len(trips.statements)


@DELAYS
@pytest.mark.backends("pymysql")
def test_pymysql_takes_one_trip(proxy: Proxy, delay: float) -> None:
    """A statement is one round trip on PyMySQL, a ping one as well."""
    proxy.delay(delay, delay)
    connection = pymysql.connect(**pymysql_arguments(proxy.url), autocommit=True)
    with closing(connection), proxy.counting() as trips:
        connection.cursor().execute("select %s", (1,))
        connection.ping(reconnect=False)

    assert ["select 1", "(ping)"] == trips.statements
    assert 2 == trips.total, trips


async def test_reading_through_plain_sqlalchemy_takes_more_than_the_read(async_backend: Backend, proxy: Proxy) -> None:
    """Plain SQLAlchemy spends three round trips on a read from PostgreSQL and two on one from MariaDB."""
    engine = create_async_engine(proxy.url)

    async def read() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("select 1"))

    await read()
    with proxy.counting() as trips:
        await read()
    await engine.dispose()

    # BEGIN, read, ROLLBACK; a MariaDB session is always in a transaction and needs no BEGIN.
    assert (3 if async_backend.dialect == "postgresql" else 2) == trips.total, trips


def test_counts_are_kept_per_connection(sync_backend: Backend, proxy: Proxy) -> None:
    """Round trips are counted for each connection and in total, and connections opened and closed as well."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    with proxy.counting() as trips, ExitStack() as stack:
        first, second = (stack.enter_context(engine.connect()) for _ in range(2))
        before = dict(trips.by_connection)
        first.execute(text("select 1"))
        second.execute(text("select 2"))
        second.execute(text("select 3"))
        after = dict(trips.by_connection)
    engine.dispose()
    proxy.wait_for_open(0)

    assert {1: 1, 2: 2} == {number: after[number] - before[number] for number in after}
    assert (2, 2) == (proxy.trips.opened, proxy.trips.closed)


def test_reset_starts_from_zero(sync_backend: Backend, proxy: Proxy) -> None:
    """After a reset the running count is zero."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        was = proxy.trips.total
        proxy.reset()

        assert was > 0
        assert 0 == proxy.trips.total
        connection.execute(text("select 1"))
        assert 1 == proxy.trips.total
    engine.dispose()


def test_leaving_is_not_a_round_trip(sync_backend: Backend, proxy: Proxy) -> None:
    """The goodbye of a client is a flight that nobody answers."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    with engine.connect():
        pass
    with proxy.counting() as trips:
        engine.dispose()
        proxy.wait_for_open(0)
        assert [False] == [flight.answered for flight in trips.flights]

    assert 0 == trips.total


def test_counts_do_not_change_after_the_block(sync_backend: Backend, proxy: Proxy) -> None:
    """What happens after a counting block is not counted by it."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        with proxy.counting() as trips:
            connection.execute(text("select 1"))
        connection.execute(text("select 2"))
    engine.dispose()

    assert 1 == trips.total
    assert ["select 1"] == trips.statements


async def test_cutting_resets_every_connection(async_backend: Backend, proxy: Proxy, observer: Observer) -> None:
    """After a cut the client's next statement fails and the server has no session left."""
    engine = create_async_engine(proxy.url)
    async with engine.connect() as connection:
        await connection.execute(text("select 1"))
        proxy.cut()
        with pytest.raises(Exception, match=r"(?s)."):  # each driver names it differently
            await connection.execute(text("select 2"))
    await engine.dispose()
    await observer.settled(backends=0)

    assert 0 == proxy.open


def test_stalling_holds_back_and_resuming_delivers(sync_backend: Backend, proxy: Proxy) -> None:
    """While the proxy stalls no answer arrives; afterwards it does, on the same connection."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    answers: list[int] = []
    sent = threading.Event()
    with engine.connect() as connection:

        def ask() -> None:
            answers.append(connection.execute(text("select 7")).scalar_one())

        proxy.when("select 7", sent.set)
        proxy.stall()
        thread = threading.Thread(target=ask)
        thread.start()
        assert sent.wait(5)
        assert [] == answers
        proxy.resume()
        thread.join(5)
    engine.dispose()

    assert [7] == answers
    assert 1 == proxy.trips.opened


def test_dropped_replies_never_arrive(
    sync_backend: Backend, proxy: Proxy, observer: Observer, numbers: Callable[[], None]
) -> None:
    """When replies are dropped the server has done the work, and the client waits until the connection is cut."""
    engine = create_engine(proxy.url)
    errors: list[BaseException] = []
    committed = threading.Event()

    def insert() -> None:
        try:
            with engine.begin() as connection:
                connection.execute(text("insert into numbers values (1)"))
        except Exception as error:
            errors.append(error)

    proxy.when("^COMMIT", lambda: (proxy.drop_replies(), committed.set()))
    thread = threading.Thread(target=insert)
    thread.start()
    assert committed.wait(5)
    observer.settle()
    assert 1 == observer.scalar("select count(*) from numbers")
    assert thread.is_alive()
    proxy.cut()
    thread.join(5)
    engine.dispose()

    assert 1 == len(errors)


def test_a_cut_before_the_commit_loses_the_work(
    sync_backend: Backend, proxy: Proxy, observer: Observer, numbers: Callable[[], None]
) -> None:
    """A connection cut when COMMIT was sent never delivers it to the server."""
    engine = create_engine(proxy.url)
    proxy.when("^COMMIT", proxy.cut)

    with pytest.raises(Exception, match=r"(?s)."), engine.begin() as connection:
        connection.execute(text("insert into numbers values (1)"))
    engine.dispose()
    observer.settle(backends=0)

    assert 0 == observer.scalar("select count(*) from numbers")


@pytest.fixture
def numbers(observer: Observer) -> None:
    """A table that the emptying of the database removes."""
    observer.execute("create table numbers (n int)")


def test_refused_connections_are_reset(sync_backend: Backend, proxy: Proxy) -> None:
    """A refusing proxy lets nobody in, and serves again afterwards."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    proxy.refuse()
    with pytest.raises(Exception, match=r"(?s)."):
        engine.connect()
    proxy.accept()
    with engine.connect() as connection:
        assert 1 == connection.execute(text("select 1")).scalar_one()
    engine.dispose()


def test_the_url_keeps_everything_but_the_address(wire_backend: Backend, proxy: Proxy) -> None:
    """The proxy's URL differs from the server's in host and port only."""
    through, direct = make_url(proxy.url), make_url(wire_backend.url)

    assert (proxy.host, proxy.port) == (through.host, through.port)
    assert direct == through.set(host=direct.host, port=direct.port)


def test_sqlite_has_no_wire() -> None:
    """A URL without a host cannot be proxied, and the error says so."""
    with pytest.raises(ValueError, match="no host to stand in front of"):
        Proxy.for_url(URL.create("sqlite", database="x").render_as_string())


# -- Against a server that does exactly what the test says


@contextmanager
def scripted(script: Callable[[socket.socket], None]) -> Iterator[tuple[Proxy, socket.socket]]:
    """Connect through a proxy to a server that runs ``script`` on the one connection it accepts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(5)
                script(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            Proxy(*listener.getsockname()) as proxy,
            socket.create_connection((proxy.host, proxy.port), timeout=5) as client,
        ):
            yield proxy, client
            client.close()
            thread.join(5)


def exactly(connection: socket.socket, size: int) -> bytes:
    """Read so many bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def test_what_was_sent_before_the_answer_arrived_belongs_to_the_same_trip() -> None:
    """A second packet that leaves the client while the first answer is still on its way is not a new trip."""
    answered = threading.Event()

    def script(connection: socket.socket) -> None:
        exactly(connection, 1)
        connection.sendall(b"a")
        answered.set()
        exactly(connection, 1)
        connection.sendall(b"b")

    with scripted(script) as (proxy, client):
        proxy.delay(to_client=0.2)
        client.sendall(b"1")
        assert answered.wait(5)
        client.sendall(b"2")
        assert b"ab" == exactly(client, 2)
        total = proxy.trips.total

    assert 1 == total


def test_an_answer_in_pieces_is_one_trip() -> None:
    """However many packets a request and its answer take, together they are one round trip."""

    def script(connection: socket.socket) -> None:
        exactly(connection, 300_000)
        for _ in range(10):
            connection.sendall(b"x" * 50_000)

    with scripted(script) as (proxy, client):
        client.sendall(b"y" * 300_000)
        assert 500_000 == len(exactly(client, 500_000))
        total = proxy.trips.total

    assert 1 == total


def test_a_greeting_is_not_a_trip() -> None:
    """A server that speaks first has not answered anything."""

    def script(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        exactly(connection, 1)
        connection.sendall(b"welcome")

    with scripted(script) as (proxy, client):
        exactly(client, 5)
        before = proxy.trips.total
        client.sendall(b"1")
        exactly(client, 7)
        after = proxy.trips.total

    assert (0, 1) == (before, after)


def test_a_half_closed_connection_still_delivers() -> None:
    """A client that has finished sending is seen as such by the server, whose answer still arrives."""
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        seen.append(exactly(connection, 100))  # returns at the end of what the client sends
        connection.sendall(b"bye")

    with scripted(script) as (_, client):
        client.sendall(b"all")
        client.shutdown(socket.SHUT_WR)
        assert b"bye" == exactly(client, 100)

    assert [b"all"] == seen


def test_a_reset_is_passed_on() -> None:
    """A client that vanishes with RST is seen by the server as a reset, not as an end."""
    errors: list[Exception] = []
    connected = threading.Event()

    def script(connection: socket.socket) -> None:
        exactly(connection, 1)
        connected.set()
        try:
            exactly(connection, 100)
        except ConnectionResetError as error:
            errors.append(error)

    with scripted(script) as (proxy, client):
        client.sendall(b"1")
        assert connected.wait(5)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        proxy.wait_for_open(0)

    assert 1 == len(errors)


def test_a_failed_count_shows_what_went_over_the_wire(sync_backend: Backend, proxy: Proxy) -> None:
    """The representation of a count names the statements behind it."""
    engine = create_engine(proxy.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection, proxy.counting() as trips:
        connection.execute(text("select 42"))
    engine.dispose()

    assert "<Trips 1 total, 0 opened, 0 closed | 1: select 42>" == repr(trips)


def test_a_server_that_is_down_is_a_reset_connection() -> None:
    """A proxy whose server is down resets its clients instead of keeping them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with Proxy(*address) as proxy, socket.create_connection((proxy.host, proxy.port), timeout=5) as client:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        proxy.wait_for_open(0)

        assert 1 == proxy.trips.closed
