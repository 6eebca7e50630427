"""What callers do with deployments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiwm.control.targets import Targets
from aiwm.domain.audit import entry
from aiwm.domain.deployments import Deployment, DeploymentStatus, OnDisconnect, StreamUsage, first_status
from aiwm.domain.ids import new_id
from aiwm.domain.models import Model, ModelStatus
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role
from aiwm.errors import Conflict, Invalid, NotFound
from aiwm.store.deployments import DeploymentStore
from aiwm.store.models import ModelStore


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDeployment:
    name: str
    description: str
    model_id: str
    node_id: str | None = None
    resource_id: str | None = None
    allowed_models: tuple[str, ...] | None = None
    stream_usage: StreamUsage = StreamUsage.INJECT
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL


class Deployments:
    """Every verb raises Forbidden below its role, and NotFound for another organization's deployment.

    `settled` waits until every answer that was given is in the ledger: counts are read after it.
    """

    def __init__(
        self,
        *,
        store: DeploymentStore,
        models: ModelStore,
        targets: Targets,
        settled: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._models = models
        self._targets = targets
        self._settled = settled
        self._clock = clock

    async def list(self, principal: Principal, query: PageQuery) -> Page[Deployment]:
        principal.require(Role.VIEWER)
        await self._settled()
        return await self._store.list(principal, query)

    async def get(self, principal: Principal, deployment_id: str) -> Deployment:
        principal.require(Role.VIEWER)
        await self._settled()
        deployment = await self._store.get(principal, deployment_id)
        if deployment is None:
            raise NotFound(f"Deployment with ID {deployment_id} not found")
        return deployment

    async def model_of(self, deployment: Deployment) -> Model | None:
        """The deployment's model, to say how it is called; the caller may see the deployment already."""
        return await self._models.by_id(deployment.model_id)

    async def create(self, principal: Principal, new: NewDeployment) -> Deployment:
        principal.require(Role.EDITOR)
        model = await self._models.get(principal, new.model_id)
        if model is None:
            raise Invalid(f"Model with ID {new.model_id} not found")
        now = self._clock()
        deployment = Deployment(
            id=new_id(),
            org_id=principal.org_id,
            user_id=principal.user_id,
            name=new.name,
            description=new.description,
            model_id=new.model_id,
            node_id=new.node_id,
            resource_id=new.resource_id,
            allowed_models=new.allowed_models,
            stream_usage=new.stream_usage,
            on_disconnect=new.on_disconnect,
            status=first_status(model, node_id=new.node_id, resource_id=new.resource_id),
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        told = entry(principal, "create", after=deployment, at=now)
        _require_active(model, await self._store.add(deployment, entry=told))
        await self._targets.deployment_changed(deployment.id)
        return deployment

    async def change(self, principal: Principal, deployment_id: str, given: Mapping[str, Any]) -> Deployment:
        """`given` holds the fields to change: name, description, allowed_models, stream_usage, on_disconnect."""
        before = await self._own(principal, deployment_id)
        after = self._touched(principal, replace(before, **given))
        return await self._write(principal, "change", before, after)

    async def start(self, principal: Principal, deployment_id: str) -> Deployment:
        before = await self._own(principal, deployment_id)
        before.require_startable()
        model = await self._models.by_id(before.model_id)
        if model is None:
            raise Invalid(f"Model with ID {before.model_id} not found")
        status = DeploymentStatus.RUNNING if model.is_api_based else DeploymentStatus.QUEUED
        after = self._touched(principal, replace(before, status=status, error_message=None))
        told = entry(principal, "start", before=before, after=after, at=after.updated_at)
        started = await self._store.start(before, after, entry=told)
        if started is False:
            raise self._lost(before)
        if started is not True:
            _require_active(model, started)
        await self._targets.deployment_changed(deployment_id)
        return after

    async def stop(self, principal: Principal, deployment_id: str) -> Deployment:
        before = await self._own(principal, deployment_id)
        before.require_stoppable()
        after = self._touched(principal, replace(before, status=DeploymentStatus.STOPPED))
        return await self._write(principal, "stop", before, after)

    async def delete(self, principal: Principal, deployment_id: str) -> int:
        """Soft; answers the time of it."""
        before = await self._own(principal, deployment_id)
        before.require_deletable()
        after = self._touched(principal, before)
        await self._write(principal, "delete", before, after, deleted_at=after.updated_at)
        return after.updated_at

    async def _own(self, principal: Principal, deployment_id: str) -> Deployment:
        principal.require(Role.EDITOR)
        return await self.get(principal, deployment_id)

    async def _write(
        self, principal: Principal, verb: str, before: Deployment, after: Deployment, *, deleted_at: int | None = None
    ) -> Deployment:
        told = entry(principal, verb, before=before, after=after if deleted_at is None else None, at=after.updated_at)
        if not await self._store.change(before, after, deleted_at=deleted_at, entry=told):
            raise self._lost(before)
        await self._targets.deployment_changed(before.id)
        return after

    def _touched(self, principal: Principal, deployment: Deployment) -> Deployment:
        # Later than the last change even within one millisecond: `updated_at` is what tells two changes apart.
        now = max(self._clock(), deployment.updated_at + 1)
        return replace(deployment, updated_by=principal.user_id, updated_at=now)

    @staticmethod
    def _lost(deployment: Deployment) -> Conflict:
        return Conflict(f'Deployment "{deployment.name}" was changed by someone else at the same time; try again')


def _require_active(model: Model, status: ModelStatus | None) -> None:
    """The model's state at the moment of writing decides, not the one it was read in before."""
    if status is None:
        raise Invalid(f"Model with ID {model.id} not found")
    replace(model, status=status).require_deployable()
