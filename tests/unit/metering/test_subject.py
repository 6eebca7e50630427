"""metering/subject: what is encoded once and what is a request's own are one row together."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiwm.domain.usage import UsageRow
from aiwm.metering.subject import Begun, Subject
from rows import opening

_texts = st.text(st.characters(codec="utf-8"), max_size=20)


@given(request_id=_texts, correlation_id=_texts, started_at=st.integers(0, 1 << 50), asked=st.none() | _texts)
def test_an_opening_is_the_row_with_what_is_the_requests_own(
    request_id: str, correlation_id: str, started_at: int, asked: str | None
) -> None:
    common = replace(opening(1), model_asked=asked)
    said = Subject(common).opening(Begun(request_id, correlation_id, started_at))
    row = replace(common, request_id=request_id, correlation_id=correlation_id, started_at=started_at)
    assert msgspec.json.decode(said, type=UsageRow) == row
