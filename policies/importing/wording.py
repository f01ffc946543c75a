"""What words tell of a part of the text: the kind of section that a heading begins, or how to answer."""

from __future__ import annotations

import re

from safeguard_streams.policies.importing.labels import side_of_heading, side_of_label
from safeguard_streams.policies.importing.outline import Kind
from safeguard_streams.policies.vocabulary import Side

_MAX_FORM = 300  # characters of a sentence that asks for a form of answer
_KINDS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("examples", re.compile(r"(?:\w+ )?examples?\b", re.IGNORECASE)),
    ("output", re.compile(r"(?:required |expected )?(?:output|response|answer|return)\b", re.IGNORECASE)),
    ("definitions", re.compile(r".*\b(?:definitions?|glossary|terminology|key terms)\b", re.IGNORECASE)),
)
_INSTRUCTION = re.compile(r"(?:goal|instructions?|task|overview|purpose|role|objective|introduction|scope)\b", re.I)
_PLACEHOLDER = re.compile(
    r"(?:user )?(?:content|input|text|message)(?: to \w+)?:\s*(?:[\[{<].*)?\Z"
    r"|(?:answer|classification|label|output|decision)(?: \([^)]*\))?:\Z"
    r"|.*\{\{?\s*(?:input|content|text|message|prompt)\s*\}?\}",
    re.IGNORECASE,
)
_FIELDS = re.compile(r"[{}]|[\"']?\w+[\"']?\s*:\s*(?:0 or 1|0\|1|\"|true)")
_FORM = re.compile(
    r"\b(?:return|respond|reply|answer|output)\b.*\b(?:json|exactly|only|one word|single|format|object|label)\b"
    r"|\b(?:do not|don't|no|without)\b.*\b(?:explanations?|punctuation|reasoning|other text|markdown)\b",
    re.IGNORECASE,
)
# What a sentence begins with that tells the model how to answer. In a rule, others describe content.
_ASKS = re.compile(r"\W*(?:please )?(?:return|respond|reply|answer|output)\b", re.IGNORECASE)
_CONDITION = re.compile(r"\b(?:if|when|unless|for|where|otherwise)\b", re.IGNORECASE)
_ANSWER_WORD = re.compile(r"(?<![\w.-])(?:[A-Z][A-Z_-]+|[01])(?![\w-])")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def kind_of(heading: str) -> tuple[Kind, Side | None]:
    """What a section with this heading holds, and what the heading says of content that is described below it."""
    for kind, pattern in _KINDS:
        if pattern.match(heading):
            return kind, None
    if side := side_of_heading(heading):
        return side, side
    return ("instruction" if _INSTRUCTION.match(heading) else "other"), None


def frame_of_answer(line: str, *, in_fence: bool) -> str:
    """What a line is that frames the answer or the content, and holds nothing of the policy; empty for any other."""
    if in_fence and _FIELDS.search(line):
        return "a form of the answer"
    return "a place for the content" if _PLACEHOLDER.match(line.strip()) else ""


def without_form(text: str, *, describes: bool) -> str:
    """A line without the sentences that ask for another form of answer. describes: whether it describes content."""
    sentences = _SENTENCE.split(text)
    kept = [sentence for sentence in sentences if not _asks_form(sentence, describes=describes)]
    return text if len(kept) == len(sentences) else " ".join(kept)


def _asks_form(sentence: str, *, describes: bool) -> bool:
    """Whether a sentence says how to answer, and nothing of what decides."""
    if len(sentence) > _MAX_FORM:
        return False
    asks = _ASKS.match(sentence)
    if _FORM.search(sentence) and (asks or not describes):
        return True
    if not asks or _CONDITION.search(sentence):
        return False
    sides = set(map(side_of_label, re.findall(r"\w+", sentence)))
    return sides >= {"violates", "safe"} or any(map(side_of_label, _ANSWER_WORD.findall(sentence)))
