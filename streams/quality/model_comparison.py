"""A canary's model compared with the live one, by their verdicts on the same events under the same policy version."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec
import numpy as np

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Canary, Decision, Verdict, place_of
from safeguard_streams.errors import ConfigurationError, choices
from safeguard_streams.policies.vocabulary import EFFORTS
from safeguard_streams.prefilter.sampling import is_drawn
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.quality.verdict_labels import decided
from safeguard_streams.releases.erasures import ErasureList, without_words
from safeguard_streams.releases.texts import TextPlace, texts_at
from safeguard_streams.runtime.settings import Settings

DRAW = "canary"  # the draw of items: every canary judges the same ones, up to its share
MAX_EXAMPLES = 20  # of each policy


class Distribution(msgspec.Struct, frozen=True):
    """A figure over several verdicts."""

    of: int
    median: float
    mean: float
    p90: float


class ModelFigures(msgspec.Struct, frozen=True):
    """One model's verdicts in the pairs.

    models: verdicts by the model's name and revision. undetermined, malformed, constrained: of all verdicts; with at
    least one rejected output; and those whose answer the model wrote once more, held to the form. reused: verdicts that
    share the judgement of identical content, and count in none of the other figures. tokens: prompt and completion
    together. completion: tokens that the model wrote. latency: milliseconds in the stage of the model.
    """

    models: dict[str, int]
    undetermined: Proportion
    malformed: Proportion
    constrained: Proportion
    reused: int
    tokens: Distribution | None
    completion: Distribution | None
    latency: Distribution | None


class ModelFlip(msgspec.Struct, frozen=True):
    """One event that the two models judge differently. The reasons are the verdicts' short ones.

    origin: where the event stands on content.events, as 3@1042. text: None where it was not asked for, or is not there
    to be read.
    """

    content_id: str
    content_sha256: str
    live: Decision
    canary: Decision
    live_rules: tuple[str, ...]
    canary_rules: tuple[str, ...]
    live_reason: str | None
    canary_reason: str | None
    origin: str | None = None
    text: str | None = None

    @property
    def place(self) -> TextPlace:
        """The text that both models judged."""
        return TextPlace(self.content_id, self.content_sha256, self.origin)


class Unpaired(msgspec.Struct, frozen=True):
    """Verdicts of one model without one of the other.

    other_version: events that the models judged under different versions of the policy, as around a release.
    only_canary: events that the live model has not judged, or whose verdict is older than what was read. only_live:
    events within what the canary has worked on, which it did not judge. waiting: events behind that.
    """

    other_version: int
    only_canary: int
    only_live: int
    waiting: int


class PolicyComparison(msgspec.Struct, frozen=True):
    """How the two models decide under one policy.

    pairs: events that both judged. agree, to_violates, to_safe and undetermined split those of which at least one model
    made a judgement of its own: equal decisions, flips each way as seen from the live model, and events that one of
    them left undetermined. noise: repeated judgements of the
    live model that differ from its first; None where nothing was judged twice. lower_effort: pairs that the live model
    judged at a lower effort, because it lagged.
    """

    policy_id: str
    versions: dict[str, int]
    pairs: int
    agree: Proportion
    to_violates: Proportion
    to_safe: Proportion
    undetermined: Proportion
    noise: Proportion | None
    lower_effort: int
    live: ModelFigures
    canary: ModelFigures
    unpaired: Unpaired
    examples: list[ModelFlip]


class ModelComparison(msgspec.Struct, frozen=True):
    """A canary compared with the live model, policy by policy."""

    canary: Canary
    policies: list[PolicyComparison]


class _Event(NamedTuple):
    """What two judgements have in common, whatever the version of the policy."""

    content_id: str
    content_sha256: str
    policy_id: str
    origin: str | None

    @classmethod
    def of(cls, verdict: Verdict) -> _Event:
        return cls(verdict.content_id, verdict.content_sha256, verdict.policy_id, verdict.origin)


class _Judged(NamedTuple):
    event: _Event
    version: str

    @classmethod
    def of(cls, verdict: Verdict) -> _Judged:
        return cls(_Event.of(verdict), verdict.policy_version)


class ModelPair(NamedTuple):
    """Two models' verdicts on one event under one version of a policy."""

    live: Verdict
    canary: Verdict

    @property
    def undetermined(self) -> bool:
        return "undetermined" in (self.live.decision, self.canary.decision)

    @property
    def reused(self) -> bool:
        """Whether both models reused what they had decided about identical content, which is no new evidence."""
        return self.live.cached and self.canary.cached

    @property
    def agrees(self) -> bool:
        return not self.undetermined and self.live.decision == self.canary.decision

    @property
    def flips(self) -> bool:
        """Whether both decide, and differ."""
        return not self.undetermined and not self.agrees

    def flips_to(self, decision: Decision) -> bool:
        """Whether both decide, and the canary decides so against the live model."""
        return self.flips and self.canary.decision == decision

    @property
    def lower_effort(self) -> bool:
        """Whether the live model judged at a lower effort."""
        efforts = self.live.reasoning_effort, self.canary.reasoning_effort
        return None not in efforts and EFFORTS.index(efforts[0]) < EFFORTS.index(efforts[1])


