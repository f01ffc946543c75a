"""Trials of a gate's terms and patterns: each is put into texts and looked for, as the prefilter does."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from safeguard_streams.policies.folding import looks, plain
from safeguard_streams.policies.letters import scripts
from safeguard_streams.policies.patterns import Patterns
from safeguard_streams.policies.terms import Term, Terms, one_by_one

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import sre_parse  # the standard library's own parser of expressions

# Words of common scripts, to put around a term. The names are the first words of their letters' Unicode names.
_NEIGHBOURS = {
    "CYRILLIC": "мы думаем",
    "GREEK": "εδω μεσα",
    "ARABIC": "قال هنا",
    "HEBREW": "הוא כאן",
    "DEVANAGARI": "वह यहाँ",
    "CJK": "我们在",
    "HANGUL": "우리는 오늘",
}
_LATIN = "they said"
_CATEGORIES = {"CATEGORY_DIGIT": "0", "CATEGORY_SPACE": " ", "CATEGORY_WORD": "a"}
_NOT_CATEGORIES = {"CATEGORY_NOT_DIGIT": "a", "CATEGORY_NOT_SPACE": "a", "CATEGORY_NOT_WORD": " "}
_MAX_REPEATS = 1000  # RE2's own limit
_BRANCHES = 8  # alternatives of a pattern that are tried


def is_found(term: str) -> bool:
    """Whether the term is found between words of its script, at either end of a text, and beside punctuation."""
    terms = Terms([term], one_by_one)
    around = next((words for script, words in _NEIGHBOURS.items() if script in scripts(plain(term))), _LATIN)
    texts = (f"{around} {term} {around}", f"{term} {around}", f"{around} {term}", f"{around}, {term}, {around}", term)
    return all(terms.find([plain(text)]) for text in texts)


def broad(term: Term) -> str | None:
    """Why a term would match nearly every text, or others than its author means, if it would."""
    letters = "".join(term.words)
    if not term.literal and len(letters) == 1 and letters.isascii():
        return "is a single letter or digit: it would match nearly every text"
    if term.form in _MASKS:
        return "is how texts for the classifier show an address: write the address, or a pattern for addresses"
    if term.words and not any(map(str.isalnum, term.written)):
        return f"is read as {term.form!r}, as its signs are letters in disguise: write these letters"
    return None


_MASKS = ("<url>", "<user>")


class _Choice(NamedTuple):
    """How a sample is made: repeats beyond the least, the character for any, and the number of the alternative."""

    more: int
    any: str
    branch: int


def can_match(pattern: str) -> bool:
    """Whether some sample of the pattern matches it. True where Python cannot read the pattern, as RE2's own forms."""
    try:
        parsed = sre_parse.parse(pattern, re.IGNORECASE)
        samples = list(_samples(parsed))
    except (re.error, OverflowError, RecursionError, NotImplementedError):
        return True
    patterns = Patterns([pattern])
    return any(patterns.find([text], [plain(text)], [looks(plain(text))]) for text in samples)


def _samples(parsed: Any) -> Iterator[str]:
    for more, any_, branch in product((0, 1, 3), (" ", "a", "."), range(_BRANCHES)):
        yield _sample(parsed, _Choice(more, any_, branch))


def _sample(parsed: Any, choice: _Choice) -> str:
    return "".join(_part(str(operation), argument, choice) for operation, argument in parsed)


def _part(operation: str, argument: Any, choice: _Choice) -> str:
    """A text for one operation of a parsed expression."""
    match operation:
        case "LITERAL":
            text = chr(argument)
        case "NOT_LITERAL":
            text = choice.any if ord(choice.any) != argument else "b"
        case "ANY":
            text = choice.any
        case "IN":
            text = _member(argument)
        case "AT":
            text = ""
        case "BRANCH":
            text = _sample(argument[1][choice.branch % len(argument[1])], choice)
        case "SUBPATTERN":
            text = _sample(argument[3], choice)
        case "MAX_REPEAT" | "MIN_REPEAT":
            least, most, repeated = argument
            text = _sample(repeated, choice) * min(int(most), int(least) + choice.more, _MAX_REPEATS)
        case _:
            raise NotImplementedError(operation)
    return text


def _member(items: Any) -> str:
    """A member of a character class."""
    first = items[0]
    if str(first[0]) == "NEGATE":
        return next(char for char in "a0 _-!~éж\u4e00" if not any(_holds(item, char) for item in items[1:]))
    operation, argument = str(first[0]), first[1]
    if operation == "CATEGORY":
        return {**_CATEGORIES, **_NOT_CATEGORIES}[str(argument)]
    return chr(argument[0] if operation == "RANGE" else argument)


def _holds(item: Any, char: str) -> bool:
    operation, argument = str(item[0]), item[1]
    if operation == "CATEGORY":
        kind = {"DIGIT": char.isdigit(), "SPACE": char.isspace(), "WORD": char.isalnum() or char == "_"}
        name = str(argument).removeprefix("CATEGORY_")
        return not kind[name.removeprefix("NOT_")] if name.startswith("NOT_") else kind[name]
    if operation == "RANGE":
        return bool(argument[0] <= ord(char) <= argument[1])
    return bool(ord(char) == argument)
