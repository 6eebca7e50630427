"""Who is calling, by the headers that the official SDKs send."""

import pytest

from aiwm.wire.credentials import caller_token
from aiwm.wire.headers import Header, firsts


def token_of(headers: list[Header]) -> bytes | None:
    return caller_token(headers, firsts(headers))


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER  "])
def test_a_bearer_token_is_read_whatever_the_case_of_its_scheme(scheme: bytes):
    assert token_of([(b"accept", b"*/*"), (b"authorization", scheme + b"abc.def")]) == b"abc.def"


@pytest.mark.parametrize("name", [b"x-api-key", b"x-goog-api-key", b"api-key"])
def test_a_key_is_read_where_the_sdks_put_it(name: bytes):
    assert token_of([(name, b"aiwm_sk_1")]) == b"aiwm_sk_1"


def test_a_bearer_token_wins_over_a_key():
    assert token_of([(b"x-api-key", b"key"), (b"authorization", b"Bearer token")]) == b"token"


def test_another_scheme_does_not_hide_a_key():
    assert token_of([(b"authorization", b"Basic dTpw"), (b"x-api-key", b"key")]) == b"key"


def test_x_api_key_comes_before_x_goog_api_key_and_that_before_api_key():
    assert token_of([(b"x-goog-api-key", b"google"), (b"x-api-key", b"key")]) == b"key"
    assert token_of([(b"x-goog-api-key", b"google"), (b"x-api-key", b"")]) == b"google"
    assert token_of([(b"api-key", b"azure"), (b"x-goog-api-key", b"google")]) == b"google"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"accept", b"*/*")],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer   ")],
        [(b"authorization", b"Basic dTpw")],
        [(b"authorization", b"Bearerabc")],
        [(b"x-api-key", b" ")],
        [(b"ocp-apim-subscription-key", b"not one of ours")],
    ],
)
def test_without_a_credential_nobody_is_calling(headers: list[tuple[bytes, bytes]]):
    assert token_of(headers) is None


@pytest.mark.parametrize("name", [b"authorization", b"x-api-key", b"x-goog-api-key", b"api-key"])
@pytest.mark.parametrize("times", [2, 3])
def test_a_credential_sent_twice_says_nothing(name: bytes, times: int):
    assert token_of([(name, b"Bearer one")] * times) is None
