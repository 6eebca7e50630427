"""Deployments: a model made callable, and the rules a deployment follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aiwm.domain.costs import Picodollars, dollars
from aiwm.domain.models import Model
from aiwm.domain.nodes import Placement
from aiwm.errors import Conflict, Invalid, WrongState


class DeploymentStatus(StrEnum):
    QUEUED = "queued"
    DEPLOYING = "deploying"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    ERROR = "error"


class StreamUsage(StrEnum):
    """What is done so that a stream reports its usage when its caller did not ask for that."""

    INJECT = "inject"
    """The provider is asked, and what it adds is withheld from the caller."""
    OFF = "off"
    """Nothing: such a stream has no numbers."""


class OnDisconnect(StrEnum):
    """What becomes of the call to the provider when the caller leaves before the end of the answer."""

    CANCEL = "cancel"
    DRAIN = "drain"
    """It goes on, and its answer is read to the end for its numbers."""


USING_ITS_MODEL = (
    DeploymentStatus.QUEUED,
    DeploymentStatus.DEPLOYING,
    DeploymentStatus.RUNNING,
    DeploymentStatus.STOPPING,
)
"""States in which the model of a deployment may not be switched off or deleted."""

WANTED = (DeploymentStatus.QUEUED, DeploymentStatus.DEPLOYING, DeploymentStatus.RUNNING)
"""States of a deployment that is meant to run, and can be stopped."""

UNDELETABLE = (DeploymentStatus.DEPLOYING, DeploymentStatus.RUNNING, DeploymentStatus.STOPPING)
"""States in which something runs that has to end first."""

STARTABLE = (DeploymentStatus.STOPPED, DeploymentStatus.FAILED, DeploymentStatus.ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over the ledger rows of one deployment."""

    requests: int = 0
    tokens: int = 0
    cost: Picodollars = 0
    """Of the requests whose cost is known."""
    unpriced: int = 0
    """Requests whose cost is not known."""

    @property
    def known_cost(self) -> float | None:
        """In USD; None when nothing is known of what was spent."""
        return None if self.unpriced and not self.cost else dollars(self.cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    id: str
    org_id: str
    user_id: str
    name: str
    description: str
    model_id: str
    node_id: str | None = None
    resource_id: str | None = None
    allowed_models: tuple[str, ...] | None = None
    stream_usage: StreamUsage = StreamUsage.INJECT
    on_disconnect: OnDisconnect = OnDisconnect.CANCEL
    arguments: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    """What the engine is told besides, by the names of its kind; only of a self-hosted model."""
    replicas: int = 1
    idle_timeout: int | None = None
    """Seconds without a request after which the engines are stopped; the next request starts them."""
    keeper_id: str | None = None
    """The machine whose AIWM looks after its engines."""
    placement: Placement | None = None
    """What it was given of its node."""
    status: DeploymentStatus
    error_message: str | None = None
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int
    totals: Totals = Totals()

    @property
    def is_hosted(self) -> bool:
        """Whether it runs on engines of ours."""
        return self.placement is not None

    def require_no_engine(self) -> None:
        """Raises Invalid for what only a self-hosted model's deployment has."""
        given = {
            "arguments": self.arguments,
            "replicas": self.replicas != 1,
            "idleTimeout": self.idle_timeout is not None,
        }
        if wrong := [name for name, is_given in given.items() if is_given]:
            raise Invalid([f"{name}: is for deployments of self-hosted models" for name in wrong])

    def require_startable(self) -> None:
        if self.status is DeploymentStatus.RUNNING:
            raise WrongState(f'Deployment "{self.name}" is already running')
        if self.status not in STARTABLE:
            raise WrongState(f'Cannot start deployment "{self.name}". Current status: {self.status}')

    def require_stoppable(self) -> None:
        if self.status not in WANTED:
            raise WrongState(f'Cannot stop deployment "{self.name}". Current status: {self.status}')

    def require_deletable(self) -> None:
        if self.status in UNDELETABLE:
            raise Conflict(
                f"Cannot delete deployment \"{self.name}\". It is currently in '{self.status}' status. "
                "Please stop it first."
            )


def first_status(model: Model, *, node_id: str | None, resource_id: str | None) -> DeploymentStatus:
    """The state a new deployment of `model` begins in; raises when it may not be made."""
    model.require_deployable()
    if not model.is_api_based:
        return DeploymentStatus.QUEUED
    if node_id is not None or resource_id is not None:
        raise Invalid("Cannot create deployment for api-based model with nodeId or resourceId")
    return DeploymentStatus.RUNNING
