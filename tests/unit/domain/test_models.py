"""domain/models.py: states of a model, and what may stand in its apiConfig."""

from __future__ import annotations

import pytest

from aiwm.domain.models import (
    DeploymentType,
    Model,
    ModelStatus,
    ModelType,
    Scope,
    check_api_config,
    first_status,
    is_env_reference,
    is_secret,
)
from aiwm.errors import Invalid, WrongState

GOOD = {"apiKey": "sk-proj-0123456789"}


def _model(status: ModelStatus) -> Model:
    return Model(
        id="0" * 24,
        org_id="org",
        user_id="user",
        name="GPT-4",
        type=ModelType.LLM,
        description="",
        deployment_type=DeploymentType.API_BASED,
        scope=Scope.ORG,
        status=status,
        created_by="user",
        updated_by="user",
        created_at=0,
        updated_at=0,
    )


def _problems(**given: str) -> list[str]:
    with pytest.raises(Invalid) as caught:
        check_api_config(given)
    assert isinstance(caught.value.message, list)
    return caught.value.message


def test_a_providers_model_is_ready_at_once_and_ours_is_fetched_first() -> None:
    assert first_status(DeploymentType.API_BASED) == "active"
    assert first_status(DeploymentType.SELF_HOSTED) == "queued"


@pytest.mark.parametrize("status", [status for status in ModelStatus if status is not ModelStatus.ACTIVE])
def test_a_model_that_is_not_active_is_refused_in_the_words_of_the_guide(status: ModelStatus) -> None:
    with pytest.raises(WrongState) as caught:
        _model(status).require_deployable()
    assert (
        str(caught.value)
        == f"Model \"GPT-4\" must be in 'active' status to create deployment. Current status: {status}"
    )


def test_an_active_model_may_be_deployed() -> None:
    _model(ModelStatus.ACTIVE).require_deployable()


@pytest.mark.parametrize(
    "config",
    [
        {"apiKey": "sk-proj-YOUR_OPENAI_API_KEY", "organization": "org-YOUR_ORG_ID"},
        {"x-api-key": "sk-ant-...", "anthropic-version": "2023-06-01"},
        {"apiKey": "AIza..."},
        {"apiKey": "key", "header-X-Custom-ID": "my-app-id", "header-X-Request-Source": "mobile-app"},
        {"apiKey": "key", "project": "proj", "api-version": "2024-10-21"},
        {"apiKey": "key", "timeout": "0.1", "connect-timeout": "86400", "idle-timeout": "12.5"},
        {"apiKey": "env:OPENAI_API_KEY"},
        {"apiKey": "key", "organization": "", "header-X-Empty": ""},
        {"apiKey": "x" * 8192},
    ],
)
def test_configurations_that_are_fine(config: dict[str, str]) -> None:
    check_api_config(config)


@pytest.mark.parametrize("config", [{}, {"apiKey": ""}, {"x-api-key": ""}, {"organization": "org"}])
def test_the_providers_key_is_required(config: dict[str, str]) -> None:
    with pytest.raises(Invalid) as caught:
        check_api_config(config)
    assert caught.value.message == ["apiConfig.apiKey: the provider's key is required (x-api-key is accepted too)"]


def test_a_key_that_is_stored_already_counts() -> None:
    check_api_config({}, kept={"apiKey": "stored"})
    with pytest.raises(Invalid, match="not both"):
        check_api_config({"x-api-key": "another"}, kept={"apiKey": "stored"})


def test_two_keys_are_one_too_many() -> None:
    assert _problems(apiKey="one", **{"x-api-key": "two"}) == ["apiConfig: give apiKey or x-api-key, not both"]


@pytest.mark.parametrize("field", ["apikey", "APIKEY", "api_key", "key", "base_url", "", "Header-X", "headerX"])
def test_an_unknown_field_is_named_with_those_that_are_known(field: str) -> None:
    [problem] = _problems(**GOOD, **{field: "x"})
    assert problem.startswith(f"apiConfig.{field}: unknown; known are apiKey, x-api-key, organization")


