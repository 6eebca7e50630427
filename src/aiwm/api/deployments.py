"""Deployments over HTTP."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AfterValidator, Field, StrictInt
from starlette.responses import Response, StreamingResponse

from aiwm.api.endpoints import endpoint_json
from aiwm.control.deployments import Deployments, NewDeployment
from aiwm.domain.deployments import Deployment, DeploymentStatus, OnDisconnect, StreamUsage
from aiwm.domain.ids import checked_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal
from aiwm.store.deployments import FIELDS, SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Description, Id, Line, Name, changes, deleted, history, problems

_AllowedModels = Annotated[
    list[Annotated[Line, Field(min_length=1, max_length=200)]], Field(min_length=1, max_length=100)
]


_LONGEST_NAME, _LONGEST_VALUE, _LARGEST = 100, 200, 1 << 53


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    """Each value by itself; whether the engine knows it is said later, by its kind."""
    for name, value in arguments.items():
        if len(name) > _LONGEST_NAME:
            raise ValueError(f"a name has at most {_LONGEST_NAME} characters")
        is_plain = isinstance(value, bool | int | float | str) and len(str(value)) <= _LONGEST_VALUE
        if not is_plain or (isinstance(value, int) and abs(value) > _LARGEST):
            raise ValueError(
                f"{name}: must be true or false, a number, or a text of at most {_LONGEST_VALUE} characters"
            )
    return arguments


_Arguments = Annotated[
    dict[str, Any],
    Field(max_length=50, json_schema_extra={"additionalProperties": {"type": ["boolean", "number", "string"]}}),
    AfterValidator(_plain),
]
_Replicas = Annotated[StrictInt, Field(ge=1, le=64)]
_IdleTimeout = Annotated[StrictInt, Field(ge=1, le=30 * 86_400)]


class NewDeploymentBody(Body):
    name: Name
    description: Description = ""
    model_id: Id
    node_id: Id | None = None
    resource_id: Id | None = None
    allowed_models: _AllowedModels | None = None
    """Models that callers may ask for besides the deployed one. Without it they may ask for any of the provider's."""
    arguments: _Arguments = Field(default_factory=dict)
    """What the engine of a self-hosted model is told besides; each kind of engine has a list of what may be set."""
    replicas: _Replicas = 1
    """How many engines share the requests of a self-hosted model."""
    idle_timeout: _IdleTimeout | None = None
    """Seconds without a request after which the engines are stopped. The next request starts them, and waits."""
    stream_usage: StreamUsage = StreamUsage.INJECT
    """`inject`: a stream is always made to report its usage, and the caller sees that only if it asked for it."""
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    """When a caller leaves: `cancel` the call to the provider, or `drain` its answer to the end to count it."""


class DeploymentChange(Body):
    """Fields that are left out stay as they are; `allowedModels: null` allows every model again.

    Engines that run otherwise than they should now are replaced one after the other, while requests go on."""

    name: Name | None = None
    description: Description | None = None
    allowed_models: _AllowedModels | None = None
    arguments: _Arguments | None = None
    replicas: _Replicas | None = None
    idle_timeout: _IdleTimeout | None = None
    stream_usage: StreamUsage | None = None
    on_disconnect: OnDisconnect | None = None


class DeploymentAnswer(Answer):
    id: str = Field(alias="_id")
    name: str
    description: str
    model_id: str
    node_id: str | None = None
    resource_id: str | None = None
    allowed_models: list[str] | None = None
    arguments: dict[str, Any] | None = None
    replicas: int | None = None
    idle_timeout: int | None = None
    stream_usage: StreamUsage
    on_disconnect: OnDisconnect
    status: DeploymentStatus
    error_message: str | None = None
    request_count: int
    total_tokens: int
    total_cost: float | None
    unpriced_requests: int | None = None
    """How many requests `totalCost` leaves out because nobody knows what they cost."""
    endpoint: dict[str, Any] | None = None
    owner: dict[str, str]
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class DeploymentPage(Answer):
    data: list[DeploymentAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def deployment_json(deployment: Deployment) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "_id": deployment.id,
        "name": deployment.name,
        "description": deployment.description,
        "modelId": deployment.model_id,
        "streamUsage": deployment.stream_usage,
        "onDisconnect": deployment.on_disconnect,
        "status": deployment.status,
        "requestCount": deployment.totals.requests,
        "totalTokens": deployment.totals.tokens,
        "totalCost": deployment.totals.known_cost,
    }
    optional: dict[str, Any] = {
        "unpricedRequests": deployment.totals.unpriced or None,
        "nodeId": deployment.node_id,
        "resourceId": deployment.resource_id,
        "errorMessage": deployment.error_message,
        "allowedModels": None if deployment.allowed_models is None else list(deployment.allowed_models),
    }
    if deployment.is_hosted:
        optional |= {
            "arguments": dict(deployment.arguments),
            "replicas": deployment.replicas,
            "idleTimeout": deployment.idle_timeout,
        }
    shown |= {name: value for name, value in optional.items() if value is not None}
    return {**shown, "owner": {"orgId": deployment.org_id, "userId": deployment.user_id}, **history(deployment)}


