"""What identifies the scores of a gate: only scores with the same fingerprint compare."""

from __future__ import annotations

import hashlib
from functools import cache

from safeguard_streams.contract.limits import ENCODED_PASSAGES
from safeguard_streams.policies.document import Policy
from safeguard_streams.prefilter.encoder import harm_heads
from safeguard_streams.prefilter.encoder.vector_terms import uses_vectors
from safeguard_streams.prefilter.normalise import read

# Texts that each rule of the normaliser changes. Their folded forms stand for the normaliser's version.
_PROBES = (
    "Ａ ｆｕｌｌ-ｗｉｄｔｈ ＴＥＸＴ",
    "раураl аnd Ηеllо wоrld",
    "хочу умереть, рак",
    "Crème brûlée, naïve Ångström ß ﬁ",
    "k i l l y-o-u-r-s-e-l-f",
    "sooooo coooool!!! nooo",
    "h4t3 l33t $h1t @ss",
    "zero\u200bwidth soft\u00adhyphen \u202eright\u2066to left",
    "tab\tinside\tphrase\nnew line",
    "\u0645\u064e\u0631\u0652\u062d\u064e\u0628\u0640\u0640\u0627 \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u4f60\u597d\uff0c\u4e16\u754c \u3053\u3093\u306b\u3061\u306f \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f469\u200d\U0001f4bb \U0001f1e9\U0001f1ea \u2660\ufe0f",
    "https://www.example.com/a-path?q=1 @handle #hashTag mail@example.org",
    "HTML &amp; &lt;b&gt; \U0001d4d1\U0001d4f8\U0001d4f5\U0001d4ed \u24d1\u24e4\u24d1\u24d1\u24db\u24d4",
)


def fingerprint(policy: Policy, classifier: str, encoder: str | None = None) -> str:
    """16 hex digits; equal for gates that give every text the same score.

    Covers the classifier by its name (which holds the hash of its file), the gate's harms, the share of any harm, the
    distilled classifier, and the normaliser. The threshold, terms and patterns are no part of a score. The encoder at
    hand counts, by its name and its passages, where its vectors add to the score, as do the harm heads where they make
    the addition.
    """
    parts = [classifier, _normaliser(), policy.gate.distilled or "", *sorted(policy.gate.harms)]
    if policy.distilled is None and policy.gate.general:
        parts.append(f"general {policy.gate.general!r}")
    if uses_vectors(policy, encoder):
        parts.append(f"encoder {encoder}, passages {ENCODED_PASSAGES}")
        if policy.distilled is None:
            parts.append(f"heads {harm_heads.shipped().name}")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@cache
def _normaliser() -> str:
    views = read(_PROBES)
    return "\n".join([*views.lines, "", *views.folded.latin])
