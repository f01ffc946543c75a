"""A shadow beside the version in force: verdicts on the same content, joined and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Decision, Verdict, decode
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.runtime.settings import Settings

MOST_EXAMPLES = 20


class Flip(msgspec.Struct, frozen=True):
    """One content that the two versions judge differently. Reasons are the verdicts' short ones."""

    content_id: str
    live: Decision
    shadow: Decision
    live_rules: tuple[str, ...]
    shadow_rules: tuple[str, ...]
    live_reason: str | None
    shadow_reason: str | None


class Comparison(msgspec.Struct, frozen=True):
    """What the versions say of the content that was drawn.

    both: contents that both judged; of these, agree, and flips each way. undetermined: one of the two decided nothing.
    only_shadow: contents that the version in force let pass and the shadow's gates caught, and how many of them violate.
    only_live: contents that the shadow's gates would let pass, and how many violate by the version in force.
    violating: share of the contents drawn that violates, by the version in force and by the shadow, gates counted in.
    waiting: judged by the shadow, not yet by the version in force. rules: violating verdicts that cite a rule, of the
    version in force and of the shadow. tokens: of the shadow's verdicts, all together.
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
    violating: tuple[Proportion, Proportion]
    waiting: int
    rules: dict[str, tuple[int, int]]
    tokens: int
    examples: list[Flip]


def compare(
    policy_id: str, live: Iterable[Verdict], shadows: Iterable[Verdict], version: str | None = None
) -> Comparison:
    """Join on content and its hash; the shadow's version is the one judged last, or the one given.

    Of several verdicts on one content the last counts.
    """
    of_policy = [v for v in shadows if v.policy_id == policy_id and v.lane == "shadow"]
    if version is None and of_policy:
        version = max(of_policy, key=lambda verdict: verdict.decided_at).policy_version
    newest = _newest(v for v in of_policy if v.policy_version == version)
    in_force = _newest(v for v in live if v.policy_id == policy_id and v.lane in ("live", "audit"))
    counts: Counter[str] = Counter()
    rules: dict[str, list[int]] = {}
    examples: list[Flip] = []
    versions: Counter[str] = Counter()
    for key, shadow in newest.items():
        verdict = in_force.get(key)
        if shadow.prefilter is not None and shadow.prefilter.live and verdict is None:
            counts["waiting"] += 1
            continue
        counts["all"] += 1
        passed = shadow.prefilter is not None and shadow.prefilter.gate == "live"
        counts["shadow violates"] += shadow.decision == "violates" and not passed
        counts["live violates"] += verdict is not None and verdict.decision == "violates"
        if passed and verdict is not None:
            counts["only live"] += 1
            counts["only live violates"] += verdict.decision == "violates"
        for place, said in enumerate((verdict, shadow)):
            if said is not None and said.decision == "violates":
                for rule in said.rule_ids:
                    rules.setdefault(rule, [0, 0])[place] += 1
        if verdict is None:
            counts["only shadow"] += 1
            counts["only shadow violates"] += shadow.decision == "violates"
            continue
        versions[verdict.policy_version] += 1
        counts["both"] += 1
        if "undetermined" in (verdict.decision, shadow.decision):
            counts["undetermined"] += 1
        elif verdict.decision == shadow.decision:
            counts["agree"] += 1
        else:
            counts[f"to {shadow.decision}"] += 1
        if verdict.decision != shadow.decision and len(examples) < MOST_EXAMPLES:
            examples.append(
                Flip(
                    verdict.content_id,
                    verdict.decision,
                    shadow.decision,
                    verdict.rule_ids,
                    shadow.rule_ids,
                    verdict.reason,
                    shadow.reason,
                )
            )
    both = counts["both"]
    return Comparison(
        policy_id=policy_id,
        live_versions=dict(versions),
        shadow_version=version or "",
        both=both,
        agree=proportion(counts["agree"], both),
        to_violates=proportion(counts["to violates"], both),
        to_safe=proportion(counts["to safe"], both),
        undetermined=proportion(counts["undetermined"], both),
        only_shadow=proportion(counts["only shadow violates"], counts["only shadow"]),
        only_live=proportion(counts["only live violates"], counts["only live"]),
        violating=(
            proportion(counts["live violates"], counts["all"]),
            proportion(counts["shadow violates"], counts["all"]),
        ),
        waiting=counts["waiting"],
        rules={rule: (before, after) for rule, (before, after) in sorted(rules.items())},
        tokens=sum(v.tokens.prompt + v.tokens.completion for v in newest.values() if v.tokens),
        examples=examples,
    )


def _newest(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], Verdict]:
    found: dict[tuple[str, str], Verdict] = {}
    for verdict in verdicts:
        key = (verdict.content_id, verdict.content_sha256)
        known = found.get(key)
        if known is None or known.decided_at <= verdict.decided_at:
            found[key] = verdict
    return found


async def from_kafka(settings: Settings, policy_id: str, version: str | None = None) -> Comparison:
    """Compare what stands on moderation.verdicts and moderation.replays now."""

    async def read(topic: str) -> AsyncIterator[Verdict]:
        async for record in kafka.read_all(settings, [topic]):
            yield decode(record.value, Verdict)

    shadows = [v async for v in read(topics.REPLAYS) if v.policy_id == policy_id and v.lane == "shadow"]
    wanted = {v.content_id for v in shadows}
    live = [v async for v in read(topics.VERDICTS) if v.policy_id == policy_id and v.content_id in wanted]
    return compare(policy_id, live, shadows, version)
