"""AIWM in this process: the real application on a real database, without a server and without logins.

Tokens are signed with a shared secret, as an IAM of the operator's own would: any user of any organization, at once.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from httptools import HttpResponseParser
from joserfc import jwt
from joserfc.jwk import OctKey

import planted
from aiwm.app import Program, running
from aiwm.domain.users import Role
from aiwm.identity.passwords import Passwords
from aiwm.settings import Settings
from aiwm.store.database import Database
from aiwm.web.call import Application, Call
from aiwm.web.head import Head
from fakes import Wire
from people import QUICK

SECRET = planted.SHARED_SECRET
KEY = planted.PROVIDER_KEY
MASKED_KEY = "sk-p…mnop"

RED, BLUE = "a" * 24, "b" * 24
"""Two organizations."""

_numbers = itertools.count(1)


def token(role: Role | None = Role.EDITOR, *, org: str = RED, user: str = "", **claims: Any) -> str:
    """What an IAM gives a user; another user at each call unless one is named."""
    given = {
        "sub": user or f"{next(_numbers):024x}",
        "username": "mai",
        "status": "active",
        "roles": [role] if role else [],
        "orgId": org,
        "exp": int(time.time()) + 600,
    }
    return jwt.encode({"alg": "HS256"}, given | claims, OctKey.import_key(SECRET.encode()))


def api_based(**fields: Any) -> dict[str, Any]:
    """The body of a POST /models that is answered 201."""
    return {
        "name": "GPT-4 Turbo",
        "type": "llm",
        "description": "OpenAI GPT-4 Turbo with 128K context",
        "deploymentType": "api-based",
        "provider": "openai",
        "apiEndpoint": "https://api.openai.com",
        "modelIdentifier": "gpt-4-turbo-2024-11-20",
        "apiConfig": {"apiKey": KEY, "organization": "org-42"},
        "scope": "org",
    } | fields


def self_hosted(**fields: Any) -> dict[str, Any]:
    return {
        "name": "Llama",
        "type": "llm",
        "deploymentType": "self-hosted",
        "repository": "meta-llama/Llama-3.1-8B",
        "framework": "vllm",
    } | fields


@dataclass
class Inside:
    program: Program
    http: httpx2.AsyncClient
    """To AIWM's port."""
    iam: httpx2.AsyncClient
    """To the embedded IAM's."""
    folder: Path
    """The data directory."""
    database: Database
    """A connection of the test's own to the program's database."""
    environment: dict[str, str] = field(default_factory=dict)
    """The server's variables, for `env:NAME`."""

    def contents(self) -> list[str]:
        """All that is in the database, to see that a refused request has changed nothing."""
        with closing(sqlite3.connect(self.folder / "aiwm.db")) as connection:
            return list(connection.iterdump())

    def caller(self, role: Role | None = Role.EDITOR, *, org: str = RED, user: str = "", acting: str = "") -> Caller:
        headers = {"authorization": f"Bearer {token(role, org=org, user=user)}"}
        return Caller(self, headers | ({"x-organization-id": acting} if acting else {}))


@dataclass
class Caller:
    """Who sends requests to AIWM; `iam=True` sends to the embedded IAM."""

    inside: Inside
    headers: Mapping[str, str]

    async def __call__(self, method: str, path: str, *, iam: bool = False, **request: Any) -> httpx2.Response:
        headers = {**self.headers, **request.pop("headers", {})}
        return await (self.inside.iam if iam else self.inside.http).request(method, path, headers=headers, **request)

    async def model(self, **fields: Any) -> dict[str, Any]:
        """Registers a model."""
        return await self._made("/models", self_hosted(**fields) if "repository" in fields else api_based(**fields))

    async def deployment(self, model: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Deploys a model, a new one if none is given."""
        model = model or await self.model()
        return await self._made("/deployments", {"name": "GPT-4 Production", "modelId": model["_id"]} | fields)

    async def _made(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await self("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made


@asynccontextmanager
async def inside(folder: Path, *, environment: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Inside]:
    """The whole program on a data directory of its own. It fetches no models unless a setting says so."""
    environment = {} if environment is None else environment
    options = {"clock": settings.pop("clock")} if "clock" in settings else {}
    given = {
        "data_dir": folder,
        "jwt_secret": SECRET,
        "admin_password": planted.PASSWORD,
        "parallel_downloads": 0,
    } | settings
    seams = {"variable": environment.get, "draining": lambda: False, "passwords": Passwords(QUICK)}
    async with running(Settings(**given), **seams, **options) as program:
        assert program.identity is not None
        # Warnings are looked after for the whole process, test by test: nothing is made on a thread beside them.
        await program.whole
        async with calling(program.gateway) as http, calling(program.identity) as iam:
            database = Database(f"sqlite+aiosqlite:///{folder / 'aiwm.db'}")
            try:
                yield Inside(program, http, iam, folder, database, environment)
            finally:
                await database.aclose()


def calling(application: Application) -> httpx2.AsyncClient:
    """A client of the application, without a network between them."""
    return httpx2.AsyncClient(transport=_Directly(application), base_url="http://localhost")


class _Directly(httpx2.AsyncBaseTransport):
    def __init__(self, application: Application) -> None:
        self._application = application

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        wire, answer = Wire(), _Answer()
        path, _, query = request.url.raw_path.partition(b"?")
        call = Call(
            wire,
            Head(request.method.encode(), path, query, [(name.lower(), value) for name, value in request.headers.raw]),
            length=int(request.headers["content-length"]) if "content-length" in request.headers else None,
            client=("127.0.0.1", 40_000),
        )
        call.receive(await request.aread())
        call.received()
        await self._application(call)
        planted.saw(f"{request.method} {request.url.path}", wire.written)
        answer.parser.feed_data(wire.written)
        return httpx2.Response(answer.parser.get_status_code(), headers=answer.headers, content=answer.body)


class _Answer:
    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        if name != b"transfer-encoding":
            self.headers.append((name, value))

    def on_body(self, piece: bytes) -> None:
        self.body += piece
