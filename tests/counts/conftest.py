"""A Database behind the counting proxy, with fifty items and one order of three lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from sqlalchemy import MetaData

from sessionlocal import Database
from tests.counts.face import Face
from tests.counts.models import STOCK, Base
from tests.support.backends import Backend
from tests.support.observer import Observer
from tests.support.proxy import Proxy


@pytest.fixture
def rows(tables: Callable[[MetaData], None], observer: Observer) -> None:
    tables(Base.metadata)
    names = ", ".join(f"({number}, 'item {number}', {STOCK})" for number in range(1, 51))
    observer.execute(f"INSERT INTO items (id, name, stock) VALUES {names}")
    observer.execute("INSERT INTO orders (id, customer) VALUES (1, 'Ada')")
    observer.execute(
        "INSERT INTO order_lines (id, order_id, item_id, quantity) VALUES (1, 1, 1, 1), (2, 1, 2, 1), (3, 1, 3, 1)"
    )
    if observer.backend.dialect == "postgresql":  # rows with ids of their own leave the sequences behind
        for table in ("items", "orders", "order_lines"):
            observer.execute(f"ALTER SEQUENCE {table}_id_seq RESTART WITH 1000")


@pytest.fixture
async def face(backend: Backend, proxy: Proxy, rows: None) -> AsyncIterator[Face]:
    database = Database(proxy.url)
    yield Face(database, backend, proxy)
    await database.dispose()
