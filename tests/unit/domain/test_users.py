import pytest

from aiwm.domain.users import password_problem, username_key, username_problem


@pytest.mark.parametrize("username", ["mai", "x" * 100, "mai.nguyen@example.com", "Łukasz", "美咲さん", "o'brien"])
def test_usernames_that_are_fine(username: str) -> None:
    assert username_problem(username) is None


@pytest.mark.parametrize(
    "username",
    ["", "ab", "x" * 101, "a b c", "tab\there", "line\nbreak", "null\x00", "no\u00a0break", "zero\u200bwidth",
     "right\u202eleft", "half\ud800pair", "ΐ" * 100, "\ufdfa" * 20],
)  # fmt: skip
def test_usernames_that_are_not(username: str) -> None:
    assert username_problem(username)


@pytest.mark.parametrize(
    ("one", "other"), [("Mai", "mAI"), ("straße", "STRASSE"), ("e\u0301va", "Éva"), ("ａｄｍｉｎ", "admin")]
)
def test_names_that_look_alike_are_one_name(one: str, other: str) -> None:
    assert username_key(one) == username_key(other)


def test_what_a_password_must_be() -> None:
    assert password_problem("x" * 7)
    assert password_problem("x" * 129)
    assert password_problem("half\ud800pair")
    assert password_problem("x" * 8) is None
    assert password_problem("пароль с пробелом") is None
    assert password_problem("x" * 128) is None
