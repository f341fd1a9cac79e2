"""The databases agree: a plain read passes where only reads may, a certain write does not, known functions exist."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any, Protocol

import psycopg
import pymysql
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pymysql.constants import CLIENT
from sqlalchemy import Connection, MetaData, create_engine, event, inspect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine

from sessionlocal.dialects.plain_read import is_plain_read, is_write
from sessionlocal.dialects.words import COMMON, MYSQL, POSTGRESQL, SQLITE
from tests.conftest import missing
from tests.support.servers import Servers, Unavailable, mysql_connect_arguments, postgresql_connect_arguments

PLAIN_ON_POSTGRESQL = [
    "SELECT 1",
    "TABLE author",
    "VALUES (1, 'a'), (2, 'b')",
    "SELECT * FROM author -- FOR UPDATE",
    "SELECT /* nothing; */ 'a' AS delete FROM author",
    "SELECT author.id, book.title FROM author LEFT OUTER JOIN book ON author.id = book.author_id ORDER BY 1, 2",
    "SELECT a.name FROM author AS a JOIN (SELECT author_id FROM book) AS b ON (a.id = b.author_id)",
    "SELECT name FROM author WHERE id IN (1, 2) AND (id, name) IN ((1, 'Ann'), (2, 'Bob'))",
    "SELECT name FROM author WHERE EXISTS (SELECT 1 FROM book WHERE author_id = author.id)",
    "SELECT count(*), count(DISTINCT author_id), sum(price), avg(price) FROM book HAVING count(*) > 0",
    "SELECT author_id, count(*) FILTER (WHERE price > 5) FROM book GROUP BY author_id ORDER BY author_id NULLS LAST",
    "SELECT count(*) FROM book GROUP BY GROUPING SETS ((author_id), ())",
    "SELECT count(*) FROM book GROUP BY ROLLUP (author_id, title)",
    "SELECT count(*) FROM book GROUP BY CUBE (author_id, title)",
    "SELECT row_number() OVER (PARTITION BY author_id ORDER BY id), lag(id) OVER w FROM book WINDOW w AS (ORDER BY id)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY price), mode() WITHIN GROUP (ORDER BY title) FROM book",
    "WITH a AS (SELECT 1 AS x), b (y) AS MATERIALIZED (SELECT 2) SELECT x, y FROM a, b",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT array_agg(i) FROM n",
    "SELECT a.name, x.title FROM author AS a, LATERAL (SELECT title FROM book WHERE author_id = a.id) AS x",
    "SELECT DISTINCT ON (author_id) author_id, title FROM book ORDER BY author_id, price DESC",
    "SELECT id FROM book ORDER BY id FETCH FIRST (1) ROWS ONLY",
    "SELECT id FROM book ORDER BY price FETCH FIRST 1 ROW WITH TIES",
    "SELECT id FROM book LIMIT (1) OFFSET (0)",
    "SELECT CASE WHEN (id = 1) THEN ('a') ELSE 'b' END, coalesce(name, ''), nullif(id, 1), greatest(1, 2) FROM author",
    "SELECT CAST(price AS VARCHAR(20)), price::numeric(10, 1), '1'::character varying(5), 1::text FROM book",
    "SELECT lower(name) || upper(name), substring(name FROM 1 FOR 2), trim(BOTH 'a' FROM name) FROM seen",
    "SELECT name FROM author WHERE name ILIKE ('a' || '%') OR name NOT ILIKE 'b/%' ESCAPE '/' OR name SIMILAR TO ('x')",
    "SELECT name ~ '^A', name ~* 'a', regexp_replace(name, 'a', 'b', 'g'), split_part(name, 'n', 1) FROM author",
    "SELECT now(), current_date, clock_timestamp(), date_trunc('day', now()), extract(year FROM now())",
    "SELECT now() AT TIME ZONE ('UTC'), timezone('UTC', now()), now() - INTERVAL '1 day', to_char(now(), 'YYYY')",
    "SELECT facts -> 'a', facts ->> 'a', facts #>> '{a,b}', facts @> '{\"a\": 1}', facts ? 'a' FROM book",
    "SELECT facts ?| ARRAY['a'], facts @? '$.a', facts @@ '$.a > 1', jsonb_pretty(facts), jsonb_typeof('1') FROM book",
    "SELECT j.key, j.value FROM book, jsonb_each(facts) AS j",
    "SELECT x.a FROM jsonb_to_recordset('[{\"a\": 1}]') AS x (a int, b numeric(5, 2))",
    "SELECT tags[1], tags[1:2], ARRAY[1, 2], ARRAY(SELECT id FROM book), tags @> ARRAY['x'], tags && '{x}' FROM book",
    "SELECT t.tag, t.i FROM book, unnest(tags) WITH ORDINALITY AS t (tag, i) WHERE 'x' = ANY (tags)",
    "SELECT i FROM generate_series(1, 5) AS s (i) WHERE i <> ALL (ARRAY[1, 2])",
    "SELECT to_tsvector('simple', title) @@ plainto_tsquery('simple', 'x'), ts_rank(to_tsvector(title), 'x') FROM book",
    "SELECT id FROM book TABLESAMPLE system(50) REPEATABLE (7)",
    "SELECT id FROM book TABLESAMPLE bernoulli(50)",
    "SELECT id FROM ONLY (book)",
    "(SELECT id FROM author UNION ALL (SELECT id FROM book)) EXCEPT SELECT 1 INTERSECT SELECT 2",
    "SELECT 1 OPERATOR(pg_catalog.+) 2, 5 % 2, 2 ^ 3, ~ 1, 1 # 2, |/ 4, @ -5",
    r"SELECT E'a\tb', 'a\b', U&'d\0061ta', B'01', X'1f', N'a'",
    "SELECT pg_catalog.format_type(atttypid, atttypmod), pg_get_expr(NULL, 0) FROM pg_catalog.pg_attribute LIMIT 1",
    "SELECT obj_description('author'::regclass, 'pg_class'), pg_relation_size('author'), current_schema()",
    "SELECT gen_random_uuid(), random(), md5('a'), encode(sha256('a'), 'hex')",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()",
    "SELECT name FROM seen",
    "EXPLAIN SELECT * FROM author",
    "EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT * FROM author",
    "SHOW server_version",
    "SELECT;",
]

WRITES_ON_POSTGRESQL = [
    "INSERT INTO author (id) VALUES (9)",
    "INSERT INTO author (id) SELECT 9 ON CONFLICT DO NOTHING",
    "/* SELECT */ update author SET name = 'x'",
    "DELETE FROM author WHERE id = 1",
    "MERGE INTO author USING book ON author.id = book.author_id WHEN MATCHED THEN DELETE",
    "WITH a AS (DELETE FROM book RETURNING id) SELECT id FROM a",
    "WITH a AS (SELECT 1 AS id), b AS MATERIALIZED (INSERT INTO author (id) SELECT 9 RETURNING id) SELECT id FROM b",
    "WITH a AS (SELECT 1) UPDATE author SET name = 'x'",
    "CREATE TABLE made (id int)",
    "CREATE INDEX made ON book (title)",
    "CREATE VIEW made AS SELECT 1",
    "CREATE SEQUENCE made",
    "ALTER TABLE author ADD made int",
    "DROP TABLE author",
    "TRUNCATE author CASCADE",
    "GRANT SELECT ON author TO PUBLIC",
    "REVOKE SELECT ON author FROM PUBLIC",
    "COMMENT ON TABLE author IS 'x'",
    "REFRESH MATERIALIZED VIEW kept",
    "REASSIGN OWNED BY current_user TO current_user",
]

PLAIN_ON_MYSQL = [
    "SELECT 1 # FOR UPDATE",
    "SELECT 1 -- FOR UPDATE",
    "SELECT `id`, \"a'b\", 'a\\tb', N'a', _utf8mb4'a', 5 %% 2 FROM author",
    "SELECT author.id, book.title FROM author LEFT OUTER JOIN book ON (author.id = book.author_id)",
    "SELECT count(*), group_concat(title ORDER BY title SEPARATOR ', ') FROM book GROUP BY author_id WITH ROLLUP",
    "SELECT row_number() OVER (PARTITION BY author_id ORDER BY id) FROM book",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n",
    "SELECT id FROM author WHERE id IN (SELECT author_id FROM book) AND id = ANY (SELECT 1)",
    "SELECT REPLACE(title, 'a', 'b'), LEFT(title, 1), IF(id = 1, 2, 3), TRUNCATE(1.5, 0), INTERVAL(1, 2) FROM book",
    "SELECT DATE_FORMAT(NOW(), '%%Y-%%m'), DATE_ADD(NOW(), INTERVAL (1) DAY), UNIX_TIMESTAMP(), CURDATE()",
    "SELECT CAST(id AS CHAR(10)), CONVERT(title USING utf8mb4), CAST('5' AS DECIMAL(10, 2)), BINARY (title) FROM book",
    "SELECT id FROM book USE INDEX (PRIMARY) WHERE title REGEXP ('x') XOR (id DIV (2) = 1) OR title LIKE ('x')",
    "SELECT MATCH (title) AGAINST ('x' IN BOOLEAN MODE) FROM book",
    "SELECT JSON_EXTRACT('{\"a\": 1}', '$.a'), JSON_ARRAYAGG(id), UUID(), MD5('a') FROM author",
    "SELECT SQL_NO_CACHE id FROM author",
    "SELECT id FROM author UNION (SELECT id FROM book) ORDER BY id LIMIT 5 OFFSET 0",
    "(SELECT id FROM author) EXCEPT SELECT 1",
    "SELECT table_name FROM information_schema.tables WHERE table_schema = database()",
    "SHOW TABLES",
    "SHOW FULL TABLES LIKE 'a%%'",
    "SHOW FULL COLUMNS FROM author",
    "SHOW INDEX FROM author WHERE Key_name = 'PRIMARY'",
    "SHOW CREATE TABLE author",
    "SHOW TABLE STATUS",
    "SHOW GLOBAL STATUS LIKE 'Uptime'",
    "DESCRIBE author",
    "DESC author name",
    "EXPLAIN author",
    "EXPLAIN SELECT id FROM author",
    "EXPLAIN FORMAT=JSON SELECT id FROM author",
]

WRITES_ON_MYSQL = [
    "INSERT INTO author (id) VALUES (9)",
    "REPLACE INTO author (id) VALUES (1)",
    "# SELECT\nUPDATE author SET name = 'x'",
    "DELETE FROM author",
]

# DDL ends the transaction that MariaDB was to refuse it in, and runs.
DDL_ON_MYSQL = [
    "CREATE TABLE made (id int)",
    "ALTER TABLE made ADD a int",
    "RENAME TABLE made TO made_again",
    "TRUNCATE TABLE made_again",
    "DROP TABLE made_again",
]

PLAIN_ON_SQLITE = [
    "SELECT [id], `name`, \"name\", 'a\\' FROM author -- FOR UPDATE",
    "SELECT author.id, book.title FROM author LEFT OUTER JOIN book ON (author.id = book.author_id)",
    "SELECT count(*) FILTER (WHERE id > 1), group_concat(title, ','), total(id) FROM book",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n",
    "SELECT name FROM author WHERE name LIKE ('a\\%') ESCAPE ('\\') OR name GLOB ('A*') OR id IN (SELECT 1)",
    "SELECT replace(name, 'a', 'b'), iif(id, 1, 2), printf('%d', id), typeof(id), CAST(id AS VARCHAR(5)) FROM author",
    "SELECT strftime('%Y', 'now'), julianday('now'), date('now', '-1 day'), random(), hex(randomblob(4))",
    "SELECT value FROM json_each('[1, 2]')",
    "SELECT name FROM pragma_table_info('author')",
    "SELECT name FROM sqlite_master UNION ALL SELECT name FROM sqlite_temp_master",
    "VALUES (1, 2), (3, 4)",
    "PRAGMA table_info('author')",
    'PRAGMA main.table_xinfo("author")',
    "PRAGMA index_list('author')",
    "PRAGMA foreign_key_list('book')",
    "PRAGMA foreign_keys",
    "PRAGMA main.user_version",
    "PRAGMA database_list",
    "EXPLAIN QUERY PLAN SELECT id FROM author",
]

WRITES_ON_SQLITE = [
    "INSERT INTO author (id) VALUES (9)",
    "REPLACE INTO author (id) VALUES (1)",
    "WITH a AS (SELECT 9) INSERT OR REPLACE INTO author (id) SELECT * FROM a",
    "UPDATE author SET name = 'x'",
    "DELETE FROM author",
    "CREATE TABLE made (id int)",
    "CREATE TEMP TABLE made (id int)",
    "ALTER TABLE author ADD made int",
    "DROP TABLE author",
    "REINDEX author",
]


class Ground(Protocol):
    """A database with an author, a book, and functions that write, seen through a plain driver."""

    def refused(self, statement: str) -> str | None:
        """Run a statement where only reads may; return the code of the error, if there is one."""
        ...

    def run(self, text: str) -> None:
        """Run a text, which may hold several statements, in autocommit; errors do not matter."""
        ...

    def written(self) -> Any:
        """Return what a write would have changed."""
        ...

    def restore(self) -> None:
        """Undo what was written."""
        ...


class PostgreSQL:
    """PostgreSQL through psycopg."""

    schema = """
        CREATE TABLE author (id int PRIMARY KEY, name text);
        CREATE TABLE book (id int PRIMARY KEY, title text, price numeric, facts jsonb, tags text[], author_id int);
        CREATE VIEW seen AS SELECT name FROM author;
        CREATE MATERIALIZED VIEW kept AS SELECT name FROM author;
        CREATE SEQUENCE numbers;
        INSERT INTO author VALUES (1, 'Ann'), (2, 'Bob');
        INSERT INTO book VALUES (1, 'x', 5, '{"a": {"b": 1}}', '{x,y}', 1);
    """
    functions = ("writes", "filter", "over", "first", "force", "rollup", "escape", "lateral_")

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.run(self.schema)
        for name in self.functions:
            body = "INSERT INTO author SELECT max(id) + 1 FROM author RETURNING 1"
            self.run(f"CREATE FUNCTION {name}(a int DEFAULT 0) RETURNS int LANGUAGE sql AS '{body}'")

    def refused(self, statement: str) -> str | None:
        self.connection.execute("BEGIN READ ONLY")
        try:
            self.connection.execute(statement.encode())
        except psycopg.Error as error:
            return error.sqlstate
        finally:
            self.connection.execute("ROLLBACK")
        return None

    def run(self, text: str) -> None:
        with suppress(psycopg.Error, UnicodeError):
            self.connection.execute(text.encode())

    def written(self) -> Any:
        counts = "SELECT (SELECT count(*) FROM author), (SELECT count(*) FROM book), (SELECT is_called FROM numbers)"
        return self.connection.execute(counts).fetchone()

    def restore(self) -> None:
        self.connection.execute("DELETE FROM author WHERE id > 2")


class MariaDB:
    """MariaDB or MySQL through PyMySQL."""

    schema = (
        "CREATE TABLE author (id int PRIMARY KEY, name varchar(50))",
        "CREATE TABLE book (id int PRIMARY KEY, title varchar(50), author_id int, FULLTEXT (title))",
        "INSERT INTO author VALUES (1, 'Ann'), (2, 'Bob')",
        "INSERT INTO book VALUES (1, 'x', 1)",
        "CREATE SEQUENCE numbers",
        "CREATE FUNCTION writes() RETURNS int "
        "BEGIN INSERT INTO author SELECT max(id) + 1, '' FROM author; RETURN 1; END",
    )

    def __init__(self, connection: pymysql.Connection[Any]) -> None:
        self.cursor = connection.cursor()
        for statement in self.schema:
            self.cursor.execute(statement)

    def refused(self, statement: str) -> str | None:
        self.cursor.execute("START TRANSACTION READ ONLY")
        try:
            self.cursor.execute(statement, ())
        except pymysql.Error as error:
            return str(error.args[0])
        finally:
            self.cursor.execute("ROLLBACK")
        return None

    def run(self, text: str) -> None:
        with suppress(pymysql.Error, UnicodeError, ValueError, TypeError):
            self.cursor.execute(text, ())
            while self.cursor.nextset():
                pass

    def written(self) -> Any:
        self.cursor.execute(
            "SELECT (SELECT count(*) FROM author), (SELECT count(*) FROM book), next_not_cached_value FROM numbers"
        )
        return self.cursor.fetchone()

    def restore(self) -> None:
        self.cursor.execute("DELETE FROM author WHERE id > 2")


class SQLite:
    """SQLite, in memory."""

    schema = """
        CREATE TABLE author (id int PRIMARY KEY, name text);
        CREATE TABLE book (id int PRIMARY KEY, title text, author_id int);
        INSERT INTO author VALUES (1, 'Ann'), (2, 'Bob');
        INSERT INTO book VALUES (1, 'x', 1);
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.calls = 0
        connection.executescript(self.schema)
        for name in ("writes", "filter", "over", "first", "any", "lateral"):
            connection.create_function(name, -1, self._write)

    def _write(self, *arguments: object) -> int:
        self.calls += 1
        return 1

    def refused(self, statement: str) -> str | None:
        self.connection.execute("PRAGMA query_only = 1")
        try:
            self.connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            return error.sqlite_errorname
        finally:
            self.connection.execute("PRAGMA query_only = 0")
        return None

    def run(self, text: str) -> None:
        with suppress(sqlite3.Error, UnicodeError, ValueError):
            self.connection.executescript(text)

    def written(self) -> Any:
        return self.calls, self.connection.execute(
            "SELECT (SELECT count(*) FROM author), (SELECT count(*) FROM book), (SELECT count(*) FROM sqlite_master)"
        ).fetchone()

    def restore(self) -> None:
        self.calls = 0


