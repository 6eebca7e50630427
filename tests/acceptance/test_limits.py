"""Budgets and limits of a program that serves: under a thousand calls at once, and through `kill -9`."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from typing import Any

import httpx2
import pytest
from openai import OpenAI, RateLimitError

from gateway import Caller, Gateway, post
from patience import waited

PRICES = [{"input": 0, "output": 10}]
"""A dollar for 100,000 tokens that are written."""
CHAT = {"messages": [{"role": "user", "content": "Count"}], "max_tokens": 400}
MOST = 0.004
"""USD that it may cost."""
ANSWER = {"x-simulate": "tokens=300; delay=0.05"}
"""Costs 0.003 USD."""
SLOW = {"x-simulate": "tokens=300; hang"}
CALLS = 1000


def deployed(gateway: Gateway, caller: Caller) -> str:
    body = {
        "name": "Priced",
        "type": "llm",
        "deploymentType": "api-based",
        "provider": "openai",
        "apiEndpoint": f"http://127.0.0.1:{gateway.simulator_port}",
        "modelIdentifier": "the-model",
        "apiConfig": {"apiKey": "sk-0123456789abcdef"},
        "prices": PRICES,
    }
    made = caller.http.post("/models", json=body)
    assert made.status_code == 201, made.text
    deployment = caller.http.post("/deployments", json={"name": "Priced", "modelId": made.json()["_id"]})
    assert deployment.status_code == 201, deployment.text
    return str(deployment.json()["_id"])


def limited(caller: Caller, type_: str, id_: str, **numbers: Any) -> str:
    made = caller.http.post("/limits", json={"subject": {"type": type_, "id": id_}, **numbers})
    assert made.status_code == 201, made.text
    return str(made.json()["_id"])


def money(caller: Caller, limit_id: str) -> tuple[float, float]:
    """In USD: spent, reserved."""
    answer = caller.http.get(f"/limits/{limit_id}")
    assert answer.status_code == 200, answer.text
    now = answer.json()["now"]
    return now["spentUsd"], now["reservedUsd"]


async def called(gateway: Gateway, caller: Caller, deployment_id: str, number: int) -> Counter[int]:
    """How that many calls at once are answered."""
    path = f"{gateway.inference(deployment_id)}/v1/chat/completions"
    headers = {"authorization": f"Bearer {caller.token}", **ANSWER}
    limits = httpx2.Limits(max_connections=number)
    async with httpx2.AsyncClient(limits=limits, timeout=120, trust_env=False) as http:

        async def one(place: int) -> int:
            answer = await http.post(path, json=CHAT | {"stream": place % 2 == 0}, headers=headers)
            if answer.status_code == 429:
                assert "budget of deployment" in answer.json()["message"]
                assert int(answer.headers["retry-after"]) >= 1
            return answer.status_code

        return Counter(await asyncio.gather(*map(one, range(number))))


def test_a_thousand_calls_at_once_never_spend_more_than_the_budget(gateway: Gateway) -> None:
    admin = gateway.login()
    deployment_id = deployed(gateway, admin)
    limit_id = limited(admin, "deployment", deployment_id, budget={"usd": 1, "per": "month"})
    highest, over = 0.0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.is_set():
            highest = max(highest, sum(money(admin, limit_id)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    answered: Counter[int] = Counter()
    try:
        answered += asyncio.run(called(gateway, admin, deployment_id, CALLS))
        # Those that were refused only because of what was reserved come again, until there is no room for another.
        while money(admin, limit_id)[0] <= 1 - MOST:
            answered += asyncio.run(called(gateway, admin, deployment_id, 50))
    finally:
        over.set()
        watcher.join()

    answered += asyncio.run(called(gateway, admin, deployment_id, 10))
    assert answered.keys() == {200, 429}
    waited(lambda: money(admin, limit_id)[1] == 0)
    spent, _ = money(admin, limit_id)
    shown = admin.http.get(f"/deployments/{deployment_id}").json()
    assert spent == shown["totalCost"] == pytest.approx(answered[200] * 0.003)
    # Not a cent over, and no more left than what one call may cost.
    assert 1 - MOST < spent <= 1
    assert highest <= 1
    print(f"\n{answered[200]} of {answered.total()} calls let through, {spent} USD spent, at most {highest} promised")


def test_what_was_reserved_is_free_after_a_kill_and_what_was_spent_is_counted(gateway: Gateway) -> None:
    admin = gateway.login()
    deployment_id = deployed(gateway, admin)
    limit_id = limited(admin, "deployment", deployment_id, budget={"usd": 0.01, "per": "month"}, concurrentRequests=2)
    path = f"/deployments/{deployment_id}/inference/v1/chat/completions"
    assert admin.http.post(path, json=CHAT, headers=ANSWER).status_code == 200
    assert money(admin, limit_id) == (0.003, 0)

    def hangs() -> None:
        with pytest.raises(httpx2.TransportError):
            post(f"{gateway.url}{path}", json=CHAT, headers=SLOW | {"authorization": f"Bearer {admin.token}"})

    waiting = threading.Thread(target=hangs)
    waiting.start()
    waited(lambda: money(admin, limit_id) == (0.003, 0.004))
    refused = admin.http.post(path, json=CHAT, headers=ANSWER)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    gateway.stop(signal.SIGKILL)
    waiting.join()

    gateway.start()
    admin = gateway.login()
    assert money(admin, limit_id) == (0.003, 0)
    assert admin.http.post(path, json=CHAT, headers=ANSWER).status_code == 200
    refused = admin.http.post(path, json=CHAT | {"max_tokens": 401}, headers=ANSWER)
    assert refused.status_code == 429
    assert "0.006 USD are spent" in refused.json()["message"]
    assert admin.http.post(path, json=CHAT, headers=ANSWER).status_code == 200
    assert money(admin, limit_id) == (0.009, 0)
    gateway.stop()

    gateway.start()
    assert money(gateway.login(), limit_id) == (0.009, 0)


def test_who_leaves_gives_its_place_and_its_money_back(gateway: Gateway) -> None:
    admin = gateway.login()
    deployment_id = deployed(gateway, admin)
    limit_id = limited(admin, "deployment", deployment_id, concurrentRequests=1, budget={"usd": 1, "per": "day"})
    path = f"/deployments/{deployment_id}/inference/v1/chat/completions"
    for _ in range(3):
        with pytest.raises(httpx2.ReadTimeout):
            admin.http.post(path, json=CHAT, headers=SLOW, timeout=0.5)
        waited(lambda: admin.http.get(f"/limits/{limit_id}").json()["now"]["concurrentRequests"] == 0)
    waited(lambda: money(admin, limit_id)[1] == 0)
    assert admin.http.post(path, json=CHAT, headers=ANSWER).status_code == 200


def test_an_sdk_sees_a_rate_limit_as_its_own(gateway: Gateway) -> None:
    admin = gateway.login()
    deployment_id = deployed(gateway, admin)
    limited(admin, "organization", admin.user["orgId"], requestsPerMinute=1)
    with OpenAI(api_key=admin.token, base_url=f"{gateway.inference(deployment_id)}/v1", max_retries=0) as client:
        client.chat.completions.create(model="the-model", messages=[{"role": "user", "content": "Count"}])
        with pytest.raises(RateLimitError) as caught:
            client.chat.completions.create(model="the-model", messages=[{"role": "user", "content": "Count"}])
    assert "is 1 request per minute; try again in" in caught.value.response.json()["message"]
