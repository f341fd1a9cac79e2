"""``SessionLocal()`` keeps SQLAlchemy's meaning; ``database.session()`` is one unit of work that commits."""

# ruff: noqa: PT012 - the blocks under test are those that an exception leaves

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import event, insert, select, text, update
from sqlalchemy.orm import Session

from sessionlocal import Database, SessionClosed
from sessionlocal.events import CommitFailed, Committed, RolledBack

from .ground import Ground, sync_session
from .models import Account, Author

SESSION_LOG = "sessionlocal.session"


def stored(ground: Ground) -> list[int]:
    """Return the ids of the accounts that are committed."""
    return [id for (id,) in ground.observer.all("SELECT id FROM account ORDER BY id")]


def test_the_end_of_a_session_commits_nothing(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    """Work left behind in ``with SessionLocal() as db`` is rolled back, and a warning names the line that opened it."""
    with ground.session() as db:
        db.add(Account(id=1))
        db.flush()

    assert [] == stored(ground)
    assert 0 == ground.open_transactions
    (record,) = [record for record in caplog.records if record.name == SESSION_LOG]
    assert logging.WARNING == record.levelno
    assert "uncommitted work" in record.getMessage()


async def test_the_warning_names_the_line_of_an_async_session(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning about lost work names file, line and function that opened the session."""
    async with database.SessionLocal() as db:
        db.add(Account(id=1))

    assert f"{__file__}:" in caplog.text
    assert "test_the_warning_names_the_line_of_an_async_session" in caplog.text


@pytest.mark.usefixtures("sync_backend")
def test_the_warning_names_the_line_of_a_sync_session(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    """The same for a sync session."""
    with ground.database.SyncSessionLocal() as db:
        db.add(Account(id=1))

    assert f"{__file__}:" in caplog.text
    assert "test_the_warning_names_the_line_of_a_sync_session" in caplog.text


def test_a_session_that_only_read_ends_quietly(ground: Ground, caplog: pytest.LogCaptureFixture) -> None:
    """Reading, or committing everything, leaves nothing to warn about."""
    with ground.session() as db:
        db.execute(select(Account))
    with ground.session() as db:
        db.add(Account(id=1))
        db.commit()
        db.execute(select(Account))
    with ground.session() as db:
        db.add(Account(id=2))
        db.rollback()

    assert [] == [record.getMessage() for record in caplog.records if record.name == SESSION_LOG]


def test_an_exception_rolls_back(ground: Ground) -> None:
    """An exception that leaves the block stores nothing and leaves nothing open."""
    with pytest.raises(ZeroDivisionError), ground.session() as db:
        db.add(Account(id=1))
        db.flush()
        raise ZeroDivisionError

    assert [] == stored(ground)
    assert 0 == ground.open_transactions


def test_several_commits(ground: Ground) -> None:
    """One session may commit as often as it likes; each commit stores what came before it."""
    with ground.session() as db:
        for id in (1, 2, 3):
            db.add(Account(id=id))
            db.commit()
            assert id == stored(ground)[-1]
        db.add(Account(id=4))
        db.rollback()

    assert [1, 2, 3] == stored(ground)


def test_use_after_close(ground: Ground) -> None:
    """A session that has ended refuses work, and says where it was opened and what to do."""
    db = ground.session()
    db.execute(select(Account))
    db.close()

    with pytest.raises(SessionClosed, match=r"this session has ended.*DBS302"):
        db.execute(select(Account))
    with pytest.raises(SessionClosed):
        db.add(Account(id=1))
        db.commit()
    assert 0 == ground.in_use


def test_close_may_be_a_reset(ground: Ground) -> None:
    """``close_resets_only=True`` is honoured: the session may be used again after ``close()``."""
    db = ground.session(close_resets_only=True)
    db.execute(select(Account))
    db.close()
    db.add(Account(id=1))
    db.commit()
    db.close()

    assert [1] == stored(ground)


def test_closing_twice(ground: Ground) -> None:
    """``close()`` of a closed session does nothing."""
    db = ground.session()
    db.execute(select(Account))
    db.close()
    db.close()

    assert "CLOSED" == sync_session(db).state


def test_objects_outlive_their_session(ground: Ground) -> None:
    """What was loaded can be read after the session ended."""
    ground.observer.execute("INSERT INTO author (id, name, biography) VALUES (1, 'Ada', '')")
    with ground.session() as db:
        author = db.get_one(Author, 1)

    assert "Ada" == author.name


def test_configure(ground: Ground) -> None:
    """``SessionLocal.configure()`` changes the sessions that are opened later, and no others."""
    database = ground.another()
    factory: Any = database.SessionLocal if ground.is_async else database.SyncSessionLocal
    factory.configure(autoflush=False, info={"tenant": "acme"})
    with ground.session(database) as db:
        assert not db.autoflush
        assert "acme" == db.info["tenant"]
    with ground.session() as db:
        assert db.autoflush


def test_a_unit_commits(ground: Ground) -> None:
    """``database.session()`` commits at its end, states it as a fact, and closes the session."""
    facts: list[Any] = []
    ground.database.facts.subscribe(facts.append)
    with ground.unit() as db:
        db.add(Account(id=1))

    assert [1] == stored(ground)
    assert [Committed] == [type(fact) for fact in facts]
    with pytest.raises(SessionClosed):
        db.execute(select(Account))


def test_a_unit_that_only_reads_commits_nothing(ground: Ground) -> None:
    """A unit that wrote nothing ends without a transaction."""
    facts: list[Any] = []
    ground.database.facts.subscribe(facts.append)
    with ground.unit() as db:
        db.execute(select(Account))

    assert [] == facts
    assert 0 == ground.in_use


def test_a_unit_rolls_back(ground: Ground) -> None:
    """An exception that leaves ``database.session()`` rolls it back and is raised unchanged."""
    facts: list[Any] = []
    ground.database.facts.subscribe(facts.append)
    with pytest.raises(ZeroDivisionError), ground.unit() as db:
        db.add(Account(id=1))
        db.flush()
        raise ZeroDivisionError

    assert [] == stored(ground)
    assert [RolledBack] == [type(fact) for fact in facts]
    assert 0 == ground.open_transactions


def test_a_unit_whose_flush_fails(ground: Ground) -> None:
    """An error of the last flush leaves the unit, which states that its commit failed."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    facts: list[Any] = []
    ground.database.facts.subscribe(facts.append)
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"), ground.unit() as db:
        db.add(Account(id=2))
        db.flush()
        db.add(Account(id=1))

    assert [1] == stored(ground)
    assert CommitFailed in [type(fact) for fact in facts]
    assert 0 == ground.open_transactions


@pytest.mark.backends("postgresql", "mariadb")  # on SQLite the inner writer would wait for the outer one
def test_units_inside_units_are_independent(ground: Ground) -> None:
    """A unit inside another one is stored although the outer one fails."""
    with pytest.raises(ZeroDivisionError), ground.unit() as outer:
        outer.add(Account(id=1))
        outer.flush()
        with ground.unit() as inner:
            inner.add(Account(id=2))
        raise ZeroDivisionError

    assert [2] == stored(ground)


def test_listeners_of_the_session_fire(ground: Ground) -> None:
    """Listeners on the session see what they see in SQLAlchemy, in the same order, once each."""
    heard: list[str] = []
    with ground.session() as db:
        session = sync_session(db)
        for name in ("before_flush", "after_flush", "before_commit", "after_commit", "after_begin", "do_orm_execute"):
            event.listen(session, name, lambda *_, name=name: heard.append(name))
        db.execute(select(Account))
        ground.elsewhere()
        db.add(Account(id=1))
        db.commit()

    assert ["do_orm_execute", "after_begin", "before_commit", "before_flush", "after_flush", "after_commit"] == heard


def test_listeners_of_the_engine_fire(ground: Ground) -> None:
    """Listeners on the engine see each statement of a session, and may change it."""
    seen: list[str] = []

    @event.listens_for(ground.engine, "before_cursor_execute", retval=True)
    def tag(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        seen.append(statement)
        return f"{statement} /* tagged */", parameters

    with ground.session() as db:
        db.execute(select(Account.id))
        assert "CLEAN" == sync_session(db).state
        db.execute(insert(Account).values(id=1, balance=0))
        db.commit()

    assert 2 == len(seen)
    assert [1] == stored(ground)


def test_a_listener_that_writes_begins(ground: Ground) -> None:
    """SQL that a listener sends on the session's connection is part of the session's transaction."""

    def count(session: Session, *_: Any) -> None:
        session.connection().execute(update(Account).values(balance=Account.balance + 1))

    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    with ground.session() as db:
        event.listen(sync_session(db), "before_flush", count)
        db.add(Account(id=2))
        db.flush()
        db.rollback()
        assert [(1, 0)] == ground.observer.all("SELECT id, balance FROM account")
        db.add(Account(id=2))
        db.commit()

    assert [(1, 1), (2, 0)] == ground.observer.all("SELECT id, balance FROM account ORDER BY id")


def test_a_commit_failure_in_a_listener(ground: Ground) -> None:
    """An exception of a ``before_commit`` listener stores nothing."""

    def refuse(session: Session) -> None:
        raise ZeroDivisionError

    with ground.session() as db:
        event.listen(sync_session(db), "before_commit", refuse)
        db.add(Account(id=1))
        db.flush()
        with pytest.raises(ZeroDivisionError):
            db.commit()
        db.rollback()

    assert [] == stored(ground)
    assert 0 == ground.open_transactions


@pytest.mark.backends("postgresql")
def test_schema_translate_map(ground: Ground) -> None:
    """``schema_translate_map`` of a session's connection, or of one statement, chooses the schema."""
    ground.observer.execute("CREATE SCHEMA IF NOT EXISTS tenant")
    ground.observer.execute("CREATE TABLE IF NOT EXISTS tenant.account (id int PRIMARY KEY, balance int NOT NULL)")
    ground.observer.execute("INSERT INTO tenant.account VALUES (7, 0) ON CONFLICT DO NOTHING")
    options: Any = {"schema_translate_map": {None: "tenant"}}
    with ground.session() as db:
        assert [7] == list(db.scalars(select(Account.id), execution_options=options))
        assert [] == list(db.scalars(select(Account.id)))
        assert "CLEAN" == sync_session(db).state
    with ground.session() as db:
        db.connection(execution_options=options)
        db.add(Account(id=8))
        db.flush()
        assert [7, 8] == list(db.scalars(select(Account.id).order_by(Account.id)))
        db.rollback()
    ground.observer.execute("DROP SCHEMA tenant CASCADE")


def test_autobegin_off(ground: Ground) -> None:
    """``autobegin=False`` is honoured: nothing works before ``begin()``, everything inside."""
    with ground.session(autobegin=False) as db:
        with pytest.raises(Exception, match="Autobegin is disabled"):
            db.execute(select(Account))
        with db.begin():
            db.add(Account(id=1))

    assert [1] == stored(ground)


@pytest.mark.backends("postgresql", "mariadb")  # SQLite refuses BEGIN in the transaction that begins for it
def test_a_raw_begin_is_followed(ground: Ground) -> None:
    """A transaction that the user begins with text is ended by ``commit()`` or ``rollback()`` of the session."""
    words = "START TRANSACTION" if ground.dialect == "mariadb" else "BEGIN"
    with ground.session() as db:
        db.execute(text(words))
        db.execute(insert(Account).values(id=1, balance=0))
        db.rollback()
        assert [] == stored(ground)
        assert 0 == ground.open_transactions
