import asyncio
import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from aiwm.domain import api_keys
from aiwm.domain.api_keys import ApiKey
from aiwm.domain.users import Principal, Role, User, UserStatus
from aiwm.errors import Unauthorized, Unavailable
from aiwm.identity.revocations import Revocations
from aiwm.identity.signatures import KeySource, OwnKey, SharedSecret, VerifyingKey
from aiwm.identity.tokens import TokenSigner, TokenVerifier

NOW = 1_800_000_000
SESSION = "6a1b2c3d4e5f60718293a4b5"
SECRET = "a shared secret of 32 bytes or more"
RSA = RSAKey.generate_key(2048)
OTHER_RSA = RSAKey.generate_key(2048)

CLAIMS: dict[str, Any] = {
    "sub": "67a1b2c3d4e5f60718293a4b",
    "username": "mai",
    "status": "active",
    "roles": ["organization.editor"],
    "orgId": "57a1b2c3d4e5f60718293a4b",
    "groupId": "g1",
    "iat": NOW,
    "exp": NOW + 3600,
    "iss": "aiwm",
    "aud": "aiwm",
    "jti": f"{SESSION}.0123456789abcdef",
}


class Clock:
    """Milliseconds, as every clock here."""

    def __init__(self) -> None:
        self.seconds = float(NOW)

    def __call__(self) -> int:
        return int(self.seconds * 1000)


def _user(**changes: Any) -> User:
    fields: dict[str, Any] = {
        "id": CLAIMS["sub"],
        "org_id": CLAIMS["orgId"],
        "username": "mai",
        "fullname": "Mai",
        "password_hash": "",
        "status": UserStatus.ACTIVE,
        "roles": (Role.OWNER, Role.VIEWER),
        "created_by": "x",
        "updated_by": "x",
        "created_at": 0,
        "updated_at": 0,
    }
    return User(**fields | changes)


def _verifier(keys: KeySource | None = None, **options: Any) -> TokenVerifier:
    clock = options.setdefault("clock", Clock())
    options.setdefault("revocations", Revocations(keep_seconds=3600, clock=clock))
    return TokenVerifier(keys or OwnKey(RSA), **options)


def _token(claims: dict[str, Any], key: Any = RSA, header: dict[str, Any] | None = None) -> bytes:
    header = header or {"alg": "RS256"}
    registry = jws.JWSRegistry(algorithms=[header["alg"]], strict_check_header=False)
    return jwt.encode(header, claims, key, registry=registry).encode()


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


