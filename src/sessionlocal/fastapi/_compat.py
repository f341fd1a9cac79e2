"""The few internals of FastAPI and Starlette that this library leans on, one function each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.dependencies.utils import solve_dependencies
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope

Handler: TypeAlias = Callable[..., Any]

FUNCTION_STACK = "fastapi_function_astack"
REQUEST_STACK = "fastapi_inner_astack"
EVENT_PRODUCER = "_sse_producer_cm"

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


def before_events(scope: Scope, work: Callable[[], Awaitable[None]]) -> None:
    """Await ``work`` before FastAPI starts the task that runs a generator of server-sent events.

    That task starts before the response does; FastAPI enters it on the request's exit stack, and tells nobody.
    """
    stack = request_stack(scope)
    if stack is None or not getattr(scope.get("route"), "is_sse_stream", False):
        return
    enter = stack.enter_async_context

    async def entering(manager: Any) -> Any:
        if getattr(getattr(manager, "gen", None), "__name__", "") == EVENT_PRODUCER:
            await work()
        return await enter(manager)

    vars(stack)["enter_async_context"] = entering


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


LAST_RESORTS = (Exception, 500)
"""Under these keys an application keeps the handler that answers when no other does, and after which the exception
goes on to the server."""


def handler_for(
    app: Any, error: BaseException, *, answers_all: bool = False, ignoring: type[Any] | None = None
) -> Handler | None:
    """Return the handler that the application registered for this kind of exception, as Starlette chooses it.

    ``answers_all`` includes its handler of last resort; handlers of the class ``ignoring`` do not count.
    """
    handlers: Mapping[Any, Handler] = getattr(app, "exception_handlers", {})
    for kind in type(error).__mro__:
        found = handlers.get(kind) if kind not in (BaseException, Exception) else None
        if found is not None and not (ignoring and isinstance(found, ignoring)):
            return found
    if answers_all:
        return next((handlers[key] for key in LAST_RESORTS if key in handlers), None)
    return None


def is_last_resort(app: Any, handler: Handler) -> bool:
    """Tell whether the exception goes on to the server after ``handler`` has answered it."""
    return any(app.exception_handlers.get(key) is handler for key in LAST_RESORTS)


async def call_handler(handler: Handler, request: Request, error: BaseException) -> Response | None:
    """Call an exception handler, async or not. None means that it has nothing to answer."""
    if iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        response: Response | None = await handler(request, error)
    else:
        response = await run_in_threadpool(handler, request, error)
    return response


def route_name(scope: Scope) -> str:
    """Return ``GET /items/{item_id}``: the method, and the path as the mounts and the route declare it."""
    declared = getattr(scope.get("route"), "path", None)
    path = scope.get("path", "") if declared is None else _mount_path(scope) + declared
    return f"{scope.get('method', 'WEBSOCKET')} {path}"


def _mount_path(scope: Scope) -> str:
    root: str = scope.get("root_path", "")
    return root.removeprefix(scope.get("app_root_path", root))


__all__ = ["FastAPI", "Starlette"]
