import asyncio
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from aiwm.errors import Unauthorized, Unavailable
from aiwm.identity.jwks import RemoteKeys
from aiwm.identity.revocations import Revocations
from aiwm.identity.tokens import TokenVerifier

NOW = 1_800_000_000
URL = "https://iam.example/.well-known/jwks.json"
CLAIMS = {"sub": "u-1", "orgId": "org-1", "exp": NOW + 360_000}

RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
NEXT = RSAKey.generate_key(2048, {"kid": "next"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})


class Clock:
    def __init__(self) -> None:
        self.seconds = NOW

    def __call__(self) -> int:
        return self.seconds * 1000


class Iam:
    """Another IAM: what its key set URL answers."""

    def __init__(self, *keys: Any) -> None:
        self.keys = [key if isinstance(key, dict) else key.as_dict(private=False) for key in keys]
        self.asked = 0
        self.answer: Callable[[], httpx2.Response] | None = None
        self.called = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.asked += 1
        self.called.set()
        await self.open.wait()
        return self.answer() if self.answer else httpx2.Response(200, json={"keys": self.keys})


class Setup:
    def __init__(self, *keys: Any) -> None:
        self.clock = Clock()
        self.iam = Iam(*keys)
        self.client = httpx2.AsyncClient(transport=httpx2.MockTransport(self.iam))
        self.remote = RemoteKeys(URL, self.client, clock=self.clock)
        self.verifier = TokenVerifier(
            self.remote, revocations=Revocations(keep_seconds=3600, clock=self.clock), clock=self.clock
        )

    async def accepts(self, key: Any, **header: Any) -> bool:
        # A claim that differs each time keeps the cache of verified tokens out of this.
        header = {"alg": "RS256", "kid": key.kid} | header
        claims = CLAIMS | {"n": self.clock(), "asked": self.iam.asked}
        token = jwt.encode(header, claims, key, algorithms=[header["alg"]])
        try:
            await self.verifier.verify(token.encode())
        except Unauthorized:
            return False
        return True


@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA"), (ED, "Ed25519")])
@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
async def test_the_type_of_the_key_decides_the_algorithm(key: Any, algorithm: str) -> None:
    setup = Setup(RSA, EC, ED)

    assert await setup.accepts(key, alg=algorithm)
    assert setup.iam.asked == 1


@pytest.mark.parametrize(
    ("key", "header"),
    [
        (RSA, {"alg": "PS256"}),
        (RSA, {"alg": "RS512"}),
        (NEXT, {"kid": "rsa"}),
        (EC, {"alg": "ES256", "kid": "rsa"}),
        (OctKey.import_key(str(RSA.as_dict(private=False)["n"])), {"alg": "HS256", "kid": "rsa"}),
    ],
)
async def test_a_key_verifies_nothing_but_its_own_algorithm(key: Any, header: dict[str, Any]) -> None:
    assert not await Setup(RSA, EC, ED).accepts(key, **header)


async def test_symmetric_keys_of_the_set_are_not_believed() -> None:
    key = OctKey.generate_key(256, {"kid": "oct"})

    assert not await Setup(RSA, key.as_dict(private=True)).accepts(key, alg="HS256")


@pytest.mark.parametrize("entry", [{"use": "enc"}, {"alg": "RS512"}, {"alg": "RSA-OAEP"}])
async def test_a_key_for_something_else_does_not_verify(entry: dict[str, str]) -> None:
    assert not await Setup(EC, RSA.as_dict(private=False) | entry).accepts(RSA)


@pytest.mark.filterwarnings("ignore")
async def test_a_weak_key_does_not_verify() -> None:
    weak = RSAKey.generate_key(1024, {"kid": "weak"})

    assert not await Setup(EC, weak).accepts(weak)


async def test_a_token_without_kid_is_verified_when_only_one_key_fits() -> None:
    alone, several = Setup(RSA, EC), Setup(RSA, NEXT)
    token = jwt.encode({"alg": "RS256"}, CLAIMS, RSA, algorithms=["RS256"]).encode()

    await alone.verifier.verify(token)
    with pytest.raises(Unauthorized):
        await several.verifier.verify(token)


