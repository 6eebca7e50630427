"""Access tokens and API keys: what our tokens say, and who a credential says is calling.

A credential that was verified once is known by the SHA-256 of all its bytes, so it costs a digest, a look-up and a
comparison; who keeps what is known of it is spared the first two. It is forgotten when it expires, when its session or
key is revoked, and after five minutes at the latest, so that a key which is no longer good is noticed.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import KeySetSerialization

from aiwm.domain import api_keys
from aiwm.domain.api_keys import ApiKey
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role, User, highest_rank
from aiwm.errors import Unauthorized, Unavailable
from aiwm.identity.revocations import Revocations
from aiwm.identity.signatures import DEFAULT_NAME, KeySource, SigningKey

MAX_TOKEN_BYTES: Final = 16_384

FindKey = Callable[[bytes], Awaitable[ApiKey | None]]
"""The API key with that digest, None when there is none. Raises Unavailable if nobody can know."""

_CACHED_TOKENS: Final = 20_000
_CACHED_MS: Final = 300_000
_SKEW_SECONDS: Final = 30
"""How far another IAM's clock may be ahead of ours: a token just issued must not come from the future."""
_MAX_CLAIM: Final = 255
_JTI: Final = re.compile(r"([0-9a-f]{24})\..+")

_ROLES: Final = {str(role): role for role in Role}


class TokenSigner:
    """Writes the access tokens of the embedded IAM."""

    def __init__(
        self, key: SigningKey, *, issuer: str = "", audience: str = "", lifetime_seconds: int, clock: Clock
    ) -> None:
        self._key = key
        self._issuer = issuer or DEFAULT_NAME
        self._audience = audience or DEFAULT_NAME
        self._clock = clock
        self.lifetime_seconds = lifetime_seconds

    def sign(self, user: User, session: str) -> str:
        now = self._clock() // 1000
        claims = {
            "sub": user.id,
            "username": user.username,
            "status": user.status,
            "roles": list(user.roles),
            "orgId": user.org_id,
            "groupId": None,
            "iat": now,
            "exp": now + self.lifetime_seconds,
            "iss": self._issuer,
            "aud": self._audience,
            "jti": f"{session}.{secrets.token_hex(8)}",
        }
        header = {"alg": self._key.algorithm}
        if self._key.published()["keys"]:
            header["kid"] = str(self._key.key.kid)
        return jwt.encode(header, claims, self._key.key, algorithms=[self._key.algorithm])

    def published_keys(self) -> KeySetSerialization:
        """The JSON Web Key Set that others verify our tokens with; empty for a shared secret."""
        return self._key.published()


@dataclass(slots=True)
class Known:
    """What a credential was found to say when it was verified."""

    principal: Principal
    until: int
    """Milliseconds since the epoch: then it is to be verified again. 0 once it is forgotten."""


