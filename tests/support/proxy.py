"""A TCP proxy between a driver and its server that counts round trips, and makes the network slow, silent or broken.

A *flight* is what a client sends before it hears anything: one or many packets. A *round trip* is a flight that was
answered.

Promises: a trip is counted before its answer reaches the client, so a count read after an await is complete; what a
client sent before the answer reached it belongs to the flight that was answered, whatever the order in which packets
arrive here (pipelined statements are one trip); bytes are never changed or reordered; a half-closed direction is
forwarded as such. The proxy runs on a thread of its own, so it serves sync and async tests alike.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sqlalchemy import make_url

from .wire import Reader, reader_for

READ_SIZE = 65536  # bytes
MAX_BUFFERED = 1 << 20  # bytes a direction may hold back before its sender is made to wait
ANSWER_TIMEOUT = 10.0  # seconds for the proxy's own thread to do what it was asked
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: closing sends RST

T = TypeVar("T")


@dataclass
class Flight:
    """What one client sent before it heard an answer, and whether the answer came."""

    connection: int
    sent: bytearray = field(default_factory=bytearray)
    answered: bool = False
    statements: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = ", ".join(self.statements) or repr(bytes(self.sent[:60]))
        return f"{self.connection}{'' if self.answered else ' unanswered'}: {said}"


class Trips:
    """The round trips of a stretch of time: live until `stop`, then fixed."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._first = len(proxy.flights)
        self._opened, self._closed = proxy.opened, proxy.closed
        self._result: tuple[list[Flight], int, int] | None = None

    @property
    def flights(self) -> list[Flight]:
        """Every flight that began in this stretch, answered or not."""
        return self._proxy.flights[self._first :] if self._result is None else self._result[0]

    @property
    def total(self) -> int:
        """How many flights were answered."""
        return sum(flight.answered for flight in self.flights)

    @property
    def by_connection(self) -> dict[int, int]:
        """Round trips per connection; connections are numbered from 1 in the order in which they were opened."""
        counts: dict[int, int] = {}
        for flight in self.flights:
            counts[flight.connection] = counts.get(flight.connection, 0) + flight.answered
        return counts

    @property
    def statements(self) -> list[str]:
        """The SQL that went over the wire, in order. A prepared statement shows its text each time it is executed."""
        return [statement for flight in self.flights for statement in flight.statements]

    @property
    def opened(self) -> int:
        """How many connections were opened."""
        return (self._proxy.opened if self._result is None else self._result[1]) - self._opened

    @property
    def closed(self) -> int:
        """How many connections were closed."""
        return (self._proxy.closed if self._result is None else self._result[2]) - self._closed

    def stop(self) -> None:
        """Count no further."""
        copies = [replace(flight) for flight in self.flights]
        self._result = (copies, self._proxy.opened, self._proxy.closed)

    def __repr__(self) -> str:
        flights = "; ".join(map(str, self.flights))
        return f"<Trips {self.total} total, {self.opened} opened, {self.closed} closed | {flights}>"


