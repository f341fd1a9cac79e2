"""The cause of a database error is told from its code alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sessionlocal import CommitUnknown, causes
from sessionlocal.causes import Cause, cause_of

TABLES = (
    *causes.BY_SQLSTATE.values(),
    *causes.BY_SQLSTATE_CLASS.values(),
    *causes.BY_ERRNO.values(),
    *causes.BY_SQLITE.values(),
    *causes.BY_SQLITE_PRIMARY.values(),
)


class Coded(Exception):
    """A driver's error with the attributes of PostgreSQL's drivers."""

    def __init__(self, *arguments: object, **attributes: object) -> None:
        super().__init__(*arguments)
        vars(self).update(attributes)


def raised(original: BaseException, *, invalidated: bool = False) -> DBAPIError:
    """Return the error as SQLAlchemy raises it."""
    return DBAPIError("SELECT 1", {}, original, connection_invalidated=invalidated)


@pytest.mark.parametrize(
    ("original", "expected"),
    [
        (Coded("duplicate", sqlstate="23505"), causes.UNIQUE),
        (Coded("duplicate", pgcode="23505"), causes.UNIQUE),
        (Coded(1062, "Duplicate entry", sqlstate="23000"), causes.UNIQUE),
        (Coded(1452, "Cannot add"), causes.FOREIGN_KEY),
        (Coded("gone", sqlstate="08006"), causes.UNAVAILABLE),
        (Coded("busy", sqlite_errorcode=517), causes.LOCKED),
        (Coded("unique", sqlite_errorcode=2067), causes.UNIQUE),
        (ConnectionRefusedError(111, "refused"), causes.UNAVAILABLE),
        (Coded("syntax error", sqlstate="42601"), None),
        (Coded("a text alone, duplicate key, 23505"), None),
    ],
    ids=str,
)
def test_a_code_has_one_cause(original: BaseException, expected: Cause | None) -> None:
    """SQLSTATE, errno and SQLite's result codes lead to the cause; the text of a message never does."""
    assert expected is cause_of(raised(original))


def test_a_lost_connection_without_a_code_is_unavailability() -> None:
    """Some drivers give no code when a connection breaks; SQLAlchemy knows that it did."""
    assert causes.UNAVAILABLE is cause_of(raised(Coded("closed"), invalidated=True))


def test_errors_that_are_not_the_databases() -> None:
    """A pool without a free connection is busy, a lost acknowledgement is unknown, and a bug is nobody's cause."""
    assert causes.BUSY is cause_of(PoolTimeout("QueuePool limit"))
    assert causes.OUTCOME_UNKNOWN is cause_of(CommitUnknown("lost"))
    assert None is cause_of(InvalidRequestError("misuse"))
    assert None is cause_of(ValueError("a bug"))


@pytest.mark.parametrize("cause", sorted(set(TABLES), key=lambda cause: cause.name), ids=lambda cause: cause.name)
def test_every_cause_is_documented_with_its_status(cause: Cause) -> None:
    """The page "Errors" has a row for each cause, with the status that a client gets."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "errors.md").read_text()

    assert f"| `{cause.name}` | {cause.status} |" in page


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("INSERT INTO t (id, name) VALUES (1, 'a')", causes.UNIQUE),
        ("INSERT INTO t (id, name) VALUES (2, NULL)", causes.NOT_NULL),
        ("INSERT INTO t (id, name, n) VALUES (2, 'b', -1)", causes.CHECK),
        ("INSERT INTO t (id, name, parent) VALUES (2, 'b', 99)", causes.FOREIGN_KEY),
    ],
)
def test_sqlite_speaks_in_extended_codes(statement: str, expected: Cause) -> None:
    """What Python's own SQLite raises carries the codes of the table."""
    connection: Any = sqlite3.connect(":memory:")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT NOT NULL, n INTEGER CHECK (n > 0), parent REFERENCES t (id))"
    )
    connection.execute("INSERT INTO t (id, name) VALUES (1, 'a')")

    with pytest.raises(sqlite3.IntegrityError) as caught:
        connection.execute(statement)

    assert expected is cause_of(IntegrityError(statement, {}, caught.value))
    connection.close()


def test_operational_errors_are_looked_up_like_all_others() -> None:
    """The class that SQLAlchemy chose does not matter, the code does."""
    assert causes.DEADLOCK is cause_of(OperationalError("UPDATE", {}, Coded(1213, "Deadlock found")))
