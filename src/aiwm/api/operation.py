"""For those who run AIWM: is it alive, is it ready, what can it do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.responses import HTMLResponse, Response

from aiwm.errors import Unavailable
from aiwm.web.schemas import problems

Check = Callable[[], Awaitable[None]]
"""Raises Unavailable, with what is wrong."""

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


def health(checks: Mapping[str, Check]) -> APIRouter:
    """`checks` by name: what must hold for the program to take requests."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", responses=problems(503))
    async def readyz() -> dict[str, Any]:
        """Whether requests can be served: database, migrations, ledger, not draining. 503 says what is wrong."""
        for name, check in checks.items():
            try:
                await check()
            except Unavailable as error:
                raise Unavailable(f"{name}: {error}") from error
        return {"status": "ready", "checks": dict.fromkeys(checks, "ok")}

    return routes


def docs(app: FastAPI) -> APIRouter:
    """The OpenAPI page from our own files: it works on a machine that reaches nothing else."""
    routes = APIRouter(include_in_schema=False)
    page = _PAGE.format(title=app.title)
    folder = files("aiwm.api") / "swagger"

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
