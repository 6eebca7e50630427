"""api/usage.py: what callers are told of their usage, and nothing of anybody else's."""

from __future__ import annotations

import base64
import csv
import io
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest

from aiwm.api.usage import ExplainedAnswer, GroupAnswer, ReportAnswer, RequestAnswer
from aiwm.domain.ids import new_id
from aiwm.domain.times import iso
from aiwm.domain.usage import End, Source, Usage, UsageRow
from aiwm.domain.users import Role
from aiwm.store.ledger import LedgerStore
from inside import Caller, Inside
from store_rows import usage_row

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOW = time.time_ns() // 1_000_000
HOUR = 3_600_000
CHAT = "c" * 24


@pytest.fixture
def viewer(aiwm: Inside, org: str) -> Caller:
    return aiwm.caller(Role.VIEWER, org=org)


async def _add(aiwm: Inside, *rows: UsageRow) -> Sequence[UsageRow]:
    await LedgerStore(aiwm.database).add(rows)
    return rows


def _row(org: str, hours_ago: float = 1, **changes: Any) -> UsageRow:
    deployment_id = changes.pop("deployment_id", CHAT)
    return usage_row(deployment_id, org_id=org, started_at=NOW - round(hours_ago * HOUR), **changes)


async def _problems(caller: Caller, path: str) -> list[str]:
    answer = await caller("GET", path)
    assert answer.status_code == 400, answer.text
    message: list[str] = answer.json()["message"]
    return message


# --- reports -------------------------------------------------------------------------------------------------


async def test_a_report_sums_up_what_was_used(aiwm: Inside, org: str, viewer: Caller) -> None:
    usage = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=40, reasoning_tokens=5)
    await _add(
        aiwm,
        _row(org, usage=usage, cost=2_500_000_000, first_byte_ms=100, total_ms=1000),
        _row(org, usage=usage, cost=500_000_000, first_byte_ms=100, total_ms=1000),
        _row(org, status=429, usage=Usage(), source=Source.NONE, cost=0, first_byte_ms=None, total_ms=1000),
        _row(org, end=End.CLIENT_GONE, first_byte_ms=100, total_ms=1000),
    )
    report = (await viewer("GET", "/usage")).json()
    assert report["groupBy"] == []
    assert report["totals"] == report["data"][0]
    assert report["totals"] == {
        **dict.fromkeys(report["totals"], 0),
        "requestCount": 4,
        "errorCount": 2,
        "totalTokens": 250,
        "inputTokens": 207,
        "outputTokens": 43,
        "cacheReadTokens": 80,
        "reasoningTokens": 10,
        "totalCost": 0.003,
        "unpricedRequests": 1,
        "latencyMs": {"mean": 1000.0, "p50": pytest.approx(1000, rel=0.1), "p95": pytest.approx(1000, rel=0.1)},
        "firstByteMs": {"mean": 100.0, "p50": pytest.approx(100, rel=0.1), "p95": pytest.approx(100, rel=0.1)},
    }


async def test_a_report_groups_by_several_things_at_once(aiwm: Inside, org: str, viewer: Caller) -> None:
    day = NOW - NOW % (24 * HOUR) - 24 * HOUR
    for number, (user, key) in enumerate([("bo", None), ("bo", "e" * 24), ("mai", None), ("bo", None)]):
        await _add(aiwm, _row(org, (NOW - day) / HOUR - number, user_id=user, api_key_id=key))
    report = (await viewer("GET", "/usage?groupBy=day,apiKey,user&to=" + iso(NOW))).json()
    assert report["groupBy"] == ["user", "apiKey", "day"]
    told = [(each["day"], each["user"], each["apiKey"], each["requestCount"]) for each in report["data"]]
    assert told == [(iso(day), "bo", None, 2), (iso(day), "bo", "e" * 24, 1), (iso(day), "mai", None, 1)]
    hours = (await viewer("GET", "/usage?groupBy=hour&user=bo")).json()["data"]
    assert [each["hour"] for each in hours] == [iso(day + number * HOUR) for number in (0, 1, 3)]
    assert (await viewer("GET", f"/usage?apiKey={'E' * 24}")).json()["totals"]["requestCount"] == 1


