"""settings.py: everything an operator can set, judged all at once and never quoted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from aiwm.cli.settings import as_markdown
from aiwm.errors import StartError
from aiwm.settings import Settings, table

ROOT = Path(__file__).parents[2]
FERNET_KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


def _refusal(**environ: str) -> str:
    with pytest.raises(StartError) as caught:
        Settings.from_env(environ)
    return str(caught.value)


def test_without_any_setting_it_listens_to_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/mai")
    settings = Settings.from_env({"HOME": "/root", "PATH": "/bin"})
    assert (settings.host, settings.port, settings.iam_port) == ("127.0.0.1", 3003, 3000)
    assert settings.data_dir == Path("/home/mai/.local/share/aiwm")
    assert settings.effective_database_url == "sqlite+aiosqlite:////home/mai/.local/share/aiwm/aiwm.db"
    assert settings.effective_public_url == "http://localhost:3003"
    assert (settings.connect_timeout, settings.first_byte_timeout, settings.idle_timeout) == (5, 600, 300)
    assert (settings.drain_seconds, settings.max_body_bytes) == (30, 64 * 1024 * 1024)
    assert settings.access_token_seconds == 3600


@pytest.mark.parametrize("folder", ["/a?b=c", "/100%25 sure", "/a#1", "/mai@home:3003/x", "/~/ünï"])
def test_any_folder_can_be_the_data_directory(folder: str) -> None:
    url = Settings.from_env({"AIWM_DATA_DIR": folder}).effective_database_url
    assert make_url(url).database == f"{folder}/aiwm.db"
    assert not make_url(url).query


def test_every_variable_sets_its_field() -> None:
    settings = Settings.from_env(
        {
            "AIWM_PORT": "4003",
            "AIWM_IAM_PORT": "0",
            "AIWM_DATABASE_URL": "postgresql+asyncpg://u:p@h/n",
            "AIWM_PRIVATE_UPSTREAMS": "127.0.0.1:8080, 10.0.0.0/8 ,,ollama.internal",
            "AIWM_PUBLIC_URL": "https://ai.example.com/",
            "AIWM_CONNECT_TIMEOUT": "0.5",
        }
    )
    assert (settings.port, settings.iam_port, settings.connect_timeout) == (4003, 0, 0.5)
    assert settings.effective_database_url == "postgresql+asyncpg://u:p@h/n"
    assert settings.private_upstreams == ("127.0.0.1:8080", "10.0.0.0/8", "ollama.internal")
    assert settings.effective_public_url == "https://ai.example.com"


def test_an_unknown_name_is_an_error_that_says_where_the_known_ones_are() -> None:
    assert _refusal(AIWM_PROT="4000") == "AIWM_PROT is not a setting; `aiwm settings` lists them all"


def test_all_that_is_wrong_is_told_at_once() -> None:
    text = _refusal(AIWM_PROT="1", AIWM_PORT="99999", AIWM_LOG_LEVEL="loud", AIWM_IDLE_TIMEOUT="0")
    assert "\n" not in text
    assert [part.split()[0] for part in text.split("; ") if part.startswith("AIWM_")] == [
        "AIWM_PORT",
        "AIWM_IDLE_TIMEOUT",
        "AIWM_LOG_LEVEL",
        "AIWM_PROT",
    ]


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("PORT", "", "valid integer"),
        ("PORT", "http", "valid integer"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("IAM_PORT", "-1", "greater than or equal to 0"),
        ("IAM_PORT", "3003", "must differ"),
        ("DATA_DIR", "", "must not be empty"),
        ("DATA_DIR", "~nobody-of-this-name/aiwm", "the home directory is not known"),
        ("DATABASE_URL", "mysql://u:p4ssw0rd-of-mine@h/n", "must begin with postgresql+asyncpg://"),
        ("DATABASE_URL", "postgresql://u:p4ssw0rd-of-mine@h/n", "must begin with postgresql+asyncpg://"),
        ("ADMIN_PASSWORD", "short-1", "must be 8 to 128 characters long"),
        ("ADMIN_PASSWORD", "p4ssw0rd-of-mine" * 9, "must be 8 to 128 characters long"),
        ("ENCRYPTION_KEYS", "", "must be Fernet keys"),
        ("ENCRYPTION_KEYS", "p4ssw0rd-of-mine", "must be Fernet keys"),
        ("ENCRYPTION_KEYS", f"{FERNET_KEY},p4ssw0rd-of-mine", "must be Fernet keys"),
        ("ENCRYPTION_KEYS", "schlüssel-p4ssw0rd-of-mine", "must be Fernet keys"),
        ("JWT_SECRET", "p4ssw0rd-of-mine", "must be at least 32 bytes long"),
        ("JWT_SECRET", "", "must be at least 32 bytes long"),
        ("JWKS_URL", "iam.example.com/jwks", "must begin with http:// or https://"),
        ("PUBLIC_URL", "ftp://x", "must begin with http:// or https://"),
        ("PRIVATE_UPSTREAMS", "127.0.0.1,10.0.0.0/99", "10.0.0.0/99"),
        ("ACCESS_TOKEN_SECONDS", "59", "greater than or equal to 60"),
        ("CONNECT_TIMEOUT", "0", "greater than 0"),
        ("FIRST_BYTE_TIMEOUT", "nan", ""),
        ("IDLE_TIMEOUT", "inf", ""),
        ("MAX_BODY_BYTES", "0", "greater than or equal to 1"),
        ("DRAIN_SECONDS", "-1", "greater than or equal to 0"),
        ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("LOG_FORMAT", "xml", "'json', 'console'"),
    ],
)
def test_a_wrong_value_is_told_by_the_name_of_its_variable_and_no_secret_is_quoted(
    name: str, value: str, wrong: str
) -> None:
    text = _refusal(**{f"AIWM_{name}": value})
    assert f"AIWM_{name}" in text
    assert wrong in text
    assert "\n" not in text
    assert "p4ssw0rd" not in text


def test_an_unknown_home_directory_is_told_when_nothing_else_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert "AIWM_DATA_DIR begins with ~, and the home directory is not known" in _refusal()


def test_two_ways_to_accept_the_tokens_of_another_iam_exclude_each_other() -> None:
    text = _refusal(AIWM_JWT_SECRET="x" * 32, AIWM_JWKS_URL="https://iam/jwks.json")
    assert text == "AIWM_JWT_SECRET and AIWM_JWKS_URL exclude each other: set one of them"


def test_the_length_of_the_secret_is_counted_in_bytes() -> None:
    assert Settings.from_env({"AIWM_JWT_SECRET": "ü" * 16}).jwt_secret


def test_settings_that_are_shown_show_no_secret() -> None:
    key = FERNET_KEY
    settings = Settings.from_env(
        {
            "AIWM_ADMIN_PASSWORD": "p4ssw0rd-of-mine",
            "AIWM_ENCRYPTION_KEYS": key,
            "AIWM_JWT_SECRET": "p4ssw0rd-of-mine" * 2,
            "AIWM_DATABASE_URL": "postgresql+asyncpg://u:p4ssw0rd-of-mine@h/n",
        }
    )
    for shown in (repr(settings), str(settings)):
        assert "p4ssw0rd" not in shown
        assert key not in shown


def test_every_setting_has_a_manual() -> None:
    assert len(table()) == len(Settings.model_fields)
    for variable, _, manual in table():
        assert variable.startswith("AIWM_")
        assert len(manual) > 10, variable
        assert "\n" not in manual, variable


def test_the_page_of_settings_is_what_the_program_says() -> None:
    assert (ROOT / "docs/settings.md").read_text() == as_markdown(), "run: aiwm settings --markdown > docs/settings.md"


def test_no_default_of_a_secret_is_shown() -> None:
    shown = {variable: default for variable, default, _ in table()}
    assert {shown[f"AIWM_{name}"] for name in ("ADMIN_PASSWORD", "ENCRYPTION_KEYS", "JWT_SECRET")} == {""}


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({}, set()),
        ({"AIWM_PUBLIC_URL": "https://AIWM.example:8443/base"}, {"aiwm.example"}),
        ({"AIWM_ALLOWED_HOSTS": "A.example, b"}, {"a.example", "b"}),
        ({"AIWM_HOST": "::1"}, set()),
        ({"AIWM_HOST": "0.0.0.0"}, {"*"}),
        ({"AIWM_HOST": "0.0.0.0", "AIWM_PUBLIC_URL": "https://a.example"}, {"*"}),
        ({"AIWM_HOST": "0.0.0.0", "AIWM_ALLOWED_HOSTS": "b"}, {"b"}),
    ],
)
def test_a_program_that_only_this_machine_reaches_answers_to_no_strange_name(
    given: dict[str, str], known: set[str]
) -> None:
    assert set(Settings.from_env(given).effective_allowed_hosts) == known


@pytest.mark.parametrize("value", ["a.example:80", "http://a.example", "a b", "a/b", "[::1]"])
def test_a_host_that_is_no_name_is_told(value: str) -> None:
    assert "AIWM_ALLOWED_HOSTS must be names of hosts" in _refusal(AIWM_ALLOWED_HOSTS=value)
