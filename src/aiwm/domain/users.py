"""Organizations, their users, and who is calling."""

from __future__ import annotations

import unicodedata
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
class Session:
    """One login. `refresh_hash` is the SHA-256 of the one refresh token that is good now."""

    id: str
    user_id: str
    refresh_hash: str
    created_at: int
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who is calling, as a verified token or API key says. `org_id` is the organization acted in."""

    user_id: str
    username: str
    org_id: str
    roles: tuple[Role, ...]
    session: str
    """Names the login that the token comes from, or the API key; empty for tokens of another IAM."""
    issued_at: int
    expires_at: int
    """Both in seconds since the epoch, as tokens have them."""
    home_org_id: str
    """The organization the user belongs to; differs from `org_id` only for a universe.owner acting elsewhere."""
    rank: int
    api_key_id: str | None = None
    """The key that was shown; None for a token."""
    deployments: frozenset[str] | None = None
    """The only ones that the key is for; None for all."""
    correlation_id: str = ""
    """Of the request, where what it does is written down."""

    @property
    def is_universe_owner(self) -> bool:
        return Role.UNIVERSE_OWNER in self.roles

    def require(self, role: Role) -> None:
        """Raises Forbidden unless the caller has `role` or one above it."""
        if self.rank < role.rank:
            raise Forbidden(f"This needs the role {role}; you have: {', '.join(self.roles) or 'none'}")

    def require_deployment(self, deployment_id: str) -> None:
        """Raises Forbidden unless the caller's key is for it, whether there is such a deployment or not."""
        if self.deployments is not None and deployment_id not in self.deployments:
            raise Forbidden(f"This API key is not for deployment {deployment_id}")

    def acting_in(self, org_id: str) -> Principal:
        """The same caller in another organization; Forbidden for all but universe.owner."""
        if org_id == self.org_id:
            return self
        if not self.is_universe_owner:
            raise Forbidden("Only universe.owner may act in another organization (X-Organization-Id)")
        return replace(self, org_id=org_id)


def highest_rank(roles: Sequence[Role]) -> int:
    return max((role.rank for role in roles), default=0)


MAX_USERNAME = 100
_MAX_USERNAME_KEY = 200


def username_key(username: str) -> str:
    """What makes a username unique: neither case nor another way to write the same letters makes another user."""
    return unicodedata.normalize("NFKC", username).casefold()


def username_problem(username: str) -> str | None:
    """What is wrong with a username, None if nothing is."""
    if not 3 <= len(username) <= MAX_USERNAME:
        return f"must be 3 to {MAX_USERNAME} characters long"
    # C: controls, invisible ones, half surrogate pairs. Z: every kind of space.
    if any(unicodedata.category(char)[0] in "CZ" for char in username):
        return "must not contain spaces or control characters"
    if len(username_key(username)) > _MAX_USERNAME_KEY:
        return "is too long when its letters are written out"
    return None


def password_problem(password: str) -> str | None:
    """What is wrong with a new password, None if nothing is."""
    if not 8 <= len(password) <= 128:
        return "must be 8 to 128 characters long"
    if any(unicodedata.category(char) == "Cs" for char in password):
        return "must not contain half a surrogate pair"
    return None
