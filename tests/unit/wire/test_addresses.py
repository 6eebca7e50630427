import pytest

from aiwm.wire.addresses import AddressPolicy

EVERYTHING = ["0.0.0.0/0", "::/0", "provider.example"]

PUBLIC = ["8.8.8.8", "104.18.7.192", "2606:4700::6812:7c0", "2a00:1450:4001:80f::200a", "64:ff9b::8.8.8.8"]

PRIVATE = [
    "127.0.0.1",
    "127.255.0.9",
    "::1",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "100.64.0.1",  # Carrier-grade NAT.
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.7",
    "240.0.0.1",
    "fc00::1",
    "fd12:3456::1",
    "fd12:3456::1%eth0",
    "fec0::1",
    "100::1",
    "2001:db8::1",
    "2001:10::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "64:ff9b:1::8.8.8.8",
    "2002:808:808::1",
    "2001:0:808:808:0:0:f7f7:f7f7",
    "::8.8.8.8",
]

NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "255.255.255.255",
    "224.0.0.1",
    "239.255.255.250",
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::",
    "fe80::1",
    "fe80::1%eth0",
    "febf::1",
    "ff02::1",
    "ff0e::1",
    "fd00:ec2::254",
    "fd00:ec2::254%1",
    "fd00:ec2::23",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
]


def wrapped(ipv4: str) -> dict[str, str]:
    a, b, c, d = (int(part) for part in ipv4.split("."))
    high, low = f"{a:02x}{b:02x}", f"{c:02x}{d:02x}"
    client = f"{~(a << 8 | b) & 0xFFFF:x}:{~(c << 8 | d) & 0xFFFF:x}"
    return {
        "mapped": f"::ffff:{ipv4}",
        "mapped-hex": f"::ffff:{high}:{low}",
        "compatible": f"::{ipv4}",
        "translated": f"::ffff:0:{ipv4}",
        "6to4": f"2002:{high}:{low}::1",
        "teredo-server": f"2001:0:{high}:{low}:0:0:f7f7:f7f7",
        "teredo-client": f"2001:0:808:808:0:0:{client}",
        "nat64": f"64:ff9b::{ipv4}",
        "nat64-local-96": f"64:ff9b:1::{ipv4}",
        "nat64-local-48": f"64:ff9b:1:{high}:{c:x}:{d:02x}00::",
    }


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open_to_everybody(address: str) -> None:
    assert AddressPolicy([]).permits("provider.example", address, 443)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_and_reserved_addresses_are_closed_until_they_are_allowed(address: str) -> None:
    assert not AddressPolicy([]).permits("provider.example", address, 443)
    assert AddressPolicy(["provider.example"]).permits("provider.example", address, 443)
    assert AddressPolicy([address.partition("%")[0]]).permits("provider.example", address, 443)
    assert AddressPolicy(["0.0.0.0/0", "::/0"]).permits("provider.example", address, 443)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_link_local_multicast_and_unspecified_addresses_are_closed_whatever_is_allowed(
    address: str,
) -> None:
    policy = AddressPolicy([*EVERYTHING, address.partition("%")[0]])
    assert not policy.permits("provider.example", address, 443)


@pytest.mark.parametrize("form", list(wrapped("1.2.3.4")))
def test_an_ipv4_address_inside_an_ipv6_one_does_not_get_around_the_rules(form: str) -> None:
    assert not AddressPolicy([]).permits("provider.example", wrapped("10.0.0.1")[form], 443)
    assert not AddressPolicy([]).permits("provider.example", wrapped("127.0.0.1")[form], 443)
    for address in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "224.0.0.1"):
        assert not AddressPolicy(EVERYTHING).permits("provider.example", wrapped(address)[form], 443)


def test_a_mapped_ipv4_address_is_the_ipv4_address() -> None:
    assert AddressPolicy([]).permits("provider.example", "::ffff:8.8.8.8", 443)
    assert AddressPolicy(["10.0.0.0/8"]).permits("provider.example", "::ffff:10.0.0.1", 443)
    assert not AddressPolicy(["10.0.0.0/8"]).permits("provider.example", "::ffff:192.168.0.1", 443)


def test_a_translated_address_needs_both_of_its_parts_allowed() -> None:
    assert AddressPolicy(["10.0.0.0/8"]).permits("provider.example", "64:ff9b::10.0.0.1", 443)
    assert not AddressPolicy(["10.0.0.0/8"]).permits("provider.example", "2002:a00:1::1", 443)
    assert AddressPolicy(["10.0.0.0/8", "2002::/16"]).permits("provider.example", "2002:a00:1::1", 443)


def test_a_network_opens_its_own_addresses_and_no_others() -> None:
    policy = AddressPolicy(["10.0.0.0/8", "fd12::/16", "192.168.1.7"])
    assert policy.permits("anything.example", "10.255.0.1", 443)
    assert policy.permits("anything.example", "fd12::9", 443)
    assert policy.permits("192.168.1.7", "192.168.1.7", 443)
    assert not policy.permits("anything.example", "192.168.1.8", 443)
    assert not policy.permits("anything.example", "fd13::9", 443)
    assert not policy.permits("anything.example", "127.0.0.1", 443)


def test_a_host_name_opens_what_it_resolves_to_and_no_other_host() -> None:
    policy = AddressPolicy(["vLLM.Internal."])
    assert policy.permits("vllm.internal", "10.0.0.1", 443)
    assert policy.permits("VLLM.internal.", "10.0.0.1", 443)
    assert not policy.permits("other.vllm.internal", "10.0.0.1", 443)
    assert not policy.permits("vllm.internal.example", "10.0.0.1", 443)


def test_entries_may_have_spaces_around_them_brackets_or_nothing_in_them() -> None:
    policy = AddressPolicy(["", "  ", " localhost ", "[::1]"])
    assert policy.permits("localhost", "127.0.0.1", 443)
    assert policy.permits("anything.example", "::1", 443)


@pytest.mark.parametrize("address", ["", "provider.example", "127.1", "0x7f000001", "2130706433", "::1::"])
def test_what_is_not_an_address_is_closed(address: str) -> None:
    assert not AddressPolicy(EVERYTHING).permits("provider.example", address, 443)


@pytest.mark.parametrize(
    "entry",
    [
        "10.0.0.0/33",
        "10.0.0.1/8",
        "256.1.1.1",
        "127.1",
        "0x7f.1",
        "2130706433",
        "http://10.0.0.1",
        "10.0.0.1:80000",
        "vllm:0",
        "*.internal",
        "two words",
        "-x.internal",
        "a..b",
        "bücher.example",
        "::1::",
        "[::1",
    ],
)
def test_an_entry_that_is_none_of_these_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - what it must say is asserted below
        AddressPolicy(["localhost", entry])
    assert repr(entry) in str(caught.value)


def test_an_entry_with_a_port_opens_that_port_only() -> None:
    policy = AddressPolicy(["127.0.0.1:11434", "[fd00::1]:8000", "vllm.internal:9000"])
    assert policy.permits("anything.example", "127.0.0.1", 11434)
    assert not policy.permits("anything.example", "127.0.0.1", 11435)
    assert policy.permits("anything.example", "fd00::1", 8000)
    assert not policy.permits("anything.example", "fd00::1", 443)
    assert policy.permits("vllm.internal", "10.0.0.1", 9000)
    assert not policy.permits("vllm.internal", "10.0.0.1", 443)
