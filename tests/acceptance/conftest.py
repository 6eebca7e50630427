"""What acceptance tests share: the admin logged in, and a deployment of a test's own to count on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import pytest

from gateway import Caller, Gateway
from patience import PATIENCE


@dataclass(frozen=True, slots=True)
class Deployed:
    """A running deployment that nobody else calls, so its counts are those of the test."""

    id: str
    url: str
    """Its inference endpoint: what comes after it is the provider's own path."""
    caller: Caller

    @property
    def token(self) -> str:
        return self.caller.token

    @property
    def used(self) -> tuple[int, int]:
        """(requestCount, totalTokens), as GET /deployments/{id} tells them at this moment."""
        answer = self.caller.http.get(f"/deployments/{self.id}")
        assert answer.status_code == 200, answer.text
        shown = answer.json()
        return shown["requestCount"], shown["totalTokens"]

    def eventually_used(self, requests: int, tokens: int) -> bool:
        """For a client that has left: when AIWM notices, and counts, is not in that client's hands."""
        deadline = time.monotonic() + PATIENCE
        while self.used != (requests, tokens):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


class Deploy(Protocol):
    def __call__(
        self, provider: str, endpoint: str = "", *, model: str = ..., config: Mapping[str, str] | None = ...
    ) -> Deployed: ...


@pytest.fixture(scope="session")
def shared_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """AIWM for all tests that bring a deployment of their own: starting it takes longer than they do."""
    with Gateway(tmp_path_factory.mktemp("aiwm"), "--demo", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="session")
def admin(shared_gateway: Gateway) -> Caller:
    return shared_gateway.login()


@pytest.fixture(scope="session")
def simulator(shared_gateway: Gateway) -> str:
    """The address of the simulated provider."""
    return f"http://127.0.0.1:{shared_gateway.simulator_port}"


@pytest.fixture
def deploy(shared_gateway: Gateway, admin: Caller, simulator: str) -> Deploy:
    """Deploys a model of the simulated provider, or of the one at `endpoint`."""

    def deployed(
        provider: str, endpoint: str = "", *, model: str = "the-model", config: Mapping[str, str] | None = None
    ) -> Deployed:
        deployment_id = shared_gateway.deploy(admin, provider, endpoint or simulator, model=model, config=config)
        return Deployed(deployment_id, shared_gateway.inference(deployment_id), admin)

    return deployed
