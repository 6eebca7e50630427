"""Organizations over HTTP: made and deleted by universe.owner."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import Field

from aiwm.control.organizations import Organizations
from aiwm.domain.ids import checked_id
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Organization, Principal
from aiwm.iam.users import Owner
from aiwm.store.organizations import SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Description, Name, changes, deleted, history, problems


class CreateOrganization(Body):
    name: Name
    description: Description = ""


class OrganizationChange(Body):
    """What is left out stays as it is."""

    name: Name | None = None
    description: Description | None = None


class OrganizationAnswer(Answer):
    id: str = Field(alias="_id")
    name: str
    description: str
    owner: Owner
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class OrganizationPage(Answer):
    data: list[OrganizationAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def router(organizations: Organizations, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/organizations", tags=["organizations"])
    listed: dict[str, Any] = {"fields": (), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post("", status_code=201, responses={201: {"model": OrganizationAnswer}, **problems(400, 401, 403)})
    async def create_organization(body: CreateOrganization, principal: caller) -> dict[str, Any]:
        """Make an organization."""
        return _json(await organizations.create(principal, name=body.name, description=body.description))

    @routes.get(
        "", responses={200: {"model": OrganizationPage}, **problems(400, 401, 403)}, openapi_extra=parameters(**listed)
    )
    async def list_organizations(
        query: Annotated[PageQuery, Depends(page_query(**listed))], principal: caller
    ) -> dict[str, Any]:
        """List all of them for universe.owner, else the caller's own."""
        return page_json(query, await organizations.list(principal, query), _json)

    @routes.get("/{id}", responses={200: {"model": OrganizationAnswer}, **problems(400, 401, 403, 404)})
    async def get_organization(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - one name in every path
        """Get an organization."""
        return _json(await organizations.get(principal, checked_id(id, "Organization")))

    @routes.put("/{id}", responses={200: {"model": OrganizationAnswer}, **problems(400, 401, 403, 404, 409)})
    async def change_organization(id: str, body: OrganizationChange, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Change an organization: its owner may, too."""
        return _json(await organizations.change(principal, checked_id(id, "Organization"), changes(body)))

    @routes.delete("/{id}", responses={200: {"model": Deleted}, **problems(400, 401, 403, 404, 409)})
    async def delete_organization(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Delete an organization that has no models, no deployments and at most one user, who is deleted with it."""
        org_id = checked_id(id, "Organization")
        return deleted(org_id, await organizations.delete(principal, org_id))

    return routes


def _json(organization: Organization) -> dict[str, Any]:
    return {
        "_id": organization.id,
        "name": organization.name,
        "description": organization.description,
        "owner": {"orgId": organization.id, "userId": organization.created_by},
        **history(organization),
    }
