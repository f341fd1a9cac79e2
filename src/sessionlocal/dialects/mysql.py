"""MySQL and MariaDB: aiomysql, asyncmy, PyMySQL and mysqlclient.

Autocommit is a variable of the server's session, so switching it is a round trip: connections are opened with
autocommit on, stay so while sessions use them, and a transaction begins with START TRANSACTION. Each answer of the
server carries a flag that says whether one is open.
"""

from __future__ import annotations

from .protocol import DBAPIConnection, Terms, driver_of

SERVER_STATUS_IN_TRANS = 0x0001
SERVER_STATUS_AUTOCOMMIT = 0x0002


class MySQLEdge:
    """MySQL or MariaDB. Rows are read whole unless a server-side cursor is used."""

    rows_buffered = True
    streams_in_transaction = True

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        return bool(_status(connection) & SERVER_STATUS_IN_TRANS)

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

    def dooms(self, error: Exception) -> bool:
        return False

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Nothing to put back: SET TRANSACTION and START TRANSACTION cover one transaction only."""


def _status(connection: DBAPIConnection) -> int:
    return int(driver_of(connection).server_status or 0)
