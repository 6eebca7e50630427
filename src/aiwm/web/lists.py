"""Lists: the query that asks for a page, and the page as an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request

from aiwm.domain.pages import Page, PageQuery
from aiwm.errors import Invalid

T = TypeVar("T")

_FILTER = re.compile(r"filter\[([^\[\]]*)\]")
_NUMBER = re.compile(r"[0-9]{1,9}")
MAX_LIMIT = 100
MAX_PAGE = 1_000_000
_MAX_TEXT = 500
_LONGEST_NAME = 100


def page_query(*, fields: Sequence[str], sortable: Sequence[str]) -> Callable[[Request], PageQuery]:
    """A dependency that reads `page`, `limit`, `search`, `sort`, and the given fields plain or as `filter[field]`.

    Anything else in the query is an error that names it: a mistyped filter must not answer everything.
    """

    def read(request: Request) -> PageQuery:
        problems: list[str] = []
        given: dict[str, str] = {}
        for key, value in request.query_params.multi_items():
            match = _FILTER.fullmatch(key)
            name = match[1] if match else key
            shown = key[:_LONGEST_NAME]
            known = name in fields or (match is None and name in {"page", "limit", "search", "sort"})
            if not known:
                problems.append(f"{shown}: is not a parameter of this list; known are page, limit, search, sort, "
                                f"{', '.join(fields)}")  # fmt: skip
            elif given.setdefault(name, value) != value:
                problems.append(f"{shown}: is given twice with different values")
            elif not value.isprintable() or len(value) > _MAX_TEXT:
                problems.append(f"{shown}: must be at most {_MAX_TEXT} printable characters")
        page = _number(given.pop("page", "1"), "page", MAX_PAGE, problems)
        limit = _number(given.pop("limit", "10"), "limit", MAX_LIMIT, problems)
        search = given.pop("search", "")
        sort = given.pop("sort", "-createdAt")
        if sort.removeprefix("-") not in sortable:
            problems.append(f"sort: must be one of {', '.join(sortable)}, with - in front for descending")
        if problems:
            raise Invalid(problems)
        return PageQuery(page=page, limit=limit, equals=given, search=search, sort=sort)

    return read


def parameters(*, fields: Sequence[str], sortable: Sequence[str]) -> dict[str, Any]:
    """The same parameters for the OpenAPI page: `openapi_extra=` of a route."""
    text = {"type": "string", "maxLength": _MAX_TEXT}
    described = [
        ("page", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 1}),
        ("limit", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": 10}),
        ("search", text),
        ("sort", {"type": "string", "enum": [*sortable, *(f"-{name}" for name in sortable)]}),
        *((name, text) for name in fields),
        *((f"filter[{name}]", text) for name in fields),
    ]
    return {"parameters": [{"name": name, "in": "query", "schema": schema} for name, schema in described]}


def page_json(query: PageQuery, page: Page[T], item: Callable[[T], Mapping[str, Any]]) -> dict[str, Any]:
    names = {name: f"by{name[0].upper()}{name[1:]}" for name in page.counts}
    return {
        "data": [item(each) for each in page.items],
        "pagination": {
            "page": query.page,
            "limit": query.limit,
            "total": page.total,
            "totalPages": -(-page.total // query.limit),
        },
        "statistics": {"total": page.total, **{names[name]: dict(page.counts[name]) for name in page.counts}},
    }


def _number(text: str, name: str, most: int, problems: list[str]) -> int:
    if _NUMBER.fullmatch(text) and 1 <= int(text) <= most:
        return int(text)
    problems.append(f"{name}: must be a whole number from 1 to {most}")
    return 1