async def test_a_report_is_about_the_last_thirty_days_unless_told(aiwm: Inside, org: str, viewer: Caller) -> None:
    await _add(aiwm, _row(org, 29 * 24), _row(org, 31 * 24), _row(org, 400 * 24))
    assert (await viewer("GET", "/usage")).json()["totals"]["requestCount"] == 1
    assert (await viewer("GET", "/usage?from=2020-01-01")).json()["totals"]["requestCount"] == 3
    until = iso(NOW - 30 * 24 * HOUR)
    assert (await viewer("GET", f"/usage?from=2020-01-01T00:00:00%2B07:00&to={until}")).json()["totals"][
        "requestCount"
    ] == 2


async def test_without_usage_a_report_is_empty_and_cost_nothing(viewer: Caller) -> None:
    report = (await viewer("GET", "/usage?groupBy=deployment")).json()
    assert report["data"] == []
    assert (report["totals"]["requestCount"], report["totals"]["totalCost"]) == (0, 0)
    assert report["totals"]["latencyMs"] is None


async def test_what_nobody_knows_the_cost_of_did_not_cost_nothing(aiwm: Inside, org: str, viewer: Caller) -> None:
    await _add(aiwm, _row(org))
    totals = (await viewer("GET", "/usage")).json()["totals"]
    assert (totals["totalCost"], totals["unpricedRequests"]) == (None, 1)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("from=yesterday", "from: must be a date"),
        ("from=2025-01-20T00:00:00", "from: must be a date"),
        ("to=1737363601000", "to: must be a date"),
        ("from=", "from: must be 1 to 500"),
        ("from=2030-01-31&to=2030-01-31", "from: must be before to"),
        ("groupBy=week", "groupBy: week is not among"),
        ("groupBy=deployment,,", "groupBy:  is not among"),
        ("groupBy=", "groupBy: must be 1 to 500"),
        ("groupBy=day,hour", "groupBy: day and hour exclude each other"),
        ("deployment=7", "deployment: must be 24 hexadecimal digits"),
        ("apiKey=x", "apiKey: must be 24 hexadecimal digits"),
        ("user=a&user=b", "user: is given twice"),
        ("orgId=" + "f" * 24, "orgId: is not a parameter of this"),
        ("filter[org_id]=x", "filter[org_id]: is not a parameter of this"),
        ("model=" + "x" * 501, "model: must be 1 to 500"),
        ("provider=%00", "provider: must be 1 to 500"),
    ],
)
async def test_a_wrong_parameter_of_a_report_is_named(viewer: Caller, query: str, named: str) -> None:
    [problem] = await _problems(viewer, f"/usage?{query}")
    assert problem.startswith(named)


async def test_all_that_is_wrong_is_told_at_once(viewer: Caller) -> None:
    wrong = await _problems(viewer, "/usage/requests?limit=0&status=99&end=maybe&source=me&cursor=x&from=1&x=1")
    assert [problem.partition(":")[0] for problem in wrong] == [
        "x",
        "status",
        "end",
        "source",
        "from",
        "limit",
        "cursor",
    ]


# --- rows ----------------------------------------------------------------------------------------------------


async def test_requests_are_listed_newest_first_in_pages(aiwm: Inside, org: str, viewer: Caller) -> None:
    given = await _add(aiwm, *(_row(org, hours) for hours in range(1, 8)))
    seen, cursor = [], ""
    while True:
        page = (await viewer("GET", f"/usage/requests?limit=3{cursor}")).json()
        seen += [each["_id"] for each in page["data"]]
        if page["pagination"]["nextCursor"] is None:
            break
        cursor = f"&cursor={page['pagination']['nextCursor']}"
    assert seen == [row.request_id for row in given]


