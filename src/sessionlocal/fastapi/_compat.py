"""The few internals of FastAPI and Starlette that this library leans on, one function each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.utils import solve_dependencies
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

FUNCTION_STACK = "fastapi_function_astack"
REQUEST_STACK = "fastapi_inner_astack"

HAS_FUNCTION_STACK = FUNCTION_STACK in str(solve_dependencies.__code__.co_consts)
"""True from FastAPI 0.121: a stack that closes when the endpoint has returned, before the response is sent."""


def function_stack(scope: Scope) -> AsyncExitStack | None:
    """Return the exit stack that sees whether the endpoint raised, before any handler turns that into a response."""
    stack: AsyncExitStack | None = scope.get(FUNCTION_STACK)
    return stack


def request_stack(scope: Scope) -> AsyncExitStack | None:
    """Return the exit stack that closes when the response has been sent."""
    stack: AsyncExitStack | None = scope.get(REQUEST_STACK)
    return stack


def wrap_outermost(app: Starlette, wrap: Callable[[ASGIApp], ASGIApp]) -> None:
    """Put ``wrap`` around everything, middleware added later included. Only before the first request."""
    build = app.build_middleware_stack
    app.build_middleware_stack = lambda: wrap(build())  # type: ignore[method-assign]


def add_innermost(app: Starlette, middleware: Any) -> None:
    """Add a middleware inside all others: ``add_middleware`` puts each new one outside."""
    if all(entry.cls is not middleware for entry in app.user_middleware):
        app.user_middleware.append(Middleware(middleware))


def is_serving(app: Starlette) -> bool:
    """Tell whether the application has built its middleware, after which it cannot be changed."""
    return app.middleware_stack is not None


def compose_lifespan(app: Starlette, around: Callable[[Any, Any], Any]) -> None:
    """Replace the application's lifespan by ``around(original, app)``, an async context manager."""
    original = app.router.lifespan_context
    app.router.lifespan_context = lambda served: around(original, served)


def handler_for(app: Any, error: BaseException) -> Callable[..., Any] | None:
    """Return the handler that the application registered for this kind of exception, as Starlette chooses it."""
    handlers: Mapping[Any, Callable[..., Any]] = getattr(app, "exception_handlers", {})
    for kind in type(error).__mro__:
        if kind in handlers and kind not in (BaseException, Exception):
            return handlers[kind]
    return None


async def call_handler(handler: Callable[..., Any], request: Request, error: BaseException) -> Response:
    """Call an exception handler, async or not."""
    from inspect import iscoroutinefunction

    if iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        response: Response = await handler(request, error)
    else:
        response = await run_in_threadpool(handler, request, error)
    return response


def route_name(scope: Scope) -> str:
    """Return ``GET /items/{item_id}``: the method and the path as the route declares it."""
    route = scope.get("route")
    path = getattr(route, "path", None) or scope.get("path", "")
    return f"{scope.get('method', 'WEBSOCKET')} {path}"


Exit = Callable[..., Awaitable[bool | None]]

__all__ = ["FastAPI", "Starlette"]
