"""Database errors as answers: ``application/problem+json`` (RFC 9457) that says what the client can do, and nothing of
the database."""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy.exc import DBAPIError, TimeoutError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..causes import Cause, cause_of
from ..errors import CommitUnknown
from . import _compat

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def add_handlers(app: Starlette) -> None:
    """Answer database errors, unless the application has a handler of its own for the error or for a base of it."""
    handlers: dict[Any, Any] = app.exception_handlers
    for kind in (DBAPIError, TimeoutError, CommitUnknown):
        handlers.setdefault(kind, ProblemHandler(app))


class ProblemHandler:
    """Renders a database error. What the table does not know is a bug: it goes on to the server's own 500, with its
    traceback."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, request: Request, error: Exception) -> Response | None:
        if (own := self._applications_own(error)) is not None:
            return await _compat.call_handler(own, request, error)
        cause = cause_of(error)
        if cause is None:
            raise error
        _report(request, error, cause)
        headers = {} if cause.retry_after is None else {"Retry-After": str(cause.retry_after)}
        return problem(cause, headers)

    def _applications_own(self, error: Exception) -> _compat.Handler | None:
        # Starlette takes the handler of the nearest class, ours; one for SQLAlchemyError would never be asked.
        return _compat.handler_for(self._app, error, ignoring=ProblemHandler)


def _report(request: Request, error: Exception, cause: Cause) -> None:
    log.log(
        logging.WARNING if cause.status < 500 else logging.ERROR,
        "%s %s: %s (%s)",
        request.method,
        request.url.path,
        cause.name,
        type(getattr(error, "orig", error)).__name__,
    )


def problem(cause: Cause, headers: dict[str, str] | None = None) -> Response:
    """Return the response for a cause."""
    body = {"type": f"urn:sessionlocal:{cause.name}", "title": cause.title, "status": cause.status}
    return JSONResponse(body, status_code=cause.status, headers=headers, media_type=MEDIA_TYPE)
