"""Users over HTTP: for the owners of an organization."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from aiwm.control.users import NewUser, Users
from aiwm.domain.ids import checked_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal, Role, User, UserStatus
from aiwm.store.users import FIELDS, SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Id, Line, changes, deleted, history, problems

# How long a username and a password may be is a rule of `domain.users`; these only keep the work small.
_Username = Annotated[str, Field(max_length=256, description="3 to 100 characters without spaces; unique")]
_Password = Annotated[str, Field(max_length=1024, description="8 to 128 characters")]
_Fullname = Annotated[Line, Field(max_length=200)]
_Roles = Annotated[list[Role], Field(max_length=100)]


class CreateUser(Body):
    username: _Username
    password: _Password
    roles: _Roles
    org_id: Id | None = None
    """The caller's when left out; only universe.owner may name another."""
    fullname: _Fullname = ""
    status: UserStatus = UserStatus.ACTIVE


class UserChange(Body):
    """What is left out stays as it is."""

    username: _Username | None = None
    password: _Password | None = None
    roles: _Roles | None = None
    fullname: _Fullname | None = None
    status: UserStatus | None = None


class Owner(Answer):
    org_id: str
    user_id: str


class UserAnswer(Answer):
    id: str = Field(alias="_id")
    username: str
    fullname: str
    status: UserStatus
    roles: list[Role]
    org_id: str
    owner: Owner
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class UserPage(Answer):
    data: list[UserAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def router(users: Users, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/users", tags=["users"])
    listed = {"fields": tuple(FIELDS), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post("", status_code=201, responses={201: {"model": UserAnswer}, **problems(400, 401, 403, 409)})
    async def create_user(body: CreateUser, principal: caller) -> dict[str, Any]:
        """Make a user, with no role above your own."""
        return user_json(await users.create(principal, NewUser(**body.model_dump())))

    @routes.get("", responses={200: {"model": UserPage}, **problems(400, 401, 403)}, openapi_extra=parameters(**listed))
    async def list_users(
        query: Annotated[PageQuery, Depends(page_query(**listed))], principal: caller
    ) -> dict[str, Any]:
        """List the users of your organization, newest first."""
        return page_json(query, await users.list(principal, query), user_json)

    @routes.get("/{id}", responses={200: {"model": UserAnswer}, **problems(400, 401, 403, 404)})
    async def get_user(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - one name in every path
        """Get a user of your organization."""
        return user_json(await users.get(principal, checked_id(id, "User")))

    @routes.put("/{id}", responses={200: {"model": UserAnswer}, **problems(400, 401, 403, 404, 409)})
    async def change_user(id: str, body: UserChange, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Change a user. Another username, password or status and other roles end all logins of the user."""
        return user_json(await users.change(principal, checked_id(id, "User"), changes(body)))

    @routes.delete("/{id}", responses={200: {"model": Deleted}, **problems(400, 401, 403, 404, 409)})
    async def delete_user(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Delete a user and end all logins of it. The username can be used again."""
        user_id = checked_id(id, "User")
        return deleted(user_id, await users.delete(principal, user_id))

    return routes


def user_json(user: User) -> dict[str, Any]:
    """Everything but the hash of the password."""
    return {
        "_id": user.id,
        "username": user.username,
        "fullname": user.fullname,
        "status": user.status,
        "roles": user.roles,
        "orgId": user.org_id,
        "owner": {"orgId": user.org_id, "userId": user.created_by},
        **history(user),
    }
