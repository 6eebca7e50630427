"""Self-hosted deployments made to run: what their rows say is compared with what runs, and the one is led to the other.

Each deployment of this machine has one task, its `_Owner`: the only one that starts and stops its engines, and that
writes what became of them into its row. Whoever changes a row wakes the owner; nobody else waits for an engine. The
row is all that is kept: an owner that is new, because AIWM was killed, begins where the row stands, with the engines
that are still there.
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import httpx2

from aiwm.control.nodes import Nodes
from aiwm.control.takeover import Takeover
from aiwm.control.targets import EngineAt, Targets
from aiwm.domain.deployments import WANTED, Deployment, DeploymentStatus
from aiwm.domain.models import Model
from aiwm.domain.times import Clock
from aiwm.engines.driver import Driver, Engine, EngineSpec
from aiwm.engines.kinds import EngineKind
from aiwm.engines.lines import Lines, followed
from aiwm.engines.process import ProcessDriver
from aiwm.engines.ray import RayDriver
from aiwm.engines.replica import PAUSES, Replica, State
from aiwm.errors import Invalid, Unavailable
from aiwm.logs import Log
from aiwm.store.deployments import DeploymentStore
from aiwm.store.models import ModelStore
from aiwm.targets import Hosted, Target
from aiwm.wire.origins import Origin

_SWEEP_SECONDS = 5.0
"""How often rows are looked for that no owner was told of."""
_TRY_AGAIN_SECONDS = 1.0
_ANOTHER_TRY_SECONDS = 30.0

_log = Log(__name__)


class Hosting(Protocol):
    """What the verbs of deployments need of this."""

    def changed(self, deployment_id: str) -> None:
        """Its row is another one now."""

    def log(self, deployment_id: str, *, last: int, until: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """The last lines of its engines, then what they write, `until` says that it is enough."""


class Elsewhere:
    """Other processes that serve from these engines, too; here: there are none."""

    def ready(self, deployment_id: str, engines: Sequence[EngineAt]) -> None:
        """These and no others get requests from now on."""

    async def left(self, deployment_id: str, address: Origin | None) -> None:
        """Returns when none of them has a request with this engine, or any, that is not ready any more."""

    async def idle_seconds(self, deployment_id: str) -> float:  # noqa: ARG002 - nobody is asked
        """How long none of them has had anything to do with it. Raises Unavailable."""
        return math.inf


class Engines:
    """`run` does it all; `folder` is this machine's for engines, and no other AIWM's at the same time."""

    def __init__(
        self,
        *,
        deployments: DeploymentStore,
        models: ModelStore,
        targets: Targets,
        nodes: Nodes,
        driver: ProcessDriver,
        cluster: RayDriver | None,
        takeover: Takeover,
        http: httpx2.AsyncClient,
        folder: Path,
        drain_seconds: float,
        stops_at_end: Callable[[], bool],
        clock: Clock,
        pauses: Sequence[float] = PAUSES,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.elsewhere = elsewhere or Elsewhere()
        self.stops_at_end = stops_at_end
        self.deployments = deployments
        self.models = models
        self.targets = targets
        self.nodes = nodes
        self.driver = driver
        self.cluster = cluster
        self.http = http
        self.drain_seconds = drain_seconds
        self.clock = clock
        self.pauses = pauses
        self.takeover = takeover
        self._folder = folder
        self._owners: dict[str, _Owner] = {}
        self._at_work = False

    def changed(self, deployment_id: str) -> None:
        if not self._at_work:
            return  # `run` looks at all rows first.
        owner = self._owners.get(deployment_id)
        if owner is None:
            self._own(deployment_id, ())
        else:
            owner.look_again()

    def tell_all(self) -> None:
        """Somebody is new elsewhere, and knows no engine."""
        for owner in self._owners.values():
            owner.publish()

    def wake(self, deployment_id: str) -> None:
        """A request waits for its engines."""
        if owner := self._owners.get(deployment_id):
            owner.wake()

    def log(self, deployment_id: str, *, last: int, until: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """What its engines have written and write; for who may see the deployment."""

        def files() -> Mapping[int, Lines]:
            return {slot: self.driver.lines(deployment_id, slot) for slot in self.driver.slots(deployment_id)}

        return followed(files, lambda: self.driver.keys(deployment_id), last=last, until=until)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At work inside. At the end engines stop, or run on for the next AIWM to take over."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self._at_work = False
            owners = list(self._owners.values())
            await asyncio.gather(*(owner.end(stop=self.stops_at_end()) for owner in owners))

    async def _run(self) -> None:
        while True:
            try:
                await self._look_after_all()
            except Exception:  # noqa: BLE001 - else no engine would be looked after any more
                _log.exception("engines could not be looked after")
                await asyncio.sleep(_SWEEP_SECONDS)

    async def _look_after_all(self) -> None:
        async with _alone(self._folder / "lock"):
            found: dict[str, list[Engine]] = defaultdict(list)
            drivers: list[Driver] = [self.driver] if self.cluster is None else [self.driver, self.cluster]
            for driver in drivers:
                for engine in await driver.found():
                    found[engine.name.deployment_id].append(engine)
            first = True
            while True:
                try:
                    await self.takeover.look()
                    rows = await self.deployments.kept_by(self.nodes.here.id)
                    if first:
                        await self.driver.sweep({row.id for row in await self.deployments.all()})
                except Unavailable:
                    await asyncio.sleep(_TRY_AGAIN_SECONDS)
                    continue
                if first:
                    first = False
                    self._at_work = True
                    for deployment_id in {*found, *(row.id for row in rows)}:
                        if deployment_id not in self._owners:
                            self._own(deployment_id, found[deployment_id])
                changed_at = {row.id: row.updated_at for row in rows}
                for deployment_id in changed_at.keys() - self._owners.keys():
                    self._own(deployment_id, ())
                for deployment_id, owner in self._owners.items():
                    if owner.row_changed_at != changed_at.get(deployment_id):
                        owner.look_again()  # Another AIWM was told.
                await asyncio.sleep(_SWEEP_SECONDS)

    def _own(self, deployment_id: str, engines: Sequence[Engine]) -> None:
        self._owners[deployment_id] = _Owner(self, deployment_id, engines)

    def left_alone(self, deployment_id: str) -> None:
        """Its owner has nothing to do any more. Said by the owner itself, which looks at no news after it."""
        del self._owners[deployment_id]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a row asks for."""

    row: Deployment
    model: Model
    kind: EngineKind
    specs: Sequence[EngineSpec]
    """One for each replica."""


