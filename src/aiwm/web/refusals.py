"""What FastAPI and Starlette refuse by themselves, as errors of ours."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from aiwm.errors import AiwmError, Invalid, MethodNotAllowed, NotFound
from aiwm.web.errors import render


def install(app: FastAPI) -> None:
    """What FastAPI and Starlette raise by themselves joins our tree; all of it is rendered by `render`."""
    app.add_exception_handler(AiwmError, _answer)
    app.add_exception_handler(RequestValidationError, lambda request, exc: _answer(request, _from_validation(exc)))
    app.add_exception_handler(HTTPException, lambda request, exc: _answer(request, _from_starlette(request, exc)))
    # Starlette answers with this and raises on: `front` logs the exception.
    app.add_exception_handler(Exception, lambda request, _: _answer(request, AiwmError()))


def _answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, AiwmError)  # noqa: S101 - narrows the handler's type; Starlette dispatches by class
    facts = request.scope["aiwm"]
    status, headers, body = render(error, path=request.scope["path"], correlation_id=facts.correlation_id)
    response = Response(body, status)
    response.raw_headers = headers
    return response


def _from_validation(error: Exception) -> AiwmError:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    return Invalid(validation_texts(error.errors(), body=error.body))


def validation_texts(errors: Sequence[Any], *, body: object = None) -> list[str]:
    """One text for each problem, `field: what is wrong`, without the value: it may be a secret."""
    return [f"{_field(error, body)}: {_wrong(error)}" for error in errors]


_TEXTS = {
    "extra_forbidden": "is not a field of this request",
    "missing": "is required",
    "json_invalid": "is not JSON",
    "model_attributes_type": "must be a JSON object",
    "union_tag_not_found": "is required",
}
_LONGEST_NAME = 100


def _wrong(error: Any) -> str:
    if error["type"] == "union_tag_invalid":
        return f"must be one of {error['ctx']['expected_tags']}"
    return _TEXTS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")


def _field(error: Any, body: object) -> str:
    """`body.apiConfig.apiKey` is said as `apiConfig.apiKey`; what has no name is called the body."""
    loc = error["loc"]
    if error["type"].startswith("union_tag"):
        # Pydantic writes "'deployment_type' | 'deploymentType'"; callers know the last.
        return str(error["ctx"]["discriminator"]).split("'")[-2]
    if len(loc) > 2 and isinstance(body, dict) and not isinstance(body.get(loc[1]), dict | list):
        # Nothing can be wrong within it, so it is no field but the kind of body that this was taken for.
        loc = (loc[0], *loc[2:])
    names = [str(part)[:_LONGEST_NAME] for part in loc[1:] if not isinstance(part, int) or len(loc) > 2]
    return ".".join(names) or str(loc[0] if loc else "body")


def _from_starlette(request: Request, error: Exception) -> AiwmError:
    assert isinstance(error, HTTPException)  # noqa: S101
    if error.status_code == HTTPStatus.NOT_FOUND:
        return NotFound(f"Cannot {request.method} {request.url.path}: there is no such path; GET /docs lists them all")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        return MethodNotAllowed(
            f"{request.method} is not possible on {request.url.path}; allowed: {allowed}", headers={"allow": allowed}
        )
    return Invalid(str(error.detail))


_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _allowed(request: Request) -> str:
    """Of all routes with this path: Starlette names the methods of the first one only."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes = request.app.routes
    return ", ".join(
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    )
