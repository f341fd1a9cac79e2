"""Database errors as answers: ``application/problem+json`` (RFC 9457) that says what the client can do, and nothing of
the database."""

from __future__ import annotations

import logging

from sqlalchemy.exc import DBAPIError, TimeoutError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..causes import Cause, cause_of
from ..errors import CommitUnknown

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
UNEXPECTED = Cause("internal-error", 500, "Internal Server Error")


def add_handlers(app: Starlette) -> None:
    """Answer database errors, unless the application has a handler for the same class already."""
    for kind in (DBAPIError, TimeoutError, CommitUnknown):
        app.exception_handlers.setdefault(kind, answer)


async def answer(request: Request, error: Exception) -> Response:
    """Render a database error. What the table does not know is a bug: it goes on to the server's own 500, with its
    traceback."""
    cause = cause_of(error)
    if cause is None:
        raise error
    log.log(
        logging.WARNING if cause.status < 500 else logging.ERROR,
        "%s %s: %s (%s)",
        request.method,
        request.url.path,
        cause.name,
        type(getattr(error, "orig", error)).__name__,
    )
    headers = {} if cause.retry_after is None else {"Retry-After": str(cause.retry_after)}
    return problem(cause, headers)


def problem(cause: Cause, headers: dict[str, str] | None = None) -> Response:
    """Return the response for a cause."""
    body = {"type": f"urn:sessionlocal:{cause.name}", "title": cause.title, "status": cause.status}
    return JSONResponse(body, status_code=cause.status, headers=headers, media_type=MEDIA_TYPE)
