"""What callers do with API keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiwm.domain import api_keys
from aiwm.domain.api_keys import ApiKey
from aiwm.domain.audit import entry
from aiwm.domain.ids import new_id
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role
from aiwm.errors import Invalid, NotFound, Unauthorized, Unavailable
from aiwm.identity.revocations import Revocations
from aiwm.logs import Log
from aiwm.store.api_keys import ApiKeyStore
from aiwm.wire.masking import masked

USES_SECONDS: Final = 60
"""How often it is written down which keys were used."""

_log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    name: str
    deployments: tuple[str, ...] | None = None
    expires_at: int | None = None


class ApiKeys:
    """Owners only, and only in the organization they act in: every other key is not found."""

    def __init__(
        self,
        *,
        store: ApiKeyStore,
        revocations: Revocations,
        uses: Callable[[], Mapping[str, int]],
        clock: Clock,
    ) -> None:
        """`uses` gives, and forgets, which keys were shown since it was asked last, and when."""
        self._store = store
        self._revocations = revocations
        self._uses = uses
        self._clock = clock

    async def list(self, principal: Principal, query: PageQuery) -> Page[ApiKey]:
        principal.require(Role.OWNER)
        return await self._store.list(principal.org_id, query)

    async def get(self, principal: Principal, key_id: str) -> ApiKey:
        principal.require(Role.OWNER)
        key = await self._store.get(principal.org_id, key_id)
        if key is None:
            raise NotFound(f"API key with ID {key_id} not found")
        return key

    async def create(self, principal: Principal, new: NewApiKey) -> tuple[ApiKey, str]:
        """The key and its secret, which is nowhere else and is never told again."""
        principal.require(Role.OWNER)
        api_keys.check_expiry(new.expires_at, self._clock)
        secret, now = api_keys.new_secret(), self._clock()
        key = ApiKey(
            id=new_id(),
            org_id=principal.org_id,
            user_id=principal.user_id,
            name=new.name,
            digest=api_keys.digest(secret.encode()),
            masked=masked(secret),
            deployments=None if new.deployments is None else tuple(dict.fromkeys(new.deployments)),
            expires_at=new.expires_at,
            last_used_at=None,
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        missing = await self._store.add(key, entry=entry(principal, "create", after=key, at=now))
        if missing is None:
            raise Unauthorized
        if missing:
            raise Invalid([f"deployments: Deployment with ID {id_} not found" for id_ in missing])
        return key, secret

    async def revoke(self, principal: Principal, key_id: str) -> int:
        """At once on this machine, and within a second on others; answers the time of it."""
        key = await self.get(principal, key_id)
        at = max(self._clock(), key.updated_at + 1)
        told = entry(principal, "revoke", before=key, at=at)
        if not await self._store.revoke(key, by=principal.user_id, at=at, entry=told):
            raise NotFound(f"API key with ID {key_id} not found")
        await self._revocations.end([key_id])
        return at

    async def watch_uses(self, *, every_seconds: float = USES_SECONDS) -> None:
        """Writes down, until cancelled and once more then, which keys were used."""
        try:
            while True:
                await asyncio.sleep(every_seconds)
                await self._write_uses()
        finally:
            await self._write_uses()

    async def _write_uses(self) -> None:
        if uses := self._uses():
            try:
                await self._store.used(uses)
            except Unavailable:
                # Of all that is written this can be missed best: the next use tells as much.
                _log.warning("the database is away: it is not written down which API keys were used", keys=len(uses))
