"""Where each deployment's requests go: everything the hot path needs, prepared once, in one table.

`control.targets` makes the targets from rows; the proxy looks one up in a dict. A target never changes: another one
takes its place, so a request sees one state of it from beginning to end. Only what runs on engines of ours is asked
again at the last moment: they come and go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from aiwm.domain.prices import OwnPrices
from aiwm.errors import AiwmError, NotFound, Unavailable, WrongState
from aiwm.providers.base import Provider
from aiwm.wire.masking import Secrets
from aiwm.wire.origins import Origin, Timeouts
from aiwm.wire.urls import BaseUrl

_BREATH_SECONDS = 0.1
"""An engine that has just failed is asked again after it, if there is no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running deployment. The provider's key is in `lines` and `secrets`, which are never shown."""

    deployment_id: str
    org_id: str
    model_id: str
    provider: Provider
    base: BaseUrl
    lines: bytes = field(repr=False)
    """Header lines of ours: Host, the credentials, `header-*`; each ends with CRLF."""
    replaced: frozenset[bytes]
    """Names of the headers in `lines`: the caller's own of that name are dropped."""
    defaults: tuple[tuple[bytes, bytes], ...]
    """(name, line) sent if the caller sent no header of that name."""
    query: tuple[tuple[bytes, bytes], ...]
    """(name, value) added to the query if the caller gave none."""
    secrets: Secrets = field(repr=False)
    """The provider's key and what else is secret, as it travels: masked wherever an answer quotes it."""
    model: str
    aliases: frozenset[str]
    """The deployment's id and name: a caller who asks for this `model` means the deployed one."""
    allowed: frozenset[str] | None
    """Models that may be asked for; None for any."""
    timeouts: Timeouts
    stream_usage_in_body: frozenset[str] = frozenset()
    """Paths on which a stream is made to report its usage: the provider's, or none if the deployment is not to."""
    prices: OwnPrices | None = None
    """What its operator has set for the model."""
    paths: tuple[bytes, ...] = ()
    """How the paths begin that callers may ask for; empty: all."""
    drains: bool = False
    """Whether an answer is read to its end when the caller has left."""


@dataclass(frozen=True, slots=True)
class Resting:
    """A deployment that takes no requests; `error` says why, to the caller."""

    org_id: str
    error: AiwmError


