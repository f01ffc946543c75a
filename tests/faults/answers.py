"""Counts the answers to records of content.events by the records' places: their partition and offset.

A place names one record whatever its key and content are. When content.events is created again, places begin again:
each time is a generation. The suite lets every answer arrive before that, so an answer's own time tells its generation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Literal, NamedTuple

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import DeadLetter, Escalation, Verdict, decode

Expected = Literal["verdict", "dead letter", "at most one more"]


class Place(NamedTuple):
    generation: int
    partition: int
    offset: int


class Sent(NamedTuple):
    """A record that the broker accepted: what it is an example of, and how it must be answered."""

    kind: str
    expected: Expected
    size: int | None


class Answers:
    """What was sent and what came back. created: when content.events was created again, in ms since 1970."""

    def __init__(self) -> None:
        self.sent: dict[Place, Sent] = {}
        self.created: list[int] = []
        self.clear()

    def clear(self) -> None:
        """Forget what came back; what was sent is kept."""
        self.topics: Counter[str] = Counter()
        self.whole = 0  # dead letters that hold the value of their record, or its size where it was too large
        self.strange: Counter[str] = Counter()  # dead letters of later stages, by stage
        self._decided: Counter[Place] = Counter()  # cleared, or escalated live
        self._dead: Counter[Place] = Counter()
        self._escalated: defaultdict[Place, Counter[tuple[str, str]]] = defaultdict(Counter)
        self._judged: defaultdict[Place, Counter[tuple[str, str]]] = defaultdict(Counter)

    @property
    def generation(self) -> int:
        return len(self.created)

    def add(self, partition: int, offset: int, sent: Sent) -> None:
        """Note a record that the broker accepted."""
        self.sent[Place(self.generation, partition, offset)] = sent

    def take(self, record) -> None:
        """Count one record of an output topic."""
        self.topics[record.topic] += 1
        if record.topic == topics.DEAD_LETTERS:
            self._take_dead_letter(record)
        elif record.topic == topics.CLEARED:
            self._decided[self._place(record, decode(record.value, Verdict).origin)] += 1
        elif record.topic == topics.VERDICTS:
            verdict = decode(record.value, Verdict)
            self._judged[self._place(record, verdict.origin)][verdict.policy_id, verdict.lane] += 1
        else:
            escalation = decode(record.value, Escalation)
            place = self._place(record, escalation.origin)
            self._escalated[place][escalation.policy_id, escalation.lane] += 1
            if escalation.lane == "live":  # the suite has one policy
                self._decided[place] += 1

    def _take_dead_letter(self, record) -> None:
        letter = decode(record.value, DeadLetter)
        if letter.origin.topic != topics.EVENTS:
            self.strange[letter.stage] += 1
            return
        place = self._place(record, f"{letter.origin.partition}@{letter.origin.offset}")
        self._dead[place] += 1
        if place in self.sent:
            self.whole += _size(letter) == self.sent[place].size

    def _place(self, record, origin: str | None) -> Place:
        partition, _, offset = (origin or "-1@-1").partition("@")
        generation = sum(moment <= record.timestamp for moment in self.created)
        return Place(generation, int(partition), int(offset))

    # ------------------------------------------------------------------ figures

    def missing(self) -> list[Place]:
        """Places of this and former generations without their whole answer."""
        return [place for place, sent in self.sent.items() if not self._complete(place, sent)]

    def _complete(self, place: Place, sent: Sent) -> bool:
        if sent.expected == "at most one more":
            return all(self._judged[place][ask] >= count for ask, count in self._escalated[place].items())
        if sent.expected == "dead letter":
            return self._dead[place] > 0
        judged = all(self._judged[place][ask] >= count for ask, count in self._escalated[place].items())
        return self._decided[place] > 0 and judged

    def duplicates(self) -> list[Place]:
        """Places with more than one answer, also such as nothing was sent to."""
        places = {*self._decided, *self._dead, *self._escalated, *self._judged}
        return [place for place in places if self._doubled(place)]

    def _doubled(self, place: Place) -> bool:
        asked = self._escalated[place]
        return (
            place not in self.sent
            or self._decided[place] + self._dead[place] > 1
            or any(count > 1 for count in asked.values())
            or any(count > asked[ask] for ask, count in self._judged[place].items())
        )

    def wrong(self) -> Counter[str]:
        """Kinds of records that got the other kind of answer: a valid event in the dead letters, or the reverse."""
        found: Counter[str] = Counter()
        for place, sent in self.sent.items():
            wrong = self._dead if sent.expected == "verdict" else self._decided
            if sent.expected != "at most one more" and wrong[place]:
                found[sent.kind] += 1
        return found

    def kinds(self, places: list[Place]) -> Counter[str]:
        """What the records at these places are examples of."""
        return Counter(self.sent[place].kind if place in self.sent else "nothing was sent" for place in places)


def _size(letter: DeadLetter) -> int | None:
    """The bytes of the original's value, also of one that was too large to keep."""
    if "value" in letter.left_out:
        return letter.value_bytes
    value = letter.original().value
    return None if value is None else len(value)
