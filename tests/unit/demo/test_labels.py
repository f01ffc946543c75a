"""The demo's comparison of verdicts with what people had labelled."""

from datetime import UTC, datetime

import orjson
import pytest

from safeguard_streams.contract.records import Verdict
from safeguard_streams.demo import labels


def line(name, labelled_for, violates, text="some text", **more):
    attributes = {"source": "a set", "labelled_for": labelled_for, "violates": violates, **more}
    return orjson.dumps({"content_id": name, "text": text, "attributes": attributes})


def verdict(name, policy, decision, *rules):
    now = datetime.now(UTC)
    return Verdict(f"{name}{policy}", name, "s", policy, "1", decision, "reasoner", "live", "m", now, rules)


def test_texts_found_and_left_alone_are_counted_by_policy():
    lines = [line(f"bad-{n}", "spam", True) for n in range(4)] + [line(f"good-{n}", "spam", False) for n in range(3)]
    verdicts = [
        verdict("bad-0", "spam", "violates"),
        verdict("bad-1", "spam", "safe"),
        verdict("bad-2", "spam", "undetermined"),
        verdict("good-0", "spam", "violates"),
        verdict("good-1", "spam", "safe"),
    ]
    one = labels.figures(labels.read(lines), verdicts)["spam"]
    assert (one.found.count, one.found.of, one.left_alone.count, one.left_alone.of) == (1, 4, 2, 3)
    assert (one.missed_by_gate, one.missed_by_model) == (1, 2)
    assert one.found.low < one.found.value < one.found.high


def test_a_label_counts_only_under_its_policy_and_an_everyday_text_under_each():
    events = labels.read([line("a", "spam", True), line("b", "hate", False), line("c", "*", False)])
    figures = labels.figures(events, [verdict("a", "hate", "violates"), verdict("c", "hate", "violates")])
    assert figures["spam"].found.count == 0
    assert (figures["hate"].left_alone.count, figures["hate"].left_alone.of) == (1, 2)
    assert figures["spam"].left_alone.of == 1
    assert set(figures) == {"spam", "hate"}


def test_a_verdict_is_right_for_the_right_reason_when_it_names_the_rule_of_the_label():
    lines = [line(name, "spam", True, rule="FS2") for name in ("right", "other", "missed", "safe")]
    events = labels.read([*lines, line("unknown", "spam", True), line("good", "spam", False)])
    verdicts = [
        verdict("right", "spam", "violates", "FS1", "FS2"),
        verdict("other", "spam", "violates", "FS3"),
        verdict("safe", "spam", "safe", "FS4"),
        verdict("unknown", "spam", "violates", "FS3"),
        verdict("good", "spam", "safe", "FS4"),
        verdict("good", "hate", "safe", "HH5"),
    ]
    right = [v for v in verdicts if labels.for_the_right_reason(events[v.content_id], v)]
    assert [v.content_id for v in right] == ["right", "unknown", "good"]
    one = labels.figures(events, verdicts)["spam"]
    assert (one.found.count, one.right_rule.count, one.right_rule.of) == (3, 1, 2), "only known rules count"
    assert (one.missed_by_gate, one.missed_by_model) == (1, 1)


def test_the_total_adds_up_all_policies():
    events = labels.read([line("a", "spam", True), line("b", "hate", True), line("c", "*", False)])
    total = labels.total(labels.figures(events, [verdict("a", "spam", "violates")]).values())
    assert (total.found.count, total.found.of, total.left_alone.count, total.left_alone.of) == (1, 2, 2, 2)
    assert (total.missed_by_gate, total.missed_by_model) == (1, 0)
    assert labels.total([]).found.value is None


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
