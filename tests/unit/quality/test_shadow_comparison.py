"""A shadow compared with the version in force: what is joined, and what is counted."""

from datetime import UTC, datetime, timedelta

import pytest

from safeguard_streams.contract.records import PrefilterResult, Tokens, Verdict
from safeguard_streams.quality.proportions import proportion
from safeguard_streams.quality.shadow_comparison import compare

START = datetime(2026, 1, 1, tzinfo=UTC)
P = "hate-harassment"


def verdict(content, decision, lane="live", *, version="v1", rules=(), gate="label", live=None, later=0, sha="s"):
    return Verdict(
        f"{content}-{lane}-{later}",
        content,
        sha,
        P,
        version,
        decision,
        "reasoner",
        lane,
        "m",
        START + timedelta(seconds=later),
        rules,
        prefilter=PrefilterResult(gate, live=live),
        tokens=Tokens(100, 50, 10),
        reason=f"{lane} says {decision}",
    )


def shadow(content, decision, *, gate="label", live=True, **more):
    return verdict(content, decision, "shadow", version=more.pop("version", "v2"), gate=gate, live=live, **more)


LIVE = [
    verdict("a", "violates", rules=("HH1",)),
    verdict("b", "safe"),
    verdict("c", "violates", rules=("HH2",)),
    verdict("d", "undetermined"),
    verdict("e", "violates", "audit", rules=("HH1",)),
    verdict("never drawn", "violates"),
]
SHADOWS = [
    shadow("a", "violates", rules=("HH1",)),
    shadow("b", "violates", rules=("HH3",)),
    shadow("c", "safe"),
    shadow("d", "safe"),
    shadow("e", "violates", gate="live", rules=("HH1",)),
    shadow("f", "violates", live=False, rules=("HH3",)),
    shadow("g", "safe", live=False),
    shadow("h", "safe", live=True),
]


def test_each_pair_is_counted_once_and_the_gates_separately():
    result = compare(P, LIVE, SHADOWS)
    assert (result.both, result.agree.count, result.to_violates.count, result.to_safe.count) == (5, 2, 1, 1)
    assert result.undetermined.count == 1
    assert (result.only_shadow.count, result.only_shadow.of) == (1, 2)
    assert (result.only_live.count, result.only_live.of) == (1, 1), "its gates would let e pass, which violates"
    assert result.waiting == 1
    assert [(s.count, s.of) for s in result.violating] == [(3, 7), (3, 7)]
    assert result.rules == {"HH1": (2, 2), "HH2": (1, 0), "HH3": (0, 2)}
    assert {flip.content_id for flip in result.examples} == {"b", "c", "d"}
    assert result.tokens == 8 * 110
    assert (result.live_versions, result.shadow_version) == ({"v1": 5}, "v2")


def test_the_last_verdict_on_an_item_counts_and_another_text_is_another_item():
    again = verdict("a", "safe", later=9)
    result = compare(P, [again, *LIVE], [shadow("a", "violates", rules=("HH1",)), shadow("b", "safe", sha="other")])
    assert (result.to_violates.count, result.both, result.waiting) == (1, 1, 1)


def test_the_shadow_that_judged_last_is_compared_unless_another_is_named():
    older = [shadow("a", "safe", version="v0", later=-5)]
    assert compare(P, LIVE, [*SHADOWS, *older]).shadow_version == "v2"
    named = compare(P, LIVE, [*SHADOWS, *older], "v0")
    assert (named.shadow_version, named.both, named.to_safe.count) == ("v0", 1, 1)
    nothing = compare("other", LIVE, SHADOWS)
    assert (nothing.both, nothing.shadow_version, nothing.agree.value) == (0, "", None)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    # Newcombe 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_wilsons(count, of, low, high):
    result = proportion(count, of)
    assert (result.low, result.high) == pytest.approx((low, high), abs=1e-4)
    assert str(proportion(0, 0)) == "-"
