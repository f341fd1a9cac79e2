"""A database that cannot be reached is SQLAlchemy's own error, and the next attempt works when it is back."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, make_url, select, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from tests.support.proxy import Proxy

from .ground import Ground
from .models import Account


def plainly(error: BaseException) -> list[str]:
    """Return the classes of SQLAlchemy's that a ``except`` clause can name."""
    return [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "sqlalchemy.exc"]


def raised_by_a_read(db: Session) -> None:
    """asyncpg lets the operating system's error through, as it does in plain SQLAlchemy."""
    with pytest.raises((DBAPIError, OSError)):
        db.execute(select(Account))


def raised_by(connect: Callable[[], Any]) -> BaseException:
    """Return what an attempt to use a connection raises."""
    with pytest.raises(Exception) as raised, connect() as connection:
        connection.execute(text("SELECT 1"))
    return raised.value


def compare(ground: Ground, url: Any) -> BaseException:
    """Fail to connect through a session and through the plain engine; return the session's error."""
    ground.backend = replace(ground.backend, url=url.render_as_string(hide_password=False))
    database = ground.another(connect_timeout=2)
    error = raised_by(lambda: ground.session(database))

    assert plainly(raised_by(lambda: ground.connect(database))) == plainly(error)
    return error


@pytest.mark.usefixtures("wire_backend")
def test_nobody_listens(ground: Ground) -> None:
    """A refused connection is the error that plain SQLAlchemy raises."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    compare(ground, make_url(ground.backend.url).set(port=port))


@pytest.mark.backends("postgresql", "mariadb")
def test_an_unknown_database(ground: Ground) -> None:
    """A database that does not exist is the error that plain SQLAlchemy raises."""
    error = compare(ground, make_url(ground.backend.url).set(database="no_such_database"))

    assert "no_such_database" in str(error)


@pytest.mark.backends("sqlite")
def test_a_missing_directory(ground: Ground, tmp_path: Path) -> None:
    """A SQLite file in a directory that is not there is an OperationalError; once it is there the session works."""
    url = make_url(ground.backend.url).set(database=str(tmp_path / "missing" / "test.sqlite3"))
    error = compare(ground, url)
    assert isinstance(error, OperationalError)

    (tmp_path / "missing").mkdir()
    with ground.session(ground.another()) as db:
        assert 1 == db.scalar(text("SELECT 1"))


def test_the_next_attempt_works(proxy: Proxy, ground: Ground) -> None:
    """After an outage the same session connects again, and what it had pending is stored."""
    ground.backend = replace(ground.backend, url=proxy.url)
    database = ground.another(pool_size=1, connect_timeout=2)
    with ground.session(database) as db:
        proxy.refuse()
        raised_by_a_read(db)
        db.rollback()
        proxy.accept()
        db.add(Account(id=1))
        db.commit()

    assert 1 == ground.observer.scalar("SELECT count(*) FROM account")


def test_a_cut_line_between_two_reads(proxy: Proxy, ground: Ground) -> None:
    """When the line of an idle pool connection is cut, a clean session gets one error and then a new connection."""
    ground.backend = replace(ground.backend, url=proxy.url)
    database = ground.another(pool_size=1)
    with ground.session(database) as db:
        db.execute(select(Account))
        ground.elsewhere()
        proxy.cut()
        with pytest.raises(DBAPIError) as raised:
            db.execute(select(Account))
        assert raised.value.connection_invalidated
        db.rollback()

        assert [] == db.scalars(select(Account)).all()


def test_a_cut_line_in_a_unit_stores_nothing(proxy: Proxy, ground: Ground) -> None:
    """When the line is cut in the middle of a unit, nothing of it is stored, even if the error is swallowed."""
    ground.backend = replace(ground.backend, url=proxy.url)
    database = ground.another(pool_size=1)
    with ground.session(database) as db:
        db.execute(insert(Account).values(id=1, balance=0))
        proxy.cut()
        with pytest.raises(DBAPIError):
            db.execute(insert(Account).values(id=2, balance=0))
        with pytest.raises(PendingRollbackError):
            db.commit()
        db.rollback()
        db.execute(insert(Account).values(id=3, balance=0))
        db.commit()

    assert [(3,)] == ground.observer.all("SELECT id FROM account")


@pytest.mark.backends("postgresql")
def test_a_pool_that_is_empty(ground: Ground) -> None:
    """Waiting in vain for a connection is SQLAlchemy's TimeoutError; the session works when one is free again."""
    database = ground.another(pool_size=1, pool_timeout=0.2)
    with ground.session(database) as holder, ground.session(database) as waiter:
        holder.connection()
        with pytest.raises(PoolTimeout):
            waiter.execute(select(Account))
        holder.rollback()
        ground.elsewhere()

        assert [] == waiter.scalars(select(Account)).all()
