"""Nearly right input for everything that reads what others write: the parts by themselves, and a whole AIWM that runs.

Of AIWM, requests are changed byte by byte and sent over real connections, and bodies of the control plane are changed
value by value. It must answer each with what is no error of its own, or close; what comes to the provider must be plain
HTTP; and it must go on serving. Everything follows from the seed, but for what the network does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from httptools import HttpParserError, HttpRequestParser, HttpResponseParser

from aiwm.errors import AiwmError
from bench.figures import Figure, Section
from bench.fuzzed import Part, parts
from bench.mutations import Mutations
from bench.processes import BenchError, Child, free_ports, surroundings

_SLICE_SECONDS = 0.2
_LINES = 8
"""Connections to AIWM at the same time."""
_PATIENCE = 25.0
"""Seconds for an answer: far more than any takes, far less than the server's own patience with a slow caller."""
_QUIET_SECONDS = 0.05
_LONGEST_CPU_SECONDS = 5.0
_MOST_SHOWN = 20
_PASSWORD = "correct horse battery"  # noqa: S105 - of a gateway that lives for minutes, on loopback
_ANSWER = b'{"id":"x","model":"m","usage":{"prompt_tokens":1,"completion_tokens":1}}'


@dataclass(slots=True)
class Found:
    """What came of it."""

    inputs: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, str] = field(default_factory=dict)
    """The first input for each thing that went wrong."""

    def add_wrong(self, what: str, data: bytes) -> None:
        self.wrong.setdefault(what, f"{what}; input: {data[:1500]!r}")


def fuzz(
    folder: Path,
    *,
    seconds: float,
    seed: int | None = None,
    which: Sequence[Part] | None = None,
    workers: int = 1,
) -> Section:
    """For that long, half of it with a running AIWM. Raises BenchError."""
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    mutations, found = Mutations(random.Random(seed)), Found()  # noqa: S311 - inputs, no secrets
    every = parts() if which is None else which
    with asyncio.Runner() as runner:
        runner.run(_fuzz(folder, seconds, mutations, found, every, workers))
    section = Section(f"fuzz: {seconds:g} seconds of nearly right input, seed {seed}", [])
    for name, inputs in found.inputs.items():
        section.figures.append(Figure(name, "inputs", [inputs]))
        section.figures.append(Figure(f"{name}: refused", "", [found.refused[name]]))
    section.wrong += list(found.wrong.values())[:_MOST_SHOWN]
    return section


async def _fuzz(
    folder: Path, seconds: float, mutations: Mutations, found: Found, every: Sequence[Part], workers: int
) -> None:
    async with _running(folder, found, workers) as aiwm:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and len(found.wrong) < _MOST_SHOWN:
            for part in every:
                _slice(part, mutations, found)
            pause = time.monotonic() + _SLICE_SECONDS * max(1, len(every))
            await asyncio.gather(*(aiwm.send(mutations, until=min(pause, ends)) for _ in range(_LINES)))
            await aiwm.require_alive()


# -- parts by themselves


class _Hung(Exception):
    pass


def _slice(part: Part, mutations: Mutations, found: Found) -> None:
    ends = time.monotonic() + _SLICE_SECONDS
    while time.monotonic() < ends:
        data = mutations.bytes(part.examples)
        found.inputs[part.name] += 1
        try:
            with _timed():
                part.run(data, mutations)
        except AiwmError:
            found.refused[part.name] += 1
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            found.add_wrong(f"{part.name}: {_told(error)}", data)


def _told(error: Exception) -> str:
    """What was raised, and where."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {Path(last.filename).name} line {last.lineno}: {str(error)[:300]}"


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    """Raises _Hung when it takes longer than anything should."""

    def hung(*_: object) -> None:
        raise _Hung(f"it takes longer than {_LONGEST_CPU_SECONDS:g} s of CPU time")

    before = signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, _LONGEST_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# -- a whole AIWM


@contextlib.asynccontextmanager
async def _running(folder: Path, found: Found, workers: int) -> AsyncIterator[_Aiwm]:
    provider = await asyncio.get_running_loop().create_server(lambda: _Provider(found), "127.0.0.1", 0)
    [port, iam_port] = free_ports(2)
    settings = {
        "AIWM_DATA_DIR": str(folder / "data"),
        "AIWM_PORT": str(port),
        "AIWM_IAM_PORT": str(iam_port),
        "AIWM_ADMIN_PASSWORD": _PASSWORD,
        "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1",
        "AIWM_LOG_FORMAT": "json",
        "AIWM_PARALLEL_DOWNLOADS": "0",
        "AIWM_WORKERS": str(workers),
    }
    log = folder / "aiwm.log"
    command = [sys.executable, "-m", "aiwm", "serve"]
    child = Child("aiwm", command, cores=os.sched_getaffinity(0), output=log, env=surroundings(settings))
    child.start()
    try:
        await asyncio.to_thread(child.wait_for, port, "GET", "/readyz", {}, b"")
        aiwm = _Aiwm(port, iam_port, child, found)
        await aiwm.prepare(provider.sockets[0].getsockname()[1])
        yield aiwm
    finally:
        await asyncio.to_thread(child.stop)
        provider.close()
    _read(log, found)


def _read(log: Path, found: Found) -> None:
    """What it wrote besides a line for each request is of interest."""
    for line in log.read_bytes().splitlines():
        if b'"event":"request"' not in line and (b'"error"' in line or b"Traceback" in line):
            found.add_wrong(f"the log says {line[:1500].decode(errors='replace')}", b"")


class _Provider(asyncio.Protocol):
    """Answers every request alike; one that is no plain HTTP is what AIWM must never send."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._parser = HttpRequestParser(self)
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - narrows the type
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received = (self._received + data)[-4000:]
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            self._found.add_wrong(f"the provider got what is no plain HTTP: {error}", self._received)
            self._transport.close()

    def on_message_complete(self) -> None:
        method = self._parser.get_method()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
        self._transport.write(head + (b"" if method == b"HEAD" else _ANSWER))
        self._received = b""


