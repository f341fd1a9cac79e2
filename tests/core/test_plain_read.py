"""What is certainly a plain read, a write, or a locking read: judged from text alone, and never generously."""

from __future__ import annotations

import re
import string
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionlocal.dialects.plain_read import is_locking_read, is_plain_read, is_write
from sessionlocal.dialects.words import FUNCTIONS, INFIX, RESERVED, SYNTAX_AFTER

POSTGRESQL = ("postgresql",)
MYSQL = ("mysql", "mariadb")
SQLITE = ("sqlite",)
EVERYWHERE = POSTGRESQL + MYSQL + SQLITE
JUDGES = (is_plain_read, is_write, is_locking_read)

Statements = list[tuple[str, str]]


def verdicts(sql: str, dialect: str) -> tuple[bool, ...]:
    """Return whether a text is a plain read, a write, a locking read."""
    return tuple(judge(sql, dialect) for judge in JUDGES)


def on(dialects: tuple[str, ...], *statements: str) -> Statements:
    """Return each statement with each dialect."""
    return [(dialect, statement) for statement in statements for dialect in dialects]


PLAIN: Statements = [
    *on(
        EVERYWHERE,
        "SELECT 1",
        "select a from t;",
        " \n\tSELECT a FROM t ; ;",
        "(SELECT a FROM t) UNION ALL (SELECT b FROM u)",
        "VALUES (1), (2)",
        "SELECT a -- FOR UPDATE\nFROM t",
        "SELECT a FROM t /* ; DELETE FROM t */ WHERE a = 1",
        "SELECT 'DELETE FROM t; -- /*' FROM t",
        "SELECT 'it''s', '' FROM t",
        "SELECT t.update, t.delete FROM t",
        "SELECT 1 AS delete, 2 AS update",
        "SELECT count(*/**/) FROM t",
        "SELECT updated, inserted_at, deletes, for_update FROM t",
        "WITH a AS (SELECT 1), b(x, y) AS (SELECT 1, 2) SELECT x FROM a, b",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n",
        "SELECT count(*), max(a) AS most FROM t GROUP BY b HAVING count(*) > 1 ORDER BY 1 DESC LIMIT 5 OFFSET 5",
        "SELECT a FROM t WHERE (a, b) IN ((1, 2), (3, 4)) AND NOT (a BETWEEN (1) AND (2))",
        "SELECT CASE WHEN (a = 1) THEN (2) ELSE (3) END FROM t",
        "SELECT rank() OVER (PARTITION BY a ORDER BY b), sum(a) OVER w FROM t WINDOW w AS (ORDER BY b)",
        "SELECT a FROM t LEFT OUTER JOIN (SELECT b FROM u) AS v ON (a = b) JOIN w USING (b)",
        "SELECT CAST(a AS VARCHAR(20)), coalesce(a, 0), lower(trim(b)) FROM t",
        "SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a)",
        "SELECT größe, naïve FROM straße",
        "EXPLAIN SELECT a FROM t",
    ),
    *on(
        POSTGRESQL,
        "TABLE t",
        "SELECT",
        "SELECT pg_catalog.lower('A')",
        'SELECT "Delete", "FOR UPDATE" FROM "insert" AS "x" ("Delete", b)',
        "SELECT a[1:2], b[1], ARRAY[1, 2], ARRAY(SELECT 1) FROM t",
        "SELECT a ->> 'b', a #> '{x}', a @> $1::JSONB, a ? 'x', a ?| ARRAY['x'], a @? '$.x', a @@ b FROM t",
        'SELECT a::numeric(10, 2), a::varchar(3)[], b::"MyType"(3), c::character varying(9) FROM t',
        r"SELECT 'a\b', E'tab\t', U&'d\0061ta', B'01', X'ff'",
        "SELECT a %% 2, b % c, %(x_1)s, $1, 5 %% $2 FROM t",
        "SELECT count(*) FILTER (WHERE a > 1), percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
        "SELECT DISTINCT ON (a, b) a, b FROM t",
        "SELECT a FROM t FETCH FIRST (5) ROWS WITH TIES",
        "SELECT a FROM t WHERE a ILIKE ('x' || b) AND b NOT ILIKE (c) ESCAPE ('/') AND c SIMILAR TO ('d')",
        "SELECT a AT TIME ZONE ('UTC') FROM t TABLESAMPLE system(20) REPEATABLE (7)",
        "SELECT a FROM t GROUP BY GROUPING SETS ((a), ())",
        "SELECT a FROM t GROUP BY ROLLUP (a)",
        "SELECT x.a FROM t, LATERAL (SELECT a FROM u) AS x, unnest(t.l) WITH ORDINALITY AS y (v, i)",
        "SELECT a FROM t WHERE a = ANY (ARRAY[1, 2]) AND a <> ALL ($1) AND a = SOME (SELECT 1)",
        "SELECT a OPERATOR(pg_catalog.+) 1 FROM ONLY (t)",
        "SELECT * FROM json_to_recordset($1) AS x (a int, b numeric(10, 2))",
        "WITH a AS MATERIALIZED (SELECT 1), b AS NOT MATERIALIZED (SELECT 2) SELECT 1 FROM a, b",
        "EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) SELECT a FROM t",
        "SHOW server_version",
    ),
    *on(
        MYSQL,
        "SELECT `delete`, `a``b` FROM `insert` -- FOR UPDATE",
        "SELECT a # FOR UPDATE\nFROM t",
        "SELECT \"it's; DELETE FROM t\", 'a\\b' FROM t --",
        "SELECT a FROM t WHERE a = %s AND b LIKE '%%x%%' AND c = %(x)s AND d %% 2 = 0",
        "SELECT a FROM t USE INDEX (i) FORCE INDEX FOR JOIN (j) WHERE MATCH (a) AGAINST (%s IN BOOLEAN MODE)",
        "SELECT a FROM t PARTITION (p0) WHERE a REGEXP ('x') XOR (b) AND c DIV (2) = ANY (SELECT 1)",
        "SELECT TRUNCATE(a, 2), REPLACE(a, 'b', 'c'), IF(a, 1, 2), LEFT(a, 3), DATE_FORMAT(a, '%%Y-%%s') FROM t",
        "SELECT /*+ NO_INDEX_MERGE(t) */ a FROM t",
        "SELECT SQL_NO_CACHE a FROM t",
        "SELECT DATE_ADD(a, INTERVAL (1) DAY), CONVERT(a USING utf8mb4), VALUES(a) FROM t",
        "SHOW FULL TABLES FROM `test` LIKE 'a%%'",
        "SHOW CREATE TABLE `t`",
        "SHOW INDEX FROM t WHERE Key_name = 'x'",
        "DESCRIBE `test`.`t` a",
        "DESC t",
        "EXPLAIN FORMAT=JSON SELECT a FROM t",
        "EXPLAIN t",
    ),
    *on(
        SQLITE,
        'SELECT [delete], [a b], `c`, "insert" FROM [for update] WHERE a = ? AND b = ?1 AND c = :c AND d = @d',
        r"SELECT 'a\' FROM t WHERE b LIKE '\%' ESCAPE '\'",
        "SELECT a ->> '$.x', a % 2, a || b FROM t WHERE a MATCH 'x' AND b GLOB ('y*') AND regexp('x', c)",
        "SELECT name FROM pragma_table_info('t')",
        'PRAGMA main.table_info("t")',
        "PRAGMA foreign_key_list('t')",
        "PRAGMA foreign_keys",
        "PRAGMA main.user_version;",
        "EXPLAIN QUERY PLAN SELECT a FROM t",
    ),
]

