"""The gate ladder: a policy starts with terms and a sample, and gains by a classifier distilled from its verdicts.

The policy says that questions about one's bank account belong elsewhere. No classifier was trained for it. The source
of a text stands in for the reasoner.
"""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from safeguard_streams.contract import topics
from safeguard_streams.contract.records import Escalation, PolicyRelease, Verdict, decode, encode
from safeguard_streams.errors import ConfigurationError
from safeguard_streams.policies.files import load_library, with_changes
from safeguard_streams.policies.parsing import parse
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.decision import Prefilter
from safeguard_streams.prefilter.event_batch import AuditRates
from safeguard_streams.quality.distillation import propose
from safeguard_streams.quality.evaluation import threshold_for
from safeguard_streams.quality.scoring import gate_scores
from safeguard_streams.quality.verdict_labels import from_verdicts
from safeguard_streams.releases.feed import PolicyFeed
from safeguard_streams.runtime.memory_broker import StoredRecord

pytestmark = pytest.mark.slow  # trains a classifier, about a minute

ROWS = [json.loads(line) for line in Path("tests/data/labelled.jsonl").read_text(encoding="utf-8").splitlines()]
ROWS = [{"text": row["text"], "violates": "banking77" in row["source"]} for row in ROWS]
ROWS.sort(key=lambda row: hashlib.sha256(row["text"].encode()).digest())
STREAM, LATER = ROWS[:1000], ROWS[1000:]


def in_force(document, distilled=None):
    policy = parse(document, distilled=distilled)
    feed = PolicyFeed()
    release = PolicyRelease(policy.id, policy.version, 1, document, datetime.now(UTC), "test", distilled=distilled)
    feed.take(policy.id.encode(), encode(release))
    return feed


def escalations(prefilter, rows):
    """What the prefilter escalates of a stream, live or for audit, as (number of the row, escalation)."""
    records = []
    for number, row in enumerate(rows):
        value = {"content_id": f"c{number}", "text": row["text"], "created_at": "2026-01-01T00:00:00Z"}
        records.append(StoredRecord(topics.EVENTS, 0, number, 0, b"c%d" % number, json.dumps(value).encode()))
    for output in prefilter.decide(records):
        if output.topic in {topics.ESCALATIONS, topics.ESCALATIONS_AUDIT}:
            escalation = decode(output.value, Escalation)
            yield int(escalation.event.content_id[1:]), escalation


def verdict(escalation, violates):
    return Verdict(
        verdict_id=escalation.event.content_id,
        content_id=escalation.event.content_id,
        content_sha256="",
        policy_id=escalation.policy_id,
        policy_version=escalation.policy_version,
        decision="violates" if violates else "safe",
        stage="reasoner",
        lane=escalation.lane,
        model="labels",
        decided_at=escalation.escalated_at,
        prefilter=escalation.prefilter,
    )


def recall(escalated, rows):
    live = {number for number, escalation in escalated if escalation.lane == "live"}
    return sum(rows[n]["violates"] for n in live) / sum(row["violates"] for row in rows), len(live) / len(rows)


@pytest.fixture(scope="module")
def classifier():
    return Classifier()


def test_a_gate_improves_with_the_verdicts_that_it_collects(classifier):
    document = load_library()["hate-harassment"].document
    first = with_changes(document, "gate", harms=None, threshold=None, terms=["my card", "my account"], sample=0.3)
    feed = in_force(first)
    escalated = list(escalations(Prefilter(classifier, feed, AuditRates(near=0.2, far=0.2)), STREAM))
    verdicts = [verdict(escalation, STREAM[number]["violates"]) for number, escalation in escalated]
    texts = {escalation.event.content_id: escalation.event.text for _, escalation in escalated}
    labels = from_verdicts(verdicts, "hate-harassment")
    rows = [type(row)(row.violates, row.weight, row.content_id, texts[row.content_id]) for row in labels.rows]
    assert {round(row.weight, 2) for row in rows} == {1.0, round(1 / (0.3 + 0.7 * 0.2), 2)}

    proposal = propose(parse(first), classifier, rows)
    assert proposal.after.roc_auc.low > proposal.before.roc_auc.high

    before, share = recall(list(escalations(Prefilter(classifier, feed, AuditRates(0, 0)), LATER)), LATER)
    name = hashlib.sha256(proposal.distilled).hexdigest()[:12]
    distilled = proposal.distilled.decode()
    policy = parse(with_changes(first, "gate", terms=None, sample=None, distilled=name), distilled=distilled)
    # A threshold that escalates no more than the first gate did.
    scores = gate_scores(policy, classifier, [row["text"] for row in STREAM])
    threshold = threshold_for(scores, scores > -1, np.ones(len(scores)), share)
    second = with_changes(policy.document, "gate", threshold=float(threshold))
    after, cost = recall(
        list(escalations(Prefilter(classifier, in_force(second, distilled), AuditRates(0, 0)), LATER)), LATER
    )
    print(f"recall {before:.3f} escalating {share:.3f}, then {after:.3f} escalating {cost:.3f}")
    assert cost <= share + 0.05
    assert after >= before + 0.2


def test_too_few_verdicts_are_refused_with_what_to_do(classifier):
    policy = load_library()["hate-harassment"]
    with pytest.raises(ConfigurationError, match="too few to learn from.*sample rate"):
        propose(policy, classifier, from_verdicts([], policy.id).rows)


def test_a_distilled_classifier_that_the_gate_does_not_name_is_refused():
    document = with_changes(load_library()["hate-harassment"].document, "gate", distilled="0123456789ab")
    feed = in_force_raw(document)
    assert not feed.policies.released


def in_force_raw(document):
    feed = PolicyFeed()
    release = PolicyRelease("hate-harassment", "v", 1, document, datetime.now(UTC), "test", distilled="{}")
    feed.take(b"hate-harassment", encode(release))
    return feed