def _segment(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


async def _refused(verifier: TokenVerifier, token: bytes) -> None:
    with pytest.raises(Unauthorized) as caught:
        await verifier.verify(token)
    assert caught.value.message == "Unauthorized"
    assert verifier.known(token) is None


# --- what ours say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [OwnKey(RSA), SharedSecret(SECRET)], ids=["RS256", "HS256"])
async def test_a_token_of_ours_says_who_is_calling(key: Any) -> None:
    clock = Clock()
    token = TokenSigner(key, lifetime_seconds=600, clock=clock).sign(_user(), SESSION).encode()

    principal = await _verifier(key, clock=clock).verify(token)

    assert principal == Principal(
        user_id=CLAIMS["sub"],
        username="mai",
        org_id=CLAIMS["orgId"],
        home_org_id=CLAIMS["orgId"],
        roles=(Role.OWNER, Role.VIEWER),
        session=SESSION,
        issued_at=NOW,
        expires_at=NOW + 600,
        rank=Role.OWNER.rank,
    )


def test_a_token_of_ours_has_all_claims_of_the_contract() -> None:
    token = TokenSigner(OwnKey(RSA), issuer="me", audience="you", lifetime_seconds=60, clock=Clock()).sign(
        _user(), SESSION
    )

    decoded = jwt.decode(token, RSA, algorithms=["RS256"])

    assert decoded.header == {"typ": "JWT", "alg": "RS256", "kid": RSA.thumbprint()}
    assert list(decoded.claims) == [*CLAIMS]
    assert decoded.claims["status"] == "active"
    assert decoded.claims["roles"] == ["organization.owner", "organization.viewer"]
    assert (decoded.claims["iss"], decoded.claims["aud"]) == ("me", "you")
    assert decoded.claims["jti"].startswith(f"{SESSION}.")


def test_two_tokens_of_one_second_differ() -> None:
    signer = TokenSigner(OwnKey(RSA), lifetime_seconds=60, clock=Clock())

    assert signer.sign(_user(), SESSION) != signer.sign(_user(), SESSION)


def test_the_published_key_is_public_and_verifies() -> None:
    signer = TokenSigner(OwnKey(RSA), lifetime_seconds=60, clock=Clock())
    (published,) = signer.published_keys()["keys"]

    assert set(published) == {"kty", "n", "e", "kid", "use", "alg"}
    jwt.decode(signer.sign(_user(), SESSION), RSAKey.import_key(published), algorithms=["RS256"])


def test_a_shared_secret_is_never_published() -> None:
    assert TokenSigner(SharedSecret(SECRET), lifetime_seconds=60, clock=Clock()).published_keys() == {"keys": []}


# --- tokens of another IAM -------------------------------------------------------------------------------------


async def test_a_token_of_another_iam_with_our_secret_is_accepted_without_iss_and_aud() -> None:
    claims = {"sub": "u-1", "orgId": "org-1", "exp": NOW + 60, "roles": ["organization.viewer", "billing.admin", 7]}

    principal = await _verifier(SharedSecret(SECRET)).verify(
        _token(claims, OctKey.import_key(SECRET), {"alg": "HS256", "kid": "whatever", "x-vendor": True})
    )

    assert principal.username == "u-1"
    assert principal.roles == (Role.VIEWER,)
    assert principal.session == ""
    assert principal.issued_at == 0


async def test_a_caller_without_a_role_of_ours_is_known_but_may_nothing() -> None:
    principal = await _verifier().verify(_token(CLAIMS | {"roles": ["stranger"]}))

    assert principal.roles == ()
    assert principal.rank == 0


@pytest.mark.parametrize("jti", ["abc", "abc.def", f"{SESSION}", f"{SESSION}."])
async def test_only_our_own_form_of_jti_names_a_session(jti: str) -> None:
    assert (await _verifier().verify(_token(CLAIMS | {"jti": jti}))).session == ""


@pytest.mark.parametrize("aud", ["gateway", ["other", "gateway"]])
async def test_iss_and_aud_are_checked_when_the_operator_names_them(aud: object) -> None:
    verifier = _verifier(SharedSecret(SECRET), issuer="https://iam", audience="gateway")
    key, header = OctKey.import_key(SECRET), {"alg": "HS256"}

    await verifier.verify(_token(CLAIMS | {"iss": "https://iam", "aud": aud}, key, header))
    await _refused(verifier, _token(CLAIMS | {"iss": "https://iam", "aud": "else"}, key, header))
    await _refused(verifier, _token(CLAIMS | {"iss": "https://else", "aud": aud}, key, header))
    await _refused(verifier, _token(_without("aud") | {"iss": "https://iam"}, key, header))


async def test_a_clock_that_is_a_little_ahead_does_not_lock_its_users_out() -> None:
    await _verifier().verify(_token(CLAIMS | {"iat": NOW + 5, "nbf": NOW + 5}))


# --- everything wrong is the same 401 --------------------------------------------------------------------------

WRONG_CLAIMS = {
    "no exp": _without("exp"),
    "expired this second": CLAIMS | {"exp": NOW},
    "expired within the leeway for clocks": CLAIMS | {"exp": NOW - 1},
    "exp is text": CLAIMS | {"exp": str(NOW + 60)},
    "exp is true": CLAIMS | {"exp": True},
    "exp is not a number": CLAIMS | {"exp": float("nan")},
    "not yet valid": CLAIMS | {"nbf": NOW + 3600},
    "issued in the future": CLAIMS | {"iat": NOW + 3600},
    "no sub": _without("sub"),
    "empty sub": CLAIMS | {"sub": ""},
    "sub is a number": CLAIMS | {"sub": 7},
    "sub with a line break": CLAIMS | {"sub": "a\nb"},
    "sub longer than its column": CLAIMS | {"sub": "x" * 256},
    "no orgId": _without("orgId"),
    "orgId is null": CLAIMS | {"orgId": None},
    "orgId is a list": CLAIMS | {"orgId": ["a"]},
    "inactive": CLAIMS | {"status": "inactive"},
    "status is null": CLAIMS | {"status": None},
    "roles is text": CLAIMS | {"roles": "universe.owner"},
    "roles is an object": CLAIMS | {"roles": {"universe.owner": True}},
    "username is a list": CLAIMS | {"username": ["mai"]},
    "jti is a number": CLAIMS | {"jti": 7},
    "another issuer": CLAIMS | {"iss": "else"},
    "no issuer": _without("iss"),
    "another audience": CLAIMS | {"aud": "else"},
    "no audience": _without("aud"),
    "audience is an object": CLAIMS | {"aud": {"aiwm": 1}},
}


@pytest.mark.parametrize("claims", WRONG_CLAIMS.values(), ids=WRONG_CLAIMS.keys())
async def test_wrong_claims_are_refused(claims: dict[str, Any]) -> None:
    await _refused(_verifier(), _token(claims))


def _tampered(token: bytes) -> bytes:
    header, _, signature = token.split(b".")
    return b".".join([header, _segment(CLAIMS | {"roles": ["universe.owner"]}), signature])


FORGED: dict[str, Callable[[], bytes]] = {
    "alg none": lambda: _segment({"alg": "none"}) + b"." + _segment(CLAIMS) + b".",
    "alg None": lambda: _segment({"alg": "None"}) + b"." + _segment(CLAIMS) + b".",
    "alg missing": lambda: _segment({"typ": "JWT"}) + b"." + _segment(CLAIMS) + b".",
    "alg is a list": lambda: _segment({"alg": ["RS256"]}) + b"." + _segment(CLAIMS) + b".AAAA",
    "HS256 with the public key": lambda: _hs256_by_hand(RSA.as_pem(private=False)),
    "HS256 with the public key in DER": lambda: _hs256_by_hand(RSA.as_der(private=False)),
    "HS256 with nothing": lambda: _hs256_by_hand(b""),
    "another RSA key": lambda: _token(CLAIMS, OTHER_RSA),
    "another kid": lambda: _token(CLAIMS, RSA, {"alg": "RS256", "kid": "another"}),
    "kid is a number": lambda: _by_hand(RSA, {"alg": "RS256", "kid": 7}),
    "PS256 with our key": lambda: _token(CLAIMS, RSA, {"alg": "PS256"}),
    "RS512 with our key": lambda: _token(CLAIMS, RSA, {"alg": "RS512"}),
    "ES256": lambda: _token(CLAIMS, ECKey.generate_key("P-256"), {"alg": "ES256"}),
    "its own key in the header": lambda: _token(
        CLAIMS, OTHER_RSA, {"alg": "RS256", "jwk": OTHER_RSA.as_dict(private=False)}
    ),
    "critical extension": lambda: _by_hand(RSA, {"alg": "RS256", "crit": ["exp"], "exp": 1}),
    "payload that is not encoded": lambda: _by_hand(RSA, {"alg": "RS256", "crit": ["b64"], "b64": False}),
    "changed claims": lambda: _tampered(_token(CLAIMS)),
    "no signature": lambda: _token(CLAIMS).rsplit(b".", 1)[0] + b".",
    "two segments": lambda: _token(CLAIMS).rsplit(b".", 1)[0],
    "five segments": lambda: _token(CLAIMS) + b".a.b",
    "claims are a list": lambda: jws.serialize_compact({"alg": "RS256"}, b"[1]", RSA).encode(),
    "claims are not JSON": lambda: jws.serialize_compact({"alg": "RS256"}, b"\xff", RSA).encode(),
    "claims are too deep": lambda: jws.serialize_compact({"alg": "RS256"}, b"[" * 8000, RSA).encode(),
    "header is a list": lambda: _segment(["alg"]) + b"." + _segment(CLAIMS) + b".AAAA",
    "header is too deep": lambda: base64.urlsafe_b64encode(b"[" * 9000) + b"." + _segment(CLAIMS) + b".AAAA",
    "far too long": lambda: _token(CLAIMS | {"filler": "x" * 20_000}),
    "empty": lambda: b"",
    "dots": lambda: b"..",
    "not text": lambda: b"\xff\xfe.\xff.\xff",
}


def _hs256_by_hand(key: bytes) -> bytes:
    """The library refuses to sign with a public key; an attacker does not."""
    signed = _segment({"alg": "HS256", "kid": RSA.kid}) + b"." + _segment(CLAIMS)
    return signed + b"." + base64.urlsafe_b64encode(hmac.digest(key, signed, "sha256")).rstrip(b"=")


def _by_hand(key: RSAKey, header: dict[str, Any]) -> bytes:
    signed = _segment(header) + b"." + _segment(CLAIMS)
    assert key.private_key is not None
    return signed + b"." + base64.urlsafe_b64encode(key.private_key.sign(signed, PKCS1v15(), SHA256())).rstrip(b"=")


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
async def test_forged_tokens_are_refused(forge: Callable[[], bytes]) -> None:
    await _refused(_verifier(), forge())


@pytest.mark.parametrize("algorithm", ["RS256", "none", "HS384", "HS512"])
async def test_a_shared_secret_takes_hs256_only(algorithm: str) -> None:
    key = RSA if algorithm == "RS256" else OctKey.import_key(SECRET)
    token = (
        _segment({"alg": "none"}) + b"." + _segment(CLAIMS) + b"."
        if algorithm == "none"
        else _token(CLAIMS, key, {"alg": algorithm})
    )

    await _refused(_verifier(SharedSecret(SECRET)), token)


@given(st.binary(max_size=200), st.integers(0, 600))
async def test_noise_in_a_token_is_refused_and_breaks_nothing(noise: bytes, position: int) -> None:
    token = _token(CLAIMS)
    changed = token[:position] + noise + token[position + len(noise) :]
    # The last character of a signature has bits that base64 ignores.
    if changed[:-1] != token[:-1]:
        await _refused(_verifier(), changed)


# --- the cache -------------------------------------------------------------------------------------------------


class Counting(OwnKey):
    def __init__(self) -> None:
        super().__init__(RSA)
        self.asked = 0

    async def find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:
        self.asked += 1
        return await super().find(algorithm, kid)


async def test_a_token_is_verified_once_and_then_known() -> None:
    keys, token = Counting(), _token(CLAIMS)
    verifier = _verifier(keys)
    assert verifier.known(token) is None

    principal = await verifier.verify(token)

    assert verifier.known(token) is principal
    assert await verifier.verify(token) is principal
    assert keys.asked == 1


async def test_a_known_token_is_not_known_beyond_its_end() -> None:
    clock, token = Clock(), _token(CLAIMS | {"exp": NOW + 60})
    verifier = _verifier(clock=clock)
    await verifier.verify(token)

    clock.seconds = NOW + 59.999
    assert verifier.known(token)
    clock.seconds = NOW + 60
    assert verifier.known(token) is None
    await _refused(verifier, token)


async def test_a_known_token_is_verified_again_after_five_minutes() -> None:
    clock, keys, token = Clock(), Counting(), _token(CLAIMS)
    verifier = _verifier(keys, clock=clock)
    await verifier.verify(token)

    clock.seconds += 300
    assert verifier.known(token) is None
    await verifier.verify(token)
    assert verifier.known(token)
    assert keys.asked == 2


async def test_another_token_with_the_same_signature_is_not_known() -> None:
    token = _token(CLAIMS)
    verifier = _verifier()
    await verifier.verify(token)

    assert verifier.known(_tampered(token)) is None
    assert verifier.known(token + b" ") is None


async def test_the_cache_is_bounded_and_the_oldest_leaves_first() -> None:
    verifier = _verifier(capacity=2)
    tokens = [_token(CLAIMS | {"jti": str(number)}) for number in range(3)]
    for token in tokens:
        await verifier.verify(token)

    assert [verifier.known(token) is not None for token in tokens] == [False, True, True]


async def test_a_revoked_session_stops_at_once_though_its_tokens_are_known() -> None:
    clock = Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    verifier = _verifier(revocations=revocations, clock=clock)
    token, other = _token(CLAIMS), _token(CLAIMS | {"jti": f"{'0' * 24}.x"})
    await verifier.verify(token)
    await verifier.verify(other)

    revocations.revoke([SESSION])

    await _refused(verifier, token)
    assert verifier.known(other)


async def test_a_session_that_is_revoked_while_its_token_is_verified_does_not_get_in() -> None:
    clock = Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)

    class Slow(OwnKey):
        async def find(self, algorithm: str, kid: str | None) -> VerifyingKey | None:
            revocations.revoke([SESSION])
            return await super().find(algorithm, kid)

    await _refused(_verifier(Slow(RSA), revocations=revocations, clock=clock), _token(CLAIMS))


