"""AIWM before `aimock`, a fake provider that we did not write: what it sends arrives byte for byte, and is counted.

https://github.com/CopilotKit/aimock
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway import get
from patience import PATIENCE

from .conftest import Deploy

AIMOCK = Path(__file__).parents[1] / "node" / "node_modules" / "@copilotkit" / "aimock" / "dist" / "cli.js"

QUESTION = "What is the capital of France?"
INPUT, OUTPUT = 25, 8
FIXTURES = {
    "fixtures": [
        {
            "match": {"userMessage": QUESTION},
            "response": {
                "content": 'Paris — “la Ville Lumière” 🗼. It has been so, with a few interruptions,\n\n"for ages".',
                "usage": {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT},
            },
        }
    ]
}

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": QUESTION}]}
MESSAGE = {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": QUESTION}]}
CONTENT = {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]}
STREAM = {"stream": True}
COUNTED = {"stream_options": {"include_usage": True}}
GEMINI = "/v1beta/models/gemini-2.5-flash"

CALLS = [
    pytest.param("openai", "/v1/chat/completions", CHAT, id="OpenAI chat"),
    pytest.param("openai", "/v1/chat/completions", CHAT | STREAM | COUNTED, id="OpenAI chat, streamed"),
    pytest.param("openai", "/v1/responses", {"model": "gpt-4o", "input": QUESTION}, id="OpenAI response"),
    pytest.param(
        "openai", "/v1/responses", {"model": "gpt-4o", "input": QUESTION} | STREAM, id="OpenAI response, streamed"
    ),
    pytest.param("anthropic", "/v1/messages", MESSAGE, id="Anthropic message"),
    pytest.param("anthropic", "/v1/messages", MESSAGE | STREAM, id="Anthropic message, streamed"),
    pytest.param("google", f"{GEMINI}:generateContent", CONTENT, id="Gemini content"),
    pytest.param("google", f"{GEMINI}:streamGenerateContent?alt=sse", CONTENT, id="Gemini content, streamed"),
]

# What two answers to the same question may differ in: ids, random but of one length, and the second they were made in.
_ID = re.compile(rb'"(chatcmpl|resp|msg|item)[-_][A-Za-z0-9_-]{16,}"')
_TIME = re.compile(rb'"(created|created_at|completed_at)":[0-9]+')
OF_ONE_ANSWER = {"date", "x-request-id", "connection", "keep-alive", "transfer-encoding", "x-correlation-id"}


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an aimock that knows one question."""
    node = shutil.which("node")
    assert node is not None, "Node.js is missing: ./script/node installs it"
    fixtures = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    fixtures.write_text(json.dumps(FIXTURES))
    with subprocess.Popen(
        [node, str(AIMOCK), "--port", "0", "--fixtures", str(fixtures), "--validate-on-load"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        finally:
            process.terminate()


def post(url: str, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and the body's bytes, with what differs from one answer to the next taken out."""
    with httpx2.stream(
        "POST", url, timeout=PATIENCE, json=body, headers={"accept-encoding": "identity", **headers}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    kept = {name: value for name, value in answer.headers.items() if name not in OF_ONE_ANSWER}
    return answer.status_code, kept, _TIME.sub(rb'"\1":0', _ID.sub(rb'"\1"', raw))


@pytest.mark.parametrize(("provider", "path", "body"), CALLS)
def test_the_answer_through_the_gateway_is_the_answer_without_it(
    aimock: str, deploy: Deploy, provider: str, path: str, body: dict[str, Any]
) -> None:
    deployed = deploy(provider, aimock)
    direct = post(aimock + path, body)
    through = post(deployed.url + path, body, authorization=f"Bearer {deployed.token}")
    assert through == direct
    assert direct[0] == 200
    assert "Paris —".encode() in direct[2]
    assert deployed.used == (1, INPUT + OUTPUT)


@pytest.mark.parametrize(("provider", "path", "body"), CALLS)
def test_the_request_through_the_gateway_is_the_request_without_it(
    aimock: str, deploy: Deploy, provider: str, path: str, body: dict[str, Any]
) -> None:
    deployed = deploy(provider, aimock)
    post(aimock + path, body)
    post(deployed.url + path, body, authorization=f"Bearer {deployed.token}", cookie="not=yours")
    direct, through = get(f"{aimock}/__aimock/journal").json()[-2:]
    assert through["body"] == direct["body"]
    assert (through["method"], through["path"]) == (direct["method"], direct["path"])
    added = set(through["headers"]) - set(direct["headers"])
    assert added <= {"authorization", "x-api-key", "x-goog-api-key", "anthropic-version"}
    assert set(direct["headers"]) - set(through["headers"]) <= {"connection"}
    assert deployed.token not in json.dumps(through)


def test_an_error_of_the_provider_is_passed_on_as_it_is(aimock: str, deploy: Deploy) -> None:
    deployed = deploy("openai", aimock)
    unknown = CHAT | {"messages": [{"role": "user", "content": "What is the capital of Atlantis?"}]}
    direct = post(f"{aimock}/v1/chat/completions", unknown)
    through = post(f"{deployed.url}/v1/chat/completions", unknown, authorization=f"Bearer {deployed.token}")
    assert through == direct
    assert direct[0] >= 400
    assert b"No fixture matched" in direct[2]
    assert deployed.used == (1, 0)
