"""Base URLs as operators write them, and paths as callers try them."""

from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.errors import Invalid
from aiwm.wire.origins import Origin
from aiwm.wire.urls import BaseUrl, base_url, request_target

OPENAI = base_url("https://api.openai.com")
V1 = base_url("https://api.openai.com/v1")
V1BETA = base_url("https://generativelanguage.googleapis.com/v1beta")
DEEP = base_url("https://gateway.example/team/openai/v2")


# --- the base


@pytest.mark.parametrize(
    ("text", "origin", "path", "host_header"),
    [
        ("https://api.openai.com", Origin("https", "api.openai.com", 443), "", b"api.openai.com"),
        ("https://api.openai.com/", Origin("https", "api.openai.com", 443), "", b"api.openai.com"),
        ("HTTPS://API.OpenAI.com/V1/", Origin("https", "api.openai.com", 443), "/V1", b"api.openai.com"),
        ("http://localhost:11434/v1", Origin("http", "localhost", 11434), "/v1", b"localhost:11434"),
        ("http://vllm_1:80", Origin("http", "vllm_1", 80), "", b"vllm_1"),
        ("https://x:443/a", Origin("https", "x", 443), "/a", b"x"),
        ("http://x:443/a", Origin("http", "x", 443), "/a", b"x:443"),
        ("http://127.0.0.1:8000", Origin("http", "127.0.0.1", 8000), "", b"127.0.0.1:8000"),
        ("http://[::1]:8000/v1", Origin("http", "::1", 8000), "/v1", b"[::1]:8000"),
        ("https://[2001:DB8:0::1]", Origin("https", "2001:db8::1", 443), "", b"[2001:db8::1]"),
        ("https://bücher.example/v1", Origin("https", "xn--bcher-kva.example", 443), "/v1", b"xn--bcher-kva.example"),
        ("https://x/a%20b/openai/deployments/gpt-4o", Origin("https", "x", 443), None, b"x"),
    ],
)
def test_a_base_url_is_read(text: str, origin: Origin, path: str | None, host_header: bytes):
    expected = "/a%20b/openai/deployments/gpt-4o" if path is None else path
    assert base_url(text) == BaseUrl(origin, expected, host_header)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "begin with http"),
        ("api.openai.com", "begin with http"),
        ("//api.openai.com", "begin with http"),
        ("ftp://api.openai.com", "begin with http"),
        ("file:///etc/passwd", "begin with http"),
        ("http:/x", "begin with http"),
        ("javascript:alert(1)", "begin with http"),
        ("https://", "name a host"),
        ("https:///v1", "name a host"),
        ("https://:443/v1", "name a host"),
        ("https://user@x/v1", "user name"),
        ("https://user:pass@x/v1", "user name"),
        ("https://@x", "user name"),
        ("https://x/v1?a=b", "query"),
        ("https://x/v1?", "query"),
        ("https://x/v1#a", "fragment"),
        ("https://x/v1#", "fragment"),
        (" https://x", "whitespace"),
        ("https://x/v1\n", "whitespace"),
        ("https://x\t/v1", "whitespace"),
        ("https://x/\u00a0", "whitespace"),
        ("https://x/\u200b", "control"),
        ("https://x/\0", "control"),
        ("https://x\\y", "backslash"),
        ("https:\\\\x", "backslash"),
        ("https://x:0", "port"),
        ("https://x:65536", "port"),
        ("https://x:", "port"),
        ("https://x:http", "port"),
        ("https://x:+80", "port"),
        ("https://x:8_0", "port"),
        ("https://x:٨٠", "port"),
        ("https://x:80:90", "port"),
        ("https://::1/v1", "port"),
        ("https://[::1", "host"),
        ("https://[::1]x", "host"),
        ("https://[]", "IPv6"),
        ("https://[fe80::1%25eth0]", "IPv6"),
        ("https://[fe80::1%eth0]", "IPv6"),
        ("https://[1.2.3.4]", "IPv6"),
        ("https://a..b", "host"),
        ("https://.a", "host"),
        ("https://a.", "host"),
        ("https://-a", "host"),
        ("https://a-", "host"),
        ("https://a%41", "host"),
        ("https://a,b", "host"),
        ("https://" + "a" * 64, "host"),
        ("https://" + ".".join(["a" * 60] * 5), "host"),
        ("https://" + "ü" * 70, "host"),
        ("https://127.1", "host"),
        ("https://2130706433", "host"),
        ("https://0x7f000001", "host"),
        ("https://127.0.0.0x1", "host"),
        ("https://0177.0.0.1", "host"),
        ("https://1.2.3.4.5", "host"),
        ("https://x／y", "host"),
        ("https://x/a/../b", "segments"),
        ("https://x/..", "segments"),
        ("https://x/.", "segments"),
        ("https://x/%2e%2E/b", "segments"),
        ("https://x/a//b", "segments"),
        ("https://x//", "segments"),
        ("https://x//v1", "segments"),
        ("https://x/ü", "ASCII"),
        ("https://x/%zz", "percent sign"),
    ],
)
def test_a_base_url_that_could_mean_something_else_is_refused(text: str, problem: str):
    with pytest.raises(Invalid, match=problem):
        base_url(text)