NOT_PLAIN: Statements = [
    *on(
        EVERYWHERE,
        # Nothing, or nothing that starts like a read.
        "",
        ";",
        "-- SELECT 1",
        "/* SELECT 1",
        "1",
        "'SELECT'",
        "INSERT INTO t VALUES (1)",
        "(INSERT INTO t VALUES (1))",
        "/* SELECT */ UPDATE t SET a = 1 -- SELECT",
        "DeLeTe FROM t",
        "CREATE TABLE t (a int)",
        "SET a = 1",
        "CALL f()",
        "DO 1",
        "BEGIN",
        "COMMIT",
        "SAVEPOINT a",
        "LOCK TABLE t",
        "ANALYZE t",
        "VACUUM",
        "REPLACE INTO t VALUES (1)",
        "TRUNCATE t",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        # Two statements.
        "SELECT 1; DELETE FROM t",
        "SELECT 1;SELECT 2",
        "SELECT 1; -- harmless\n DELETE FROM t",
        "SELECT ';' ; DELETE FROM t",
        # Writes inside of a query.
        "WITH a AS (DELETE FROM t RETURNING 1) SELECT 1",
        "WITH a AS (SELECT 1) INSERT INTO t SELECT 1",
        "WITH a AS (SELECT 1) UPDATE t SET a = 1",
        "WITH a AS (SELECT 1) REPLACE INTO t SELECT 1",
        "WITH a AS (SELECT 1) MERGE INTO t USING a ON (1 = 1) WHEN MATCHED THEN DO NOTHING",
        "WITH/**/a/**/AS/**/(/**/dElEtE/**/FROM t RETURNING 1) SELECT 1",
        "SELECT a INTO b FROM t",
        "SELECT 1.\nDELETE",
        "WITH a AS (SELECT 1) REPLACE t SELECT 1",
        # Locks.
        "SELECT a FROM t FOR UPDATE",
        "SELECT a FROM t\nFOR\n\tupdate",
        "SELECT a FROM t FOR/* */UPDATE SKIP LOCKED",
        "SELECT a FROM t FOR SHARE",
        "SELECT a FROM t FOR NO KEY UPDATE OF t NOWAIT",
        "SELECT a FROM t FOR KEY SHARE",
        "SELECT a FROM (SELECT a FROM t FOR UPDATE) AS x",
        "SELECT 'a'FOR UPDATE",
        "SELECT a FROM t LIMIT 1FOR UPDATE",
        "TABLE t FOR UPDATE",
        "(SELECT a FROM t) FOR UPDATE",
        "SELECT a FROM t LOCK IN SHARE MODE",
        # Functions that nobody knows, in the guise of others.
        "SELECT my_function()",
        "SELECT my_function ()",
        "SELECT my_function/**/()",
        "SELECT lower(my_function(1))",
        "SELECT public.lower('A')",
        'SELECT "lower"(1)',
        "SELECT t.count (1) FROM t",
        "SELECT LOWERE('A')",
        "SELECT \u017fum(1)",
        "SELECT min\u0131(1)",
        "SELECT ran\u212a(1)",
        "SELECT a FROM t, my_function(1) AS x(a)",
        "SELECT a FROM t, my_function(1) AS (a int)",
        "SELECT a FROM my_function(1) AS (a int)",
        "SELECT a FROM t WHERE a IN (my_function(1))",
        "SELECT DISTINCT my_function(1) FROM t",
        "SELECT filter(1)",
        "SELECT NOT materialized(1)",
        "SELECT a FROM t ORDER BY rollup(a)",
        # Sequences.
        "SELECT nextval('s')",
        "SELECT NEXTVAL(s)",
        "SELECT NEXT VALUE FOR s",
        "SELECT next/**/value for s",
        "SELECT PREVIOUS VALUE FOR s",
        "VALUES (NEXT VALUE FOR s)",
        "SELECT s.nextval",
        "SELECT s.currval FROM dual",
        "SELECT currval('s')",
        "SELECT lastval()",
        "SELECT setval('s', 1)",
        # Plans of what would be run, or is.
        "EXPLAIN ANALYZE SELECT 1",
        "EXPLAIN (ANALYZE) SELECT 1",
        "EXPLAIN (FORMAT JSON, analyze true) SELECT 1",
        "EXPLAIN /* */ analyze DELETE FROM t",
        "EXPLAIN DELETE FROM t",
        'EXPLAIN ("analyze") CREATE TABLE a AS SELECT 1',
        "EXPLAIN SELECT my_function()",
        # What no server agrees on, or no scanner should.
        "SELECT 'unfinished",
        'SELECT "unfinished',
        "SELECT 1 /* unfinished",
        "SELECT (1",
        "SELECT 1)",
        "SELECT 1 */ 2",
        "SELECT /* /* */ 1 */ 2",
        "SELECT 1 -- a\r; DELETE FROM t",
        "SELECT 1 -- a\r '\n FOR UPDATE -- '",
        "SELECT 1\x00; DELETE FROM t",
        "SELECT\u00a01",
        "\ufeffSELECT 1",
        "SELECT 1 \\ 2",
    ),
    *on(
        POSTGRESQL,
        # Comments nest, end at a carriage return too, and dollars quote.
        "SELECT 1 /* /* */ ' */ ; DELETE FROM t -- '",
        "SELECT 1 /* /* */ FOR UPDATE",
        "SELECT 1 -- \r FOR UPDATE",
        "SELECT $$a$$",
        "SELECT $x$ ' $x$; DELETE FROM t --'",
        "SELECT 1$$a$$",
        # Backslashes escape in some strings and modes.
        r"SELECT E'\' ; DELETE FROM t --'",
        r"SELECT E'a'\'' || f() -- '",
        r"SELECT '\' || f() || '",
        r"SELECT E'\\\'; DELETE FROM t -- '",
        r'SELECT U&"n\0065xtval"(1)',
        # Brackets are subscripts, colons are slices, a backtick is an operator.
        "SELECT a[my_function(1)] FROM t",
        "SELECT a[b:my_function(1)] FROM t",
        "SELECT a[1:c(2)] FROM t",
        "SELECT 1 ` f() ` 2",
        # Percent signs, before and after psycopg.
        "SELECT a FROM t LIMIT %sFOR SHARE",
        "SELECT a FROM t LIMIT %(x)sFOR SHARE",
        "SELECT a FROM t LIMIT $1FOR SHARE",
        "SELECT a FROM t LIMIT %bFOR SHARE",
        "SELECT 5 %sleast(1)",
        "SELECT '%(a')s, '; DELETE FROM t -- '",
        "SELECT ('%(a')s, '; DELETE FROM t -- '",
        'SELECT ("%(a")s, "; DELETE FROM t -- "',
        "SELECT 5 %(a ')s + (1 -- ' ) ; DELETE FROM t",
        # State of the session, of the server and of the transaction.
        "SELECT current_setting('a.b')",
        "SELECT set_config('a.b', 'c', false)",
        "SELECT pg_catalog.set_config('a.b', 'c', false)",
        "SELECT pg_catalog . set_config('a.b', 'c', false)",
        "SELECT setting FROM pg_settings",
        'SELECT setting FROM pg_catalog."pg_settings"',
        "SELECT name FROM pg_prepared_statements",
        "SELECT txid_current()",
        "SELECT pg_current_xact_id()",
        "SELECT pg_backend_pid()",
        "SELECT pg_export_snapshot()",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT pg_advisory_unlock_all()",
        "SELECT pg_notify('a', 'b')",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_reload_conf()",
        "SELECT pg_logical_emit_message(true, 'a', 'b')",
        "SELECT lo_import('/a')",
        "SELECT lo_create(0)",
        "SELECT lo_unlink(1)",
        "SELECT setseed(0.5)",
        "SELECT * FROM dblink('a', 'DELETE FROM t') AS x (a int)",
        "SELECT dblink_exec('a', 'DELETE FROM t')",
        "SELECT query_to_xml('SELECT f()', true, true, '')",
        "SELECT * FROM ts_stat('SELECT f()')",
        "SELECT ts_rewrite('a'::tsquery, 'SELECT f()')",
        "EXPLAIN EXECUTE p",
        "SHOW search_path",
        "SHOW transaction_read_only",
        "SHOW ALL",
        "SHOW server_version; DELETE FROM t",
        "LISTEN a",
        "DECLARE c CURSOR FOR SELECT 1",
        "FETCH 1 FROM c",
        "COPY t FROM STDIN",
        "DO $$ BEGIN DELETE FROM t; END $$",
        "DISCARD ALL",
        # A call without the looks of one, and looks that are a call.
        "SELECT (1).my_function",
        "SELECT (t.a).b FROM t",
        "SELECT ($1).f",
        "SELECT DISTINCT ON (a) filter(1) FROM t",
        "SELECT DISTINCT ON (a) ilike(a, b) FROM t",
        "SELECT 1 OPERATOR(pg_catalog.+) ilike(a, b) FROM t",
        "SELECT NOT ilike(a, b) FROM t",
        "SELECT a AT TIME ZONE escape(1) FROM t",
        "SELECT recursive(1)",
        "SELECT zone(1), sets(1), first(1)",
        "SELECT operator(1)",
        "SELECT force(1)",
    ),
    *on(
        MYSQL,
        # Comments that are code, and code that only looks like a comment.
        "SELECT 1 /*! FOR UPDATE */",
        "SELECT 1 /*!50000 INTO OUTFILE 'a' */",
        "SELECT 1 /*M! FOR UPDATE */",
        "SELECT 1 /*M!100000 ; DELETE FROM t */",
        "/*! INSERT INTO t VALUES (1) */",
        "/*!99999 SELECT */ 1",
        "SELECT 1 --1 FOR UPDATE",
        "SELECT 1 --my_function()",
        "SELECT 1--1; DELETE FROM t",
        "SELECT ----nextval(s)",
        "SELECT a # '\n FOR UPDATE -- '",
        "SELECT 1 # it's\n; DELETE FROM t",
        # Strings and names.
        "SELECT \"a'b\" ; DELETE FROM t -- '",
        r"SELECT '\' ; DELETE FROM t -- '",
        r'SELECT "\" ; DELETE FROM t -- "',
        "SELECT 'a' \"'\" FOR UPDATE -- '",
        "SELECT ` a FROM t FOR UPDATE",
        'SELECT "my_function"(1)',
        "SELECT app.5()",
        "SELECT app.`lower`(1)",
        "SELECT 'a%sb' FROM t",
        "SELECT a FROM t /* %s */",
        "SELECT a % 2 FROM t",
        "SELECT 1FOR UPDATE",
        "SELECT 1lower(2)",
        "SELECT {fn my_function()}",
        # Variables, files, and what a connection remembers.
        "SELECT @a",
        "SELECT @a := 1",
        "SELECT @@session.sql_mode",
        "SELECT a := 1",
        "SELECT 1 INTO @a",
        "SELECT a FROM t INTO OUTFILE '/a'",
        "SELECT a FROM t INTO DUMPFILE '/a'",
        "TABLE t INTO OUTFILE '/a'",
        "SELECT a FROM t PROCEDURE ANALYSE()",
        "SELECT SQL_CALC_FOUND_ROWS a FROM t LIMIT 1",
        "SELECT FOUND_ROWS()",
        "SELECT ROW_COUNT()",
        "SELECT LAST_INSERT_ID()",
        "SELECT LAST_INSERT_ID(5)",
        "SELECT CONNECTION_ID()",
        "SELECT GET_LOCK('a', 1)",
        "SELECT RELEASE_ALL_LOCKS()",
        "SELECT IS_FREE_LOCK('a')",
        "SELECT LOAD_FILE('/a')",
        "SELECT BENCHMARK(1, 1)",
        "SELECT SETVAL(s, 1)",
        "SELECT variable_value FROM information_schema.session_variables",
        "SELECT variable_value FROM performance_schema.`session_status`",
        "SELECT pg_catalog.lower('A')",
        "SHOW VARIABLES",
        "SHOW SESSION STATUS",
        "SHOW WARNINGS",
        "SHOW COUNT(*) WARNINGS",
        "SHOW TABLES WHERE GET_LOCK('a', 1)",
        "SHOW TABLES; DELETE FROM t",
        "DESC ANALYZE SELECT a FROM t",
        "DESCRIBE SELECT GET_LOCK('a', 1)",
        "DESC t; DELETE FROM t",
        "ANALYZE FORMAT=JSON SELECT a FROM t",
        "EXPLAIN FOR CONNECTION 5",
        "HANDLER t READ FIRST",
        "USE test",
        "KILL 5",
        "LOAD DATA INFILE 'a' INTO TABLE t",
        "SELECT a FROM t FOR UPDATE WAIT 5",
    ),
    *on(
        SQLITE,
        "SELECT last_insert_rowid()",
        "SELECT total_changes()",
        "SELECT changes()",
        "SELECT load_extension('a')",
        "SELECT writefile('a', 'b')",
        "SELECT fts3_tokenizer('a', 'b')",
        "SELECT 'a' ; DELETE FROM t",
        "SELECT '\\' ; DELETE FROM t -- '",
        "SELECT [a ; DELETE FROM t",
        "SELECT `a",
        "SELECT ?1FOR UPDATE",
        "PRAGMA user_version = 5",
        "PRAGMA foreign_keys = ON",
        "PRAGMA journal_mode(wal)",
        "PRAGMA journal_mode=wal",
        "PRAGMA optimize",
        "PRAGMA query_only",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "PRAGMA table_info(t); DELETE FROM t",
        "PRAGMA table_info(t) DELETE",
        "PRAGMA",
        "PRAGMA main.",
        "SELECT * FROM pragma_optimize",
        "SELECT * FROM pragma_wal_checkpoint",
        "SELECT any(1)",
        "ATTACH 'a' AS b",
        "REINDEX t",
        "SHOW TABLES",
    ),
]

