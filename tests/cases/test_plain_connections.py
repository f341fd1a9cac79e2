"""``engine.begin()``, ``engine.connect()`` and sessions on a user's Connection are what SQLAlchemy makes of them."""

# ruff: noqa: PT012 - the blocks under test are those that an exception leaves

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, insert, inspect, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from .ground import Blocking, Ground
from .models import Account, Author, Base

pytestmark = pytest.mark.database(pool_size=1, pool_timeout=2)


def stored(ground: Ground) -> list[int]:
    """Return the ids of the accounts that are committed."""
    return [id for (id,) in ground.observer.all("SELECT id FROM account ORDER BY id")]


@pytest.fixture(params=["new", "used by a session", "written by a session"])
def before(request: pytest.FixtureRequest, ground: Ground) -> Any:
    """What the only connection of the pool was used for."""

    def use() -> None:
        if request.param == "used by a session":
            with ground.session() as db:
                db.execute(select(Account))
        if request.param == "written by a session":
            with ground.session() as db:
                db.execute(insert(Account).values(id=99, balance=0))
                db.rollback()

    return use


def test_engine_begin_commits_at_its_end(before: Any, ground: Ground) -> None:
    """Nothing of ``engine.begin()`` is visible before the end of its block, all of it after."""
    before()
    with ground.begin() as connection:
        connection.execute(insert(Account).values(id=1, balance=0))
        connection.execute(insert(Account).values(id=2, balance=0))
        assert [] == stored(ground)

    assert [1, 2] == stored(ground)


def test_engine_begin_rolls_back(before: Any, ground: Ground) -> None:
    """An exception undoes the block."""
    before()
    with pytest.raises(ZeroDivisionError), ground.begin() as connection:
        connection.execute(insert(Account).values(id=1, balance=0))
        raise ZeroDivisionError

    assert [] == stored(ground)


def test_engine_connect_commits_nothing_by_itself(before: Any, ground: Ground) -> None:
    """``engine.connect()`` begins with its first statement and rolls back what is not committed."""
    before()
    with ground.connect() as connection:
        connection.execute(insert(Account).values(id=1, balance=0))
        assert [] == stored(ground)
        connection.commit()
        connection.execute(insert(Account).values(id=2, balance=0))

    assert [1] == stored(ground)


def test_a_session_after_plain_connections(ground: Ground) -> None:
    """A connection that was used plainly serves clean reads, and transactions, of a session."""
    with ground.begin() as connection:
        connection.execute(insert(Account).values(id=1, balance=0))
    with ground.session() as db:
        assert [1] == list(db.scalars(select(Account.id)))
        assert 0 == ground.open_transactions
        db.add(Account(id=2))
        db.flush()
        assert [1] == stored(ground)
        db.rollback()

    assert [1] == stored(ground)


def test_a_plain_connection_has_one_snapshot_or_none_as_in_sqlalchemy(before: Any, ground: Ground) -> None:
    """Two reads on ``engine.connect()`` agree, or not, exactly as on an engine that this library never saw."""
    before()

    def reads(connect: Any) -> list[int]:
        with connect as connection:
            found = [len(connection.execute(select(Account.id)).all())]
            ground.observer.execute("INSERT INTO account (balance) VALUES (0)")
            found.append(len(connection.execute(select(Account.id)).all()))
            return [found[1] - found[0]]

    with plain_engine(ground) as engine:
        expected = reads(engine.connect())

    assert expected == reads(ground.connect())


@contextmanager
def plain_engine(ground: Ground) -> Iterator[Any]:
    """Open an engine of SQLAlchemy's on the same URL and driver."""
    if ground.is_async:
        engine = create_async_engine(ground.backend.url)
        yield _Engine(engine)
        await_only(engine.dispose())
    else:
        plain = create_engine(ground.backend.url)
        yield plain
        plain.dispose()


class _Engine:
    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def connect(self) -> Any:
        return Blocking(self._engine.connect())


