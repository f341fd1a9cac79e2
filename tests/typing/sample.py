"""An application as its author's editor sees it: each ``reveal_type`` is compared with the text behind it.

Nothing here is run. ``mypy --strict`` and pyright accept the file as it stands.
"""

from __future__ import annotations

from typing import Annotated, reveal_type

from fastapi import Depends, FastAPI
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sessionlocal import (
    Database,
    ReadSessionDep,
    SessionDep,
    SessionLocal,
    SyncSessionDep,
    current_session,
    get_db,
    get_sync_db,
)


class Base(DeclarativeBase):
    """The declarative base."""


class Item(Base):
    """A table."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


database = Database("sqlite://", pool_size=3)
app = FastAPI(lifespan=database.lifespan)
database.install(app)

reveal_type(database.engine)  # AsyncEngine
reveal_type(database.sync_engine)  # Engine
reveal_type(database.SessionLocal())  # AsyncSession
reveal_type(database.SyncSessionLocal())  # Session
reveal_type(SessionLocal())  # AsyncSession


@app.get("/items")
async def items(db: SessionDep, reading: ReadSessionDep) -> list[str]:
    """Take the sessions by their aliases."""
    reveal_type(db)  # AsyncSession
    reveal_type(reading)  # AsyncSession
    reveal_type(await db.get(Item, 1))  # Item | None
    reveal_type((await db.scalars(select(Item))).all())  # Sequence[Item]
    return list(await db.scalars(select(Item.name)))


@app.get("/items/sync")
def items_sync(db: SyncSessionDep) -> list[str]:
    """Do the same in sync code."""
    reveal_type(db)  # Session
    return list(db.scalars(select(Item.name)))


@app.get("/items/guides")
async def items_as_the_guides_write(
    db: Annotated[AsyncSession, Depends(database.get_db)],
    other: AsyncSession = Depends(get_db),
    third: Session = Depends(get_sync_db),
) -> None:
    """Spell it out."""
    reveal_type(db)  # AsyncSession
    reveal_type(other)  # AsyncSession
    reveal_type(third)  # Session


async def outside_requests() -> None:
    """Open sessions of one's own."""
    async with database.session(begin=True) as db:
        reveal_type(db)  # AsyncSession
    async with database.read() as db:
        reveal_type(db)  # AsyncSession
    async with SessionLocal() as db, db.begin():
        reveal_type(db)  # AsyncSession
    with database.sync_session() as sync_db:
        reveal_type(sync_db)  # Session
    reveal_type(current_session())  # AsyncSession


async def read(db: AsyncSession) -> Item | None:
    """Read with the session that one is given."""
    return await db.get(Item, 2)


async def side_by_side() -> None:
    """Read on sibling sessions; each result keeps its type."""
    first, second = await database.gather(
        lambda db: db.get(Item, 1),
        lambda db: db.get_one(Item, 2),
    )
    reveal_type(first)  # Item | None
    reveal_type(second)  # Item
    many = await database.gather(*[read] * 6, limit=2)
    reveal_type(many)  # list[Item | None]


async def overridden() -> AsyncSession:
    """Stand in for ``get_db`` in a test."""
    return database.SessionLocal()


app.dependency_overrides[get_db] = overridden
app.dependency_overrides[database.get_db] = overridden


async def set_up() -> None:
    """Create the tables, ask for a sign of life, look at the pools."""
    await database.create_all(Base)
    await database.create_all(Base.metadata)
    await database.ping()
    reveal_type(database.stats().async_pool)  # PoolStats | None
    await database.dispose()
