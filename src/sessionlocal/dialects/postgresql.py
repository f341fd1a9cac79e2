"""PostgreSQL: asyncpg and psycopg.

asyncpg never begins by itself; SQLAlchemy's adapter sends BEGIN with its first statement unless its
``isolation_level`` says autocommit, a client-side flag. psycopg has a client-side ``autocommit`` flag; an explicit
BEGIN under autocommit is what it calls a transaction too, and its ``commit()`` and ``rollback()`` look at the server's
own status before they send anything.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy.util import await_only

from .protocol import DBAPIConnection, Terms, driver_of

AUTOCOMMIT = "autocommit"
GOODBYES = frozenset({"57P01", "57P02", "57P03"})  # admin_shutdown, crash_shutdown, cannot_connect_now
LEVELS = {
    "READ UNCOMMITTED": "read_uncommitted",
    "READ COMMITTED": "read_committed",
    "REPEATABLE READ": "repeatable_read",
    "SERIALIZABLE": "serializable",
}


class AsyncpgEdge:
    """PostgreSQL through asyncpg: BEGIN travels in a flight of its own, just before the first statement."""

    dialect = "postgresql"
    rows_buffered = True
    streams_in_transaction = True

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        return bool(connection.driver_connection.is_in_transaction())

    def is_closed(self, connection: DBAPIConnection) -> bool:
        return bool(connection.driver_connection.is_closed())

    def breaks(self, error: Exception) -> bool:
        # The server has said farewell, and the connection has not ended yet: the protocol is in no state to go on.
        return any("InternalClientError" == type(cause).__name__ for cause in chain(error))

    def denies(self, error: Exception) -> bool:
        return says_goodbye(error)

    def is_resting(self, connection: DBAPIConnection) -> bool:
        return bool(connection.isolation_level == AUTOCOMMIT)

    def rest(self, connection: DBAPIConnection) -> None:
        connection.autocommit = True

    def restore(self, connection: DBAPIConnection) -> None:
        connection.autocommit = False

    def arm(self, connection: DBAPIConnection, terms: Terms) -> None:
        connection.autocommit = False
        if terms.isolation is not None:
            connection.isolation_level = LEVELS[terms.isolation]
        connection.readonly = terms.read_only

    def begin(self, connection: DBAPIConnection, terms: Terms) -> None:
        self.arm(connection, terms)
        await_only(connection._start_transaction())

    def commit(self, connection: DBAPIConnection) -> None:
        connection.commit()
        self._finish(connection, "COMMIT")

    def rollback(self, connection: DBAPIConnection) -> None:
        connection.rollback()
        self._finish(connection, "ROLLBACK")

    def survives(self, connection: DBAPIConnection, error: Exception) -> bool:
        return self.in_transaction(connection)

    def dooms(self, error: Exception) -> bool:
        return came_from_server(error)

    def abandon(self, connection: DBAPIConnection) -> None:
        """Nothing outlives the connection: the server ends its transaction."""

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        connection.autocommit = True
        connection.readonly = False

    def _finish(self, connection: DBAPIConnection, word: str) -> None:
        # A transaction that the user began with text("BEGIN") is unknown to the adapter; only the driver sees it.
        if self.in_transaction(connection):
            await_only(connection.driver_connection.execute(word))


class PsycopgEdge:
    """PostgreSQL through psycopg, sync or async. Rows arrive whole in the client's memory unless a named cursor is
    used."""

    dialect = "postgresql"
    rows_buffered = True
    streams_in_transaction = True

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        return bool(connection.info.transaction_status)  # libpq's PQTRANS_IDLE is 0

    def is_closed(self, connection: DBAPIConnection) -> bool:
        return bool(driver_of(connection).closed)

    def breaks(self, error: Exception) -> bool:
        return False

    def denies(self, error: Exception) -> bool:
        return says_goodbye(error)

    def is_resting(self, connection: DBAPIConnection) -> bool:
        return bool(connection.autocommit)

    def rest(self, connection: DBAPIConnection) -> None:
        connection.autocommit = True

    def restore(self, connection: DBAPIConnection) -> None:
        connection.autocommit = False

    def arm(self, connection: DBAPIConnection, terms: Terms) -> None:
        self.begin(connection, terms)

    def begin(self, connection: DBAPIConnection, terms: Terms) -> None:
        words = ["BEGIN"]
        if terms.isolation is not None:
            words += ["ISOLATION LEVEL", terms.isolation]
        elif (level := connection_isolation(connection)) is not None:
            words += ["ISOLATION LEVEL", level]
        if terms.read_only:
            words.append("READ ONLY")
        cursor = connection.cursor()
        try:
            cursor.execute(" ".join(words))
        finally:
            cursor.close()

    def commit(self, connection: DBAPIConnection) -> None:
        connection.commit()

    def rollback(self, connection: DBAPIConnection) -> None:
        connection.rollback()

    def survives(self, connection: DBAPIConnection, error: Exception) -> bool:
        return self.in_transaction(connection)

    def dooms(self, error: Exception) -> bool:
        return came_from_server(error)

    def abandon(self, connection: DBAPIConnection) -> None:
        """Nothing outlives the connection: the server ends its transaction."""

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Nothing changed on the client: BEGIN was a statement like any other."""


def came_from_server(error: Exception) -> bool:
    """Tell whether the server itself refused a statement: what the client refuses does not reach the transaction."""
    return getattr(error, "sqlstate", None) is not None


def connection_isolation(connection: DBAPIConnection) -> str | None:
    """Return the level that ``create_engine(isolation_level=...)`` put on a psycopg connection."""
    level = driver_of(connection).isolation_level
    return None if level is None else level.name.replace("_", " ")


def says_goodbye(error: BaseException) -> bool:
    """Tell whether the server announced that it ends the connection: it does so instead of an answer, not after one."""
    return any(getattr(cause, "sqlstate", None) in GOODBYES for cause in chain(error))


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__