@pytest.fixture(scope="module")
def postgresql(servers: Servers) -> Iterator[PostgreSQL]:
    """A database on PostgreSQL, for this module."""
    arguments = postgresql_connect_arguments(new_database(servers, "postgresql"))
    with psycopg.connect(**arguments, autocommit=True) as connection:
        yield PostgreSQL(connection)


@pytest.fixture(scope="module")
def mariadb(servers: Servers) -> Iterator[MariaDB]:
    """A database on MariaDB, for this module."""
    arguments = mysql_connect_arguments(new_database(servers, "mariadb"))
    with pymysql.connect(**arguments, autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS) as connection:
        yield MariaDB(connection)


@pytest.fixture(scope="module")
def sqlite() -> Iterator[SQLite]:
    """A SQLite database in memory, for this module."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        yield SQLite(connection)


def new_database(servers: Servers, dialect: str) -> Any:
    """Return the URL of a database; without a server the test is skipped."""
    try:
        return servers.new_database(dialect)
    except Unavailable as reason:
        missing(str(reason))
        raise


@pytest.fixture
def ground(request: pytest.FixtureRequest, dialect: str) -> Ground:
    """The database of a dialect."""
    found: Ground = request.getfixturevalue(dialect)
    return found


READS = {"postgresql": PLAIN_ON_POSTGRESQL, "mariadb": PLAIN_ON_MYSQL, "sqlite": PLAIN_ON_SQLITE}
WRITES = {"postgresql": WRITES_ON_POSTGRESQL, "mariadb": WRITES_ON_MYSQL, "sqlite": WRITES_ON_SQLITE}
READ_ONLY_TRANSACTION = {"postgresql": "25006", "mariadb": "1792", "sqlite": "SQLITE_READONLY"}


def with_dialect(statements: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return each statement with its dialect."""
    return [(dialect, statement) for dialect, found in statements.items() for statement in found]


