"""Keeps one engine running: starts it, waits until it is ready, starts it again when it dies, and gives up in the end.

All that changes here is changed by one task, `_run`. Others read, and say `stop` or `leave`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

import httpx2

from aiwm.domain.ids import new_id
from aiwm.engines.driver import Driver, Engine, EngineFailed, EngineName, EngineSpec
from aiwm.logs import Log

PAUSES = (1.0, 4.0)
"""Seconds before each further start. After the last of them it is given up."""
STEADY_SECONDS = 60.0
"""Who was ready for so long starts anew with all attempts."""
QUOTED_LINES = 8

_FIRST_LOOK_SECONDS, _LONGEST_LOOK_SECONDS = 0.05, 1.0
_ANSWER_SECONDS = 5.0
_HEALTH_SECONDS = 10.0
_SILENT_LOOKS = 6
"""How many looks in a row may go without an answer: an engine under full load is slow, not dead."""

_log = Log(__name__)


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    PAUSING = "pausing"
    """It failed, and is about to be started again."""
    GIVEN_UP = "given-up"
    STOPPED = "stopped"


class Replica:
    """`changed` is called after each change of `state`. `http` asks the engine for its health."""

    def __init__(
        self,
        deployment_id: str,
        slot: int,
        spec: EngineSpec,
        *,
        driver: Driver,
        http: httpx2.AsyncClient,
        changed: Callable[[], None],
        engine: Engine | None = None,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        """`engine` is one that runs already and is taken over."""
        self.slot = slot
        self.spec = spec
        self.state = State.STARTING
        self.reason: str | None = None
        """Why the last start came to nothing, with what the engine said last."""
        self.engine = engine
        self.fingerprint = spec.fingerprint if engine is None else engine.fingerprint
        """Of what runs, which may be older than `spec`."""
        self.taken_over = engine is not None
        """It ran before, and is not known yet to be well."""
        self.since = time.monotonic()
        """When its state changed last."""
        self._deployment_id = deployment_id
        self._driver = driver
        self._http = http
        self._changed = changed
        self._pauses = pauses
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends the engine, whatever it is doing. When it returns, nothing of it is left."""
        await self.leave()
        if self.engine is not None:
            await self.engine.stop(self.spec.stop_seconds)
            self.engine = None
        self._become(State.STOPPED)

    async def leave(self) -> None:
        """Looks after it no more, and lets it run."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            ready_at = None
            try:
                if self.engine is None:
                    name = EngineName(self._deployment_id, self.slot, new_id())
                    self.engine = await self._driver.start(name, self.spec)
                    self.fingerprint = self.spec.fingerprint
                await self._until_ready(self.engine)
                ready_at = loop.time()
                self._become(State.READY)
                await self._until_unwell(self.engine)
            except EngineFailed as error:
                self.reason = str(error)
            except Exception as error:  # noqa: BLE001 - else nobody would look after the engine from here on
                _log.exception("an engine could not be looked after", deployment_id=self._deployment_id)
                self.reason = f"The engine could not be looked after ({type(error).__name__}); the log has the details."
            if ready_at is not None and loop.time() - ready_at >= STEADY_SECONDS:
                failures = 0
            failures += 1
            given_up = failures > len(self._pauses)
            _log.warning(
                "an engine has failed",
                deployment_id=self._deployment_id, slot=self.slot, reason=self.reason, given_up=given_up,
            )  # fmt: skip
            # Before its remains are cleared away: nobody may be sent to it meanwhile.
            self._become(State.PAUSING)
            if self.engine is not None:
                await self.engine.stop(0)
                self.engine = None
            if given_up:
                self._become(State.GIVEN_UP)
                return
            await asyncio.sleep(self._pauses[failures - 1])
            self._become(State.STARTING)

    def _become(self, state: State) -> None:
        self.taken_over = False
        if state is not self.state:
            self.state, self.since = state, time.monotonic()
            self._changed()

    async def _until_ready(self, engine: Engine) -> None:
        """Raises EngineFailed when it ends before, or has had its time."""
        ended = asyncio.ensure_future(engine.ended())
        try:
            async with asyncio.timeout(self.spec.start_seconds):
                pause = _FIRST_LOOK_SECONDS
                while not await self._answers(engine) or not await engine.listens():
                    done, _ = await asyncio.wait({ended}, timeout=pause)
                    if done:
                        raise _failed(f"ended before it was ready ({ended.result()})", engine)
                    pause = min(pause * 1.5, _LONGEST_LOOK_SECONDS)
        except TimeoutError:
            raise _failed(f"was not ready after {self.spec.start_seconds:g} s", engine) from None
        finally:
            ended.cancel()

    async def _until_unwell(self, engine: Engine) -> None:
        """Raises EngineFailed when it has ended, or has fallen silent."""
        ended = asyncio.ensure_future(engine.ended())
        try:
            silent = 0
            while silent < _SILENT_LOOKS:
                done, _ = await asyncio.wait({ended}, timeout=_HEALTH_SECONDS)
                if done:
                    raise _failed(f"ended by itself ({ended.result()})", engine)
                silent = 0 if await self._answers(engine) else silent + 1
            raise _failed(f"no longer answers {self.spec.ready_path}", engine)
        finally:
            ended.cancel()

    async def _answers(self, engine: Engine) -> bool:
        headers = {"authorization": f"Bearer {engine.key}"}
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await self._http.get(engine.address + self.spec.ready_path, headers=headers)
        except (httpx2.HTTPError, TimeoutError):
            return False
        return answer.status_code == 200


def _failed(what: str, engine: Engine) -> EngineFailed:
    said = " | ".join(line.strip() for line in engine.last_lines(QUOTED_LINES) if line.strip())
    return EngineFailed(f"The engine {what}." + (f" It said last: {said[-1500:]}" if said else " It said nothing."))
