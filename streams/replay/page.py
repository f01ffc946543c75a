"""A replay's changes as one HTML page for decision makers.

The page is a single file without scripts, fonts or network access. All texts by authors, models and people are escaped,
and the page's own security policy forbids loading or running anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

import jinja2
import msgspec
from rich.cells import split_graphemes

from safeguard_streams.contract.records import Replay, Replayed
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.parsing import parse
from safeguard_streams.quality.proportions import Proportion
from safeguard_streams.replay.diff import Diff, FlipCounts
from safeguard_streams.replay.headline import headline

MAX_LANGUAGES = 12
MAX_TEXT = 2000  # characters of an example's text
DECISIONS = ("violates", "safe", "undetermined", "cleared")


class Chart(msgspec.Struct, frozen=True):
    """Rows of a chart with two directions. scale is the count that fills half of its width."""

    rows: Mapping[str, FlipCounts]
    scale: int


def render(diff: Diff, replay: Replay) -> str:
    """The page as HTML, to be stored as UTF-8."""
    source = files("safeguard_streams.replay").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent, "interval": _interval, "excerpt": _excerpt}
    noise = diff.noise.high if diff.noise.of else 0.0
    return environment.from_string(source).render(
        diff=diff,
        replay=replay,
        flips=diff.to_violates.count + diff.to_safe.count,
        summary=headline(diff),
        scale=max(0.01, diff.to_violates.high, diff.to_safe.high, noise),
        effect_scale=max(0.01, diff.violating_before.high, diff.violating_after.high),
        rules=_chart({name: counts for name, counts in diff.rules.items() if counts.to_violates + counts.to_safe}),
        rule_texts=_rule_texts(replay, diff.policy_id),
        languages=_chart(dict(list(diff.languages.items())[:MAX_LANGUAGES])),
        more_languages=max(0, len(diff.languages) - MAX_LANGUAGES),
        decisions=DECISIONS,
    )


def _rule_texts(replay: Replay, policy_id: str) -> dict[str, str]:
    """Each rule's line by rule id, in the new version or else the old one."""
    texts: dict[str, str] = {}
    for policy in replay.policies:
        if policy.policy_id == policy_id:
            texts |= _rules(policy, policy.before_document, policy.before_distilled)
            texts |= _rules(policy, policy.document, policy.distilled)
    return texts


def _rules(policy: Replayed, document: str | None, distilled: str | None) -> Mapping[str, str]:
    if not document:
        return {}
    try:
        return parse(document, f"policy {policy.policy_id}", distilled).rules
    except PolicyError:  # a version that this release no longer reads has a page all the same
        return {}


def _chart(rows: Mapping[str, FlipCounts]) -> Chart:
    return Chart(rows, max([1, *(max(counts.to_violates, counts.to_safe) for counts in rows.values())]))


def _number(value: int) -> str:
    return f"{value:,}"


def _excerpt(text: str) -> str:
    """A text, or its beginning up to a whole character, as people see it."""
    if len(text) <= MAX_TEXT:
        return text
    last, *_ = split_graphemes(text[:MAX_TEXT])[0][-1]
    return text[:last] + "…"


def _percent(share: Proportion) -> str:
    return "-" if share.value is None else f"{100 * share.value:.2f}%"


def _interval(share: Proportion) -> str:
    return "" if share.value is None else f"{100 * share.low:.2f}% to {100 * share.high:.2f}%"
