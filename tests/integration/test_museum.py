"""The museum: one test for each class of flaw that was published of gateways like this one, as docs/security.md lists.

What is tried is what the published reports tell; that it fails here is the test.
"""

from __future__ import annotations

import ast
import hmac
import json
import re
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import aiwm
from aiwm.domain.ids import new_id
from aiwm.domain.users import Role
from aiwm.errors import StartError
from aiwm.settings import Settings
from inside import KEY, SECRET, Caller, Inside, api_based, inside, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOURCES = sorted(Path(aiwm.__file__).parent.rglob("*.py"))
CHAT = "/deployments/{}/inference/v1/chat/completions"


@dataclass
class Peer:
    """A server on this machine that keeps all that it is sent."""

    url: str
    received: list[str] = field(default_factory=list)


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer]]:
    """A provider, which sends every caller on to another address; and that address, an attacker's."""
    servers, threads, found = [], [], []
    for number in range(2):
        peer = Peer("")

        class Handler(BaseHTTPRequestHandler):
            mine, redirects = peer, number == 0

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"] or 0)).decode()
                self.mine.received.append(f"{self.requestline}\n{self.headers}{body}")
                self.send_response(307 if self.redirects and "redirect" in self.path else 200)
                self.send_header("location", f"{found[1].url}/v1/stolen")
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST  # noqa: N815 - the name that the library calls

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        peer.url = f"http://127.0.0.1:{server.server_port}"
        servers.append(server)
        found.append(peer)
        threads.append(threading.Thread(target=server.serve_forever))
        threads[-1].start()
    yield found[0], found[1]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Inside]:
    folder = tmp_path_factory.mktemp("museum") / "data"
    async with inside(folder, private_upstreams=("127.0.0.1",), allowed_hosts=("*",), log_level="error") as running:
        yield running


@pytest.fixture
def org() -> str:
    return new_id()


@pytest.fixture
def owner(gateway: Inside, org: str) -> Caller:
    return gateway.caller(Role.OWNER, org=org)


async def _deployed(owner: Caller, peer: Peer) -> str:
    made = await owner.deployment(await owner.model(apiEndpoint=peer.url))
    return str(made["_id"])


async def _new_key(owner: Caller, **fields: Any) -> dict[str, Any]:
    answer = await owner("POST", "/api-keys", json={"name": "A program"} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


# --- who is calling --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "injected",
    ["' OR '1'='1", "' OR 1=1 --", '" OR ""="', "aiwm_sk_' OR 1=1 --", "aiwm_sk_x'); DROP TABLE api_keys; --", "%",
     "aiwm_sk_%", "aiwm_sk_" + "_" * 43, "x' UNION SELECT id FROM api_keys --", "sk-\\' OR 1=1; --"],
)  # fmt: skip
async def test_sql_in_the_authorization_header(gateway: Inside, owner: Caller, injected: str) -> None:
    await _new_key(owner)
    before = gateway.contents()
    for headers in ({"authorization": f"Bearer {injected}"}, {"authorization": injected}, {"x-api-key": injected}):
        for path in ("/models", CHAT.format(new_id())):
            answer = await gateway.http.request("GET" if path == "/models" else "POST", path, headers=headers)
            assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")
    assert gateway.contents() == before


async def test_token_cached_by_its_prefix(gateway: Inside) -> None:
    """All tokens of one algorithm begin alike: a cache that looks at the beginning takes one for the other."""
    first, second = (token(Role.OWNER, org=new_id()) for _ in range(2))
    assert first[:20] == second[:20]
    good = {"authorization": f"Bearer {first}"}
    mine = (await gateway.http.get("/auth/verify-token", headers=good)).json()["user"]
    other = (await gateway.http.get("/auth/verify-token", headers={"authorization": f"Bearer {second}"})).json()["user"]
    assert mine["_id"] != other["_id"]
    assert mine["orgId"] != other["orgId"]
    # The same beginning, or the same signature, of a token that was just good is good for nothing.
    head, body, signature = first.split(".")
    resigned, changed = f"{head}.{body}.{second.split('.')[2]}", f"{head}.{body[:-2]}AA.{signature}"
    for forged in (first[:-1], f"{first}A", resigned, changed, first[:20], first[:200]):
        answer = await gateway.http.get("/models", headers={"authorization": f"Bearer {forged}"})
        assert answer.status_code == 401


