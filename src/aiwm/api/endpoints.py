"""What a caller needs to call a deployment: `endpoint` in a deployment's answer."""

from __future__ import annotations

from typing import Any

from aiwm.domain.deployments import Deployment
from aiwm.providers import registry


def endpoint_json(public_url: str, deployment: Deployment, dialect: str, model: str) -> dict[str, Any]:
    """`dialect` is the provider whose API it speaks, `model` what that calls the model."""
    provider = registry.provider(dialect)
    path = provider.example_path.replace("{model}", model)
    base = f"{public_url}/deployments/{deployment.id}/inference"
    return {
        "url": f"{base}/{path}",
        "headers": {"Authorization": "Bearer <your access token>", "Content-Type": "application/json"},
        "body": dict(provider.example_body),
        "description": (
            f"Send what {provider.name}'s own API takes to {base}/... with your AIWM token: AIWM puts in the "
            "provider's key, and the model where the request names none."
        ),
    }
