"""Rule ids as authors write them, and as the format of this package has them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

from safeguard_streams.policies.vocabulary import is_within

# Letters, a number, and letters or numbers of sub-rules: SP2, SP2.a, SP-2, TVEC.01, ＳＰ２, R1a.
WRITTEN = r"[^\W\d_]{1,8}[-_.]?\d{1,3}(?:[.\-_][^\W_]{1,3}\b|[a-z]\b)*"
_PARTS = re.compile(r"([^\W\d_]{1,8})[-_.]?(\d{1,3})((?:[.\-_][^\W_]{1,3}|[a-z])*)\Z")
_SUB = re.compile(r"[^\W_]{1,3}")


def canonical(written: str, prefix: str) -> str | None:
    """The id for what an author wrote, if it reads as one. Letters that are not Latin are replaced by `prefix`."""
    parts = _PARTS.match(unicodedata.normalize("NFKC", written))
    if not parts:
        return None
    letters = _latin(parts[1]).upper()
    subs = [_latin(sub).lower() for sub in _SUB.findall(parts[3])] if parts[3] else []
    subs = [sub if sub.isascii() and sub.isalnum() else "x" for sub in subs][:2]
    return ".".join([f"{letters if letters.isascii() and letters.isalpha() else prefix}{parts[2]}", *subs])


def _latin(letters: str) -> str:
    """Letters without their marks."""
    return "".join(c for c in unicodedata.normalize("NFKD", letters) if not unicodedata.combining(c))


def base(rule: str) -> str:
    """The id of the level that a rule belongs to: SP2 for SP2.a."""
    return rule.partition(".")[0]


def free(rule: str, taken: Collection[str]) -> str:
    """An id like this one that nothing has, and nothing is below: the next letter of a sub-rule, or the next number."""
    if "." in rule:
        above = rule.rpartition(".")[0]
        letters = (chr(code) for code in range(ord("a"), ord("z") + 1))
        options = [*(f"{above}.{letter}" for letter in letters), *(f"{above}.{number}" for number in range(1, 1000))]
    else:
        letters_only = rule.rstrip("0123456789")
        options = [f"{letters_only}{number}" for number in range(1, 1000)]
    return next(option for option in options if not any(is_within(rule_id, option) for rule_id in taken))
