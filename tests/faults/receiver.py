"""A webhook receiver that misbehaves: down, answering 500 before or after its work, late, twice or not at all.

It honours the key: it answers a repeated message and does not apply it again.
"""

import asyncio
import json
import random
from collections import Counter, defaultdict

from standardwebhooks import Webhook

SECRET = "whsec_" + "c2FmZWd1YXJkIHRlc3RzIG9ubHksIG5vIHNlY3JldCE="
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"
MOODS = {"well": 70, "fails before": 8, "fails after": 7, "says nothing": 5, "late": 5, "twice": 5}


class Receiver:
    """Speaks HTTP without a library, because a correct server cannot misbehave in these ways."""

    def __init__(self, port, late, seed, moods=None):
        self.port, self.late = port, late
        self.random = random.Random(seed)
        self.moods = MOODS if moods is None else moods
        self.had = {}  # keys to messages, as they were applied, in order
        self.of_content = defaultdict(list)
        self.of_author = defaultdict(list)
        self.requests = Counter()
        self.checker = Webhook(SECRET)
        self._server = None
        self._open = set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self):
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._open.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.CancelledError,
        ):  # the receiver was stopped, or the caller disconnected
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n"))
        }
        body = await reader.readexactly(int(headers["content-length"]))
        self.checker.verify(body, headers)  # raises when the signature is not that of the body
        (mood,) = self.random.choices(list(self.moods), list(self.moods.values()))
        self.requests[mood] += 1
        if mood == "fails before":
            writer.write(FAILED)
            return True
        if mood == "late":
            await asyncio.sleep(self.late)
        self._apply(headers["webhook-id"], json.loads(body))
        if mood == "says nothing":
            return False
        writer.write(FAILED if mood == "fails after" else OK * 2 if mood == "twice" else OK)
        await writer.drain()
        return mood != "twice"

    def _apply(self, key, message):
        if key not in self.had:
            self.had[key] = message
            data = message["data"]
            if message["type"] == "author-action":
                self.of_author[data["author_id"]].append(data)
            else:
                self.of_content[data["content_id"]].append(data)

    def stands(self):
        """The action in effect by content id, as far as the receiver knows."""
        found = {content: had[-1].get("effective", had[-1]["action"]) for content, had in self.of_content.items()}
        return {content: action for content, action in found.items() if action != "allow"}
