"""An application driven as raw ASGI: every message in order, and a look at the world at the moment one is sent.

Promises: nothing stands between the test and the application; a hook runs while the application waits in ``send``,
before the message counts as sent, so that what the hook sees was true before any client could have seen the message;
the client leaves exactly when told.
"""

from __future__ import annotations

import asyncio
import inspect
import json as jsonlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

from .live import ASGIApp, Message, Scope

Hook = Callable[[Message], Any]
Departure = Literal["before the request", "after the request", "at the start", "at the first chunk"]
LEAVES_AT = {"at the start": "http.response.start", "at the first chunk": "http.response.body"}
LIFESPAN_TIMEOUT = 20.0  # seconds


class ClientLeft(OSError):
    """What ``send`` raises after the client left, where ``sends_fail`` was asked for, as servers of ASGI 2.4 do."""


@dataclass
class Exchange:
    """A request and everything that the application made of it."""

    messages: list[Message] = field(default_factory=list)
    unheard: list[Message] = field(default_factory=list)  # sent after the client had left
    timeline: list[str] = field(default_factory=list)
    error: BaseException | None = None
    left: bool = False

    @property
    def status(self) -> int | None:
        """The status of the response, or None while none was started."""
        return next((message["status"] for message in self.messages if message["type"] == "http.response.start"), None)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response, in lower case."""
        start = next((message for message in self.messages if message["type"] == "http.response.start"), {})
        return {name.decode().lower(): value.decode() for name, value in start.get("headers", [])}

    @property
    def body(self) -> bytes:
        """The body as far as it was sent."""
        return b"".join(
            message.get("body", b"") for message in self.messages if message["type"] == "http.response.body"
        )

    @property
    def complete(self) -> bool:
        """Whether the body was sent to its end."""
        return any(m["type"] == "http.response.body" and not m.get("more_body", False) for m in self.messages)

    def json(self) -> Any:
        """Return the body, parsed."""
        return jsonlib.loads(self.body)


class Asgi:
    """A client without a network. ``async with Asgi(app) as client`` runs the lifespan around the block."""

    def __init__(self, app: ASGIApp, *, lifespan: bool = True) -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._with_lifespan = lifespan
        self._to_lifespan: asyncio.Queue[Message] = asyncio.Queue()
        self._from_lifespan: asyncio.Queue[Message] = asyncio.Queue()
        self._lifespan: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Asgi:
        if self._with_lifespan:
            scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
            work = self.app(scope, self._to_lifespan.get, self._from_lifespan.put)
            self._lifespan = asyncio.ensure_future(work)
            await self._lifespan_step("startup")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._lifespan is not None and not self._lifespan.done():
            await self._lifespan_step("shutdown")
            await self._lifespan

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        json: Any = None,
        hooks: Mapping[str, Hook] | None = None,
        timeline: list[str] | None = None,
        leave: Departure | None = None,
        sends_fail: bool = False,
    ) -> Exchange:
        """Make one request; return when the application has finished with it, background tasks included.

        Args:
            hooks: message type to a function, plain or async, that is called with each message of that type as it is
                sent. What it raises is raised by ``send``.
            timeline: a list that the messages are noted in, as ``"response 200"``, ``"body 12"`` and ``"end"`` (the
                application returned); give the one that other parts of the test write to.
            leave: when the client leaves; the application learns it from ``receive``.
            sends_fail: make ``send`` raise after the client left, instead of doing nothing.

        An exception that leaves the application is kept as ``exchange.error``.
        """
        if json is not None:
            body, headers = jsonlib.dumps(json).encode(), {"content-type": "application/json", **(headers or {})}
        exchange = Exchange(timeline=[] if timeline is None else timeline)
        scope = self._scope(method, path, headers or {}, body, "2.4" if sends_fail else "2.3")
        client = _Client(exchange, body, dict(hooks or {}), leave, sends_fail)
        try:
            await self.app(scope, client.receive, client.send)
        except Exception as error:
            exchange.error = error
        exchange.timeline.append("end")
        return exchange

    async def get(self, path: str, **options: Any) -> Exchange:
        """Make a GET request."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Exchange:
        """Make a POST request."""
        return await self.request("POST", path, **options)

    def _scope(self, method: str, path: str, headers: Mapping[str, str], body: bytes, version: str) -> Scope:
        plain, _, query = path.partition("?")
        sent = {"host": "testserver", "content-length": str(len(body)), **{k.lower(): v for k, v in headers.items()}}
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": version},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(plain),
            "raw_path": plain.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 80),
            "state": self.state.copy(),
        }

    async def _lifespan_step(self, step: str) -> None:
        assert self._lifespan is not None
        await self._to_lifespan.put({"type": f"lifespan.{step}"})
        answer = asyncio.ensure_future(self._from_lifespan.get())
        await asyncio.wait({answer, self._lifespan}, timeout=LIFESPAN_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            if not self._lifespan.done():
                raise TimeoutError(f"the lifespan did not answer {step} within {LIFESPAN_TIMEOUT} s")
            await self._lifespan
            raise RuntimeError(f"the lifespan ended without answering {step}")
        if answer.result()["type"].endswith("failed"):
            await self._lifespan
            raise RuntimeError(answer.result().get("message", f"{step} failed"))


class _Client:
    """The two callables of one ASGI call."""

    def __init__(
        self, exchange: Exchange, body: bytes, hooks: dict[str, Hook], leave: Departure | None, sends_fail: bool
    ) -> None:
        self._exchange = exchange
        self._body: bytes | None = body
        self._hooks = hooks
        self._leave = leave
        self._sends_fail = sends_fail
        self._gone = asyncio.Event()
        if leave == "before the request":
            self._go()

    async def receive(self) -> Message:
        if self._body is not None and not self._exchange.left:
            body, self._body = self._body, None
            if self._leave == "after the request":
                self._go()
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self._exchange.left:
            self._exchange.unheard.append(message)
            if self._sends_fail:
                raise ClientLeft("the client left")
            await asyncio.sleep(0)  # or an endless body would keep whoever listens for the disconnect from hearing it
            return
        hook = self._hooks.get(message["type"])
        if hook is not None and inspect.isawaitable(result := hook(message)):
            await result
        self._exchange.messages.append(message)
        self._exchange.timeline.append(_noted(message))
        if self._exchange.complete:
            self._gone.set()
        elif self._leave is not None and LEAVES_AT.get(self._leave) == message["type"]:
            self._go()

    def _go(self) -> None:
        self._exchange.left = True
        self._gone.set()


def _noted(message: Message) -> str:
    if message["type"] == "http.response.start":
        return f"response {message['status']}"
    if message["type"] == "http.response.body":
        return f"body {len(message.get('body', b''))}"
    return str(message["type"])
