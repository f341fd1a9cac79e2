"""A transaction begins with the first statement that is not certainly a plain read, and not before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, func, insert, literal_column, select, text, update
from sqlalchemy.orm import Session

from sessionlocal.session import SessionRules

from .ground import Blocking, Ground, lease_of, sync_session
from .models import Account, Author

WRITES: dict[str, Callable[[Session], Any]] = {
    "flush": lambda db: (db.add(Account(id=2)), db.flush()),
    "ORM insert": lambda db: db.execute(insert(Account), [{"id": 2, "balance": 0}, {"id": 3, "balance": 0}]),
    "ORM update": lambda db: db.execute(update(Account).values(balance=7)),
    "Core insert": lambda db: db.execute(Account.__table__.insert().values(id=2, balance=0)),
    "Core delete": lambda db: db.execute(Account.__table__.delete()),
    "text": lambda db: db.execute(text("UPDATE account SET balance = 7")),
    "text with a comment": lambda db: db.execute(text("/* SELECT */ DELETE FROM account -- SELECT")),
    "text in lower case": lambda db: db.execute(text("  insert into account (id, balance) values (2, 0)")),
    "bulk_save_objects": lambda db: sync_session(db).bulk_save_objects([Account(id=2, balance=0)]),
}


@pytest.fixture
def account(ground: Ground) -> None:
    """One account with a balance of 5."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 5)")


def accounts(ground: Ground) -> list[tuple[Any, ...]]:
    """Return what is committed."""
    return ground.observer.all("SELECT id, balance FROM account ORDER BY id")


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_begins_a_transaction(write: Callable[[Session], Any], ground: Ground) -> None:
    """After a write of any kind nothing is visible outside until commit, and rollback undoes it."""
    with ground.session() as db:
        db.execute(select(Account))
        ground.elsewhere()
        write(db)

        assert "OPEN" == sync_session(db).state
        assert 1 == ground.open_transactions
        assert [(1, 5)] == accounts(ground)
        db.rollback()
        assert 0 == ground.open_transactions

    assert [(1, 5)] == accounts(ground)


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_write_is_stored_by_commit(write: Callable[[Session], Any], ground: Ground) -> None:
    """``commit()`` stores a write of any kind."""
    with ground.session() as db:
        write(db)
        db.commit()

    assert [(1, 5)] != accounts(ground)


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    "read",
    [
        lambda db: db.execute(select(Account).with_for_update()),
        lambda db: db.get(Account, 1, with_for_update=True),
        lambda db: db.scalars(select(Account).with_for_update()).all(),
        lambda db: db.scalar(select(Account.balance).with_for_update()),
        lambda db: db.refresh(db.get_one(Account, 1), with_for_update=True),
    ],
    ids=["execute", "get", "scalars", "scalar", "refresh"],
)
def test_a_locking_select_begins(read: Callable[[Session], Any], ground: Ground) -> None:
    """A locking select begins a transaction, keeps others from the row, and holds to the end."""
    with ground.session() as db:
        read(db)
        ground.elsewhere()

        assert 1 == ground.in_use
        assert 1 == ground.open_transactions
        with pytest.raises(Exception, match=r"(?i)lock"):
            ground.observer.execute("UPDATE account SET balance = 6")
        db.rollback()

    ground.observer.execute("UPDATE account SET balance = 6")


def test_a_savepoint_begins(ground: Ground) -> None:
    """A plain read inside ``begin_nested()`` opens the savepoint and the transaction that it lives in."""
    with ground.session() as db:
        with db.begin_nested():
            db.execute(select(Account))
            assert "OPEN" == sync_session(db).state
        ground.elsewhere()

        assert 1 == ground.in_use


def test_the_connection_of_a_session_is_in_the_transaction(ground: Ground) -> None:
    """``session.connection()`` begins at once and keeps the connection to the end of the transaction."""
    with ground.session() as db:
        db.execute(select(Account))
        ground.elsewhere()
        connection = db.connection()
        ground.elsewhere()

        assert 1 == ground.in_use
        assert "OPEN" == sync_session(db).state
        connection.execute(insert(Account).values(id=1, balance=1))
        assert [] == accounts(ground)
        db.rollback()

    assert [] == accounts(ground)


def test_what_goes_to_the_driver_is_rolled_back_too(ground: Ground) -> None:
    """A raw INSERT through the driver's connection belongs to the session's transaction."""
    with ground.session() as db:
        raw = sync_connection(db.connection()).connection.dbapi_connection
        assert raw is not None
        cursor = raw.cursor()
        cursor.execute("INSERT INTO account (id, balance) VALUES (1, 1)")
        cursor.close()
        ground.elsewhere()
        db.rollback()

    assert [] == accounts(ground)


