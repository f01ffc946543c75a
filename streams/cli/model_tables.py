"""How `policy compare --by model` shows a canary beside the live model."""

from __future__ import annotations

from safeguard_streams.cli.output import Table, console, say
from safeguard_streams.cli.texts import Labelled, item_text, reason_of, show_item
from safeguard_streams.quality.model_comparison import (
    Distribution,
    ModelComparison,
    ModelFigures,
    PolicyComparison,
    Unpaired,
)


def print_comparison(comparison: ModelComparison, *, texts: bool = True) -> None:
    """Print each policy's shares, both models' figures, and examples of events that they judge differently."""
    canary = comparison.canary
    say(f"canary {canary.name}, on {canary.share:.2%} of live content")
    say("shares with their 95% intervals, of the events that both models judged")
    for policy in comparison.policies:
        say()
        _print_policy(policy, texts=texts)


def _print_policy(policy: PolicyComparison, *, texts: bool) -> None:
    versions = ", ".join(policy.versions) or "no version that both judged"
    say(f"{policy.policy_id}, {versions}: {_models(policy.canary)} beside {_models(policy.live)}")
    for table in (_shares(policy), _figures(policy)):
        console().print(table)
    if policy.lower_effort:
        say(f"the live model judged {policy.lower_effort:,} of them at a lower effort, because it lagged")
    for words in _unpaired(policy.unpaired):
        say(words)
    for flip in policy.examples:
        live = reason_of(flip.live, flip.live_rules, flip.live_reason)
        canary = reason_of(flip.canary, flip.canary_rules, flip.canary_reason)
        lines = [Labelled("live", live), Labelled("canary", canary)]
        show_item(flip.content_id, [item_text(flip.text, asked=texts), *lines])


def _models(figures: ModelFigures) -> str:
    return ", ".join(figures.models) or "no verdict"


def _shares(policy: PolicyComparison) -> Table:
    table = Table("", "events", "of", "share", box=None)
    for name, share in (
        ("the same decision", policy.agree),
        ("safe live, violates by the canary", policy.to_violates),
        ("violates live, safe by the canary", policy.to_safe),
        ("undetermined by one of them", policy.undetermined),
    ):
        table.add_row(name, f"{share.count:,}", f"{share.of:,}", str(share))
    noise, name = policy.noise, "noise: live model against itself"
    if noise is None:
        table.add_row(name, "", "", "unknown: nothing was judged twice")
    else:
        table.add_row(name, f"{noise.count:,}", f"{noise.of:,}", str(noise))
    return table


def _figures(policy: PolicyComparison) -> Table:
    table = Table("", "live", "canary", box=None)
    live, canary = policy.live, policy.canary
    for name, one, other in (
        ("undetermined", live.undetermined, canary.undetermined),
        ("with malformed output", live.malformed, canary.malformed),
        ("answer constrained at the second try", live.constrained, canary.constrained),
        ("judgements of identical content, left out", live.reused, canary.reused),
    ):
        table.add_row(name, one, other)
    for name, before, after in (
        ("tokens", live.tokens, canary.tokens),
        ("tokens written", live.completion, canary.completion),
        ("latency of the model stage, ms", live.latency, canary.latency),
    ):
        table.add_row(f"{name}: median, mean, p90", _distribution(before), _distribution(after))
    return table


def _distribution(figure: Distribution | None) -> str:
    if figure is None:
        return "-"
    return " ".join(f"{value:,.0f}" for value in (figure.median, figure.mean, figure.p90))


def _unpaired(unpaired: Unpaired) -> list[str]:
    """A line for each kind of verdict that has none of the other model beside it."""
    kinds = (
        (unpaired.other_version, "judged under different versions of the policy"),
        (unpaired.only_canary, "judged by the canary alone, the live verdict is to come or was not read"),
        (unpaired.only_live, "judged live alone, the canary failed or is at work on them"),
        (unpaired.waiting, "waiting for the canary"),
    )
    return [f"left out: {words}: {count:,}" for count, words in kinds if count]
