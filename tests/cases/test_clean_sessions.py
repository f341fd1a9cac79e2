"""Until its first write a session is clean: reads run in autocommit, and it holds no connection between them."""

from __future__ import annotations

import pytest
from sqlalchemy import select, text

from sessionlocal.connection import State

from .ground import Ground, lease_of, sync_session
from .models import Account, Author, Book


def test_opening_a_session_checks_nothing_out(ground: Ground) -> None:
    """A session that is opened, begun by nobody and closed takes no connection."""
    with ground.expecting_checkouts(0), ground.session() as db:
        assert not db.in_transaction()
        assert "CLEAN" == sync_session(db).state


def test_a_plain_read_leaves_nothing_open(ground: Ground) -> None:
    """After a plain read the server has no transaction open, also before the connection is given back."""
    with ground.session() as db:
        assert [] == db.scalars(select(Author)).all()

        assert 0 == ground.open_transactions
        assert "CLEAN" == sync_session(db).state


def test_a_clean_session_holds_no_connection(ground: Ground) -> None:
    """A connection goes back at once (sync), or when the task awaits anything but the database (async)."""
    with ground.session() as db:
        db.execute(select(Author))
        ground.elsewhere()

        assert 0 == ground.in_use
        assert State.IDLE is lease_of(db).state


def test_consecutive_reads_keep_the_connection(ground: Ground) -> None:
    """Reads with no foreign await between them share one checkout; a sync session makes one for each read."""
    with ground.expecting_checkouts(1 if ground.is_async else 3), ground.session() as db:
        for _ in range(3):
            db.execute(select(Author))


def test_reads_around_a_foreign_await_check_out_twice(ground: Ground) -> None:
    """A read after the connection was given back takes another one, and the session does not notice."""
    with ground.expecting_checkouts(2), ground.session() as db:
        db.execute(select(Author))
        ground.elsewhere()
        db.execute(select(Author))


def test_a_session_stays_in_its_transaction_after_giving_back(ground: Ground) -> None:
    """``in_transaction()`` means what it means in SQLAlchemy, whether the connection is there or not."""
    with ground.session() as db:
        db.execute(select(Author))
        ground.elsewhere()

        assert db.in_transaction()


def test_rollback_after_giving_back_expires_and_expunges(ground: Ground) -> None:
    """``rollback()`` expires what was loaded and forgets what is pending, also after the connection was given back."""
    ground.observer.execute("INSERT INTO author (id, name, biography) VALUES (1, 'Ada', '')")
    with ground.session() as db:
        loaded = db.get_one(Author, 1)
        pending = Author(name="Grace")
        db.add(pending)
        ground.elsewhere()
        ground.observer.execute("UPDATE author SET name = 'Augusta'")

        db.rollback()

        assert pending not in db
        assert "Augusta" == loaded.name


def test_commit_after_giving_back_stores_what_is_pending(ground: Ground) -> None:
    """``commit()`` flushes and stores pending changes, also after the connection was given back."""
    with ground.session() as db:
        db.execute(select(Author))
        db.add(Author(name="Grace"))
        ground.elsewhere()
        assert 0 == ground.in_use

        db.commit()

    assert "Grace" == ground.observer.scalar("SELECT name FROM author")


def test_discarded_changes_are_never_committed(ground: Ground) -> None:
    """Pending changes, a foreign await, ``rollback()`` and then ``commit()`` store nothing."""
    ground.observer.execute("INSERT INTO author (id, name, biography) VALUES (1, 'Ada', '')")
    with ground.session() as db:
        author = db.get_one(Author, 1)
        author.name = "Overwritten"
        db.add(Author(name="Grace"))
        ground.elsewhere()
        db.rollback()
        db.commit()

    assert [("Ada",)] == ground.observer.all("SELECT name FROM author")


def test_flushed_changes_survive_a_foreign_await(ground: Ground) -> None:
    """Once something is written the transaction and its connection stay until commit."""
    with ground.session() as db:
        db.add(Author(name="Grace"))
        db.flush()
        ground.elsewhere()

        assert 1 == ground.in_use
        assert 1 == ground.open_transactions
        assert 0 == ground.observer.scalar("SELECT count(*) FROM author")
        db.commit()

    assert 1 == ground.observer.scalar("SELECT count(*) FROM author")


def test_loaded_objects_stay_loaded(ground: Ground) -> None:
    """Giving the connection back expires nothing: loaded attributes are read without a statement."""
    ground.observer.execute("INSERT INTO author (id, name, biography) VALUES (1, 'Ada', '')")
    with ground.session() as db:
        author = db.get_one(Author, 1)
        ground.elsewhere()
        before = len(ground.statements)

        assert "Ada" == author.name
        assert author is db.get(Author, 1)
        assert before == len(ground.statements)


def test_a_session_is_clean_again_after_commit(ground: Ground) -> None:
    """The unit that follows a commit begins clean: its reads hold nothing."""
    with ground.session() as db:
        db.add(Author(name="Grace"))
        db.commit()
        assert 0 == ground.open_transactions
        db.execute(select(Author))
        ground.elsewhere()

        assert 0 == ground.in_use


@pytest.mark.parametrize("statement", ["SELECT 1", "SELECT count(*) FROM author", "SELECT 1 AS one UNION SELECT 2"])
def test_a_textual_plain_read_is_a_plain_read(statement: str, ground: Ground) -> None:
    """``text()`` that is provably a plain SELECT begins nothing."""
    with ground.session() as db:
        db.execute(text(statement))

        assert "CLEAN" == sync_session(db).state
        assert 0 == ground.open_transactions


def test_clean_reads_see_what_others_commit(ground: Ground) -> None:
    """Two clean reads are two statements of their own: the second sees what was committed between them."""
    with ground.session() as db:
        assert 0 == len(db.scalars(select(Book.id)).all())
        ground.observer.execute("INSERT INTO author (id, name, biography) VALUES (1, 'Ada', '')")
        ground.observer.execute("INSERT INTO book (title, author_id) VALUES ('Notes', 1)")

        assert 1 == len(db.scalars(select(Book.id)).all())


def test_an_error_in_a_clean_read_leaves_the_session_clean(ground: Ground) -> None:
    """A failed read needs no rollback and gives its connection back; the next read works."""
    with ground.session() as db:
        with pytest.raises(Exception, match="no_such_table"):
            db.execute(text("SELECT count(*) FROM no_such_table"))
        ground.elsewhere()
        assert 0 == ground.in_use

        assert db.scalar(select(Account.id).limit(1)) is None


def test_a_pool_of_one_serves_many_clean_sessions(ground: Ground) -> None:
    """Clean sessions that are all open at once need one connection between them."""
    database = ground.another(pool_size=1, pool_timeout=1)
    sessions = [ground.session(database) for _ in range(5)]
    for db in sessions:
        db.execute(select(Account))
        ground.elsewhere()
    for db in sessions:
        assert 0 == len(db.scalars(select(Account)).all())
        ground.elsewhere()
    for db in sessions:
        db.close()
