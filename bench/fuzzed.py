"""What is fuzzed without a network: each part of the path, header and JSON code, and what must hold for any input.

A part is given nearly right input. It may refuse it with an error of ours; everything else that it raises is a bug, and
so is a result that breaks what it promises.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from httptools import HttpRequestParser
from joserfc.jwk import OctKey

from aiwm.domain import times
from aiwm.domain.users import Role
from aiwm.errors import AiwmError, Unauthorized
from aiwm.identity.revocations import Revocations
from aiwm.identity.signatures import SharedSecret
from aiwm.identity.tokens import TokenVerifier
from aiwm.metering.estimate import Estimate, request_chars
from aiwm.metering.reading import Reading
from aiwm.metering.worst_case import Ceilings, worst_case
from aiwm.providers import registry
from aiwm.proxy.handler import INFERENCE
from aiwm.web.bodies import _check as check_body
from aiwm.wire.credentials import caller_token
from aiwm.wire.encodings import UndecodableBody, decoder
from aiwm.wire.forms import ModelInForm
from aiwm.wire.headers import answer_headers, firsts, request_lines
from aiwm.wire.hosts import Hosts
from aiwm.wire.json_splice import with_model, with_stream_usage
from aiwm.wire.json_tail import JsonWatcher
from aiwm.wire.masking import KeyMask
from aiwm.wire.ndjson import LineSplitter
from aiwm.wire.sse import EventSplitter, data_of
from aiwm.wire.urls import base_url, request_target
from aiwm.wire.usage_filter import UsageFilter
from bench.mutations import Mutations

_KEY = b"sk-fuzz/0123456789abcdefghij"
_CHAT = b'{"model":"a-model","messages":[{"role":"user","content":"Hi \\u00e9 \xc3\xa9"}],"stream":true,"n":1.0}'
_BODIES = (
    _CHAT,
    b'{"messages":[],"stream":true,"stream_options":{"include_usage":false}}',
    b' {\r\n"model" : "the-id" , "x":{"model":"inner","a":[{"model":1}]},"stream_options":null,"stream":true}',
    b'{"input":"\\"model\\": \\u006dodel","big":123456789012345678901234567890,"f":1e400}',
    b"{}",
    b'[{"model":"x"}]',
)
_EVENTS = (
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi"}}],"usage":null}\n\n',
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":12}}\n\ndata: [DONE]\n\n',
    b'event: message_start\r\ndata: {"type":"message_start","message":{"usage":{"input_tokens":5}}}\r\n\r\n',
    b'data: {"candidates":[],"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":7,"totalTokenCount":12}}\r\r',
    b': comment\ndata: {"a":\ndata: 1}\n\n',
)
_ANSWERS = (
    b'{"id":"x","model":"m","usage":{"prompt_tokens":9,"completion_tokens":12,"prompt_tokens_details":{"cached_tokens":3}}}',
    b'{"model":"m","service_tier":"default","usage":{"input_tokens":5,"output_tokens":6,"cache_creation":{"x":1}}}',
    b'[{"usageMetadata":{"promptTokenCount":5,"candidatesTokenCount":7,"totalTokenCount":12}}]',
    b'{"usage":{"prompt_tokens":5,"total_tokens":5,"cost":0.00042},"tool_usage":{"web_search":{"num_requests":1}}}',
)
_PATHS = (
    b"v1/chat/completions", b"chat/completions", b"v1beta/models/gemini-pro:generateContent", b"a/b%20c/%E2%82%AC",
    b"v1/files/x.y", b"deployments/gpt-4o/chat/completions", b"v1/%2e%2e/%2e%2e/etc", b"%252e%252e/x", b"..;/x",
    b"a//b",
)  # fmt: skip
_URLS = (
    b"https://api.openai.com/v1", b"http://127.0.0.1:8080/base/path", b"https://[2001:db8::1]:443", b"http://0x7f.1/",
    b"https://b\xc3\xbccher.example/x",
)  # fmt: skip
_HEADS = (
    b"authorization: Bearer abc\nhost: x\ncontent-type: application/json\nconnection: keep-alive, x-a\nx-a: b",
    b"x-api-key: k\nx-forwarded-for: 1.2.3.4\ncookie: a=b\ncontent-length: 5\ntransfer-encoding: chunked\nte: trailers",
    b"set-cookie: a=b\nx-quoted: sk-fuzz/0123456789abcdefghij\nalt-svc: h3\nupgrade: h2c\nconnection: upgrade",
)
_FILE = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF'
_FORMS = (
    b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\na-model\r\n--cut--\r\n',
    b"--cut\r\n%b\r\n--cut\r\ncontent-disposition: form-data; name=model\r\n\r\na-model\r\n--cut--" % _FILE,
)
_HOSTS = (b"localhost:3003", b"[::1]:3003", b"127.0.0.1", b"aiwm.example", b"evil.example:80")
_PROVIDERS = [registry.provider(name) for name in ("openai", "anthropic", "google", "azure", "cohere", "xai", "ollama")]
_SECRET = b"a secret of at least thirty-two bytes"


@dataclass(frozen=True, slots=True)
class Part:
    """`run` raises nothing but errors of ours, and AssertionError where a promise is broken."""

    name: str
    examples: Sequence[bytes]
    run: Callable[[bytes, Mutations], None]


def parts() -> Sequence[Part]:
    return [
        Part("path to the provider", _PATHS, _path),
        Part("address of a provider", _URLS, _address),
        Part("headers, both ways", _HEADS, _headers),
        Part("credentials and tokens", _tokens(), _credentials),
        Part("host", _HOSTS, _host),
        Part("model cut into JSON", _BODIES, _splice),
        Part("JSON of the control plane", _BODIES, _control_body),
        Part("worst case of a request", _BODIES, _worst_case),
        Part("model in a form", _FORMS, _form),
        Part("events and usage in streams", _EVENTS, _stream),
        Part("usage in answers", _ANSWERS, _answer),
        Part("compressed answers", _compressed(), _encoded),
        Part("keys in answers", (b"x" + _KEY + b"y", _KEY[:9] + _KEY, json.dumps(_KEY.decode()).encode()), _mask),
    ]


# -- paths and addresses


def _path(data: bytes, mutations: Mutations) -> None:
    path, _, query = data.partition(b"?")
    for base in (base_url("https://api.example/base/v1"), base_url("https://api.example")):
        target = request_target(base, path, query)
        assert not re.search(rb"[\x00-\x20\x7f-\xff#]", target.partition(b"?")[0]), target
        assert not re.search(rb"[\x00-\x20\x7f#]", target.partition(b"?")[2]), target
        shown = target.partition(b"?")[0]
        for _ in range(10):
            shown = unquote_to_bytes(shown)
        parent = base.path.removesuffix("/v1").encode() or b"/"
        assert posixpath.normpath(shown.replace(b"\\", b"/")).startswith(parent), (target, shown)
    INFERENCE.fullmatch(b"/deployments/" + data)


def _address(data: bytes, mutations: Mutations) -> None:
    base = base_url(data.decode("utf-8", "surrogateescape"))
    assert base.origin.scheme in {"http", "https"}
    assert 1 <= base.origin.port <= 65535
    assert b"\r" not in base.host_header
    assert b"\n" not in base.host_header
    assert b"@" not in base.host_header


# -- headers


def _pairs(data: bytes) -> list[tuple[bytes, bytes]]:
    """As the parser hands them over: no name is empty, and names are in lower case."""
    lines = [line.partition(b": ") for line in data.split(b"\n")]
    return [(name.lower(), value) for name, _, value in lines if re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)]


class _Headers:
    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.ends = 0

    def on_header(self, name: bytes, _: bytes) -> None:
        self.names.append(name)

    def on_message_complete(self) -> None:
        self.ends += 1


def _headers(data: bytes, mutations: Mutations) -> None:
    pairs = _pairs(data)
    first = firsts(pairs)
    for name, value in answer_headers(pairs, first, secrets=(_KEY,)):
        assert _KEY not in value
        assert name not in {b"set-cookie", b"transfer-encoding", b"connection"}
    block = request_lines(pairs, first, replaced=frozenset({b"x-own"}))
    seen = _Headers()
    # Controls are let out of a header only by a parser, which refuses them.
    if not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", block.replace(b"\r\n", b"")):
        HttpRequestParser(seen).feed_data(b"GET / HTTP/1.1\r\n%b\r\n" % block)
        assert seen.ends == 1
    assert not {b"authorization", b"cookie", b"host", b"content-length", b"x-own"} & set(seen.names)


def _tokens() -> Sequence[bytes]:
    from joserfc import jwt

    claims = {"sub": "u", "username": "n", "status": "active", "roles": ["organization.viewer"], "orgId": "o"}
    token = jwt.encode({"alg": "HS256"}, claims | {"exp": 4_000_000_000}, OctKey.import_key(_SECRET))
    return [token.encode(), b"aiwm_sk_" + b"A" * 43, b"eyJhbGciOiJub25lIn0.e30.", b"Bearer x"]


async def _no_key(_: bytes) -> None:
    return None


def _verifier() -> TokenVerifier:
    revocations = Revocations(keep_seconds=60, clock=times.now)
    return TokenVerifier(SharedSecret(_SECRET.decode()), api_key=_no_key, revocations=revocations, clock=times.now)


def _credentials(data: bytes, mutations: Mutations) -> None:
    names = (b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key")
    pairs = [(mutations.chance.choice(names), b"Bearer " + data), (mutations.chance.choice(names), data)]
    caller_token(pairs, firsts(pairs))
    try:
        # It awaits nothing: the secret is at hand.
        _verifier().verify(data).send(None)
    except StopIteration as good:
        principal = good.value
        assert (principal.user_id, principal.org_id, principal.roles) == ("u", "o", (Role.VIEWER,)), data


def _host(data: bytes, mutations: Mutations) -> None:
    Hosts({"aiwm.example"}).require(data)
    name = data.decode("latin-1").lower().rpartition(":")[0] or data.decode("latin-1").lower()
    assert "evil" not in name or name.endswith("localhost"), data


# -- JSON


def _members(text: bytes) -> Any:
    """What the text says, each name as often as it is there."""
    return json.loads(text, object_pairs_hook=lambda pairs: ("object", pairs), parse_float=str, parse_int=str)


def _splice(data: bytes, mutations: Mutations) -> None:
    usage = mutations.chance.random() < 0.5
    plain = with_model(data, model="the-model", aliases=frozenset({"the-id"}), stream_usage=usage)
    _require_same(data, plain.body, is_object=plain.is_object)
    spliced = with_stream_usage(data)
    _require_same(data, spliced.body, is_object=spliced.is_object)
    narrow = with_model(data, model="the-model", aliases=frozenset(), allowed=frozenset({"a-model"}))
    models = [value for name, value in _members(narrow.body)[1] if name == "model"]
    assert models in (["the-model"], ["a-model"]), narrow.body


def _require_same(before: bytes, after: bytes, *, is_object: bool) -> None:
    """The same JSON, but for the model and the question for usage."""
    if not is_object:
        assert after == before
        return
    (_, was), (_, now) = _members(before), _members(after)
    ours = {"model", "stream_options"}
    assert [pair for pair in now if pair[0] not in ours] == [pair for pair in was if pair[0] not in ours]
    models = [value for name, value in was if name == "model"]
    if models and models != ["the-id"]:
        assert [value for name, value in now if name == "model"] == models


def _control_body(data: bytes, mutations: Mutations) -> None:
    check_body(data)
    json.loads(data)


def _worst_case(data: bytes, mutations: Mutations) -> None:
    found = worst_case(data, len(data), Ceilings(1000, 1000))
    assert min(found.input_tokens, found.output_tokens, found.web_searches, found.likely_tokens) >= 0
    assert request_chars(data) >= 0


# -- forms


def _allowed(model: str) -> None:
    if model != "a-model":
        raise Unauthorized


def _form(data: bytes, mutations: Mutations) -> None:
    kind = b"multipart/form-data; boundary=cut"
    cut: list[bytes] = []
    watch = ModelInForm(kind, check=_allowed)
    try:
        cut += (watch.feed(piece) for piece in mutations.pieces(data))
        watch.finish()
        good = True
    except AiwmError:
        good = False
    passed = b"".join(cut)
    assert data.startswith(passed)
    assert good or not passed.endswith((b"--cut--", b"--cut--\r\n"))
    try:
        assert ModelInForm(kind, check=_allowed).whole(data) == "a-model"
        assert good
    except AiwmError:
        assert not good


# -- answers


def _stream(data: bytes, mutations: Mutations) -> None:
    pieces = mutations.pieces(data)
    for splitter in (EventSplitter, LineSplitter):
        at_once, cut = splitter([b'"usage"']), splitter([b'"usage"'])
        whole = [*at_once.feed(data), *at_once.finish()]
        found = [event for piece in pieces for event in cut.feed(piece)]
        assert [*found, *cut.finish()] == whole
    at_once_filter, cut_filter = UsageFilter(), UsageFilter()
    whole_text = at_once_filter.feed(data) + at_once_filter.finish()
    # What has usage in it and is no JSON may keep it or lose it: to tell would cost every event its decoding.
    if all(_is_json(event) for event in re.split(rb"\r\r|\n\n|\r\n\r\n", data) if b"usage" in event):
        assert b"".join([*map(cut_filter.feed, pieces), cut_filter.finish()]) == whole_text
    for provider in _PROVIDERS:
        reading, estimate = Reading(provider.usage), Estimate(provider.usage, EventSplitter)
        events = EventSplitter(provider.usage.markers)
        for piece in pieces:
            estimate.feed(piece)
            for event in events.feed(piece):
                reading.document(event)
        _require_counts(reading)
        assert estimate.chars() >= 0


def _is_json(event: bytes) -> bool:
    try:
        msgspec.json.decode(data_of(event))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _answer(data: bytes, mutations: Mutations) -> None:
    for provider in _PROVIDERS:
        reading, watcher = Reading(provider.usage), JsonWatcher(provider.usage.markers, limit=2000, window=200)
        for piece in mutations.pieces(data):
            watcher.feed(piece)
        document = watcher.document()
        if document is not None:
            reading.document(document)
        for marker in provider.usage.markers:
            found = watcher.last(marker)
            if found is not None:
                reading.usage_object(found)
        _require_counts(reading)


def _require_counts(reading: Reading) -> None:
    usage = reading.usage
    counts = [getattr(usage, name) for name in usage.__struct_fields__]
    assert all(type(count) is int and 0 <= count < 1 << 62 for count in counts), counts
    assert reading.raw is None or json.loads(reading.raw) is not None


def _compressed() -> Sequence[bytes]:
    import gzip
    import zlib

    import brotli
    import zstandard

    text = b"".join(_EVENTS)
    return [gzip.compress(text), zlib.compress(text), brotli.compress(text), zstandard.ZstdCompressor().compress(text)]


def _encoded(data: bytes, mutations: Mutations) -> None:
    for coding in (b"gzip", b"deflate", b"br", b"zstd", b"gzip, br", mutations.bytes([b"gzip, deflate"])):
        try:
            decoding = decoder(coding, max_output=100_000)
            if decoding is not None:
                size = sum(len(decoding.feed(piece)) for piece in mutations.pieces(data)) + len(decoding.finish())
                assert size <= 200_000
        except UndecodableBody:
            continue


def _mask(data: bytes, mutations: Mutations) -> None:
    mask = KeyMask((_KEY, b"other-secret-012345"))
    text = b"".join([*map(mask.feed, mutations.pieces(data)), mask.finish()])
    assert len(text) == len(data)
    assert _KEY not in text
    assert _KEY.replace(b"/", b"\\/") not in text
