"""What callers do with organizations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aiwm.domain.audit import entry
from aiwm.domain.ids import new_id
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.users import Organization, Principal, Role
from aiwm.errors import Conflict, NotFound
from aiwm.identity.revocations import Revocations
from aiwm.store.organizations import OrganizationStore


class Organizations:
    """universe.owner sees, makes and deletes all of them; everybody sees the own one, and its owner may change it."""

    def __init__(self, *, store: OrganizationStore, revocations: Revocations, clock: Clock) -> None:
        self._store = store
        self._revocations = revocations
        self._clock = clock

    async def list(self, principal: Principal, query: PageQuery) -> Page[Organization]:
        principal.require(Role.VIEWER)
        return await self._store.list(None if principal.is_universe_owner else principal.org_id, query)

    async def get(self, principal: Principal, org_id: str) -> Organization:
        principal.require(Role.VIEWER)
        visible = principal.is_universe_owner or org_id == principal.org_id
        organization = await self._store.get(org_id) if visible else None
        if organization is None:
            raise NotFound(f"Organization with ID {org_id} not found")
        return organization

    async def create(self, principal: Principal, *, name: str, description: str) -> Organization:
        principal.require(Role.UNIVERSE_OWNER)
        now = self._clock()
        organization = Organization(
            id=new_id(),
            name=name,
            description=description,
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        await self._store.add(organization, entry=entry(principal, "create", after=organization, at=now))
        return organization

    async def change(self, principal: Principal, org_id: str, given: Mapping[str, Any]) -> Organization:
        """`given` holds the fields to change: name, description."""
        principal.require(Role.OWNER)
        before = await self.get(principal, org_id)
        after = replace(before, **given, updated_by=principal.user_id, updated_at=self._after(before))
        told = entry(principal, "change", before=before, after=after, at=after.updated_at)
        await self._store.change(before, after, entry=told)
        return after

    async def delete(self, principal: Principal, org_id: str) -> int:
        """Soft, with its last user; answers the time of it. Raises Conflict while anything else is in it."""
        principal.require(Role.UNIVERSE_OWNER)
        before = await self.get(principal, org_id)
        if org_id == principal.home_org_id:
            raise Conflict(f'Cannot delete organization "{before.name}". You belong to it yourself.')
        at = self._after(before)
        told = entry(principal, "delete", before=before, at=at)
        await self._revocations.end(await self._store.delete(before, by=principal.user_id, at=at, entry=told))
        return at

    def _after(self, before: Organization) -> int:
        """Now, but later than before: the store tells by this time whether somebody else was quicker."""
        return max(self._clock(), before.updated_at + 1)
