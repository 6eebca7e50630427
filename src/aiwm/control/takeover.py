"""What becomes of deployments whose machine is gone: an AIWM on another one takes them over, where they fit.

Whether a machine is gone is not asked of clocks, which may differ: it is counted how often in a row it had nothing new
to say. While the database is away nobody can say anything, and nothing is counted. Of several AIWMs that want the same
deployment one wins, as always: the row is changed only if it is still the one that was read.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from aiwm.control.nodes import Nodes
from aiwm.control.targets import Targets
from aiwm.domain.deployments import Deployment, DeploymentStatus
from aiwm.domain.times import Clock
from aiwm.engines.driver import EngineFailed
from aiwm.engines.ray import RayDriver
from aiwm.errors import Invalid
from aiwm.logs import Log
from aiwm.store.deployments import DeploymentStore
from aiwm.store.models import ModelStore

GONE_AFTER = 6
"""So many looks, at five seconds each, without a word: what was placed there goes elsewhere."""
LOST_AFTER = 12
"""And what has found no other place until then is said to be lost."""

_CLUSTER_SECONDS = 20

_log = Log(__name__)


class Takeover:
    def __init__(
        self,
        *,
        nodes: Nodes,
        deployments: DeploymentStore,
        models: ModelStore,
        targets: Targets,
        cluster: RayDriver | None,
        clock: Clock,
    ) -> None:
        self._nodes = nodes
        self._deployments = deployments
        self._models = models
        self._targets = targets
        self._cluster = cluster
        self._clock = clock
        self._heard: dict[str, tuple[int, int]] = {}
        """Of each machine when it reported last, and how many looks had nothing new since."""

    async def look(self) -> None:
        """Call it every five seconds. What it has taken over stands in the rows then. Raises Unavailable."""
        for row in await self._deployments.kept_by(self._nodes.here.id, (DeploymentStatus.ERROR,)):
            if row.placement is not None and row.placement.lost:
                # It was this machine that had been given up.
                with suppress(Invalid):
                    await self._take(row)
        elsewhere = await self._deployments.kept_by_others(self._nodes.here.id)
        seen = await self._nodes.seen() if elsewhere else {}
        self._count({id_: at for id_, (_, at) in seen.items()})
        for row in elsewhere:
            keeper = row.keeper_id or ""
            _, looks = self._heard.get(keeper, (0, 0))
            if looks >= GONE_AFTER:
                await self._from_gone(row, seen[keeper][0], is_late=looks >= LOST_AFTER)

    def _count(self, seen: dict[str, int]) -> None:
        before, self._heard = self._heard, {}
        for id_, at in seen.items():
            last, looks = before.get(id_, (at, -1))
            self._heard[id_] = (at, looks + 1 if at == last else 0)

    async def _from_gone(self, row: Deployment, node: str, *, is_late: bool) -> None:
        if row.status is DeploymentStatus.STOPPING:
            await self._write(row, replace(row, status=DeploymentStatus.STOPPED))
            return
        silent = f'Its node "{node}" does not report any more'
        if row.placement is not None and row.placement.pinned and not row.placement.on_cluster:
            await self._lose(row, f"{silent}, and it was made for that node. It starts again when the node is back.")
            return
        try:
            await self._take(row)
        except Invalid as error:
            if is_late:
                await self._lose(
                    row, f"{silent}, and no other takes it: {error}. It starts again when the node is back."
                )

    async def _take(self, row: Deployment) -> None:
        """Raises Invalid when it can't run here."""
        model = await self._models.by_id(row.model_id)
        if model is None:
            raise Invalid(f"Model with ID {row.model_id} not found")
        async with self._nodes.placing:
            mine = await self._nodes.take_over(row, model)
            after = self._later(replace(mine, status=DeploymentStatus.QUEUED, error_message=None))
            if await self._deployments.start(row, after) is not True:
                return
        _log.warning("a deployment is taken over from a machine that is gone", deployment_id=row.id, node=row.keeper_id)
        await self._targets.deployment_changed(row.id)
        if self._cluster is not None and mine.placement is not None and mine.placement.on_cluster:
            with suppress(EngineFailed, TimeoutError):
                async with asyncio.timeout(_CLUSTER_SECONDS):
                    await self._cluster.end_others(row.id)

    async def _lose(self, row: Deployment, reason: str) -> None:
        placement = None if row.placement is None else replace(row.placement, lost=True)
        _log.error("a deployment is lost with its machine", deployment_id=row.id, reason=reason)
        await self._write(row, replace(row, status=DeploymentStatus.ERROR, error_message=reason, placement=placement))

    async def _write(self, row: Deployment, after: Deployment) -> None:
        if await self._deployments.change(row, self._later(after)):
            await self._targets.deployment_changed(row.id)

    def _later(self, deployment: Deployment) -> Deployment:
        return replace(deployment, updated_at=max(self._clock(), deployment.updated_at + 1))