@pytest.mark.parametrize(("dialect", "statement"), with_dialect(READS))
def test_a_plain_read_passes_where_only_reads_may(dialect: str, statement: str, ground: Ground) -> None:
    """What is judged a plain read runs in a read-only transaction."""
    assert is_plain_read(statement, dialect)
    assert ground.refused(statement) is None


@pytest.mark.parametrize(("dialect", "statement"), with_dialect(WRITES))
def test_a_certain_write_is_refused_where_only_reads_may(dialect: str, statement: str, ground: Ground) -> None:
    """What is judged a certain write fails in a read-only transaction, because it is read-only."""
    assert is_write(statement, dialect)
    assert READ_ONLY_TRANSACTION[dialect] == ground.refused(statement)


def test_ddl_is_not_refused_by_mariadb(mariadb: MariaDB) -> None:
    """DDL passes in a read-only transaction of MariaDB, so a read-only session depends on its being called a write."""
    for statement in DDL_ON_MYSQL:
        assert is_write(statement, "mariadb")
        assert mariadb.refused(statement) is None


# -- Texts that nobody would write -------------------------------------------------------------------------------------

HEADS = [
    "SELECT 1 ",
    "SELECT ",
    "SELECT id FROM author ",
    "WITH q AS (SELECT 1) SELECT ",
    "SELECT 'a', ",
    "SELECT id, ",
]
FRAGMENTS = [
    *"'\"`[]()/*-#;:,.%$@!\\\n\r\t =+a1xeEN\x0b\u00a0",
    *("'", '"', "--", "-- ", "/*", "*/", "''", "'a'", '"a"', "\r\n", "%%", "::", ":=", "1", " a ", " AS ", ", ", "()"),
    *(
        " FROM author",
        " WHERE ",
        " IN (",
        "NOT ",
        " UNION SELECT 1",
        "lower('A')",
        "writes()",
        "writes",
        "(1)",
        ".writes",
    ),
    *("DELETE FROM book", "; DELETE FROM book", "INSERT INTO author VALUES (7)", "WITH q AS (", ") SELECT 1"),
]
FRAGMENTS_OF = {
    "postgresql": [
        *("$$", "$a$", "E'", "U&'", 'U&"', "nextval('numbers')", "; SELECT writes()", ", writes() AS (a int)"),
        *(
            "filter(1)",
            "over(1)",
            "first(1)",
            "force(1)",
            "rollup(1)",
            "escape(1)",
            "DISTINCT ON (1) ",
            "ARRAY[",
            "ILIKE ",
        ),
        *("OPERATOR(pg_catalog.+) ", "pg_catalog.", "MATERIALIZED ", "AT TIME ZONE ", "ORDER BY ", " RETURNING 1"),
    ],
    "mariadb": [
        *("/*!", "/*M!", "/*!50000 ", "# ", "`", "_utf8", "X'", "nextval(numbers)", "NEXT VALUE FOR numbers", "--1"),
        *("@a", " INTO @a", "{", "}", "\\N", "--writes()", "--nextval(numbers)", "writes ()"),
    ],
    "sqlite": [
        *("[", "]", "`", ":a", "?", "REPLACE INTO author VALUES (7)", "filter(1)", "over(1)", "any(1)", "first(1)"),
        *("; SELECT writes()", "x'", "FROM pragma_optimize", " RETURNING 1"),
    ],
}


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb", "sqlite"])
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(data=st.data())
def test_what_is_judged_plain_writes_nothing(dialect: str, ground: Ground, data: st.DataObject) -> None:
    """Texts of fragments that tempt a scanner change nothing on a real server once they are judged to be plain."""
    fragments = st.lists(st.sampled_from([*FRAGMENTS, *FRAGMENTS_OF[dialect]]), min_size=1, max_size=8)
    text = data.draw(st.sampled_from(HEADS)) + "".join(data.draw(fragments))
    assume(is_plain_read(text, dialect))
    before = ground.written()
    try:
        ground.run(text)
        assert before == ground.written()
    finally:
        ground.restore()


