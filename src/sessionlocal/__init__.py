"""The database session layer for FastAPI.

Names are loaded when they are first used. Reading order of the source: ``fastapi/request.py`` (the route asks),
``fastapi/response.py`` (the route answers), ``database.py`` (one per application), ``session.py`` (one per request),
``connection.py`` (one per statement), ``dialects/`` (what differs between databases).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import mask
    from .errors import (
        CommitUnknown,
        ConcurrentUse,
        ConfigurationError,
        DependencyMisuse,
        IsolationConflict,
        MixedSessions,
        NotInstalled,
        OutsideRequest,
        ReadOnlySession,
        SchemaManaged,
        SessionClosed,
        SessionLocalError,
        UnitExpired,
        UsedAfterFork,
    )
    from .fastapi.default import SessionLocal, default_database
    from .fastapi.install import Database
    from .fastapi.request import (
        ReadSessionDep,
        SessionDep,
        SyncSessionDep,
        current_request,
        current_session,
        get_db,
        get_read_db,
        get_sync_db,
    )

HOMES = {
    "Database": "sessionlocal.fastapi.install",
    "SessionLocal": "sessionlocal.fastapi.default",
    "default_database": "sessionlocal.fastapi.default",
    **dict.fromkeys(
        (
            "ReadSessionDep",
            "SessionDep",
            "SyncSessionDep",
            "current_request",
            "current_session",
            "get_db",
            "get_read_db",
            "get_sync_db",
        ),
        "sessionlocal.fastapi.request",
    ),
    **dict.fromkeys(
        (
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
        ),
        "sessionlocal.errors",
    ),
    "mask": "sessionlocal.config",
}

__all__ = [
    "CommitUnknown",
    "ConcurrentUse",
    "ConfigurationError",
    "Database",
    "DependencyMisuse",
    "IsolationConflict",
    "MixedSessions",
    "NotInstalled",
    "OutsideRequest",
    "ReadOnlySession",
    "ReadSessionDep",
    "SchemaManaged",
    "SessionClosed",
    "SessionDep",
    "SessionLocal",
    "SessionLocalError",
    "SyncSessionDep",
    "UnitExpired",
    "UsedAfterFork",
    "current_request",
    "current_session",
    "default_database",
    "get_db",
    "get_read_db",
    "get_sync_db",
    "mask",
]


def __getattr__(name: str) -> Any:
    home = HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'sessionlocal' has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
