"""`aiwm serve --workers N`: many processes that look like one from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway import ADMIN_PASSWORD, Caller
from patience import waited
from workers import TypedWorkers, Workers

CHAT = {"messages": [{"role": "user", "content": "How are you?"}]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """For tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("aiwm")
    with Workers(folder, "--demo", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as running:
        yield running


# --- starting and stopping -----------------------------------------------------------------------------------


def test_workers_are_greeted_once_and_stop_together(tmp_path: Path) -> None:
    gateway = TypedWorkers(tmp_path, "--demo", workers=3)
    with gateway:
        pids = [gateway.pid(number) for number in gateway.numbers]
        assert len({*pids, 0}) == 4
        assert gateway.output.count("Ctrl-C stops it") == 1
        gateway.login()
        assert gateway.stop() == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert "Traceback" not in gateway.log, gateway.log[-4000:]


def test_a_worker_that_dies_is_replaced_and_nobody_is_refused_meanwhile(shared: Workers) -> None:
    before = shared.pid(2)
    shared.kill(2)
    # Half of these are for the one that is not there.
    for _ in range(20):
        assert httpx2.get(f"{shared.url}/healthz", timeout=60).status_code == 200
    shared.to(2)
    assert shared.pid(2) not in {0, before}
    assert "another one takes its place" in shared.log


def test_a_leader_that_dies_is_replaced_and_greets_nobody_again(shared: Workers) -> None:
    shared.kill(1)
    shared.to(1)
    assert shared.output.count("Ctrl-C stops it") == 1


def test_what_keeps_a_worker_from_starting_ends_the_program_with_its_words(tmp_path: Path) -> None:
    with Workers(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "aiwm.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'of-the-future'")
    gateway = Workers(tmp_path)
    with pytest.raises(AssertionError, match="AIWM did not start"):
        gateway.start()
    assert gateway.process is not None
    assert gateway.process.returncode == 2
    assert gateway.log.startswith("aiwm: the database ")
    assert gateway.log.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_answers_under_way_come_to_their_end_before_the_workers_do(tmp_path: Path, number: signal.Signals) -> None:
    gateway = Workers(tmp_path, "--demo", AIWM_PRIVATE_UPSTREAMS="127.0.0.1")
    with gateway:
        admin = gateway.login()
        deployment = gateway.deploy(admin, "openai", f"http://127.0.0.1:{gateway.simulator_port}")
        answers: list[str] = []
        begun = threading.Barrier(len(gateway.numbers) + 1)

        def ask(client: httpx2.Client) -> None:
            url = f"/deployments/{deployment}/inference/v1/chat/completions"
            headers = {"x-simulate": "tokens=20; chunk-delay=0.1"}
            with client.stream("POST", url, json=CHAT | {"stream": True}, headers=headers) as answer:
                pieces = answer.iter_text()
                first = next(pieces)
                begun.wait()
                answers.append(first + "".join(pieces))

        clients = [gateway.to(each, admin.token) for each in gateway.numbers]
        callers = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for caller in callers:
            caller.start()
        begun.wait()
        assert gateway.stop(number) == 0
        for caller in callers:
            caller.join()
    assert [answer.rstrip().endswith("data: [DONE]") for answer in answers] == [True, True]


def test_workers_whose_parent_is_killed_come_to_their_end(tmp_path: Path) -> None:
    gateway = Workers(tmp_path)
    with gateway:
        assert gateway.process is not None
        pids = [gateway.pid(number) for number in gateway.numbers]
        os.kill(gateway.process.pid, signal.SIGKILL)
        waited(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


# --- changes -------------------------------------------------------------------------------------------------


def _chat(client: httpx2.Client, deployment: str) -> httpx2.Response:
    return client.post(f"/deployments/{deployment}/inference/v1/chat/completions", json=CHAT)


def test_what_one_worker_stops_and_starts_the_others_stop_and_start_at_once(shared: Workers) -> None:
    admin = shared.login()
    deployment = shared.deploy(admin, "openai", f"http://127.0.0.1:{shared.simulator_port}")
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    for _ in range(20):
        assert [_chat(each, deployment).status_code for each in (one, two)] == [200, 200]
        assert one.post(f"/deployments/{deployment}/stop").status_code == 200
        assert [_chat(each, deployment).status_code for each in (two, one)] == [400, 400]
        assert two.post(f"/deployments/{deployment}/start").status_code == 200


def test_a_model_that_one_worker_has_changed_is_called_so_by_the_others_at_once(shared: Workers) -> None:
    admin = shared.login()
    deployment = shared.deploy(admin, "openai", f"http://127.0.0.1:{shared.simulator_port}")
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    model = one.get(f"/deployments/{deployment}").json()["modelId"]
    for name in ("first", "second", "third"):
        assert two.put(f"/models/{model}", json={"modelIdentifier": name}).status_code == 200
        assert _chat(one, deployment).json()["model"] == name


def test_a_key_that_one_worker_revokes_is_nothing_to_the_others_at_once(shared: Workers) -> None:
    admin = shared.login()
    deployment = shared.deploy(admin, "openai", f"http://127.0.0.1:{shared.simulator_port}")
    one = shared.to(1, admin.token)
    for _ in range(10):
        made = one.post("/api-keys", json={"name": "for two"}).json()
        keyed = shared.to(2, made["apiKey"])
        assert _chat(keyed, deployment).status_code == 200
        assert one.delete(f"/api-keys/{made['_id']}").status_code == 200
        assert _chat(keyed, deployment).status_code == 401


def test_a_user_whom_one_worker_deactivates_is_nobody_to_the_others_at_once(shared: Workers) -> None:
    admin = shared.login()
    headers = {"authorization": f"Bearer {admin.token}"}
    body = {"username": "leaving", "password": ADMIN_PASSWORD, "roles": ["organization.editor"]}
    made = httpx2.post(f"{shared.iam_url}/users", json=body, headers=headers, timeout=30)
    assert made.status_code == 201, made.text
    clients = [shared.to(number, shared.login("leaving").token) for number in shared.numbers]
    assert [client.get("/models").status_code for client in clients] == [200, 200]
    path = f"{shared.iam_url}/users/{made.json()['_id']}"
    assert httpx2.put(path, json={"status": "inactive"}, headers=headers, timeout=30).status_code == 200
    assert [client.get("/models").status_code for client in clients] == [401, 401]


# --- counts --------------------------------------------------------------------------------------------------


def test_what_one_worker_has_answered_the_others_count_at_once(shared: Workers) -> None:
    admin = shared.login()
    deployment = shared.deploy(admin, "openai", f"http://127.0.0.1:{shared.simulator_port}")
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    tokens = 0
    for count in range(1, 41):
        asked, reader = (one, two) if count % 2 else (two, one)
        tokens += _chat(asked, deployment).json()["usage"]["total_tokens"]
        shown = reader.get(f"/deployments/{deployment}").json()
        assert (shown["requestCount"], shown["totalTokens"]) == (count, tokens)


def test_what_a_worker_answered_before_it_was_killed_is_counted_by_the_others(shared: Workers) -> None:
    admin = shared.login()
    deployment = shared.deploy(admin, "openai", f"http://127.0.0.1:{shared.simulator_port}")
    one = shared.to(1, admin.token)
    for count in range(1, 4):
        two = shared.to(2, admin.token)
        assert _chat(two, deployment).status_code == 200
        shared.kill(2)
        assert one.get(f"/deployments/{deployment}").json()["requestCount"] == count
        shared.to(2)


# --- limits --------------------------------------------------------------------------------------------------

ANSWER = {"x-simulate": "tokens=300; delay=0.05"}
"""Costs 0.003 USD, and may cost 0.004."""


def _priced(gateway: Workers, caller: Caller) -> str:
    deployment = gateway.deploy(caller, "openai", f"http://127.0.0.1:{gateway.simulator_port}")
    model = caller.http.get(f"/deployments/{deployment}").json()["modelId"]
    priced = caller.http.put(f"/models/{model}", json={"prices": [{"input": 0, "output": 10}]})
    assert priced.status_code == 200, priced.text
    return deployment


def _limited(caller: Caller, deployment: str, **numbers: Any) -> str:
    made = caller.http.post("/limits", json={"subject": {"type": "deployment", "id": deployment}, **numbers})
    assert made.status_code == 201, made.text
    return str(made.json()["_id"])


def _now(client: httpx2.Client, limit: str) -> dict[str, Any]:
    shown: dict[str, Any] = client.get(f"/limits/{limit}").json()["now"]
    return shown


def test_calls_at_once_to_all_workers_never_spend_more_than_the_budget(shared: Workers) -> None:
    admin = shared.login()
    deployment = _priced(shared, admin)
    limit = _limited(admin, deployment, budget={"usd": 0.1, "per": "month"})
    url = f"/deployments/{deployment}/inference/v1/chat/completions"
    body = CHAT | {"max_tokens": 400}

    async def calls() -> list[int]:
        many = httpx2.Limits(max_connections=60)
        async with httpx2.AsyncClient(
            base_url=shared.url, headers={"authorization": f"Bearer {admin.token}"}, limits=many, timeout=60
        ) as http:
            answers = await asyncio.gather(*(http.post(url, json=body, headers=ANSWER) for _ in range(200)))
            return [answer.status_code for answer in answers]

    statuses = asyncio.run(calls())
    assert set(statuses) == {200, 429}
    for client in (shared.to(number, admin.token) for number in shared.numbers):
        now = _now(client, limit)
        assert now["spentUsd"] == pytest.approx(0.003 * statuses.count(200))
        assert now["spentUsd"] <= 0.1
        # What was reserved comes back over the lines of the workers, when the answers have gone out.
        waited(
            lambda asked=client: (_now(asked, limit)["reservedUsd"], _now(asked, limit)["concurrentRequests"]) == (0, 0)
        )
    # No more than what is left would not be enough for.
    assert statuses.count(200) >= 25


def test_what_a_killed_worker_had_reserved_comes_back_and_what_it_spent_stays_spent(shared: Workers) -> None:
    admin = shared.login()
    deployment = _priced(shared, admin)
    limit = _limited(admin, deployment, concurrentRequests=3, budget={"usd": 1, "per": "day"})
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    url = f"/deployments/{deployment}/inference/v1/chat/completions"
    body = CHAT | {"max_tokens": 400}
    assert two.post(url, json=body, headers=ANSWER).status_code == 200

    def hang() -> None:
        with suppress(httpx2.TransportError):
            two.post(url, json=body | {"stream": True}, headers={"x-simulate": "hang"})

    caller = threading.Thread(target=hang)
    caller.start()
    waited(lambda: _now(one, limit)["concurrentRequests"] == 1)
    assert _now(one, limit)["reservedUsd"] > 0
    shared.kill(2)
    caller.join()
    waited(lambda: _now(one, limit)["reservedUsd"] == 0)
    now = _now(one, limit)
    assert (now["concurrentRequests"], now["spentUsd"]) == (0, pytest.approx(0.003))


def test_a_limit_that_one_worker_makes_or_lifts_holds_in_the_others_at_once(shared: Workers) -> None:
    admin = shared.login()
    deployment = _priced(shared, admin)
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    for _ in range(5):
        body = {"subject": {"type": "deployment", "id": deployment}, "requestsPerMinute": 1}
        limit = one.post("/limits", json=body).json()["_id"]
        assert [_chat(each, deployment).status_code for each in (two, one, two)] == [200, 429, 429]
        assert one.delete(f"/limits/{limit}").status_code == 200
        assert _chat(two, deployment).status_code == 200


def test_failed_logins_count_whichever_worker_they_are_tried_at(shared: Workers) -> None:
    admin = shared.login()
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    wrong = {"username": "nobody-here", "password": "wrong-password"}
    statuses = [client.post("/auth/login", json=wrong).status_code for client in (one, two) * 6]
    assert statuses == [401] * 10 + [429] * 2


# --- watching ------------------------------------------------------------------------------------------------


def _counted(client: httpx2.Client, provider: str) -> float:
    """How many answers of a provider /metrics tells of."""
    name = f'aiwm_requests_total{{end="complete",provider="{provider}",status="200"}} '
    found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(name)]
    return float(found[0].removeprefix(name)) if found else 0.0


def test_metrics_are_sums_of_all_workers_and_never_become_less(shared: Workers) -> None:
    admin = shared.login()
    deployment = shared.deploy(admin, "mistral", f"http://127.0.0.1:{shared.simulator_port}")
    one, two = (shared.to(number, admin.token) for number in shared.numbers)
    for client in (one, two, two):
        assert _chat(client, deployment).status_code == 200
    assert [_counted(client, "mistral") for client in (one, two)] == [3, 3]
    shared.kill(2)
    assert _counted(one, "mistral") == 3
    two = shared.to(2, admin.token)
    assert _chat(two, deployment).status_code == 200
    assert [_counted(client, "mistral") for client in (one, two)] == [4, 4]


def test_readiness_is_that_of_all_workers(shared: Workers) -> None:
    for client in (shared.to(number) for number in shared.numbers):
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["checks"]["workers"] == "ok"
