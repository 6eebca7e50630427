"""web/bodies.py: what is read as JSON, and what is refused before anybody looks at its fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from aiwm.errors import BodyTooLarge, ClientGone, Invalid, UnsupportedMediaType
from aiwm.web.bodies import JsonBodies

LIMIT = 5000


async def _through(*parts: bytes, content_type: str | None = None, gone: bool = False) -> tuple[bytes, dict[str, str]]:
    """What the application sees of a request in these parts: body, and headers."""
    messages: list[Message] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False})
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        seen.append((message["body"], {name.decode(): value.decode() for name, value in scope["headers"]}))

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError("nothing is answered here")

    headers = [(b"x-other", b"stays")]
    if content_type is not None:
        headers.append((b"content-type", content_type.encode("latin-1")))
    await JsonBodies(app, max_bytes=LIMIT)({"type": "http", "headers": headers}, receive, send)
    return seen[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "content_type",
    [None, "", "application/json", "APPLICATION/JSON", "application/json; charset=utf-8",
     "application/merge-patch+json", "application/x-www-form-urlencoded",
     "application/x-www-form-urlencoded; charset=UTF-8"],
)  # fmt: skip
async def test_these_types_are_read_as_json(content_type: str | None) -> None:
    body, headers = await _through(b'{"name": "x"}', content_type=content_type)
    assert body == b'{"name": "x"}'
    assert headers == {"x-other": "stays", "content-type": "application/json"}


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", "application/xml", "json", "+"]
)
async def test_other_types_are_refused_by_name(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="is not read here; send application/json"):
        await _through(b"{}", content_type=content_type)


async def test_a_request_without_a_body_may_say_any_type() -> None:
    assert await _through(content_type="text/plain") == (b"", {"x-other": "stays", "content-type": "text/plain"})


async def test_a_body_in_many_parts_is_one() -> None:
    body, _ = await _through(b'{"na', b"", b'me"', b': "x"}')
    assert body == b'{"name": "x"}'


async def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not() -> None:
    largest = json.dumps("x" * (LIMIT - 2)).encode()
    assert (await _through(largest))[0] == largest
    with pytest.raises(BodyTooLarge, match=f"at most {LIMIT} bytes"):
        await _through(largest, b" ")


async def test_nothing_more_is_read_of_a_body_that_is_too_large() -> None:
    with pytest.raises(BodyTooLarge):
        await _through(b"x" * (LIMIT + 1), b"never read", gone=True)


async def test_half_a_body_is_nobodys() -> None:
    with pytest.raises(ClientGone):
        await _through(b'{"name"', gone=True)


@pytest.mark.parametrize(
    "body",
    [
        b"{", b"}", b"{]", b" ", b"nul", b"'x'", b"{'a': 1}", b'{"a": 1,}', b'{"a": 01}', b"{} {}",
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": ' + b"9" * 4000 + b"}",
        b'{"a": "\\ud800"}', b'{"\\udfff": 1}', b'{"a": "\\ud800\\u0041"}', b'{"a": "\n"}', b'{"a": "\x00"}',
        b"\xff\xfe{}", '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}", b'{"a": "\xed\xa0\x80"}', b'{"a": "\xc0\xae"}',
        b"name=x&type=llm",
    ],
)  # fmt: skip
async def test_what_is_not_json_is_refused_with_the_place_of_it(body: bytes) -> None:
    with pytest.raises(Invalid) as caught:
        await _through(body)
    assert isinstance(caught.value.message, list)
    [text] = caught.value.message
    assert text.startswith("body: is not JSON (")
    assert "line 1 column" in text or "line 2 column" in text


@pytest.mark.parametrize("depth", [1000, 1023, 2000])
async def test_a_body_nested_without_sense_is_refused_not_an_error_of_ours(depth: int) -> None:
    with pytest.raises(Invalid, match=r"nested too deeply|depth limit"):
        await _through(b"[" * depth + b"]" * depth)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"name": "one", "name": "two"}', ["name: is given twice"]),
        (b'{"a": {"key": 1, "key": 1}}', ["key: is given twice"]),
        (b'{"a": 1, "b": 1, "b": 2, "a": 2}', ["a: is given twice", "b: is given twice"]),
        (b'{"a": 1, "\\u0061": 2}', ["a: is given twice"]),
        (b'{"' + b"n" * 300 + b'": 1, "' + b"n" * 300 + b'": 1}', ["n" * 100 + ": is given twice"]),
    ],
)
async def test_a_name_given_twice_is_refused_because_readers_disagree_about_which_counts(
    body: bytes, named: list[str]
) -> None:
    with pytest.raises(Invalid) as caught:
        await _through(body)
    assert caught.value.message == named


async def test_the_same_name_in_two_objects_is_fine() -> None:
    await _through(b'[{"a": 1}, {"a": {"a": 1}}]')
