"""The URL table of the embedded IAM.

| Path                              | In                 | On the port of |
|-----------------------------------|--------------------|----------------|
| /auth/..., /.well-known/jwks.json | `auth.py`          | both           |
| /users                            | `users.py`         | the IAM        |
| /organizations                    | `organizations.py` | the IAM        |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastapi import APIRouter
from joserfc.jwk import KeySetSerialization

from aiwm.control.organizations import Organizations
from aiwm.control.sessions import Sessions
from aiwm.control.users import Users
from aiwm.iam import auth
from aiwm.iam import organizations as organizations_
from aiwm.iam import users as users_
from aiwm.web.principals import Tokens

PublishedKeys = Callable[[], KeySetSerialization]


def auth_routes(*, sessions: Sessions, tokens: Tokens, published_keys: PublishedKeys) -> APIRouter:
    """What people who run one port need there, too."""
    return auth.router(sessions, tokens, published_keys)


def iam_routes(
    *,
    sessions: Sessions,
    users: Users,
    organizations: Organizations,
    tokens: Tokens,
    published_keys: PublishedKeys,
) -> Sequence[APIRouter]:
    """Everything on the IAM's own port."""
    return [
        auth.router(sessions, tokens, published_keys),
        users_.router(users, tokens),
        organizations_.router(organizations, tokens),
    ]