@pytest.mark.backends("postgresql", "mariadb")  # in plain SQLAlchemy, too, the drivers of SQLite begin after SAVEPOINT
def test_a_session_bound_to_a_connection_joins_it(before: Any, ground: Ground) -> None:
    """With ``join_transaction_mode="create_savepoint"`` a session's commit is undone by the outer rollback."""
    before()
    with ground.connect() as connection, connection.begin() as outer:
        bind: Any = connection.target if isinstance(connection, Blocking) else connection
        with ground.session(bind=bind, join_transaction_mode="create_savepoint") as db:
            db.add(Account(id=1))
            db.commit()
            db.add(Account(id=2))
            db.flush()
            db.rollback()
            assert [1] == list(db.scalars(select(Account.id)))
            ground.elsewhere()
            assert 1 == ground.in_use
        assert [] == stored(ground)
        outer.rollback()

    assert [] == stored(ground)


def test_a_session_bound_to_a_connection_may_only_roll_back(before: Any, ground: Ground) -> None:
    """With ``join_transaction_mode="rollback_only"`` a session's commit leaves the outer transaction to its owner."""
    before()
    with ground.begin() as connection:
        bind: Any = connection.target if isinstance(connection, Blocking) else connection
        with ground.session(bind=bind, join_transaction_mode="rollback_only") as db:
            db.add(Account(id=1))
            db.commit()
            assert [] == stored(ground)

    assert [1] == stored(ground)


def test_a_bound_session_is_never_given_back(ground: Ground) -> None:
    """A session on a user's Connection reads inside that Connection's transaction."""
    with ground.begin() as connection:
        bind: Any = connection.target if isinstance(connection, Blocking) else connection
        with ground.session(bind=bind) as db:
            db.execute(select(Account))
            ground.elsewhere()
            assert 1 == ground.in_use
            connection.execute(insert(Account).values(id=1, balance=0))
            assert [1] == list(db.scalars(select(Account.id)))


def test_migrations_run_on_the_engine(before: Any, ground: Ground) -> None:
    """What Alembic does (inspect, create, write a version, in one ``engine.begin()``) works on the engine."""
    before()

    def migrate(connection: Connection) -> list[str]:
        connection.exec_driver_sql("CREATE TABLE version_of_schema (version_num VARCHAR(32) NOT NULL)")
        connection.exec_driver_sql("INSERT INTO version_of_schema VALUES ('abc')")
        return inspect(connection).get_table_names()

    with ground.begin() as connection:
        names = connection.run_sync(migrate) if isinstance(connection, Blocking) else migrate(connection)
    assert "version_of_schema" in names

    assert "abc" == ground.observer.scalar("SELECT version_num FROM version_of_schema")
    ground.observer.execute("DROP TABLE version_of_schema")


def test_create_all_is_repeatable(ground: Ground) -> None:
    """``create_all`` on a database that has the tables changes nothing, and leaves sessions clean."""
    if ground.is_async:
        await_only(ground.database.create_all(Base))
    else:
        ground.database.create_all_sync(Base)
    with ground.session() as db:
        assert [] == db.scalars(select(Author)).all()
        assert 0 == ground.open_transactions


def test_plain_connections_refuse_a_second_begin(ground: Ground) -> None:
    """``connection.begin()`` after a statement raises, as SQLAlchemy does: only sessions are lenient."""
    with ground.connect() as connection:
        connection.execute(select(Account))
        with pytest.raises(InvalidRequestError):
            connection.begin().__enter__()


def test_an_isolation_level_of_a_plain_connection(before: Any, ground: Ground) -> None:
    """``connection.execution_options(isolation_level="AUTOCOMMIT")`` holds for that checkout and no longer."""
    before()
    with ground.connect() as connection:
        connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(insert(Account).values(id=1, balance=0))
        assert [1] == stored(ground)
    with ground.connect() as connection:
        connection.execute(insert(Account).values(id=2, balance=0))
        assert [1] == stored(ground)
    with ground.session() as db:
        db.add(Account(id=3))
        db.flush()
        assert [1] == stored(ground)
        db.rollback()