class _Answers:
    """What came back on one connection."""

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.statuses: list[int] = []
        self.whole = 0

    def on_message_complete(self) -> None:
        self.whole += 1

    def on_headers_complete(self) -> None:
        self.statuses.append(self.parser.get_status_code())


class _Aiwm:
    def __init__(self, port: int, iam_port: int, child: Child, found: Found) -> None:
        self._port = port
        self._iam_port = iam_port
        self._child = child
        self._found = found
        self._token = ""
        self._examples: list[bytes] = []
        self._bodies: list[tuple[str, str, int, Any]] = []

    async def prepare(self, provider: int) -> None:
        """A model and deployments, and requests that are right."""
        login = await self._call("POST", "/auth/login", {"username": "admin", "password": _PASSWORD})
        self._token = login["accessToken"]
        model = {
            "name": "fuzz", "type": "llm", "deploymentType": "api-based", "provider": "openai",
            "modelIdentifier": "a-model", "apiEndpoint": f"http://127.0.0.1:{provider}/base",
            "apiConfig": {"apiKey": "sk-fuzz-0123456789abcdef"},
        }  # fmt: skip
        model_id = (await self._call("POST", "/models", model))["_id"]
        deploy = {"name": "one", "modelId": model_id}
        one = (await self._call("POST", "/deployments", deploy))["_id"]
        narrow = (await self._call("POST", "/deployments", deploy | {"name": "narrow", "allowedModels": ["b"]}))["_id"]
        for deployment in (one, narrow):
            self._examples += _inference(deployment, self._token)
        chat = {"model": "a-model", "messages": [{"role": "user", "content": "Hi"}], "stream": False, "max_tokens": 5}
        self._bodies = [
            ("POST", "/models", self._port, model | {"prices": [{"input": 1, "output": 2.5}], "scope": "org"}),
            ("PUT", f"/models/{model_id}", self._port, {"description": "x", "prices": [{"input": 1}]}),
            ("POST", "/models", self._port, {
                "name": "h", "type": "llm", "deploymentType": "self-hosted", "repository": "a/b", "framework": "vllm"}),
            ("POST", "/deployments", self._port, {"name": "x", "modelId": "0" * 24, "allowedModels": ["x"]}),
            ("POST", "/api-keys", self._port, {"name": "k", "deployments": [one], "expiresAt": "2030-01-01T00:00:00Z"}),
            ("POST", "/limits", self._port, {
                "subject": {"type": "user", "id": "x"}, "requestsPerMinute": 5, "budget": {"usd": 1, "per": "day"}}),
            ("POST", "/auth/login", self._port, {"username": "nobody", "password": "wrong password"}),
            ("POST", "/auth/refresh-token", self._iam_port, {"refreshToken": "a.b"}),
            ("POST", "/users", self._iam_port, {
                "username": "u", "password": "short", "roles": ["organization.viewer"], "fullname": "U"}),
            ("POST", "/organizations", self._iam_port, {"name": "O", "description": "d"}),
            ("POST", f"/deployments/{one}/inference/v1/chat/completions", self._port, chat),
            ("POST", f"/deployments/{narrow}/inference/v1/chat/completions", self._port, chat),
        ]  # fmt: skip
        self._examples += [
            _request("GET", path, self._token)
            for path in (
                "/models?page=1&limit=5&sort=-createdAt&search=a%25&filter[status]=active",
                f"/models/{model_id}",
                "/usage",
                "/audit?from=2026-01-01&to=2026-02-01",
                "/usage/requests?limit=1",
                "/openapi.json",
                "/metrics",
                "/docs/start.js",
            )
        ]

    async def send(self, mutations: Mutations, *, until: float) -> None:
        while time.monotonic() < until:
            if mutations.chance.random() < 0.6:
                await self._raw(mutations)
            else:
                await self._json(mutations)

    async def _raw(self, mutations: Mutations) -> None:
        """Bytes that are nearly requests."""
        data = mutations.bytes(self._examples)
        if mutations.chance.random() < 0.3:
            data += mutations.bytes(self._examples)
        answers = await self._exchange(self._port, data, mutations.pieces(data))
        self._judge("requests, byte by byte", answers, data)

    async def _json(self, mutations: Mutations) -> None:
        method, path, port, example = mutations.chance.choice(self._bodies)
        body = mutations.json(example)
        data = _request(method, path, self._token, body)
        answers = await self._exchange(port, data, [data], whole=True)
        self._judge("bodies, value by value", answers, data)
        if answers is not None and not answers.statuses:
            self._found.add_wrong(f"a whole request got no answer: {method} {path}", data)

    def _judge(self, name: str, answers: _Answers | None, data: bytes) -> None:
        self._found.inputs[name] += 1
        if answers is None:
            self._found.add_wrong(f"{name}: no end of the answer within {_PATIENCE:g} s", data)
            return
        self._found.refused[name] += any(400 <= status < 500 for status in answers.statuses)
        if errors := [status for status in answers.statuses if status >= 500]:
            self._found.add_wrong(f"{name}: answered {errors[0]}", data)

    async def _exchange(
        self, port: int, data: bytes, pieces: Sequence[bytes], *, whole: bool = False
    ) -> _Answers | None:
        """None when the connection is not closed in time; of a `whole` request without being told that it is all."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        answers = _Answers()
        try:
            async with asyncio.timeout(_PATIENCE):
                for piece in pieces:
                    if writer.is_closing():
                        break
                    writer.write(piece)
                    if len(pieces) > 1:
                        await asyncio.sleep(0)
                while received := await (reader.read(1 << 16) if whole else _read_some(reader, writer, answers)):
                    answers.parser.feed_data(received)
        except TimeoutError:
            return None
        except HttpParserError as error:
            # This reader takes what describes a body for one that has it.
            if b"HEAD" not in data:
                self._found.add_wrong(f"an answer is no plain HTTP: {error}", data)
        except ConnectionError:
            pass  # Refused in the middle of what was sent.
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        return answers

    async def require_alive(self) -> None:
        """Raises BenchError when it died, and when it no longer serves."""
        _ = self._child.pid
        for port, path in ((self._port, "/healthz"), (self._iam_port, "/.well-known/jwks.json")):
            answers = await self._exchange(port, b"", [_request("GET", path, self._token)], whole=True)
            if answers is None or answers.statuses != [200]:
                raise BenchError(f"AIWM no longer answers {path}: {answers and answers.statuses}")

    async def _call(self, method: str, path: str, body: Mapping[str, Any]) -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(_request(method, path, self._token, json.dumps(body).encode()))
        answer = await asyncio.wait_for(reader.read(), _PATIENCE)
        writer.close()
        head, _, text = answer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 20"):
            raise BenchError(f"{method} {path} was answered {answer[:500]!r}")
        return json.loads(text)


async def _read_some(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: _Answers) -> bytes:
    """When nothing comes any more the end is told: AIWM would wait for the rest of what is no whole request."""
    try:
        async with asyncio.timeout(_QUIET_SECONDS if answers.whole else _QUIET_SECONDS * 10):
            return await reader.read(1 << 16)
    except TimeoutError:
        if writer.can_write_eof():
            writer.write_eof()
        return await reader.read(1 << 16)


def _request(method: str, path: str, token: str, body: bytes = b"") -> bytes:
    """One that is right, and the last one of its connection."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _inference(deployment: str, token: str) -> list[bytes]:
    """Requests to a provider, in the ways that callers write them."""
    begin = f"POST /deployments/{deployment}/inference/v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    caller = begin + f"Authorization: Bearer {token}\r\n"
    body = b'{"messages":[{"role":"user","content":"Hi"}],"model":"a-model"}'
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:9], body[9:]))
    form = b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\na-model\r\n--cut--\r\n'
    path = f"/deployments/{deployment}/inference/"
    sized = f"Content-Length: {len(body)}\r\n"
    return [
        (caller + sized + "Content-Type: application/json\r\n\r\n").encode() + body,
        (caller + "Transfer-Encoding: chunked\r\n\r\n").encode() + chunks + b"0\r\n\r\n",
        (caller + sized + "Expect: 100-continue\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n").encode() + body,
        (begin + f"X-Api-Key: {token}\r\n{sized}Connection: close\r\n\r\n").encode() + body,
        (caller.replace("v1/chat/completions", "v1/audio/transcriptions") + f"Content-Length: {len(form)}\r\n").encode()
        + b"Content-Type: multipart/form-data; boundary=cut\r\n\r\n"
        + form,
        f"GET {path}v1/files/a%20b?limit=1 HTTP/1.1\r\nHost: localhost\r\nX-Goog-Api-Key: {token}\r\n\r\n".encode(),
        f"HEAD {path}v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode(),
        f"GET http://localhost{path}v1/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode(),
    ]