async def test_what_is_known_of_a_token_names_its_holder_as_long_as_the_token_does() -> None:
    clock, token = Clock(), _token(CLAIMS | {"exp": NOW + 400})
    verifier = _verifier(clock=clock)
    assert verifier.seen(token) is None
    first = await verifier.verify(token)
    known = verifier.seen(token)
    assert known is not None
    assert verifier.holder(known) is first

    clock.seconds += 300
    assert verifier.holder(known) is None
    again = await verifier.verify(token)
    assert verifier.holder(known) is again

    clock.seconds += 100
    assert verifier.holder(known) is None


async def test_what_was_known_of_a_token_names_nobody_once_its_session_is_revoked() -> None:
    clock = Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    verifier = _verifier(revocations=revocations, clock=clock)
    token = _token(CLAIMS)
    both = await asyncio.gather(verifier.verify(token), verifier.verify(token))
    known = verifier.seen(token)
    assert known is not None
    assert verifier.holder(known) in both

    revocations.revoke([SESSION])

    assert verifier.holder(known) is None
    assert verifier.seen(token) is None


async def test_what_was_known_of_a_token_that_made_room_names_nobody() -> None:
    verifier = _verifier(capacity=1)
    token = _token(CLAIMS)
    await verifier.verify(token)
    known = verifier.seen(token)
    assert known is not None

    await verifier.verify(_token(CLAIMS | {"jti": "2"}))

    assert verifier.holder(known) is None


