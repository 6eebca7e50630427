"""Who is calling, for routes of the control plane: `principal: Principal = Depends(authenticated(tokens))`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Protocol

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from aiwm.domain.users import Principal
from aiwm.errors import Invalid, Unauthorized

ORGANIZATION_HEADER = "x-organization-id"
_LONGEST_ID = 255
"""What the columns hold; another IAM's ids look as they like."""


class Tokens(Protocol):
    def known(self, token: bytes) -> Principal | None: ...

    async def verify(self, token: bytes) -> Principal: ...


_bearer = HTTPBearer(auto_error=False, description="The accessToken that POST /auth/login answers, or an API key")


Authenticate = Callable[..., Awaitable[Principal]]
"""A dependency that gives the caller."""


def authenticated(tokens: Tokens) -> Authenticate:
    """Raises Unauthorized without a good token; for X-Organization-Id Invalid or, when it is foreign, Forbidden."""

    async def principal(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Principal:
        if credentials is None:
            raise Unauthorized
        token = credentials.credentials.encode("latin-1", "replace")
        caller = tokens.known(token) or await tokens.verify(token)
        facts = request.scope["aiwm"]
        caller = replace(caller, correlation_id=facts.correlation_id)
        facts.user_id, facts.org_id, facts.api_key_id = caller.user_id, caller.home_org_id, caller.api_key_id
        organization = request.headers.get(ORGANIZATION_HEADER)
        if organization is None or organization == caller.org_id:
            return caller
        caller = caller.acting_in(organization)
        if not 0 < len(organization) <= _LONGEST_ID or not organization.isprintable():
            raise Invalid("X-Organization-Id is not the id of an organization")
        facts.acting_for = organization
        return caller

    return principal
