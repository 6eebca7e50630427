"""What `aiwm serve --demo` adds: a model and a running deployment for each dialect, in front of the simulated provider.

Starting it again finds what is there and makes nothing twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiwm.app import Program
from aiwm.control.deployments import NewDeployment
from aiwm.control.models import NewModel
from aiwm.domain.deployments import Deployment, DeploymentStatus
from aiwm.domain.ids import new_id
from aiwm.domain.models import DeploymentType, ModelType, Scope
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal, User, highest_rank
from aiwm.errors import StartError
from aiwm.providers import registry

ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    provider: str
    name: str
    model: str


DIALECTS = (
    Dialect(provider="openai", name="Demo OpenAI", model="gpt-4o-mini"),
    Dialect(provider="anthropic", name="Demo Anthropic", model="claude-sonnet-5-5"),
    Dialect(provider="google", name="Demo Google", model="gemini-2.5-flash"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    token: str
    deployments: tuple[tuple[Dialect, Deployment], ...]


async def prepare(program: Program, simulator_url: str) -> Demo:
    """Raises StartError when there is nobody to make it for."""
    admin = None if program.signer is None else await program.users.by_username(ADMIN)
    if program.signer is None or admin is None:
        raise StartError(f"--demo needs the embedded IAM and its user '{ADMIN}': unset AIWM_JWKS_URL")
    principal = _acting(admin)
    deployments = [(dialect, await _deployment(program, principal, dialect, simulator_url)) for dialect in DIALECTS]
    return Demo(token=program.signer.sign(admin, new_id()), deployments=tuple(deployments))


def curl_line(public_url: str, demo: Demo, dialect: Dialect, deployment: Deployment) -> str:
    """A command that can be pasted into a shell as it is."""
    provider = registry.provider(dialect.provider)
    path = provider.example_path.replace("{model}", dialect.model)
    return (
        f"curl {public_url}/deployments/{deployment.id}/inference/{path} "
        f"-H 'Authorization: Bearer {demo.token}' -H 'Content-Type: application/json' "
        f"-d '{json.dumps(provider.example_body)}'"
    )


async def _deployment(program: Program, principal: Principal, dialect: Dialect, simulator_url: str) -> Deployment:
    found = await program.deployments.list(principal, PageQuery(limit=100, search=dialect.name))
    for deployment in found.items:
        if deployment.name == dialect.name:
            await _point_at(program, principal, deployment.model_id, simulator_url)
            if deployment.status is DeploymentStatus.RUNNING:
                return deployment
            return await program.deployments.start(principal, deployment.id)
    model = await program.models.create(
        principal,
        NewModel(
            name=dialect.name,
            type=ModelType.LLM,
            description="Answered by the simulated provider: no key, no cost",
            deployment_type=DeploymentType.API_BASED,
            scope=Scope.ORG,
            provider=dialect.provider,
            api_endpoint=simulator_url,
            model_identifier=dialect.model,
            api_config={"apiKey": f"simulated-key-for-{dialect.provider}"},
        ),
    )
    return await program.deployments.create(
        principal,
        NewDeployment(name=dialect.name, description="Made by aiwm serve --demo", model_id=model.id),
    )


async def _point_at(program: Program, principal: Principal, model_id: str, simulator_url: str) -> None:
    """The simulator may have another port than last time."""
    model = await program.models.get(principal, model_id)
    if model.api_endpoint != simulator_url:
        config = {"apiKey": f"simulated-key-for-{model.provider}"}
        await program.models.change(principal, model_id, {"api_endpoint": simulator_url, "api_config": config})


def _acting(user: User) -> Principal:
    return Principal(
        user_id=user.id,
        username=user.username,
        org_id=user.org_id,
        roles=user.roles,
        session="",
        issued_at=0,
        expires_at=0,
        home_org_id=user.org_id,
        rank=highest_rank(user.roles),
    )