@pytest.mark.parametrize("field", ["apiKey", "x-api-key", "organization", "header-X-Team"])
@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("a\r\nb: c", "must not contain control characters"),
        ("a\nb", "must not contain control characters"),
        ("a\x00b", "must not contain control characters"),
        ("a\x7fb", "must not contain control characters"),
        ("a\tb", "must not contain control characters"),
        ("schlüssel", "must be ASCII"),
        ("key\u2028", "must be ASCII"),
        (" key", "must not begin or end with a space"),
        ("key ", "must not begin or end with a space"),
        ("x" * 8193, "must be at most 8192 characters"),
        ("sk-p…9xQ2", "is the masked form of another key"),
        ("env:", "must be followed by the name of a variable"),
        ("env:not a name", "must be followed by the name of a variable"),
        ("env:AIWM_JWT_SECRET", "AIWM's own variables can't be referred to"),
    ],
)
def test_a_value_that_can_not_travel_in_a_header_is_refused_and_not_quoted(field: str, value: str, wrong: str) -> None:
    problems = _problems(**{"apiKey": "key"} | {field: value}) if field != "x-api-key" else _problems(**{field: value})
    assert len(problems) == 1
    assert problems[0].startswith(f"apiConfig.{field}: ")
    assert wrong in problems[0]
    assert len(value) < 5 or value not in problems[0]


@pytest.mark.parametrize(
    "header",
    ["Connection", "keep-alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authorization", "Host",
     "CONTENT-LENGTH", "Cookie", "Authorization", "x-api-key", "X-Goog-Api-Key", "api-key"],
)  # fmt: skip
def test_headers_of_the_connection_and_of_the_credential_can_not_be_set(header: str) -> None:
    [problem] = _problems(**GOOD, **{f"header-{header}": "x"})
    assert problem.startswith(f"apiConfig.header-{header}: the header {header} can't be set here")


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "X\r\nY", "Ü", "X(Y)"])
def test_what_is_no_header_name_is_refused(name: str) -> None:
    assert _problems(**GOOD, **{f"header-{name}": "x"}) == [f"apiConfig.header-{name}: is not a header name"]


def test_one_header_in_two_spellings_is_refused() -> None:
    given = {"header-X-Team": "one", "header-x-team": "two"}
    assert _problems(**GOOD, **given) == ["apiConfig.header-x-team: is given in two spellings"]


@pytest.mark.parametrize("value", ["", "0", "0.09", "86401", "-1", "nan", "inf", "1e3", "1_0", "ten", "5s", "1" * 400])
@pytest.mark.parametrize("field", ["timeout", "connect-timeout", "idle-timeout"])
def test_a_time_limit_is_a_number_of_seconds(field: str, value: str) -> None:
    assert _problems(**GOOD, **{field: value}) == [f"apiConfig.{field}: must be seconds between 0.1 and 86400"]


def test_all_problems_are_told_at_once() -> None:
    problems = _problems(organization="ö", timeout="x", unknown="y")
    assert len(problems) == 4


@pytest.mark.parametrize(
    ("field", "secret"),
    [
        ("apiKey", True),
        ("x-api-key", True),
        ("header-X-Auth", True),
        ("header-X-Access-Token", True),
        ("header-Client-Secret", True),
        ("header-X-Password", True),
        ("header-X-Custom-ID", False),
        ("organization", False),
        ("timeout", False),
    ],
)
def test_keys_and_headers_that_are_named_like_credentials_are_secret(field: str, secret: bool) -> None:
    assert is_secret(field) is secret


def test_a_reference_names_a_variable_of_the_server() -> None:
    assert is_env_reference("env:OPENAI_API_KEY")
    assert not is_env_reference("sk-env:")
