"""Tables for a test, and an empty database for the next one.

Promises: tables are created and dropped through a plain sync engine, never through the library; dropping waits two
seconds at most for a lock, then names the session that holds it, ends that session, drops, and fails the test; nothing
is left for the next test.
"""

from __future__ import annotations

import gc

from sqlalchemy import Connection, MetaData, text
from sqlalchemy.exc import OperationalError

from .backends import Backend
from .observer import SETTLE_TIMEOUT, Observer, Session

POSTGRESQL_LOCK_NOT_AVAILABLE = "55P03"
MYSQL_LOCK_WAIT_TIMEOUT = 1205


class LeftOpen(AssertionError):
    """A test ended with a transaction open in its database."""

    def __init__(self, backend: Backend, sessions: list[Session]) -> None:
        who = "; ".join(map(str, sessions)) or "a connection of this process"
        super().__init__(f"the test left a transaction open on {backend.id}: {who}")
        self.sessions = sessions


def create(metadata: MetaData, observer: Observer) -> None:
    """Create the tables of ``metadata``."""
    observer.run(metadata.create_all)


def drop(metadata: MetaData, observer: Observer) -> None:
    """Drop the tables of ``metadata``. A SQLite file is the test's own, and goes as a whole.

    Raises:
        LeftOpen: a transaction of the test held one of them; it was ended and the tables are gone.
    """
    if observer.backend.dialect == "sqlite":
        return
    try:
        observer.run(metadata.drop_all)
    except OperationalError as error:
        if not _is_lock_timeout(error):
            raise
        blockers = [session for session in observer.sessions() if session.open]
        observer.end_sessions()
        observer.run(metadata.drop_all)
        raise LeftOpen(observer.backend, blockers) from error


def empty(observer: Observer) -> None:
    """Leave nothing of a test in the server's database: no transaction, no session, no table.

    Raises:
        LeftOpen: a transaction of the test was still open; it was ended and the database is empty.
    """
    backend = observer.backend
    left_open = _open_sessions(observer)
    if backend.dialect == "sqlite":
        if left_open is not None:
            raise LeftOpen(backend, left_open)
        return
    observer.end_sessions()
    observer.run(EMPTY[backend.dialect])
    if left_open is not None:
        raise LeftOpen(backend, left_open)


def _open_sessions(observer: Observer) -> list[Session] | None:
    """Return the sessions with an open transaction, or None; a session whose client is gone gets the time to notice."""
    if not observer.open_transactions():
        return None
    gc.collect()
    try:
        observer.settle(timeout=SETTLE_TIMEOUT / 2)
    except AssertionError:
        return [session for session in observer.sessions() if session.open]
    return None


def _is_lock_timeout(error: OperationalError) -> bool:
    original = error.orig
    if getattr(original, "sqlstate", None) == POSTGRESQL_LOCK_NOT_AVAILABLE:
        return True
    return original is not None and original.args[:1] == (MYSQL_LOCK_WAIT_TIMEOUT,)


def _empty_postgresql(connection: Connection) -> None:
    for (schema,) in connection.execute(text(_POSTGRESQL_USED_SCHEMAS)).all():
        connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))
        if schema == "public":
            connection.execute(text("CREATE SCHEMA public"))
            connection.execute(text("GRANT ALL ON SCHEMA public TO public"))


# Every schema that a test made, and public if there is anything in it.
_POSTGRESQL_USED_SCHEMAS = r"""
    SELECT nspname FROM pg_namespace AS space
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND (
        nspname <> 'public'
        OR EXISTS (SELECT FROM pg_class WHERE relnamespace = space.oid)
        OR EXISTS (SELECT FROM pg_type WHERE typnamespace = space.oid)
        OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = space.oid)
    )
"""


def _empty_mysql(connection: Connection) -> None:
    objects = connection.execute(text("SHOW FULL TABLES")).all()
    if not objects:
        return
    connection.execute(text("SET SESSION foreign_key_checks = 0"))
    for name, kind in objects:
        connection.execute(text(f"DROP {kind if kind in ('VIEW', 'SEQUENCE') else 'TABLE'} `{name}`"))
    connection.execute(text("SET SESSION foreign_key_checks = 1"))


EMPTY = {"postgresql": _empty_postgresql, "mariadb": _empty_mysql, "mysql": _empty_mysql}
