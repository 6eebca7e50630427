"""Models over HTTP: the guide's requests, answers and refusals, word for word."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from aiwm.api.models import ModelAnswer
from aiwm.domain.ids import new_id
from aiwm.domain.models import FETCHABLE, FETCHING, ModelStatus
from aiwm.domain.users import Role
from fakes import RawPeer, RawServer
from inside import KEY, MASKED_KEY, Caller, Inside, api_based, self_hosted

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def _refused(answer: Any, status: int) -> Any:
    """The message of a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-aiwm-error"] == "gateway"
    return answer.json()["message"]


async def _listed(caller: Caller) -> set[str]:
    """Ids of the models that a caller's list shows; public ones of other tests may be among them."""
    page = (await caller("GET", "/models", params={"limit": 100})).json()
    assert page["pagination"]["total"] <= 100
    return {model["_id"] for model in page["data"]}


# --- create and read -----------------------------------------------------------------------------------------


async def test_the_guides_model_is_made_and_ready_at_once(aiwm: Inside, org: str) -> None:
    answer = await aiwm.caller(org=org, user="f" * 24)("POST", "/models", json=api_based())

    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert "x-aiwm-error" not in answer.headers
    made = answer.json()
    assert re.fullmatch("[0-9a-f]{24}", made["_id"])
    assert TIME.fullmatch(made["createdAt"])
    assert list(made.items()) == [
        ("_id", made["_id"]),
        ("name", "GPT-4 Turbo"),
        ("type", "llm"),
        ("description", "OpenAI GPT-4 Turbo with 128K context"),
        ("deploymentType", "api-based"),
        ("scope", "org"),
        ("status", "active"),
        ("provider", "openai"),
        ("modelIdentifier", "gpt-4-turbo-2024-11-20"),
        ("apiEndpoint", "https://api.openai.com"),
        ("apiConfig", {"apiKey": MASKED_KEY, "organization": "org-42"}),
        ("owner", {"orgId": org, "userId": "f" * 24}),
        ("createdBy", "f" * 24),
        ("updatedBy", "f" * 24),
        ("createdAt", made["createdAt"]),
        ("updatedAt", made["createdAt"]),
    ]


async def test_a_model_of_our_own_waits_for_its_files(editor: Caller) -> None:
    made = await editor.model(**self_hosted(fileSize=1 << 40))

    assert made["status"] == "queued"
    assert (made["repository"], made["framework"], made["fileSize"]) == ("meta-llama/Llama-3.1-8B", "vllm", 1 << 40)
    assert [made[name] for name in ("fileName", "downloadPath", "download", "errorMessage")] == [None] * 4
    assert not {"provider", "apiEndpoint", "apiConfig", "modelIdentifier"} & set(made)


async def test_what_is_left_out_has_the_documented_default(editor: Caller) -> None:
    body = api_based()
    del body["description"], body["scope"]
    made = (await editor("POST", "/models", json=body)).json()
    assert (made["description"], made["scope"]) == ("", "org")


async def test_a_model_is_read_as_it_was_made(editor: Caller) -> None:
    for made in (await editor.model(), await editor.model(**self_hosted())):
        read = await editor("GET", f"/models/{made['_id']}")
        assert read.status_code == 200
        assert read.json() == made
        assert (await editor("GET", f"/models/{made['_id'].upper()}")).json() == made


async def test_an_answer_has_only_documented_fields(editor: Caller) -> None:
    documented = {field.alias for field in ModelAnswer.model_fields.values()}
    for made in (await editor.model(), await editor.model(**self_hosted())):
        assert set(made) <= documented
        ModelAnswer.model_validate(made)


@pytest.mark.parametrize(
    ("provider", "endpoint", "config"),
    [
        (
            "anthropic",
            "https://api.anthropic.com",
            {"x-api-key": "sk-ant-0123456789", "anthropic-version": "2023-06-01"},
        ),
        ("google", "https://generativelanguage.googleapis.com", {"apiKey": "AIza0123456789"}),
        ("my-own.llm_1", "http://10.0.0.7:8080/v1", {"apiKey": "none", "header-X-Custom-ID": "my-app-id"}),
    ],
)
async def test_every_provider_takes_either_name_for_the_key(
    editor: Caller, provider: str, endpoint: str, config: dict[str, str]
) -> None:
    made = await editor.model(provider=provider, apiEndpoint=endpoint, apiConfig=config)
    assert (made["provider"], made["apiEndpoint"], set(made["apiConfig"])) == (provider, endpoint, set(config))


