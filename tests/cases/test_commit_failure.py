"""A failed commit, or a unit that the server gave up, stores nothing and leaves a clean session and pool behind."""

# ruff: noqa: PT012 - the blocks under test are those that an exception leaves

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest
from sqlalchemy import event, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, PendingRollbackError

from sessionlocal import CommitUnknown

from .ground import Ground
from .models import Account, Author


def stored(ground: Ground) -> list[int]:
    """Return the ids of the accounts that are committed."""
    return [id for (id,) in ground.observer.all("SELECT id FROM account ORDER BY id")]


def next_session_is_clean(ground: Ground) -> None:
    """Read, write and commit in a new session on the same pool."""
    assert 0 == ground.open_transactions
    with ground.session() as db:
        db.execute(select(Account))
        assert 0 == ground.open_transactions
        db.add(Account(id=100))
        db.commit()
    assert 100 in stored(ground)


@pytest.fixture
def deferred(ground: Ground) -> None:
    """A table with a constraint that is checked at commit."""
    ground.observer.execute(
        "CREATE TABLE deferred (id int PRIMARY KEY, author int REFERENCES author (id) DEFERRABLE INITIALLY DEFERRED)"
    )


@pytest.mark.database(pool_size=1)
@pytest.mark.usefixtures("deferred")
@pytest.mark.backends("postgresql", "sqlite")
def test_a_constraint_that_fails_at_commit(ground: Ground) -> None:
    """A deferred constraint fails ``commit()``; nothing is stored and the next session is clean."""
    with ground.session() as db:
        db.add(Account(id=1))
        db.flush()
        db.execute(text("INSERT INTO deferred VALUES (1, 99)"))
        with pytest.raises(IntegrityError):
            db.commit()
        assert 0 == ground.open_transactions
        db.rollback()
        assert [] == list(db.scalars(select(Account.id)))

    assert [] == stored(ground)
    next_session_is_clean(ground)
    ground.observer.execute("DROP TABLE deferred")


@pytest.mark.database(pool_size=1)
@pytest.mark.usefixtures("deferred")
@pytest.mark.backends("postgresql", "sqlite")
def test_a_unit_whose_commit_fails(ground: Ground) -> None:
    """The error of the commit leaves ``database.session()``, and nothing is stored."""
    with pytest.raises(IntegrityError), ground.unit() as db:
        db.add(Account(id=1))
        db.flush()
        db.execute(text("INSERT INTO deferred VALUES (1, 99)"))

    assert [] == stored(ground)
    next_session_is_clean(ground)
    ground.observer.execute("DROP TABLE deferred")


