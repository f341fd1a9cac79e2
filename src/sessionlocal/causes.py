"""Why the database refused, told from its code: SQLSTATE on PostgreSQL, errno on MySQL and MariaDB, the extended
result code on SQLite.

Never from the text of a message, which changes with the server's version and language.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import exc

from .errors import CommitUnknown


@dataclass(frozen=True, slots=True)
class Cause:
    """One kind of refusal, and the HTTP answer that fits it."""

    name: str
    status: int
    title: str
    retry_after: int | None = None  # seconds


UNIQUE = Cause("unique-violation", 409, "It conflicts with something that exists already")
FOREIGN_KEY = Cause("foreign-key-violation", 409, "It refers to something that does not exist, or is still referred to")
EXCLUSION = Cause("exclusion-violation", 409, "It overlaps with something that exists already")
NOT_NULL = Cause("not-null-violation", 422, "A required value is missing")
CHECK = Cause("check-violation", 422, "A value is not allowed")
TOO_LONG = Cause("value-too-long", 422, "A value is too long")
OUT_OF_RANGE = Cause("value-out-of-range", 422, "A value is out of range")
INVALID_TEXT = Cause("invalid-value", 422, "A value cannot be stored")
LOCKED = Cause("locked", 409, "Somebody else is changing it")
DEADLOCK = Cause("deadlock", 409, "It collided with a concurrent change")
SERIALIZATION = Cause("serialization-failure", 409, "It collided with a concurrent change")
STATEMENT_TIMEOUT = Cause("statement-timeout", 504, "The database took too long")
BUSY = Cause("pool-timeout", 503, "The service is busy", 1)
UNAVAILABLE = Cause("database-unavailable", 503, "The database is unavailable", 1)
FULL = Cause("database-full", 503, "The database is full", 5)
READ_ONLY = Cause("database-read-only", 503, "The database does not accept changes at the moment", 5)
OUTCOME_UNKNOWN = Cause("commit-unknown", 503, "It is not known whether the change was stored")

BY_SQLSTATE: dict[str, Cause] = {
    "23505": UNIQUE,
    "23503": FOREIGN_KEY,
    "23001": FOREIGN_KEY,
    "23P01": EXCLUSION,
    "23502": NOT_NULL,
    "23514": CHECK,
    "22001": TOO_LONG,
    "22003": OUT_OF_RANGE,
    "22021": INVALID_TEXT,
    "22P02": INVALID_TEXT,
    "22P05": INVALID_TEXT,
    "22007": INVALID_TEXT,
    "22008": OUT_OF_RANGE,
    "55P03": LOCKED,
    "40P01": DEADLOCK,
    "40001": SERIALIZATION,
    "57014": STATEMENT_TIMEOUT,
    "25006": READ_ONLY,
    "53100": FULL,
    "53200": FULL,
    "53300": UNAVAILABLE,
    "57P01": UNAVAILABLE,
    "57P02": UNAVAILABLE,
    "57P03": UNAVAILABLE,
    "28P01": UNAVAILABLE,
    "28000": UNAVAILABLE,
    "3D000": UNAVAILABLE,
}
BY_SQLSTATE_CLASS: dict[str, Cause] = {"08": UNAVAILABLE}
BY_ERRNO: dict[int, Cause] = {
    1062: UNIQUE,
    1586: UNIQUE,
    1216: FOREIGN_KEY,
    1217: FOREIGN_KEY,
    1451: FOREIGN_KEY,
    1452: FOREIGN_KEY,
    1048: NOT_NULL,
    1364: NOT_NULL,
    3819: CHECK,
    4025: CHECK,
    1406: TOO_LONG,
    1264: OUT_OF_RANGE,
    1690: OUT_OF_RANGE,
    1366: INVALID_TEXT,
    1292: INVALID_TEXT,
    1205: LOCKED,
    3572: LOCKED,
    1213: DEADLOCK,
    1020: SERIALIZATION,
    1969: STATEMENT_TIMEOUT,
    3024: STATEMENT_TIMEOUT,
    1290: READ_ONLY,
    1792: READ_ONLY,
    1836: READ_ONLY,
    1021: FULL,
    1114: FULL,
    1040: UNAVAILABLE,
    1044: UNAVAILABLE,
    1045: UNAVAILABLE,
    1049: UNAVAILABLE,
    1053: UNAVAILABLE,
    2002: UNAVAILABLE,
    2003: UNAVAILABLE,
    2006: UNAVAILABLE,
    2013: UNAVAILABLE,
    2014: UNAVAILABLE,
}
BY_SQLITE: dict[int, Cause] = {
    2067: UNIQUE,
    1555: UNIQUE,
    2579: UNIQUE,
    787: FOREIGN_KEY,
    1811: FOREIGN_KEY,
    1299: NOT_NULL,
    275: CHECK,
    3091: INVALID_TEXT,
}
BY_SQLITE_PRIMARY: dict[int, Cause] = {
    5: LOCKED,
    6: LOCKED,
    8: READ_ONLY,
    13: FULL,
    14: UNAVAILABLE,
    18: TOO_LONG,
    20: INVALID_TEXT,
    26: UNAVAILABLE,
}


def cause_of(error: BaseException) -> Cause | None:
    """Return the cause of a database error, or None where the error is a bug of the program, or unknown."""
    if isinstance(error, CommitUnknown):
        return OUTCOME_UNKNOWN
    if isinstance(error, exc.TimeoutError):
        return BUSY
    if not isinstance(error, exc.DBAPIError):
        return None
    found = _by_code(error.orig)
    if found is None and error.connection_invalidated:
        return UNAVAILABLE
    return found


def _by_code(original: Any) -> Cause | None:
    code = getattr(original, "sqlite_errorcode", None)
    if isinstance(code, int):
        return BY_SQLITE.get(code) or BY_SQLITE_PRIMARY.get(code & 0xFF)
    arguments = getattr(original, "args", ())
    if isinstance(original, OSError):
        return UNAVAILABLE
    if arguments and isinstance(arguments[0], int):  # MySQL drivers have an SQLSTATE too, but a coarse one
        return BY_ERRNO.get(arguments[0])
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if isinstance(state, str):
        return BY_SQLSTATE.get(state) or BY_SQLSTATE_CLASS.get(state[:2])
    return None