async def test_requests_are_found_by_what_they_say(aiwm: Inside, org: str, viewer: Caller) -> None:
    refused, gone = await _add(
        aiwm, _row(org, 1, status=429, correlation_id="order-7"), _row(org, 2, end=End.CLIENT_GONE, user_id="bo")
    )
    for query, row in (
        ("status=429", refused),
        ("correlationId=order-7", refused),
        ("end=client-gone", gone),
        ("user=bo", gone),
        (f"to={iso(NOW - 2 * HOUR + 1)}", gone),
        (f"from={iso(NOW - 2 * HOUR + 1)}", refused),
    ):
        found = (await viewer("GET", f"/usage/requests?{query}&deployment={CHAT}")).json()["data"]
        assert [each["_id"] for each in found] == [row.request_id], query


FAR = base64.urlsafe_b64encode(b"9" * 30 + b"." + b"f" * 24).decode()


@pytest.mark.parametrize("cursor", ["", "x", FAR, "MTIz", "eA==", "LTEuYQ==", "%F0%9F%99%82", "MS4=" * 200])
async def test_a_cursor_that_no_list_has_given_is_refused(viewer: Caller, cursor: str) -> None:
    [problem] = await _problems(viewer, f"/usage/requests?cursor={cursor}")
    assert problem.startswith("cursor: ")


async def test_a_request_is_explained(aiwm: Inside, org: str, viewer: Caller) -> None:
    raw = {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 400}}
    [row] = await _add(
        aiwm,
        _row(
            org,
            usage=Usage(input_tokens=1000, output_tokens=100, cache_read_tokens=400),
            raw_usage=json.dumps(raw),
            first_byte_ms=200,
            total_ms=1500,
            cost=3_000_000_000,
            price='{"list":"a list","rates":{"fresh_tokens":"2.5","cache_read_tokens":"1.25","output_tokens":"10"}}',
        ),
    )
    told = (await viewer("GET", f"/usage/requests/{row.request_id.upper()}")).json()
    assert told["cost"] == 0.003
    assert told["phases"] == [
        {"name": "waiting", "from": iso(row.started_at), "to": iso(row.started_at + 200), "ms": 200},
        {"name": "answering", "from": iso(row.started_at + 200), "to": iso(row.started_at + 1500), "ms": 1300},
    ]
    assert told["numbers"] == {
        "inputTokens": {"value": 1000, "from": [{"said": "prompt_tokens", "number": 1000}]},
        "outputTokens": {"value": 100, "from": [{"said": "completion_tokens", "number": 100}]},
        "cacheReadTokens": {"value": 400, "from": [{"said": "prompt_tokens_details.cached_tokens", "number": 400}]},
    }
    assert told["rawUsage"] == raw
    assert told["price"]["list"] == "a list"
    assert [(line["of"], line["number"], line["rate"], line["cost"]) for line in told["costLines"]] == [
        ("freshTokens", 600, 2.5, 0.0015),
        ("cacheReadTokens", 400, 1.25, 0.0005),
        ("outputTokens", 100, 10, 0.001),
    ]
    assert sum(line["cost"] for line in told["costLines"]) == pytest.approx(told["cost"])


async def test_a_request_that_never_got_an_answer_is_explained_too(aiwm: Inside, org: str, viewer: Caller) -> None:
    [row] = await _add(
        aiwm,
        _row(org, end=End.GATEWAY_DIED, status=None, first_byte_ms=None, usage=Usage(), raw_usage=None, total_ms=0),
    )
    told = (await viewer("GET", f"/usage/requests/{row.request_id}")).json()
    assert [phase["name"] for phase in told["phases"]] == ["waiting"]
    assert (told["numbers"], told["costLines"], told["price"], told["cost"]) == ({}, [], None, None)


async def test_a_request_that_is_not_there_or_has_no_id_is_told_apart(viewer: Caller) -> None:
    answer = await viewer("GET", f"/usage/requests/{'f' * 24}")
    assert (answer.status_code, answer.json()["message"]) == (404, f"Request with ID {'f' * 24} not found")
    answer = await viewer("GET", "/usage/requests/7")
    assert (answer.status_code, answer.json()["message"]) == (400, "Request ID must be 24 hexadecimal digits")


