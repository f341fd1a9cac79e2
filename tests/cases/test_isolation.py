"""An isolation level that is asked for is in force, at every place where it can be asked for, or refused."""

from __future__ import annotations

from inspect import signature
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sessionlocal import IsolationConflict

from .ground import Ground, sync_session
from .models import Account, Author

SNAPSHOTS = ("REPEATABLE READ", "SERIALIZABLE")
SERVERS = pytest.mark.backends("postgresql", "mariadb")


def level(ground: Ground, db: Session) -> str:
    """Return the level of the open transaction: as PostgreSQL says it, as MariaDB, which cannot say it, behaves."""
    if ground.dialect == "postgresql":
        return str(db.scalar(text("SHOW transaction_isolation"))).upper()
    ground.observer.execute("INSERT IGNORE INTO author (id, name, biography) VALUES (1, 'probe', '')")
    ground.observer.execute("UPDATE author SET biography = 'before'")
    read = select(Author.biography)
    before = db.scalar(read)
    try:
        ground.observer.execute("SELECT id FROM author FOR UPDATE NOWAIT")
    except DBAPIError:
        return "SERIALIZABLE"  # a plain read has locked the row
    ground.observer.execute("UPDATE author SET biography = 'after'")
    return "REPEATABLE READ" if before == db.scalar(read) else "READ COMMITTED"


def counts_while_others_write(ground: Ground, db: Session) -> list[int]:
    """Read twice; between the two somebody else adds an account."""
    first = len(db.scalars(select(Account.id)).all())
    ground.elsewhere()
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    return [first, len(db.scalars(select(Account.id)).all())]


@SERVERS
@pytest.mark.parametrize("asked", SNAPSHOTS)
def test_a_unit_reads_one_snapshot(asked: str, ground: Ground) -> None:
    """``database.session(isolation=...)`` begins at the first read, and its reads agree while others commit."""
    with ground.unit(isolation=asked) as db:
        if (ground.dialect, asked) == ("mariadb", "SERIALIZABLE"):
            db.scalars(select(Account.id)).all()  # locks what it read, so nobody can commit between
        else:
            assert [0, 0] == counts_while_others_write(ground, db)
        assert asked == level(ground, db)
        assert "OPEN" == sync_session(db).state


@SERVERS
@pytest.mark.parametrize("asked", SNAPSHOTS)
def test_a_connection_option_applies(asked: str, ground: Ground) -> None:
    """``session.connection(execution_options={"isolation_level": ...})`` on a fresh session is in force."""
    with ground.session() as db:
        db.connection(execution_options={"isolation_level": asked})
        db.execute(select(Account))
        assert asked == level(ground, db)
        db.rollback()


@SERVERS
def test_a_connection_option_applies_after_clean_reads(ground: Ground) -> None:
    """Clean reads have begun nothing, so the level asked for after them is in force."""
    with ground.session() as db:
        db.execute(select(Account))
        ground.elsewhere()
        db.execute(select(Account))
        db.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        assert [0, 0] == counts_while_others_write(ground, db)
        assert "REPEATABLE READ" == level(ground, db)
        db.rollback()


@pytest.mark.backends("postgresql", "mariadb")
def test_a_level_asked_for_after_a_write_is_refused(ground: Ground) -> None:
    """Once something is written the level cannot change, and saying so is better than ignoring it."""
    with ground.session() as db:
        db.execute(insert(Account).values(id=1, balance=0))
        with pytest.raises(IsolationConflict):
            db.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        db.commit()

    assert 1 == ground.observer.scalar("SELECT count(*) FROM account")


@SERVERS
def test_the_next_unit_has_the_default_again(ground: Ground) -> None:
    """A level holds for its transaction: the next one of the session and of the pool has the server's own."""
    database = ground.another(pool_size=1)
    with ground.session(database) as db:
        db.execute(insert(Account).values(id=1, balance=0))
        db.execute(select(Account))
        default = level(ground, db)
        db.rollback()
        db.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        db.execute(insert(Account).values(id=1, balance=0))
        assert "SERIALIZABLE" == level(ground, db)
        db.commit()
        db.execute(insert(Account).values(id=2, balance=0))
        assert default == level(ground, db)
        db.commit()
    with ground.session(database) as db:
        db.execute(insert(Account).values(id=3, balance=0))
        assert default == level(ground, db)
        db.commit()
    assert "SERIALIZABLE" != default


