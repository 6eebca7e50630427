"""identity/jwks.py against a server on a real socket that goes away and comes back."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import httpx2
import orjson
from joserfc import jwt
from joserfc.jwk import RSAKey

from aiwm.errors import Unauthorized
from aiwm.identity.jwks import RemoteKeys
from aiwm.identity.revocations import Revocations
from aiwm.identity.tokens import TokenVerifier
from gateway import free_ports
from patience import PATIENCE
from people import Clock

OLD, NEW = RSAKey.generate_key(2048, {"kid": "old"}), RSAKey.generate_key(2048, {"kid": "new"})


class Iam:
    """Another IAM: answers every request with its key set."""

    def __init__(self, *keys: RSAKey) -> None:
        self.keys = keys
        [self.port] = free_ports(1)  # It comes back to it.
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = orjson.dumps({"keys": [key.as_dict(private=False) for key in self.keys]})
        head = f"HTTP/1.1 {HTTPStatus.OK} OK\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()
        writer.close()


async def test_keys_rotate_and_outlive_the_iam() -> None:
    clock, iam = Clock(), Iam(OLD)
    await iam.start()

    async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE) as client:
        keys = RemoteKeys(f"http://127.0.0.1:{iam.port}/.well-known/jwks.json", client, clock=clock)
        verifier = TokenVerifier(keys, revocations=Revocations(keep_seconds=3600, clock=clock), clock=clock)

        async def accepts(key: RSAKey) -> bool:
            # A token that was never seen: nothing is answered from memory.
            claims = {"sub": "u-1", "orgId": "org-1", "exp": clock() // 1000 + 60, "iat": clock() // 1000}
            token = jwt.encode({"alg": "RS256", "kid": str(key.kid)}, claims, key, algorithms=["RS256"])
            try:
                await verifier.verify(token.encode())
            except Unauthorized:
                return False
            return True

        assert await accepts(OLD)
        assert not await accepts(NEW)

        iam.keys = (OLD, NEW)
        clock.pass_seconds(10)
        assert await accepts(NEW)
        assert await accepts(OLD)

        await iam.stop()
        clock.pass_seconds(3600)
        assert await accepts(OLD)
        await keys.refresh()
        assert await accepts(NEW)

        iam.keys = (NEW,)
        await iam.start()
        clock.pass_seconds(10)
        await keys.refresh()
        assert await accepts(NEW)
        assert not await accepts(OLD)
        await keys.aclose()

    await iam.stop()
