"""One client interface over the two ways in: raw ASGI in this process, and a keep-alive connection to uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from tests.support.asgi import Asgi, Exchange
from tests.support.live import ASGIApp, Connection, LoopName, Reply, Server, serve


class Answer(Protocol):
    """What came back, over either way."""

    status: Any
    headers: Any
    body: Any

    def json(self) -> Any:
        """Return the body, parsed."""
        ...


class Client(Protocol):
    """Makes requests, one after the other."""

    async def request(self, method: str, path: str, **options: Any) -> Answer: ...

    async def get(self, path: str, **options: Any) -> Answer: ...

    async def post(self, path: str, **options: Any) -> Answer: ...


Connect = Callable[[ASGIApp], AbstractAsyncContextManager[Client]]


class Live:
    """A client of a real server. One connection serves as long as the server keeps it; ``connections`` counts them."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connections = 0
        self._connection: Connection | None = None

    async def request(self, method: str, path: str, **options: Any) -> Reply:
        """Make a request in a thread, so that the event loop of the test goes on."""
        return await asyncio.to_thread(self._request, method, path, options)

    async def get(self, path: str, **options: Any) -> Reply:
        """Make a GET request."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Reply:
        """Make a POST request."""
        return await self.request("POST", path, **options)

    def _request(self, method: str, path: str, options: dict[str, Any]) -> Reply:
        if self._connection is None:
            self._connection = Connection(self.server)
            self.connections += 1
        reply = self._connection.request(method, path, **options)
        if reply.status >= 500 or not reply.complete:  # the server closes after an exception that nobody handled
            self.close()
        return reply

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


@asynccontextmanager
async def over_asgi(app: ASGIApp) -> AsyncIterator[Client]:
    """Drive an application in process."""
    async with Asgi(app) as client:
        yield client


def over_uvicorn(loop: LoopName) -> Connect:
    """Serve an application with a real server on this kind of event loop."""

    @asynccontextmanager
    async def connect(app: ASGIApp) -> AsyncIterator[Client]:
        with serve(app, loop=loop) as server:
            client = Live(server)
            try:
                yield client
            finally:
                client.close()

    return connect


WAYS: dict[str, Connect] = {
    "asgi": over_asgi,
    "asyncio": over_uvicorn("asyncio"),
    "uvloop": over_uvicorn("uvloop"),
}

__all__ = ["WAYS", "Answer", "Client", "Connect", "Exchange", "Live", "over_asgi", "over_uvicorn"]
