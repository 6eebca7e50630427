"""Hostile HTTP against the whole program: each shape is refused with a clear 4xx, and the next request is served.

Parsers and rules have tests of their own (`test_server.py`, `unit/wire`); here is what a caller with a good token can
do to a program that runs.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from gateway import Gateway
from patience import PATIENCE
from planted import MARK
from workers import KINDS

BODY = b'{"messages":[{"role":"user","content":"Hi"}]}'


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    head: bytes
    body: bytes
    closed: bool
    """Whether the program has closed the connection behind it."""

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["message"])


@dataclass(frozen=True, slots=True)
class Target:
    """A program that runs, and a deployment of its demo's provider with and without `allowedModels`."""

    gateway: Gateway
    token: str
    deployment: str
    narrow: str

    def filled_in(self, data: bytes) -> bytes:
        """`{d}`, `{n}` and `{t}` stand for the deployments and the token."""
        given = {b"{d}": self.deployment, b"{n}": self.narrow, b"{t}": self.token}
        for name, value in given.items():
            data = data.replace(name, value.encode())
        return data

    def send(self, data: bytes, *, port: int = 0) -> Answer:
        """What is answered first."""
        data = self.filled_in(data)
        with socket.create_connection(("127.0.0.1", port or self.gateway.port), timeout=PATIENCE) as line:
            with contextlib.suppress(ConnectionError):
                line.sendall(data)
            received = b""
            while b"\r\n\r\n" not in received:
                received += _some(line)
            head, _, body = received.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
            while len(body) < length:
                body += _some(line)
            closed = b"\r\nconnection: close" in head
            if closed:
                assert line.recv(1) == b""
        return Answer(int(head.split(b" ")[1]), head, body, closed)

    def post(self, path: str, body: bytes, *headers: str, content_type: str = "application/json") -> Answer:
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Authorization: Bearer {t}", *headers]
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", "", ""]
        return self.send("\r\n".join(lines).encode("latin-1") + body)

    def require_alive(self) -> None:
        """Whatever was sent before: the next request is served, by inference and by the control plane."""
        assert self.post("/deployments/{d}/inference/v1/chat/completions", BODY).status == 200
        assert self.send(_get("/models")).status == 200


def _some(line: socket.socket) -> bytes:
    piece = line.recv(65536)
    if not piece:
        raise ConnectionResetError("closed without an answer")
    return piece


def _get(path: str, *, host: str = "localhost", more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {{t}}\r\n{more}\r\n".encode("latin-1")


@pytest.fixture(scope="module", params=KINDS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("aiwm")
    with KINDS[request.param](folder, "--demo", AIWM_PRIVATE_UPSTREAMS="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def target(gateway: Gateway) -> Iterator[Target]:
    admin = gateway.login()
    simulator = f"http://127.0.0.1:{gateway.simulator_port}"
    deployment = gateway.deploy(admin, "openai", simulator, model="gpt-4o")
    narrow = gateway.deploy(admin, "openai", simulator, model="gpt-4o", allowedModels=["gpt-4o-mini"])
    target = Target(gateway, admin.token, deployment, narrow)
    yield target
    target.require_alive()
    assert "unexpected error" not in gateway.log
    assert "Traceback" not in gateway.log


# --- paths ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../../../models",
        "v1/../../admin",
        "v1/%2e%2e/x",
        "v1/%2E%2E%2Fx",
        "v1/..%2fx",
        "v1/%252e%252e/x",
        "v1/%25252e%25252e/x",
        "v1/..;/x",
        "v1/.%00./x",
        "v1/%00",
        "v1/%0d%0aX:%20y",
        "v1/%5c..%5cx",
        "v1/..\\\\x",
        "v1//x",
        "v1/%2f/x",
        "v1/%c0%ae%c0%ae/x",
        "v1/%ff",
        "v1/%",
        "v1/%zz",
        "v1/./x",
        "v1/%2e/x",
        "%2e%2e",
        "v1/%" + "25" * 9 + "2e",
    ],
)
def test_a_path_that_might_lead_elsewhere_is_refused(target: Target, path: str) -> None:
    answer = target.send(_get(f"/deployments/{{d}}/inference/{path}"))
    assert answer.status == 400
    assert "path" in answer.message


@pytest.mark.parametrize(
    "path",
    [
        "/models/%00",
        "/models/..%2f..%2fetc",
        "/%2e%2e/models",
        "/models/%ff",
        "/models%0d%0a",
        "//models",
        "/deployments/..%2f{d}/inference/v1/x",
        "/deployments/%00/inference/v1/x",
    ],
)
def test_a_path_of_the_control_plane_means_nothing_but_itself(target: Target, path: str) -> None:
    assert target.send(_get(path)).status in {400, 404}


def test_a_path_that_is_very_long_is_refused(target: Target) -> None:
    assert target.send(_get("/deployments/{d}/inference/" + "x" * 70_000)).closed
    assert target.send(_get("/models/" + "x" * 20_000)).status == 400
    assert target.send(_get("/deployments/" + "x" * 20_000 + "/inference/v1/x")).status == 400


# --- requests that could be two ------------------------------------------------------------------------------

HEAD = (
    b"POST /deployments/{d}/inference/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {t}\r\n"
)
SMUGGLED = b"GET /models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {t}\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 0\r\n\r\n",
        b"Content-Length: 5, 5\r\n\r\nhello",
        b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\n",
        b"X: a\r\n folded: b\r\nContent-Length: 0\r\n\r\n",
        b"X: a\nContent-Length: 0\r\n\r\n",
        b"X: a\rContent-Length: 0\r\n\r\n",
        b"X : a\r\nContent-Length: 0\r\n\r\n",
        b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=[
        "length and chunks",
        "chunks and length",
        "two lengths",
        "a list of lengths",
        "two codings",
        "another coding",
        "folded",
        "bare LF",
        "bare CR",
        "space before the colon",
        "NUL",
        "two hosts",
    ],
)
def test_a_request_that_could_be_two_is_refused_and_what_stands_behind_it_never_read(
    target: Target, rest: bytes
) -> None:
    answer = target.send(HEAD + rest + SMUGGLED)
    assert (answer.status, answer.closed) == (400, True)
    assert answer.head.count(b"HTTP/1.1") == 1


