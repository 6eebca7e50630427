"""Lists over HTTP: pages, filters, search and order, and what a query may not say. What they find: store/test_lists."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from aiwm.domain.users import Role
from inside import Caller, Inside, self_hosted

pytestmark = pytest.mark.asyncio(loop_scope="module")

LISTS = ["/models", "/deployments"]


async def _page(caller: Caller, path: str, query: str = "") -> Any:
    answer = await caller("GET", f"{path}?{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest_asyncio.fixture(loop_scope="module")
async def furnished(editor: Caller, org: str) -> Caller:
    """Three models, two of them deployed, one of these stopped."""
    first = await editor.model(name="Alpha 100%")
    second = await editor.model(name="Beta", type="embedding", provider="google", description="small_vectors")
    await editor.model(**self_hosted(name="Gamma"))
    await editor.deployment(first, name="One")
    stopped = await editor.deployment(second, name="Two")
    await editor("POST", f"/deployments/{stopped['_id']}/stop")
    return editor


async def test_the_guides_list_of_deployments(furnished: Caller) -> None:
    page = await _page(furnished, "/deployments", "page=1&limit=10")
    assert list(page) == ["data", "pagination", "statistics"]
    assert list(page["pagination"].items()) == [("page", 1), ("limit", 10), ("total", 2), ("totalPages", 1)]
    assert list(page["statistics"]) == ["total", "byStatus", "byType"]
    assert page["statistics"] == {
        "total": 2,
        "byStatus": {"running": 1, "stopped": 1},
        "byType": {"llm": 1, "embedding": 1},
    }
    assert [item["name"] for item in page["data"]] == ["Two", "One"]
    for item in page["data"]:
        assert "endpoint" not in item
        assert item == {k: v for k, v in (await furnished("GET", f"/deployments/{item['_id']}")).json().items()
                        if k != "endpoint"}  # fmt: skip


async def test_a_list_of_models_is_made_the_same_way(furnished: Caller, org: str) -> None:
    page = await _page(furnished, "/models", "scope=org&limit=2")
    assert [item["name"] for item in page["data"]] == ["Gamma", "Beta"]
    assert page["pagination"] == {"page": 1, "limit": 2, "total": 3, "totalPages": 2}
    assert page["statistics"] == {
        "total": 3,
        "byStatus": {"active": 2, "queued": 1},
        "byType": {"llm": 2, "embedding": 1},
    }


@pytest.mark.parametrize(
    ("path", "query", "names"),
    [
        ("/models", "scope=org&search=100%25", ["Alpha 100%"]),
        ("/models", "scope=org&search=small_", ["Beta"]),
        ("/models", "scope=org&search=nothing+like+it", []),
        ("/models", "scope=org&type=embedding", ["Beta"]),
        ("/models", "scope=org&filter[provider]=google", ["Beta"]),
        ("/models", "scope=org&filter%5BdeploymentType%5D=self-hosted", ["Gamma"]),
        ("/models", "scope=org&status=queued", ["Gamma"]),
        ("/models", "scope=org&sort=name", ["Alpha 100%", "Beta", "Gamma"]),
        ("/models", "scope=org&sort=-name&limit=1&page=2", ["Beta"]),
        ("/models", "scope=org&page=5", []),
        ("/deployments", "status=stopped", ["Two"]),
        ("/deployments", "type=llm", ["One"]),
        ("/deployments", "provider=google&status=running", []),
        ("/deployments", "sort=createdAt", ["One", "Two"]),
        ("/deployments", "search=ONE", ["One"]),
    ],
)
async def test_a_query_finds(furnished: Caller, path: str, query: str, names: list[str]) -> None:
    page = await _page(furnished, path, query)
    assert [item["name"] for item in page["data"]] == names


async def test_deployments_of_one_model_are_found_by_its_id(furnished: Caller) -> None:
    [one] = (await _page(furnished, "/deployments", "search=One"))["data"]
    assert [item["name"] for item in (await _page(furnished, "/deployments", f"modelId={one['modelId']}"))["data"]] == [
        "One"
    ]


@pytest.mark.parametrize("path", LISTS)
@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("page=0", ["page: must be a whole number from 1 to 1000000"]),
        ("limit=0", ["limit: must be a whole number from 1 to 100"]),
        ("limit=101", ["limit: must be a whole number from 1 to 100"]),
        ("page=x&limit=", ["page: must be a whole number", "limit: must be a whole number"]),
        ("sort=owner", ["sort: must be one of createdAt, updatedAt, name, status"]),
        ("orgId=x", ["orgId: is not a parameter of this list"]),
        ("filter[orgId]=x", ["filter[orgId]: is not a parameter of this list"]),
        ("filter[owner.orgId]=x", ["filter[owner.orgId]: is not a parameter of this list"]),
        ("deletedAt=1", ["deletedAt: is not a parameter of this list"]),
        ("status=a&status=b", ["status: is given twice with different values"]),
        ("search=%00", ["search: must be at most 500 printable characters"]),
        ("search=" + "x" * 501, ["search: must be at most 500 printable characters"]),
    ],
)
async def test_a_query_that_is_wrong_is_told_what_is(editor: Caller, path: str, query: str, named: list[str]) -> None:
    answer = await editor("GET", f"{path}?{query}")
    assert answer.status_code == 400
    assert answer.json()["path"] == path
    for text, begins in zip(answer.json()["message"], named, strict=True):
        assert text.startswith(begins)


@pytest.mark.parametrize("path", LISTS)
async def test_who_is_not_known_is_told_nothing_of_the_query(aiwm: Inside, path: str) -> None:
    answer = await aiwm.http.get(f"{path}?wrong=1")
    assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")


async def test_no_query_reaches_beyond_the_tenant(furnished: Caller, stranger: Caller, aiwm: Inside) -> None:
    mine = {item["_id"] for item in (await _page(furnished, "/deployments"))["data"]}
    assert len(mine) == 2
    for query in ("", "search=One", "search=%25", "status=running", "filter[status]=running", "limit=100"):
        page = await _page(stranger, "/deployments", query)
        assert page["data"] == []
        assert page["statistics"] == {"total": 0, "byStatus": {}, "byType": {}}
        assert (await _page(stranger, "/models", f"scope=org&{query}"))["data"] == []
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org="c" * 24)
    assert (await _page(operator, "/deployments"))["data"] == []
