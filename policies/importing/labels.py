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
_YES = frozenset({"1", "true", "yes", "positive"})
_NO = frozenset({"0", "false", "no", "negative", "none"})
_BAD = (
    r"(?:violat\w*|harmful|unsafe|prohibited|disallow\w*|forbidden|banned|removed?|block(?:ed)?|reject(?:ed)?|invalid"
    r"|flagged|unacceptable)"
)
_GOOD = r"(?:allowed|permitted|acceptable|safe|valid|ok(?:ay)?|compliant)"
_LINKS = r"(?:[ -]+(?:be|an?|as|to|in|of|any|count|considered|get|is)\b)*"
_NOT_VIOLATING = re.compile(
    rf"(?:\b(?:not|never|non)|n['’]t){_LINKS}[ -]*{_BAD}\b|\bno[ -]violat\w*|\blabel:?\s*0\b", re.IGNORECASE
)
_NOT_PERMITTED = re.compile(rf"\b(?:not|never|non){_LINKS}[ -]*{_GOOD}\b", re.IGNORECASE)
_VIOLATING = re.compile(rf"\b(?:{_BAD}|includes?)\b|\blabel:?\s*1\b", re.IGNORECASE)
_PERMITTED = re.compile(rf"\b(?:{_GOOD}|allow|permit|excludes?|exceptions?|exempt\w*|benign)\b|\bno\b", re.I)
_EXCEPTED = re.compile(
    r"\W{0,3}(?:(?!no\b)[\w-]{1,30} )?(?:exceptions?|exempt\w*|exclu(?:des?|ded|sions?))\b", re.IGNORECASE
)
_DENIED_WORD = re.compile(rf"\b(?:no|without)[ -]\w+|\b(?:not|never|non){_LINKS}[ -]*(?:{_BAD}|{_GOOD})\b")
_DENIAL = re.compile(r"\A\W*(?:not|none|nothing|never|false)\b")  # as in violation not found
_OF_LABELS = frozenset({"label", "output", "answer", "decision", "classification", "verdict", "expected"})
_FIELD = re.compile(r"(?:is-)?([\w-]+)\s*[:=]\s*(\S.*)")  # as in violation: no
_WRAPPING = " \t`'\"*_.,:;()[]{}“”‘’"


def bare(label: str) -> str:
    """A label without the signs around it and in compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", label).split()).strip(_WRAPPING)


def side_of_label(label: str) -> Side | None:
    """What a label says of content, as in INVALID, `safe`, 1, or INVALID + ESCALATE. None where it may say either."""
    words = bare(label).casefold().replace("_", "-")
    if field := _FIELD.fullmatch(words):
        return _side_of_field(field[1], bare(field[2]))
    if _NOT_VIOLATING.fullmatch(words):
        return "safe"
    if _NOT_PERMITTED.fullmatch(words):
        return "violates"
    first = re.split(r"[\s+/&,(]", words)[0] if words else ""
    side, rest = _side_of_word(bare(first)), _DENIED_WORD.sub("", words[len(first) :])
    if bare(first) in _YES | _NO and re.match(r"\s+\w", rest):  # No weapons may be sold
        return None
    return None if (_VIOLATING if side == "safe" else _DENIAL).search(rest) else side


def _side_of_word(word: str) -> Side | None:
    if word in _VIOLATES:
        return "violates"
    return "safe" if word in _SAFE else None


def _side_of_field(name: str, value: str) -> Side | None:
    """What a field says: violation: no is safe, and so is label: safe. None for spam: yes, whose name says nothing."""
    if name in _OF_LABELS:
        return side_of_label(value)
    named = _side_of_word(name)
    if named and value in _YES:
        return named
    if named and value in _NO:
        return "safe" if named == "violates" else "violates"
    return None


def side_of_heading(text: str) -> Side | None:
    """What a heading says of the content that is described below it. None where it may say either."""
    if _EXCEPTED.match(text) or _NOT_VIOLATING.search(text):
        return "safe"
    rest = _NOT_PERMITTED.sub("", text)
    violating = rest != text or bool(_VIOLATING.search(rest))
    if violating == bool(_PERMITTED.search(rest)):
        return None
    return "violates" if violating else "safe"
