"""A real uvicorn server on a thread of its own, and a keep-alive client that can misbehave.

Promises: the application runs on an event loop that the test does not share; what fails at start-up or shutdown is
raised in the test as it was raised in the application; after the ``with`` block the port is closed, the lifespan has
ended and the thread is gone; exceptions that left the application while it answered requests are in ``server.errors``.
"""

from __future__ import annotations

import asyncio
import json as jsonlib
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import h11
import uvicorn

T = TypeVar("T")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
LoopName = Literal["asyncio", "uvloop"]

START_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 20.0  # seconds; requests still running are cancelled after GRACE
GRACE = 5  # seconds
CLIENT_TIMEOUT = 10.0  # seconds without a byte from the server
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Server:
    """A running server. Made by `serve`."""

    def __init__(self, app: ASGIApp, *, loop: LoopName, grace: int, options: Mapping[str, Any]) -> None:
        self.errors: list[BaseException] = []
        self.leftovers: list[str] = []
        self._app = app
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()[:2]
        self.url = f"http://{self.host}:{self.port}"
        self._new_loop = _loop_factory(loop)
        config = uvicorn.Config(
            self._recorded,
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=grace,
            **options,
        )
        self._uvicorn = _Uvicorn(config, self._ready)
        self._thread = threading.Thread(target=self._run, name=f"uvicorn-{self.port}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the server's event loop and return its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_TIMEOUT)

    def start(self) -> None:
        """Start, and return when requests are accepted."""
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT):
            raise TimeoutError(f"the application has not started after {START_TIMEOUT} s")
        self._raise_failure()

    def stop(self) -> None:
        """End the lifespan, close the port and join the thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._uvicorn.ending.set)
        self._thread.join(STOP_TIMEOUT)
        if self._thread.is_alive():
            raise TimeoutError(f"the server has not stopped after {STOP_TIMEOUT} s")
        self._raise_failure()

    def __repr__(self) -> str:
        return f"<Server {self.url} {'running' if self._thread.is_alive() else 'stopped'}, {len(self.errors)} errors>"

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self._new_loop) as runner:
                self._loop = runner.get_loop()
                runner.run(self._serve())
        except BaseException as error:  # uvicorn ends a failed start with SystemExit
            self._failure = self._failure or error
        finally:
            self._listener.close()
            self._ready.set()

    async def _serve(self) -> None:
        await self._uvicorn.serve(sockets=[self._listener])
        current = asyncio.current_task()
        self.leftovers = [repr(task) for task in asyncio.all_tasks() if task is not current]

    async def _recorded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application, noting what it raises."""
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            if scope["type"] == "lifespan":
                self._failure = error
            else:
                self.errors.append(error)
            raise

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure


class _Uvicorn(uvicorn.Server):
    """Tells when it accepts requests, and ends when it is told to instead of asking ten times a second."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self.ending = asyncio.Event()
        self._ready = ready

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self.ending.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


@contextmanager
def serve(app: ASGIApp, *, loop: LoopName = "asyncio", grace: int = GRACE, **options: Any) -> Iterator[Server]:
    """Serve an application for the length of a block.

    ``options`` go to ``uvicorn.Config``; ``http="httptools"`` chooses the other parser. Requests that are still running
    at the end are cancelled after ``grace`` seconds.
    """
    server = Server(app, loop=loop, grace=grace, options=options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _loop_factory(name: LoopName) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    return uvloop.new_event_loop


@dataclass
class Reply:
    """What a server answered. ``complete`` is false where the connection ended, or was left, before the body did."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    complete: bool = False

    def json(self) -> Any:
        """Return the body, parsed."""
        return jsonlib.loads(self.body)


class Connection:
    """One keep-alive connection: HTTP/1.1 over a plain socket, one step at a time."""

    def __init__(self, server: Server, *, timeout: float = CLIENT_TIMEOUT) -> None:
        self._host = f"{server.host}:{server.port}"
        self._socket = socket.create_connection((server.host, server.port), timeout=timeout)
        self._http = h11.Connection(our_role=h11.CLIENT)

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        json: Any = None,
    ) -> Reply:
        """Send a request and read the whole reply; the connection can be used again."""
        self.send(method, path, headers=headers, body=body, json=json)
        return self.read()

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        json: Any = None,
        part: float = 1.0,
    ) -> None:
        """Send a request, or only the first ``part`` of its body."""
        if self._http.our_state is not h11.IDLE:
            self._http.start_next_cycle()
        if json is not None:
            body, headers = jsonlib.dumps(json).encode(), {"content-type": "application/json", **(headers or {})}
        sent = {"host": self._host, "content-length": str(len(body)), **(headers or {})}
        self._send(h11.Request(method=method, target=path, headers=list(sent.items())))
        if part < 1.0:
            self._send(h11.Data(data=body[: int(len(body) * part)]))
            return
        self._send(h11.Data(data=body))
        self._send(h11.EndOfMessage())

    def read_headers(self) -> Reply:
        """Read up to the end of the headers."""
        event = self._next()
        while isinstance(event, h11.InformationalResponse):
            event = self._next()
        if not isinstance(event, h11.Response):
            raise ConnectionError(f"the server closed the connection instead of answering ({event!r})")
        headers = {name.decode().lower(): value.decode() for name, value in event.headers}
        return Reply(event.status_code, headers)

    def read(self, reply: Reply | None = None) -> Reply:
        """Read the reply to its end, or go on with one whose headers were read."""
        reply = self.read_headers() if reply is None else reply
        while self.read_chunk(reply):
            pass
        return reply

    def read_chunk(self, reply: Reply) -> bytes:
        """Read some more of the body; nothing at the end, whether complete or broken off."""
        try:
            event = self._next()
        except (h11.RemoteProtocolError, ConnectionError):
            return b""
        if isinstance(event, h11.Data):
            reply.body += bytes(event.data)
            return bytes(event.data)
        reply.complete = isinstance(event, h11.EndOfMessage)
        return b""

    def close(self) -> None:
        """Close as a client does that has finished, or whose process ended: FIN."""
        self._socket.close()

    def reset(self) -> None:
        """Vanish rudely: RST."""
        with suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, event: Any) -> None:
        data = self._http.send(event)
        if data:
            self._socket.sendall(data)

    def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(self._socket.recv(65536))
        return event


Moment = Literal["while sending", "after sending", "after headers", "mid-body"]


def raw_request(
    server: Server,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    json: Any = None,
    leave: Moment | None = None,
    reset: bool = False,
    timeout: float = CLIENT_TIMEOUT,
) -> Reply | None:
    """Send one request over a connection of its own and return the reply, or leave early.

    ``leave`` says when the client goes: with half of the body sent, with the request sent, with the headers of the
    reply read, or with its first chunk read. ``reset`` makes it go with RST instead of FIN. The result is what was read
    until then, None without headers.
    """
    connection = Connection(server, timeout=timeout)
    try:
        connection.send(
            method, path, headers=headers, body=body, json=json, part=0.5 if leave == "while sending" else 1.0
        )
        if leave in ("while sending", "after sending"):
            return None
        reply = connection.read_headers()
        if leave == "mid-body":
            connection.read_chunk(reply)
        return reply if leave is not None else connection.read(reply)
    finally:
        connection.reset() if reset else connection.close()
