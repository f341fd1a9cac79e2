"""MySQL and MariaDB: aiomysql, asyncmy, PyMySQL and mysqlclient.

Autocommit is a variable of the server's session, so switching it is a round trip: connections are opened with
autocommit on, stay so while sessions use them, and a transaction begins with START TRANSACTION. Each answer of the
server carries a flag that says whether one is open.
"""

from __future__ import annotations

import logging

from .protocol import DBAPIConnection, Terms, driver_of

log = logging.getLogger(__name__)

SERVER_STATUS_IN_TRANS = 0x0001
SERVER_STATUS_AUTOCOMMIT = 0x0002
SERVER_SHUTDOWN = 1053  # errno
CONNECTION_KILLED = 1927  # errno, MariaDB


class MySQLEdge:
    """MySQL or MariaDB. Rows are read whole unless a server-side cursor is used."""

    rows_buffered = True
    streams_in_transaction = True

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        return bool(_status(connection) & SERVER_STATUS_IN_TRANS)

    def is_closed(self, connection: DBAPIConnection) -> bool:
        driver = driver_of(connection)
        return bool(getattr(driver, "closed", False)) or not getattr(driver, "open", True)

    def breaks(self, error: Exception) -> bool:
        return False

    def denies(self, error: Exception) -> bool:
        return bool(error.args) and error.args[0] in (SERVER_SHUTDOWN, CONNECTION_KILLED)

    def is_resting(self, connection: DBAPIConnection) -> bool:
        return bool(_status(connection) & SERVER_STATUS_AUTOCOMMIT)

    def rest(self, connection: DBAPIConnection) -> None:
        connection.autocommit(True)

    def restore(self, connection: DBAPIConnection) -> None:
        connection.autocommit(False)

    def arm(self, connection: DBAPIConnection, terms: Terms) -> None:
        self.begin(connection, terms)

    def begin(self, connection: DBAPIConnection, terms: Terms) -> None:
        cursor = connection.cursor()
        try:
            if terms.isolation is not None:
                cursor.execute(f"SET TRANSACTION ISOLATION LEVEL {terms.isolation}")
            cursor.execute("START TRANSACTION READ ONLY" if terms.read_only else "START TRANSACTION")
        finally:
            cursor.close()

    def commit(self, connection: DBAPIConnection) -> None:
        connection.commit()

    def rollback(self, connection: DBAPIConnection) -> None:
        connection.rollback()

    def survives(self, connection: DBAPIConnection, error: Exception) -> bool:
        # A refusal carries no flags. A deadlock ends the whole transaction, and what the unit writes next would be
        # stored at once, without what it wrote before (tests/cases/test_commit_failure.py). A ping is answered with
        # the flags; a duplicate key, the refusal of every day, is known to end nothing and is not asked about.
        if type(error).__name__ != "IntegrityError":
            try:
                connection.ping(reconnect=False)
            except Exception as gone:
                log.debug("no answer to a ping after an error: the connection is gone", exc_info=gone)
                return True  # not a matter of the transaction: SQLAlchemy gives the connection up
        return self.in_transaction(connection)

    def dooms(self, error: Exception) -> bool:
        return False

    def abandon(self, connection: DBAPIConnection) -> None:
        """Nothing outlives the connection: the server ends its transaction."""

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Nothing to put back: SET TRANSACTION and START TRANSACTION cover one transaction only."""


def _status(connection: DBAPIConnection) -> int:
    return int(driver_of(connection).server_status or 0)
