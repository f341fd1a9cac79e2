"""No path to the database loses its connection in the middle of a statement, however hard others want it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session, selectinload
from sqlalchemy.util import await_only

from .ground import Blocking, Ground, only, sync_session
from .models import Account, Author, Book

ROUNDS = 20
COMPETITORS = 3

pytestmark = pytest.mark.database(pool_size=1, pool_timeout=30)


@pytest.fixture
def library(ground: Ground) -> None:
    """Two authors with two books each."""
    for author in (1, 2):
        ground.observer.execute(
            "INSERT INTO author (id, name, biography) VALUES (:id, :name, 'long')", id=author, name=f"author {author}"
        )
        for book in (1, 2):
            ground.observer.execute(
                "INSERT INTO book (title, author_id) VALUES (:title, :author)", title=f"{author}.{book}", author=author
            )


def lazy_loads(db: Session, ground: Ground) -> Any:
    """Follow a relationship that is loaded when it is looked at."""
    return [[book.title for book in author.books] for author in db.scalars(select(Author).order_by(Author.id))]


def through_run_sync(db: Session, ground: Ground) -> Any:
    """The same inside ``run_sync``, where that exists."""
    if isinstance(db, Blocking):
        return db.run_sync(lambda session: lazy_loads(session, ground))
    return lazy_loads(db, ground)


def awaitable_attributes(db: Session, ground: Ground) -> Any:
    """The same through ``awaitable_attrs``, where that exists."""
    authors = db.scalars(select(Author).order_by(Author.id)).all()
    if not ground.is_async:
        return lazy_loads(db, ground)
    return [[book.title for book in await_only(author.awaitable_attrs.books)] for author in authors]


def refreshed(db: Session, ground: Ground) -> Any:
    """Load again what was expired and refreshed."""
    authors = db.scalars(select(Author).order_by(Author.id)).all()
    for author in authors:
        db.refresh(author, ["books"])
    return [[book.title for book in author.books] for author in authors]


def eager(db: Session, ground: Ground) -> Any:
    """Load with a second SELECT in the same call."""
    statement = select(Author).order_by(Author.id).options(selectinload(Author.books))
    return [[book.title for book in author.books] for author in db.scalars(statement)]


def streamed(db: Session, ground: Ground) -> Any:
    """Read row by row, awaiting something else between the rows."""
    found: dict[int, list[str]] = {}
    for row in ground.stream(db, select(Book.author_id, Book.title).order_by(Book.id)):
        ground.elsewhere()
        found.setdefault(row.author_id, []).append(row.title)
    return list(found.values())


PATHS = [lazy_loads, through_run_sync, awaitable_attributes, refreshed, eager, streamed]


@contextmanager
def competitors(ground: Ground, done: Callable[[], bool]) -> Iterator[list[Callable[[], int]]]:
    """Functions that read from the same pool again and again until the test is done."""

    def compete() -> int:
        reads = 0
        while not done():
            with ground.session() as db:
                assert 7 == db.scalar(text("SELECT 7"))
                reads += 1
            ground.elsewhere()
        return reads

    yield [compete] * COMPETITORS


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_a_path_keeps_its_connection(path: Callable[[Session, Ground], Any], ground: Ground) -> None:
    """With a pool of one connection and others that read all the time, each path returns what is stored."""
    done = ground.moment()

    def read() -> int:
        try:
            for _ in range(ROUNDS):
                with ground.session() as db:
                    assert [["1.1", "1.2"], ["2.1", "2.2"]] == path(db, ground)
                ground.elsewhere()
        finally:
            done.reach()
        return ROUNDS

    with competitors(ground, lambda: done.reached) as others:
        reads = only(ground.together(read, *others))

    assert ROUNDS == reads[0]
    assert 0 == ground.in_use


@pytest.mark.usefixtures("library")
def test_writes_among_competitors_are_all_stored(ground: Ground) -> None:
    """Units that read, write and commit on a pool that others hammer store each of their rows."""
    done = ground.moment()

    def write() -> int:
        try:
            for id in range(ROUNDS):
                with ground.session() as db:
                    db.scalars(select(Author)).all()
                    ground.elsewhere()
                    db.add(Account(id=id + 1))
                    db.flush()
                    ground.elsewhere()
                    db.commit()
        finally:
            done.reach()
        return ROUNDS

    with competitors(ground, lambda: done.reached) as others:
        only(ground.together(write, *others))

    assert ROUNDS == ground.observer.scalar("SELECT count(*) FROM account")


@pytest.mark.usefixtures("library")
def test_a_deferred_column_is_loaded_when_it_is_looked_at(ground: Ground) -> None:
    """A deferred column is one more clean read, also after the connection was given back."""
    with ground.session() as db:
        author = db.get_one(Author, 1)
        ground.elsewhere()

        assert "long" == author.biography
        assert "CLEAN" == sync_session(db).state
        ground.elsewhere()
        assert 0 == ground.in_use


@pytest.mark.usefixtures("library")
def test_objects_stay_readable_after_commit(ground: Ground) -> None:
    """``expire_on_commit`` is off unless asked for: no statement is needed to read an object after commit."""
    with ground.session() as db:
        author = db.get_one(Author, 1)
        author.name = "Ada"
        db.commit()
        before = len(ground.statements)

        assert "Ada" == author.name
        assert before == len(ground.statements)


@pytest.mark.usefixtures("library")
def test_expire_on_commit_is_honoured(ground: Ground) -> None:
    """With ``expire_on_commit=True`` an object is read again after commit."""
    with ground.session(expire_on_commit=True) as db:
        author = db.get_one(Author, 1)
        author.name = "Ada"
        db.commit()
        ground.observer.execute("UPDATE author SET name = 'Augusta' WHERE id = 1")
        ground.elsewhere()

        assert "Augusta" == author.name


@pytest.mark.usefixtures("library")
def test_refresh_after_commit(ground: Ground) -> None:
    """``refresh()`` after commit reads what the database holds now, and leaves nothing open."""
    with ground.session() as db:
        author = Author(id=3, name="Ada")
        db.add(author)
        db.commit()
        ground.observer.execute("UPDATE author SET name = 'Augusta' WHERE id = 3")
        db.refresh(author)
        ground.elsewhere()

        assert "Augusta" == author.name
        assert 0 == ground.in_use
        assert 0 == ground.open_transactions