# --- hosts and whole URLs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:3003", "localhost.rebound.example", "x", ""])
def test_a_name_that_is_not_ours_is_misdirected_wherever_it_is_asked(target: Target, host: str) -> None:
    for port in (target.gateway.port, target.gateway.iam_port):
        for path in ("/healthz", "/metrics", "/models", "/auth/profile"):
            answer = target.send(_get(path, host=host), port=port)
            assert answer.status == 421
            assert "AIWM_ALLOWED_HOSTS" in answer.message
    assert target.send(_get("/deployments/{d}/inference/v1/models", host=host)).status == 421


def test_a_name_that_the_operator_has_allowed_is_answered(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("allowed")
    given = {"AIWM_ALLOWED_HOSTS": "a.example", "AIWM_PUBLIC_URL": "https://b.example/aiwm"}
    with Gateway(folder / "data", **given) as gateway:
        target = Target(gateway, "", "", "")
        statuses = {
            host: target.send(_get("/healthz", host=host)).status
            for host in ("a.example", "A.EXAMPLE:80", "b.example", "127.0.0.1", "localhost", "c.example")
        }
    assert statuses.pop("c.example") == 421
    assert set(statuses.values()) == {200}


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://localhost/models", 200),
        ("HTTP://LOCALHOST/models", 200),
        ("http://evil.example/models", 400),
        ("http://localhost@evil.example/models", 400),
        ("http://evil.example@localhost/models", 400),
        ("http://localhost:1/models", 400),
        ("ftp://localhost/models", 400),
        ("*", 400),
        ("/models#x", 400),
    ],
)
def test_a_whole_url_is_the_path_of_this_host_or_refused(target: Target, url: str, status: int) -> None:
    answer = target.send(_get(url))
    assert (answer.status, answer.closed) == (status, status != 200)


# --- sizes ---------------------------------------------------------------------------------------------------


def test_heads_and_bodies_have_an_end(target: Target) -> None:
    for more in ("X: " + "y" * 70_000 + "\r\n", "".join(f"a{n}:\r\n" for n in range(3000)), "x" * 70_000 + ": y\r\n"):
        answer = target.send(_get("/models", more=more))
        assert (answer.status, answer.closed) == (400, True)
    assert target.post("/models", b'{"name":"' + b"x" * (2 << 20) + b'"}').status == 413
    announced = b"Content-Length: 99999999999\r\n\r\n"
    assert target.send(HEAD + announced).status == 413
    assert (
        target.send(
            HEAD.replace(b"/deployments/{d}/inference/v1/chat/completions", b"/models")
            + announced[:-2]
            + b"Content-Type: application/json\r\n\r\n"
            + b"x" * (2 << 20)
        ).status
        == 413
    )


