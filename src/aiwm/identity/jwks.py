"""The public keys of another IAM, read from the URL of its JSON Web Key Set.

Keys are kept as long as the IAM does not answer: its being down must not stop our callers. They are
read again when they are five minutes old, beside the request that notices, and when a token names a
key that is not there, before that token is judged; never more than once in five seconds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx2
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

from aiwm.domain.times import Clock
from aiwm.errors import Unavailable
from aiwm.identity.signatures import VerifyingKey
from aiwm.logs import Log

_log = Log(__name__)

FETCH_SECONDS: Final = 5.0

_STALE_MS: Final = 300_000
_PAUSE_MS: Final = 5_000
_MAX_BYTES: Final = 1_048_576
_MIN_RSA_BITS: Final = 2048


class RemoteKeys:
    """RS256, ES256 and EdDSA, as the type of each key says. Symmetric keys in the set are not believed."""

    default_name = ""

    def __init__(self, url: str, client: httpx2.AsyncClient, *, clock: Clock) -> None:
        self._url = url
        self._client = client
        self._clock = clock
        self._keys: Sequence[VerifyingKey] | None = None
        self._read_at = 0
        self._tried_at: int | None = None
        self._reading: asyncio.Task[None] | None = None

    async def find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:
        """Raises Unavailable while the key set has never been read."""
        key = self._find(algorithm, kid)
        if key is None:
            await self.refresh()
            key = self._find(algorithm, kid)
        elif self._clock() - self._read_at > _STALE_MS:
            self._start_reading()
        if self._keys is None:
            raise Unavailable("The identity service does not answer; try again")
        return key

    async def refresh(self) -> None:
        """Reads the key set, unless that was tried just now. Callers at the same time share one reading."""
        reading = self._start_reading()
        if reading is not None:
            # A caller who leaves must not take the reading away from the others.
            await asyncio.shield(reading)

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:
        fitting = [key for key in self._keys or () if algorithm in _algorithms(key)]
        if kid is None:
            return fitting[0] if len(fitting) == 1 else None
        return next((key for key in fitting if key.kid == kid), None)

    def _start_reading(self) -> asyncio.Task[None] | None:
        if self._reading is None or self._reading.done():
            now = self._clock()
            if self._tried_at is not None and now - self._tried_at < _PAUSE_MS:
                return None
            self._tried_at = now
            self._reading = asyncio.create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = _keys(await self._fetch())
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            _log.warning(
                "key set can't be read, the old keys stay", url=self._url, reason=str(error) or type(error).__name__
            )
            return
        self._keys = keys
        self._read_at = self._clock()

    async def _fetch(self) -> bytes:
        async with self._client.stream("GET", self._url, headers={"accept": "application/json"}) as response:
            response.raise_for_status()
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"it is larger than {_MAX_BYTES} bytes")
            return body


def _keys(document: bytes) -> list[VerifyingKey]:
    """Raises ValueError for what is no key set with a key in it that we can use."""
    try:
        entries = json.loads(document)["keys"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("it is not a JSON Web Key Set") from None
    keys = [key for key in map(_key, entries if isinstance(entries, list) else []) if key and _algorithms(key)]
    if not keys:
        raise ValueError("it holds no RSA, P-256 or Ed25519 key for signatures")
    return keys


def _key(entry: Any) -> VerifyingKey | None:
    """None for a key we do not understand: others of the set may do (RFC 7517, section 5)."""
    if not isinstance(entry, Mapping) or entry.get("kty") not in {"RSA", "EC", "OKP"}:
        return None
    try:
        key = JWKRegistry.import_key(dict(entry))
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    weak = isinstance(key, RSAKey) and key.public_key.key_size < _MIN_RSA_BITS
    return None if weak or key.get("use", "sig") != "sig" else key


def _algorithms(key: VerifyingKey) -> frozenset[str]:
    match key:
        case RSAKey():
            possible = {"RS256"}
        case ECKey() if key.curve_name == "P-256":
            possible = {"ES256"}
        case OKPKey() if key.curve_name == "Ed25519":
            # The second is the same algorithm's name since RFC 9864.
            possible = {"EdDSA", "Ed25519"}
        case _:
            possible = set()
    return frozenset(possible if key.alg is None else possible & {key.alg})
