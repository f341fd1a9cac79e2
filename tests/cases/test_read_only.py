"""A read-only session refuses to write: in the client where it can tell, on the server where it cannot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from sessionlocal import Database, ReadOnlySession
from tests.support.observer import Observer

from .models import Account


async def flush(db: AsyncSession) -> None:
    """Write through the unit of work."""
    db.add(Account(id=1))
    await db.flush()


WRITES: dict[str, tuple[str, Callable[[AsyncSession], Awaitable[Any]]]] = {
    "flush": ("INSERT", flush),
    "insert": ("INSERT", lambda db: db.execute(insert(Account).values(id=1, balance=0))),
    "update": ("UPDATE", lambda db: db.execute(update(Account).values(balance=1))),
    "delete": ("DELETE", lambda db: db.execute(delete(Account))),
    "text": ("DELETE", lambda db: db.execute(text("  delete from account"))),
    "ddl": ("CREATE", lambda db: db.execute(text("CREATE TABLE nothing (id int)"))),
}


@pytest.mark.parametrize("name", WRITES)
async def test_the_client_refuses(name: str, database: Database, observer: Observer) -> None:
    """A certain write is refused before it is sent, by a message that names the verb."""
    verb, write = WRITES[name]
    async with database.read() as db:
        await db.execute(select(Account))
        with pytest.raises(ReadOnlySession, match=rf"{verb} on a read-only session"):
            await write(db)

        assert 0 == observer.open_transactions()
        db.expunge_all()
        await db.rollback()
        assert [] == (await db.scalars(select(Account))).all()


async def test_plain_reads_begin_nothing(database: Database, observer: Observer) -> None:
    """Plain reads of a read-only session stay in autocommit and hold nothing."""
    async with database.read() as db:
        await db.execute(select(Account))

        assert 0 == observer.open_transactions()


@pytest.mark.backends("postgresql")
async def test_postgresql_refuses_a_function_that_writes(database: Database, observer: Observer) -> None:
    """A function whose effects nobody can see from outside runs in a READ ONLY transaction, and the server refuses."""
    observer.execute(
        "CREATE OR REPLACE FUNCTION open_account() RETURNS int LANGUAGE sql "
        "AS 'INSERT INTO account (id, balance) VALUES (1, 0) RETURNING id'"
    )
    async with database.read() as db:
        with pytest.raises(DBAPIError) as raised:
            await db.execute(select(func.open_account()))
        assert "25006" == getattr(raised.value.orig, "sqlstate", None)

    assert 0 == observer.scalar("SELECT count(*) FROM account")
    async with database.session() as db:  # the next session on this connection may write
        await db.execute(select(func.open_account()))
    assert 1 == observer.scalar("SELECT count(*) FROM account")


@pytest.mark.backends("mariadb")
async def test_mariadb_refuses_a_function_that_writes(database: Database, observer: Observer) -> None:
    """A stored function that writes runs in a READ ONLY transaction, and the server refuses."""
    observer.execute(
        "CREATE OR REPLACE FUNCTION open_account() RETURNS int MODIFIES SQL DATA "
        "BEGIN INSERT INTO account (id, balance) VALUES (1, 0); RETURN 1; END"
    )
    async with database.read() as db:
        with pytest.raises(DBAPIError) as raised:
            await db.execute(select(func.open_account()))
        assert raised.value.orig is not None
        assert 1792 == raised.value.orig.args[0]

    assert 0 == observer.scalar("SELECT count(*) FROM account")
    async with database.session() as db:
        await db.execute(select(func.open_account()))
    assert 1 == observer.scalar("SELECT count(*) FROM account")
    observer.execute("DROP FUNCTION open_account")


@pytest.mark.backends("sqlite")
async def test_sqlite_refuses_what_the_client_does_not_know(database: Database, observer: Observer) -> None:
    """Inside the transaction of a read-only session SQLite itself refuses to write; the next session may."""
    database = Database(database.engine.url, pool_size=1)
    async with database.read() as db:
        connection = await db.connection()

        def write(raw: Any) -> None:
            cursor = raw.connection.dbapi_connection.cursor()
            cursor.execute("INSERT INTO account (id, balance) VALUES (1, 0)")

        with pytest.raises(Exception, match="readonly"):
            await connection.run_sync(write)
    async with database.session() as db:
        db.add(Account(id=2))
    await database.dispose()

    assert [(2,)] == observer.all("SELECT id FROM account")


async def test_a_read_only_transaction_locks_no_writer_out(database: Database, observer: Observer) -> None:
    """A read-only session that holds a transaction keeps nobody from writing."""
    async with database.read() as db:
        await db.connection()
        assert 0 == await db.scalar(select(func.count()).select_from(Account))
        observer.execute("INSERT INTO account (id, balance) VALUES (1, 0)")

    assert 1 == observer.scalar("SELECT count(*) FROM account")


async def test_a_stream_of_a_read_only_session(database: Database, observer: Observer) -> None:
    """Streaming reads is reading."""
    observer.execute("INSERT INTO account (id, balance) VALUES (1, 0), (2, 0), (3, 0)")
    async with database.read() as db:
        result = await db.stream_scalars(select(Account.id).order_by(Account.id))

        assert [1, 2, 3] == [id async for id in result]


async def test_a_locking_read_of_a_read_only_session(database: Database, observer: Observer) -> None:
    """A locking select is nothing for a read-only session: the server, or the next line, says so."""
    async with database.read() as db:
        try:
            await db.execute(select(Account).with_for_update())
        except (DBAPIError, ReadOnlySession):
            await db.rollback()

    assert 0 == observer.open_transactions()