@pytest.mark.database(pool_size=1, lock_timeout=0.1)
@pytest.mark.backends("sqlite")
def test_sqlite_busy_at_commit(ground: Ground) -> None:
    """A reader of a database without WAL makes COMMIT fail with SQLITE_BUSY, which leaves the transaction open; the
    session that follows does not inherit it."""

    @event.listens_for(ground.engine, "connect")
    def keep_no_log(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = DELETE")
        cursor.close()

    ground.observer.execute("INSERT INTO author (id, name, biography) VALUES (1, 'Ada', '')")
    path = make_url(ground.backend.url).database
    with closing(sqlite3.connect(str(path))) as reader, ground.session() as db:
        db.add(Account(id=1))
        db.flush()
        reader.execute("BEGIN")
        rows = reader.execute("SELECT * FROM author")
        assert rows.fetchone() is not None
        with pytest.raises(OperationalError, match="locked"):
            db.commit()
        reader.rollback()

    assert [] == stored(ground)
    next_session_is_clean(ground)


@pytest.mark.database(pool_size=1)
@pytest.mark.backends("postgresql", "mariadb")
def test_a_connection_that_was_killed_before_commit(ground: Ground) -> None:
    """A backend killed in the middle of a unit fails its commit; nothing is stored and the next session connects."""
    with ground.session() as db:
        db.add(Account(id=1))
        db.flush()
        ground.observer.end_sessions()
        with pytest.raises((DBAPIError, CommitUnknown)):
            db.commit()

    assert [] == stored(ground)
    next_session_is_clean(ground)


@pytest.mark.database(pool_size=1)
@pytest.mark.backends("postgresql", "mariadb")
def test_a_killed_connection_that_is_swallowed_is_no_half_commit(ground: Ground) -> None:
    """After a statement that found its connection gone, ``commit()`` raises, whatever was caught before."""
    with ground.session() as db:
        db.execute(insert(Account).values(id=1, balance=0))
        ground.observer.end_sessions()
        with pytest.raises(DBAPIError):
            db.execute(insert(Account).values(id=2, balance=0))
        with pytest.raises(PendingRollbackError):
            db.execute(insert(Account).values(id=3, balance=0))
        with pytest.raises(PendingRollbackError):
            db.commit()
        db.rollback()
        db.execute(insert(Account).values(id=4, balance=0))
        db.commit()

    assert [4] == stored(ground)


@pytest.mark.database(pool_size=1)
@pytest.mark.backends("postgresql", "mariadb")
def test_an_idle_connection_that_was_killed(ground: Ground) -> None:
    """A clean session whose pool connection died gets one error that says so; the next statement connects again."""
    with ground.session() as db:
        db.execute(select(Account))
        ground.elsewhere()
        ground.observer.end_sessions()
        with pytest.raises(DBAPIError) as raised:
            db.execute(select(Account))
        assert raised.value.connection_invalidated
        db.rollback()

        assert [] == list(db.scalars(select(Account.id)))


@pytest.mark.backends("mariadb", "postgresql")
def test_a_deadlock_that_is_swallowed_is_no_half_commit(ground: Ground) -> None:
    """The victim of a deadlock that catches the error and goes on can commit nothing of its unit."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0), (2, 0)")
    both_hold_one = ground.meeting(2)

    def transfer(first: int, second: int) -> bool:
        deadlocked = False
        with ground.session() as db:
            db.execute(insert(Account).values(id=10 + first, balance=0))
            db.execute(update(Account).where(Account.id == first).values(balance=first))
            both_hold_one()
            try:
                db.execute(update(Account).where(Account.id == second).values(balance=first))
            except DBAPIError:
                deadlocked = True
            if deadlocked:
                with pytest.raises((PendingRollbackError, DBAPIError)):
                    db.execute(insert(Account).values(id=20 + first, balance=0))
                with pytest.raises((PendingRollbackError, DBAPIError)):
                    db.commit()
                db.rollback()
            else:
                db.commit()
        return deadlocked

    outcomes = ground.together(lambda: transfer(1, 2), lambda: transfer(2, 1))
    assert [False, True] == sorted(outcomes), outcomes  # type: ignore[type-var]

    winner = outcomes.index(False) + 1
    assert [1, 2, 10 + winner] == stored(ground)


@pytest.mark.backends("sqlite")
def test_a_full_disk_that_is_swallowed_is_no_half_commit(ground: Ground) -> None:
    """SQLite rolls the unit back when the file cannot grow; a caught error does not let the rest be committed."""
    with ground.session() as db:
        db.execute(insert(Account).values(id=1, balance=0))
        pages = db.scalar(text("PRAGMA page_count"))
        db.execute(text(f"PRAGMA max_page_count = {pages}"))
        with pytest.raises(OperationalError, match="full"):
            db.execute(
                insert(Author),
                [{"id": number, "name": f"{number}{'x' * 49}", "biography": "y" * 200} for number in range(999)],
            )
        with pytest.raises(PendingRollbackError):
            db.commit()
        db.rollback()

    assert [] == stored(ground)


@pytest.mark.backends("postgresql")
def test_an_aborted_transaction_that_is_swallowed_is_no_commit(ground: Ground) -> None:
    """On PostgreSQL a caught error aborts the unit, whose COMMIT would quietly be a ROLLBACK: ``commit()`` raises."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    with ground.session() as db:
        db.execute(insert(Account).values(id=2, balance=0))
        with pytest.raises(IntegrityError):
            db.execute(insert(Account).values(id=1, balance=0))
        with pytest.raises((PendingRollbackError, DBAPIError)):
            db.commit()

    assert [1] == stored(ground)
    assert 0 == ground.open_transactions


@pytest.mark.backends("mariadb", "sqlite")
def test_a_failed_statement_undoes_only_itself(ground: Ground) -> None:
    """On MariaDB and SQLite a caught duplicate leaves the rest of the unit as it was, as in plain SQLAlchemy."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    with ground.session() as db:
        db.execute(insert(Account).values(id=2, balance=0))
        with pytest.raises(IntegrityError):
            db.execute(insert(Account).values(id=1, balance=0))
        db.commit()

    assert [1, 2] == stored(ground)