# --- secrets -------------------------------------------------------------------------------------------------


async def test_no_answer_shows_a_key_and_the_database_does_not_hold_it(aiwm: Inside, editor: Caller) -> None:
    secrets = [KEY, "header-secret-0123456789", "another-key-9876543210"]
    made = await editor.model(apiConfig={"apiKey": KEY, "header-X-Auth-Token": secrets[1]})
    path = f"/models/{made['_id']}"
    deployment = await editor.deployment(made)
    answers = [
        json.dumps(made),
        (await editor("GET", path)).text,
        (await editor("GET", "/models")).text,
        (await editor("PUT", path, json={"name": "renamed"})).text,
        (await editor("PUT", path, json={"apiConfig": {"apiKey": secrets[2]}})).text,
        (await editor("GET", f"/deployments/{deployment['_id']}")).text,
        (await editor("POST", f"/deployments/{deployment['_id']}/stop")).text,
        (await editor("POST", f"{path}/deactivate")).text,
        (await editor("POST", f"{path}/activate")).text,
        (await editor("POST", "/models", json=api_based(apiConfig={"apiKey": f"{KEY}\n"}))).text,
        (await editor("PUT", path, json={"apiConfig": {"apiKey": KEY, "unknown": KEY}})).text,
        "\n".join(aiwm.contents()),
    ]
    for answer in answers:
        for secret in secrets:
            assert secret not in answer


@pytest.mark.parametrize(
    ("key", "shown"),
    [(KEY, MASKED_KEY), ("0123456789ab", "0123…89ab"), ("0123456789a", "…"), ("k", "…")],
)
async def test_a_key_is_shown_by_its_ends_and_a_short_one_not_at_all(editor: Caller, key: str, shown: str) -> None:
    assert (await editor.model(apiConfig={"apiKey": key}))["apiConfig"] == {"apiKey": shown}


async def _key_that_arrives(editor: Caller, change: Any, status: int = 200) -> str:
    """The key that the provider sees of a deployed model after a PUT of `change`."""

    async def provider(peer: RawPeer) -> None:
        while await peer.read_request():
            await peer.answer(b"{}", headers=b"content-type: application/json\r\n")

    async with RawServer(provider) as server:
        endpoint = f"http://127.0.0.1:{server.port}/base"
        made = await editor.model(apiEndpoint=endpoint, apiConfig={"apiKey": KEY, "organization": "org-42"})
        deployment = await editor.deployment(made)
        body = json.loads(json.dumps(change).replace("ENDPOINT", endpoint))
        answer = await editor("PUT", f"/models/{made['_id']}", json=body)
        assert answer.status_code == status, answer.text
        sent = await editor("POST", f"/deployments/{deployment['_id']}/inference/v1/models", json={})
        assert sent.status_code == 200, sent.text
        [head] = [request[0].decode() for peer in server.peers for request in peer.requests]
    return re.search(r"(?i)^authorization: Bearer (.*)\r$", head, re.MULTILINE)[1]  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "status", "key"),
    [
        ({"name": "renamed"}, 200, KEY),
        ({"apiConfig": {"apiKey": MASKED_KEY}}, 200, KEY),
        ({"apiConfig": {"apiKey": MASKED_KEY, "organization": "another"}}, 200, KEY),
        ({"apiConfig": {"apiKey": "a-new-key-0123456789"}}, 200, "a-new-key-0123456789"),
        ({"apiConfig": {"x-api-key": "a-new-key-0123456789"}}, 200, "a-new-key-0123456789"),
        # Refused, and what was stored goes on working:
        ({"apiConfig": {"apiKey": "sk-p…9999"}}, 400, KEY),
        ({"apiConfig": {"x-api-key": MASKED_KEY}}, 400, KEY),
        ({"apiConfig": {}}, 400, KEY),
        ({"apiConfig": {"apiKey": ""}}, 400, KEY),
        ({"apiEndpoint": "https://evil.example.com"}, 400, KEY),
        ({"apiEndpoint": "https://evil.example.com", "apiConfig": {"apiKey": MASKED_KEY}}, 400, KEY),
        # Another path of the same server is not another address.
        ({"apiEndpoint": "ENDPOINT/other"}, 200, KEY),
        ({"apiEndpoint": "ENDPOINT/", "apiConfig": {"apiKey": MASKED_KEY}}, 200, KEY),
    ],
)
async def test_which_key_the_provider_sees_after_a_change(editor: Caller, change: Any, status: int, key: str) -> None:
    assert await _key_that_arrives(editor, change, status) == key