class Seat:
    """One engine of a deployment, and how many requests are with it."""

    __slots__ = ("load", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self.load = 0


class Hosted:
    """A deployment that runs on engines of ours: which of them gets a request, and who waits while none is ready.

    The one thing in the table that changes in place, because what it holds changes with every request. `control` says
    which engines are `ready`; the proxy borrows a seat and gives it back. `wake` is called when somebody waits.
    """

    def __init__(self, org_id: str, *, hold_seconds: float, most_waiting: int, wake: Callable[[], None]) -> None:
        self.org_id = org_id
        self.waiting = 0
        self.used_at = time.monotonic()
        """When it had something to do last; now, as long as it has."""
        self.hold_seconds = hold_seconds
        self._most_waiting = most_waiting
        self._wake = wake
        self._seats: list[Seat] = []
        self._leaving: list[Seat] = []
        self._over: AiwmError | None = None
        self._news: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        return self.waiting > 0 or any(seat.load for seat in (*self._seats, *self._leaving))

    def ready(self, targets: Iterable[Target]) -> None:
        """These and no others get requests from now on. One that stays keeps its requests."""
        if not self._seats:
            self.used_at = time.monotonic()
        before = {seat.target.base.origin: seat for seat in self._seats}
        self._seats = []
        for target in targets:
            seat = before.pop(target.base.origin, None) or Seat(target)
            seat.target = target
            self._seats.append(seat)
        self._leaving = [seat for seat in (*self._leaving, *before.values()) if seat.load]
        self._tell()

    def rests(self, error: AiwmError) -> None:
        """It takes no requests any more; those that wait are told so."""
        self._over = error
        self.ready(())

    async def borrow(self, *, avoid: Seat | None = None) -> Seat:
        """The seat with the least to do, to be given back; `avoid` has just failed, and is the last choice.

        Raises Unavailable when none becomes ready in time, or too many wait already; and what `rests` was given.
        """
        seat = self._least(avoid)
        if seat is None:
            seat = await self._awaited(avoid)
        seat.load += 1
        return seat

    def now(self) -> Target:
        """The target with the least to do, without waiting. Raises Unavailable when none is ready."""
        seat = self._least(None)
        if seat is None:
            self._wake()
            raise self._over or Unavailable("The deployment is starting; try again")
        return seat.target

    def give_back(self, seat: Seat) -> None:
        seat.load -= 1
        self.used_at = time.monotonic()
        if seat.load == 0 and self._leaving:
            self._leaving = [each for each in self._leaving if each.load]
            self._tell()

    async def left(self, address: Origin | None = None) -> None:
        """Returns when nobody uses this engine, or any, that is not ready any more."""
        while any(address in {None, seat.target.base.origin} for seat in self._leaving):
            await self._next_news()

    def _least(self, avoid: Seat | None) -> Seat | None:
        return min((seat for seat in self._seats if seat is not avoid), key=lambda seat: seat.load, default=None)

    async def _awaited(self, avoid: Seat | None) -> Seat:
        if self._over is None and self.waiting >= self._most_waiting:
            raise Unavailable(f"The deployment is starting, and {self.waiting} requests wait for it already; try again")
        self.waiting += 1
        try:
            async with asyncio.timeout(self.hold_seconds):
                while True:
                    if self._over is not None:
                        raise type(self._over)(self._over.message)
                    if seat := self._least(avoid):
                        return seat
                    self._wake()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(None if avoid is None else _BREATH_SECONDS):
                            await self._next_news()
                    avoid = None
        except TimeoutError:
            raise Unavailable("The deployment is starting, and was not ready in time; try again") from None
        finally:
            self.waiting -= 1
            self.used_at = time.monotonic()

    async def _next_news(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set_result(None)


Entry = Target | Resting | Hosted


class TargetTable:
    """The deployments of all organizations, by id. Only `replace`, `put`, `withhold` and `remove` change it."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._unmade: dict[str, Callable[[], Entry]] = {}

    def running(self, deployment_id: str, org_id: str) -> Target:
        """The target, for a caller of that organization, at this moment."""
        entry = self.reach(deployment_id, org_id)
        return entry.now() if isinstance(entry, Hosted) else entry

    def reach(self, deployment_id: str, org_id: str) -> Target | Hosted:
        """The target, for a caller of that organization; for a deployment on our engines, who knows the target.

        Raises NotFound when there is none or it is another organization's, WrongState when it does not run.
        """
        entry = self._entries.get(deployment_id) or self._made(deployment_id)
        if entry is None or entry.org_id != org_id:
            raise NotFound(f"Deployment with ID {deployment_id} not found")
        if isinstance(entry, Resting):
            raise type(entry.error)(entry.error.message)
        return entry

    def replace(self, entries: Mapping[str, Entry], unmade: Mapping[str, Callable[[], Entry]]) -> None:
        """All of them at once. Those of `unmade` are made when they are asked for, or by `make_all`."""
        self._entries, self._unmade = dict(entries), dict(unmade)

    def put(self, entries: Iterable[tuple[str, Entry]]) -> None:
        # A change is seen whole or not at all, so all of it is made before.
        for deployment_id, entry in tuple(entries):
            self._unmade.pop(deployment_id, None)
            self._entries[deployment_id] = entry

    def withhold(self, deployment_id: str | None = None, *, model_id: str | None = None) -> None:
        """What has changed in a way that is not known yet: requests for it are refused until it is."""
        for id_ in tuple(self._unmade):
            self._made(id_)
        self.put(
            (id_, Resting(entry.org_id, Unavailable()))
            for id_, entry in self._entries.items()
            if id_ == deployment_id or (isinstance(entry, Target) and entry.model_id == model_id)
        )

    def remove(self, deployment_id: str) -> None:
        self._unmade.pop(deployment_id, None)
        self._entries.pop(deployment_id, None)

    async def make_all(self) -> None:
        """Makes what nobody has asked for yet, beside others."""
        for deployment_id in tuple(self._unmade):
            self._made(deployment_id)
            await asyncio.sleep(0)

    def _made(self, deployment_id: str) -> Entry | None:
        make = self._unmade.pop(deployment_id, None)
        if make is None:
            return None
        entry = self._entries[deployment_id] = make()
        return entry


def not_running(status: str) -> WrongState:
    """In the words of the guide."""
    return WrongState(f"Deployment is not running. Current status: {status}")
