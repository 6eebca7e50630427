"""For those who run AIWM: is it alive, is it ready, what can it do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from aiwm.errors import Unavailable
from aiwm.web.schemas import Answer, problems

Check = Callable[[], Awaitable[None]]
"""Raises Unavailable, with what is wrong."""


class Health(Answer):
    status: str


class Readiness(Answer):
    status: str
    checks: dict[str, str]


def router(checks: Mapping[str, Check], metrics: Callable[[], Awaitable[bytes]]) -> APIRouter:
    """`checks` by name: what must hold for the program to take requests. `metrics` gives the text for Prometheus."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz", response_model=None, responses={200: {"model": Health}})
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=None, responses={200: {"model": Readiness}, **problems(503)})
    async def readyz() -> dict[str, Any]:
        """Whether requests can be served: database, migrations, ledger, not draining. 503 says what is wrong."""
        for name, check in checks.items():
            try:
                await check()
            except Unavailable as error:
                raise Unavailable(f"{name}: {error}") from error
        return {"status": "ready", "checks": dict.fromkeys(checks, "ok")}

    @routes.get("/metrics", response_class=PlainTextResponse)
    async def read_metrics() -> Response:
        """For Prometheus: sums over all tenants, by provider."""
        return Response(await metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
