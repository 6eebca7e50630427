"""Rows -> TargetTable: after each change, what the hot path needs is prepared here, once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from weakref import WeakValueDictionary

from aiwm.domain.deployments import WANTED, Deployment, DeploymentStatus, OnDisconnect, StreamUsage
from aiwm.domain.models import ENV_PREFIX, HEADER_PREFIX, KEY_FIELDS, ApiConfig, Model, Sealed, is_env_reference
from aiwm.domain.prices import OwnPrices
from aiwm.errors import AiwmError, NotFound, WrongState
from aiwm.logs import Log
from aiwm.providers import registry
from aiwm.providers.base import Provider
from aiwm.store.deployments import DeploymentStore
from aiwm.store.models import ModelStore
from aiwm.targets import Entry, Hosted, Resting, Target, TargetTable, not_running
from aiwm.wire.masking import Secrets
from aiwm.wire.origins import Origin, Timeouts
from aiwm.wire.urls import BaseUrl, base_url

_log = Log(__name__)


Announce = Callable[[str, str], Awaitable[None]]
"""Tells processes that serve the same ports what has changed, and its id; returns when they go by it."""


async def _to_nobody(_what: str, _id: str) -> None:
    """One process has nobody to tell."""


class EngineAt(NamedTuple):
    """An engine that takes requests, as workers tell each other of it."""

    provider: str
    name: str
    """What it calls its model."""
    url: str
    key: str
    paths: Sequence[str]
    """How the paths begin that callers may ask for."""


class Targets:
    """Keeps the table true to the store. `unseal` decrypts a secret, `variable` reads an operator's `env:NAME`."""

    def __init__(
        self,
        *,
        table: TargetTable,
        models: ModelStore,
        deployments: DeploymentStore,
        unseal: Callable[[Sealed], str],
        variable: Callable[[str], str | None],
        timeouts: Timeouts,
        hold_seconds: float,
        most_waiting: int,
        wake: Callable[[str], None],
        here: str,
        announce: Announce = _to_nobody,
    ) -> None:
        """`wake` is called with a deployment's id when a request waits for its engines; `here` is this machine's id."""
        self._announce = announce
        self._here = here
        self._table = table
        self._models = models
        self._deployments = deployments
        self._unseal = unseal
        self._variable = variable
        self._timeouts = timeouts
        self._hold_seconds = hold_seconds
        self._most_waiting = most_waiting
        self._wake = wake
        self._hosted: dict[str, Hosted] = {}
        self._ended: WeakValueDictionary[str, Hosted] = WeakValueDictionary()
        """Those that take no requests any more, as long as some still have one."""
        self._engines: dict[str, Sequence[EngineAt]] = {}
        """Where another worker looks after the engines: what it has told of them."""
        # Reading a row and putting it into the table is one step: else an older row could overtake a newer one.
        self._turn = asyncio.Lock()

    async def load(self) -> None:
        """All of them, at start. Targets are made later: opening ten thousand keys takes a second."""
        async with self._turn:
            models = {model.id: model for model in await self._models.all()}
            entries: dict[str, Entry] = {}
            unmade: dict[str, Callable[[], Entry]] = {}
            for deployment in await self._deployments.all():
                model = models.get(deployment.model_id)
                if deployment.is_hosted or deployment.status is not DeploymentStatus.RUNNING:
                    entries[deployment.id] = self._entry(deployment, model)
                else:
                    unmade[deployment.id] = partial(self._entry, deployment, model)
            self._table.replace(entries, unmade)

    async def deployment_changed(self, deployment_id: str) -> None:
        """Returns when it is true everywhere on this machine. So does `model_changed`."""
        await asyncio.gather(self.reload_deployment(deployment_id), self._announce("deployment", deployment_id))

    async def model_changed(self, model_id: str) -> None:
        await asyncio.gather(self.reload_model(model_id), self._announce("model", model_id))

    async def reload_deployment(self, deployment_id: str) -> None:
        """In this process."""
        async with self._turn:
            deployment = await self._deployments.by_id(deployment_id)
            if deployment is None:
                self._rest(deployment_id, NotFound(f"Deployment with ID {deployment_id} not found"))
                self._table.remove(deployment_id)
                return
            model = await self._models.by_id(deployment.model_id)
            self._table.put([(deployment_id, self._entry(deployment, model))])

    async def reload_model(self, model_id: str) -> None:
        async with self._turn:
            model = await self._models.by_id(model_id)
            deployments = await self._deployments.of_model(model_id)
            self._table.put((deployment.id, self._entry(deployment, model)) for deployment in deployments)

    def hosted(self, deployment: Deployment) -> Hosted:
        """Who gives the deployment's engines to requests."""
        found = self._hosted.get(deployment.id)
        if found is None:
            found = self._hosted[deployment.id] = Hosted(
                deployment.org_id,
                hold_seconds=self._hold_seconds,
                most_waiting=self._most_waiting,
                wake=lambda: self._wake(deployment.id),
            )
        return found

    def engine(self, deployment: Deployment, model: Model, at: EngineAt) -> Target:
        base = base_url(at.url)
        target = self._target_at(
            deployment,
            model,
            provider=registry.provider(at.provider),
            base=replace(base, origin=base.origin._replace(ours=True)),
            identifier=at.name,
            config={KEY_FIELDS[0]: at.key},
        )
        return replace(target, paths=tuple(path.encode() for path in at.paths))

    # -- where another worker looks after the engines

    async def engines_ready(self, deployment_id: str, engines: Sequence[EngineAt]) -> None:
        """These and no others get requests from now on."""
        self._engines[deployment_id] = engines
        async with self._turn:
            deployment = await self._deployments.by_id(deployment_id)
            model = None if deployment is None else await self._models.by_id(deployment.model_id)
            if deployment is None or model is None or not isinstance(self._entry(deployment, model), Hosted):
                del self._engines[deployment_id]
                return
            hosted = self.hosted(deployment)
            hosted.ready([self.engine(deployment, model, at) for at in self._engines[deployment_id]])
            self._table.put([(deployment_id, hosted)])

    async def left(self, deployment_id: str, address: Origin | None = None) -> None:
        """Returns when no request of this process is with this engine, or any, that is not ready any more."""
        for hosted in (self._hosted.get(deployment_id), self._ended.get(deployment_id)):
            if hosted is not None:
                await hosted.left(address)

    def idle_seconds(self, deployment_id: str) -> float:
        """How long this process has had nothing to do with it."""
        hosted = self._hosted.get(deployment_id)
        if hosted is None:
            return math.inf
        return 0 if hosted.busy else time.monotonic() - hosted.used_at

    def _rest(self, deployment_id: str, error: AiwmError) -> None:
        hosted = self._hosted.pop(deployment_id, None)
        if hosted is not None:
            hosted.rests(error)
            self._ended[deployment_id] = hosted

    def _entry(self, deployment: Deployment, model: Model | None) -> Entry:
        if model is not None and deployment.is_hosted and deployment.status in WANTED:
            if deployment.keeper_id == self._here:
                return self.hosted(deployment)
            elsewhere = WrongState("Deployment runs on another machine; ask the AIWM there")
            self._rest(deployment.id, elsewhere)
            return Resting(deployment.org_id, elsewhere)
        if deployment.status is not DeploymentStatus.RUNNING or model is None:
            error = not_running(deployment.status)
            self._rest(deployment.id, error)
            return Resting(deployment.org_id, error)
        try:
            return self._target(deployment, model)
        except AiwmError as error:
            # One broken key must not keep the others from being served, nor the program from starting.
            _log.error("a deployment can't be served", deployment_id=deployment.id, reason=str(error))
            return Resting(deployment.org_id, error)

    def _target(self, deployment: Deployment, model: Model) -> Target:
        return self._target_at(
            deployment,
            model,
            provider=registry.provider(model.provider or ""),
            base=base_url(model.api_endpoint or ""),
            identifier=model.model_identifier or "",
            config={name: self._opened(name, value) for name, value in (model.api_config or {}).items()},
        )

    def _target_at(
        self,
        deployment: Deployment,
        model: Model,
        *,
        provider: Provider,
        base: BaseUrl,
        identifier: str,
        config: Mapping[str, str],
    ) -> Target:
        secret = next((config[field] for field in KEY_FIELDS if field in config), "")
        headers = _headers(provider, config, secret)
        allowed = deployment.allowed_models
        return Target(
            deployment_id=deployment.id,
            org_id=deployment.org_id,
            model_id=model.id,
            provider=provider,
            base=base,
            lines=_lines({"host": base.host_header.decode("ascii"), **headers}),
            replaced=frozenset(name.encode("ascii") for name in headers),
            defaults=tuple(
                (name.encode("ascii"), _lines({name: config.get(name, value)}))
                for name, value in provider.default_headers.items()
            ),
            query=tuple(
                (parameter.encode("ascii"), config[name].encode("ascii"))
                for name, parameter in provider.config_query.items()
                if name in config
            ),
            secrets=_secrets(secret, model.api_config or {}, config),
            model=identifier,
            aliases=frozenset({deployment.id, deployment.name}),
            allowed=None if allowed is None else frozenset(allowed),
            stream_usage_in_body=(
                provider.stream_usage_in_body if deployment.stream_usage is StreamUsage.INJECT else frozenset()
            ),
            prices=None if model.prices is None else OwnPrices(model.model_identifier, model.prices),
            drains=deployment.on_disconnect is OnDisconnect.DRAIN,
            timeouts=_timeouts(self._timeouts, config),
        )

    def _opened(self, name: str, value: str | Sealed) -> str:
        text = self._unseal(value) if isinstance(value, Sealed) else value
        if not is_env_reference(text):
            return text
        variable = text.removeprefix(ENV_PREFIX)
        found = self._variable(variable)
        if not found:
            raise AiwmError(f"apiConfig.{name} refers to the server's variable {variable}, which is not set")
        if not (found.isascii() and found.isprintable()):
            raise AiwmError(
                f"apiConfig.{name} refers to the server's variable {variable}, which can't go into a header"
            )
        return found


