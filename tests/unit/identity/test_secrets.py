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


# --- a new key while the program runs ----------------------------------------------------------------------------


def test_a_new_key_is_used_as_soon_as_it_is_there() -> None:
    old, new = _key(), _key()
    found: list[list[str] | None] = []
    box = SecretBox([old], news=lambda: found.pop() if found else None)
    before = box.seal("secret of yesterday")

    found.append([new, old])

    assert SecretBox([new]).open(box.seal("secret of today")) == "secret of today"
    assert box.open(before) == "secret of yesterday"


def test_a_secret_of_a_key_that_came_just_now_is_opened() -> None:
    old, new = _key(), _key()
    found: list[list[str] | None] = [[new, old]]
    box = SecretBox([old], news=lambda: found.pop() if found else None)

    assert box.open(SecretBox([new]).seal("secret of today")) == "secret of today"


@pytest.mark.parametrize("keys", [["not a key"], []])
def test_keys_that_are_broken_meanwhile_leave_the_old_ones_in_use(keys: list[str]) -> None:
    box = SecretBox([_key()], news=lambda: keys)

    assert box.open(box.seal("secret")) == "secret"


def test_a_secret_is_sealed_anew_once() -> None:
    old, new = _key(), _key()
    before = SecretBox([old]).seal("sk-proj-0123456789-9xQ2")
    box = SecretBox([new, old])

    after = box.anew(before)

    assert after.masked == before.masked
    assert SecretBox([new]).open(after) == "sk-proj-0123456789-9xQ2"
    assert box.anew(after) is after
