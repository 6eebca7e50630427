"""Secrets are planted everywhere they belong, then looked for everywhere they do not."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx2
import pytest

from gateway import ADMIN_PASSWORD, Gateway, post
from planted import MARK

OPENAI_KEY = f"sk-planted/openai-{MARK}-0123456789abcdef"
ANTHROPIC_KEY = f"sk-ant-planted-{MARK}-0123456789abcdef"
HEADER_SECRET = f"planted-header-token-{MARK}-0123456789"
KEYS = (OPENAI_KEY, ANTHROPIC_KEY, HEADER_SECRET)


class Telltale(BaseHTTPRequestHandler):
    """A provider whose error quotes all that it was sent, in the way that the path asks for."""

    protocol_version = "HTTP/1.1"
    received: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
        text = str(self.headers) + body
        self.received.append(text)
        quoted = json.dumps({"error": {"message": text}}).encode()
        self.send_response(200 if "fine" in self.path else 401)
        self.send_header("content-type", "application/json")
        self.send_header("x-quoted", self.headers.get("authorization") or self.headers.get("x-api-key") or "")
        if "gzip" in self.path:
            quoted = gzip.compress(quoted)
            self.send_header("content-encoding", "gzip")
        if "fine" in self.path:
            quoted = b'{"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
        self.send_header("content-length", str(len(quoted)))
        self.end_headers()
        for start in range(0, len(quoted), 7 if "pieces" in self.path else len(quoted)):
            self.wfile.write(quoted[start : start + (7 if "pieces" in self.path else len(quoted))])
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def telltale() -> Iterator[str]:
    Telltale.received.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Telltale) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def shown(answer: httpx2.Response) -> str:
    return f"{answer.status_code} {answer.headers.multi_items()} {answer.text}"


def test_no_secret_is_found_where_it_does_not_belong(tmp_path: Path, telltale: str) -> None:
    folder = tmp_path / "data"
    with Gateway(folder, AIWM_PRIVATE_UPSTREAMS="127.0.0.1", PLANTED_KEY=ANTHROPIC_KEY) as gateway:
        admin = gateway.login()
        configured = {"apiKey": OPENAI_KEY, "header-X-Secret-Token": f"Bearer {HEADER_SECRET}"}
        openai = gateway.deploy(admin, "openai", telltale, config=configured)
        anthropic = gateway.deploy(admin, "anthropic", telltale, config={"x-api-key": "env:PLANTED_KEY"})
        nowhere = gateway.deploy(admin, "openai", "http://127.0.0.1:1", config=configured)
        answers = []
        for deployment in (openai, anthropic, nowhere):
            for path in ("v1/fine", "v1/chat/completions", "v1/gzip", "v1/pieces", "v1/../etc", "v1/messages"):
                for header in ({"authorization": f"Bearer {admin.token}"}, {"x-api-key": admin.token}):
                    url = f"{gateway.inference(deployment)}/{path}"
                    answers.append(post(url, json={"messages": []}, headers={**header, "cookie": "a=b"}))
        paths = ("/models", "/deployments", f"/deployments/{openai}", "/models/nonsense", "/metrics", "/readyz")
        answers += [admin.http.get(path) for path in paths]
        answers.append(
            admin.http.put(f"/models/{'0' * 24}", json={"apiConfig": {"apiKey": OPENAI_KEY, "no": OPENAI_KEY}})
        )
        answers.append(admin.http.post("/models", json={"apiConfig": {"apiKey": OPENAI_KEY}}))
        answers.append(post(f"{gateway.iam_url}/auth/login", json={"username": "admin", "password": OPENAI_KEY}))
        token = admin.token
        made = admin.http.post("/api-keys", json={"name": "A program"}).json()
        secret = made["apiKey"]
        for header in ({"authorization": f"Bearer {secret}"}, {"x-goog-api-key": secret}, {"x-api-key": f"{secret}x"}):
            answers.append(post(f"{gateway.inference(openai)}/v1/messages", json={}, headers=header))
        answers += [
            admin.http.get(path) for path in ("/api-keys", f"/api-keys/{made['_id']}", "/audit", "/usage/requests")
        ]
        answers.append(admin.http.delete(f"/api-keys/{made['_id']}"))
        answers.append(admin.http.get(f"/models?search={secret}"))

    assert {answer.status_code for answer in answers} >= {200, 400, 401, 404, 502}
    for answer in answers:
        for secret in (*KEYS, ADMIN_PASSWORD, token, made["apiKey"]):
            assert secret not in shown(answer), answer.url
            assert json.dumps(secret)[1:-1].replace("/", "\\/") not in shown(answer), answer.url
    # The provider got what is meant for it, and nothing of the caller's.
    assert any(OPENAI_KEY in text and HEADER_SECRET in text for text in Telltale.received)
    assert any(ANTHROPIC_KEY in text for text in Telltale.received)
    assert not [text for text in Telltale.received if token in text or made["apiKey"] in text or "a=b" in text]
    written = {"output": gateway.output.encode(), "log": gateway.log.encode()}
    written |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert any(name.endswith("aiwm.db") for name in written)
    for name, data in written.items():
        for secret in (*KEYS, ADMIN_PASSWORD, token, made["apiKey"]):
            assert secret.encode() not in data, name