@SERVERS
@pytest.mark.parametrize("asked", SNAPSHOTS)
def test_the_level_of_the_database(asked: str, ground: Ground) -> None:
    """``Database(isolation_level=...)`` holds for every session, from its first statement on."""
    database = ground.another(isolation_level=asked)
    for id in (1, 2):
        with ground.session(database) as db:
            db.execute(select(Account))
            ground.elsewhere()
            assert "OPEN" == sync_session(db).state
            db.execute(insert(Account).values(id=id, balance=0))
            assert asked == level(ground, db)
            db.commit()


@SERVERS
def test_a_unit_may_differ_from_the_database(ground: Ground) -> None:
    """The level of a unit goes before the one of its database, which is back afterwards."""
    database = ground.another(isolation_level="REPEATABLE READ", pool_size=1)
    with ground.unit(database, isolation="READ COMMITTED") as db:
        db.execute(insert(Account).values(id=1, balance=0))
        assert "READ COMMITTED" == level(ground, db)
    with ground.unit(database) as db:
        db.execute(insert(Account).values(id=2, balance=0))
        assert "REPEATABLE READ" == level(ground, db)


@SERVERS
def test_a_level_that_is_no_snapshot_does_not_begin(ground: Ground) -> None:
    """READ COMMITTED, asked for by name, keeps clean reads clean: each of them sees what is committed."""
    with ground.unit(isolation="READ COMMITTED") as db:
        assert [0, 1] == counts_while_others_write(ground, db)
        assert "CLEAN" == sync_session(db).state
        db.execute(insert(Account).values(id=2, balance=0))
        assert "READ COMMITTED" == level(ground, db)


def test_autocommit_never_begins(ground: Ground) -> None:
    """Under AUTOCOMMIT each statement is stored at once and ``rollback()`` undoes nothing."""
    with ground.session() as db:
        db.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        db.execute(insert(Account).values(id=1, balance=0))
        assert 0 == ground.open_transactions
        assert 1 == ground.observer.scalar("SELECT count(*) FROM account")
        db.rollback()

    assert 1 == ground.observer.scalar("SELECT count(*) FROM account")
    with ground.session() as db:
        db.execute(insert(Account).values(id=2, balance=0))
        assert 1 == ground.observer.scalar("SELECT count(*) FROM account")
        db.rollback()


def test_a_database_in_autocommit_never_begins(ground: Ground) -> None:
    """``Database(isolation_level="AUTOCOMMIT")`` stores each statement at once."""
    database = ground.another(isolation_level="AUTOCOMMIT")
    with ground.session(database) as db:
        db.execute(insert(Account).values(id=1, balance=0))
        db.rollback()
    with ground.connect(database) as connection:
        connection.execute(insert(Account).values(id=2, balance=0))

    assert 2 == ground.observer.scalar("SELECT count(*) FROM account")


@SERVERS
def test_execution_options_of_the_factory(ground: Ground) -> None:
    """A level among the ``execution_options`` of a session (SQLAlchemy 2.1) is in force; 2.0 refuses the option."""
    options: Any = {"execution_options": {"isolation_level": "SERIALIZABLE"}}
    if "execution_options" not in signature(Session.__init__).parameters:
        with pytest.raises(TypeError):
            ground.session(**options)
        return
    with ground.session(**options) as db:
        db.execute(insert(Account).values(id=1, balance=0))
        assert "SERIALIZABLE" == level(ground, db)
        db.rollback()


@pytest.mark.backends("sqlite")
def test_serializable_begins_with_the_first_read_on_sqlite(ground: Ground) -> None:
    """A unit that asks for SERIALIZABLE reads one snapshot on SQLite, where nobody else may write meanwhile."""
    with ground.unit(isolation="SERIALIZABLE") as db:
        db.execute(select(Account))
        ground.elsewhere()
        assert "OPEN" == sync_session(db).state
        with pytest.raises(Exception, match="locked"):
            ground.observer.execute("INSERT INTO account (id, balance) VALUES (9, 0)")