def test_what_goes_to_the_driver_is_committed_too(ground: Ground) -> None:
    """A raw INSERT through the driver's connection is stored by the session's ``commit()``."""
    with ground.session() as db:
        raw = sync_connection(db.connection()).connection.dbapi_connection
        assert raw is not None
        cursor = raw.cursor()
        cursor.execute("INSERT INTO account (id, balance) VALUES (1, 1)")
        cursor.close()
        ground.elsewhere()
        assert [] == accounts(ground)
        db.commit()

    assert [(1, 1)] == accounts(ground)


def test_an_explicit_begin_begins_with_its_first_read(ground: Ground) -> None:
    """In a unit that the user began, a plain read opens the transaction and holds it."""
    with ground.session() as db, db.begin():
        db.execute(select(Account))
        ground.elsewhere()

        assert 1 == ground.in_use
        assert "OPEN" == sync_session(db).state


@pytest.mark.backends("postgresql")
@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL statement_timeout = '9s'",
        "SELECT set_config('statement_timeout', '9s', true)",
        "SELECT pg_advisory_xact_lock(1)",
        "CREATE TEMP TABLE scratch (id int) ON COMMIT DROP",
        "SELECT nextval('author_id_seq')",
        "SELECT my_function()",
        "WITH moved AS (DELETE FROM account RETURNING id) SELECT * FROM moved",
        "LOCK TABLE account",
    ],
)
def test_what_postgresql_sets_or_locks_begins(statement: str, ground: Ground) -> None:
    """SET, advisory locks, temporary tables, sequences and unknown functions begin a transaction."""
    ground.observer.execute("CREATE OR REPLACE FUNCTION my_function() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    with ground.session() as db:
        db.execute(text(statement))

        assert "OPEN" == sync_session(db).state
        db.rollback()


@pytest.mark.backends("postgresql")
def test_a_local_setting_lasts_for_the_transaction(ground: Ground) -> None:
    """What SET LOCAL set is in force for the statements after it, and gone after commit."""
    with ground.session() as db:
        db.execute(text("SET LOCAL search_path = pg_catalog"))
        ground.elsewhere()
        assert "pg_catalog" == db.scalar(text("SHOW search_path"))
        db.commit()

        assert "pg_catalog" != db.scalar(text("SHOW search_path"))


@pytest.mark.backends("postgresql")
def test_a_setting_made_when_a_transaction_begins_is_in_force(ground: Ground) -> None:
    """``SET LOCAL`` in an ``after_begin`` listener covers each statement of the unit, reads included."""
    with ground.session() as db:

        @event.listens_for(sync_session(db), "after_begin")
        def set_tenant(session: Session, transaction: Any, connection: Any) -> None:
            connection.execute(text("SET LOCAL my.tenant = 'acme'"))

        for _ in range(2):
            assert "acme" == db.scalar(text("SELECT current_setting('my.tenant')"))
            ground.elsewhere()
            db.execute(insert(Account).values(id=1, balance=0))
            assert "acme" == db.scalar(text("SELECT current_setting('my.tenant')"))
            db.rollback()


@pytest.mark.backends("postgresql")
def test_a_temporary_table_stays_with_its_unit(ground: Ground) -> None:
    """A temporary table is there for the following statements, since the connection stays."""
    with ground.session() as db:
        db.execute(text("CREATE TEMP TABLE scratch (id int) ON COMMIT DROP"))
        ground.elsewhere()
        db.execute(text("INSERT INTO scratch VALUES (1)"))
        ground.elsewhere()

        assert 1 == db.scalar(text("SELECT count(*) FROM scratch"))
        db.rollback()


@pytest.mark.backends("mariadb")
def test_what_follows_ddl_is_a_transaction_again(ground: Ground) -> None:
    """DDL commits implicitly on MariaDB; the next write begins again and rollback undoes it."""
    with ground.session() as db:
        db.execute(insert(Account).values(id=1, balance=1))
        db.execute(text("CREATE TABLE made_on_the_way (id int)"))
        db.execute(insert(Account).values(id=2, balance=2))
        assert [(1, 1)] == accounts(ground)
        db.rollback()

    ground.observer.execute("DROP TABLE made_on_the_way")
    assert [(1, 1)] == accounts(ground)


@pytest.mark.backends("mariadb")
@pytest.mark.parametrize(
    "statement",
    ["SET @tenant = 'acme'", "SELECT GET_LOCK('a', 0)", "SELECT @tenant := 1", "SELECT LAST_INSERT_ID(3)", "DO 1"],
)
def test_what_mariadb_keeps_on_the_connection_begins(statement: str, ground: Ground) -> None:
    """User variables, named locks and unknown functions hold the connection."""
    with ground.session() as db:
        db.execute(text(statement))
        ground.elsewhere()

        assert 1 == ground.in_use
        assert "OPEN" == sync_session(db).state
        db.execute(text("SELECT RELEASE_ALL_LOCKS()"))
        db.rollback()


@pytest.mark.backends("sqlite")
def test_ddl_on_sqlite_is_in_the_transaction(ground: Ground) -> None:
    """A table made in a unit is gone after its rollback."""
    with ground.session() as db:
        db.execute(text("CREATE TABLE made_on_the_way (id int)"))
        db.rollback()

    assert 0 == ground.observer.scalar("SELECT count(*) FROM sqlite_master WHERE name = 'made_on_the_way'")


def test_a_stream_holds_its_connection_until_it_is_exhausted(ground: Ground) -> None:
    """A streamed result keeps the connection across foreign awaits and gives it back after its last row."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)")
    with ground.session() as db:
        found = []
        for row in ground.stream(db, select(Account.id).order_by(Account.id)):
            ground.elsewhere()
            found.append(row.id)
            assert len(found) == 5 or ground.in_use == 1
        ground.elsewhere()

        assert [1, 2, 3, 4, 5] == found
        assert 0 == ground.in_use
        assert 0 == ground.open_transactions
        assert "CLEAN" == sync_session(db).state


def test_a_stream_gives_its_connection_back_when_it_is_closed(ground: Ground) -> None:
    """Closing a streamed result early gives the connection back."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)")
    with ground.session() as db:
        result = ground.stream(db, select(Account.id).order_by(Account.id))
        assert 1 == next(iter(result)).id
        ground.elsewhere()
        assert 1 == ground.in_use
        result.close()
        ground.elsewhere()

        assert 0 == ground.in_use
        assert 0 == ground.open_transactions


