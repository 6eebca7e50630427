"""For those who run AIWM: /healthz, /readyz, /docs and /openapi.json."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from aiwm import __version__
from aiwm.domain.users import Role
from inside import Inside, inside
from postgresql import PostgreSql

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_process_says_that_it_lives_and_that_it_is_ready(aiwm: Inside) -> None:
    alive, ready = await aiwm.http.get("/healthz"), await aiwm.http.get("/readyz")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert set(ready.json()["checks"].values()) == {"ok"}
    assert "database" in ready.json()["checks"]


async def test_without_its_database_it_lives_and_is_not_ready_until_the_database_is_back(
    tmp_path: Path, postgresql: PostgreSql
) -> None:
    async with inside(tmp_path / "data", database_url=postgresql.new_database()) as aiwm:
        viewer = aiwm.caller(Role.VIEWER)
        assert (await aiwm.http.get("/readyz")).status_code == 200
        postgresql.stop()
        try:
            assert (await aiwm.http.get("/healthz")).status_code == 200
            for answer, message in (
                (await aiwm.http.get("/readyz"), "database: The database is not available; try again"),
                (await viewer("GET", "/models"), "The database is not available; try again"),
                (await viewer("POST", "/models/" + "a" * 24 + "/activate"), None),
            ):
                if message is None:
                    assert answer.status_code == 403
                    continue
                assert answer.status_code == 503
                assert answer.json()["message"] == message
                assert answer.json()["error"] == "Service Unavailable"
                assert answer.headers["x-aiwm-error"] == "gateway"
        finally:
            postgresql.start()
        assert (await aiwm.http.get("/readyz")).status_code == 200
        assert (await viewer("GET", "/models")).status_code == 200


# --- /docs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["http", "iam"])
async def test_the_page_of_the_api_is_made_of_our_own_files_only(aiwm: Inside, port: str) -> None:
    client = getattr(aiwm, port)
    page = await client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"(?:https?:)?//", page.text)
    assets = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(assets) == 4
    kinds = {"js": "text/javascript", "css": "text/css", "png": "image/png"}
    for asset in assets:
        found = await client.get(f"/{asset}")
        assert found.status_code == 200, asset
        assert found.content, asset
        assert found.headers["content-type"].split(";")[0] == kinds[asset.rpartition(".")[2]]
        if asset.endswith(".css"):
            assert not re.search(r"""url\((?!\s*["']?data:)""", found.text)
            assert "@import" not in found.text
    start = (await client.get("/docs/start.js")).text
    assert 'url: "openapi.json"' in start
    assert "//" not in start


# --- /openapi.json -------------------------------------------------------------------------------------------

OPEN = {
    "/healthz", "/readyz", "/metrics", "/auth/login", "/auth/refresh-token", "/.well-known/jwks.json",
}  # fmt: skip
"""What needs no token."""


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        here = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return here + [ref for value in part.values() for ref in _references(value)]
    if isinstance(part, list):
        return [ref for value in part for ref in _references(value)]
    return []


@pytest_asyncio.fixture(params=["http", "iam"], loop_scope="module")
async def description(aiwm: Inside, request: pytest.FixtureRequest) -> Any:
    answer = await getattr(aiwm, request.param).get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def _operations(description: Any) -> list[tuple[str, str, Any]]:
    return [
        (method, path, operation)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]


async def test_the_description_is_openapi_3_1_of_this_version(description: Any) -> None:
    assert description["openapi"].startswith("3.1.")
    assert description["info"]["version"] == __version__
    assert description["info"]["title"].startswith("AIWM")
    assert len(_operations(description)) >= 15


async def test_every_reference_leads_somewhere_and_every_schema_is_used(description: Any) -> None:
    references = set(_references(description))
    for reference in references:
        part = description
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
        assert part
    defined = {f"#/components/schemas/{name}" for name in description["components"]["schemas"]}
    assert defined <= references


async def test_every_operation_has_a_name_of_its_own_a_sentence_and_its_parameters(description: Any) -> None:
    operations = _operations(description)
    ids = [operation["operationId"] for _, _, operation in operations]
    assert len(set(ids)) == len(ids)
    for method, path, operation in operations:
        assert method in {"get", "post", "put", "delete"}
        assert operation.get("description"), path
        declared = [(each["name"], each["in"]) for each in operation.get("parameters", ())]
        assert len(set(declared)) == len(declared), path
        assert {name for name, where in declared if where == "path"} == set(re.findall(r"{(\w+)}", path))


async def test_every_operation_documents_its_answer_and_its_errors(description: Any) -> None:
    for method, path, operation in _operations(description):
        answers = operation["responses"]
        context = f"{method} {path}: {sorted(answers)}"
        assert "422" not in answers, context
        for status, answer in answers.items():
            schema = next(iter(answer["content"].values()))["schema"] if "content" in answer else {}
            if status in {"200", "201"}:
                assert "/inference/" in path or path == "/metrics" or schema, context
            else:
                assert schema == {"$ref": "#/components/schemas/Problem"}, context
        if "requestBody" in operation:
            assert "400" in answers, context
        if "{id}" in path:
            assert {"400", "404"} <= set(answers), context


async def test_every_operation_needs_a_token_unless_it_is_named_here(description: Any) -> None:
    assert description["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for method, path, operation in _operations(description):
        if path in OPEN:
            assert "security" not in operation
        else:
            assert operation["security"] == [{"HTTPBearer": []}], (method, path)
            assert "401" in operation["responses"], (method, path)


async def test_every_operation_that_needs_a_token_refuses_without_one(aiwm: Inside, description: Any) -> None:
    client = aiwm.iam if "identity" in description["info"]["title"] else aiwm.http
    for method, path, operation in _operations(description):
        if "security" in operation:
            answer = await client.request(method, path.replace("{id}", "a" * 24).replace("{path}", "v1/models"))
            assert answer.status_code == 401, (method, path, answer.text)


async def test_the_guides_routes_are_all_there(aiwm: Inside) -> None:
    found = {(method, path) for method, path, _ in _operations((await aiwm.http.get("/openapi.json")).json())}
    assert found >= {
        (method, f"/{things}{suffix}")
        for things, verbs in (("models", ("activate", "deactivate")), ("deployments", ("start", "stop")))
        for method, suffix in (
            ("post", ""),
            ("get", ""),
            ("get", "/{id}"),
            ("put", "/{id}"),
            ("delete", "/{id}"),
            *(("post", f"/{{id}}/{verb}") for verb in verbs),
        )
    }
