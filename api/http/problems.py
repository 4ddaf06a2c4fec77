"""Problems as HTTP tells them: `application/problem+json` (RFC 9457) with the same stable codes as the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from api.problem import Problem
from reconciler.store.errors import StoreError

MEDIA_TYPE: Final = "application/problem+json"
OTHERWISE: Final = 500
STATUS: Final[Mapping[str, int]] = {
    "BAD_ARGUMENT": 422,
    "BAD_REQUEST": 400,
    "BAD_HOST": 421,
    "TOO_DEEP": 400,
    "UNKNOWN_COMMAND": 404,
    "NO_ROUTE": 404,
    "METHOD_NOT_ALLOWED": 405,
    "TIMED_OUT": 504,
    "SLOW_REQUEST": 408,
    "BODY_TOO_LARGE": 413,
    "WRONG_TYPE": 415,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "TLS_REQUIRED": 403,
    "BAD_PASSWORD": 422,
    "NO_LOGIN": 404,
    "NO_PROVIDER": 404,
    "NO_USER": 404,
    "NO_TOKEN": 404,
    "NO_AGENT": 404,
    "NO_AUTHORITY": 404,
    "AGENT_LOCKED": 409,
    "TARGET_TAKEN": 409,
    "AUTHORITY_IN_USE": 409,
    "ROOT_OFFLINE": 409,
    "NO_AGENTS": 404,
    "NO_SIGNER": 409,
    "NOT_ROTATING": 409,
    "NAME_TAKEN": 409,
    "TOO_MANY_REQUESTS": 429,
    "TOO_MANY_STREAMS": 429,
    "CROWDED": 503,
    "IDEMPOTENCY_DIFFERS": 422,
    "NO_ENVIRONMENT": 404,
    "NO_TARGET": 404,
    "NO_COMPONENT": 404,
    "NO_JOB": 404,
    "NO_TASK": 404,
    "NO_EVIDENCE": 404,
    "NO_RELEASE": 404,
    "NO_LOGS": 404,
    "NO_FILE": 404,
    "NO_ARTIFACT": 404,
    "NO_SOURCE": 404,
    "NO_DATABASE_SOURCE": 404,
    "NO_DOCUMENT": 404,
    "OWNED_ELSEWHERE": 409,
    "BAD_CHECKPOINT": 422,
    "MISSING": 404,
    "JOB_ACTIVE": 409,
    "JOB_OVER": 409,
    "PLAN_MOVED": 409,
    "REMOVAL_MOVED": 409,
    "WORLD_MOVED": 409,
    "HELD_ELSEWHERE": 409,
    "NOTHING_BEFORE": 409,
    "STALE": 409,
    "CONFLICT": 409,
    "EXISTS": 409,
    "RELEASE_DIFFERS": 409,
    "FINDINGS": 422,
    "REFUSED": 422,
    "INVALID_ACTION": 422,
    "NOT_ALLOWED": 403,
    "BUSY": 503,
    "UNREACHABLE": 503,
    "RETRYABLE": 503,
    "STORE_UNAVAILABLE": 503,
    "COMMIT_UNKNOWN": 503,
    "LOST_LEASE": 503,
    "DRAINING": 503,
}
RETRY_AFTER: Final = 1  # seconds; what is said with 429 and 503 where nobody knows better
_OF_HTTP: Final = {404: "NO_ROUTE", 405: "METHOD_NOT_ALLOWED", 413: "BODY_TOO_LARGE", 415: "WRONG_TYPE"}


def status_of(problem: Problem) -> int:
    return STATUS.get(problem.code, OTHERWISE)


def document(problem: Problem) -> dict[str, Any]:
    """The problem as RFC 9457 has it, beside what the command line reads of it."""
    status = status_of(problem)
    name = problem.code.lower().replace("_", "-")
    return {
        "type": f"urn:holdfast:problem:{name}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        **problem.document(),
    }


def response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    status = status_of(problem)
    more = dict(headers or {})
    if status == 401:
        more.setdefault("WWW-Authenticate", "Bearer")
    if status in (429, 503):
        more.setdefault("Retry-After", str(problem.extra.get("retry_after", RETRY_AFTER)))
    body = json.dumps(document(problem), default=str, ensure_ascii=False).encode(errors="replace")
    return Response(body, status, more, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Every way in which a request may go wrong ends in the one shape."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(StoreError, _of_the_store)
    app.add_exception_handler(Exception, _broken)


def broken(error: Exception, where: str) -> Problem:
    """A programming error: told to the log with its place, to the client without."""
    structlog.get_logger().error("request_failed", where=where, exc_info=error)
    return Problem("INTERNAL", f"the daemon failed at this ({type(error).__name__}); its log says where")


def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return response(error)


def _of_the_store(request: Request, error: Exception) -> Response:
    assert isinstance(error, StoreError)
    return response(Problem(error.code, str(error)))


def _broken(request: Request, error: Exception) -> Response:
    return response(broken(error, request.url.path))


def _invalid(request: Request, error: Exception) -> Response:
    """What is wrong with each field, without what was sent: that may be a secret."""
    assert isinstance(error, RequestValidationError)
    findings = [{"field": _field(each["loc"]), "what": str(each["msg"])[:200]} for each in error.errors()[:20]]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return response(Problem("BAD_REQUEST", "the request body is not JSON"))
    first = findings[0]
    return response(Problem("BAD_ARGUMENT", f"{first['field']}: {first['what']}", findings=findings))


def _field(location: Sequence[int | str]) -> str:
    named = location[1:] if location and location[0] in ("path", "query", "body", "header", "cookie") else location
    return ".".join(str(part)[:60] for part in named) or "the request body"


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _OF_HTTP.get(error.status_code, "BAD_REQUEST" if error.status_code < 500 else "INTERNAL")
    said = {"NO_ROUTE": "there is nothing at this address", "METHOD_NOT_ALLOWED": "this address takes other methods"}
    return response(Problem(code, said.get(code, str(error.detail)[:200])), error.headers)
