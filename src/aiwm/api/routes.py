"""The URL table of AIWM.

| Path                             | In               |
|----------------------------------|------------------|
| /healthz, /readyz, /metrics      | `operation.py`   |
| /models                          | `models.py`      |
| /deployments                     | `deployments.py` |
| /nodes                           | `nodes.py`       |
| /resources                       | `resources.py`   |
| /api-keys                        | `api_keys.py`    |
| /limits                          | `limits.py`      |
| /audit                           | `audit.py`       |
| /usage                           | `usage.py`       |
| /deployments/{id}/inference/...  | `aiwm.proxy`, which stands in front of this table; here it is only documented |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from fastapi import APIRouter

from aiwm.api import api_keys, audit, deployments, limits, models, nodes, operation, resources, usage
from aiwm.control.api_keys import ApiKeys
from aiwm.control.deployments import Deployments
from aiwm.control.limits import Limits
from aiwm.control.models import Models
from aiwm.control.nodes import Nodes
from aiwm.control.usage import UsageReports
from aiwm.domain.times import Clock
from aiwm.store.audit import AuditStore
from aiwm.web.principals import Tokens
from aiwm.web.schemas import problems


def api_routes(
    *,
    model_verbs: Models,
    deployment_verbs: Deployments,
    node_verbs: Nodes,
    api_key_verbs: ApiKeys,
    limit_verbs: Limits,
    usage_reports: UsageReports,
    audit_log: AuditStore,
    tokens: Tokens,
    checks: Mapping[str, operation.Check],
    metrics: Callable[[], Awaitable[bytes]],
    draining: Callable[[], bool],
    public_url: str,
    clock: Clock,
) -> Sequence[APIRouter]:
    # Side by side: a router around them would be one more layer to make, and for each request to pass.
    return [
        operation.router(checks, metrics),
        models.router(model_verbs, tokens),
        deployments.router(deployment_verbs, tokens, public_url=public_url, draining=draining),
        nodes.router(node_verbs, tokens),
        resources.router(node_verbs, tokens),
        api_keys.router(api_key_verbs, tokens),
        limits.router(limit_verbs, tokens),
        usage.router(usage_reports, tokens, clock),
        audit.router(audit_log, tokens),
        _inference(),
    ]


def _inference() -> APIRouter:
    router = APIRouter(tags=["inference"])

    @router.post(
        "/deployments/{id}/inference/{path:path}",
        summary="Call a deployed model",
        responses=problems(400, 401, 403, 404, 413, 429, 502, 504),
        openapi_extra={"security": [{"HTTPBearer": []}]},
    )
    async def infer(id: str, path: str) -> None:  # noqa: A002, ARG001
        """Any method, any path and body of the provider's own API; the answer is the provider's, byte for byte."""
        raise AssertionError("the proxy stands in front of this route")

    return router