def compare(canary: Canary, live: Iterable[Verdict], others: Iterable[Verdict]) -> ModelComparison:
    """Join verdicts on event, text, policy and version. Of several verdicts on the same, the last counts.

    live: those of moderation.verdicts. others: those of moderation.replays, of canaries and of replays.
    """
    first = _newest(one for one in live if _is_live(one))
    again = list(others)
    second = _newest(one for one in again if one.canary is not None and one.canary.name == canary.name)
    noise = _noise(first, again)
    covered = _Covered(canary, second.values())
    return ModelComparison(canary, [_of_policy(name, first, second, noise, covered) for name in _policies(second)])


def _is_live(verdict: Verdict) -> bool:
    """Whether it is the live model's first judgement; promotions and reversions publish another."""
    replaced = verdict.supersedes is not None or verdict.replay_id is not None
    return verdict.lane == "live" and verdict.stage == "reasoner" and not replaced


def _newest(verdicts: Iterable[Verdict]) -> dict[_Judged, Verdict]:
    newest: dict[_Judged, Verdict] = {}
    for verdict in verdicts:
        key = _Judged.of(verdict)
        current = newest.get(key)
        if current is None or decided(current) <= decided(verdict):
            newest[key] = verdict
    return newest


def _policies(verdicts: Iterable[_Judged]) -> list[str]:
    return sorted({judged.event.policy_id for judged in verdicts})


def _noise(live: dict[_Judged, Verdict], others: Iterable[Verdict]) -> dict[str, list[bool]]:
    """For each policy, whether repeated judgements of the live model are flips of its first, as pairs count them.

    Replays judge again, under the version before, too. So does a canary of the live model. A canary whose revision is
    unknown may be of other weights with the same name. An escalation that was requeued repeats a verdict with its id.
    A judgement at a lower effort is none of the same kind.
    """
    differs: dict[str, list[bool]] = defaultdict(list)
    for again in {one.verdict_id: one for one in others}.values():
        first = live.get(_Judged.of(again))
        same = again.lane == "replay" or (again.lane == "canary" and again.model_revision is not None)
        if first is None or first.reasoning_effort != again.reasoning_effort:
            continue
        if same and _model(first) == _model(again):
            differs[again.policy_id].append(ModelPair(first, again).flips)
    return differs


def _model(verdict: Verdict) -> str:
    """A model with its revision, as one name."""
    return f"{verdict.model} {verdict.model_revision}" if verdict.model_revision else verdict.model


class _Covered:
    """What a canary has worked on: between its first and last verdict in each partition of content.events."""

    def __init__(self, canary: Canary, verdicts: Iterable[Verdict]) -> None:
        self._share = canary.share
        self._spans: dict[int, tuple[int, int]] = {}
        for verdict in verdicts:
            if (place := place_of(verdict.origin)) is not None:
                partition, offset = place
                low, high = self._spans.get(partition, (offset, offset))
                self._spans[partition] = min(low, offset), max(high, offset)

    def draws(self, event: _Event) -> bool:
        """Whether the canary judges this item, at the lowest of its shares."""
        return is_drawn(event.content_id, DRAW, self._share)

    def within(self, event: _Event) -> bool:
        place = place_of(event.origin)
        span = self._spans.get(place[0]) if place else None
        return span is not None and place is not None and span[0] <= place[1] <= span[1]

    def before(self, event: _Event) -> bool:
        """Whether the canary has not come to an event yet."""
        place = place_of(event.origin)
        span = self._spans.get(place[0]) if place else None
        return span is not None and place is not None and place[1] > span[1]


def _of_policy(
    policy_id: str,
    live: dict[_Judged, Verdict],
    canary: dict[_Judged, Verdict],
    noise: dict[str, list[bool]],
    covered: _Covered,
) -> PolicyComparison:
    first = {key: one for key, one in live.items() if key.event.policy_id == policy_id}
    second = {key: one for key, one in canary.items() if key.event.policy_id == policy_id}
    pairs = [ModelPair(first[key], one) for key, one in second.items() if key in first]
    own = [pair for pair in pairs if not pair.reused]

    def share(counts: Callable[[ModelPair], bool]) -> Proportion:
        return proportion(sum(map(counts, own)), len(own))

    repeated = noise.get(policy_id)
    return PolicyComparison(
        policy_id=policy_id,
        versions=dict(Counter(pair.live.policy_version for pair in pairs)),
        pairs=len(pairs),
        agree=share(lambda pair: pair.agrees),
        to_violates=share(lambda pair: pair.flips_to("violates")),
        to_safe=share(lambda pair: pair.flips_to("safe")),
        undetermined=share(lambda pair: pair.undetermined),
        noise=proportion(sum(repeated), len(repeated)) if repeated else None,
        lower_effort=sum(pair.lower_effort for pair in pairs),
        live=_figures([pair.live for pair in pairs]),
        canary=_figures([pair.canary for pair in pairs]),
        unpaired=_unpaired(first, second, covered),
        examples=list(_flips(pairs))[:MAX_EXAMPLES],
    )


