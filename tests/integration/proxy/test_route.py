"""A head that comes again: what it meant is kept, and what has changed since counts at once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aiwm.domain.users import Role
from aiwm.web.call import Call
from aiwm.web.head import Head
from fakes import RawPeer, RawServer, Wire
from inside import Caller, Inside, inside

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class _Provider:
    requests: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def __call__(self, peer: RawPeer) -> None:
        while request := await peer.read_request():
            self.requests.append(request)
            await peer.write(_ANSWER)


@dataclass
class _Again:
    """Sends requests whose head is the same one, as of a program that does the same thing all day."""

    running: Inside
    head: Head

    async def __call__(self, body: bytes = b"{}") -> tuple[int, Any]:
        wire = Wire()
        call = Call(wire, self.head, length=len(body))
        call.receive(body)
        call.received()
        await self.running.program.gateway(call)
        head, _, answer = wire.written.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(answer)


def _again(running: Inside, deployment: dict[str, Any], authorization: str, *headers: tuple[bytes, bytes]) -> _Again:
    path = f"/deployments/{deployment['_id']}/inference/v1/chat/completions".encode()
    given = [(b"host", b"localhost"), (b"content-length", b"1"), (b"authorization", authorization.encode()), *headers]
    return _Again(running, Head(b"POST", path, b"", given))


async def _deployed(caller: Caller, server: RawServer, **fields: Any) -> dict[str, Any]:
    model = await caller.model(apiEndpoint=f"http://127.0.0.1:{server.port}", **fields)
    return await caller.deployment(model)


@pytest.fixture
def local() -> dict[str, Any]:
    return {"private_upstreams": ("127.0.0.1",)}


async def test_each_has_its_own_body_and_the_length_of_it(tmp_path: Path, local: dict[str, Any]) -> None:
    provider = _Provider()
    async with RawServer(provider) as server, inside(tmp_path, **local) as running:
        caller = running.caller()
        again = _again(running, await _deployed(caller, server), caller.headers["authorization"], (b"x-a", b"b"))
        bodies = [b'{"model":"m","n":%d}' % (10**power) for power in range(5)]
        for body in bodies:
            assert await again(body) == (200, {})
        for (head, sent), body in zip(provider.requests, bodies, strict=True):
            assert sent == body
            assert b"\r\ncontent-length: %d" % len(body) in head
            assert b"\r\nx-a: b" in head


async def test_a_change_of_the_model_counts_for_the_next_request(tmp_path: Path, local: dict[str, Any]) -> None:
    provider = _Provider()
    async with RawServer(provider) as server, inside(tmp_path, **local) as running:
        caller = running.caller()
        deployment = await _deployed(caller, server)
        again = _again(running, deployment, caller.headers["authorization"])
        for key in ("first-key", "second-key", "third-key"):
            answer = await caller("PUT", f"/models/{deployment['modelId']}", json={"apiConfig": {"apiKey": key}})
            assert answer.status_code == 200, answer.text
            for _ in range(2):
                assert await again() == (200, {})
                assert f"Bearer {key}".encode() in provider.requests[-1][0]


async def test_a_deployment_that_stops_is_not_reached_any_more(tmp_path: Path, local: dict[str, Any]) -> None:
    async with RawServer(_Provider()) as server, inside(tmp_path, **local) as running:
        caller = running.caller()
        deployment = await _deployed(caller, server)
        again = _again(running, deployment, caller.headers["authorization"])
        assert (await again())[0] == 200
        for step, status in (("stop", 400), ("start", 200), ("stop", 400)):
            await caller("POST", f"/deployments/{deployment['_id']}/{step}")
            assert (await again())[0] == status


async def test_a_key_that_is_revoked_is_good_for_nothing_any_more(tmp_path: Path, local: dict[str, Any]) -> None:
    async with RawServer(_Provider()) as server, inside(tmp_path, **local) as running:
        owner = running.caller(Role.OWNER)
        deployment = await _deployed(owner, server)
        made = (await owner("POST", "/api-keys", json={"name": "Nightly batch"})).json()
        again = _again(running, deployment, f"Bearer {made['apiKey']}")
        for _ in range(2):
            assert (await again())[0] == 200
        assert (await owner("DELETE", f"/api-keys/{made['_id']}")).status_code == 200
        assert (await again())[0] == 401


async def test_a_refusal_is_told_each_time(tmp_path: Path, local: dict[str, Any]) -> None:
    async with RawServer(_Provider()) as server, inside(tmp_path, **local) as running:
        caller = running.caller()
        deployment = await _deployed(caller, server)
        refused = {
            401: _again(running, deployment, "Basic x"),
            403: _again(running, deployment, caller.headers["authorization"], (b"x-organization-id", b"other")),
            404: _again(running, {"_id": "0" * 24}, caller.headers["authorization"]),
            400: _again(running, {"_id": "short"}, caller.headers["authorization"]),
        }
        for status, again in refused.items():
            for _ in range(3):
                assert (await again())[0] == status
