"""A locking select brings the objects that it locks up to date, and never overwrites what was changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from .ground import Ground
from .models import Account

LOCKING: dict[str, Callable[[Session], Any]] = {
    "execute": lambda db: db.execute(select(Account).with_for_update()).scalar_one(),
    "scalars": lambda db: db.scalars(select(Account).with_for_update()).one(),
    "scalar": lambda db: db.scalar(select(Account).with_for_update()),
    "get": lambda db: db.get(Account, 1, with_for_update=True),
    "get_one": lambda db: db.get_one(Account, 1, with_for_update=True),
    "refresh": lambda db: db.refresh(db.get_one(Account, 1), with_for_update=True),
}
ANY = pytest.mark.parametrize("lock", LOCKING.values(), ids=LOCKING.keys())


@pytest.fixture
def stale(ground: Ground) -> Callable[[Session], Account]:
    """Return a function that loads an account with a balance of 5, which somebody else then sets to 6."""

    def load(db: Session) -> Account:
        ground.observer.execute("INSERT INTO account (id, balance) VALUES (1, 5)")
        account = db.get_one(Account, 1)
        ground.elsewhere()
        ground.observer.execute("UPDATE account SET balance = 6")
        assert 5 == account.balance
        return account

    return load


@ANY
def test_a_locking_select_refreshes(
    lock: Callable[[Session], Any], stale: Callable[[Session], Account], ground: Ground
) -> None:
    """An object that was read before the lock shows what the database holds under the lock."""
    with ground.session() as db:
        account = stale(db)
        lock(db)

        assert 6 == account.balance
        account.balance += 1
        db.commit()

    assert 7 == ground.observer.scalar("SELECT balance FROM account")


@pytest.mark.parametrize(
    "lock", [LOCKING["scalars"], LOCKING["get"], LOCKING["scalar"]], ids=["scalars", "get", "scalar"]
)
def test_a_modified_object_is_not_overwritten(
    lock: Callable[[Session], Any], stale: Callable[[Session], Account], ground: Ground
) -> None:
    """With autoflush off, what was changed and not flushed survives a locking select."""
    with ground.session(autoflush=False) as db:
        account = stale(db)
        account.balance = 50
        lock(db)

        assert 50 == account.balance
        db.commit()

    assert 50 == ground.observer.scalar("SELECT balance FROM account")


def test_a_change_is_flushed_before_the_lock(stale: Callable[[Session], Account], ground: Ground) -> None:
    """With autoflush on, what was changed is written before a locking select reads it back."""
    with ground.session() as db:
        account = stale(db)
        account.balance = 50
        db.scalars(select(Account).with_for_update()).one()

        assert 50 == account.balance
        db.rollback()


def test_an_unlocked_select_does_not_refresh(stale: Callable[[Session], Account], ground: Ground) -> None:
    """Without a lock an object keeps what was loaded, as in plain SQLAlchemy."""
    with ground.session() as db:
        account = stale(db)
        db.scalars(select(Account)).one()

        assert 5 == account.balance


def test_the_user_may_refuse_the_refresh(stale: Callable[[Session], Account], ground: Ground) -> None:
    """``populate_existing=False`` is honoured."""
    with ground.session() as db:
        account = stale(db)
        db.scalars(select(Account).with_for_update(), execution_options={"populate_existing": False}).one()

        assert 5 == account.balance
        db.rollback()
