"""The errors that sessionlocal raises itself.

Every error says what happened, to which thing and what to do next, ends with the code of its page (``[DBS302]``) and
carries its facts as attributes. Those about the use of a session are SQLAlchemy errors too, so that code which catches
``SQLAlchemyError`` keeps working. No message contains parameters, row values, or a password.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import exc

__all__ = [
    "CommitUnknown",
    "ConcurrentUse",
    "ConfigurationError",
    "DependencyMisuse",
    "IsolationConflict",
    "MixedSessions",
    "NotInstalled",
    "OutsideRequest",
    "ReadOnlySession",
    "SchemaManaged",
    "SessionClosed",
    "SessionLocalError",
    "UnitExpired",
    "UsedAfterFork",
]


class SessionLocalError(Exception):
    """The base of every error of this library. ``pitfall`` names its page under ``docs/pitfalls``."""

    pitfall: ClassVar[str] = ""

    def __init__(self, message: str) -> None:
        super().__init__(f"{message} [{self.pitfall}]" if self.pitfall else message)


class SessionMisuse(SessionLocalError, exc.InvalidRequestError):
    """A session was used in a way that cannot be right; nothing was sent to the database."""


class ConfigurationError(SessionLocalError, ValueError):
    """A setting is missing, misspelt or impossible."""

    pitfall = "DBS110"


class NotInstalled(SessionLocalError, RuntimeError):
    """A dependency of this library runs in an application that it was not installed in."""

    pitfall = "DBS111"


class OutsideRequest(SessionLocalError, RuntimeError):
    """The session of the current request was asked for where no request is being served."""

    pitfall = "DBS112"


class UsedAfterFork(SessionMisuse):
    """A session opened before ``fork()`` was used in the child process."""

    pitfall = "DBS113"


class SchemaManaged(SessionLocalError, RuntimeError):
    """``create_all`` was called on a database whose schema belongs to Alembic."""

    pitfall = "DBS114"


class DependencyMisuse(SessionLocalError, TypeError):
    """``get_db`` was called, iterated or patched instead of being handed to ``Depends``."""

    pitfall = "DBS201"


class MixedSessions(SessionMisuse):
    """The async and the sync session of one database both want to write in the same request."""

    pitfall = "DBS206"


class SessionClosed(SessionMisuse):
    """A session was used after its request, or its ``async with`` block, had ended."""

    pitfall = "DBS302"


class ConcurrentUse(SessionMisuse):
    """Two tasks, or two threads, used one session at the same time.

    Attributes:
        first: where the statement in progress was issued.
        second: where the refused use happened.
    """

    pitfall = "DBS304"

    def __init__(self, message: str, *, first: str, second: str) -> None:
        super().__init__(message)
        self.first = first
        self.second = second


class ReadOnlySession(SessionMisuse):
    """A read-only session was asked to write."""

    pitfall = "DBS310"


class IsolationConflict(SessionMisuse):
    """An isolation level was asked for after the transaction had begun with another one."""

    pitfall = "DBS311"


class UnitExpired(SessionMisuse):
    """A unit of work stayed open longer than its limit while a response was streaming, and was rolled back."""

    pitfall = "DBS312"


class CommitUnknown(SessionLocalError, exc.SQLAlchemyError):
    """The connection was lost between sending COMMIT and its answer: the work may or may not be stored."""

    pitfall = "DBS410"
