"""wire/hosts.py: names that are known here, and all the others."""

from __future__ import annotations

import pytest

from aiwm.errors import Misdirected
from aiwm.wire.hosts import ANY, Hosts, is_host_name, is_loopback

HOSTS = Hosts({"aiwm.example", "gateway"})


@pytest.mark.parametrize(
    "host",
    ["aiwm.example", "aiwm.example:443", "AIWM.Example.", "gateway:3003", "localhost", "LocalHost:3003", "my.localhost",
     "127.0.0.1", "127.0.0.1:3003", "10.1.2.3", "[::1]:3003", "[fe80::1]"],
)  # fmt: skip
def test_what_is_known(host: str) -> None:
    HOSTS.require(host.encode())


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:3003", "aiwm.example.evil.example", "xaiwm.example", "localhost.evil.example",
     "notlocalhost", "127.0.0.1.evil.example", "1.2.3", "0x7f.1", "aiwm.example:port", "aiwm.example/x", "a@localhost",
     "localhost#", "[::1", "::1", "[localhost]", "[::1%25eth0]", "localhost, evil", "local\xe9", "a" * 100_000],
)  # fmt: skip
def test_what_is_not_known_is_refused_with_the_remedy(host: str) -> None:
    with pytest.raises(Misdirected, match="AIWM_ALLOWED_HOSTS") as caught:
        HOSTS.require(host.encode("latin-1"))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("host", ["evil.example", "", "\xff"])
def test_any_is_any(host: str) -> None:
    Hosts({ANY}).require(host.encode("latin-1"))


def test_what_is_a_name_and_what_is_reached_from_here_only() -> None:
    assert [is_host_name(text) for text in ("a.example", "a:80", "[::1]", "a b", "", "\u00e9")] == [True] + [False] * 5
    hosts = ("localhost", "127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "10.0.0.1", "aiwm.example")
    assert [is_loopback(host) for host in hosts] == [True] * 4 + [False] * 4
