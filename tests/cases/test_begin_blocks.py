"""``begin()`` works at any time: the outermost one adopts and commits, an inner one joins, a failure dooms all."""

# ruff: noqa: PT012 - the blocks under test are those that an exception leaves

from __future__ import annotations

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import IntegrityError, InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session

from .ground import Ground, sync_session
from .models import Account


class Refused(Exception):
    """What the tests raise themselves."""


def stored(ground: Ground) -> list[int]:
    """Return the ids of the accounts that are committed."""
    return [id for (id,) in ground.observer.all("SELECT id FROM account ORDER BY id")]


def test_begin_before_reads(ground: Ground) -> None:
    """A block around reads and writes commits them at its end."""
    with ground.session() as db:
        with db.begin():
            db.execute(select(Account))
            db.add(Account(id=1))
        assert [1] == stored(ground)


def test_begin_after_reads(ground: Ground) -> None:
    """``begin()`` after a read, with no await between, is an ordinary block."""
    with ground.session() as db:
        db.execute(select(Account))
        with db.begin():
            db.add(Account(id=1))
        assert [1] == stored(ground)
        assert not db.in_transaction()


def test_begin_twice(ground: Ground) -> None:
    """One session runs block after block; each is committed at its end."""
    with ground.session() as db:
        for id in (1, 2):
            with db.begin():
                db.add(Account(id=id))
            assert id == stored(ground)[-1]


def test_begin_adopts_what_is_pending(ground: Ground) -> None:
    """What was added before the block is committed with it."""
    with ground.session() as db:
        db.add(Account(id=1))
        with db.begin():
            db.add(Account(id=2))

    assert [1, 2] == stored(ground)


def test_begin_adopts_what_is_written(ground: Ground) -> None:
    """What was flushed before the block is committed, or rolled back, with it."""
    with ground.session() as db:
        db.add(Account(id=1))
        db.flush()
        with pytest.raises(Refused), db.begin():
            raise Refused
        assert [] == stored(ground)

        db.add(Account(id=2))
        db.flush()
        with db.begin():
            pass

    assert [2] == stored(ground)


def test_an_exception_rolls_the_block_back(ground: Ground) -> None:
    """An exception that leaves the block stores nothing, and the session goes on."""
    with ground.session() as db:
        with pytest.raises(Refused), db.begin():
            db.add(Account(id=1))
            db.flush()
            raise Refused
        assert [] == stored(ground)
        assert 0 == ground.open_transactions

        with db.begin():
            db.add(Account(id=2))

    assert [2] == stored(ground)


def test_an_inner_begin_joins(ground: Ground) -> None:
    """A block inside a block commits nothing itself."""
    with ground.session() as db, db.begin():
        with db.begin():
            db.add(Account(id=1))
            db.flush()
        assert [] == stored(ground)
        assert 1 == ground.open_transactions
        db.add(Account(id=2))

    assert [1, 2] == stored(ground)


def test_an_inner_failure_dooms_the_unit(ground: Ground) -> None:
    """An exception that leaves an inner block and is swallowed keeps the outer block from committing anything."""
    with ground.session() as db:
        with pytest.raises(PendingRollbackError), db.begin():
            db.add(Account(id=1))
            db.flush()
            with pytest.raises(Refused), db.begin():
                db.add(Account(id=2))
                raise Refused
        assert [] == stored(ground)
        assert 0 == ground.open_transactions
        with db.begin():
            db.add(Account(id=3))

    assert [3] == stored(ground)