@pytest.mark.backends("sqlite", "postgresql")  # the MySQL protocol serves one result at a time
def test_a_read_beside_a_stream_does_not_end_it(ground: Ground) -> None:
    """A plain read while a stream is open leaves the stream's connection where it is."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)")
    with ground.session() as db:
        found = []
        for row in ground.stream(db, select(Account.id).order_by(Account.id)):
            assert 5 == db.scalar(select(func.count()).select_from(Account))
            ground.elsewhere()
            found.append(row.id)

        assert [1, 2, 3, 4, 5] == found


@pytest.mark.backends("sqlite", "postgresql")  # the MySQL protocol serves one result at a time
def test_a_write_beside_a_stream_outlives_it(ground: Ground) -> None:
    """A write while a stream is open makes the transaction an ordinary one: the stream's end does not commit it."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 1), (2, 2), (3, 3)")
    with ground.session() as db:
        for row in ground.stream(db, select(Account.id).order_by(Account.id)):
            db.execute(update(Account).where(Account.id == row.id).values(balance=9))
        ground.elsewhere()

        assert 1 == ground.in_use
        assert [(1, 1), (2, 2), (3, 3)] == accounts(ground)
        db.commit()

    assert [(1, 9), (2, 9), (3, 9)] == accounts(ground)


@pytest.mark.filterwarnings("ignore:.*was deleted while still open")  # psycopg reminds of what this test is about
def test_a_stream_left_open_ends_with_its_session(ground: Ground) -> None:
    """A session that is closed with a stream still open leaves nothing on the server."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)")
    with ground.session() as db:
        result = ground.stream(db, select(Account.id).order_by(Account.id))
        next(iter(result))

    ground.elsewhere()
    assert 0 == ground.in_use
    assert 0 == ground.open_transactions
    with ground.session() as db:
        assert 5 == db.scalar(select(func.count()).select_from(Account))


def test_the_opt_out_begins_with_the_first_statement(ground: Ground) -> None:
    """Under ``begin="first-statement"`` a plain read opens a transaction, as in plain SQLAlchemy."""
    database = ground.another(begin="first-statement")
    with ground.session(database) as db:
        db.execute(select(Account))
        ground.elsewhere()

        assert isinstance(sync_session(db), SessionRules)
        assert "OPEN" == sync_session(db).state
        assert lease_of(db).eager
        db.rollback()


def sync_connection(connection: Any) -> Any:
    """Return the sync Connection of either face."""
    return connection.target.sync_connection if isinstance(connection, Blocking) else connection


def test_a_name_that_looks_like_a_write_is_a_read(ground: Ground) -> None:
    """A literal, a quoted name and a column that spell a write do not begin one."""
    with ground.session() as db:
        db.execute(select(Author.name.label("Update")).where(Author.name == literal_column("'DELETE FROM author'")))

        assert "CLEAN" == sync_session(db).state