# --- API keys --------------------------------------------------------------------------------------------------


class Keys:
    """One key, and how often it was looked for."""

    def __init__(self, **changes: Any) -> None:
        self.secret = api_keys.new_secret().encode()
        self.asked = 0
        self.away = False
        self.key: ApiKey | None = ApiKey(
            **{
                "id": SESSION, "org_id": "red", "user_id": "mai", "name": "Batch",
                "digest": api_keys.digest(self.secret), "masked": "…", "deployments": None, "expires_at": None,
                "last_used_at": None, "created_by": "mai", "updated_by": "mai", "created_at": 0, "updated_at": 0,
            } | changes
        )  # fmt: skip

    async def __call__(self, digest: bytes) -> ApiKey | None:
        self.asked += 1
        if self.away:
            raise Unavailable
        return self.key if self.key and self.key.digest == digest else None


async def test_an_api_key_is_looked_for_once_and_then_as_cheap_as_a_token() -> None:
    keys = Keys()
    verifier = _verifier(api_key=keys)
    assert verifier.known(keys.secret) is None

    caller = await verifier.verify(keys.secret)

    assert (caller.api_key_id, caller.roles) == (SESSION, (Role.VIEWER,))
    assert verifier.known(keys.secret) is caller
    assert await verifier.verify(keys.secret) is caller
    assert keys.asked == 1


