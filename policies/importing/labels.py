"""The words by which policies and labels call content violating or safe."""

from __future__ import annotations

import re
import unicodedata

from safeguard_streams.policies.vocabulary import Side

_VIOLATES = frozenset(
    {
        "invalid",
        "violates",
        "violate",
        "violation",
        "violating",
        "violative",
        "unsafe",
        "harmful",
        "prohibited",
        "disallowed",
        "forbidden",
        "banned",
        "block",
        "blocked",
        "remove",
        "removed",
        "reject",
        "rejected",
        "unacceptable",
        "fail",
        "flag",
        "flagged",
        "toxic",
        "abusive",
        "disallow",
        "deny",
        "1",
        "true",
        "yes",
        "positive",
    }
)
_SAFE = frozenset(
    {
        "valid",
        "safe",
        "allow",
        "allowed",
        "permit",
        "permitted",
        "acceptable",
        "ok",
        "okay",
        "pass",
        "benign",
        "compliant",
        "clean",
        "none",
        "approve",
        "approved",
        "keep",
        "0",
        "false",
        "no",
        "negative",
        "non-violating",
        "nonviolating",
        "non-violation",
    }
)
_NOT_VIOLATING = re.compile(
    r"\b(?:does not|doesn't|do not|don't|not|no|non)[ -]?(?:violat\w*|harmful|unsafe|prohibited)|\blabel:?\s*0\b",
    re.IGNORECASE,
)
_VIOLATING = re.compile(
    r"\b(?:invalid|violat\w*|unsafe|prohibited|disallow\w*|forbidden|banned|removed?|block(?:ed)?|reject(?:ed)?|harmful"
    r"|unacceptable|includes?|not (?:be )?(?:allowed|permitted|acceptable|safe|valid))\b|\blabel:?\s*1\b",
    re.IGNORECASE,
)
_PERMITTED = re.compile(
    r"\b(?:valid|safe|ok(?:ay)?|allow(?:ed)?|permit(?:ted)?|acceptable|excludes?|exceptions?|exempt\w*|benign|compliant)\b",
    re.IGNORECASE,
)
_WRAPPING = " \t`'\"*_.,:;()[]{}“”‘’"


def bare(label: str) -> str:
    """A label without the signs around it and in compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", label).split()).strip(_WRAPPING)


def side_of_label(label: str) -> Side | None:
    """What a label says of content, as in INVALID, `safe`, 1, or INVALID + ESCALATE."""
    words = bare(label).casefold().replace("_", "-")
    if _NOT_VIOLATING.fullmatch(words):
        return "safe"
    if re.fullmatch(r"not (?:allowed|permitted|acceptable|safe|valid)", words):
        return "violates"
    first = bare(re.split(r"[\s+/&,(]", words)[0]) if words else ""
    if first in _VIOLATES:
        return "violates"
    return "safe" if first in _SAFE else None


def side_of_heading(text: str) -> Side | None:
    """What a heading says of the content that is described below it."""
    if _NOT_VIOLATING.search(text):
        return "safe"
    if _VIOLATING.search(text):
        return "violates"
    return "safe" if _PERMITTED.search(text) else None