async def test_the_whole_configuration_is_replaced(editor: Caller) -> None:
    made = await editor.model(apiConfig={"apiKey": KEY, "organization": "org-42", "timeout": "5"})
    changed = await editor("PUT", f"/models/{made['_id']}", json={"apiConfig": {"apiKey": MASKED_KEY, "project": "p"}})
    assert changed.json()["apiConfig"] == {"apiKey": MASKED_KEY, "project": "p"}


MOVED = "apiConfig: a stored key is not sent to a new address; when apiEndpoint changes, give the key again"


@pytest.mark.parametrize(
    "endpoint",
    ["https://api.openai.com.evil.example", "http://api.openai.com", "https://api.openai.com:8443", "https://10.0.0.1"],
)
async def test_a_stored_key_goes_to_no_other_origin(editor: Caller, endpoint: str) -> None:
    path = f"/models/{(await editor.model())['_id']}"
    assert _refused(await editor("PUT", path, json={"apiEndpoint": endpoint}), 400) == [MOVED]
    config = {"apiKey": MASKED_KEY}
    assert _refused(await editor("PUT", path, json={"apiEndpoint": endpoint, "apiConfig": config}), 400) == [MOVED]
    moved = await editor("PUT", path, json={"apiEndpoint": endpoint, "apiConfig": {"apiKey": "the-key-of-the-new-one"}})
    assert moved.json()["apiEndpoint"] == endpoint


@pytest.mark.parametrize("endpoint", ["https://API.openai.com/", "https://api.openai.com:443/v1"])
async def test_the_same_origin_in_another_spelling_is_no_new_address(editor: Caller, endpoint: str) -> None:
    made = await editor.model()
    assert (await editor("PUT", f"/models/{made['_id']}", json={"apiEndpoint": endpoint})).status_code == 200


ENV_ONLY = "Only universe.owner may refer to the server's variables (env:NAME)"


@pytest.mark.parametrize("role", [Role.EDITOR, Role.OWNER])
async def test_only_the_operator_refers_to_variables_of_the_server(aiwm: Inside, org: str, role: Role) -> None:
    caller = aiwm.caller(role, org=org)
    made = await caller.model()
    for field in ("apiKey", "header-X-Team", "organization"):
        config = {"apiKey": "k", field: "env:HOME"}
        assert _refused(await caller("POST", "/models", json=api_based(apiConfig=config)), 403) == ENV_ONLY
        assert _refused(await caller("PUT", f"/models/{made['_id']}", json={"apiConfig": config}), 403) == ENV_ONLY


async def test_a_reference_of_the_operator_is_shown_kept_and_not_carried_away(aiwm: Inside, org: str) -> None:
    operator, editor = aiwm.caller(Role.UNIVERSE_OWNER, org=org), aiwm.caller(org=org)
    reference = {"apiKey": "env:OPENAI_API_KEY"}
    made = await operator.model(apiConfig=reference)
    path = f"/models/{made['_id']}"
    assert made["apiConfig"] == reference

    kept = await editor("PUT", path, json={"name": "renamed", "apiConfig": reference})
    assert (kept.status_code, kept.json()["apiConfig"]) == (200, reference)
    elsewhere = {"apiEndpoint": "https://evil.example.com"}
    assert _refused(await editor("PUT", path, json=elsewhere), 400) == [MOVED]
    assert _refused(await editor("PUT", path, json=elsewhere | {"apiConfig": reference}), 400) == [MOVED]
    # The operator can't give a reference in any other form than the one that is shown.
    assert _refused(await operator("PUT", path, json=elsewhere), 400) == [MOVED]
    moved = await operator("PUT", path, json=elsewhere | {"apiConfig": reference})
    assert moved.json()["apiEndpoint"] == "https://evil.example.com"


async def test_a_variable_of_ours_or_one_that_is_not_set_gives_nothing_away(aiwm: Inside, org: str) -> None:
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org=org)
    ours = await operator("POST", "/models", json=api_based(apiConfig={"apiKey": "env:AIWM_JWT_SECRET"}))
    assert _refused(ours, 400) == ["apiConfig.apiKey: AIWM's own variables can't be referred to"]
    missing = await operator.deployment(await operator.model(apiConfig={"apiKey": "env:NOT_THERE"}))
    answer = await operator("POST", f"/deployments/{missing['_id']}/inference/v1/models", json={})
    assert answer.status_code == 500
    assert "NOT_THERE, which is not set" in answer.json()["message"]


# --- change --------------------------------------------------------------------------------------------------


