"""The whole URL table of AIWM. Inference is not in it: the proxy stands in front of it, below no middleware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter, FastAPI

from aiwm import __version__
from aiwm.api import deployments, models, operation
from aiwm.control.deployments import Deployments
from aiwm.control.models import Models
from aiwm.web import errors
from aiwm.web.principals import Authenticate

DESCRIPTION = """One door to every model. Register a provider's model, deploy it, and send what the provider's own API
takes to `/deployments/{id}/inference/...` with your AIWM token."""


def application(
    *,
    models_: Models,
    deployments_: Deployments,
    authenticate: Authenticate,
    checks: Mapping[str, operation.Check],
    public_url: str,
    also: Sequence[APIRouter] = (),
) -> FastAPI:
    """`also` are routers of other rooms that are served on this port too."""
    app = FastAPI(
        title="AIWM",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    errors.install(app)
    app.include_router(operation.health(checks))
    app.include_router(operation.docs(app))
    for router in also:
        app.include_router(router)
    app.include_router(models.router(models_, authenticate))
    app.include_router(deployments.router(deployments_, authenticate, public_url=public_url))
    app.include_router(inference_documentation())
    return app


def inference_documentation() -> APIRouter:
    """Inference in the OpenAPI page. The proxy answers before this route is reached."""
    routes = APIRouter(tags=["inference"])

    @routes.post("/deployments/{id}/inference/{path:path}", summary="Call a deployed model")
    async def infer(id: str, path: str) -> None:  # noqa: A002, ARG001
        """Any method, any path and body of the provider's own API; the answer is the provider's, byte for byte."""
        raise AssertionError("the proxy stands in front of this route")

    return routes
