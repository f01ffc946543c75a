"""What a replay changes as one page of HTML: nothing but the file is needed to read it, no script, no font, no network.

Everything that models and people wrote is escaped, and the page forbids itself to load or run anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2

from safeguard_streams.contract.records import Replay
from safeguard_streams.errors import PolicyError
from safeguard_streams.policies.parsing import parse
from safeguard_streams.quality.proportions import Proportion
from safeguard_streams.replay.diff import Diff, Side

MOST_LANGUAGES = 12
DECISIONS = ("violates", "safe", "undetermined", "cleared")


def page(found: Diff, replay: Replay) -> str:
    """The page, in UTF-8."""
    source = files("safeguard_streams.replay").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": _percent, "interval": _interval}
    template = environment.from_string(source)
    rules = {**_texts(replay, found.policy_id, before=True), **_texts(replay, found.policy_id, before=False)}
    return template.render(
        diff=found,
        replay=replay,
        flips=found.to_violates.count + found.to_safe.count,
        sentence=sentence(found),
        scale=max(0.01, found.to_violates.high, found.to_safe.high, found.noise.high if found.noise.of else 0.0),
        effect_scale=max(0.01, found.before.high, found.after.high),
        rules=_sides({name: side for name, side in found.rules.items() if side.to_violates + side.to_safe}),
        rule_texts=rules,
        languages=_sides(dict(list(found.languages.items())[:MOST_LANGUAGES])),
        more_languages=max(0, len(found.languages) - MOST_LANGUAGES),
        decisions=DECISIONS,
    )


def sentence(found: Diff) -> str:
    """What the figures say together, as far as they allow."""
    changed = found.to_violates.count + found.to_safe.count
    if not found.compared:
        return "Nothing could be compared yet."
    if not changed:
        return "No content changes its decision."
    if not found.noise.of:
        return "No noise floor was measured, so it is not known how many of these flips the model would make by itself."
    if found.to_violates.low > found.noise.high or found.to_safe.low > found.noise.high:
        return "The change is more than noise: equal versions disagree with themselves less often than this."
    return "The change cannot be told from noise: equal versions disagree with themselves about as often."


def _texts(replay: Replay, policy_id: str, *, before: bool) -> Mapping[str, str]:
    """The rules of a version with their lines."""
    for one in replay.policies:
        document = one.before_document if before else one.document
        if one.policy_id == policy_id and document:
            try:
                return parse(document, f"policy {policy_id}", one.before_distilled if before else one.distilled).rules
            except PolicyError:
                return {}
    return {}


def _sides(sides: Mapping[str, Side]) -> dict[str, Any]:
    """Rows of a chart with two directions, and the count that fills half of its width."""
    return {"rows": sides, "scale": max([1, *(max(side.to_violates, side.to_safe) for side in sides.values())])}


def _number(value: int) -> str:
    return f"{value:,}"


def _percent(share: Proportion) -> str:
    return "-" if share.value is None else f"{100 * share.value:.2f} %"


def _interval(share: Proportion) -> str:
    return "" if share.value is None else f"{100 * share.low:.2f} to {100 * share.high:.2f} %"
