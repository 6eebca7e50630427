"""web/front.py: a correlation id, errors rendered, one line in the log, and nothing raised."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from aiwm.errors import AnswerBroken, ClientGone, Invalid
from aiwm.web.call import Call
from aiwm.web.front import Front
from aiwm.web.head import Head
from aiwm.wire.hosts import Hosts
from fakes import Wire
from logged import logged


class _Asked:
    """One request to an application that does `work`, and what came of it."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.logs: list[Any] = []
        self.lines: list[dict[str, Any]] = []

    async def run(
        self, work: Any, *, headers: list[tuple[bytes, bytes]] | None = None, path: str = "/models"
    ) -> _Asked:
        call = Call(self.wire, Head(b"GET", quote(path).encode(), b"key=sk-1", headers or []))
        with logged() as self.logs:
            await Front(work, hosts=Hosts({"aiwm.example"}), log=lambda line: self.lines.append(line.told()))(call)
        return self

    @property
    def status(self) -> int:
        return int(self.wire.written.split(b" ")[1])

    @property
    def headers(self) -> dict[bytes, bytes]:
        head = self.wire.written.partition(b"\r\n\r\n")[0]
        return dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])

    @property
    def body(self) -> bytes:
        return self.wire.written.partition(b"\r\n\r\n")[2]

    @property
    def line(self) -> Any:
        [line] = self.lines
        return line


class _Outcome(NamedTuple):
    tokens: int | None
    end: str | None


async def _answers(call: Call) -> None:
    call.answer(200, [(b"a", b"b"), (b"content-length", b"5")], b"hello")


def _raises(error: Exception, *, after_the_start: bool = False) -> Any:
    async def work(call: Call) -> None:
        if after_the_start:
            call.start(200, [])
            call.flush()
        raise error

    return work


async def test_an_answer_passes_with_the_correlation_id_added() -> None:
    asked = await _Asked().run(_answers)
    assert asked.body == b"hello"
    assert asked.headers[b"a"] == b"b"
    assert asked.headers[b"x-correlation-id"].decode() == asked.line["correlation_id"]


async def test_two_requests_have_two_correlation_ids() -> None:
    ids = {(await _Asked().run(_answers)).headers[b"x-correlation-id"] for _ in range(5)}
    assert len(ids) == 5


async def test_the_callers_own_correlation_id_is_kept() -> None:
    asked = await _Asked().run(_raises(Invalid("no")), headers=[(b"x-correlation-id", b"order-42:7")])
    assert asked.headers[b"x-correlation-id"] == b"order-42:7"
    assert json.loads(asked.body)["correlationId"] == asked.line["correlation_id"] == "order-42:7"


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 129, b"a\tb", b"\xff", b'"', b"<script>"])
async def test_a_correlation_id_that_can_not_be_logged_is_replaced(given: bytes) -> None:
    asked = await _Asked().run(_answers, headers=[(b"x-correlation-id", given)])
    assert asked.headers[b"x-correlation-id"] != given
    assert len(asked.headers[b"x-correlation-id"]) == 24


async def test_an_error_of_ours_is_answered_in_its_shape() -> None:
    asked = await _Asked().run(_raises(Invalid("That is wrong")))
    assert asked.status == 400
    assert json.loads(asked.body)["message"] == "That is wrong"
    assert asked.headers[b"x-aiwm-error"] == b"gateway"
    assert asked.logs == []


async def test_an_error_nobody_thought_of_is_answered_without_its_text_and_logged_with_it() -> None:
    asked = await _Asked().run(_raises(RuntimeError("the secret is sk-1")))
    assert asked.status == 500
    assert b"sk-1" not in asked.body
    [unexpected] = [line for line in asked.logs if line["event"] == "unexpected error"]
    assert unexpected["exception"] == "RuntimeError('the secret is sk-1')"
    assert unexpected["correlation_id"] == asked.line["correlation_id"]


@pytest.mark.parametrize("error", [AnswerBroken(), RuntimeError(), Invalid()])
async def test_after_the_status_line_nothing_is_added_to_a_broken_answer(error: Exception) -> None:
    asked = await _Asked().run(_raises(error, after_the_start=True))
    assert asked.wire.written.endswith(b"\r\n\r\n")
    assert not asked.wire.ends
    assert asked.line["status"] == 200


async def test_a_caller_who_is_gone_is_not_answered() -> None:
    asked = await _Asked().run(_raises(ClientGone()))
    assert asked.wire.written == b""
    assert (asked.line["status"], asked.line["end"]) == (499, "The client closed the connection")


async def test_the_line_says_who_did_what_and_nothing_of_the_query() -> None:
    async def work(call: Call) -> None:
        call.user_id, call.org_id, call.outcome = "mai", "red", _Outcome(33, "complete")
        await _answers(call)

    line = (await _Asked().run(work)).line
    assert line.pop("ms") >= 0
    assert len(line.pop("correlation_id")) == 24
    assert line == {
        "method": "GET", "path": "/models", "status": 200,
        "user_id": "mai", "org_id": "red", "tokens": 33, "end": "complete",
    }  # fmt: skip


async def test_how_an_answer_ended_is_told_by_who_booked_it_and_else_by_the_error() -> None:
    def leaving(end: str | None) -> Any:
        async def work(call: Call) -> None:
            call.outcome = _Outcome(None, end)
            raise ClientGone

        return work

    assert (await _Asked().run(leaving("client-gone"))).line["end"] == "client-gone"
    assert (await _Asked().run(leaving(None))).line["end"] == "The client closed the connection"


@pytest.mark.parametrize("path", ["/a\nb", "/a\x1b[2J", "/a\u2028b", "/a\x9bb", "/\x00", "/\u202eb"])
async def test_a_path_can_not_begin_another_line_nor_speak_to_the_terminal(path: str) -> None:
    line = (await _Asked().run(_answers, path=path)).line
    assert line["path"].isascii()
    assert line["path"].isprintable()


async def test_an_answer_that_was_begun_but_not_sent_makes_room_for_the_error() -> None:
    async def work(call: Call) -> None:
        call.start(200, [(b"content-length", b"5")])
        raise AnswerBroken

    assert (await _Asked().run(work)).status == 502


@pytest.mark.parametrize("host", [b"localhost:3003", b"127.0.0.1", b"[::1]:3003", b"AIWM.example:80", b"10.0.0.9"])
async def test_a_host_that_is_known_is_answered(host: bytes) -> None:
    assert (await _Asked().run(_answers, headers=[(b"host", host)])).status == 200


async def test_a_host_that_is_not_known_is_told_so_before_anything_else_is_looked_at() -> None:
    asked = await _Asked().run(_raises(RuntimeError("reached")), headers=[(b"host", b"rebound.example:3003")])
    assert (asked.status, asked.line["status"]) == (421, 421)
    assert "AIWM_ALLOWED_HOSTS" in json.loads(asked.body)["message"]


async def test_the_line_names_the_key_that_was_used_and_not_what_it_is() -> None:
    async def work(call: Call) -> None:
        call.user_id, call.org_id, call.api_key_id = "u" * 24, "o" * 24, "k" * 24
        await _answers(call)

    asked = await _Asked().run(work)
    assert asked.line["api_key_id"] == "k" * 24
    assert "api_key_id" not in (await _Asked().run(_answers)).line