async def test_a_key_of_another_digest_is_nobodys() -> None:
    keys = Keys()

    await _refused(_verifier(api_key=keys), api_keys.new_secret().encode())
    await _refused(_verifier(), keys.secret)


async def test_what_has_not_the_form_of_a_key_is_not_looked_for() -> None:
    keys = Keys()

    await _refused(_verifier(api_key=keys), keys.secret + b"x")

    assert keys.asked == 0


async def test_a_revoked_key_stops_at_once_though_it_is_known() -> None:
    keys, clock = Keys(), Clock()
    revocations = Revocations(keep_seconds=3600, clock=clock)
    verifier = _verifier(api_key=keys, revocations=revocations, clock=clock)
    await verifier.verify(keys.secret)

    revocations.revoke([SESSION])

    # Even a row that a slow reading still finds does not bring it back.
    await _refused(verifier, keys.secret)


async def test_a_key_that_expires_is_not_known_beyond_its_end() -> None:
    clock = Clock()
    keys = Keys(expires_at=clock() + 10_000)
    verifier = _verifier(api_key=keys, clock=clock)
    await verifier.verify(keys.secret)
    clock.seconds += 9
    assert verifier.known(keys.secret)

    clock.seconds += 1

    await _refused(verifier, keys.secret)


async def test_a_known_key_is_looked_for_again_after_five_minutes() -> None:
    keys, clock = Keys(), Clock()
    verifier = _verifier(api_key=keys, clock=clock)
    await verifier.verify(keys.secret)
    keys.key = None
    clock.seconds += 301

    await _refused(verifier, keys.secret)


