"""Where each deployment's requests go: everything the hot path needs, prepared once, in one immutable table.

`control.targets` makes the targets from rows; the proxy looks one up in a dict. A change makes a new table and swaps
it whole, so a request sees one state of it from beginning to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from aiwm.errors import AiwmError, NotFound, WrongState
from aiwm.providers.base import Provider
from aiwm.wire.origins import Timeouts
from aiwm.wire.urls import BaseUrl


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A running deployment. The provider's key is in `lines` and `secret`, which are never shown."""

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
    secret: bytes = field(repr=False)
    """The provider's key as it travels: masked wherever an answer quotes it."""
    model: str
    aliases: frozenset[str]
    """The deployment's id and name: a caller who asks for this `model` means the deployed one."""
    allowed: frozenset[str] | None
    """Models that may be asked for; None for any."""
    timeouts: Timeouts
    stream_usage_in_body: frozenset[str] = frozenset()
    """Paths on which a stream is made to report its usage: the provider's, or none if the deployment is not to."""
    drains: bool = False
    """Whether an answer is read to its end when the caller has left."""


@dataclass(frozen=True, slots=True)
class Resting:
    """A deployment that takes no requests; `error` says why, to the caller."""

    org_id: str
    error: AiwmError


class TargetTable:
    """The deployments of all organizations, by id. Only `replace`, `put` and `remove` change it."""

    def __init__(self) -> None:
        self._entries: Mapping[str, Target | Resting] = {}

    def running(self, deployment_id: str, org_id: str) -> Target:
        """The target, for a caller of that organization.

        Raises NotFound when there is none or it is another organization's, WrongState when it does not run.
        """
        entry = self._entries.get(deployment_id)
        if entry is None or entry.org_id != org_id:
            raise NotFound(f"Deployment with ID {deployment_id} not found")
        if isinstance(entry, Resting):
            raise type(entry.error)(entry.error.message)
        return entry

    def replace(self, entries: Mapping[str, Target | Resting]) -> None:
        """All of them at once."""
        self._entries = dict(entries)

    def put(self, entries: Iterable[tuple[str, Target | Resting]]) -> None:
        self._entries = {**self._entries, **dict(entries)}

    def remove(self, deployment_id: str) -> None:
        self._entries = {id_: entry for id_, entry in self._entries.items() if id_ != deployment_id}


def not_running(status: str) -> WrongState:
    """In the words of the guide."""
    return WrongState(f"Deployment is not running. Current status: {status}")
