"""API keys: how programs say who they are."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role
from aiwm.errors import Invalid

PREFIX: Final = "aiwm_sk_"
_SECRET: Final = re.compile(rb"aiwm_sk_[A-Za-z0-9_-]{43}")
_NEVER: Final = 253_402_300_799
"""The last second that ISO 8601 can write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key of an organization. `user_id` is who made it: the key lives no longer than that user's rights."""

    id: str
    org_id: str
    user_id: str
    name: str
    digest: bytes
    masked: str
    deployments: tuple[str, ...] | None
    """The only ones that it may call; None for all of its organization."""
    expires_at: int | None
    last_used_at: int | None
    """About: it is written down once a minute."""
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int

    def is_good(self, clock: Clock) -> bool:
        return self.expires_at is None or clock() < self.expires_at

    def principal(self) -> Principal:
        """Who calls with this key: a viewer, whatever its maker is."""
        return Principal(
            user_id=self.user_id,
            username=self.name,
            org_id=self.org_id,
            roles=(Role.VIEWER,),
            session=self.id,
            issued_at=self.created_at // 1000,
            expires_at=_NEVER if self.expires_at is None else self.expires_at // 1000,
            home_org_id=self.org_id,
            rank=Role.VIEWER.rank,
            api_key_id=self.id,
            deployments=None if self.deployments is None else frozenset(self.deployments),
        )


def new_secret() -> str:
    """256 random bits behind a prefix by which people and scanners tell what was found."""
    return f"{PREFIX}{secrets.token_urlsafe(32)}"


def is_secret(token: bytes) -> bool:
    """Whether a credential has the form of an API key."""
    return _SECRET.fullmatch(token) is not None


def digest(secret: bytes) -> bytes:
    """What is stored. SHA-256 and nothing slower: there are 256 random bits to guess, so nothing to slow down."""
    return sha256(secret).digest()


def check_expiry(expires_at: int | None, clock: Clock) -> None:
    """Raises Invalid for a key that would be born dead."""
    if expires_at is not None and not clock() < expires_at <= _NEVER * 1000:
        raise Invalid(["expiresAt: must be in the future"])