WRITES: Statements = [
    *on(
        EVERYWHERE,
        "INSERT INTO t VALUES (1)",
        "-- SELECT\n insert into t select * from u",
        "/* SELECT */update t SET a = 1",
        "DELETE FROM t",
        "CREATE TABLE t (a int)",
        "ALTER TABLE t ADD b int",
        "DROP TABLE t",
        "WITH a AS (SELECT 1) DELETE FROM t",
        "WITH a AS (SELECT 1), b (x) AS (SELECT 2) INSERT INTO t SELECT x FROM b",
        "WITH RECURSIVE a AS (SELECT 1) UPDATE t SET a = 1",
    ),
    *on(
        POSTGRESQL,
        "WITH a AS (DELETE FROM t RETURNING 1) SELECT 1 FROM a",
        "WITH a AS (SELECT 1), b AS NOT MATERIALIZED (UPDATE t SET a = 1 RETURNING a) SELECT a FROM b",
        "TRUNCATE t",
        "GRANT SELECT ON t TO PUBLIC",
        "REFRESH MATERIALIZED VIEW v",
        "COMMENT ON TABLE t IS 'x'",
    ),
    *on(MYSQL, "REPLACE INTO t VALUES (1)", "RENAME TABLE t TO u", "TRUNCATE TABLE t", "# SELECT\nDELETE FROM t"),
    *on(SQLITE, "REPLACE INTO t VALUES (1)", "WITH a AS (SELECT 1) REPLACE INTO t SELECT 1"),
    *on(("generic",), "INSERT INTO t VALUES (1)", "  delete FROM t", "WITH a AS (SELECT 1) DELETE FROM t"),
]

