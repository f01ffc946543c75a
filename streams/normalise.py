"""Text as the prefilter sees it: one form for many spellings."""

from __future__ import annotations

import re
import unicodedata

WINDOW, STRIDE = 20, 15  # tokens


# Characters without width, directional marks, and controls other than white space.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]"
)
_URL = re.compile(r"(?:https?://|www\.)\S+")
_USER = re.compile(r"(?<!\w)@\w+")
_RUN = re.compile(r"(.)\1{3,}", re.DOTALL)
_TOKEN = re.compile(r"<(?:url|user)>|\w+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Tokens of the normalised text: compatibility forms folded, case folded, invisible characters out,
    addresses and mentions masked, runs of a character cut to three, punctuation apart."""
    if text.isascii():
        text = text.lower()
        if not text.isprintable():
            text = _INVISIBLE.sub("", text)
    else:
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold())
    if "http" in text or "www." in text:
        text = _URL.sub("<url>", text)
    if "@" in text:
        text = _USER.sub("<user>", text)
    return _TOKEN.findall(_RUN.sub(r"\1\1\1", text))


def windows(text: str) -> list[str]:
    """The normalised text in overlapping windows of WINDOW tokens; one window, perhaps empty, when it is short."""
    words = tokens(text)
    if len(words) <= WINDOW:
        return [" ".join(words)]
    starts = range(0, len(words) - WINDOW + STRIDE, STRIDE)
    return [" ".join(words[start : start + WINDOW]) for start in starts]
