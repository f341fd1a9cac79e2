"""What SQLAlchemy writes for a query is judged by what the query is, on each driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Date,
    DateTime,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    Sequence,
    String,
    Table,
    all_,
    any_,
    bindparam,
    case,
    cast,
    create_engine,
    delete,
    distinct,
    event,
    except_,
    exists,
    extract,
    false,
    func,
    insert,
    intersect,
    lateral,
    literal,
    literal_column,
    select,
    tablesample,
    text,
    true,
    tuple_,
    type_coerce,
    union,
    union_all,
    update,
    values,
)
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.dialects.mysql import match
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR, aggregate_order_by, array
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    contains_eager,
    joinedload,
    lazyload,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
    undefer,
    with_loader_criteria,
)
from sqlalchemy.schema import CreateTable, DropTable

from sessionlocal.dialects.plain_read import is_locking_read, is_plain_read, is_write

POSTGRESQL = ("postgresql+asyncpg", "postgresql+psycopg")
MYSQL = ("mysql+aiomysql", "mysql+asyncmy", "mariadb+pymysql")
SQLITE = ("sqlite+aiosqlite", "sqlite+pysqlite")
EVERYWHERE = POSTGRESQL + MYSQL + SQLITE
DIALECTS = {driver: create_engine(f"{driver}://").dialect for driver in EVERYWHERE}


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    born: Mapped[Any] = mapped_column(Date, nullable=True)
    books: Mapped[list[Book]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    price: Mapped[Any] = mapped_column(Numeric(10, 2), nullable=True)
    facts: Mapped[Any] = mapped_column(JSON, nullable=True)
    printed: Mapped[Any] = mapped_column(DateTime, nullable=True)
    notes: Mapped[str] = mapped_column(String(500), deferred=True, nullable=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"), nullable=True)
    author: Mapped[Author] = relationship(back_populates="books")


Author.count = column_property(  # type: ignore[attr-defined]
    select(func.count(Book.id)).where(Book.author_id == Author.id).correlate_except(Book).scalar_subquery(),
    deferred=True,
)

reserved = Table("order", MetaData(), Column("select", Integer), Column("Update", Integer), Column("a b%c", Integer))
tree = Table("tree", MetaData(), Column("id", Integer), Column("parent_id", Integer))
document = Table(
    "document",
    MetaData(),
    Column("id", Integer),
    Column("body", JSONB),
    Column("tags", ARRAY(String)),
    Column("words", TSVECTOR),
)

other = aliased(Book, name="other")
cheap = select(Book.author_id, func.min(Book.price).label("price")).group_by(Book.author_id).cte("cheap")
below = select(tree.c.id).where(tree.c.id == 1).cte("below", recursive=True)
below = below.union_all(select(tree.c.id).join(below, tree.c.parent_id == below.c.id))
deleted = delete(Book).where(Book.id == 1).returning(Book.id).cte("deleted")
inserted = insert(Book).values(title="x").returning(Book.id).cte("inserted")
updated = update(Book).values(title="x").returning(Book.id).cte("updated")
pairs = values(Column("a", Integer), Column("b", String), name="pairs").data([(1, "x"), (2, "y")])


def distinct_on(query: Any, column: Any) -> Any:
    """Return the query with DISTINCT ON: the way of SQLAlchemy 2.1, which warns of that of 2.0."""
    if hasattr(postgresql, "distinct_on"):
        return query.ext(postgresql.distinct_on(column))
    return query.distinct(column)


READS: dict[str, Any] = {
    "entity": select(Author),
    "columns": select(Author.id, Author.name.label("n")).distinct(),
    "where": select(Book).where(Book.title == "x", Book.price > 1, Book.id != 5).order_by(Book.title.desc()),
    "joinedload": select(Author).options(joinedload(Author.books)).limit(5).offset(5),
    "joinedload, inner": select(Book).options(joinedload(Book.author, innerjoin=True)),
    "contains_eager": select(Author).join(Author.books).options(contains_eager(Author.books)),
    "undefer": select(Book).options(undefer(Book.notes)),
    "column_property": select(Author).options(undefer(Author.count)),  # type: ignore[attr-defined]
    "loader criteria": select(Author).options(with_loader_criteria(Author, Author.name != "x")),
    "alias": select(Book, other).join(other, Book.id < other.id),
    "outer join": select(Author).outerjoin(Book).where(Book.id.is_(None)),
    "subquery": select(select(Book.id).subquery("s")),
    "scalar subquery": select(Author.id, select(func.max(Book.id)).scalar_subquery()),
    "exists": select(Author).where(Author.books.any(Book.title == "x")),
    "not exists": select(~exists().where(Book.id == 1)),
    "has": select(Book).where(Book.author.has(name="x")),
    "expanding in": select(Book).where(Book.id.in_([1, 2, 3])),
    "empty in": select(Book).where(Book.id.in_([])),
    "not in": select(Book).where(Book.id.not_in([1, 2])),
    "in subquery": select(Book).where(Book.id.in_(select(other.id))),
    "expanding bind parameter": select(Book).where(Book.id.in_(bindparam("ids", [1, 2], expanding=True))),
    "tuple_ in": select(Book).where(tuple_(Book.id, Book.title).in_([(1, "a"), (2, "b")])),
    "limit and offset": select(Book).limit(5).offset(10),
    "limit expression": select(Book).limit(literal(5) + 5),
    "group by": select(Book.author_id, func.count()).group_by(Book.author_id).having(func.count() > 1),
    "count distinct": select(func.count(distinct(Book.author_id))),
    "aggregates": select(func.sum(Book.price), func.avg(Book.price), func.coalesce(func.max(Book.id), 0)),
    "case": select(case((Book.price > 5, "dear"), else_="cheap"), case({1: "a"}, value=Book.id)),
    "cast": select(cast(Book.price, String(20)), cast(Book.id, Numeric(10, 2)), type_coerce(Book.id, String)),
    "extract": select(extract("year", Book.printed)).where(extract("month", Author.born) == 5),
    "between": select(Book).where(Book.price.between(1, 5)),
    "like": select(Book).where(Book.title.like("%x%"), Book.title.contains("x%_", autoescape=True)),
    "ilike": select(Book).where(Book.title.ilike("x%"), Book.title.icontains("x"), Book.title.not_ilike("y")),
    "like a column": select(Book).where(Book.title.startswith(func.lower(Book.notes))),
    "like with escape": select(Book).where(Book.title.like("x/%", escape="/")),
    "regular expression": select(Book).where(Book.title.regexp_match("^a")),
    "collate": select(Book).order_by(Book.title.collate("BINARY")),
    "concatenation": select(Book.title + " by " + Author.name).join(Author),
    "is distinct from": select(Book).where(Book.title.is_distinct_from("x")),
    "true and false": select(true(), false()).where(Book.id.is_not(None)),
    "arithmetic": select(Book.id % 5, Book.id // 2, -Book.id, Book.id / 3),
    "bits": select(Book.id.bitwise_and(5), Book.id.bitwise_xor(1), ~Book.id.bitwise_or(1)),
    "now": select(func.now(), func.current_timestamp()),
    "window": select(
        func.row_number().over(partition_by=Book.author_id, order_by=Book.id.desc()),
        func.sum(Book.price).over(order_by=Book.id, rows=(-1, 1)),
        func.lag(Book.id, 1).over(order_by=[Book.id, Book.title]),
    ),
    "common table expression": select(Author, cheap.c.price).join(cheap, cheap.c.author_id == Author.id),
    "recursive common table expression": select(below),
    "nested common table expression": select(select(cheap).cte("outside", nesting=True)),
    "union": union(select(Author.id), select(Book.id)),
    "union all with order": union_all(select(Author.id), select(Book.id)).order_by("id").limit(5),
    "entities from a union": select(Author).from_statement(union_all(select(Author), select(Author))),
    "except and intersect": except_(select(Author.id), intersect(select(Book.id), select(Book.id))),
    "reserved and odd names": select(reserved),
    "names that write": select(Book.title.label("delete"), Book.id.label("FOR UPDATE")),
    "literals that write": select(literal_column("'DELETE FROM t; --'")),
    "json": select(Book).where(Book.facts["a"].as_string() == "x", Book.facts[("a", "b")].as_integer() == 1),
    "text": text("SELECT id FROM book WHERE title = :title AND id > :id"),
    "text of columns": text("SELECT id, name FROM author").columns(Author.id, Author.name),
    "text inside": select(text("id")).select_from(text("book")).where(text("title LIKE 'x%'")),
    "prefix and suffix": select(Author.id).prefix_with("/* why */").suffix_with("/* because */"),
    "whole rows": select(Author.__table__).join_from(Author.__table__, Book.__table__),
}

READS_ON_POSTGRESQL: dict[str, Any] = {
    "lateral": select(
        Author.name, lateral(select(Book.title).where(Book.author_id == Author.id).limit(1), "b").c.title
    ),
    "distinct on": distinct_on(select(Book), Book.author_id).order_by(Book.author_id, Book.price),
    "fetch first": select(Book).order_by(Book.id).fetch(5),
    "fetch with ties": select(Book).order_by(Book.id).fetch(5, with_ties=True).offset(2),
    "fetch percent": select(Book).fetch(literal(5) + 5),
    "filter": select(func.count(Book.id).filter(Book.price > 5)),
    "within group": select(func.percentile_cont(0.5).within_group(Book.price), func.mode().within_group(Book.title)),
    "array aggregate": select(func.array_agg(aggregate_order_by(Book.title, Book.id.desc()))),
    "grouping sets": select(func.count()).group_by(func.grouping_sets(Book.author_id, Book.title)),
    "rollup": select(func.count()).group_by(func.rollup(Book.author_id, Book.title)),
    "any of an array": select(document).where(
        literal("x") == any_(document.c.tags), literal("x") == all_(document.c.tags)
    ),
    "any of a select": select(Book).where(Book.id == any_(select(other.id).scalar_subquery())),
    "arrays": select(document.c.tags[1], document.c.tags[1:2], array([1, 2]), document.c.tags.contains(["x"])),
    "array overlap": select(document).where(document.c.tags.overlap(["x"])),
    "jsonb arrows": select(document.c.body["a"], document.c.body["a"].astext, document.c.body[("a", "b")].astext),
    "jsonb operators": select(document).where(
        document.c.body.contains({"a": 1}),
        document.c.body.contained_by({"a": 1}),
        document.c.body.has_key("a"),
        document.c.body.has_any(array(["a", "b"])),
        document.c.body.path_exists("$.a"),
        document.c.body.path_match("$.a > 1"),
    ),
    "jsonb functions": select(func.jsonb_build_object("a", document.c.id), func.jsonb_path_query(document.c.body, "$")),
    "full text": select(document).where(document.c.words.match("x"), func.to_tsvector("simple", "x").match("y")),
    "full text rank": select(func.ts_rank(document.c.words, func.plainto_tsquery("english", "x")).label("rank")),
    "tablesample": select(tablesample(Book, func.bernoulli(20), seed=func.pi())),
    "tablesample, system": select(aliased(Book, tablesample(Book, func.system(20), name="sample"))),
    "values": select(pairs),
    "table-valued function": select(func.generate_series(1, 5).table_valued("value")),
    "table-valued function with names": select(
        func.unnest(document.c.tags).table_valued("tag", with_ordinality="i").render_derived(name="x")
    ),
    "table-valued function with types": select(
        func.json_to_recordset("[]")
        .table_valued(Column("a", Integer), Column("b", String(5)))
        .render_derived(with_types=True)
    ),
    "column-valued function": select(func.jsonb_array_elements(document.c.body).column_valued("x")),
    "time zone": select(func.timezone("UTC", Book.printed), Book.printed.op("AT TIME ZONE")(func.lower("UTC"))),
    "date_trunc": select(func.date_trunc("day", Book.printed), func.to_char(Book.printed, "YYYY")),
    "interval": select(Book).where(Book.printed > func.now() - literal_column("INTERVAL '1 day'")),
    "regular expression replace": select(Book.title.regexp_replace("a", "b", "g")),
    "similarity": select(Book).where(func.similarity(Book.title, "x") > 0.5, Book.title.op("%")("x")),
    "vector distance": select(Book).order_by(Book.facts.op("<->")(cast([1, 2], ARRAY(Integer)))),
    "materialised": select(
        select(Book.id).cte("kept").prefix_with("MATERIALIZED", dialect="postgresql"),
    ),
    "only": select(Book).with_hint(Book, "ONLY", "postgresql"),
    "qualified function": select(func.pg_catalog.lower("X")),
}

READS_ON_MYSQL: dict[str, Any] = {
    "full text": select(Book).where(match(Book.title, against="x").in_boolean_mode()),
    "concatenation of groups": select(func.group_concat(Book.title.op("SEPARATOR")(literal_column("', '")))),
    "index hint": select(Book).with_hint(Book, "USE INDEX (ix)", "mysql").with_hint(Book, "USE INDEX (ix)", "mariadb"),
    "date_format": select(func.date_format(Book.printed, "%Y-%m-%d"), literal_column("DATE_FORMAT(a, '%Y')")),
    "if and ifnull": select(getattr(func, "if")(Book.id > 5, 1, 2), func.ifnull(Book.id, 5)),
    "cast": select(cast(Book.id, mysql.CHAR(10)), cast(Book.price, mysql.DECIMAL(10, 2)), cast("5", mysql.DATETIME(6))),
    "rlike": select(Book).where(Book.title.op("RLIKE")("x"), Book.title.regexp_match("x", flags="i")),
    "rollup": select(func.count()).group_by(Book.author_id).suffix_with("WITH ROLLUP"),
    "straight join": select(Book).prefix_with("STRAIGHT_JOIN"),
}

READS_ON_SQLITE: dict[str, Any] = {
    "match": select(Book).where(Book.title.match("x")),
    "strftime": select(func.strftime("%Y-%m", Book.printed), func.date("now", "-1 day")),
    "glob": select(Book).where(Book.title.op("GLOB")("x*")),
    "json_each": select(func.json_each(Book.facts).table_valued("key", "value")),
    "fts rank": select(func.bm25(text("book")), func.snippet(text("book"), 0, "a", "b", "...", 5)),
}

NOT_READS: dict[str, Any] = {
    "insert": insert(Book).values(title="x"),
    "insert from select": insert(Author).from_select(["name"], select(Book.title)),
    "update": update(Book).values(title="x").where(Book.id == 1),
    "delete": delete(Book),
    "unknown function": select(func.my_function(Book.id)),
    "unknown function inside": select(Book).where(Book.id == func.lower(func.my_function(1))),
    "unknown function in a column property": select(func.count(func.my_function(Author.id))),
    "function of a schema": select(func.app.lower("X")),
    "table-valued unknown function": select(func.my_function(1).table_valued("a")),
    "unknown function in an order": select(Book).order_by(func.my_function()),
    "text that writes": text("DELETE FROM book"),
    "text of two statements": text("SELECT 1; DELETE FROM book"),
    "suffix that locks": select(Book).suffix_with("FOR UPDATE"),
    "text that locks": text("SELECT id FROM book FOR UPDATE"),
    "statement hint that locks": select(Book).with_statement_hint("FOR SHARE"),
    "set": text("SET a = 1"),
}

NOT_READS_ON_POSTGRESQL: dict[str, Any] = {
    "deleting common table expression": select(deleted),
    "inserting common table expression": select(Author).where(Author.id.in_(select(inserted.c.id))),
    "updating common table expression": select(Book).join(updated, updated.c.id == Book.id),
    "nextval": select(func.nextval("s")),
    "next value": select(func.next_value(Sequence("s"))),
    "sequence": select(Sequence("s").next_value()),
    "sequence in a schema": select(Sequence("s", schema="app").next_value()),
    "setting": select(func.set_config("a.b", "c", True)),
    "current setting": select(func.current_setting("a.b")),
    "advisory lock": select(func.pg_advisory_xact_lock(5)),
    "notify": select(func.pg_notify("a", "b")),
    "large object": select(func.lo_create(0)),
}

NOT_READS_ON_MYSQL: dict[str, Any] = {
    "named lock": select(func.get_lock("a", 5)),
    "last insert id": select(func.last_insert_id()),
    "user variable": select(text("@a")),
    "user variable set": text("SELECT @a := 1"),
    "sequence": select(func.nextval(literal_column("s"))),
    "found rows": select(Book).prefix_with("SQL_CALC_FOUND_ROWS"),
}

NOT_READS_ON_SQLITE: dict[str, Any] = {
    "last insert row id": select(func.last_insert_rowid()),
    "changes": select(func.changes()),
    "pragma": text("PRAGMA journal_mode = wal"),
}

LOCKS: dict[str, dict[str, Any]] = {
    "update": {},
    "nowait": {"nowait": True},
    "skip locked": {"skip_locked": True},
    "share": {"read": True},
    "share, skip locked": {"read": True, "skip_locked": True},
    "of": {"of": Book},
    "of columns": {"of": [Book.id, Author.id]},
    "key share": {"read": True, "key_share": True},
    "no key update": {"key_share": True},
}


def cases(*groups: tuple[tuple[str, ...], dict[str, Any]]) -> list[Any]:
    """Return each statement with each driver."""
    return [
        pytest.param(driver, statement, id=f"{driver}-{name}")
        for drivers, statements in groups
        for name, statement in statements.items()
        for driver in drivers
    ]


def compiled(statement: Any, driver: str) -> str:
    """Return the text that goes to a driver."""
    return str(statement.compile(dialect=DIALECTS[driver], compile_kwargs={"render_postcompile": True}))


def family(driver: str) -> str:
    """Return the dialect that a driver belongs to."""
    return driver.partition("+")[0]


@pytest.mark.parametrize(
    ("driver", "statement"),
    cases((EVERYWHERE, READS), (POSTGRESQL, READS_ON_POSTGRESQL), (MYSQL, READS_ON_MYSQL), (SQLITE, READS_ON_SQLITE)),
)
def test_a_query_is_a_plain_read(driver: str, statement: Any) -> None:
    """A query without locks and unknown functions is a plain read in the spelling of each driver."""
    sql = compiled(statement, driver)

    assert is_plain_read(sql, family(driver)), sql
    assert not is_write(sql, family(driver))
    assert not is_locking_read(sql, family(driver))


@pytest.mark.parametrize(
    ("driver", "statement"),
    cases(
        (EVERYWHERE, NOT_READS),
        (POSTGRESQL, NOT_READS_ON_POSTGRESQL),
        (MYSQL, NOT_READS_ON_MYSQL),
        (SQLITE, NOT_READS_ON_SQLITE),
    ),
)
def test_what_is_more_than_a_query_is_no_plain_read(driver: str, statement: Any) -> None:
    """Writes, locks, sequences, settings and unknown functions are no plain reads in the spelling of any driver."""
    sql = compiled(statement, driver)

    assert not is_plain_read(sql, family(driver)), sql


@pytest.mark.parametrize("driver", POSTGRESQL + MYSQL)
@pytest.mark.parametrize("options", LOCKS.values(), ids=LOCKS.keys())
@pytest.mark.parametrize(
    "query",
    [
        select(Book).join(Author),
        select(Book.id).join(Author).limit(5).order_by(Book.id),
        select(Author).join(Book).options(joinedload(Author.books)),
    ],
    ids=["entity", "columns", "joinedload"],
)
def test_a_locking_query_is_one(driver: str, options: dict[str, Any], query: Any) -> None:
    """``with_for_update`` in each of its forms is a locking read."""
    sql = compiled(query.with_for_update(**options), driver)

    assert is_locking_read(sql, family(driver)), sql
    assert not is_plain_read(sql, family(driver)), sql


@pytest.mark.parametrize("driver", EVERYWHERE)
@pytest.mark.parametrize("statement", [insert(Book).values(title="x"), update(Book).values(title="x"), delete(Book)])
def test_a_statement_that_writes_is_a_certain_write(driver: str, statement: Any) -> None:
    """INSERT, UPDATE and DELETE are certain writes in the spelling of each driver."""
    assert is_write(compiled(statement, driver), family(driver))


@pytest.mark.parametrize("driver", POSTGRESQL)
@pytest.mark.parametrize("expression", [deleted, inserted, updated], ids=["delete", "insert", "update"])
def test_a_writing_table_expression_is_a_certain_write(driver: str, expression: Any) -> None:
    """A query over a data-changing common table expression is a certain write."""
    assert is_write(compiled(select(expression), driver), family(driver))


@pytest.mark.parametrize("driver", POSTGRESQL)
def test_an_upsert_is_a_certain_write(driver: str) -> None:
    """INSERT with ON CONFLICT is a certain write and no plain read."""
    statement = (
        postgresql.insert(Book).values(title="x").on_conflict_do_update(index_elements=["id"], set_={"title": "y"})
    )
    sql = compiled(statement.returning(Book.id), driver)

    assert is_write(sql, "postgresql")
    assert not is_plain_read(sql, "postgresql")


# -- What the ORM sends by itself --------------------------------------------------------------------------------------


@pytest.fixture
def library() -> Iterator[tuple[Engine, list[str]]]:
    """A database in memory with two authors, and the list of the statements that reach its driver."""
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as db:
        db.add_all([Author(name="a", books=[Book(title="b", facts={}), Book(title="c", facts={})]), Author(name="d")])
        db.commit()
    sent: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        sent.append(statement)

    yield engine, sent
    engine.dispose()


LOADS: dict[str, Callable[[Session], Any]] = {
    "selectinload": lambda db: db.scalars(select(Author).options(selectinload(Author.books))).all(),
    "selectinload, to one": lambda db: db.scalars(select(Book).options(selectinload(Book.author))).all(),
    "subqueryload": lambda db: db.scalars(select(Author).options(subqueryload(Author.books))).all(),
    "joinedload": lambda db: db.scalars(select(Author).options(joinedload(Author.books)).limit(1)).unique().all(),
    "lazy load": lambda db: [author.books for author in db.scalars(select(Author).options(lazyload(Author.books)))],
    "lazy load, to one": lambda db: db.scalars(select(Book)).first().author,  # type: ignore[union-attr]
    "deferred column": lambda db: db.scalars(select(Book)).first().notes,  # type: ignore[union-attr]
    "deferred expression": lambda db: db.scalars(select(Author)).first().count,  # type: ignore[union-attr]
    "get": lambda db: db.get(Author, 1),
    "refresh": lambda db: db.refresh(db.get_one(Author, 1)),
    "expired": lambda db: (db.expire(author := db.get_one(Author, 1)), author.name),
    "query": lambda db: db.query(Author).filter_by(name="a").one(),
    "query count": lambda db: db.query(Author).count(),
    "query exists": lambda db: db.query(db.query(Author).exists()).scalar(),
}


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS.keys())
def test_what_the_orm_loads_is_read_plainly(load: Callable[[Session], Any], library: tuple[Engine, list[str]]) -> None:
    """Loading objects, their relationships and deferred columns takes plain reads only."""
    engine, sent = library
    with Session(engine) as db:
        load(db)

    assert sent
    assert [] == [statement for statement in sent if not is_plain_read(statement, "sqlite")]


def test_a_flush_writes(library: tuple[Engine, list[str]]) -> None:
    """Each statement of a flush is a certain write."""
    engine, sent = library
    with Session(engine) as db:
        author = Author(name="x", books=[Book(title="y")])
        db.add(author)
        db.flush()
        author.name = "z"
        db.flush()
        db.delete(author.books[0])
        db.flush()

    assert {"INSERT", "UPDATE", "DELETE"} == {statement.split()[0] for statement in sent}
    assert [] == [statement for statement in sent if not is_write(statement, "sqlite")]


@pytest.mark.parametrize("driver", EVERYWHERE)
@pytest.mark.parametrize("ddl", [CreateTable, DropTable])
def test_ddl_is_a_certain_write(driver: str, ddl: Callable[[Table], Any]) -> None:
    """CREATE TABLE and DROP TABLE are certain writes in the spelling of each driver."""
    assert is_write(str(ddl(tree).compile(dialect=DIALECTS[driver])), family(driver))
