"""Limits: how much a key, a user, a deployment or an organization may ask for, and spend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum

from aiwm.domain.costs import Picodollars
from aiwm.domain.ids import checked_id
from aiwm.domain.prices import plain
from aiwm.errors import Invalid

_DAY_MS = 24 * 3600 * 1000
MOST_BUDGET: Picodollars = 10**18
"""A million dollars."""


class SubjectType(StrEnum):
    """What a limit can be set for. The values are callers' names."""

    API_KEY = "apiKey"
    USER = "user"
    DEPLOYMENT = "deployment"
    ORGANIZATION = "organization"

    @property
    def noun(self) -> str:
        return _NOUNS[self]


_NOUNS: Mapping[SubjectType, str] = {
    SubjectType.API_KEY: "API key",
    SubjectType.USER: "user",
    SubjectType.DEPLOYMENT: "deployment",
    SubjectType.ORGANIZATION: "organization",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose requests are counted together: those of a user include what is called with its API keys."""

    type: SubjectType
    id: str

    def __str__(self) -> str:
        return f"{self.type.noun} {self.id}"

    def checked(self, org_id: str) -> Subject:
        """As it is stored. Raises Invalid for what can't be one of that organization."""
        if self.type is SubjectType.ORGANIZATION and self.id != org_id:
            raise Invalid(["subject.id: must be the organization that you act in"])
        if self.type not in {SubjectType.API_KEY, SubjectType.DEPLOYMENT}:
            return self
        try:
            return Subject(self.type, checked_id(self.id, self.type.noun))
        except Invalid:
            raise Invalid(["subject.id: must be 24 hexadecimal digits"]) from None


class Per(StrEnum):
    """How long a budget lasts, in UTC."""

    DAY = "day"
    MONTH = "month"

    def begin(self, time: int) -> int:
        """When the one began that a time is in."""
        if self is Per.DAY:
            return time - time % _DAY_MS
        return _milliseconds(_month(time))

    def end(self, time: int) -> int:
        """When the next one begins."""
        if self is Per.DAY:
            return self.begin(time) + _DAY_MS
        month = _month(time)
        year, follower = (month.year + 1, 1) if month.month == 12 else (month.year, month.month + 1)
        return _milliseconds(month.replace(year=year, month=follower))


def _month(time: int) -> datetime:
    return datetime.fromtimestamp(time // 1000, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 1000


@dataclass(frozen=True, slots=True)
class Budget:
    most: Picodollars
    per: Per

    def __str__(self) -> str:
        return f"{usd(self.most)} USD a {self.per}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Each number that is given holds. A subject may have several limits: all of them hold."""

    id: str
    org_id: str
    subject: Subject
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    budget: Budget | None = None
    created_by: str
    updated_by: str
    created_at: int
    updated_at: int

    @property
    def name(self) -> str:
        """For the audit log."""
        return str(self.subject)[:100]

    def require_something(self) -> None:
        """Raises Invalid for a limit that limits nothing."""
        given = (self.requests_per_minute, self.tokens_per_minute, self.concurrent_requests, self.budget)
        if all(each is None for each in given):
            raise Invalid("Give at least one of requestsPerMinute, tokensPerMinute, concurrentRequests, budget")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How much of a limit is taken at a moment."""

    requests: int = 0
    """In the last minute."""
    tokens: int = 0
    """In the last minute, with what requests under way are taken to need."""
    concurrent: int = 0
    spent: Picodollars = 0
    """In the budget's day or month."""
    reserved: Picodollars = 0
    """For requests under way."""


def usd(amount: Picodollars) -> str:
    """As people write it, to the millionth."""
    return plain((Decimal(amount) / 10**12).quantize(Decimal("0.000001")))
