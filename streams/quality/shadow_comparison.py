"""A shadow compared with the version in force, by their verdicts on the same content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import NamedTuple

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Decision, Verdict
from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.quality.proportions import Proportion, weighted_proportion
from safeguard_streams.quality.verdict_labels import decided
from safeguard_streams.releases.erasures import ErasureList, without_words
from safeguard_streams.releases.texts import TextPlace, texts_at
from safeguard_streams.runtime.settings import Settings

MAX_EXAMPLES = 20


class ShadowFlip(msgspec.Struct, frozen=True):
    """One content item that the two versions judge differently. The reasons are the verdicts' short ones.

    origin: where the event stands on content.events, as 3@1042. text: None where it was not asked for, or is not there
    to be read.
    """

    content_id: str
    content_sha256: str
    live: Decision
    shadow: Decision
    live_rules: tuple[str, ...]
    shadow_rules: tuple[str, ...]
    live_reason: str | None
    shadow_reason: str | None
    origin: str | None = None
    text: str | None = None

    @property
    def place(self) -> TextPlace:
        """The text that both versions judged."""
        return TextPlace(self.content_id, self.content_sha256, self.origin)


class BothShares(NamedTuple):
    """A share of each version."""

    live: Proportion
    shadow: Proportion


class BothCounts(NamedTuple):
    """A count of each version's verdicts."""

    live: int
    shadow: int


class Comparison(msgspec.Struct, frozen=True):
    """How a shadow and the version in force decide about the content that was drawn for the shadow.

    both: content items that both judged. agree, to_violates, to_safe and undetermined split them: equal decisions,
    flips each way as seen from the version in force, and items that one version left undetermined. only_shadow: of the
    items that only the shadow's gates escalate, those that violate. only_live: of the items that the shadow's gates let
    pass, those that violate by the version in force. violating: of all items drawn, those that violate, with each
    version's gates taken into account. waiting: items that the shadow judged and the version in force has not judged
    yet. rules: violating verdicts that cite a rule. tokens: prompt and completion tokens of all the shadow's verdicts.
    """

    policy_id: str
    live_versions: dict[str, int]
    shadow_version: str
    both: int
    agree: Proportion
    to_violates: Proportion
    to_safe: Proportion
    undetermined: Proportion
    only_shadow: Proportion
    only_live: Proportion
    violating: BothShares
    waiting: int
    rules: dict[str, BothCounts]
    tokens: int
    examples: list[ShadowFlip]


class PairOutcome(Enum):
    """What a shadow's verdict and the live one on the same content item say together."""

    WAITING = auto()  # the version in force has not judged the item yet
    ONLY_SHADOW = auto()  # the version in force let the item pass
    AGREE = auto()
    TO_VIOLATES = auto()
    TO_SAFE = auto()
    UNDETERMINED = auto()


class ShadowPair(NamedTuple):
    """A shadow's verdict on a content item, and that of the version in force, if there is one."""

    shadow: Verdict
    live: Verdict | None

    @property
    def outcome(self) -> PairOutcome:
        if self.live is None:
            result = self.shadow.prefilter
            return PairOutcome.WAITING if result is not None and result.live else PairOutcome.ONLY_SHADOW
        if "undetermined" in (self.live.decision, self.shadow.decision):
            return PairOutcome.UNDETERMINED
        if self.live.decision == self.shadow.decision:
            return PairOutcome.AGREE
        return PairOutcome.TO_VIOLATES if self.shadow.decision == "violates" else PairOutcome.TO_SAFE

    @property
    def passed(self) -> bool:
        """Whether the shadow's gates let the item pass; it was judged because those in force escalated it."""
        return self.shadow.prefilter is not None and self.shadow.prefilter.gate == "live"

    @property
    def weight(self) -> float:
        """The number of items that this one stands for: it was drawn at the shadow's share of content."""
        rate = self.shadow.prefilter.rate if self.shadow.prefilter else None
        return 1 / rate if rate and 0 < rate <= 1 else 1.0

    @property
    def live_violates(self) -> bool:
        return self.live is not None and self.live.decision == "violates"

    @property
    def shadow_violates(self) -> bool:
        """Whether the shadow's text finds a violation, whatever its gates do."""
        return self.shadow.decision == "violates"