class _Owner:
    def __init__(self, house: Engines, deployment_id: str, found: Sequence[Engine]) -> None:
        self._house = house
        self._id = deployment_id
        self._found = list(found)
        """Engines of an earlier AIWM that are not taken over yet."""
        self._replicas: list[Replica] = []
        self._retiring: dict[asyncio.Task[None], Replica] = {}
        self._hosted: Hosted | None = None
        self._plan: _Plan | None = None
        self._asleep = False
        self._was_ready = False
        self.row_changed_at: int | None = None
        """Of the row as it was when this looked at it last."""
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    def look_again(self) -> None:
        self._news.set()

    def wake(self) -> None:
        if self._asleep:
            self._asleep = False
            self._news.set()

    async def end(self, *, stop: bool) -> None:
        """Because AIWM ends: rows stay as they are."""
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        await self._stop_retiring()
        await asyncio.gather(
            *(replica.stop() if stop else replica.leave() for replica in self._replicas),
            *(engine.stop(_SECONDS) for engine in self._found if stop),
        )

    async def _run(self) -> None:
        while True:
            self._news.clear()
            try:
                pause = await self._step()
            except Unavailable:
                pause = _TRY_AGAIN_SECONDS
            except Exception:  # noqa: BLE001 - a deployment without an owner would stay as it is for ever
                _log.exception("a deployment's engines could not be looked after", deployment_id=self._id)
                pause = _TRY_AGAIN_SECONDS
            if pause == 0 and not self._news.is_set():
                self._house.left_alone(self._id)
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause or None):
                    await self._news.wait()

    async def _step(self) -> float | None:
        """Does what is to do; answers after how long there may be more, None when news will tell, 0 for never."""
        row = await self._house.deployments.by_id(self._id)
        self.row_changed_at = None if row is None else row.updated_at
        if row is None or row.keeper_id != self._house.nodes.here.id or row.status not in {*WANTED, _STOPPING}:
            # Another AIWM may have taken it, or stopped it.
            await self._house.targets.deployment_changed(self._id)
            await self._stop_all()
            return 0
        if row.status is DeploymentStatus.STOPPING:
            await self._drained()
            await self._stop_all()
            await self._write(row, DeploymentStatus.STOPPED)
            return 0
        model = await self._house.models.by_id(row.model_id)
        self._was_ready = self._was_ready or row.status is DeploymentStatus.RUNNING
        try:
            self._plan = self._planned(row, model)
        except Invalid as error:
            await self._give_up(row, str(error))
            return 0
        self._hosted = self._house.targets.hosted(row)
        try:
            self._take_over(self._plan)
            until_idle = await self._sleep_if_idle(self._plan)
            if not self._asleep:
                self._fill(self._plan)
        except Invalid as error:
            await self._give_up(row, str(error))
            return 0
        self.publish()
        pause = await self._tell(self._plan)
        return until_idle if pause is None else pause

    def _planned(self, row: Deployment, model: Model | None) -> _Plan:
        """Raises Invalid when it can't be run."""
        if model is None:
            raise Invalid(f"Model with ID {row.model_id} not found")
        if model.download_path is None or row.placement is None:
            raise Invalid(f'The files of model "{model.name}" are not there')
        kind = self._house.nodes.kind(model)
        gpus, need = row.placement.gpus, row.placement.need
        each = len(gpus) // row.replicas
        has_gpus = bool(self._house.nodes.here.facts.gpus) and not row.placement.on_cluster
        specs = [
            replace(
                kind.spec(
                    path=Path(model.download_path),
                    name=repository_name(model),
                    file_name=model.file_name,
                    model_type=model.type,
                    arguments=row.arguments,
                    gpus=gpus[slot * each : (slot + 1) * each] if has_gpus else None,
                ),
                gpus=need.gpus // row.replicas,
                cpus=need.cpus / row.replicas,
                memory_bytes=need.memory_bytes // row.replicas,
                host=row.placement.host,
            )
            for slot in range(row.replicas)
        ]
        return _Plan(row, model, kind, specs)

    def _take_over(self, plan: _Plan) -> None:
        """What an earlier AIWM has left; what is out of date, or too many, is replaced like any other."""
        found, self._found = self._found, []
        for engine in found:
            slot = engine.name.slot
            self._add(slot, plan.specs[min(slot, len(plan.specs) - 1)], engine)

    def _add(self, slot: int, spec: EngineSpec, engine: Engine | None = None) -> None:
        replica = Replica(
            self._id,
            slot,
            spec,
            driver=self._driver(),
            http=self._house.http,
            changed=self._changed,
            engine=engine,
            pauses=self._house.pauses,
        )
        self._replicas.append(replica)

    def _driver(self) -> Driver:
        placement = None if self._plan is None else self._plan.row.placement
        if placement is None or not placement.on_cluster:
            return self._house.driver
        if self._house.cluster is None:
            raise Invalid("It runs on a Ray cluster, and none is set: AIWM_RAY_ADDRESS")
        return self._house.cluster

    def _changed(self) -> None:
        """A replica's state: requests must not wait for the database to be told."""
        self.publish()
        self._news.set()

    def publish(self) -> None:
        if self._hosted is None or self._plan is None:
            return
        ready = [replica for replica in self._replicas if replica.state is State.READY and not self._asleep]
        engines = [_at(self._plan, replica.engine) for replica in ready if replica.engine is not None]
        self._hosted.ready([self._target(self._plan, at) for at in engines])
        self._house.elsewhere.ready(self._id, engines)

    def _target(self, plan: _Plan, at: EngineAt) -> Target:
        return self._house.targets.engine(plan.row, plan.model, at)

    async def _left(self, hosted: Hosted, address: Origin | None = None) -> None:
        """Until the time for it is over."""
        with suppress(TimeoutError, Unavailable):
            async with asyncio.timeout(self._house.drain_seconds):
                await asyncio.gather(hosted.left(address), self._house.elsewhere.left(self._id, address))

    def _fill(self, plan: _Plan) -> None:
        """Starts what is missing, and retires what is out of date once something else serves in its place."""
        old = [replica for replica in self._replicas if not self._is_current(plan, replica)]
        fresh = [replica for replica in self._replicas if self._is_current(plan, replica)]
        beside = plan.row.placement is not None and self._house.nodes.fits_beside(plan.row.placement)
        for slot, spec in enumerate(plan.specs):
            current = [replica for replica in fresh if replica.slot == slot]
            self._retire(current[1:])  # AIWM died in a change, and another one brought the old engine back to use.
            mine = current[0] if current else None
            before = [replica for replica in old if replica.slot == slot]
            if mine is None:
                if before and any(replica.state in {State.STARTING, State.PAUSING} for replica in fresh):
                    continue  # One after the other: those that serve go on serving.
                if before and not beside:
                    self._retire(before)
                    continue  # It makes room first; the end of it is news.
                self._add(slot, spec)
                fresh.append(self._replicas[-1])
            elif mine.state is State.READY:
                self._retire(before)
            elif self._deserves_another_try(mine, fresh):
                self._replicas.remove(mine)
                self._add(slot, spec)
        self._retire(replica for replica in old if replica.slot >= len(plan.specs))

    @staticmethod
    def _deserves_another_try(given_up: Replica, others: Iterable[Replica]) -> bool:
        """Where others of the same kind run, it was not what it was told that brought it down."""
        return (
            given_up.state is State.GIVEN_UP
            and time.monotonic() - given_up.since > _ANOTHER_TRY_SECONDS
            and any(other.state is State.READY for other in others)
        )

    @staticmethod
    def _is_current(plan: _Plan, replica: Replica) -> bool:
        return replica.slot < len(plan.specs) and replica.fingerprint == plan.specs[replica.slot].fingerprint

    def _retire(self, replicas: Iterable[Replica]) -> None:
        """They get no more requests from the next `publish` on, finish those they have, and stop."""
        for replica in list(replicas):
            self._replicas.remove(replica)
            task = asyncio.create_task(self._retired(replica))
            self._retiring[task] = replica
            task.add_done_callback(self._has_retired)

    def _has_retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.pop(task, None)
        self._news.set()

    async def _stop_retiring(self) -> None:
        """At once, whatever requests they still have."""
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        # One that was just being stopped was cut short in it.
        await asyncio.gather(*(replica.stop() for replica in retiring.values()))

    async def _retired(self, replica: Replica) -> None:
        try:
            if self._hosted is not None and self._plan is not None and replica.engine is not None:
                origin = self._target(self._plan, _at(self._plan, replica.engine)).base.origin
                await self._left(self._hosted, origin)
        finally:
            await replica.stop()

    async def _sleep_if_idle(self, plan: _Plan) -> float | None:
        """Stops engines that had nothing to do for long enough; answers how long until then."""
        limit, hosted = plan.row.idle_timeout, self._hosted
        if limit is None or hosted is None:
            self._asleep = False
            return None
        if self._asleep or not any(replica.state is State.READY for replica in self._replicas):
            return None
        idle = 0 if hosted.busy else time.monotonic() - hosted.used_at
        if idle >= limit:
            idle = min(idle, await self._house.elsewhere.idle_seconds(self._id))
        if idle < limit:
            return max(limit - idle, _TRY_AGAIN_SECONDS)
        self._asleep = True
        self.publish()  # From here on a request waits, and wakes it.
        await self._left(hosted)
        replicas, self._replicas = self._replicas, []
        await asyncio.gather(*(replica.stop() for replica in replicas))
        return None

    async def _tell(self, plan: _Plan) -> float | None:
        """Writes into the row what is true now; 0 when that was the last of it."""
        ready = [replica for replica in self._replicas if replica.state is State.READY]
        given_up = [replica for replica in self._replicas if replica.state is State.GIVEN_UP]
        reasons = sorted({replica.reason for replica in self._replicas if replica.reason and replica not in ready})
        reason = " ".join(reasons) or None
        if ready or self._asleep:
            self._was_ready = True
            await self._write(plan.row, DeploymentStatus.RUNNING, reason if given_up else None)
            return _ANOTHER_TRY_SECONDS if given_up else None
        if given_up and len(given_up) == len(self._replicas) and not self._retiring:
            await self._give_up(plan.row, reason or "The engine did not start")
            return 0
        if not any(replica.taken_over for replica in self._replicas):
            await self._write(plan.row, DeploymentStatus.DEPLOYING, reason)
        return None

    async def _give_up(self, row: Deployment, reason: str) -> None:
        await self._stop_all()
        status = DeploymentStatus.ERROR if self._was_ready else DeploymentStatus.FAILED
        _log.error("a deployment is given up", deployment_id=self._id, status=str(status), reason=reason)
        await self._write(row, status, reason)

    async def _drained(self) -> None:
        """Its requests have come to their end, or had their time."""
        hosted = self._hosted
        if hosted is not None:
            hosted.ready(())
            self._house.elsewhere.ready(self._id, ())
            await self._left(hosted)

    async def _stop_all(self) -> None:
        replicas, self._replicas = self._replicas, []
        found, self._found = self._found, []
        await self._stop_retiring()
        await asyncio.gather(*(replica.stop() for replica in replicas), *(engine.stop(_SECONDS) for engine in found))

    async def _write(self, row: Deployment, status: DeploymentStatus, message: str | None = None) -> None:
        if (row.status, row.error_message) == (status, message):
            return
        now = max(self._house.clock(), row.updated_at + 1)
        after = replace(row, status=status, error_message=message, updated_at=now)
        if await self._house.deployments.change(row, after):
            self.row_changed_at = now
            await self._house.targets.deployment_changed(self._id)
        else:
            self._news.set()  # Somebody else was quicker: what to do now is another question.


_STOPPING = DeploymentStatus.STOPPING
_SECONDS = 10.0
"""For an engine of which nothing else is known any more."""


def repository_name(model: Model) -> str:
    """The last word of where the model is from."""
    return PurePosixPath((model.repository or model.name).partition("@")[0]).name or model.name


def _at(plan: _Plan, engine: Engine) -> EngineAt:
    return EngineAt(plan.kind.provider, model_name(plan.kind, plan.model), engine.address, engine.key, plan.kind.paths)


def model_name(kind: EngineKind, model: Model) -> str:
    """What an engine of this kind calls the model."""
    return kind.called(repository_name(model), model.file_name, model.download_path or "")


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """One AIWM at a time: the next one waits here until this one has ended, however it does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
        yield
    finally:
        os.close(descriptor)
