"""What clients say on the wire: the SQL inside PostgreSQL and MySQL packets, so that a wrong count explains itself.

Promises: a reader copes with packets that arrive in pieces; it never raises on what it does not understand, and says
nothing after a connection turned to TLS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

# SSLRequest and GSSENCRequest: the answer "N" leaves the connection in the clear.
POSTGRESQL_TLS_REQUESTS = {80877103, 80877104}
POSTGRESQL_CANCEL_REQUEST = 80877102
TLS_HANDSHAKE = 0x16
MYSQL_USES_TLS = 0x0800  # capability flag of the client
MYSQL_QUERY, MYSQL_PING, MYSQL_PREPARE = b"\x03", b"\x0e", b"\x16"


class Reader(Protocol):
    """Understands the client's half of one connection."""

    def feed(self, data: bytes) -> list[str]:
        """Return the statements whose packets are complete now."""
        ...


class PostgreSQLReader:
    """Simple queries as they are sent; prepared ones each time they are executed."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False
        self._encrypted = False
        self._prepared: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}

    def feed(self, data: bytes) -> list[str]:
        self._buffer += data
        found: list[str] = []
        while not self._encrypted and (message := self._next()) is not None:
            statement = self._understand(*message)
            if statement is not None:
                found.append(statement)
        return found

    def _next(self) -> tuple[bytes, bytes] | None:
        """Cut the next complete message off the buffer, as its type and its body."""
        if not self._started and self._buffer[:1] == bytes([TLS_HANDSHAKE]):
            self._encrypted = True
            return None
        typed = 1 if self._started else 0
        if len(self._buffer) < typed + 4:
            return None
        end = typed + struct.unpack_from("!I", self._buffer, typed)[0]
        if len(self._buffer) < end:
            return None
        kind, body, self._buffer = self._buffer[:typed], self._buffer[typed + 4 : end], self._buffer[end:]
        return kind, body

    def _understand(self, kind: bytes, body: bytes) -> str | None:
        match kind:
            case b"":
                code = struct.unpack_from("!I", body)[0]
                self._started = code not in POSTGRESQL_TLS_REQUESTS
                return "(cancel request)" if code == POSTGRESQL_CANCEL_REQUEST else None
            case b"Q":
                return _text(body)
            case b"P":
                name, query = body.split(b"\0")[:2]
                self._prepared[name] = _text(query)
            case b"B":
                portal, name = body.split(b"\0")[:2]
                self._portals[portal] = self._prepared.get(name, f"(prepared {_text(name)})")
            case b"E":
                portal = body.split(b"\0")[0]
                return self._portals.get(portal, f"(portal {_text(portal)})")
        return None


class MySQLReader:
    """Queries, preparations and pings."""

    def __init__(self) -> None:
        self._buffer = b""
        self._encrypted = False

    def feed(self, data: bytes) -> list[str]:
        self._buffer += data
        found: list[str] = []
        while not self._encrypted and len(self._buffer) >= 4:
            length, number = int.from_bytes(self._buffer[:3], "little"), self._buffer[3]
            if len(self._buffer) < 4 + length:
                break
            body, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            if number == 0:
                found += self._command(body)
            elif number == 1 and length == 32:
                self._encrypted = bool(int.from_bytes(body[:4], "little") & MYSQL_USES_TLS)
        return found

    def _command(self, body: bytes) -> list[str]:
        if body[:1] in (MYSQL_QUERY, MYSQL_PREPARE):
            return [_text(body[1:])]
        return ["(ping)"] if body[:1] == MYSQL_PING else []


def reader_for(dialect: str) -> Callable[[], Reader]:
    """Return the reader for the protocol of a dialect."""
    return PostgreSQLReader if dialect == "postgresql" else MySQLReader


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")
