"""Tables whose rules are checked at once, and one whose rule is checked at COMMIT where the database can do that."""

from __future__ import annotations

from sqlalchemy import DDL, String, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Item(Base):
    """A row like any other; two with one name are refused when they are sent."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    amount: Mapped[int] = mapped_column(default=0)


class Seat(Base):
    """Two seats with one code are refused by COMMIT on PostgreSQL, and by the flush elsewhere."""

    __tablename__ = "seat"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(100))


DEFERRED = DDL("ALTER TABLE seat ADD CONSTRAINT seat_code UNIQUE (code) DEFERRABLE INITIALLY DEFERRED")
IMMEDIATE = DDL("CREATE UNIQUE INDEX seat_code ON seat (code)")
event.listen(Seat.__table__, "after_create", DEFERRED.execute_if(dialect="postgresql"))
event.listen(Seat.__table__, "after_create", IMMEDIATE.execute_if(dialect=("sqlite", "mysql", "mariadb")))
