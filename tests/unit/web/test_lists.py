"""web/lists.py: what may stand in the query of a list."""

from __future__ import annotations

import pytest
from fastapi import Request

from aiwm.domain.pages import Page, PageQuery
from aiwm.errors import Invalid
from aiwm.web.lists import page_json, page_query, parameters

LISTED = {"fields": ("status", "type"), "sortable": ("createdAt", "name")}


def _read(query: str) -> PageQuery:
    scope = {"type": "http", "query_string": query.encode("latin-1"), "headers": []}
    return page_query(**LISTED)(Request(scope))


def _problems(query: str) -> list[str]:
    with pytest.raises(Invalid) as caught:
        _read(query)
    assert isinstance(caught.value.message, list)
    return caught.value.message


def test_an_empty_query_asks_for_the_ten_newest() -> None:
    assert _read("") == PageQuery(page=1, limit=10, equals={}, search="", sort="-createdAt")


@pytest.mark.parametrize("query", ["status=active&type=llm", "filter[status]=active&filter%5Btype%5D=llm",
                                   "status=active&filter[status]=active&type=llm"])  # fmt: skip
def test_a_filter_is_written_plain_or_in_brackets(query: str) -> None:
    assert _read(query).equals == {"status": "active", "type": "llm"}


def test_everything_at_once() -> None:
    query = _read("page=3&limit=100&search=gpt%204%25&sort=name&status=stopped")
    assert query == PageQuery(page=3, limit=100, equals={"status": "stopped"}, search="gpt 4%", sort="name")


@pytest.mark.parametrize("number", ["0", "-1", "", "1.0", "1e1", "ten", "٣", "+1", "0x1", "1_0", " 1", "9" * 40, "%00"])
@pytest.mark.parametrize("name", ["page", "limit"])
def test_numbers_are_whole_and_within_their_limits(name: str, number: str) -> None:
    assert any(problem.startswith(f"{name}: ") for problem in _problems(f"{name}={_encoded(number)}"))


def _encoded(text: str) -> str:
    return text.encode().decode("latin-1").replace("+", "%2B").replace(" ", "%20")


def test_where_the_limits_are() -> None:
    assert _read("page=1000000&limit=100").offset == 99_999_900
    assert _problems("page=1000001&limit=101") == [
        "page: must be a whole number from 1 to 1000000",
        "limit: must be a whole number from 1 to 100",
    ]


@pytest.mark.parametrize(
    "query",
    ["orgId=other", "filter[orgId]=other", "owner.orgId=x", "deletedAt=", "filter[status", "filter[]=x", "statuss=x",
     "Status=active", "filter[page]=1", "filter[search]=x", "filter[[status]]=x", "sort[name]=asc", "deleted_at=1",
     "%00=1"],
)  # fmt: skip
def test_what_is_not_a_parameter_is_an_error_and_never_ignored(query: str) -> None:
    [problem] = _problems(query)
    assert problem.endswith("is not a parameter of this list; known are page, limit, search, sort, status, type")


@pytest.mark.parametrize(
    "query", ["status=active&status=stopped", "status=active&filter[status]=stopped", "page=1&page=2"]
)
def test_two_values_for_one_parameter_contradict_each_other(query: str) -> None:
    assert any("is given twice with different values" in problem for problem in _problems(query))


@pytest.mark.parametrize("sort", ["", "-", "--name", "name-", "Name", "status", "orgId", "createdAt;drop", "apiConfig"])
def test_a_list_is_sorted_by_what_it_allows(sort: str) -> None:
    assert _problems(f"sort={sort}") == ["sort: must be one of createdAt, name, with - in front for descending"]


@pytest.mark.parametrize("search", ["%00", "%0A", "%1b", "%E2%80%A8", "x" * 501, "%FF%00"])
def test_a_search_is_500_characters_that_can_be_printed(search: str) -> None:
    assert _problems(f"search={search}") == ["search: must be at most 500 printable characters"]


def test_a_name_of_any_length_is_not_sent_back_whole() -> None:
    assert len(_problems("n" * 60_000 + "=1")[0]) < 300


def test_a_page_is_told_with_what_all_pages_hold() -> None:
    page: Page[str] = Page(items=["c"], total=21, counts={"status": {"active": 20, "error": 1}, "type": {}})
    assert page_json(PageQuery(page=3, limit=10), page, lambda item: {"_id": item}) == {
        "data": [{"_id": "c"}],
        "pagination": {"page": 3, "limit": 10, "total": 21, "totalPages": 3},
        "statistics": {"total": 21, "byStatus": {"active": 20, "error": 1}, "byType": {}},
    }


@pytest.mark.parametrize(("total", "pages"), [(0, 0), (1, 1), (10, 1), (11, 2)])
def test_a_page_that_is_not_full_is_a_page(total: int, pages: int) -> None:
    page: Page[str] = Page(items=[], total=total, counts={})
    assert page_json(PageQuery(), page, lambda item: {})["pagination"]["totalPages"] == pages


def test_every_parameter_is_documented() -> None:
    documented = [parameter["name"] for parameter in parameters(**LISTED)["parameters"]]
    assert documented == ["page", "limit", "search", "sort", "status", "type", "filter[status]", "filter[type]"]
