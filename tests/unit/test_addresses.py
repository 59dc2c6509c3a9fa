"""Addresses of one client are one block."""

from node.runtime.network import block_of


def test_the_addresses_of_one_subscriber_are_one_block() -> None:
    assert block_of("2001:db8:1:2:3::4") == block_of("2001:db8:1:2:ffff::1")
    assert block_of("2001:db8:1:2::1") != block_of("2001:db8:1:3::1")
    assert block_of("192.0.2.1") != block_of("192.0.2.2")
    assert block_of("::ffff:192.0.2.1") == block_of("192.0.2.1") != block_of("::ffff:192.0.2.2")
    assert block_of("fe80::1%eth0") == block_of("fe80::2%eth0")


def test_what_is_no_address_stands_for_itself_within_bounds() -> None:
    assert block_of("") == ""
    assert len(block_of("x" * 10_000)) == 64
