"""What passes and what stays here, in both directions."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.errors import Invalid
from aiwm.wire import headers as wire
from aiwm.wire.headers import Header, find, firsts
from aiwm.wire.masking import Secrets

NOTHING: frozenset[bytes] = frozenset()


def request_lines(headers: Sequence[Header], *, replaced: frozenset[bytes]) -> bytes:
    return wire.request_lines(headers, firsts(headers), replaced=replaced)


def answer_headers(headers: Sequence[Header], *, secrets: Secrets) -> list[Header]:
    return wire.answer_headers(headers, firsts(headers), secrets=secrets)


def test_a_request_header_passes_as_it_is():
    headers = [(b"accept", b"text/event-stream"), (b"x-custom", b"  \xe9 a: b "), (b"empty", b"")]
    expected = b"accept: text/event-stream\r\nx-custom:   \xe9 a: b \r\nempty: \r\n"
    assert request_lines(headers, replaced=NOTHING) == expected


def test_order_and_duplicates_are_kept():
    headers = [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]
    assert request_lines(headers, replaced=NOTHING) == b"b: 1\r\na: 2\r\nb: 3\r\n"
    assert answer_headers(headers, secrets=(b"key",)) == headers


def test_no_headers_are_no_lines():
    assert request_lines([], replaced=NOTHING) == b""
    assert request_lines([(b"host", b"x")], replaced=NOTHING) == b""


@pytest.mark.parametrize(
    "name",
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ],
)
def test_hop_by_hop_headers_pass_in_neither_direction(name: str):
    headers = [(name.encode(), b"x"), (b"kept", b"y")]
    assert request_lines(headers, replaced=NOTHING) == b"kept: y\r\n"
    assert answer_headers(headers, secrets=()) == [(b"kept", b"y")]


@pytest.mark.parametrize(
    "name",
    [
        "host",
        "content-length",
        "expect",
        "authorization",
        "x-api-key",
        "x-goog-api-key",
        "api-key",
        "cookie",
        "x-forwarded-for",
        "x-forwarded-anything",
        "forwarded",
        "x-real-ip",
        "via",
        "x-organization-id",
        "x-correlation-id",
    ],
)
def test_what_is_between_the_caller_and_us_stays_here(name: str):
    assert request_lines([(name.encode(), b"x"), (b"kept", b"y")], replaced=NOTHING) == b"kept: y\r\n"


def test_a_value_that_names_a_forwarded_header_passes():
    assert request_lines([(b"note", b"x-forwarded-for")], replaced=NOTHING) == b"note: x-forwarded-for\r\n"


def test_headers_named_in_connection_stay_whatever_the_spelling_of_the_list():
    headers = [(b"connection", b"Close, X-One,x-two ,"), (b"x-one", b"1"), (b"x-two", b"2"), (b"x-three", b"3")]
    headers += [(b"connection", b"x-three"), (b"x-four", b"4")]
    assert request_lines(headers, replaced=NOTHING) == b"x-four: 4\r\n"
    assert answer_headers(headers, secrets=()) == [(b"x-four", b"4")]


def test_a_header_the_target_sets_replaces_the_callers():
    headers = [(b"openai-organization", b"theirs"), (b"accept", b"*/*")]
    assert request_lines(headers, replaced=frozenset({b"openai-organization"})) == b"accept: */*\r\n"


@pytest.mark.parametrize("bad", [b"a\r\nx: y", b"a\nb", b"a\rb", b"a\0b", b"\r\n", b"\n"])
def test_a_line_break_or_nul_in_a_value_is_refused(bad: bytes):
    with pytest.raises(Invalid, match="line break"):
        request_lines([(b"accept", b"*/*"), (b"x-custom", bad)], replaced=NOTHING)


def test_a_line_break_is_refused_beside_forwarded_headers_too():
    with pytest.raises(Invalid):
        request_lines([(b"x-forwarded-for", b"1"), (b"a", b"b\r\nx-forwarded-for: 2")], replaced=NOTHING)


def test_a_line_break_in_a_header_that_stays_here_does_no_harm():
    assert request_lines([(b"cookie", b"a\r\nb"), (b"x", b"y")], replaced=NOTHING) == b"x: y\r\n"


def test_a_cookie_of_the_providers_domain_is_not_set_for_ours():
    headers = [(b"set-cookie", b"__cf_bm=1"), (b"content-type", b"application/json")]
    assert answer_headers(headers, secrets=()) == [(b"content-type", b"application/json")]


def test_the_providers_key_is_masked_where_a_header_quotes_it():
    key = b"sk-proj-0123456789abcdef"
    headers = [(b"x-error", b"bad key " + key + b"!"), (b"x-request-id", b"req_1")]
    answered = answer_headers(headers, secrets=(key,))
    assert answered == [(b"x-error", b"bad key sk-p****************cdef!"), (b"x-request-id", b"req_1")]
    assert [len(value) for _, value in answered] == [len(value) for _, value in headers]


def test_find_gives_the_first_of_that_name_or_none():
    headers = [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]
    assert find(headers, b"b") == b"2"
    assert find(headers, b"c") is None


_NAMES = st.sampled_from([b"accept", b"x-one", b"x-two", b"connection", b"cookie", b"x-forwarded-for", b"te"])
_VALUES = st.sampled_from([b"", b"keep-alive", b"X-One", b"x-two, close", b"text", b"x-forwarded-by"])


@settings(max_examples=100)
@given(st.lists(st.tuples(_NAMES, _VALUES)))
def test_exactly_the_headers_that_may_pass_do(headers: list[tuple[bytes, bytes]]):
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    kept = [h for h in headers if h[0] in {b"accept", b"x-one", b"x-two"} - named]
    assert request_lines(headers, replaced=NOTHING) == b"".join(name + b": " + value + b"\r\n" for name, value in kept)
