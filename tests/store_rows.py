"""Rows for tests of the store: whole, valid, and different from each other only where a test says so."""

from __future__ import annotations

import itertools
from typing import Any

from aiwm.domain.deployments import Deployment, DeploymentStatus
from aiwm.domain.ids import new_id
from aiwm.domain.models import DeploymentType, Model, ModelStatus, ModelType, Scope, Sealed
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.domain.users import Principal, Role, highest_rank

_later = itertools.count(1_763_888_000_000)


def principal(user: str = "mai", org: str = "red", *roles: Role) -> Principal:
    """An editor unless told otherwise."""
    given = roles or (Role.EDITOR,)
    return Principal(
        user_id=user,
        username=user,
        org_id=org,
        roles=given,
        session="",
        issued_at=0,
        expires_at=0,
        home_org_id=org,
        rank=highest_rank(given),
    )


def model(**changes: Any) -> Model:
    """Each is a millisecond younger than the one before."""
    at = next(_later)
    fields = {
        "id": new_id(),
        "org_id": "red",
        "user_id": "mai",
        "name": "GPT-4",
        "type": ModelType.LLM,
        "description": "",
        "deployment_type": DeploymentType.API_BASED,
        "scope": Scope.ORG,
        "status": ModelStatus.ACTIVE,
        "provider": "openai",
        "api_endpoint": "https://api.openai.com",
        "model_identifier": "gpt-4",
        "api_config": {"apiKey": Sealed("token", "sk-p…9xQ2"), "organization": "org"},
        "created_by": "mai",
        "updated_by": "mai",
        "created_at": at,
        "updated_at": at,
    }
    return Model(**fields | changes)


def deployment(of: Model, **changes: Any) -> Deployment:
    at = next(_later)
    fields = {
        "id": new_id(),
        "org_id": of.org_id,
        "user_id": "mai",
        "name": "Chat",
        "description": "",
        "model_id": of.id,
        "status": DeploymentStatus.RUNNING,
        "created_by": "mai",
        "updated_by": "mai",
        "created_at": at,
        "updated_at": at,
    }
    return Deployment(**fields | changes)


def usage_row(deployment_id: str, **changes: Any) -> UsageRow:
    """A complete answer of 10 tokens."""
    fields = {
        "request_id": new_id(),
        "correlation_id": "c",
        "org_id": "red",
        "user_id": "mai",
        "deployment_id": deployment_id,
        "model_id": "a" * 24,
        "provider": "openai",
        "provider_request_id": "req_1",
        "model_asked": "gpt-4",
        "model_answered": "gpt-4-0613",
        "status": 200,
        "streamed": False,
        "started_at": next(_later),
        "first_byte_ms": 5,
        "total_ms": 9,
        "end": End.COMPLETE,
        "source": Source.PROVIDER,
        "usage": Usage(input_tokens=7, output_tokens=3),
        "raw_usage": '{"prompt_tokens":7,"completion_tokens":3}',
    }
    return UsageRow(**fields | changes)
