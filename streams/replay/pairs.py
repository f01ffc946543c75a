"""What a replay changes about one content item: the rule that its differences, promotion and reversion share.

Of an edited item, only the newest text counts, and only verdicts on that text. Events of one partition of
content.events have the order of their offsets. The last ones of several partitions, and texts whose places are unknown,
are ordered by the earliest time at which a stage is known to have passed them on. A time in the future tells nothing.

Texts are known from the replay's escalations, and from verdicts under any policy, those that cleared a text included.
The order in which they are added does not matter; the verdicts of one topic are added in its order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Direction, Verdict, aware, came_later, place_of, verdict_id

Outcome = Literal[
    "waiting", "unknown", "erased", "edited", "judged_since", "undetermined", "same", "to_violates", "to_safe"
]
"""What becomes of an item. to_violates and to_safe are flips, which a promotion writes.

waiting: the newest text is not judged yet. unknown: the earlier verdict no longer exists. edited: a newer text was
judged or cleared, which the replay did not escalate. judged_since: a verdict is newer than the replay's. undetermined:
the replay reached no decision.
"""
COMPARED: frozenset[Outcome] = frozenset({"undetermined", "same", "to_violates", "to_safe"})
FLIPS: frozenset[Outcome] = frozenset({"to_violates", "to_safe"})
JUDGED = (topics.VERDICTS, topics.CLEARED)  # where every text that was decided about has a verdict
UNKNOWN_TIME = math.inf
_SKEW = 3600.0  # seconds by which the clocks of hosts may differ


def passed_on_at(verdict: Verdict) -> float:
    """When a stage passed a verdict's event on to be judged, or cleared it, in seconds since 1970."""
    spent = sum(milliseconds for name, milliseconds in verdict.latency.items() if name != "queue")
    moment = aware(verdict.decided_at).timestamp() - spent / 1000
    return moment if math.isfinite(moment) else UNKNOWN_TIME


def _if_past(moment: float) -> float:
    return moment if moment <= time.time() + _SKEW else UNKNOWN_TIME


class _Event(NamedTuple):
    """The last known event of an item in a partition. passed_on_at: the earliest known time, or UNKNOWN_TIME."""

    offset: int
    passed_on_at: float
    text: str

    @property
    def order(self) -> tuple[float, str]:
        """The order of events that have no order of offsets. Those whose time is unknown come first."""
        return self.passed_on_at if self.passed_on_at < UNKNOWN_TIME else -math.inf, self.text


class _Judged:
    """What is known about one text that the replay escalated.

    after is the replay's last verdict. before is the last verdict that stood before its promotion. promoted: whether
    the replay's verdict was ever promoted; stands: whether it is the newest.
    """

    __slots__ = ("after", "before", "erased", "promoted", "stands")

    def __init__(self) -> None:
        self.after: Verdict | None = None
        self.before: Verdict | None = None
        self.erased = False
        self.promoted = False
        self.stands = False

    def add(self, verdict: Verdict) -> None:
        """Take a verdict under the replay's policy, in the order of the topic."""
        after = self.after
        if after is None or verdict.policy_id != after.policy_id:
            return
        own = verdict.replay_id == after.replay_id
        self.stands = own and verdict.verdict_id == superseding_id(after, "promote")
        self.promoted |= self.stands
        if not (self.promoted or (own and verdict.verdict_id == superseding_id(after, "revert"))):
            self.before = verdict

    @property
    def outcome(self) -> Outcome:
        if self.after is None:
            return "waiting"
        if self.erased:
            return "erased"
        gated = self.after.prefilter
        if self.before is None and gated is not None and gated.live:
            return "unknown"
        if self.before is not None and _is_newer(self.before, self.after):
            return "judged_since"
        before = "safe" if self.before is None else self.before.decision
        if self.after.decision == before:
            return "same"
        flips: dict[str, Outcome] = {"violates": "to_violates", "safe": "to_safe"}
        return flips.get(self.after.decision, "undetermined")


