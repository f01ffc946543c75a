"""The transparency report as one HTML page.

The page is a single file without scripts, fonts or network access, and its own security policy forbids loading any. All
names that come from records are escaped.
"""

from __future__ import annotations

import calendar
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files

import jinja2
from markupsafe import Markup

from safeguard_streams.contract.records import EVERY_POLICY
from safeguard_streams.exporting.transparency import charts
from safeguard_streams.exporting.transparency.figures import Appeals, Figures, Means, Notices
from safeguard_streams.exporting.transparency.history import NO_POLICY
from safeguard_streams.quality.proportions import Proportion

# The categories of the templates, by their codes in the DSA Transparency Database.
_CATEGORIES = {
    "ANIMAL_WELFARE": "Animal welfare",
    "CONSUMER_INFORMATION": "Consumer information infringements",
    "CYBER_VIOLENCE": "Cyber violence",
    "CYBER_VIOLENCE_AGAINST_WOMEN": "Cyber violence against women",
    "DATA_PROTECTION_AND_PRIVACY_VIOLATIONS": "Data protection and privacy violations",
    "ILLEGAL_OR_HARMFUL_SPEECH": "Illegal or harmful speech",
    "INTELLECTUAL_PROPERTY_INFRINGEMENTS": "Intellectual property infringements",
    "NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS": "Negative effects on civic discourse or elections",
    "NOT_SPECIFIED_NOTICE": "Type of alleged illegal content not specified by the notifier",
    "OTHER_VIOLATION_TC": "Other violation of provider's terms and conditions",
    "PROTECTION_OF_MINORS": "Protection of minors",
    "RISK_FOR_PUBLIC_SECURITY": "Risk for public security",
    "SCAMS_AND_FRAUD": "Scams and/or fraud",
    "SELF_HARM": "Self-harm",
    "UNSAFE_AND_PROHIBITED_PRODUCTS": "Unsafe, non-compliant or prohibited products",
    "VIOLENCE": "Violence",
}
_POLICIES = {NO_POLICY: "no policy cited", EVERY_POLICY: "all policies"}


def render(figures: Figures, service: str) -> str:
    """The page, to be stored as UTF-8. service: its name, for the title."""
    source = files("safeguard_streams.exporting.transparency").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": _number,
        "percent": charts.percent,
        "share": _share,
        "hours": _hours,
        "policy": _policy,
        "category": _category,
        "words": _words,
        "day": _day,
    }
    # Macros see the globals of an environment, but no variables of the page.
    environment.globals |= {
        "charts": charts,
        "by_name": _by_name,
        "outcomes_of": _outcomes,
        "categories_of": _by_category,
    }
    environment.globals |= {"overruled_of": _overruled, "recall_of": _recall}
    return environment.from_string(source).render(
        f=figures, service=service, months=calendar.month_name[1:], gaps=_gaps(figures)
    )


def _by_name(policies: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {_policy(name): kinds for name, kinds in policies.items()}


def _by_category(categories: Mapping[str, Mapping[str, int]]) -> dict[str, Mapping[str, int]]:
    return {_category(code): found for code, found in categories.items()}


def _outcomes(kinds: Mapping[str, Notices | Appeals]) -> dict[str, Mapping[str, int]]:
    return {_words(name): kind.outcomes for name, kind in kinds.items()}


def _overruled(means: Mapping[str, Means]) -> dict[str, Proportion]:
    return {_policy(name): one.overruled for name, one in means.items() if one.overruled.of}


def _recall(means: Mapping[str, Means]) -> dict[str, Proportion]:
    """The estimates of recall as shares, which have no counts."""
    known = {name: one.recall for name, one in means.items() if one.recall is not None}
    return {
        _policy(name): Proportion(0, 0, one.recall, one.low, one.high)
        for name, one in known.items()
        if one.recall is not None
    }


def _gaps(figures: Figures) -> list[str]:
    """What the export does not hold of the year, in sentences."""
    begin, end = datetime(figures.year, 1, 1, tzinfo=UTC), datetime(figures.year + 1, 1, 1, tzinfo=UTC)
    gaps = []
    for kind, there in figures.records.items():
        if there is None:
            gaps.append(f"The export holds no {kind}.")
            continue
        if there.since is None or there.since > begin:
            first = "none" if there.since is None else f"{there.since:%Y-%m-%d}"
            gaps.append(f"The first {kind} in the export: {first}.")
        if there.until < end:
            gaps.append(f"The export of {kind} ends on {there.until:%Y-%m-%d}.")
        if there.expired:
            gaps.append(f"Up to {there.expired:,} {kind} expired on their topic before they were exported.")
    return gaps


def _number(value: int) -> str:
    return f"{value:,}"


def _share(share: Proportion | None) -> str:
    """A share, and in a second line its counts and its interval."""
    if share is None:
        return "not recorded"
    if share.value is None:
        return "none checked"
    interval = f"{charts.percent(share.low)} to {charts.percent(share.high)}"
    return Markup("{}<br><small>{:,} of {:,}<br>{}</small>").format(
        charts.percent(share.value), share.count, share.of, interval
    )


def _hours(hours: float | None) -> str:
    if hours is None:
        return "none"
    if hours < 1:
        return f"{60 * hours:.0f} min"
    return f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"


def _policy(policy_id: str) -> str:
    return _POLICIES.get(policy_id, policy_id)


def _category(code: str) -> str:
    name = code.removeprefix("STATEMENT_CATEGORY_")
    return _CATEGORIES.get(name, name or "not specified")


def _words(name: str) -> str:
    return name.replace("_", " ")


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d}"
