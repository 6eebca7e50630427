"""A model's `prices` over HTTP: as they were given, for those who may see them, and gone when taken back."""

from __future__ import annotations

from typing import Any

import pytest

from aiwm.api.prices import ModelPrice
from aiwm.domain.prices import PIECE_AXES, TOKEN_AXES
from aiwm.domain.users import Role
from inside import Caller, Inside, self_hosted

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRICES: list[dict[str, Any]] = [
    {"input": 0.3, "output": 2.5},
    {"from": "2026-03-01", "input": 0.25, "output": 2, "cacheRead": 0.025, "cacheWrite1h": 0.000000001},
    {"from": "2026-04-01", "perRequest": 0.01, "webSearch": 0},
]


async def test_every_kind_of_price_can_be_given() -> None:
    named = {field.alias for field in ModelPrice.model_fields.values()}
    assert named == {"from", *TOKEN_AXES, *PIECE_AXES}


async def test_prices_are_shown_as_they_were_given_in_the_order_of_time(editor: Caller) -> None:
    for made in (await editor.model(prices=PRICES[::-1]), await editor.model(**self_hosted(prices=PRICES))):
        assert made["prices"] == PRICES
        assert (await editor("GET", f"/models/{made['_id']}")).json() == made


async def test_a_model_without_prices_of_its_own_shows_none(editor: Caller) -> None:
    assert "prices" not in await editor.model()
    assert "prices" not in await editor.model(prices=[])


async def test_a_price_since_ever_may_say_so_with_null(editor: Caller) -> None:
    made = await editor.model(prices=[{"from": None, "input": 1, "output": None}])
    assert made["prices"] == [{"input": 1}]


async def test_prices_are_replaced_whole_kept_when_left_out_and_taken_back_with_null(editor: Caller) -> None:
    path = f"/models/{(await editor.model(prices=PRICES))['_id']}"
    assert (await editor("PUT", path, json={"name": "Other"})).json()["prices"] == PRICES
    assert (await editor("PUT", path, json={"prices": PRICES[:1]})).json()["prices"] == PRICES[:1]
    assert "prices" not in (await editor("PUT", path, json={"prices": None})).json()
    assert "prices" not in (await editor("GET", path)).json()


async def test_another_organization_does_not_see_what_a_public_model_costs_its_owner(
    editor: Caller, stranger: Caller
) -> None:
    model = await editor.model(scope="public", prices=PRICES)
    assert "prices" not in (await stranger("GET", f"/models/{model['_id']}")).json()


async def test_a_viewer_sees_prices_and_sets_none(aiwm: Inside, org: str, editor: Caller) -> None:
    viewer = aiwm.caller(Role.VIEWER, org=org)
    path = f"/models/{(await editor.model(prices=PRICES))['_id']}"
    assert (await viewer("GET", path)).json()["prices"] == PRICES
    assert (await viewer("PUT", path, json={"prices": None})).status_code == 403


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([{"input": "0.25"}], "prices.0.input: must be a number, in USD"),
        ([{"from": "tomorrow", "input": 1}], "prices.0.from: must be a day, such as 2026-01-01"),
        ([{"input": 1, "inptu": 1}], "prices.0.inptu: is not a field of this request"),
        ([{"input": 1}, {"output": 1}], "prices: two entries begin on the same day"),
        (
            [{"from": "2026-01-01"}],
            f"prices.0: give at least one of {', '.join((*TOKEN_AXES, *PIECE_AXES))}",
        ),
    ],
)
async def test_what_is_wrong_with_a_price_is_said(editor: Caller, given: Any, told: str) -> None:
    model = await editor.model()
    answer = await editor("PUT", f"/models/{model['_id']}", json={"prices": given})
    assert (answer.status_code, answer.json()["message"]) == (400, [told])