# -- Functions that are taken for harmless -----------------------------------------------------------------------------

# Of PostgreSQL's allow-list: what the parser knows by itself, and what came after version 15.
SYNTAX_OF_POSTGRESQL = """
    cast coalesce current_catalog current_date current_time current_timestamp greatest grouping json json_array
    json_arrayagg json_exists json_objectagg json_query json_scalar json_serialize json_table json_value least localtime
    localtimestamp nullif treat trim xmlattributes xmlconcat xmlelement xmlforest xmlparse xmlpi xmlroot xmlserialize
"""
NEW_ON_POSTGRESQL = """
    any_value array_sample array_shuffle casefold crc32 crc32c date_add date_subtract erf erfc gamma
    json_object_agg_strict random_normal to_bin to_oct unicode_version uuid_extract_timestamp uuid_extract_version
    uuidv4 uuidv7
"""
# Volatile because they differ from call to call, not because they write.
VOLATILE_ON_POSTGRESQL = """
    clock_timestamp gen_random_uuid pg_database_size pg_indexes_size pg_is_in_recovery pg_partition_ancestors
    pg_partition_tree pg_relation_size pg_sleep pg_table_size pg_tablespace_size pg_total_relation_size random
    random_normal array_sample array_shuffle uuidv4 uuidv7 timeofday
"""
# Of MySQL's allow-list, what MariaDB does not have, or only in later versions.
MYSQL_ONLY = """
    any_value bin_to_uuid format_bytes is_uuid json_schema_valid json_storage_size json_table point regexp_like
    st_isvalid uuid_to_bin
"""
NO_SUCH_FUNCTION = (1305, 1630)
# Of SQLite's allow-list, what came after 3.40, belongs to an extension, or is a table.
NEW_ON_SQLITE = """
    cast concat concat_ws if json_error_position json_pretty jsonb jsonb_array jsonb_extract jsonb_group_array
    jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set median octet_length
    percentile percentile_cont percentile_disc string_agg timediff unhex unistr unistr_quote
"""
OPTIONAL_ON_SQLITE = """
    acos acosh asin asinh atan atan2 atanh bm25 ceil ceiling cos cosh degrees exp floor highlight json_each json_tree ln
    log log10 log2 matchinfo mod offsets pi pow power radians regexp sin sinh snippet soundex sqrt tan tanh trunc
    sqlite_compileoption_get sqlite_compileoption_used
"""