async def test_empty_secrets(gateway: Inside, owner: Caller) -> None:
    """Nothing is opened by what is empty: no setting, no signature, no credential, no password, no provider's key."""
    for given in ({"jwt_secret": ""}, {"jwt_secret": "x" * 31}, {"encryption_keys": ""}, {"admin_password": ""}):
        with pytest.raises(StartError):
            Settings.from_env({f"AIWM_{name.upper()}": value for name, value in given.items()})
    claims = {"sub": "x", "orgId": "y", "roles": ["universe.owner"], "exp": int(time.time()) + 600}
    unsigned = token(Role.OWNER).rsplit(".", 1)[0] + "."
    none = ".".join(_segment(part) for part in ({"alg": "none"}, claims)) + "."
    signed = ".".join(_segment(part) for part in ({"alg": "HS256"}, claims))
    empty_key = f"{signed}.{_base64(hmac.digest(b'', signed.encode(), 'sha256'))}"
    for credential in ("", " ", unsigned, none, empty_key, "null", "undefined", "None", "aiwm_sk_"):
        for header in ("authorization", "x-api-key", "x-goog-api-key"):
            value = f"Bearer {credential}" if header == "authorization" else credential
            answer = await gateway.http.post(CHAT.format(new_id()), headers={header: value})
            assert answer.status_code == 401, (header, credential)
    for body in ({"username": "admin", "password": ""}, {"username": "", "password": ""}):
        assert (await gateway.iam.post("/auth/login", json=body)).status_code == 401
    assert (await gateway.iam.post("/auth/refresh-token", json={"refreshToken": ""})).status_code == 401
    for config in ({}, {"apiKey": ""}, {"x-api-key": ""}):
        assert (await owner("POST", "/models", json=api_based(apiConfig=config))).status_code == 400


def _segment(value: dict[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "healthz", "x/healthz?", "x/auth/login#", "x/docs?y=", "aiwm\\@healthz", "../healthz",
     "", "x" * 5000, "admin.internal", "[::1]", "x:0"],
)  # fmt: skip
async def test_host_header_bypass(gateway: Inside, host: str) -> None:
    """What is open is decided by the path of the request line, never by an URL put together with Host."""
    for name in ("host", "x-forwarded-host", "x-original-url", "x-rewrite-url", "forwarded"):
        headers = {"host": "aiwm"} | {name: host if name in {"host", "x-forwarded-host"} else "/healthz"}
        for method, path in (("GET", "/models"), ("GET", "/audit"), ("POST", CHAT.format(new_id()))):
            answer = await gateway.http.request(method, path, headers=headers)
            assert answer.status_code == 401, (name, path)
        # And nothing that is answered is made of it.
        opened = await gateway.http.get("/openapi.json", headers=headers)
        assert host not in {"admin.internal"} or host not in opened.text


# --- what callers may reach ------------------------------------------------------------------------------------


async def test_caller_chosen_api_base(gateway: Inside, owner: Caller, peers: tuple[Peer, Peer]) -> None:
    """A caller who could choose the address would be sent the provider's key."""
    provider, attacker = peers
    path = CHAT.format(await _deployed(owner, provider))
    fields = ("api_base", "base_url", "apiBase", "apiEndpoint", "endpoint", "proxy", "host")
    known = (
        "x-api-base",
        "x-litellm-api-base",
        "x-portkey-custom-host",
        "x-base-url",
        "x-target-url",
        "x-forwarded-host",
    )
    chosen, headers = dict.fromkeys(fields, attacker.url), dict.fromkeys(known, attacker.url)

    answers = [
        await owner("POST", path, json={"messages": [], **chosen, "metadata": chosen, "extra_body": chosen}),
        await owner("POST", path, json={"messages": []}, headers=headers),
        await owner("POST", f"{path}?{'&'.join(f'{name}={url}' for name, url in chosen.items())}", json={}),
        await owner("POST", path.replace("v1/chat", f"{attacker.url}/v1/chat"), json={}),
        await owner("POST", path.replace("v1/chat", f"/{attacker.url.removeprefix('http://')}/v1/chat"), json={}),
        await owner("POST", path.replace("v1/chat", f"@{attacker.url.removeprefix('http://')}/v1/chat"), json={}),
    ]

    assert {answer.status_code for answer in answers} <= {200, 400}
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 200]
    assert len(provider.received) >= 3
    assert attacker.received == []


async def test_redirect_with_the_key(gateway: Inside, owner: Caller, peers: tuple[Peer, Peer]) -> None:
    """Whoever follows a redirect carries the key along."""
    provider, attacker = peers
    path = CHAT.format(await _deployed(owner, provider)).replace("v1/chat", "v1/redirect")

    answer = await owner("POST", path, json={"messages": []})

    assert answer.status_code == 307
    assert answer.headers["location"] == f"{attacker.url}/v1/stolen"
    assert KEY in provider.received[0]
    assert attacker.received == []


async def test_trace_that_reflects_the_key(gateway: Inside, owner: Caller, peers: tuple[Peer, Peer]) -> None:
    """A server answers TRACE with the request that it got: here with the provider's key in it."""
    provider, _ = peers
    path = CHAT.format(await _deployed(owner, provider))

    for method in ("TRACE", "TRACK"):
        answer = await owner(method, path)
        assert (answer.status_code, answer.headers["x-aiwm-error"]) == (405, "gateway")

    assert provider.received == []


