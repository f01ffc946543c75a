"""Rule ids as authors write them, and as the format of this package has them."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Collection, Mapping

from safeguard_streams.policies.vocabulary import is_within

# Letters, a number, and letters or numbers of sub-rules: SP2, SP2.a, SP-2, TVEC.01, ＳＰ２, R1a.
WRITTEN = r"[^\W\d_]{1,20}[-_.]?\d{1,3}(?:[.\-_][^\W_]{1,3}\b|[a-z]\b)*"
# What reads as an id with any number and any sub-rules.
LIKE = re.compile(r"[\"'`*_#\[(]*(([^\W\d_]+)[-_.]?\d+(?:[.\-_]?[^\W_]+)*)(?=[\])`*_]*(?:[\s:–—=>-]|\Z))")
_LETTERS = 8  # of an id here
_PARTS = re.compile(r"([^\W\d_]{1,20})[-_.]?(\d{1,3})((?:[.\-_][^\W_]{1,3}|[a-z])*)\Z")
_SUB = re.compile(r"[^\W_]{1,3}")


def canonical(written: str, prefix: str) -> str | None:
    """The id for what an author wrote, if it reads as one. Letters that are not Latin are replaced by `prefix`."""
    parts = _PARTS.match(unicodedata.normalize("NFKC", written))
    if not parts:
        return None
    latin = _latin(parts[1]).upper()
    subs = [_latin(sub).lower() for sub in _SUB.findall(parts[3])] if parts[3] else []
    subs = [sub if sub.isascii() and sub.isalnum() else "x" for sub in subs][:2]
    own = latin[:_LETTERS] if latin.isascii() and latin.isalpha() else prefix
    return ".".join([f"{own}{parts[2]}", *subs])


def _latin(letters: str) -> str:
    """Letters without their marks."""
    return "".join(c for c in unicodedata.normalize("NFKD", letters) if not unicodedata.combining(c))


def letters(rule: str) -> str:
    """The letters that an id begins with: SP for SP2.a."""
    return base(rule).rstrip("0123456789")


def base(rule: str) -> str:
    """The id of the level that a rule belongs to: SP2 for SP2.a."""
    return rule.partition(".")[0]


def free(rule: str, taken: Collection[str]) -> str:
    """An id like this one that nothing has, and nothing is below: the next letter of a sub-rule, or the next number."""
    if "." in rule:
        above = rule.rpartition(".")[0]
        options = [f"{above}.{sub}" for sub in (*string.ascii_lowercase, *range(1, 1000))]
    else:
        own = int(rule.removeprefix(letters(rule)))
        options = [f"{letters(rule)}{number}" for number in (*range(own + 1, 1000), *range(1, own))]
    return next(option for option in options if not any(is_within(rule_id, option) for rule_id in taken))


def renaming(names: Mapping[str, str]) -> Callable[[str], str]:
    """Replaces ids as written by those that they stand for, in one pass."""
    changed = sorted((written for written, rule_id in names.items() if written not in {"", rule_id}), key=len)
    if not changed:
        return str
    pattern = re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, reversed(changed)))})(?![\w-]|\.\w)")
    return lambda text: pattern.sub(lambda found: names[found[0]], text)
