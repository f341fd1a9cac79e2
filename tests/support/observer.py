"""A look at the database from outside: is the row committed, who is connected, which transactions are open?

Promises: the observer has a connection of its own through a plain sync driver in autocommit, so it sees what any other
client sees; it never counts itself; it waits two seconds at most for a lock, so that a test that blocks it fails
instead of hanging.
"""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, OperationalError

from .backends import Backend

T = TypeVar("T")
APPLICATION_NAME = "sessionlocal-tests"
MYSQL_NO_SUCH_SESSION = 1094
LOCK_TIMEOUT = 2  # seconds
SETTLE_TIMEOUT = 5.0  # seconds for servers to notice that a client left
POLL_INTERVAL = 0.01  # seconds between two looks; there is no event to wait on in somebody else's server


# The sessions that plain clients had, by server and id: MariaDB has no application name to tell them by.
_own_sessions: set[tuple[str, int]] = set()


@dataclass(frozen=True)
class Session:
    """A session on the server. ``open`` is true while it is inside a transaction."""

    id: int
    state: str
    open: bool
    statement: str

    def __str__(self) -> str:
        return f"session {self.id} ({self.state}): {self.statement or 'no statement'}"


_MYSQL_CONNECT_ARGUMENTS: dict[str, Any] = {
    "init_command": f"SET SESSION lock_wait_timeout = {LOCK_TIMEOUT}, innodb_lock_wait_timeout = {LOCK_TIMEOUT}",
}
_CONNECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "sqlite": {"check_same_thread": False, "timeout": LOCK_TIMEOUT},
    "postgresql": {
        "application_name": APPLICATION_NAME,
        # The tables behind a statement change from test to test; a prepared statement would not survive that.
        "prepare_threshold": None,
        "options": f"-c lock_timeout={LOCK_TIMEOUT}s -c statement_timeout=10s",
    },
    "mariadb": _MYSQL_CONNECT_ARGUMENTS,
    "mysql": _MYSQL_CONNECT_ARGUMENTS,
}