NOT_CERTAINLY_WRITES: Statements = [
    *on(
        EVERYWHERE,
        "WITH a AS (SELECT t.update FROM t) SELECT 1 FROM a",
        "WITH a AS (SELECT 'DELETE FROM t') SELECT 1 FROM a",
        "WITH a AS (SELECT 1) SELECT update FROM (SELECT 1) AS update",
        "WITH a AS (SELECT b FROM t FOR UPDATE) SELECT 1",
        "SELECT 1; DELETE FROM t",
        "EXPLAIN DELETE FROM t",
        "SELECT my_function()",
        "CALL my_procedure()",
        "SET a = 1",
        "WITH",
        "WITH a",
        "WITH a AS",
        "WITH a AS (SELECT 1)",
        "WITH a AS (SELECT 1),",
        "(WITH a AS (DELETE FROM t) SELECT 1)",
        "",
    ),
    *on(POSTGRESQL, "COPY t TO STDOUT", "DO $$ SELECT 1 $$", "VACUUM", "REINDEX TABLE t", "LOAD 'x'"),
    *on(MYSQL, "/*! DELETE FROM t */", "LOAD INDEX INTO CACHE t", "DESCRIBE t"),
    *on(("generic",), "SELECT 1", "WITH a AS (SELECT 1) SELECT 1"),
    *on(("no such dialect",), "DELETE FROM t"),
]

