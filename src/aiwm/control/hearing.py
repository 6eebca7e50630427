"""What the workers of one program tell each other of what they have changed, and what is done when it is heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from aiwm.control.changes import Changes, Work
from aiwm.control.downloads import Downloads
from aiwm.control.engines import Engines
from aiwm.control.limits import Limits
from aiwm.control.targets import EngineAt, Targets
from aiwm.domain.sources import Place
from aiwm.identity.revocations import ReadRevoked, Revocations
from aiwm.targets import TargetTable
from aiwm.wire.origins import Origin


class Hearing:
    """`words` has what is called for each. `recovered` moves what processes left that died into the ledger."""

    def __init__(
        self,
        *,
        changes: Changes,
        table: TargetTable,
        targets: Targets,
        engines: Engines,
        limits: Limits,
        revocations: Revocations,
        revoked_since: ReadRevoked,
        downloads: Downloads,
        recovered: Work,
    ) -> None:
        self._changes = changes
        self._table = table
        self._targets = targets
        self._engines = engines
        self._limits = limits
        self._revocations = revocations
        self._revoked_since = revoked_since
        self._recovered = recovered
        self.words: Mapping[str, Callable[..., Any]] = {
            "deployment": self._deployment_changed,
            "model": self._model_changed,
            "limit": self._limit_changed,
            "sessions": lambda *ended: revocations.revoke(ended),
            "died": self._died,
            "engines": self._engines_ready,
            "left": self._left,
            "idle": targets.idle_seconds,
            # Heard by the one that leads alone.
            "joined": engines.tell_all,
            "wake": engines.wake,
            "fetch": lambda place: downloads.begin(Place(*place)),
        }

    async def _deployment_changed(self, deployment_id: str) -> None:
        reload = partial(self._targets.reload_deployment, deployment_id)
        await self._changes.taken(reload, withhold=partial(self._table.withhold, deployment_id))
        self._engines.changed(deployment_id)

    async def _model_changed(self, model_id: str) -> None:
        reload = partial(self._targets.reload_model, model_id)
        await self._changes.taken(reload, withhold=partial(self._table.withhold, model_id=model_id))

    async def _limit_changed(self, org_id: str, limit_id: str) -> None:
        await self._changes.taken(partial(self._limits.reload, org_id, limit_id))

    async def _died(self) -> None:
        """A sibling, which may have changed things and told nobody."""
        await self._changes.taken(self._targets.load)
        await self._changes.taken(partial(self._revocations.refresh, self._revoked_since))
        await self._changes.taken(self._limits.learn)
        await self._changes.taken(self._recovered)

    async def _engines_ready(self, deployment_id: str, engines: Sequence[Sequence[Any]]) -> None:
        ready = partial(self._targets.engines_ready, deployment_id, [EngineAt(*each) for each in engines])
        await self._changes.taken(ready, withhold=partial(self._table.withhold, deployment_id))

    async def _left(self, deployment_id: str, address: Sequence[Any] | None) -> None:
        await self._targets.left(deployment_id, None if address is None else Origin(*address))
