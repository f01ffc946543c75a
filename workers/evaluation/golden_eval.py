"""A policy on trial: its golden set through an engine, several times, counted."""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import msgspec

from safeguard_streams.contract.records import Decision, Tokens
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden import Golden, Kind
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.workers.judging.judgement import Judgement


class Asked(Protocol):
    """An engine that judges texts: workers.measure has it."""

    async def judge(self, policy: Policy, texts: Sequence[str], title: str) -> list[Judgement]:
        """A judgement for each text."""


class Outcome(msgspec.Struct, frozen=True):
    """What the model said of a golden text in one run. rationale is its analysis, for those who write the policy."""

    decision: Decision
    rules: tuple[str, ...]
    score: float | None
    reason: str
    rationale: str
    tokens: Tokens


class Disagreement(msgspec.Struct, frozen=True):
    """A golden text that the model decides otherwise in the first run. runs: in how many runs it does."""

    golden: Golden
    said: Outcome
    runs: int


class RuleFigures(msgspec.Struct, frozen=True):
    """recall: of the texts of this rule, those whose verdict cites it. precision: of the verdicts that cite it, the texts of
    this rule.
    """

    recall: Proportion
    precision: Proportion


class Report(msgspec.Struct, frozen=True):
    """Counts are of the first run; f1 is of each run. f1, precision and recall are of violating texts.

    confusion: from the golden decision to the model's decision. noise: texts whose decision is not the same in all runs;
    None with a single run. tokens: of all runs.
    """

    policy_id: str
    version: str
    model: str
    texts: int
    confusion: dict[str, dict[str, int]]
    f1: tuple[float, ...]
    precision: Proportion
    recall: Proportion
    right: Proportion
    rules: dict[str, RuleFigures]
    kinds: dict[Kind, Proportion]
    noise: Proportion | None
    tokens: Tokens
    disagreements: list[Disagreement]


Run = Sequence[Outcome]


async def run(asked: Asked, policy: Policy, golden: Sequence[Golden], runs: int) -> list[Run]:
    """Judge a golden set so many times. After the first run the order is another one: texts then meet others in a batch,
    which is what makes equal questions differ.
    """
    done: list[Run] = []
    for number in range(runs):
        order = list(range(len(golden)))
        if number:
            random.Random(number).shuffle(order)
        title = f"judging under {policy.id} {policy.version}, run {number + 1} of {runs}"
        judged = await asked.judge(policy, [golden[i].text for i in order], title)
        by_place = dict(zip(order, judged, strict=True))
        done.append([_outcome(by_place[i]) for i in range(len(golden))])
    return done


def _outcome(judgement: Judgement) -> Outcome:
    finding = judgement.findings[0]
    answer = finding.answer
    return Outcome(
        decision="undetermined" if answer is None else "violates" if answer.violates else "safe",
        rules=answer.rule_ids if answer else (),
        score=finding.score,
        reason=answer.reason if answer else finding.why,
        rationale="\n".join(attempt.analysis for attempt in judgement.attempts),
        tokens=Tokens(judgement.prompt_tokens, judgement.cached_tokens, judgement.completion_tokens),
    )


def report(policy: Policy, model: str, golden: Sequence[Golden], runs: Sequence[Run]) -> Report:
    """All figures. Undetermined counts as wrong."""
    first = runs[0]
    pairs = list(zip(golden, first, strict=True))
    confusion = {side: Counter(o.decision for g, o in pairs if g.decision == side) for side in ("violates", "safe")}
    caught = confusion["violates"]["violates"]
    called = caught + confusion["safe"]["violates"]
    return Report(
        policy_id=policy.id,
        version=policy.version,
        model=model,
        texts=len(golden),
        confusion={side: {str(name): n for name, n in counts.items()} for side, counts in confusion.items()},
        f1=tuple(f1(golden, outcomes) for outcomes in runs),
        precision=proportion(caught, called),
        recall=proportion(caught, confusion["violates"].total()),
        right=proportion(sum(o.decision == g.decision for g, o in pairs), len(pairs)),
        rules={rule: _of_rule(rule, pairs) for rule in policy.rules},
        kinds={
            kind: proportion(sum(o.decision == g.decision for g, o in pairs if g.kind == kind), count)
            for kind, count in sorted(Counter(g.kind for g in golden).items())
        },
        noise=noise(runs),
        tokens=total_tokens(runs),
        disagreements=[
            Disagreement(g, o, sum(outcomes[i].decision != g.decision for outcomes in runs))
            for i, (g, o) in enumerate(pairs)
            if o.decision != g.decision
        ],
    )