def _unpaired(live: dict[_Judged, Verdict], canary: dict[_Judged, Verdict], covered: _Covered) -> Unpaired:
    by_live, by_canary = {key.event for key in live}, {key.event for key in canary}
    other_version = {key.event for key in canary if key not in live and key.event in by_live}
    only_live = {event for event in by_live - by_canary if covered.draws(event)}
    return Unpaired(
        other_version=len(other_version),
        only_canary=len(by_canary - by_live),
        only_live=sum(map(covered.within, only_live)),
        waiting=sum(map(covered.before, only_live)),
    )


def _figures(verdicts: Sequence[Verdict]) -> ModelFigures:
    own = [verdict for verdict in verdicts if not verdict.cached]

    def share(counts: Callable[[Verdict], bool]) -> Proportion:
        return proportion(sum(map(counts, own)), len(own))

    return ModelFigures(
        models=dict(Counter(map(_model, verdicts))),
        undetermined=share(lambda verdict: verdict.decision == "undetermined"),
        malformed=share(lambda verdict: verdict.malformed > 0 or verdict.answer == "constrained"),
        constrained=share(lambda verdict: verdict.answer == "constrained"),
        reused=len(verdicts) - len(own),
        tokens=_distribution([one.tokens.prompt + one.tokens.completion for one in own if one.tokens]),
        completion=_distribution([one.tokens.completion for one in own if one.tokens]),
        latency=_distribution([one.latency["reasoner"] for one in own if "reasoner" in one.latency]),
    )


def _distribution(values: Sequence[float]) -> Distribution | None:
    if not values:
        return None
    median, p90 = np.percentile(values, (50, 90))
    return Distribution(len(values), *(round(float(one), 1) for one in (median, np.mean(values), p90)))


def _flips(pairs: Iterable[ModelPair]) -> Iterator[ModelFlip]:
    """The events about which the models decide differently."""
    for live, canary in pairs:
        if live.decision != canary.decision:
            yield ModelFlip(
                content_id=live.content_id,
                content_sha256=live.content_sha256,
                live=live.decision,
                canary=canary.decision,
                live_rules=live.rule_ids,
                canary_rules=canary.rule_ids,
                live_reason=live.reason,
                canary_reason=canary.reason,
                origin=live.origin,
            )


async def from_kafka(
    settings: Settings,
    policy_id: str | None = None,
    name: str | None = None,
    since: datetime | None = None,
    *,
    texts: bool = True,
) -> ModelComparison | None:
    """Compare the verdicts that are on moderation.verdicts and moderation.replays now; None if no canary judged.

    policy_id: default all. name: of the canary; default the one that judged last. since: when the oldest verdict to
    read was written; by default all. texts: whether to read the texts of the examples. Raises ConfigurationError when
    no canary has that name.
    """
    erasures = ErasureList()
    await erasures.read(settings)
    read = kafka.read_decoded(settings, [topics.REPLAYS], Verdict, since=since)
    others = [
        without_words(v, erasures.erased)
        async for _, v in read
        if v.lane in ("replay", "canary") and policy_id in (None, v.policy_id)
    ]
    canary = _chosen(others, name)
    if canary is None:
        return None
    judged_again = {_Judged.of(v) for v in others}
    read = kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since)
    live = [
        without_words(v, erasures.erased)
        async for _, v in read
        if policy_id in (None, v.policy_id)
        and (_Judged.of(v) in judged_again or is_drawn(v.content_id, DRAW, canary.share))
    ]
    comparison = compare(canary, live, others)
    places = [flip.place for policy in comparison.policies for flip in policy.examples if texts]
    found = await texts_at(settings, places, erasures.erased)
    return msgspec.structs.replace(comparison, policies=[_with_texts(policy, found) for policy in comparison.policies])


def _with_texts(policy: PolicyComparison, found: dict[TextPlace, str]) -> PolicyComparison:
    examples = [msgspec.structs.replace(flip, text=found.get(flip.place)) for flip in policy.examples]
    return msgspec.structs.replace(policy, examples=examples)


def _chosen(others: Sequence[Verdict], name: str | None) -> Canary | None:
    """The canary to compare, at the lowest share that it had; None if none has judged anything."""
    canaries = [(v.canary, v) for v in others if v.canary is not None]
    names = {canary.name for canary, _ in canaries}
    if name is None and canaries:
        name = max(canaries, key=lambda one: decided(one[1]))[0].name
    if name is not None and name not in names:
        raise ConfigurationError(f"no canary {name!r} has judged anything{choices(name, names)}")
    shares = [canary.share for canary, _ in canaries if canary.name == name]
    return Canary(name, min(shares)) if name is not None else None
