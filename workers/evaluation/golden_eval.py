"""Evaluation of a policy on its golden set: the model judges each text several times, and the results are counted."""

from __future__ import annotations

import difflib
import operator
import random
from collections import Counter
from collections.abc import Sequence

import msgspec

from safeguard_streams.contract.records import Decision, Tokens
from safeguard_streams.policies.document import Policy
from safeguard_streams.policies.golden import Golden, Kind
from safeguard_streams.policies.vocabulary import is_within
from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.workers.evaluation.interface import TextJudge
from safeguard_streams.workers.judging.judgement import Judgement, total_tokens


class GoldenOutcome(msgspec.Struct, frozen=True):
    """The model's result for a golden text in one run. rationale is the model's analysis, for the policy's author."""

    decision: Decision
    rules: tuple[str, ...]
    score: float | None
    reason: str
    rationale: str
    tokens: Tokens


class Disagreement(msgspec.Struct, frozen=True):
    """A golden text whose decision in the first run differs from its label. runs: the number of runs that differ."""

    golden: Golden
    outcome: GoldenOutcome
    runs: int


class RuleFigures(msgspec.Struct, frozen=True):
    """recall: verdicts that cite the rule or one below it, of the texts labelled with them.

    precision: texts labelled with the rule or one below it, of the verdicts that cite them. Texts that are labelled
        with a rule above do not count: their label leaves open which of its sub-rules decides.
    """

    recall: Proportion
    precision: Proportion


class GoldenReport(msgspec.Struct, frozen=True):
    """Counts are of the first run.

    confusion: by label, the counts of the model's decisions.
    f1: of violating texts, for each run. precision and recall: of violating texts.
    accuracy: texts judged as labelled. kinds: the same for each kind of text.
    noise: texts whose decision is not the same in all runs; None for a single run.
    tokens: of all runs.
    """

    policy_id: str
    version: str
    model: str
    texts: int
    confusion: dict[str, dict[str, int]]
    f1: tuple[float, ...]
    precision: Proportion
    recall: Proportion
    accuracy: Proportion
    rules: dict[str, RuleFigures]
    kinds: dict[Kind, Proportion]
    noise: Proportion | None
    tokens: Tokens
    disagreements: list[Disagreement]


Run = Sequence[GoldenOutcome]  # one outcome for each golden text, in the order of the golden set


async def run(judge: TextJudge, policy: Policy, golden: Sequence[Golden], runs: int) -> list[Run]:
    """Judge a golden set `runs` times.

    Each run after the first judges the texts in another order. Batches then differ, and with them the results of
    equal requests.
    """
    outcomes: list[Run] = []
    for number in range(runs):
        order = list(range(len(golden)))
        if number:
            random.Random(number).shuffle(order)
        title = f"judging under {policy.id} {policy.version}, run {number + 1} of {runs}"
        judgements = await judge.judge(policy, [golden[i].text for i in order], title)
        by_index = dict(zip(order, judgements, strict=True))
        outcomes.append([outcome_of(by_index[i], policy) for i in range(len(golden))])
    return outcomes


def outcome_of(judgement: Judgement, policy: Policy) -> GoldenOutcome:
    """The result of a judgement under a policy."""
    finding = judgement.findings[policy.id]
    answer = finding.answer
    return GoldenOutcome(
        decision=finding.decision,
        rules=answer.rule_ids if answer else (),
        score=finding.score,
        reason=(answer.reason or "") if answer else finding.problem,
        rationale="\n".join(attempt.analysis for attempt in judgement.attempts),
        tokens=judgement.tokens,
    )


def report(policy: Policy, model: str, golden: Sequence[Golden], runs: Sequence[Run]) -> GoldenReport:
    """All figures of an evaluation. An undetermined decision counts as wrong."""
    pairs = list(zip(golden, runs[0], strict=True))
    confusion = {side: Counter(o.decision for g, o in pairs if g.decision == side) for side in ("violates", "safe")}
    caught = confusion["violates"]["violates"]
    flagged = caught + confusion["safe"]["violates"]
    return GoldenReport(
        policy_id=policy.id,
        version=policy.version,
        model=model,
        texts=len(golden),
        confusion={side: {str(name): n for name, n in counts.items()} for side, counts in confusion.items()},
        f1=tuple(f1(golden, outcomes) for outcomes in runs),
        precision=proportion(caught, flagged),
        recall=proportion(caught, confusion["violates"].total()),
        accuracy=_accuracy(pairs),
        rules={rule: _rule_figures(rule, pairs) for rule in policy.rules},
        kinds={kind: _accuracy([p for p in pairs if p[0].kind == kind]) for kind in sorted({g.kind for g in golden})},
        noise=noise(runs),
        tokens=total_tokens(outcome.tokens for outcomes in runs for outcome in outcomes),
        disagreements=[
            Disagreement(g, o, sum(outcomes[i].decision != g.decision for outcomes in runs))
            for i, (g, o) in enumerate(pairs)
            if o.decision != g.decision
        ],
    )