def _given(body: DeploymentChange) -> dict[str, Any]:
    given = changes(body, nullable={"allowed_models", "idle_timeout"})
    if given.get("allowed_models") is not None:
        given["allowed_models"] = tuple(given["allowed_models"])
    return given


def router(deployments: Deployments, tokens: Tokens, *, public_url: str, draining: Callable[[], bool]) -> APIRouter:
    routes = APIRouter(prefix="/deployments", tags=["deployments"])
    listed = {"fields": tuple(FIELDS), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post(
        "",
        response_model=None,
        status_code=201,
        responses={201: {"model": DeploymentAnswer}, **problems(400, 401, 403)},
    )
    async def create_deployment(body: NewDeploymentBody, principal: caller) -> dict[str, Any]:
        """Make a model callable."""
        allowed = body.allowed_models
        new = NewDeployment(
            name=body.name,
            description=body.description,
            model_id=body.model_id,
            node_id=body.node_id,
            resource_id=body.resource_id,
            allowed_models=None if allowed is None else tuple(allowed),
            arguments=body.arguments,
            replicas=body.replicas,
            idle_timeout=body.idle_timeout,
            stream_usage=body.stream_usage,
            on_disconnect=body.on_disconnect,
        )
        return deployment_json(await deployments.create(principal, new))

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": DeploymentPage}, **problems(400, 401)},
        openapi_extra=parameters(**listed),
    )
    async def list_deployments(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List your organization's deployments with what they were used, newest first."""
        return page_json(query, await deployments.list(principal, query), deployment_json)

    @routes.get("/{id}", response_model=None, responses={200: {"model": DeploymentAnswer}, **problems(400, 401, 404)})
    async def get_deployment(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - the guide's name for it
        """Get a deployment: how to call it, and what it was used. An answer that has ended is counted."""
        deployment = await deployments.get(principal, checked_id(id, "Deployment"))
        model = await deployments.model_of(deployment)
        shown = deployment_json(deployment)
        if model is not None and (model.is_api_based or deployment.is_hosted):
            shown["endpoint"] = endpoint_json(public_url, deployment, *deployments.dialect(model))
        return shown

    @routes.put(
        "/{id}", response_model=None, responses={200: {"model": DeploymentAnswer}, **problems(400, 401, 403, 404, 409)}
    )
    async def change_deployment(id: str, body: DeploymentChange, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Change a deployment: its words, its allowed models, or what becomes of streams and of callers who leave."""
        return deployment_json(await deployments.change(principal, checked_id(id, "Deployment"), _given(body)))

    @routes.delete(
        "/{id}", response_model=None, responses={200: {"model": Deleted}, **problems(400, 401, 403, 404, 409)}
    )
    async def delete_deployment(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Delete a deployment that does not run. Its usage stays in the ledger."""
        deployment_id = checked_id(id, "Deployment")
        return deleted(deployment_id, await deployments.delete(principal, deployment_id))

    @routes.post(
        "/{id}/start",
        response_model=None,
        responses={200: {"model": DeploymentAnswer}, **problems(400, 401, 403, 404, 409)},
    )
    async def start_deployment(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Let a stopped deployment take requests again."""
        return deployment_json(await deployments.start(principal, checked_id(id, "Deployment")))

    @routes.post(
        "/{id}/stop",
        response_model=None,
        responses={200: {"model": DeploymentAnswer}, **problems(400, 401, 403, 404, 409)},
    )
    async def stop_deployment(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Take no more requests; those that run are finished."""
        return deployment_json(await deployments.stop(principal, checked_id(id, "Deployment")))

    @routes.get(
        "/{id}/logs",
        # Of no media type: else errors were documented in that of the class.
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **problems(400, 401, 403, 404)},
    )
    async def read_deployment_logs(
        id: str,  # noqa: A002
        principal: caller,
        follow: bool = False,
        lines: Annotated[int, Query(ge=0, le=10_000)] = 200,
    ) -> StreamingResponse:
        """Read the last that the engines of a self-hosted model have written; with `follow`, what they write too."""
        log = await deployments.log(
            principal, checked_id(id, "Deployment"), last=lines, until=draining if follow else lambda: True
        )
        return StreamingResponse(log, media_type="text/plain; charset=utf-8")

    return routes
