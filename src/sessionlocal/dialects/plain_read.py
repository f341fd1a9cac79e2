"""Is this statement certainly a plain read? Decided from the final SQL text, whatever built it.

A clean session runs plain reads in autocommit, so a wrong yes could lose an isolation promise or, worse, a write; a
wrong no costs one BEGIN. Hence the rule: one statement that starts like a read, whose tokens are beyond doubt, with no
word that writes, locks or speaks of the connection, and no function that is not known to be free of effects. What hides
behind a view, an operator, a cast or a computed column cannot be seen here; ``begin()`` covers it.

Promises: nothing here raises, whatever the text; comments and white space do not matter; the work grows with the length
of the text and is done once for a text that comes again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps

from .tokens import Statement, first_word, read
from .words import FUNCTIONS, INFIX, OPENING, RESERVED, SYNTAX_AFTER

Verdict = Callable[[str, str], bool]

CACHE_SIZE = 4096  # statements. An application has hundreds; IN lists of many lengths make more.
LONG = 4096  # characters. Longer texts are few, or are batches that never come again, and would fill the memory.
LONG_CACHE_SIZE = 64  # statements

MYSQL = ("mysql", "mariadb")
DOUBTFUL = frozenset({"word", "quoted", "operator"})  # kinds of token
QUERIES = frozenset({"SELECT", "VALUES", "WITH", "TABLE"})
STARTS = {
    "postgresql": QUERIES | {"EXPLAIN", "SHOW"},
    "mysql": QUERIES | {"EXPLAIN", "DESCRIBE", "DESC", "SHOW"},
    "mariadb": QUERIES | {"EXPLAIN", "DESCRIBE", "DESC", "SHOW"},
    "sqlite": QUERIES | {"EXPLAIN", "PRAGMA"},
}

NO_WORDS: frozenset[str] = frozenset()
CHANGES = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})
WRITES = {
    "postgresql": CHANGES | frozenset("CREATE ALTER DROP TRUNCATE GRANT REVOKE COMMENT REFRESH REASSIGN".split()),
    "mysql": CHANGES | frozenset("CREATE ALTER DROP TRUNCATE GRANT REVOKE REPLACE RENAME".split()),
    "sqlite": CHANGES | frozenset("CREATE ALTER DROP REPLACE REINDEX".split()),
    "generic": CHANGES | frozenset("CREATE ALTER DROP TRUNCATE GRANT REVOKE".split()),
}
WRITES["mariadb"] = WRITES["mysql"]

FORBIDDEN = CHANGES | frozenset("INTO PROCEDURE ANALYZE ANALYSE SQL_CALC_FOUND_ROWS".split())
# Sequences without a call, and relations that show the settings of the one connection that reads them.
OF_THE_CONNECTION = frozenset(
    """
    NEXTVAL CURRVAL LASTVAL PG_SETTINGS PG_CURSORS PG_PREPARED_STATEMENTS SESSION_VARIABLES SESSION_STATUS
    SESSION_CONNECT_ATTRS SESSION_ACCOUNT_CONNECT_ATTRS USER_VARIABLES
    """.split()
)

EXPLAIN_OPTIONS = frozenset(
    """
    EXPLAIN DESCRIBE DESC QUERY PLAN VERBOSE COSTS SETTINGS GENERIC_PLAN SUMMARY FORMAT TEXT XML JSON YAML TREE
    TRADITIONAL EXTENDED PARTITIONS TRUE FALSE ON OFF ( ) , =
    """.split()
)
# Of PostgreSQL's SHOW, what is true on every connection.
SHOWN_BY_POSTGRESQL = frozenset({"SERVER_VERSION", "SERVER_VERSION_NUM", "SERVER_ENCODING", "MAX_CONNECTIONS"})
# Of MySQL's SHOW, all but the variables, counters, warnings and roles of the connection.
SHOWN_BY_MYSQL = frozenset(
    """
    CHARACTER COLLATION COLUMNS CREATE DATABASES ENGINE ENGINES EVENTS EXTENDED FIELDS FULL FUNCTION GLOBAL INDEX
    INDEXES KEYS PACKAGE PLUGINS PRIVILEGES PROCESSLIST SCHEMAS TABLE TABLES TRIGGERS
    """.split()
)
PRAGMAS = frozenset(
    """
    APPLICATION_ID BUSY_TIMEOUT COLLATION_LIST COMPILE_OPTIONS DATABASE_LIST ENCODING FOREIGN_KEYS FREELIST_COUNT
    FUNCTION_LIST JOURNAL_MODE PAGE_COUNT PAGE_SIZE SCHEMA_VERSION SYNCHRONOUS TABLE_LIST USER_VERSION
    """.split()
)
PRAGMAS_WITH_ARGUMENT = frozenset(
    "FOREIGN_KEY_LIST INDEX_INFO INDEX_LIST INDEX_XINFO TABLE_INFO TABLE_LIST TABLE_XINFO".split()
)


def _remembered(judge: Verdict) -> Verdict:
    """Judge a text once. Many short texts are kept, and a few long ones."""
    short, long = lru_cache(CACHE_SIZE)(judge), lru_cache(LONG_CACHE_SIZE)(judge)

    @wraps(judge)
    def remember(sql: str, dialect: str) -> bool:
        return short(sql, dialect) if len(sql) <= LONG else long(sql, dialect)

    return remember


@_remembered
def is_plain_read(sql: str, dialect: str) -> bool:
    """Return True only if ``sql`` means the same in autocommit, on any connection, as it does in a transaction."""
    start = first_word(sql, dialect) if dialect in STARTS else ""
    statement = read(sql, dialect) if start in STARTS.get(dialect, ()) else None
    if statement is None:
        return False
    match start:
        case "PRAGMA":
            return _reads_pragma(statement)
        case "SHOW":
            return _shows(statement, dialect)
        case "EXPLAIN" | "DESCRIBE" | "DESC":
            return _explains(statement, dialect)
        case _:
            return _harmless(statement, dialect)


@_remembered
def is_write(sql: str, dialect: str) -> bool:
    """Return True if ``sql`` certainly changes data or schema: by its first word, or in a common table expression."""
    if dialect not in WRITES:
        return False
    family = "postgresql" if dialect == "generic" else dialect
    start = first_word(sql, family)
    if start != "WITH":
        return start in WRITES[dialect]
    statement = read(sql, family)
    return statement is not None and _changes_with(statement, WRITES[dialect])


@_remembered
def is_locking_read(sql: str, dialect: str) -> bool:
    """Return True for SELECT ... FOR UPDATE and its relatives, at any depth."""
    if dialect not in STARTS or first_word(sql, dialect) not in QUERIES:
        return False
    statement = read(sql, dialect)
    return statement is not None and _locks(statement)


# -- Queries -----------------------------------------------------------------------------------------------------------


def _harmless(statement: Statement, dialect: str, *, since: int = 0) -> bool:
    """Whether nothing from a place on writes, locks, or calls what is not known."""
    return not _locks(statement) and all(
        _harmless_at(statement, place, dialect)
        for place, (kind, text) in enumerate(statement.tokens)
        if (kind in DOUBTFUL or text in ("(", ";")) and place >= since
    )


def _harmless_at(statement: Statement, place: int, dialect: str) -> bool:
    match statement[place]:
        case ("word" | "quoted", _):
            return not _forbidden(statement, place, dialect)
        case (_, "("):
            return _may_open(statement, place, dialect)
        case (_, ";"):
            return False  # a second statement
        case (_, "@"):
            return dialect not in MYSQL  # a variable, which belongs to one connection
        case (_, ":"):
            return statement[place + 1] != ("operator", "=")
        case _:
            return True


def _may_open(statement: Statement, place: int, dialect: str) -> bool:
    """Whether a parenthesis opens something other than the arguments of a function that is not known."""
    match statement[place - 1][0]:
        case "word":
            return _is_known(statement, place - 1, dialect) or _is_syntax(statement, place - 1, dialect)
        case "quoted":
            return _is_syntax(statement, place - 1, dialect)
        case kind:
            return kind in ("punctuation", "operator", "")  # strings and numbers can be names on MySQL: ``app.5()``


def _locks(statement: Statement) -> bool:
    return any(
        (text == "FOR" and statement.word(place + 1) in ("UPDATE", "SHARE", "NO", "KEY"))
        or (text == "LOCK" and statement.word(place + 1) == "IN")
        for place, text in statement.words()
    )


def _forbidden(statement: Statement, place: int, dialect: str) -> bool:
    kind, text = statement[place]
    if dialect == "postgresql" and _is_member(statement, place) and statement[place - 2][0] not in ("word", "quoted"):
        return True  # ``(1).name`` is a way to write ``name(1)``
    if kind == "quoted":
        return text[1:-1].upper() in OF_THE_CONNECTION
    if text in OF_THE_CONNECTION or (text in ("NEXT", "PREVIOUS") and statement.word(place + 1) == "VALUE"):
        return True
    if dialect == "sqlite" and text.startswith("PRAGMA_") and text not in FUNCTIONS[dialect]:
        return True  # a table that runs the pragma, also without an argument: PRAGMA_OPTIMIZE
    if text == "REPLACE" and statement.mark(place + 1) != "(":
        return not _is_column(statement, place)
    return text in FORBIDDEN and not _is_column(statement, place)


def _is_column(statement: Statement, place: int) -> bool:
    """``t.delete`` or ``AS delete``."""
    return _is_member(statement, place) or statement.word(place - 1) == "AS"


def _is_member(statement: Statement, place: int) -> bool:
    return statement.mark(place - 1) == "."


def _is_known(statement: Statement, place: int, dialect: str) -> bool:
    """A function that is free of effects. One in a schema is somebody's own, except in PostgreSQL's own schema."""
    if _is_member(statement, place) and (dialect != "postgresql" or statement.word(place - 2) != "PG_CATALOG"):
        return False
    return statement.word(place) in FUNCTIONS[dialect]


def _is_syntax(statement: Statement, place: int, dialect: str) -> bool:
    """Whether the parenthesis after the word at ``place`` opens something other than the arguments of a function."""
    text = statement.word(place)
    before = statement[place - 1]
    if before == ("punctuation", "."):
        return False
    if text in RESERVED[dialect] or not SYNTAX_AFTER.get(text, NO_WORDS).isdisjoint(_phrases_before(statement, place)):
        return True
    if before == ("word", "AS") or (before[0] == "cast" and dialect == "postgresql"):
        return True  # ``AS alias (a, b)``, ``AS varchar(9)``, ``::varchar(9)``
    return _names_table_expression(statement, place) or (text in INFIX and _follows_operand(statement, place))


def _phrases_before(statement: Statement, place: int) -> tuple[str, str]:
    last = statement[place - 1][1]
    return last, f"{statement[place - 2][1]} {last}"


def _names_table_expression(statement: Statement, place: int) -> bool:
    """``WITH name (a, b) AS (SELECT``. After a comma, ``f(x) AS (a int)`` is a call whose columns are given types."""
    if statement[place - 1] not in (("word", "WITH"), ("word", "RECURSIVE"), ("punctuation", ",")):
        return False
    body = _body(statement, place)
    return body is not None and (
        statement.word(body + 1) in ("SELECT", "WITH", "TABLE")
        or statement.mark(body + 1) == "("
        or (statement.word(body + 1) == "VALUES" and statement[body + 2] in (("punctuation", "("), ("word", "ROW")))
    )


def _body(statement: Statement, name: int) -> int | None:
    """Return where the body of the common table expression of this name opens, if it is one."""
    place = name + 1
    if statement.mark(place) == "(":
        place = statement.pairs[place] + 1
    if statement.word(place) != "AS":
        return None
    place += 1
    while statement.word(place) in ("NOT", "MATERIALIZED"):
        place += 1
    return place if statement.mark(place) == "(" else None


def _follows_operand(statement: Statement, place: int) -> bool:
    before = place - 1
    if statement.word(before) == "NOT":
        before -= 1  # ``a NOT ILIKE (b)``
    kind, text = statement[before]
    if text == ")":
        return not _closes_prefix(statement, before)
    return (
        kind in ("string", "number", "parameter", "quoted") or text == "]" or (kind == "word" and text not in OPENING)
    )


def _closes_prefix(statement: Statement, place: int) -> bool:
    """``DISTINCT ON (a)`` and ``OPERATOR(pg_catalog.+)`` end with a parenthesis, and an expression begins after it."""
    opening = statement.pairs[place]
    if statement.word(opening - 1) == "ON":
        return statement.word(opening - 2) == "DISTINCT"
    return statement.word(opening - 1) == "OPERATOR"


# -- Other statements --------------------------------------------------------------------------------------------------


def _changes_with(statement: Statement, writes: frozenset[str]) -> bool:
    """``WITH a AS (DELETE FROM ...``, or ``WITH a AS (...) DELETE FROM ...``."""
    place = 2 if statement.word(1) == "RECURSIVE" else 1
    while (body := _body(statement, place)) is not None:
        if statement.word(body + 1) in writes:
            return True
        place = statement.pairs[body] + 1
        if statement.mark(place) != ",":
            return statement.word(place) in writes
        place += 1
    return False


def _explains(statement: Statement, dialect: str) -> bool:
    """EXPLAIN of a query does not run it, unless an option says so; on MySQL, EXPLAIN of a table lists its columns."""
    place = 0
    while statement[place][1] in EXPLAIN_OPTIONS and statement[place][0] in ("word", "punctuation", "operator"):
        place += 1
    if statement.word(place) not in QUERIES and not (dialect in MYSQL and _describes(statement)):
        return False
    return _harmless(statement, dialect, since=place)


def _describes(statement: Statement) -> bool:
    """``DESCRIBE schema.table column``: nothing but names."""
    return all(kind in ("word", "quoted", "string") or text == "." for kind, text in statement.tokens)


def _shows(statement: Statement, dialect: str) -> bool:
    if dialect in MYSQL:
        return statement.word(1) in SHOWN_BY_MYSQL and _harmless(statement, dialect)
    return statement.word(1) in SHOWN_BY_POSTGRESQL and len(statement) == 2


def _reads_pragma(statement: Statement) -> bool:
    """``PRAGMA schema.name`` or ``PRAGMA schema.name(table)``."""
    place = 3 if statement.mark(2) == "." else 1
    if len(statement) == place + 1:
        return statement.word(place) in PRAGMAS
    called = statement.mark(place + 1) == "(" and statement.pairs[place + 1] == place + 3 == len(statement) - 1
    return called and statement.word(place) in PRAGMAS_WITH_ARGUMENT