async def test_stored_key_sent_to_a_new_address(gateway: Inside, owner: Caller, peers: tuple[Peer, Peer]) -> None:
    """Who may change a model may still not read its key by pointing the model elsewhere."""
    provider, attacker = peers
    model = await owner.model(apiEndpoint=provider.url)
    masked = {"apiConfig": model["apiConfig"]}

    for body in ({"apiEndpoint": attacker.url}, {"apiEndpoint": attacker.url, **masked}):
        assert (await owner("PUT", f"/models/{model['_id']}", json=body)).status_code == 400

    assert (await owner("GET", f"/models/{model['_id']}")).json()["apiEndpoint"] == provider.url


async def test_insecure_direct_object_reference(gateway: Inside, owner: Caller, peers: tuple[Peer, Peer]) -> None:
    """An id is no permission: not in the path, not in a body, not in a filter. Every route: test_role_table.py."""
    provider, _ = peers
    deployment = await _deployed(owner, provider)
    model = (await owner("GET", f"/deployments/{deployment}")).json()["modelId"]
    key = await _new_key(owner)
    stranger = gateway.caller(Role.OWNER)
    before = gateway.contents()

    for method, path, body in (
        ("GET", f"/models/{model}", None),
        ("PUT", f"/models/{model}", {"name": "Mine"}),
        ("DELETE", f"/deployments/{deployment}", None),
        ("POST", f"/deployments/{deployment}/stop", None),
        ("POST", CHAT.format(deployment), {}),
        ("DELETE", f"/api-keys/{key['_id']}", None),
    ):
        answer = await stranger(method, path, **({} if body is None else {"json": body}))
        assert answer.status_code == 404, path
    for path, body in (
        ("/deployments", {"name": "Mine", "modelId": model}),
        ("/api-keys", {"name": "Mine", "deployments": [deployment]}),
    ):
        assert (await stranger("POST", path, json=body)).status_code == 400
    for path in (f"/deployments?modelId={model}", f"/audit?objectId={model}", "/models", "/api-keys"):
        assert (await stranger("GET", path)).json()["data"] == []
    for name in ("orgId", "filter[orgId]", "filter[org_id]", "owner.orgId"):
        answer = await stranger("GET", f"/models?{name}={owner.headers['authorization'][-8:]}")
        assert answer.status_code == 400
    assert gateway.contents() == before
    assert provider.received == []


async def test_mass_assignment_of_roles(gateway: Inside, org: str) -> None:
    """No field of a request makes a caller more than it is."""
    owner, editor = gateway.caller(Role.OWNER, org=org), gateway.caller(Role.EDITOR, org=org)
    before = gateway.contents()
    new = {"username": "mallory", "password": "correct horse", "roles": ["organization.viewer"]}
    for caller, method, path, body in (
        (owner, "POST", "/users", new | {"roles": ["universe.owner"]}),
        (owner, "POST", "/users", new | {"roles": ["organization.viewer", "universe.owner"]}),
        (owner, "POST", "/users", new | {"orgId": new_id()}),
        (owner, "POST", "/users", new | {"isAdmin": True}),
        (owner, "POST", "/users", new | {"_id": new_id()}),
        (owner, "POST", "/users", new | {"createdBy": new_id()}),
        (owner, "POST", "/users", new | {"passwordHash": "x"}),
        (editor, "POST", "/users", new),
        (editor, "PUT", f"/users/{new_id()}", {"roles": ["organization.owner"]}),
        (editor, "POST", "/organizations", {"name": "Mine"}),
    ):
        answer = await caller(method, path, iam=True, json=body)
        assert answer.status_code in {400, 403}, (path, body)
    owned = {"owner": {"orgId": new_id(), "userId": "x"}}
    for path, body in (
        ("/models", api_based() | owned),
        ("/models", api_based() | {"orgId": new_id()}),
        ("/models", api_based() | {"status": "inactive"}),
        ("/api-keys", {"name": "x", "roles": ["organization.owner"]}),
        ("/api-keys", {"name": "x", "role": "organization.owner", "orgId": new_id()}),
        ("/auth/login", {"username": "admin", "password": "x", "roles": ["universe.owner"]}),
    ):
        assert (await owner("POST", path, json=body)).status_code == 400, body
    assert gateway.contents() == before


