"""What callers do with users, and the user that the first start makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from aiwm.domain.audit import entry, operator
from aiwm.domain.ids import new_id
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.users import (
    Organization,
    Principal,
    Role,
    User,
    UserStatus,
    highest_rank,
    password_problem,
    username_problem,
)
from aiwm.errors import Forbidden, Invalid, NotFound
from aiwm.identity.passwords import Passwords
from aiwm.identity.revocations import Revocations
from aiwm.store.users import UserStore

ADMIN: Final = "admin"
DEFAULT_ORGANIZATION: Final = "default"

_ENDING_SESSIONS: Final = frozenset({"password", "roles", "status", "username"})
"""Changes after which no older token may say what it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    username: str
    password: str
    roles: Sequence[Role]
    org_id: str | None = None
    fullname: str = ""
    status: UserStatus = UserStatus.ACTIVE


class Users:
    """Owners only, and only in the organization they act in: every other user is not found."""

    def __init__(self, *, store: UserStore, passwords: Passwords, revocations: Revocations, clock: Clock) -> None:
        self._store = store
        self._passwords = passwords
        self._revocations = revocations
        self._clock = clock

    async def ensure_admin(self, password: Callable[[], str]) -> str | None:
        """Makes the first organization and its operator unless there has ever been a user.

        Answers the password if this call made the user. `password` is asked only then, and must keep what it
        answers: a program that dies here begins again with the same one.
        """
        if await self._store.any():
            return None
        chosen, now, user_id, org_id = password(), self._clock(), new_id(), new_id()
        history: dict[str, Any] = {
            "created_by": user_id,
            "updated_by": user_id,
            "created_at": now,
            "updated_at": now,
        }
        organization = Organization(id=org_id, name=DEFAULT_ORGANIZATION, description="", **history)
        user = User(
            id=user_id,
            org_id=org_id,
            username=ADMIN,
            fullname="",
            password_hash=await self._passwords.hash(chosen),
            status=UserStatus.ACTIVE,
            roles=(Role.UNIVERSE_OWNER,),
            **history,
        )
        by = operator(org_id)
        told = [entry(by, "create", after=each, at=now) for each in (organization, user)]
        return chosen if await self._store.add_first(organization, user, entries=told) else None

    async def list(self, principal: Principal, query: PageQuery) -> Page[User]:
        principal.require(Role.OWNER)
        return await self._store.list(principal.org_id, query)

    async def get(self, principal: Principal, user_id: str) -> User:
        principal.require(Role.OWNER)
        user = await self._store.get(principal.org_id, user_id)
        if user is None:
            raise NotFound(f"User with ID {user_id} not found")
        return user

    async def create(self, principal: Principal, new: NewUser) -> User:
        principal.require(Role.OWNER)
        caller = principal if new.org_id is None else _acting_in(principal, new.org_id)
        _check(username=new.username, password=new.password, roles=new.roles)
        _require_grantable(caller, new.roles)
        now = self._clock()
        user = User(
            id=new_id(),
            org_id=caller.org_id,
            username=new.username,
            fullname=new.fullname,
            password_hash=await self._passwords.hash(new.password),
            status=new.status,
            roles=_sorted(new.roles),
            created_by=caller.user_id,
            updated_by=caller.user_id,
            created_at=now,
            updated_at=now,
        )
        if not await self._store.add(user, entry=entry(caller, "create", after=user, at=now)):
            raise Invalid(f"Organization with ID {caller.org_id} not found")
        return user

    async def change(self, principal: Principal, user_id: str, given: Mapping[str, Any]) -> User:
        """`given` holds the fields to change, by their names in `NewUser`. The user's sessions end if they must."""
        before = await self._governed(principal, user_id)
        _check(**{name: given[name] for name in ("username", "password", "roles") if name in given})
        _require_grantable(principal, given.get("roles", ()))
        changes = dict(given)
        if "password" in changes:
            if user_id == principal.user_id:
                raise Invalid(["password: is changed with POST /auth/change-password when it is your own"])
            changes["password_hash"] = await self._passwords.hash(changes.pop("password"))
        if "roles" in changes:
            changes["roles"] = _sorted(changes["roles"])
        after = replace(before, **changes, updated_by=principal.user_id, updated_at=self._after(before))
        differing = {name for name in _ENDING_SESSIONS & given.keys() if _differs(before, after, name)}
        told = entry(principal, "change", before=before, after=after, at=after.updated_at)
        await self._revocations.end(await self._store.change(before, after, end_sessions=bool(differing), entry=told))
        return after

    async def delete(self, principal: Principal, user_id: str) -> int:
        """Soft; answers the time of it."""
        before = await self._governed(principal, user_id)
        at = self._after(before)
        told = entry(principal, "delete", before=before, at=at)
        await self._revocations.end(await self._store.delete(before, by=principal.user_id, at=at, entry=told))
        return at

    async def _governed(self, principal: Principal, user_id: str) -> User:
        """A user the caller may change: its new password would give the caller all of its roles."""
        user = await self.get(principal, user_id)
        if highest_rank(user.roles) > principal.rank:
            raise Forbidden(f'User "{user.username}" has a role above yours')
        return user

    def _after(self, before: User) -> int:
        """Now, but later than before: the store tells by this time whether somebody else was quicker."""
        return max(self._clock(), before.updated_at + 1)


def _acting_in(principal: Principal, org_id: str) -> Principal:
    if org_id != principal.org_id and not principal.is_universe_owner:
        raise Forbidden("Only universe.owner may create users of another organization (orgId)")
    return principal.acting_in(org_id)


def _require_grantable(principal: Principal, roles: Sequence[Role]) -> None:
    if above := [role for role in roles if role.rank > principal.rank]:
        raise Forbidden(f"Nobody grants more than they have: {', '.join(above)} is above your own role")


def _check(*, username: str | None = None, password: str | None = None, roles: Sequence[Role] | None = None) -> None:
    """Raises Invalid with one text for each field that is wrong."""
    found = {
        "username": None if username is None else username_problem(username),
        "password": None if password is None else password_problem(password),
        "roles": "must name at least one role" if roles is not None and not roles else None,
    }
    if wrong := [f"{name}: {problem}" for name, problem in found.items() if problem]:
        raise Invalid(wrong)


def _sorted(roles: Sequence[Role]) -> tuple[Role, ...]:
    """Each once, the highest first."""
    return tuple(sorted(set(roles), key=lambda role: -role.rank))


def _differs(before: User, after: User, field: str) -> bool:
    name = "password_hash" if field == "password" else field
    return bool(getattr(before, name) != getattr(after, name))
