"""A FastAPI application as AIWM and the embedded IAM both are: our errors, and an API page of our own files."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Sequence
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic.warnings import UnsupportedFieldAttributeWarning
from starlette.responses import HTMLResponse, Response

from aiwm import __version__
from aiwm.web import refusals
from aiwm.web.schemas import ID_PATTERN, PROBLEM, Problem

# FastAPI silences it for as long as it makes a field, and another one while it answers. What it sets for that is all
# threads' own: an answer while an application is made on another thread would bring the warning back. With a message
# it is another filter than FastAPI's, and stays when that one goes.
warnings.filterwarnings("ignore", message=".", category=UnsupportedFieldAttributeWarning)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""

_START = b"""SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  docExpansion: "list",
});
"""

_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}


def application(*, title: str, description: str, routers: Sequence[APIRouter]) -> FastAPI:
    app = FastAPI(
        title=title,
        version=__version__,
        description=description,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Also keeps FastAPI from promising its own 422, which nobody here answers.
        responses={
            "default": {
                "content": {"application/json": {"schema": PROBLEM}},
                "description": "Every error of ours has this shape",
            }
        },
    )
    refusals.install(app)
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    for router in (*routers, _docs(title)):
        app.include_router(router)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the form of errors, which routes only name, and that of ids: a route takes any text
    for one, to say itself what is wrong."""
    if app.openapi_schema is None:
        described = FastAPI.openapi(app)
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema(mode="serialization")
        for operations in described["paths"].values():
            for operation in operations.values():
                for parameter in operation.get("parameters", ()):
                    if (parameter["name"], parameter["in"]) == ("id", "path"):
                        parameter["schema"]["pattern"] = ID_PATTERN
    assert app.openapi_schema is not None  # noqa: S101 - FastAPI keeps what it made
    return app.openapi_schema


def _docs(title: str) -> APIRouter:
    """The OpenAPI page from our own files: it works on a machine that reaches nothing else."""
    routes = APIRouter(include_in_schema=False)
    page = _PAGE.format(title=title)
    folder = files("aiwm.web") / "swagger"

    @routes.get("/docs")
    async def documentation() -> Response:
        return HTMLResponse(page)

    @routes.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    for name, media_type in _FILES.items():
        routes.add_api_route(f"/docs/{name}", _file(folder / name, media_type))
    return routes


def _file(source: Any, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(source.read_bytes(), media_type=media_type, headers={"cache-control": "max-age=86400"})

    return answer
