"""Logging in over HTTP, what follows from it, and the keys that others verify our tokens with."""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from joserfc.jwk import KeySetSerialization
from pydantic import Field

from aiwm.control.sessions import Login, Sessions
from aiwm.domain import times
from aiwm.domain.users import Principal, Role, UserStatus
from aiwm.iam.users import UserAnswer, user_json
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, problems

_Password = Annotated[str, Field(max_length=1024)]


class LoginBody(Body):
    username: Annotated[str, Field(max_length=256)]
    password: _Password


class RefreshBody(Body):
    refresh_token: Annotated[str, Field(max_length=256)]


class PasswordChange(Body):
    current_password: _Password
    new_password: _Password


class Account(Answer):
    id: str = Field(alias="_id")
    username: str
    status: UserStatus
    roles: list[Role]
    org_id: str


class LoginAnswer(Answer):
    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    token_type: str
    user: Account


class VerifyAnswer(Answer):
    valid: bool
    user: Account
    expires_at: str


class Done(Answer):
    message: str


class PublishedKeys(Answer):
    keys: list[dict[str, Any]]


def router(sessions: Sessions, tokens: Tokens, published_keys: Callable[[], KeySetSerialization]) -> APIRouter:
    routes = APIRouter(tags=["auth"])
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post("/auth/login", responses={200: {"model": LoginAnswer}, **problems(400, 401, 429)})
    async def login(body: LoginBody, request: Request, response: Response) -> dict[str, Any]:
        """Show who you are; the access token goes into `Authorization: Bearer`."""
        return _answer(await sessions.login(body.username, body.password, address=_address(request)), request, response)

    @routes.post("/auth/refresh-token", responses={200: {"model": LoginAnswer}, **problems(400, 401)})
    async def refresh_token(body: RefreshBody, request: Request, response: Response) -> dict[str, Any]:
        """Get another access token without the password. Each refresh token is good once; an old one ends the login."""
        return _answer(await sessions.refresh(body.refresh_token), request, response)

    @routes.post("/auth/logout", responses={200: {"model": Done}, **problems(400, 401)})
    async def logout(principal: caller) -> dict[str, str]:
        """End this login: its access tokens and its refresh token are dead at once."""
        await sessions.logout(principal)
        return {"message": "Logged out"}

    @routes.get("/auth/verify-token", responses={200: {"model": VerifyAnswer}, **problems(401)})
    async def verify_token(principal: caller) -> dict[str, Any]:
        """Ask whether a token is good, and whose it is."""
        account = {
            "_id": principal.user_id,
            "username": principal.username,
            "status": UserStatus.ACTIVE,
            "roles": principal.roles,
            "orgId": principal.home_org_id,
        }
        return {"valid": True, "user": account, "expiresAt": times.iso(principal.expires_at * 1000)}

    @routes.get("/auth/profile", responses={200: {"model": UserAnswer}, **problems(401, 404)})
    async def profile(principal: caller) -> dict[str, Any]:
        """Get your own user."""
        return user_json(await sessions.profile(principal))

    @routes.post("/auth/change-password", responses={200: {"model": Done}, **problems(400, 401, 429)})
    async def change_password(body: PasswordChange, request: Request, principal: caller) -> dict[str, str]:
        """Change your own password. All your other logins end; this one stays."""
        await sessions.change_password(principal, body.current_password, body.new_password, address=_address(request))
        return {"message": "Password changed"}

    @routes.get("/.well-known/jwks.json", response_model=None, responses={200: {"model": PublishedKeys}})
    async def jwks(response: Response) -> KeySetSerialization:
        """Get the public keys that verify our tokens; none when they are signed with a shared secret."""
        response.headers["cache-control"] = "public, max-age=300"
        return published_keys()

    return routes


def _answer(login: Login, request: Request, response: Response) -> dict[str, Any]:
    # RFC 6749, 5.1: nothing in between may keep an answer with tokens.
    response.headers["cache-control"] = "no-store"
    user, facts = login.user, request.scope["aiwm"]
    facts.user_id, facts.org_id = user.id, user.org_id
    return {
        "accessToken": login.access_token,
        "expiresIn": login.expires_in,
        "refreshToken": login.refresh_token,
        "refreshExpiresIn": login.refresh_expires_in,
        "tokenType": "Bearer",
        "user": {
            "_id": user.id,
            "username": user.username,
            "status": user.status,
            "roles": user.roles,
            "orgId": user.org_id,
        },
    }


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
