"""A provider's key never gets out, whatever the network does to it."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiwm.wire.masking import KeyMask, Secrets, masked, masked_in, quotes
from cuttings import bytewise, cut, cuttings

KEY = b"sk-proj-0123456789abcdef"
MASK = b"sk-p****************cdef"


def through(secret: bytes | Secrets, pieces: list[bytes]) -> bytes:
    secrets = secret if isinstance(secret, tuple) else (secret,) if secret else ()
    mask = KeyMask(secrets)
    return b"".join([*map(mask.feed, pieces), mask.finish()])


def test_a_key_is_masked_by_as_many_bytes():
    stream = b'{"error":"Incorrect API key provided: ' + KEY + b". " + KEY + b'"}'
    expected = b'{"error":"Incorrect API key provided: ' + MASK + b". " + MASK + b'"}'
    assert len(MASK) == len(KEY)
    assert through(KEY, [stream]) == expected
    assert through(KEY, bytewise(stream)) == expected
    for place in range(len(stream)):
        assert through(KEY, cut(stream, [place])) == expected
    assert masked_in(stream, (KEY,)) == expected


@pytest.mark.parametrize(
    ("secret", "mask"),
    [
        (b"a", b"*"),
        (b"0123456789abcde", b"***************"),
        (b"0123456789abcdef", b"0123********cdef"),
    ],
)
def test_of_a_short_key_nothing_is_shown(secret: bytes, mask: bytes):
    assert through(secret, [b"<" + secret + b">"]) == b"<" + mask + b">"


def test_only_what_may_be_the_beginning_of_the_key_is_held_back():
    mask = KeyMask((KEY,))
    assert mask.feed(b"hello sk") == b"hello "
    assert mask.feed(b"y") == b"sky"
    assert mask.feed(b"hello s") == b"hello "
    assert mask.feed(b"k-proj-") == b""
    assert mask.feed(b"s") == b"sk-proj-"
    assert mask.feed(KEY[1:]) == MASK
    assert mask.feed(b"sk-proj-0123") == b""
    assert mask.finish() == b"sk-proj-0123"


def test_it_says_whether_a_text_quotes_the_key():
    assert quotes(b"bad key " + KEY, (KEY,))
    assert quotes(b"bad key a\\/b", (b"a/b",))
    assert not quotes(b"bad key " + KEY[:-1], (KEY,))
    assert not quotes(b"bad key", ())


def test_without_a_secret_everything_passes():
    assert through(b"", [b"abc", b"", b"def"]) == b"abcdef"
    assert masked_in(b"abc", ()) == b"abc"


@pytest.mark.parametrize(
    ("secret", "spelling"),
    [
        ("ab/cd+ef==/0123456789", "ab\\/cd+ef==\\/0123456789"),
        ("ab/cd+ef==/0123456789", "ab/cd\\u002Bef==/0123456789"),
        ("ab/cd+ef==/0123456789", "ab/cd+ef\\u003d\\u003d/0123456789"),
        ("a<b>c&d0123456789", "a\\u003cb\\u003ec\\u0026d0123456789"),
        ('say "hi" \\0123456789', 'say \\"hi\\" \\\\0123456789'),
        ("schlüssel-0123456789", "schl\\u00fcssel-0123456789"),
        ("schlüssel-0123456789", "schlüssel-0123456789"),
    ],
)
def test_a_key_is_masked_as_json_writers_escape_it(secret: str, spelling: str):
    document = f'{{"error":"bad key {spelling}!"}}'.encode()
    for pieces in ([document], bytewise(document)):
        result = through(secret.encode(), pieces)
        assert len(result) == len(document)
        assert secret not in json.loads(result)["error"]
        assert "****" in json.loads(result)["error"]
        assert masked_in(document, (secret.encode(),)) == result


def test_a_mask_never_cuts_an_escape_in_half():
    assert through(b"abc/0123456789+xyz/", [b"abc\\/0123456789+xyz\\/"]) == b"abc" + b"*" * 14 + b"yz\\/"


def test_a_secret_that_is_no_text_is_masked_too():
    secret = bytes(range(0xE0, 0xF4))
    assert through(secret, [b"<" + secret + b">"]) == b"<" + secret[:4] + b"*" * 12 + secret[-4:] + b">"


_SECRETS = st.sampled_from([b"a", b"ab", b"aa", b"aab", b"abab", b"a/a", b"a\\", b'"a"', b"abcabcabcabcabca", KEY])


@settings(max_examples=100, deadline=None)
@given(st.data(), _SECRETS)
def test_the_same_is_masked_however_the_network_cuts_the_stream(data: st.DataObject, secret: bytes):
    parts = st.sampled_from(
        [b"a", b"b", b"c", b"/", b"\\", b'"', b"ab", secret, secret[:-1], secret[1:], b"\\/", b"\\u002f"]
    )
    stream, pieces = data.draw(cuttings(st.lists(parts, max_size=12).map(b"".join)))
    expected = through(secret, [stream])
    assert through(secret, pieces) == expected
    assert len(expected) == len(stream)
    assert KEY not in expected


@settings(max_examples=200, deadline=None)
@given(st.data(), st.lists(_SECRETS, min_size=2, max_size=3))
def test_several_secrets_are_masked_alike_however_the_network_cuts_the_stream(data: st.DataObject, chosen: list[bytes]):
    secrets = tuple(chosen)
    parts = st.sampled_from([b"a", b"b", b"c", b"/", b"\\", b'"', *secrets, secrets[0][:-1], secrets[1][1:], b"\\/"])
    stream, pieces = data.draw(cuttings(st.lists(parts, max_size=12).map(b"".join)))
    expected = through(secrets, [stream])
    assert through(secrets, pieces) == expected
    assert len(expected) == len(stream)
    assert KEY not in secrets or KEY not in expected


def test_of_a_secret_that_begins_like_another_the_longer_one_is_masked():
    long, short = b"0123456789-abcdef", b"0123456789"
    stream = b"<" + long + b"><" + short + b">"
    for pieces in ([stream], bytewise(stream)):
        assert through((short, long), pieces) == b"<0123*********cdef><**********>"
    assert masked_in(stream, (short, long)) == b"<0123*********cdef><**********>"
    assert quotes(b"bad " + short, (long, short))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from([b"ab", b"aa", b"aab", b"abab", b"abcabcabcabcabca", KEY]))
def test_a_key_without_escapes_is_replaced_as_bytes_replace_would(data: st.DataObject, secret: bytes):
    parts = st.sampled_from([b"a", b"b", b"c", b"s", b"sk-", secret, secret[:-1], secret[1:]])
    stream, pieces = data.draw(cuttings(st.lists(parts, max_size=12).map(b"".join)))
    mask = secret[:4] + b"*" * (len(secret) - 8) + secret[-4:] if len(secret) >= 16 else b"*" * len(secret)
    assert through(secret, pieces) == stream.replace(secret, mask)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("sk-proj-abcdefg9xQ2", "sk-p…9xQ2"),
        ("123456789012", "1234…9012"),
        ("12345678901", "…"),
        ("", "…"),
    ],
)
def test_people_are_shown_both_ends_of_a_long_key_and_nothing_of_a_short_one(text: str, shown: str):
    assert masked(text) == shown
    assert re.fullmatch(r".{0,4}….{0,4}", shown)
