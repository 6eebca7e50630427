"""Logging in and out, and what users do with their own account."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from aiwm.control.attempts import Attempts
from aiwm.domain.audit import entry
from aiwm.domain.ids import new_id
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Session, User, UserStatus, password_problem, username_key, username_problem
from aiwm.errors import Forbidden, Invalid, NotFound, Unauthorized, WrongState
from aiwm.identity.passwords import Passwords
from aiwm.identity.revocations import Revocations
from aiwm.identity.tokens import TokenSigner
from aiwm.store.sessions import SessionStore
from aiwm.store.users import UserStore

_KEPT_MS: Final = 2 * 86_400_000
"""Ended sessions stay this long, twice as long as an access token can live: other processes must see them end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What a caller gets who has shown who it is. The times are in seconds from now."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    user: User


class Sessions:
    def __init__(
        self,
        *,
        users: UserStore,
        sessions: SessionStore,
        attempts: Attempts,
        passwords: Passwords,
        signer: TokenSigner,
        revocations: Revocations,
        refresh_seconds: int,
        clock: Clock,
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._attempts = attempts
        self._passwords = passwords
        self._signer = signer
        self._revocations = revocations
        self._refresh_seconds = refresh_seconds
        self._clock = clock

    async def login(self, username: str, password: str, *, address: str) -> Login:
        """Raises the same Unauthorized, after the same time, for a wrong user, a wrong password, an inactive user."""
        user = None if username_problem(username) else await self._users.by_username(username)
        if not await self._is_password_of(user, password, username, address) or user is None:
            raise Unauthorized("Invalid credentials")
        if self._passwords.needs_rehash(user.password_hash):
            user = await self._rehashed(user, password)
        return await self._begin(user)

    async def refresh(self, refresh_token: str) -> Login:
        """The token is good once. Showing an old one ends the session: either it or the newer one was stolen."""
        session_id, _, secret = refresh_token.partition(".")
        if not (session_id.isascii() and session_id.isalnum() and secret):
            raise Unauthorized("Invalid refresh token")
        now, fresh = self._clock(), _refresh_token(session_id)
        user_id = await self._sessions.rotate(
            session_id,
            old_hash=_hash(refresh_token),
            new_hash=_hash(fresh),
            now=now,
            expires_at=now + self._refresh_seconds * 1000,
        )
        user = None if user_id is None else await self._users.get(None, user_id)
        if user is None:
            await self._end(session_id)
            raise Unauthorized("Invalid refresh token")
        return self._login(user, session_id, fresh)

    async def logout(self, principal: Principal) -> None:
        await self._end(_own_session(principal))

    async def profile(self, principal: Principal) -> User:
        _refuse_key(principal)
        user = await self._users.get(principal.home_org_id, principal.user_id)
        if user is None:
            raise NotFound(f"User with ID {principal.user_id} not found")
        return user

    async def change_password(self, principal: Principal, current: str, new: str, *, address: str) -> None:
        """Ends all other sessions of the user."""
        session = _own_session(principal)
        if problem := password_problem(new):
            raise Invalid([f"newPassword: {problem}"])
        user = await self.profile(principal)
        if not await self._is_password_of(user, current, user.username, address):
            raise Invalid(["currentPassword: is wrong"])
        after = replace(
            user,
            password_hash=await self._passwords.hash(new),
            updated_by=user.id,
            updated_at=max(self._clock(), user.updated_at + 1),
        )
        told = entry(principal, "change-password", before=user, after=after, at=after.updated_at)
        ended = await self._users.change(user, after, end_sessions=True, keep_session=session, entry=told)
        self._revocations.revoke(ended)

    async def _is_password_of(self, user: User | None, password: str, username: str, address: str) -> bool:
        """Raises TooManyRequests for an account or an address that has failed too often."""
        account, network = username_key(username), _network(address)
        await self._attempts.check(account, network)
        right = await self._passwords.verify(user.password_hash if user else None, password)
        if right and user is not None and user.status is UserStatus.ACTIVE:
            # Asked again: of many guesses at once all have passed the first time.
            await self._attempts.check(account, network)
            await self._attempts.forget(account)
            return True
        await self._attempts.failed(account, network)
        return False

    async def _rehashed(self, user: User, password: str) -> User:
        password_hash = await self._passwords.hash(password)
        await self._users.change_hash(user, password_hash)
        return replace(user, password_hash=password_hash)

    async def _begin(self, user: User) -> Login:
        now, session_id = self._clock(), new_id()
        refresh_token = _refresh_token(session_id)
        session = Session(
            id=session_id,
            user_id=user.id,
            refresh_hash=_hash(refresh_token),
            created_at=now,
            expires_at=now + self._refresh_seconds * 1000,
        )
        if not await self._sessions.add(session, password_hash=user.password_hash, forget_before=now - _KEPT_MS):
            raise Unauthorized("Invalid credentials")
        return self._login(user, session_id, refresh_token)

    def _login(self, user: User, session_id: str, refresh_token: str) -> Login:
        return Login(
            access_token=self._signer.sign(user, session_id),
            expires_in=self._signer.lifetime_seconds,
            refresh_token=refresh_token,
            refresh_expires_in=self._refresh_seconds,
            user=user,
        )

    async def _end(self, session_id: str) -> None:
        if await self._sessions.revoke(session_id, at=self._clock()):
            self._revocations.revoke([session_id])


def _refuse_key(principal: Principal) -> None:
    """A key is its maker's work, not its maker."""
    if principal.api_key_id is not None:
        raise Forbidden("This is an API key, not a login; its organization's owner manages it under /api-keys")


def _own_session(principal: Principal) -> str:
    _refuse_key(principal)
    if not principal.session:
        raise WrongState("This token comes from another identity service: log out or change the password there")
    return principal.session


def _refresh_token(session_id: str) -> str:
    return f"{session_id}.{secrets.token_urlsafe(32)}"


def _hash(refresh_token: str) -> str:
    # Enough for a secret of 256 random bits: there is nothing to guess, so nothing to slow down.
    return sha256(refresh_token.encode("utf-8", "surrogatepass")).hexdigest()


def _network(address: str) -> str:
    """An IPv6 network of one customer counts as one address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
