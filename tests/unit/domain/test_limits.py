"""domain/limits.py: when budgets begin and end, and what can be limited."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from aiwm.domain.limits import Budget, Limit, Per, Subject, SubjectType, usd
from aiwm.errors import Invalid


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("per", "time", "begin", "end"),
    [
        (Per.DAY, "2026-11-23T12:30:00.500", "2026-11-23", "2026-11-24"),
        (Per.DAY, "2026-11-23", "2026-11-23", "2026-11-24"),
        (Per.MONTH, "2026-11-23T12:30:00.500", "2026-11-01", "2026-12-01"),
        (Per.MONTH, "2026-12-31T23:59:59.999", "2026-12-01", "2027-01-01"),
        (Per.MONTH, "2028-02-29T12:00", "2028-02-01", "2028-03-01"),
    ],
)
def test_a_day_and_a_month_are_those_of_utc(per: Per, time: str, begin: str, end: str) -> None:
    assert (per.begin(at(time)), per.end(at(time))) == (at(begin), at(end))


def limit(**numbers: object) -> Limit:
    fields = {
        "id": "1" * 24, "org_id": "red", "subject": Subject(SubjectType.USER, "mai"),
        "created_by": "mai", "updated_by": "mai", "created_at": 1, "updated_at": 1,
    }  # fmt: skip
    return Limit(**fields | numbers)  # type: ignore[arg-type]


def test_a_limit_limits_something() -> None:
    limit(requests_per_minute=1).require_something()
    limit(budget=Budget(1, Per.DAY)).require_something()
    with pytest.raises(Invalid, match="at least one of"):
        limit().require_something()


def test_an_organization_can_limit_itself_and_no_other() -> None:
    own = Subject(SubjectType.ORGANIZATION, "red")
    assert own.checked("red") == own
    with pytest.raises(Invalid, match=r"subject\.id: must be the organization"):
        own.checked("blue")


def test_ids_of_keys_and_deployments_have_their_form_and_those_of_users_any() -> None:
    assert Subject(SubjectType.DEPLOYMENT, "A" * 24).checked("red") == Subject(SubjectType.DEPLOYMENT, "a" * 24)
    assert Subject(SubjectType.USER, "Mai").checked("red").id == "Mai"
    with pytest.raises(Invalid, match=r"subject\.id: must be 24 hexadecimal digits"):
        Subject(SubjectType.API_KEY, "x").checked("red")


def test_money_is_written_as_people_write_it() -> None:
    assert [usd(10**12), usd(5 * 10**11), usd(1_234_567), usd(0)] == ["1", "0.5", "0.000001", "0"]
    assert str(Budget(25 * 10**12, Per.DAY)) == "25 USD a day"
