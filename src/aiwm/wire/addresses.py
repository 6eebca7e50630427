"""Which network addresses the gateway may connect to, whatever a caller wrote into an endpoint.

Judged is the resolved address that is about to be connected to, so neither a spelling nor a DNS answer gets
around it. Public addresses are open; private ones are open if the operator listed them; those that hand out
credentials or stand for no single machine are closed to everybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_NEVER: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this network": Linux takes 0.0.0.0 for the loopback.
        "169.254.0.0/16",  # Link-local; the metadata service of nearly every cloud.
        "100.100.100.200/32",  # Alibaba Cloud metadata.
        "168.63.129.16/32",  # Azure's host agent, in public space.
        "192.0.0.192/32",  # Oracle Cloud metadata, the old address.
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/128",
        "fe80::/10",
        "fd00:ec2::/32",  # AWS metadata, credentials of EKS pods, time, DNS.
        "fd20:ce::254/128",  # Google Cloud metadata.
        "fd00:c1::a9fe:a9fe/128",  # Oracle Cloud metadata.
        "fd00:42::42/128",  # Scaleway metadata.
        "ff00::/8",
    )
)

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # All that IANA hands out; `is_global` also says yes outside of it.
_RESERVED: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        # What the `is_global` of some Python 3.11 and 3.12 releases takes for public.
        "192.0.0.0/24",
        "192.88.99.0/24",  # The retired 6to4 relay (RFC 7526).
        "2001::/23",  # IETF protocol assignments, among them Teredo.
        "2002::/16",  # 6to4.
        "3fff::/20",  # Documentation (RFC 9637).
    )
)

_MAPPED = IPv6Network("::ffff:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")  # SIIT (RFC 2765).
_NAT64 = IPv6Network("64:ff9b::/96")
_IN_LAST_32_BITS = (_MAPPED, _COMPATIBLE, _TRANSLATED, _NAT64)
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")

_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*", re.ASCII)
_NUMBER = re.compile(r"([0-9]+|0x[0-9a-f]*)", re.ASCII)  # A name whose last label is one is an address (WHATWG).


class AddressPolicy:
    """`allowed` lists host names, networks (CIDR) and single addresses that are open besides the public ones.

    With `:port` behind it (`127.0.0.1:11434`, `[fd00::1]:8000`), an entry opens that one port only.
    Raises ValueError, naming the entry, for one that is none of these.
    """

    __slots__ = ("_names", "_networks")

    def __init__(self, allowed: Iterable[str]) -> None:
        self._names: set[tuple[str, int | None]] = set()
        self._networks: list[tuple[Network, int | None]] = []
        for entry in filter(None, (entry.strip() for entry in allowed)):
            text, port = _without_port(entry)
            parsed = _network_or_name(text, entry)
            if isinstance(parsed, str):
                self._names.add((parsed, port))
            else:
                self._networks.append((parsed, port))

    def permits(self, host: str, address: str, port: int) -> bool:
        """Whether a connection to `address`, which `host` was resolved to, may be opened."""
        try:
            ip = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        parts = (ip, *_embedded(ip))
        if any(_in(part, _NEVER) for part in parts):
            return False
        name = host.rstrip(".").lower()
        networks = [network for network, only in self._networks if only in {None, port}]
        if not self._names.isdisjoint({(name, None), (name, port)}) or _in(ip, networks):
            return True
        # An IPv4-mapped address is only another way to write the IPv4 one: that one decides.
        judged = parts[1:] if ip in _MAPPED else parts
        return all(_is_public(part) or _in(part, networks) for part in judged)


_WITH_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):([0-9]{1,5})", re.ASCII)


def _without_port(entry: str) -> tuple[str, int | None]:
    """A bare IPv6 address has colons of its own: with a port it stands in brackets."""
    match = _WITH_PORT.fullmatch(entry)
    if match is None or not 1 <= int(match[2]) <= 65535:
        return entry, None
    return match[1], int(match[2])


def _network_or_name(text: str, entry: str) -> Network | str:
    text = text.lower().rstrip(".")
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    try:
        return ip_network(text)
    except ValueError as exc:
        if not _NAME.fullmatch(text) or _NUMBER.fullmatch(text.rpartition(".")[2]):
            raise ValueError(
                f"{entry!r} is not a host name, an address or a network such as 10.0.0.0/8 with no host bits set"
            ) from exc
    return text


def _in(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)  # False for the other IP version.


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not _in(address, _RESERVED)
        and (isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST or address in _NAT64)
    )


def _embedded(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that packets to an IPv6 address may end up at."""
    bits = int(address)
    if isinstance(address, IPv4Address) or bits <= 1:  # :: and ::1 embed nothing.
        return
    if _in(address, _IN_LAST_32_BITS):
        yield IPv4Address(bits & 0xFFFF_FFFF)
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(bits >> 80 & 0xFFFF_FFFF)
    elif address in _TEREDO:
        yield IPv4Address(bits >> 64 & 0xFFFF_FFFF)
        yield IPv4Address(~bits & 0xFFFF_FFFF)
    elif address in _NAT64_LOCAL:
        # The operator picks a prefix in here. RFC 6052 puts the address at the end behind a /96, and around
        # bits 64 to 71 behind a /48. The reading that does not apply is mostly zeros.
        readings = (bits & 0xFFFF_FFFF, (bits >> 64 & 0xFFFF) << 16 | bits >> 40 & 0xFFFF)
        yield from (IPv4Address(reading) for reading in readings if reading >> 24)