@pytest.mark.parametrize("entry", [{"kty": "PQ", "kid": "x"}, {"kty": "RSA", "n": "!"}, {}, "text", None, 7])
async def test_a_key_we_do_not_understand_does_not_spoil_the_others(entry: object) -> None:
    setup = Setup(RSA)
    setup.iam.keys = [entry, *setup.iam.keys]

    assert await setup.accepts(RSA)


async def test_a_new_key_is_found_when_a_token_names_it() -> None:
    setup = Setup(RSA)
    assert await setup.accepts(RSA)
    setup.iam.keys = [NEXT.as_dict(private=False)]
    setup.clock.seconds += 10

    assert await setup.accepts(NEXT)
    assert not await setup.accepts(RSA)


async def test_unknown_keys_do_not_make_us_flood_the_iam() -> None:
    setup = Setup(RSA)
    assert await setup.accepts(RSA)
    setup.clock.seconds += 10

    for _ in range(20):
        assert not await setup.accepts(NEXT)

    assert setup.iam.asked == 2


async def test_callers_at_the_same_time_share_one_reading() -> None:
    setup = Setup(RSA)
    setup.iam.open.clear()
    waiting = [asyncio.create_task(setup.accepts(RSA)) for _ in range(50)]
    await setup.iam.called.wait()
    waiting.pop().cancel()
    setup.iam.open.set()

    assert all(await asyncio.gather(*waiting))
    assert setup.iam.asked == 1


def _raise() -> httpx2.Response:
    raise httpx2.ConnectError("refused")


BAD_ANSWERS: dict[str, Callable[[], httpx2.Response]] = {
    "unreachable": _raise,
    "500": lambda: httpx2.Response(500, json={"keys": []}),
    "redirect": lambda: httpx2.Response(302, headers={"location": "https://else.example"}),
    "HTML": lambda: httpx2.Response(200, text="<html>"),
    "no keys": lambda: httpx2.Response(200, json={"keys": []}),
    "a list": lambda: httpx2.Response(200, json=[]),
    "keys is text": lambda: httpx2.Response(200, json={"keys": "x"}),
    "too deep": lambda: httpx2.Response(200, content=b"[" * 500_000),
    "too large": lambda: httpx2.Response(200, content=b" " * 1_100_000),
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_the_old_keys_stay_when_the_iam_does_not_answer_well(answer: Callable[[], httpx2.Response]) -> None:
    setup = Setup(RSA)
    assert await setup.accepts(RSA)
    setup.iam.answer = answer
    setup.clock.seconds += 3600

    assert await setup.accepts(RSA)
    assert not await setup.accepts(NEXT)
    assert setup.iam.asked == 2


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_before_the_first_answer_nobody_is_told_that_a_token_is_wrong(
    answer: Callable[[], httpx2.Response],
) -> None:
    setup = Setup(RSA)
    setup.iam.answer = answer

    with pytest.raises(Unavailable, match="identity service does not answer"):
        await setup.accepts(RSA)
    setup.iam.answer = None
    setup.clock.seconds += 5
    assert await setup.accepts(RSA)


async def test_keys_are_read_again_beside_the_request_when_they_are_old() -> None:
    setup = Setup(RSA)
    assert await setup.accepts(RSA)
    setup.iam.keys = [NEXT.as_dict(private=False)]
    setup.clock.seconds += 301
    setup.iam.open.clear()

    assert await setup.accepts(RSA)

    setup.iam.open.set()
    await setup.remote.refresh()
    assert not await setup.accepts(RSA)


async def test_closing_ends_a_reading() -> None:
    setup = Setup(RSA)
    setup.iam.open.clear()
    waiting = asyncio.create_task(setup.remote.refresh())
    await setup.iam.called.wait()

    await setup.remote.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting
