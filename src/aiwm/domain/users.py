"""Organizations, their users, and who is calling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from aiwm.errors import Forbidden


class Role(StrEnum):
    UNIVERSE_OWNER = "universe.owner"
    OWNER = "organization.owner"
    EDITOR = "organization.editor"
    VIEWER = "organization.viewer"

    @property
    def rank(self) -> int:
        """Each role may do all that those of a lower rank may."""
        return _RANKS[self]


_RANKS = {Role.VIEWER: 1, Role.EDITOR: 2, Role.OWNER: 3, Role.UNIVERSE_OWNER: 4}


class UserStatus(StrEnum):
    ACTIVE = "active"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organization:
    id: str
    name: str
    description: str
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    id: str
    org_id: str
    username: str
    fullname: str
    password_hash: str
    status: UserStatus
    roles: tuple[Role, ...]
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is calling, as a verified token says. `org_id` is the organization acted in."""

    user_id: str
    username: str
    org_id: str
    roles: tuple[Role, ...]
    session: str
    """Names the login that the token comes from; empty for tokens of another IAM."""
    issued_at: int
    expires_at: int
    """Both in seconds since the epoch, as tokens have them."""
    home_org_id: str
    """The organization the user belongs to; differs from `org_id` only for a universe.owner acting elsewhere."""
    rank: int

    @property
    def is_universe_owner(self) -> bool:
        return Role.UNIVERSE_OWNER in self.roles

    def require(self, role: Role) -> None:
        """Raises Forbidden unless the caller has `role` or one above it."""
        if self.rank < role.rank:
            raise Forbidden(f"This needs the role {role}; you have: {', '.join(self.roles) or 'none'}")

    def acting_in(self, org_id: str) -> Principal:
        """The same caller in another organization; Forbidden for all but universe.owner."""
        if org_id == self.org_id:
            return self
        if not self.is_universe_owner:
            raise Forbidden("Only universe.owner may act in another organization (X-Organization-Id)")
        return replace(self, org_id=org_id)


def highest_rank(roles: Sequence[Role]) -> int:
    return max((role.rank for role in roles), default=0)
