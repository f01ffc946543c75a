"""What advice about gates rests on: releases, verdicts and texts. Each topic is read once, for all policies.

Memory is bounded. Of the verdicts on what a gate escalates, and of those on what was drawn, up to KEPT are kept for
each policy: all, or those of a share of the texts, chosen by a hash. Each of these stands for 1/share
others. Up to LEARNED of each kind come with their texts, of which the first CHARACTERS count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from safeguard_streams.bus import kafka
from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, aware, content_sha256
from safeguard_streams.errors import ConfigurationError, PolicyError, choices
from safeguard_streams.policies import golden_gates
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden_gates import GoldenGate
from safeguard_streams.policies.parsing import parse
from safeguard_streams.policies.version import what_decides
from safeguard_streams.prefilter.sampling import hashed
from safeguard_streams.quality import verdict_labels
from safeguard_streams.quality.verdict_labels import DRAWS, LabeledItem, Labels, decided, from_verdicts
from safeguard_streams.releases import operator
from safeguard_streams.releases.erasures import ErasureList
from safeguard_streams.runtime.settings import Settings

KEPT = 10_000
LEARNED = 2_000
CHARACTERS = 20_000


class PolicyState(msgspec.Struct, frozen=True):
    """A policy in force.

    judged_alike: versions that differ from it at most in their gate and scope: the model judges by the same text, and
    their verdicts are labels as good as its own. unseen_from: when its distilled classifier was first released; all
    that was judged before may have trained it. None without one, and for one that learned from the golden set. golden:
    the golden gate that runs in shadow.
    """

    policy: Policy
    release: PolicyRelease
    shadow: PolicyRelease | None
    judged_alike: frozenset[str]
    unseen_from: datetime | None
    golden: GoldenGate | None = None


class Usage(msgspec.Struct):
    """What the judgements under one version took: their number, completion tokens, seconds, and the time they span."""

    judged: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    first: datetime | None = None
    last: datetime | None = None

    def add(self, verdict: Verdict) -> None:
        """Count one judgement."""
        at = decided(verdict)
        self.judged += 1
        self.completion_tokens += verdict.tokens.completion if verdict.tokens else 0
        self.seconds += verdict.latency.get("reasoner", 0.0) / 1000
        self.first, self.last = min(self.first or at, at), max(self.last or at, at)

    @property
    def span(self) -> float:
        """Seconds from the first judgement to the last."""
        return (self.last - self.first).total_seconds() if self.first and self.last else 0.0


class Evidence(msgspec.Struct, frozen=True):
    """What is known of a policy in force.

    live: labels of its gate, under its version. learned: labels with texts, under all versions that judge alike.
    labels: the number of those, with and without texts. usage: of its version.
    """

    state: PolicyState
    live: Labels
    labels: Labels
    learned: list[LabeledItem]
    usage: Usage


class ReadEvidence(msgspec.Struct, frozen=True):
    """Evidence by policy. unread: why a policy in force is left out, by its id."""

    policies: dict[str, Evidence]
    unread: dict[str, str]


async def read(settings: Settings, policies: Sequence[str] = (), since: datetime | None = None) -> ReadEvidence:
    """Read the evidence of these policies, by default of all in force.

    since: when the oldest verdict to read was written. Raises ConfigurationError for a policy that is not in force.
    """
    await kafka.wait_for_broker(settings, timeout=kafka.COMMAND_SECONDS)
    history = await operator.history(settings)
    for name in policies:
        if name not in history.in_force:
            raise ConfigurationError(f"{name} is not in force{choices(name, history.in_force)}")
    states, unread = {}, {}
    for name in policies or sorted(history.in_force):
        try:
            states[name] = state_of(history, name)
        except PolicyError as error:
            unread[name] = f"its release no longer parses: {error}"
    store = VerdictStore(states)
    async for _, verdict in kafka.read_decoded(settings, [topics.VERDICTS], Verdict, since=since):
        store.take(verdict)
    labels = {name: store.labels(name, state.judged_alike, one_gate=False) for name, state in states.items()}
    learned = await _with_texts(settings, {name: _fewer(one.rows) for name, one in labels.items()})
    found = {
        name: Evidence(
            state,
            store.labels(name, {state.policy.version}, one_gate=True),
            labels[name],
            learned[name],
            store.usage(name, state.policy.version),
        )
        for name, state in states.items()
    }
    return ReadEvidence(found, unread)


async def labels_to_learn_from(settings: Settings, policy: Policy, since: datetime | None = None) -> Labels:
    """Labels with texts under all versions by which the model judges as by this policy, whatever their gates.

    Raises ConfigurationError where there are verdicts, and all are under versions that judge otherwise.
    """
    history = await operator.history(settings)
    known = [*history.releases(policy.id), *(one for one in [history.in_force.get(policy.id)] if one)]
    alike = {policy.version, *(one.version for one in known if _judges_alike(one, policy))}
    labels = await verdict_labels.from_kafka(settings, policy.id, texts=True, since=since, versions=alike)
    if labels.older and not labels.version:
        raise ConfigurationError(
            f"{policy.id}: all {labels.older:,} verdicts are under versions that judge by another text, other rules or "
            "other settings than this file: take that of the version in force, or release this one and wait"
        )
    return labels


def state_of(history: operator.ReleaseHistory, policy_id: str) -> PolicyState:
    """A policy in force, with what its history tells. Raises PolicyError when its release no longer parses."""
    release = history.in_force[policy_id]
    policy = parse(release.document, f"release of {policy_id}", release.distilled)
    known = [*history.releases(policy_id), release]
    first = min((aware(one.released_at) for one in known if one.distilled == release.distilled), default=None)
    return PolicyState(
        policy,
        release,
        history.shadows.get(policy_id),
        frozenset(one.version for one in known if _judges_alike(one, policy)),
        None
        if release.distilled is None or (policy.distilled is not None and policy.distilled.origin == "golden")
        else first,
        golden_gates.intact(release.golden),
    )


def _judges_alike(release: PolicyRelease, policy: Policy) -> bool:
    if release.version == policy.version:
        return True
    try:
        return _judging(parse(release.document, "an earlier release", release.distilled)) == _judging(policy)
    except PolicyError:
        return False


def _judging(policy: Policy) -> dict[str, Any]:
    """All that decides about content that was escalated."""
    decides = what_decides(policy.text, policy.rules, policy.effort, policy.judging, policy.gate, policy.applies_to)
    return {name: value for name, value in decides.items() if name not in {"gate", "applies_to"}}


class VerdictStore:
    """Verdicts of some policies in bounded memory: a sample of the items once there are many."""

    def __init__(self, policies: Iterable[str], kept: int = KEPT) -> None:
        self._kept = {name: (_Kept(kept), _Kept(kept)) for name in policies}
        self._usage: dict[tuple[str, str], Usage] = {}

    def take(self, verdict: Verdict) -> None:
        """Take a verdict of any kind; only the reasoner's on live and audited content count."""
        kinds = self._kept.get(verdict.policy_id)
        if kinds is None or verdict.stage != "reasoner" or verdict.lane not in ("live", "audit"):
            return
        if verdict.replay_id is None:
            self._usage.setdefault((verdict.policy_id, verdict.policy_version), Usage()).add(verdict)
        kinds[_is_drawn(verdict)].take(verdict)

    def usage(self, policy_id: str, version: str) -> Usage:
        """What the judgements under a version took."""
        return self._usage.get((policy_id, version), Usage())

    def labels(self, policy_id: str, versions: frozenset[str] | set[str], *, one_gate: bool) -> Labels:
        """Labels as `from_verdicts` makes them, whose weights make up for the items that were not kept."""
        kinds = self._kept[policy_id]
        verdicts = [verdict for kept in kinds for verdict in kept.verdicts.values()]
        labels = from_verdicts(verdicts, policy_id, versions, one_gate=one_gate)
        rows = [msgspec.structs.replace(row, weight=row.weight / kinds[row.drawn].share) for row in labels.rows]
        return msgspec.structs.replace(labels, rows=rows)


