"""Ids that look like those of real items, for golden items."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import islice
from random import SystemRandom
from uuid import uuid4

_TRIES = 50  # ids that look like others, of which some are taken
_OTHERS = 20  # ids that one is made of: of many, an id with a time or a number in it would be of another time
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)
_PART = re.compile(r"[0-9A-Za-z]+")
_random = SystemRandom()


def disguise(like: str, others: Sequence[str], taken: Collection[str]) -> str | None:
    """An id like that of a real item. It resembles no single one: a reader of the queue sees many of them.

    Each sign of an id that looks random is one that some id has in its place, and the id sorts between others. A number
    lies between those of items that are known, so that the platform's own ids do not reach it later.

    others: those of about the same time first. taken: ids in use. Returns None where no such id is found, as in a queue
    whose ids do not say what may vary.
    """
    alike = (one for one in others if _shape(one) == _shape(like))
    known = sorted({like, *islice(alike, _OTHERS)})
    made = (_uuid(like) if _UUID4.search(like) else _made(like, known) for _ in range(_TRIES))
    return next((one for one in made if one is not None and one not in taken and one not in known), None)


def _shape(content_id: str) -> str:
    """Equal for ids that differ in their numbers, or in what looks random, alone: it holds letters and digits."""

    def kind(part: re.Match[str]) -> str:
        return part[0] if part[0].isalpha() else ("0" if part[0].isdecimal() else "x") * len(part[0])

    return _PART.sub(kind, content_id)


def _uuid(like: str) -> str:
    found = _UUID4.search(like)
    new = str(uuid4())
    return _UUID4.sub(new if found is None or found[0].lower() == found[0] else new.upper(), like, count=1)


def _made(like: str, known: Sequence[str]) -> str | None:
    signs = [sorted(set(column)) for column in zip(*known, strict=True)] if len({*map(len, known)}) == 1 else []
    varied = [place for place, column in enumerate(signs) if len(column) > 1]
    if not varied:
        return None
    first, end = varied[0], varied[-1] + 1
    if all(one[first:end].isdecimal() and one[first:end].isascii() for one in known):
        lowest, highest = int(known[0][first:end]), int(known[-1][first:end])
        return like[:first] + str(_random.randint(lowest, highest)).zfill(end - first) + like[end:]
    chosen = list(like)
    for place in varied:
        chosen[place] = _random.choice(signs[place])
    made = "".join(chosen)
    return made if known[0] < made < known[-1] else None  # an id may begin with a time
