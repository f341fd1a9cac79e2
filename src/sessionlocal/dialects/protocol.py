"""The driver edge: the few things that a session must know of, or do to, a raw driver connection.

A session's connection *rests* in driver autocommit: a plain read is one round trip, with no BEGIN and no ROLLBACK
around it. A transaction begins when the session asks for one, and it ends when the *driver* says that it is open,
never because of a flag of ours. One ``Edge`` serves the sync and the async driver of a database, since SQLAlchemy
presents both with the same blocking face.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

DBAPIConnection: TypeAlias = Any
"""What SQLAlchemy calls ``dbapi_connection``: a DBAPI connection, or the adapter around an async one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How a transaction is to begin. ``isolation`` is one of SQLAlchemy's level names; ``None`` leaves it to the
    server or the engine."""

    isolation: str | None = None
    read_only: bool = False


def driver_of(connection: DBAPIConnection) -> Any:
    """Return the driver's own connection: what an async adapter wraps, or the connection itself."""
    return getattr(connection, "driver_connection", connection)


class Edge(Protocol):
    """What differs between drivers.

    Each call but ``in_transaction`` and ``is_resting`` may talk to the server; on an async driver it then needs
    SQLAlchemy's greenlet.
    """

    dialect: str
    """The family: ``postgresql``, ``mysql``, ``mariadb``, ``sqlite``, or ``generic``."""

    rows_buffered: bool
    """True when the driver holds every row of a statement in memory before ``execute`` returns."""

    streams_in_transaction: bool
    """True when a server-side cursor lives in a transaction. Where it does not, the statement alone holds its
    snapshot."""

    def in_transaction(self, connection: DBAPIConnection) -> bool:
        """Tell what the driver knows of the server's state: is a transaction open? No I/O."""
        ...

    def is_closed(self, connection: DBAPIConnection) -> bool:
        """Tell whether the driver knows that it has lost its server. No I/O."""
        ...

    def breaks(self, error: Exception) -> bool:
        """Tell whether an error means that the connection cannot be used again, whatever SQLAlchemy makes of it."""
        ...

    def denies(self, error: Exception) -> bool:
        """Tell whether a server that was lost said before that it would not do what was asked of it. No I/O."""
        ...

    def is_resting(self, connection: DBAPIConnection) -> bool:
        """Tell whether the driver would run a statement in autocommit. No I/O."""
        ...

    def rest(self, connection: DBAPIConnection) -> None:
        """Let the driver run statements in autocommit."""
        ...

    def restore(self, connection: DBAPIConnection) -> None:
        """Undo ``rest``: the driver begins by itself again, as plain SQLAlchemy expects."""
        ...

    def arm(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Begin with the next statement at the latest; a driver that can send BEGIN along with it does."""
        ...

    def begin(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Begin now: when this returns, the server has an open transaction."""
        ...

    def commit(self, connection: DBAPIConnection) -> None:
        """Send COMMIT. Called only while ``in_transaction``."""
        ...

    def rollback(self, connection: DBAPIConnection) -> None:
        """Send ROLLBACK. Called only while ``in_transaction``."""
        ...

    def survives(self, connection: DBAPIConnection, error: Exception) -> bool:
        """Tell whether the transaction is still open after ``error``. May ask a server whose refusals do not say so."""
        ...

    def dooms(self, error: Exception) -> bool:
        """Tell whether a statement that failed like this leaves nothing to its transaction but a rollback. No I/O."""
        ...

    def abandon(self, connection: DBAPIConnection) -> None:
        """End what would outlive the connection, which is closed next, in the middle of a statement or transaction."""
        ...

    def settle(self, connection: DBAPIConnection, terms: Terms) -> None:
        """Put back what ``arm`` or ``begin`` changed on the client, after the transaction ended."""
        ...
