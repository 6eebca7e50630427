"""Events are found whatever ends their lines and wherever the network cuts them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.wire.sse import EventSplitter
from cuttings import bytewise, cut, cuttings

USAGE = b'"usage"'


def found(pieces: list[bytes], *, contains: tuple[bytes, ...] = (USAGE,), max_event: int = 1000) -> list[bytes]:
    splitter = EventSplitter(contains, max_event)
    return [data for piece in pieces for data in splitter.feed(piece)] + list(splitter.finish())


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b'data: {"usage":1}\n\n', [b'{"usage":1}']),
        (b'data:{"usage":1}\n\n', [b'{"usage":1}']),
        (b'data:  {"usage":1} \n\n', [b' {"usage":1} ']),
        (b'data: {"usage":1}\r\n\r\n', [b'{"usage":1}']),
        (b'data: {"usage":1}\r\r', [b'{"usage":1}']),
        (b'data: {"usage":1}\n\r\n', [b'{"usage":1}']),
        (b'data: {"usage":1}\r\n\n', [b'{"usage":1}']),
        (b'data: {"usage":1}\r\n\r', [b'{"usage":1}']),
        (b'\n\r\r\n\ndata: {"usage":1}\n\n', [b'{"usage":1}']),
        (b'event: x\nid: 1\nretry: 5\ndata: {"usage":1}\n\n', [b'{"usage":1}']),
        (b'data: {\ndata: "usage":\ndata:1}\n\n', [b'{\n"usage":\n1}']),
        (b'data: {\r\ndata: "usage":\r\ndata:1}\r\n\r\n', [b'{\n"usage":\n1}']),
        (b'data: {\rdata: "usage":\rdata:1}\r\r', [b'{\n"usage":\n1}']),
        (b'data\ndata: "usage"\ndata:\n\n', [b'\n"usage"\n']),
        (b': "usage" in a comment\ndata: {}\n\n', []),
        (b'event: "usage"\ndata: {}\n\n', []),
        (b'database: "usage"\n\n', []),
        (b' data: "usage"\n\n', []),
        (b'data : "usage"\n\n', []),
        (b'\xef\xbb\xbfdata: {"usage":1}\n\n', [b'{"usage":1}']),
        (b'data: "usage"1\n\n\xef\xbb\xbfdata: "usage"2\n\n', [b'"usage"1']),
        (
            b'data: {"usage":"\xc3\xa9\xe2\x80\xa8\xc2\x85\x0b\x0c\x1e"}\n\n',
            [b'{"usage":"\xc3\xa9\xe2\x80\xa8\xc2\x85\x0b\x0c\x1e"}'],
        ),
        (b'data: a\n\ndata: "usage"1\n\ndata: [DONE]\n\n: x\n\ndata: "usage"2\n\n', [b'"usage"1', b'"usage"2']),
        (b'data: "usage"1\n\ndata: "usage"2', [b'"usage"1', b'"usage"2']),
        (b'data: "usage"1\n', [b'"usage"1']),
        (b'data: "usage"1\r', [b'"usage"1']),
        (b"data: [DONE]", []),
        (b"\n\n\n\n", []),
        (b"\xef\xbb", []),
        (b"", []),
    ],
)
def test_the_data_of_events_with_a_marker_is_found(stream: bytes, expected: list[bytes]):
    assert found([stream]) == expected
    assert found(bytewise(stream)) == expected
    for place in range(len(stream)):
        assert found(cut(stream, [place])) == expected
    # The same when the splitter has seen a whole event before, which is when it takes its short cut.
    if not stream.startswith(b"\xef"):
        assert found([b"data: hello\n\n", stream]) == expected


def test_any_of_several_markers_is_enough():
    stream = [b'data: {"usage":1}\n\n', b'data: {"error":2}\n\n', b"data: {}\n\n"]
    assert found(stream, contains=(USAGE, b'"error"')) == [b'{"usage":1}', b'{"error":2}']
    assert found(stream, contains=()) == []


def test_events_come_as_soon_as_their_blank_line_does():
    splitter = EventSplitter([USAGE])
    assert list(splitter.feed(b'data: "usage"1\n')) == []
    assert list(splitter.feed(b'\ndata: "usage"2')) == [b'"usage"1']
    assert list(splitter.feed(b"\r\n\r")) == [b'"usage"2']
    assert list(splitter.feed(b'\ndata: "usage"3\n\n')) == [b'"usage"3']
    assert list(splitter.finish()) == []


def test_an_event_that_is_too_long_is_dropped_and_counted_and_those_around_it_are_not():
    stream = b'data: "usage"1\n\ndata: "usage"' + b"x" * 100 + b'\n\ndata: "usage"3\r\n\r\n'
    for pieces in ([stream], bytewise(stream), cut(stream, [30, 60, 90])):
        splitter = EventSplitter([USAGE], max_event=50)
        assert [data for piece in pieces for data in splitter.feed(piece)] == [b'"usage"1', b'"usage"3']
        assert splitter.oversize == 1


def test_a_long_event_that_never_ends_is_dropped_and_counted_once():
    splitter = EventSplitter([USAGE], max_event=50)
    for _ in range(100):
        assert not splitter.feed(b'data: "usage"\n')
    assert not splitter.finish()
    assert splitter.oversize == 1


def test_what_is_remembered_of_an_event_without_end_stays_small():
    splitter = EventSplitter([USAGE], max_event=1000)
    for _ in range(1000):
        splitter.feed(b"x" * 100)
        assert len(splitter._pending) <= 1102


_LINES = st.sampled_from(
    [
        b'data: {"usage":1}',
        b"data: x",
        b"data",
        b"data:",
        b': "usage"',
        b"event: e",
        b'data:"usage"',
        b"\xef\xbb\xbf",
        b"\xc3",
        b"",
    ]
)
_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n"])
_STREAMS = st.lists(st.builds(bytes.__add__, _LINES, _ENDS), max_size=12).map(b"".join)


@settings(max_examples=120, deadline=None)
@given(cuttings(_STREAMS), st.sampled_from([10, 25, 1000]))
def test_the_same_events_are_found_however_the_network_cuts_the_stream(
    streams: tuple[bytes, list[bytes]], max_event: int
):
    stream, pieces = streams
    whole, cut_up = EventSplitter([USAGE], max_event), EventSplitter([USAGE], max_event)
    expected = [*whole.feed(stream), *whole.finish()]
    assert [data for piece in pieces for data in cut_up.feed(piece)] + list(cut_up.finish()) == expected
    assert cut_up.oversize == whole.oversize


def _by_the_book(stream: bytes) -> list[bytes]:
    """The specification's own algorithm, line by line, on the whole stream."""
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        field, _, value = line.partition(b":")
        if not line:
            events.append(b"\n".join(data))
            data = []
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return [event for event in events if USAGE in event]


@settings(max_examples=120, deadline=None)
@given(cuttings(_STREAMS))
def test_it_reads_what_the_specification_says(streams: tuple[bytes, list[bytes]]):
    stream, pieces = streams
    assert found(pieces) == _by_the_book(stream)
