"""The demo's comparison of verdicts with what people had labelled."""

from datetime import UTC, datetime

import orjson
import pytest

from safeguard_streams.contract.records import Verdict
from safeguard_streams.demo import labels


def line(name, labelled_for, violates, text="some text"):
    attributes = {"source": "a set", "labelled_for": labelled_for, "violates": violates}
    return orjson.dumps({"content_id": name, "text": text, "attributes": attributes})


def verdict(name, policy, decision):
    return Verdict(f"{name}{policy}", name, "s", policy, "1", decision, "reasoner", "live", "m", datetime.now(UTC))


def test_found_and_flagged_are_counted_by_policy():
    lines = [line(f"bad-{n}", "spam", True) for n in range(4)] + [line(f"good-{n}", "spam", False) for n in range(3)]
    verdicts = [
        verdict("bad-0", "spam", "violates"),
        verdict("bad-1", "spam", "safe"),
        verdict("bad-2", "spam", "undetermined"),
        verdict("good-0", "spam", "violates"),
        verdict("good-1", "spam", "safe"),
    ]
    one = labels.figures(labels.read(lines), verdicts)["spam"]
    assert (one.found.count, one.found.of, one.flagged.count, one.flagged.of) == (1, 4, 1, 3)
    assert (one.missed_by_gate, one.missed_by_model) == (1, 2)
    assert one.found.low < one.found.value < one.found.high


def test_a_label_counts_only_under_its_policy_and_an_everyday_text_under_each():
    events = labels.read([line("a", "spam", True), line("b", "hate", False), line("c", "*", False)])
    figures = labels.figures(events, [verdict("a", "hate", "violates"), verdict("c", "hate", "violates")])
    assert figures["spam"].found.count == 0
    assert (figures["hate"].flagged.count, figures["hate"].flagged.of) == (1, 2)
    assert figures["spam"].flagged.of == 1
    assert set(figures) == {"spam", "hate"}


def test_the_last_verdict_on_a_text_counts():
    events = labels.read([line("a", "spam", True)])
    verdicts = [verdict("a", "spam", "violates"), verdict("a", "spam", "safe")]
    assert labels.figures(events, verdicts)["spam"].found.count == 0


@pytest.mark.parametrize(
    "bad",
    [b"no JSON", b"[1]", b"{}", b'{"content_id": 5, "text": "x"}', b'{"content_id": "a", "text": null}', b"null",
     b'{"content_id": "a", "text": "x", "attributes": {"violates": "yes"}}'],
)  # fmt: skip
def test_lines_that_are_no_labelled_events_are_left_out(bad):
    assert set(labels.read([bad, line("good", "spam", True)])) == {"good"}


def test_events_without_labels_have_no_figures():
    events = labels.read([b'{"content_id": "a", "text": "x"}', b'{"content_id": "b", "text": "x", "attributes": null}'])
    assert set(events) == {"a", "b"}
    assert labels.figures(events, [verdict("a", "spam", "violates")]) == {}