def _is_drawn(verdict: Verdict) -> bool:
    return verdict.prefilter is not None and verdict.prefilter.gate in DRAWS


def _place(verdict: Verdict | LabeledItem) -> float:
    """A number from 0 to 1 by which texts are chosen; independent of the draws of gates and audits.

    Texts of one item have different numbers: otherwise, an item that is edited thousands of times displaces all others.
    """
    return float(hashed(f"advice {verdict.content_id} {verdict.content_sha256}") / 2**64)


class _Kept:
    """The last verdict on each item of a share of them, which halves whenever there are more than the limit."""

    def __init__(self, limit: int) -> None:
        self.share = 1.0
        self.verdicts: dict[tuple[str, str, str], Verdict] = {}
        self._limit = limit

    def take(self, verdict: Verdict) -> None:
        if self.share < 1 and _place(verdict) >= self.share:
            return
        key = (verdict.content_id, verdict.content_sha256, verdict.policy_version)
        former = self.verdicts.get(key)
        if former is None or decided(former) <= decided(verdict):
            self.verdicts[key] = _slim(verdict)
        while len(self.verdicts) > self._limit:
            self.share /= 2
            self.verdicts = {key: one for key, one in self.verdicts.items() if _place(one) < self.share}


def _slim(verdict: Verdict) -> Verdict:
    """The verdict without its words and figures."""
    return msgspec.structs.replace(
        verdict, verdict_id="", rule_ids=(), reason=None, latency={}, tokens=None, origin=None, judged_under=None
    )


def _fewer(rows: Sequence[LabeledItem], limit: int = LEARNED) -> list[LabeledItem]:
    """At most this many rows of each kind, which stand for the others."""
    fewer: list[LabeledItem] = []
    for drawn in (False, True):
        kind = sorted((row for row in rows if row.drawn is drawn), key=_place)
        scale = max(1.0, len(kind) / limit)
        fewer += [msgspec.structs.replace(row, weight=row.weight * scale) for row in kind[:limit]]
    return fewer


async def _with_texts(settings: Settings, rows: dict[str, list[LabeledItem]]) -> dict[str, list[LabeledItem]]:
    """The rows whose escalation still exists, with their texts. Texts of erased items are left out."""
    wanted = {(name, row.content_id, row.content_sha256) for name, some in rows.items() for row in some}
    if not wanted:
        return rows
    erasures = ErasureList()
    await erasures.read(settings)
    texts: dict[tuple[str, str, str], str] = {}
    # An item was escalated before it was judged, at most as long before as the topic keeps escalations.
    read = kafka.read_decoded(settings, [topics.ESCALATIONS, topics.ESCALATIONS_AUDIT], Escalation)
    async for record, escalation in read:
        event = escalation.event
        key = (escalation.policy_id, event.content_id, content_sha256(event.text))
        if key in wanted and not erasures.erased(event.content_id, record.timestamp):
            texts[key] = event.text[:CHARACTERS]
    return {
        name: [
            msgspec.structs.replace(row, text=text)
            for row in some
            if (text := texts.get((name, row.content_id, row.content_sha256))) is not None
        ]
        for name, some in rows.items()
    }