LOCKING: Statements = [
    *on(
        POSTGRESQL + MYSQL,
        "SELECT a FROM t FOR UPDATE",
        "select a from t for/**/share of t skip locked",
        "WITH a AS (SELECT a FROM t FOR UPDATE) SELECT 1 FROM a",
        "(SELECT a FROM t) FOR UPDATE",
        "TABLE t FOR UPDATE",
    ),
    *on(POSTGRESQL, "SELECT a FROM t FOR NO KEY UPDATE", "SELECT a FROM t FOR KEY SHARE"),
    *on(MYSQL, "SELECT a FROM t LOCK IN SHARE MODE", "SELECT a FROM t WHERE b = %s FOR UPDATE"),
]

NOT_LOCKING: Statements = [
    *on(
        EVERYWHERE,
        "SELECT a FROM t",
        "SELECT 'FOR UPDATE' FROM t -- FOR UPDATE",
        "SELECT substring(a FROM 1 FOR 2) FROM t",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "SELECT 'FOR UPDATE",
        "",
    ),
    *on(("generic",), "SELECT a FROM t FOR UPDATE"),
]

# Where an expression may stand, and with it a call.
PLACES_OF_A_CALL = [
    "SELECT {}",
    "SELECT {} AS b FROM t",
    "SELECT a, {} FROM t",
    "SELECT DISTINCT {} FROM t",
    "SELECT ALL {} FROM t",
    "SELECT lower({}) FROM t",
    "SELECT NOT {} FROM t",
    "SELECT - {} FROM t",
    "SELECT CASE WHEN {} THEN 1 ELSE 2 END FROM t",
    "SELECT CASE {} WHEN 1 THEN {} ELSE {} END FROM t",
    "SELECT sum(a) OVER (PARTITION BY {} ORDER BY a) FROM t",
    "SELECT CAST({} AS VARCHAR(9)) FROM t",
    "SELECT a FROM t WHERE {}",
    "SELECT a FROM t WHERE a = {}",
    "SELECT a FROM t WHERE a AND {}",
    "SELECT a FROM t WHERE a OR NOT {}",
    "SELECT a FROM t WHERE a LIKE {} ESCAPE '/'",
    "SELECT a FROM t WHERE a IN ({}, 1)",
    "SELECT a FROM t WHERE a IN (SELECT {})",
    "SELECT a FROM t WHERE a BETWEEN {} AND {}",
    "SELECT a FROM t GROUP BY a HAVING {} > 1",
    "SELECT a FROM t ORDER BY a, {}",
    "SELECT a FROM t LIMIT {}",
    "SELECT a FROM t JOIN u ON {}",
    "SELECT a FROM t JOIN {} AS u ON (a = b)",
    "SELECT a FROM {} AS u",
    "SELECT a FROM {} AS u (a, b)",
    "SELECT a FROM t, {} AS (a int)",
    "SELECT a FROM t, {} AS x (a)",
    "SELECT a FROM t UNION SELECT {}",
    "WITH a AS (SELECT {}) SELECT 1 FROM a",
    "WITH a (b) AS (VALUES ({})) SELECT 1 FROM a",
    "VALUES (1, {})",
    "(SELECT {})",
    "EXPLAIN SELECT {}",
]
PLACES_ON_POSTGRESQL = [
    "SELECT DISTINCT ON (a) {} FROM t",
    "SELECT a FROM t WHERE a ILIKE {}",
    "SELECT a AT TIME ZONE {} FROM t",
    "SELECT a FROM t, LATERAL {} AS x",
    "SELECT a FROM ROWS FROM ({}) AS x",
    "SELECT a[{}] FROM t",
    "SELECT a[1:{}] FROM t",
    "SELECT ARRAY[{}]",
    "SELECT a OPERATOR(pg_catalog.+) {} FROM t",
    "SELECT a || {} FROM t",
    "SELECT ({}).a",
    "SELECT {}::text",
    "SELECT a FROM t OFFSET {}",
]