def compare(
    policy_id: str, live: Iterable[Verdict], shadows: Iterable[Verdict], version: str | None = None
) -> Comparison:
    """Join verdicts on content id and hash. version names the shadow; the default is the version judged last.

    Of several verdicts on one content item the last counts.
    """
    of_policy = [v for v in shadows if v.policy_id == policy_id and v.lane == "shadow"]
    if version is None and of_policy:
        version = max(of_policy, key=decided).policy_version
    by_shadow = _newest(v for v in of_policy if v.policy_version == version)
    in_force = _newest(v for v in live if v.policy_id == policy_id and v.lane in ("live", "audit"))
    pairs = [
        ShadowPair(verdict, None if _let_pass(verdict) else in_force.get(key)) for key, verdict in by_shadow.items()
    ]
    drawn = [pair for pair in pairs if pair.outcome is not PairOutcome.WAITING]
    only_shadow = [pair for pair in drawn if pair.live is None]
    both = [pair for pair in drawn if pair.live is not None]
    only_live = [pair for pair in both if pair.passed]

    def ended(outcome: PairOutcome) -> Proportion:
        return _share(both, lambda pair: pair.outcome is outcome)

    return Comparison(
        policy_id=policy_id,
        live_versions=dict(Counter(pair.live.policy_version for pair in both if pair.live)),
        shadow_version=version or "",
        both=len(both),
        agree=ended(PairOutcome.AGREE),
        to_violates=ended(PairOutcome.TO_VIOLATES),
        to_safe=ended(PairOutcome.TO_SAFE),
        undetermined=ended(PairOutcome.UNDETERMINED),
        only_shadow=_share(only_shadow, lambda pair: pair.shadow_violates),
        only_live=_share(only_live, lambda pair: pair.live_violates),
        violating=BothShares(
            _share(drawn, lambda pair: pair.live_violates),
            _share(drawn, lambda pair: pair.shadow_violates and not pair.passed),
        ),
        waiting=len(pairs) - len(drawn),
        rules=_rules(drawn),
        tokens=sum(v.tokens.prompt + v.tokens.completion for v in by_shadow.values() if v.tokens),
        examples=_examples(both),
    )


def _let_pass(shadow: Verdict) -> bool:
    """Whether the gates in force let the item pass. An audit may have judged it all the same."""
    return shadow.prefilter is not None and shadow.prefilter.live is False


def _share(pairs: Sequence[ShadowPair], counts: Callable[[ShadowPair], bool]) -> Proportion:
    """A share of content: pairs drawn while the shadow saw a smaller share of it stand for more of it."""
    return weighted_proportion([counts(pair) for pair in pairs], [pair.weight for pair in pairs])


def _newest(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    """The last verdict by content id and hash."""
    newest: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        key = (verdict.content_id, verdict.content_sha256)
        current = newest.get(key)
        if current is None or decided(current) <= decided(verdict):
            newest[key] = verdict
    return newest


def _rules(drawn: Sequence[ShadowPair]) -> dict[str, BothCounts]:
    live = Counter(rule for pair in drawn if pair.live and pair.live_violates for rule in pair.live.rule_ids)
    shadow = Counter(rule for pair in drawn if pair.shadow_violates for rule in pair.shadow.rule_ids)
    return {rule: BothCounts(live[rule], shadow[rule]) for rule in sorted(live | shadow)}


def _examples(both: Sequence[ShadowPair]) -> list[ShadowFlip]:
    """The first items about which the versions decide differently."""
    flips = [
        ShadowFlip(
            content_id=pair.live.content_id,
            content_sha256=pair.live.content_sha256,
            live=pair.live.decision,
            shadow=pair.shadow.decision,
            live_rules=pair.live.rule_ids,
            shadow_rules=pair.shadow.rule_ids,
            live_reason=pair.live.reason,
            shadow_reason=pair.shadow.reason,
            origin=pair.shadow.origin,
        )
        for pair in both
        if pair.live and pair.live.decision != pair.shadow.decision
    ]
    return flips[:MAX_EXAMPLES]


async def from_kafka(
    settings: Settings,
    policy_id: str,
    version: str | None = None,
    since: datetime | None = None,
    *,
    texts: bool = True,
) -> Comparison:
    """Compare the verdicts that are on moderation.verdicts and moderation.replays now.

    since: when the oldest verdict to read was written; by default all. texts: whether to read the texts of the
    examples. Raises ConfigurationError when no shadow judged under the version.
    """
    erasures = ErasureList()
    await erasures.read(settings)
    read = kafka.read_decoded(settings, [topics.REPLAYS], Verdict, since=since)
    shadows = [
        without_words(v, erasures.erased) async for _, v in read if v.policy_id == policy_id and v.lane == "shadow"
    ]
    versions = {v.policy_version for v in shadows}
    if version is not None and version not in versions:
        raise ConfigurationError(f"no shadow of {policy_id} judged under version {version}{choices(version, versions)}")
    judged = {v.content_id for v in shadows}
    read = kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since)
    live = [
        without_words(v, erasures.erased) async for _, v in read if v.policy_id == policy_id and v.content_id in judged
    ]
    comparison = compare(policy_id, live, shadows, version)
    found = await texts_at(settings, [flip.place for flip in comparison.examples if texts], erasures.erased)
    examples = [msgspec.structs.replace(flip, text=found.get(flip.place)) for flip in comparison.examples]
    return msgspec.structs.replace(comparison, examples=examples)
