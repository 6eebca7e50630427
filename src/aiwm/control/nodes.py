"""Nodes: this machine as it is, and what callers do with resources. And who gets which place."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiwm.domain.audit import entry
from aiwm.domain.deployments import Deployment
from aiwm.domain.ids import new_id
from aiwm.domain.models import Model
from aiwm.domain.nodes import Need, Node, NodeStatus, Placement, Resource, place, size
from aiwm.domain.pages import Page, PageQuery
from aiwm.domain.times import Clock
from aiwm.domain.users import Principal, Role
from aiwm.engines import machine
from aiwm.engines.driver import EngineFailed
from aiwm.engines.kinds import EngineKind
from aiwm.engines.ray import RayDriver, RayNode
from aiwm.errors import Conflict, Invalid, NotFound, StartError, Unavailable
from aiwm.logs import Log
from aiwm.store.deployments import DeploymentStore
from aiwm.store.nodes import NodeStore, ResourceStore

READING_SECONDS = 5.0
OFFLINE_SECONDS = 30
"""How long a node may be silent."""

_WORKING_BYTES = 256 * 1024 * 1024
"""What an engine needs besides the weights, at the very least."""
_PER_WEIGHT = 1.1
"""Bytes of memory for a byte of weights: the rest is what is known of the running requests."""

_log = Log(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewResource:
    name: str
    node_id: str
    gpus: int = 0
    cpus: float = 0
    memory_bytes: int = 0


class Nodes:
    """Every verb raises Forbidden below its role, and NotFound for another organization's resource.

    `folder` keeps who this machine is; `path` is where programs are looked for.
    """

    def __init__(
        self,
        *,
        store: NodeStore,
        resources: ResourceStore,
        deployments: DeploymentStore,
        kinds: Mapping[str, EngineKind],
        folder: Path,
        path: str,
        cluster: RayDriver | None,
        clock: Clock,
        placing: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
    ) -> None:
        """`placing` is held by one at a time, in all processes that place on this machine."""
        self._store = store
        self._resources = resources
        self._deployments = deployments
        self._kinds = kinds
        self._cluster = cluster
        self._of_cluster: dict[str, tuple[Node, str]] = {}
        """The nodes of the cluster, as Ray told last, and their addresses."""
        self._folder = folder
        self._clock = clock
        now = clock()
        self.here = Node(
            id=own_id(folder),
            kind="machine",
            name=socket.gethostname(),
            status=NodeStatus.ONLINE,
            facts=machine.facts(folder, kinds, path),
            readings=machine.readings(folder),
            seen_at=now,
            created_at=now,
        )
        """This machine."""
        own_placing = asyncio.Lock()
        self._placing = placing or (lambda: own_placing)

    @property
    def placing(self) -> AbstractAsyncContextManager[Any]:
        """Held from looking for a place until it is written down who has it."""
        return self._placing()

    async def enroll(self) -> None:
        await self._store.save(self.here)

    async def watch(self, *, reports: bool = True) -> None:
        """Keeps the readings fresh, until cancelled, and `reports` them to others."""
        while True:
            await asyncio.sleep(READING_SECONDS)
            readings = await asyncio.to_thread(machine.readings, self._folder)
            self.here = replace(self.here, readings=readings, seen_at=self._clock())
            try:
                if reports and (
                    self._store.is_shared or len(await self._store.seen()) > 1
                ):  # Else nobody asks for them.
                    await self._store.save(self.here)
            except Unavailable:
                _log.warning("the database is away: this machine's readings are not written")

    async def watch_cluster(self, *, reports: bool = True) -> None:
        """Keeps what Ray says of its nodes, until cancelled, and `reports` it to others."""
        while self._cluster is not None:
            try:
                told = await self._cluster.nodes()
            except EngineFailed as error:
                _log.warning("the cluster can't be seen", reason=str(error))
                told = []
            with suppress(Unavailable):
                await self._take_cluster(told, reports=reports)
            await asyncio.sleep(READING_SECONDS)

    async def _take_cluster(self, told: Sequence[RayNode], *, reports: bool) -> None:
        """Whom Ray does not name any more is offline, too."""
        now, seen = self._clock(), set()
        for each in told:
            seen.add(each.id)
            before = self._of_cluster.get(each.id)
            status = NodeStatus.ONLINE if each.alive else NodeStatus.OFFLINE
            node = Node(
                id=each.id,
                kind="ray",
                name=each.name,
                status=status,
                facts=replace(each.facts, engines=tuple(self._kinds)),
                readings=each.readings,
                seen_at=now if each.alive else 0 if before is None else before[0].seen_at,
                created_at=now if before is None else before[0].created_at,
            )
            self._of_cluster[each.id] = node, each.address
            if reports and (before is None or before[0].status is not status or self._store.is_shared):
                await self._store.save(node if each.alive else replace(node, seen_at=0))
        for id_, (node, address) in self._of_cluster.items():
            if id_ not in seen and node.status is NodeStatus.ONLINE:
                self._of_cluster[id_] = replace(node, status=NodeStatus.OFFLINE), address
                if reports:
                    await self._store.save(replace(node, seen_at=0))

    async def seen(self) -> Mapping[str, tuple[str, int]]:
        """Of each machine its name, and when it reported last by its own clock."""
        return await self._store.seen()

    async def list(self, principal: Principal, query: PageQuery) -> Page[Node]:
        principal.require(Role.VIEWER)
        page = await self._store.list(query, seen_since=self._seen_since())
        return replace(page, items=[self._as_known(node) for node in page.items])

    async def get(self, principal: Principal, node_id: str) -> Node:
        principal.require(Role.VIEWER)
        node = await self._known(node_id)
        if node is None:
            raise NotFound(f"Node with ID {node_id} not found")
        return node

    # -- resources

    async def list_resources(self, principal: Principal, query: PageQuery) -> Page[Resource]:
        principal.require(Role.VIEWER)
        return await self._resources.list(principal, query)

    async def get_resource(self, principal: Principal, resource_id: str) -> Resource:
        principal.require(Role.VIEWER)
        resource = await self._resources.get(principal, resource_id)
        if resource is None:
            raise NotFound(f"Resource with ID {resource_id} not found")
        return resource

    async def create_resource(self, principal: Principal, new: NewResource) -> Resource:
        principal.require(Role.EDITOR)
        await self._check(new)
        now = self._clock()
        resource = Resource(
            id=new_id(),
            org_id=principal.org_id,
            user_id=principal.user_id,
            node_id=new.node_id,
            name=new.name,
            gpus=new.gpus,
            cpus=new.cpus,
            memory_bytes=new.memory_bytes,
            created_by=principal.user_id,
            updated_by=principal.user_id,
            created_at=now,
            updated_at=now,
        )
        await self._resources.add(resource, entry=entry(principal, "create", after=resource, at=now))
        return resource

    async def change_resource(self, principal: Principal, resource_id: str, given: Mapping[str, Any]) -> Resource:
        """`given` holds the fields to change; deployments get the change at their next start."""
        principal.require(Role.EDITOR)
        before = await self.get_resource(principal, resource_id)
        after = replace(before, **given)
        await self._check(after)
        await self._write(principal, before, after)
        return await self.get_resource(principal, resource_id)

    async def delete_resource(self, principal: Principal, resource_id: str) -> int:
        """Soft; answers the time of it."""
        principal.require(Role.EDITOR)
        before = await self.get_resource(principal, resource_id)
        if using := await self._deployments.of_resource(resource_id):
            raise Conflict(
                f'Cannot delete resource "{before.name}". It is currently being used by the following active '
                f"deployments: {', '.join(using)}"
            )
        return await self._write(principal, before, before, delete=True)

    async def _write(self, principal: Principal, before: Resource, after: Resource, *, delete: bool = False) -> int:
        now = max(self._clock(), before.updated_at + 1)
        after = replace(after, updated_by=principal.user_id, updated_at=now)
        verb = "delete" if delete else "change"
        told = entry(principal, verb, before=before, after=None if delete else after, at=now)
        if not await self._resources.change(before, after, deleted_at=now if delete else None, entry=told):
            raise Conflict(f'Resource "{before.name}" was changed by someone else at the same time; try again')
        return now

    async def _check(self, wanted: NewResource | Resource) -> None:
        node = await self._known(wanted.node_id)
        if node is None:
            raise Invalid(f"Node with ID {wanted.node_id} not found")
        need = Need(gpus=wanted.gpus, cpus=wanted.cpus, memory_bytes=wanted.memory_bytes)
        missing = place(node.facts, [], need)
        if isinstance(missing, str):
            raise Invalid(f'A resource of that size does not fit on node "{node.name}": {missing}')

    # -- places

    async def place(self, principal: Principal, deployment: Deployment, model: Model) -> Deployment:
        """The deployment with a node, and what it gets there. Only while `placing` is held.

        Raises Invalid, with all that is missing, when it fits nowhere.
        """
        kind = self.kind(model)
        kind.check(deployment.arguments)
        resource = await self._resource(principal, deployment)
        wanted = _chosen(deployment, resource)
        need = _need(kind, model, deployment, resource)
        if on_cluster := self._place_on_cluster(deployment, wanted, model, need):
            return on_cluster
        await self._require_here(wanted)
        return await self._place_here(deployment, model, need, pinned=wanted is not None)

    async def take_over(self, deployment: Deployment, model: Model) -> Deployment:
        """The deployment with what it had on another machine, or on this one before, now here.

        Only while `placing` is held. Raises Invalid when it does not fit.
        """
        before = deployment.placement
        if before is None or model.download_path is None:
            raise Invalid(f'the files of model "{model.name}" are not there')
        if before.on_cluster:
            if self._cluster is None:
                raise Invalid("it runs on a Ray cluster, and none is set: AIWM_RAY_ADDRESS")
            return replace(deployment, keeper_id=self.here.id, placement=replace(before, lost=False))
        if not await asyncio.to_thread(Path(model.download_path).exists):
            raise Invalid(f'the files of model "{model.name}" are not on node "{self.here.name}"')
        return await self._place_here(deployment, model, before.need, pinned=before.pinned)

    async def _place_here(self, deployment: Deployment, model: Model, need: Need, *, pinned: bool) -> Deployment:
        node, kind = self.here, self.kind(model)
        if kind.name not in node.facts.engines:
            raise Invalid(f'{kind.name} is not installed on node "{node.name}": {kind.install or "install it there"}')
        taken = [
            other.placement
            for other in await self._deployments.placed(node.id)
            if other.placement is not None and other.id != deployment.id
        ]
        placement = place(node.facts, taken, need)
        if isinstance(placement, str):
            raise Invalid(f'Model "{model.name}" does not fit on node "{node.name}": {placement}')
        return replace(deployment, node_id=node.id, keeper_id=node.id, placement=replace(placement, pinned=pinned))

    def _place_on_cluster(
        self, deployment: Deployment, wanted: str | None, model: Model, need: Need
    ) -> Deployment | None:
        """None when it is not for the cluster. Ray finds the place; whether there can be one is known here."""
        found = self._of_cluster.get(wanted or "")
        if self._cluster is None or (wanted is not None and found is None):
            return None
        if found is not None and found[0].status is not NodeStatus.ONLINE:
            raise Invalid(f'Node "{found[0].name}" is offline')
        online = [node for node, _ in self._of_cluster.values() if node.status is NodeStatus.ONLINE]
        candidates = online if found is None else [found[0]]
        one = replace(
            need,
            gpus=need.gpus // deployment.replicas,
            memory_bytes=need.memory_bytes // deployment.replicas,
            cpus=need.cpus / deployment.replicas,
            gpu_memory_bytes=0,  # Ray does not say how much its GPUs have.
        )
        answers = [place(node.facts, [], one) for node in candidates]
        if not any(isinstance(answer, Placement) for answer in answers):
            missing = "; ".join(
                f'on node "{node.name}" {answer}' for node, answer in zip(candidates, answers, strict=True)
            )
            raise Invalid(f'Model "{model.name}" does not fit on the cluster: {missing or "it has no node online"}')
        host = "" if found is None else found[1]
        placement = Placement(need=need, on_cluster=True, host=host, pinned=found is not None)
        return replace(deployment, node_id=wanted, keeper_id=self.here.id, placement=placement)

    def kind(self, model: Model) -> EngineKind:
        """The engine of a self-hosted model."""
        kind = self._kinds.get(model.framework or "")
        if kind is None:
            raise Invalid(f'Framework "{model.framework}" is no engine here; known are {", ".join(self._kinds)}')
        return kind

    def fits_beside(self, placement: Placement) -> bool:
        """Whether another engine may run beside the one that has this place, for as long as they change over."""
        if placement.on_cluster:
            return not placement.need.gpus
        return not placement.gpus and self.here.readings.memory_free_bytes > placement.need.memory_bytes

    async def _resource(self, principal: Principal, deployment: Deployment) -> Resource | None:
        if deployment.resource_id is None:
            return None
        resource = await self._resources.get(principal, deployment.resource_id)
        if resource is None:
            raise Invalid(f"Resource with ID {deployment.resource_id} not found")
        if deployment.node_id is not None and deployment.node_id != resource.node_id:
            raise Invalid(f'Resource "{resource.name}" belongs to another node than nodeId says')
        return resource

    async def _require_here(self, node_id: str | None) -> None:
        if node_id is None or node_id == self.here.id:
            return
        node = await self._known(node_id)
        if node is None:
            raise Invalid(f"Node with ID {node_id} not found")
        if node.status is not NodeStatus.ONLINE:
            raise Invalid(f'Node "{node.name}" is offline')
        raise Invalid(f'Node "{node.name}" is another AIWM\'s machine: make the deployment there')

    async def _known(self, node_id: str) -> Node | None:
        if node_id == self.here.id:
            return self.here
        node = await self._store.get(node_id, seen_since=self._seen_since())
        return node and self._as_known(node)

    def _as_known(self, node: Node) -> Node:
        """What is known here is newer than what is written."""
        known = self._of_cluster.get(node.id)
        return self.here if node.id == self.here.id else node if known is None else known[0]

    def _seen_since(self) -> int:
        return self._clock() - OFFLINE_SECONDS * 1000


def _chosen(deployment: Deployment, resource: Resource | None) -> str | None:
    """The node that its caller named; not one that was found for it before."""
    if resource is not None:
        return resource.node_id
    before = deployment.placement
    return deployment.node_id if before is None or before.pinned else None


def _need(kind: EngineKind, model: Model, deployment: Deployment, resource: Resource | None) -> Need:
    """What all replicas take. Raises Invalid for a resource that is too small for one."""
    gpus = kind.gpus_for(deployment.arguments)
    weights = int((model.file_size or 0) * _PER_WEIGHT)
    one = Need(
        gpus=gpus,
        memory_bytes=_WORKING_BYTES + (0 if gpus else weights),
        gpu_memory_bytes=weights // gpus if gpus else 0,
    )
    if resource is not None:
        if resource.gpus < one.gpus:
            raise Invalid(f'Resource "{resource.name}" has {resource.gpus} GPUs, and {kind.name} needs {one.gpus}')
        if 0 < resource.memory_bytes < one.memory_bytes:
            raise Invalid(
                f'Model "{model.name}" does not fit into resource "{resource.name}": it needs '
                f"{size(one.memory_bytes)} of memory, and the resource has {size(resource.memory_bytes)}"
            )
        one = replace(
            one, gpus=resource.gpus, cpus=resource.cpus, memory_bytes=resource.memory_bytes or one.memory_bytes
        )
    times = deployment.replicas
    return replace(one, gpus=one.gpus * times, cpus=one.cpus * times, memory_bytes=one.memory_bytes * times)


def own_id(folder: Path) -> str:
    """Who this machine is, from the first start on."""
    path = folder / "node-id"
    try:
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.touch(mode=0o600)
            fresh.write_text(new_id())
            fresh.replace(path)
        return path.read_text().strip()
    except OSError as error:
        raise StartError(f"{path} can't be written or read ({error.strerror})") from error