@pytest.mark.parametrize(("dialect", "statement"), PLAIN)
def test_a_plain_read_is_one(dialect: str, statement: str) -> None:
    """What only reads, with functions that are known, is a plain read."""
    assert (True, False, False) == verdicts(statement, dialect)


@pytest.mark.parametrize(("dialect", "statement"), NOT_PLAIN)
def test_what_is_not_certain_is_no_plain_read(dialect: str, statement: str) -> None:
    """What may write, lock, set, or depend on the connection is not a plain read, however it is spelled."""
    assert not is_plain_read(statement, dialect)


@pytest.mark.parametrize(
    ("dialect", "statement"), [(dialect, statement) for dialect, statement in PLAIN + LOCKING if "%" not in statement]
)
def test_case_does_not_matter(dialect: str, statement: str) -> None:
    """Keywords and functions in another case get the same verdicts."""
    assert verdicts(statement, dialect) == verdicts(statement.swapcase(), dialect)


@pytest.mark.parametrize("statement", ["SELECT 1", "PRAGMA foreign_keys", "SHOW TABLES"])
@pytest.mark.parametrize("dialect", ["generic", "oracle", "", "POSTGRESQL"])
def test_an_unknown_dialect_has_no_plain_reads(dialect: str, statement: str) -> None:
    """Of a dialect that is not known, nothing is a plain read."""
    assert not is_plain_read(statement, dialect)


@pytest.mark.parametrize(("dialect", "statement"), WRITES)
def test_a_write_is_recognised(dialect: str, statement: str) -> None:
    """What certainly changes data or schema is a write, and no plain read."""
    assert is_write(statement, dialect)
    assert not is_plain_read(statement, dialect)


@pytest.mark.parametrize(("dialect", "statement"), NOT_CERTAINLY_WRITES)
def test_what_may_only_read_is_no_certain_write(dialect: str, statement: str) -> None:
    """What could turn out to be a read is not called a write: a read-only session would refuse it."""
    assert not is_write(statement, dialect)


@pytest.mark.parametrize(("dialect", "statement"), LOCKING)
def test_a_locking_read_is_recognised(dialect: str, statement: str) -> None:
    """A query that locks rows at any depth is a locking read, and no plain one."""
    assert is_locking_read(statement, dialect)
    assert not is_plain_read(statement, dialect)


@pytest.mark.parametrize(("dialect", "statement"), NOT_LOCKING)
def test_what_locks_nothing_is_no_locking_read(dialect: str, statement: str) -> None:
    """Without a locking clause there is no locking read, whatever strings and comments say."""
    assert not is_locking_read(statement, dialect)


# -- Properties --------------------------------------------------------------------------------------------------------

