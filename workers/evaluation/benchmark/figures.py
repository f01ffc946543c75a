"""Figures of decisions and scores beside labels, each with a 95% interval from a bootstrap over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from safeguard_streams.quality.proportions import Proportion, proportion
from safeguard_streams.workers.evaluation.benchmark.data import UNION, Row
from safeguard_streams.workers.evaluation.benchmark.journal import Result

SAMPLES = 1000  # of the bootstrap
_AT_ONCE = 100  # samples, which bounds memory
_INTERVAL = (2.5, 97.5)  # percentiles

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Run = Mapping[str, Mapping[str, Result]]  # by the text's sha256 and policy id


class Estimate(msgspec.Struct, frozen=True):
    """A figure from 0 to 1 with its 95% interval; None where it is not defined."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        return f"{self.value:.3f}" if self.low is None else f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


class Figures(msgspec.Struct, frozen=True):
    """What a model did under one policy, or under all of them together.

    rows, violating: with a label, and with the label that they violate. Figures of several runs are their means.
    f1, precision, recall: of violating texts, where an undetermined decision counts as not flagged.
    f1_undetermined_flagged: the same F1 where an undetermined decision counts as flagged.
    undetermined: of all judgements of these rows. noise: rows whose decision differs between runs; None for one run.
    auprc: area under the precision-recall curve of the scores, as average precision; scored: rows with a score.
    """

    rows: int
    violating: int
    f1: Estimate
    f1_by_run: tuple[float | None, ...]
    precision: Estimate
    recall: Estimate
    f1_undetermined_flagged: Estimate
    undetermined: Proportion
    auprc: Estimate
    scored: int
    noise: Proportion | None


class Measured(msgspec.Struct, frozen=True):
    """Figures by policy id and, with several policies, of their union.

    exact_match: rows whose decisions agree with all their labels; None for one policy.
    """

    figures: Mapping[str, Figures]
    exact_match: Estimate | None


class _Target(NamedTuple):
    """Labels and decisions. flagged, undetermined: by run and row. scores: by row, NaN where there is none."""

    known: Flags
    violates: Flags
    flagged: Flags
    undetermined: Flags
    scores: Floats


def measure(rows: Sequence[Row], policies: Sequence[str], runs: Sequence[Run], seed: int = 0) -> Measured:
    """All figures of rows that every run has judged under each policy that they have a label for."""
    targets = {policy: _target(rows, policy, runs) for policy in policies}
    exact = None
    if len(policies) > 1:
        exact = _exact(list(targets.values()))
        targets[UNION] = _union(list(targets.values()))
    samples: dict[str, list[Floats]] = {name: [] for name in targets}
    exact_samples: list[Floats] = []
    for weights in _resampled(len(rows), seed):
        for name, target in targets.items():
            samples[name].append(_values(target, weights))
        if exact is not None:
            exact_samples.append(_share(exact, weights))
    whole = np.ones((1, len(rows)))
    figures = {name: _figures(target, np.concatenate(samples[name])) for name, target in targets.items()}
    if exact is None:
        return Measured(figures, None)
    return Measured(figures, _estimate(_share(exact, whole)[0], np.concatenate(exact_samples)))


def _target(rows: Sequence[Row], policy: str, runs: Sequence[Run]) -> _Target:
    known = np.array([policy in row.labels for row in rows])
    violates = np.array([row.labels.get(policy, False) for row in rows])
    results = [[run[row.sha256][policy] if policy in row.labels else None for row in rows] for run in runs]
    decisions = np.array([[result.decision if result else "" for result in of_run] for of_run in results])
    scores = np.array([[_score(result) for result in of_run] for of_run in results])
    return _Target(known, violates, decisions == "violates", decisions == "undetermined", _mean_of_runs(scores))


def _score(result: Result | None) -> float:
    return np.nan if result is None or result.score is None else result.score


def _mean_of_runs(scores: Floats) -> Floats:
    """The mean score of each row, over the runs that have one."""
    count = (~np.isnan(scores)).sum(axis=0)
    return _ratio(np.nansum(scores, axis=0), count.astype(np.float64))


def _union(targets: Sequence[_Target]) -> _Target:
    """A row violates the union if any of its labels says so. It is flagged if a policy that has a label flags it.

    A row without a score under one of these policies has none: the highest of the others may not be its highest.
    """
    flagged = _any([target.flagged & target.known for target in targets])
    undetermined = _any([target.undetermined & target.known for target in targets])
    scores = np.array([np.where(target.known, target.scores, 0.0) for target in targets]).max(axis=0)
    return _Target(
        _any([target.known for target in targets]),
        _any([target.violates for target in targets]),
        flagged,
        undetermined & ~flagged,
        np.asarray(scores, dtype=np.float64),
    )


def _any(flags: Sequence[Flags]) -> Flags:
    """Elementwise, whether one of them is set."""
    return np.asarray(np.logical_or.reduce(flags), dtype=np.bool_)