@settings(max_examples=100)
@given(st.text(alphabet="htps:/.@?#[]%\\ a1:-\n\u00fc", max_size=30).map(lambda tail: "https://" + tail))
def test_whatever_is_accepted_as_a_base_url_is_in_its_one_form(text: str):
    try:
        base = base_url(text)
    except Invalid:
        return
    again = base_url(f"{base.origin.scheme}://{base.host_header.decode()}{base.path}")
    assert again == base
    assert not base.path.endswith("/")


# --- the target


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        (OPENAI, b"v1/chat/completions", b"/v1/chat/completions"),
        (OPENAI, b"", b"/"),
        (V1, b"", b"/v1/"),
        (V1, b"chat/completions", b"/v1/chat/completions"),
        (V1, b"v1/chat/completions", b"/v1/chat/completions"),
        (V1, b"v1", b"/v1"),
        (V1, b"v1/", b"/v1/"),
        (V1, b"v1/v1/models", b"/v1/v1/models"),
        (V1, b"v1beta/models", b"/v1/v1beta/models"),
        (V1, b"v10/models", b"/v1/v10/models"),
        (V1, b"V1/models", b"/v1/V1/models"),
        (V1BETA, b"v1beta/models/gemini-2.5-pro:generateContent", b"/v1beta/models/gemini-2.5-pro:generateContent"),
        (V1BETA, b"models/gemini-2.5-pro:generateContent", b"/v1beta/models/gemini-2.5-pro:generateContent"),
        (V1BETA, b"v1/models", b"/v1beta/v1/models"),
        (DEEP, b"v2/models/", b"/team/openai/v2/models/"),
        (DEEP, b"models", b"/team/openai/v2/models"),
        (base_url("https://x/openai"), b"openai/models", b"/openai/openai/models"),
        (OPENAI, b"v1/models/meta%2Fllama-3", b"/v1/models/meta%2Fllama-3"),
        (OPENAI, b"v1/files/a%20b%23%C3%BC.jsonl", b"/v1/files/a%20b%23%C3%BC.jsonl"),
        (OPENAI, b"v1/models/100%25", b"/v1/models/100%25"),
        (OPENAI, b"v1/models/ft:gpt-4o@x,(a)!$&'*+;v=1~", b"/v1/models/ft:gpt-4o@x,(a)!$&'*+;v=1~"),
        (OPENAI, b"v1/a..b/...", b"/v1/a..b/..."),
        (OPENAI, b".well-known/x", b"/.well-known/x"),
    ],
)
def test_base_and_path_are_joined_with_one_slash_and_no_version_twice(base: BaseUrl, path: bytes, expected: bytes):
    assert request_target(base, path, b"") == expected


