"""What was used and what it cost, as people ask: over the API, and with `aiwm usage`, beside the program or without."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import forks
from gateway import Gateway
from patience import PATIENCE


def said(folder: Path, *arguments: str, code: int = 0) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    ended = forks.run(
        ["usage", *arguments], environment | {"AIWM_DATA_DIR": str(folder), "COLUMNS": "160"}, timeout=PATIENCE
    )
    assert ended.returncode == code, ended
    return ended.stdout + ended.stderr


def test_a_request_is_in_every_report_as_soon_as_it_is_answered(gateway: Gateway) -> None:
    admin = gateway.login()
    [deployment] = [
        each for each in admin.http.get("/deployments?limit=100").json()["data"] if "OpenAI" in each["name"]
    ]
    path = f"/deployments/{deployment['_id']}/inference/v1/chat/completions"
    answer = admin.http.post(path, json={"messages": [{"role": "user", "content": "Hello!"}]})
    assert answer.status_code == 200
    used = answer.json()["usage"]

    told = admin.http.get(f"/usage?groupBy=deployment,day&deployment={deployment['_id']}").json()
    [group] = told["data"]
    assert (group["requestCount"], group["inputTokens"], group["outputTokens"]) == (
        1,
        used["prompt_tokens"],
        used["completion_tokens"],
    )
    [listed] = admin.http.get("/usage/requests?correlationId=" + answer.headers["x-correlation-id"]).json()["data"]
    explained = admin.http.get(f"/usage/requests/{listed['_id']}").json()
    assert explained["numbers"]["inputTokens"]["from"] == [{"said": "prompt_tokens", "number": used["prompt_tokens"]}]
    assert [phase["name"] for phase in explained["phases"]] == ["waiting", "answering"]
    assert admin.http.get("/usage/export").text.count("\n") == 1

    table = said(gateway.folder, "--by", "deployment,model,day", "--since", "7d")
    assert deployment["name"] in table
    assert f"{used['prompt_tokens']:,}" in table
    assert "All" in table


def test_what_a_program_used_is_booked_under_its_key(gateway: Gateway) -> None:
    admin = gateway.login()
    key = admin.http.post("/api-keys", json={"name": "A program"}).json()
    deployment = admin.http.get("/deployments").json()["data"][0]
    path = f"/deployments/{deployment['_id']}/inference/v1/chat/completions"
    headers = {"authorization": f"Bearer {key['apiKey']}"}
    admin.http.post(path, json={"messages": []}, headers=headers)
    groups = admin.http.get("/usage?groupBy=apiKey").json()["data"]
    assert {group["apiKey"]: group["requestCount"] for group in groups}[key["_id"]] == 1
    [listed] = admin.http.get(f"/usage/requests?apiKey={key['_id']}").json()["data"]
    assert listed["apiKeyId"] == key["_id"]


def test_without_usage_the_table_is_empty(gateway: Gateway) -> None:
    assert "0" in said(gateway.folder, "--since", "2020-01-01", "--until", "2020-01-02", "--by", "hour")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--by", "week"], "--by: week is not among deployment, model, user, apiKey, provider, day, hour"),
        (["--by", "day,hour"], "--by: day and hour exclude each other"),
        (["--since", "soon"], "--since: give how long ago"),
        (["--since", "1d", "--until", "2d"], "--since must be before --until"),
    ],
)
def test_what_cannot_be_asked_says_what_can(gateway: Gateway, arguments: list[str], named: str) -> None:
    assert named in said(gateway.folder, *arguments, code=2)