FILLERS = {
    "postgresql": (
        " ",
        "\n",
        "\t\f",
        "\r\n",
        "/**/",
        "/* ' \" ; */",
        "/***/",
        "-- FOR UPDATE\n",
        "--'\r\n",
        "-- 100%\n",
    ),
    "mysql": (
        " ",
        "\n",
        "\r\n",
        "/**/",
        "/* ' \" ` ; */",
        "/*+ hint */",
        "-- FOR UPDATE\n",
        "#'\n",
        "--\n",
        "/* 9%% */",
    ),
    "sqlite": (" ", "\n", "\t\f", "\r\n", "/**/", "/* ' \" [ ; */", "-- FOR UPDATE\n", "--'\n", "/* 100% */"),
}
FILLERS["mariadb"] = FILLERS["mysql"]
# Statements whose white space is all between tokens, so that anything may be written there.
LOOSE = [
    (dialect, statement)
    for dialect, statement in PLAIN + NOT_PLAIN + WRITES + LOCKING
    if dialect in FILLERS and not re.search(r"['\"`\[#\\\x00]|--|/\*|\*/|[^\x00-\x7f]|1\.\n|:", statement)
]


@given(statement=st.sampled_from(LOOSE), data=st.data())
def test_space_and_comments_do_not_matter(statement: tuple[str, str], data: st.DataObject) -> None:
    """Comments and white space between tokens, before and after them, change no verdict."""
    dialect, plain = statement
    filler = st.lists(st.sampled_from(FILLERS[dialect]), min_size=1, max_size=3).map("".join)
    pieces = plain.split()
    changed = data.draw(filler) + "".join(piece + data.draw(filler) for piece in pieces)

    assert verdicts(plain, dialect) == verdicts(changed, dialect)


@given(
    plain=st.sampled_from(PLAIN),
    space=st.sampled_from(["", " ", "\n", "/**/"]),
    write=st.sampled_from(["DELETE FROM t", "insert into t values (1)", "UPDATE t SET a = 1", "f()", "SELECT 1", "x"]),
)
def test_a_second_statement_is_never_plain(plain: tuple[str, str], space: str, write: str) -> None:
    """Whatever follows a semicolon, the whole is not a plain read."""
    dialect, statement = plain

    assert not is_plain_read(f"{statement.rstrip('; ')}\n;{space}{write}", dialect)
    assert not is_plain_read(f"{write};{space}{statement}", dialect)


@given(
    plain=st.sampled_from([(dialect, statement) for dialect, statement in PLAIN if statement.startswith("SELECT")]),
    write=st.sampled_from(["DELETE FROM t", "insert into t values (1)", "Update t SET a = 1", "MERGE INTO t USING u"]),
    name=st.sampled_from(["a", "a (b)", '"a"', "insert_", "a (b, c)"]),
    hint=st.sampled_from(["", "MATERIALIZED ", "NOT MATERIALIZED "]),
)
def test_a_writing_table_expression_is_never_plain(plain: tuple[str, str], write: str, name: str, hint: str) -> None:
    """A query with a data-changing common table expression is not a plain read, and is a certain write."""
    dialect, statement = plain
    name = name.replace('"', "`") if dialect in MYSQL else name
    written = f"WITH {name} AS {hint}({write} RETURNING 1) {statement}"

    assert not is_plain_read(written, dialect)
    assert is_write(written, dialect) or dialect in MYSQL + SQLITE


def unknown(name: str, dialect: str) -> bool:
    """Say whether a name means nothing to a dialect."""
    return name.upper() not in FUNCTIONS[dialect] | RESERVED[dialect]


def places(dialect: str) -> list[str]:
    """Return where a call may stand in a dialect."""
    return PLACES_OF_A_CALL + (PLACES_ON_POSTGRESQL if dialect == "postgresql" else [])


@settings(max_examples=300)
@given(
    dialect=st.sampled_from(EVERYWHERE),
    name=st.text(string.ascii_letters + string.digits + "_$\u00e9\u00df\u017f", min_size=1, max_size=12),
    arguments=st.sampled_from(["()", " ( )", "(1)", "(a, 'b')", "(SELECT 1)", "/* */(a)", "(PARTITION BY a)", "(*)"]),
    data=st.data(),
)
def test_an_unknown_function_is_never_plain(dialect: str, name: str, arguments: str, data: st.DataObject) -> None:
    """A call of a function that is not known makes a statement not plain, wherever it stands."""
    place = data.draw(st.sampled_from(places(dialect)))
    if not name[0].isdigit() and unknown(name, dialect):
        assert not is_plain_read(place.replace("{}", name + arguments), dialect)
    assert not is_plain_read(place.replace("{}", f"app.{name}{arguments}"), dialect)


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        (dialect, name.lower())
        for dialect in EVERYWHERE
        for name in sorted({*SYNTAX_AFTER, *INFIX, "RECURSIVE", "PARTITION", "WITHIN", "LIMIT_", "KEY", "NULLS"})
        if unknown(name, dialect)
    ],
)
def test_a_function_named_like_syntax_is_never_plain(dialect: str, name: str) -> None:
    """A word that is syntax in its place is the name of an unknown function in another."""
    for place in places(dialect):
        call = f"{name}(1)"
        if (name, place.partition("{}")[0][-2:]) in (("any", "= "), ("some", "= "), ("lateral", "N ")):
            continue  # ``= any (`` and ``JOIN lateral (`` are syntax, and nothing else there
        assert not is_plain_read(place.replace("{}", call), dialect), place


