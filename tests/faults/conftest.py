"""A Database that is disturbed, and the tables that it writes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import MetaData

from tests.faults.ground import Base, Ground
from tests.support.backends import Backend
from tests.support.observer import Observer


@pytest.fixture
async def ground(backend: Backend, observer: Observer, tables: Callable[[MetaData], None]) -> AsyncIterator[Ground]:
    """The database of the test, reached directly."""
    tables(Base.metadata)
    made = Ground(backend.url, observer, is_async=backend.is_async)
    yield made
    await made.database.dispose()
