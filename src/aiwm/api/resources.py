"""Resources over HTTP: what a deployment may use of a node."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, StrictInt

from aiwm.control.nodes import NewResource, Nodes
from aiwm.domain.ids import checked_id
from aiwm.domain.nodes import Resource
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal
from aiwm.store.nodes import RESOURCE_FIELDS, RESOURCE_SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Id, Name, changes, deleted, history, problems

_Gpus = Annotated[StrictInt, Field(ge=0, le=1024)]
_Cpus = Annotated[float, Field(ge=0, le=100_000, strict=True, allow_inf_nan=False)]
_Bytes = Annotated[StrictInt, Field(ge=0, le=1 << 60)]


class NewResourceBody(Body):
    name: Name
    type: Literal["inference-container"] = "inference-container"
    node_id: Id
    gpus: _Gpus = 0
    """For each engine; nobody else gets them meanwhile."""
    cpus: _Cpus = 0
    """For each engine. 0: they are not counted."""
    memory_bytes: _Bytes = 0
    """For each engine. 0: what the model's size says."""


class ResourceChange(Body):
    """What is left out stays. Deployments get the change at their next start."""

    name: Name | None = None
    gpus: _Gpus | None = None
    cpus: _Cpus | None = None
    memory_bytes: _Bytes | None = None


class ResourceAnswer(Answer):
    id: str = Field(alias="_id")
    name: str
    type: str
    node_id: str
    gpus: int
    cpus: float
    memory_bytes: int
    owner: dict[str, str]
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class ResourcePage(Answer):
    data: list[ResourceAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def resource_json(resource: Resource) -> dict[str, Any]:
    return {
        "_id": resource.id,
        "name": resource.name,
        "type": resource.type,
        "nodeId": resource.node_id,
        "gpus": resource.gpus,
        "cpus": resource.cpus,
        "memoryBytes": resource.memory_bytes,
        "owner": {"orgId": resource.org_id, "userId": resource.user_id},
        **history(resource),
    }


def router(nodes: Nodes, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/resources", tags=["resources"])
    listed = {"fields": tuple(RESOURCE_FIELDS), "sortable": tuple(RESOURCE_SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post(
        "", response_model=None, status_code=201, responses={201: {"model": ResourceAnswer}, **problems(400, 401, 403)}
    )
    async def create_resource(body: NewResourceBody, principal: caller) -> dict[str, Any]:
        """Say how much of a node a deployment may use."""
        new = NewResource(
            name=body.name, node_id=body.node_id, gpus=body.gpus, cpus=body.cpus, memory_bytes=body.memory_bytes
        )
        return resource_json(await nodes.create_resource(principal, new))

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": ResourcePage}, **problems(400, 401)},
        openapi_extra=parameters(**listed),
    )
    async def list_resources(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List your organization's resources, newest first."""
        return page_json(query, await nodes.list_resources(principal, query), resource_json)

    @routes.get("/{id}", response_model=None, responses={200: {"model": ResourceAnswer}, **problems(400, 401, 404)})
    async def get_resource(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - the guide's name for it
        """Get a resource."""
        return resource_json(await nodes.get_resource(principal, checked_id(id, "Resource")))

    @routes.put(
        "/{id}", response_model=None, responses={200: {"model": ResourceAnswer}, **problems(400, 401, 403, 404, 409)}
    )
    async def change_resource(id: str, body: ResourceChange, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Change a resource."""
        return resource_json(await nodes.change_resource(principal, checked_id(id, "Resource"), changes(body)))

    @routes.delete(
        "/{id}", response_model=None, responses={200: {"model": Deleted}, **problems(400, 401, 403, 404, 409)}
    )
    async def delete_resource(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Delete a resource that no active deployment uses."""
        resource_id = checked_id(id, "Resource")
        return deleted(resource_id, await nodes.delete_resource(principal, resource_id))

    return routes
