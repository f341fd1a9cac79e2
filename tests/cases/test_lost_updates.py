"""Eight writers add to one balance, each reading it first. Which forms lose nothing, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from .ground import Ground, only
from .models import Account, VersionedAccount

WRITERS = 8
ROUNDS = 30

pytestmark = pytest.mark.database(pool_size=WRITERS, lock_timeout=30)


def lock_and_add(ground: Ground) -> None:
    """Read with ``with_for_update``, add, commit."""
    with ground.unit() as db:
        account = db.scalars(select(Account).with_for_update()).one()
        account.balance += 1


def get_locked_and_add(ground: Ground) -> None:
    """``get(with_for_update=True)`` after a plain read of the same row."""
    with ground.unit() as db:
        db.get_one(Account, 1)
        db.get_one(Account, 1, with_for_update=True).balance += 1


def add_in_one_statement(ground: Ground) -> None:
    """Let the database add."""
    with ground.unit() as db:
        db.execute(update(Account).values(balance=Account.balance + 1))


def lock_in_a_block(ground: Ground) -> None:
    """``begin()`` and ``with_for_update``."""
    with ground.session() as db, db.begin():
        db.scalars(select(Account).with_for_update()).one().balance += 1


def lock_in_a_unit_that_begins(ground: Ground) -> None:
    """``database.session(begin=True)`` and ``with_for_update``."""
    with ground.unit(begin=True) as db:
        db.scalars(select(Account).with_for_update()).one().balance += 1


def add_with_a_version(ground: Ground) -> None:
    """Read without a lock, write with a version column, again when somebody was faster."""
    while True:
        try:
            with ground.unit() as db:
                db.get_one(VersionedAccount, 1).balance += 1
            return
        except StaleDataError:
            continue


def read_in_a_block(ground: Ground) -> None:
    """``begin()`` and an unlocked read."""
    with ground.session() as db, db.begin():
        db.get_one(Account, 1).balance += 1


def read_in_a_unit_that_begins(ground: Ground) -> None:
    """``database.session(begin=True)`` and an unlocked read."""
    with ground.unit(begin=True) as db:
        db.get_one(Account, 1).balance += 1


SAFE = [lock_and_add, get_locked_and_add, add_in_one_statement, lock_in_a_block, lock_in_a_unit_that_begins]
SAFE_ON_SQLITE = [read_in_a_block, read_in_a_unit_that_begins]


def race(ground: Ground, add: Callable[[Ground], None], rounds: int = ROUNDS) -> None:
    """Let eight tasks or threads add, each so many times."""
    start = ground.meeting(WRITERS)

    def write() -> None:
        start()
        for _ in range(rounds):
            add(ground)

    only(ground.together(*[write] * WRITERS))


@pytest.mark.parametrize("add", SAFE, ids=lambda form: form.__name__)
def test_a_recommended_form_loses_nothing(add: Callable[[Ground], None], ground: Ground) -> None:
    """A lock before the read, or an atomic UPDATE, loses no update on any database."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    race(ground, add)

    assert WRITERS * ROUNDS == ground.observer.scalar("SELECT balance FROM account")


def test_a_version_column_loses_nothing(ground: Ground) -> None:
    """A writer that was overtaken gets StaleDataError, tries again, and every update counts."""
    ground.observer.execute("INSERT INTO versioned_account (id, balance, version) VALUES (1, 0, 1)")
    race(ground, add_with_a_version, rounds=5)  # few: each round of one writer makes the other seven try again

    assert WRITERS * 5 == ground.observer.scalar("SELECT balance FROM versioned_account")
    assert WRITERS * 5 + 1 == ground.observer.scalar("SELECT version FROM versioned_account")


@pytest.mark.backends("sqlite")
@pytest.mark.parametrize("add", SAFE_ON_SQLITE, ids=lambda form: form.__name__)
def test_a_block_alone_loses_nothing_on_sqlite(add: Callable[[Ground], None], ground: Ground) -> None:
    """On SQLite a unit opened before the read takes the write lock, which is enough."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    race(ground, add)

    assert WRITERS * ROUNDS == ground.observer.scalar("SELECT balance FROM account")


def interleaved(ground: Ground, **options: Any) -> tuple[list[Any], int]:
    """Two units read the same balance, then both add to it; return their outcomes and the balance."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    both_have_read = ground.meeting(2)

    def write() -> str:
        with ground.unit(**options) as db:
            account = db.get_one(Account, 1)
            both_have_read()
            account.balance += 1
        return "stored"

    outcomes = ground.together(write, write)
    return outcomes, ground.observer.scalar("SELECT balance FROM account")


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.backends("postgresql", "mariadb")
def test_an_unlocked_read_loses_an_update_on_a_server(begin: bool, ground: Ground) -> None:
    """On PostgreSQL and MariaDB opening the unit before an unlocked read does not keep another update from being
    lost."""
    outcomes, balance = interleaved(ground, begin=begin)
    assert ["stored", "stored"] == outcomes

    assert 1 == balance


@pytest.mark.backends("sqlite")
def test_an_unlocked_read_outside_a_block_loses_an_update_on_sqlite(ground: Ground) -> None:
    """On SQLite a clean read, too, is a read without a lock."""
    outcomes, balance = interleaved(ground)
    assert ["stored", "stored"] == outcomes

    assert 1 == balance


@pytest.mark.backends("postgresql", "mariadb")
def test_serializable_refuses_the_second_of_two(ground: Ground) -> None:
    """Under SERIALIZABLE one of two units that read and write the same row is refused; no update is lost."""
    outcomes, balance = interleaved(ground, isolation="SERIALIZABLE")

    assert 1 == outcomes.count("stored")
    assert 1 == sum(isinstance(outcome, DBAPIError) for outcome in outcomes)
    assert 1 == balance


def test_a_locked_reader_waits_for_the_writer(ground: Ground) -> None:
    """The second of two locking units reads what the first one stored."""
    ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")
    locked = ground.moment()
    seen: list[int] = []

    def first(db: Session) -> None:
        account = db.scalars(select(Account).with_for_update()).one()
        locked.reach()
        ground.elsewhere()
        account.balance = 10

    def second(db: Session) -> None:
        locked.wait()
        seen.append(db.scalars(select(Account).with_for_update()).one().balance)

    def run(work: Callable[[Session], None]) -> Callable[[], None]:
        def unit() -> None:
            with ground.unit() as db:
                work(db)

        return unit

    only(ground.together(run(first), run(second)))
    assert [10] == seen