def upper(names: str) -> set[str]:
    """Return names as the allow-lists spell them."""
    return set(names.upper().split())


def test_known_functions_of_postgresql_do_not_write(postgresql: PostgreSQL) -> None:
    """Each function that is taken for harmless is the server's own, and is not volatile unless a reason is known."""
    rows = postgresql.connection.execute(
        "SELECT upper(proname), bool_or(provolatile = 'v') FROM pg_proc"
        " WHERE pronamespace = 'pg_catalog'::regnamespace GROUP BY 1"
    )
    volatile = dict(rows.fetchall())
    known = COMMON | POSTGRESQL

    assert set() == known - set(volatile) - upper(SYNTAX_OF_POSTGRESQL) - upper(NEW_ON_POSTGRESQL)
    assert set() == {name for name in known if volatile.get(name)} - upper(VOLATILE_ON_POSTGRESQL)


def test_known_functions_of_mysql_are_built_in(mariadb: MariaDB) -> None:
    """Each function that is taken for harmless is the server's own, or MySQL's."""
    absent = set()
    for name in sorted(COMMON | MYSQL):
        try:
            mariadb.cursor.execute(f"SELECT {name}(1, 2, 3, 4, 5, 6, 7, 8, 9)")
        except pymysql.Error as error:
            absent |= {name} if error.args[0] in NO_SUCH_FUNCTION else set()

    assert set() == absent - upper(MYSQL_ONLY)