def _accuracy(pairs: Sequence[tuple[Golden, GoldenOutcome]]) -> Proportion:
    return proportion(sum(o.decision == g.decision for g, o in pairs), len(pairs))


def _rule_figures(rule: str, pairs: Sequence[tuple[Golden, GoldenOutcome]]) -> RuleFigures:
    """A rule with sub-rules counts these as its own. A label above the rule says nothing about the rule's precision."""
    labelled = [is_within(g.rule, rule) for g, _ in pairs]
    cited = [any(is_within(cited, rule) for cited in o.rules) for _, o in pairs]
    vague = [g.rule != rule and is_within(rule, g.rule) for g, _ in pairs]
    both = sum(map(operator.and_, labelled, cited))
    return RuleFigures(proportion(both, sum(labelled)), proportion(both, sum(map(operator.gt, cited, vague))))


def f1(golden: Sequence[Golden], outcomes: Run) -> float:
    """Harmonic mean of precision and recall of violating texts, 0 to 1."""
    pairs = list(zip(golden, outcomes, strict=True))
    caught = sum(g.decision == "violates" and o.decision == "violates" for g, o in pairs)
    missed = sum(g.decision == "violates" and o.decision != "violates" for g, o in pairs)
    wrong = sum(g.decision == "safe" and o.decision == "violates" for g, o in pairs)
    return round(2 * caught / (2 * caught + missed + wrong), 4) if caught else 0.0


def noise(runs: Sequence[Run]) -> Proportion | None:
    """Texts whose decision differs between runs of the same policy; None for a single run."""
    if len(runs) < 2:
        return None
    decisions = [{outcome.decision for outcome in of_text} for of_text in zip(*runs, strict=True)]
    return proportion(sum(len(distinct) > 1 for distinct in decisions), len(decisions))


class GoldenFlip(msgspec.Struct, frozen=True):
    """A golden text that two versions decide differently in their first runs.

    steady: no run of one version has the decision of a run of the other.
    """

    golden: Golden
    before: GoldenOutcome
    after: GoldenOutcome
    steady: bool


def flips(golden: Sequence[Golden], before: Sequence[Run], after: Sequence[Run]) -> list[GoldenFlip]:
    """The golden texts whose decision flips between the first runs of two versions."""
    flipped = []
    for i, text in enumerate(golden):
        decisions_before, decisions_after = [run[i].decision for run in before], [run[i].decision for run in after]
        if decisions_before[0] != decisions_after[0]:
            steady = not set(decisions_before) & set(decisions_after)
            flipped.append(GoldenFlip(text, before[0][i], after[0][i], steady))
    return flipped


class PolicyDifference(msgspec.Struct, frozen=True):
    """The difference between two versions of a policy.

    text: a unified diff of the documents.
    The rest is set if a model judged the golden set: f1 of the first run of each version, the flips, and as noise the
    texts whose decision differs between runs of the version before.
    """

    before: str
    after: str
    text: tuple[str, ...]
    rules_removed: tuple[str, ...]
    rules_added: tuple[str, ...]
    texts: int = 0
    f1: tuple[float, float] | None = None
    noise: Proportion | None = None
    flips: tuple[GoldenFlip, ...] = ()


def difference(before: Policy, after: Policy, names: tuple[str, str] = ("before", "after")) -> PolicyDifference:
    """The difference between the documents. `names` appear in the diff's header."""
    old, new = f"{names[0]} {before.version}", f"{names[1]} {after.version}"
    diff = difflib.unified_diff(before.document.splitlines(), after.document.splitlines(), old, new, lineterm="")
    return PolicyDifference(
        before.version,
        after.version,
        tuple(diff),
        tuple(rule for rule in before.rules if rule not in after.rules),
        tuple(rule for rule in after.rules if rule not in before.rules),
    )


async def compare(
    judge: TextJudge, before: Policy, after: Policy, golden: Sequence[Golden], runs: int, documents: PolicyDifference
) -> PolicyDifference:
    """Judge a golden set under two versions, and add the results to the difference of their documents."""
    runs_before = await run(judge, before, golden, runs)
    runs_after = await run(judge, after, golden, runs)
    return msgspec.structs.replace(
        documents,
        texts=len(golden),
        f1=(f1(golden, runs_before[0]), f1(golden, runs_after[0])),
        noise=noise(runs_before),
        flips=tuple(flips(golden, runs_before, runs_after)),
    )