async def test_a_database_that_is_away_does_not_stop_a_key_that_was_known() -> None:
    keys, clock = Keys(), Clock()
    keys.away = True
    verifier = _verifier(api_key=keys, clock=clock)
    with pytest.raises(Unavailable):
        await verifier.verify(keys.secret)
    keys.away = False
    await verifier.verify(keys.secret)
    keys.away = True
    clock.seconds += 301

    assert (await verifier.verify(keys.secret)).api_key_id == SESSION

    assert verifier.known(keys.secret)


async def test_a_database_that_is_away_does_not_prolong_a_key() -> None:
    clock = Clock()
    keys = Keys(expires_at=clock() + 10_000)
    verifier = _verifier(api_key=keys, clock=clock)
    await verifier.verify(keys.secret)
    keys.away = True
    clock.seconds += 10

    with pytest.raises(Unavailable):
        await verifier.verify(keys.secret)


async def test_uses_of_keys_are_told_once_with_the_time_of_the_last() -> None:
    keys, clock = Keys(), Clock()
    verifier = _verifier(api_key=keys, clock=clock)
    await verifier.verify(keys.secret)
    assert verifier.take_uses() == {SESSION: NOW * 1000}
    assert verifier.take_uses() == {}
    for _ in range(3):
        clock.seconds += 1
        verifier.known(keys.secret)
    assert verifier.take_uses() == {SESSION: (NOW + 3) * 1000}
    known = verifier.seen(keys.secret)
    assert known is not None
    clock.seconds += 1
    verifier.holder(known)

    assert verifier.take_uses() == {SESSION: (NOW + 4) * 1000}
