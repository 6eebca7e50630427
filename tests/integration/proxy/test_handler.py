"""One inference request, from the caller's bytes to the provider's and back: models, headers, paths, limits, books."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from callers import Door, answering, fields, request
from fakes import RawPeer, RawServer
from gateway import Gateway
from patience import PATIENCE, eventually
from planted import MARK

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])

SECRET = f"sk-provider-{MARK}-0123456789abcdef"


@pytest.fixture(scope="module")
def door(gateway: Gateway) -> Iterator[Door]:
    door = Door(gateway)
    yield door
    assert door.complaints() == []


@pytest.fixture(scope="module")
def other_tenant(gateway: Gateway) -> Door:
    return Door(gateway, gateway.new_tenant("others"))


def sent(server: RawServer) -> tuple[bytes, bytes]:
    """Head and body of the only request that the provider got."""
    ((head, body),) = [found for peer in server.peers for found in peer.requests]
    return head, body


def target_of(head: bytes) -> str:
    return head.split(b"\r\n", 1)[0].split(b" ")[1].decode()


def usage_answer(document: dict[str, Any], headers: bytes = b"") -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n%b" % (
        len(body),
        headers,
        body,
    )


# -- the model


BODY_PATHS = {
    "openai": ["v1/chat/completions", "v1/responses", "v1/embeddings", "v1/completions", "v1/audio/speech"],
    "tomorrow": ["v1/chat/completions", "chat/completions"],
    "groq": ["openai/v1/chat/completions"],
    "anthropic": ["v1/messages", "v1/messages/count_tokens", "v1/chat/completions"],
    "google": ["v1beta/openai/chat/completions"],
    "azure": ["v1/chat/completions"],
    "cohere": ["v2/chat", "v1/embed", "v2/rerank"],
    "ollama": ["api/chat", "api/generate", "v1/chat/completions"],
}


@pytest.mark.parametrize(
    ("provider", "path"), [(provider, path) for provider, paths in BODY_PATHS.items() for path in paths]
)
async def test_the_model_is_filled_in_where_the_providers_api_takes_one(door: Door, provider: str, path: str) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, provider, "")
        seen = await door.call(deployment, path, body=b' { "a" : 1.0 }\n')
        assert seen.status == 200, seen.body
        assert sent(server)[1] == b' {"model":"a-model", "a" : 1.0 }\n'
        assert (await door.row(deployment))["model_asked"] == "a-model"


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        ("openai", "v1/threads"),
        ("openai", "v1/threads/t/runs"),
        ("openai", "v1/vector_stores"),
        ("openai", "v1/batches"),
        ("openai", "v1/chat/completions/chatcmpl-1"),
        ("openai", "v1/something/new"),
        ("openai", "v1/messages"),
        ("anthropic", "v1/messages/batches"),
        ("anthropic", "v1/responses"),
        ("azure", "deployments/gpt-4o/chat/completions"),
        ("google", "v1beta/models/gemini-pro:generateContent"),
    ],
)
async def test_a_body_on_any_other_path_is_not_touched(door: Door, provider: str, path: str) -> None:
    async with RawServer(answering()) as server:
        seen = await door.call(door.deploy(server.port, provider, ""), path, body=b'{"a":1}')
        assert seen.status == 200
        assert sent(server)[1] == b'{"a":1}'


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
async def test_only_a_post_has_its_model_filled_in(door: Door, method: str) -> None:
    async with RawServer(answering()) as server:
        await door.call(door.deploy(server.port), "v1/chat/completions", method=method, body=b'{"a":1}')
        assert sent(server)[1] == b'{"a":1}'


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b'"model"', b"\x1f\x8b\x08", b'{"a":1}{', b"\xff{}", b'{"model":"gpt-5" , }']
)
async def test_a_body_that_is_no_json_object_goes_on_as_it_is(door: Door, body: bytes) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, "v1/chat/completions", body=body)
        assert seen.status == 200
        assert sent(server)[1] == body
        assert (await door.row(deployment))["model_asked"] is None


@pytest.mark.parametrize("model", ['"gpt-5"', '"g\\u0070t-5"', '""', "null", "7"])
async def test_a_model_that_is_there_stays_as_it_was_written(door: Door, model: str) -> None:
    body = b'{"messages":[{"model":1}], "model" : %b }' % model.encode()
    async with RawServer(answering()) as server:
        seen = await door.call(door.deploy(server.port), "v1/chat/completions", body=body)
        assert seen.status == 200
        assert sent(server)[1] == body


async def test_the_deployments_id_or_name_means_the_deployed_model(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, model="the-model", name='My "best" \u00e9')
        for alias in (deployment, 'My "best" \u00e9'):
            body = b'{"x":[1.0] ,"model" : %b,"y":2}' % json.dumps(alias).encode()
            assert (await door.call(deployment, "v1/chat/completions", body=body)).status == 200
        bodies = [body for peer in server.peers for _, body in peer.requests]
        assert bodies == [b'{"x":[1.0] ,"model" : "the-model","y":2}'] * 2
        assert {row["model_asked"] for row in await door.rows(deployment)} == {"the-model"}


@pytest.mark.parametrize("body", [b'{"model":"a","model":"b"}', b'{"model":"a","x":{},"\\u006dodel":"b"}'])
async def test_two_models_in_one_body_are_refused(door: Door, body: bytes) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, "v1/chat/completions", body=body)
        assert (seen.status, seen.json["message"]) == (400, "The body has more than one 'model'; send it once")
        assert server.peers == []
        assert await door.rows(deployment) == []


ALLOWED = {"model": "a-model", "allowedModels": ["gpt-5-mini"]}


@pytest.mark.parametrize("body", [b"{}", b'{"model":"a-model"}', b'{"model":"gpt-5-mini"}', b'{"model":"allowing"}'])
async def test_a_deployment_passes_the_models_it_allows(door: Door, body: bytes) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, name="allowing", **ALLOWED)
        assert (await door.call(deployment, "v1/chat/completions", body=body)).status == 200


@pytest.mark.parametrize(
    ("provider", "path", "content_type", "body"),
    [
        ("openai", "v1/chat/completions", "application/json", b'{"model":"gpt-5"}'),
        ("openai", "v1/chat/completions", "application/json", b'{"Model":"gpt-5"}'),
        ("openai", "v1/chat/completions", "application/json", b'{"model":7}'),
        ("openai", "v1/chat/completions", "application/json", b"gpt-5"),
        ("openai", "v1/chat/completions", "multipart/form-data; boundary=x", b'{"model":"gpt-5"}'),
        ("openai", "v1/chat/%63ompletions", "application/json", b'{"model":"gpt-5"}'),
        ("openai", "v1/chat/completions/", "application/json", b'{"model":"gpt-5"}'),
        ("groq", "openai/v1/chat/completions", "application/json", b'{"model":"gpt-5"}'),
        ("google", "v1beta/models/gpt-5:generateContent", "application/json", b"{}"),
        ("google", "v1beta/mod%65ls/gpt-5:generateContent", "application/json", b"{}"),
        ("google", "v1beta/models%2Fgpt-5:generateContent", "application/json", b"{}"),
        ("google", "v1beta/models/gpt%2D5:generateContent", "application/json", b"{}"),
        ("google", "v1beta/tunedModels/gpt-5:generateContent", "application/json", b"{}"),
        ("google", "v1beta/openai/chat/completions", "application/json", b'{"model":"gpt-5"}'),
        ("azure", "openai/deployments/gpt-5/chat/completions", "application/json", b"{}"),
    ],
)
async def test_a_deployment_refuses_the_models_it_does_not_allow(
    door: Door, provider: str, path: str, content_type: str, body: bytes
) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, provider, "", **ALLOWED)
        seen = await door.call(deployment, path, headers=[("content-type", content_type)], body=body)
        assert seen.status == 400
        assert "model" in seen.json["message"].lower()
        assert server.peers == []


def form(model: str | None, size: int = 100) -> bytes:
    fields = [b'name="file"; filename="a.wav"\r\n\r\n' + b"x" * size]
    if model is not None:
        fields.append(b'name="model"\r\n\r\n%b' % model.encode())
    return b"".join(b"--cut\r\nContent-Disposition: form-data; %b\r\n" % field for field in fields) + b"--cut--\r\n"


FORM = [("content-type", "multipart/form-data; boundary=cut")]


@pytest.mark.parametrize("path", ["v1/audio/transcriptions", "v1/images/edits", "v1/audio/tr%61nslations/"])
async def test_a_model_in_a_form_is_one_that_the_deployment_allows(door: Door, path: str) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, "openai", "", **ALLOWED)
        body = form("gpt-5-mini")
        assert (await door.call(deployment, path, headers=FORM, body=body)).status == 200
        assert sent(server)[1] == body
        assert (await door.row(deployment))["model_asked"] == "gpt-5-mini"
        for refused in (form("gpt-5"), form(None), b'{"model":"gpt-5"}'):
            seen = await door.call(deployment, path, headers=FORM, body=refused)
            assert (seen.status, "model" in seen.json["message"] or "form" in seen.json["message"]) == (400, True)
        as_json = [("content-type", "application/json")]
        assert (await door.call(deployment, path, headers=as_json, body=b'{"model":"gpt-5"}')).status == 400
        assert (await door.call(deployment, path, headers=[*FORM, *as_json], body=body)).status == 400
        assert len([found for peer in server.peers for found in peer.requests]) == 1


async def test_a_model_behind_a_large_file_is_refused_before_the_provider_has_the_whole_form(door: Door) -> None:
    ended = asyncio.Event()

    async def reading(peer: RawPeer) -> None:
        await peer.closed()
        ended.set()

    async with RawServer(reading) as server:
        deployment = door.deploy(server.port, "openai", "", **ALLOWED)
        body = form("gpt-5", 2_000_000)
        pieces = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
        seen = await door.call(deployment, "v1/audio/transcriptions", headers=FORM, body=pieces)
        assert (seen.status, "is not allowed" in seen.json["message"]) == (400, True)
        await asyncio.wait_for(ended.wait(), PATIENCE)
        assert b"--cut--" not in server.peers[0].received
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, "openai", "", **ALLOWED)
        good = form("a-model", 2_000_000)
        pieces = [good[start : start + 100_000] for start in range(0, len(good), 100_000)]
        assert (await door.call(deployment, "v1/audio/transcriptions", headers=FORM, body=pieces)).status == 200


async def test_a_form_is_nobodys_business_where_every_model_is_allowed(door: Door) -> None:
    async with RawServer(answering()) as server:
        body = b"no form at all"
        deployment = door.deploy(server.port, "openai", "")
        assert (await door.call(deployment, "v1/audio/transcriptions", headers=FORM, body=body)).status == 200
        assert sent(server)[1] == body


@pytest.mark.parametrize("written", ["{id}", "%7Bname%7D", "gemini-x", "my%20model"])
async def test_the_model_in_a_google_path_is_the_deployed_one_where_it_names_the_deployment(
    door: Door, written: str
) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, "google", "/v1beta", model="gemini-2.5-pro", name="{name}")
        named = written.replace("{id}", deployment)
        seen = await door.call(deployment, f"v1beta/models/{named}:streamGenerateContent?alt=sse", body=b"{}")
        assert seen.status == 200
        model = "gemini-2.5-pro" if written in {"{id}", "%7Bname%7D"} else written
        assert target_of(sent(server)[0]) == f"/v1beta/models/{model}:streamGenerateContent?alt=sse"
        asked = {"gemini-x": "gemini-x", "my%20model": "my model"}.get(written, "gemini-2.5-pro")
        assert (await door.row(deployment))["model_asked"] == asked


async def test_the_deployment_in_an_azure_path_is_the_deployed_one_where_it_names_ours(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, "azure", "/openai", model="gpt-4o")
        await door.call(deployment, f"deployments/{deployment}/chat/completions?api-version=1", body=b"{}")
        assert target_of(sent(server)[0]) == "/openai/deployments/gpt-4o/chat/completions?api-version=1"
        assert (await door.row(deployment))["model_asked"] == "gpt-4o"


# -- headers


def caller_side(head: bytes) -> dict[str, str]:
    """What a provider got besides the host, the framing and its own credential."""
    ours = {"host", "content-length", "transfer-encoding", "authorization"}
    return {name: value for name, value in fields(head) if name not in ours}


async def test_what_belongs_to_one_connection_or_to_the_caller_stays_here(door: Door) -> None:
    dropped = {
        "connection": "keep-alive, X-Only-Here",
        "x-only-here": "1",
        "keep-alive": "timeout=5",
        "te": "trailers",
        "trailer": "x-sum",
        "proxy-authorization": "Basic eDp5",
        "proxy-connection": "keep-alive",
        "cookie": "session=1",
        "x-forwarded-for": "10.0.0.1",
        "x-forwarded-host": "a",
        "x-forwarded-anything": "b",
        "forwarded": "for=10.0.0.1",
        "via": "1.1 a",
        "x-real-ip": "10.0.0.1",
        "x-correlation-id": "mine",
        "api-key": "mine",
    }
    kept = {"x-request-id": "r", "user-agent": "u", "accept-encoding": "zstd", "x-stainless-lang": "python"}
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, headers=[*dropped.items(), *kept.items()])
        assert seen.status == 200
        assert caller_side(sent(server)[0]) == kept


@pytest.mark.parametrize(
    "credential",
    [("authorization", "Bearer {}"), ("Authorization", "bearer {}"), ("x-api-key", "{}"), ("x-goog-api-key", "{}")],
)
async def test_a_caller_is_known_by_each_header_that_official_clients_use(
    door: Door, credential: tuple[str, str]
) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, config={"apiKey": SECRET})
        header = (credential[0], credential[1].format(door.caller.token))
        assert (await door.call(deployment, credential=header)).status == 200
        head, _ = sent(server)
    assert dict(fields(head))["authorization"] == f"Bearer {SECRET}"
    assert door.caller.token.encode() not in head
    assert {"x-api-key", "x-goog-api-key"}.isdisjoint(dict(fields(head)))


@pytest.mark.parametrize(
    ("provider", "expected"),
    [
        ("openai", {"authorization": f"Bearer {SECRET}"}),
        ("tomorrow", {"authorization": f"Bearer {SECRET}"}),
        ("mistral", {"authorization": f"Bearer {SECRET}"}),
        ("xai", {"authorization": f"Bearer {SECRET}"}),
        ("cohere", {"authorization": f"Bearer {SECRET}"}),
        ("ollama", {"authorization": f"Bearer {SECRET}"}),
        ("anthropic", {"x-api-key": SECRET, "anthropic-version": "2023-06-01"}),
        ("google", {"x-goog-api-key": SECRET}),
        ("azure", {"api-key": SECRET}),
    ],
)
@pytest.mark.parametrize("name", ["apiKey", "x-api-key"])
async def test_each_provider_gets_its_key_where_it_looks_for_it(
    door: Door, provider: str, expected: dict[str, str], name: str
) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, provider, config={name: SECRET})
        assert (await door.call(deployment, method="GET")).status == 200
        head, _ = sent(server)
    assert dict(fields(head)) == {"host": f"127.0.0.1:{server.port}", **expected}


async def test_headers_of_the_configuration_are_added_and_win_over_the_callers(door: Door) -> None:
    config = {
        "apiKey": SECRET,
        "organization": "org-1",
        "project": "proj-1",
        "header-X-Tenant": "t 1",
        "header-X-Secret-Token": "hidden",
    }
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, config=config)
        headers = [("openai-organization", "org-2"), ("x-tenant", "t 2"), ("openai-beta", "assistants=v2")]
        assert (await door.call(deployment, headers=headers)).status == 200
        head, _ = sent(server)
    found = fields(head)
    assert caller_side(head) == {
        "openai-organization": "org-1",
        "openai-project": "proj-1",
        "x-tenant": "t 1",
        "x-secret-token": "hidden",
        "openai-beta": "assistants=v2",
    }
    assert len(found) == len(dict(found))


@pytest.mark.parametrize(
    ("config", "own", "expected"),
    [
        ({}, None, "2023-06-01"),
        ({"anthropic-version": "2024-01-01"}, None, "2024-01-01"),
        ({"anthropic-version": "2024-01-01"}, "2025-05-05", "2025-05-05"),
        ({}, "2025-05-05", "2025-05-05"),
    ],
)
async def test_the_api_version_of_anthropic_is_the_callers_else_the_configured_one(
    door: Door, config: dict[str, str], own: str | None, expected: str
) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, "anthropic", "", config={"apiKey": SECRET, **config})
        await door.call(deployment, "v1/messages", headers=[("anthropic-version", own)] if own else [])
        head, _ = sent(server)
    assert [value for name, value in fields(head) if name == "anthropic-version"] == [expected]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "?api-version=2024-10-21"),
        ("?a=1", "?a=1&api-version=2024-10-21"),
        ("?api-version=mine", "?api-version=mine"),
        ("?a=1&api-version=", "?a=1&api-version="),
        ("?my-api-version=1", "?my-api-version=1&api-version=2024-10-21"),
    ],
)
async def test_the_api_version_of_azure_is_added_where_the_caller_names_none(
    door: Door, query: str, expected: str
) -> None:
    config = {"apiKey": SECRET, "api-version": "2024-10-21"}
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, "azure", "/openai", config=config)
        await door.call(deployment, f"deployments/d/chat/completions{query}", body=b"{}")
        assert target_of(sent(server)[0]) == f"/openai/deployments/d/chat/completions{expected}"


async def test_the_answers_headers_pass_but_for_those_of_its_connection_and_origin(door: Door) -> None:
    dropped = (
        b"connection: keep-alive, x-only-there\r\nx-only-there: 1\r\nkeep-alive: timeout=5\r\nset-cookie: a=b\r\n"
        b"alt-svc: h3\r\nstrict-transport-security: max-age=1\r\nx-aiwm-error: gateway\r\nx-correlation-id: theirs\r\n"
        b"proxy-authenticate: Basic\r\ntrailer: x\r\nupgrade: h2c\r\n"
    )
    kept = {
        b"date": b"Thu, 01 Jan 1970 00:00:00 GMT",
        b"server": b"theirs",
        b"x-ratelimit-remaining-tokens": b"7",
        b"retry-after": b"3",
        b"cf-ray": b"x",
        b"x-request-id": b"req_1",
        b"content-length": b"2",
    }
    lines = b"".join(b"%b: %b\r\n" % header for header in kept.items())
    async with RawServer(answering(b"HTTP/1.1 200 OK\r\n%b%b\r\nok" % (dropped, lines))) as server:
        seen = await door.call(door.deploy(server.port), headers=[("x-correlation-id", "mine-1")])
    assert dict(seen.headers) == {**kept, b"x-correlation-id": b"mine-1"}
    assert len(seen.headers) == len(kept) + 1


# -- paths


@pytest.mark.parametrize(
    "path",
    [
        "../v1/models",
        "v1/../../admin",
        "v1/..",
        "./v1",
        "v1/%2e%2e/admin",
        "v1/%2E./admin",
        "v1/%252e%252e/admin",
        "v1/..%2fadmin",
        "v1/..;/admin",
        "/v1/models",
        "v1//models",
        "v1/%2fmodels",
        "v1\\..\\admin",
        "v1/%5c..%5cadmin",
        "v1/%255c",
        "v1/%c0%ae%c0%ae/admin",
        "v1/%00",
        "v1/%0d%0ax:y",
        "v1/%",
        "v1/%zz",
    ],
)
async def test_a_path_that_might_leave_the_base_is_refused(door: Door, path: str) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port, base="/tenants/ours")
        seen = await door.call(deployment, path, method="GET")
        assert seen.status == 400
        assert server.peers == []
        assert await door.rows(deployment) == []


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("", "v1/models", "/v1/models"),
        ("/", "v1/models", "/v1/models"),
        ("/v1", "v1/models", "/v1/models"),
        ("/v1/", "v1/models", "/v1/models"),
        ("/v1", "models", "/v1/models"),
        ("/v1", "v1beta/models", "/v1/v1beta/models"),
        ("/api/v1", "v1/models", "/api/v1/models"),
        ("/v1", "", "/v1/"),
        ("/v1", "files/a%2Fb%20c", "/v1/files/a%2Fb%20c"),
        ("/v1", "files/", "/v1/files/"),
        ("/v1", "a.b/c..d/~x:y@z", "/v1/a.b/c..d/~x:y@z"),
    ],
)
async def test_the_path_is_put_behind_the_base_with_one_slash_and_one_version(
    door: Door, base: str, path: str, expected: str
) -> None:
    async with RawServer(answering()) as server:
        await door.call(door.deploy(server.port, base=base), path, method="GET")
        assert target_of(sent(server)[0]) == expected


# -- who may call, and what


@pytest.mark.parametrize(
    "credential",
    [
        ("x-nothing", "x"),
        ("authorization", "Bearer nonsense"),
        ("authorization", "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."),
        ("authorization", "Basic YWRtaW46eA=="),
        ("authorization", ""),
        ("x-api-key", "aiwm_sk_unknown"),
    ],
)
async def test_a_caller_without_a_good_token_is_told_nothing(door: Door, credential: tuple[str, str]) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        for asked in (deployment, "0" * 24, "not-an-id"):
            seen = await door.call(asked, "v1/models", credential=credential)
            assert door.refusal(seen, asked, "v1/models") == (401, "Unauthorized", "Unauthorized")
            assert seen.one(b"www-authenticate") == b"Bearer"
        assert server.peers == []


async def test_a_deployment_of_others_looks_like_one_that_is_not_there(door: Door, other_tenant: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        for asked in (deployment, "0123456789abcdef01234567"):
            seen = await other_tenant.call(asked, "x")
            text = f"Deployment with ID {asked} not found"
            assert door.refusal(seen, asked, "x") == (404, "Not Found", text)
        assert server.peers == []


async def test_an_operator_may_act_in_another_organization_and_others_may_not(door: Door, other_tenant: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = other_tenant.deploy(server.port)
        theirs = ("x-organization-id", other_tenant.caller.user["orgId"])
        assert (await door.call(deployment, "x")).status == 404
        assert (await door.call(deployment, "x", headers=[theirs])).status == 200
        assert "x-organization-id" not in dict(fields(sent(server)[0]))
        ours = ("x-organization-id", door.caller.user["orgId"])
        assert (await other_tenant.call(deployment, "x", headers=[ours])).status == 403


async def test_a_malformed_id_is_named(door: Door) -> None:
    for asked in ("nonsense", "0" * 23, "g" * 24, "%30" * 24):
        assert (await door.call(asked, "x")).status == 400


async def test_a_stopped_deployment_says_so_until_it_is_started_again(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        assert door.caller.http.post(f"/deployments/{deployment}/stop").status_code == 200
        text = "Deployment is not running. Current status: stopped"
        seen = await door.call(deployment, "x")
        assert door.refusal(seen, deployment, "x") == (400, "Bad Request", text)
        assert server.peers == []
        assert door.caller.http.post(f"/deployments/{deployment}/start").status_code == 200
        assert (await door.call(deployment, "x")).status == 200
        assert door.deployment(deployment)["requestCount"] == 1


async def test_a_correlation_id_that_could_do_harm_is_replaced(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        for own in ("a b", "x" * 129, "\u00e9", "<script>"):
            seen = await door.call(deployment, headers=[("x-correlation-id", own)])
            given = seen.one(b"x-correlation-id")
            assert given is not None
            assert given != own.encode("latin-1")


# -- the books


CHAT = {"model": "gpt-5-2026", "choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}


async def test_what_was_answered_is_counted_when_the_answer_is_here(door: Door) -> None:
    async with RawServer(answering(usage_answer(CHAT, b"x-request-id: req_7\r\n"))) as server:
        deployment = door.deploy(server.port)
        for number in range(1, 21):
            seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
            assert seen.status == 200
            shown = door.deployment(deployment)
            assert (shown["requestCount"], shown["totalTokens"]) == (number, 18 * number)
        rows = await door.rows(deployment)
    assert len(rows) == len({row["request_id"] for row in rows}) == 20
    row = rows[0]
    assert (row["end"], row["source"], row["status"], row["streamed"]) == ("complete", "provider", 200, 0)
    assert (row["input_tokens"], row["output_tokens"]) == (11, 7)
    assert (row["model_asked"], row["model_answered"]) == ("a-model", "gpt-5-2026")
    assert (row["provider"], row["provider_request_id"]) == ("openai", "req_7")
    assert (row["user_id"], row["org_id"]) == (door.caller.user["_id"], door.caller.user["orgId"])
    assert json.loads(row["raw_usage"]) == CHAT["usage"]
    assert 0 <= row["first_byte_ms"] <= row["total_ms"]


async def test_the_count_is_right_though_the_caller_asks_for_it_on_the_next_packet(door: Door) -> None:
    async with RawServer(answering(usage_answer(CHAT))) as server:
        deployment = door.deploy(server.port)
        async with await door.line() as line:
            for number in range(1, 30):
                asked = request("POST", door.path(deployment, "v1/chat/completions"), [door.bearer], b"{}")
                await line.send(asked + request("GET", f"/deployments/{deployment}", [door.bearer]))
                await line.body(await line.head())
                shown = await line.body(await line.head())
                assert shown.json["requestCount"] == number


async def test_an_error_of_the_provider_has_a_row_without_tokens(door: Door) -> None:
    error = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\ncontent-length: 2\r\n\r\n{}"
    async with RawServer(answering(error)) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment, "v1/chat/completions", body=b"{}")
        assert (seen.status, seen.body, seen.one(b"retry-after")) == (429, b"{}", b"7")
        row = await door.row(deployment)
    assert (row["status"], row["end"], row["source"], row["input_tokens"]) == (429, "complete", "none", 0)


async def test_a_row_carries_the_correlation_id_of_its_answer(door: Door) -> None:
    async with RawServer(answering()) as server:
        deployment = door.deploy(server.port)
        seen = await door.call(deployment)
        row = await door.row(deployment)
    assert row["correlation_id"].encode() == seen.one(b"x-correlation-id")

    async def logged() -> bool:
        return any(row["correlation_id"] in line and deployment in line for line in door.gateway.log.splitlines())

    await eventually(logged)


async def test_a_model_name_that_no_database_takes_is_counted_all_the_same(door: Door) -> None:
    answer = {**CHAT, "model": "a\x00b"}
    async with RawServer(answering(usage_answer(answer))) as server:
        deployment = door.deploy(server.port)
        body = json.dumps({"model": "x\x00" * 300}).encode()
        assert (await door.call(deployment, "v1/chat/completions", body=body)).status == 200
        row = await door.row(deployment)
    assert row["input_tokens"] == 11
    assert "\x00" not in row["model_asked"] + row["model_answered"]
    assert len(row["model_asked"]) <= 200