def test_a_failed_flush_that_is_swallowed_dooms_the_unit(ground: Ground) -> None:
    """A flush that failed inside a block and was caught there makes the block's end an error, never a half commit."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    with ground.session() as db, pytest.raises(PendingRollbackError), db.begin():
        db.add(Account(id=2))
        db.flush()
        db.add(Account(id=1))
        with pytest.raises(IntegrityError):
            db.flush()

    assert [1] == stored(ground)


def test_commit_inside_a_block_ends_it(ground: Ground) -> None:
    """``commit()`` inside a block stores its work; nothing can follow in that block, as in plain SQLAlchemy."""
    with ground.session() as db:
        with db.begin():
            db.add(Account(id=1))
            db.commit()
            assert [1] == stored(ground)
            with pytest.raises(InvalidRequestError):
                db.execute(select(Account))

        with db.begin():
            db.add(Account(id=2))

    assert [1, 2] == stored(ground)


def test_rollback_inside_a_block_ends_it(ground: Ground) -> None:
    """``rollback()`` inside a block undoes its work, and the end of the block commits nothing."""
    with ground.session() as db:
        with db.begin():
            db.add(Account(id=1))
            db.flush()
            db.rollback()
        assert [] == stored(ground)
        assert 0 == ground.open_transactions


def test_begin_without_a_block(ground: Ground) -> None:
    """``begin()`` may be ended by ``commit()`` or ``rollback()`` of the session."""
    with ground.session() as db:
        ground.begin_now(db)
        db.add(Account(id=1))
        db.rollback()
        ground.begin_now(db)
        db.add(Account(id=2))
        db.commit()

    assert [2] == stored(ground)


def test_a_savepoint_keeps_the_outer_work(ground: Ground) -> None:
    """Rolling a savepoint back undoes what is inside and keeps what is outside."""
    with ground.session() as db, db.begin():
        db.add(Account(id=1))
        with pytest.raises(Refused), db.begin_nested():
            db.add(Account(id=2))
            db.flush()
            raise Refused
        db.add(Account(id=3))

    assert [1, 3] == stored(ground)


def test_a_savepoint_without_a_block_around_it(ground: Ground) -> None:
    """``begin_nested()`` on a clean session works, and ``commit()`` stores it."""
    with ground.session() as db:
        db.execute(select(Account))
        ground.elsewhere()
        with db.begin_nested():
            db.add(Account(id=1))
        with pytest.raises(Refused), db.begin_nested():
            db.execute(insert(Account).values(id=2, balance=0))
            raise Refused
        assert [] == stored(ground)
        db.commit()

    assert [1] == stored(ground)


def test_a_failed_statement_in_a_savepoint_is_undone_alone(ground: Ground) -> None:
    """A duplicate inside a savepoint can be caught, and the unit goes on."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    with ground.session() as db, db.begin():
        db.add(Account(id=2))
        db.flush()
        with pytest.raises(IntegrityError), db.begin_nested():
            db.execute(insert(Account).values(id=1, balance=0))
        db.add(Account(id=3))

    assert [1, 2, 3] == stored(ground)


def test_begin_inside_a_savepoint_joins(ground: Ground) -> None:
    """A block inside a savepoint belongs to it: a failure of the block undoes the savepoint and nothing more."""
    with ground.session() as db, db.begin():
        db.add(Account(id=1))
        with pytest.raises(Refused), db.begin_nested(), db.begin():
            db.add(Account(id=2))
            db.flush()
            raise Refused

    assert [1] == stored(ground)


def test_a_nested_begin_of_the_sync_session_is_a_savepoint(ground: Ground) -> None:
    """``begin(nested=True)`` opens a savepoint."""

    def work(session: Session) -> None:
        session.add(Account(id=1))
        savepoint = session.begin(nested=True)
        session.add(Account(id=2))
        session.flush()
        savepoint.rollback()

    with ground.session() as db:
        work(sync_session(db))
        db.commit()

    assert [1] == stored(ground)


def test_savepoints_nest(ground: Ground) -> None:
    """The rollback of an outer savepoint undoes a released inner one."""
    with ground.session() as db, db.begin():
        db.add(Account(id=1))
        with pytest.raises(Refused), db.begin_nested():
            db.add(Account(id=2))
            with db.begin_nested():
                db.add(Account(id=3))
            raise Refused
        with db.begin_nested():
            db.add(Account(id=4))

    assert [1, 4] == stored(ground)


@pytest.mark.backends("sqlite")
def test_a_block_locks_sqlite_before_its_read(ground: Ground) -> None:
    """In a block the first read takes the write lock, so that no other writer can come between it and a write."""
    with ground.session() as db, db.begin():
        db.execute(select(Account))

        with pytest.raises(Exception, match="locked"):
            ground.observer.execute("INSERT INTO account (id, balance) VALUES (9, 0)")


@pytest.mark.backends("sqlite")
def test_a_clean_read_locks_nothing_on_sqlite(ground: Ground) -> None:
    """Outside a block a read keeps no writer waiting."""
    with ground.session() as db:
        db.execute(select(Account))
        ground.observer.execute("INSERT INTO account (id, balance) VALUES (9, 0)")

        assert [9] == list(db.scalars(select(Account.id)))


def test_a_unit_that_begins_at_once(ground: Ground) -> None:
    """``database.session(begin=True)`` opens the transaction with its first read and commits at the end."""
    with ground.unit(begin=True) as db:
        db.execute(select(Account))
        ground.elsewhere()
        assert "OPEN" == sync_session(db).state
        db.add(Account(id=1))

    assert [1] == stored(ground)


def test_the_factory_begins_a_block(ground: Ground) -> None:
    """``SessionLocal.begin()`` opens a session, commits at the end of the block and closes the session."""
    with ground.factory_begin() as db:
        db.add(Account(id=1))
    assert [1] == stored(ground)

    with pytest.raises(Refused), ground.factory_begin() as db:
        db.add(Account(id=2))
        db.flush()
        raise Refused
    assert [1] == stored(ground)
