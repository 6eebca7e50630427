"""What callers do with deployments."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from aiwm.control.engines import Hosting, model_name
from aiwm.control.nodes import Nodes
from aiwm.control.targets import Targets
from aiwm.domain.audit import entry
from aiwm.domain.deployments import WANTED, Deployment, DeploymentStatus, OnDisconnect, StreamUsage, first_status
from aiwm.domain.ids import new_id
from aiwm.domain.models import Model, ModelStatus
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role
from aiwm.errors import Conflict, Invalid, NotFound, WrongState
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
    arguments: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    replicas: int = 1
    idle_timeout: int | None = None
    stream_usage: StreamUsage = StreamUsage.INJECT
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL


_OF_ENGINES = frozenset({"arguments", "replicas", "idle_timeout"})
_ATTEMPTS = 5


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
        nodes: Nodes,
        hosting: Hosting,
        settled: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._hosting = hosting
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

    def dialect(self, model: Model) -> tuple[str, str]:
        """Whose API its deployments speak, and what they call the model. Raises Invalid when no engine runs it."""
        if model.is_api_based:
            return model.provider or "", model.model_identifier or ""
        kind = self._nodes.kind(model)
        return kind.provider, model_name(kind, model)

    async def log(
        self, principal: Principal, deployment_id: str, *, last: int, until: Callable[[], bool]
    ) -> AsyncGenerator[bytes, None]:
        """What the engines of a deployment have written. For editors: some engines write what they are asked."""
        deployment = await self._own(principal, deployment_id)
        if not deployment.is_hosted:
            raise WrongState(f'Deployment "{deployment.name}" is of a provider\'s model: it has no engine to read from')
        self._require_here(deployment)
        return self._hosting.log(deployment_id, last=last, until=until)

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
            arguments=new.arguments,
            replicas=new.replicas,
            idle_timeout=new.idle_timeout,
            allowed_models=new.allowed_models,
            stream_usage=new.stream_usage,
            on_disconnect=new.on_disconnect,
            status=first_status(model, node_id=new.node_id, resource_id=new.resource_id),
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        if model.is_api_based:
            deployment.require_no_engine()
            _require_active(model, await self._added(principal, deployment))
        else:
            async with self._nodes.placing:
                deployment = await self._nodes.place(principal, deployment, model)
                _require_active(model, await self._added(principal, deployment))
        await self._changed(deployment.id)
        return deployment

    async def change(self, principal: Principal, deployment_id: str, given: Mapping[str, Any]) -> Deployment:
        """`given` holds the fields to change, by their names in `NewDeployment`; never model, node and resource.

        Engines that run as they should no longer are replaced by such that do, while requests go on.
        """
        if given.keys().isdisjoint(_OF_ENGINES):
            return await self._written(principal, "change", deployment_id, lambda before: replace(before, **given))
        async with self._nodes.placing:
            before = await self._own(principal, deployment_id)
            wanted = replace(before, **given)
            if not before.is_hosted:
                wanted.require_no_engine()
            elif before.status in WANTED:
                self._require_here(before)
                wanted = await self._nodes.place(principal, wanted, await self._model(before))
            else:
                self._nodes.kind(await self._model(before)).check(wanted.arguments)
            fresh = dict(given) | {"placement": wanted.placement}
            return await self._written(principal, "change", deployment_id, lambda before: replace(before, **fresh))

    async def start(self, principal: Principal, deployment_id: str) -> Deployment:
        before = await self._own(principal, deployment_id)
        before.require_startable()
        model = await self._model(before)
        status = DeploymentStatus.RUNNING if model.is_api_based else DeploymentStatus.QUEUED
        after = self._touched(principal, replace(before, status=status, error_message=None))
        async with self._nodes.placing if before.is_hosted else nullcontext():
            if before.is_hosted:
                after = await self._nodes.place(principal, after, model)
            told = entry(principal, "start", before=before, after=after, at=after.updated_at)
            started = await self._store.start(before, after, entry=told)
        if started is False:
            raise self._lost(before)
        if started is not True:
            _require_active(model, started)
        await self._changed(deployment_id)
        return after

    async def stop(self, principal: Principal, deployment_id: str) -> Deployment:
        """A provider's model is stopped at once; engines finish what they have, and then end."""

        def stopped(before: Deployment) -> Deployment:
            before.require_stoppable()
            return replace(before, status=DeploymentStatus.STOPPING if before.is_hosted else DeploymentStatus.STOPPED)

        return await self._written(principal, "stop", deployment_id, stopped)

    async def delete(self, principal: Principal, deployment_id: str) -> int:
        """Soft; answers the time of it."""
        before = await self._own(principal, deployment_id)
        before.require_deletable()
        after = self._touched(principal, before)
        told = entry(principal, "delete", before=before, at=after.updated_at)
        if not await self._store.change(before, after, deleted_at=after.updated_at, entry=told):
            raise self._lost(before)
        await self._changed(deployment_id)
        return after.updated_at

    async def _own(self, principal: Principal, deployment_id: str) -> Deployment:
        principal.require(Role.EDITOR)
        return await self.get(principal, deployment_id)

    def _require_here(self, deployment: Deployment) -> None:
        if deployment.keeper_id != self._nodes.here.id:
            raise WrongState(f'Deployment "{deployment.name}" belongs to another machine; ask the AIWM there')

    async def _model(self, deployment: Deployment) -> Model:
        model = await self._models.by_id(deployment.model_id)
        if model is None:
            raise Invalid(f"Model with ID {deployment.model_id} not found")
        return model

    async def _added(self, principal: Principal, deployment: Deployment) -> ModelStatus | None:
        told = entry(principal, "create", after=deployment, at=deployment.created_at)
        return await self._store.add(deployment, entry=told)

    async def _written(
        self, principal: Principal, verb: str, deployment_id: str, change: Callable[[Deployment], Deployment]
    ) -> Deployment:
        before = await self._own(principal, deployment_id)
        for _ in range(_ATTEMPTS if before.is_hosted else 1):
            after = self._touched(principal, change(before))
            told = entry(principal, verb, before=before, after=after, at=after.updated_at)
            if await self._store.change(before, after, entry=told):
                await self._changed(deployment_id)
                return after
            # It was its owner, most likely, that wrote what became of the engines.
            before = await self._own(principal, deployment_id)
        raise self._lost(before)

    async def _changed(self, deployment_id: str) -> None:
        await self._targets.deployment_changed(deployment_id)
        self._hosting.changed(deployment_id)

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
