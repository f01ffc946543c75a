"""A canary compared with the live model: what is joined, what is counted, and what is left out."""

import msgspec
import pytest

from safeguard_streams.cli import model_tables
from safeguard_streams.contract.records import Canary, Tokens
from safeguard_streams.prefilter.sampling import is_drawn
from safeguard_streams.quality import shadow_comparison, verdict_labels
from safeguard_streams.quality.model_comparison import DRAW, ModelFlip, compare
from tests.unit.quality.test_shadow_comparison import P
from tests.unit.quality.test_shadow_comparison import verdict as shadow_or_live

TRY = Canary("try", 1.0)


def verdict(number, decision, lane="live", *, origin=True, **changes):
    """The verdict on item number N, whose event stands at 0@N."""
    first = shadow_or_live(f"item-{number}", decision, lane, later=changes.pop("later", 0))
    place = {"origin": f"0@{number}"} if origin else {}
    return msgspec.structs.replace(first, model=changes.pop("model", "old"), **place, **changes)


def canary(number, decision, *, by=TRY, model="new", **changes):
    return verdict(number, decision, "canary", canary=by, model=model, **changes)


def only(comparison):
    (policy,) = comparison.policies
    return policy


def test_pairs_are_split_by_what_both_decide():
    live = [verdict(n, d) for n, d in enumerate(["violates", "violates", "safe", "safe", "undetermined", "safe"])]
    other = ["violates", "safe", "violates", "safe", "safe", "undetermined"]
    policy = only(compare(TRY, live, [canary(n, d) for n, d in enumerate(other)]))
    assert (policy.pairs, policy.versions) == (6, {"v1": 6})
    counts = (policy.agree.count, policy.to_violates.count, policy.to_safe.count, policy.undetermined.count)
    assert counts == (2, 1, 1, 2)
    assert sum(counts) == policy.pairs
    assert (policy.agree.value, policy.agree.low < 2 / 6 < policy.agree.high) == (round(2 / 6, 4), True)
    assert [(one.content_id, one.live, one.canary) for one in policy.examples] == [
        ("item-1", "violates", "safe"),
        ("item-2", "safe", "violates"),
        ("item-4", "undetermined", "safe"),
        ("item-5", "safe", "undetermined"),
    ]
    assert (policy.live.undetermined.count, policy.canary.undetermined.count) == (1, 1)


def test_pairs_that_both_models_reused_are_no_evidence():
    live = [verdict(0, "safe"), *(verdict(n, "safe", cached=True) for n in (1, 2, 3))]
    others = [canary(0, "violates"), canary(1, "violates"), *(canary(n, "violates", cached=True) for n in (2, 3))]
    policy = only(compare(TRY, live, others))
    assert (policy.pairs, policy.to_violates.count, policy.to_violates.of) == (4, 2, 2)


def test_only_the_same_event_text_policy_and_version_make_a_pair():
    live = [verdict(n, "safe") for n in range(5)]
    others = [
        canary(0, "safe"),
        canary(1, "safe", content_sha256="other"),
        canary(2, "safe", origin=False),
        canary(3, "safe", policy_version="v2"),
        canary(4, "safe", policy_id="other"),
    ]
    both = {policy.policy_id: policy for policy in compare(TRY, live, others).policies}
    assert (both[P].pairs, both["other"].pairs) == (1, 0)
    unpaired = both[P].unpaired
    assert (unpaired.other_version, unpaired.only_canary) == (1, 2)
    assert both["other"].unpaired.only_canary == 1


def test_events_without_a_place_are_joined_by_the_rest():
    policy = only(compare(TRY, [verdict(0, "safe", origin=False)], [canary(0, "violates", origin=False)]))
    assert (policy.pairs, policy.to_violates.count) == (1, 1)


def test_what_only_the_live_model_judged_is_counted_where_the_canary_was_and_behind_it():
    live = [verdict(n, "safe") for n in range(10)] + [verdict(99, "safe", origin=False)]
    policy = only(compare(TRY, live, [canary(n, "safe") for n in (2, 3, 6)]))
    # 0 and 1 came before it began; it did not judge 4 and 5; 7, 8 and 9 wait.
    assert (policy.unpaired.only_live, policy.unpaired.waiting) == (2, 3)


def test_items_that_a_canary_does_not_draw_are_not_missing():
    some = Canary("try", 0.3)
    drawn = [n for n in range(100) if is_drawn(f"item-{n}", DRAW, some.share)]
    assert 10 < len(drawn) < 60
    live = [verdict(n, "safe") for n in range(100)]
    policy = only(compare(some, live, [canary(n, "safe", by=some) for n in (drawn[0], drawn[-1])]))
    assert policy.pairs == 2
    assert policy.unpaired.only_live == len(drawn) - 2
    assert policy.unpaired.waiting == 0


def test_audits_shadows_replays_other_canaries_and_promotions_are_no_side_of_a_pair():
    live = [
        verdict(0, "safe", "audit"),
        verdict(1, "violates", supersedes="earlier"),
        verdict(2, "violates", replay_id="r"),
        verdict(3, "safe", stage="prefilter"),
    ]
    others = [
        *(canary(n, "safe") for n in range(4)),
        canary(5, "safe", by=Canary("other", 1.0)),
        verdict(6, "safe", "shadow"),
        verdict(7, "safe", "replay", replay_id="r"),
    ]
    policy = only(compare(TRY, live, others))
    assert (policy.pairs, policy.unpaired.only_canary) == (0, 4)


