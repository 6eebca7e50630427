"""An embedded IAM on a test database, put together as the program does it, with a clock that tests move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from argon2 import PasswordHasher
from joserfc.jwk import RSAKey

from aiwm.control.attempts import Attempts
from aiwm.control.organizations import Organizations
from aiwm.control.sessions import Login, Sessions
from aiwm.control.users import NewUser, Users
from aiwm.domain.users import Organization, Principal, Role, User
from aiwm.identity.passwords import Passwords
from aiwm.identity.revocations import Revocations
from aiwm.identity.signatures import OwnKey, SharedSecret
from aiwm.identity.tokens import TokenSigner, TokenVerifier
from aiwm.store.attempts import AttemptStore
from aiwm.store.database import Database
from aiwm.store.organizations import OrganizationStore
from aiwm.store.sessions import SessionStore
from aiwm.store.users import UserStore
from planted import MARK

PASSWORD = f"correct {MARK} horse"
KEY = RSAKey.generate_key(2048)
QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


class Clock:
    """Milliseconds, as every clock of ours."""

    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms

    def pass_seconds(self, seconds: float) -> None:
        self.ms += int(seconds * 1000)


class Iam:
    """One process on the database."""

    def __init__(self, database: Database, *, clock: Clock | None = None, key: OwnKey | SharedSecret | None = None):
        key = key or OwnKey(KEY)
        self.clock = clock or Clock()
        self.user_store = UserStore(database)
        self.organization_store = OrganizationStore(database)
        self.session_store = SessionStore(database)
        self.passwords = Passwords(QUICK)
        self.revocations = Revocations(keep_seconds=86_400, clock=self.clock)
        self.signer = TokenSigner(key, lifetime_seconds=3600, clock=self.clock)
        self.verifier = TokenVerifier(key, revocations=self.revocations, clock=self.clock)
        self.users = Users(
            store=self.user_store, passwords=self.passwords, revocations=self.revocations, clock=self.clock
        )
        self.organizations = Organizations(
            store=self.organization_store, revocations=self.revocations, clock=self.clock
        )
        self.sessions = Sessions(
            users=self.user_store,
            sessions=self.session_store,
            attempts=Attempts(store=AttemptStore(database), clock=self.clock),
            passwords=self.passwords,
            signer=self.signer,
            revocations=self.revocations,
            refresh_seconds=86_400,
            clock=self.clock,
        )

    async def login(self, username: str, password: str = PASSWORD, *, address: str = "192.0.2.1") -> Login:
        return await self.sessions.login(username, password, address=address)

    async def caller(self, username: str, password: str = PASSWORD) -> Principal:
        return await self.verifier.verify((await self.login(username, password)).access_token.encode())


@dataclass
class Town:
    """The operator in the organization `default`; the organizations `red` and `blue`, each with an owner."""

    iam: Iam
    admin: Principal
    red: Organization
    blue: Organization
    red_owner: Principal
    blue_owner: Principal

    @classmethod
    async def build(cls, iam: Iam) -> Town:
        await iam.users.ensure_admin(lambda: PASSWORD)
        admin = await iam.caller("admin")
        red = await iam.organizations.create(admin, name="Red", description="The red one")
        blue = await iam.organizations.create(admin, name="Blue", description="")
        for org in (red, blue):
            new = NewUser(username=f"{org.name.lower()}-owner", password=PASSWORD, roles=[Role.OWNER], org_id=org.id)
            await iam.users.create(admin, new)
        return cls(iam, admin, red, blue, await iam.caller("red-owner"), await iam.caller("blue-owner"))

    async def add(
        self, username: str, *roles: Role, by: Principal | None = None, org: Organization | None = None, **more: Any
    ) -> User:
        """A user of `red` unless told otherwise."""
        given: Sequence[Role] = roles or (Role.VIEWER,)
        new = NewUser(username=username, password=PASSWORD, roles=given, org_id=org.id if org else None, **more)
        return await self.iam.users.create(by or (self.admin if org else self.red_owner), new)