def _headers(provider: Provider, config: Mapping[str, str], secret: str) -> dict[str, str]:
    """Lower-case name -> value; the provider's own headers win over `header-*`."""
    extra = {
        name.removeprefix(HEADER_PREFIX).lower(): value
        for name, value in config.items()
        if name.startswith(HEADER_PREFIX)
    }
    configured = {header: config[name] for name, header in provider.config_headers.items() if config.get(name)}
    return {**extra, **configured, provider.key_header: provider.key_prefix + secret}


_SHORTEST = 8
"""Below it a value is as likely a word of any text (`on`, `v2`) as a secret."""


def _secrets(key: str, stored: ApiConfig, config: Mapping[str, str]) -> Secrets:
    """The provider's key, and of other secrets those that can be told from plain words.

    Of `Bearer ...` also what comes behind, which may be quoted alone.
    """
    others = [
        config[name]
        for name, value in stored.items()
        if name not in KEY_FIELDS and (isinstance(value, Sealed) or is_env_reference(value))
    ]
    found = [each for value in others for each in (value, value.rpartition(" ")[2]) if len(each) >= _SHORTEST]
    return tuple(dict.fromkeys(each.encode("ascii") for each in (key, *found) if each))


def _lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("ascii")


_OVERRIDES = {"timeout": "first_byte", "connect-timeout": "connect", "idle-timeout": "idle"}


def _timeouts(default: Timeouts, config: Mapping[str, str]) -> Timeouts:
    given = {field: float(config[name]) for name, field in _OVERRIDES.items() if name in config}
    return replace(default, **given)


def config_is_kept_secret(config: ApiConfig) -> bool:
    """Whether it holds anything that only the provider it was given for may see."""
    return any(isinstance(value, Sealed) or is_env_reference(value) for value in config.values())