def test_of_several_verdicts_on_one_event_the_last_counts():
    live = [verdict(0, "violates", later=5), verdict(0, "safe", later=1)]
    policy = only(compare(TRY, live, [canary(0, "safe", later=1), canary(0, "violates", later=9)]))
    assert (policy.pairs, policy.agree.count) == (1, 1)


def test_noise_is_what_the_live_model_decided_otherwise_when_it_judged_again():
    live = [verdict(n, "safe", model_revision="r1") for n in range(4)]
    again = [
        verdict(0, "violates", "replay", replay_id="r", model_revision="r1"),
        verdict(1, "safe", "replay", replay_id="r", model_revision="r1"),
        verdict(2, "violates", "replay", replay_id="r", model_revision="r2"),
        verdict(3, "violates", "replay", replay_id="r", policy_version="v2", model_revision="r1"),
        canary(2, "safe", by=Canary("same", 1.0), model="old", model_revision="r1"),
    ]
    noise = only(compare(TRY, live, [canary(0, "safe"), *again])).noise
    assert (noise.count, noise.of) == (1, 3)
    assert only(compare(TRY, live, [canary(0, "safe")])).noise is None
    unknown = canary(0, "violates", model="old")
    assert only(compare(TRY, [verdict(0, "safe")], [unknown])).noise is None, "it may be of other weights"


def test_noise_counts_decisions_alone_and_a_verdict_that_was_repeated_once():
    live = [verdict(n, d, model_revision="r1") for n, d in enumerate(["safe", "undetermined", "safe"])]
    flip = canary(0, "violates", model="old", model_revision="r1", verdict_id="requeued")
    none = [canary(n, d, model="old", model_revision="r1") for n, d in ((1, "safe"), (2, "undetermined"))]
    policy = only(compare(TRY, live, [flip, *none, flip]))
    assert (policy.noise.count, policy.noise.of) == (1, 3)
    assert (policy.to_violates.count, policy.undetermined.count, policy.pairs) == (1, 2, 3)


def test_figures_leave_out_judgements_that_were_reused():
    def cost(completion, ms):
        return {"tokens": Tokens(100, 0, completion), "latency": {"queue": 9999.0, "reasoner": ms}}

    live = [verdict(n, "safe", **cost(10 * n, 100.0 * n)) for n in range(1, 11)]
    others = [canary(n, "safe", **cost(20 * n, 50.0 * n)) for n in range(1, 11)]
    live[0] = msgspec.structs.replace(live[0], answer="constrained")
    others[:3] = [
        msgspec.structs.replace(others[0], malformed=2, answer="constrained"),
        msgspec.structs.replace(others[1], malformed=1, decision="undetermined"),
        msgspec.structs.replace(others[2], cached=True, tokens=Tokens(), latency={"reasoner": 0.1}),
    ]
    policy = only(compare(TRY, live, others))
    assert policy.live.models == {"old": 10}
    assert (policy.live.completion.median, policy.live.completion.mean, policy.live.completion.p90) == (55, 55, 91)
    assert (policy.live.latency.of, policy.live.latency.median, policy.live.latency.p90) == (10, 550, 910)
    assert (policy.live.malformed.count, policy.live.constrained.count) == (1, 1), "records before have no count"
    assert (policy.canary.reused, policy.canary.tokens.of) == (1, 9)
    assert (policy.canary.malformed.count, policy.canary.malformed.of) == (2, 9)
    assert (policy.canary.constrained.count, policy.canary.undetermined.count) == (1, 1)


def test_figures_that_no_verdict_has_are_absent():
    bare = {"tokens": None, "latency": {}}
    policy = only(compare(TRY, [verdict(0, "safe", **bare)], [canary(0, "safe", **bare)]))
    assert (policy.live.tokens, policy.canary.latency) == (None, None)


def test_a_lower_effort_of_the_live_model_is_said():
    live = [verdict(n, "safe", reasoning_effort=effort) for n, effort in enumerate(["low", "medium", None])]
    others = [canary(n, "safe", reasoning_effort="medium") for n in range(3)]
    assert only(compare(TRY, live, others)).lower_effort == 1


@pytest.mark.parametrize("width", ["80", "40"])
def test_it_is_shown_at_any_width_with_texts_as_plain_text(monkeypatch, capsys, width):
    monkeypatch.setenv("COLUMNS", width)
    comparison = compare(TRY, [verdict(0, "safe"), verdict(1, "safe")], [canary(0, "violates"), canary(5, "safe")])
    policy = only(comparison)
    flip = msgspec.structs.replace(policy.examples[0], text="a\x1b[2Jb " * 200)
    assert isinstance(flip, ModelFlip)
    policy = msgspec.structs.replace(policy, examples=[flip])
    model_tables.print_comparison(msgspec.structs.replace(comparison, policies=[policy]))
    shown = capsys.readouterr().out
    assert "canary try, on 100.00% of live content" in shown
    assert "hate-harassment, v1: new beside old" in shown
    assert "unknown: nothing was judged twice" in shown
    assert "left out: judged by the canary alone, the live verdict is to come or was not read: 1" in shown
    assert "left out: judged live alone, the canary failed or is at work on them: 1" in shown
    assert "\x1b" not in shown
    assert r"a\x1b[2Jb" in shown
    model_tables.print_comparison(comparison, texts=False)
    assert "no text" not in capsys.readouterr().out


def test_a_canarys_verdict_is_none_of_a_shadow_and_no_label():
    found = canary(0, "violates")
    assert shadow_comparison.compare(P, [], [found]).shadow_version == ""
    assert verdict_labels.from_verdicts([found], P).rows == []
