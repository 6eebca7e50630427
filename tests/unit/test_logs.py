"""logs.py: one line an event, without secrets, whoever logs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from aiwm import logs
from aiwm.logs import Log, RequestLine
from patience import PATIENCE

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"
SECRETS = [
    TOKEN,
    "sk-proj-0123456789abcdef",
    "sk-ant-api03-0123456789",
    "AIzaSyA0123456789abcdef",
    "xai-0123456789abcdef",
    "gsk_0123456789abcdef",
    "Bearer opaque-token-of-another-iam",
]


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)


def _fail(secret: str) -> None:
    key_of_the_provider = secret  # noqa: F841 - a local variable that no traceback may show
    raise RuntimeError(f"refused: {secret}")


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("secret", SECRETS)
def test_no_secret_gets_through_in_a_value_a_text_or_a_traceback(
    capsys: pytest.CaptureFixture[str], as_json: bool, secret: str
) -> None:
    logs.configure(level="info", as_json=as_json)
    log = Log("aiwm.test")
    log.info("seen", header=f"it said {secret} to us", password="hunter2", api_key="short", refresh_token="abc")
    logging.getLogger("some.library").warning("answer was %s", secret)
    try:
        _fail(secret)
    except RuntimeError:
        log.exception("unexpected error")
        logging.getLogger("some.library").exception("unexpected too")

    shown = capsys.readouterr().err

    assert "it said *** to us" in shown
    assert "answer was ***" in shown
    assert shown.count("RuntimeError: refused: ***") == 2
    for never in (secret.removeprefix("Bearer "), "hunter2", "short", "abc", "key_of_the_provider ="):
        assert never not in shown


def test_an_event_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", as_json=True)
    Log("aiwm.test").info("one", text="line\nbreak\u2028\x1b[2J", path="/ünï")
    try:
        _fail("x")
    except RuntimeError:
        Log("aiwm.test").exception("two")
    logging.getLogger("some.library").error("three\nof three")

    lines: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().err.split("\n") if line]

    assert [line["event"] for line in lines] == ["one", "two", "three\nof three"]
    assert [line["level"] for line in lines] == ["info", "error", "error"]
    assert lines[0]["text"] == "line\nbreak\u2028\x1b[2J"
    assert all(line["time"].endswith("Z") for line in lines)


def test_a_line_for_people_begins_with_what_happened_and_commands_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure(level="info", as_json=False)
    Log("aiwm.test").warning("it is gone", path="/ünï", reason="two words", said="\x1b[2J\n", tries=3)
    logging.getLogger("some.library").warning("it said \x1b[2J\nand more")
    try:
        _fail("x")
    except RuntimeError:
        Log("aiwm.test").exception("two")

    first, second, third, *below = capsys.readouterr().err.splitlines()

    assert first.split(maxsplit=1)[1] == (
        "[warning ] it is gone                     path=/ünï reason='two words' said='\\x1b[2J\\n' tries=3"
    )
    assert "'it said \\x1b[2J\\nand more'" in second
    assert third.split()[1:] == ["[error", "]", "two"]
    assert below[0] == "Traceback (most recent call last):"
    assert below[-1] == "RuntimeError: refused: x"


def test_what_is_below_the_level_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning", as_json=True)
    Log("aiwm.test").info("quiet")
    logging.getLogger("some.library").info("quiet")
    logging.getLogger("asyncio").info("quiet")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "number"), [("debug", 10), ("info", 20), ("warning", 30), ("error", 40)])
def test_levels_have_the_numbers_of_the_standard_library(name: str, number: int) -> None:
    assert logs.level_number(name) == number


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("secret", SECRETS)
async def test_the_line_of_a_request_is_one_line_without_secrets(
    capsys: pytest.CaptureFixture[str], as_json: bool, secret: str
) -> None:
    logs.configure(level="info", as_json=as_json)
    write = logs.request_log(level="info", as_json=as_json)

    write(RequestLine(0.0015, "c-1", b"GET", quote(f"/models/{secret}/x").encode(), 404))

    shown = capsys.readouterr().err
    async with asyncio.timeout(PATIENCE):
        while not shown:  # Lines are gathered for a moment.
            await asyncio.sleep(0.01)
            shown = capsys.readouterr().err
    assert secret.removeprefix("Bearer ") not in shown
    assert shown.count("\n") == 1
    assert "c-1" in shown
    if as_json:
        line = json.loads(shown)
        assert (line["event"], line["level"], line["status"]) == ("request", "info", 404)


def test_requests_are_not_logged_above_info(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="warning", as_json=True)
    logs.request_log(level="warning", as_json=True)(RequestLine(0.1, "c-1", b"GET", b"/", 200))
    assert capsys.readouterr().err == ""


def test_each_line_of_a_worker_carries_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", as_json=True, worker=3)
    Log("aiwm.test").info("seen")
    logging.getLogger("some.library").warning("seen there")
    assert [json.loads(line)["worker"] for line in capsys.readouterr().err.splitlines()] == [3, 3]