def _is_newer(verdict: Verdict, than: Verdict) -> bool:
    decided = _if_past(aware(verdict.decided_at).timestamp())
    return UNKNOWN_TIME > decided > aware(than.decided_at).timestamp()


def superseding_id(after: Verdict, direction: Direction) -> str:
    """The id of the verdict that promotes a replay's verdict, or takes it back."""
    return verdict_id(after.verdict_id, direction)


class Pair:
    """A content item that a replay escalated, and all verdicts on it. The replay's own are added first.

    partition holds the item on the verdicts' topics.
    """

    __slots__ = ("_last", "_texts", "partition")

    def __init__(self) -> None:
        self.partition = 0
        self._last: dict[int | str, _Event] = {}  # by partition of content.events, or else by text
        self._texts: dict[str, _Judged] = {}  # by hash

    def escalated(self, text: str, origin: str | None, at: float) -> None:
        """Take a text that the replay escalated. text: its hash; at: the time, in seconds since 1970."""
        self._see(text, origin, at)
        self._text(text)

    def replayed(self, verdict: Verdict, at: float, *, erased: bool = False) -> None:
        """Take a verdict of the replay; at: when its event was passed on. Of one text, the last event's counts."""
        self._see(verdict.content_sha256, verdict.origin, at)
        text = self._text(verdict.content_sha256)
        if text.after is None or not came_later(text.after.origin, verdict.origin):
            text.after, text.erased = verdict, erased

    def add(self, verdict: Verdict, at: float) -> None:
        """Take a verdict of moderation.verdicts or moderation.cleared; at: when its event was passed on."""
        self._see(verdict.content_sha256, verdict.origin, at)
        if (text := self._texts.get(verdict.content_sha256)) is not None:
            text.add(verdict)

    def _text(self, text: str) -> _Judged:
        return self._texts.setdefault(text, _Judged())

    def _see(self, text: str, origin: str | None, at: float) -> None:
        at = _if_past(at)
        partition, offset = place_of(origin) or (text, 0)
        known = self._last.get(partition)
        if known is None or offset > known.offset:
            self._last[partition] = _Event(offset, at, text)
        elif offset == known.offset:
            self._last[partition] = _Event(offset, min(at, known.passed_on_at), max(text, known.text))

    @property
    def newest_text(self) -> str:
        """The hash of the item's newest text."""
        return max(self._last.values(), key=lambda event: event.order).text

    @property
    def outcome(self) -> Outcome:
        """What becomes of the item."""
        text = self._newest
        return "edited" if text is None else text.outcome

    @property
    def after(self) -> Verdict | None:
        """The replay's verdict on the newest text, if there is one."""
        text = self._newest
        return None if text is None else text.after

    @property
    def before(self) -> Verdict | None:
        """The verdict on the newest text that stood before; None where the text was cleared, or its verdict is gone."""
        text = self._newest
        return None if text is None else text.before

    @property
    def promoted(self) -> bool:
        """Whether a verdict of the replay on the item was ever promoted, and the item was not erased since."""
        return any(text.promoted and not text.erased for text in self._texts.values())

    @property
    def to_promote(self) -> bool:
        """Whether the item flips, and its verdict was not promoted yet."""
        text = self._newest
        return text is not None and text.outcome in FLIPS and not text.promoted

    @property
    def to_revert(self) -> bool:
        """Whether the newest verdict on the newest text is the promoted one."""
        text = self._newest
        return text is not None and text.stands and not text.erased

    def changes(self, direction: Direction) -> bool:
        """Whether a promotion, or a reversion, writes a verdict on the item."""
        return self.to_promote if direction == "promote" else self.to_revert

    def replace(self, other: Callable[[Verdict], Verdict]) -> None:
        """Replace the verdicts on the newest text by equivalent ones."""
        text = self._newest
        if text is not None:
            text.before, text.after = (None if one is None else other(one) for one in (text.before, text.after))

    @property
    def _newest(self) -> _Judged | None:
        return self._texts.get(self.newest_text)