class _Exact(NamedTuple):
    """Rows that count, and by run those whose decisions agree with all their labels."""

    known: Flags
    right: Flags


def _exact(targets: Sequence[_Target]) -> _Exact:
    wrong = [t.known & (t.undetermined | (t.flagged != t.violates)) for t in targets]
    return _Exact(_any([t.known for t in targets]), ~_any(wrong))


def _share(exact: _Exact, weights: Floats) -> Floats:
    """The share of exact rows for each sample, as the mean of the runs."""
    by_run = _ratio(weights @ (exact.right & exact.known).T, (weights @ exact.known)[:, None])
    return np.asarray(by_run.mean(axis=1), dtype=np.float64)


def _resampled(rows: int, seed: int) -> Iterator[Floats]:
    """How often each row is drawn, for each sample of the bootstrap (Efron 1979)."""
    random = np.random.default_rng(seed)
    for _ in range(SAMPLES // _AT_ONCE):
        yield random.multinomial(rows, np.full(rows, 1 / rows), size=_AT_ONCE).astype(np.float64)


def _values(target: _Target, weights: Floats) -> Floats:
    """For each sample: F1, precision, recall, F1 with undetermined flagged, AUPRC. NaN where one is not defined."""
    f1, precision, recall = _by_run(target, target.flagged, weights)
    other, _, _ = _by_run(target, target.flagged | target.undetermined, weights)
    means = [_mean(values) for values in (f1, precision, recall, other)]
    return np.column_stack([*means, average_precision(target.violates & target.known, target.scores, weights)])


class _ByRun(NamedTuple):
    """By sample and run."""

    f1: Floats
    precision: Floats
    recall: Floats


def _by_run(target: _Target, flagged: Flags, weights: Floats) -> _ByRun:
    caught = weights @ (flagged & target.violates & target.known).T
    of_flagged = weights @ (flagged & target.known).T
    of_violating = (weights @ (target.violates & target.known))[:, None] + np.zeros_like(caught)
    f1 = _ratio(2 * caught, np.where(of_violating > 0, of_flagged + of_violating, 0))
    return _ByRun(f1, _ratio(caught, of_flagged), _ratio(caught, of_violating))


def average_precision(violates: Flags, scores: Floats, weights: Floats) -> Floats:
    """The average precision of scores for each sample of weights; rows whose score is NaN do not count."""
    order = np.argsort(-scores, kind="stable")[: int((~np.isnan(scores)).sum())]
    if not len(order):
        return np.full(len(weights), np.nan)
    ranked = scores[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of each distinct score
    above = np.cumsum(weights[:, order], axis=1)[:, last]
    caught = np.cumsum(weights[:, order] * violates[order], axis=1)[:, last]
    precision = np.nan_to_num(_ratio(caught, above))
    gained = np.diff(caught, axis=1, prepend=0.0)
    return _ratio((precision * gained).sum(axis=1), caught[:, -1])


def _ratio(part: Floats, whole: Floats) -> Floats:
    """Elementwise, NaN where the whole is 0."""
    whole = np.broadcast_to(np.asarray(whole, dtype=np.float64), part.shape)
    ratio: Floats = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(values: Floats) -> Floats:
    """The mean over runs in which the figure is defined."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1).astype(np.float64))


def _figures(target: _Target, samples: Floats) -> Figures:
    whole = np.ones((1, len(target.known)))
    f1, precision, recall, other, auprc = (
        _estimate(value, column) for value, column in zip(_values(target, whole)[0], samples.T, strict=True)
    )
    by_run = _by_run(target, target.flagged, whole).f1[0]
    rows = int(target.known.sum())
    undetermined = int((target.undetermined & target.known).sum())
    return Figures(
        rows=rows,
        violating=int((target.violates & target.known).sum()),
        f1=f1,
        f1_by_run=tuple(_rounded(value) for value in by_run),
        precision=precision,
        recall=recall,
        f1_undetermined_flagged=other,
        undetermined=proportion(undetermined, rows * len(target.flagged)),
        auprc=auprc,
        scored=int((~np.isnan(target.scores) & target.known).sum()),
        noise=_noise(target),
    )


def _noise(target: _Target) -> Proportion | None:
    if len(target.flagged) < 2:
        return None
    decisions = target.flagged * 2 + target.undetermined
    differ = (decisions != decisions[0]).any(axis=0) & target.known
    return proportion(int(differ.sum()), int(target.known.sum()))


def _estimate(value: float, samples: Floats) -> Estimate:
    defined = samples[~np.isnan(samples)]
    if np.isnan(value) or not len(defined):
        return Estimate(_rounded(value))
    low, high = np.percentile(defined, _INTERVAL)
    return Estimate(_rounded(value), _rounded(low), _rounded(high))


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
