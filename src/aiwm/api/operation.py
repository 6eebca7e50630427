"""For those who run AIWM: is it alive, is it ready, what can it do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter

from aiwm.errors import Unavailable
from aiwm.web.schemas import problems

Check = Callable[[], Awaitable[None]]
"""Raises Unavailable, with what is wrong."""


def health(checks: Mapping[str, Check]) -> APIRouter:
    """`checks` by name: what must hold for the program to take requests."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/healthz", response_model=None)
    async def healthz() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz", response_model=None, responses=problems(503))
    async def readyz() -> dict[str, Any]:
        """Whether requests can be served: database, migrations, ledger, not draining. 503 says what is wrong."""
        for name, check in checks.items():
            try:
                await check()
            except Unavailable as error:
                raise Unavailable(f"{name}: {error}") from error
        return {"status": "ready", "checks": dict.fromkeys(checks, "ok")}

    return routes
