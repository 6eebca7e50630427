"""domain/deployments.py: which verb is possible in which state, in the words of the guide."""

from __future__ import annotations

from dataclasses import replace

import pytest

from aiwm.domain.deployments import Deployment, DeploymentStatus, first_status
from aiwm.domain.models import DeploymentType, Model, ModelStatus, ModelType, Scope
from aiwm.errors import AiwmError, Conflict, Invalid, WrongState

DEPLOYMENT = Deployment(
    id="d" * 24,
    org_id="org",
    user_id="user",
    name="Chat",
    description="",
    model_id="a" * 24,
    status=DeploymentStatus.RUNNING,
    created_by="user",
    updated_by="user",
    created_at=0,
    updated_at=0,
)
MODEL = Model(
    id="a" * 24,
    org_id="org",
    user_id="user",
    name="GPT-4",
    type=ModelType.LLM,
    description="",
    deployment_type=DeploymentType.API_BASED,
    scope=Scope.ORG,
    status=ModelStatus.ACTIVE,
    created_by="user",
    updated_by="user",
    created_at=0,
    updated_at=0,
)


def _refusal(status: str, verb: str) -> AiwmError | None:
    deployment = replace(DEPLOYMENT, status=DeploymentStatus(status))
    try:
        getattr(deployment, f"require_{verb}able")()
    except AiwmError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("status", "verbs"),
    [
        ("queued", {"stopp", "delet"}),
        ("deploying", {"stopp"}),
        ("running", {"stopp"}),
        ("stopping", set()),
        ("stopped", {"start", "delet"}),
        ("failed", {"start", "delet"}),
        ("error", {"start", "delet"}),
    ],
)
def test_which_verbs_are_possible_in_which_state(status: str, verbs: set[str]) -> None:
    assert {verb for verb in ("start", "stopp", "delet") if _refusal(status, verb) is None} == verbs


def test_the_table_above_knows_every_state() -> None:
    assert len(DeploymentStatus) == 7


@pytest.mark.parametrize(
    ("status", "verb", "kind", "message"),
    [
        ("running", "start", WrongState, 'Deployment "Chat" is already running'),
        ("stopping", "start", WrongState, 'Cannot start deployment "Chat". Current status: stopping'),
        ("stopped", "stopp", WrongState, 'Cannot stop deployment "Chat". Current status: stopped'),
        (
            "running",
            "delet",
            Conflict,
            "Cannot delete deployment \"Chat\". It is currently in 'running' status. Please stop it first.",
        ),
    ],
)
def test_what_is_not_possible_is_refused_in_the_words_of_the_guide(
    status: str, verb: str, kind: type[AiwmError], message: str
) -> None:
    refusal = _refusal(status, verb)
    assert type(refusal) is kind
    assert refusal.message == message


def test_a_deployment_of_a_providers_model_runs_at_once_and_one_of_ours_waits() -> None:
    ours = replace(MODEL, deployment_type=DeploymentType.SELF_HOSTED)
    assert first_status(MODEL, node_id=None, resource_id=None) == "running"
    assert first_status(ours, node_id="n", resource_id="r") == "queued"


@pytest.mark.parametrize(("node", "resource"), [("n", None), (None, "r"), ("n", "r")])
def test_a_providers_model_runs_on_no_node(node: str | None, resource: str | None) -> None:
    with pytest.raises(Invalid) as caught:
        first_status(MODEL, node_id=node, resource_id=resource)
    assert caught.value.message == "Cannot create deployment for api-based model with nodeId or resourceId"


def test_the_state_of_the_model_is_judged_before_the_node() -> None:
    with pytest.raises(WrongState, match="Current status: inactive"):
        first_status(replace(MODEL, status=ModelStatus.INACTIVE), node_id="n", resource_id=None)
