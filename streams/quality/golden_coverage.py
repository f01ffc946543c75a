"""What a policy's present gate would miss of its golden set, and terms that would find it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import msgspec

from safeguard_streams.errors import PolicyError, Problem
from safeguard_streams.policies import golden, trial
from safeguard_streams.policies.check import Checked
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden import GoldenRow
from safeguard_streams.policies.terms import Term
from safeguard_streams.prefilter.classifier import Classifier
from safeguard_streams.prefilter.gates import Gates
from safeguard_streams.prefilter.normalise import fold
from safeguard_streams.quality import benign_bank

MIN_VIOLATING = 10  # golden texts, below which a share of them says little
MAX_MISSED = 0.1
MAX_TERMS = 6
MAX_RUNS = 40  # of lines that a warning names
MAX_CHARACTERS = 24
MAX_BENIGN = 3  # benign texts with a word that says what a text is about
_ENDS = re.compile(r"^\W+|\W+$")  # punctuation around a word
MIN_LETTERS = 4  # of a word that is proposed, unless its script writes words with fewer


def with_coverage(results: Sequence[Checked], load: Callable[[], Classifier]) -> list[Checked]:
    """Results of checks, each with a warning where the gate would miss over a tenth of the violating golden texts,
    and more of them than its author accepts.

    load: gives the classifier, if some golden set is large enough for the question.
    """
    sets = [_violating(result) for result in results]
    if not any(sets):
        return list(results)
    classifier = load()
    return [
        msgspec.structs.replace(result, problems=(*result.problems, *_problems(result, rows, classifier)))
        for result, rows in zip(results, sets, strict=True)
    ]


def _violating(checked: Checked) -> list[GoldenRow]:
    """The violating golden texts of a policy, if there are enough and it has one."""
    if checked.policy is None:
        return []
    try:
        rows = golden.read(Path(checked.path).with_name(golden.NAME)).rows
    except PolicyError:
        return []  # the check has reported it
    violating = [row for row in rows if row.golden.decision == "violates"]
    return violating if len(violating) >= MIN_VIOLATING else []


def _problems(checked: Checked, violating: Sequence[GoldenRow], classifier: Classifier) -> Iterator[Problem]:
    policy = checked.policy
    if policy is None:
        return
    accepted = policy.gate.accepted_misses
    missed = [row for row, found in zip(violating, escalated(policy, violating, classifier), strict=True) if not found]
    if len(missed) <= MAX_MISSED * len(violating) or (accepted and len(missed) <= accepted.texts):
        return
    lines = ", ".join(_lines([row.line for row in missed]))
    message = f"the gate would miss {len(missed)} of {len(violating)} violating golden texts, in lines {lines}"
    rows = golden.read(Path(checked.path).with_name(golden.NAME)).rows
    safe = [row.golden.text for row in rows if row.golden.decision == "safe"]
    subject = [policy.text, *(row.golden.text for row in violating)]
    if terms := proposed_terms([row.golden.text for row in missed], safe, subject):
        message += f"; gate.terms that would find some of them: {', '.join(terms)}"
    line = policy.document.split("\ngate:")[0].count("\n") + 2
    yield Problem(checked.path, line, "warning", "gate-recall", message)


def _lines(numbers: Sequence[int]) -> list[str]:
    """Ascending numbers with runs of them in short, and only the first of very many."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:MAX_RUNS]]
    return [*shown, "and later ones"] if len(runs) > MAX_RUNS else shown


def escalated(policy: Policy, rows: Sequence[GoldenRow], classifier: Classifier) -> list[bool]:
    """Whether the gate escalates each text, its sample left out."""
    if policy.gate.everything or not rows:
        return [True] * len(rows)
    results = Gates([policy], classifier).evaluate([row.golden.text for row in rows])
    matched = {text for text, _ in results.matches}
    return [bool(reached) or text in matched for text, reached in enumerate(results.reached[:, 0])]


def proposed_terms(missed: Sequence[str], safe: Sequence[str], subject: Sequence[str]) -> list[str]:
    """Words and pairs of words of missed texts, which neither a safe golden text nor the benign bank has.

    subject: texts about what the policy forbids. What most of them have comes first, and each term finds a missed text
    that those before it do not.
    """
    benign = Counter(phrase for text in (*safe, *_bank()) for phrase in _phrases(text))
    of_subject = Counter(phrase for text in subject for phrase in _phrases(text))
    of_missed = [{p for p in _phrases(text) if not benign[p] and _is_told(p, benign)} for text in missed]
    terms: list[str] = []
    left = set(range(len(missed)))
    # A word that several texts have is of the subject. Of one text's phrases, a pair says more of it, and a long one.
    candidates = {phrase for phrases in of_missed for phrase in phrases}
    for phrase in sorted(candidates, key=lambda p: (-of_subject[p], (" " in p) == (of_subject[p] > 1), -len(p), p)):
        if len(terms) == MAX_TERMS or not left:
            break
        finds = {number for number in left if phrase in of_missed[number]}
        if finds and _fits(phrase):
            terms.append(phrase)
            left -= finds
    return terms


@cache
def _bank() -> list[str]:
    return [benign.text for benign in benign_bank.load()]


def _is_told(phrase: str, benign: Counter[str]) -> bool:
    """Whether a word of the phrase says what it is about: it is long enough, and rare in benign texts."""
    return any(
        benign[word] <= MAX_BENIGN and (len(word) >= MIN_LETTERS or not word.isascii()) for word in phrase.split()
    )


def _phrases(text: str) -> set[str]:
    """Words and pairs of words."""
    (line,) = fold([text]).plain
    words = [word for word in (_ENDS.sub("", word) for word in line.split()) if word]
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def _fits(phrase: str) -> bool:
    """Whether a phrase can be a term."""
    letters = "".join(filter(str.isalpha, phrase))
    short = len(letters) < MIN_LETTERS and letters.isascii()
    if not letters or short or len(phrase) > MAX_CHARACTERS or not phrase.isprintable():
        return False
    return not trial.broad(Term(phrase)) and trial.is_found(phrase)
