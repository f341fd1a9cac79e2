"""SQLite: pysqlite and aiosqlite.

``isolation_level = None`` keeps the driver from beginning by itself. A writing transaction begins with BEGIN
IMMEDIATE: a deferred one that has read cannot become a writer once somebody else has written, and no busy timeout
helps it. A read-only one is deferred, guarded by ``PRAGMA query_only``. pysqlite steps through a result while it is
fetched, so a sync session reads it whole before the connection leaves.
"""

from __future__ import annotations

from sqlalchemy.util import await_only

from .protocol import DBAPIConnection, Terms, driver_of


class SQLiteEdge:
    """A SQLite database, on disk or in memory."""

    dialect = "sqlite"
    streams_in_transaction = False  # BEGIN IMMEDIATE would keep every writer waiting for the reader's last row

    def __init__(self, *, rows_buffered: bool) -> None:
        self.rows_buffered = rows_buffered

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        return bool(driver_of(connection).in_transaction)

    def is_closed(self, connection: DBAPIConnection) -> bool:
        return False

    def breaks(self, error: Exception) -> bool:
        return False

    def denies(self, error: Exception) -> bool:
        return False

    def is_resting(self, connection: DBAPIConnection) -> bool:
        return connection.isolation_level is None

    def rest(self, connection: DBAPIConnection) -> None:
        connection.isolation_level = None

    def restore(self, connection: DBAPIConnection) -> None:
        connection.isolation_level = ""

    def arm(self, connection: DBAPIConnection, terms: Terms) -> None:
        self.begin(connection, terms)

    def begin(self, connection: DBAPIConnection, terms: Terms) -> None:
        if terms.read_only:
            _run(connection, "PRAGMA query_only = 1")
        _run(connection, "BEGIN" if terms.read_only else "BEGIN IMMEDIATE")

    def commit(self, connection: DBAPIConnection) -> None:
        connection.commit()

    def rollback(self, connection: DBAPIConnection) -> None:
        connection.rollback()

    def survives(self, connection: DBAPIConnection, error: Exception) -> bool:
        return self.in_transaction(connection)

    def dooms(self, error: Exception) -> bool:
        return False

    def abandon(self, connection: DBAPIConnection) -> None:
        # SQLite closes for good when the last cursor is gone, and an exception on its way may hold one: until then the
        # transaction would keep its lock (tests/faults/test_cancellation_effects.py).
        driver = driver_of(connection)
        if driver is connection:
            driver.interrupt()
        else:
            await_only(driver.interrupt())
        connection.rollback()

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        if terms.read_only:
            _run(connection, "PRAGMA query_only = 0")


def _run(connection: DBAPIConnection, statement: str) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(statement)
    finally:
        cursor.close()
