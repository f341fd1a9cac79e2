"""The tables that the libraries of this folder work on.

An item may name a category that does not exist until COMMIT, where the database refuses it: the one way to let a commit
fail that every library has to live with. PostgreSQL and SQLite can defer a check; MariaDB cannot.
"""

from __future__ import annotations

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

MISSING = 404  # the id of a category that nobody makes


class Base(DeclarativeBase):
    """The metadata of these tables."""


class Category(Base):
    """What items refer to."""

    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80))


class Item(Base):
    """A row with a unique name, and a reference that is checked at COMMIT."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    category_id: Mapped[int | None] = mapped_column(ForeignKey("categories.id", deferrable=True, initially="DEFERRED"))
    category: Mapped[Category | None] = relationship()