class PlainClient:
    """One connection to a database through a plain sync driver, in autocommit, opened on first use.

    It lives as long as the run: connecting anew for each test would take longer than most tests.
    """

    def __init__(self, backend: Backend) -> None:
        self._server = _server(backend)
        self._notes_sessions = backend.dialect in ("mariadb", "mysql")
        self._engine = create_engine(
            backend.sync_url,
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
            connect_args=_CONNECT_ARGUMENTS[backend.dialect],
        )
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._connection is not None

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do something with the connection, which no other thread uses meanwhile."""
        with self._lock:
            return work(self._connected())

    def ensure_connected(self) -> None:
        """Connect again if the session was ended since it was last used."""
        try:
            self.run(lambda connection: connection.execute(text("SELECT 1")).all())
        except DBAPIError:
            self.close()

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(DBAPIError):  # it may be broken already
                    connection.close()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            self._note_session(self._connection)
        elif self._connection.invalidated:
            self._connection.rollback()
            self._note_session(self._connection)
        return self._connection

    def _note_session(self, connection: Connection) -> None:
        if self._notes_sessions:
            _own_sessions.add((self._server, connection.execute(text("SELECT connection_id()")).scalar_one()))


class Observer:
    """An independent client of a backend's database, connected on first use. Safe to use from any thread."""

    def __init__(self, backend: Backend, client: PlainClient | None = None) -> None:
        self.backend = backend
        self._client = PlainClient(backend) if client is None else client

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do something with the observer's own connection, which is in autocommit."""
        return self._client.run(work)

    def execute(self, sql: str, **parameters: object) -> None:
        """Run a statement, committed at once."""
        self._run(sql, parameters)

    def scalar(self, sql: str, **parameters: object) -> Any:
        """Return the first column of the first row, or None."""
        rows = self._run(sql, parameters)
        return rows[0][0] if rows else None

    def all(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Return every row."""
        return self._run(sql, parameters)

    def open_transactions(self) -> int:
        """Count the transactions of others in this database.

        MariaDB knows of a transaction from its first statement on, not from START TRANSACTION. SQLite shows one writer
        at most and no readers.
        """
        if self.backend.dialect == "sqlite":
            return int(_sqlite_write_locked(self.backend))
        return sum(session.open for session in self.sessions())

    def backends(self) -> int:
        """Count the connections of others to this database; for SQLite, those of this process."""
        if self.backend.dialect == "sqlite":
            return _sqlite_connections(self.backend) - self._client.connected
        return len(self.sessions())

    def sessions(self) -> list[Session]:
        """List the sessions of others in this database; SQLite has none."""
        if self.backend.dialect == "sqlite":
            return []
        if self.backend.dialect == "postgresql":
            return [Session(*row) for row in self.all(_POSTGRESQL_SESSIONS, us=APPLICATION_NAME)]
        return self._mysql_sessions()

    def end_sessions(self) -> None:
        """End the sessions of all others, as an administrator would."""
        for session in self.sessions():
            if self.backend.dialect == "postgresql":
                self.execute("SELECT pg_terminate_backend(:id)", id=session.id)
            else:
                self._kill(session)

    def settle(
        self, *, open_transactions: int = 0, backends: int | None = None, timeout: float = SETTLE_TIMEOUT
    ) -> None:
        """Wait until the counts are exactly as given; for sync tests, since it blocks the thread.

        Raises:
            AssertionError: they are not after ``timeout`` seconds; the message lists the sessions.
        """
        deadline = time.monotonic() + timeout
        while not self._is_settled(open_transactions, backends, deadline):
            time.sleep(POLL_INTERVAL)

    async def settled(
        self, *, open_transactions: int = 0, backends: int | None = None, timeout: float = SETTLE_TIMEOUT
    ) -> None:
        """Wait as `settle` does, with the event loop running."""
        deadline = time.monotonic() + timeout
        while not self._is_settled(open_transactions, backends, deadline):  # noqa: ASYNC110 - a server sets no event
            await asyncio.sleep(POLL_INTERVAL)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __repr__(self) -> str:
        return f"<Observer of {self.backend.id}: {', '.join(map(str, self.sessions())) or 'nobody'}>"

    def _is_settled(self, open_transactions: int, backends: int | None, deadline: float) -> bool:
        found = (self.open_transactions(), None if backends is None else self.backends())
        if found == (open_transactions, backends):
            return True
        if time.monotonic() > deadline:
            wanted = "" if backends is None else f" instead of {backends}"
            sessions = ", ".join(map(str, self.sessions()))
            raise AssertionError(
                f"{found[0]} open transactions instead of {open_transactions}, "
                f"{self.backends()} connections{wanted}: {sessions or 'none to be listed'}"
            )
        return False

    def _run(self, sql: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        def work(connection: Connection) -> list[tuple[Any, ...]]:
            result = connection.execute(text(sql), parameters)
            return [tuple(row) for row in result] if result.returns_rows else []

        return self.run(work)

    def _mysql_sessions(self) -> list[Session]:
        transactions = _active_innodb_threads(self.all("SHOW ENGINE INNODB STATUS")[0][2])
        server = _server(self.backend)
        return [
            Session(id, command, id in transactions, statement or "")
            for id, command, statement in self.all(_MYSQL_SESSIONS)
            if (server, id) not in _own_sessions
        ]

    def _kill(self, session: Session) -> None:
        try:
            self.execute(f"KILL {session.id}")
        except OperationalError as error:
            if error.orig is None or error.orig.args[0] != MYSQL_NO_SUCH_SESSION:
                raise


# A session that runs a statement in autocommit is inside a transaction too, for as long as the statement lasts.
_POSTGRESQL_SESSIONS = """
    SELECT pid, coalesce(state, 'starting'), coalesce(state <> 'idle' AND xact_start IS NOT NULL, false), left(query,
    200) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND
    application_name <> :us ORDER BY backend_start
"""
_MYSQL_SESSIONS = (
    "SELECT id, command, left(info, 200) FROM information_schema.processlist WHERE db = database() ORDER BY id"
)


def _active_innodb_threads(status: str) -> set[int]:
    """Return the ids of sessions with an open transaction, from SHOW ENGINE INNODB STATUS.

    Not from information_schema.innodb_trx: that table is a copy which is not renewed while it is read more often than
    every 100 ms.
    """
    transactions = status.partition("LIST OF TRANSACTIONS")[2].split("---TRANSACTION")[1:]
    active = (block for block in transactions if "ACTIVE" in block.partition("\n")[0])
    return {int(found[1]) for block in active if (found := re.search(r"thread id (\d+)", block))}


def _sqlite_write_locked(backend: Backend) -> bool:
    if not os.path.exists(_sqlite_path(backend)):
        return False
    with closing(sqlite3.connect(_sqlite_path(backend), timeout=0, isolation_level=None)) as probe:
        try:
            probe.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
                return True
            raise
        probe.execute("ROLLBACK")
        return False


def _sqlite_connections(backend: Backend) -> int:
    """Count the open descriptors of the database file in this process; SQLite itself keeps no list."""
    path = os.path.realpath(_sqlite_path(backend))
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        import pytest

        pytest.skip("connections to a SQLite file can be counted only where /proc exists")
    return sum(_target(descriptor) == path for descriptor in descriptors.iterdir())


def _target(descriptor: Path) -> str:
    try:
        return os.readlink(descriptor)
    except FileNotFoundError:
        return ""  # the descriptor of the listing itself


def _sqlite_path(backend: Backend) -> str:
    path = make_url(backend.url).database
    assert path is not None
    return path


def _server(backend: Backend) -> str:
    url = make_url(backend.url)
    return f"{url.host}:{url.port}"
