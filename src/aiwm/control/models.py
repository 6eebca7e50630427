"""What callers do with models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from aiwm.control.downloads import Downloads
from aiwm.control.targets import Targets, config_is_kept_secret
from aiwm.domain.audit import entry
from aiwm.domain.ids import new_id
from aiwm.domain.models import (
    FETCHABLE,
    FETCHING,
    ApiConfig,
    DeploymentType,
    Model,
    ModelStatus,
    ModelType,
    Scope,
    Sealed,
    check_api_config,
    first_status,
    is_env_reference,
    is_secret,
)
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.prices import PriceEntry
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role
from aiwm.errors import Conflict, Forbidden, Invalid, NotFound, WrongState
from aiwm.store.models import InTheWay, ModelStore
from aiwm.wire.urls import base_url


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModel:
    name: str
    type: ModelType
    description: str
    deployment_type: DeploymentType
    scope: Scope
    provider: str | None = None
    api_endpoint: str | None = None
    model_identifier: str | None = None
    api_config: Mapping[str, str] | None = None
    prices: tuple[PriceEntry, ...] | None = None
    repository: str | None = None
    framework: str | None = None
    file_name: str | None = None
    file_size: int | None = None
    download_path: str | None = None


_API_BASED = {
    "provider": "provider",
    "api_endpoint": "apiEndpoint",
    "model_identifier": "modelIdentifier",
    "api_config": "apiConfig",
}
_SELF_HOSTED = {
    "repository": "repository",
    "framework": "framework",
    "file_name": "fileName",
    "file_size": "fileSize",
    "download_path": "downloadPath",
}
"""Fields that only one kind of model has, and what callers call them."""

_PLACE = {"repository", "file_name", "download_path"}
"""Fields that say where a model's files come from."""