async def test_like_wildcards(gateway: Inside, owner: Caller) -> None:
    """A % finds what contains a %, not everything."""
    names = ("plain", "100%", "snake_case", "back\\slash", "sl/ash")
    for name in names:
        await owner.model(name=name)

    async def found(search: str) -> set[str]:
        answer = await owner("GET", "/models", params={"search": search, "limit": "100"})
        assert answer.status_code == 200, answer.text
        return {model["name"] for model in answer.json()["data"]}

    assert await found("%") == {"100%"}
    assert await found("_") == {"snake_case"}
    assert await found("\\") == {"back\\slash"}
    assert await found("/") == {"sl/ash"}
    for search in ("%%", "p_ain", "pl%n", "[a-z]", "*", "' OR 1=1 --"):
        assert await found(search) == set(), search


# --- what the program runs -------------------------------------------------------------------------------------

COMMANDS = {
    "command", "commands", "cmd", "args", "argv", "exec", "executable", "script", "shell", "entrypoint", "code", "env",
    "environment", "guardrail", "guardrails", "template", "expression", "python", "lambda", "hook", "plugin", "module",
}  # fmt: skip
"""What the fields were called by which callers had their commands and code run."""


async def test_commands_from_the_api(gateway: Inside) -> None:
    """No field of any request is a command, its arguments, its environment or code; no shell is ever asked."""
    for client in (gateway.http, gateway.iam):
        schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
        assert len(schemas) > 10
        named = {(schema, name) for schema, each in schemas.items() for name in each.get("properties", ())}
        assert [pair for pair in sorted(named) if pair[1].lower() in COMMANDS] == []
    shells = {"os.system", "os.popen", "asyncio.create_subprocess_shell", "subprocess.getoutput"}
    asked = {
        f"{path.name}:{call.lineno}"
        for path, call in _calls()
        if ast.unparse(call.func) in shells
        or any(each.arg == "shell" and not _is_false(each.value) for each in call.keywords)
    }
    assert asked == set()


async def test_guardrail_code_execution(gateway: Inside) -> None:
    """Nothing that a caller, or an administrator, sends is run: the program makes no code out of text or bytes."""
    forbidden = {"eval", "exec", "compile", "__import__", "import_module", "run_path", "run_module", "from_string"}
    made = {
        f"{path.name}:{call.lineno}"
        for path, call in _calls()
        if _name(call) in forbidden and not (isinstance(call.func, ast.Attribute) and _name(call) == "compile")
    }
    assert made == set()
    unsafe = {
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "jinja2",
        "yaml",
        "code",
        "codeop",
        "RestrictedPython",
    }
    imported = {(path.name, name) for path in SOURCES for name in _imports(path)}
    assert {pair for pair in imported if pair[1].split(".")[0] in unsafe} == set()


def _calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path, node


def _name(call: ast.Call) -> str:
    function = call.func
    return (
        function.id if isinstance(function, ast.Name) else function.attr if isinstance(function, ast.Attribute) else ""
    )


def _is_false(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is False


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


# --- where secrets end up --------------------------------------------------------------------------------------


async def test_keys_in_urls_and_logs(
    tmp_path: Path, peers: tuple[Peer, Peer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key in the URL is not read, and neither URLs' queries nor headers nor bodies are logged."""
    provider, _ = peers
    planted = "aiwm-planted-query-0123456789"
    async with inside(
        tmp_path / "data", private_upstreams=("127.0.0.1",), log_level="debug", log_format="json"
    ) as gateway:
        owner = gateway.caller(Role.OWNER, org=new_id())
        path = CHAT.format(await _deployed(owner, provider))
        secret = (await _new_key(owner))["apiKey"]
        for name in ("key", "api_key", "apikey", "token", "access_token", "authorization"):
            assert (await gateway.http.post(f"{path}?{name}={secret}", json={})).status_code == 401
            assert (await gateway.http.get(f"/models?{name}={secret}")).status_code == 401
        program = {"x-goog-api-key": secret}
        assert (
            await gateway.http.post(f"{path}?key={planted}", json={"x": planted}, headers=program)
        ).status_code == 200
        assert (await owner("GET", f"/models?search={planted}")).status_code == 200
        assert (await owner("POST", "/models", json={"apiConfig": {"apiKey": planted}})).status_code == 400
        bad = await gateway.http.get(f"/models/{secret}", headers=owner.headers)
        assert bad.status_code == 400
    # The provider's key is in no URL either.
    assert all(KEY not in received.split("\n")[0] for received in provider.received)
    said = capsys.readouterr()
    assert '"event":"request"' in said.err
    for word in (secret, planted, KEY, owner.headers["authorization"].removeprefix("Bearer "), SECRET):
        assert word not in said.err + said.out


async def test_every_class_is_shown_in_the_document() -> None:
    document = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    shown = set(re.findall(r"`(test_\w+)`", document))
    here = {name for name in vars(sys.modules[__name__]) if name.startswith("test_")} - {
        "test_every_class_is_shown_in_the_document"
    }
    assert here <= shown
