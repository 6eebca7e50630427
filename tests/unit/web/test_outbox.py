"""What is written in one turn of the loop goes out together, and in order."""

from __future__ import annotations

import asyncio

import pytest

from aiwm.web.outbox import Outbox


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeTransport(asyncio.WriteTransport):
    """Remembers what it was given, in a list that it shares with others."""

    def __init__(self, sent: list[bytes]) -> None:
        super().__init__()
        self.closing = False
        self._sent = sent

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing


async def test_what_comes_alone_goes_out_at_once():
    clock, sent = Clock(), list[bytes]()
    outbox, transport = Outbox(clock), FakeTransport(sent)
    for number in (b"1", b"2", b"3"):
        outbox.write(transport, number)
        assert sent[-1] == number
        clock.now += 0.001


async def test_what_comes_close_behind_another_goes_out_at_the_end_of_the_turn_in_its_order():
    sent: list[bytes] = []
    outbox, here, there = Outbox(Clock()), FakeTransport(sent), FakeTransport(sent)
    for transport, data in ((here, b"1"), (there, b"2"), (here, b"3")):
        outbox.write(transport, data)
    assert sent == [b"1"]
    await asyncio.sleep(0)
    assert sent == [b"1", b"2", b"3"]


async def test_what_comes_late_does_not_overtake_what_waits():
    clock, sent = Clock(), list[bytes]()
    outbox, transport = Outbox(clock), FakeTransport(sent)
    outbox.write(transport, b"1")
    outbox.write(transport, b"2")
    clock.now += 1
    outbox.write(transport, b"3")
    assert sent == [b"1"]
    await asyncio.sleep(0)
    assert sent == [b"1", b"2", b"3"]


async def test_what_is_large_goes_out_at_once_behind_what_waits_so_that_a_full_transport_can_say_so():
    sent: list[bytes] = []
    outbox, transport = Outbox(Clock()), FakeTransport(sent)
    small, large = [b"1", b"2"], b"3" * 20_000
    for data in (*small, large):
        outbox.write(transport, data)
    assert sent == [*small, large]
    outbox.write(transport, b"4")
    assert sent == [*small, large]
    await asyncio.sleep(0)
    assert sent == [*small, large, b"4"]


async def test_what_waits_can_be_sent_before_a_transport_is_closed_and_is_sent_once():
    sent: list[bytes] = []
    outbox, transport = Outbox(Clock()), FakeTransport(sent)
    outbox.write(transport, b"1")
    outbox.write(transport, b"2")
    outbox.flush()
    assert sent == [b"1", b"2"]
    transport.closing = True
    await asyncio.sleep(0)
    assert sent == [b"1", b"2"]


async def test_a_transport_that_has_gone_meanwhile_is_passed_over_and_the_others_are_not():
    sent, lost = list[bytes](), list[bytes]()
    outbox, gone, there = Outbox(Clock()), FakeTransport(lost), FakeTransport(sent)
    outbox.write(there, b"1")
    outbox.write(gone, b"2")
    outbox.write(there, b"3")
    gone.closing = True
    await asyncio.sleep(0)
    assert (sent, lost) == ([b"1", b"3"], [])


async def test_what_waits_goes_out_even_if_what_is_to_be_done_first_fails_and_so_does_what_comes_later():
    def fails() -> None:
        raise RuntimeError("the first thing")

    sent: list[bytes] = []
    outbox, transport = Outbox(Clock()), FakeTransport(sent)
    outbox.write(transport, b"1")
    outbox.first = fails
    outbox.write(transport, b"2")
    with pytest.raises(RuntimeError):
        outbox.flush()
    assert sent == [b"1", b"2"]
    outbox.first = lambda: None
    outbox.write(transport, b"3")
    await asyncio.sleep(0)
    assert sent == [b"1", b"2", b"3"]


async def test_what_is_to_be_done_first_is_done_before_anything_is_sent():
    clock, sent = Clock(), list[bytes]()
    outbox, transport = Outbox(clock), FakeTransport(sent)
    outbox.first = lambda: sent.append(b"first")
    outbox.write(transport, b"alone")
    assert sent == [b"first", b"alone"]
    outbox.write(transport, b"1")
    outbox.write(transport, b"2")
    await asyncio.sleep(0)
    assert sent[2:] == [b"first", b"1", b"2"]
    outbox.write(transport, b"3" * 20_000)
    assert sent[-2:] == [b"first", b"3" * 20_000]