def test_known_functions_of_sqlite_are_built_in(sqlite: SQLite) -> None:
    """Each function that is taken for harmless is built in, or may be in another build."""
    functions = {name.upper() for (name,) in sqlite.connection.execute("SELECT name FROM pragma_function_list")}
    tables = {name for name in SQLITE if name.startswith("PRAGMA_")}

    assert set() == (COMMON | SQLITE) - functions - upper(NEW_ON_SQLITE) - upper(OPTIONAL_ON_SQLITE) - tables
    for name in tables:
        assert sqlite.connection.execute(f"SELECT * FROM {name}") is not None


# -- What the inspector asks -------------------------------------------------------------------------------------------

SHAPES = (
    "CREATE TABLE shelf (id int PRIMARY KEY, name varchar(20) NOT NULL UNIQUE, size int CHECK (size > 0))",
    "CREATE TABLE item (id int PRIMARY KEY, shelf_id int, FOREIGN KEY (shelf_id) REFERENCES shelf (id))",
    "CREATE INDEX item_shelf ON item (shelf_id)",
    "CREATE VIEW big AS SELECT id FROM shelf WHERE size > 5",
)


def inspect_everything(connection: Connection) -> None:
    """Ask each question that SQLAlchemy's inspector has, about a table, a view and all of them."""
    inspector: Any = inspect(connection)
    questions = [name for name in dir(inspector) if name.startswith(("get_", "has_"))]
    for question in questions:
        for arguments in ((), ("item",), ("big",), ("item", "id"), ("item", "item_shelf")):
            with suppress(TypeError, NotImplementedError, SQLAlchemyError):
                getattr(inspector, question)(*arguments)
    inspector.clear_cache()
    MetaData().reflect(connection, views=True)


