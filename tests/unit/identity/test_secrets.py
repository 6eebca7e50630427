import pytest
from cryptography.fernet import Fernet

from aiwm.domain.models import Sealed
from aiwm.errors import AiwmError, StartError
from aiwm.identity.secrets import SecretBox


def _key() -> str:
    return Fernet.generate_key().decode()


def test_what_is_sealed_can_be_opened_and_is_not_readable() -> None:
    box = SecretBox([_key()])

    sealed = box.seal("sk-proj-0123456789-ключ-9xQ2")

    assert box.open(sealed) == "sk-proj-0123456789-ключ-9xQ2"
    assert sealed.masked == "sk-p…9xQ2"
    assert "0123456789" not in sealed.token


def test_a_short_secret_shows_nothing_of_itself() -> None:
    assert SecretBox([_key()]).seal("elevenchars").masked == "…"


def test_old_keys_open_and_the_newest_seals() -> None:
    old, new = _key(), _key()
    sealed_before = SecretBox([old]).seal("secret of yesterday")
    both = SecretBox([new, old])

    assert both.open(sealed_before) == "secret of yesterday"
    assert SecretBox([new]).open(both.seal("secret of today")) == "secret of today"


@pytest.mark.parametrize("token", ["", "garbage", "gAAAAA", "ключ"])
def test_what_cannot_be_opened_is_said_with_the_remedy_and_without_the_secret(token: str) -> None:
    with pytest.raises(AiwmError) as caught:
        SecretBox([_key()]).open(Sealed(token=token, masked="sk-p…9xQ2"))

    assert caught.value.status == 500
    assert "sk-p…9xQ2 can't be decrypted" in str(caught.value)
    assert "restore the encryption keys" in str(caught.value)


def test_another_key_does_not_open() -> None:
    sealed = SecretBox([_key()]).seal("sk-proj-0123456789-9xQ2")

    with pytest.raises(AiwmError, match="give it again"):
        SecretBox([_key()]).open(sealed)


@pytest.mark.parametrize("keys", [["short"], [""], ["кириллица"], []])
def test_what_is_no_key_stops_the_start_and_is_not_quoted(keys: list[str]) -> None:
    with pytest.raises(StartError) as caught:
        SecretBox(keys)

    assert "AIWM_ENCRYPTION_KEYS" in str(caught.value)
    assert not any(key and key in str(caught.value) for key in keys)