async def test_answers_have_the_documented_fields_and_no_others(aiwm: Inside, org: str, viewer: Caller) -> None:
    [row] = await _add(aiwm, _row(org))
    told = (await viewer("GET", f"/usage/requests/{row.request_id}")).json()
    assert set(told) == {field.alias for field in ExplainedAnswer.model_fields.values()}
    ExplainedAnswer.model_validate(told)
    listed = (await viewer("GET", "/usage/requests")).json()
    assert set(listed["data"][0]) == {field.alias for field in RequestAnswer.model_fields.values()}
    report = (await viewer("GET", "/usage?groupBy=deployment,model,user,apiKey,provider,hour")).json()
    assert set(report["data"][0]) | {"day"} == {field.alias for field in GroupAnswer.model_fields.values()}
    ReportAnswer.model_validate(report)


# --- exports -------------------------------------------------------------------------------------------------


async def test_all_requests_are_exported_as_json_lines(aiwm: Inside, org: str, viewer: Caller) -> None:
    given = await _add(aiwm, *(_row(org, 1 + number / 1000, raw_usage='{"a": 1}') for number in range(1203)))
    answer = await viewer("GET", "/usage/export")
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["content-disposition"] == 'attachment; filename="aiwm-usage.jsonl"'
    told = [json.loads(line) for line in answer.text.splitlines()]
    assert [each["_id"] for each in told] == [row.request_id for row in given]
    assert told[0]["rawUsage"] == {"a": 1}


async def test_requests_are_exported_as_csv_without_formulas_in_it(aiwm: Inside, org: str, viewer: Caller) -> None:
    await _add(
        aiwm,
        _row(org, 1, model_asked='=HYPERLINK("http://x")', correlation_id='a "b", c', cost=1_234_567),
        _row(org, 2, status=404),
        _row(org, 3, model_asked=None),
    )
    answer = await viewer("GET", "/usage/export?format=csv&status=200")
    assert answer.headers["content-type"].startswith("text/csv")
    first, second = csv.DictReader(io.StringIO(answer.text))
    assert first["modelAsked"] == '\'=HYPERLINK("http://x")'
    assert (first["correlationId"], first["cost"], first["status"]) == ('a "b", c', "0.000001234567", "200")
    assert (second["modelAsked"], second["cost"]) == ("", "")


async def test_an_export_of_nothing_is_empty(viewer: Caller) -> None:
    answer = await viewer("GET", "/usage/export?format=csv")
    assert (answer.status_code, answer.text) == (200, "")


@pytest.mark.parametrize("query", ["format=xml", "format=CSV", "limit=5", "cursor=x", "from=never"])
async def test_a_wrong_parameter_of_an_export_is_named(viewer: Caller, query: str) -> None:
    [problem] = await _problems(viewer, f"/usage/export?{query}")
    assert problem.startswith(query.partition("=")[0] + ": ")


# --- whose it is ---------------------------------------------------------------------------------------------


async def test_nothing_is_told_of_another_organization(aiwm: Inside, org: str, stranger: Caller) -> None:
    [row] = await _add(aiwm, _row(org))
    assert (await stranger("GET", "/usage")).json()["totals"]["requestCount"] == 0
    assert (await stranger("GET", "/usage/requests")).json()["data"] == []
    assert (await stranger("GET", "/usage/export")).text == ""
    assert (await stranger("GET", f"/usage/requests/{row.request_id}")).status_code == 404
    operator = aiwm.caller(Role.UNIVERSE_OWNER, org=new_id())
    assert (await operator("GET", f"/usage/requests/{row.request_id}")).status_code == 404
    acting = aiwm.caller(Role.UNIVERSE_OWNER, org=new_id(), acting=org)
    assert (await acting("GET", "/usage")).json()["totals"]["requestCount"] == 1
    assert (await acting("GET", f"/usage/requests/{row.request_id}")).status_code == 200


@pytest.mark.parametrize("path", ["/usage", "/usage/requests", "/usage/export", f"/usage/requests/{'f' * 24}"])
async def test_who_has_no_role_is_told_nothing(aiwm: Inside, org: str, path: str) -> None:
    assert (await aiwm.caller(None, org=org)("GET", path)).status_code == 403
    assert (await aiwm.http.get(path)).status_code == 401
