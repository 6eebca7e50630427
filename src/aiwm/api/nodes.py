"""Nodes over HTTP: the machines that engines run on. They can be looked at only; each says itself what it is."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from aiwm.control.nodes import Nodes
from aiwm.domain import times
from aiwm.domain.ids import checked_id
from aiwm.domain.nodes import Node, NodeStatus
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal
from aiwm.store.nodes import NODE_FIELDS, NODE_SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, problems


class GpuAnswer(Answer):
    index: int
    name: str
    memory_bytes: int


class FactsAnswer(Answer):
    cpus: int
    memory_bytes: int
    disk_bytes: int
    gpus: list[GpuAnswer]
    system: str
    architecture: str
    engines: list[str]


class GpuReadingAnswer(Answer):
    index: int
    used_percent: float
    free_bytes: int


class ReadingsAnswer(Answer):
    cpu_percent: float
    memory_free_bytes: int
    disk_free_bytes: int
    gpus: list[GpuReadingAnswer]


class NodeAnswer(Answer):
    id: str = Field(alias="_id")
    kind: str
    name: str
    status: NodeStatus
    facts: FactsAnswer
    readings: ReadingsAnswer
    seen_at: str
    created_at: str


class NodePage(Answer):
    data: list[NodeAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def node_json(node: Node) -> dict[str, Any]:
    facts, readings = node.facts, node.readings
    return {
        "_id": node.id,
        "kind": node.kind,
        "name": node.name,
        "status": node.status,
        "facts": {
            "cpus": facts.cpus,
            "memoryBytes": facts.memory_bytes,
            "diskBytes": facts.disk_bytes,
            "gpus": [{"index": gpu.index, "name": gpu.name, "memoryBytes": gpu.memory_bytes} for gpu in facts.gpus],
            "system": facts.system,
            "architecture": facts.architecture,
            "engines": list(facts.engines),
        },
        "readings": {
            "cpuPercent": readings.cpu_percent,
            "memoryFreeBytes": readings.memory_free_bytes,
            "diskFreeBytes": readings.disk_free_bytes,
            "gpus": [
                {"index": gpu.index, "usedPercent": gpu.used_percent, "freeBytes": gpu.free_bytes}
                for gpu in readings.gpus
            ],
        },
        "seenAt": times.iso(node.seen_at),
        "createdAt": times.iso(node.created_at),
    }


def router(nodes: Nodes, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/nodes", tags=["nodes"])
    listed = {"fields": tuple(NODE_FIELDS), "sortable": tuple(NODE_SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": NodePage}, **problems(400, 401)},
        openapi_extra=parameters(**listed),
    )
    async def list_nodes(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List the machines that self-hosted models can run on, with what they have and how busy they are."""
        return page_json(query, await nodes.list(principal, query), node_json)

    @routes.get("/{id}", response_model=None, responses={200: {"model": NodeAnswer}, **problems(400, 401, 404)})
    async def get_node(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - the guide's name for it
        """Get a machine. It is `offline` when it has said nothing for half a minute."""
        return node_json(await nodes.get(principal, checked_id(id, "Node")))

    return routes
