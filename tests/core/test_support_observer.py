"""The observer sees what another client of the database sees: committed rows, open transactions, sessions."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from tests.support.backends import Backend
from tests.support.observer import Observer


@pytest.fixture
def engine(sync_backend: Backend, observer: Observer) -> Iterator[Engine]:
    """A plain engine on a database with one table."""
    observer.execute("create table numbers (n int)")
    engine = create_engine(sync_backend.url)
    yield engine
    engine.dispose()


def test_a_row_is_seen_when_it_is_committed(engine: Engine, observer: Observer) -> None:
    """What is not committed does not exist for the observer."""
    with engine.connect() as connection:
        connection.execute(text("insert into numbers values (1)"))
        before = observer.scalar("select count(*) from numbers")
        connection.commit()
        after = observer.scalar("select count(*) from numbers")

    assert (0, 1) == (before, after)


def test_statements_of_the_observer_are_committed_at_once(engine: Engine, observer: Observer) -> None:
    """Rows written by the observer are there for everybody, parameters are bound, rows are tuples."""
    observer.execute("insert into numbers values (:n)", n=1)
    observer.execute("insert into numbers values (:n)", n=2)
    with engine.connect() as connection:
        assert 2 == connection.execute(text("select count(*) from numbers")).scalar_one()

    assert [(1,), (2,)] == observer.all("select n from numbers order by n")
    assert observer.scalar("select n from numbers where n = :n", n=3) is None


def test_open_transactions_are_counted_at_once(engine: Engine, observer: Observer) -> None:
    """A transaction counts from its first write to its end, however quickly one looks again."""
    counts = [observer.open_transactions()]
    for _ in range(3):
        with engine.connect() as connection:
            connection.execute(text("insert into numbers values (1)"))
            counts.append(observer.open_transactions())
            connection.rollback()
            counts.append(observer.open_transactions())

    assert [0, 1, 0, 1, 0, 1, 0] == counts


@pytest.mark.backends("postgresql", "mariadb")
def test_a_transaction_that_only_read_is_open_too(engine: Engine, observer: Observer) -> None:
    """A session that has read and waits is inside a transaction, which the server knows."""
    with engine.connect() as connection:
        connection.execute(text("select n from numbers")).all()
        count = observer.open_transactions()

    assert 1 == count
    assert 0 == observer.open_transactions()


def test_backends_are_counted(engine: Engine, observer: Observer) -> None:
    """Connections of others are counted, the observer's own is not, and settling waits until they are gone."""
    with engine.connect(), engine.connect() as second:
        second.execute(text("select 1"))
        two = observer.backends()
    engine.dispose()
    observer.settle(backends=0)

    assert 2 == two
    assert 0 == observer.backends()


async def test_settling_in_an_async_test(engine: Engine, observer: Observer) -> None:
    """The waiting has an async face that lets the event loop run."""
    with engine.connect():
        pass
    engine.dispose()
    await observer.settled(backends=0)

    assert 0 == observer.backends()


def test_a_database_that_does_not_settle_says_who_is_there(engine: Engine, observer: Observer) -> None:
    """The error counts transactions and connections, and lists the sessions where the server has a list."""
    with engine.connect() as connection:
        connection.execute(text("insert into numbers values (1)"))
        with pytest.raises(AssertionError) as failure:
            observer.settle(backends=0, timeout=0)

    assert "1 open transactions instead of 0, " in str(failure.value)
    assert " connections instead of 0: " in str(failure.value)
    if observer.backend.dialect == "postgresql":
        assert "(idle in transaction): insert into numbers values (1)" in str(failure.value)


@pytest.mark.backends("postgresql", "mariadb")
def test_sessions_can_be_ended(engine: Engine, observer: Observer) -> None:
    """An administrator ends every session but its own: the client learns it from its next statement."""
    with engine.connect() as connection:
        connection.execute(text("select 1"))
        observer.end_sessions()
        observer.settle(backends=0)
        with pytest.raises(DBAPIError):
            connection.execute(text("select 2"))

    assert 1 == observer.scalar("select 1")


@pytest.mark.backends("postgresql", "mariadb")
def test_the_observer_survives_the_end_of_its_own_session(observer: Observer, sync_backend: Backend) -> None:
    """After its session was ended the observer fails once, then connects again."""
    own = observer.scalar(
        "select pg_backend_pid()" if sync_backend.dialect == "postgresql" else "select connection_id()"
    )
    admin = create_engine(sync_backend.sync_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        if sync_backend.dialect == "postgresql":
            connection.execute(text("select pg_terminate_backend(:own)"), {"own": own})
        else:
            connection.execute(text(f"kill {own}"))

    def ask_until_it_fails() -> None:
        while True:  # the end arrives a moment after it was ordered
            observer.scalar("select 1")

    with pytest.raises(DBAPIError):
        ask_until_it_fails()

    assert 1 == observer.scalar("select 1")


def test_a_lock_is_not_waited_for(engine: Engine, observer: Observer) -> None:
    """An observer that is blocked by the test fails after its own short timeout instead of hanging."""
    with engine.connect() as connection:
        connection.execute(text("insert into numbers values (1)"))
        with pytest.raises(DBAPIError):
            observer.execute("drop table numbers")


def test_the_observer_may_be_used_from_any_thread(engine: Engine, observer: Observer) -> None:
    """A hook on another thread can look as well."""
    seen: list[int] = []
    observer.execute("insert into numbers values (1)")
    thread = threading.Thread(target=lambda: seen.append(observer.scalar("select count(*) from numbers")))
    thread.start()
    thread.join(5)

    assert [1] == seen
