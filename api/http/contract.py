"""The contract of the API: OpenAPI, made from the routes, with the one problem shape and the header that repeats."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from api.house import House
from api.http import problems, shapes
from api.http.guard import Known, Open, guards, open_to_all
from api.http.routes.words import PREFIX

PATH: Final = f"{PREFIX}/openapi.json"
KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Repeated with the same key, the request has its first answer and makes nothing new.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[ -~]+$"},
}
ALWAYS: Final = (400, 401, 403, 404, 408, 421, 422, 429, 500, 503, 504)
POSTED: Final = (409, 413)
REPEATED: Final = frozenset({"acts", "jobs"})  # tags of what answers a repeated key with its first answer


def router(house: House) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get(PATH, dependencies=[open_to_all("what may be asked is no secret")])
    async def openapi(request: Request) -> Response:
        body, mark = _written(request.app)
        if request.headers.get("if-none-match") == mark:
            return Response(status_code=304, headers={"ETag": mark})
        return Response(body, media_type="application/json", headers={"ETag": mark, "Cache-Control": "no-cache"})

    return router


def _written(app: FastAPI) -> tuple[bytes, str]:
    found: tuple[bytes, str] | None = getattr(app.state, "contract", None)
    if found is None:
        body = json.dumps(document(app), sort_keys=True).encode()
        found = app.state.contract = (body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
    return found


def document(app: FastAPI) -> dict[str, Any]:
    described = "Holds hosts fast to the release that was declared for them. Errors are `application/problem+json`."
    routes = [route for route in app.routes if isinstance(route, APIRoute) and route.path.startswith(PREFIX)]
    made = get_openapi(title="Holdfast", version=app.version, description=described, routes=routes)
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = shapes.Problem.model_json_schema()
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for route in routes:
        for method in route.methods or ():
            operation = made["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                _complete(operation, route, method)
    return made


def _complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    """What every operation has: its problems, its verb, and for what acts the header that repeats."""
    answers = operation.setdefault("responses", {})
    codes = (*ALWAYS, *(POSTED if method in ("POST", "DELETE") else ()))
    for status in codes:
        answers[str(status)] = _problem(status)
    guard = next(guards(route))
    if isinstance(guard, Open):
        return
    operation["security"] = [{"token": []}]
    operation["x-holdfast-verb"] = "any" if isinstance(guard, Known) else guard.verb.value
    if method == "POST" and REPEATED & set(route.tags):
        operation.setdefault("parameters", []).append(KEY)
    if method == "GET":
        answers["304"] = {"description": "Unchanged since the `ETag` that was sent"}


def _problem(status: int) -> dict[str, Any]:
    codes = sorted(code for code, known in problems.STATUS.items() if known == status)
    said = f"A problem: {', '.join(codes)}" if codes else "A problem"
    return {
        "description": said,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
