"""Models over HTTP."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from pydantic import Field, StrictInt

from aiwm.api.prices import Prices, entries, prices_json
from aiwm.control.models import Models, NewModel
from aiwm.domain.ids import checked_id
from aiwm.domain.models import DeploymentType, Download, Model, ModelType, Scope, Sealed
from aiwm.domain.pages import PageQuery
from aiwm.domain.users import Principal
from aiwm.store.models import FIELDS, SORTABLE
from aiwm.web.lists import page_json, page_query, parameters
from aiwm.web.principals import Tokens, authenticated
from aiwm.web.schemas import Answer, Body, Deleted, Description, Line, Name, changes, deleted, history, problems

_Text = Annotated[Line, Field(min_length=1, max_length=500)]
_Provider = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,99}$")]
_Identifier = Annotated[Line, Field(min_length=1, max_length=200)]
_Url = Annotated[Line, Field(min_length=1, max_length=2000)]
_Config = Annotated[dict[str, Annotated[str, Field(max_length=8192)]], Field(max_length=64)]


class _NewModel(Body):
    name: Name
    type: ModelType
    description: Description = ""
    scope: Scope = Scope.ORG
    prices: Prices | None = None
    """What the model costs; without it, what the price list says."""


class NewApiBasedModel(_NewModel):
    """A provider's model: reachable at once."""

    deployment_type: Literal["api-based"]
    provider: _Provider
    """A known provider, or any other name for one that speaks OpenAI's API."""
    api_endpoint: _Url
    model_identifier: _Identifier
    api_config: _Config
    """`apiKey` (or `x-api-key`), and what the provider needs besides: `organization`, `header-*`, `timeout`, ..."""


class NewSelfHostedModel(_NewModel):
    """A model that we fetch and run. `GET /models/{id}` shows how far its files have come."""

    deployment_type: Literal["self-hosted"]
    repository: _Text
    """A Hugging Face repository, `organization/name` or `organization/name@revision`, or `file://` and the path of a
    file or folder on the server, below `AIWM_MODEL_PATHS`."""
    framework: Annotated[Line, Field(min_length=1, max_length=100)]
    file_name: _Text | None = None
    """One file of the repository, such as a GGUF."""
    file_size: Annotated[StrictInt, Field(ge=0, le=1 << 62)] | None = None
    """Replaced by the real size when the files are there."""
    download_path: Annotated[Line, Field(min_length=1, max_length=1000)] | None = None
    """Where the files are already, below `AIWM_MODEL_PATHS`: then nothing is fetched. Else AIWM says where they are."""


class ModelChange(Body):
    """What is left out stays. `apiConfig` and `prices` are replaced whole; a secret in its masked form stays the stored
    one, and `prices: null` goes back to the price list."""

    name: Name | None = None
    type: ModelType | None = None
    description: Description | None = None
    scope: Scope | None = None
    provider: _Provider | None = None
    api_endpoint: _Url | None = None
    model_identifier: _Identifier | None = None
    api_config: _Config | None = None
    prices: Prices | None = None
    repository: _Text | None = None
    framework: Annotated[Line, Field(min_length=1, max_length=100)] | None = None
    file_name: _Text | None = None
    file_size: Annotated[StrictInt, Field(ge=0, le=1 << 62)] | None = None
    download_path: Annotated[Line, Field(min_length=1, max_length=1000)] | None = None


_NULLABLE = {"prices", "file_name", "file_size", "download_path"}


class DownloadAnswer(Answer):
    bytes_done: int
    bytes_total: int
    file: str


class ModelAnswer(Answer):
    id: str = Field(alias="_id")
    name: str
    type: ModelType
    description: str
    deployment_type: DeploymentType
    scope: Scope
    status: str
    provider: str | None = None
    api_endpoint: str | None = None
    model_identifier: str | None = None
    api_config: dict[str, str] | None = None
    prices: list[dict[str, Any]] | None = None
    repository: str | None = None
    framework: str | None = None
    file_name: str | None = None
    file_size: int | None = None
    download_path: str | None = None
    download: DownloadAnswer | None = None
    error_message: str | None = None
    owner: dict[str, str]
    created_by: str
    updated_by: str
    created_at: str
    updated_at: str


class ModelPage(Answer):
    data: list[ModelAnswer]
    pagination: dict[str, int]
    statistics: dict[str, Any]


