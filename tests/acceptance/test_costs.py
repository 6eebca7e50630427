"""What a deployment's requests cost, seen by a GET right after the answer, and what `aiwm reprice` makes of it."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import forks
from gateway import Caller, Gateway
from patience import PATIENCE

PRICES = [{"input": 3, "output": 15, "cacheRead": 0.3, "cacheWrite5m": 3.75, "perRequest": 0.01}]
OPENAI = {"messages": [{"role": "user", "content": "x" * 400}]}
ANTHROPIC = {"messages": [{"role": "user", "content": "x" * 400}], "max_tokens": 1000}
GOOGLE = {"contents": [{"parts": [{"text": "x" * 400}]}]}
CALLS = {
    "openai": ("/v1/chat/completions", OPENAI),
    "anthropic": ("/v1/messages", ANTHROPIC),
    "google": ("/v1beta/models/the-model:generateContent", GOOGLE),
}
SIMULATED = {"x-simulate": "tokens=50; cached=2000; cache-write=500; reasoning=200"}
"""100 fresh tokens, and what is said here."""


def deployed(gateway: Gateway, caller: Caller, provider: str, **model: Any) -> tuple[str, str]:
    """Ids of a model of the simulated provider and of its deployment."""
    body = {
        "name": "Priced",
        "type": "llm",
        "deploymentType": "api-based",
        "provider": provider,
        "apiEndpoint": f"http://127.0.0.1:{gateway.simulator_port}",
        "modelIdentifier": "the-model",
        "apiConfig": {"apiKey": "sk-0123456789abcdef"},
        **model,
    }
    made = caller.http.post("/models", json=body)
    assert made.status_code == 201, made.text
    model_id = made.json()["_id"]
    deployment = caller.http.post("/deployments", json={"name": "Priced", "modelId": model_id})
    assert deployment.status_code == 201, deployment.text
    return model_id, deployment.json()["_id"]


def called(gateway: Gateway, caller: Caller, deployment_id: str, provider: str, **headers: str) -> None:
    path, body = CALLS[provider]
    answer = caller.http.post(f"/deployments/{deployment_id}/inference{path}", json=body, headers=SIMULATED | headers)
    assert answer.status_code == 200, answer.text


def cost(caller: Caller, deployment_id: str) -> tuple[Any, int]:
    """(totalCost, how many requests it leaves out), at this moment."""
    shown = caller.http.get(f"/deployments/{deployment_id}").json()
    return shown["totalCost"], shown.get("unpricedRequests", 0)


@pytest.mark.parametrize("provider", CALLS)
def test_a_get_right_after_an_answer_shows_what_it_cost(shared_gateway: Gateway, admin: Caller, provider: str) -> None:
    _, deployment_id = deployed(shared_gateway, admin, provider, prices=PRICES)
    assert cost(admin, deployment_id) == (0, 0)

    # Fresh 100 * 3, cached 2000 * 0.3, written to the cache 500 * 3.75, written 250 * 15, by the million; and 0.01.
    # Google's API has no cache writes: they are fresh.
    known = 300 + 600 + (1500 if provider == "google" else 1875) + 3750
    for number in (1, 2, 3):
        called(shared_gateway, admin, deployment_id, provider)
        assert cost(admin, deployment_id) == (round(number * (known / 1e6 + 0.01), 12), 0)


def test_a_change_of_prices_counts_from_the_next_answer(shared_gateway: Gateway, admin: Caller) -> None:
    model_id, deployment_id = deployed(
        shared_gateway, admin, "openai", prices=[{"input": 0, "output": 0, "perRequest": 1}]
    )
    called(shared_gateway, admin, deployment_id, "openai")
    admin.http.put(f"/models/{model_id}", json={"prices": [{"input": 0, "output": 0, "perRequest": 0.25}]})
    called(shared_gateway, admin, deployment_id, "openai")
    assert cost(admin, deployment_id) == (1.25, 0)


def test_what_has_no_price_is_unknown_and_not_free(shared_gateway: Gateway, admin: Caller) -> None:
    _, deployment_id = deployed(shared_gateway, admin, "openai")
    called(shared_gateway, admin, deployment_id, "openai")
    assert cost(admin, deployment_id) == (None, 1)


def test_a_model_of_the_price_list_needs_no_prices(shared_gateway: Gateway, admin: Caller) -> None:
    _, deployment_id = deployed(shared_gateway, admin, "openai", modelIdentifier="gpt-4o-mini")
    called(shared_gateway, admin, deployment_id, "openai")
    found, unpriced = cost(admin, deployment_id)
    assert (found > 0, unpriced) == (True, 0)


def test_a_request_that_the_provider_refuses_costs_nothing(shared_gateway: Gateway, admin: Caller) -> None:
    _, deployment_id = deployed(shared_gateway, admin, "openai", prices=PRICES)
    answer = admin.http.post(
        f"/deployments/{deployment_id}/inference/v1/chat/completions", json=OPENAI, headers={"x-simulate": "status=429"}
    )
    assert answer.status_code == 429
    assert cost(admin, deployment_id) == (0, 0)


# --- aiwm reprice --------------------------------------------------------------------------------------------


def repriced(gateway: Gateway, *arguments: str, code: int = 0) -> str:
    """What the command says, run beside the program that serves."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    ended = forks.run(
        ["reprice", *arguments],
        environment | {"AIWM_DATA_DIR": str(gateway.folder), "COLUMNS": "120"},
        timeout=PATIENCE,
    )
    assert ended.returncode == code, ended
    return ended.stdout + ended.stderr


def test_costs_that_were_unknown_are_known_after_repricing_while_requests_go_on(gateway: Gateway) -> None:
    admin = gateway.login()
    model_id, deployment_id = deployed(gateway, admin, "openai", modelIdentifier="of-our-own")
    for _ in range(3):
        called(gateway, admin, deployment_id, "openai")
    assert cost(admin, deployment_id) == (None, 3)
    admin.http.put(f"/models/{model_id}", json={"prices": [{"input": 0, "output": 0, "perRequest": 0.25}]})

    assert "3 of 3 rows would change." in repriced(gateway, "--model", model_id, "--dry-run")
    assert cost(admin, deployment_id) == (None, 3)

    serving = [threading.Thread(target=called, args=(gateway, admin, deployment_id, "openai")) for _ in range(5)]
    for thread in serving:
        thread.start()
    told = repriced(gateway, "--model", "of-our-own")
    for thread in serving:
        thread.join()
    assert "3 of " in told
    assert cost(admin, deployment_id) == (2, 0)

    again = repriced(gateway, "--model", model_id)
    assert "0 of 8 rows changed." in again
    assert cost(admin, deployment_id) == (2, 0)


def test_a_time_that_can_not_be_read_is_told(gateway: Gateway) -> None:
    assert repriced(gateway, "--since", "last tuesday", code=2).startswith("aiwm: --since: give a day")


def test_times_narrow_down_what_is_priced_anew(gateway: Gateway) -> None:
    assert "0 of 0 rows changed." in repriced(gateway, "--until", "2020-01-01")
    assert "0 of 0 rows changed." in repriced(gateway, "--since", "2190-01-01T00:00:00Z")
