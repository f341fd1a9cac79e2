"""The default Database: for code that names none, made from the environment at its first use outside of a request."""

from __future__ import annotations

import sys
import threading
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from .. import _compat, session
from .install import Database

_lock = threading.Lock()
_default: Database | None = None


def default_database() -> Database:
    """Return the Database of the application that serves the current request; elsewhere the one that the environment
    describes.

    Raises:
        ConfigurationError: outside of a request, when ``DATABASE_URL`` is not set or wrong.
    """
    request = session.current.get()
    if request is not None:
        found: Database = request.database
        return found
    global _default
    with _lock:
        if _default is None:
            _default = Database()
        return _default


class DefaultSessionFactory:
    """``sessionlocal.SessionLocal``: the ``SessionLocal`` of the default Database, and otherwise just like it."""

    def __call__(self, **options: Any) -> AsyncSession:
        factory = default_database().SessionLocal
        registry = _compat.scoped_registry_calling(1)
        if registry is not None:
            return factory.in_scope(registry)
        made = factory(**options)
        factory.sign(made, sys._getframe(1))
        return made

    def __repr__(self) -> str:
        return "<SessionLocal of the default Database>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(default_database().SessionLocal, name)


SessionLocal = DefaultSessionFactory()
