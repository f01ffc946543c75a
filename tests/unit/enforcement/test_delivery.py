"""Odd answers of a webhook's receiver."""

import asyncio
import contextlib

import pytest

from safeguard_streams.contract.records import Action, now
from safeguard_streams.enforcement.delivery import Delivery, message_for, receiver_session
from safeguard_streams.enforcement.rules import Webhook

MESSAGE = message_for(Action("a1", "c1", "remove", now()), 0)


@contextlib.asynccontextmanager
async def receiver(answer):
    """A receiver that answers every message with these bytes."""

    async def answered(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield Webhook(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


@pytest.mark.parametrize("encoding", [b"br", b"zstd", b"gzip", b"unheard-of", b"gzip, br"])
async def test_a_message_is_delivered_whatever_the_encoding_of_the_answer(encoding):
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: " + encoding + b"\r\nContent-Length: 5\r\n\r\nhello"
    async with receiver(answer) as webhook, receiver_session() as http:
        assert (await Delivery(webhook, b"k" * 24, http)._attempt(MESSAGE)).outcome == "delivered"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
        b"HTTP/1.1 301 Moved\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 Full\r\nRetry-After: Mon, 01 Jan 0001 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    ],
)
async def test_what_is_no_acceptance_is_a_failure_of_the_receiver(answer):
    async with receiver(answer) as webhook, receiver_session() as http:
        attempt = await Delivery(webhook, b"k" * 24, http)._attempt(MESSAGE)
    assert (attempt.outcome, attempt.retry_after) == ("failed", 0.0)
