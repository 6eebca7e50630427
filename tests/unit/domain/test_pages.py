"""domain/pages.py"""

from __future__ import annotations

import pytest

from aiwm.domain.pages import PageQuery


def test_a_list_begins_with_the_ten_newest() -> None:
    query = PageQuery()
    assert (query.page, query.limit, query.sort, query.offset) == (1, 10, "-createdAt", 0)


@pytest.mark.parametrize(
    ("page", "limit", "offset"), [(1, 10, 0), (2, 10, 10), (3, 1, 2), (1_000_000, 100, 99_999_900)]
)
def test_a_page_begins_where_the_one_before_ended(page: int, limit: int, offset: int) -> None:
    assert PageQuery(page=page, limit=limit).offset == offset
