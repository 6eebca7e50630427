import pytest

from aiwm.domain import api_keys
from aiwm.domain.api_keys import ApiKey
from aiwm.domain.users import Role
from aiwm.errors import Forbidden, Invalid


def _key(**changes: object) -> ApiKey:
    fields = {
        "id": "a" * 24, "org_id": "red", "user_id": "mai", "name": "Batch", "digest": b"", "masked": "…",
        "deployments": None, "expires_at": None, "last_used_at": None,
        "created_by": "mai", "updated_by": "mai", "created_at": 5_000, "updated_at": 5_000,
    }  # fmt: skip
    return ApiKey(**fields | changes)  # type: ignore[arg-type]


def test_a_secret_is_256_random_bits_that_say_what_they_are() -> None:
    secrets = {api_keys.new_secret() for _ in range(100)}

    assert len(secrets) == 100
    assert all(secret.startswith("aiwm_sk_") and len(secret) == 8 + 43 for secret in secrets)
    assert all(api_keys.is_secret(secret.encode()) for secret in secrets)


@pytest.mark.parametrize(
    "token", [b"", b"aiwm_sk_", b"aiwm_sk_" + b"x" * 42, b"aiwm_sk_" + b"x" * 44, b"sk-" + b"x" * 48,
              b"AIWM_SK_" + b"x" * 43, b"aiwm_sk_" + b"x" * 42 + b"\n", b"aiwm_sk_" + b"x" * 42 + b"'"],
)  # fmt: skip
def test_what_has_another_form_is_no_secret(token: bytes) -> None:
    assert not api_keys.is_secret(token)


def test_only_a_digest_is_kept_of_a_secret() -> None:
    secret = api_keys.new_secret().encode()

    assert len(api_keys.digest(secret)) == 32
    assert secret not in api_keys.digest(secret)


def test_a_key_calls_as_a_viewer_and_names_itself() -> None:
    principal = _key(deployments=("1", "2"), expires_at=9_999).principal()

    assert (principal.roles, principal.rank) == ((Role.VIEWER,), Role.VIEWER.rank)
    assert (principal.api_key_id, principal.session) == ("a" * 24, "a" * 24)
    assert (principal.org_id, principal.home_org_id, principal.user_id) == ("red", "red", "mai")
    assert (principal.issued_at, principal.expires_at) == (5, 9)
    principal.require_deployment("1")
    with pytest.raises(Forbidden, match="This API key is not for deployment 3"):
        principal.require_deployment("3")
    with pytest.raises(Forbidden):
        principal.acting_in("blue")


def test_a_key_without_a_limit_is_for_every_deployment_and_for_ever() -> None:
    key = _key()

    key.principal().require_deployment("3")
    assert key.is_good(lambda: 1 << 60)


def test_a_key_is_good_until_it_expires() -> None:
    assert _key(expires_at=1000).is_good(lambda: 999)
    assert not _key(expires_at=1000).is_good(lambda: 1000)


@pytest.mark.parametrize("expires_at", [0, 1000, 1 << 60])
def test_a_key_is_not_born_dead_nor_beyond_the_calendar(expires_at: int) -> None:
    api_keys.check_expiry(None, lambda: 1000)
    api_keys.check_expiry(1001, lambda: 1000)
    with pytest.raises(Invalid, match="expiresAt: must be in the future"):
        api_keys.check_expiry(expires_at, lambda: 1000)
