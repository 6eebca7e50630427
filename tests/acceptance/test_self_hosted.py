"""A model of our own, from its file to an answer: `aiwm serve` with a real llama.cpp, called by OpenAI's own client."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from engines import nothing_left, processes_of
from gateway import Caller, Gateway, free_ports
from patience import PATIENCE
from tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model in it."""
    folder = tmp_path_factory.mktemp("models")
    write_tiny_model(folder / "tiny.gguf")
    return folder


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Gateway]:
    data = tmp_path_factory.mktemp("aiwm")
    with (
        nothing_left(data / "engines"),
        Gateway(data, AIWM_MODEL_PATHS=str(folder), AIWM_KEEP_ENGINES="false") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def admin(gateway: Gateway) -> Caller:
    return gateway.login()


def until(caller: Caller, path: str, *statuses: str) -> dict[str, Any]:
    """Waits until the thing is in one of these states, and in no other way at rest."""
    deadline = time.monotonic() + PATIENCE
    while True:
        shown: dict[str, Any] = caller.http.get(path).json()
        if shown["status"] in statuses:
            return shown
        assert time.monotonic() < deadline, shown
        assert shown["status"] not in {"failed", "error", "download-failed"}, shown
        time.sleep(0.05)


def registered(caller: Caller, file: Path, framework: str = "llamacpp") -> str:
    made = caller.http.post(
        "/models",
        json={
            "name": "Tiny",
            "type": "llm",
            "deploymentType": "self-hosted",
            "repository": f"file://{file}",
            "framework": framework,
        },
    )
    assert made.status_code == 201, made.text
    model_id = str(made.json()["_id"])
    until(caller, f"/models/{model_id}", "active")
    return model_id


def deployed(caller: Caller, model_id: str, **fields: Any) -> str:
    made = caller.http.post("/deployments", json={"name": "Tiny", "modelId": model_id, **fields})
    assert made.status_code == 201, made.text
    assert made.json()["status"] == "queued"
    return str(made.json()["_id"])


def test_from_a_file_to_an_answer_with_exact_usage(gateway: Gateway, admin: Caller, folder: Path) -> None:
    deployment = deployed(admin, registered(admin, folder / "tiny.gguf"), arguments={"ctx-size": 2048})
    shown = until(admin, f"/deployments/{deployment}", "running")
    assert shown["endpoint"]["url"].endswith(f":{gateway.port}/deployments/{deployment}/inference/v1/chat/completions")
    client = openai.OpenAI(base_url=f"{gateway.inference(deployment)}/v1", api_key=admin.token, max_retries=0)
    answer = client.chat.completions.create(
        model=deployment, messages=[{"role": "user", "content": "Hello"}], max_tokens=8
    )
    assert answer.model == "tiny.gguf"
    assert answer.usage is not None
    total = answer.usage.total_tokens
    stream = client.chat.completions.create(
        model=deployment,
        messages=[{"role": "user", "content": "Hello again"}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    *_, last = stream
    assert last.usage is not None
    total += last.usage.total_tokens
    after = admin.http.get(f"/deployments/{deployment}").json()
    assert (after["requestCount"], after["totalTokens"]) == (2, total)

    # Those who do not ask for the numbers of a stream get none, and the books have them all the same.
    asked = {
        "messages": [{"role": "user", "content": "Hello again"}],
        "max_tokens": 8,
        "stream": True,
        "ignore_eos": True,
    }
    path = f"/deployments/{deployment}/inference"
    silent = admin.http.post(f"{path}/v1/chat/completions", json=asked).text
    assert "usage" not in silent
    assert silent.endswith("data: [DONE]\n\n")
    [row] = admin.http.get("/usage/requests?limit=1").json()["data"]
    told = last.usage.prompt_tokens, last.usage.completion_tokens
    assert (row["source"], row["inputTokens"], row["outputTokens"]) == ("provider", *told)

    # What the engine would do without saying how much it was, and what is for its operator, is not for callers.
    for closed in ("completion", "props", "slots", "lora-adapters", "v1x"):
        refused = admin.http.post(f"{path}/{closed}", json={"prompt": "Hello", "n_predict": 1})
        assert refused.status_code == 403, (closed, refused.text)
        assert "only at paths that begin with /v1/, /chat/completions" in refused.json()["message"]

    log = admin.http.get(f"/deployments/{deployment}/logs").text
    assert "ready on http://127.0.0.1" in log

    assert admin.http.post(f"/deployments/{deployment}/stop").json()["status"] == "stopping"
    until(admin, f"/deployments/{deployment}", "stopped")


def test_the_logs_are_followed_on_the_command_line(gateway: Gateway, admin: Caller, folder: Path) -> None:
    deployment = deployed(admin, registered(admin, folder / "tiny.gguf"), arguments={"ctx-size": 512})
    until(admin, f"/deployments/{deployment}", "running")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")}
    environment |= {"AIWM_DATA_DIR": str(gateway.folder), "AIWM_PORT": str(gateway.port)}
    command = [sys.executable, "-m", "aiwm", "deployments", "logs", "-f", deployment]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        lines = iter(following.stdout.readline, "")
        assert any("ready on http://127.0.0.1" in line for line in lines)
        admin.http.post(f"/deployments/{deployment}/inference/v1/completions", json={"prompt": "Hi", "max_tokens": 1})
        assert any("prompt eval time" in line for line in lines)
        following.send_signal(signal.SIGINT)
        assert following.wait(PATIENCE) == 130
    shown = subprocess.run([*command[:4]], env=environment, capture_output=True, text=True, check=True)
    assert deployment[:8] in shown.stdout
    admin.http.post(f"/deployments/{deployment}/stop")
    until(admin, f"/deployments/{deployment}", "stopped")


def test_an_engine_outlives_its_gateway_and_ends_with_ctrl_c(tmp_path: Path, folder: Path) -> None:
    data = tmp_path / "data"
    with nothing_left(data / "engines"), Gateway(data, AIWM_MODEL_PATHS=str(folder)) as gateway:
        admin = gateway.login()
        deployment = deployed(admin, registered(admin, folder / "tiny.gguf"), arguments={"ctx-size": 512})
        until(admin, f"/deployments/{deployment}", "running")
        engines = processes_of(data / "engines")
        for number in (signal.SIGKILL, signal.SIGTERM):
            gateway.stop(number)
            assert processes_of(data / "engines") == engines
            gateway.start()
            answer = admin.http.post(
                f"/deployments/{deployment}/inference/v1/completions", json={"prompt": "Hi", "max_tokens": 1}
            )
            assert answer.status_code == 200, answer.text
        assert processes_of(data / "engines") == engines
        assert gateway.stop(signal.SIGINT) == 0
        assert processes_of(data / "engines") == []


def test_one_command_goes_from_a_file_to_an_endpoint_and_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    data, [port] = tmp_path / "data", free_ports(1)
    settings = {"AIWM_DATA_DIR": str(data), "AIWM_PORT": str(port), "AIWM_IAM_PORT": "0", "COLUMNS": "500"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIWM_")} | settings
    command = [sys.executable, "-m", "aiwm", "run", str(folder / "tiny.gguf"), "--no-chat"]
    with (
        nothing_left(data / "engines"),
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running,
    ):
        assert running.stdout is not None
        shown = ""
        for line in iter(running.stdout.readline, ""):
            shown += line
            if "Ctrl-C stops it" in line:
                break
        found = re.search(r"curl (\S+) -H 'Authorization: Bearer (\S+)'", shown)
        assert found is not None, shown
        client = openai.OpenAI(base_url=found[1].removesuffix("/chat/completions"), api_key=found[2], max_retries=0)
        answer = client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": "Hello"}],
            max_tokens=4,
            extra_body={"ignore_eos": True},  # A model that says anything may also say that it has said all.
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 4
        running.send_signal(signal.SIGINT)
        running.wait(PATIENCE)