async def test_a_change_changes_what_is_given_and_says_who_and_when(aiwm: Inside, org: str, editor: Caller) -> None:
    made = await editor.model()
    other = aiwm.caller(org=org, user="e" * 24)
    changes = {"name": "New", "type": "vision", "description": "", "scope": "public", "modelIdentifier": "gpt-5"}

    changed = (await other("PUT", f"/models/{made['_id']}", json=changes)).json()

    assert changed["updatedAt"] > made["updatedAt"]
    assert changed == made | changes | {"updatedBy": "e" * 24, "updatedAt": changed["updatedAt"]}
    assert (await editor("GET", f"/models/{made['_id']}")).json() == changed


async def test_an_optional_field_of_our_own_model_can_be_taken_away(editor: Caller) -> None:
    made = await editor.model(**self_hosted(fileName="a.gguf", fileSize=5))
    changed = await editor("PUT", f"/models/{made['_id']}", json={"fileName": None, "fileSize": None})
    assert (changed.json()["fileName"], changed.json()["fileSize"]) == (None, None)


async def test_a_field_of_the_other_kind_of_model_is_refused(editor: Caller) -> None:
    ours, theirs = await editor.model(**self_hosted()), await editor.model()
    assert _refused(await editor("PUT", f"/models/{ours['_id']}", json={"apiEndpoint": "https://x.org"}), 400) == [
        "apiEndpoint: is not a field of a model that is self-hosted"
    ]
    assert _refused(await editor("PUT", f"/models/{theirs['_id']}", json={"fileSize": 5, "repository": "x"}), 400) == [
        "fileSize: is not a field of a model that is api-based",
        "repository: is not a field of a model that is api-based",
    ]


@pytest.mark.parametrize("field", ["deploymentType", "status", "_id", "owner", "createdAt", "orgId", "org_id"])
async def test_what_is_not_the_callers_to_change_is_no_field(editor: Caller, field: str) -> None:
    made = await editor.model()
    answer = await editor("PUT", f"/models/{made['_id']}", json={"name": "New", field: "active"})
    assert _refused(answer, 400) == [f"{field}: is not a field of this request"]
    assert (await editor("GET", f"/models/{made['_id']}")).json() == made


async def test_a_change_of_nothing_is_an_error(editor: Caller) -> None:
    made = await editor.model()
    message = _refused(await editor("PUT", f"/models/{made['_id']}", json={}), 400)
    assert message.startswith("Nothing to change: give at least one of name, type, description, scope, provider")


# --- states --------------------------------------------------------------------------------------------------


async def test_a_model_is_switched_off_and_on(editor: Caller) -> None:
    made = await editor.model()
    path = f"/models/{made['_id']}"

    off = await editor("POST", f"{path}/deactivate")
    assert (off.status_code, off.json()["status"]) == (200, "inactive")
    assert _refused(await editor("POST", f"{path}/deactivate"), 400) == 'Model "GPT-4 Turbo" is already inactive'
    on = await editor("POST", f"{path}/activate")
    assert (on.status_code, on.json()["status"]) == (200, "active")
    assert _refused(await editor("POST", f"{path}/activate"), 400) == 'Model "GPT-4 Turbo" is already active'
    assert on.json() == made | {"updatedAt": on.json()["updatedAt"]}


@pytest.mark.parametrize("status", [*FETCHING, *FETCHABLE])
async def test_a_model_without_its_files_can_be_neither_activated_nor_deactivated(
    aiwm: Inside, editor: Caller, status: ModelStatus
) -> None:
    made = await editor.model(**self_hosted())
    with closing(sqlite3.connect(aiwm.folder / "aiwm.db")) as connection, connection:
        connection.execute("UPDATE models SET status = ? WHERE id = ?", (status, made["_id"]))
    path = f"/models/{made['_id']}"
    assert _refused(await editor("POST", f"{path}/activate"), 400) == (
        f'Model "Llama" can\'t be activated before its files are there. Current status: {status}'
    )
    assert _refused(await editor("POST", f"{path}/deactivate"), 400) == (
        f'Model "Llama" is not active. Current status: {status}'
    )


async def test_a_model_in_use_is_not_retired_and_its_deployments_are_named(editor: Caller) -> None:
    made = await editor.model()
    path = f"/models/{made['_id']}"
    first, second = await editor.deployment(made, name="One"), await editor.deployment(made, name="Two")
    named = f"One (ID: {first['_id']}), Two (ID: {second['_id']})"

    for verb, answer in (
        ("deactivate", await editor("POST", f"{path}/deactivate")),
        ("delete", await editor("DELETE", path)),
    ):
        assert _refused(answer, 409) == (
            f"Cannot {verb} model. It is currently being used by the following active deployments: {named}"
        )
    assert (await editor("GET", path)).json() == made
    for deployment in (first, second):
        await editor("POST", f"/deployments/{deployment['_id']}/stop")
    assert (await editor("POST", f"{path}/deactivate")).status_code == 200