def model_json(model: Model, principal: Principal) -> dict[str, Any]:
    """Secrets masked; of another organization's public model not even the configuration."""
    shown: dict[str, Any] = {
        "_id": model.id,
        "name": model.name,
        "type": model.type,
        "description": model.description,
        "deploymentType": model.deployment_type,
        "scope": model.scope,
        "status": model.status,
    }
    if model.is_api_based:
        shown |= {"provider": model.provider, "modelIdentifier": model.model_identifier}
        if model.org_id == principal.org_id:
            shown |= {"apiEndpoint": model.api_endpoint, "apiConfig": _shown(model.api_config or {})}
    else:
        shown |= {
            "repository": model.repository,
            "framework": model.framework,
            "fileName": model.file_name,
            "fileSize": model.file_size,
            "download": None if model.download is None else _progress(model.download),
        }
        if model.org_id == principal.org_id:
            shown |= {"downloadPath": model.download_path, "errorMessage": model.error_message}
    if model.prices is not None and model.org_id == principal.org_id:
        shown["prices"] = prices_json(model.prices)
    return {**shown, "owner": {"orgId": model.org_id, "userId": model.user_id}, **history(model)}


def _progress(download: Download) -> dict[str, Any]:
    return {"bytesDone": download.bytes_done, "bytesTotal": download.bytes_total, "file": download.file}


def _shown(config: Mapping[str, str | Sealed]) -> dict[str, str]:
    return {name: value.masked if isinstance(value, Sealed) else value for name, value in config.items()}


def router(models: Models, tokens: Tokens) -> APIRouter:
    routes = APIRouter(prefix="/models", tags=["models"])
    listed = {"fields": tuple(FIELDS), "sortable": tuple(SORTABLE)}
    caller = Annotated[Principal, Depends(authenticated(tokens))]

    @routes.post(
        "", response_model=None, status_code=201, responses={201: {"model": ModelAnswer}, **problems(400, 401, 403)}
    )
    async def create_model(
        body: Annotated[NewApiBasedModel | NewSelfHostedModel, Field(discriminator="deployment_type")],
        principal: caller,
    ) -> dict[str, Any]:
        """Register a model."""
        given = {name: getattr(body, name) for name in type(body).model_fields}
        new = NewModel(
            **given | {"deployment_type": DeploymentType(body.deployment_type), "prices": entries(body.prices)}
        )
        return model_json(await models.create(principal, new), principal)

    @routes.get(
        "",
        response_model=None,
        responses={200: {"model": ModelPage}, **problems(400, 401)},
        openapi_extra=parameters(**listed),
    )
    async def list_models(
        principal: caller, query: Annotated[PageQuery, Depends(page_query(**listed))]
    ) -> dict[str, Any]:
        """List the models that you may see, newest first."""
        page = await models.list(principal, query)
        return page_json(query, page, lambda model: model_json(model, principal))

    @routes.get("/{id}", response_model=None, responses={200: {"model": ModelAnswer}, **problems(400, 401, 404)})
    async def get_model(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002 - the guide's name for it
        """Get a model; its secrets are masked."""
        return model_json(await models.get(principal, checked_id(id, "Model")), principal)

    @routes.put(
        "/{id}", response_model=None, responses={200: {"model": ModelAnswer}, **problems(400, 401, 403, 404, 409)}
    )
    async def change_model(id: str, body: ModelChange, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Change a model. Its deployments use the change from the next request on."""
        model_id = checked_id(id, "Model")
        given = changes(body, nullable=_NULLABLE)
        if "prices" in given:
            given["prices"] = entries(body.prices)
        return model_json(await models.change(principal, model_id, given), principal)

    @routes.delete(
        "/{id}", response_model=None, responses={200: {"model": Deleted}, **problems(400, 401, 403, 404, 409)}
    )
    async def delete_model(id: str, principal: caller) -> dict[str, str]:  # noqa: A002
        """Delete a model that no active deployment uses."""
        model_id = checked_id(id, "Model")
        return deleted(model_id, await models.delete(principal, model_id))

    @routes.post(
        "/{id}/download",
        response_model=None,
        responses={200: {"model": ModelAnswer}, **problems(400, 401, 403, 404, 409)},
    )
    async def download_model(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Try again to fetch the files of a self-hosted model, from where it stopped; `errorMessage` said why."""
        return model_json(await models.download(principal, checked_id(id, "Model")), principal)

    @routes.post(
        "/{id}/activate",
        response_model=None,
        responses={200: {"model": ModelAnswer}, **problems(400, 401, 403, 404, 409)},
    )
    async def activate_model(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Allow deployments of a model again."""
        return model_json(await models.activate(principal, checked_id(id, "Model")), principal)

    @routes.post(
        "/{id}/deactivate",
        response_model=None,
        responses={200: {"model": ModelAnswer}, **problems(400, 401, 403, 404, 409)},
    )
    async def deactivate_model(id: str, principal: caller) -> dict[str, Any]:  # noqa: A002
        """Keep a model that no active deployment uses from being deployed."""
        return model_json(await models.deactivate(principal, checked_id(id, "Model")), principal)

    return routes
