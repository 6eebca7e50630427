"""Nodes and resources over HTTP, and the rules of placing a deployment on them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiwm.domain.users import Role
from inside import BLUE, Caller, Inside, inside
from patience import PATIENCE
from tiny_model import write_tiny_model


@pytest_asyncio.fixture(loop_scope="module")
async def aiwm(tmp_path: Path) -> AsyncIterator[Inside]:
    write_tiny_model(tmp_path / "tiny.gguf")
    async with inside(tmp_path / "data", model_paths=(tmp_path,)) as running:
        yield running


@pytest.fixture
def editor(aiwm: Inside) -> Caller:
    return aiwm.caller()


async def _node(caller: Caller) -> dict[str, Any]:
    [node] = (await caller("GET", "/nodes")).json()["data"]
    return dict(node)


async def _model(aiwm: Inside, editor: Caller, **fields: Any) -> dict[str, Any]:
    file = f"file://{aiwm.folder.parent}/tiny.gguf"
    model = await editor.model(repository=file, framework="llamacpp", **fields)
    for _ in range(20 * int(PATIENCE)):
        model = (await editor("GET", f"/models/{model['_id']}")).json()
        if model["status"] == "active":
            return dict(model)
        await asyncio.sleep(0.05)
    raise AssertionError(model)


async def test_this_machine_is_there_with_its_facts(aiwm: Inside) -> None:
    viewer = aiwm.caller(Role.VIEWER)
    node = await _node(viewer)
    assert (node["kind"], node["status"], node["name"]) == ("machine", "online", os.uname().nodename)
    assert node["facts"]["cpus"] == os.cpu_count()
    assert "llamacpp" in node["facts"]["engines"]
    assert 0 < node["readings"]["memoryFreeBytes"] < node["facts"]["memoryBytes"]
    assert (await viewer("GET", f"/nodes/{node['_id']}")).json()["_id"] == node["_id"]


async def test_a_machine_is_the_same_after_a_restart(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        async with inside(tmp_path / "data") as aiwm:
            seen.append((await _node(aiwm.caller()))["_id"])
    assert seen[0] == seen[1]


async def test_a_resource_is_made_changed_and_deleted(editor: Caller) -> None:
    node = await _node(editor)
    made = await editor("POST", "/resources", json={"name": "Small", "nodeId": node["_id"], "cpus": 0.5})
    assert made.status_code == 201, made.text
    path = f"/resources/{made.json()['_id']}"
    assert made.json()["type"] == "inference-container"
    assert (await editor("PUT", path, json={"memoryBytes": 1 << 30})).json()["memoryBytes"] == 1 << 30
    listed = (await editor("GET", f"/resources?nodeId={node['_id']}")).json()
    assert [each["name"] for each in listed["data"]] == ["Small"]
    assert (await editor("DELETE", path)).status_code == 200
    assert (await editor("GET", path)).status_code == 404


async def test_a_resource_is_its_organizations_own(aiwm: Inside, editor: Caller) -> None:
    made = await editor("POST", "/resources", json={"name": "Small", "nodeId": (await _node(editor))["_id"]})
    stranger = aiwm.caller(org=BLUE)
    assert (await stranger("GET", f"/resources/{made.json()['_id']}")).status_code == 404
    assert (await stranger("GET", "/resources")).json()["data"] == []


async def test_a_resource_larger_than_its_node_is_refused(editor: Caller) -> None:
    node = await _node(editor)
    given = {"name": "Large", "nodeId": node["_id"], "cpus": 1e5, "gpus": 9, "memoryBytes": 1 << 50}
    answer = await editor("POST", "/resources", json=given)
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert message.startswith(f'A resource of that size does not fit on node "{node["name"]}": it needs 9 GPUs')
    assert "1048576.0 GiB of memory" in message
    assert "100000 CPUs" in message


async def test_a_deployment_is_placed_by_itself_or_in_a_resource(aiwm: Inside, editor: Caller) -> None:
    model, node = await _model(aiwm, editor), await _node(editor)
    free = await editor.deployment(model)
    assert (free["status"], free["nodeId"], free["replicas"]) == ("queued", node["_id"], 1)
    resource = (await editor("POST", "/resources", json={"name": "Small", "nodeId": node["_id"]})).json()
    bound = await editor.deployment(model, resourceId=resource["_id"], nodeId=node["_id"])
    assert bound["resourceId"] == resource["_id"]
    refused = await editor("DELETE", f"/resources/{resource['_id']}")
    assert refused.status_code == 409
    assert "GPT-4 Production" in refused.json()["message"]


async def test_what_can_not_be_run_is_refused_with_the_reason(aiwm: Inside, editor: Caller) -> None:
    model, node = await _model(aiwm, editor), await _node(editor)
    small = {"name": "Small", "nodeId": node["_id"], "memoryBytes": 1 << 20}
    resource = (await editor("POST", "/resources", json=small)).json()
    nothing = "0" * 24
    refusals = {
        f"Node with ID {nothing} not found": {"nodeId": nothing},
        f"Resource with ID {nothing} not found": {"resourceId": nothing},
        "arguments.port: can't be set for llamacpp": {"arguments": {"port": 1}},
        "arguments.ctx-size: must be a whole number": {"arguments": {"ctx-size": "big"}},
        'Model "Llama" does not fit into resource "Small": it needs 256.1 MiB': {"resourceId": resource["_id"]},
    }
    whole = {"name": "Whole", "nodeId": node["_id"], "memoryBytes": node["facts"]["memoryBytes"]}
    resource = (await editor("POST", "/resources", json=whole)).json()
    twice = {"resourceId": resource["_id"], "replicas": 2}
    refusals[f'Model "Llama" does not fit on node "{node["name"]}": it needs '] = twice
    for message, fields in refusals.items():
        answer = await editor("POST", "/deployments", json={"name": "A", "modelId": model["_id"], **fields})
        assert answer.status_code == 400, message
        said = answer.json()["message"]
        assert (said if isinstance(said, str) else said[0]).startswith(message)
    assert (await editor("GET", "/deployments")).json()["data"] == []


async def test_a_providers_model_has_no_engine_to_tell(editor: Caller) -> None:
    model = await editor.model()
    given = {"name": "A", "modelId": model["_id"], "replicas": 2, "idleTimeout": 60, "arguments": {"a": 1}}
    answer = await editor("POST", "/deployments", json=given)
    assert answer.status_code == 400
    assert answer.json()["message"] == [
        f"{name}: is for deployments of self-hosted models" for name in ("arguments", "replicas", "idleTimeout")
    ]
    deployment = await editor.deployment(model)
    assert (await editor("PUT", f"/deployments/{deployment['_id']}", json={"replicas": 2})).status_code == 400
    assert (await editor("GET", f"/deployments/{deployment['_id']}/logs")).status_code == 400


async def test_a_framework_that_is_not_installed_is_told_with_how_to_get_it(aiwm: Inside, editor: Caller) -> None:
    model = await _model(aiwm, editor)
    await editor("PUT", f"/models/{model['_id']}", json={"framework": "vllm"})
    answer = await editor("POST", "/deployments", json={"name": "A", "modelId": model["_id"]})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("vllm is not installed on node ")
    assert "pip install vllm" in answer.json()["message"]
    await editor("PUT", f"/models/{model['_id']}", json={"framework": "magic"})
    answer = await editor("POST", "/deployments", json={"name": "A", "modelId": model["_id"]})
    assert answer.json()["message"].startswith('Framework "magic" is no engine here; known are llamacpp, vllm')