async def test_deployments_of_other_organizations_are_counted_and_not_named(editor: Caller, stranger: Caller) -> None:
    made = await editor.model(scope="public")
    theirs = await stranger.deployment(made, name="a name that is a secret")
    path = f"/models/{made['_id']}"

    message = _refused(await editor("DELETE", path), 409)
    assert message.endswith("by the following active deployments: 1 of other organizations")
    own = await editor.deployment(made, name="Own")
    message = _refused(await editor("POST", f"{path}/deactivate"), 409)
    assert message.endswith(f"by the following active deployments: Own (ID: {own['_id']}), 1 of other organizations")
    assert theirs["_id"] not in message


async def test_a_deleted_model_is_gone(editor: Caller) -> None:
    made = await editor.model()
    path = f"/models/{made['_id']}"

    deleted = await editor("DELETE", path)

    assert deleted.status_code == 200
    assert list(deleted.json()) == ["_id", "deletedAt"]
    assert deleted.json()["_id"] == made["_id"]
    assert TIME.fullmatch(deleted.json()["deletedAt"])
    gone = f"Model with ID {made['_id']} not found"
    for method, suffix in (("GET", ""), ("DELETE", ""), ("POST", "/activate"), ("POST", "/deactivate")):
        assert _refused(await editor(method, path + suffix), 404) == gone
    assert _refused(await editor("PUT", path, json={"name": "x"}), 404) == gone
    assert made["_id"] not in await _listed(editor)
    refused = await editor("POST", "/deployments", json={"name": "x", "modelId": made["_id"]})
    assert _refused(refused, 400) == gone


# --- who sees it ---------------------------------------------------------------------------------------------


async def test_a_private_model_is_its_creators(aiwm: Inside, org: str, editor: Caller) -> None:
    made = await editor.model(scope="private")
    path = f"/models/{made['_id']}"
    for role in (Role.VIEWER, Role.EDITOR, Role.OWNER):
        colleague = aiwm.caller(role, org=org)
        assert _refused(await colleague("GET", path), 404) == f"Model with ID {made['_id']} not found"
        assert made["_id"] not in await _listed(colleague)
    assert made["_id"] in await _listed(editor)
    assert (await editor("GET", path)).json() == made
    assert (await aiwm.caller(Role.UNIVERSE_OWNER, org=org)("GET", path)).status_code == 200


async def test_a_public_model_is_read_and_deployed_by_all_but_shows_them_no_configuration(
    editor: Caller, stranger: Caller
) -> None:
    made = await editor.model(scope="public", apiEndpoint="https://internal.example.com/v1")
    path = f"/models/{made['_id']}"

    seen = (await stranger("GET", path)).json()

    assert seen == {name: value for name, value in made.items() if name not in {"apiConfig", "apiEndpoint"}}
    listed = (await stranger("GET", "/models", params={"search": made["name"], "scope": "public", "limit": 100})).json()
    assert seen in listed["data"]
    assert "internal.example.com" not in json.dumps(listed)
    deployment = await stranger.deployment(made)
    assert deployment["status"] == "running"
    assert "internal.example.com" not in (await stranger("GET", f"/deployments/{deployment['_id']}")).text
    theirs = f'Model "{made["name"]}" belongs to another organization; it can be read and deployed only'
    assert _refused(await stranger("PUT", path, json={"name": "mine"}), 403) == theirs
    assert _refused(await stranger("DELETE", path), 403) == theirs
    assert _refused(await stranger("POST", f"{path}/deactivate"), 403) == theirs


async def test_another_organizations_model_is_not_there_in_the_same_words(editor: Caller, stranger: Caller) -> None:
    made = await editor.model()
    nowhere = new_id()
    for id_ in (made["_id"], nowhere):
        path = f"/models/{id_}"
        for answer in (
            await stranger("GET", path),
            await stranger("PUT", path, json={"name": "mine"}),
            await stranger("DELETE", path),
            await stranger("POST", f"{path}/activate"),
            await stranger("POST", f"{path}/deactivate"),
        ):
            assert _refused(answer, 404) == f"Model with ID {id_} not found"
    assert (await editor("GET", f"/models/{made['_id']}")).json() == made
