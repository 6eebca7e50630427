"""What a list is asked for, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuery:
    """`equals` holds exact matches by API field name; `sort` is a field name, `-` in front for descending."""

    page: int = 1
    limit: int = 10
    equals: Mapping[str, str] = field(default_factory=dict)
    search: str = ""
    sort: str = "-createdAt"

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """`total` and `counts` are of all that matches, not of this page."""

    items: Sequence[T]
    total: int
    counts: Mapping[str, Mapping[str, int]]
    """For each counted field (API name), how many have each value."""
