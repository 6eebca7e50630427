"""Who is calling, for routes of the control plane: `principal: Principal = Depends(authenticated(tokens))`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Protocol

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aiwm.domain.users import Principal
from aiwm.errors import Unauthorized

ORGANIZATION_HEADER = "x-organization-id"


class Tokens(Protocol):
    def known(self, token: bytes) -> Principal | None: ...

    async def verify(self, token: bytes) -> Principal: ...


_bearer = HTTPBearer(auto_error=False, description="The accessToken that POST /auth/login answers")


Authenticate = Callable[..., Awaitable[Principal]]
"""A dependency that gives the caller."""


def authenticated(tokens: Tokens) -> Authenticate:
    """Raises Unauthorized without a good token, Forbidden for a foreign X-Organization-Id."""

    async def principal(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Principal:
        if credentials is None:
            raise Unauthorized
        token = credentials.credentials.encode("latin-1", "replace")
        caller = tokens.known(token) or await tokens.verify(token)
        facts = request.scope["aiwm"]
        facts.user_id, facts.org_id = caller.user_id, caller.home_org_id
        organization = request.headers.get(ORGANIZATION_HEADER)
        if organization is None or organization == caller.org_id:
            return caller
        caller = caller.acting_in(organization)
        facts.acting_for = organization
        return caller

    return principal
