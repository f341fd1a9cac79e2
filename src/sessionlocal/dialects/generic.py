"""Any other SQLAlchemy dialect: the driver keeps its own rules, so sessions begin with their first statement and hold
their connection."""

from __future__ import annotations

from .protocol import DBAPIConnection, Terms


class GenericEdge:
    """A database that this library knows nothing about. Whether a transaction is open cannot be asked, so it is
    assumed."""

    dialect = "generic"
    rows_buffered = True
    streams_in_transaction = True

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        return True

    def is_closed(self, connection: DBAPIConnection) -> bool:
        return False

    def breaks(self, error: Exception) -> bool:
        return False

    def denies(self, error: Exception) -> bool:
        return False

    def is_resting(self, connection: DBAPIConnection) -> bool:
        return True

    def rest(self, connection: DBAPIConnection) -> None:
        """The driver decides."""

    def restore(self, connection: DBAPIConnection) -> None:
        """Nothing was changed."""

    def arm(self, connection: DBAPIConnection, terms: Terms) -> None:
        """The driver begins by itself."""

    def begin(self, connection: DBAPIConnection, terms: Terms) -> None:
        """The driver begins by itself."""

    def commit(self, connection: DBAPIConnection) -> None:
        connection.commit()

    def rollback(self, connection: DBAPIConnection) -> None:
        connection.rollback()

    def survives(self, connection: DBAPIConnection, error: Exception) -> bool:
        return self.in_transaction(connection)

    def dooms(self, error: Exception) -> bool:
        return False

    def abandon(self, connection: DBAPIConnection) -> None:
        """The driver ends what is open when it closes the connection."""

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Nothing was changed."""