def asked(engine: Any, inspection: Callable[[], object]) -> list[str]:
    """Return the statements that an inspection sends."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    inspection()
    event.remove(engine, "before_cursor_execute", note)
    return sent


@pytest.mark.parametrize(
    ("dialect", "scheme", "at_least"),
    [("postgresql", "postgresql+psycopg", 40), ("mariadb", "mariadb+pymysql", 12), ("sqlite", "sqlite", 20)],
)
def test_the_inspector_reads_plainly(dialect: str, scheme: str, at_least: int, servers: Servers) -> None:
    """What SQLAlchemy asks a database about its tables is plain, but for the setting of the default access method."""
    url = "sqlite://" if dialect == "sqlite" else new_database(servers, dialect).set(drivername=scheme)
    engine = create_engine(url)
    with engine.connect() as connection:
        for statement in SHAPES:
            connection.exec_driver_sql(statement)
        connection.commit()
        sent = set(asked(engine, lambda: inspect_everything(connection)))
    engine.dispose()

    assert at_least < len(sent)
    assert [] == [sql for sql in sent if not is_plain_read(sql, dialect) and "current_setting(" not in sql]


async def test_the_inspector_reads_plainly_through_asyncpg(servers: Servers) -> None:
    """The same questions in the spelling of asyncpg are plain, but for that setting."""
    engine = create_async_engine(new_database(servers, "postgresql").set(drivername="postgresql+asyncpg"))
    sent: list[str] = []
    async with engine.connect() as connection:
        for statement in SHAPES:
            await connection.exec_driver_sql(statement)
        await connection.commit()

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            sent.append(statement)

        await connection.run_sync(inspect_everything)
    await engine.dispose()

    assert len(set(sent)) > 40
    assert [] == [sql for sql in set(sent) if not is_plain_read(sql, "postgresql") and "current_setting(" not in sql]
