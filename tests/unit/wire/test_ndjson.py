"""Lines are found wherever the network cuts them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.wire.ndjson import LineSplitter
from cuttings import bytewise, cut, cuttings

DONE = b'"done":true'


def found(pieces: list[bytes]) -> list[bytes]:
    splitter = LineSplitter([DONE], 1000)
    return [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.finish())


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'{"done":true}\n', [b'{"done":true}']),
        (b'{"done":true}\r\n', [b'{"done":true}']),
        (b'{"done":true}', [b'{"done":true}']),
        (b'\n\n{"a":1}\n{"done":true,"n":1}\n\n{"done":true,"n":2}', [b'{"done":true,"n":1}', b'{"done":true,"n":2}']),
        (b'\xef\xbb\xbf{"done":true}\n', [b'{"done":true}']),
        (b'{"done":true,"s":"\xe2\x80\xa8\x0b\x85"}\n', [b'{"done":true,"s":"\xe2\x80\xa8\x0b\x85"}']),
        (b'{"done":\ntrue}\n', []),
        (b"\n\n", []),
        (b"", []),
    ],
)
def test_the_lines_with_a_marker_are_found(stream: bytes, expected: list[bytes]):
    assert found([stream]) == expected
    assert found(bytewise(stream)) == expected
    for place in range(len(stream)):
        assert found(cut(stream, [place])) == expected


def test_a_line_comes_as_soon_as_its_line_feed_does():
    splitter = LineSplitter([DONE])
    assert list(splitter.feed(b'{"done":')) == []
    assert list(splitter.feed(b'true}\n{"done":true')) == [b'{"done":true}']
    assert list(splitter.feed(b"}")) == []
    assert list(splitter.finish()) == [b'{"done":true}']
    assert list(splitter.finish()) == []


def test_a_line_that_is_too_long_is_dropped_and_counted_and_takes_no_room():
    splitter = LineSplitter([DONE], 100)
    for _ in range(100):
        assert not splitter.feed(DONE * 5)
        assert len(splitter._pending) <= 160
    assert list(splitter.feed(b'\n{"done":true}\n')) == [b'{"done":true}']
    assert splitter.oversize == 1


_LINES = st.sampled_from([b'{"done":true}', b'"done":true', b"{}", b"", b"x" * 30, b'"done":true' * 3, b"\r"])
_STREAMS = st.lists(st.builds(bytes.__add__, _LINES, st.sampled_from([b"\n", b"\r\n", b""])), max_size=10).map(b"".join)


@settings(max_examples=120, deadline=None)
@given(cuttings(_STREAMS), st.sampled_from([12, 25, 1000]))
def test_the_same_lines_are_found_however_the_network_cuts_the_stream(
    streams: tuple[bytes, list[bytes]], max_line: int
):
    stream, pieces = streams
    splitter = LineSplitter([DONE], max_line)
    lines = [line.removesuffix(b"\r") for line in stream.split(b"\n")]
    expected = [line for line in lines if DONE in line and len(line) <= max_line]
    assert [line for piece in pieces for line in splitter.feed(piece)] + list(splitter.finish()) == expected
    assert splitter.oversize == sum(len(line) > max_line for line in lines)