class Models:
    """Every verb raises Forbidden below its role, and NotFound for what the caller may not see."""

    def __init__(
        self,
        *,
        store: ModelStore,
        targets: Targets,
        downloads: Downloads,
        seal: Callable[[str], Sealed],
        settled: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """`settled` waits until the answers that have ended are in the ledger."""
        self._store = store
        self._targets = targets
        self._downloads = downloads
        self._seal = seal
        self._settled = settled
        self._clock = clock

    async def list(self, principal: Principal, query: PageQuery) -> Page[Model]:
        principal.require(Role.VIEWER)
        return await self._store.list(principal, query)

    async def get(self, principal: Principal, model_id: str) -> Model:
        principal.require(Role.VIEWER)
        model = await self._store.get(principal, model_id)
        if model is None:
            raise NotFound(f"Model with ID {model_id} not found")
        return model

    async def create(self, principal: Principal, new: NewModel) -> Model:
        principal.require(Role.EDITOR)
        if new.api_endpoint is not None:
            _check_endpoint(new.api_endpoint)
        given = {field.name: getattr(new, field.name) for field in fields(NewModel)}
        now = self._clock()
        model = Model(
            **given | {"api_config": None if new.api_config is None else self._sealed(principal, new.api_config, {})},
            id=new_id(),
            org_id=principal.org_id,
            user_id=principal.user_id,
            status=first_status(new.deployment_type),
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        told = entry(principal, "create", after=model, at=now)
        if model.is_api_based:
            await self._store.add(model, entry=told)
        else:
            await self._downloads.check(model.place)
            await self._store.add(model, entry=told)
            self._downloads.begin(model.place)
        return model

    async def change(self, principal: Principal, model_id: str, given: Mapping[str, Any]) -> Model:
        """`given` holds the fields to change, by their names in `NewModel`."""
        before = await self._own(principal, model_id)
        foreign = _SELF_HOSTED if before.is_api_based else _API_BASED
        if wrong := sorted(foreign[name] for name in given if name in foreign):
            raise Invalid([f"{name}: is not a field of a model that is {before.deployment_type}" for name in wrong])
        changes = dict(given)
        config: ApiConfig = before.api_config or {}
        if "api_config" in changes:
            config = changes["api_config"] = self._sealed(principal, given["api_config"], config)
        if "api_endpoint" in changes:
            _check_move(before, changes["api_endpoint"], config)
        if "prices" in changes:
            await self._settled()  # What was answered until now costs what it did.
        # What is given as it was is no change.
        changes = {
            name: value for name, value in changes.items() if name not in _PLACE or value != getattr(before, name)
        }
        if changes.keys() & _PLACE:
            return await self._moved(principal, before, changes)
        after = self._touched(principal, replace(before, **changes))
        await self._write(principal, "change", before, after)
        await self._targets.model_changed(model_id)
        return after

    async def download(self, principal: Principal, model_id: str) -> Model:
        """Tries again to fetch the files, from where it stopped."""
        before = await self._own(principal, model_id)
        before.require_fetchable()
        await self._downloads.check(before.place)
        after = self._touched(principal, replace(before, status=ModelStatus.QUEUED, error_message=None))
        await self._write(principal, "download", before, after)
        self._downloads.begin(after.place)
        return after

    async def activate(self, principal: Principal, model_id: str) -> Model:
        before = await self._own(principal, model_id)
        if before.status is ModelStatus.ACTIVE:
            raise WrongState(f'Model "{before.name}" is already active')
        if before.status is not ModelStatus.INACTIVE:
            raise WrongState(
                f'Model "{before.name}" can\'t be activated before its files are there. Current status: {before.status}'
            )
        after = self._touched(principal, replace(before, status=ModelStatus.ACTIVE))
        await self._write(principal, "activate", before, after)
        return after

    async def deactivate(self, principal: Principal, model_id: str) -> Model:
        before = await self._own(principal, model_id)
        if before.status is ModelStatus.INACTIVE:
            raise WrongState(f'Model "{before.name}" is already inactive')
        if before.status is not ModelStatus.ACTIVE:
            raise WrongState(f'Model "{before.name}" is not active. Current status: {before.status}')
        after = self._touched(principal, replace(before, status=ModelStatus.INACTIVE))
        await self._retire(principal, "deactivate", before, after)
        return after

    async def delete(self, principal: Principal, model_id: str) -> int:
        """Soft; answers the time of it."""
        before = await self._own(principal, model_id)
        after = self._touched(principal, before)
        await self._retire(principal, "delete", before, after, deleted_at=after.updated_at)
        return after.updated_at

    async def _own(self, principal: Principal, model_id: str) -> Model:
        """A model the caller may change: another organization's public one may only be read."""
        principal.require(Role.EDITOR)
        model = await self.get(principal, model_id)
        if model.org_id != principal.org_id:
            raise Forbidden(f'Model "{model.name}" belongs to another organization; it can be read and deployed only')
        return model

    async def _write(self, principal: Principal, verb: str, before: Model, after: Model) -> None:
        told = entry(principal, verb, before=before, after=after, at=after.updated_at)
        if not await self._store.change(before, after, entry=told):
            raise self._lost(before)

    async def _retire(
        self, principal: Principal, verb: str, before: Model, after: Model, *, deleted_at: int | None = None
    ) -> None:
        told = entry(principal, verb, before=before, after=after if deleted_at is None else None, at=after.updated_at)
        in_the_way, changed = await self._store.retire(before, after, deleted_at=deleted_at, entry=told)
        if in_the_way:
            raise Conflict(
                f"Cannot {verb} model. It is currently being used by the following active deployments: "
                f"{_named(in_the_way, before.org_id)}"
            )
        if not changed:
            raise self._lost(before)

    async def _moved(self, principal: Principal, before: Model, changes: Mapping[str, Any]) -> Model:
        """Other files: the model begins anew, which no deployment that uses it may live through."""
        # Where a caller said that the files are; once they are there, it is AIWM that said so.
        known = before.download_path if before.status in {*FETCHING, *FETCHABLE} else None
        fresh = {"status": ModelStatus.QUEUED, "download": None, "error_message": None, "file_size": None}
        after = self._touched(principal, replace(before, **{"download_path": known} | fresh | dict(changes)))
        await self._downloads.check(after.place)
        await self._retire(principal, "change", before, after)
        self._downloads.begin(after.place)
        return after

    @staticmethod
    def _lost(model: Model) -> Conflict:
        return Conflict(f'Model "{model.name}" was changed by someone else at the same time; try again')

    def _touched(self, principal: Principal, model: Model) -> Model:
        # Later than the last change even within one millisecond: `updated_at` is what tells two changes apart.
        now = max(self._clock(), model.updated_at + 1)
        return replace(model, updated_by=principal.user_id, updated_at=now)

    def _sealed(self, principal: Principal, given: Mapping[str, str], stored: ApiConfig) -> ApiConfig:
        """What is stored of a given apiConfig. A secret given in its masked form stays the stored one."""
        kept = {
            name: value
            for name, value in stored.items()
            if given.get(name) == _shown(value)
            # Who may refer to a variable means it anew: a reference has no other form to be given again in.
            and not (principal.is_universe_owner and isinstance(value, str) and is_env_reference(value))
        }
        fresh = {name: value for name, value in given.items() if name not in kept}
        check_api_config(fresh, kept=kept)
        if not principal.is_universe_owner and any(is_env_reference(value) for value in fresh.values()):
            raise Forbidden("Only universe.owner may refer to the server's variables (env:NAME)")
        return kept | {
            name: self._seal(value) if is_secret(name) and not is_env_reference(value) else value
            for name, value in fresh.items()
        }


def _named(deployments: Sequence[InTheWay], org_id: str) -> str:
    """Those of other organizations, which may deploy a public model, are counted and not named."""
    own = [f"{deployment.name} (ID: {deployment.id})" for deployment in deployments if deployment.org_id == org_id]
    foreign = len(deployments) - len(own)
    return ", ".join([*own, *([f"{foreign} of other organizations"] if foreign else [])])


def _shown(value: str | Sealed) -> str:
    return value.masked if isinstance(value, Sealed) else value


def _check_endpoint(url: str) -> None:
    try:
        base_url(url)
    except Invalid as error:
        raise Invalid([f"apiEndpoint: {error}"]) from error


def _check_move(before: Model, url: str, config: ApiConfig) -> None:
    """A stored key goes only where it was given for: who may change a model may still not read its key."""
    _check_endpoint(url)
    if before.api_endpoint is None or base_url(url).origin == base_url(before.api_endpoint).origin:
        return
    stored = before.api_config or {}
    if config_is_kept_secret({name: value for name, value in config.items() if stored.get(name) is value}):
        raise Invalid(
            ["apiConfig: a stored key is not sent to a new address; when apiEndpoint changes, give the key again"]
        )