class TokenVerifier:
    """Tells who is calling."""

    def __init__(
        self,
        keys: KeySource,
        *,
        api_key: FindKey | None = None,
        issuer: str = "",
        audience: str = "",
        revocations: Revocations,
        clock: Clock,
        capacity: int = _CACHED_TOKENS,
    ) -> None:
        self._keys = keys
        self._api_key = api_key
        self._issuer = issuer or keys.default_name
        self._audience = audience or keys.default_name
        self._revocations = revocations
        self._clock = clock
        self._capacity = capacity
        self._known: dict[bytes, Known] = {}
        self._uses: dict[str, int] = {}
        revocations.on_revoked(self._forget)

    def known(self, token: bytes) -> Principal | None:
        """The caller, if this very token was verified lately and is still good. Does no I/O and raises nothing."""
        known = self.seen(token)
        return None if known is None else self.holder(known)

    def seen(self, token: bytes) -> Known | None:
        """What is known of a token that was verified lately: who keeps it need not show the token again."""
        return self._known.get(sha256(token).digest())

    def holder(self, known: Known) -> Principal | None:
        """The caller, if what was known is still good. Does no I/O and raises nothing."""
        now = self._clock()
        if now >= known.until:
            return None
        principal = known.principal
        if principal.api_key_id is not None:
            self._uses[principal.api_key_id] = now
        return principal

    async def verify(self, token: bytes) -> Principal:
        """Raises Unauthorized whatever is wrong with the token, and Unavailable if its key cannot be fetched."""
        known = self.known(token)
        if known is not None:
            return known
        principal = (
            await self._key_holder(token) if api_keys.is_secret(token) else _principal(await self._claims(token))
        )
        # Asked after the last wait: a session that was revoked meanwhile must not get into the cache.
        if principal.session in self._revocations:
            raise Unauthorized
        self._remember(token, principal)
        return principal

    def take_uses(self) -> Mapping[str, int]:
        """Which API keys were shown since this was asked last, and when."""
        uses, self._uses = self._uses, {}
        return uses

    async def _key_holder(self, secret: bytes) -> Principal:
        digest = api_keys.digest(secret)
        try:
            key = None if self._api_key is None else await self._api_key(digest)
        except Unavailable:
            # Known once, and nobody told of its end: a database that is away must not stop our callers.
            known = self._known.get(digest)
            if known is None or self._clock() >= known.principal.expires_at * 1000:
                raise
            principal = known.principal
        else:
            if key is None or not key.is_good(self._clock):
                raise Unauthorized
            principal = key.principal()
        self._uses[str(principal.api_key_id)] = self._clock()
        return principal

    async def _claims(self, token: bytes) -> Mapping[str, Any]:
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthorized
        try:
            algorithm, kid = _header(token)
            key = await self._keys.find(algorithm, kid)
            if key is None:
                raise Unauthorized
            found = jws.deserialize_compact(token, key, registry=_Signature(algorithms=[algorithm]))
            claims = json.loads(found.payload or b"")
            if not isinstance(claims, dict):
                raise Unauthorized
            self._check(claims)
        except (JoseError, ValueError, TypeError, RecursionError):
            raise Unauthorized from None
        return claims

    def _check(self, claims: dict[str, Any]) -> None:
        now = self._clock() // 1000
        rules = jwt.JWTClaimsRegistry(
            now=now,
            leeway=_SKEW_SECONDS,
            sub={"essential": True},
            exp={"essential": True},
            iss={"essential": True, "value": self._issuer} if self._issuer else {},
            aud={"essential": True, "value": self._audience} if self._audience else {},
        )
        rules.validate(claims)
        # The leeway is for clocks that are ahead, not for tokens that are over.
        if claims["exp"] <= now:
            raise Unauthorized

    def _remember(self, token: bytes, principal: Principal) -> None:
        digest, until = sha256(token).digest(), min(principal.expires_at * 1000, self._clock() + _CACHED_MS)
        known = self._known.get(digest)
        if known is not None:
            known.principal, known.until = principal, until
            return
        if len(self._known) >= self._capacity:
            self._known.pop(next(iter(self._known))).until = 0
        self._known[digest] = Known(principal, until)

    def _forget(self, sessions: Collection[str]) -> None:
        dead = [digest for digest, known in self._known.items() if known.principal.session in sessions]
        for digest in dead:
            self._known.pop(digest).until = 0


class _Signature(jws.JWSRegistry):
    """Headers that other IAMs write: certificate chains, and parameters we need not understand (RFC 7515, 4)."""

    max_header_length = MAX_TOKEN_BYTES

    def __init__(self, algorithms: Collection[str]) -> None:
        super().__init__(algorithms=algorithms, strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        # The library's warns that EdDSA has a second name since RFC 9864, at each token.
        if not self.allowed or name not in self.allowed:
            raise Unauthorized
        return self.algorithms[name]


def _header(token: bytes) -> tuple[str, str | None]:
    """The algorithm and key that the token names, before anything of it is believed."""
    segment = token.split(b".", 1)[0]
    header = json.loads(base64.urlsafe_b64decode(segment + b"=" * (-len(segment) % 4)))
    if not isinstance(header, dict) or "crit" in header or "b64" in header:
        raise Unauthorized
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise Unauthorized
    return algorithm, kid


def _principal(claims: Mapping[str, Any]) -> Principal:
    if claims.get("status", "active") != "active":
        raise Unauthorized
    user_id = _name(claims.get("sub"))
    org_id = _name(claims.get("orgId"))
    named = claims.get("roles") or []
    if not isinstance(named, list):
        raise Unauthorized
    roles = tuple(dict.fromkeys(_ROLES[name] for name in named if isinstance(name, str) and name in _ROLES))
    session = _JTI.fullmatch(claims.get("jti") or "")
    return Principal(
        user_id=user_id,
        username=_name(claims.get("username") or user_id),
        org_id=org_id,
        roles=roles,
        session=session[1] if session else "",
        issued_at=int(claims.get("iat") or 0),
        expires_at=int(claims["exp"]),
        home_org_id=org_id,
        rank=highest_rank(roles),
    )


def _name(value: object) -> str:
    """A claim that goes into columns and logs."""
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_CLAIM or not value.isprintable():
        raise Unauthorized
    return value