@pytest.mark.parametrize(
    ("dialect", "place"),
    [(dialect, place) for dialect in EVERYWHERE for place in places(dialect) if "AS (" not in place],
)
def test_a_known_function_is_plain_in_the_same_places(dialect: str, place: str) -> None:
    """The places in which unknown calls are refused are plain with a known one, but for those that say more."""
    statement = place.replace("{}", "lower('a')")

    assert "(lower('a'))." not in statement or not is_plain_read(statement, dialect)
    assert "(lower('a'))." in statement or is_plain_read(statement, dialect)


FRAGMENTS = [
    *"'\"`[]()/*-#;:,.%$@!\\\n\r\t \x00\u00a0\u2028\ufeffé",
    *("''", "--", "/*", "*/", "/*!", "$$", "E'", "%s", "%(", "%%", "::", ":=", "1", "1e", "0x"),
    *("SELECT ", "WITH ", "a ", " AS ", "PRAGMA ", "EXPLAIN ", "SHOW ", "DESC ", "FOR ", "UPDATE ", "DELETE FROM t"),
    *("f(", "lower(", "MATERIALIZED ", "NOT ", "DISTINCT ON ", "table_info", "RECURSIVE ", "VALUES "),
]


@settings(max_examples=500)
@given(
    text=st.one_of(st.text(), st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)),
    dialect=st.sampled_from([*EVERYWHERE, "generic", "no such dialect"]),
)
def test_no_text_is_too_strange(text: str, dialect: str) -> None:
    """Any text at all gets a verdict, and at most one of: a plain read, a write, a locking read."""
    plain, write, locking = found = verdicts(text, dialect)

    assert {bool} == {type(verdict) for verdict in found}
    assert not (plain and (write or locking))


# -- Effort ------------------------------------------------------------------------------------------------------------


def steps(work: Callable[[], Any]) -> int:
    """Return how many calls a piece of work makes, of Python and of C functions."""
    count = 0

    def note(frame: Any, happening: str, argument: Any) -> None:
        nonlocal count
        count += happening in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


PATTERNS = [
    "'",
    "''",
    "'a\\",
    "\\'",
    '"',
    "`",
    "[a",
    "(",
    "(1)",
    ")",
    "f(",
    ", a(",
    ", a(1) AS (",
    "a AS (",
    "/*",
    "*/",
    "/**/",
    "/*/",
    "*",
    "/",
    "--",
    "-- \n",
    "#\n",
    "-",
    "$",
    "$1",
    "$$",
    "%",
    "%(",
    "%(x",
    "1",
    "1.1",
    "1e",
    "0x",
    "a",
    "a ",
    "NOT ",
    "FOR ",
    ";",
    ":",
    "::",
    "?",
    " ",
    "\n",
    "WITH ",
    "(SELECT 1), a AS ",
    ", b AS (DELETE",
    "NOT MATERIALIZED ",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
def test_the_effort_grows_with_the_length(dialect: str, pattern: str) -> None:
    """Twice the text takes at most about twice the steps, however deep it is nested."""

    def effort(head: str, repetitions: int) -> int:
        text = head + pattern * repetitions
        closed = text + ")" * (text.count("(") - text.count(")"))
        return steps(lambda: [judge.__wrapped__(sql, dialect) for judge in JUDGES for sql in (text, closed)])

    for head in ("", "SELECT ", "WITH a AS (SELECT 1), "):
        assert effort(head, 400) <= 2.2 * effort(head, 200) + 200


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
def test_a_long_text_is_judged(dialect: str, pattern: str) -> None:
    """A text of 100 kB that no statement looks like gets its verdict without backtracking."""
    text = "SELECT " + pattern * (100_000 // len(pattern))

    assert is_plain_read.__wrapped__(text + "\n' */ )", dialect) is False
    assert is_plain_read.__wrapped__(text, dialect) in (True, False)


def test_a_long_list_of_parameters_is_plain() -> None:
    """A select with ten thousand parameters in its IN list is a plain read."""
    parameters = ", ".join(f"${number}::INTEGER" for number in range(1, 10_001))

    assert is_plain_read(f"SELECT a FROM t WHERE a IN ({parameters})", "postgresql")


def test_a_batch_is_told_by_its_first_word() -> None:
    """A long INSERT is known for what it is after its first word; its values are not read."""
    short, long = (f"INSERT INTO t VALUES {'(1), ' * rows}(1)" for rows in (1, 20_000))

    assert steps(lambda: is_plain_read.__wrapped__(short, "sqlite")) == steps(
        lambda: is_plain_read.__wrapped__(long, "sqlite")
    )
    assert is_write(long, "sqlite")


def test_a_text_is_judged_once() -> None:
    """The second time a text comes, short or long, its verdict is remembered."""
    for text in ("SELECT a_name_of_this_test FROM t", "SELECT a_name_of_this_test" + ", a" * 5000):
        first, second = (steps(lambda: is_plain_read(text, "sqlite")) for _ in range(2))  # noqa: B023

        assert first > 50 > 10 > second