# --- many and slow -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET /models HTTP/1.1\r\nHost: loc", HEAD + b"Content-Length: 100\r\n\r\n{"],
    ids=["nothing", "half a head", "a head"],
)
def test_those_who_never_finish_what_they_send_keep_nobody_from_being_served(target: Target, begun: bytes) -> None:
    with contextlib.ExitStack() as slow:
        for _ in range(200):
            line = slow.enter_context(socket.create_connection(("127.0.0.1", target.gateway.port), timeout=PATIENCE))
            line.sendall(target.filled_in(begun))
        for _ in range(10):
            target.require_alive()


# --- JSON ----------------------------------------------------------------------------------------------------

BROKEN = {
    "empty": b"",
    "malformed": b'{"model":',
    "two": b'{"model":"gpt-4o"}{"model":"gpt-4o"}',
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep lists": b"[" * 500_000,
    "a key twice": b'{"model":"gpt-4o","model":"other"}',
    "a key twice, escaped": b'{"model":"gpt-4o","\\u006dodel":"other"}',
    "no UTF-8": b'{"model":"gpt-4o","x":"\xff\xfe"}',
    "UTF-16": '{"model":"gpt-4o"}'.encode("utf-16"),
    "half a pair": b'{"model":"\\ud800"}',
    "NaN": b'{"model":NaN}',
    "a large number": b'{"model":' + b"9" * 100_000 + b"}",
    "NUL": b'{"model":"\\u0000"}',
    "a byte order mark": b'\xef\xbb\xbf{"model":"other"}',
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN.keys())
def test_broken_json_is_refused_where_it_is_read(target: Target, body: bytes) -> None:
    assert target.post("/models", body).status == 400
    assert target.post("/auth/login", body).status == 400
    # Here what it says decides whether it may go on at all.
    assert target.post("/deployments/{n}/inference/v1/chat/completions", body).status == 400
    # And here the provider says what is wrong with it, whatever that is.
    assert target.post("/deployments/{d}/inference/v1/chat/completions", body).status < 500


# --- what becomes a header -----------------------------------------------------------------------------------

BREAKS = ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b", "\r\n", "a\x7fb", "a\u2028b", "a\x85b"]
MODEL = {
    "name": "m",
    "type": "llm",
    "deploymentType": "api-based",
    "provider": "openai",
    "modelIdentifier": "m",
    "apiEndpoint": "http://127.0.0.1:9",
    "apiConfig": {"apiKey": f"sk-{MARK}-0123456789"},
}


@pytest.mark.parametrize("text", BREAKS)
def test_no_value_that_becomes_a_header_takes_a_line_break_or_a_nul(target: Target, text: str) -> None:
    config = MODEL["apiConfig"]
    assert isinstance(config, dict)
    wrong = [
        MODEL | {"apiConfig": config | {name: text}}
        for name in ("apiKey", "organization", "project", "header-X-Own", "timeout", "anthropic-version", "api-version")
    ]
    wrong += [MODEL | {"apiConfig": config | {f"header-{text}": "x"}}]
    wrong += [MODEL | {name: text} for name in ("name", "provider", "modelIdentifier", "apiEndpoint")]
    for body in wrong:
        answer = target.post("/models", json.dumps(body).encode())
        assert answer.status == 400, body
        assert b"X-Injected" not in answer.head
    for body in ({"allowedModels": [text]}, {"name": text}):
        deploy = {"name": "d", "modelId": "0" * 24} | body
        assert target.post("/deployments", json.dumps(deploy).encode()).status == 400


@pytest.mark.parametrize("value", [b"a\tb", b"\xe9", b"a b", b"x" * 200, b"<script>", b'"', b"%0d%0aX-Injected:1"])
def test_a_correlation_id_that_could_do_harm_is_not_sent_back(target: Target, value: bytes) -> None:
    request = _get("/models").replace(b"\r\n\r\n", b"\r\nX-Correlation-Id: " + value + b"\r\n\r\n")
    answer = target.send(request)
    assert answer.status == 200
    assert value not in answer.head
    assert b"x-correlation-id: " in answer.head


def test_a_header_of_the_callers_is_passed_on_whole_or_not_at_all(target: Target) -> None:
    """What is no header to us never gets as far as the provider."""
    for line in (b"X: a\0b", b"X: a\nY: b", b"X\x00: a", b"X: a\r\n\tb"):
        assert target.send(HEAD + line + b"\r\nContent-Length: 0\r\n\r\n").status == 400