class Proxy:
    """A listening port in front of a server. Close it, or use it in a ``with`` block."""

    def __init__(self, host: str, port: int, *, reader: Callable[[], Reader] | None = None, url: str = "") -> None:
        self.server = (host, port)
        self._server = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.flights: list[Flight] = []
        self.opened = 0
        self.closed = 0
        self.delays = (0.0, 0.0)
        self.dropping_replies = False
        self.refusing = False
        self._reader = reader
        self._wires: set[Wire] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._triggers: list[tuple[re.Pattern[str], Callable[[], None]]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.host, self.port = self._listener.getsockname()[:2]
        self.url = url and make_url(url).set(host=self.host, port=self.port).render_as_string(hide_password=False)
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        self._do(lambda: self._spawn(self._listen()))
        self.trips = Trips(self)

    @classmethod
    def for_url(cls, url: str) -> Proxy:
        """Start a proxy in front of the server of a SQLAlchemy URL; ``proxy.url`` is the URL that goes through it."""
        parsed = make_url(url)
        dialect = parsed.get_backend_name()
        if dialect == "sqlite" or parsed.host is None:
            raise ValueError(f"{parsed.render_as_string()} has no host to stand in front of")
        port = parsed.port or {"postgresql": 5432}.get(dialect, 3306)
        return cls(parsed.host, port, reader=reader_for(dialect), url=url)

    # -- counting

    def reset(self) -> None:
        """Start `trips` again from zero."""
        self.trips = Trips(self)

    @contextmanager
    def counting(self) -> Iterator[Trips]:
        """Count the round trips of a block."""
        trips = Trips(self)
        try:
            yield trips
        finally:
            trips.stop()

    @property
    def open(self) -> int:
        """How many connections are open now."""
        return self.opened - self.closed

    def wait_for_open(self, count: int, *, timeout: float = 5.0) -> None:
        """Block until exactly ``count`` connections are open; closing is seen here a little after the client closed."""
        deadline = time.monotonic() + timeout
        while self.open != count:
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.open} connections are open instead of {count}")
            time.sleep(0.005)

    # -- trouble

    def delay(self, to_server: float = 0.0, to_client: float = 0.0) -> None:
        """Hold each packet back for so many seconds. Applies to packets that arrive from now on."""
        self.delays = (to_server, to_client)

    def stall(self) -> None:
        """Forward nothing in either direction until `resume`; connections stay open and new ones are accepted."""
        self._do(self._flowing.clear)

    def resume(self) -> None:
        """Forward again, beginning with what was held back."""
        self._do(self._flowing.set)

    def drop_replies(self) -> None:
        """Throw away what servers answer, from now on. The trips still count."""
        self.dropping_replies = True

    def keep_replies(self) -> None:
        """Forward answers again; what was dropped is lost."""
        self.dropping_replies = False

    def refuse(self) -> None:
        """Reset new connections as soon as they are made."""
        self.refusing = True

    def accept(self) -> None:
        """Serve new connections again."""
        self.refusing = False

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        self._do(self._break_all)
        if threading.current_thread() is not self._thread:
            self._call(self._broken())

    def when(self, pattern: str, act: Callable[[], None]) -> None:
        """Do something once, when a client has sent a statement that matches, before the server sees it.

        ``proxy.when("^COMMIT", proxy.drop_replies)`` loses the acknowledgement; with ``proxy.cut`` the commit never
        arrives. ``act`` runs on the proxy's thread: it must not wait for the client or the test.
        """
        self._triggers.append((re.compile(pattern, re.IGNORECASE), act))

    # -- life

    def close(self) -> None:
        """Reset every connection, stop listening and end the thread."""
        if not self._thread.is_alive():
            return
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_TIMEOUT)
        self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Proxy {self.port} -> {self.server[0]}:{self.server[1]} {self.open} open, {self.trips.total} trips>"

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(ANSWER_TIMEOUT)

    def _do(self, act: Callable[[], None]) -> None:
        """Have the proxy's thread do something, and wait for it."""
        if threading.current_thread() is self._thread:
            act()
            return

        async def work() -> None:
            act()

        self._call(work())

    def _sent(self, statements: list[str]) -> None:
        for statement in statements:
            for trigger in [trigger for trigger in self._triggers if trigger[0].search(statement)]:
                self._triggers.remove(trigger)
                trigger[1]()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _listen(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            if self.refusing:
                _close(client, reset=True)
            else:
                self._spawn(self._serve(client))

    async def _serve(self, client: socket.socket) -> None:
        self.opened += 1
        server = socket.socket(self._server[0], socket.SOCK_STREAM)
        server.setblocking(False)
        try:
            await self._loop.sock_connect(server, self._server[4])
        except OSError:
            _close(client, reset=True)
            server.close()
            self.closed += 1
            return
        wire = Wire(self, self.opened, client, server)
        self._wires.add(wire)
        try:
            await wire.carry()
        finally:
            self._wires.discard(wire)
            self.closed += 1

    def _break_all(self) -> None:
        for wire in self._wires:
            wire.abort()

    async def _broken(self) -> None:
        """Wait until every connection that was broken is closed."""
        if closing := [wire.carrying for wire in self._wires if wire.broken and wire.carrying is not None]:
            await asyncio.wait(closing)

    async def _stop(self) -> None:
        self._break_all()
        tasks = list(self._tasks)
        for task in set(tasks) - {wire.carrying for wire in self._wires}:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()


class Wire:
    """One client connection and the server connection behind it."""

    def __init__(self, proxy: Proxy, number: int, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._number = number
        self._loop = asyncio.get_running_loop()
        self._requests = Direction(client, server)
        self._replies = Direction(server, client)
        self._flight: Flight | None = None
        self.carrying: asyncio.Task[Any] | None = None
        self.broken = False
        self._statements = proxy._reader() if proxy._reader is not None else None
        for end in (client, server):
            end.setblocking(False)
            # Nagle's algorithm would hold back the second packet of a pipelined flight.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def carry(self) -> None:
        """Forward both directions until both have ended, or one broke, which both sides then see as a reset."""
        self.carrying = asyncio.current_task()
        directions = (self._requests, self._replies)
        work = [asyncio.ensure_future(self._read(direction)) for direction in directions]
        work += [asyncio.ensure_future(self._forward(direction)) for direction in directions]
        try:
            await asyncio.gather(*work)
        except (OSError, asyncio.CancelledError):
            self.broken = True
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            for direction in directions:
                _close(direction.source, reset=self.broken)

    def abort(self) -> None:
        """Reset both sides."""
        self.broken = True
        if self.carrying is not None:
            self.carrying.cancel()

    async def _read(self, direction: Direction) -> None:
        while not direction.ended:
            await direction.room()
            self._arrived(direction, await self._loop.sock_recv(direction.source, READ_SIZE))

    def _arrived(self, direction: Direction, data: bytes) -> None:
        if direction.ended:
            return
        if data and direction is self._requests:
            self._sent(data)
        direction.put(data, self._loop.time())

    def _sent(self, data: bytes) -> None:
        """Note what the client sent: a new flight if it has heard the answer to the last one, else more of the same."""
        if self._flight is None or self._flight.answered:
            self._flight = Flight(self._number)
            self._proxy.flights.append(self._flight)
        self._flight.sent += data
        if self._statements is not None:
            statements = self._statements.feed(data)
            self._flight.statements += statements
            self._proxy._sent(statements)

    async def _forward(self, direction: Direction) -> None:
        while True:
            data, arrived = await direction.get()
            await self._hold(arrived + self._proxy.delays[direction is self._replies])
            if not data:
                direction.sink.shutdown(socket.SHUT_WR)
                return
            if direction is self._replies and not self._answer():
                continue
            await self._loop.sock_sendall(direction.sink, data)

    async def _hold(self, until: float) -> None:
        if (seconds := until - self._loop.time()) > 0:
            await asyncio.sleep(seconds)
        await self._proxy._flowing.wait()

    def _answer(self) -> bool:
        """Count the trip whose answer is about to be forwarded; false if the answer is to be dropped."""
        self._drain()
        if self._flight is not None:
            self._flight.answered = True
        return not self._proxy.dropping_replies

    def _drain(self) -> None:
        """Read what the client has sent up to now: it cannot be a reaction to an answer that was not forwarded yet."""
        with suppress(BlockingIOError, InterruptedError):
            while not self._requests.ended:
                self._arrived(self._requests, self._requests.source.recv(READ_SIZE))


class Direction:
    """Bytes on their way from one socket to the other. An empty packet is the end."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.ended = False
        self._packets: deque[tuple[bytes, float]] = deque()
        self._size = 0
        self._changed = asyncio.Event()

    def put(self, data: bytes, time: float) -> None:
        """Append a packet."""
        self.ended = not data
        self._packets.append((data, time))
        self._size += len(data)
        self._changed.set()

    async def get(self) -> tuple[bytes, float]:
        """Take the oldest packet, waiting for one."""
        while not self._packets:
            await self._change()
        data, time = self._packets.popleft()
        self._size -= len(data)
        self._changed.set()
        return data, time

    async def room(self) -> None:
        """Wait until more may be read."""
        while self._size > MAX_BUFFERED:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _close(end: socket.socket, *, reset: bool) -> None:
    with suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        end.close()
