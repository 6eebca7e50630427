"""The caller's side: its body in whatever pieces, and its leaving at every moment there is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from aiwm.errors import AnswerBroken, BodyTooLarge, ClientGone
from aiwm.proxy.client import Client

LEFT: dict[str, Any] = {"type": "http.disconnect"}


class Caller:
    """What an ASGI server knows of a caller: messages in a row, then nothing until it leaves."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)
        self._gone = asyncio.Event()

    @classmethod
    def sending(cls, *pieces: bytes) -> Caller:
        """A body in these pieces, the last of which says that it is the last."""
        last = len(pieces) - 1
        messages = [{"type": "http.request", "body": piece, "more_body": at < last} for at, piece in enumerate(pieces)]
        return cls(*messages)

    def leave(self) -> None:
        self._gone.set()

    async def __call__(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self._gone.wait()
        return LEFT


def some(body: bytes) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": True}


async def collected(body: bytes | AsyncIterator[bytes]) -> list[bytes]:
    return [body] if isinstance(body, bytes) else [piece async for piece in body]


def cancellations() -> int:
    """Those that wait to hit the running test."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


async def turns() -> None:
    """Lets everybody else take their turn a few times."""
    for _ in range(5):
        await asyncio.sleep(0)


# -- the body


@pytest.mark.parametrize("pieces", [[b""], [b"whole"], [b"in ", b"", b"pieces"], [b"", b"late"], [b"early", b""]])
async def test_a_body_is_the_same_in_one_piece_and_in_many(pieces: list[bytes]) -> None:
    assert await Client(Caller.sending(*pieces), max_bytes=100).body() == b"".join(pieces)
    streamed = await Client(Caller.sending(*pieces), max_bytes=100).stream()
    assert b"".join(await collected(streamed)) == b"".join(pieces)
    assert isinstance(streamed, bytes) == (len(pieces) == 1)


async def test_a_message_without_a_body_is_the_end_of_an_empty_one() -> None:
    assert await Client(Caller({"type": "http.request"}), max_bytes=0).body() == b""


@pytest.mark.parametrize("pieces", [[b"12345"], [b"123", b"45"], [b"", b"12345"], [b"1234", b"5", b""]])
async def test_a_body_may_be_as_large_as_the_limit_and_not_larger(pieces: list[bytes]) -> None:
    assert await Client(Caller.sending(*pieces), max_bytes=5).body() == b"12345"
    assert b"".join(await collected(await Client(Caller.sending(*pieces), max_bytes=5).stream())) == b"12345"
    with pytest.raises(BodyTooLarge, match="at most 4 bytes"):
        await Client(Caller.sending(*pieces), max_bytes=4).body()
    with pytest.raises(BodyTooLarge, match="at most 4 bytes"):
        await collected(await Client(Caller.sending(*pieces), max_bytes=4).stream())


async def test_a_caller_who_leaves_in_its_body_is_gone() -> None:
    for messages in ([LEFT], [some(b"half"), LEFT]):
        with pytest.raises(ClientGone):
            await Client(Caller(*messages), max_bytes=100).body()
        with pytest.raises(ClientGone):
            await collected(await Client(Caller(*messages), max_bytes=100).stream())


# -- leaving


async def test_a_caller_who_leaves_ends_the_waiting() -> None:
    caller = Caller.sending(b"body")
    client = Client(caller, max_bytes=100)
    body = await client.body()
    asyncio.get_running_loop().call_soon(caller.leave)
    with pytest.raises(ClientGone):
        async with client.listening(body):
            await asyncio.sleep(60)
    await asyncio.sleep(0)
    assert cancellations() == 0


async def test_a_caller_who_stays_changes_nothing_and_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    client = Client(Caller.sending(b"body"), max_bytes=100)
    async with client.listening(await client.body()):
        await turns()
    await turns()
    assert asyncio.all_tasks() == before


async def test_a_caller_who_leaves_after_the_answer_has_not_left_early() -> None:
    caller = Caller.sending(b"body")
    client = Client(caller, max_bytes=100)
    async with client.listening(await client.body()):
        client.answered = True
        caller.leave()
        await turns()


async def is_gone(
    client: Client, body: bytes | AsyncIterator[bytes], upload: Callable[[], Awaitable[None]], caller: Caller
) -> bool:
    """Whether a caller is heard who leaves after `upload`, while the provider is awaited."""
    try:
        async with client.listening(body), asyncio.timeout(1):
            await upload()
            caller.leave()
            await asyncio.Event().wait()
    except ClientGone:
        return True
    except TimeoutError:
        return False
    raise AssertionError


async def test_a_streamed_body_is_listened_behind_once_it_is_whole() -> None:
    caller = Caller.sending(b"two", b"pieces")
    client = Client(caller, max_bytes=100)
    body = await client.stream()

    async def upload() -> None:
        assert await collected(body) == [b"two", b"pieces"]

    assert await is_gone(client, body, upload, caller)


@pytest.mark.parametrize("read", ["nothing", "one piece", "until it was cancelled", "all of it"])
async def test_a_caller_is_listened_to_once_nobody_wants_the_rest_of_its_body(read: str) -> None:
    caller = Caller.sending(b"one", b"two") if read == "all of it" else Caller(some(b"one"))
    client = Client(caller, max_bytes=100)
    body = await client.stream()
    assert isinstance(body, AsyncGenerator)

    async def upload() -> None:
        if read == "one piece":
            assert await anext(body) == b"one"
            await body.aclose()
        elif read != "nothing":
            task = asyncio.create_task(collected(body))
            await turns()
            task.cancel()
            await turns()
        client.body_unwanted()

    assert await is_gone(client, body, upload, caller)


async def test_what_nobody_wants_of_a_body_is_read_and_thrown_away() -> None:
    caller = Caller(some(b"one"), some(b"two"), some(b"three"), LEFT)
    client = Client(caller, max_bytes=3)
    body = await client.stream()

    async def upload() -> None:
        client.body_unwanted()

    assert await is_gone(client, body, upload, Caller())


async def test_an_upload_that_ends_after_the_request_is_not_listened_behind() -> None:
    client = Client(Caller.sending(b"one", b"two"), max_bytes=100)
    body = await client.stream()
    before = asyncio.all_tasks()
    async with client.listening(body):
        pass
    assert await collected(body) == [b"one", b"two"]
    await turns()
    assert asyncio.all_tasks() == before


async def test_the_servers_own_cancellation_stays_one() -> None:
    caller = Caller.sending(b"body")
    client = Client(caller, max_bytes=100)

    async def work() -> None:
        async with client.listening(await client.body()):
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_provider_stays_what_it_is() -> None:
    client = Client(Caller.sending(b"body"), max_bytes=100)
    body = await client.body()
    with pytest.raises(AnswerBroken):
        async with client.listening(body):
            raise AnswerBroken


async def test_a_caller_who_leaves_while_its_last_wait_ends_leaves_no_cancellation_behind() -> None:
    caller = Caller.sending(b"body")
    client = Client(caller, max_bytes=100)
    body = await client.body()
    done = asyncio.Event()

    async def stubborn() -> None:
        try:
            await done.wait()
        except asyncio.CancelledError:
            return  # As `send` may: what it was doing was finished at that moment.

    async with client.listening(body):
        caller.leave()
        await stubborn()
    await asyncio.sleep(0)
    assert cancellations() == 0