def _of_rule(rule: str, pairs: Sequence[tuple[Golden, Outcome]]) -> RuleFigures:
    both = sum(g.rule == rule and rule in o.rules for g, o in pairs)
    return RuleFigures(
        proportion(both, sum(g.rule == rule for g, _ in pairs)),
        proportion(both, sum(rule in o.rules for _, o in pairs)),
    )


def f1(golden: Sequence[Golden], outcomes: Run) -> float:
    """Harmonic mean of precision and recall of violating texts, 0 to 1."""
    pairs = list(zip(golden, outcomes, strict=True))
    caught = sum(g.decision == "violates" and o.decision == "violates" for g, o in pairs)
    missed = sum(g.decision == "violates" and o.decision != "violates" for g, o in pairs)
    wrong = sum(g.decision == "safe" and o.decision == "violates" for g, o in pairs)
    return round(2 * caught / (2 * caught + missed + wrong), 4) if caught else 0.0


def noise(runs: Sequence[Run]) -> Proportion | None:
    """Texts whose decision differs between runs of the same policy: flips that mean nothing."""
    if len(runs) < 2:
        return None
    decisions = [{outcome.decision for outcome in of_text} for of_text in zip(*runs, strict=True)]
    return proportion(sum(len(found) > 1 for found in decisions), len(decisions))


def total_tokens(runs: Sequence[Run]) -> Tokens:
    """All tokens of all runs."""
    spent = [outcome.tokens for outcomes in runs for outcome in outcomes]
    return Tokens(sum(t.prompt for t in spent), sum(t.cached for t in spent), sum(t.completion for t in spent))


class Flip(msgspec.Struct, frozen=True):
    """A golden text that two versions decide differently. steady: in every run."""

    golden: Golden
    before: Outcome
    after: Outcome
    steady: bool


def flips(golden: Sequence[Golden], before: Sequence[Run], after: Sequence[Run]) -> list[Flip]:
    """What flips between the first runs of two versions."""
    found = []
    for i, text in enumerate(golden):
        olds, news = [run[i].decision for run in before], [run[i].decision for run in after]
        if olds[0] != news[0]:
            found.append(Flip(text, before[0][i], after[0][i], not set(olds) & set(news)))
    return found


class Difference(msgspec.Struct, frozen=True):
    """Two versions of a policy. text: a unified diff. With a model: flips of golden verdicts, and as noise the texts whose
    decision differs between runs of the version before.
    """

    before: str
    after: str
    text: tuple[str, ...]
    rules_gone: tuple[str, ...]
    rules_new: tuple[str, ...]
    texts: int = 0
    f1: tuple[float, float] | None = None
    noise: Proportion | None = None
    flips: tuple[Flip, ...] = ()


def difference(before: Policy, after: Policy, names: tuple[str, str] = ("before", "after")) -> Difference:
    """What changed in the documents."""
    old, new = f"{names[0]} {before.version}", f"{names[1]} {after.version}"
    changed = difflib.unified_diff(before.document.splitlines(), after.document.splitlines(), old, new, lineterm="")
    return Difference(
        before.version,
        after.version,
        tuple(changed),
        tuple(rule for rule in before.rules if rule not in after.rules),
        tuple(rule for rule in after.rules if rule not in before.rules),
    )
