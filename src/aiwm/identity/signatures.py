"""Keys that access tokens are signed with, and which algorithm each key stands for.

The key decides the algorithm, never the token: a token that says otherwise finds no key. So an RSA
public key is never taken for an HMAC secret, and `none` is the name of no key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from joserfc.jwk import ECKey, KeySetSerialization, OctKey, OKPKey, RSAKey

from aiwm.identity import keys

VerifyingKey = RSAKey | OctKey | ECKey | OKPKey

DEFAULT_NAME = "aiwm"
"""`iss` and `aud` of the embedded IAM when the operator names none."""


class KeySource(Protocol):
    """Where a verifier finds keys."""

    default_name: str
    """`iss` and `aud` that are required when the operator names none; empty when any will do."""

    async def find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:
        """The key for a token whose header says so, None if there is none. Raises Unavailable if nobody can know."""


class SigningKey(KeySource, Protocol):
    """What the embedded IAM signs with."""

    algorithm: str

    @property
    def key(self) -> RSAKey | OctKey: ...

    def published(self) -> KeySetSerialization:
        """The key set that anybody may see."""


class OwnKey:
    """RS256 with a key pair of our own."""

    algorithm = "RS256"
    default_name = DEFAULT_NAME

    def __init__(self, key: RSAKey) -> None:
        key.ensure_kid()
        self.key = key

    async def find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:
        return self.key if algorithm == self.algorithm and kid in {None, self.key.kid} else None

    def published(self) -> KeySetSerialization:
        return {"keys": [self.key.as_dict(private=False, use="sig", alg=self.algorithm)]}


class SharedSecret:
    """HS256 with a secret that another IAM may know too."""

    algorithm = "HS256"
    default_name = ""

    def __init__(self, secret: str) -> None:
        self.key = OctKey.import_key(secret.encode())

    async def find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:  # noqa: ARG002  (one secret only)
        return self.key if algorithm == self.algorithm else None

    def published(self) -> KeySetSerialization:
        return {"keys": []}


def embedded(directory: Path, shared_secret: str | None) -> OwnKey | SharedSecret:
    """What the embedded IAM signs with: the operator's secret, else the key of the data directory."""
    return OwnKey(keys.signing_key(directory)) if shared_secret is None else SharedSecret(shared_secret)