def test_the_query_passes_as_it_is():
    assert request_target(OPENAI, b"v1/models", b"alt=sse&a=%zz?/../\xff") == b"/v1/models?alt=sse&a=%zz?/../\xff"


@pytest.mark.parametrize("query", [b"a b", b"a#b", b"a\r\nb", b"a\0", b"\t", b"\x7f"])
def test_a_query_that_would_break_the_request_line_is_refused(query: bytes):
    with pytest.raises(Invalid, match="query"):
        request_target(OPENAI, b"v1/models", query)


@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b".",
        b"../x",
        b"a/..",
        b"a/../b",
        b"a/./b",
        b"a/.",
        b"a/../",
        b"%2e%2e/x",
        b"%2E./x",
        b".%2e",
        b"%252e%252e/x",
        b"%25252e%2525252e/x",
        b"a%2f..%2fb",
        b"a/..%2F",
        b"a%2f%2e%2e%2fb",
        b"a%252f..",
        b"..;/x",
        b"a/..;v=1/b",
        b"a/.;/b",
        b"..%3b/x",
        b"%2e%2e%253Bx/y",
        b"/",
        b"//",
        b"/a",
        b"a//b",
        b"a//",
        b"%2f",
        b"%2Fa",
        b"a/%2Fb",
        b"a%2f%2fb",
        b"a/;/b",
        b"a/;x/b",
        b"a\\b",
        b"..\\x",
        b"a%5cb",
        b"a%255Cb",
        b"a b",
        b"a\tb",
        b"a\r\nb",
        b"a\0",
        b"a%00",
        b"a%0d%0ab",
        b"a%250ab",
        b"a%7f",
        b"a\x7f",
        b"a#b",
        b"a?b",
        b"a\xc3\xbc",
        b"a\xff",
        b"a%",
        b"a%2",
        b"a%zz",
        b"a%u002e",
        b"%c0%ae%c0%ae/x",
        b"a%c0%afb",
        b"%25c0%25ae/x",
        b"a%ff",
        b"%" + b"25" * 20 + b"2e",
        b"%" + b"25" * 20000,
    ],
)
@pytest.mark.parametrize("base", [OPENAI, V1])
def test_a_path_that_might_leave_the_base_is_refused(base: BaseUrl, path: bytes):
    with pytest.raises(Invalid, match="path"):
        request_target(base, path, b"")
    with pytest.raises(Invalid, match="path"):
        request_target(base, b"v1/" + path if not path.startswith(b"/") else path, b"")


_PIECES = st.sampled_from(
    [b"a", b"v1", b".", b"..", b"/", b"%2e", b"%2F", b"%25", b"2e", b"2f", b"5c", b"%5C", b";", b"%", b"%3b", b"x.y"]
)


@settings(max_examples=120)
@given(st.lists(_PIECES, max_size=9).map(b"".join), st.sampled_from([OPENAI, V1, DEEP]))
def test_however_often_a_target_is_decoded_it_stays_below_its_base(path: bytes, base: BaseUrl):
    try:
        target = request_target(base, path, b"")
    except Invalid:
        return
    assert target.endswith(path)
    for _ in range(10):
        segments = [segment.split(b";")[0] for segment in target.split(b"/")]
        assert segments[0] == b""
        assert b"" not in segments[1:-1]
        assert not {b".", b".."} & set(segments)
        assert b"\\" not in target
        assert target.startswith(base.path.encode())
        target = unquote_to_bytes(target)


@settings(max_examples=100)
@given(st.lists(st.text(alphabet="aZ09_-:ü @/#%", min_size=1, max_size=6), min_size=1, max_size=4))
def test_every_name_passes_when_it_is_encoded(names: list[str]):
    path = "/".join(quote(name, safe="") for name in names).encode()
    decoded = "/".join(names)
    if "//" in decoded or decoded.startswith("/") or "%" in decoded:
        return
    assert request_target(OPENAI, path, b"") == b"/" + path
