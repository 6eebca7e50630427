"""The last usage of a JSON answer is found, however long the answer is and wherever it ends."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.wire.json_tail import JsonWatcher
from cuttings import bytewise, cut, cuttings

USAGE = b'"usage"'
GOOGLE = b'"usageMetadata"'


def watched(pieces: list[bytes], *, limit: int = 1 << 20, window: int = 1 << 16) -> JsonWatcher:
    watcher = JsonWatcher([USAGE, GOOGLE], limit, window)
    for piece in pieces:
        watcher.feed(piece)
    return watcher


def test_a_body_within_the_limit_is_given_whole():
    body = b'{"a":1,"usage":{"total_tokens":3}}'
    watcher = watched(bytewise(body), limit=len(body))
    assert watcher.document() == body
    assert watcher.last(USAGE) == b'{"total_tokens":3}'
    assert watcher.last(GOOGLE) is None


def test_of_a_longer_body_only_the_values_are_left():
    body = b'{"data":"' + b"x" * 5000 + b'","usage":{"total_tokens":3}, "more":"' + b"y" * 5000 + b'"}'
    for pieces in ([body], bytewise(body), cut(body, range(0, len(body), 7))):
        watcher = watched(pieces, limit=1000, window=100)
        assert watcher.document() is None
        assert watcher.last(USAGE) == b'{"total_tokens":3}'


def test_nothing_was_watched():
    assert watched([]).document() == b""
    assert watched([]).last(USAGE) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"n":1}}', b'{"n":1}'),
        (b'{ "usage" :\n{"n":1}}', b'{"n":1}'),
        (b'[{"usage":{"n":1}}\n,\r\n{"usage":{"n":2}}]', b'{"n":2}'),
        (b'[{"usage":{"n":1}},{"usage":{"n":2', b'{"n":1}'),
        (b'[{"usage":{"n":1}},{"usage":{"n":"}', b'{"n":1}'),
        (b'[{"usage":{"n":1}},{"usage":', b'{"n":1}'),
        (b'[{"usage":{"n":1}},{"usage":null}]', b'{"n":1}'),
        (b'[{"usage":{"n":1}},{"usage":[{"n":2}]}]', b'{"n":1}'),
        (b'{"usage":{"s":"}{\\"}","o":{"p":[{}]}},"a":1', b'{"s":"}{\\"}","o":{"p":[{}]}}'),
        (b'{"usage":{"n":1,"s":"\xff\xc3"}', b'{"n":1,"s":"\xff\xc3"}'),
        (b'{"usage":{"n":1},"text":"\\"usage\\":{\\"n\\":2}"}', b'{"n":1}'),
        (b'{"usage":{"n":1},"text":", \\"usage\\": {}"}', b'{"n":1}'),
        (b'{"usage":{"n":1},"my \\"usage":{"n":2}}', b'{"n":1}'),
        (b'{"usage":{"n":1},"text":"usage","other":{"n":2}}', b'{"n":1}'),
        (b'{"usages":{"n":1}}', None),
        (b'{"text":"usage: {}"}', None),
        (b"no json at all", None),
        (b'{"usage":{' * 5000, None),
        (b'{"usage":{"n":1},"x":' + b'{"usage":{' * 10, b'{"n":1}'),
    ],
)
def test_the_last_value_that_arrived_whole_is_found(body: bytes, expected: bytes | None):
    assert watched([body]).last(USAGE) == expected
    assert watched(bytewise(body)).last(USAGE) == expected


def test_what_is_remembered_stays_small():
    watcher = JsonWatcher([USAGE], 1000, 100)
    for _ in range(1000):
        watcher.feed(b'{"usage":{"n":1}},\n')
        assert len(watcher._body) <= 1100


_RECORDS = st.lists(
    st.fixed_dictionaries(
        {"text": st.sampled_from(["", "hello", '{"usage":{"n":9}}', '", "usage": {"n": 9}', "ü\\", "x" * 40])},
        optional={"usage": st.fixed_dictionaries({"n": st.integers(0, 99), "s": st.sampled_from(["", "}", '"', "é"])})},
    ),
    max_size=8,
)
_DOCUMENTS = st.builds(
    lambda records, indent, ascii_only: json.dumps(records, indent=indent, ensure_ascii=ascii_only).encode(),
    _RECORDS,
    st.sampled_from([None, 2]),
    st.booleans(),
)


@settings(max_examples=120, deadline=None)
@given(cuttings(_DOCUMENTS), st.sampled_from([150, 1 << 20]))
def test_the_same_value_is_found_however_the_network_cuts_the_body(bodies: tuple[bytes, list[bytes]], limit: int):
    body, pieces = bodies
    usages = [record["usage"] for record in json.loads(body) if "usage" in record]
    watcher = watched(pieces, limit=limit, window=100)
    value = watcher.last(USAGE)
    assert (json.loads(value) if value is not None else None) == (usages[-1] if usages else None)
    assert watcher.document() == (body if len(body) <= limit else None)


@settings(max_examples=100, deadline=None)
@given(_RECORDS, st.integers(0, 1 << 12))
def test_a_body_cut_short_gives_the_last_value_before_the_cut(records: list[dict[str, object]], place: int):
    body = b"["
    ends: list[tuple[int, bytes]] = []
    for record in records:
        value = json.dumps(record.get("usage", {})).encode()
        body += b'{"text":' + json.dumps(record["text"]).encode() + b',"usage":' + value
        ends.append((len(body), value))
        body += b"},"
    short = body[: place % (len(body) + 1)]
    expected = [value for end, value in ends if end <= len(short)][-1:] or [None]
    assert watched(bytewise(short), limit=150, window=100).last(USAGE) == expected[0]
